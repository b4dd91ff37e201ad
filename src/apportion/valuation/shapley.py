"""Shapley values from coalition values: METHODS.md §3, after KernelSHAP and Leverage SHAP."""

from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaln

from apportion.errors import ValuationError
from apportion.valuation.coalitions import Coalitions, Vector, distinct, size_shares
from apportion.valuation.inputs import checked, ends, finite, proper_sizes
from apportion.valuation.odd_ridge import Pairs, fit, grouped
from apportion.valuation.trees import CrossFit, cross_fit

MAX_EXACT = 20  # two to the twenty values; beyond it exact enumeration is a mistake
RANK_TOLERANCE = 1e-10
FOLDS = 5
FEWEST_FOR_TREES = 20  # pairs; fewer never told the trees anything
UNSEEN = 0.1  # of the kernel's weight, at most, may lie on sizes without a coalition where EXPECTED should have come
EXPECTED = 8  # coalitions of a size or of its complements' size: however many rows were lost, some of so many are left


def kernelshap(Z: ArrayLike, y: ArrayLike, v0: ArrayLike, v1: ArrayLike) -> Vector:
    """Credits (n,) by the paper's estimator: least squares on rows drawn by `shapley_kernel`, constrained to sum to v1 - v0.

    Z (m, n) coalitions, y (m,) their values, v0 and v1 the values of nobody and of everybody, each a number or the values
    of its seeds (seeds,), of which the mean counts; all in units of the property.
    The rows carry equal weight because the design already has the kernel as its distribution. A rank-deficient Z is solved
    with the pseudo-inverse, as in the paper: the credits then are the smallest that fit.
    Source: METHODS.md §3. Raises ValuationError for input that is not as stated."""
    rows, y = checked(Z, y)
    v0, v1 = ends(v0, v1)[:2]
    if not rows.any():
        raise ValuationError(f"found {len(rows)} empty coalitions, expected at least one with a player in it")
    X = rows.astype(np.float64)
    m, n = X.shape
    inverse = np.linalg.pinv(X.T @ X / m, rcond=RANK_TOLERANCE, hermitian=True)
    free, ones = inverse @ (X.T @ (y - v0) / m), inverse @ np.ones(n)
    return np.asarray(free - ones * ((free.sum() - v1 + v0) / ones.sum()), dtype=np.float64)


def leverage(Z: ArrayLike, y: ArrayLike, v0: ArrayLike, v1: ArrayLike) -> Vector:
    """Credits (n,) by constrained weighted least squares on rows drawn by `leverage`; they sum to v1 - v0.

    Each coalition weighs its Shapley kernel over its probability in the design, so the weighted coalitions stand for all, and
    the exhaustive design gives the exact values. One that comes in several rows counts once, with their mean. Fewer than there are
    players cannot tell them apart: the credits then are those nearest to equal shares that fit, as in `kernelshap`, good for a ranking
    at most, and no interval is given for them.
    Arguments and units as in `kernelshap`. Source: METHODS.md §3; Musco & Witter 2025. Raises ValuationError for bad input, for an
    empty or full coalition among the rows, for many rows of which none have sizes that matter, which no draw of `leverage` gives,
    and when as many coalitions as players or more do not tell all players apart."""
    rows, y = once(*checked(Z, y))
    v0, v1 = ends(v0, v1)[:2]
    w = _importance(rows)
    return _smallest(rows, y, v0, v1, w) if len(rows) < rows.shape[1] else weighted(rows, y, v0, v1, w).phi


def tree_residual(Z: ArrayLike, y: ArrayLike, v0: ArrayLike, v1: ArrayLike) -> Vector:
    """Credits (n,), the closest that are known from few coalitions; they sum to v1 - v0. For intervals see `intervals.hc3`.

    Boosted trees stand in for the game, cross-fitted with folds of pairs, and the ridge of `odd_ridge` for what they leave. The
    trees count for as much as they add to what that ridge predicts of pairs left out, often nothing. What neither explains of
    the coalitions seen counts for the share of all coalitions that were seen, so that the exhaustive design gives the exact values.
    With no more pairs than players v1 - v0 tells of differences too, as in `leverage`, unless it lies far off the scale of the pairs;
    with more, an offset of v0 or v1 moves nothing between players. A coalition that comes in several rows counts once, with their mean.
    Arguments and units as in `kernelshap`; rows from `leverage`, whose complements tell the odd part; others are worth less.
    Source: METHODS.md §3; Witter, Liu & Musco 2025 (regression-adjusted Monte Carlo estimators).
    Raises ValuationError for bad input, for an empty or full coalition among the rows, and for sizes without rows as `leverage` does."""
    rows, y = once(*checked(Z, y))
    v0, v1 = ends(v0, v1)[:2]
    _proper(rows)
    seen, n = grouped(rows), rows.shape[1]
    t = seen.odd(y)
    everybody = (v1 - v0) / 2 if len(t) <= n else None
    trees = _trees(rows, y, seen, everybody)
    ridge = fit(seen.sign, t - trees.predicted, None if everybody is None else everybody - trees.phi.sum() / 2)
    unexplained = ridge.residual + trees.predicted - trees.fitted
    phi = trees.phi + ridge.credits + _imputed(seen.sign > 0, unexplained)
    return np.asarray(phi + (v1 - v0 - phi.sum()) / n, dtype=np.float64)


def interactions(Z: ArrayLike, y: ArrayLike, v0: ArrayLike, v1: ArrayLike) -> Vector:
    """Shapley interaction indices of all pairs (n, n) as boosted trees have them: which players stand in for each other (below 0) or
    need each other (above 0). A point estimate from a stand-in for the game, without an interval: label it so.

    Arguments and errors as in `tree_residual`; too few pairs of coalitions for trees are refused."""
    rows, y = once(*checked(Z, y))
    ends(v0, v1)
    _proper(rows)
    seen = grouped(rows)
    if (p := len(seen.sign)) < FEWEST_FOR_TREES:
        raise ValuationError(f"found {p} pairs of coalitions, expected at least {FEWEST_FOR_TREES} for trees: draw more coalitions (m)")
    return _grown(rows, y, seen).forest.interactions(rows.shape[1])


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


def _trees(rows: Coalitions, y: Vector, seen: Pairs, everybody: float | None) -> Trees:
    """The trees' worth is the slope of what the ridge misses of pairs left out on what it misses of the trees' predictions: of what
    they add to it. It is drawn towards 0 by its own error (the positive part of 1 - 1/t²): trees that only fit noise get nothing."""
    t, nothing = seen.odd(y), Trees(np.zeros(rows.shape[1]), np.zeros(len(seen.sign)), np.zeros(len(seen.sign)))
    if len(t) < FEWEST_FOR_TREES:
        return nothing
    grown, ridge = _grown(rows, y, seen), fit(seen.sign, t, everybody)
    phi, predicted = grown.forest.shapley(rows.shape[1]), seen.odd(grown.predicted)
    missed, added = ridge.left_out(t, everybody or 0.0), ridge.left_out(predicted, phi.sum() / 2)
    power = added @ added
    if power <= RANK_TOLERANCE * (missed @ missed):
        return nothing
    slope = added @ missed / power
    error = np.sqrt(np.sum((added * (missed - slope * added)) ** 2)) / power
    if slope <= error:
        return nothing
    worth = slope * (1 - (error / slope) ** 2)
    return Trees(worth * phi, worth * predicted, worth * seen.odd(grown.fitted))


def _grown(rows: Coalitions, y: Vector, seen: Pairs) -> CrossFit:
    """Trees for what the credits of the ridge, fitted without each fold, leave of the values.

    What the credits sum to is read off the pairs as well, from odd functions of size, so that no value of nobody off the scale is
    left to the trees. Folds are by the size of odd parts, in turn: neither the names of players nor the order of rows decides what they
    are paid, but where values tie: odd parts that are equal fall to folds, and splits of equal gain to players, in their order."""
    t, n = seen.odd(y), rows.shape[1]
    fold = np.empty(len(t), dtype=np.intp)
    fold[np.argsort(np.abs(t), kind="stable")] = np.arange(len(t)) % FOLDS
    of_size = seen.sign.mean(axis=1)[:, None] ** np.array([1, 3])
    main = np.empty((FOLDS, n))
    for k in range(FOLDS):
        sign, odd = seen.sign[fold != k], t[fold != k]
        half = np.linalg.lstsq(of_size[fold != k], odd, rcond=None)[0].sum()
        main[k] = 2 * half / n + fit(sign, odd).credits
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


def once(rows: Coalitions, y: Vector) -> tuple[Coalitions, Vector]:
    """Each coalition of rows (m, n) once, (k, n), and the mean of its values y (m,), (k,)."""
    first, of = distinct(rows)
    return rows[first], np.bincount(of, weights=y) / np.bincount(of)


def constrained(Z: ArrayLike, y: ArrayLike, v0: ArrayLike, v1: ArrayLike) -> Fit:
    """The fit behind `leverage` of the coalitions in `once`, with what an interval needs of it. Raises as `leverage` does."""
    rows, y = once(*checked(Z, y))
    v0, v1 = ends(v0, v1)[:2]
    return weighted(rows, y, v0, v1, _importance(rows))


def _smallest(rows: Coalitions, y: Vector, v0: float, v1: float, w: Vector) -> Vector:
    """The least squares of `weighted` for fewer rows than players, in memory that the rows take and no square of the players."""
    n, size = rows.shape[1], rows.sum(axis=1)
    root, equal = np.sqrt(w), (v1 - v0) / n
    U = (rows - size[:, None] / n) * root[:, None]
    inverse = np.linalg.pinv(U @ U.T, rcond=RANK_TOLERANCE, hermitian=True)
    return np.asarray(equal + U.T @ (inverse @ (root * (y - v0 - size * equal))), dtype=np.float64)


def _importance(rows: Coalitions) -> Vector:
    """Shapley kernel over the probability in the `leverage` design, (m,): how much a row stands for where none comes twice."""
    m, n = rows.shape
    _proper(rows)
    drawn = np.maximum(size_shares("leverage", n, m), np.finfo(float).tiny)
    return np.asarray((size_shares("shapley_kernel", n, m) / drawn)[rows.sum(axis=1)], dtype=np.float64)


def _proper(rows: Coalitions) -> None:
    """Raises ValuationError for nobody or everybody among the rows, (m, n) none twice, and for sizes that so many rows of `leverage`
    would have: it gives every size of pairs its share to within about one pair. Prefixes and rows with partners lost have some still."""
    size, (m, n) = proper_sizes(rows), rows.shape
    count = np.bincount(size, minlength=n + 1)
    missed = np.flatnonzero((count + count[::-1] == 0) & (2 * m * size_shares("leverage", n, m) >= EXPECTED))
    refuse_unseen(missed, size_shares("shapley_kernel", n, m)[missed])


def refuse_unseen(sizes: NDArray[np.intp], weight: Vector) -> None:
    """Raises ValuationError where sizes (k,) of which there are no coalitions hold over a tenth of the weight, theirs being (k,)."""
    if (total := weight.sum()) > UNSEEN:
        weighty = sizes[weight > 0].tolist()
        raise ValuationError(
            f"found no coalitions of size {', '.join(map(str, weighty[:8]))}{', …' if len(weighty) > 8 else ''}, which hold {total:.2f} "
            f"of the weight, expected at most {UNSEEN}: draw them by a design that reaches all sizes (leverage)"
        )


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


def _inverse(gram: NDArray[np.float64], rank: int, m: int, floor: float) -> Vector:
    """Inverse of a Gram matrix on its range, which must have exactly the rank that identifies every player.

    What is small beside `floor`, the mean of the diagonal before functions of size were taken out, is rounding and no range."""
    scale, axes = np.linalg.eigh(gram)
    kept = scale > RANK_TOLERANCE * max(scale[-1], floor)
    if kept.sum() < rank:
        n = len(gram)
        raise ValuationError(
            f"found m = {m} coalitions that tell {kept.sum()} differences apart, expected {rank} for n = {n} players: "
            + (f"draw at least {2 * rank}, in complementary pairs (m)" if m < 2 * rank else "take another seed or more of them (m)")
        )
    return np.asarray((axes[:, kept] / scale[kept]) @ axes[:, kept].T, dtype=np.float64)
