"""Confidence intervals of credits from the paired leverage fit: cluster-robust, in Student's t.

A coalition and its complement share a seed and enter the fit with opposite signs, so a pair is one
observation. Its residual is divided by the square root of what the fit leaves of it (HC2). Student's t
accounts for how few pairs determine a credit: Bell & McCaffrey 2002, Bias reduction in standard errors for
linear regression with multi-stage samples; Imbens & Kolesár 2016, Robust standard errors in small samples.

HC3 divides by what is left itself, which makes errors too large. It is usually combined with the degrees of
freedom of the whole fit, of which a single credit has fewer; this makes up for half of the excess. From few
pairs its intervals are wider by up to two fifths and cover .98 to .99 at a level of .95
(`benchmarks/intervals.py`). See docs/methods.md, section "Intervals and
ranks".
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from apportion.errors import ValuationError
from apportion.valuation import set_noise
from apportion.valuation.coalitions import Coalitions, Vector, complementary_pairs, size_shares
from apportion.valuation.inputs import (
    Endpoints,
    checked,
    checked_endpoints,
    fraction,
    half_width,
    rounding_error,
)
from apportion.valuation.shapley import Fit, average_repeats, constrained

FEWEST = 3  # players; two have a single pair of coalitions, which leaves nothing to estimate an error from
RANKING_ONLY_BELOW = 4  # coalitions per player
FULL_LEVERAGE = 1e-8  # where 1 - leverage of a pair is below this, the fit passes through the pair exactly
BLOCK = 1024  # pairs of coalitions whose part of the hat matrix is in memory at once


def hc3(
    Z: ArrayLike,
    y: ArrayLike,
    v0: ArrayLike,
    v1: ArrayLike,
    level: float = 0.95,
    sets: ArrayLike | None = None,
) -> tuple[Vector, Vector]:
    """Intervals (low, high), each (n,), of the Shapley values of the game that gave y.

    Z (m, n) from the `leverage` design, y (m,). v0 and v1 are numbers, taken as known, or the values of their
    seeds (seeds,). The spread of the seeds widens the intervals by Student's t with the degrees of freedom of
    so few values: two seeds of a noisy endpoint cost much width. The intervals are centred on
    `shapley.leverage`.

    sets (m,): the set of weights that each coalition was sampled from, where coalitions share sets; a
    coalition and its complement are of one set. With three sets or more the intervals hold over their noise
    too and are centred on the credits of `set_noise.fit`; with fewer they leave that noise out.

    The intervals hold for each player separately; `ranks.order` has a simultaneous band. A coalition whose
    complement is missing counts as a pair by itself. A coalition in several rows counts once, with the mean
    of their values. Where nearly all coalitions were evaluated the intervals are wider than necessary,
    because the method does not use how few are missing.

    An interval is (-inf, inf) for a player that only a single pair distinguishes from another player. All
    intervals are (-inf, inf) where every residual of the fit is rounding: such residuals say nothing about
    the error, unless all proper coalitions were evaluated.
    Raises ValuationError for bad input and for fewer pairs than players.
    """
    level = fraction("level", level)
    fit = jackknife(Z, y, v0, v1, sets)
    half = half_width(level, fit.variance(), fit.dof, fit.endpoint_variance(), fit.endpoints.dof)
    return fit.phi - half, fit.phi + half


def standard_errors(
    Z: ArrayLike, y: ArrayLike, v0: ArrayLike, v1: ArrayLike, sets: ArrayLike | None = None
) -> tuple[Vector, Vector]:
    """Credits and their standard errors, (n,) each, from which `hc3` makes intervals.

    Raises as `hc3` does.
    """
    fit = jackknife(Z, y, v0, v1, sets)
    return fit.phi, np.sqrt(fit.variance() + fit.endpoint_variance().sum(axis=1))


class Jackknife(NamedTuple):
    """Credits with the error that each pair of coalitions contributes to them.

    Sums over pairs of products of shifts are the covariance of the credits (HC2).
    """

    phi: Vector  # (n,) credits of `shapley.leverage`, or of `set_noise.fit`
    shift: Vector  # (n, pairs) each pair's error in each credit; infinite where it cannot be estimated
    pair: NDArray[np.intp]  # (k,) the pair of each distinct coalition, 0..pairs-1
    dof: Vector  # (n,) degrees of freedom that the pairs leave each credit, from 1 to those of the whole fit
    slopes: Vector  # (n, 2) derivatives of the credits by v0 and by v1
    endpoints: Endpoints

    def variance(self) -> Vector:
        """Variance of each credit from the pairs, (n,)."""
        return np.asarray(np.sum(self.shift**2, axis=1), dtype=np.float64)

    def endpoint_variance(self) -> Vector:
        """Variance of each credit from v0 and from v1, (n, 2)."""
        return np.asarray(self.slopes**2 * self.endpoints.variance, dtype=np.float64)


def jackknife(
    Z: ArrayLike, y: ArrayLike, v0: ArrayLike, v1: ArrayLike, sets: ArrayLike | None = None
) -> Jackknife:
    """The `leverage` fit and the errors of its credits; `sets` as in `hc3`.

    Raises ValuationError for bad input and for fewer pairs than players.
    """
    rows, values = checked(Z, y)
    endpoints = checked_endpoints(v0, v1)
    of_rows = None if sets is None else _checked_sets(sets, len(rows))
    if of_rows is not None and len(np.unique(of_rows)) >= set_noise.FEWEST_SETS:
        rounding = 0.0 if is_exhaustive(rows) else rounding_error(values, endpoints)
        fitted = set_noise.fit(rows, values, endpoints.v0, endpoints.v1, of_rows, rounding)
        return Jackknife(*fitted, endpoints)
    rows, values = average_repeats(rows, values)
    fit = constrained(rows, values, endpoints.v0, endpoints.v1)
    shift, pair, dof = _errors_by_pair(rows, fit, rounding_error(values, endpoints))
    return Jackknife(fit.phi, shift, pair, dof, _slopes(rows, fit), endpoints)


def _checked_sets(sets: ArrayLike, m: int) -> NDArray[np.intp]:
    try:
        array = np.asarray(sets)
    except ValueError:
        array = np.empty(0)
    if array.shape != (m,) or array.dtype.kind not in "iu":
        raise ValuationError(
            f"found sets of shape {array.shape} and type {array.dtype}, expected ({m},) whole numbers"
        )
    return array.astype(np.intp)


def is_exhaustive(rows: Coalitions) -> bool:
    """Whether all proper coalitions are among the rows (m, n)."""
    m, n = rows.shape
    return bool(m >= 2**n - 2 and len(np.unique(rows, axis=0)) == 2**n - 2)


def covers(
    m: int, n: int, method: str, *, every: bool = False, sets: int = 0, value: str = "Shapley value"
) -> str:
    """In words, for reports: what an interval from m coalitions of n players covers in a method's game.

    `every`: the m coalitions are all proper coalitions, once each. `sets`: how many sets of weights the
    coalitions share; 0 where each has weights of its own. `value`: what the credits are.
    """
    if every and not sets:
        return _covers_noise(m, n, method)
    of_sets = f", and the noise of training {method}, from {sets} sets of them" if sets else ""
    if 0 < sets < set_noise.FEWEST_SETS:
        of_sets = f"; not over the noise of training {method}, which the coalitions of a set share"
    text = (
        f"a player's {value} in the {method} game, for each player separately, over the random draw of "
        f"coalitions and the noise of their evaluation{of_sets}; not how far that game is from retraining"
    )
    if 0 < sets < set_noise.FEWEST_SETS:
        few = f"{sets} sets of {method}, expected at least {set_noise.FEWEST_SETS} (removal.sets)"
        return f"ranking only ({few}): {text}"
    return ranking_only(m, n, "coalitions") + text


def ranking_only(m: int, n: int, what: str) -> str:
    """A prefix for `covers` where m coalitions are too few for n players, else an empty text.

    `what` is what the coalitions are called.
    """
    enough = min(RANKING_ONLY_BELOW * n, 2**n - 2)
    return f"ranking only ({m} {what} for {n} players, expected at least {enough}): " if m < enough else ""


def _covers_noise(m: int, n: int, method: str) -> str:
    """Where all coalitions were evaluated, nothing depends on the draw.

    `hc3` then counts interactions of players as noise, so the intervals are too wide rather than too narrow.
    """
    source = f"all {m} coalitions of {n} players but the empty and the grand coalition"
    if n < FEWEST:
        return (
            f"nothing: intervals need at least {FEWEST} players. Credits are from {source}: they are the "
            f"Shapley values in the {method} game up to the noise of evaluation, which is not known"
        )
    return (
        f"a player's Shapley value in the {method} game, for each player separately, over the noise of "
        f"evaluation: credits are from {source}, so they are exact up to that noise, and interactions of "
        "players make the intervals wider than the noise does; not how far that game is from retraining"
    )


def _errors_by_pair(rows: Coalitions, fit: Fit, rounding: float) -> tuple[Vector, NDArray[np.intp], Vector]:
    """The error of each credit that each pair causes (n, pairs).

    Also returns the pair of each row (m,) and the degrees of freedom of each credit (n,). The rows of a pair
    are u and -u after the constraint, with one weight. Their block of the hat matrix is therefore h ss' with
    s the signs. Its only nonzero eigenvalue is h times the number of rows, so inverting 1 - H is a division.
    A residual of at most `rounding` counts as zero.
    """
    n = rows.shape[1]
    sign = np.where(rows[:, 0], 1.0, -1.0)
    first, pair = complementary_pairs(rows)
    if first.size < n:
        raise ValuationError(
            f"found {first.size} pairs of coalitions for n = {n} players, expected at least {n}, better "
            f"{2 * n} (m = {4 * n} coalitions)"
        )
    A = fit.A[:, first]
    count = np.bincount(pair)
    remaining = 1.0 - fit.leverage[first] * count
    undetermined = (remaining < FULL_LEVERAGE) & (np.abs(A) > 1e-6 * np.abs(A).max())
    remaining = np.maximum(remaining, FULL_LEVERAGE)
    residual = np.bincount(pair, weights=sign * fit.residual)
    unknown = undetermined | (np.abs(residual).max() <= rounding and not is_exhaustive(rows))
    shift = np.where(unknown, np.inf, A * (sign[first] * residual / np.sqrt(remaining)))
    return shift, pair, _degrees_of_freedom(rows[first], count, remaining, A, fit.nuisance)


def _degrees_of_freedom(
    rows: Coalitions, count: NDArray[np.intp], remaining: Vector, A: Vector, nuisance: int
) -> Vector:
    """Degrees of freedom of each credit's standard error (n,), after Bell & McCaffrey 2002.

    They are those of the chi-square distribution closest to the squared standard error. `rows` has the first
    row of each pair, `count` the number of rows of each pair, `remaining` one minus the leverage of each
    pair. The working model is the one that makes HC2 unbiased: weights are inverse variances. A squared
    standard error is then a quadratic form e' M diag(part) M e of independent errors, M = 1 - H, and has tr(M
    part)^2 / tr(M part M part) degrees of freedom.
    """
    n, size = rows.shape[1], rows.sum(axis=1)
    m = int(count.sum())
    w = size_shares("shapley_kernel", n, m)[size] / size_shares("leverage", n, m)[size]
    off = size - n / 2
    X = np.column_stack([(rows - size[:, None] / n)[:, 1:], off, off**3])[:, : n - 1 + nuisance]
    axes = np.linalg.qr(np.sqrt(count * w)[:, None] * X)[0]
    part = np.where(remaining > FULL_LEVERAGE, A**2 * (count / w) / remaining, 0.0)
    square = np.zeros(n)
    for at in range(0, len(rows), BLOCK):
        M = np.eye(len(rows), BLOCK, -at)[:, : len(rows) - at] - axes @ axes[at : at + BLOCK].T
        square += np.sum((part @ M**2) * part[:, at : at + BLOCK], axis=1)
    # Where no pair has a part, the credit follows from pairs with full leverage, and its error is unknown.
    estimable = square > 0
    dof = np.divide((part @ remaining) ** 2, square, out=np.ones(n), where=estimable)
    return np.maximum(dof, 1.0)


def _slopes(rows: Coalitions, fit: Fit) -> Vector:
    """Derivatives of the credits by v0 and by v1, (n, 2).

    The credits are phi = d/n + A (y - v0 - d size/n) with d = v1 - v0.
    """
    by_gain = (1.0 - fit.A @ rows.sum(axis=1)) / rows.shape[1]
    return np.column_stack([-by_gain - fit.A.sum(axis=1), by_gain])
