"""Shapley values, and Banzhaf values beside them, from coalition values: METHODS.md §3, after KernelSHAP and Leverage SHAP."""

from math import comb
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from apportion.errors import ValuationError
from apportion.valuation.coalitions import Coalitions, Vector, size_shares

MAX_EXACT = 20  # two to the twenty values; beyond it exact enumeration is a mistake
RANK_TOLERANCE = 1e-10


def kernelshap(Z: ArrayLike, y: ArrayLike, v0: float, v1: float) -> Vector:
    """Credits (n,) by the paper's estimator: least squares on rows drawn by `shapley_kernel`, constrained to sum to v1 - v0.

    Z (m, n) coalitions, y (m,) their values, v0 and v1 the values of nobody and of everybody, all in units of the property.
    The rows carry equal weight because the design already has the kernel as its distribution. A rank-deficient Z is solved
    with the pseudo-inverse, as in the paper: the credits then are the smallest that fit.
    Source: METHODS.md §3. Raises ValuationError for input that is not as stated."""
    rows, y = checked(Z, y)
    v0, v1 = _ends(v0, v1)
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
    the exhaustive design gives the exact values. Arguments and units as in `kernelshap`.
    Source: METHODS.md §3. Raises ValuationError for bad input, for an empty or full coalition among the rows, and when the
    rows cannot tell all players apart."""
    return constrained(Z, y, v0, v1).phi


def exact(values: ArrayLike) -> Vector:
    """Exact Shapley values (n,) from the value of every coalition, values (2**n,): bit i of the index says player i is kept.

    Raises ValuationError unless the length is a power of two with 1 <= n <= 20 and all values are finite."""
    v = _finite("values", values)
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


def banzhaf(Z: ArrayLike, y: ArrayLike, design: str = "uniform", *, v0: float | None = None, v1: float | None = None) -> Vector:
    """Banzhaf values (n,): each player's mean gain over all coalitions of the others, all equally likely.

    They lean on middle sizes, where the cheap game is most faithful (METHODS.md §10), and do NOT sum to v1 - v0: label them.
    Least squares with an intercept, every row weighted by the uniform distribution over its probability in `design`, the
    design Z was drawn from (`uniform` or `leverage`, say). v0 and v1, the values of nobody and of everybody, are two coalitions
    like any other, which `leverage` never draws: with them its exhaustive design gives the exact values. Raises ValuationError
    for bad input, for a design of few sizes (`datamodel`), which says nothing about the others, for v0 or v1 beside a design
    that draws them, and when the rows cannot tell all players apart."""
    rows, y = checked(Z, y)
    m, n = rows.shape
    target, drawn = size_shares("uniform", n, m), size_shares(design, n, m)
    if np.count_nonzero(drawn) < n - 1:
        raise ValuationError(f"found design {design!r}, expected one that reaches every size from 1 to {n - 1}")
    size = rows.sum(axis=1)
    if not drawn[size].all():
        raise ValuationError(f"found coalitions of size {size[drawn[size] == 0][0]}, which design {design!r} never draws")
    w = target[size] / (m * drawn[size])
    for end, value in ((0, v0), (n, v1)):
        if value is not None:
            if drawn[end]:
                raise ValuationError(f"found v{int(end > 0)} beside design {design!r}, which draws that coalition itself, expected none")
            rows, y, w = np.vstack([rows, np.full(n, end > 0)]), np.append(y, _finite("v0, v1", value)), np.append(w, target[end])
    X = rows - (w @ rows) / w.sum()
    return np.asarray(_inverse((X.T * w) @ X, n, m) @ (X.T @ (w * (y - (w @ y) / w.sum()))), dtype=np.float64)


class Fit(NamedTuple):
    """The constrained fit, linear in its data: phi = d/n + A (y - v0 - d size/n) with d = v1 - v0 and size = players in each row.

    `nuisance` is how many functions of size alone were taken out of the values beside the credits."""

    phi: Vector  # (n,) credits
    A: Vector  # (n, m) how each coalition's value moves each credit; columns sum to 0
    leverage: Vector  # (m,) diagonal of the hat matrix
    residual: Vector  # (m,) what neither the credits nor the functions of size explain
    nuisance: int


def constrained(Z: ArrayLike, y: ArrayLike, v0: float, v1: float) -> Fit:
    """The fit behind `leverage`, with what an interval needs of it. Raises as `leverage` does."""
    rows, y = checked(Z, y)
    v0, v1 = _ends(v0, v1)
    m, n = rows.shape
    size = rows.sum(axis=1)
    if np.any((size == 0) | (size == n)):
        raise ValuationError(f"found a coalition of nobody or of all {n} players among the rows; those two values are v0 and v1")
    w = (size_shares("shapley_kernel", n, m) / np.maximum(size_shares("leverage", n, m), np.finfo(float).tiny))[size]
    # Taking the mean out of each row solves the constraint: what is left can only move credit between players.
    U = rows - size[:, None] / n
    Q = _of_size_alone(size, n, w)
    U = U - Q @ (Q.T @ (U * w[:, None]))
    A = _inverse((U.T * w) @ U, n - 1, m) @ (U.T * w)
    t = y - v0 - size * ((v1 - v0) / n)
    leverage = np.einsum("ij,ji->i", U, A) + w * np.sum(Q**2, axis=1)
    return Fit((v1 - v0) / n + A @ t, A, leverage, t - U @ (A @ t) - Q @ (Q.T @ (w * t)), Q.shape[1])


def _of_size_alone(size: NDArray[np.intp], n: int, w: Vector) -> Vector:
    """Up to two functions of a coalition's size (m, q), orthonormal under the weights: odd about n/2, linear and cubic.

    A game of sizes alone gives every player the same credit, which the constraint already hands out. Such a part of the values
    is noise to the differences between players, and much of it where nobody's value lies far off the others' (METHODS.md §10),
    so it is fitted beside them. Over all coalitions it is orthogonal to them: the exhaustive fit stays exact. The even part
    needs no function, since it cancels in a pair. Few pairs afford few functions."""
    pairs = len(size) // 2
    q = min((n - 1) // 2, 2 if pairs >= 2 * n else 1 if pairs > n else 0)
    off = size - n / 2
    axes, scale, _ = np.linalg.svd(np.sqrt(w)[:, None] * np.stack([off, off**3], axis=1)[:, :q], full_matrices=False)
    return np.asarray(axes[:, scale > RANK_TOLERANCE * scale[:1]] / np.sqrt(w)[:, None], dtype=np.float64)


def checked(Z: ArrayLike, y: ArrayLike) -> tuple[Coalitions, Vector]:
    """Z as bool (m, n) and y as finite floats (m,), or a ValuationError that says what is wrong."""
    raw = np.asarray(Z)
    if raw.ndim != 2 or raw.shape[0] < 1 or raw.shape[1] < 2:
        raise ValuationError(f"found Z of shape {raw.shape}, expected (m, n): m >= 1 coalitions of n >= 2 players")
    if raw.dtype.kind not in "biuf" or (raw.dtype.kind != "b" and not np.all((raw == 0) | (raw == 1))):
        raise ValuationError(f"found Z of {raw.dtype} with other entries than 0 and 1, expected booleans")
    values = _finite("y", y)
    if values.shape != raw.shape[:1]:
        raise ValuationError(f"found y of shape {values.shape}, expected ({raw.shape[0]},): one value for each row of Z")
    return raw.astype(bool), values


def _ends(v0: float, v1: float) -> tuple[float, float]:
    ends = _finite("v0, v1", [v0, v1])
    if ends.shape != (2,):
        raise ValuationError(f"found v0, v1 of shape {ends.shape}, expected two single numbers")
    return float(ends[0]), float(ends[1])


def _finite(name: str, values: Any) -> Vector:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValuationError(f"found {name} that is no array of numbers, expected finite numbers") from None
    bad = np.count_nonzero(~np.isfinite(array))
    if bad:
        raise ValuationError(f"found {bad} of {array.size} numbers in {name} not finite, expected all finite")
    return array


def _inverse(gram: NDArray[np.float64], rank: int, m: int) -> Vector:
    """Inverse of a Gram matrix on its range, which must have exactly the rank that identifies every player."""
    scale, axes = np.linalg.eigh(gram)
    kept = scale > RANK_TOLERANCE * scale[-1]
    if kept.sum() < rank:
        n = len(gram)
        raise ValuationError(
            f"found m = {m} coalitions that tell {kept.sum()} differences apart, expected {rank} for n = {n} players: "
            f"draw at least {2 * rank} coalitions in complementary pairs (m)"
        )
    return np.asarray((axes[:, kept] / scale[kept]) @ axes[:, kept].T, dtype=np.float64)
