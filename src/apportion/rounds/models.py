"""Models as stored objects, and the images they generate."""

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
from apportion.rounds.weights import own_part
from apportion.store import Store


def dump_model(recipe: Recipe, model: nn.Module, cost: Cost) -> bytes:
    """A model as a stored object, with what it cost."""
    return family_of(recipe.model).dump(model, cost_header(cost))


def load_model(store: Store, recipe: Recipe, key: str, compute: Compute) -> tuple[nn.Module, Cost]:
    """A stored model on a device, and what it cost. Raises NotFound or Damaged."""
    data, where = store.get(key), store.where(key)
    return family_of(recipe.model).load(data, where, compute.device), read_cost(data, where)


def load_sampler(this_round: Round, wanted: Wanted, compute: Compute) -> tuple[Sampler, Cost]:
    """What the images of a coalition are sampled from, and what its model cost. The weights of a mixture are
    used by other coalitions too, so their cost is counted for none of them. Raises NotFound or Damaged."""
    recipe, mixture = this_round.games[wanted.game].recipe, this_round.mixture(wanted)
    keys = this_round.weights_keys(wanted)
    loaded = [load_model(this_round.store, recipe, key, compute) for key in keys]
    models, weights = [model for model, _ in loaded], [part.weight for part in mixture.parts]
    alone = mixture.parts == (own_part(this_round, wanted),)
    cost = loaded[0][1] if alone else Cost(device=compute.name)
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
