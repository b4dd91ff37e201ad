"""Contributors who join or leave between rounds: which old coalitions still serve, and credits from old and new ones together.

Without the newcomers every old coalition is one of the new game (METHODS.md §3, *Joins*). The old game, with newcomers whose
presence changes nothing, is thus a cheap game that is known already: credits follow it as in `multifidelity`."""

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
from apportion.valuation.coalitions import Coalitions, Vector, log_choose, members, size_shares, whole
from apportion.valuation.inputs import Ends, checked, ends, finite, nothing, share
from apportion.valuation.intervals import ranking_only
from apportion.valuation.multifidelity import Combined, Pairs, all_seen, assisted, following, interval, log_kernel

EVALUATE, EVERYONE = -1, -2
MOST_JOINED = 4  # the coalitions without any old player alone are 2**(joined + 1) - 3 evaluations
JOINS = 2**20  # sets the random stream apart from those of `coalitions.draw` under the same seed
FEWEST_BRIDGES = 8
POWER = 0.8
TURNS = 4096  # of the signs of bridges


class Design(NamedTuple):
    """Complementary pairs of coalitions of n players, and where the value of each row comes from."""

    Z: Coalitions  # (2 pairs, n) each coalition followed by its complement
    source: NDArray[np.intp]  # (2 pairs,) row of the design before; EVALUATE: not valued yet; EVERYONE: v1 of the round before
    parent: NDArray[np.intp]  # (pairs,) pair of the design before whose values help to judge this one, or -1
    times: Vector  # (pairs,) how often the design came upon the pair
    log_expected: Callable[[Coalitions], Vector]  # logarithm of how often on average, of pairs known by either coalition (k, n)

    def pairs(self) -> Pairs:
        """As the estimator takes them."""
        S, n = self.Z[0::2], self.Z.shape[1]
        weight = np.exp(log_kernel(n)[S.sum(axis=1)] - self.log_expected(S)) * self.times
        return Pairs(S, weight, np.arange(len(self.Z)).reshape(-1, 2))


def first(Z: ArrayLike) -> Design:
    """The design of a first round, from rows of `coalitions.draw("leverage", ...)` or the first of them, all of them valued.

    Raises ValuationError unless each coalition is followed by its complement."""
    rows = members(Z)
    m, n = rows.shape
    if m % 2 or not np.array_equal(rows[0::2], ~rows[1::2]):
        raise ValuationError(f"found {m} rows not in complementary pairs, expected each coalition followed by its complement ('leverage')")
    if len({row.tobytes() for row in rows}) < m or np.any(rows.all(axis=1)) or np.any(~rows.any(axis=1)):
        raise ValuationError("found a coalition twice, or one of nobody or everybody, expected rows drawn by 'leverage'")

    def log_expected(S: Coalitions) -> Vector:
        with np.errstate(divide="ignore"):
            return np.asarray((np.log(m * size_shares("leverage", n, m)) - log_choose(n))[S.sum(axis=1)], dtype=np.float64)

    return Design(rows, np.arange(m), np.full(m // 2, -1), np.ones(m // 2), log_expected)


def extend(before: Design, joined: int, seed: int, *, every: bool = False) -> Design:
    """The design of n + joined players that uses the one before; newcomers are the last columns.

    Of each old pair one new one is made: the newcomers fall to its two coalitions at random, with the chances that sizes uniform
    over 1..n+joined-1 imply, so that the new design is again like `leverage`. One newcomer joins either side, and only the side
    that has it needs evaluation; of several the old coalition that gets none is re-used. `every` makes all 2**joined new pairs of
    each old one. Pairs of newcomers alone against all others come first, all of them: 2**(joined+1) - 3 evaluations.

    A pure function of its arguments. To spend less, extend the first rows of `before`: their extension is the beginning of the whole
    one's. The result extends further. Raises ValuationError for joined outside 1..4 and a negative seed."""
    k, seed = whole("joined", joined), whole("seed", seed)
    if not 1 <= k <= MOST_JOINED or seed < 0:
        raise ValuationError(
            f"found joined = {k} and seed = {seed}, expected 1 to {MOST_JOINED} newcomers at a time and a seed of 0 or more"
        )
    n, old, subsets = before.Z.shape[1], before.Z[0::2], _subsets(k)
    parent, chosen = np.repeat(np.arange(len(old)), 2**k), np.tile(np.arange(2**k), len(old))
    if not every:
        drawn = np.random.default_rng([seed, n, JOINS]).random(len(old))[:, None]
        parent, chosen = np.arange(len(old)), np.sum(drawn >= np.cumsum(np.exp(_log_falls(old, k)), axis=1)[:, :-1], axis=1)
    alone = np.hstack([np.zeros((2**k - 1, n), dtype=bool), subsets[1:]])
    Z = _with_complements(np.vstack([alone, np.hstack([old[parent], subsets[chosen]])]))
    parent = np.append(np.full(len(alone), -1), parent)
    again = np.where(np.repeat(parent, 2) < 0, EVERYONE, 2 * np.repeat(parent, 2) + np.tile([0, 1], len(parent)))
    source = np.where(Z[:, n:].any(axis=1), EVALUATE, again)
    times = np.where(parent < 0, 1.0, before.times[parent])
    return Design(Z, source, parent, times, _extended(before.log_expected, n, k, every))


def _extended(log_expected: Callable[[Coalitions], Vector], n: int, k: int, every: bool) -> Callable[[Coalitions], Vector]:
    """How often an extension comes upon pairs, from how often the design of n players before does."""

    def extended(S: Coalitions) -> Vector:
        old = S[:, :n]
        at = old.any(axis=1) & ~old.all(axis=1)  # the others are all there
        log = np.zeros(len(S))
        log[at] = log_expected(old[at])
        if not every:
            log[at] += _log_falls(old[at], k)[np.arange(at.sum()), S[at, n:] @ (1 << np.arange(k))]
        return log

    return extended


def _subsets(k: int) -> Coalitions:
    """All subsets of k newcomers (2**k, k), none of them first; bit i of the index is newcomer i."""
    return np.asarray((np.arange(2**k)[:, None] >> np.arange(k)) & 1 == 1)


def _log_falls(S: Coalitions, k: int) -> Vector:
    """Logarithm of the chance (pairs, 2**k) of each subset of newcomers to join S rather than its complement, if sizes are uniform."""
    log = -log_choose(S.shape[1] + k)[S.sum(axis=1)[:, None] + _subsets(k).sum(axis=1)]
    return np.asarray(log_softmax(log, axis=1), dtype=np.float64)


def _with_complements(S: Coalitions) -> Coalitions:
    return np.stack([S, ~S], axis=1).reshape(2 * len(S), S.shape[1])


def drop(before: Design, left: Sequence[int]) -> Design:
    """The design of the remaining players when those numbered `left` have gone: a first round of the sub-game, to be completed.

    Coalitions that hold a leaver fall out; of a pair at most one row remains, and its new complement among the remaining players
    needs evaluation (EVALUATE) unless it was valued by chance. Pairs that split the leavers are lost. The remaining players keep
    their order. The value of all of them, v1 of the sub-game, is not in the design, but may be among the rows before.
    Raises ValuationError for a player that is not there, or if fewer than two remain."""
    n = before.Z.shape[1]
    if isinstance(left, str) or np.ndim(left) != 1:
        raise ValuationError(f"found left = {left!r}, expected a list of players")
    gone = sorted({whole("left", i) for i in left})
    if not gone or gone[0] < 0 or gone[-1] >= n or n - len(gone) < 2:
        raise ValuationError(f"found left = {list(left)}, expected players from 0 to {n - 1}, with at least two remaining")
    stay = np.setdiff1d(np.arange(n), gone)
    there = np.flatnonzero(~before.Z[:, gone].any(axis=1))
    rows = before.Z[np.ix_(there, stay)]
    proper = rows.any(axis=1) & ~rows.all(axis=1)
    place = {row.tobytes(): int(j) for j, row in zip(there[proper], rows[proper], strict=True)}
    times: dict[bytes, float] = {}
    for j, row in zip(there[proper], rows[proper], strict=True):
        key = (~row).tobytes() if (~row).tobytes() in times else row.tobytes()
        times[key] = times.get(key, 0.0) + float(before.times[j // 2])

    def log_expected(S: Coalitions) -> Vector:
        both = np.zeros((2, len(S), n), dtype=bool)
        both[0][:, stay], both[1][:, stay] = S, ~S
        return np.asarray(np.logaddexp(before.log_expected(both[0]), before.log_expected(both[1])), dtype=np.float64)

    Z = _with_complements(np.frombuffer(b"".join(times), dtype=bool).reshape(-1, len(stay)))
    source = np.array([place.get(row.tobytes(), EVALUATE) for row in Z], dtype=np.intp)
    return Design(Z, source, np.full(len(times), -1), np.array(list(times.values())), log_expected)


def filled(design: Design, y_before: ArrayLike, v1_before: ArrayLike, evaluated: ArrayLike) -> Vector:
    """Values of all rows of `design`: old ones, v1 of the round before, and `evaluated`, in the order of the rows to be evaluated."""
    y, new = finite("y_before", y_before), finite("evaluated", evaluated)
    todo = np.flatnonzero(design.source == EVALUATE)
    if new.shape != todo.shape:
        raise ValuationError(f"found {new.shape} new values, expected ({len(todo)},): one for each row whose source is EVALUATE")
    if y.ndim != 1 or len(y) <= design.source.max(initial=-1):
        raise ValuationError(f"found y_before of shape {y.shape}, expected one value for each row of the design before")
    out = np.where(design.source == EVERYONE, ends(0.0, v1_before).v1, np.append(y, 0.0)[np.maximum(design.source, EVALUATE)])
    out[todo] = new
    return np.asarray(out, dtype=np.float64)


class Round(NamedTuple):
    """A design whose rows are all valued, and the value of everybody in it."""

    design: Design
    y: ArrayLike  # (2 pairs,)
    v1: ArrayLike  # a number, or the values of its seeds (seeds,)


def credits(rounds: Sequence[Round], v0: ArrayLike, level: float = 0.95) -> Combined:
    """Credits of the last round's players from all rounds: the first one's design by `first` or `drop`, each other one by `extend`.

    Each round's credits follow those of the round before, which rest on more pairs (`multifidelity.following`). v0 is the value of
    nobody, and the last v1's errors count with its own, as in `intervals.hc3`. All values must come from one game: for fine-tuning,
    from one base model, else see `bridge`. With one round: credits of that alone. All coalitions give exact credits. For what intervals
    cover see `covers`; like those of `multifidelity.combine` they are about estimates of their own, and hold the credit.
    Raises ValuationError for bad input and fewer than 8 pairs in a round."""
    if not rounds:
        raise ValuationError("found no rounds, expected at least one")
    level, all_ends = share("level", level), [ends(v0, round.v1) for round in rounds]
    pairs, odd = _odd(rounds[0])
    found = assisted(pairs, odd)
    found = found.known() if len(rounds) > 1 else found
    for (before, now), old_ends in zip(pairwise(rounds), all_ends, strict=False):
        n = before.design.Z.shape[1]
        old = found._replace(phi=found.phi - found.phi.mean() + old_ends.gain / n)  # newcomers have no share in the old gain
        x = _before(now.design, before, odd, old_ends)
        pairs, odd = _odd(now)
        found = following(pairs, odd, x, old, now.design.parent, pairs.S.shape[1] - n)
    none = 0.0 if all_seen(pairs) else nothing(np.concatenate([np.asarray(round.y) for round in rounds]), all_ends[-1])
    return interval(found, all_ends[-1], level, none)


def covers(k: int, m: int, n: int, method: str) -> str:
    """In words, for reports: what an interval of `credits` covers, from k coalitions of the n players of now and m of the round before."""
    return (
        ranking_only(k, n, "coalitions")
        + f"a player's Shapley value in the {method} game of all {n} players, each player taken alone, newcomers and those whose "
        f"worth a newcomer changes as well, over the draw of coalitions and the noise of their evaluation, from {k} coalitions of them "
        f"with the help of {m} of the round before, as long as the values of those still hold; not how far that game is from retraining"
    )


def _odd(now: Round) -> tuple[Pairs, Vector]:
    """A round's pairs and their odd parts."""
    _, y = checked(now.design.Z, now.y)
    pairs = now.design.pairs()
    return pairs, pairs.odd(y)


def _before(design: Design, before: Round, odd: Vector, its_ends: Ends) -> Vector:
    """The odd part of each pair in the game before, where the newcomers change nothing: nobody less everybody without a parent."""
    n, parent = before.design.Z.shape[1], design.parent
    old = np.vstack([before.design.Z[0::2], np.zeros((1, n), dtype=bool)])
    if design.Z.shape[1] <= n or parent.max() >= len(odd) or not np.array_equal(design.Z[0::2, :n], old[parent]):
        raise ValuationError(f"found a design of {design.Z.shape[1]} players that does not extend the one before it, expected that")
    return np.append(odd, -its_ends.gain / 2)[parent]


# --- do old values still hold?


class Bridge(NamedTuple):
    """Whether coalitions valued again give what they gave before."""

    statistic: float  # F
    p: float
    drifted: bool
    shift: float  # mean change of a value, in units of the property
    detectable: float  # the shift of all values alike that would be found in four cases of five, in units of the property
    reason: str


def bridge(Z: ArrayLike, before: ArrayLike, again: ArrayLike, alpha: float = 0.05) -> Bridge:
    """Test a few old coalitions, valued again under the conditions of today, for drift: mean, slope in size, slope in value.

    Z (b, n) the coalitions, `before` and `again` (b,) their values, of as many seeds and images. The changes are regressed on a
    constant, on size and on the mean of both values; F tests all three together, against what it is with the signs of the changes
    drawn anew. Without drift a change is as likely as its opposite, whatever the noise of that coalition, while the mean of
    both values stays as it is; old values alone, or credits fitted to them, would move with it. A noise that has grown or shrunk
    where values are large is drift, too.
    What is left over is the noise it is judged by, so a drift unlike all three is taken for noise and not found: this cannot clear a
    game, only convict it. The smallest shift of all values that it finds in four cases of five (`detectable`) is about 2.5 s with 8
    bridges, 2.0 s with 10, 1.2 s with 20 and .9 s with 30, noise of either value having SD s: few bridges find gross drift only.
    Source: a randomisation test (Fisher 1935) by the partial F statistic of linear regression.
    Raises ValuationError for bad input or fewer than 8 bridges."""
    rows, old = checked(Z, before)
    _, new = checked(rows, again)
    alpha = share("alpha", alpha)
    if len(rows) < FEWEST_BRIDGES:
        raise ValuationError(f"found {len(rows)} bridges, expected at least {FEWEST_BRIDGES}")
    change, size, both = new - old, rows.sum(axis=1), (new + old) / 2
    X = np.column_stack([np.ones(len(rows)), size - size.mean(), both - both.mean()])
    axes, scale, _ = np.linalg.svd(X / np.maximum(np.linalg.norm(X, axis=0), np.finfo(float).tiny), full_matrices=False)
    axes = axes[:, scale > 1e-8 * scale[0]]
    q, rest = axes.shape[1], len(rows) - axes.shape[1]
    explained = float(np.sum((axes.T @ change) ** 2))
    noise = max(float(change @ change) - explained, 0.0) / rest
    none = 1e-24 * float(old @ old)  # rounding of the values squared
    statistic = explained / q / noise if noise > none else 0.0 if explained <= none else np.inf
    turned = np.sum(((_signs(len(rows)) * change) @ axes) ** 2, axis=1)
    p = float(np.mean(turned >= explained * (1 - 1e-9))) if explained > none else 1.0
    found = _detectable(q, rest, alpha) * np.sqrt(noise / len(rows))
    return Bridge(float(statistic), p, p < alpha, float(change.mean()), float(found), _drift(p, alpha, float(change.mean()), float(found)))


@cache
def _signs(b: int) -> Vector:
    """Signs of b changes, (turns, b), those that were seen first: all there are where they are few."""
    if 2**b <= TURNS:
        return np.asarray(1.0 - 2.0 * (np.arange(2**b)[:, None] >> np.arange(b) & 1), dtype=np.float64)
    drawn = np.random.default_rng(b).choice([-1.0, 1.0], size=(TURNS, b))
    drawn[0] = 1.0
    return np.asarray(drawn, dtype=np.float64)


@cache
def _detectable(q: int, rest: int, alpha: float) -> float:
    """The square root of F's non-centrality that is found in four cases of five."""
    critical = fisher.isf(alpha, q, rest)
    return float(np.sqrt(brentq(lambda c: ncf.sf(critical, q, rest, c) - POWER, 1e-6, 1e4)))


def _drift(p: float, alpha: float, shift: float, detectable: float) -> str:
    if p < alpha:
        return f"old values no longer hold (p = {p:.2g}, mean change {shift:.3g}): value all coalitions again or pin the base model"
    return f"no drift found (p = {p:.2g}); a shift below {detectable:.3g} would mostly not have been"
