"""Section `valuation`: which coalitions are evaluated, and by which methods their values become credits."""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from apportion.config.strict import Rate, Seed, Share, Strict

EvenCount = Annotated[int, Field(ge=2, multiple_of=2)]

FEWEST_OWN_IMAGES = 16
"""Coalitions that the control game of own images is estimated from, at least."""


class DatamodelOptions(Strict):
    """Coalitions of one size for the method `datamodel`."""

    coalitions: Annotated[int, Field(ge=3)]
    alpha: Share = 0.5


class RetrainedOptions(Strict):
    """The first coalitions of the design are retrained too, and so are the empty and the grand coalition:
    credits of retraining by the method `multifidelity`."""

    coalitions: Annotated[int, Field(ge=16, multiple_of=2)]
    endpoint_seeds: Annotated[int, Field(ge=2)] = 3


class StopOptions(Strict):
    """When a round that is topped up has enough coalitions: each run of `plan` goes on to the next of `looks`
    (numbers of coalitions) until `rule` holds for all `properties` (all that are measured, where none is
    named).

    The rules are those of `valuation.sequential`.
    """

    looks: Annotated[list[EvenCount], Field(min_length=2, max_length=20)]
    rule: Literal["width", "share", "top_set", "top_order"]
    target: Rate
    properties: list[str] = []
    spending: Literal["obrien_fleming", "pocock"] = "obrien_fleming"

    @field_validator("looks")
    @classmethod
    def _increase(cls, looks: list[int]) -> list[int]:
        if any(later <= earlier for earlier, later in pairwise(looks)):
            raise ValueError(f"found {looks}, expected numbers of coalitions that increase from look to look")
        return looks


class ValuationOptions(Strict):
    """Which coalitions are evaluated and how their values become credits. `methods` are rows of
    `valuation.methods.METHODS`; where none are named, those of the design and of the sections that are
    given. own_images: so many coalitions, and those of the design, are measured by their own training images,
    without any model, as a control of Shapley values; zero switches this off."""

    design: Literal["leverage", "shapley_kernel"] = "leverage"
    coalitions: Annotated[int, Field(ge=2)] = 48
    methods: Annotated[list[str], Field(min_length=1)] | None = None
    beta: Annotated[list[Rate], Field(min_length=2, max_length=2)] = [4.0, 4.0]
    datamodel: DatamodelOptions | None = None
    retrained: RetrainedOptions | None = None
    stop: StopOptions | None = None
    own_images: Annotated[int, Field(ge=0, multiple_of=2)] = 0
    interactions: bool = False
    endpoint_seeds: Annotated[int, Field(ge=2)] = 3
    stated_v0: dict[str, float] = {}
    level: Share = 0.95
    seed: Seed = 0

    @field_validator("own_images")
    @classmethod
    def _enough(cls, own_images: int) -> int:
        if 0 < own_images < FEWEST_OWN_IMAGES:
            raise ValueError(f"found {own_images}, expected 0 or at least {FEWEST_OWN_IMAGES}")
        return own_images

    @model_validator(mode="after")
    def _fits(self) -> "ValuationOptions":
        for section in ("retrained", "stop", "own_images", "interactions"):
            if getattr(self, section) and self.design != "leverage":
                raise ValueError(
                    f"found valuation.{section} beside design {self.design!r}, expected design 'leverage'"
                )
        if self.stop and self.stop.looks[-1] != self.coalitions:
            raise ValueError(
                f"found valuation.stop.looks up to {self.stop.looks[-1]}, expected the last to be "
                f"coalitions ({self.coalitions})"
            )
        fewest = self.stop.looks[0] if self.stop else self.coalitions
        if self.retrained and self.retrained.coalitions > fewest:
            raise ValueError(
                f"found {self.retrained.coalitions} coalitions in valuation.retrained, expected at most the "
                f"{fewest} of the design"
            )
        return self
