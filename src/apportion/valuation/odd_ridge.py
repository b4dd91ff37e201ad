"""Ridge regression of a game's odd part on all effects of one and of three players at once.

Shapley values see only the odd part of a game, (v(S) - v(N∖S)) / 2: what a coalition and its complement share cancels. In the basis of
parities, χ_T(S) = the product over T of 1 for a member and -1 for another, the odd part has effects f_T of 1, 3, 5, … players, and
φ_i = 2 Σ_{T∋i} f_T / |T|. The effects of three players are many, so they are never written down: their kernel is a polynomial in how many
players two coalitions agree on. Source: the basis, O'Donnell, Analysis of Boolean Functions (2014), and the use of odd effects for Shapley
values, Fumagalli et al. 2026 (OddSHAP); here every effect is shrunk alike, and variances are averaged over by restricted likelihood."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from apportion.valuation.coalitions import Coalitions, Vector, pairs

RATIOS = np.array([0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0])  # variance of all effects of three players over that of all of one
NOISES = np.geomspace(1e-8, 1e4, 49)  # variance of noise over that of all effects of one player
PRIOR = 1 / (1 + NOISES)  # of NOISES, which are a geometric sequence: little noise as likely as less, and much the less so the more
DOUBT = 4.0  # by how much twice the log-likelihood must be better for effects of three, or a variance of its own: two standard errors
UNLIKELY = 1e-3  # variances with less of a chance are left out
FAR = 1e12  # times the square of pairs: what lies so far off has no chance to be like them
LEARNT_FROM = 800  # pairs, at most, that the variances are estimated from: more tell them no better and take the cube of the time


class Pairs(NamedTuple):
    """Coalitions with their complements, each pair once: of the two, the one with player 0 stands for it."""

    sign: Vector  # (p, n) 1 where a player is in that coalition, else -1
    of: NDArray[np.intp]  # (m,) the pair of each row
    side: Vector  # (m,) 1 where the row is the coalition with player 0, -1 where it is the other

    def odd(self, y: Vector) -> Vector:
        """The odd part of each pair (p,) from the values of all rows (m,). Where one of the two is missing, what pairs have in common
        stands in for what it shares with the other."""
        p = len(self.sign)
        with_0, without = (_means(y, self.of, self.side == side, p) for side in (1, -1))
        shared = (with_0 + without) / 2
        middle = np.nanmean(shared) if np.isfinite(shared).any() else y.mean()
        return np.where(np.isfinite(shared), (with_0 - without) / 2, np.where(np.isfinite(with_0), with_0 - middle, middle - without))


def grouped(rows: Coalitions) -> Pairs:
    """The pairs that rows (m, n) are of; a row may come repeatedly, or without its complement."""
    first, of = pairs(rows)
    sign = np.where(rows[first] ^ ~rows[first, :1], 1.0, -1.0)
    return Pairs(sign, of, np.where(rows[:, 0], 1.0, -1.0))


class Part(NamedTuple):
    """The fits that share one ratio of variances, by how likely each noise is: linear in the odd parts (p,)."""

    kernel: Vector  # (p, p) covariance of odd parts without noise
    axes: Vector  # (p, p - q) its axes once functions of size are taken out
    spread: Vector  # (p - q,) and its variances along them
    covariance: Vector  # (n, p) of the centred credits with the odd parts
    chance: Vector  # (noises,) of each noise; the chances of all parts sum to one

    def solved(self, t: Vector) -> Vector:
        """The inverse of the covariance with noise, times t, (p,), as chance has it."""
        along = np.sum(self.chance / (self.spread[:, None] + NOISES), axis=1)
        return np.asarray(self.axes @ (along * (self.axes.T @ t)), dtype=np.float64)

    def left_out(self, t: Vector) -> Vector:
        """What fits to all other pairs miss of each of t (p,), times the chance of this part."""
        inverse = 1.0 / (self.spread[:, None] + NOISES)
        missed = (self.axes @ (inverse * (self.axes.T @ t)[:, None])) / (self.axes**2 @ inverse)
        return np.asarray(missed @ self.chance, dtype=np.float64)


class Ridge(NamedTuple):
    """The fit to p pairs, and to everybody with nobody where that counts as one more."""

    credits: Vector  # (n,) centred
    residual: Vector  # (p,) what it misses of the odd parts
    parts: list[Part]

    def left_out(self, t: Vector, everybody: float = 0.0) -> Vector:
        """What fits to all other pairs, as likely as they are here, miss of each of t (p,); `everybody` as in `fit`."""
        p = len(self.parts[0].kernel)
        return np.asarray(np.sum([part.left_out(np.append(t, everybody)[:p]) for part in self.parts], axis=0)[: len(t)])


def fit(sign: Vector, t: Vector, everybody: float | None = None) -> Ridge:
    """The ridge for pairs sign (p, n) with odd parts t (p,): the mean over variances, by how likely each makes the odd parts.

    A few odd functions of coalition size are fitted beside the effects, for the reason given in `shapley._of_size_alone`.
    `everybody` is the odd part of everybody and nobody, (v1 - v0)/2, where that is to count as one pair more. The mean is then also over
    whether it does: the farther a value of nobody lies off the scale that the pairs let expect, the less of a chance it has."""
    p, scale = len(t), float(np.mean(t**2))
    alone = None
    if everybody is not None and everybody**2 < FAR * scale:
        sign, t, alone = np.vstack([sign, np.ones(sign.shape[1])]), np.append(t, everybody), everybody**2 / scale
    parts = _parts(sign, t, alone)
    solved = [part.solved(t) for part in parts]
    credits = np.sum([part.covariance @ each for part, each in zip(parts, solved, strict=True)], axis=0)
    # Not noise * solved, which it is: so rounding moves what is fitted and the credits alike, and all coalitions give exact ones.
    missed = t - np.sum([part.kernel @ each for part, each in zip(parts, solved, strict=True)], axis=0)
    P = _of_size(sign)
    return Ridge(credits, (missed - P @ (P.T @ missed))[:p], parts)


def _parts(sign: Vector, t: Vector, alone: float | None) -> list[Part]:
    """The likely ones: for each ratio, and where `alone` is given once more with a last pair that has nothing to do with the others,
    whose square is that many times theirs."""
    some = np.linspace(0, len(t) - 1, min(len(t), LEARNT_FROM)).astype(np.intp)
    models = [(sign, ratio) for ratio in RATIOS]
    spectra = _spectra(sign[some], RATIOS)
    unlikely = _unlikely(spectra, t[some])
    if alone is not None:
        cut = np.vstack([sign[:-1], np.zeros(sign.shape[1])])
        models += [(cut, ratio) for ratio in RATIOS]
        spectra += _spectra(cut[some], RATIOS)
        tame = np.append(t[:-1], t[-1] / np.sqrt(1 + alone))
        unlikely = np.vstack([unlikely, _unlikely(spectra[len(RATIOS) :], tame[some]) + np.log1p(alone) + DOUBT])
    chances = np.exp((unlikely.min() - unlikely) / 2)
    likely = np.flatnonzero(chances.sum(axis=1) > UNLIKELY * chances.sum()).tolist()
    chances /= chances[likely].sum()
    if len(some) < len(t):
        spectra = [_spectra(models[k][0], [models[k][1]])[0] if k in likely else each for k, each in enumerate(spectra)]
    return [Part(*spectra[k], _credits(*models[k]), chances[k]) for k in likely]


def _means(y: Vector, of: NDArray[np.intp], at: NDArray[np.bool_], p: int) -> Vector:
    """Mean of y over the rows `at` of each pair (p,), nan where there is none."""
    count = np.bincount(of[at], minlength=p)
    return np.where(count > 0, np.bincount(of[at], weights=y[at], minlength=p) / np.maximum(count, 1), np.nan)


def _kernel(sign: Vector, ratio: float) -> Vector:
    """Covariance of the odd parts of pairs (p, p): effects of one player have variance 1 together, those of three `ratio`."""
    n = sign.shape[1]
    agree = sign @ sign.T
    kernel = agree / n
    if ratio and n > 2:
        kernel += ratio * agree * (agree**2 - (3 * n - 2)) / (n * (n - 1) * (n - 2))
    return np.asarray(kernel, dtype=np.float64)


def _credits(sign: Vector, ratio: float) -> Vector:
    """Covariance (n, p) of the centred credits with the odd parts, by φ_i = 2 f_i + (2/3) Σ of f_T over the triples T with i."""
    n = sign.shape[1]
    credits = 2 * sign.T / n
    if ratio and n > 2:
        pairs_without = ((sign.sum(axis=1) - sign.T) ** 2 - (n - 1)) / 2  # Σ χ over the pairs of other players
        credits += ratio * (2 / 3) * sign.T * pairs_without / (n * (n - 1) * (n - 2) / 6)
    return np.asarray(credits - credits.mean(axis=0), dtype=np.float64)


def _of_size(sign: Vector) -> Vector:
    """Odd functions of coalition size (p, q), orthonormal: linear, cubic and, where pairs are many, to the fifth."""
    p, n = sign.shape
    q = min((n - 1) // 2, p // 10, 2 if p < 100 else 3, max(p - 1 - n, 0))  # each takes a pair that credits may need
    off = sign.mean(axis=1)
    axes, scale, _ = np.linalg.svd(off[:, None] ** np.arange(1, 2 * q + 1, 2), full_matrices=False)
    return np.asarray(axes[:, scale > 1e-9 * scale[:1]], dtype=np.float64)


class Spectrum(NamedTuple):
    kernel: Vector  # (p, p), axes and spread as in Part
    axes: Vector
    spread: Vector


def _spectra(sign: Vector, ratios: ArrayLike) -> list[Spectrum]:
    """For each ratio the kernel and its axes beside functions of size. A row of zeros has variance 1 and is like no other."""
    P, found = _of_size(sign), []
    rest = np.linalg.qr(P, mode="complete")[0][:, P.shape[1] :] if P.size else np.eye(len(sign))
    lone = np.diag((~sign.any(axis=1)).astype(np.float64))
    for ratio in np.asarray(ratios):
        kernel = _kernel(sign, ratio)
        spread, axes = np.linalg.eigh(rest.T @ (kernel + lone) @ rest)
        found.append(Spectrum(kernel, rest @ axes, np.maximum(spread, 0.0)))
    return found


def _unlikely(spectra: list[Spectrum], t: Vector) -> Vector:
    """How little each ratio with each noise is likely to have made t, after functions of size: twice the logarithm, (ratios, noises).

    Source: restricted likelihood, Patterson & Thompson 1971."""
    found, along = np.empty((len(spectra), len(NOISES))), [each.axes.T @ t for each in spectra]
    if np.abs(along[0]).max(initial=0.0) <= 1e-12 * np.abs(t).max(initial=0.0):
        found[:], found[0, -1] = np.inf, 0.0  # functions of size are all there is
        return found
    for k, (_, _, spread) in enumerate(spectra):
        variance = spread[:, None] + NOISES
        found[k] = np.log(variance).sum(axis=0) + len(variance) * np.log((along[k][:, None] ** 2 / variance).sum(axis=0))
    return np.asarray(found + DOUBT * (RATIOS > 0)[:, None] - 2 * np.log(PRIOR), dtype=np.float64)
