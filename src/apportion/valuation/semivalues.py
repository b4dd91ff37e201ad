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
    rounding_error,
)
from apportion.valuation.intervals import is_exhaustive
from apportion.valuation.set_noise import FEWEST_SETS, moderated
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
    each player are scaled as in `set_noise`. Raises as `semivalue` does.
    """
    rows, y = checked(Z, y)
    of_rows = None if sets is None else np.asarray(sets)[distinct(rows)[0]]
    rows, y = average_repeats(rows, y)
    endpoints = checked_endpoints(v0, v1)
    n = rows.shape[1]
    size = proper_sizes(rows)
    p = _checked_weights(weights, n)
    s = np.arange(1, n)
    count = np.bincount(size, minlength=n + 1)[1:n]
    size_weight = _size_weights(p) * s * (n - s) / (n * (n - 1))  # they sum to one
    refuse_missing_sizes(s[count == 0], size_weight[count == 0])
    phi, residual, remaining = _estimated(rows, y[:, None], endpoints.v0, endpoints.v1, p)
    first, pair = complementary_pairs(rows)
    left = np.where(remaining > 1e-8, residual[:, 0] / np.maximum(remaining, 1e-8), np.inf)
    known = np.isfinite(left)
    influence = _estimated(rows, np.eye(len(rows)), 0.0, 0.0, p)[0]  # (n, m) of each value on each semivalue
    by_pair = np.eye(len(first))[pair]
    shift = (influence * np.where(known, left, 0.0)) @ by_pair
    rounding = 0.0 if is_exhaustive(rows) else rounding_error(y, endpoints)
    # A row that alone decides something leaves the errors unknown; so do residuals that are rounding.
    if not known.all() or np.abs(residual).max() <= rounding:
        shift = np.full_like(shift, np.inf)
    power = influence**2 @ by_pair
    pairs = power.sum(axis=1) ** 2 / np.sum(power**2, axis=1)  # that determine each semivalue, at most all
    dof = np.maximum(pairs * (1 - (n + 1) / len(first)), min(FEWEST_DOF, max(len(first) - n - 1, 1)))
    nothing = np.zeros((len(rows), 1))
    slopes = np.hstack([_estimated(rows, nothing, *ends, p)[0] for ends in ((1.0, 0.0), (0.0, 1.0))])
    if of_rows is not None and len(names := np.unique(of_rows)) >= FEWEST_SETS:
        by_set = np.column_stack([shift[:, of_rows[first] == name].sum(axis=1) for name in names])
        # Residuals are small beside errors, because the fit follows the sets: by this factor for equal sets.
        by_set *= len(names) / (len(names) - 1)
        ratio, ratio_dof = moderated(by_set, np.sum(shift**2, axis=1))
        shift, dof = shift * np.sqrt(ratio)[:, None], 1.0 / (1.0 / dof + 1.0 / ratio_dof)
    return SemivalueFit(phi[:, 0], shift, dof, slopes, endpoints)


def _estimated(rows: Coalitions, y: Vector, v0: float, v1: float, p: Vector) -> tuple[Vector, Vector, Vector]:
    """Semivalues (n, k) of k games with values y (m, k), residuals (m, k) of the fit, and one minus the
    leverage of each row (m,)."""
    n, size = rows.shape[1], rows.sum(axis=1)
    count = np.bincount(size, minlength=n + 1)[1:n]
    own, shapley = (_size_weights(q) / np.maximum(count, 1) for q in (p, np.full(n, 1 / n)))
    fit = weighted(rows, y, v0, v1, ((own + shapley) / 2)[size - 1], even=2)
    U = rows - size[:, None] / n
    phi = fit.phi + U.T @ (own[size - 1] * fit.residual.T).T
    phi = phi - phi.mean(axis=0)
    steps = np.diff(_mean_by_size(size, y - U @ phi, v0, v1, n), axis=0)
    return phi + p @ steps, fit.residual, 1.0 - fit.leverage


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
