"""Shapley values from coalition values: METHODS.md §3, after KernelSHAP and Leverage SHAP."""

from math import comb
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaln

from apportion.errors import ValuationError
from apportion.valuation.coalitions import Coalitions, Vector, size_shares
from apportion.valuation.odd_ridge import Pairs, fit, grouped
from apportion.valuation.trees import CrossFit, cross_fit

MAX_EXACT = 20  # two to the twenty values; beyond it exact enumeration is a mistake
RANK_TOLERANCE = 1e-10
FOLDS = 5
FEWEST_FOR_TREES = 20  # pairs; fewer never told the trees anything


def kernelshap(Z: ArrayLike, y: ArrayLike, v0: float, v1: float) -> Vector:
    """Credits (n,) by the paper's estimator: least squares on rows drawn by `shapley_kernel`, constrained to sum to v1 - v0.

    Z (m, n) coalitions, y (m,) their values, v0 and v1 the values of nobody and of everybody, all in units of the property.
    The rows carry equal weight because the design already has the kernel as its distribution. A rank-deficient Z is solved
    with the pseudo-inverse, as in the paper: the credits then are the smallest that fit.
    Source: METHODS.md §3. Raises ValuationError for input that is not as stated."""
    rows, y = checked(Z, y)
    v0, v1 = ends(v0, v1)
    if not rows.any():
        raise ValuationError(f"found {len(rows)} empty coalitions, expected at least one with a player in it")
    X = rows.astype(np.float64)
    m, n = X.shape
    inverse = np.linalg.pinv(X.T @ X / m, rcond=RANK_TOLERANCE, hermitian=True)
    free, ones = inverse @ (X.T @ (y - v0) / m), inverse @ np.ones(n)
    return np.asarray(free - ones * ((free.sum() - v1 + v0) / ones.sum()), dtype=np.float64)


def leverage(Z: ArrayLike, y: ArrayLike, v0: float, v1: float) -> Vector:
    """Credits (n,) by constrained weighted least squares on rows drawn by `leverage`; they sum to v1 - v0.

    Each row weighs its Shapley kernel over its probability in the design, so the weighted rows stand for all coalitions, and
    the exhaustive design gives the exact values. Fewer rows than players cannot tell them apart: the credits then are those nearest
    to equal shares that fit, as in `kernelshap`, good for a ranking at most, and no interval is given for them.
    Arguments and units as in `kernelshap`. Source: METHODS.md §3; Musco & Witter 2025. Raises ValuationError for bad input, for an
    empty or full coalition among the rows, and when as many rows as players or more do not tell all players apart."""
    if np.ndim(Z) == 2 and np.shape(Z)[0] < np.shape(Z)[1]:
        return _smallest(Z, y, v0, v1)
    return constrained(Z, y, v0, v1).phi


def tree_residual(Z: ArrayLike, y: ArrayLike, v0: float, v1: float) -> Vector:
    """Credits (n,), the closest that are known from few coalitions; they sum to v1 - v0. For intervals see `intervals.hc3`.

    Boosted trees stand in for the game, cross-fitted with folds of pairs, and the ridge of `odd_ridge` for what they leave. The
    trees count for as much as they add to what that ridge predicts of pairs left out, often nothing. What neither explains of
    the coalitions seen counts for the share of all coalitions that were seen, so that the exhaustive design gives the exact values.
    Arguments and units as in `kernelshap`; rows from `leverage`, whose complements tell the odd part; others are worth less.
    Source: METHODS.md §3; Witter, Liu & Musco 2025 (regression-adjusted Monte Carlo estimators).
    Raises ValuationError for bad input and for an empty or full coalition among the rows."""
    rows, y = checked(Z, y)
    v0, v1 = ends(v0, v1)
    proper_sizes(rows)
    seen = grouped(rows)
    t = seen.odd(y)
    trees = _trees(rows, y, seen, (v1 - v0) / rows.shape[1])
    rest = t - trees.predicted
    ridge = fit(seen.sign, rest)
    unexplained = t - trees.fitted - (rest - ridge.residual(rest))
    phi = trees.phi + ridge.credits(rest) + _imputed(seen.sign > 0, unexplained)
    return np.asarray(phi + (v1 - v0 - phi.sum()) / phi.size, dtype=np.float64)


def interactions(Z: ArrayLike, y: ArrayLike, v0: float, v1: float) -> Vector:
    """Shapley interaction indices of all pairs (n, n) as boosted trees have them: which players stand in for each other (below 0) or
    need each other (above 0). A point estimate from a stand-in for the game, without an interval: label it so.

    Arguments and errors as in `tree_residual`; too few pairs of coalitions for trees are refused."""
    rows, y = checked(Z, y)
    v0, v1 = ends(v0, v1)
    proper_sizes(rows)
    seen = grouped(rows)
    if (p := len(seen.sign)) < FEWEST_FOR_TREES:
        raise ValuationError(f"found {p} pairs of coalitions, expected at least {FEWEST_FOR_TREES} for trees: draw more coalitions (m)")
    return _grown(rows, y, seen, (v1 - v0) / rows.shape[1]).forest.interactions(rows.shape[1])


def exact(values: ArrayLike) -> Vector:
    """Exact Shapley values (n,) from the value of every coalition, values (2**n,): bit i of the index says player i is kept.

    Raises ValuationError unless the length is a power of two with 1 <= n <= 20 and all values are finite."""
    v = finite("values", values)
    n = v.size.bit_length() - 1
    if v.ndim != 1 or v.size != 2**n or not 1 <= n <= MAX_EXACT:
        raise ValuationError(f"found values of shape {v.shape}, expected (2**n,) with n from 1 to {MAX_EXACT}")
    size = np.bitwise_count(np.arange(v.size, dtype=np.uint32)).astype(np.intp)
    weight = np.array([1.0 / (n * comb(n - 1, s)) for s in range(n)])
    phi = np.empty(n)
    for i in range(n):
        gain = np.diff(v.reshape(-1, 2, 2**i), axis=1)[:, 0]  # with player i less without, everyone else alike
        phi[i] = np.sum(weight[size.reshape(-1, 2, 2**i)[:, 0]] * gain)
    return phi


class Trees(NamedTuple):
    """What trees say of a game, each by as much as the trees are worth."""

    phi: Vector  # (n,) credits
    predicted: Vector  # (p,) odd part of each pair, by trees that never saw it
    fitted: Vector  # (p,) and by all trees


def _trees(rows: Coalitions, y: Vector, seen: Pairs, equal: float) -> Trees:
    """The trees' worth is the slope of what the ridge misses of pairs left out on what it misses of the trees' predictions: of what
    they add to it. It is drawn towards 0 by its own error (the positive part of 1 - 1/t²): trees that only fit noise get nothing."""
    t, nothing = seen.odd(y), Trees(np.zeros(rows.shape[1]), np.zeros(len(seen.sign)), np.zeros(len(seen.sign)))
    if len(t) < FEWEST_FOR_TREES:
        return nothing
    grown, ridge = _grown(rows, y, seen, equal), fit(seen.sign, t)
    predicted = seen.odd(grown.predicted)
    missed, added = ridge.left_out(t), ridge.left_out(predicted)
    power = added @ added
    if power <= RANK_TOLERANCE * (missed @ missed):
        return nothing
    slope = added @ missed / power
    error = np.sqrt(np.sum((added * (missed - slope * added)) ** 2)) / power
    if slope <= error:
        return nothing
    worth = slope * (1 - (error / slope) ** 2)
    return Trees(worth * grown.forest.shapley(rows.shape[1]), worth * predicted, worth * seen.odd(grown.fitted))


def _grown(rows: Coalitions, y: Vector, seen: Pairs, equal: float) -> CrossFit:
    """Trees for what the credits of the ridge, fitted without each fold, leave of the values.

    Folds are by the size of odd parts, in turn: neither the names of players nor the order of rows decides what they are paid."""
    t = seen.odd(y)
    fold = np.empty(len(t), dtype=np.intp)
    fold[np.argsort(np.abs(t), kind="stable")] = np.arange(len(t)) % FOLDS
    main = np.empty((FOLDS, rows.shape[1]))
    for k in range(FOLDS):
        main[k] = equal + fit(seen.sign[fold != k], t[fold != k]).credits(t[fold != k])
    return cross_fit(rows, y, fold[seen.of], main)


def _imputed(first: Coalitions, odd: Vector) -> Vector:
    """Shapley values (n,) of the game that is worth `odd` (p,) to coalitions `first` (p, n), -odd to their complements and 0 to others,
    times the share of all proper coalitions that these are: all of it where nothing is unseen, nothing where nearly everything is."""
    n, size = first.shape[1], first.sum(axis=1)
    share = np.exp2(np.log2(len(first)) + 1 - n) / (1 - 2.0 ** (1 - n))
    joining, leaving = np.exp(betaln(size, n - size + 1)), np.exp(betaln(size + 1, n - size))  # (s-1)! (n-s)! / n!, s! (n-s-1)! / n!
    # Its members gain by completing the coalition what the others gain by not completing the complement, hence twice.
    return np.asarray(2 * share * ((joining * odd) @ first - (leaving * odd) @ ~first), dtype=np.float64)


class Fit(NamedTuple):
    """The constrained fit, linear in its data: phi = d/n + A (y - v0 - d size/n) with d = v1 - v0 and size = players in each row.

    `nuisance` is how many functions of size alone were taken out of the values beside the credits."""

    phi: Vector  # (n,) credits
    A: Vector  # (n, m) how each coalition's value moves each credit; columns sum to 0
    leverage: Vector  # (m,) diagonal of the hat matrix
    residual: Vector  # (m,) what neither the credits nor the functions of size explain
    nuisance: int


def _smallest(Z: ArrayLike, y: ArrayLike, v0: float, v1: float) -> Vector:
    """The least squares of `constrained` for fewer rows than players, in memory that the rows take and no square of the players."""
    rows, y = checked(Z, y)
    v0, v1 = ends(v0, v1)
    size = proper_sizes(rows)
    root, equal = np.sqrt(_importance(size, *rows.shape)), (v1 - v0) / rows.shape[1]
    U = (rows - size[:, None] / rows.shape[1]) * root[:, None]
    inverse = np.linalg.pinv(U @ U.T, rcond=RANK_TOLERANCE, hermitian=True)
    return np.asarray(equal + U.T @ (inverse @ (root * (y - v0 - size * equal))), dtype=np.float64)


def constrained(Z: ArrayLike, y: ArrayLike, v0: float, v1: float) -> Fit:
    """The fit behind `leverage`, with what an interval needs of it. Raises as `leverage` does."""
    rows, y = checked(Z, y)
    v0, v1 = ends(v0, v1)
    return weighted(rows, y, v0, v1, _importance(proper_sizes(rows), *rows.shape))


def _importance(size: NDArray[np.intp], m: int, n: int) -> Vector:
    """Shapley kernel over the probability in the `leverage` design, (m,): how much a row of this size stands for."""
    drawn = np.maximum(size_shares("leverage", n, m), np.finfo(float).tiny)
    return np.asarray((size_shares("shapley_kernel", n, m) / drawn)[size], dtype=np.float64)


def weighted(rows: Coalitions, y: Vector, v0: float, v1: float, w: Vector, even: int = 0) -> Fit:
    """The fit of `constrained` with these weights (m,) of its rows.

    The first `even` of the even functions of size, 1 and (size - n/2)^2, are fitted too: with weights that differ between a
    coalition and its complement they do not cancel. Raises ValuationError when the rows cannot tell all players apart."""
    m, n = rows.shape
    size = rows.sum(axis=1)
    # Taking the mean out of each row solves the constraint: what is left can only move credit between players.
    U = rows - size[:, None] / n
    Q = _of_size_alone(size, n, w, even)
    scale = np.sum(w * np.sum(U**2, axis=1)) / n
    U = U - Q @ (Q.T @ (U * w[:, None]))
    A = _inverse((U.T * w) @ U, n - 1, m, scale) @ (U.T * w)
    t = y - v0 - size * ((v1 - v0) / n)
    leverage = np.einsum("ij,ji->i", U, A) + w * np.sum(Q**2, axis=1)
    return Fit((v1 - v0) / n + A @ t, A, leverage, t - U @ (A @ t) - Q @ (Q.T @ (w * t)), Q.shape[1])


def _of_size_alone(size: NDArray[np.intp], n: int, w: Vector, even: int) -> Vector:
    """Functions of a coalition's size (m, q), orthonormal under the weights: up to two odd about n/2, linear and cubic, and `even` even.

    A game of sizes alone gives every player the same credit, which the constraint already hands out. Such a part of the values
    is noise to the differences between players, and much of it where nobody's value lies far off the others' (METHODS.md §10),
    so it is fitted beside them. Over all coalitions it is orthogonal to them: the exhaustive fit stays exact. The even part
    cancels in a pair of like weights. Few pairs afford few odd functions."""
    pairs = len(size) // 2
    q = min((n - 1) // 2, 2 if pairs >= 2 * n else 1 if pairs > n else 0)
    off = 2 * size / n - 1
    functions = np.stack([off, off**3, off**0, off**2], axis=1)[:, [*range(q), *range(2, 2 + even)]]
    axes, scale, _ = np.linalg.svd(np.sqrt(w)[:, None] * functions, full_matrices=False)
    return np.asarray(axes[:, scale > RANK_TOLERANCE * scale[:1]] / np.sqrt(w)[:, None], dtype=np.float64)


def checked(Z: ArrayLike, y: ArrayLike) -> tuple[Coalitions, Vector]:
    """Z as bool (m, n) and y as finite floats (m,), or a ValuationError that says what is wrong."""
    raw = np.asarray(Z)
    if raw.ndim != 2 or raw.shape[0] < 1 or raw.shape[1] < 2:
        raise ValuationError(f"found Z of shape {raw.shape}, expected (m, n): m >= 1 coalitions of n >= 2 players")
    if raw.dtype.kind not in "biuf" or (raw.dtype.kind != "b" and not np.all((raw == 0) | (raw == 1))):
        raise ValuationError(f"found Z of {raw.dtype} with other entries than 0 and 1, expected booleans")
    values = finite("y", y)
    if values.shape != raw.shape[:1]:
        raise ValuationError(f"found y of shape {values.shape}, expected ({raw.shape[0]},): one value for each row of Z")
    return raw.astype(bool), values


def proper_sizes(rows: Coalitions) -> NDArray[np.intp]:
    """Players in each row (m,), or a ValuationError where that is nobody or everybody."""
    n, size = rows.shape[1], rows.sum(axis=1)
    if np.any((size == 0) | (size == n)):
        raise ValuationError(f"found a coalition of nobody or of all {n} players among the rows; those two values are v0 and v1")
    return np.asarray(size, dtype=np.intp)


def ends(v0: float, v1: float) -> tuple[float, float]:
    """v0 and v1 as finite numbers, or a ValuationError."""
    both = finite("v0, v1", [v0, v1])
    if both.shape != (2,):
        raise ValuationError(f"found v0, v1 of shape {both.shape}, expected two single numbers")
    return float(both[0]), float(both[1])


def finite(name: str, values: Any) -> Vector:
    """The values as an array of finite floats, or a ValuationError that names them."""
    try:
        raw = np.asanyarray(values)
        if raw.dtype.kind not in "biuf" or np.ma.is_masked(raw):
            raise TypeError
        array = np.asarray(raw, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValuationError(f"found {name} that is no array of numbers, expected finite real numbers, none of them masked") from None
    bad = np.count_nonzero(~np.isfinite(array))
    if bad:
        raise ValuationError(f"found {bad} of {array.size} numbers in {name} not finite, expected all finite")
    return array


def _inverse(gram: NDArray[np.float64], rank: int, m: int, floor: float) -> Vector:
    """Inverse of a Gram matrix on its range, which must have exactly the rank that identifies every player.

    What is small beside `floor`, the mean of the diagonal before functions of size were taken out, is rounding and no range."""
    scale, axes = np.linalg.eigh(gram)
    kept = scale > RANK_TOLERANCE * max(scale[-1], floor)
    if kept.sum() < rank:
        n = len(gram)
        raise ValuationError(
            f"found m = {m} coalitions that tell {kept.sum()} differences apart, expected {rank} for n = {n} players: "
            f"draw at least {2 * rank} coalitions in complementary pairs (m)"
        )
    return np.asarray((axes[:, kept] / scale[kept]) @ axes[:, kept].T, dtype=np.float64)
