"""Shapley values of an exact game from a few exact values and many of a cheap one: METHODS.md §3, a control variate on pairs.

Only half the difference of a coalition and its complement, its odd part, moves a Shapley value. The exact game's odd parts are
fitted by the cheap game's and by credits, with ridge; what the fit misses is added back by its known chance to be drawn (a
generalised regression estimator), so that a cheap game of no use costs width and not truth."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from apportion.errors import ValuationError
from apportion.valuation.coalitions import Coalitions, Vector, log_choose, size_shares
from apportion.valuation.inputs import Ends, checked, ends, finite, nothing, reach, share
from apportion.valuation.intervals import ranking_only

FEWEST_PAIRS = 8
INFLATE = 0.85  # power of what a fit leaves of a pair that its residual is divided by: 1/2 (HC2) covers .87 to .95, 1 (HC3) .97 to 1
STARS = 3  # players at most without ridge because they stand out
STAR = 0.75  # of the variance must be left for each of them
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
    se: Vector  # (n,) standard errors, of the unbiased estimates that the intervals are about
    low: Vector  # (n,) interval
    high: Vector  # (n,)
    rho: tuple[float, float]  # how much of the cheap game's credits, and of what they leave of its odd parts, the exact one follows
    spare: Vector  # (n,) degrees of freedom that the pairs of coalitions leave


def combine(
    Z_low: ArrayLike,
    y_low: ArrayLike,
    Z: ArrayLike,
    y: ArrayLike,
    y_paired: ArrayLike,
    v0: ArrayLike,
    v1: ArrayLike,
    level: float = 0.95,
) -> Combined:
    """Shapley values of the exact game, METHODS.md §3: rho phi_lo + phi(v_hi - rho v_lo).

    Z_low (m_low, n) with cheap values y_low; Z (m, n) with exact values y and cheap values y_paired of the same rows; both drawn
    by `leverage`, in complementary pairs in any order, each pair once. Rows of Z may be among those of Z_low (the first of them,
    say, the cheapest choice) or drawn apart. v0, v1: the exact values of nobody and of everybody, as in `intervals.hc3`.
    The cheap game's ends are not needed.

    One rho and one ridge serve all pairs, and the ridge draws credits of few pairs towards what the cheap game says of them: closer to
    the truth on the whole, and biased by a third of a standard deviation at 12 to 20 pairs of 20 players, a seventh at 50. Intervals are
    those of an estimate for each player without a ridge on him, which is not; they hold `phi`, not always in the middle. At a level of
    .95 they cover each player in .93 or more of random games of 8 to 20 players, also one or two whose worth of up to 30 SD shows in the
    exact game alone (`benchmarks/multifidelity.py stars`). Endless is that of a player whom only a single pair tells apart from another.
    The error of each pair is judged by a fit without it, and added up over both games where they share coalitions.
    Raises ValuationError for bad input and for fewer than 8 pairs in either game."""
    rows_low, y_low = checked(Z_low, y_low)
    rows, y = checked(Z, y)
    _, y_paired = checked(rows, y_paired)
    if rows.shape[1] != rows_low.shape[1]:
        raise ValuationError(f"found {rows.shape[1]} players in Z and {rows_low.shape[1]} in Z_low, expected the same")
    shared, level = ends(v0, v1), share("level", level)
    cheap, exact = leverage_pairs(rows_low), leverage_pairs(rows)
    known = assisted(cheap, cheap.odd(y_low)).known()
    found = following(exact, exact.odd(y), exact.odd(y_paired), known, cheap.find(exact))
    return interval(found, shared, level, 0.0 if all_seen(exact) else nothing(y, shared))


def covers(k: int, m: int, n: int, method: str) -> str:
    """In words, for reports: what an interval from k retrained coalitions of n players and m of the removal method covers."""
    return (
        ranking_only(k, n, "retrained coalitions")
        + f"a player's Shapley value in the game of retraining, each player taken alone, over the draw of coalitions and the noise of "
        f"their evaluation, from {k} retrained coalitions with the help of {m} of {method}; also of a player whose worth shows in "
        "retraining alone. The fewer are retrained, the more the credits are drawn towards each other, as the intervals that hold them "
        "are not"
    )


def interval(found: "Assisted", shared: Ends, level: float, none: float = 0.0) -> Combined:
    """What `found` says of the players' differences, with the gain v1 - v0 shared out evenly and the errors of both ends.

    Credits sum to the gain as the fit of all players has them. Each interval is about the player's own fit, wide enough to hold both.
    Errors of at most `none` are unknown, as in `intervals.hc3`."""
    n = len(found.phi)
    phi, middle = found.drawn + shared.gain / n, found.phi + shared.gain / n
    own = np.sum(found.shift**2, axis=1)
    own = np.where(own <= none**2, np.inf, own) if none else own
    known = np.isfinite(own)
    # From few pairs a player's variance comes out too small by chance: lift it towards the players' mean, never lower it.
    lifted = np.maximum(own, (found.spare * own + PRIOR * (own[known].mean() if known.any() else 0.0)) / (found.spare + PRIOR))
    of_ends = np.tile(shared.variance / n**2, (n, 1))
    half = reach(level, lifted, found.spare, of_ends, shared.spare)
    rho = (float(found.rho[0]), float(found.rho[1])) if len(found.rho) else (0.0, 0.0)
    se = np.sqrt(lifted + of_ends.sum(axis=1))
    return Combined(phi, se, np.minimum(middle - half, phi), np.maximum(middle + half, phi), rho, found.spare)


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


def all_seen(pairs: Pairs) -> bool:
    """Whether all pairs of proper coalitions are there."""
    J, n = pairs.S.shape
    return bool(2 ** (n - 1) - 1 <= J)


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
    """Credits with what leaving out each pair does to them, about: sums of products of shifts are their covariance (HC2 to HC3)."""

    phi: Vector  # (n,) credits less equal shares, each by the fit that draws this player nowhere
    drawn: Vector  # (n,) the same by one fit that draws all players: closer on the whole, and biased
    beside: Vector  # (n,) coefficients of the players, what controls do not say of them, each by the fit that draws this player nowhere
    shift: Vector  # (n, clusters) how far each independent observation moves phi
    T: Vector  # (n, pairs) how each pair's odd part moves phi
    rho: Vector  # (q,) coefficients of the controls
    spare: Vector  # (n,) degrees of freedom: pairs less what is fitted to them
    kept: Vector  # (n, pairs) what each player's fit leaves of each pair's odd part
    cluster: NDArray[np.intp]  # (pairs,) column of `shift` that each pair is part of

    def known(self) -> "Assisted":
        """For another fit to follow: HC2 where there are two pairs or more a player.

        From enough pairs more only makes up for the degrees of freedom, of which the fit that follows has fewer."""
        n, J = self.T.shape
        return self._replace(shift=self.shift * np.maximum(self.kept, 0.0) ** (INFLATE - 0.5)) if 2 * n <= J else self

    def price(self) -> tuple[int, float]:
        """How many players only a single pair tells apart from another, and the sum of the others' variances, those of Student's t."""
        known = np.isfinite(self.shift).all(axis=1)
        spare = self.spare[known]
        return int(np.sum(~known)), float(np.sum(np.sum(self.shift[known] ** 2, axis=1) * spare / (spare - 2)))

    def usable(self) -> bool:
        return bool(self.spare.min() > 2 and np.isfinite(self.shift).all(axis=1).any())


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
    many pairs as players. From all coalitions the credits are exact, whatever the ridge. Source: Särndal, Swensson and Wretman
    (1992), ch. 6.

    The ridge draws a player who is unlike the others towards them. So each credit and its error come from a fit of its own, in which
    that player has no ridge and the others' worth alone is taken for random. And a player who stands out so far that all credits
    together are better known without a ridge on him has none in any fit: up to `STARS` of them, tried in the order of what the
    controls do not explain. The last `sure` players have none to begin with. The ridge is the one of least estimated variance."""
    J, n = pairs.S.shape
    if J < FEWEST_PAIRS:
        raise ValuationError(f"found {J} pairs of coalitions, expected at least {FEWEST_PAIRS} (m = {2 * FEWEST_PAIRS})")
    X, C, caution = controls or Controls(np.empty((J, 0)), np.empty((n, 0)), np.empty(0))
    # Sizes alone move no credit between players: more controls, of credits nought. They take up a v0 far off the scale.
    off = 2 * pairs.S.mean(axis=1) - 1
    sizes = np.stack([off, off**3], axis=1)[:, : 2 if 2 * n <= J else 1]
    X, C = np.column_stack([X, sizes]), np.column_stack([C, np.zeros((n, sizes.shape[1]))])
    fixed = np.append(caution, np.zeros(sizes.shape[1]))
    ridges = RIDGES if n + X.shape[1] + ROOM <= J else RIDGES[1:]
    found, least, free = None, (n, np.inf), np.arange(n) >= n - sure
    for stars in range(STARS + 1):
        ridge = np.where(free, 0.0, information(n) * n / J)
        fits = [fit for r in ridges if (fit := _regression(pairs, D, X, C, np.append(fixed, r * ridge))).usable()]
        if not fits:
            break
        best = min(fits, key=Assisted.price)
        unknown, price = best.price()
        if (unknown, price / STAR**stars) < least:
            found, least = best, (unknown, price / STAR**stars)
        free[np.argmax(np.where(free, -1.0, np.abs(best.beside)))] = True
    if found is None:
        raise ValuationError(f"found {J} pairs of coalitions of which single ones decide a credit alone, expected more of them (m)")
    return found._replace(rho=found.rho[: len(caution)])


def information(n: int) -> float:
    """g, the covariance of coalitions over the Shapley kernel per difference of players: 1 / (2 H_{n-1})."""
    return float(0.5 / np.sum(1.0 / np.arange(1, n)))


def _regression(pairs: Pairs, D: Vector, X: Vector, C: Vector, penalty: Vector) -> Assisted:
    """`assisted` at one ridge, penalty (q + n,): the fit of all players, and from it each player's own, without his penalty.

    With G the inverse of F'WF + penalty and theta = A D the coefficients, taking away the penalty p of one of them moves all by
    G[:, i] p / (1 - p G[i, i]) theta[i] (Sherman and Morrison), and fitted values, hat matrix and credits along."""
    (J, n), q, w = pairs.S.shape, X.shape[1], pairs.weight
    U = centred(pairs.S)
    F = np.hstack([X, U])
    scale = np.sqrt(w @ F**2 + penalty)
    scale[scale == 0] = 1.0
    gram = ((F.T * w) @ F + np.diag(penalty)) / np.outer(scale, scale)
    G = np.linalg.pinv(gram, rcond=RANK_TOLERANCE, hermitian=True) / np.outer(scale, scale)
    A, direct = G @ (F.T * w), (U.T * w) / information(n)
    L = np.hstack([C, np.eye(n) - 1 / n]) - direct @ F  # credits are L theta + direct D
    T, own, p = L @ A + direct, A[q:], penalty[q:]
    told = np.einsum("ij,ji->i", own, U)  # 1 - p G[i, i]; nothing of a player whom a control stands for, who needs no fit of his own
    less = np.divide(p, told, out=np.zeros(n), where=told > ALONE)
    moved, theta = (F @ (G[:, q:] * less)).T, own @ D
    rest = D - F @ (A @ D) - moved * theta[:, None]
    kept = 1 - np.einsum("jp,pj->j", F, A) - moved * own
    each = T + np.einsum("ip,pi->i", L, G[:, q:] * less)[:, None] * own
    alone = kept < ALONE
    missed = rest / np.where(alone, 1.0, kept) ** INFLATE
    shift = np.where(alone, np.where(np.abs(each) > ALONE * np.abs(each).max(), np.inf, 0.0), each * missed)
    beside = theta * (1 + less * np.diagonal(G[q:, q:]))
    return Assisted(each @ D, T @ D, beside, shift, each, A[:q] @ D, kept.sum(axis=1), kept, np.arange(J))


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
    if unknown := known.price()[0]:
        raise ValuationError(f"found {unknown} players whom a single pair of the game to be followed tells apart, expected more pairs (m)")
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
    level = share("level", level)
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
    budget, rho = number("budget", budget), number("rho", rho)
    if not -1 < rho < 1:
        raise ValuationError(f"found rho = {rho}, expected a correlation between -1 and 1")
    fewest = 2 * FEWEST_PAIRS
    alone = even(budget / cost_high)
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
    if not (number("cost_low", low) > 0 and number("cost_high", high) > 0):
        raise ValuationError(f"found cost_low = {low} and cost_high = {high}, expected finite costs above 0")


def number(name: str, value: float) -> float:
    """A single finite number, or a ValuationError that names it."""
    found = finite(name, value)
    if found.ndim:
        raise ValuationError(f"found {name} of shape {found.shape}, expected a number")
    return float(found)
