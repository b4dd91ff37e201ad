"""Owen values: Shapley values when players come in groups that act as one towards the others (Owen 1977).

The groups may be groups of players, or contributors whose sub-groups are the players: two levels of credit from one round."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import ArrayLike, NDArray

from apportion.errors import ValuationError
from apportion.valuation import coalitions
from apportion.valuation.coalitions import MAX_CELLS, Coalitions, Vector, choose, in_turn, level, size_shares, subsets, whole
from apportion.valuation.inputs import checked, ends, proper_sizes
from apportion.valuation.shapley import constrained, once, weighted

Whole = NDArray[np.intp]


def draw(groups: ArrayLike, m: int, seed: int) -> Coalitions:
    """`m` coalitions for `owen`, bool (m, n): some whole groups and part of at most one more, each followed by its complement.

    groups (n,): the label of each player's group, whole numbers. The pairs are for several games at once: groups against each
    other, and the players of each group among themselves. Each game gets them in proportion to the differences that it has to
    tell. Within a group's game the number of other groups and that of own players are uniform, without replacement.
    A pure function of its arguments; fewer rows from the same seed are the first rows of more.
    Raises ValuationError for labels that are not as stated, a negative seed, an odd m, fewer than the 2 (n - 1) coalitions
    that it takes at least to tell all players apart (4 (n - 1) always do), and more than there are."""
    labels, of, members = _grouped(groups)
    g, n, m, seed = len(labels), len(of), whole("m", m), whole("seed", seed)
    # Each game's pairs: half of 2**g - 2, and for a group of b players half of 2**(g - 1) (2**b - 2).
    there_are = [2 ** (g - 1) - 1, *(2 ** (g - 1) * (2 ** (b - 1) - 1) for b in members.tolist())]
    most = min(sum(there_are), MAX_CELLS // n // 2)
    if m % 2 or not n - 1 <= m // 2 <= most:
        raise ValuationError(f"found m = {m}, expected an even number from {2 * (n - 1)} to {2 * most} for {n} players in {g} groups")
    if seed < 0:
        raise ValuationError(f"found seed = {seed}, expected 0 or more")
    count = np.array([min(pairs, m // 2) for pairs in there_are])
    turns = in_turn(count, np.array([g, *members]) - 1.0, np.ones(g + 1), m // 2)
    first = np.empty((m // 2, n), dtype=bool)
    for game in np.unique(turns):
        at = np.flatnonzero(turns == game)
        first[at] = _whole_groups(of, at.size, seed) if game == 0 else _with_part_of(int(game) - 1, of, members, at.size, seed)
    return np.stack([first, ~first], axis=1).reshape(m, n)


def owen(Z: ArrayLike, y: ArrayLike, v0: ArrayLike, v1: ArrayLike, groups: ArrayLike) -> Vector:
    """Owen values (n,): each player's mean gain over all orders of arrival that tear no group apart; they sum to v1 - v0.

    Z (m, n) rows of `draw` for these groups, in any order; groups (n,) as there; y (m,), v0, v1 as in `shapley.leverage`.
    The groups share v1 - v0 by `shapley.leverage` of the coalitions of whole groups. The players of a group share what it gets
    by the same fit to the coalitions with part of it, less what the whole groups in them get. With one group, or with every
    player alone, that is `shapley.leverage`. All coalitions of this form give the exact values; one in several rows counts once.
    Raises ValuationError for bad input, for rows with part of two groups, and when the rows cannot tell all players apart."""
    rows, y = once(*checked(Z, y))
    v0, v1 = ends(v0, v1)[:2]
    proper_sizes(rows)
    labels, of, members = _grouped(groups)
    if len(of) != rows.shape[1]:
        raise ValuationError(f"found groups of {len(of)} players, expected {rows.shape[1]}: one label for each column of Z")
    whole, split = _form(rows, labels, of, members)
    total = np.array([v1 - v0])
    if len(labels) > 1:
        with _game_of("groups", whole[split < 0], len(of)) as between:
            total = constrained(between, y[split < 0], v0, v1).phi
    phi = total[of]
    for k in np.flatnonzero(members > 1):
        at, own = split == k, of == k
        with _game_of(f"players of group {labels[k]}", rows[at][:, own], len(of)) as parts:
            phi[own] = _within(parts, y[at] - v0 - whole[at] @ total, total[k], whole[at])
    return np.asarray(phi, dtype=np.float64)


def _within(part: Coalitions, y: Vector, total: float, whole: Coalitions) -> Vector:
    """What each of a group's players gets of its total, (b,), from rows with part (k, b) of it beside whole groups (k, g).

    A part weighs its Shapley kernel over its probability in the `leverage` design; its rows share that so that every number of
    other groups has the same weight, whatever came of it."""
    g, b = whole.shape[1], part.shape[1]
    parts, of, times = np.unique(part, axis=0, return_inverse=True, return_counts=True)
    shares = size_shares("shapley_kernel", b, len(parts))[1:-1] / size_shares("leverage", b, len(parts))[1:-1]
    number = choose(g - 1)
    drawn = {c: np.minimum(number, level(number, c)) for c in np.unique(times).tolist()}
    per_part = np.array([drawn[c] for c in times.tolist()]).reshape(-1, g)
    w = shares[part.sum(axis=1) - 1] / per_part[of.reshape(-1), whole.sum(axis=1)]
    return weighted(part, y, 0.0, total, w).phi


def _form(rows: Coalitions, labels: Whole, of: Whole, members: Whole) -> tuple[Coalitions, Whole]:
    """Which groups each row holds whole, bool (m, g), and the one it holds part of, (m,), -1 where there is none."""
    held = rows @ (of[:, None] == np.arange(len(labels))).astype(np.intp)
    whole = held == members
    part = (held > 0) & ~whole
    torn = np.flatnonzero(part.sum(axis=1) > 1)
    if torn.size:
        names = ", ".join(map(str, labels[part[torn[0]]][:8]))
        raise ValuationError(f"found part of groups {names} in row {torn[0]} of Z, expected part of at most one (owen.draw)")
    return whole, np.where(part.any(axis=1), part.argmax(axis=1), -1)


def _whole_groups(of: Whole, pairs: int, seed: int) -> Coalitions:
    return coalitions.draw("leverage", int(of.max()) + 1, 2 * pairs, seed)[::2][:, of]


def _with_part_of(group: int, of: Whole, members: Whole, pairs: int, seed: int) -> Coalitions:
    """The first of each pair for the game within a group, bool (pairs, n).

    Parts of the group are as in `leverage`, none a second time before each has come once, so that few rows tell its players apart. As
    many in turn as it has players, none of more than half of them, come beside the same other groups: what those are worth then
    cancels between its players. Two players have one part, which comes beside all groups that were not there next. For each part
    as many of one number of other groups come as of another, no set of them twice."""
    g, b = len(members), int(members[group])
    rng = np.random.default_rng([seed, 1 + group])
    parts = coalitions.draw("leverage", b, 2 * min(pairs, 2 ** (b - 1) - 1), int(rng.integers(2**63)))[::2]
    parts ^= 2 * parts.sum(axis=1, keepdims=True) > b
    order, shift = rng.permutation(g), rng.random()
    rows = np.empty((pairs, len(of)), dtype=bool)
    for k in range(0, len(parts), b):
        beside = _others(g - 1, -(-pairs // len(parts)), (order + k // b) / g + shift, [seed, 1 + group, k])
        if b == 2 and g > 1:
            half = beside[np.sort(coalitions.pairs(beside)[0])]
            beside = np.stack([half, ~half], axis=1).reshape(-1, g - 1)
        for i in range(k, min(k + b, len(parts))):
            at = np.arange(i, pairs, len(parts))
            rows[at] = np.insert(beside[: at.size], group, False, axis=1)[:, of]
            rows[at[:, None], np.flatnonzero(of == group)] = parts[i]
    return rows


def _others(g: int, count: int, start: Vector, seed: list[int]) -> Coalitions:
    """`count` distinct coalitions of g groups, bool (count, g), every size in turn from 0 to g."""
    turns = in_turn(np.minimum(choose(g), count).astype(np.int64), np.ones(g + 1), start % 1, count)
    rows = np.empty((count, g), dtype=bool)
    for r in np.unique(turns):
        at = np.flatnonzero(turns == r)
        rows[at] = subsets(g, int(r), at.size, [*seed, int(r)])
    return rows


def _grouped(groups: ArrayLike) -> tuple[Whole, Whole, Whole]:
    """Labels (g,), the group of each player as a position among them (n,), and the number of players of each group (g,)."""
    try:
        found = np.asarray(groups)
    except ValueError:
        raise ValuationError("found groups of several lengths, expected (n,) whole numbers: one label a player") from None
    if found.ndim != 1 or found.size < 2 or found.dtype.kind not in "iu":
        raise ValuationError(
            f"found groups of shape {found.shape} and {found.dtype}, expected (n,) whole numbers: one label a player, n >= 2"
        )
    labels, of, members = np.unique(found, return_inverse=True, return_counts=True)
    return labels, of, members


@contextmanager
def _game_of(whom: str, rows: Coalitions, n: int) -> Iterator[Coalitions]:
    """The rows of one of the games; says of an error which one it is of."""
    try:
        if not len(rows):
            raise ValuationError("found no coalitions that tell them apart")
        yield rows
    except ValuationError as error:
        raise ValuationError(
            f"{whom}: {error}; all {n} players together need at least {2 * (n - 1)} coalitions, better twice that (owen.draw)"
        ) from error
