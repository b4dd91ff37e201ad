"""Evidence for and against the credits of a round, from retrained models."""

from typing import Literal

from apportion.records.base import Date, Finite, Hash, Record

Status = Literal["not faithful", "not established", "not predictive", "faithful"]
"""A verdict, worst first: the game disagrees with retraining; too little was retrained to tell; the game
agrees with retraining, but the credits do not predict what retraining gives; both agree."""


class Faith(Record):
    """Spearman correlation between the credits' game and retraining on the same coalitions of one size, with
    its interval; None where it has no value."""

    alpha: Finite
    rho: Finite | None
    low: Finite | None
    high: Finite | None
    pairs: int
    status: Status


class LdsScore(Record):
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
    """Relative change of a property after some contributors were removed, over seeds; None where the property
    was zero before."""

    label: str
    game: Hash
    removed: tuple[str, ...]
    key: Hash
    change: Finite | None
    se: Finite | None
    value: Finite


class Citation(Record):
    """The round in which something was measured, and when it was committed (YYYY-MM-DD)."""

    round: Hash
    project: str
    date: Date
    code: str


class Judgement(Record):
    """What `evaluate` concluded about the credits of one property. published: the method whose credits are
    judged. baseline: as `faithfulness`, of the game without a model, whose images of a coalition are its own.
    by_size: faithfulness at further sizes, which are not part of the verdict; by_size_baseline: the same of
    the game without a model. cited: the other round in which all of these were measured, on the same
    contributors and game; None where they were measured in this one."""

    property: str
    published: str
    faithfulness: tuple[Faith, ...]
    baseline: tuple[Faith, ...] = ()
    by_size: tuple[Faith, ...] = ()
    by_size_baseline: tuple[Faith, ...] = ()
    cited: Citation | None = None
    scores: tuple[LdsScore, ...]
    counterfactuals: tuple[Counterfactual, ...]


class Evidence(Record):
    """All judgements of a round."""

    round: Hash
    judgements: tuple[Judgement, ...]
