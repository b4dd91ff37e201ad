"""train: the base model, and what every property is measured against."""

import torch

from apportion.diffusion.compute import Compute, prepare
from apportion.diffusion.removal import Case, remove
from apportion.progress import bar
from apportion.properties import PROPERTIES, reference
from apportion.properties.measure import build_reference
from apportion.stages import networks
from apportion.stages.collection import training_images
from apportion.stages.generated import dump_samples, load_samples
from apportion.stages.models import dump_model, generate, load_model
from apportion.stages.round import Round, reference_key, samples_key, weights_key
from apportion.stages.spent import timed


def run(round_uri: str) -> str:
    """Makes the base model of a round and its reference where they are absent and needed; returns the base model's id."""
    round = Round.open(round_uri)
    if round.settled:
        return round.plan.base
    compute = prepare(round.config.compute.device, round.truth_game.recipe.precision, round.config.compute.base_threads)
    round.store.ensure(weights_key(round.plan.base), lambda: _base(round, compute))
    if any(PROPERTIES[p.name].needs_reference for p in round.credit_game.properties):
        round.store.ensure(reference_key(round.plan.reference), lambda: _reference(round, compute))
    return round.plan.base


def base_samples_key(round: Round) -> str:
    """Where the full model's own images are."""
    return samples_key(round.truth_game.samples(round.config.seed, round.manifest.everybody))


def _base(round: Round, compute: Compute) -> bytes:
    config = round.config
    images = training_images(round.store, round.manifest.everybody, config.data.resolution)
    with bar(config.train.steps, "train", "step") as progress, timed() as clock:
        case = Case(None, config.model, config.data.resolution, images, config.train, config.seed, compute, progress.update)
        unet = remove("retrain", case)
    return dump_model(unet, clock.seconds, compute)


def _reference(round: Round, compute: Compute) -> bytes:
    key = base_samples_key(round)
    if not round.store.exists(key):
        unet, _ = load_model(round.store, weights_key(round.plan.base), compute)
        with bar(round.config.sampling.images, "reference", "image") as progress:
            made = generate(unet, round.config, round.config.seed, compute, tick=progress.update)
        round.store.ensure(key, lambda: dump_samples(*made))
    network = networks.of(round)
    assert network is not None  # whatever is measured against a reference is measured in features
    images = training_images(round.store, round.manifest.everybody, round.config.data.resolution)
    of_everybody = torch.from_numpy(load_samples(round.store, key)[0])
    return reference.dump(build_reference(network, torch.from_numpy(images.pixels), of_everybody))
