"""Contributors who join or leave between rounds: reused coalitions, and credits from old and new ones.

A coalition without the newcomers has the same value in the game with them. The old game, in which newcomers
are null players, is therefore a cheap game whose values are known already, and serves as a control variate as
in `multifidelity`. See docs/methods.md, section "Joins".
"""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import log_softmax
from scipy.stats import f as fisher
from scipy.stats import ncf

from apportion.errors import ValuationError
from apportion.valuation.coalitions import (
    Coalitions,
    Vector,
    checked_coalitions,
    log_coalition_counts,
    size_shares,
    whole_number,
)
from apportion.valuation.inputs import (
    Endpoints,
    checked,
    checked_endpoints,
    finite_array,
    fraction,
    rounding_error,
)
from apportion.valuation.intervals import ranking_only
from apportion.valuation.multifidelity import (
    Combined,
    Control,
    WeightedPairs,
    all_pairs_present,
    assisted,
    controlled,
    log_pair_kernel,
    with_intervals,
)

EVALUATE = -1  # source of a row that has no value yet
GRAND_BEFORE = -2  # source of a row whose value is v1 of the round before
MAX_JOINED = 4  # the pairs with no old player in one of the coalitions take 2**(joined + 1) - 3 evaluations
JOIN_STREAM = 2**20  # separates the random stream from those of `coalitions.draw` with the same seed
FEWEST_BRIDGES = 8
POWER = 0.8
MAX_SIGN_ROWS = 4096  # sign vectors of the randomisation test


class JoinDesign(NamedTuple):
    """Complementary pairs of coalitions of n players, and where the value of each row comes from."""

    Z: Coalitions  # (2 pairs, n) each coalition followed by its complement
    source: NDArray[np.intp]  # (2 pairs,) a row of the design before, or EVALUATE, or GRAND_BEFORE
    parent: NDArray[np.intp]  # (pairs,) the pair of the design before that shares a coalition with it, or -1
    multiplicity: Vector  # (pairs,) how many times the design has produced the pair
    # Logarithm of the expected multiplicity of pairs, given by either coalition of each (k, n).
    log_expected: Callable[[Coalitions], Vector]

    def pairs(self) -> WeightedPairs:
        """The pairs with their weights in the estimator."""
        S, n = self.Z[0::2], self.Z.shape[1]
        weight = np.exp(log_pair_kernel(n)[S.sum(axis=1)] - self.log_expected(S)) * self.multiplicity
        return WeightedPairs(S, weight, np.arange(len(self.Z)).reshape(-1, 2))


def first(Z: ArrayLike) -> JoinDesign:
    """The design of a first round, all of whose rows are evaluated.

    Z (m, n): rows of `coalitions.draw("leverage", ...)`, or the first of them.
    Raises ValuationError unless each coalition is followed by its complement.
    """
    rows = checked_coalitions(Z)
    m, n = rows.shape
    if m % 2 or not np.array_equal(rows[0::2], ~rows[1::2]):
        raise ValuationError(
            f"found {m} rows not in complementary pairs, expected each coalition followed by its complement "
            "('leverage')"
        )
    repeated = len({row.tobytes() for row in rows}) < m
    if repeated or np.any(rows.all(axis=1)) or np.any(~rows.any(axis=1)):
        raise ValuationError(
            "found a repeated coalition, or the empty or grand coalition, expected rows drawn by 'leverage'"
        )

    def log_expected(S: Coalitions) -> Vector:
        with np.errstate(divide="ignore"):
            per_size = np.log(m * size_shares("leverage", n, m)) - log_coalition_counts(n)
        return np.asarray(per_size[S.sum(axis=1)], dtype=np.float64)

    return JoinDesign(rows, np.arange(m), np.full(m // 2, -1), np.ones(m // 2), log_expected)


def extend(before: JoinDesign, joined: int, seed: int, *, every: bool = False) -> JoinDesign:
    """The design of n + joined players that reuses the one before. Newcomers are the last columns.

    Each old pair gives one new pair: newcomers are assigned to its two coalitions at random, with the
    probabilities that uniform sizes 1..n+joined-1 imply, so that the new design is again like `leverage`. A
    single newcomer joins one of the two coalitions, and only that one needs evaluation. With several
    newcomers, an old coalition that gets none of them is reused. `every` makes all 2**joined new pairs of
    each old one. The pairs with only newcomers in one of the coalitions come first, all of them:
    2**(joined+1) - 3 evaluations.

    The result depends on the arguments alone, and can be extended again. To spend less, extend the first rows
    of `before`: the result is then the beginning of the extension of all rows.
    Raises ValuationError for joined outside 1..4 and a negative seed.
    """
    k, seed = whole_number("joined", joined), whole_number("seed", seed)
    if not 1 <= k <= MAX_JOINED or seed < 0:
        raise ValuationError(
            f"found joined = {k} and seed = {seed}, expected 1 to {MAX_JOINED} newcomers at a time and a "
            "seed of 0 or more"
        )
    n, old, subsets = before.Z.shape[1], before.Z[0::2], _subsets(k)
    if every:
        parent = np.repeat(np.arange(len(old)), 2**k)
        chosen = np.tile(np.arange(2**k), len(old))
    else:
        drawn = np.random.default_rng([seed, n, JOIN_STREAM]).random(len(old))[:, None]
        cumulative = np.cumsum(np.exp(_log_join_probability(old, k)), axis=1)
        parent = np.arange(len(old))
        chosen = np.sum(drawn >= cumulative[:, :-1], axis=1)
    newcomers_alone = np.hstack([np.zeros((2**k - 1, n), dtype=bool), subsets[1:]])
    Z = _with_complements(np.vstack([newcomers_alone, np.hstack([old[parent], subsets[chosen]])]))
    parent = np.append(np.full(len(newcomers_alone), -1), parent)
    row_parent = np.repeat(parent, 2)
    reused = np.where(row_parent < 0, GRAND_BEFORE, 2 * row_parent + np.tile([0, 1], len(parent)))
    source = np.where(Z[:, n:].any(axis=1), EVALUATE, reused)
    multiplicity = np.where(parent < 0, 1.0, before.multiplicity[parent])
    return JoinDesign(
        Z, source, parent, multiplicity, _extended_log_expected(before.log_expected, n, k, every)
    )


def _extended_log_expected(
    log_expected: Callable[[Coalitions], Vector], n: int, k: int, every: bool
) -> Callable[[Coalitions], Vector]:
    """`log_expected` of an extension by k newcomers, from that of the design of n players before."""

    def extended(S: Coalitions) -> Vector:
        old = S[:, :n]
        from_old_pair = old.any(axis=1) & ~old.all(axis=1)  # all other pairs are present once
        log = np.zeros(len(S))
        log[from_old_pair] = log_expected(old[from_old_pair])
        if not every:
            subset = S[from_old_pair, n:] @ (1 << np.arange(k))
            probability = _log_join_probability(old[from_old_pair], k)
            log[from_old_pair] += probability[np.arange(from_old_pair.sum()), subset]
        return log

    return extended


def _subsets(k: int) -> Coalitions:
    """All subsets of k newcomers (2**k, k), the empty one first; bit i of the index is newcomer i."""
    return np.asarray((np.arange(2**k)[:, None] >> np.arange(k)) & 1 == 1)


def _log_join_probability(S: Coalitions, k: int) -> Vector:
    """Logarithm of the probability that a subset of newcomers joins S and the rest its complement.

    For each pair and subset, (pairs, 2**k). It is the one that uniform sizes imply.
    """
    sizes = S.sum(axis=1)[:, None] + _subsets(k).sum(axis=1)
    log = -log_coalition_counts(S.shape[1] + k)[sizes]
    return np.asarray(log_softmax(log, axis=1), dtype=np.float64)


def _with_complements(S: Coalitions) -> Coalitions:
    return np.stack([S, ~S], axis=1).reshape(2 * len(S), S.shape[1])


def drop(before: JoinDesign, left: Sequence[int]) -> JoinDesign:
    """The design of the remaining players when those numbered `left` are gone: a first round.

    Coalitions that hold a leaver are dropped. Of a pair at most one row remains, and its new complement among
    the remaining players needs evaluation (EVALUATE) unless it happens to be a row before. Pairs with leavers
    on both sides are lost. The remaining players keep their order. The value of the coalition of all
    remaining players, v1 of the sub-game, is not in the design, but may be among the rows before.
    Raises ValuationError for a player that does not exist, or if fewer than two remain.
    """
    n = before.Z.shape[1]
    if isinstance(left, str) or np.ndim(left) != 1:
        raise ValuationError(f"found left = {left!r}, expected a list of players")
    leavers = sorted({whole_number("left", i) for i in left})
    if not leavers or leavers[0] < 0 or leavers[-1] >= n or n - len(leavers) < 2:
        raise ValuationError(
            f"found left = {list(left)}, expected players from 0 to {n - 1}, with at least two remaining"
        )
    stay = np.setdiff1d(np.arange(n), leavers)
    kept = np.flatnonzero(~before.Z[:, leavers].any(axis=1))
    rows = before.Z[np.ix_(kept, stay)]
    proper = rows.any(axis=1) & ~rows.all(axis=1)
    kept, rows = kept[proper], rows[proper]
    source_of = {row.tobytes(): int(j) for j, row in zip(kept, rows, strict=True)}
    multiplicity: dict[bytes, float] = {}
    for j, row in zip(kept, rows, strict=True):
        complement = (~row).tobytes()
        key = complement if complement in multiplicity else row.tobytes()
        multiplicity[key] = multiplicity.get(key, 0.0) + float(before.multiplicity[j // 2])

    def log_expected(S: Coalitions) -> Vector:
        without, complement = np.zeros((2, len(S), n), dtype=bool)
        without[:, stay], complement[:, stay] = S, ~S
        log = np.logaddexp(before.log_expected(without), before.log_expected(complement))
        return np.asarray(log, dtype=np.float64)

    Z = _with_complements(np.frombuffer(b"".join(multiplicity), dtype=bool).reshape(-1, len(stay)))
    source = np.array([source_of.get(row.tobytes(), EVALUATE) for row in Z], dtype=np.intp)
    count = np.array(list(multiplicity.values()))
    return JoinDesign(Z, source, np.full(len(multiplicity), -1), count, log_expected)


def filled(design: JoinDesign, y_before: ArrayLike, v1_before: ArrayLike, evaluated: ArrayLike) -> Vector:
    """The values of all rows of `design`, (2 pairs,).

    They come from the values y_before of the design before, from v1 of the round before, and from
    `evaluated`, the values of the rows to be evaluated, in order. Raises ValuationError for other numbers of
    values.
    """
    y, new = finite_array("y_before", y_before), finite_array("evaluated", evaluated)
    to_evaluate = np.flatnonzero(design.source == EVALUATE)
    if new.shape != to_evaluate.shape:
        raise ValuationError(
            f"found {new.shape} new values, expected ({len(to_evaluate)},): one for each row whose source is "
            "EVALUATE"
        )
    if y.ndim != 1 or len(y) <= design.source.max(initial=-1):
        raise ValuationError(
            f"found y_before of shape {y.shape}, expected one value for each row of the design before"
        )
    old = np.append(y, 0.0)[np.maximum(design.source, EVALUATE)]
    values = np.where(design.source == GRAND_BEFORE, checked_endpoints(0.0, v1_before).v1, old)
    values[to_evaluate] = new
    return np.asarray(values, dtype=np.float64)


class ValuedDesign(NamedTuple):
    """A design with the values of all its rows and of its grand coalition: one round of `credits`."""

    design: JoinDesign
    y: ArrayLike  # (2 pairs,)
    v1: ArrayLike  # a number, or the values of its seeds (seeds,)


def credits(rounds: Sequence[ValuedDesign], v0: ArrayLike, level: float = 0.95) -> Combined:
    """Credits of the last round's players from all rounds.

    The first round has a design of `first` or `drop`, each other round one of `extend`. Each round has the
    credits of the round before, which come from more pairs, as control (`multifidelity.controlled`). v0 is
    the value of the empty coalition; the errors of v0 and of the last v1 count as in `intervals.hc3`. All
    values must come from one game: for fine-tuning, from one base model, else see `bridge`. With one round
    these are the credits of that round alone. All coalitions give exact credits. For what the intervals cover
    see `covers`. Like those of `multifidelity.combine` they are about separate estimates, and contain the
    credit.
    Raises ValuationError for bad input and fewer than 8 pairs in a round.
    """
    if not rounds:
        raise ValuationError("found no rounds, expected at least one")
    level = fraction("level", level)
    endpoints = [checked_endpoints(v0, valued.v1) for valued in rounds]
    pairs, odd = _odd_parts(rounds[0])
    fit = assisted(pairs, odd)
    if len(rounds) > 1:
        fit = fit.as_known()
    for (before, now), old_endpoints in zip(pairwise(rounds), endpoints, strict=False):
        n = before.design.Z.shape[1]
        # Newcomers are null players of the old game, so they have no share in its gain.
        known = fit._replace(phi=fit.phi - fit.phi.mean() + old_endpoints.gain / n)
        x = _odd_parts_before(now.design, before, odd, old_endpoints)
        pairs, odd = _odd_parts(now)
        parent, new = now.design.parent, now.design.parent < 0
        cluster = np.where(new, fit.shift.shape[1] - 1 + np.cumsum(new), fit.cluster[parent])
        fit = controlled(pairs, odd, [Control(x, known)], cluster, pairs.S.shape[1] - n)
    if all_pairs_present(pairs):
        rounding = 0.0
    else:
        rounding = rounding_error(np.concatenate([np.asarray(valued.y) for valued in rounds]), endpoints[-1])
    return with_intervals(fit, endpoints[-1], level, rounding)


def covers(k: int, m: int, n: int, method: str) -> str:
    """In words, for reports: what an interval of `credits` covers.

    It is computed from k coalitions of the n players of now and m coalitions of the round before.
    """
    text = (
        f"a player's Shapley value in the {method} game of all {n} players, for each player separately, also "
        "for newcomers and for players whose contribution a newcomer changes, over the random draw of "
        f"coalitions and the noise of their evaluation, from {k} coalitions of these players with the help "
        f"of {m} of the round before, as long as the values of those still hold; not how far that game is "
        "from retraining"
    )
    return ranking_only(k, n, "coalitions") + text


def _odd_parts(now: ValuedDesign) -> tuple[WeightedPairs, Vector]:
    """A round's pairs and their odd parts."""
    _, y = checked(now.design.Z, now.y)
    pairs = now.design.pairs()
    return pairs, pairs.odd(y)


def _odd_parts_before(design: JoinDesign, before: ValuedDesign, odd: Vector, endpoints: Endpoints) -> Vector:
    """The odd part of each pair of `design` in the game before, in which newcomers are null players.

    A pair without a parent consists there of the empty and the grand coalition.
    """
    n, parent = before.design.Z.shape[1], design.parent
    old = np.vstack([before.design.Z[0::2], np.zeros((1, n), dtype=bool)])
    extends = design.Z.shape[1] > n and parent.max() < len(odd)
    if not extends or not np.array_equal(design.Z[0::2, :n], old[parent]):
        raise ValuationError(
            f"found a design of {design.Z.shape[1]} players that does not extend the one before it, expected "
            "one made by `extend`"
        )
    return np.append(odd, -endpoints.gain / 2)[parent]


# --- do old values still hold?


class Bridge(NamedTuple):
    """Whether coalitions evaluated again have the values they had before."""

    statistic: float  # F
    p: float
    drifted: bool
    shift: float  # mean change of a value, in units of the property
    detectable: float  # the shift of all values that is found with a probability of .8, in the same units
    reason: str


def bridge(Z: ArrayLike, before: ArrayLike, again: ArrayLike, alpha: float = 0.05) -> Bridge:
    """Tests a few old coalitions, evaluated again under today's conditions, for drift.

    Z (b, n) the coalitions, `before` and `again` (b,) their values, from equally many seeds and images. The
    changes are regressed on a constant, on size and on the mean of both values. F tests all three together,
    against its distribution when the signs of the changes are drawn at random. Without drift a change is as
    likely as its opposite, whatever the noise of that coalition, while the mean of both values does not
    depend on the sign; old values alone, or credits fitted to them, would depend on it. Noise that has grown
    or shrunk where values are large is drift, too.

    The residual is the noise that the test compares with. Drift unlike all three regressors therefore counts
    as noise and is not found: the test can reject a game, but cannot confirm it. The smallest shift of all
    values that it finds with a probability of .8 (`detectable`) is about 2.5 s with 8 bridges, 2.0 s with 10,
    1.2 s with 20 and .9 s with 30, where s is the standard deviation of the noise of either value. Few
    bridges only find large drift.
    Source: a randomisation test (Fisher 1935) of the partial F statistic of linear regression.
    Raises ValuationError for bad input or fewer than 8 bridges.
    """
    rows, old = checked(Z, before)
    _, new = checked(rows, again)
    alpha = fraction("alpha", alpha)
    b = len(rows)
    if b < FEWEST_BRIDGES:
        raise ValuationError(f"found {b} bridges, expected at least {FEWEST_BRIDGES}")
    change, size, both = new - old, rows.sum(axis=1), (new + old) / 2
    X = np.column_stack([np.ones(b), size - size.mean(), both - both.mean()])
    length = np.maximum(np.linalg.norm(X, axis=0), np.finfo(float).tiny)
    axes, scale, _ = np.linalg.svd(X / length, full_matrices=False)
    axes = axes[:, scale > 1e-8 * scale[0]]
    q, rest = axes.shape[1], b - axes.shape[1]
    explained = float(np.sum((axes.T @ change) ** 2))
    noise = max(float(change @ change) - explained, 0.0) / rest
    rounding = 1e-24 * float(old @ old)
    no_noise = 0.0 if explained <= rounding else np.inf
    statistic = explained / q / noise if noise > rounding else no_noise
    redrawn = np.sum(((_signs(b) * change) @ axes) ** 2, axis=1)
    p = float(np.mean(redrawn >= explained * (1 - 1e-9))) if explained > rounding else 1.0
    shift = float(change.mean())
    detectable = float(_detectable(q, rest, alpha) * np.sqrt(noise / b))
    return Bridge(float(statistic), p, p < alpha, shift, detectable, _drift(p, alpha, shift, detectable))


@cache
def _signs(b: int) -> Vector:
    """Sign vectors of b changes, (k, b), the observed one first: all where they are few, else a sample."""
    if 2**b <= MAX_SIGN_ROWS:
        return np.asarray(1.0 - 2.0 * (np.arange(2**b)[:, None] >> np.arange(b) & 1), dtype=np.float64)
    drawn = np.random.default_rng(b).choice([-1.0, 1.0], size=(MAX_SIGN_ROWS, b))
    drawn[0] = 1.0
    return np.asarray(drawn, dtype=np.float64)


@cache
def _detectable(q: int, rest: int, alpha: float) -> float:
    """The square root of F's non-centrality that is found with the probability POWER."""
    critical = fisher.isf(alpha, q, rest)
    return float(np.sqrt(brentq(lambda c: ncf.sf(critical, q, rest, c) - POWER, 1e-6, 1e4)))


def _drift(p: float, alpha: float, shift: float, detectable: float) -> str:
    if p < alpha:
        return (
            f"old values no longer hold (p = {p:.2g}, mean change {shift:.3g}): evaluate all coalitions "
            "again or pin the base model"
        )
    return f"no drift found (p = {p:.2g}); a shift below {detectable:.3g} would probably not be found"
