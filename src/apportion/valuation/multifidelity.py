"""Shapley values of an exact game from a few exact values and many of a cheap one: METHODS.md §3, a control variate on pairs.

Only half the difference of a coalition and its complement, its odd part, moves a Shapley value. The exact game's odd parts are
fitted by the cheap game's and by credits, with ridge; what the fit misses is added back by its known chance to be drawn (a
generalised regression estimator), so that a cheap game of no use costs width and not truth."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm
from scipy.stats import t as student

from apportion.errors import ValuationError
from apportion.valuation.coalitions import Coalitions, Vector, log_choose, size_shares
from apportion.valuation.shapley import checked

FEWEST_PAIRS = 8
RIDGES = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 1e6)  # of a player's information in the pairs; the last leaves no fitted credits
PRIOR = 10  # pairs that the mean variance of all players counts for beside each player's own
ROOM = 3  # pairs that must be left over for credits to be fitted without ridge
ALONE = 1e-9  # what the hat matrix leaves of a pair that fits itself
ROUNDING = 1e-12
RANK_TOLERANCE = 1e-11
WORTH_IT = 0.8  # of the width of the exact game alone, for many pairs: a few hundred coalitions fall a quarter short of that gain


class Combined(NamedTuple):
    """Credits of the exact game, in units of the property, with an interval for each player taken alone."""

    phi: Vector  # (n,) credits; they sum to v1 - v0
    se: Vector  # (n,) standard errors
    low: Vector  # (n,) interval
    high: Vector  # (n,)
    rho: tuple[float, float]  # how much of the cheap game's credits, and of what they leave of its odd parts, the exact one follows
    spare: float  # degrees of freedom: paired coalitions' pairs less what is fitted to them


def combine(
    Z_low: ArrayLike,
    y_low: ArrayLike,
    Z: ArrayLike,
    y: ArrayLike,
    y_paired: ArrayLike,
    v0: float,
    v1: float,
    level: float = 0.95,
    *,
    v0_se: float = 0.0,
    v1_se: float = 0.0,
) -> Combined:
    """Shapley values of the exact game, METHODS.md §3: rho phi_lo + phi(v_hi - rho v_lo).

    Z_low (m_low, n) with cheap values y_low; Z (m, n) with exact values y and cheap values y_paired of the same rows; both drawn
    by `leverage`, in complementary pairs in any order, each pair once. Rows of Z may be among those of Z_low (the first of them,
    say, the cheapest choice) or drawn apart. v0, v1: the exact values of nobody and of everybody, v0_se and v1_se the standard
    errors of their means. The cheap game's ends are not needed.

    One rho and one ridge serve all pairs. The error of each pair is judged by a fit without it (HC3), and added up over both
    games where they share coalitions. Few pairs bias credits towards each other: by about half a standard deviation at 12 pairs,
    a fifth at 50 pairs of 20 players, a seventh at 30 of 10. Cross-fitting would be rid of that and be off by more, a quarter to a half
    in root mean square at 12 pairs; the intervals cover either.
    Raises ValuationError for bad input and for fewer than 8 pairs in either game."""
    rows_low, y_low = checked(Z_low, y_low)
    rows, y = checked(Z, y)
    _, y_paired = checked(rows, y_paired)
    if rows.shape[1] != rows_low.shape[1]:
        raise ValuationError(f"found {rows.shape[1]} players in Z and {rows_low.shape[1]} in Z_low, expected the same")
    ends = checked_ends(v0, v1, v0_se, v1_se, level)
    cheap, exact = leverage_pairs(rows_low), leverage_pairs(rows)
    known = assisted(cheap, cheap.odd(y_low)).known()
    found = following(exact, exact.odd(y), exact.odd(y_paired), known, cheap.find(exact))
    return interval(found, *ends)


def interval(found: "Assisted", v0: float, v1: float, v0_se: float, v1_se: float, level: float) -> Combined:
    """What `found` says of the players' differences, with the gain v1 - v0 shared out evenly and the errors of both ends."""
    n = len(found.phi)
    phi = found.phi - found.phi.mean() + (v1 - v0) / n
    own = np.sum(found.shift**2, axis=1)
    # From few pairs a player's variance comes out too small by chance: lift it towards the players' mean, never lower it.
    lifted = np.maximum(own, (found.spare * own + PRIOR * own.mean()) / (found.spare + PRIOR))
    se = np.sqrt(lifted + (v0_se**2 + v1_se**2) / n**2)
    half = student.ppf(0.5 + level / 2, found.spare) * se
    rho = (float(found.rho[0]), float(found.rho[1])) if len(found.rho) else (0.0, 0.0)
    return Combined(phi, se, phi - half, phi + half, rho, found.spare)


def checked_ends(v0: float, v1: float, v0_se: float, v1_se: float, level: float) -> tuple[float, float, float, float, float]:
    """The five numbers, or a ValuationError."""
    if not (np.ndim(v0) == np.ndim(v1) == 0 and np.isfinite(v0) and np.isfinite(v1)):
        raise ValuationError(f"found v0 = {v0} and v1 = {v1}, expected two finite numbers")
    if not (0 <= v0_se < np.inf and 0 <= v1_se < np.inf):
        raise ValuationError(f"found v0_se = {v0_se} and v1_se = {v1_se}, expected finite standard errors of 0 or more")
    if not 0 < level < 1:
        raise ValuationError(f"found level = {level}, expected a number between 0 and 1")
    return float(v0), float(v1), float(v0_se), float(v1_se), float(level)


# --- pairs of coalitions


class Pairs(NamedTuple):
    """Complementary pairs, each known by its coalition without the last player."""

    S: Coalitions  # (pairs, n) that coalition
    weight: Vector  # (pairs,) Shapley kernel of the pair over its chance to be drawn: weighted sums stand for all pairs
    rows: NDArray[np.intp]  # (pairs, 2) where the coalition and its complement are among the rows

    def odd(self, y: Vector) -> Vector:
        """Half the difference of each pair's values (pairs,), from values of the rows."""
        return np.asarray((y[self.rows[:, 0]] - y[self.rows[:, 1]]) / 2, dtype=np.float64)

    def find(self, others: "Pairs") -> NDArray[np.intp]:
        """Where each pair of `others` is among these, -1 where it is not."""
        place = {S.tobytes(): j for j, S in enumerate(self.S)}
        return np.array([place.get(S.tobytes(), -1) for S in others.S], dtype=np.intp)


def leverage_pairs(rows: Coalitions) -> Pairs:
    """Pairs of a `leverage` design (m, n). Raises ValuationError unless every row has its complement, once."""
    found = paired(rows)
    m, n = rows.shape
    size = rows[found[:, 0]].sum(axis=1)
    with np.errstate(divide="ignore"):
        log_chance = np.log(m * size_shares("leverage", n, m)) - log_choose(n)
    return Pairs(rows[found[:, 0]], np.exp(log_kernel(n)[size] - log_chance[size]), found)


def paired(rows: Coalitions) -> NDArray[np.intp]:
    """(pairs, 2): where each coalition without the last player and its complement are, in the order of the rows."""
    n = rows.shape[1]
    if np.any((size := rows.sum(axis=1)) == 0) or np.any(size == n):
        raise ValuationError(f"found a coalition of nobody or of all {n} players among the rows, expected neither: they are v0 and v1")
    place = {row.tobytes(): j for j, row in enumerate(rows)}
    if len(place) < len(rows):
        raise ValuationError(f"found {len(rows) - len(place)} rows that come twice, expected each coalition once")
    first = np.flatnonzero(~rows[:, -1])
    partner = np.array([place.get((~rows[j]).tobytes(), -1) for j in first], dtype=np.intp)
    lonely = len(rows) - 2 * np.count_nonzero(partner >= 0)
    if lonely:
        raise ValuationError(f"found {lonely} coalitions without their complement, expected complementary pairs (draw them by 'leverage')")
    order = np.argsort(np.minimum(first, partner), kind="stable")
    return np.stack([first, partner], axis=1)[order]


def log_kernel(n: int) -> Vector:
    """Logarithm of the Shapley kernel of a pair, by the size 0..n of either coalition: all pairs together weigh one."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(2 * size_shares("shapley_kernel", n, 1)) - log_choose(n), dtype=np.float64)


# --- the estimator: regression on what is known, plus what it misses


class Assisted(NamedTuple):
    """Centred credits with what leaving out each pair does to them: sums of products of shifts are their covariance (HC3)."""

    phi: Vector  # (n,) credits less their mean
    shift: Vector  # (n, clusters) how far each independent observation moves each credit
    T: Vector  # (n, pairs) how each pair's odd part moves each credit
    rho: Vector  # (q,) coefficients of the controls
    spare: float  # degrees of freedom: pairs less what is fitted to them
    kept: Vector  # (pairs,) what the fit leaves of each pair's odd part
    cluster: NDArray[np.intp]  # (pairs,) column of `shift` that each pair is part of

    def known(self) -> "Assisted":
        """For another fit to follow: HC2 in place of HC3 where there are two pairs or more a player.

        HC3 inflates twice. From enough pairs that only makes up for the degrees of freedom, of which the fit that follows has fewer."""
        n, J = self.T.shape
        return self._replace(shift=self.shift * np.sqrt(np.maximum(self.kept, 0.0))) if 2 * n <= J else self


class Controls(NamedTuple):
    """Odd parts of q games whose credits are known."""

    X: Vector  # (pairs, q) odd parts
    C: Vector  # (n, q) credits less their mean
    caution: Vector  # (q,) ridge on their coefficients, for credits that are uncertain themselves


def assisted(pairs: Pairs, D: Vector, controls: Controls | None = None, sure: int = 0) -> Assisted:
    """Credits from odd parts D (pairs,), with the help of controls.

    With u a coalition less its share of players, E[u u'] = g (1 - 11'/n) over the Shapley kernel, g = 1 / (2 H_{n-1}), and
    E[u D] / g are the centred credits. So phi = C rho + beta + sum weight u (D - X rho - u'beta) / g is right on average for any
    rho and beta, as long as weight is kernel over chance. They are fitted by weighted ridge regression. Without ridge phi is
    constrained least squares, with an endless one the estimator that knows the Gram matrix, and in between it does not need as
    many pairs as players. The ridge is the one of least estimated variance; credits of the last `sure` players have none.
    From all coalitions the credits are exact, whatever the ridge. Source: Särndal, Swensson and Wretman (1992), ch. 6."""
    J, n = pairs.S.shape
    if J < FEWEST_PAIRS:
        raise ValuationError(f"found {J} pairs of coalitions, expected at least {FEWEST_PAIRS} (m = {2 * FEWEST_PAIRS})")
    X, C, caution = controls or Controls(np.empty((J, 0)), np.empty((n, 0)), np.empty(0))
    # Sizes alone move no credit between players: more controls, of credits nought. They take up a v0 far off the scale.
    off = 2 * pairs.S.mean(axis=1) - 1
    sizes = np.stack([off, off**3], axis=1)[:, : 2 if 2 * n <= J else 1]
    X, C = np.column_stack([X, sizes]), np.column_stack([C, np.zeros((n, sizes.shape[1]))])
    penalty = np.concatenate([caution, np.zeros(sizes.shape[1]), np.where(np.arange(n) < n - sure, information(n) * n / J, 0.0)])
    strength = np.arange(X.shape[1] + n) >= X.shape[1]
    ridges = RIDGES if n + X.shape[1] + ROOM <= J else RIDGES[1:]
    fits = [_regression(pairs, D, X, C, penalty * np.where(strength, ridge, 1.0)) for ridge in ridges]
    usable = [fit for fit in fits if fit.spare > 2 and np.isfinite(fit.shift).all()]
    if not usable:
        raise ValuationError(f"found {J} pairs of coalitions of which single ones decide a credit alone, expected more of them (m)")
    best = min(usable, key=lambda fit: float(np.sum(fit.shift**2)) * fit.spare / (fit.spare - 2))  # of Student's t, so that few spare cost
    return best._replace(rho=best.rho[: len(caution)])


def information(n: int) -> float:
    """g, the covariance of coalitions over the Shapley kernel per difference of players: 1 / (2 H_{n-1})."""
    return float(0.5 / np.sum(1.0 / np.arange(1, n)))


def _regression(pairs: Pairs, D: Vector, X: Vector, C: Vector, penalty: Vector) -> Assisted:
    """`assisted` at one ridge, penalty (q + n,)."""
    (J, n), w = pairs.S.shape, pairs.weight
    U = centred(pairs.S)
    F = np.hstack([X, U])
    scale = np.sqrt(w @ F**2)
    scale[scale == 0] = 1.0
    gram = (F.T * w) @ F / np.outer(scale, scale) + np.diag(penalty / scale**2)
    A = (np.linalg.pinv(gram, rcond=RANK_TOLERANCE, hermitian=True) @ ((F / scale).T * w)) / scale[:, None]
    hat, direct = np.einsum("jp,pj->j", F, A), (U.T * w) / information(n)
    T = np.hstack([C, np.eye(n) - 1 / n]) @ A + direct - (direct @ F) @ A
    rest = D - F @ (A @ D)
    alone = 1 - hat < ALONE
    shift = np.where(alone, np.where(np.abs(T) > ALONE * np.abs(T).max(), np.inf, 0.0), T * (rest / np.where(alone, 1.0, 1 - hat)))
    return Assisted(T @ D, shift, T, A[: X.shape[1]] @ D, float(J - hat.sum()), 1 - hat, np.arange(J))


def centred(S: Coalitions) -> Vector:
    """u: each coalition (m, n) less its share of players."""
    return np.asarray(S - S.mean(axis=1, keepdims=True), dtype=np.float64)


def following(pairs: Pairs, D: Vector, x: Vector, known: Assisted, parent: NDArray[np.intp], joined: int = 0) -> Assisted:
    """Credits from D with the game that gave x (pairs,) as control, whose credits are `known` from more pairs.

    Two controls, as noise and what players do together want another coefficient than credits do: u'phi_lo, of credits phi_lo
    whatever they are, and x - u'phi_lo, of credits nought with the error of phi_lo. The last `joined` players are nobody in x.
    parent (pairs,) is the pair of `known` that each pair shares coalitions with, -1 for none. Clusters of the result are those of
    `known`, then one for each pair without a parent."""
    n = pairs.S.shape[1]
    phi = np.append(known.phi, np.zeros(joined))
    shift = np.vstack([known.shift, np.zeros((joined, known.shift.shape[1]))])
    phi, shift, U = phi - phi.mean(), shift - shift.mean(axis=0), centred(pairs.S)
    X, C = np.stack([U @ phi, x - U @ phi], axis=1), np.stack([phi, np.zeros(n)], axis=1)
    # On pairs that its credits come from too, a control needs no caution: the best coefficient is that of regression.
    apart = float(np.mean(parent < 0)) if not joined else 0.0
    caution = np.array([0.0, apart * len(D) * information(n) * np.sum(shift**2) / (n - 1)])
    found = assisted(pairs, D, Controls(X, C, caution), joined)
    by_known = found.rho[0] * shift - (found.rho[0] - found.rho[1]) * (found.T @ (U @ shift))
    total = np.hstack([by_known, np.zeros((n, np.count_nonzero(parent < 0)))])
    cluster = np.where(parent < 0, by_known.shape[1] - 1 + np.cumsum(parent < 0), known.cluster[parent])
    np.add.at(total.T, cluster, found.shift.T)
    return found._replace(shift=total, cluster=cluster)


# --- before it: is the cheap game of use, and how to spend a budget on both


class Pilot(NamedTuple):
    """What a few coalitions valued in both games say."""

    rho: float  # correlation of the odd parts
    low: float  # its interval
    high: float
    width: float  # intervals to be expected relative to the exact game alone at equal cost, at this correlation
    use: bool
    reason: str


def pilot(Z: ArrayLike, y_low: ArrayLike, y: ArrayLike, cost_low: float, cost_high: float, level: float = 0.95) -> Pilot:
    """Whether the cheap game is worth using, from 20 to 30 coalitions of `leverage` valued in both: METHODS.md §3.

    Z (m, n) in complementary pairs, cheap values y_low (m,), exact values y (m,), cost of one coalition in each in one unit.
    The correlation of odd parts less their trend in size, each pair weighing what it does in the credits, with Fisher's interval: it
    holds the true one in .94 to .99 of cases, and lets a game at .9 with little noise pass in eight of ten. Noise of either game
    lowers the correlation, as it lowers the gain. Only one surely above nought is used: below it, look for a mistake. What the cheap
    values cost is no reason to throw them away once they are there: `width` is advice for the next round.
    Raises ValuationError for bad input and fewer than 8 pairs."""
    rows, y = checked(Z, y)
    _, y_low = checked(rows, y_low)
    costs(cost_low, cost_high)
    if not 0 < level < 1:
        raise ValuationError(f"found level = {level}, expected a number between 0 and 1")
    pairs = leverage_pairs(rows)
    if len(pairs.S) < FEWEST_PAIRS:
        raise ValuationError(f"found {len(pairs.S)} pairs of coalitions, expected at least {FEWEST_PAIRS} (m = {2 * FEWEST_PAIRS})")
    rho = _correlation(pairs, pairs.odd(y_low), pairs.odd(y))
    half = norm.ppf(0.5 + level / 2) / np.sqrt(len(pairs.S) - 4)  # one pair goes to the trend, three to Fisher's variance
    low, high = np.tanh(np.arctanh(rho) - half), np.tanh(np.arctanh(rho) + half)
    width = relative_width(max(rho, 0.0), cost_low / cost_high)
    return Pilot(rho, float(low), float(high), width, *_verdict(rho, float(low), float(high), width))


def _correlation(pairs: Pairs, a: Vector, b: Vector) -> float:
    """Weighted correlation of two odd parts without their trend in size; about nought, which is where odd parts have their mean."""
    w, off = pairs.weight, pairs.S.sum(axis=1) - pairs.S.shape[1] / 2
    trend = float(w @ off**2)
    a, b = (d - off * ((w * off) @ d / trend) if trend > 0 else d for d in (a, b))
    spread = np.sqrt((w @ a**2) * (w @ b**2))
    if not spread > 0:
        raise ValuationError("found a game whose odd parts are all alike, expected values that differ between players")
    return float(np.clip((w * a) @ b / spread, -1 + ROUNDING, 1 - ROUNDING))


def _verdict(rho: float, low: float, high: float, width: float) -> tuple[bool, str]:
    measured = f"rho = {rho:.2f} ({low:.2f} .. {high:.2f})"
    if low <= 0:
        return False, f"the cheap game's odd part does not surely correlate: {measured}, expected above 0: use the exact game alone"
    said = f"the cheap game is of use: {measured}, {width:.2f} of the width of the exact game alone at equal cost"
    return True, f"{said}; for so little the exact game alone would be simpler" if width > WORTH_IT else said


class Split(NamedTuple):
    """How to spend a budget."""

    high: int  # coalitions to be valued exactly, even
    low: int  # coalitions to be valued cheaply, even, the exact ones among them; 0: use the exact game alone
    width: float  # intervals to be expected relative to the exact game alone
    reason: str


def split(budget: float, cost_low: float, cost_high: float, rho: float) -> Split:
    """The split of a budget that makes the intervals narrowest: multilevel Monte Carlo on nested coalitions (Giles, 2015).

    With N exact coalitions among M cheap ones the variance is (1 - rho^2) / N + rho^2 / M relative to one exact one, at the cost
    N cost_high + M cost_low. Least at M / N = rho / sqrt(1 - rho^2) sqrt(cost_high / cost_low); the width relative to the exact
    game alone is rho sqrt(c) + sqrt(1 - rho^2), c = cost_low / cost_high. Half the width needs rho >= .96 at c = 1/20.
    That holds for many pairs of coalitions. From a few hundred coalitions the width is a fifth to two fifths more, so less than a fifth
    to be gained is left alone; from fewer than about two pairs a player the exact game alone fares far worse. rho: correlation of the odd
    parts (`pilot`), noise and all. Raises ValuationError for bad input and a budget too small for 8 pairs."""
    costs(cost_low, cost_high)
    if not -1 < rho < 1:
        raise ValuationError(f"found rho = {rho}, expected a correlation between -1 and 1")
    fewest = 2 * FEWEST_PAIRS
    alone = even(budget / cost_high) if np.isfinite(budget) else 0
    if alone < fewest:
        raise ValuationError(f"found budget = {budget}, expected at least {fewest * cost_high}: {fewest} exact coalitions (budget)")
    width = relative_width(rho, cost_low / cost_high)
    times = max(rho, 0.0) / np.sqrt(1 - rho**2) * np.sqrt(cost_high / cost_low)
    high = max(even(budget / (cost_high + times * cost_low)), fewest)
    low = even((budget - high * cost_high) / cost_low)
    if width > WORTH_IT or low <= high:
        return Split(alone, 0, 1.0, f"the exact game alone: with rho = {rho:.2f} a second one would leave {width:.2f} of the width")
    return Split(high, low, width, f"both games: {width:.2f} of the width from {alone} exact coalitions, by rho = {rho:.2f}")


def relative_width(rho: float, c: float) -> float:
    """Width of intervals from both games relative to the exact one alone at equal cost, for many pairs; c is cheap over exact cost.

    1 where nothing can be gained: the cheap values can then not outnumber the exact ones."""
    rho = max(rho, 0.0)
    best = rho * np.sqrt(c) + np.sqrt(1 - rho**2)
    return float(best) if rho > np.sqrt(1 - rho**2) * np.sqrt(c) and best < 1 else 1.0


def even(number: float) -> int:
    """The largest even number not above it."""
    return 2 * int(number / 2 + 1e-9)


def costs(low: float, high: float) -> None:
    """Raises ValuationError unless both are finite and above nought."""
    if not (0 < low < np.inf and 0 < high < np.inf):
        raise ValuationError(f"found cost_low = {low} and cost_high = {high}, expected finite costs above 0")
