"""Confidence intervals of credits from the paired leverage fit: cluster-robust HC3 (METHODS.md §3).

A coalition and its complement share a seed and enter the fit with opposite signs, so a pair is one observation: it is left
out as one, and its residuals are inflated by what the fit would have missed without it."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from apportion.errors import ValuationError
from apportion.valuation.coalitions import Coalitions, Vector
from apportion.valuation.shapley import Fit, checked, constrained

FEWEST = 3  # two have a single pair of coalitions, which nothing is left to judge by
RANKING_ONLY_BELOW = 4  # coalitions per player
ALONE = 1e-8  # what the hat matrix leaves of a pair that fits itself exactly


def hc3(
    Z: ArrayLike, y: ArrayLike, v0: float, v1: float, level: float = 0.95, *, v0_se: float = 0.0, v1_se: float = 0.0
) -> tuple[Vector, Vector]:
    """(low, high), each (n,): an interval of each player's Shapley value in the game that gave y, centred on `shapley.leverage`.

    Z (m, n) from the `leverage` design, y (m,), v0 and v1 as there; v0_se and v1_se are the standard errors of their means.
    Each interval stands alone: it is no simultaneous band. A row whose complement is missing counts as a pair by itself.
    Wider than need be in two cases: near-exhaustive designs, as no credit is given for having left few coalitions unseen, and
    noisy v0 and v1, as their error also enters the residuals.
    A player whom only a single pair tells apart from another gets (-inf, inf): nothing is left to judge that pair by.
    Raises ValuationError for bad input and for fewer pairs than players."""
    if not 0 < level < 1:
        raise ValuationError(f"found level = {level}, expected a number between 0 and 1")
    phi, se, spare = standard_errors(Z, y, v0, v1, v0_se=v0_se, v1_se=v1_se)
    half = student.ppf(0.5 + level / 2, spare) * se
    return phi - half, phi + half


def standard_errors(
    Z: ArrayLike, y: ArrayLike, v0: float, v1: float, *, v0_se: float = 0.0, v1_se: float = 0.0
) -> tuple[Vector, Vector, int]:
    """Credits (n,), their standard errors (n,) and the degrees of freedom: what `hc3` makes intervals of. Raises as it does."""
    found = jackknife(Z, y, v0, v1)
    if not (0 <= v0_se < np.inf and 0 <= v1_se < np.inf):
        raise ValuationError(f"found v0_se = {v0_se} and v1_se = {v1_se}, expected finite standard errors of 0 or more")
    variance = np.sum(found.shift**2, axis=1) + (found.by_v0 * v0_se) ** 2 + (found.by_v1 * v1_se) ** 2
    return found.phi, np.sqrt(variance), found.spare


class Jackknife(NamedTuple):
    """Credits with what leaving out each pair of coalitions does to them: sums of products of shifts are their covariance (HC3)."""

    phi: Vector  # (n,) credits of `shapley.leverage`
    shift: Vector  # (n, pairs) how far leaving out each pair moves each credit; infinite where nothing would be left to tell it by
    pair: NDArray[np.intp]  # (m,) which pair each row is of, 0..pairs-1
    by_v0: Vector  # (n,) derivative of the credits by v0
    by_v1: Vector  # (n,) and by v1
    spare: int  # degrees of freedom: pairs less what is fitted to them


def jackknife(Z: ArrayLike, y: ArrayLike, v0: float, v1: float) -> Jackknife:
    """The `leverage` fit and the shifts of its credits. Raises ValuationError for bad input and for fewer pairs than players."""
    fit = constrained(Z, y, v0, v1)
    rows, _ = checked(Z, y)
    shift, pair, spare = _left_out(rows, fit)
    return Jackknife(fit.phi, shift, pair, *_slopes(rows, fit), spare)


def covers(m: int, n: int, method: str, *, every: bool = False) -> str:
    """In words, for reports: what an interval from m coalitions of n players covers, in the game of the removal method.

    `every`: they are all proper coalitions, once each."""
    if every:
        return _covers_noise(m, n, method)
    text = (
        f"a player's Shapley value in the {method} game, each player taken alone, over the draw of coalitions and the noise of "
        "their evaluation; not how far that game is from retraining"
    )
    enough = min(RANKING_ONLY_BELOW * n, 2**n - 2)
    if m < enough:
        return f"ranking only ({m} coalitions for {n} players, expected at least {enough}): {text}"
    return text


def _covers_noise(m: int, n: int, method: str) -> str:
    """With all coalitions evaluated nothing is left to the draw; `hc3` takes what players do together for noise: too wide, if anything."""
    values = f"all {m} coalitions of {n} players but nobody and everybody, which give Shapley values in the {method} game exactly"
    if n < FEWEST:
        return f"nothing: they need more players. Credits are from {values} but for the noise of evaluation, which is not known"
    return (
        f"a player's Shapley value in the {method} game, each player taken alone, over the noise of evaluation: credits are from {values} "
        "but for that noise, and the intervals are wider than it by what players do together; not how far that game is from retraining"
    )


def _left_out(rows: Coalitions, fit: Fit) -> tuple[Vector, NDArray[np.intp], int]:
    """How far leaving out each pair moves each credit, (n, pairs), the pair of each row (m,), and the degrees of freedom.

    The rows of a pair are u and -u after the constraint, with one weight. Their block of the hat matrix is therefore
    h ss' with s the signs, whose only eigenvalue off zero is h times the number of rows: inverting 1 - H is a division."""
    sign = np.where(rows[:, 0], 1.0, -1.0)
    _, first, pair = np.unique(rows ^ ~rows[:, :1], axis=0, return_index=True, return_inverse=True)
    pair = pair.reshape(-1)
    n = rows.shape[1]
    if first.size < n:
        raise ValuationError(
            f"found {first.size} pairs of coalitions for n = {n} players, expected at least {n}, better {2 * n} (m = {4 * n} coalitions)"
        )
    kept = 1.0 - fit.leverage[first] * np.bincount(pair)
    missed = np.bincount(pair, weights=sign * fit.residual) / np.maximum(kept, ALONE)
    shift = fit.A[:, first] * (sign[first] * missed)
    alone = (kept < ALONE) & (np.abs(fit.A[:, first]) > 1e-6 * np.abs(fit.A).max())
    return np.where(alone, np.inf, shift), pair, first.size - (n - 1) - fit.nuisance


def _slopes(rows: Coalitions, fit: Fit) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Derivatives of the credits by v0 and by v1, (n,) each, from phi = d/n + A (y - v0 - d size/n), d = v1 - v0."""
    by_gain = (1.0 - fit.A @ rows.sum(axis=1)) / rows.shape[1]
    return -by_gain - fit.A.sum(axis=1), by_gain
