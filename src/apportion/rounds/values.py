"""The values of one property in a round's ledger, in the form that the methods of valuation take."""

import numpy as np
from numpy.typing import NDArray

from apportion.errors import NotFound
from apportion.properties import PROPERTIES
from apportion.records import Purpose
from apportion.rounds.round import Round
from apportion.valuation.methods import METHODS, MethodInput, RetrainedRows, Rows
from apportion.valuation.multifidelity import CheapGame

Array = NDArray[np.float64]


def sampled_purposes(this_round: Round) -> list[Purpose]:
    """The purposes of the evaluations that credits are computed from, but for those of own images: no model
    is evaluated for them."""
    own = [method for method in this_round.plan.methods if METHODS[method].own]
    return ["design", "v0", "v1", *own, "retrained"]


def method_input(this_round: Round, name: str) -> MethodInput:
    """What the methods see of one property."""
    options = this_round.config.valuation
    Z, y = _rows(this_round, name, "design")
    stated = options.stated_v0.get(name)
    v1 = _rows(this_round, name, "v1")[1]
    v0 = _rows(this_round, name, "v0")[1] if stated is None else np.array(stated)
    control, retrained = _control(this_round, name), None
    if options.retrained:
        retrained = _retrained(this_round, name, Z, y, control)
    return MethodInput(
        Z=Z,
        y=y,
        v0=v0,
        v1=_mean_by_set(this_round, "v1", v1),
        v1_of_first_seed=float(v1[0]),
        level=options.level,
        sign=-1 if PROPERTIES[name].higher_is_better is False else 1,
        options=options,
        rows={
            method: _rows(this_round, name, method)
            for method in this_round.plan.methods
            if METHODS[method].own
        },
        retrained=retrained,
        control=control,
        sets=_sets(this_round),
        scores={
            method: _scores(this_round, method)
            for method in this_round.plan.methods
            if METHODS[method].needs == "scores"
        },
        looks=tuple(options.stop.looks[: this_round.plan.look + 1]) if options.stop else (),
    )


def _control(this_round: Round, name: str) -> CheapGame | None:
    """Own images of a design of their own and of the coalitions of the credits' design, where they are a
    control."""
    if not any(item.purpose == "control" for item in this_round.plan.wanted):
        return None
    design, others = (_rows(this_round, name, purpose) for purpose in ("control_design", "control"))
    return CheapGame(*design, *others, noise_free=True)


def _retrained(
    this_round: Round, name: str, Z: NDArray[np.bool_], y: Array, control: CheapGame | None
) -> RetrainedRows:
    """Retrained coalitions of the design Z (m, n), and the cheap games: that of the credits, with values y
    (m,), and own images where they are a control."""
    retrained_Z, retrained_y = _rows(this_round, name, "retrained")
    stated = this_round.config.valuation.stated_v0.get(name)
    v0 = _rows(this_round, name, "retrained_v0")[1] if stated is None else np.array(stated)
    cheap, values = {}, {}
    if control is not None:
        cheap["own_images"] = control
        values["own_images"] = np.asarray(control.y_others)[: len(retrained_y)]
    credit = this_round.game("credit").recipe.removal.method
    cheap[credit], values[credit] = CheapGame(Z, y), y[: len(retrained_y)]
    v1 = _rows(this_round, name, "retrained_v1")[1]
    return RetrainedRows(retrained_Z, retrained_y, v0, v1, cheap, values)


def _sets(this_round: Round) -> NDArray[np.intp] | None:
    """The set of weights that each coalition of the design was sampled from, where coalitions share sets."""
    sets = this_round.game("credit").recipe.removal.shared_sets
    seeds = [item.seed for item in this_round.plan.wanted if item.purpose == "design"]
    return np.array([seed % sets for seed in seeds]) if sets else None


def _mean_by_set(this_round: Round, purpose: Purpose, values: Array) -> Array:
    """The mean value of each set of weights that coalitions share, so that the values are independent; all
    values where there are fewer than two sets."""
    sets = this_round.game("credit").recipe.removal.shared_sets
    seeds = [item.seed for item in this_round.plan.wanted if item.purpose == purpose]
    of_set = np.array(seeds) % max(sets, 1)
    names = np.unique(of_set)
    return values if len(names) < 2 else np.array([values[of_set == name].mean() for name in names])


def _rows(this_round: Round, name: str, purpose: Purpose) -> Rows:
    """The coalitions that were evaluated for a purpose, in the order of the plan, and their values of one
    property."""
    evaluations = this_round.evaluations(purpose)
    values = np.array([evaluation.values[name] for _, evaluation in evaluations])
    return this_round.masks([wanted for wanted, _ in evaluations]), values


def _scores(this_round: Round, method: str) -> dict[str, Array]:
    """The scores of an influence method, (n,) for each statistic, in the order of contributors."""
    try:
        scores = this_round.scores(method).scores
    except NotFound as missing:
        raise NotFound(f"{missing}; run stage {METHODS[method].stage} for this round") from missing
    rows = [scores[contributor.data] for contributor in this_round.manifest.contributors]
    return {name: np.array([getattr(row, name) for row in rows]) for name in ("mean", "max", "sum")}


def goodness(name: str, phi: Array) -> Array:
    """Credits with the sign at which more is better, whatever the property's direction."""
    return -phi if PROPERTIES[name].higher_is_better is False else phi
