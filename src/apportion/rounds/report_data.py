"""What the report of a round shows, gathered from the store."""

import platform
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from apportion.datasets import duplicates
from apportion.diffusion.images import TrainingImages
from apportion.properties import PROPERTIES
from apportion.records import Cost, Credits, Purpose, samples_address
from apportion.report.attribution import ATTRIBUTIONS
from apportion.report.page import THUMBNAILS, Grid, Page
from apportion.report.tables import CostLine
from apportion.rounds.cost import read_cost
from apportion.rounds.round import Round
from apportion.rounds.samples import load_samples
from apportion.rounds.training_data import read_contributions, training_images
from apportion.rounds.weights import shared_costs
from apportion.store.layout import samples_key, weights_key
from apportion.valuation.methods import METHODS

PICTURED = 32
"""Generated images in each grid."""

LIBRARIES = ("torch", "diffusers", "torch-pruning", "numpy", "scipy", "xgboost-cpu")


def page(this_round: Round, before: Credits | None) -> Page:
    """The page of a round whose credits and evidence are committed."""
    store, resolution = this_round.store, this_round.config.data.resolution
    thumbnails = {
        contributor.name: _thumbnails(training_images(store, [contributor.data], resolution))
        for contributor in this_round.manifest.contributors
    }
    return replace(
        outline(this_round, before),
        thumbnails=thumbnails,
        grids=list(_grids(this_round)),
        costs=list(_costs(this_round)),
        games={game: _made(this_round, game) for game in this_round.games},
        facts=_facts(this_round),
        config=this_round.config.model_dump(mode="json", exclude={"store", "tracking"}),
        warnings=duplicates(read_contributions(store, this_round.manifest)),
    )


def outline(this_round: Round, before: Credits | None) -> Page:
    """The parts of the page that need no image: enough for its charts."""
    return Page(
        project=this_round.config.project,
        manifest=this_round.manifest,
        credits=this_round.credits,
        meanings={name: PROPERTIES[name] for name in sorted(this_round.config.properties)},
        attribution=ATTRIBUTIONS[this_round.config.data.source],
        evidence=this_round.evidence,
        previous=before,
        threshold=this_round.config.evaluation.threshold,
        networks=this_round.plan.networks,
    )


def _made(this_round: Round, game: str) -> str:
    """How models of a game are obtained, for readers."""
    method = this_round.games[game].recipe.removal.method
    return "retraining" if method == "retrain" else method.replace("_", " ")


def _thumbnails(images: TrainingImages) -> NDArray[np.uint8]:
    return images.pixels[:THUMBNAILS].transpose(0, 2, 3, 1)


def _grids(this_round: Round) -> Iterator[Grid]:
    """Images from the same noise: of the grand coalition in the game of the counterfactual removal, then of
    the coalitions without some contributors."""
    removals = [wanted for wanted, _ in this_round.evaluations("counterfactual")]
    grand = [wanted for wanted, _ in this_round.evaluations("v1")][:1]
    for wanted in [item for item in removals if item.seed == removals[0].seed] or grand:
        kept = wanted.mask(this_round.manifest.n)
        removed = [name for name, keep in zip(this_round.manifest.names, kept, strict=True) if not keep]
        title = f"Without {', '.join(removed)}" if removed else "All contributors"
        images = _samples(this_round, this_round.samples_key(wanted))
        if images is not None:
            made = "retrained" if this_round.is_retrained(wanted) else _made(this_round, wanted.game)
            yield Grid(title, f"{made}, seed {wanted.seed}", images)
    base = this_round.plan.base
    full = _samples(this_round, samples_key(samples_address(base.id, this_round.game("truth").sampling)))
    if full is not None:
        yield Grid("The base model", f"trained on all data, seed {base.seed}", full, same_noise=False)


def _samples(this_round: Round, key: str) -> NDArray[np.uint8] | None:
    """The first images of a set, or None where they have expired: a report does not need them."""
    if not this_round.store.exists(key):
        return None
    return load_samples(this_round.store, key)[0][:PICTURED].transpose(0, 2, 3, 1)


def purposes() -> dict[Purpose, str]:
    """What evaluations of each purpose are called, in the order in which the report lists their cost."""
    return {
        "v0": "value of the empty coalition",
        "v1": "value of the grand coalition",
        "design": "coalitions for the credits",
        **{name: row.own_title for name, row in METHODS.items() if row.own},
        "retrained_v0": "value of the empty coalition, retrained",
        "retrained_v1": "value of the grand coalition, retrained",
        "retrained": "coalitions for the credits, retrained",
        "control_design": "coalitions of the control game, their own images",
        "control": "coalitions for the credits, their own images",
        "held_out": "held-out coalitions, retrained",
        "paired": "held-out coalitions, game of the credits",
        "baseline": "held-out coalitions, their own images",
        "by_size": "coalitions of further sizes, retrained",
        "by_size_paired": "coalitions of further sizes, game of the credits",
        "by_size_baseline": "coalitions of further sizes, their own images",
        "counterfactual": "removal of top and random contributors",
    }


def _costs(this_round: Round) -> Iterator[CostLine]:
    start = this_round.game("credit").recipe.start
    models = {"base model": this_round.plan.base.id}
    if start is not None and start.pruning is not None:
        models["pruned model"] = start.id
    for label, address in models.items():
        key = weights_key(address)
        if this_round.store.exists(key):
            cost = read_cost(this_round.store.get(key), this_round.store.where(key))
            yield CostLine(label, 1, cost.finetune, cost.device)
    for game, costs in shared_costs(this_round).items():
        label = f"weights that coalitions share ({_made(this_round, game)})"
        yield CostLine(label, len(costs), sum(cost.finetune for cost in costs), _devices(costs))
    for purpose, label in purposes().items():
        evaluations = [evaluation for _, evaluation in this_round.evaluations(purpose)]
        if evaluations:
            costs = [evaluation.cost for evaluation in evaluations]
            yield CostLine(label, len(costs), sum(cost.total for cost in costs), _devices(costs))


def _devices(costs: list[Cost]) -> str:
    return ", ".join(sorted({cost.device for cost in costs}))


def _facts(this_round: Round) -> list[tuple[str, str]]:
    plan, credit = this_round.plan, this_round.game("credit")
    start = credit.recipe.start
    pruned = start.id if start is not None and start.pruning is not None else "none"
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return [
        ("Round", this_round.id),
        ("Manifest", plan.manifest),
        ("Base model", plan.base.id),
        ("Pruned model", pruned),
        ("Game of the credits", plan.games["credit"]),
        ("Game of the evidence (retraining)", plan.games["truth"]),
        *(("Feature network", f"{n.name}, {n.network}, trained on {n.trained_on}") for n in plan.networks),
        ("Precision", credit.recipe.precision),
        ("Apportion", plan.code),
        ("Python", platform.python_version()),
        ("Libraries", libraries),
    ]
