"""What the report of a round shows, gathered from the store."""

import platform
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from apportion.datasets import duplicates
from apportion.diffusion.images import Images
from apportion.properties import PROPERTIES
from apportion.records import Credits, Evaluation, Purpose, Wanted
from apportion.report.attribution import ATTRIBUTIONS
from apportion.report.page import SHOWN, Grid, Page
from apportion.report.tables import Spent
from apportion.stages import spent
from apportion.stages.collection import read_contributions, training_images
from apportion.stages.generated import load_samples
from apportion.stages.round import Round, samples_key, weights_key

PICTURED = 32  # generated images in each grid

PURPOSES: dict[Purpose, str] = {
    "v0": "value of nobody",
    "v1": "value of everybody",
    "design": "coalitions for the credits",
    "loo": "everybody but one",
    "aoi": "one alone",
    "datamodel": "coalitions of one size",
    "exact_v0": "value of nobody, retrained",
    "exact_v1": "value of everybody, retrained",
    "exact": "coalitions for the credits, retrained",
    "held_out": "held-out coalitions, retrained",
    "paired": "held-out coalitions, cheap game",
    "counterfactual": "removal of top and random contributors",
}


def page(round: Round, before: Credits | None) -> Page:
    """The page of a round whose credits and evidence are committed."""
    return replace(
        outline(round, before),
        thumbnails={
            c.name: _thumbnails(training_images(round.store, [c.data], round.config.data.resolution)) for c in round.manifest.contributors
        },
        grids=list(_grids(round)),
        costs=list(_costs(round)),
        games={round.plan.truth_game: "retraining", round.plan.credit_game: round.config.removal.method.replace("_", " ")},
        facts=_facts(round),
        config=round.config.model_dump(mode="json", exclude={"store", "tracking"}),
        warnings=duplicates(read_contributions(round.store, round.manifest)),
    )


def outline(round: Round, before: Credits | None) -> Page:
    """Of the page only what needs no image: enough for its charts."""
    return Page(
        project=round.config.project,
        manifest=round.manifest,
        credits=round.credits,
        meanings={name: PROPERTIES[name] for name in sorted(round.config.properties)},
        attribution=ATTRIBUTIONS[round.config.data.source],
        evidence=round.evidence,
        previous=before,
        threshold=round.config.evaluation.threshold,
    )


def _thumbnails(images: Images) -> NDArray[np.uint8]:
    return images.pixels[:SHOWN].transpose(0, 2, 3, 1)


def _grids(round: Round) -> Iterator[Grid]:
    """Images from the same noise: of everybody's model in the game of the counterfactual, then of those without some contributors."""
    removals = [wanted for wanted, _ in round.evaluations("counterfactual")]
    first = [wanted for wanted, _ in round.evaluations("v1")][:1]
    for wanted in _one_seed(removals) or first:
        gone = [who for who, kept in zip(round.manifest.names, wanted.mask(round.manifest.n), strict=True) if not kept]
        title = f"Without {', '.join(gone)}" if gone else "Everybody"
        made = "retrained" if wanted.game == round.plan.truth_game else round.config.removal.method.replace("_", " ")
        images = _samples(round, round.samples_key(wanted))
        if images is not None:
            yield Grid(title, f"{made}, seed {wanted.seed}", images)
    full = _samples(round, samples_key(round.truth_game.samples(round.config.seed, round.manifest.everybody)))
    if full is not None:
        yield Grid("The base model", f"trained on everybody's data, seed {round.config.seed}", full, same_noise=False)


def _one_seed(removals: list[Wanted]) -> list[Wanted]:
    return [wanted for wanted in removals if wanted.seed == removals[0].seed]


def _samples(round: Round, key: str) -> NDArray[np.uint8] | None:
    """The first images of a set, or None where they have expired: evidence outlives pictures."""
    if not round.store.exists(key):
        return None
    return load_samples(round.store, key)[0][:PICTURED].transpose(0, 2, 3, 1)


def _costs(round: Round) -> Iterator[Spent]:
    for label, address in (("base model", round.plan.base), ("pruned model", round.plan.pruned)):
        key = weights_key(address or "")
        if address and round.store.exists(key):
            cost = spent.Spent.read(round.store.get(key), round.store.where(key))
            yield Spent(label, 1, cost.finetune, cost.device)
    for purpose, label in PURPOSES.items():
        evaluations = [evaluation for _, evaluation in round.evaluations(purpose)]
        if evaluations:
            yield Spent(label, len(evaluations), sum(e.cost.total for e in evaluations), _devices(evaluations))


def _devices(evaluations: list[Evaluation]) -> str:
    return ", ".join(sorted({evaluation.cost.device for evaluation in evaluations}))


def _facts(round: Round) -> list[tuple[str, str]]:
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "torch-pruning", "numpy", "scipy", "xgboost-cpu"))
    return [
        ("Round", round.id),
        ("Manifest", round.plan.manifest),
        ("Base model", round.plan.base),
        ("Pruned model", round.plan.pruned or "none"),
        ("Game of the credits", round.plan.credit_game),
        ("Game of the evidence (retraining)", round.plan.truth_game),
        ("Precision", round.credit_game.recipe.precision),
        ("Apportion", round.plan.code),
        ("Python", platform.python_version()),
        ("Libraries", libraries),
    ]
