"""prune: the base model without its least important parts, re-tuned on all data."""

import logging
from functools import partial

from apportion.diffusion.compute import prepare
from apportion.diffusion.family import family_of, parameter_count
from apportion.diffusion.train import fit
from apportion.progress import bar
from apportion.records import Cost, Game, Start
from apportion.rounds.cost import timed
from apportion.rounds.models import dump_model, load_model
from apportion.rounds.round import Round
from apportion.rounds.training_data import training_images
from apportion.store.layout import weights_key
from apportion.store.leases import ensure

log = logging.getLogger(__name__)


def run(round_uri: str) -> str:
    """Makes the pruned models that games of a round start from, where they are missing and needed; returns
    the id of the model that the credits' game starts from, or the base model's where it starts from random
    weights."""
    this_round = Round.open(round_uri)
    if not this_round.settled:
        for game in this_round.games.values():
            start = game.recipe.start
            if start is not None and start.pruning is not None:
                ensure(this_round.store, weights_key(start.id), partial(_pruned, this_round, game, start))
    start = this_round.game("credit").recipe.start
    return this_round.plan.base.id if start is None else start.id


def _pruned(this_round: Round, game: Game, start: Start) -> bytes:
    recipe, pruning, options = game.recipe, start.pruning, this_round.config.compute
    assert pruning is not None  # the caller has checked this
    compute = prepare(options.device, recipe.precision, options.base_threads)
    images = training_images(this_round.store, this_round.plan.base.data, recipe.resolution)
    family = family_of(recipe.model)
    model, _ = load_model(this_round.store, recipe, weights_key(start.base), compute)
    before = parameter_count(model)
    with bar(pruning.retune.steps, "prune", "step") as progress, timed() as clock:
        smaller = family.prune(model, pruning, start.seed)
        tuned = fit(
            family,
            smaller,
            images,
            pruning.retune,
            start.seed,
            compute,
            progress.update,
            "removal.pruning.retune",
        )
    log.info("pruned %s parameters to %s", f"{before:,}", f"{parameter_count(tuned):,}")
    return dump_model(recipe, tuned, Cost(finetune=clock.seconds, device=compute.name))
