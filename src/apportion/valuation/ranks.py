"""Statements about the order of credits that hold all together, and the ranks they leave possible.

The statements are simultaneous by the largest of all studentised differences, which is simulated from the
estimated covariance of the credits, and stepwise. Sources: Mogstad, Romano, Shaikh & Wilhelm 2024, Inference
for ranks with applications to mobility across neighbourhoods and academic achievement across countries,
section 3; Romano & Wolf 2005, Exact and approximate stepdown methods for multiple hypothesis testing. See
docs/methods.md, section "Intervals and ranks".
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from apportion.errors import ValuationError
from apportion.valuation.coalitions import Vector, whole_number
from apportion.valuation.inputs import fraction, half_width
from apportion.valuation.intervals import jackknife

DRAWS = 2000
FEWEST_IN_TAIL = 20  # of the draws must lie beyond the level for a quantile to be read off them
# With more players, simulation of all differences takes long and Bonferroni's bound costs little.
MAX_SIMULATED_PLAYERS = 600
TIE = 1e-9  # of the largest value: a smaller difference between credits is rounding error
SMALLEST_DIVISOR = 1e-200
CANCELLATION = 1e-14  # of the variances of two credits: rounding error of the variance of their difference


class Order(NamedTuple):
    """Credits with what is established of their order.

    All statements in `ahead` hold together at the level, and so do all intervals low..high. "Ahead" means a
    larger credit: for a property that is better when low, use the negative of the property or the transpose
    of `ahead`.
    """

    phi: Vector  # (n,) credits
    low: Vector  # (n,) lower bound of a band that holds all credits at once; -inf where the error is unknown
    high: Vector  # (n,) upper bound of the band
    ahead: NDArray[np.bool_]  # (n, n) [i, j]: player i's credit is surely larger than player j's
    lowest: NDArray[np.intp]  # (n,) the best rank that is possible, from 1
    highest: NDArray[np.intp]  # (n,) the worst rank that is possible, up to n
    level: float


def order(
    Z: ArrayLike,
    y: ArrayLike,
    v0: ArrayLike,
    v1: ArrayLike,
    level: float = 0.95,
    *,
    sets: ArrayLike | None = None,
    errors: Vector | None = None,
    seed: int = 0,
) -> Order:
    """What `leverage` coalitions establish about the order of the credits.

    Arguments, units and errors as in `intervals.hc3`. The chance that any statement in `ahead` is false is at
    most 1 - level, and so is the chance that any rank lies outside lowest..highest. The band has the same
    level, separately. `seed` is for the simulation alone. With more than 600 players or a level above 0.99
    nothing is simulated: Bonferroni's bound is used, which claims less.
    """
    seed = whole_number("seed", seed)
    if seed < 0:
        raise ValuationError(f"found seed = {seed}, expected 0 or more")
    fit = jackknife(Z, y, v0, v1, sets, errors)
    tie = TIE * float(np.abs([*np.asarray(y, dtype=np.float64), *fit.endpoints[:2]]).max())
    endpoint_errors = EndpointErrors(fit.slopes * np.sqrt(fit.endpoints.variance), fit.endpoints.dof)
    return order_from_errors(
        fit.phi, fit.shift, fit.dof, level, endpoint_errors=endpoint_errors, tie=tie, seed=seed
    )


class EndpointErrors(NamedTuple):
    """Errors of v0 and v1. All credits share them equally where every coalition comes with its complement.

    Their part of the band is added in squares, as in `inputs.half_width`. With six players the band then
    covers .943 in the worst case at a level of .95.
    """

    errors: Vector  # (n, 2)
    dof: Vector  # (2,) their degrees of freedom

    def of(self, players: NDArray[np.bool_]) -> "EndpointErrors":
        return self._replace(errors=self.errors[players])


def order_from_errors(
    phi: Vector,
    errors: Vector,
    dof: Vector,
    level: float = 0.95,
    *,
    endpoint_errors: EndpointErrors | None = None,
    tie: float = 0.0,
    seed: int = 0,
) -> Order:
    """The order of credits phi (n,) with the covariance errors @ errors.T.

    errors (n, sources), dof (n,) degrees of freedom. `endpoint_errors` adds the errors of v0 and v1.
    Differences up to `tie` count as 0. A player with an infinite error takes part in no statement.
    Raises ValuationError for other shapes, for what is not a number and for a level outside 0..1.
    """
    level = fraction("level", level)
    if phi.ndim != 1 or errors.ndim != 2 or not phi.shape == dof.shape == errors.shape[:1]:
        raise ValuationError(
            f"found credits, errors and degrees of freedom of shapes {phi.shape}, {errors.shape} and "
            f"{dof.shape}, expected (n,), (n, sources) and (n,)"
        )
    if not np.isfinite(phi).all() or np.isnan(errors).any() or not (dof > 0).all():
        raise ValuationError(
            "found credits, errors or degrees of freedom that are not numbers, expected finite credits, "
            "errors that are not nan, and degrees of freedom above 0"
        )
    n = len(phi)
    known = np.asarray(np.isfinite(errors).all(axis=1))
    ahead = np.zeros((n, n), dtype=bool)
    half = np.full(n, np.inf)
    if known.any():
        if endpoint_errors is None:
            endpoint_errors = EndpointErrors(np.zeros((n, 2)), np.full(2, np.inf))
        pair_errors, end_errors = errors[known], endpoint_errors.of(known)
        simulated = n <= MAX_SIMULATED_PLAYERS and (1 - level) * DRAWS >= FEWEST_IN_TAIL
        draws = _draws(pair_errors, dof[known], seed) if simulated else None
        no_variance = np.zeros(len(pair_errors))
        from_endpoints = half_width(level, no_variance, dof[known], end_errors.errors**2, end_errors.dof)
        half[known] = np.hypot(_band(pair_errors, dof[known], draws, level), from_endpoints)
        surely = _ahead(
            phi[known], pair_errors, dof[known], end_errors, draws, level, max(tie, SMALLEST_DIVISOR)
        )
        ahead[np.ix_(known, known)] = _transitive_closure(surely)
    return Order(phi, phi - half, phi + half, ahead, 1 + ahead.sum(axis=0), n - ahead.sum(axis=1), level)


def rank_statement(order: Order, i: int, j: int, names: Sequence[str]) -> str:
    """In words, for reports: what is established about players i and j, by their names (n,)."""
    n = len(order.phi)
    if not (0 <= whole_number("i", i) < n and 0 <= whole_number("j", j) < n and len(names) == n):
        raise ValuationError(
            f"found players {i} and {j} and {len(names)} names, expected two from 0 to {n - 1} and {n} names"
        )
    if order.ahead[j, i]:
        i, j = j, i
    level = f"{100 * order.level:.4g} %"
    if order.ahead[i, j]:
        return f"{names[i]} before {names[j]} holds at {level}, together with all other such statements"
    return f"the order of {names[i]} and {names[j]} is not established at {level}"


class Draws(NamedTuple):
    """Simulated errors of the credits: multivariate t, so that a poor estimate of scale affects all alike."""

    x: Vector  # (n, DRAWS)
    dof: float  # harmonic mean of the credits' degrees of freedom


def _draws(errors: Vector, dof: Vector, seed: int) -> Draws:
    rng = np.random.default_rng(seed)
    joint_dof = float(1.0 / np.mean(1.0 / dof))
    scale = np.sqrt(rng.chisquare(joint_dof, size=DRAWS) / joint_dof)
    return Draws(errors @ (rng.standard_normal((errors.shape[1], DRAWS)) / scale), joint_dof)


def _band(errors: Vector, dof: Vector, draws: Draws | None, level: float) -> Vector:
    """Half-widths (n,) that hold for all credits at once."""
    se = np.sqrt(np.sum(errors**2, axis=1))
    if draws is None:
        return np.asarray(student.isf((1 - level) / (2 * len(se)), dof) * se, dtype=np.float64)
    studentised = np.divide(np.abs(draws.x), se[:, None], out=np.zeros_like(draws.x), where=se[:, None] > 0)
    tail = _single_tail(studentised.max(axis=0), draws.dof, level)
    return np.asarray(student.isf(tail, dof) * se, dtype=np.float64)


def _single_tail(largest: Vector, dof: float, level: float) -> float:
    """The one-sided chance to allow to each statement, so that all together keep the level."""
    return float(student.sf(np.quantile(largest, level, method="higher"), dof))


def _ahead(
    phi: Vector,
    errors: Vector,
    dof: Vector,
    endpoint_errors: EndpointErrors,
    draws: Draws | None,
    level: float,
    tie: float,
) -> NDArray[np.bool_]:
    """Which one-sided hypotheses phi_i <= phi_j are rejected, (n, n) bool.

    All differences have the same allowed chance. It becomes a bound by the degrees of freedom of the
    difference, the smaller of the two players'; with one bound for all, the statements with few degrees of
    freedom would be the false ones. A rejected hypothesis no longer needs protection, so the bound is lowered
    until no more are rejected (Romano & Wolf 2005, algorithm 3.1).
    """
    n = len(phi)
    variance = _difference_variance(errors)
    smaller_dof = np.minimum(dof[:, None], dof)
    endpoint_variance = (endpoint_errors.errors[:, None] - endpoint_errors.errors) ** 2
    se = np.maximum(np.sqrt(variance), tie)
    lead = phi[:, None] - phi
    hypotheses = ~np.eye(n, dtype=bool)

    def rejected(chance: float) -> NDArray[np.bool_]:
        half = half_width(1 - 2 * chance, variance, smaller_dof, endpoint_variance, endpoint_errors.dof)
        # Where a difference has no error, any lead would be significant, so leads within rounding are
        # excluded.
        return np.asarray(lead > np.maximum(half, tie))

    if draws is None:
        return hypotheses & rejected((1 - level) / max(1, n * (n - 1)))
    standing = hypotheses
    while standing.any():
        tail = _single_tail(_largest(draws.x, se, standing), draws.dof, level)
        newly_rejected = standing & rejected(tail)
        if not newly_rejected.any():
            break
        standing = standing & ~newly_rejected
    return np.asarray(hypotheses & ~standing)


def _transitive_closure(ahead: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Adds that a is ahead of c wherever a is ahead of b and b of c, which follows from these two."""
    steps = ahead.astype(np.float32)
    further = ahead | (steps @ steps > 0)
    return ahead if np.array_equal(further, ahead) else _transitive_closure(further)


def _difference_variance(errors: Vector) -> Vector:
    """Variances of the differences of all pairs of credits, (n, n)."""
    product = errors @ errors.T
    both = np.add.outer(np.diag(product), np.diag(product))
    return np.asarray(np.maximum(both - 2 * product, 0.0) + CANCELLATION * both, dtype=np.float64)


def _largest(x: Vector, se: Vector, standing: NDArray[np.bool_]) -> Vector:
    """The largest studentised difference of each draw among the standing hypotheses, (DRAWS,).

    It is computed one row at a time to save memory.
    """
    largest = np.full(x.shape[1], -np.inf)
    for i in np.flatnonzero(standing.any(axis=1)):
        row = np.max((x[i] - x[standing[i]]) / se[i, standing[i], None], axis=0)
        np.maximum(largest, row, out=largest)
    return largest
