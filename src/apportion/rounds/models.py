"""Models as stored objects, and the images they generate."""

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray
from torch import nn

from apportion.config.sampling import Sampling
from apportion.diffusion.compute import Compute
from apportion.diffusion.family import family_of
from apportion.diffusion.sampler import Sampler, averaged
from apportion.progress import Ticker
from apportion.records import Cost, Recipe, Wanted
from apportion.rounds.cost import cost_header, read_cost, timed
from apportion.rounds.round import Round
from apportion.rounds.weights import has_own_weights, keep_cost
from apportion.store import Store
from apportion.store.layout import weights_key

MODEL_BYTES = 2**31
"""Bytes of models that stay in memory for the next coalition."""


def dump_model(recipe: Recipe, model: nn.Module, cost: Cost) -> bytes:
    """A model as a stored object, with what it cost."""
    return family_of(recipe.model).dump(model, cost_header(cost))


def load_model(store: Store, recipe: Recipe, key: str, compute: Compute) -> tuple[nn.Module, Cost]:
    """A stored model on a device, and what it cost. Raises NotFound or Damaged."""
    data, where = store.get(key), store.where(key)
    return family_of(recipe.model).load(data, where, compute.device), read_cost(data, where)


class SharedModels:
    """Models that several coalitions of a round need, on a device; those that were used last stay in
    memory."""

    def __init__(self, this_round: Round, compute: Compute) -> None:
        self._round, self._compute = this_round, compute
        self._models: OrderedDict[str, tuple[nn.Module, int]] = OrderedDict()

    def load(self, game: str, address: str) -> nn.Module:
        """The model of a game with that address; what it cost is kept in the store. Raises NotFound or
        Damaged."""
        if address not in self._models:
            recipe, store = self._round.games[game].recipe, self._round.store
            model, cost = load_model(store, recipe, weights_key(address), self._compute)
            keep_cost(store, game, address, cost)
            size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
            self._models[address] = model, size
            while len(self._models) > 1 and sum(size for _, size in self._models.values()) > MODEL_BYTES:
                self._models.popitem(last=False)
        self._models.move_to_end(address)
        return self._models[address][0]


def load_sampler(
    this_round: Round, wanted: Wanted, compute: Compute, shared: SharedModels
) -> tuple[Sampler, Cost]:
    """What the images of a coalition are sampled from, and what its model cost. The weights of a mixture are
    used by other coalitions too, so their cost is counted for none of them, but kept in records of its own
    (`rounds.weights`). Raises NotFound or Damaged."""
    recipe, mixture = this_round.games[wanted.game].recipe, this_round.mixture(wanted)
    addresses = [recipe.weights(part) for part in mixture.parts]
    if has_own_weights(this_round, wanted):
        model, cost = load_model(this_round.store, recipe, weights_key(addresses[0]), compute)
        return Sampler((model,), conditions=mixture.conditions), cost
    models = (shared.load(wanted.game, address) for address in addresses)
    cost, weights = Cost(device=compute.name), [part.weight for part in mixture.parts]
    if mixture.average == "weights":
        return Sampler((averaged(models, weights),), conditions=mixture.conditions), cost
    return Sampler(tuple(models), tuple(weights), mixture.conditions), cost


def generate(
    recipe: Recipe,
    sampler: Sampler,
    sampling: Sampling,
    seed: int,
    compute: Compute,
    cost: Cost | None = None,
    tick: Ticker | None = None,
) -> tuple[NDArray[np.uint8], Cost]:
    """Seeded images uint8 (images, 3, side, side), and what they and their model (`cost`) cost."""
    with timed() as clock:
        images = family_of(recipe.model).sample(sampler, sampling, seed, compute, tick).numpy()
    return images, Cost(finetune=cost.finetune if cost else 0.0, sample=clock.seconds, device=compute.name)
