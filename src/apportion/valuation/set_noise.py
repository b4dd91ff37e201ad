"""Credits and their errors where coalitions share sets of weights, as with the removal method `experts`.

All coalitions of one set share the noise of its training, which no residual shows: a set r moves the credits
of every coalition by its own beta_r. The odd parts D of pairs of coalitions follow a mixed model

D = u' phi + functions of size + (z - 1/2)' beta_r + e, beta_r of variance lambda sigma^2, e of sigma^2 / w,

with z a coalition, u = z less its share of players and w the weight of its pair. lambda is the restricted
maximum-likelihood estimate (REML, Patterson & Thompson 1971), and phi generalised least squares. With lambda
= 0 it is the fit of `shapley.leverage`.

Errors do not rely on that model. Residuals of pairs, as in `intervals`, give a variance of each credit that
is estimated well, and sums of residuals over each set one that holds whatever the sets share, with only R - 1
degrees of freedom (both HC2: Bell & McCaffrey 2002). The ratio of the two is the same for all players except
for chance and for players whose experts are noisier than others'. It is therefore moderated: drawn towards
the value of all players by empirical Bayes (Smyth 2004, Linear models and empirical Bayes methods for
assessing differential expression, sections 3 and 6.2), and never below 1. See docs/methods.md, section
"Intervals and ranks".
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import digamma, polygamma
from scipy.stats import f as f_distribution

from apportion.errors import ValuationError
from apportion.valuation.coalitions import Coalitions, Vector, complementary_pairs, size_shares
from apportion.valuation.inputs import proper_sizes

FEWEST_SETS = 3
LOG_LAMBDA = (-12.0, 8.0)  # bounds of the logarithm of lambda that is searched; 0 is tried as well
FEWEST_TO_COMPARE = 5  # players, before one of them is compared with the others
IMPROBABLE = 0.02  # chance that a player's set errors are as large, below which they are its own
LARGE_DOF = 1e6  # in place of infinitely many
FULL = 1e-8  # where 1 - leverage of a pair, or of a direction of a set, is below this, nothing is left of it
ALIKE = 1e-10  # functions of size that differ by less than this share of their size are one function
BLOCK = 256  # pairs of coalitions whose part of the hat matrix is in memory at once


class SetFit(NamedTuple):
    """Credits with the errors that pairs cause, each player's scaled for the noise of sets."""

    phi: Vector  # (n,)
    shift: Vector  # (n, pairs); infinite where the error cannot be estimated
    pair: NDArray[np.intp]  # (m,) the pair of each row
    dof: Vector  # (n,) degrees of freedom
    slopes: Vector  # (n, 2) derivatives of the credits by v0 and by v1


def checked_sets(sets: ArrayLike, rows: Coalitions) -> NDArray[np.intp]:
    """The set of weights of each of the rows (m, n), (m,).

    Raises ValuationError unless these are whole numbers, one for each row, and all rows of a coalition and of
    its complement are of one set.
    """
    try:
        array = np.asarray(sets)
    except ValueError:
        array = np.empty(0)
    if array.shape != (len(rows),) or array.dtype.kind not in "iu":
        raise ValuationError(
            f"found sets of shape {array.shape} and type {array.dtype}, expected ({len(rows)},) whole numbers"
        )
    first, pair = complementary_pairs(rows)
    apart = np.count_nonzero(np.bincount(pair, weights=array != array[first][pair]))
    if apart:
        raise ValuationError(
            f"found a coalition and its complement in more than one set of weights ({apart} such pairs), "
            "expected all rows of a pair in one"
        )
    return array.astype(np.intp)


def fit(
    rows: Coalitions, y: Vector, v0: float, v1: float, sets: NDArray[np.intp], rounding: float = 0.0
) -> SetFit:
    """The fit of rows (m, n), each coalition once and with its complement, with values y (m,) and sets (m,)
    as `checked_sets` gives them. Where no residual is above `rounding`, all errors are unknown.

    Raises ValuationError for missing complements, fewer than three sets, and too few pairs.
    """
    proper_sizes(rows)
    first, pair = complementary_pairs(rows)
    if alone := np.count_nonzero(np.bincount(pair) != 2):
        raise ValuationError(
            f"found {alone} coalitions without their complement, expected complementary pairs where sets of "
            "weights are shared"
        )
    parts = [np.flatnonzero(sets[first] == name) for name in np.unique(sets)]
    if len(parts) < FEWEST_SETS:
        raise ValuationError(f"found {len(parts)} sets of weights, expected at least {FEWEST_SETS}")
    model = _model(rows, first, pair, y, v1 - v0)
    # Whitening mixes the odd parts of a set, so that none has a leverage of 1 any more. What a single pair
    # decides is therefore found before it.
    unknown = known_by_one_pair(*_solved(model)[:2])
    directions = _directions(model, parts)
    white = _whitened(model, directions, _set_variance(model, directions))
    axes, T, theta = _solved(white)
    residual = white.D - white.X @ theta
    odd_residual = (model.D - model.X @ theta) / model.root
    unknown |= known_by_one_pair(axes, T) | (np.abs(odd_residual).max() <= rounding)
    remaining = 1.0 - np.sum(axes**2, axis=1)
    full = remaining < FULL
    left = np.where(full, 1.0, remaining)
    shift = np.where(unknown[:, None], np.inf, T * residual / np.sqrt(left))
    dof = degrees_of_freedom(axes, np.where(full, 0.0, T**2 / left))
    ratio, ratio_dof = moderated(_set_errors(axes, T, residual, parts), np.sum(shift**2, axis=1))
    by_gain = (1.0 - (T @ white.off) * rows.shape[1]) / rows.shape[1]
    return SetFit(
        phi=(v1 - v0) / rows.shape[1] + T @ white.D,
        shift=shift * np.sqrt(ratio)[:, None],
        pair=pair,
        dof=1.0 / (1.0 / dof + 1.0 / ratio_dof),
        slopes=np.column_stack([-by_gain, by_gain]),
    )


class _Model(NamedTuple):
    """The regression of odd parts D (pairs,) on X (pairs, k), each row times the root of its weight. The
    first columns of X are the players' in an orthonormal basis (n, n - 1) of differences between them, the
    others functions of size. off (pairs,): the derivative of D by the gain v1 - v0, with the opposite sign.
    root (pairs,): the root of the weight of each pair."""

    X: Vector
    D: Vector
    off: Vector
    root: Vector
    basis: Vector


def _model(
    rows: Coalitions, first: NDArray[np.intp], pair: NDArray[np.intp], y: Vector, gain: float
) -> _Model:
    n, J = rows.shape[1], len(first)
    own = rows[first]
    size = own.sum(axis=1)
    sign = np.where((rows == own[pair]).all(axis=1), 1.0, -1.0)
    off = (size - n / 2) / n
    D = np.bincount(pair, weights=sign * y) / 2 - off * gain
    root = np.sqrt(size_shares("shapley_kernel", n, 2 * J)[size] / size_shares("leverage", n, 2 * J)[size])
    basis = np.linalg.qr(np.eye(n)[:, 1:] - 1.0 / n)[0]
    count = min((n - 1) // 2, 2 if 2 * n <= J else 1 if n < J else 0)  # as in `shapley.weighted`
    sizes = np.stack([off, off**3], axis=1)[:, :count] * root[:, None]
    sizes, scale, _ = np.linalg.svd(sizes, full_matrices=False)
    players = (own - size[:, None] / n) @ basis * root[:, None]
    X = np.hstack([players, sizes[:, scale > ALIKE * scale[:1]]])
    rank = X.shape[1]
    if rank + 2 > J:
        raise ValuationError(
            f"found {J} pairs of coalitions, expected at least {rank + 2}, better {2 * rank} (m)"
        )
    return _Model(X, D * root, off * root, root, basis)


def _solved(model: _Model) -> tuple[Vector, Vector, Vector]:
    """Orthonormal axes (pairs, k) of the columns of X, the derivative T (n, pairs) of each credit by each odd
    part, and the coefficients (k,). The hat matrix is axes axes'; it is never formed as a whole."""
    axes, scale, right = np.linalg.svd(model.X, full_matrices=False)
    if scale[-1] <= scale[0] * len(axes) * np.finfo(float).eps:
        raise ValuationError(
            f"found {len(axes)} pairs of coalitions that do not distinguish all players, expected others: "
            "take another seed or more of them (m)"
        )
    inverse = right.T / scale
    return axes, model.basis @ inverse[: model.basis.shape[1]] @ axes.T, inverse @ (axes.T @ model.D)


def known_by_one_pair(axes: Vector, T: Vector) -> NDArray[np.bool_]:
    """Which players (n,) only a single pair distinguishes from another: one with a leverage of 1 that changes
    their credit by more than rounding. axes and T are as in `_solved`."""
    full = 1.0 - np.sum(axes**2, axis=1) < FULL
    return np.asarray((full & (np.abs(T) > 1e-6 * np.abs(T).max())).any(axis=1), dtype=np.bool_)


class _Directions(NamedTuple):
    """Of one set, orthonormal directions in which its noise moves its odd parts."""

    part: NDArray[np.intp]  # the pairs of the set
    axes: Vector  # (pairs of the set, directions)
    scale: Vector  # (directions,) how far noise of variance 1 moves them


def _directions(model: _Model, parts: list[NDArray[np.intp]]) -> list[_Directions]:
    """beta moves the odd part of a coalition z by (z - 1/2)' beta. That is u' beta, a difference between
    players, and (s/n - 1/2) times the sum of beta: beta along the unit vector (1, ..., 1) / sqrt(n), times
    sqrt(n) (s/n - 1/2). The two are independent, because the basis and this vector are orthonormal. Functions
    of size in X are those of all sets together, so they do not hold what a set adds to them."""
    n = len(model.basis)
    moved = np.column_stack([model.X[:, : n - 1], np.sqrt(n) * model.off])
    return [_Directions(part, *np.linalg.svd(moved[part], full_matrices=False)[:2]) for part in parts]


def _whitened(model: _Model, directions: list[_Directions], ratio: float) -> _Model:
    """The model times the symmetric root of the inverse covariance of its errors, for lambda = `ratio`."""
    if ratio == 0.0:
        return model
    X, D, off = model.X.copy(), model.D.copy(), model.off.copy()
    for part, axes, scale in directions:
        shrink = 1.0 / np.sqrt(1.0 + ratio * scale**2) - 1.0
        for values in (X, D, off):
            values[part] += axes @ (shrink * (axes.T @ values[part]).T).T
    return model._replace(X=X, D=D, off=off)


def _set_variance(model: _Model, directions: list[_Directions]) -> float:
    """The REML estimate of lambda."""
    scales = np.concatenate([of_set.scale for of_set in directions])
    J, k = model.X.shape

    def loss(log_ratio: float) -> float:
        ratio = float(np.exp(log_ratio)) if np.isfinite(log_ratio) else 0.0
        white = _whitened(model, directions, ratio)
        theta, _, rank, singular = np.linalg.lstsq(white.X, white.D, rcond=None)
        power = float(np.sum((white.D - white.X @ theta) ** 2))
        if power <= 0 or rank < k:
            return np.inf
        determinants = np.sum(np.log1p(ratio * scales**2)) + 2 * np.sum(np.log(singular))
        return float((J - k) * np.log(power) + determinants)

    best = minimize_scalar(loss, bounds=LOG_LAMBDA, method="bounded", options={"xatol": 0.01})
    # Where the likelihood is flat, rounding must not choose.
    return float(np.exp(best.x)) if best.fun < loss(-np.inf) - 1e-6 else 0.0


def degrees_of_freedom(axes: Vector, part: Vector, block: int = BLOCK) -> Vector:
    """Those of sums of `part` (n, pairs) times squared residuals of a regression, (n,), after Bell &
    McCaffrey 2002; at least 1.

    Residuals are M e of independent errors e, M = I - axes axes' with orthonormal axes (pairs, k). The sum is
    the quadratic form e' M diag(part) M e, which has tr(M part)^2 / tr(M part M part) degrees of freedom. At
    most `block` columns of M are in memory.
    """
    mean, square = part @ (1.0 - np.sum(axes**2, axis=1)), np.zeros(len(part))
    for at in range(0, len(axes), block):
        rows = slice(at, at + block)
        M = -(axes @ axes[rows].T)
        M[rows] += np.eye(M.shape[1])
        square += np.sum((part @ M**2) * part[:, rows], axis=1)
    # Where no pair has a part, the sum follows from pairs with full leverage, and its error is unknown.
    dof = np.divide(mean**2, square, out=np.ones(len(part)), where=square > 0)
    return np.asarray(np.maximum(dof, 1.0), dtype=np.float64)


def _set_errors(axes: Vector, T: Vector, residual: Vector, parts: list[NDArray[np.intp]]) -> Vector:
    """The error of each credit that each set causes, (n, sets), corrected for what the fit takes of it
    (HC2): by the inverse root of the block M = I - A A' of the set, A its rows of axes (pairs, k). Along the
    left singular vectors of A it has the eigenvalues 1 - (singular value)^2, elsewhere 1."""
    errors = []
    for part in parts:
        own, scale, _ = np.linalg.svd(axes[part], full_matrices=False)
        left = 1.0 - scale**2
        change = np.where(left > FULL, 1.0 / np.sqrt(np.maximum(left, FULL)), 0.0) - 1.0
        errors.append(T[:, part] @ (residual[part] + own @ (change * (own.T @ residual[part]))))
    return np.column_stack(errors)


def moderated(errors: Vector, variance: Vector) -> tuple[Vector, Vector]:
    """How much larger the variance of each credit by its set errors (n, sets) is than `variance` (n,), by
    pairs, and its degrees of freedom, (n,) each.

    Of all players together there are at most as many degrees of freedom as independent players times R - 1:
    sets that move all players along one direction say no more than one player does. A player whose ratio
    would be improbable if it came from the same distribution as the others' keeps its own, with R - 1 degrees
    of freedom, and has no part in theirs (as Phipson et al. 2016, Robust hyperparameter estimation protects
    against hypervariable genes).
    """
    n, d = len(errors), errors.shape[1] - 1
    known = np.isfinite(variance) & (variance > 0)
    ratio, dof = np.ones(n), np.full(n, float(d))
    if not known.any():
        return ratio, dof
    scaled = errors[known] / np.sqrt(variance[known])[:, None]
    own = np.sum(scaled**2, axis=1)
    pooled = _independent(scaled) * d
    if known.sum() < 2 or np.any(own <= 0):
        ratio[known] = np.maximum(own, 1.0)
        return ratio, dof
    alone = _outlying(own, d)
    prior, prior_dof = _prior(own[~alone], d)
    if np.isinf(prior_dof):
        drawn, total = np.full(len(own), prior), pooled
    else:
        drawn = (prior_dof * prior + d * own) / (prior_dof + d)
        total = min(prior_dof + d, pooled)
    ratio[known] = np.maximum(np.where(alone, own, drawn), 1.0)
    dof[known] = np.where(alone, float(d), max(total, float(d)))
    return ratio, dof


def _outlying(ratio: Vector, d: int) -> NDArray[np.bool_]:
    """Which of the ratios (k,) are improbably large for the distribution of all others."""
    found = np.zeros(len(ratio), dtype=bool)
    if len(ratio) < FEWEST_TO_COMPARE:
        return found
    for i in range(len(ratio)):
        prior, dof = _prior(np.delete(ratio, i), d)
        found[i] = f_distribution.sf(ratio[i] / prior, d, min(dof, LARGE_DOF)) < IMPROBABLE
    return found


def _independent(scaled: Vector) -> float:
    """How many independent players the errors (n, sets) are worth, from 1 to n - 1: tr(C)^2 / tr(C^2) of
    their covariance C between sets, from unbiased estimates of both for normal errors."""
    n, d = len(scaled), scaled.shape[1] - 1
    gram = scaled.T @ scaled
    total = float(np.trace(gram)) ** 2
    if total <= 0 or n < 2:
        return 1.0
    share = float(np.sum(gram**2)) / total
    square = (share - 1 / d) / (1 + 1 / d - 2 / d**2)
    worth = (1 - 2 * square / d) / square if square > 1e-9 else np.inf
    return float(np.clip(worth, 1.0, max(n - 1, 1)))


def _prior(ratio: Vector, d: int) -> tuple[float, float]:
    """Scale and degrees of freedom of the scaled F distribution with d numerator degrees of freedom that the
    ratios (k,) come from, by moments of their logarithms (Smyth 2004, section 6.2); infinite degrees of
    freedom where the ratios differ by no more than chance."""
    log = np.log(ratio) - digamma(d / 2) + np.log(d / 2)
    excess = float(np.var(log, ddof=1) - polygamma(1, d / 2))
    if excess <= 1e-6:
        return float(np.mean(ratio)), np.inf
    half = _inverse_trigamma(excess)
    return float(np.exp(log.mean() + digamma(half) - np.log(half))), 2 * half


def _inverse_trigamma(value: float) -> float:
    """By Newton's method on 1/trigamma, which is convex (Smyth 2004, appendix)."""
    x = 0.5 + 1.0 / value
    for _ in range(50):
        trigamma = float(polygamma(1, x))
        step = trigamma * (1 - trigamma / value) / float(polygamma(2, x))
        x += step
        if abs(step) < 1e-10 * x:
            break
    return x
