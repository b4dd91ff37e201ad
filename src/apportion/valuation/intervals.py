"""Confidence intervals of credits from the paired leverage fit: cluster-robust, with degrees of freedom of their own (METHODS.md §3).

A coalition and its complement share a seed and enter the fit with opposite signs, so a pair is one observation. Its residual is
inflated by what the fit took of it (HC2), and Student's t allows for how few pairs a credit hangs on: Bell & McCaffrey, Bias reduction
in standard errors for linear regression with multi-stage samples, 2002; Imbens & Kolesár, Robust standard errors in small samples, 2016.
HC3 inflates twice, and with the degrees of freedom of the whole fit, which a single credit does not have, half of that is taken back:
from few pairs its intervals are wider by up to two fifths and cover .98 to .99 at a level of .95 (`benchmarks/intervals.py`)."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from apportion.errors import ValuationError
from apportion.valuation.coalitions import Coalitions, Vector, pairs, size_shares
from apportion.valuation.shapley import Fit, checked, constrained

FEWEST = 3  # two have a single pair of coalitions, which nothing is left to judge by
RANKING_ONLY_BELOW = 4  # coalitions per player
ALONE = 1e-8  # what the hat matrix leaves of a pair that fits itself exactly
BLOCK = 1024  # pairs of coalitions whose part of the hat matrix is held at once


def hc3(
    Z: ArrayLike, y: ArrayLike, v0: float, v1: float, level: float = 0.95, *, v0_se: float = 0.0, v1_se: float = 0.0
) -> tuple[Vector, Vector]:
    """(low, high), each (n,): an interval of each player's Shapley value in the game that gave y, centred on `shapley.leverage`.

    Z (m, n) from the `leverage` design, y (m,), v0 and v1 as there; v0_se and v1_se are the standard errors of their means.
    Each interval stands alone: it is no simultaneous band (`ranks.order` has one). A row whose complement is missing counts as
    a pair by itself. Wider than need be in two cases: near-exhaustive designs, as no credit is given for having left few
    coalitions unseen, and noisy v0 and v1, as their error also enters the residuals.
    A player whom only a single pair tells apart from another gets (-inf, inf): nothing is left to judge that pair by.
    Raises ValuationError for bad input and for fewer pairs than players."""
    if not 0 < level < 1:
        raise ValuationError(f"found level = {level}, expected a number between 0 and 1")
    phi, se, spare = standard_errors(Z, y, v0, v1, v0_se=v0_se, v1_se=v1_se)
    half = student.ppf(0.5 + level / 2, spare) * se
    return phi - half, phi + half


def standard_errors(
    Z: ArrayLike, y: ArrayLike, v0: float, v1: float, *, v0_se: float = 0.0, v1_se: float = 0.0
) -> tuple[Vector, Vector, Vector]:
    """Credits, their standard errors and their degrees of freedom, (n,) each: what `hc3` makes intervals of. Raises as it does."""
    found = jackknife(Z, y, v0, v1)
    return found.phi, np.sqrt(np.sum(found.errors(v0_se, v1_se) ** 2, axis=1)), found.spare


class Jackknife(NamedTuple):
    """Credits with the error that each pair of coalitions leaves in them: sums of products of shifts are their covariance (HC2)."""

    phi: Vector  # (n,) credits of `shapley.leverage`
    shift: Vector  # (n, pairs) each pair's error in each credit; infinite where nothing would be left to tell it by
    pair: NDArray[np.intp]  # (m,) which pair each row is of, 0..pairs-1
    by_v0: Vector  # (n,) derivative of the credits by v0
    by_v1: Vector  # (n,) and by v1
    spare: Vector  # (n,) degrees of freedom of each credit's standard error, from 1 to the pairs less what is fitted to them

    def errors(self, v0_se: float, v1_se: float) -> Vector:
        """(n, pairs + 2): independent sources of error in the credits, with the endpoints' beside the pairs'; e e' is the covariance.

        Raises ValuationError unless both are finite standard errors."""
        if not (0 <= v0_se < np.inf and 0 <= v1_se < np.inf):
            raise ValuationError(f"found v0_se = {v0_se} and v1_se = {v1_se}, expected finite standard errors of 0 or more")
        return np.column_stack([self.shift, self.by_v0 * v0_se, self.by_v1 * v1_se])


def jackknife(Z: ArrayLike, y: ArrayLike, v0: float, v1: float) -> Jackknife:
    """The `leverage` fit and the errors of its credits. Raises ValuationError for bad input and for fewer pairs than players."""
    fit = constrained(Z, y, v0, v1)
    rows, _ = checked(Z, y)
    shift, pair, spare = _by_pair(rows, fit)
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


def _by_pair(rows: Coalitions, fit: Fit) -> tuple[Vector, NDArray[np.intp], Vector]:
    """The error that each pair leaves in each credit (n, pairs), the pair of each row (m,), and the degrees of freedom (n,).

    The rows of a pair are u and -u after the constraint, with one weight. Their block of the hat matrix is therefore
    h ss' with s the signs, whose only eigenvalue off zero is h times the number of rows: inverting 1 - H is a division."""
    sign = np.where(rows[:, 0], 1.0, -1.0)
    first, pair = pairs(rows)
    n = rows.shape[1]
    if first.size < n:
        raise ValuationError(
            f"found {first.size} pairs of coalitions for n = {n} players, expected at least {n}, better {2 * n} (m = {4 * n} coalitions)"
        )
    A, count = fit.A[:, first], np.bincount(pair)
    kept = 1.0 - fit.leverage[first] * count
    alone = (kept < ALONE) & (np.abs(A) > 1e-6 * np.abs(A).max())
    kept = np.maximum(kept, ALONE)
    missed = np.bincount(pair, weights=sign * fit.residual) / np.sqrt(kept)
    shift = np.where(alone, np.inf, A * (sign[first] * missed))
    return shift, pair, _degrees_of_freedom(rows[first], count, kept, A, fit.nuisance)


def _degrees_of_freedom(rows: Coalitions, count: NDArray[np.intp], kept: Vector, A: Vector, nuisance: int) -> Vector:
    """Of each credit's standard error (n,), after Bell & McCaffrey 2002: those of the chi-square that its square comes closest to.

    `rows` has the first row of each pair, `count` how many rows the pair has, `kept` what the fit leaves of it. As working model,
    the one that makes HC2 unbiased: weights are inverse variances. A squared standard error is then a quadratic form
    e' M diag(part) M e of independent errors, M = 1 - H, and has tr(M part)^2 / tr(M part M part) degrees of freedom."""
    n, size = rows.shape[1], rows.sum(axis=1)
    m = int(count.sum())
    w = size_shares("shapley_kernel", n, m)[size] / size_shares("leverage", n, m)[size]
    off = size - n / 2
    X = np.column_stack([(rows - size[:, None] / n)[:, 1:], off, off**3])[:, : n - 1 + nuisance]
    axes = np.linalg.qr(np.sqrt(count * w)[:, None] * X)[0]
    part = np.where(kept > ALONE, A**2 * (count / w) / kept, 0.0)
    square = np.zeros(n)
    for at in range(0, len(rows), BLOCK):
        M = np.eye(len(rows), BLOCK, -at)[:, : len(rows) - at] - axes @ axes[at : at + BLOCK].T
        square += np.sum((part @ M**2) * part[:, at : at + BLOCK], axis=1)
    told = square > 0  # where no pair has a part, the credit is known from pairs alone and its error not at all
    return np.maximum(np.divide((part @ kept) ** 2, square, out=np.ones(n), where=told), 1.0)


def _slopes(rows: Coalitions, fit: Fit) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Derivatives of the credits by v0 and by v1, (n,) each, from phi = d/n + A (y - v0 - d size/n), d = v1 - v0."""
    by_gain = (1.0 - fit.A @ rows.sum(axis=1)) / rows.shape[1]
    return -by_gain - fit.A.sum(axis=1), by_gain
