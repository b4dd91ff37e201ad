"""Shapley values from coalition values: KernelSHAP, Leverage SHAP, and trees with a ridge.

See docs/methods.md, section "Estimators".
"""

from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaln

from apportion.errors import ValuationError
from apportion.valuation.coalitions import Coalitions, Vector, distinct, size_shares
from apportion.valuation.inputs import checked, checked_endpoints, finite_array, proper_sizes
from apportion.valuation.odd_ridge import SignedPairs, fit_ridge, signed_pairs
from apportion.valuation.trees import CrossFit, cross_fit

MAX_EXACT = 20  # players; exact enumeration takes two to the number of players
RANK_TOLERANCE = 1e-10
FOLDS = 5
FEWEST_FOR_TREES = 20  # pairs; trees from fewer pairs never improved the credits
# A size is missing if no row has it or the size of its complements, although the design has at least so many
# of both: even if some rows were lost, others of this size would be left. Missing sizes may have at most this
# share of the kernel's weight.
EXPECTED_ROWS = 8
MAX_MISSING_WEIGHT = 0.1


def kernelshap(Z: ArrayLike, y: ArrayLike, v0: ArrayLike, v1: ArrayLike) -> Vector:
    """Credits (n,) by least squares on rows drawn by `shapley_kernel`, constrained to sum to v1 - v0.

    Z (m, n) coalitions, y (m,) their values, v0 and v1 the values of the empty and the grand coalition. v0
    and v1 are numbers or the values of their seeds (seeds,), which are averaged. All values are in units of
    the property. The rows have equal weight because the design already has the kernel as its distribution. A
    rank-deficient Z is solved with the pseudo-inverse: the credits then are the smallest that fit.
    Source: Lundberg & Lee 2017; the solver of "An Efficient Framework for Crediting Data Contributors of
    Diffusion Models" (ICLR 2025). Raises ValuationError for input that is not as stated.
    """
    rows, y = checked(Z, y)
    v0, v1 = checked_endpoints(v0, v1)[:2]
    if not rows.any():
        raise ValuationError(f"found {len(rows)} empty coalitions, expected at least one with a player in it")
    X = rows.astype(np.float64)
    m, n = X.shape
    inverse = np.linalg.pinv(X.T @ X / m, rcond=RANK_TOLERANCE, hermitian=True)
    unconstrained = inverse @ (X.T @ (y - v0) / m)
    ones = inverse @ np.ones(n)
    return np.asarray(unconstrained - ones * ((unconstrained.sum() - v1 + v0) / ones.sum()), dtype=np.float64)


def leverage(Z: ArrayLike, y: ArrayLike, v0: ArrayLike, v1: ArrayLike) -> Vector:
    """Credits (n,) by constrained weighted least squares on rows drawn by `leverage`; they sum to v1 - v0.

    A coalition's weight is its Shapley kernel over its probability in the design, so the weighted rows stand
    for all coalitions, and the exhaustive design gives the exact values. A coalition in several rows counts
    once, with the mean of their values. Fewer coalitions than players cannot distinguish all players. The
    credits then are the ones nearest to equal shares that fit, as in `kernelshap`; they are good for a
    ranking at most, and have no interval. Arguments and units as in `kernelshap`. Source: Musco & Witter 2025
    (Leverage SHAP).
    Raises ValuationError for bad input, for the empty or grand coalition among the rows, where sizes with
    much weight have no rows, which never happens in a draw of `leverage`, and where at least as many
    coalitions as players do not distinguish all players.
    """
    rows, y = average_repeats(*checked(Z, y))
    v0, v1 = checked_endpoints(v0, v1)[:2]
    w = _importance_weights(rows)
    if len(rows) < rows.shape[1]:
        return _minimum_norm(rows, y, v0, v1, w)
    return weighted(rows, y, v0, v1, w).phi


def tree_residual(Z: ArrayLike, y: ArrayLike, v0: ArrayLike, v1: ArrayLike) -> Vector:
    """Credits (n,) with the smallest known error from few coalitions; they sum to v1 - v0.

    Boosted trees, cross-fitted with folds of pairs, are a surrogate of the game, and the ridge of `odd_ridge`
    is fitted to their residuals. The trees are scaled by how much they add to the ridge's prediction of
    held-out pairs, which is often nothing. What neither explains on the evaluated coalitions is added in
    proportion to the share of all coalitions that were evaluated, so the exhaustive design gives the exact
    values. With no more
    pairs than players, v1 - v0 is informative about differences too, as in `leverage`, unless it lies far off
    the scale of the pairs. With more pairs, an offset of v0 or v1 does not change differences between
    players. A coalition in several rows counts once, with the mean of their values. Arguments and units as in
    `kernelshap`; rows from `leverage`, whose complementary pairs determine the odd part. There are no
    intervals for these credits; `intervals.hc3` has those of `leverage`.
    Source: Witter, Liu & Musco 2025 (regression-adjusted Monte Carlo estimators).
    Raises ValuationError for bad input, for the empty or grand coalition among the rows, and for sizes
    without rows as `leverage` does.
    """
    rows, y = average_repeats(*checked(Z, y))
    v0, v1 = checked_endpoints(v0, v1)[:2]
    _check_sizes(rows)
    n = rows.shape[1]
    pairs = signed_pairs(rows)
    t = pairs.odd(y)
    endpoint_odd = (v1 - v0) / 2 if len(t) <= n else None
    trees = _tree_estimate(rows, y, pairs, endpoint_odd)
    endpoint_residual = None if endpoint_odd is None else endpoint_odd - trees.phi.sum() / 2
    ridge = fit_ridge(pairs.sign, t - trees.predicted, endpoint_residual)
    unexplained = ridge.residual + trees.predicted - trees.fitted
    phi = trees.phi + ridge.credits + _shapley_of_odd_part(pairs.sign > 0, unexplained)
    return np.asarray(phi + (v1 - v0 - phi.sum()) / n, dtype=np.float64)


def exact(values: ArrayLike) -> Vector:
    """Exact Shapley values (n,) from the value of every coalition.

    values (2**n,): bit i of the index says that player i is in the coalition.
    Raises ValuationError unless the length is a power of two with 1 <= n <= 20 and all values are finite.
    """
    v = finite_array("values", values)
    n = v.size.bit_length() - 1
    if v.ndim != 1 or v.size != 2**n or not 1 <= n <= MAX_EXACT:
        raise ValuationError(
            f"found values of shape {v.shape}, expected (2**n,) with n from 1 to {MAX_EXACT}"
        )
    size = np.bitwise_count(np.arange(v.size, dtype=np.uint32)).astype(np.intp)
    weight = np.array([1.0 / (n * comb(n - 1, s)) for s in range(n)])
    phi = np.empty(n)
    for i in range(n):
        # The value with player i less the value without, for each coalition of the others.
        marginal = np.diff(v.reshape(-1, 2, 2**i), axis=1)[:, 0]
        phi[i] = np.sum(weight[size.reshape(-1, 2, 2**i)[:, 0]] * marginal)
    return phi


class TreeEstimate(NamedTuple):
    """What the trees predict, scaled by how much they add to the ridge's prediction of held-out pairs."""

    phi: Vector  # (n,) credits
    predicted: Vector  # (p,) odd part of each pair, by trees that were not trained on it
    fitted: Vector  # (p,) odd part of each pair, by all trees


def _tree_estimate(
    rows: Coalitions, y: Vector, pairs: SignedPairs, endpoint_odd: float | None
) -> TreeEstimate:
    """The scale is a slope: of the ridge's leave-one-out residuals on those of the trees' predictions.

    It is shrunk towards 0 by its own error (the positive part of 1 - 1/t²), so trees that only fit noise get
    0.
    """
    t = pairs.odd(y)
    zero = TreeEstimate(np.zeros(rows.shape[1]), np.zeros(len(t)), np.zeros(len(t)))
    if len(t) < FEWEST_FOR_TREES:
        return zero
    trees = _cross_fitted_trees(rows, y, pairs)
    ridge = fit_ridge(pairs.sign, t, endpoint_odd)
    phi = trees.forest.shapley(rows.shape[1])
    predicted = pairs.odd(trees.predicted)
    residual = ridge.left_out(t, endpoint_odd or 0.0)
    added = ridge.left_out(predicted, phi.sum() / 2)
    power = added @ added
    if power <= RANK_TOLERANCE * (residual @ residual):
        return zero
    slope = added @ residual / power
    error = np.sqrt(np.sum((added * (residual - slope * added)) ** 2)) / power
    if slope <= error:
        return zero
    scale = slope * (1 - (error / slope) ** 2)
    return TreeEstimate(scale * phi, scale * predicted, scale * pairs.odd(trees.fitted))


def _cross_fitted_trees(rows: Coalitions, y: Vector, pairs: SignedPairs) -> CrossFit:
    """Trees for what the ridge's credits, fitted without each fold, leave of the values.

    The sum of those credits comes from the pairs too, from odd functions of size, so that a v0 far off the
    scale of the other values does not affect the trees. Folds are assigned by the size of odd parts, in turn.
    Credits therefore do not depend on the names of players or the order of rows, except where values tie:
    pairs with equal odd parts are assigned to folds, and splits of equal gain to players, in their order.
    """
    t, n = pairs.odd(y), rows.shape[1]
    fold = np.empty(len(t), dtype=np.intp)
    fold[np.argsort(np.abs(t), kind="stable")] = np.arange(len(t)) % FOLDS
    size_functions = pairs.sign.mean(axis=1)[:, None] ** np.array([1, 3])
    main = np.empty((FOLDS, n))
    for k in range(FOLDS):
        sign, odd = pairs.sign[fold != k], t[fold != k]
        half_gain = np.linalg.lstsq(size_functions[fold != k], odd, rcond=None)[0].sum()
        main[k] = 2 * half_gain / n + fit_ridge(sign, odd).credits
    return cross_fit(rows, y, fold[pairs.pair], main)


def _shapley_of_odd_part(first: Coalitions, odd: Vector) -> Vector:
    """Shapley values (n,) of a game known on some pairs, times the share of proper coalitions that these are.

    The game has the value `odd` (p,) for coalitions `first` (p, n), -odd for their complements, and 0 for all
    others. The share is 1 for the exhaustive design and near 0 where few coalitions were evaluated.
    """
    n, size = first.shape[1], first.sum(axis=1)
    share = np.exp2(np.log2(len(first)) + 1 - n) / (1 - 2.0 ** (1 - n))
    joining = np.exp(betaln(size, n - size + 1))  # (s-1)! (n-s)! / n!
    leaving = np.exp(betaln(size + 1, n - size))  # s! (n-s-1)! / n!
    # The factor 2: the complement, whose value is -odd, adds as much to each credit as the coalition itself.
    return np.asarray(2 * share * ((joining * odd) @ first - (leaving * odd) @ ~first), dtype=np.float64)


class Fit(NamedTuple):
    """The constrained fit, linear in its data: phi = d/n + A (y - v0 - d size/n).

    d = v1 - v0 and size = players in each row. `nuisance` is the number of functions of size that were fitted
    beside the credits.
    """

    phi: Vector  # (n,) credits
    A: Vector  # (n, m) derivative of each credit by the value of each coalition; columns sum to 0
    leverage: Vector  # (m,) diagonal of the hat matrix
    residual: Vector  # (m,) what neither the credits nor the functions of size explain
    nuisance: int


def average_repeats(rows: Coalitions, y: Vector) -> tuple[Coalitions, Vector]:
    """Each coalition of rows (m, n) once, (k, n), and the mean of its values y (m,), (k,)."""
    first, coalition = distinct(rows)
    return rows[first], np.bincount(coalition, weights=y) / np.bincount(coalition)


def constrained(Z: ArrayLike, y: ArrayLike, v0: ArrayLike, v1: ArrayLike) -> Fit:
    """The fit behind `leverage`, with what an interval needs of it. Raises as `leverage` does.

    Its rows are those of `average_repeats`.
    """
    rows, y = average_repeats(*checked(Z, y))
    v0, v1 = checked_endpoints(v0, v1)[:2]
    return weighted(rows, y, v0, v1, _importance_weights(rows))


def _minimum_norm(rows: Coalitions, y: Vector, v0: float, v1: float, w: Vector) -> Vector:
    """The least squares of `weighted` for fewer rows than players; it never forms a matrix (n, n)."""
    n, size = rows.shape[1], rows.sum(axis=1)
    root, equal = np.sqrt(w), (v1 - v0) / n
    U = (rows - size[:, None] / n) * root[:, None]
    inverse = np.linalg.pinv(U @ U.T, rcond=RANK_TOLERANCE, hermitian=True)
    return np.asarray(equal + U.T @ (inverse @ (root * (y - v0 - size * equal))), dtype=np.float64)


def _importance_weights(rows: Coalitions) -> Vector:
    """Shapley kernel over the probability in the `leverage` design, (m,), of distinct rows (m, n)."""
    m, n = rows.shape
    _check_sizes(rows)
    drawn = np.maximum(size_shares("leverage", n, m), np.finfo(float).tiny)
    return np.asarray((size_shares("shapley_kernel", n, m) / drawn)[rows.sum(axis=1)], dtype=np.float64)


def _check_sizes(rows: Coalitions) -> None:
    """Raises ValuationError where the distinct rows (m, n) lack sizes that `leverage` would give them.

    Also for the empty or grand coalition among the rows. `leverage` gives every size of pairs its share to
    within about one pair. The first rows of a design, and a design of which rows were lost, still have some
    of each size.
    """
    size, (m, n) = proper_sizes(rows), rows.shape
    count = np.bincount(size, minlength=n + 1)
    due = 2 * m * size_shares("leverage", n, m) >= EXPECTED_ROWS
    missing = np.flatnonzero((count + count[::-1] == 0) & due)
    refuse_missing_sizes(missing, size_shares("shapley_kernel", n, m)[missing])


def refuse_missing_sizes(sizes: NDArray[np.intp], weight: Vector) -> None:
    """Raises ValuationError where sizes (k,) without coalitions have over a tenth of the weight.

    weight (k,) is the weight of each size.
    """
    total = weight.sum()
    if total > MAX_MISSING_WEIGHT:
        named = sizes[weight > 0].tolist()
        listed = ", ".join(map(str, named[:8])) + (", …" if len(named) > 8 else "")
        raise ValuationError(
            f"found no coalitions of size {listed}, which hold {total:.2f} of the weight, expected at most "
            f"{MAX_MISSING_WEIGHT}: draw them by a design that reaches all sizes (leverage)"
        )


def weighted(rows: Coalitions, y: Vector, v0: float, v1: float, w: Vector, even: int = 0) -> Fit:
    """The fit of `constrained` with these weights (m,) of its rows.

    y is (m,), or (m, k) for k games at once, whose credits and residuals are then columns.
    The first `even` of the even functions of size, 1 and (size - n/2)^2, are fitted too. Where a coalition
    and its complement have different weights, these do not cancel.
    Raises ValuationError when the rows cannot distinguish all players.
    """
    m, n = rows.shape
    size = rows.sum(axis=1)
    # Subtracting the mean of each row solves the constraint: what is left only moves credit between players.
    U = rows - size[:, None] / n
    Q = _size_functions(size, n, w, even)
    scale = np.sum(w * np.sum(U**2, axis=1)) / n
    U = U - Q @ (Q.T @ (U * w[:, None]))
    A = _inverse_on_range((U.T * w) @ U, n - 1, m, scale) @ (U.T * w)
    t = (y.T - v0 - size * ((v1 - v0) / n)).T
    hat_diagonal = np.einsum("ij,ji->i", U, A) + w * np.sum(Q**2, axis=1)
    residual = t - U @ (A @ t) - Q @ (Q.T @ (w * t.T).T)
    return Fit((v1 - v0) / n + A @ t, A, hat_diagonal, residual, Q.shape[1])


def _size_functions(size: NDArray[np.intp], n: int, w: Vector, even: int) -> Vector:
    """Functions of coalition size (m, q), orthonormal under the weights.

    Up to two are odd about n/2, linear and cubic, and `even` are even. A game of sizes alone gives every
    player the same credit, which the constraint already determines. That part of the values is noise for
    differences between players, and large where v0 lies far off the other values, so it is fitted beside the
    credits. Over all coalitions it is orthogonal to them, so the exhaustive fit stays exact. The even part
    cancels in a pair with equal weights. Few pairs allow few odd functions.
    """
    pairs = len(size) // 2
    q = min((n - 1) // 2, 2 if pairs >= 2 * n else 1 if pairs > n else 0)
    off = 2 * size / n - 1
    functions = np.stack([off, off**3, off**0, off**2], axis=1)[:, [*range(q), *range(2, 2 + even)]]
    axes, scale, _ = np.linalg.svd(np.sqrt(w)[:, None] * functions, full_matrices=False)
    return np.asarray(axes[:, scale > RANK_TOLERANCE * scale[:1]] / np.sqrt(w)[:, None], dtype=np.float64)


def _inverse_on_range(gram: NDArray[np.float64], rank: int, m: int, floor: float) -> Vector:
    """Inverse of a Gram matrix on its range, which must have the rank that identifies every player.

    An eigenvalue small beside `floor`, the mean of the diagonal before functions of size were taken out, is
    rounding.
    """
    scale, axes = np.linalg.eigh(gram)
    kept = scale > RANK_TOLERANCE * max(scale[-1], floor)
    if kept.sum() < rank:
        n = len(gram)
        if m < 2 * rank:
            advice = f"draw at least {2 * rank}, in complementary pairs (m)"
        else:
            advice = "take another seed or more of them (m)"
        raise ValuationError(
            f"found m = {m} coalitions that distinguish {kept.sum()} differences, expected {rank} for n = "
            f"{n} players: {advice}"
        )
    return np.asarray((axes[:, kept] / scale[kept]) @ axes[:, kept].T, dtype=np.float64)
