"""Credits and their errors where coalitions share sets of weights, as with the removal method `experts`.

All coalitions of one set share the noise of its training, which no residual shows: a set r moves the credits
of every coalition by its own beta_r. The odd parts D of pairs of coalitions follow a mixed model

D = u' phi + functions of size + u' beta_r + e, beta_r of variance lambda sigma^2, e of variance sigma^2 / w,

with u a coalition less its share of players and w the weight of its pair. lambda is the restricted
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
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import digamma, polygamma

from apportion.errors import ValuationError
from apportion.valuation.coalitions import Coalitions, Vector, complementary_pairs, size_shares
from apportion.valuation.inputs import proper_sizes

FEWEST_SETS = 3
LOG_LAMBDA = (-12.0, 8.0)  # bounds of the logarithm of lambda that is searched; 0 is tried as well
FULL = 1e-8  # where 1 - leverage of a pair, or of a direction of a set, is below this, nothing is left of it


class SetFit(NamedTuple):
    """Credits with the errors that pairs cause, each player's scaled for the noise of sets."""

    phi: Vector  # (n,)
    shift: Vector  # (n, pairs); infinite where the error cannot be estimated
    pair: NDArray[np.intp]  # (m,) the pair of each row
    dof: Vector  # (n,) degrees of freedom
    slopes: Vector  # (n, 2) derivatives of the credits by v0 and by v1


def fit(
    rows: Coalitions, y: Vector, v0: float, v1: float, sets: NDArray[np.intp], rounding: float = 0.0
) -> SetFit:
    """The fit of rows (m, n), each coalition once and with its complement in the same set, with values y (m,)
    and the set of each row (m,). Where no residual is above `rounding`, all errors are unknown.

    Raises ValuationError for rows that are not such pairs, fewer than three sets, and too few pairs.
    """
    proper_sizes(rows)
    first, pair = complementary_pairs(rows)
    if np.any(np.bincount(pair) != 2) or np.any(sets != sets[first][pair]):
        raise ValuationError(
            "found coalitions without their complement, or in another set than it, expected pairs of one set "
            "where sets of weights are shared"
        )
    parts = [np.flatnonzero(sets[first] == name) for name in np.unique(sets)]
    if len(parts) < FEWEST_SETS:
        raise ValuationError(f"found {len(parts)} sets of weights, expected at least {FEWEST_SETS}")
    model = _model(rows, first, pair, y, v1 - v0)
    rank = model.X.shape[1]
    if len(first) < rank + 2:
        raise ValuationError(
            f"found {len(first)} pairs of coalitions, expected at least {rank + 2}, better {2 * rank} (m)"
        )
    if np.linalg.matrix_rank(model.X) < rank:
        raise ValuationError(
            f"found {len(first)} pairs of coalitions that do not distinguish all players, expected others: "
            "take another seed or more of them (m)"
        )
    white = _whitened(model, parts, _set_variance(model, parts))
    gram: Vector = np.linalg.pinv(white.X.T @ white.X, hermitian=True).astype(np.float64)
    theta = gram @ (white.X.T @ white.D)
    T = model.basis @ (gram @ white.X.T)[: model.basis.shape[1]]  # of each credit by each whitened odd part
    residual = white.D - white.X @ theta
    remaining = 1.0 - np.einsum("pi,ij,pj->p", white.X, gram, white.X)
    full = remaining < FULL
    odd_residual = (model.D - model.X @ theta) / model.root
    unknown = full & (np.abs(T) > 1e-6 * np.abs(T).max()) | (np.abs(odd_residual).max() <= rounding)
    shift = np.where(unknown, np.inf, T * residual / np.sqrt(np.where(full, 1.0, remaining)))
    dof = _degrees_of_freedom(white.X, gram, np.where(full, 0.0, T**2 / np.where(full, 1.0, remaining)))
    ratio, ratio_dof = moderated(_set_errors(white.X, gram, T, residual, parts), np.sum(shift**2, axis=1))
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
    sizes = np.stack([off, off**3], axis=1)[:, :count]
    X = np.hstack([(own - size[:, None] / n) @ basis, sizes])
    return _Model(X * root[:, None], D * root, off * root, root, basis)


def _whitened(model: _Model, parts: list[NDArray[np.intp]], ratio: float) -> _Model:
    """The model times the symmetric root of the inverse covariance of its errors, for lambda = `ratio`."""
    if ratio == 0.0:
        return model
    X, D, off = model.X.copy(), model.D.copy(), model.off.copy()
    for part, axes, scale in _directions(model, parts):
        shrink = 1.0 / np.sqrt(1.0 + ratio * scale**2) - 1.0
        for values in (X, D, off):
            values[part] += axes @ (shrink * (axes.T @ values[part]).T).T
    return model._replace(X=X, D=D, off=off)


def _directions(
    model: _Model, parts: list[NDArray[np.intp]]
) -> list[tuple[NDArray[np.intp], Vector, Vector]]:
    """For each set, orthonormal directions (pairs of the set, n - 1) in which its noise moves the odd parts,
    and their scale."""
    players = model.basis.shape[1]
    found = []
    for part in parts:
        axes, scale, _ = np.linalg.svd(model.X[part, :players], full_matrices=False)
        found.append((part, axes, scale))
    return found


def _set_variance(model: _Model, parts: list[NDArray[np.intp]]) -> float:
    """The REML estimate of lambda."""
    scales = np.concatenate([scale for _, _, scale in _directions(model, parts)])
    J, k = model.X.shape

    def loss(log_ratio: float) -> float:
        ratio = float(np.exp(log_ratio)) if np.isfinite(log_ratio) else 0.0
        white = _whitened(model, parts, ratio)
        theta, _, rank, singular = np.linalg.lstsq(white.X, white.D, rcond=None)
        power = float(np.sum((white.D - white.X @ theta) ** 2))
        if power <= 0 or rank < k:
            return np.inf
        determinants = np.sum(np.log1p(ratio * scales**2)) + 2 * np.sum(np.log(singular))
        return float((J - k) * np.log(power) + determinants)

    best = minimize_scalar(loss, bounds=LOG_LAMBDA, method="bounded", options={"xatol": 0.01})
    # Where the likelihood is flat, rounding must not choose.
    return float(np.exp(best.x)) if best.fun < loss(-np.inf) - 1e-6 else 0.0


def _degrees_of_freedom(X: Vector, gram: Vector, part: Vector) -> Vector:
    """Those of sums of `part` (n, pairs) times squared residuals of the regression on X, (n,), as in
    `intervals`."""
    M = np.eye(len(X)) - X @ gram @ X.T
    square = np.sum((part @ M**2) * part, axis=1)
    mean = part @ np.diagonal(M)
    dof = np.divide(mean**2, square, out=np.ones(len(part)), where=square > 0)
    return np.asarray(np.maximum(dof, 1.0), dtype=np.float64)


def _set_errors(
    X: Vector, gram: Vector, T: Vector, residual: Vector, parts: list[NDArray[np.intp]]
) -> Vector:
    """The error of each credit that each set causes, (n, sets), corrected for what the fit takes of it
    (HC2)."""
    errors = []
    for part in parts:
        M = np.eye(len(part)) - X[part] @ gram @ X[part].T
        scale, axes = np.linalg.eigh(M)
        root = np.where(scale > FULL, 1.0 / np.sqrt(np.maximum(scale, FULL)), 0.0)
        errors.append(T[:, part] @ (axes @ (root * (axes.T @ residual[part]))))
    return np.column_stack(errors)


def moderated(errors: Vector, variance: Vector) -> tuple[Vector, Vector]:
    """How much larger the variance of each credit by its set errors (n, sets) is than `variance` (n,), by
    pairs, and its degrees of freedom, (n,) each.

    Of all players together there are at most as many degrees of freedom as independent players times R - 1:
    sets that move all players along one direction say no more than one player does.
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
    prior, prior_dof = _prior(own, d)
    if np.isinf(prior_dof):
        drawn, total = np.full(len(own), prior), pooled
    else:
        drawn = (prior_dof * prior + d * own) / (prior_dof + d)
        total = min(prior_dof + d, pooled)
    ratio[known], dof[known] = np.maximum(drawn, 1.0), max(total, float(d))
    return ratio, dof


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
