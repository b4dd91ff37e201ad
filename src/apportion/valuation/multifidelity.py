"""Shapley values of a retrained game, with cheap games as control variates.

Only half the difference of the values of a coalition and its complement, the odd part, affects a Shapley
value. The odd parts of the retrained game are fitted by those of the cheap games and by credits, with a
ridge. What the fit misses is added back, weighted by the known probability of each pair (a generalised
regression estimator), so a useless cheap game makes intervals wider but not wrong. See docs/methods.md,
section "Several games together".
"""

from collections.abc import Sequence
from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from apportion.errors import ValuationError
from apportion.valuation.coalitions import Coalitions, Vector, log_coalition_counts, size_shares
from apportion.valuation.inputs import (
    Endpoints,
    checked,
    checked_endpoints,
    finite_number,
    fraction,
    half_width,
    rounding_error,
)
from apportion.valuation.intervals import ranking_only

FEWEST_PAIRS = 8
# A residual is divided by this power of what the fit leaves of its pair: 1/2 (HC2) covers .87 to .95, 1 (HC3)
# .97 to 1.
INFLATION_POWER = 0.85
MAX_OUTLIERS = 3  # players without a ridge because they stand out, at most
OUTLIER_GAIN = 0.75  # each of them must reduce the variance to this share
# Ridges, in units of a player's information in the pairs. The last one leaves no fitted credits.
RIDGES = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 1e6)
POOLED_PAIRS = 10  # the mean variance of all players counts as so many pairs beside each player's own
FEWEST_LEFT_OVER = 3  # pairs beyond the coefficients, for a fit without ridge
FULL_PAIR_LEVERAGE = (
    1e-9  # where 1 - leverage of a pair is below this, the fit passes through the pair exactly
)
RHO_MARGIN = 1e-12  # keeps a correlation away from -1 and 1
GRAM_TOLERANCE = 1e-11
# Of the width from the retrained game alone, for many pairs. From a few hundred coalitions a quarter of the
# gain is lost.
MAX_RELATIVE_WIDTH = 0.8


class Combined(NamedTuple):
    """Credits of the retrained game in units of the property, with an interval for each player."""

    phi: Vector  # (n,) credits; they sum to v1 - v0
    se: Vector  # (n,) standard errors of the unbiased estimates that the intervals are about
    low: Vector  # (n,) lower bound of the interval
    high: Vector  # (n,) upper bound of the interval
    # For each cheap game the coefficients of its credits, and of the rest of its odd parts
    rho: tuple[tuple[float, float], ...]
    dof: Vector  # (n,) degrees of freedom that the pairs of coalitions leave


class CheapGame(NamedTuple):
    """A game that is evaluated on more coalitions than are retrained.

    design (m, n): coalitions drawn by `leverage`, with values y (m,), in complementary pairs in any order,
    each pair once; the credits of this game are computed from them. others (k, n) with values y_others (k,):
    coalitions that dearer games are evaluated on and that are not in the design. noise_free: whether a second
    evaluation of a coalition would give the same value.
    """

    design: ArrayLike
    y: ArrayLike
    others: ArrayLike | None = None
    y_others: ArrayLike | None = None
    noise_free: bool = False


def combine(
    cheap: Sequence[CheapGame],
    Z: ArrayLike,
    y: ArrayLike,
    v0: ArrayLike,
    v1: ArrayLike,
    level: float = 0.95,
) -> Combined:
    """Shapley values of the retrained game: rho' phi_cheap + phi(v_retrained - rho' v_cheap).

    Z (m, n) with retrained values y, drawn by `leverage`, in complementary pairs in any order, each pair
    once. cheap: the control games, the cheapest first. Each must have been evaluated on the coalitions of all
    games after it, and on Z; these may be among its design (the first of its coalitions then cost least) or
    drawn separately. v0 and v1 are the retrained values of the empty and the grand coalition, as in
    `intervals.hc3`. Those of the cheap games are not needed.

    The credits of each cheap game have the cheaper ones as controls in turn. Values of a cheap game whose
    coalitions share sets of weights need no special care: such a game is a control in the form of the sets
    that it has, and pairs are dealt to those at random.

    All pairs share one rho and one ridge. The ridge shrinks credits from few pairs towards what the cheap
    games say of them. On average they are then closer to the true values, but biased: by a third of a
    standard deviation at 12 to 20 pairs of 20 players, a seventh at 50. An interval is about an estimate
    without a ridge on its own player, which is not shrunk. It contains `phi`, not always in the middle.

    At a level of .95 the intervals cover each player in .93 or more of random games of 8 to 20 players, also
    one or two players whose contribution of up to 30 SD shows only in the retrained game
    (`benchmarks/multifidelity.py outliers`). The interval is infinite for a player that only a single pair
    distinguishes from another. The error of each pair is estimated by a fit without that pair, and added over
    all games where they share coalitions. Raises ValuationError for bad input and for fewer than 8 pairs in
    any game.
    """
    rows, y = checked(Z, y)
    endpoints, level = checked_endpoints(v0, v1), fraction("level", level)
    games = [CheapValues.of(game, rows.shape[1]) for game in cheap]
    retrained = leverage_pairs(rows)
    clusters = _numbered([game.pairs for game in games] + [retrained])
    known: list[AssistedFit] = []
    for place, game in enumerate(games):
        fit = _fitted(
            game.pairs, game.pairs.odd(game.y), games[:place], known, clusters[place], as_known=True
        )
        known.append(known_credits(game.pairs, fit, game.noise_free))
    fit = _fitted(retrained, retrained.odd(y), games, known, clusters[-1])
    rounding = 0.0 if all_pairs_present(retrained) else rounding_error(y, endpoints)
    return with_intervals(fit, endpoints, level, rounding)


class CheapValues(NamedTuple):
    """A checked CheapGame: the pairs of its design, the values of its rows, and the odd part of every pair
    that was evaluated, by the coalition without the last player."""

    pairs: "WeightedPairs"
    y: Vector
    odd: dict[bytes, float]
    noise_free: bool

    @classmethod
    def of(cls, game: CheapGame, n: int) -> "CheapValues":
        design, y = checked(game.design, game.y)
        parts = [(design, y)]
        if game.others is not None and game.y_others is not None and len(np.asarray(game.others)):
            parts.append(checked(game.others, game.y_others))
        for rows, _ in parts:
            if rows.shape[1] != n:
                raise ValuationError(
                    f"found {n} players in Z and {rows.shape[1]} in a cheap game, expected the same"
                )
        odd: dict[bytes, float] = {}
        for rows, values in parts:
            paired = pair_rows(rows)
            halves = (values[paired[:, 0]] - values[paired[:, 1]]) / 2
            odd |= {rows[j].tobytes(): float(d) for j, d in zip(paired[:, 0], halves, strict=True)}
        return cls(leverage_pairs(design), y, odd, game.noise_free)

    def odd_of(self, pairs: "WeightedPairs") -> Vector:
        """The odd parts of pairs that may lie outside its design, (pairs,)."""
        missing = sum(S.tobytes() not in self.odd for S in pairs.S)
        if missing:
            raise ValuationError(
                f"found {missing} of {len(pairs.S)} pairs of coalitions that a cheaper game was not "
                "evaluated on, expected all of them"
            )
        return np.array([self.odd[S.tobytes()] for S in pairs.S])


def known_credits(pairs: "WeightedPairs", fit: "AssistedFit", noise_free: bool) -> "AssistedFit":
    """The fit of a control whose pairs were drawn without replacement. Without noise, errors come from the
    coalitions that were not drawn alone: of a size of which a share f was, the variance is 1 - f of that from
    draws with replacement (Cochran 1977, Sampling Techniques, section 2.6)."""
    if not noise_free:
        return fit
    n, size = pairs.S.shape[1], pairs.S.sum(axis=1)
    size = np.minimum(size, n - size)
    of_size = np.array([comb(n, int(s)) / (2 if 2 * s == n else 1) for s in size])
    drawn = np.bincount(size)[size] / of_size
    left = np.sqrt(np.clip(1.0 - drawn, 0.0, None))
    by_pair = np.where(left > 0, fit.shift[:, fit.cluster], 0.0) * left
    shift = np.zeros_like(fit.shift)
    shift[:, fit.cluster] = by_pair
    return fit._replace(shift=shift)


def _numbered(designs: Sequence["WeightedPairs"]) -> list[NDArray[np.intp]]:
    """For each design the number of each of its pairs, (pairs,): the same pair has one number in all of
    them."""
    number: dict[bytes, int] = {}
    return [
        np.array([number.setdefault(S.tobytes(), len(number)) for S in pairs.S], dtype=np.intp)
        for pairs in designs
    ]


def _fitted(
    pairs: "WeightedPairs",
    D: Vector,
    games: Sequence[CheapValues],
    known: Sequence["AssistedFit"],
    cluster: NDArray[np.intp],
    as_known: bool = False,
) -> "AssistedFit":
    """Credits of one game with those of cheaper games, `known`, as controls: with those of them that give the
    smallest estimated variance. The retrained game, the last one, has at least one of them. The coefficients
    of the others are 0."""
    controls = [Control(game.odd_of(pairs), fit) for game, fit in zip(games, known, strict=True)]
    fewest = 0 if as_known else min(1, len(controls))
    fits, refused = [], None
    for size in range(fewest, len(controls) + 1):
        for subset in combinations(range(len(controls)), size):
            try:
                fit = controlled(pairs, D, [controls[g] for g in subset], cluster, as_known=as_known)
            except ValuationError as error:  # of this subset; another one may need fewer pairs
                refused = error
                continue
            rho = np.zeros((len(controls), 2))
            rho[list(subset)] = fit.rho.reshape(-1, 2)
            fits.append(fit._replace(rho=rho.ravel()))
    if refused is not None and not fits:
        raise refused
    return min(fits, key=AssistedFit.criterion)


def covers(k: int, helpers: Sequence[str], n: int) -> str:
    """In words, for reports: what an interval covers.

    It is computed from k retrained coalitions of n players and those of the cheap games, `helpers`, each in
    words ("96 of experts").
    """
    text = (
        "a player's Shapley value in the game of retraining, for each player separately, over the random "
        f"draw of coalitions and the noise of their evaluation, from {k} retrained coalitions with the help "
        f"of {' and '.join(helpers)}, as far as these correlate with it; also for a player whose "
        "contribution shows only in retraining. The fewer coalitions are retrained, the more the credits are "
        "shrunk towards each other; the intervals "
        "contain the credits, but are not shrunk"
    )
    return ranking_only(k, n, "retrained coalitions") + text


def with_intervals(fit: "AssistedFit", endpoints: Endpoints, level: float, rounding: float = 0.0) -> Combined:
    """Credits with intervals: the fitted differences between players, and the gain v1 - v0 shared out evenly.

    The credits, of the fit of all players, sum to the gain. Each interval is about the player's own fit, and
    wide enough to contain both. Errors of at most `rounding` are unknown, as in `intervals.hc3`.
    """
    n = len(fit.phi)
    phi, middle = fit.shrunk + endpoints.gain / n, fit.phi + endpoints.gain / n
    own = np.sum(fit.shift**2, axis=1)
    if rounding:
        own = np.where(own <= rounding**2, np.inf, own)
    known = np.isfinite(own)
    mean = own[known].mean() if known.any() else 0.0
    # From few pairs a variance may be too small by chance. It is raised towards the players' mean, never
    # lowered.
    variance = np.maximum(own, (fit.dof * own + POOLED_PAIRS * mean) / (fit.dof + POOLED_PAIRS))
    endpoint_variance = np.tile(endpoints.variance / n**2, (n, 1))
    half = half_width(level, variance, fit.dof, endpoint_variance, endpoints.dof)
    rho = tuple((float(one), float(other)) for one, other in fit.rho.reshape(-1, 2))
    se = np.sqrt(variance + endpoint_variance.sum(axis=1))
    return Combined(phi, se, np.minimum(middle - half, phi), np.maximum(middle + half, phi), rho, fit.dof)


# --- pairs of coalitions


class WeightedPairs(NamedTuple):
    """Complementary pairs. The coalition without the last player stands for the pair."""

    S: Coalitions  # (pairs, n) that coalition
    # (pairs,) Shapley kernel of the pair over its probability of being drawn: weighted sums stand for all
    # pairs
    weight: Vector
    rows: NDArray[np.intp]  # (pairs, 2) the rows of the coalition and of its complement

    def odd(self, y: Vector) -> Vector:
        """Half the difference of each pair's values (pairs,), from the values of the rows (m,)."""
        return np.asarray((y[self.rows[:, 0]] - y[self.rows[:, 1]]) / 2, dtype=np.float64)


def all_pairs_present(pairs: WeightedPairs) -> bool:
    """Whether these are all pairs of proper coalitions."""
    J, n = pairs.S.shape
    return bool(2 ** (n - 1) - 1 <= J)


def leverage_pairs(rows: Coalitions) -> WeightedPairs:
    """The pairs of a `leverage` design (m, n).

    Raises ValuationError unless every row has its complement, once.
    """
    paired = pair_rows(rows)
    m, n = rows.shape
    size = rows[paired[:, 0]].sum(axis=1)
    with np.errstate(divide="ignore"):
        log_probability = np.log(m * size_shares("leverage", n, m)) - log_coalition_counts(n)
    weight = np.exp(log_pair_kernel(n)[size] - log_probability[size])
    return WeightedPairs(rows[paired[:, 0]], weight, paired)


def pair_rows(rows: Coalitions) -> NDArray[np.intp]:
    """The rows of each coalition without the last player and of its complement (pairs, 2), in their order.

    Raises ValuationError unless every row has its complement, once.
    """
    n, size = rows.shape[1], rows.sum(axis=1)
    if np.any(size == 0) or np.any(size == n):
        raise ValuationError(
            f"found the empty coalition or all {n} players among the rows of Z, expected neither: their "
            "values are v0 and v1"
        )
    place = {row.tobytes(): j for j, row in enumerate(rows)}
    if len(place) < len(rows):
        raise ValuationError(f"found {len(rows) - len(place)} repeated rows, expected each coalition once")
    first = np.flatnonzero(~rows[:, -1])
    partner = np.array([place.get((~rows[j]).tobytes(), -1) for j in first], dtype=np.intp)
    unpaired = len(rows) - 2 * np.count_nonzero(partner >= 0)
    if unpaired:
        raise ValuationError(
            f"found {unpaired} coalitions without their complement, expected complementary pairs (draw them "
            "by 'leverage')"
        )
    order = np.argsort(np.minimum(first, partner), kind="stable")
    return np.stack([first, partner], axis=1)[order]


def log_pair_kernel(n: int) -> Vector:
    """Logarithm of the Shapley kernel of a pair, by the size 0..n of either coalition (n + 1,).

    The kernel sums to one over all pairs.
    """
    with np.errstate(divide="ignore"):
        log_kernel = np.log(2 * size_shares("shapley_kernel", n, 1)) - log_coalition_counts(n)
    return np.asarray(log_kernel, dtype=np.float64)


# --- the estimator: regression on what is known, plus what the regression misses


class AssistedFit(NamedTuple):
    """Credits with the approximate effect of leaving out each pair.

    Sums over clusters of products of shifts are the covariance of the credits (between HC2 and HC3).
    """

    phi: Vector  # (n,) credits less equal shares, each by the fit without a ridge on its player
    shrunk: Vector  # (n,) the same by one fit with a ridge on all players: closer on the whole, but biased
    # (n,) coefficients of the players, what the controls do not explain, each by the fit without a ridge on
    # its player
    effects: Vector
    shift: Vector  # (n, clusters) how far each independent observation moves phi
    T: Vector  # (n, pairs) derivative of phi by each pair's odd part
    rho: Vector  # (q,) coefficients of the controls
    dof: Vector  # (n,) degrees of freedom: pairs less what is fitted to them
    remaining: Vector  # (n, pairs) one minus the leverage of each pair in each player's fit
    cluster: NDArray[np.intp]  # (pairs,) column of `shift` that each pair is part of

    def as_known(self) -> "AssistedFit":
        """This fit for use as a control: with HC2 where there are at least two pairs for each player.

        With so many pairs a larger power would only account for the degrees of freedom of this fit. The fit
        that uses the control has fewer, and accounts for them itself.
        """
        n, J = self.T.shape
        if 2 * n > J:
            return self
        return self._replace(shift=self.shift * np.maximum(self.remaining, 0.0) ** (INFLATION_POWER - 0.5))

    def criterion(self) -> tuple[int, float]:
        """What is minimised: the number of players with unknown error, then the sum of the others' variances.

        The error is unknown for a player that only a single pair distinguishes from another. Variances are
        those of Student's t.
        """
        known = np.isfinite(self.shift).all(axis=1)
        dof = self.dof[known]
        variance = np.sum(self.shift[known] ** 2, axis=1) * dof / (dof - 2)
        return int(np.sum(~known)), float(np.sum(variance))

    def is_usable(self) -> bool:
        return bool(self.dof.min() > 2 and np.isfinite(self.shift).all(axis=1).any())


class Controls(NamedTuple):
    """Odd parts of q games whose credits are known."""

    X: Vector  # (pairs, q) odd parts
    C: Vector  # (n, q) credits less their mean
    penalty: Vector  # (q,) ridge on their coefficients, for credits that are uncertain themselves


def assisted(
    pairs: WeightedPairs, D: Vector, controls: Controls | None = None, joined: int = 0
) -> AssistedFit:
    """Credits from odd parts D (pairs,), with the help of controls.

    With u a coalition less its share of players and g = 1 / (2 H_{n-1}), E[u u'] = g (1 - 11'/n) over the
    Shapley kernel, and E[u D] / g are the centred credits. For any fixed rho and beta,
    phi = C rho + beta + sum weight u (D - X rho - u'beta) / g is therefore unbiased, as long as the weight is
    the kernel over the probability. rho and beta are fitted by weighted ridge regression. Without a ridge phi
    is constrained least squares. With an infinite ridge it is the estimator that uses the known Gram matrix.
    Between the two it does not need as many pairs as players. From all coalitions the credits are exact,
    whatever the ridge. Source: Särndal, Swensson and Wretman 1992, Model Assisted Survey Sampling, chapter 6.

    The ridge shrinks a player who is unlike the others towards them. Each credit and its error therefore come
    from a fit of its own, without a ridge on that player, in which only the other players' effects count as
    random. A player who stands out so far that all credits together have a smaller variance without a ridge
    on this player has none in any fit. There are up to `MAX_OUTLIERS` of them, tried in the order of what the
    controls do not explain. The last `joined` players never have a ridge. The ridge is the one with the
    smallest estimated variance.
    """
    J, n = pairs.S.shape
    _check_pairs(J)
    X, C, penalty = controls or Controls(np.empty((J, 0)), np.empty((n, 0)), np.empty(0))
    # Functions of size do not affect differences between players: further controls, whose credits are 0. They
    # absorb a v0 far off the scale of the other values.
    off = 2 * pairs.S.mean(axis=1) - 1
    size_functions = np.stack([off, off**3], axis=1)[:, : 2 if 2 * n <= J else 1]
    X = np.column_stack([X, size_functions])
    C = np.column_stack([C, np.zeros((n, size_functions.shape[1]))])
    fixed = np.append(penalty, np.zeros(size_functions.shape[1]))
    ridges = RIDGES if n + X.shape[1] + FEWEST_LEFT_OVER <= J else RIDGES[1:]
    chosen, least = None, (n, np.inf)
    free = np.arange(n) >= n - joined
    for outliers in range(MAX_OUTLIERS + 1):
        ridge = np.where(free, 0.0, gram_scale(n) * n / J)
        fits = [_regression(pairs, D, X, C, np.append(fixed, r * ridge)) for r in ridges]
        fits = [fit for fit in fits if fit.is_usable()]
        if not fits:
            break
        best = min(fits, key=AssistedFit.criterion)
        unknown, variance = best.criterion()
        criterion = (unknown, variance / OUTLIER_GAIN**outliers)
        if criterion < least:
            chosen, least = best, criterion
        free[np.argmax(np.where(free, -1.0, np.abs(best.effects)))] = True
    if chosen is None:
        raise ValuationError(
            f"found {J} pairs of coalitions, of which a single one determines a credit, expected more pairs "
            "(m)"
        )
    return chosen._replace(rho=chosen.rho[: len(penalty)])


def gram_scale(n: int) -> float:
    """g = 1 / (2 H_{n-1}): the covariance of coalitions over the Shapley kernel is g (1 - 11'/n)."""
    return float(0.5 / np.sum(1.0 / np.arange(1, n)))


def _regression(pairs: WeightedPairs, D: Vector, X: Vector, C: Vector, penalty: Vector) -> AssistedFit:
    """`assisted` with one ridge, penalty (q + n,).

    It has the fit of all players, and each player's own fit without a penalty on that player. With G the
    inverse of F'WF + penalty and theta = A D the coefficients, removing the penalty p of coefficient i moves
    all coefficients by G[:, i] p / (1 - p G[i, i]) theta[i] (Sherman and Morrison 1950), and with them the
    fitted values, the hat matrix and the credits.
    """
    (J, n), q, w = pairs.S.shape, X.shape[1], pairs.weight
    U = centred(pairs.S)
    F = np.hstack([X, U])
    scale = np.sqrt(w @ F**2 + penalty)
    scale[scale == 0] = 1.0
    gram = ((F.T * w) @ F + np.diag(penalty)) / np.outer(scale, scale)
    G = np.linalg.pinv(gram, rcond=GRAM_TOLERANCE, hermitian=True) / np.outer(scale, scale)
    A = G @ (F.T * w)
    direct = (U.T * w) / gram_scale(n)
    L = np.hstack([C, np.eye(n) - 1 / n]) - direct @ F  # credits are L theta + direct D
    T = L @ A + direct
    own, p = A[q:], penalty[q:]
    # 1 - p G[i, i]. It is 0 for a player that a control stands for, who needs no fit of its own.
    denominator = np.einsum("ij,ji->i", own, U)
    factor = np.divide(p, denominator, out=np.zeros(n), where=denominator > FULL_PAIR_LEVERAGE)
    moved = (F @ (G[:, q:] * factor)).T
    theta = own @ D
    residual = D - F @ (A @ D) - moved * theta[:, None]
    remaining = 1 - np.einsum("jp,pj->j", F, A) - moved * own
    own_T = T + np.einsum("ip,pi->i", L, G[:, q:] * factor)[:, None] * own
    full = remaining < FULL_PAIR_LEVERAGE
    left_out = residual / np.where(full, 1.0, remaining) ** INFLATION_POWER
    affected = np.abs(own_T) > FULL_PAIR_LEVERAGE * np.abs(own_T).max()
    shift = np.where(full, np.where(affected, np.inf, 0.0), own_T * left_out)
    effects = theta * (1 + factor * np.diagonal(G[q:, q:]))
    return AssistedFit(
        phi=own_T @ D,
        shrunk=T @ D,
        effects=effects,
        shift=shift,
        T=own_T,
        rho=A[:q] @ D,
        dof=remaining.sum(axis=1),
        remaining=remaining,
        cluster=np.arange(J),
    )


def centred(S: Coalitions) -> Vector:
    """u: each coalition (m, n) less its share of players."""
    return np.asarray(S - S.mean(axis=1, keepdims=True), dtype=np.float64)


class Control(NamedTuple):
    """Another game: its odd parts x (pairs,) of the pairs that are fitted, and its credits."""

    x: Vector
    known: AssistedFit


def controlled(
    pairs: WeightedPairs,
    D: Vector,
    controls: Sequence[Control],
    cluster: NDArray[np.intp],
    joined: int = 0,
    as_known: bool = False,
) -> AssistedFit:
    """Credits from D (pairs,), with other games as controls.

    Each of them gives two controls, because noise and interactions have another best coefficient than
    credits: u'phi_low, whose credits are phi_low whatever they are, and x - u'phi_low, whose credits are 0
    with the error of phi_low. The last `joined` players are null players in x. cluster (pairs,) is the number
    of each pair in `shift` of the result; a pair that shares coalitions with one of a control has the number
    that it has there. as_known: whether the result will be a control itself. Raises ValuationError where the
    error of a player in a control is unknown.
    """
    (J, n), U = pairs.S.shape, centred(pairs.S)
    X, C = np.empty((J, 0)), np.empty((n, 0))
    penalty: list[float] = []
    shifts: list[Vector] = []
    for x, known in controls:
        unknown = known.criterion()[0]
        if unknown:
            raise ValuationError(
                f"found {unknown} players in a control game that only a single pair distinguishes from "
                "another, expected more pairs (m)"
            )
        phi = np.append(known.phi, np.zeros(joined))
        shift = np.vstack([known.shift, np.zeros((joined, known.shift.shape[1]))])
        phi, shift = phi - phi.mean(), shift - shift.mean(axis=0)
        X = np.column_stack([X, U @ phi, x - U @ phi])
        C = np.column_stack([C, phi, np.zeros(n)])
        # Pairs that the known credits were computed from need no penalty: regression gives the best
        # coefficient.
        separate = 0.0 if joined else float(np.mean(~np.isin(cluster, known.cluster)))
        penalty += [0.0, separate * J * gram_scale(n) * float(np.sum(shift**2)) / (n - 1)]
        shifts.append(shift)
    fit = assisted(pairs, D, Controls(X, C, np.array(penalty)), joined)
    if as_known:
        fit = fit.as_known()
    total = np.zeros((n, max(1 + int(cluster.max()), *(shift.shape[1] for shift in shifts), 0)))
    for (by_credits, by_rest), shift in zip(fit.rho.reshape(-1, 2), shifts, strict=True):
        total[:, : shift.shape[1]] += by_credits * shift - (by_credits - by_rest) * (fit.T @ (U @ shift))
    np.add.at(total.T, cluster, fit.shift.T)
    return fit._replace(shift=total, cluster=cluster)


# --- before a round: is the cheap game useful, and how is a budget best divided between both games


class Pilot(NamedTuple):
    """What a few coalitions evaluated in both games show."""

    rho: float  # correlation of the odd parts
    low: float  # lower bound of its interval
    high: float  # upper bound of its interval
    width: float  # expected width of intervals relative to the retrained game alone at equal cost
    use: bool
    reason: str


def pilot(
    Z: ArrayLike, y_low: ArrayLike, y: ArrayLike, cost_low: float, cost_high: float, level: float = 0.95
) -> Pilot:
    """Whether the cheap game is worth using, from 20 to 30 coalitions of `leverage` evaluated in both games.

    Z (m, n) in complementary pairs, cheap values y_low (m,), retrained values y (m,), and the cost of one
    coalition in each game in the same unit. The correlation is that of the odd parts less their trend in
    size, with the weight that each pair has in the credits. Its interval is Fisher's. It covers the true
    correlation in .94 to .99 of cases, and lets a game with a correlation of .9 and little noise pass in
    eight of ten. Noise of either game lowers the correlation as it lowers the gain. The cheap game is used
    where the correlation is surely above 0; a negative one suggests a mistake. The cost of cheap values is no
    reason to discard them once they exist: `width` is advice for the next round. Raises ValuationError for
    bad input and fewer than 8 pairs.
    """
    rows, y = checked(Z, y)
    _, y_low = checked(rows, y_low)
    _check_costs(cost_low, cost_high)
    level = fraction("level", level)
    pairs = leverage_pairs(rows)
    J = len(pairs.S)
    _check_pairs(J)
    rho = _correlation(pairs, pairs.odd(y_low), pairs.odd(y))
    half = norm.ppf(0.5 + level / 2) / np.sqrt(J - 4)  # the trend takes one pair, Fisher's variance three
    low, high = np.tanh(np.arctanh(rho) - half), np.tanh(np.arctanh(rho) + half)
    width = relative_width(max(rho, 0.0), cost_low / cost_high)
    return Pilot(rho, float(low), float(high), width, *_verdict(rho, float(low), float(high), width))


def _check_pairs(J: int) -> None:
    if J < FEWEST_PAIRS:
        raise ValuationError(
            f"found {J} pairs of coalitions, expected at least {FEWEST_PAIRS} (m = {2 * FEWEST_PAIRS})"
        )


def _correlation(pairs: WeightedPairs, a: Vector, b: Vector) -> float:
    """Weighted correlation of two odd parts less their trend in size, about 0, the mean of odd parts."""
    w, off = pairs.weight, pairs.S.sum(axis=1) - pairs.S.shape[1] / 2
    trend = float(w @ off**2)
    a, b = (d - off * ((w * off) @ d / trend) if trend > 0 else d for d in (a, b))
    spread = np.sqrt((w @ a**2) * (w @ b**2))
    if not spread > 0:
        raise ValuationError(
            "found a game whose odd parts are all alike, expected values that differ between players"
        )
    return float(np.clip((w * a) @ b / spread, -1 + RHO_MARGIN, 1 - RHO_MARGIN))


def _verdict(rho: float, low: float, high: float, width: float) -> tuple[bool, str]:
    measured = f"rho = {rho:.2f} ({low:.2f} .. {high:.2f})"
    if low <= 0:
        return False, (
            f"the cheap game's odd part does not surely correlate: {measured}, expected above 0: "
            "use the retrained game alone"
        )
    relative = f"{width:.2f} of the width of the retrained game alone at equal cost"
    reason = f"the cheap game is of use: {measured}, {relative}"
    if width > MAX_RELATIVE_WIDTH:
        reason += "; the gain is so small that the retrained game alone would be simpler"
    return True, reason


class Split(NamedTuple):
    """How to divide a budget between both games."""

    high: int  # coalitions to be retrained, even
    low: int  # coalitions to be evaluated cheaply, even, including the retrained ones; 0: retrain alone
    width: float  # expected width of intervals relative to the retrained game alone
    reason: str


def split(budget: float, cost_low: float, cost_high: float, rho: float) -> Split:
    """The division of a budget that makes the intervals narrowest.

    rho: correlation of the odd parts with their noise, as from `pilot`. With N retrained coalitions among M
    cheap ones the variance is (1 - rho^2) / N + rho^2 / M relative to one retrained coalition, at the cost N
    cost_high + M cost_low. It is least at M / N = rho / sqrt(1 - rho^2) sqrt(cost_high / cost_low). The width
    relative to the retrained game alone is then rho sqrt(c) + sqrt(1 - rho^2), c = cost_low / cost_high. Half
    the width needs rho >= .96 at c = 1/20. Source: multilevel Monte Carlo (Giles 2015) on nested coalitions.
    That holds for many pairs of coalitions. From a few hundred coalitions the width is a fifth to two fifths
    more, so the cheap game is not used for a gain of less than a fifth. From fewer than about two pairs for
    each player the retrained game alone does far worse. Raises ValuationError for bad input and a budget too
    small for 8 pairs.
    """
    _check_costs(cost_low, cost_high)
    budget, rho = finite_number("budget", budget), finite_number("rho", rho)
    if not -1 < rho < 1:
        raise ValuationError(f"found rho = {rho}, expected a correlation between -1 and 1")
    fewest = 2 * FEWEST_PAIRS
    alone = even_floor(budget / cost_high)
    if alone < fewest:
        raise ValuationError(
            f"found budget = {budget}, expected at least {fewest * cost_high}: {fewest} retrained coalitions "
            "(budget)"
        )
    width = relative_width(rho, cost_low / cost_high)
    times = max(rho, 0.0) / np.sqrt(1 - rho**2) * np.sqrt(cost_high / cost_low)
    high = max(even_floor(budget / (cost_high + times * cost_low)), fewest)
    low = even_floor((budget - high * cost_high) / cost_low)
    if width > MAX_RELATIVE_WIDTH or low <= high:
        gain = f"with rho = {rho:.2f} the cheap game would leave {width:.2f} of the width"
        return Split(alone, 0, 1.0, f"the retrained game alone: {gain}")
    reason = (
        f"both games: {width:.2f} of the width from {alone} retrained coalitions alone, with rho = {rho:.2f}"
    )
    return Split(high, low, width, reason)


def relative_width(rho: float, c: float) -> float:
    """Width of intervals from both games relative to the retrained one alone at equal cost, for many pairs.

    c is cheap over retrained cost. The result is 1 where nothing can be gained, because the cheap values then
    cannot outnumber the retrained ones.
    """
    rho = max(rho, 0.0)
    best = rho * np.sqrt(c) + np.sqrt(1 - rho**2)
    return float(best) if rho > np.sqrt(1 - rho**2) * np.sqrt(c) and best < 1 else 1.0


def even_floor(number: float) -> int:
    """The largest even number that is not above `number`."""
    return 2 * int(number / 2 + 1e-9)


def _check_costs(low: float, high: float) -> None:
    """Raises ValuationError unless both are finite and above 0."""
    if not (finite_number("cost_low", low) > 0 and finite_number("cost_high", high) > 0):
        raise ValuationError(f"found cost_low = {low} and cost_high = {high}, expected finite costs above 0")
