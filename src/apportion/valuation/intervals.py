"""Confidence intervals of credits from the paired leverage fit: cluster-robust, with degrees of freedom of their own (METHODS.md §3).

A coalition and its complement share a seed and enter the fit with opposite signs, so a pair is one observation. Its residual is
inflated by what the fit took of it (HC2), and Student's t allows for how few pairs a credit hangs on: Bell & McCaffrey, Bias reduction
in standard errors for linear regression with multi-stage samples, 2002; Imbens & Kolesár, Robust standard errors in small samples, 2016.
HC3 inflates twice, and with the degrees of freedom of the whole fit, which a single credit does not have, half of that is taken back:
from few pairs its intervals are wider by up to two fifths and cover .98 to .99 at a level of .95 (`benchmarks/intervals.py`)."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from apportion.errors import ValuationError
from apportion.valuation.coalitions import Coalitions, Vector, pairs, size_shares
from apportion.valuation.inputs import Ends, checked, ends, nothing, reach, share
from apportion.valuation.shapley import Fit, constrained, once

FEWEST = 3  # two have a single pair of coalitions, which nothing is left to judge by
RANKING_ONLY_BELOW = 4  # coalitions per player
ALONE = 1e-8  # what the hat matrix leaves of a pair that fits itself exactly
BLOCK = 1024  # pairs of coalitions whose part of the hat matrix is held at once


def hc3(Z: ArrayLike, y: ArrayLike, v0: ArrayLike, v1: ArrayLike, level: float = 0.95) -> tuple[Vector, Vector]:
    """(low, high), each (n,): an interval of each player's Shapley value in the game that gave y, centred on `shapley.leverage`.

    Z (m, n) from the `leverage` design, y (m,); v0 and v1 are numbers, taken as known, or the values of their seeds (seeds,), whose
    spread then widens the intervals, by Student's t with the degrees of freedom of so few: two seeds of a noisy end cost much width.
    Each interval stands alone: it is no simultaneous band (`ranks.order` has one). A coalition whose complement is missing counts
    as a pair by itself, and one that comes in several rows counts once, with their mean. Wider than need be in near-exhaustive
    designs: no credit is given for having left few coalitions unseen.
    Unknown, (-inf, inf), is the error of a player whom only a single pair tells apart from another, and of everybody where the fit
    misses nothing of any value: that is no noise to judge by, unless all proper coalitions are there and there is nothing else to see.
    Raises ValuationError for bad input and for fewer pairs than players."""
    level = share("level", level)
    found = jackknife(Z, y, v0, v1)
    half = reach(level, found.variance(), found.spare, found.of_ends(), found.ends.spare)
    return found.phi - half, found.phi + half


def standard_errors(Z: ArrayLike, y: ArrayLike, v0: ArrayLike, v1: ArrayLike) -> tuple[Vector, Vector]:
    """Credits and their standard errors, (n,) each: what `hc3` makes intervals of. Raises as it does."""
    found = jackknife(Z, y, v0, v1)
    return found.phi, np.sqrt(found.variance() + found.of_ends().sum(axis=1))


class Jackknife(NamedTuple):
    """Credits with the error that each pair of coalitions leaves in them: sums of products of shifts are their covariance (HC2)."""

    phi: Vector  # (n,) credits of `shapley.leverage`
    shift: Vector  # (n, pairs) each pair's error in each credit; infinite where nothing would be left to tell it by
    pair: NDArray[np.intp]  # (k,) which pair each coalition is of, 0..pairs-1; one that comes in several rows counts once
    spare: Vector  # (n,) degrees of freedom that the pairs leave each credit, from 1 to the pairs less what is fitted to them
    slopes: Vector  # (n, 2) derivatives of the credits by v0 and by v1
    ends: Ends

    def variance(self) -> Vector:
        """Of each credit (n,), from the pairs."""
        return np.asarray(np.sum(self.shift**2, axis=1), dtype=np.float64)

    def of_ends(self) -> Vector:
        """Variance of each credit from v0 and from v1, (n, 2)."""
        return np.asarray(self.slopes**2 * self.ends.variance, dtype=np.float64)


def jackknife(Z: ArrayLike, y: ArrayLike, v0: ArrayLike, v1: ArrayLike) -> Jackknife:
    """The `leverage` fit and the errors of its credits. Raises ValuationError for bad input and for fewer pairs than players."""
    rows, values = once(*checked(Z, y))
    found = ends(v0, v1)
    fit = constrained(rows, values, found.v0, found.v1)
    shift, pair, spare = _by_pair(rows, fit, nothing(values, found))
    return Jackknife(fit.phi, shift, pair, spare, _slopes(rows, fit), found)


def exhaustive(rows: Coalitions) -> bool:
    """Whether all proper coalitions are among the rows (m, n)."""
    m, n = rows.shape
    return bool(m >= 2**n - 2 and len(np.unique(rows, axis=0)) == 2**n - 2)


def covers(m: int, n: int, method: str, *, every: bool = False) -> str:
    """In words, for reports: what an interval from m coalitions of n players covers, in the game of the removal method.

    `every`: they are all proper coalitions, once each."""
    if every:
        return _covers_noise(m, n, method)
    text = (
        f"a player's Shapley value in the {method} game, each player taken alone, over the draw of coalitions and the noise of "
        "their evaluation; not how far that game is from retraining"
    )
    return ranking_only(m, n, "coalitions") + text


def ranking_only(m: int, n: int, what: str) -> str:
    """The beginning of what an interval covers: that m coalitions (`what` they are called) are too few for n players; nothing where not."""
    enough = min(RANKING_ONLY_BELOW * n, 2**n - 2)
    return f"ranking only ({m} {what} for {n} players, expected at least {enough}): " if m < enough else ""


def _covers_noise(m: int, n: int, method: str) -> str:
    """With all coalitions evaluated nothing is left to the draw; `hc3` takes what players do together for noise: too wide, if anything."""
    values = f"all {m} coalitions of {n} players but nobody and everybody, which give Shapley values in the {method} game exactly"
    if n < FEWEST:
        return f"nothing: they need more players. Credits are from {values} but for the noise of evaluation, which is not known"
    return (
        f"a player's Shapley value in the {method} game, each player taken alone, over the noise of evaluation: credits are from {values} "
        "but for that noise, and the intervals are wider than it by what players do together; not how far that game is from retraining"
    )


def _by_pair(rows: Coalitions, fit: Fit, none: float) -> tuple[Vector, NDArray[np.intp], Vector]:
    """The error that each pair leaves in each credit (n, pairs), the pair of each row (m,), and the degrees of freedom (n,).

    The rows of a pair are u and -u after the constraint, with one weight. Their block of the hat matrix is therefore h ss' with s
    the signs, whose only eigenvalue off zero is h times the number of rows: inverting 1 - H is a division. A residual of at most
    `none` is none."""
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
    missed = np.bincount(pair, weights=sign * fit.residual)
    unknown = alone | (np.abs(missed).max() <= none and not exhaustive(rows))
    shift = np.where(unknown, np.inf, A * (sign[first] * missed / np.sqrt(kept)))
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


def _slopes(rows: Coalitions, fit: Fit) -> Vector:
    """Derivatives of the credits by v0 and by v1, (n, 2), from phi = d/n + A (y - v0 - d size/n), d = v1 - v0."""
    by_gain = (1.0 - fit.A @ rows.sum(axis=1)) / rows.shape[1]
    return np.column_stack([-by_gain - fit.A.sum(axis=1), by_gain])
