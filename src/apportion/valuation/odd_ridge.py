"""Ridge regression of a game's odd part on all effects of one and of three players at once.

Shapley values see only the odd part of a game, (v(S) - v(N∖S)) / 2: what a coalition and its complement share cancels. In the basis of
parities, χ_T(S) = the product over T of 1 for a member and -1 for another, the odd part has effects f_T of 1, 3, 5, … players, and
φ_i = 2 Σ_{T∋i} f_T / |T|. The effects of three players are many, so they are never written down: their kernel is a polynomial in how many
players two coalitions agree on. Source: the basis, O'Donnell, Analysis of Boolean Functions (2014), and the use of odd effects for Shapley
values, Fumagalli et al. 2026 (OddSHAP); here every effect is shrunk alike, with variances by restricted maximum likelihood."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apportion.valuation.coalitions import Coalitions, Vector, pairs

RATIOS = np.array([0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0])  # variance of all effects of three players over that of all of one
NOISES = np.geomspace(1e-6, 1e4, 41)  # variance of noise over that of all effects of one player
DOUBT = 2.0  # by how much twice the log-likelihood must be better for there to be effects of three players (Akaike's criterion)
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


class Ridge(NamedTuple):
    """The fit of p pairs, linear in their odd parts once the variances are settled."""

    inverse: Vector  # (p, p) of the covariance of odd parts, functions of size taken out
    of_size: Vector  # (q, p) coefficients of the functions of size
    kernel: Vector  # (p, p) covariance without noise
    functions: Vector  # (p, q) functions of size
    covariance: Vector  # (n, p) of the centred credits with the odd parts

    def credits(self, t: Vector) -> Vector:
        """Centred credits (n,) from odd parts t (p,)."""
        return np.asarray(self.covariance @ (self.inverse @ t), dtype=np.float64)

    def residual(self, t: Vector) -> Vector:
        """What the fit to all pairs misses of t (p,).

        Not noise * inverse @ t, which it is: so rounding moves what is fitted and the credits alike, and all coalitions give exact ones."""
        return np.asarray(t - self.kernel @ (self.inverse @ t) - self.functions @ (self.of_size @ t), dtype=np.float64)

    def left_out(self, t: Vector) -> Vector:
        """What the fit to all other pairs misses of each of t (p,)."""
        return np.asarray(self.inverse @ t / np.diag(self.inverse), dtype=np.float64)


def fit(sign: Vector, t: Vector) -> Ridge:
    """The ridge for pairs sign (p, n) with variances estimated from their odd parts t (p,). A few odd functions of coalition size are
    fitted beside the effects, for the reason given in `shapley._of_size_alone`."""
    some = np.linspace(0, len(t) - 1, min(len(t), LEARNT_FROM)).astype(np.intp)
    ratio, noise = _variances(sign[some], t[some])
    kernel, P = _kernel(sign, ratio), _of_size(sign)
    inverse = np.linalg.inv(kernel + noise * np.eye(len(t)))
    across = inverse @ P
    of_size: Vector = np.asarray(np.linalg.solve(P.T @ across, across.T), dtype=np.float64)
    free: Vector = np.asarray(inverse - across @ of_size, dtype=np.float64)
    return Ridge(free, of_size, kernel, P, _credits(sign, ratio))


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
    q = min((n - 1) // 2, p // 10, 2 if p < 100 else 3, max(p - n, 0))  # each takes a pair that credits may need
    off = sign.mean(axis=1)
    axes, scale, _ = np.linalg.svd(off[:, None] ** np.arange(1, 2 * q + 1, 2), full_matrices=False)
    return np.asarray(axes[:, scale > 1e-9 * scale[:1]], dtype=np.float64)


def _variances(sign: Vector, t: Vector) -> tuple[float, float]:
    """The ratio of RATIOS and the noise of NOISES that are likeliest to have made t, after functions of size (Patterson, Thompson 1971)."""
    P = _of_size(sign)
    rest = np.linalg.qr(P, mode="complete")[0][:, P.shape[1] :] if P.size else np.eye(len(t))
    free = rest.T @ t
    if np.abs(free).max(initial=0.0) <= 1e-12 * np.abs(t).max(initial=0.0):
        return 0.0, float(NOISES[-1])  # functions of size are all there is
    best = (np.inf, 0.0, float(NOISES[-1]))
    for ratio in RATIOS:
        spread, axes = np.linalg.eigh(rest.T @ _kernel(sign, ratio) @ rest)
        variance = np.maximum(spread, 0)[:, None] + NOISES
        unlikely = np.log(variance).sum(axis=0) + len(free) * np.log(((axes.T @ free)[:, None] ** 2 / variance).sum(axis=0))
        at = int(unlikely.argmin())
        best = min(best, (float(unlikely[at]) + (DOUBT if ratio else 0.0), float(ratio), float(NOISES[at])))
    return best[1:]
