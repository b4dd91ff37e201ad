"""prune: the base model without its least important channels, re-tuned on everybody's data."""

import logging

from apportion.diffusion import ddpm
from apportion.diffusion.compute import prepare
from apportion.diffusion.prune import prune
from apportion.diffusion.train import fit
from apportion.progress import bar
from apportion.stages.collection import training_images
from apportion.stages.models import dump_model, load_model
from apportion.stages.round import Round, weights_key
from apportion.stages.spent import timed

log = logging.getLogger(__name__)


def run(round_uri: str) -> str:
    """Makes the pruned model of a round where it is absent and needed; returns its id, or the base model's where the round prunes none."""
    round = Round.open(round_uri)
    if round.plan.pruned is None:
        return round.plan.base
    if not round.settled:
        round.store.ensure(weights_key(round.plan.pruned), lambda: _pruned(round))
    return round.plan.pruned


def _pruned(round: Round) -> bytes:
    config, pruning = round.config, round.config.removal.pruning
    assert pruning is not None  # a round without one has no address for it
    compute = prepare(config.compute.device, round.credit_game.recipe.precision, config.compute.base_threads)
    images = training_images(round.store, round.manifest.everybody, config.data.resolution)
    unet, _ = load_model(round.store, weights_key(round.plan.base), compute)
    before = ddpm.parameters(unet)
    with bar(pruning.retune.steps, "prune", "step") as progress, timed() as clock:
        smaller = prune(unet, pruning, config.seed)
        unet = fit(smaller, images, pruning.retune, config.seed, compute, progress.update, "removal.pruning.retune")
    log.info("pruned %s parameters to %s", f"{before:,}", f"{ddpm.parameters(unet):,}")
    return dump_model(unet, clock.seconds, compute)
