"""train: the base model, and what properties compare images with."""

from functools import partial

import torch

from apportion.diffusion.compute import Compute, prepare
from apportion.diffusion.removal import Case, remove
from apportion.diffusion.sampler import Sampler
from apportion.progress import bar
from apportion.properties import reference
from apportion.properties.measure import build_reference
from apportion.properties.network import load as load_network
from apportion.records import Cost, samples_address
from apportion.rounds.cost import timed
from apportion.rounds.models import dump_model, generate, load_model
from apportion.rounds.networks import stored_network
from apportion.rounds.round import Round
from apportion.rounds.samples import dump_samples, load_samples
from apportion.rounds.training_data import training_images
from apportion.store.layout import network_key, reference_key, samples_key, weights_key
from apportion.store.leases import ensure
from apportion.store.leftovers import remove_leftovers


def run(round_uri: str) -> str:
    """Makes the base model of a round and its references where they are missing and needed; returns the base
    model's id."""
    this_round = Round.open(round_uri)
    base = this_round.plan.base
    remove_leftovers(this_round.store)
    if this_round.settled:
        return base.id
    options = this_round.config.compute
    compute = prepare(options.device, base.recipe.precision, options.base_threads)
    ensure(this_round.store, weights_key(base.id), lambda: _base(this_round, compute))
    for address, network in _references(this_round).items():
        ensure(this_round.store, reference_key(address), partial(_reference, this_round, network, compute))
    return base.id


def _references(this_round: Round) -> dict[str, str]:
    """The network of each reference that a property of the round's games is measured with, by the reference's
    address."""
    measurements = [item for game in this_round.games.values() for item in game.properties]
    return {
        item.reference: item.network
        for item in measurements
        if item.reference is not None and item.network is not None
    }


def _base(this_round: Round, compute: Compute) -> bytes:
    base = this_round.plan.base
    images = training_images(this_round.store, base.data, base.recipe.resolution)
    with bar(base.recipe.steps, "train", "step") as progress, timed() as clock:
        model = remove(Case(base.recipe, None, images, base.seed, compute, progress.update))
    return dump_model(base.recipe, model, Cost(finetune=clock.seconds, device=compute.name))


def _reference(this_round: Round, network: str, compute: Compute) -> bytes:
    base, sampling, store = this_round.plan.base, this_round.game("truth").sampling, this_round.store
    key = samples_key(samples_address(base.id, sampling))
    if not store.exists(key):
        model, _ = load_model(store, base.recipe, weights_key(base.id), compute)
        with bar(sampling.images, "reference", "image") as progress:
            made = generate(
                base.recipe, Sampler((model,)), sampling, base.seed, compute, tick=progress.update
            )
        store.ensure(key, lambda: dump_samples(*made))
    # Features are computed in fp32, as `score` computes them, whatever the precision of the models.
    options = this_round.config.compute
    device = prepare(options.device, "fp32", options.base_threads).device
    features = load_network(stored_network(store, network), store.where(network_key(network))).to(device)
    training = training_images(store, base.data, base.recipe.resolution)
    samples = torch.from_numpy(load_samples(store, key)[0])
    return reference.dump(build_reference(features, torch.from_numpy(training.pixels), samples))
