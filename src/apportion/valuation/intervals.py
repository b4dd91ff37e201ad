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
from apportion.valuation.coalitions import Coalitions, Vector, complementary_pairs, distinct, size_shares
from apportion.valuation.inputs import (
    Endpoints,
    checked,
    checked_endpoints,
    fraction,
    half_width,
    rounding_error,
)
from apportion.valuation.set_noise import BLOCK
from apportion.valuation.shapley import Fit, average_repeats, constrained

FEWEST = 3  # players; two have a single pair of coalitions, which leaves nothing to estimate an error from
RANKING_ONLY_BELOW = 4  # coalitions per player
FULL_LEVERAGE = 1e-8  # where 1 - leverage of a pair is below this, the fit passes through the pair exactly


def hc3(
    Z: ArrayLike,
    y: ArrayLike,
    v0: ArrayLike,
    v1: ArrayLike,
    level: float = 0.95,
    sets: ArrayLike | None = None,
    errors: Vector | None = None,
) -> tuple[Vector, Vector]:
    """Intervals (low, high), each (n,), of the Shapley values of the game that gave y.

    Z (m, n) from the `leverage` design, y (m,). v0 and v1 are numbers, taken as known, or the values of their
    seeds (seeds,). The spread of the seeds widens the intervals by Student's t with the degrees of freedom of
    so few values: two seeds of a noisy endpoint cost much width. The intervals are centred on
    `shapley.leverage`.

    sets (m,): the set of weights that each coalition was sampled from, where coalitions share sets; all rows
    of a coalition and of its complement are of one set. With three sets or more the intervals hold over their
    noise too and are centred on the credits of `set_noise.fit`; with fewer they leave that noise out.

    errors (n, sources): further errors of the credits, independent of those that pairs cause, such as those
    of a control that y was adjusted by (`control.adjusted`).

    The intervals hold for each player separately; `ranks.order` has a simultaneous band. A coalition whose
    complement is missing counts as a pair by itself; with three sets or more it is refused. A coalition in
    several rows counts once, with the mean of their values. Where nearly all coalitions were evaluated the
    intervals are wider than necessary, because the method does not use how few are missing.

    An interval is (-inf, inf) for a player that only a single pair distinguishes from another player. All
    intervals are (-inf, inf) where every residual of the fit is rounding: such residuals say nothing about
    the error, unless all proper coalitions were evaluated.
    Raises ValuationError as `shapley.leverage` and `set_noise.checked_sets` do, for fewer pairs than players,
    and with three sets or more for fewer than two pairs more than the fit has coefficients.
    """
    level = fraction("level", level)
    fit = jackknife(Z, y, v0, v1, sets, errors)
    half = half_width(level, fit.variance(), fit.dof, fit.endpoint_variance(), fit.endpoints.dof)
    return fit.phi - half, fit.phi + half


def standard_errors(
    Z: ArrayLike,
    y: ArrayLike,
    v0: ArrayLike,
    v1: ArrayLike,
    sets: ArrayLike | None = None,
    errors: Vector | None = None,
) -> tuple[Vector, Vector]:
    """Credits and their standard errors, (n,) each, from which `hc3` makes intervals.

    Raises as `hc3` does.
    """
    fit = jackknife(Z, y, v0, v1, sets, errors)
    return fit.phi, np.sqrt(fit.variance() + fit.endpoint_variance().sum(axis=1))


class Jackknife(NamedTuple):
    """Credits with the error that each pair of coalitions contributes to them.

    Sums over pairs of products of shifts are the covariance of the credits (HC2).
    """

    phi: Vector  # (n,) credits of `shapley.leverage`, or of `set_noise.fit`
    # (n, pairs) each pair's error in each credit, infinite where it cannot be estimated; then further errors
    shift: Vector
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
    Z: ArrayLike,
    y: ArrayLike,
    v0: ArrayLike,
    v1: ArrayLike,
    sets: ArrayLike | None = None,
    errors: Vector | None = None,
) -> Jackknife:
    """The `leverage` fit and the errors of its credits; `sets` and `errors` as in `hc3`.

    Raises as `hc3` does.
    """
    rows, values = checked(Z, y)
    endpoints = checked_endpoints(v0, v1)
    of_rows = None if sets is None else set_noise.checked_sets(sets, rows)[distinct(rows)[0]]
    rows, values = average_repeats(rows, values)
    fit = constrained(rows, values, endpoints.v0, endpoints.v1)
    rounding = largest_rounding(rows, values, endpoints)
    if of_rows is not None and len(np.unique(of_rows)) >= set_noise.FEWEST_SETS:
        shared = set_noise.fit(rows, values, endpoints.v0, endpoints.v1, of_rows, rounding)
        result = Jackknife(*shared, endpoints)
    else:
        shift, pair, dof = _errors_by_pair(rows, fit, rounding)
        result = Jackknife(fit.phi, shift, pair, dof, _slopes(rows, fit), endpoints)
    return result if errors is None else result._replace(shift=np.hstack([result.shift, errors]))


def largest_rounding(rows: Coalitions, values: Vector, endpoints: Endpoints) -> float:
    """Residuals of distinct rows (m, n) up to this may be rounding and say nothing about errors.

    Where all proper coalitions were evaluated all residuals count: no rare coalition is left that may have
    another value.
    """
    return -np.inf if len(rows) == 2 ** rows.shape[1] - 2 else rounding_error(values, endpoints)


def covers(
    m: int,
    n: int,
    method: str,
    *,
    every: bool = False,
    sets: int = 0,
    own_images: int = 0,
    value: str = "Shapley value",
) -> str:
    """In words, for reports: what an interval from m coalitions of n players covers in a method's game.

    `every`: the m coalitions are all proper coalitions, once each. `sets`: how many sets of weights the
    coalitions share; 0 where each has weights of its own. `own_images`: how many coalitions' own images are a
    control; 0 where none are. `value`: what the credits are.
    """
    if every and not sets:
        return _covers_noise(m, n, method)
    of_sets = f", and the noise of training {method}, from {sets} sets of them" if sets else ""
    if 0 < sets < set_noise.FEWEST_SETS:
        of_sets = f"; not over the noise of training {method}, which the coalitions of a set share"
    control = ""
    if own_images:
        control = f", with the help of {own_images} coalitions' own images where credits become more precise"
    text = (
        f"a player's {value} in the {method} game, for each player separately, over the random draw of "
        f"coalitions and the noise of their evaluation{of_sets}{control}; not how far that game is from "
        "retraining"
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
    Where no residual is above `rounding`, all errors are unknown.
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
    unknown = undetermined | (np.abs(residual).max() <= rounding)
    shift = np.where(unknown, np.inf, A * (sign[first] * residual / np.sqrt(remaining)))
    return shift, pair, _degrees_of_freedom(rows[first], count, remaining, A, fit.nuisance)


def _degrees_of_freedom(
    rows: Coalitions, count: NDArray[np.intp], remaining: Vector, A: Vector, nuisance: int
) -> Vector:
    """Degrees of freedom of each credit's standard error (n,), after Bell & McCaffrey 2002.

    They are those of the chi-square distribution closest to the squared standard error. `rows` has the first
    row of each pair, `count` the number of rows of each pair, `remaining` one minus the leverage of each
    pair. The working model is the one that makes HC2 unbiased: weights are inverse variances.
    """
    n, size = rows.shape[1], rows.sum(axis=1)
    m = int(count.sum())
    w = size_shares("shapley_kernel", n, m)[size] / size_shares("leverage", n, m)[size]
    off = size - n / 2
    X = np.column_stack([(rows - size[:, None] / n)[:, 1:], off, off**3])[:, : n - 1 + nuisance]
    axes = np.linalg.qr(np.sqrt(count * w)[:, None] * X)[0]
    part = np.where(remaining > FULL_LEVERAGE, A**2 * (count / w) / remaining, 0.0)
    return set_noise.degrees_of_freedom(axes, part, BLOCK)


def _slopes(rows: Coalitions, fit: Fit) -> Vector:
    """Derivatives of the credits by v0 and by v1, (n, 2).

    The credits are phi = d/n + A (y - v0 - d size/n) with d = v1 - v0.
    """
    by_gain = (1.0 - fit.A @ rows.sum(axis=1)) / rows.shape[1]
    return np.column_stack([-by_gain - fit.A.sum(axis=1), by_gain])
