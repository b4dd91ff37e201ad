"""What passes between stages: manifest, game, plan, evaluation, credits. Each is a strict model with one canonical text and one address."""

import json
import math
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from apportion.config import digest
from apportion.errors import Damaged

SCHEMA = 1
"""Part of every game: a change in how values are computed makes new games rather than mixing old values with new ones."""

CREDITS = 2
"""Part of every round: a change in how credits come from values makes new rounds, which share every evaluation. Other code alone does not:
a record says which code made it (`version.code`), and its address does not."""

Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Purpose = Literal["design", "v0", "v1", "held_out", "paired", "counterfactual"]
Seed = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"found {value}, expected a finite number")
    return value


Finite = Annotated[float, AfterValidator(_finite)]
R = TypeVar("R", bound="Record")


class Record(BaseModel):
    """A stored JSON object: unknown or mistyped fields are damage."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def dump(self) -> bytes:
        """Canonical text: the same record is always the same bytes."""
        return (json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1) + "\n").encode()

    @classmethod
    def parse(cls: type[R], data: bytes, origin: str) -> R:
        """Raises Damaged, naming `origin`, where the text is not such a record."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
            raise Damaged(
                f"found a damaged {cls.__name__} in {origin} ({problems}); it is left as it is: move it away to have it made again"
            ) from error


class Contributor(Record):
    """One row of a manifest."""

    name: str
    data: Hash
    samples: Annotated[int, Field(ge=1)]
    joined: str | None = None


class Manifest(Record):
    """Who gave which data. Contributors are the players 0..n-1, in the order of their names."""

    contributors: tuple[Contributor, ...]

    @property
    def id(self) -> str:
        return digest({c.name: c.data for c in self.contributors})

    @property
    def everybody(self) -> tuple[str, ...]:
        """Sorted data hashes of all contributors."""
        return tuple(sorted(c.data for c in self.contributors))

    @property
    def names(self) -> list[str]:
        return [c.name for c in self.contributors]

    @property
    def n(self) -> int:
        return len(self.contributors)

    def data(self, members: NDArray[np.bool_]) -> tuple[str, ...]:
        """Sorted data hashes of a coalition given as a mask (n,)."""
        return tuple(sorted(c.data for c, kept in zip(self.contributors, members, strict=True) if kept))


class Property(Record):
    """How one property is measured: its name and everything beside the images that its value depends on."""

    name: str
    network: Hash | None = None


class Recipe(Record):
    """How the model of a coalition is made: everything that determines its weights beside the coalition and the seed."""

    version: int = SCHEMA
    base: Hash | None
    removal: dict[str, Any]
    model: dict[str, Any]
    resolution: int
    precision: Literal["fp32", "bf16"]

    def address(self, seed: int, data: tuple[str, ...]) -> str:
        """Address of the model of the coalition whose members have these data hashes."""
        return digest({**self.model_dump(mode="json"), "seed": seed, "data": sorted(data)})


class Game(Record):
    """How v(S) is measured. Everything that determines a value is in here, and so in the game's id; names of contributors are not."""

    recipe: Recipe
    sampling: dict[str, Any]
    properties: tuple[Property, ...]
    reference: Hash | None

    @property
    def id(self) -> str:
        return digest(self.model_dump(mode="json"))

    def key(self, seed: int, data: tuple[str, ...]) -> str:
        """Address of the evaluation of the coalition whose members have these data hashes."""
        return evaluation_key(self.id, seed, data)

    def weights(self, seed: int, data: tuple[str, ...]) -> str:
        """Address of the coalition's model: games that differ in sampling or properties alone share it."""
        return self.recipe.address(seed, data)

    def samples(self, seed: int, data: tuple[str, ...]) -> str:
        """Address of the coalition's generated images: games that differ in properties alone share them."""
        return digest({"weights": self.weights(seed, data), "sampling": self.sampling})


def evaluation_key(game: str, seed: int, data: tuple[str, ...]) -> str:
    return digest({"game": game, "seed": seed, "data": sorted(data)})


class Wanted(Record):
    """One evaluation that a round asks for. `members` is a mask in hexadecimal, bit i = player i."""

    key: Hash
    game: Hash
    seed: Seed
    members: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]+$")]
    purpose: Purpose

    @classmethod
    def of(cls, game: Game, manifest: Manifest, seed: int, mask: NDArray[np.bool_], purpose: Purpose) -> "Wanted":
        """The evaluation of a coalition, a mask (n,) of the manifest's contributors, in a game."""
        return cls(key=game.key(seed, manifest.data(mask)), game=game.id, seed=seed, members=members_text(mask), purpose=purpose)

    def mask(self, n: int) -> NDArray[np.bool_]:
        bits = int(self.members, 16)
        return np.array([(bits >> i) & 1 for i in range(n)], dtype=np.bool_)


def members_text(mask: NDArray[np.bool_]) -> str:
    """Inverse of `Wanted.mask`."""
    return f"{sum(1 << i for i, kept in enumerate(mask.tolist()) if kept):x}"


class Plan(Record):
    """What a round will evaluate, in order."""

    round: Hash
    manifest: Hash
    base: Hash
    pruned: Hash | None
    reference: Hash
    credit_game: Hash
    truth_game: Hash
    wanted: tuple[Wanted, ...]
    code: str


class Followup(Record):
    """What the credits of a round call for: coalitions without the contributors that came out on top, and random ones of that size."""

    round: Hash
    wanted: tuple[Wanted, ...]


class Cost(Record):
    """Seconds of each step of one evaluation, and where they were spent."""

    finetune: Seconds
    sample: Seconds
    score: Seconds
    device: str

    @property
    def total(self) -> float:
        return self.finetune + self.sample + self.score


class Evaluation(Record):
    """One ledger record: every property of the model of one coalition in one game with one seed."""

    key: Hash
    game: Hash
    seed: Seed
    members: tuple[Hash, ...]
    values: dict[str, Finite]
    cost: Cost
    code: str

    @model_validator(mode="after")
    def _addressed(self) -> "Evaluation":
        expected = evaluation_key(self.game, self.seed, self.members)
        if self.key != expected:
            raise ValueError(f"found key {self.key}, expected {expected} from its game, seed and members")
        return self


class Credit(Record):
    """What one contributor is credited with by one method for one property. `low` and `high` are None where no honest interval exists."""

    property: str
    method: str
    contributor: str
    phi: Finite
    se: Finite | None
    low: Finite | None
    high: Finite | None
    share: Finite | None


class Endpoint(Record):
    """v(nobody) or v(everybody): mean and standard error over seeds; `stated` where the configuration gave the value."""

    mean: Finite
    se: Finite
    seeds: int
    stated: bool = False


class Credits(Record):
    """The credits of a round, what they cover, and the endpoints they add up between."""

    round: Hash
    credits: tuple[Credit, ...]
    v0: dict[str, Endpoint]
    v1: dict[str, Endpoint]
    coalitions: int
    level: Finite
    covers: str


Status = Literal["not faithful", "not established", "not predictive", "faithful"]
"""A verdict, worst first: the game disagrees with retraining; too little was retrained to tell; the game agrees with retraining, but the
credits drawn from it do not predict what retraining gives; both agree."""


class Faith(Record):
    """Spearman correlation between the cheap game and retraining on the same coalitions of one size; None where it has no value."""

    alpha: Finite
    rho: Finite | None
    low: Finite | None
    high: Finite | None
    pairs: int
    status: Status


class Score(Record):
    """Linear datamodelling score of one method, in [-1, 1], with its bootstrap interval.

    `in_design` of the `held_out` coalitions are among those that the credits were computed from.
    """

    method: str
    alpha: Finite
    lds: Finite | None
    low: Finite | None
    high: Finite | None
    held_out: int
    in_design: int = 0


class Counterfactual(Record):
    """Relative change of a property after removing some contributors, over seeds; None where it was zero before."""

    label: str
    game: Hash
    removed: tuple[str, ...]
    key: Hash
    change: Finite | None
    se: Finite | None
    value: Finite


class Judgement(Record):
    """What `evaluate` found of the credits of one property."""

    property: str
    faithfulness: tuple[Faith, ...]
    scores: tuple[Score, ...]
    counterfactuals: tuple[Counterfactual, ...]


class Evidence(Record):
    """All judgements of a round."""

    round: Hash
    judgements: tuple[Judgement, ...]


class Commit(Record):
    """A round's last record: that it is complete, and what it took."""

    round: Hash
    previous: Hash | None
    project: str
    tracking_run: str | None
    seconds: dict[str, Seconds]
    code: str
