"""Banzhaf and Beta Shapley values, and baselines. Each weights coalition sizes in its own way.

They do NOT sum to v1 - v0, so label them where they are shown. See docs/methods.md, section "Estimators".
"""

from numbers import Real
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import betabinom, binom

from apportion.errors import ValuationError
from apportion.valuation.coalitions import Coalitions, Vector, complementary_pairs, distinct
from apportion.valuation.inputs import (
    Endpoints,
    checked,
    checked_endpoints,
    finite_array,
    fraction,
    half_width,
    proper_sizes,
)
from apportion.valuation.intervals import largest_rounding
from apportion.valuation.set_noise import FEWEST_SETS, checked_sets, known_by_one_pair, moderated
from apportion.valuation.shapley import average_repeats, refuse_missing_sizes, weighted

FEWEST_DOF = 4.0
"""Degrees of freedom that an error has at least where there are so many pairs more than players. Where one
size of coalition has nearly all weight their count gives one or two, and intervals that are several times too
wide."""

PENALTIES = np.logspace(-8, 3, 45)  # of `datamodel`, as multiples of the largest squared singular value


def semivalue(Z: ArrayLike, y: ArrayLike, v0: ArrayLike, v1: ArrayLike, weights: ArrayLike) -> Vector:
    """Semivalues (n,): the mean gain of joining a coalition of s others, averaged over s by weights[s].

    weights (n,), s = 0..n-1, sums to one. With uniform weights these are Shapley values, for which
    `shapley.leverage` is the better estimate. Z (m, n) are proper coalitions in which all coalitions of one
    size are equally likely, as in every design but `loo` and `aoi`. y, v0 and v1 are as in
    `shapley.leverage`. The credits sum to v1 - v0 only for uniform weights. All proper coalitions, once each,
    give the exact values.

    With p[s] = weights[s] / C(n-1, s), differences between players are those of least squares over all
    coalitions in which size s has the weight p[s-1] + p[s]. These weights can leave few rows of the sample to
    fit by. The fit is therefore made with the mean of these weights and the Shapley weights, and the weighted
    mean of its residuals is added (a difference estimator). The mean of all players is the mean step between
    the mean values of neighbouring sizes. Coalitions are weighted by the number of them in each size, so the
    design need not be known. A coalition in several rows counts once, with the mean of their values.
    Source: Dubey, Neyman & Weber 1981 for the values.
    Raises ValuationError for bad input, for sizes without rows that hold over a tenth of the weight, and when
    the rows cannot distinguish all players.
    """
    return semivalue_fit(Z, y, v0, v1, weights).phi


class SemivalueFit(NamedTuple):
    """Semivalues with the error that each pair of coalitions contributes to them."""

    phi: Vector  # (n,) semivalues
    shift: Vector  # (n, pairs) each pair's error in each semivalue
    dof: Vector  # (n,) degrees of freedom
    slopes: Vector  # (n, 2) derivatives of the semivalues by v0 and by v1
    endpoints: Endpoints

    def interval(self, level: float) -> tuple[Vector, Vector]:
        """Bounds (low, high), (n,) each, that hold for each player separately."""
        variance, of_ends = np.sum(self.shift**2, axis=1), self.slopes**2 * self.endpoints.variance
        half = half_width(fraction("level", level), variance, self.dof, of_ends, self.endpoints.dof)
        return self.phi - half, self.phi + half

    def standard_errors(self) -> Vector:
        """(n,)."""
        of_ends = self.slopes**2 * self.endpoints.variance
        return np.asarray(np.sqrt(np.sum(self.shift**2, axis=1) + of_ends.sum(axis=1)), dtype=np.float64)


def semivalue_fit(
    Z: ArrayLike,
    y: ArrayLike,
    v0: ArrayLike,
    v1: ArrayLike,
    weights: ArrayLike,
    sets: ArrayLike | None = None,
) -> SemivalueFit:
    """The semivalues of `semivalue` with their errors, for intervals.

    The estimate is linear in the values. The error of a pair is what its residuals from the fit, divided by
    what the fit leaves of them (HC3), change in it; a coalition whose complement is missing is a pair by
    itself. Degrees of freedom count the pairs that determine a semivalue, which are few where small
    coalitions have most of the weight. sets (m,) are as in `intervals.hc3`: with three or more the errors of
    each player are scaled as in `set_noise`. Raises as `semivalue` does, and for sets that are not as in
    `set_noise.checked_sets`.
    """
    rows, y = checked(Z, y)
    of_rows = None if sets is None else checked_sets(sets, rows)[distinct(rows)[0]]
    rows, y = average_repeats(rows, y)
    endpoints = checked_endpoints(v0, v1)
    n = rows.shape[1]
    size = proper_sizes(rows)
    p = _checked_weights(weights, n)
    s = np.arange(1, n)
    count = np.bincount(size, minlength=n + 1)[1:n]
    size_weight = _size_weights(p) * s * (n - s) / (n * (n - 1))  # they sum to one
    refuse_missing_sizes(s[count == 0], size_weight[count == 0])
    found = _estimated(rows, y, endpoints.v0, endpoints.v1, p)
    first, pair = complementary_pairs(rows)
    left = found.residual / np.maximum(found.remaining, 1e-8)
    shift = _summed(found.influence * left, pair)
    rounding = largest_rounding(rows, y, endpoints)
    # A row that alone decides something leaves the errors unknown; so do residuals that are rounding.
    unknown = found.remaining.min() <= 1e-8 or np.abs(found.residual).max() <= rounding
    shift[unknown | _known_by_one_pair(rows[first])] = np.inf
    power = _summed(found.influence**2, pair)
    pairs = power.sum(axis=1) ** 2 / np.sum(power**2, axis=1)  # that determine each semivalue, at most all
    dof = np.maximum(pairs * (1 - (n + 1) / len(first)), min(FEWEST_DOF, max(len(first) - n - 1, 1)))
    if of_rows is not None and len(names := np.unique(of_rows)) >= FEWEST_SETS:
        by_set = _summed(shift, np.searchsorted(names, of_rows[first]))
        # Residuals are small beside errors, because the fit follows the sets: by this factor for equal sets.
        by_set *= len(names) / (len(names) - 1)
        ratio, ratio_dof = moderated(by_set, np.sum(shift**2, axis=1))
        shift, dof = shift * np.sqrt(ratio)[:, None], 1.0 / (1.0 / dof + 1.0 / ratio_dof)
    return SemivalueFit(found.phi, shift, dof, found.slopes, endpoints)


class _Estimated(NamedTuple):
    """Semivalues (n,), and how they follow from the values: phi = influence y + slopes (v0, v1)."""

    phi: Vector
    residual: Vector  # (m,) of the fit
    remaining: Vector  # (m,) one minus the leverage of each row
    influence: Vector  # (n, m)
    slopes: Vector  # (n, 2)


def _estimated(rows: Coalitions, y: Vector, v0: float, v1: float, p: Vector) -> _Estimated:
    n, size = rows.shape[1], rows.sum(axis=1)
    count = np.maximum(np.bincount(size, minlength=n + 1)[1:n], 1)
    own, shapley = ((_size_weights(q) / count)[size - 1] for q in (p, np.full(n, 1 / n)))
    w = (own + shapley) / 2
    U = rows - size[:, None] / n

    def mean_step(values: Vector, v0: float, v1: float) -> Vector:
        """The mean of all players (k,) in k games with values (m, k)."""
        return np.asarray(p @ np.diff(_mean_by_size(size, values, v0, v1, n), axis=0), dtype=np.float64)

    fit = weighted(rows, y, v0, v1, w, even=2)
    centred = fit.phi + U.T @ (own * fit.residual)
    centred = centred - centred.mean()
    phi = centred + mean_step((y - U @ centred)[:, None], v0, v1)

    # With R the matrix (m, m) from values to residuals, W R is symmetric. U' diag(own) R is therefore the
    # transpose of W R W^-1 diag(own) U, the residuals of n games.
    residuals = weighted(rows, U * (own / w)[:, None], 0.0, 0.0, w, even=2).residual
    differences = fit.A + (w[:, None] * residuals).T
    differences = differences - differences.mean(axis=0)
    of_size = mean_step(np.eye(n - 1)[size - 1], 0.0, 0.0)  # of the mean value of each size 1..n-1
    of_row = (of_size / count)[size - 1]
    # The fit is one to y - v0 - (v1 - v0) size/n.
    by_ends = differences @ np.column_stack([size / n - 1, -size / n])
    ends = np.concatenate([mean_step(np.zeros((len(rows), 1)), *end) for end in ((1.0, 0.0), (0.0, 1.0))])
    return _Estimated(
        phi=phi,
        residual=fit.residual,
        remaining=1.0 - fit.leverage,
        influence=differences + of_row - (of_row @ U) @ differences,
        slopes=by_ends + ends - (of_row @ U) @ by_ends,
    )


def _known_by_one_pair(rows: Coalitions) -> NDArray[np.bool_]:
    """Which players (n,) only a single pair distinguishes from another, by one row (pairs, n) of each pair.

    What is left of the two rows of such a pair is the same, and says nothing about their difference.
    """
    n, size = rows.shape[1], rows.sum(axis=1, keepdims=True)
    axes, scale, right = np.linalg.svd(rows - size / n, full_matrices=False)
    axes, scale, right = axes[:, : n - 1], scale[: n - 1], right[: n - 1]
    return known_by_one_pair(axes, (right.T / scale) @ axes.T)


def _summed(values: Vector, group: NDArray[np.intp]) -> Vector:
    """Sums of values (n, m) over each group of columns, (n, groups)."""
    return np.stack([np.bincount(group, weights=row) for row in values])


def banzhaf_weights(n: int) -> Vector:
    """Weights (n,) of `semivalue` for Banzhaf values."""
    return np.asarray(binom.pmf(np.arange(n), n - 1, 0.5), dtype=np.float64)


def beta_weights(n: int, alpha: float, beta: float) -> Vector:
    """Weights (n,) of `semivalue` for Beta(alpha, beta)-Shapley values. Raises ValuationError where alpha or
    beta is not a positive number."""
    if not all(isinstance(value, Real) and 0 < value < np.inf for value in (alpha, beta)):
        raise ValuationError(f"found alpha = {alpha!r} and beta = {beta!r}, expected two positive numbers")
    return np.asarray(betabinom.pmf(np.arange(n), n - 1, beta, alpha), dtype=np.float64)


def banzhaf(Z: ArrayLike, y: ArrayLike, v0: ArrayLike, v1: ArrayLike) -> Vector:
    """Banzhaf values (n,): a player's mean gain over all coalitions of the other players, all equally likely.

    Most of their weight is on middle sizes, where fine-tuned models are closest to retrained ones
    (docs/methods.md, section "Faithfulness"). Arguments and errors as in `semivalue`.
    """
    rows, y = checked(Z, y)
    return semivalue(rows, y, v0, v1, banzhaf_weights(rows.shape[1]))


def beta_shapley(
    Z: ArrayLike, y: ArrayLike, v0: ArrayLike, v1: ArrayLike, alpha: float, beta: float
) -> Vector:
    """Beta(alpha, beta)-Shapley values (n,).

    A coalition of s other players has the weight B(s + beta, n-1-s + alpha) / B(alpha, beta): every other
    player is present with the same probability, drawn from Beta(beta, alpha). With alpha > beta small
    coalitions have more weight (16, 1: "does a little data help"), with beta > alpha large ones, and (1, 1)
    gives Shapley values. Arguments and errors as in `semivalue`; alpha and beta are positive. Source: Kwon &
    Zou 2022, "Beta Shapley", equation 5.
    """
    rows, y = checked(Z, y)
    return semivalue(rows, y, v0, v1, beta_weights(rows.shape[1], alpha, beta))


def loo(Z: ArrayLike, y: ArrayLike, v1: ArrayLike) -> Vector:
    """Leave-one-out credits (n,): v1 less the value of the coalition of all other players.

    A coalition in several rows has the mean of their values. Only the rows of size n-1 are used. Raises
    ValuationError for bad input, and names the players whose row is missing.
    """
    rows, y = checked(Z, y)
    v1 = checked_endpoints(0.0, v1).v1
    return v1 - _mean_for_each_player(~rows, y, "all players but one")


def aoi(Z: ArrayLike, y: ArrayLike, v0: ArrayLike) -> Vector:
    """Add-one-in credits (n,): the value of the coalition of the player alone, less v0.

    A coalition in several rows has the mean of their values. Only the rows of size 1 are used. Raises
    ValuationError for bad input, and names the players whose row is missing.
    """
    rows, y = checked(Z, y)
    v0 = checked_endpoints(v0, 0.0).v0
    return _mean_for_each_player(rows, y, "one player alone") - v0


def datamodel(Z: ArrayLike, y: ArrayLike) -> Vector:
    """Datamodel credits (n,): slopes of a ridge regression of y (m,) on Z (m, n) with an intercept.

    There is no constraint on their sum. The penalty is the one of `PENALTIES` with the least leave-one-out
    error, and the larger one of a tie. It is computed in closed form from one singular value decomposition,
    also for m < n. Rows of one size, as the `datamodel` design gives, say nothing about the mean of all
    players: the credits then sum to 0. Source: Ilyas et al. 2022, with ridge in place of lasso.
    Raises ValuationError for bad input, fewer than three distinct rows, and players who are in all rows or in
    none.
    """
    rows, y = checked(Z, y)
    _refuse_constant_columns(rows)
    left, scale, right = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    centred = y - y.mean()
    along = left.T @ centred
    keep = scale**2 / (scale**2 + scale[0] ** 2 * PENALTIES[:, None])
    remaining = 1 - 1 / len(y) - keep @ left.T**2  # one minus the leverage of each row
    errors = np.mean(((centred - (keep * along) @ left.T) / remaining) ** 2, axis=1)
    best = len(errors) - 1 - int(np.argmin(errors[::-1]))
    slopes = (along * scale / (scale**2 + scale[0] ** 2 * PENALTIES[best])) @ right
    return np.asarray(slopes, dtype=np.float64)


def _checked_weights(weights: ArrayLike, n: int) -> Vector:
    p = finite_array("weights", weights)
    if p.shape != (n,):
        raise ValuationError(
            f"found weights of shape {p.shape}, expected ({n},): one for each number of other players, 0 to "
            f"{n - 1}"
        )
    if (p < 0).any() or abs(p.sum() - 1) > 1e-8:
        raise ValuationError(
            f"found weights of at least {p.min()} that sum to {p.sum()}, expected none below 0 and a sum of 1"
        )
    return p


def _size_weights(p: Vector) -> Vector:
    """C(n, s) (p_{s-1} + p_s), the weight of all coalitions of size s = 1..n-1 together, (n-1,).

    Here p_s is p[s] / C(n-1, s), the weight of one coalition of s other players.
    """
    s = np.arange(1, len(p))
    return np.asarray(len(p) * (p[:-1] / s + p[1:] / (len(p) - s)), dtype=np.float64)


def _mean_by_size(size: NDArray[np.intp], y: Vector, v0: float, v1: float, n: int) -> Vector:
    """Mean values of k games at each size 0..n, (n + 1, k), from their values y (m, k), interpolated linearly
    where a size has no rows."""
    count = np.bincount(size, minlength=n + 1)
    known = np.flatnonzero(count)
    means = (known[:, None] == size) @ y / count[known][:, None]
    ends = np.full((1, y.shape[1]), 1.0)
    at, given = [0, *known, n], np.vstack([v0 * ends, means, v1 * ends])
    columns = [np.interp(np.arange(n + 1), at, column) for column in given.T]
    return np.asarray(np.column_stack(columns), dtype=np.float64)


def _mean_for_each_player(rows: Coalitions, y: Vector, what: str) -> Vector:
    """Mean of y over the rows that hold one player and no other, for each player (n,).

    `what` says in an error what the rows are, and `rows` may be complements.
    """
    single = np.flatnonzero(rows.sum(axis=1) == 1)
    player, n = rows[single].argmax(axis=1), rows.shape[1]
    count = np.bincount(player, minlength=n)
    if not count.all():
        raise ValuationError(
            f"found no coalition of {what} for {_listed(count == 0)}, expected one for each of the {n} "
            "players"
        )
    return np.asarray(np.bincount(player, weights=y[single], minlength=n) / count, dtype=np.float64)


def _refuse_constant_columns(rows: Coalitions) -> None:
    different = len(np.unique(rows, axis=0))
    if different < 3:
        raise ValuationError(
            f"found {different} distinct coalitions, expected at least 3: fewer cannot choose a penalty (m)"
        )
    constant = np.ptp(rows.astype(np.int8), axis=0) == 0
    if constant.any():
        raise ValuationError(
            f"found {_listed(constant)} in all coalitions or in none, expected every player in some: draw "
            "more (m)"
        )


def _listed(mask: NDArray[np.bool_]) -> str:
    players = np.flatnonzero(mask).tolist()
    word = "players" if len(players) > 1 else "player"
    return f"{word} {', '.join(map(str, players[:8]))}{', …' if len(players) > 8 else ''}"
