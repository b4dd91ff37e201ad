"""Every method that turns values into credits, and what each needs of a round."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from apportion.config import Method, Valuation
from apportion.records import Purpose
from apportion.valuation import intervals, multifidelity, ranks, semivalues, sequential, shapley

Array = NDArray[np.float64]
Rows = tuple[NDArray[np.bool_], Array]


@dataclass(frozen=True)
class Paired:
    """Coalitions Z (k, n) that were retrained as well: values y (k,) by retraining and y_cheap (k,) in the cheap game, and retraining's
    values of nobody and everybody, as in `Sample`."""

    Z: NDArray[np.bool_]
    y: Array
    y_cheap: Array
    v0: Array
    v1: Array


@dataclass(frozen=True)
class Sample:
    """What the methods see of one property: coalitions Z (m, n), their values y (m,), and those of nobody and of everybody by their seeds,
    v0 and v1 (seeds,); a stated v0 is a number, ().

    sign: -1 where less of the property is better, so that "ahead" means a contribution. rows: coalitions and values that only some
    methods need, by purpose. looks: how many coalitions each look so far was at, this one last, where rounds are topped up."""

    Z: NDArray[np.bool_]
    y: Array
    v0: Array
    v1: Array
    level: float
    sign: int
    valuation: Valuation
    rows: Mapping[Purpose, Rows]
    paired: Paired | None = None
    looks: tuple[int, ...] = ()

    @cached_property
    def measured(self) -> "Measured | None":
        """Intervals and order from the `leverage` fit, None for two contributors, of whom nothing is left to judge by."""
        if self.Z.shape[1] < intervals.FEWEST:
            return None
        y, v0, v1 = self.sign * self.y, self.sign * self.v0, self.sign * self.v1
        se = intervals.standard_errors(self.Z, y, v0, v1)[1]
        look = self._look(y, v0, v1)
        low, high = (look.low, look.high) if self.sign > 0 else (-look.high, -look.low)
        return Measured(se, low, high, look)

    def _look(self, y: Array, v0: Array, v1: Array) -> sequential.Look:
        """One look is a plain interval: nothing was spent before."""
        stop = self.valuation.stop
        if stop is not None:
            return sequential.look(self.Z, y, v0, v1, self.looks, self.level, stop.spending, most=stop.looks[-1])
        low, high = intervals.hc3(self.Z, y, v0, v1, self.level)
        return sequential.Look(low, high, ranks.order(self.Z, y, v0, v1, self.level), float(v1.mean() - v0.mean()))


@dataclass(frozen=True)
class Measured:
    """Standard errors and intervals of Shapley values (n,), and what is established of their order."""

    se: Array
    low: Array
    high: Array
    look: sequential.Look


@dataclass(frozen=True)
class Estimate:
    """Credits (n,). Where an honest interval exists: standard errors, bounds, and the method that they are from.

    shared: whether they add up to v1 - v0. exact: whether they are of the game of retraining and not of the removal method."""

    phi: Array
    se: Array | None = None
    low: Array | None = None
    high: Array | None = None
    interval: Method | None = None
    shared: bool = True
    exact: bool = False


def _with_interval(phi: Array, s: Sample) -> Estimate:
    found = s.measured
    return Estimate(phi) if found is None else Estimate(phi, found.se, found.low, found.high, "leverage")


def tree_residual(s: Sample) -> Estimate:
    return _with_interval(shapley.tree_residual(s.Z, s.y, s.v0, s.v1), s)


def leverage(s: Sample) -> Estimate:
    return _with_interval(shapley.leverage(s.Z, s.y, s.v0, s.v1), s)


def kernelshap(s: Sample) -> Estimate:
    return Estimate(shapley.kernelshap(s.Z, s.y, s.v0, s.v1))


def combined(s: Sample) -> Estimate:
    assert s.paired is not None  # Valuation refuses the method without `exact`
    e = s.paired
    found = multifidelity.combine(s.Z, s.y, e.Z, e.y, e.y_cheap, e.v0, e.v1, s.level)
    return Estimate(found.phi, found.se, found.low, found.high, "multifidelity", exact=True)


def banzhaf(s: Sample) -> Estimate:
    return Estimate(semivalues.banzhaf(s.Z, s.y, s.v0, s.v1), shared=False)


def beta_shapley(s: Sample) -> Estimate:
    return Estimate(semivalues.beta_shapley(s.Z, s.y, s.v0, s.v1, *s.valuation.beta), shared=False)


def loo(s: Sample) -> Estimate:
    """Against everybody with the very seed of the others: what the noise of one seed does to all of them alike cancels."""
    Z, y = s.rows["loo"]
    return Estimate(semivalues.loo(Z, y, s.v1[0]), shared=False)


def aoi(s: Sample) -> Estimate:
    """As `loo`; a stated value of nobody has no seed."""
    Z, y = s.rows["aoi"]
    return Estimate(semivalues.aoi(Z, y, s.v0 if s.v0.ndim == 0 else s.v0[0]), shared=False)


def datamodel(s: Sample) -> Estimate:
    return Estimate(semivalues.datamodel(*s.rows["datamodel"]), shared=False)


METHODS: dict[Method, Callable[[Sample], Estimate]] = {
    "tree_residual": tree_residual,
    "leverage": leverage,
    "multifidelity": combined,
    "banzhaf": banzhaf,
    "beta_shapley": beta_shapley,
    "loo": loo,
    "aoi": aoi,
    "datamodel": datamodel,
    "kernelshap": kernelshap,
}
"""Which of them a round computes: `Valuation.chosen`. The first of those is the one that is published."""
