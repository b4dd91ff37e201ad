"""Every method that turns values of coalitions into credits, one row each (docs/methods.md, "Estimators").

A new method is a row of METHODS and a module with its estimator (docs/architecture.md).
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apportion.config.stages import STAGES
from apportion.config.valuation import ValuationOptions
from apportion.errors import ConfigError, ValuationError
from apportion.valuation import (
    coalitions,
    intervals,
    multifidelity,
    ranks,
    semivalues,
    sequential,
    set_noise,
    shapley,
)
from apportion.valuation.control import Adjusted, adjusted

Array = NDArray[np.float64]
Masks = NDArray[np.bool_]
Rows = tuple[Masks, Array]
"""Coalitions (k, n) and their values (k,)."""


@dataclass(frozen=True)
class RetrainedRows:
    """Coalitions Z (k, n) that were retrained too, with values y (k,) by retraining, and values by retraining
    of the empty and the grand coalition, v0 and v1, as in `MethodInput`. cheap: other games that were
    evaluated on them, by removal method, the cheapest first; y_cheap: their values of Z (k,)."""

    Z: Masks
    y: Array
    v0: Array
    v1: Array
    cheap: Mapping[str, multifidelity.CheapGame]
    y_cheap: Mapping[str, Array]

    def only(self, names: Collection[str]) -> "RetrainedRows":
        """The same with these cheap games alone."""
        return replace(self, cheap={name: game for name, game in self.cheap.items() if name in names})


@dataclass(frozen=True)
class MethodInput:
    """What methods see of one property: coalitions Z (m, n) of the design, their values y (m,), and the
    values of the empty and the grand coalition by seed, v0 and v1 (seeds,); a stated v0 is one number, of
    shape (). sets (m,): the set of weights that each coalition was sampled from, where coalitions share sets.
    v1_of_first_seed: the value of the grand coalition with the first seed alone; v1 may be means over seeds.
    control: the coalitions' own images, where they are evaluated too.

    sign: -1 where less of the property is better, so that "ahead" means a larger contribution. rows:
    coalitions and values that only single methods need, by method. looks: how many coalitions there were at
    each look so far, this one last, where rounds are topped up.
    """

    Z: Masks
    y: Array
    v0: Array
    v1: Array
    level: float
    sign: int
    options: ValuationOptions
    rows: Mapping[str, Rows]
    v1_of_first_seed: float
    retrained: RetrainedRows | None = None
    control: multifidelity.CheapGame | None = None
    sets: NDArray[np.intp] | None = None
    looks: tuple[int, ...] = ()
    scores: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)

    @cached_property
    def leverage_fit(self) -> "LeverageFit | None":
        """Intervals and order from the `leverage` fit; None for two contributors, whose single pair of
        coalitions leaves nothing to estimate an error from."""
        if self.Z.shape[1] < intervals.FEWEST:
            return None
        y, v0, v1 = self.sign * self.shapley_y, self.sign * self.v0, self.sign * self.v1
        phi, se = intervals.standard_errors(self.Z, y, v0, v1, self.sets, self._errors)
        look = self._look(y, v0, v1)
        low, high = (look.low, look.high) if self.sign > 0 else (-look.high, -look.low)
        return LeverageFit(self.sign * phi, se, low, high, look)

    @cached_property
    def _adjusted(self) -> Adjusted | None:
        return adjusted(self.Z, self.y, self.control) if self.control else None

    @property
    def shapley_y(self) -> Array:
        """Values (m,) that have the Shapley values of the game: y or, where own images help, y less the part
        of their interactions that own images show."""
        return self.y if self._adjusted is None else self._adjusted.y

    @property
    def coefficient_of_control(self) -> float | None:
        """Of own images; None where they do not help, or were not evaluated."""
        return None if self._adjusted is None else self._adjusted.rho

    @property
    def _errors(self) -> Array | None:
        """Errors of the control (n, sources), with the sign of a larger contribution."""
        return None if self._adjusted is None else self.sign * self._adjusted.errors

    @property
    def shared_sets(self) -> int:
        """How many sets of weights the coalitions share; 0 where each has weights of its own."""
        return 0 if self.sets is None else len(np.unique(self.sets))

    def _look(self, y: Array, v0: Array, v1: Array) -> sequential.Look:
        """A round that is not topped up has one look, with plain intervals."""
        stop = self.options.stop
        if stop is not None:
            most = stop.looks[-1]
            return sequential.look(
                self.Z,
                y,
                v0,
                v1,
                self.looks,
                self.level,
                stop.spending,
                most=most,
                sets=self.sets,
                errors=self._errors,
            )
        low, high = intervals.hc3(self.Z, y, v0, v1, self.level, self.sets, self._errors)
        order = ranks.order(self.Z, y, v0, v1, self.level, sets=self.sets, errors=self._errors)
        return sequential.Look(low, high, order, float(v1.mean() - v0.mean()))


@dataclass(frozen=True)
class LeverageFit:
    """Shapley values (n,) with standard errors and intervals, and what is established of their order."""

    phi: Array
    se: Array
    low: Array
    high: Array
    look: sequential.Look


@dataclass(frozen=True)
class Estimate:
    """Credits (n,). Where there is an interval: standard errors, bounds, the method that they are from, and
    where ranks can be established, the order.

    efficient: whether the credits add up to v1 - v0. of_retraining: whether they are of the game of
    retraining and not of the removal method's.
    """

    phi: Array
    se: Array | None = None
    low: Array | None = None
    high: Array | None = None
    interval: str | None = None
    order: ranks.Order | None = None
    efficient: bool = True
    of_retraining: bool = False


class OwnCoalitions(NamedTuple):
    """Coalitions that only one method needs, masks (k, n). seeds: `endpoint` for the first seed of the
    endpoints, the same for all rows; `own` for a seed of its own for each row."""

    masks: Masks
    seeds: Literal["endpoint", "own"]


class Method(NamedTuple):
    """One method.

    title, note: for readers of the report. design: the design of coalitions that it is valid for, and with
    which it is computed by default; None for any design. section: the section of `valuation` that it needs,
    and with which it is computed by default. own: coalitions that it alone needs, from the options and the
    number of contributors; own_title: what these are, for readers. check: raises ValuationError where
    coalitions (m, n) of the design are too few for it; fix: the option to change then. always: whether every
    property has credits by it. interval: the method that its intervals are from, where it has any; covers:
    what the intervals from this method cover, in words, in the game of a removal method. needs: what it is
    computed from: values of coalitions, or the scores that the stage of an influence method has committed
    under its name; stage: that stage.
    """

    title: str
    note: str
    estimate: Callable[[MethodInput], Estimate]
    design: str | None = None
    section: str | None = None
    own: Callable[[ValuationOptions, int], OwnCoalitions] | None = None
    own_title: str = ""
    check: Callable[[Masks, ValuationOptions], None] | None = None
    fix: str = "change valuation.coalitions, the first of valuation.stop.looks, or valuation.methods"
    always: bool = True
    interval: str | None = None
    covers: Callable[[MethodInput, str], str] | None = None
    needs: Literal["values", "scores"] = "values"
    stage: str = ""


def _with_interval(phi: Array, inputs: MethodInput) -> Estimate:
    fit = inputs.leverage_fit
    return (
        Estimate(phi) if fit is None else Estimate(phi, fit.se, fit.low, fit.high, "leverage", fit.look.order)
    )


def _tree_residual(inputs: MethodInput) -> Estimate:
    return _with_interval(shapley.tree_residual(inputs.Z, inputs.shapley_y, inputs.v0, inputs.v1), inputs)


def _leverage(inputs: MethodInput) -> Estimate:
    fit = inputs.leverage_fit
    if fit is not None and inputs.shared_sets >= set_noise.FEWEST_SETS:
        return _with_interval(fit.phi, inputs)
    return _with_interval(shapley.leverage(inputs.Z, inputs.shapley_y, inputs.v0, inputs.v1), inputs)


def _kernelshap(inputs: MethodInput) -> Estimate:
    return Estimate(shapley.kernelshap(inputs.Z, inputs.y, inputs.v0, inputs.v1))


def _multifidelity(inputs: MethodInput) -> Estimate:
    rows = inputs.retrained
    assert rows is not None  # the checks refuse the method without its section
    games = list(rows.cheap.values())
    result = multifidelity.combine(games, rows.Z, rows.y, rows.v0, rows.v1, inputs.level)
    return Estimate(result.phi, result.se, result.low, result.high, "multifidelity", of_retraining=True)


def _banzhaf(inputs: MethodInput) -> Estimate:
    return _semivalue(inputs, "banzhaf", semivalues.banzhaf_weights(inputs.Z.shape[1]))


def _beta_shapley(inputs: MethodInput) -> Estimate:
    return _semivalue(
        inputs, "beta_shapley", semivalues.beta_weights(inputs.Z.shape[1], *inputs.options.beta)
    )


def _semivalue(inputs: MethodInput, method: str, weights: Array) -> Estimate:
    """Semivalues with an interval and an order of their own; for this look alone where a round is topped
    up."""
    sign = inputs.sign
    fit = semivalues.semivalue_fit(
        inputs.Z, sign * inputs.y, sign * inputs.v0, sign * inputs.v1, weights, inputs.sets
    )
    if inputs.Z.shape[1] < intervals.FEWEST:
        return Estimate(sign * fit.phi, efficient=False)
    low, high = fit.interval(inputs.level)
    ends = ranks.EndpointErrors(fit.slopes * np.sqrt(fit.endpoints.variance), fit.endpoints.dof)
    order = ranks.order_from_errors(fit.phi, fit.shift, fit.dof, inputs.level, endpoint_errors=ends)
    low, high = (low, high) if sign > 0 else (-high, -low)
    return Estimate(sign * fit.phi, fit.standard_errors(), low, high, method, order=order, efficient=False)


def _loo(inputs: MethodInput) -> Estimate:
    """Compared with the grand coalition of the same seed, so that the noise which one seed adds to all of
    them cancels."""
    Z, y = inputs.rows["loo"]
    return Estimate(semivalues.loo(Z, y, inputs.v1_of_first_seed), efficient=False)


def _aoi(inputs: MethodInput) -> Estimate:
    """As `_loo`, with the empty coalition; a stated value of it has no seed."""
    Z, y = inputs.rows["aoi"]
    v0 = inputs.v0 if inputs.v0.ndim == 0 else inputs.v0[0]
    return Estimate(semivalues.aoi(Z, y, v0), efficient=False)


def _datamodel(inputs: MethodInput) -> Estimate:
    return Estimate(semivalues.datamodel(*inputs.rows["datamodel"]), efficient=False)


def stand_ins(k: int, m: int) -> Array:
    """Random numbers (k, m) in place of measured values, for checks: no two are equal, and no model fits
    them."""
    return np.random.default_rng(0).standard_normal((k, m))


def at_most(where: str, requested: int, available: int) -> None:
    """Raises ValuationError where more coalitions are requested than there are."""
    if requested > available:
        raise ValuationError(
            f"found {requested} coalitions {where}, expected at most the {available} there are"
        )


def _check_banzhaf(Z: Masks, _: ValuationOptions) -> None:
    semivalues.banzhaf(Z, stand_ins(1, len(Z))[0], 0.0, 1.0)


def _check_beta_shapley(Z: Masks, options: ValuationOptions) -> None:
    semivalues.beta_shapley(Z, stand_ins(1, len(Z))[0], 0.0, 1.0, *options.beta)


def _check_multifidelity(Z: Masks, options: ValuationOptions) -> None:
    assert options.retrained is not None  # the checks refuse the method without its section
    k = options.retrained.coalitions
    at_most("in valuation.retrained", k, len(Z))
    cheap, retrained = stand_ins(2, len(Z))
    game = multifidelity.CheapGame(Z, cheap)
    multifidelity.combine([game], Z[:k], retrained[:k], 0.0, 1.0, options.level)


def _own_datamodel(options: ValuationOptions, n: int) -> OwnCoalitions:
    assert options.datamodel is not None  # the checks refuse the method without its section
    count, alpha = options.datamodel.coalitions, options.datamodel.alpha
    return OwnCoalitions(coalitions.draw("datamodel", n, count, options.seed, alpha=alpha), "own")


def _check_datamodel(Z: Masks, options: ValuationOptions) -> None:
    masks = _own_datamodel(options, Z.shape[1]).masks
    semivalues.datamodel(masks, np.zeros(len(masks)))


def _covers_leverage(inputs: MethodInput, removal: str) -> str:
    m, n = inputs.Z.shape
    own_images = len(np.asarray(inputs.control.design)) if inputs.control else 0
    every = m == 2**n - 2
    return intervals.covers(m, n, removal, every=every, sets=inputs.shared_sets, own_images=own_images)


def _covers_semivalue(what: str) -> Callable[[MethodInput, str], str]:
    def covers(inputs: MethodInput, removal: str) -> str:
        m, n = inputs.Z.shape
        one_look = "; for this look alone, not for all looks together" if inputs.options.stop else ""
        return intervals.covers(m, n, removal, sets=inputs.shared_sets, value=what) + one_look

    return covers


def _covers_multifidelity(inputs: MethodInput, removal: str) -> str:  # noqa: ARG001 (each game has its own)
    assert inputs.retrained is not None  # the checks refuse the method without its section
    rows = inputs.retrained
    helpers = [
        f"{len(np.asarray(game.design))} of {name.replace('_', ' ')}" for name, game in rows.cheap.items()
    ]
    one_look = "; for this look alone, not for all looks together" if inputs.options.stop else ""
    return multifidelity.covers(len(rows.Z), helpers, inputs.Z.shape[1]) + one_look


NOT_EFFICIENT = "They do not add up to v1 − v0."

METHODS: dict[str, Method] = {
    "tree_residual": Method(
        title="Shapley (trees and ridge)",
        note="The closest estimate from few coalitions; its interval is that of the leverage fit, which need "
        "not be centred on it.",
        estimate=_tree_residual,
        design="leverage",
        interval="leverage",
    ),
    "leverage": Method(
        title="Shapley (leverage)",
        note="The unregularised fit that the intervals are centred on.",
        estimate=_leverage,
        design="leverage",
        interval="leverage",
        covers=_covers_leverage,
    ),
    "multifidelity": Method(
        title="Shapley, retraining",
        note="For retraining itself, from a few retrained coalitions and many of cheaper games.",
        estimate=_multifidelity,
        section="retrained",
        check=_check_multifidelity,
        fix="change valuation.retrained.coalitions",
        always=False,
        interval="multifidelity",
        covers=_covers_multifidelity,
    ),
    "banzhaf": Method(
        title="Banzhaf",
        note=f"Banzhaf values give most weight to coalitions of middle size. {NOT_EFFICIENT}",
        estimate=_banzhaf,
        design="leverage",
        interval="banzhaf",
        covers=_covers_semivalue("Banzhaf value"),
        check=_check_banzhaf,
    ),
    "beta_shapley": Method(
        title="Beta Shapley",
        note=f"Semivalues whose weights lie between those of Shapley and of Banzhaf values. {NOT_EFFICIENT}",
        estimate=_beta_shapley,
        design="leverage",
        interval="beta_shapley",
        covers=_covers_semivalue("Beta Shapley value"),
        check=_check_beta_shapley,
    ),
    "loo": Method(
        title="Leave one out",
        note=f"The change when one contributor is removed from the grand coalition. {NOT_EFFICIENT}",
        estimate=_loo,
        own=lambda _, n: OwnCoalitions(~np.eye(n, dtype=bool), "endpoint"),
        own_title="all contributors but one",
    ),
    "aoi": Method(
        title="Add one in",
        note=f"The change when one contributor is added to the empty coalition. {NOT_EFFICIENT}",
        estimate=_aoi,
        own=lambda _, n: OwnCoalitions(np.eye(n, dtype=bool), "endpoint"),
        own_title="one contributor alone",
    ),
    "datamodel": Method(
        title="Datamodel",
        note=f"Slopes of a ridge regression on coalitions of one size. {NOT_EFFICIENT}",
        estimate=_datamodel,
        section="datamodel",
        own=_own_datamodel,
        own_title="coalitions of one size",
        check=_check_datamodel,
        fix="change valuation.datamodel",
    ),
    "kernelshap": Method(
        title="Shapley (KernelSHAP)",
        note="",
        estimate=_kernelshap,
        design="shapley_kernel",
    ),
}
"""Of each property a round publishes the credits by the first method of `chosen` that gives some."""


def chosen(options: ValuationOptions) -> list[str]:
    """The methods that a round computes, the preferred one for publication first: those that are named or,
    where none are, those of the design and of the sections that are given."""
    if options.methods is not None:
        return list(options.methods)
    of_design = [name for name, row in METHODS.items() if row.design == options.design]
    of_section = [
        name for name, row in METHODS.items() if row.section and getattr(options, row.section, None)
    ]
    return of_design + of_section


def check_chosen(options: ValuationOptions) -> None:
    """Raises ConfigError where methods are unknown, named twice, not valid for the design or without the
    section that they need, where a section is without its method, and where no method gives every property
    credits."""
    names = chosen(options)
    for name in names:
        if name not in METHODS:
            close = get_close_matches(name, METHODS)
            hint = f" (did you mean {' or '.join(close)}?)" if close else ""
            raise ConfigError(
                f"found method {name!r}{hint}, expected some of {', '.join(METHODS)} (valuation.methods)"
            )
    for name in names:
        if METHODS[name].needs == "scores" and METHODS[name].stage not in STAGES:
            raise ConfigError(
                f"found method {name!r}, whose scores stage {METHODS[name].stage!r} makes, expected one of "
                f"the stages {', '.join(STAGES)} (valuation.methods)"
            )
    if wrong := [name for name in names if METHODS[name].design not in (None, options.design)]:
        expected = [name for name, row in METHODS.items() if row.design == options.design]
        raise ConfigError(
            f"found methods {wrong} beside design {options.design!r}, expected {expected} or baselines "
            "(valuation.methods)"
        )
    if len(set(names)) < len(names):
        raise ConfigError(f"found methods {names}, expected each once (valuation.methods)")
    for name, row in METHODS.items():
        if row.section and (name in names) != (getattr(options, row.section, None) is not None):
            raise ConfigError(
                f"found only one of method {name!r} and valuation.{row.section}, expected both or neither"
            )
    if not any(METHODS[name].always for name in names):
        raise ConfigError(
            f"found no method but {', '.join(names)}, expected another beside it: a property whose "
            "retrained coalitions do not support it has no credits by it (valuation.methods)"
        )


def own_coalitions(options: ValuationOptions, n: int) -> dict[str, OwnCoalitions]:
    """Coalitions that only one method needs, by method, for n contributors."""
    rows = ((name, METHODS[name].own) for name in chosen(options))
    return {name: own(options, n) for name, own in rows if own is not None}
