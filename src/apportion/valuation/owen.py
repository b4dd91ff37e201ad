"""Owen values: Shapley values of players in groups, each of which joins other groups as a whole (Owen 1977).

The groups may be groups of contributors, or contributors whose sub-groups are the players: two levels of
credit from one round. See docs/methods.md, section "Estimators".
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import ArrayLike, NDArray

from apportion.errors import ValuationError
from apportion.valuation import coalitions
from apportion.valuation.coalitions import (
    MAX_CELLS,
    Coalitions,
    Vector,
    coalition_counts,
    random_subsets,
    rows_per_size,
    size_shares,
    systematic_turns,
    whole_number,
)
from apportion.valuation.inputs import checked, checked_endpoints, proper_sizes
from apportion.valuation.shapley import average_repeats, constrained, weighted

Integers = NDArray[np.intp]


def draw(groups: ArrayLike, m: int, seed: int) -> Coalitions:
    """`m` coalitions for `owen`, bool (m, n): some whole groups and part of at most one more group.

    groups (n,): the label of each player's group, whole numbers. Each coalition is followed by its
    complement. The pairs serve several games at once: groups against each other, and the players of each
    group among themselves. Each game gets pairs in proportion to the number of differences that it has to
    estimate. Within a group's game the number of other groups and the number of the group's players are
    uniform, without replacement. The result depends on the arguments alone, and a smaller m with the same
    seed gives the first rows of a larger m.
    Raises ValuationError for labels that are not as stated, a negative seed, an odd m, fewer coalitions than
    all players need to be distinguished, which is 2n - 2 (twice as many are always enough), and more
    coalitions than there are.
    """
    labels, group, sizes = _checked_groups(groups)
    g, n = len(labels), len(group)
    m, seed = whole_number("m", m), whole_number("seed", seed)
    # The number of pairs of each game: half of 2**g - 2, and for a group of b players half of
    # 2**(g - 1) * (2**b - 2).
    available = [2 ** (g - 1) - 1, *(2 ** (g - 1) * (2 ** (b - 1) - 1) for b in sizes.tolist())]
    most = min(sum(available), MAX_CELLS // n // 2)
    if m % 2 or not n - 1 <= m // 2 <= most:
        raise ValuationError(
            f"found m = {m}, expected an even number from {2 * (n - 1)} to {2 * most} for {n} players in {g} "
            "groups"
        )
    if seed < 0:
        raise ValuationError(f"found seed = {seed}, expected 0 or more")
    count = np.array([min(pairs, m // 2) for pairs in available])
    turns = systematic_turns(count, np.array([g, *sizes]) - 1.0, np.ones(g + 1), m // 2)
    first = np.empty((m // 2, n), dtype=bool)
    for game in np.unique(turns):
        at = np.flatnonzero(turns == game)
        if game == 0:
            first[at] = _between_groups(group, at.size, seed)
        else:
            first[at] = _within_group(int(game) - 1, group, sizes, at.size, seed)
    return np.stack([first, ~first], axis=1).reshape(m, n)


def owen(Z: ArrayLike, y: ArrayLike, v0: ArrayLike, v1: ArrayLike, groups: ArrayLike) -> Vector:
    """Owen values (n,): a player's mean gain over the orders of arrival that keep groups together.

    They sum to v1 - v0. Z (m, n) rows of `draw` for these groups, in any order; groups (n,) as there; y (m,),
    v0 and v1 as in `shapley.leverage`. The groups share v1 - v0 by `shapley.leverage` of the coalitions of
    whole groups. The players of a group share its credit by the same fit to the coalitions with part of it,
    less the credits of the whole groups in them. With one group, or with every player in a group of one, that
    is `shapley.leverage`. All coalitions of this form give the exact values. A coalition in several rows
    counts once, with the mean of their values.
    Raises ValuationError for bad input, for rows with part of two groups, and when the rows cannot
    distinguish all players.
    """
    rows, y = average_repeats(*checked(Z, y))
    v0, v1 = checked_endpoints(v0, v1)[:2]
    proper_sizes(rows)
    labels, group, sizes = _checked_groups(groups)
    if len(group) != rows.shape[1]:
        raise ValuationError(
            f"found groups of {len(group)} players, expected {rows.shape[1]}: one label for each column of Z"
        )
    whole, partial = _whole_and_partial(rows, labels, group, sizes)
    total = np.array([v1 - v0])
    if len(labels) > 1:
        with _game_named("groups", whole[partial < 0], len(group)) as between:
            total = constrained(between, y[partial < 0], v0, v1).phi
    phi = total[group]
    for k in np.flatnonzero(sizes > 1):
        at, own = partial == k, group == k
        with _game_named(f"players of group {labels[k]}", rows[at][:, own], len(group)) as parts:
            phi[own] = _shared_within(parts, y[at] - v0 - whole[at] @ total, total[k], whole[at])
    return np.asarray(phi, dtype=np.float64)


def _shared_within(part: Coalitions, y: Vector, total: float, whole: Coalitions) -> Vector:
    """The part of a group's total that each of its b players gets, (b,).

    Each row has a part of the group, part (k, b), beside whole groups, whole (k, g). A part weighs its
    Shapley kernel over its probability in the `leverage` design. Its rows share that weight so that every
    number of other groups has the same weight, however many rows it has.
    """
    g, b = whole.shape[1], part.shape[1]
    parts, index, times = np.unique(part, axis=0, return_inverse=True, return_counts=True)
    shares = size_shares("shapley_kernel", b, len(parts))[1:-1] / size_shares("leverage", b, len(parts))[1:-1]
    available = coalition_counts(g - 1)
    drawn = {c: np.minimum(available, rows_per_size(available, c)) for c in np.unique(times).tolist()}
    per_part = np.array([drawn[c] for c in times.tolist()]).reshape(-1, g)
    w = shares[part.sum(axis=1) - 1] / per_part[index.reshape(-1), whole.sum(axis=1)]
    return weighted(part, y, 0.0, total, w).phi


def _whole_and_partial(
    rows: Coalitions, labels: Integers, group: Integers, sizes: Integers
) -> tuple[Coalitions, Integers]:
    """The groups that each row holds as a whole, bool (m, g), and the group it holds part of (m,), or -1."""
    held = rows @ (group[:, None] == np.arange(len(labels))).astype(np.intp)
    whole = held == sizes
    part = (held > 0) & ~whole
    split = np.flatnonzero(part.sum(axis=1) > 1)
    if split.size:
        names = ", ".join(map(str, labels[part[split[0]]][:8]))
        raise ValuationError(
            f"found part of groups {names} in row {split[0]} of Z, expected part of at most one (owen.draw)"
        )
    return whole, np.where(part.any(axis=1), part.argmax(axis=1), -1)


def _between_groups(group: Integers, pairs: int, seed: int) -> Coalitions:
    """The first of each pair for the game of whole groups, bool (pairs, n)."""
    return coalitions.draw("leverage", int(group.max()) + 1, 2 * pairs, seed)[::2][:, group]


def _within_group(own: int, group: Integers, sizes: Integers, pairs: int, seed: int) -> Coalitions:
    """The first of each pair for the game within the group `own`, bool (pairs, n).

    Parts of the group are as in `leverage`, but with at most half of its players. Each part is used once
    before any is used again, so that few rows distinguish the players. As many successive parts as the group
    has players are combined with the same other groups, so the value of those groups cancels in differences
    between the players. Two players have a single part: it is combined with a set of other groups, and next
    with all groups that were not in that set. Each part has as many rows with one number of other groups as
    with another, and is combined with no set of other groups twice.
    """
    g, b = len(sizes), int(sizes[own])
    rng = np.random.default_rng([seed, 1 + own])
    parts = coalitions.draw("leverage", b, 2 * min(pairs, 2 ** (b - 1) - 1), int(rng.integers(2**63)))[::2]
    parts ^= 2 * parts.sum(axis=1, keepdims=True) > b
    order, shift = rng.permutation(g), rng.random()
    rows = np.empty((pairs, len(group)), dtype=bool)
    for k in range(0, len(parts), b):
        times = -(-pairs // len(parts))
        beside = _other_groups(g - 1, times, (order + k // b) / g + shift, [seed, 1 + own, k])
        if b == 2 and g > 1:
            half = beside[np.sort(coalitions.complementary_pairs(beside)[0])]
            beside = np.stack([half, ~half], axis=1).reshape(-1, g - 1)
        for i in range(k, min(k + b, len(parts))):
            at = np.arange(i, pairs, len(parts))
            rows[at] = np.insert(beside[: at.size], own, False, axis=1)[:, group]
            rows[at[:, None], np.flatnonzero(group == own)] = parts[i]
    return rows


def _other_groups(g: int, count: int, start: Vector, seed: list[int]) -> Coalitions:
    """`count` distinct coalitions of g groups, bool (count, g), with every size from 0 to g in turn."""
    available = np.minimum(coalition_counts(g), count).astype(np.int64)
    turns = systematic_turns(available, np.ones(g + 1), start % 1, count)
    rows = np.empty((count, g), dtype=bool)
    for r in np.unique(turns):
        at = np.flatnonzero(turns == r)
        rows[at] = random_subsets(g, int(r), at.size, [*seed, int(r)])
    return rows


def _checked_groups(groups: ArrayLike) -> tuple[Integers, Integers, Integers]:
    """The labels (g,), each player's group as an index into them (n,), and the sizes of groups (g,)."""
    try:
        array = np.asarray(groups)
    except ValueError:
        raise ValuationError(
            "found groups of different lengths, expected (n,) whole numbers: one label for each player"
        ) from None
    if array.ndim != 1 or array.size < 2 or array.dtype.kind not in "iu":
        raise ValuationError(
            f"found groups of shape {array.shape} and {array.dtype}, expected (n,) whole numbers: one label "
            "for each player, n >= 2"
        )
    labels, group, sizes = np.unique(array, return_inverse=True, return_counts=True)
    return labels, group, sizes


@contextmanager
def _game_named(name: str, rows: Coalitions, n: int) -> Iterator[Coalitions]:
    """The rows of one of the games. An error inside says which game it belongs to."""
    try:
        if not len(rows):
            raise ValuationError("found no coalitions that distinguish them, expected some")
        yield rows
    except ValuationError as error:
        raise ValuationError(
            f"{name}: {error}; all {n} players together need at least {2 * (n - 1)} coalitions, better twice "
            "that (owen.draw)"
        ) from error
