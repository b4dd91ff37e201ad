"""How the value of a coalition is measured. A game holds everything that determines a value: no stage that
makes a coalition's model, images or values reads these options from the round's configuration."""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

from apportion.config.family import Model
from apportion.config.fitting import Fitting
from apportion.config.hashing import digest, identity
from apportion.config.removal import Member, Mixture, Part, Pruning, Removal
from apportion.config.sampling import Sampling
from apportion.records.base import Hash, Record, RecordedSeed

SCHEMA = 2
"""Part of every game: a change in how values are computed makes new games, so that old values do not mix with
new."""


class Start(Record):
    """The model that training runs start from: the base model or, with `pruning`, the base model pruned and
    re-tuned. `seed` is that of pruning and re-tuning."""

    base: Hash
    pruning: Pruning | None = None
    seed: RecordedSeed

    @property
    def id(self) -> str:
        """Address of the weights."""
        return self.base if self.pruning is None else digest(identity(self))


class Recipe(Record):
    """How the models of coalitions are made: everything that determines their weights beside coalition and
    seed.

    version: SCHEMA. train: how models are trained from random weights, for removal methods that do so. start:
    what training runs start from, for those that do not. resolution: pixels a side.
    """

    version: int
    model: Model
    resolution: int
    precision: Literal["fp32", "bf16"]
    removal: Removal
    train: Fitting | None
    start: Start | None

    @cached_property  # a plan asks for it once for each evaluation
    def _identity(self) -> dict[str, Any]:
        fields: dict[str, Any] = identity(self)
        return fields

    @cached_property
    def _trained(self) -> dict[str, Any]:
        """The identity without what only affects how weights are mixed, so that another mixture of the same
        weights trains nothing again."""
        removal = self._identity["removal"]
        kept = {name: value for name, value in removal.items() if name not in self.removal.mixing}
        return {**self._identity, "removal": kept}

    @property
    def steps(self) -> int:
        """Training steps of one training run."""
        return self.removal.steps(self.train)

    def address(self, seed: int, data: tuple[str, ...]) -> str:
        """Address of the model of a coalition with this seed and the data with these hashes, whether that is
        one set of weights or a mixture."""
        return digest({**self._identity, "seed": seed, "data": sorted(data)})

    def weights(self, part: Part) -> str:
        """Address of the weights of a part of a mixture."""
        if part.run is not None:
            return digest({**self._trained, "seed": part.run.seed, "data": sorted(part.run.data)})
        if self.start is None:
            raise ValueError(
                f"found a part without a training run, expected one: {self.removal.method} has no start"
            )
        return self.start.id

    def mixture(self, seed: int, members: Sequence[Member]) -> Mixture:
        """What the images of a coalition are sampled from."""
        mixture = self.removal.mixture(seed, members)
        if not self.removal.generates:
            return mixture
        total = math.fsum(part.weight for part in mixture.parts)
        if not math.isclose(total, 1.0, rel_tol=1e-9):
            raise ValueError(
                f"found weights of a mixture that sum to {total}, expected 1 ({self.removal.method})"
            )
        return mixture


class Base(Record):
    """The base model of a round: trained from random weights with this seed on the data with these hashes."""

    recipe: Recipe
    seed: RecordedSeed
    data: tuple[Hash, ...]

    @property
    def id(self) -> str:
        """Address of the weights."""
        return self.recipe.address(self.seed, self.data)


class Measurement(Record):
    """How one property is measured: its name, and the addresses of what its value depends on beside the
    images: a feature network, and the reference that images are compared with."""

    property: str
    network: Hash | None = None
    reference: Hash | None = None


class Game(Record):
    """How v(S) is measured. The names of contributors are not part of it."""

    recipe: Recipe
    sampling: Sampling
    properties: tuple[Measurement, ...]

    @cached_property  # a plan asks for it once for each evaluation
    def id(self) -> str:
        return digest(identity(self))

    def key(self, seed: int, data: tuple[str, ...]) -> str:
        """Address of the evaluation of the coalition whose members have these data hashes."""
        return evaluation_key(self.id, seed, data)

    def samples(self, seed: int, data: tuple[str, ...]) -> str:
        """Address of a coalition's generated images. Games that differ only in properties share them."""
        return samples_address(self.recipe.address(seed, data), self.sampling)


def evaluation_key(game: str, seed: int, data: tuple[str, ...]) -> str:
    """Address of an evaluation, by the id of its game, its seed and the data hashes of the coalition's
    members."""
    return digest({"game": game, "seed": seed, "data": sorted(data)})


def samples_address(weights: str, sampling: Sampling) -> str:
    """Address of the images that a model with these weights generates."""
    return digest({"weights": weights, "sampling": identity(sampling)})
