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

CREDITS = 4
"""Part of every round: a change in how credits come from values makes new rounds, which share every evaluation. Other code alone does not:
a record says which code made it (`version.code`), and its address does not."""

Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Purpose = Literal[
    "design", "v0", "v1", "loo", "aoi", "datamodel", "exact", "exact_v0", "exact_v1", "held_out", "paired", "counterfactual"
]  # fmt: skip
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
    """What a round will evaluate, in order. `look` is which of `valuation.stop.looks` it is for, from 0; `credits` says how credits will
    come from values: plans made before that was said are of 2."""

    round: Hash
    manifest: Hash
    base: Hash
    pruned: Hash | None
    reference: Hash
    credit_game: Hash
    truth_game: Hash
    wanted: tuple[Wanted, ...]
    code: str
    look: Annotated[int, Field(ge=0)] = 0
    credits: int = 2


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
    """What one contributor is credited with by one method for one property, in the game of a removal method.

    `low` and `high` are None where no honest interval exists; `interval` is the method that they, `se` and the ranks are from. Ranks
    count from 1, who contributed most; all of a round's `best`..`worst` of one property hold together at its level."""

    property: str
    method: str
    game: str
    contributor: str
    phi: Finite
    se: Finite | None
    low: Finite | None
    high: Finite | None
    interval: str | None
    best: Annotated[int, Field(ge=1)] | None
    worst: Annotated[int, Field(ge=1)] | None
    share: Finite | None


class Endpoint(Record):
    """v(nobody) or v(everybody): mean and standard error over seeds; `stated` where the configuration gave the value."""

    mean: Finite
    se: Finite
    seeds: int
    stated: bool = False


class Pilot(Record):
    """Whether the cheap game tells enough of retraining to be used for `multifidelity`: correlation of odd parts, and the reason."""

    property: str
    rho: Finite | None
    low: Finite | None
    high: Finite | None
    use: bool
    reason: str


class Interaction(Record):
    """Shapley interaction index of two contributors by a tree surrogate, in units of the property: below 0 they raise it less together than
    each alone does. No interval."""

    property: str
    one: str
    other: str
    value: Finite


class Looked(Record):
    """Where a round that is topped up stands: look `look` (from 1) of `looks`, and whether the rule to stop holds."""

    look: Annotated[int, Field(ge=1)]
    looks: tuple[int, ...]
    stop: bool
    reason: str


class Credits(Record):
    """The credits of a round, what their intervals cover by the method that the intervals are from, and the endpoints they add up
    between."""

    round: Hash
    credits: tuple[Credit, ...]
    v0: dict[str, Endpoint]
    v1: dict[str, Endpoint]
    exact_v0: dict[str, Endpoint] = {}
    exact_v1: dict[str, Endpoint] = {}
    coalitions: int
    level: Finite
    covers: dict[str, str]
    pilots: tuple[Pilot, ...] = ()
    interactions: tuple[Interaction, ...] = ()
    looked: Looked | None = None

    @classmethod
    def parse(cls, data: bytes, origin: str) -> "Credits":
        """As of every record; credits of rounds that earlier code made are read too."""
        return super().parse(_renewed(data), origin)

    def covered(self, credit: Credit) -> str:
        """What the interval of a credit covers."""
        return self.covers.get(credit.interval or "", "nothing: there is no honest interval")


NOT_RECORDED = "not recorded"
"""The game of credits that code made which did not write it down."""


def _renewed(data: bytes) -> bytes:
    """The text of credits as they are written now, from one that was written before records.CREDITS was 3, known by its one text of
    what intervals cover. Then intervals were of the method itself, there were no ranks, and `leverage` alone had intervals."""
    try:
        found = json.loads(data)
        if not isinstance(found["covers"], str) or any("game" in credit for credit in found["credits"]):
            return data
        methods = {credit["method"] for credit in found["credits"]}
        for credit in found["credits"]:
            own = None if credit["low"] is None and credit["high"] is None else credit["method"]
            credit |= {"game": NOT_RECORDED, "interval": own, "best": None, "worst": None}
        found["covers"] = {"leverage": found["covers"]} if "leverage" in methods else {}
    except (ValueError, KeyError, TypeError):
        return data  # no credits of any time, which `parse` says
    return json.dumps(found).encode()


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
