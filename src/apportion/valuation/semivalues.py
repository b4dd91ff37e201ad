"""Credits that weigh coalition sizes otherwise than Shapley values do: Banzhaf, Beta Shapley, and the baselines of METHODS.md §3.

None of them shares v1 - v0 out: they do NOT sum to it, so label them where they are shown."""

from numbers import Real

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import betabinom, binom

from apportion.errors import ValuationError
from apportion.valuation.coalitions import Coalitions, Vector
from apportion.valuation.inputs import checked, ends, finite, proper_sizes
from apportion.valuation.shapley import once, refuse_unseen, weighted

PENALTIES = np.logspace(-8, 3, 45)  # of `datamodel`, as multiples of the largest squared singular value


def semivalue(Z: ArrayLike, y: ArrayLike, v0: ArrayLike, v1: ArrayLike, weights: ArrayLike) -> Vector:
    """Semivalues (n,): each player's mean gain on joining a coalition of s others, weights[s] of the mean lying on size s.

    weights (n,), s = 0..n-1, sums to one: uniform for Shapley values, where `shapley.leverage` is the estimate to use.
    Z (m, n) proper coalitions, each size drawn evenly, as every design does but `loo` and `aoi`; y, v0, v1 as in `leverage`.
    The credits sum to v1 - v0 only for uniform weights. All proper coalitions, once each, give the exact values.

    With p[s] = weights[s] / C(n-1, s), differences between players are those of least squares over all coalitions with
    p[s-1] + p[s] as the weight of size s. These can leave few rows of the sample to fit by, so the fit is made with the mean of
    theirs and the Shapley weights, and what it does not explain is then added by its weighted mean (a difference estimator).
    The mean of all players is the mean step between the mean values of neighbouring sizes. Coalitions are weighted within their size
    by how many they are, so the design need not be told; one that comes in several rows counts once, with their mean.
    Source: Dubey, Neyman & Weber 1981 for the values.
    Raises ValuationError for bad input, for sizes without rows that hold over a tenth of the weight, and when the rows cannot
    tell all players apart."""
    rows, y = once(*checked(Z, y))
    v0, v1 = ends(v0, v1)[:2]
    n, size, p = rows.shape[1], proper_sizes(rows), _shares(weights, rows.shape[1])
    s, count = np.arange(1, n), np.bincount(size, minlength=n + 1)[1:n]
    refuse_unseen(s[count == 0], (_per_size(p) * s * (n - s) / (n * (n - 1)))[count == 0])  # of weights that sum to one
    own, shapley = (_per_size(q) / np.maximum(count, 1) for q in (p, np.full(n, 1 / n)))
    fit = weighted(rows, y, v0, v1, ((own + shapley) / 2)[size - 1], even=2)
    U = rows - size[:, None] / n
    phi = fit.phi + U.T @ (own[size - 1] * fit.residual)
    phi -= phi.mean()
    return np.asarray(phi + p @ np.diff(_by_size(size, y - U @ phi, v0, v1, n)), dtype=np.float64)


def banzhaf(Z: ArrayLike, y: ArrayLike, v0: ArrayLike, v1: ArrayLike) -> Vector:
    """Banzhaf values (n,): each player's mean gain over all coalitions of the others, all equally likely.

    They lean on middle sizes, where the cheap game is most faithful (METHODS.md §10). Arguments and errors as in `semivalue`."""
    rows, y = checked(Z, y)
    n = rows.shape[1]
    return semivalue(rows, y, v0, v1, binom.pmf(np.arange(n), n - 1, 0.5))


def beta_shapley(Z: ArrayLike, y: ArrayLike, v0: ArrayLike, v1: ArrayLike, alpha: float, beta: float) -> Vector:
    """Beta(alpha, beta)-Shapley values (n,): a coalition of s others weighs B(s + beta, n-1-s + alpha) / B(alpha, beta).

    In words: every other player is there with one chance, drawn from Beta(beta, alpha). So alpha > beta leans on small coalitions
    (16, 1: "does a little data help"), beta > alpha on large ones, and (1, 1) gives Shapley values.
    Arguments and errors as in `semivalue`; alpha and beta are positive. Source: Kwon & Zou 2022, "Beta Shapley", equation 5."""
    rows, y = checked(Z, y)
    if not all(isinstance(value, Real) and 0 < value < np.inf for value in (alpha, beta)):
        raise ValuationError(f"found alpha = {alpha!r} and beta = {beta!r}, expected two positive numbers")
    n = rows.shape[1]
    return semivalue(rows, y, v0, v1, betabinom.pmf(np.arange(n), n - 1, beta, alpha))


def loo(Z: ArrayLike, y: ArrayLike, v1: ArrayLike) -> Vector:
    """Leave-one-out credits (n,): v1 less the value of everybody but the player, the mean of it where that row comes repeatedly.

    Uses the rows of size n-1 and no others. Raises ValuationError for bad input and names the players whose row is missing."""
    rows, y = checked(Z, y)
    v1 = ends(0.0, v1).v1
    return v1 - _mean_for_each(~rows, y, "everybody but the player")


def aoi(Z: ArrayLike, y: ArrayLike, v0: ArrayLike) -> Vector:
    """Add-one-in credits (n,): the value of the player alone less v0, the mean of it where that row comes repeatedly.

    Uses the rows of size 1 and no others. Raises ValuationError for bad input and names the players whose row is missing."""
    rows, y = checked(Z, y)
    v0 = ends(v0, 0.0).v0
    return _mean_for_each(rows, y, "the player alone") - v0


def datamodel(Z: ArrayLike, y: ArrayLike) -> Vector:
    """Datamodel credits (n,): slopes of ridge regression of y (m,) on Z (m, n) with an intercept, no constraint.

    The penalty is the one of `PENALTIES` with the least leave-one-out error, the larger where they tie; in closed form, from one
    singular value decomposition, for m < n as well. Rows of one size, as the `datamodel` design gives, say nothing about the
    mean of all players: the credits then sum to 0. Source: Ilyas et al. 2022, with ridge for the lasso (METHODS.md §3).
    Raises ValuationError for bad input, fewer than three distinct rows, and players who are in all rows or in none."""
    rows, y = checked(Z, y)
    _refuse_unvaried(rows)
    left, scale, right = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    off = y - y.mean()
    along = left.T @ off
    keep = scale**2 / (scale**2 + scale[0] ** 2 * PENALTIES[:, None])
    free = 1 - 1 / len(y) - keep @ left.T**2  # what the hat matrix leaves to each row
    errors = np.mean(((off - (keep * along) @ left.T) / free) ** 2, axis=1)
    best = len(errors) - 1 - int(np.argmin(errors[::-1]))
    return np.asarray((along * scale / (scale**2 + scale[0] ** 2 * PENALTIES[best])) @ right, dtype=np.float64)


def _shares(weights: ArrayLike, n: int) -> Vector:
    p = finite("weights", weights)
    if p.shape != (n,):
        raise ValuationError(f"found weights of shape {p.shape}, expected ({n},): one for each number of others, 0 to {n - 1}")
    if (p < 0).any() or abs(p.sum() - 1) > 1e-8:
        raise ValuationError(f"found weights from {p.min()} that sum to {p.sum()}, expected none below 0 and a sum of 1")
    return p


def _per_size(p: Vector) -> Vector:
    """C(n, s) (p_{s-1} + p_s), the weight of all coalitions of size s = 1..n-1 together, (n-1,); p_s is p[s] for one coalition."""
    s = np.arange(1, len(p))
    return np.asarray(len(p) * (p[:-1] / s + p[1:] / (len(p) - s)), dtype=np.float64)


def _by_size(size: NDArray[np.intp], y: Vector, v0: float, v1: float, n: int) -> Vector:
    """Mean value at each size 0..n, (n + 1,); on a line between its neighbours where a size has no rows."""
    count = np.bincount(size, minlength=n + 1)
    known = np.flatnonzero(count)
    means = np.bincount(size, weights=y, minlength=n + 1)[known] / count[known]
    return np.asarray(np.interp(np.arange(n + 1), [0, *known, n], [v0, *means, v1]), dtype=np.float64)


def _mean_for_each(rows: Coalitions, y: Vector, what: str) -> Vector:
    """Mean of y over the rows that hold a player and no other, (n,)."""
    at = np.flatnonzero(rows.sum(axis=1) == 1)
    who, n = rows[at].argmax(axis=1), rows.shape[1]
    count = np.bincount(who, minlength=n)
    if not count.all():
        raise ValuationError(f"found no coalition of {what} for {_named(count == 0)}, expected one for each of the {n} players")
    return np.asarray(np.bincount(who, weights=y[at], minlength=n) / count, dtype=np.float64)


def _refuse_unvaried(rows: Coalitions) -> None:
    distinct = len(np.unique(rows, axis=0))
    if distinct < 3:
        raise ValuationError(f"found {distinct} distinct coalitions, expected at least 3: fewer leave nothing to choose a penalty by (m)")
    unvaried = np.ptp(rows.astype(np.int8), axis=0) == 0
    if unvaried.any():
        raise ValuationError(f"found {_named(unvaried)} in all coalitions or in none, expected every player in some: draw more of them (m)")


def _named(mask: NDArray[np.bool_]) -> str:
    who = np.flatnonzero(mask).tolist()
    return f"player{'s'[: len(who) > 1]} {', '.join(map(str, who[:8]))}{', …' if len(who) > 8 else ''}"
