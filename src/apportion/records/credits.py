"""What each contributor is credited with, by every method."""

import json
from typing import Annotated

from pydantic import Field

from apportion.records.base import Finite, Hash, Record

CREDITS = 7
"""Part of every round: a change in how credits are computed from values makes new rounds, which share every
evaluation. A change of code alone makes no new round: the version of the code (`version.code`) is written in
records, but is no part of their addresses."""

NOT_RECORDED = "not recorded"
"""The game of credits that earlier code made, which did not record it."""


class Credit(Record):
    """What one contributor is credited with by one method for one property, in the game of a removal method.

    `low` and `high` are None where there is no interval; `interval` is the method that they, `se` and the
    ranks are from. Ranks count from 1, the largest contribution; all ranges `best`..`worst` of one
    property hold together at the round's level.
    """

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
    """v of the empty or of the grand coalition: mean and standard error over seeds; `stated` where the
    configuration gave the value."""

    mean: Finite
    se: Finite
    seeds: int
    stated: bool = False


class PilotResult(Record):
    """Whether a cheap game, of a removal method, says enough of retraining for the method `multifidelity`:
    the correlation of their odd parts with its interval, and the reason in words."""

    property: str
    game: str = ""
    rho: Finite | None
    low: Finite | None
    high: Finite | None
    use: bool
    reason: str


class Interaction(Record):
    """Shapley interaction index of two contributors, in units of the property: below 0, they raise it less
    together than each alone does.

    `se`, `low` and `high` are None where there is no interval; `unknown` says why, except in records that
    earlier code made. `established`: the sign of `value` is right at the round's level, for all pairs of the
    property together.
    """

    property: str
    one: str
    other: str
    value: Finite
    se: Finite | None = None
    low: Finite | None = None
    high: Finite | None = None
    established: bool = False
    unknown: str = ""


class StoppingStatus(Record):
    """The state of a round that is topped up: it is at look `look` (from 1) of `looks`, and the stopping rule
    holds or does not."""

    look: Annotated[int, Field(ge=1)]
    looks: tuple[int, ...]
    stop: bool
    reason: str


class Credits(Record):
    """The credits of a round.

    published: the method whose credits are published, by property. covers: what the intervals of a method
    cover, in words. v0, v1: values of the empty and the grand coalition, which credits add up between;
    retrained_v0 and retrained_v1: the same by retraining. controls: by property, the coefficient of own
    images as a control of the credits; None where they were evaluated and did not make the credits more
    precise.
    """

    round: Hash
    credits: tuple[Credit, ...]
    published: dict[str, str]
    v0: dict[str, Endpoint]
    v1: dict[str, Endpoint]
    retrained_v0: dict[str, Endpoint] = {}
    retrained_v1: dict[str, Endpoint] = {}
    coalitions: int
    level: Finite
    covers: dict[str, str]
    controls: dict[str, Finite | None] = {}
    pilots: tuple[PilotResult, ...] = ()
    interactions: tuple[Interaction, ...] = ()
    stopping: StoppingStatus | None = None

    @classmethod
    def parse(cls, data: bytes, origin: str) -> "Credits":
        """As of every record. Credits of rounds that earlier code made are read too."""
        return super().parse(_upgraded(data), origin)

    def of(self, name: str, method: str | None = None) -> list[Credit]:
        """The credits of one property by a method (the published one, if none is given), in the order of
        contributors; empty where the method gave none."""
        method = self.published[name] if method is None else method
        return [credit for credit in self.credits if (credit.property, credit.method) == (name, method)]

    def methods(self, name: str) -> list[str]:
        """The methods that credits of a property are from, the published one first."""
        used = dict.fromkeys(credit.method for credit in self.credits if credit.property == name)
        return [self.published[name], *(method for method in used if method != self.published[name])]

    def covered(self, credit: Credit) -> str:
        """What the interval of a credit covers, in words."""
        return self.covers.get(credit.interval or "", "nothing: there is no interval")


def _upgraded(data: bytes) -> bytes:
    """The text of credits in today's form, from one that was written before CREDITS was 5.

    Before it was 3, `covers` was one text, intervals were of the method itself, there were no ranks, and
    `leverage` alone had intervals. Before it was 5, the published method was the first, and names of fields
    were others.
    """
    try:
        fields = json.loads(data)
        if "published" in fields:
            return data
        if isinstance(fields["covers"], str):
            methods = {credit["method"] for credit in fields["credits"]}
            for credit in fields["credits"]:
                interval = None if credit["low"] is None and credit["high"] is None else credit["method"]
                credit |= {"game": NOT_RECORDED, "interval": interval, "best": None, "worst": None}
            fields["covers"] = {"leverage": fields["covers"]} if "leverage" in methods else {}
        fields["published"] = {credit["property"]: credit["method"] for credit in reversed(fields["credits"])}
        for old, new in (("exact_v0", "retrained_v0"), ("exact_v1", "retrained_v1"), ("looked", "stopping")):
            if old in fields:
                fields[new] = fields.pop(old)
    except (ValueError, KeyError, TypeError, AttributeError):
        return data  # not the credits of any version; `parse` says what is wrong
    return json.dumps(fields).encode()
