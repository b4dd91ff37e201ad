"""Ridge regression of a game's odd part on all effects of one player and of three players at once.

Shapley values depend only on the odd part of a game, (v(S) - v(N∖S)) / 2: what a coalition and its complement
have in common cancels. In the basis of parities, χ_T(S) = the product over T of 1 for a member and -1 for
another player, the odd part has effects f_T of 1, 3, 5, … players, and φ_i = 2 Σ_{T∋i} f_T / |T|. There are
too many effects of three players to write down, so they enter through their kernel, which is a polynomial in
the number of players on which two coalitions agree.

Source: the basis, O'Donnell 2014, Analysis of Boolean Functions; odd effects for Shapley values, Fumagalli et
al. 2026 (OddSHAP). Here every effect is shrunk alike, and the result is averaged over the variances by
restricted likelihood. See docs/methods.md, section "Estimators".
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from apportion.valuation.coalitions import Coalitions, Vector, complementary_pairs

# Variance of all triple effects over that of all single effects.
RATIOS = np.array([0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0])
# Variance of noise over that of all single effects. The prior is flat in the logarithm where the noise is
# small, and falls where it is large.
NOISES = np.geomspace(1e-8, 1e4, 49)
NOISE_PRIOR = 1 / (1 + NOISES)
# By how much -2 log-likelihood must be lower for triple effects, or for an endpoint pair unrelated to the
# others: two standard errors.
COMPLEXITY_PENALTY = 4.0
LEAST_PROBABILITY = 1e-3  # models with less probability are left out
MAX_SQUARE_RATIO = 1e12  # an endpoint pair whose square is so many times that of the others is left out
MAX_VARIANCE_PAIRS = 800  # pairs from which variances are estimated, at most: time grows with the cube


class SignedPairs(NamedTuple):
    """Complementary pairs of coalitions, each once. The coalition that holds player 0 stands for the pair."""

    sign: Vector  # (p, n) 1 where a player is in that coalition, else -1
    pair: NDArray[np.intp]  # (m,) the pair of each row
    side: Vector  # (m,) 1 where the row holds player 0, -1 where it is the complement

    def odd(self, y: Vector) -> Vector:
        """The odd part of each pair (p,), half the difference of its values, from y (m,).

        Where one of the two was not evaluated, the mean of the even parts of all other pairs stands in for
        the even part of the pair.
        """
        p = len(self.sign)
        with_0, without_0 = (_means(y, self.pair, self.side == side, p) for side in (1, -1))
        even = (with_0 + without_0) / 2
        middle = np.nanmean(even) if np.isfinite(even).any() else y.mean()
        one_sided = np.where(np.isfinite(with_0), with_0 - middle, middle - without_0)
        return np.where(np.isfinite(even), (with_0 - without_0) / 2, one_sided)


def signed_pairs(rows: Coalitions) -> SignedPairs:
    """The pairs of rows (m, n). A row may be repeated, and its complement may be missing."""
    first, pair = complementary_pairs(rows)
    sign = np.where(rows[first] ^ ~rows[first, :1], 1.0, -1.0)
    return SignedPairs(sign, pair, np.where(rows[:, 0], 1.0, -1.0))


class RatioFit(NamedTuple):
    """The fits with one ratio of variances, averaged over noise by probability. They are linear in the odd
    parts (p,)."""

    kernel: Vector  # (p, p) covariance of odd parts without noise
    axes: Vector  # (p, p - q) its principal axes after functions of size are taken out
    spread: Vector  # (p - q,) its variances along them
    covariance: Vector  # (n, p) of the centred credits with the odd parts
    probability: Vector  # (noises,) of each noise; the probabilities of all RatioFits sum to one

    def solved(self, t: Vector) -> Vector:
        """The inverse of the covariance with noise, times t, (p,), averaged over noise by probability."""
        along = np.sum(self.probability / (self.spread[:, None] + NOISES), axis=1)
        return np.asarray(self.axes @ (along * (self.axes.T @ t)), dtype=np.float64)

    def left_out(self, t: Vector) -> Vector:
        """The leave-one-out residuals of t (p,), times the probability of this ratio."""
        inverse = 1.0 / (self.spread[:, None] + NOISES)
        residual = (self.axes @ (inverse * (self.axes.T @ t)[:, None])) / (self.axes**2 @ inverse)
        return np.asarray(residual @ self.probability, dtype=np.float64)


class RidgeFit(NamedTuple):
    """The ridge regression for p pairs and, where it was included, the endpoint pair."""

    credits: Vector  # (n,) centred
    residual: Vector  # (p,) of the odd parts
    ratio_fits: list[RatioFit]

    def left_out(self, t: Vector, endpoint_odd: float = 0.0) -> Vector:
        """The leave-one-out residuals of t (p,), with the probabilities of this fit.

        `endpoint_odd` is as in `fit_ridge`.
        """
        p = len(self.ratio_fits[0].kernel)
        included = np.append(t, endpoint_odd)[:p]
        residuals = [ratio_fit.left_out(included) for ratio_fit in self.ratio_fits]
        return np.asarray(np.sum(residuals, axis=0)[: len(t)])


def fit_ridge(sign: Vector, t: Vector, endpoint_odd: float | None = None) -> RidgeFit:
    """Ridge regression of the odd parts t (p,) of pairs sign (p, n).

    It is averaged over variances by their probability. A few odd functions of coalition size are fitted
    beside the effects, for the reason given in `shapley._size_functions`. `endpoint_odd`, if given, is the
    odd part (v1 - v0)/2 of the endpoint pair, which consists of the grand and the empty coalition. The
    average is then also over whether that pair belongs with the others: the farther its value lies off the
    scale of the other pairs, the less probable that is.
    """
    p, scale = len(t), float(np.mean(t**2))
    excess = None
    if endpoint_odd is not None and endpoint_odd**2 < MAX_SQUARE_RATIO * scale:
        excess = endpoint_odd**2 / scale
        sign = np.vstack([sign, np.ones(sign.shape[1])])
        t = np.append(t, endpoint_odd)
    ratio_fits = _ratio_fits(sign, t, excess)
    solved = [ratio_fit.solved(t) for ratio_fit in ratio_fits]
    with_solved = list(zip(ratio_fits, solved, strict=True))
    credits = np.sum([ratio_fit.covariance @ each for ratio_fit, each in with_solved], axis=0)
    # The residual equals noise * solved. Computed from the fitted values instead, it has the same rounding as
    # the credits, so that the exhaustive design gives exact credits.
    residual = t - np.sum([ratio_fit.kernel @ each for ratio_fit, each in with_solved], axis=0)
    P = _odd_size_functions(sign)
    return RidgeFit(credits, (residual - P @ (P.T @ residual))[:p], ratio_fits)


def _ratio_fits(sign: Vector, t: Vector, excess: float | None) -> list[RatioFit]:
    """The models that are probable: one for each ratio of variances.

    Where `excess` is given, each ratio has a second model in which the last pair is unrelated to the others;
    its square is `excess` times their mean square.
    """
    sampled = np.linspace(0, len(t) - 1, min(len(t), MAX_VARIANCE_PAIRS)).astype(np.intp)
    models = [(sign, ratio) for ratio in RATIOS]
    spectra = _spectra(sign[sampled], RATIOS)
    deviance = _deviance(spectra, t[sampled])
    if excess is not None:
        unrelated = np.vstack([sign[:-1], np.zeros(sign.shape[1])])
        models += [(unrelated, ratio) for ratio in RATIOS]
        spectra += _spectra(unrelated[sampled], RATIOS)
        scaled = np.append(t[:-1], t[-1] / np.sqrt(1 + excess))
        second = _deviance(spectra[len(RATIOS) :], scaled[sampled])
        deviance = np.vstack([deviance, second + np.log1p(excess) + COMPLEXITY_PENALTY])
    probability = np.exp((deviance.min() - deviance) / 2)
    probable = np.flatnonzero(probability.sum(axis=1) > LEAST_PROBABILITY * probability.sum()).tolist()
    probability /= probability[probable].sum()
    if len(sampled) < len(t):
        for k in probable:
            model_sign, ratio = models[k]
            spectra[k] = _spectra(model_sign, [ratio])[0]
    return [RatioFit(*spectra[k], _credit_covariance(*models[k]), probability[k]) for k in probable]


def _means(y: Vector, pair: NDArray[np.intp], included: NDArray[np.bool_], p: int) -> Vector:
    """Mean of y over the included rows of each pair (p,), nan where there is none."""
    count = np.bincount(pair[included], minlength=p)
    total = np.bincount(pair[included], weights=y[included], minlength=p)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _kernel(sign: Vector, ratio: float) -> Vector:
    """Covariance of the odd parts of pairs (p, p).

    All single effects together have variance 1, all triple effects together the variance `ratio`.
    """
    n = sign.shape[1]
    agreement = sign @ sign.T
    kernel = agreement / n
    if ratio and n > 2:
        kernel += ratio * agreement * (agreement**2 - (3 * n - 2)) / (n * (n - 1) * (n - 2))
    return np.asarray(kernel, dtype=np.float64)


def _credit_covariance(sign: Vector, ratio: float) -> Vector:
    """Covariance (n, p) of the centred credits with the odd parts.

    It follows from φ_i = 2 f_i + (2/3) Σ of f_T over the triples T with i.
    """
    n = sign.shape[1]
    covariance = 2 * sign.T / n
    if ratio and n > 2:
        # The sum of χ over all pairs of other players.
        others = ((sign.sum(axis=1) - sign.T) ** 2 - (n - 1)) / 2
        covariance += ratio * (2 / 3) * sign.T * others / (n * (n - 1) * (n - 2) / 6)
    return np.asarray(covariance - covariance.mean(axis=0), dtype=np.float64)


def _odd_size_functions(sign: Vector) -> Vector:
    """Odd functions of coalition size (p, q), orthonormal: linear, cubic and, if pairs are many, quintic."""
    p, n = sign.shape
    # Each function uses up a pair that the credits may need.
    q = min((n - 1) // 2, p // 10, 2 if p < 100 else 3, max(p - 1 - n, 0))
    off = sign.mean(axis=1)
    axes, scale, _ = np.linalg.svd(off[:, None] ** np.arange(1, 2 * q + 1, 2), full_matrices=False)
    return np.asarray(axes[:, scale > 1e-9 * scale[:1]], dtype=np.float64)


class Spectrum(NamedTuple):
    kernel: Vector  # (p, p), axes and spread as in RatioFit
    axes: Vector
    spread: Vector


def _spectra(sign: Vector, ratios: ArrayLike) -> list[Spectrum]:
    """For each ratio the kernel and its principal axes beside functions of size.

    A row of zeros is a pair with variance 1 that is unrelated to all others.
    """
    P = _odd_size_functions(sign)
    rest = np.linalg.qr(P, mode="complete")[0][:, P.shape[1] :] if P.size else np.eye(len(sign))
    unrelated = np.diag((~sign.any(axis=1)).astype(np.float64))
    spectra = []
    for ratio in np.asarray(ratios):
        kernel = _kernel(sign, ratio)
        spread, axes = np.linalg.eigh(rest.T @ (kernel + unrelated) @ rest)
        spectra.append(Spectrum(kernel, rest @ axes, np.maximum(spread, 0.0)))
    return spectra


def _deviance(spectra: list[Spectrum], t: Vector) -> Vector:
    """-2 log of the probability of each ratio and noise given t, up to a constant, (ratios, noises).

    Functions of size are taken out by restricted likelihood (Patterson & Thompson 1971).
    """
    deviance = np.empty((len(spectra), len(NOISES)))
    along = [spectrum.axes.T @ t for spectrum in spectra]
    if np.abs(along[0]).max(initial=0.0) <= 1e-12 * np.abs(t).max(initial=0.0):
        deviance[:] = np.inf  # t is a function of size alone
        deviance[0, -1] = 0.0
        return deviance
    for k, (_, _, spread) in enumerate(spectra):
        variance = spread[:, None] + NOISES
        squares = (along[k][:, None] ** 2 / variance).sum(axis=0)
        deviance[k] = np.log(variance).sum(axis=0) + len(variance) * np.log(squares)
    penalty = COMPLEXITY_PENALTY * (RATIOS > 0)[:, None]
    return np.asarray(deviance + penalty - 2 * np.log(NOISE_PRIOR), dtype=np.float64)
