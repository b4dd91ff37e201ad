"""Owen values compared with brute force over orders that keep groups together, and their design."""

from itertools import chain, pairwise, permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import slow
from random_games import game

from apportion.errors import ValuationError
from apportion.valuation import coalitions
from apportion.valuation.owen import draw, owen
from apportion.valuation.shapley import leverage

steady = settings(derandomize=True, deadline=None, max_examples=20, database=None)
seeds = st.integers(0, 2**32 - 1)
STRUCTURES = [
    [0, 0],
    [0, 1],
    [7, 7, -1],
    [0, 0, 0, 1, 1],
    [5, 2, 5, 2, 2, 9],
    [3, 3, 3, 3],
    [4, 1, 2, 3],
    [1, 1, 2, 2, 3, 3],
    [0, 0, 0, 1, 1, 1, 2],
]


def by_orders(values, groups):
    """Mean gain over all orders of the groups and, within each, of its players."""
    phi, count = np.zeros(len(groups)), 0
    members = {k: [i for i, label in enumerate(groups) if label == k] for k in set(groups)}
    for group_order in permutations(sorted(members)):
        for order in product(*(permutations(members[k]) for k in group_order)):
            present, count = 0, count + 1
            for i in chain.from_iterable(order):
                phi[i] += values[present | 1 << i] - values[present]
                present |= 1 << i
    return phi / count


def in_closed_form(g, groups):
    """The effect of a set of players is shared evenly by their groups, then by its players in each group."""
    phi, groups = g.a.copy(), np.asarray(groups)
    for members, value in [*zip(g.pairs, g.b, strict=True), *zip(g.triples, g.c, strict=True)]:
        for i in members:
            phi[i] += value / len(set(groups[members])) / np.sum(groups[members] == groups[i])
    return phi


def how_many(groups):
    """Number of proper coalitions of whole groups and part of at most one more."""
    _, members = np.unique(groups, return_counts=True)
    g = len(members)
    return 2**g - 2 + sum(2 ** (g - 1) * (2 ** int(b) - 2) for b in members)


def looked_up(values, Z):
    return values[Z @ (1 << np.arange(Z.shape[1]))]


@pytest.mark.parametrize("groups", STRUCTURES)
def test_all_coalitions_of_the_design_give_the_mean_over_orders(groups):
    n, m = len(groups), how_many(groups)
    values = np.random.default_rng(n).normal(size=2**n)
    values[0] -= 30
    Z = draw(groups, m, 3)
    assert len(np.unique(Z, axis=0)) == m
    shuffled = np.random.default_rng(0).permutation(m)
    result = owen(Z[shuffled], looked_up(values, Z)[shuffled], values[0], values[-1], groups)
    assert result == pytest.approx(by_orders(values, groups), abs=1e-9)


@pytest.mark.parametrize("groups", [[0] * 12, list(range(12))[::-1]])
def test_one_group_and_groups_of_one_player_give_shapley_values(groups):
    Z = coalitions.draw("leverage", 12, 60, 0)
    y = np.random.default_rng(0).normal(size=60)
    assert owen(Z, y, -5.0, 2.0, groups) == pytest.approx(leverage(Z, y, -5.0, 2.0), abs=1e-12)
    drawn = draw(groups, 60, 0)
    assert owen(drawn, y, -5.0, 2.0, groups) == pytest.approx(leverage(drawn, y, -5.0, 2.0), abs=1e-12)


@steady
@given(seeds, st.integers(0, 30), st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
def test_players_of_a_group_share_its_credit(seed, extra, v0, v1):
    """Sums within groups are the Shapley values, as estimated, of the game whose players are the groups."""
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(4), [1, 2, 3, 4]))
    Z = draw(groups, 2 * (18 + extra), seed)
    y = rng.normal(size=len(Z))
    phi = owen(Z, y, v0, v1, groups)
    assert phi.sum() == pytest.approx(v1 - v0, abs=1e-9)
    shares = np.array([Z[:, groups == k].mean(axis=1) for k in range(4)]).T
    whole = np.all(shares == shares.round(), axis=1)
    total = leverage(shares[whole] == 1, y[whole], v0, v1)
    assert np.bincount(groups, weights=phi) == pytest.approx(total, abs=1e-9)


@steady
@given(seeds)
def test_axioms_on_all_coalitions(seed):
    """Interchangeable players tie, a null player gets nothing, and values are linear in the game."""
    rng = np.random.default_rng(seed)
    groups = [0, 0, 1, 1, 2]
    index = np.arange(32)
    values, others = (
        rng.normal(size=(3, 4))[(index & 1) + (index >> 1 & 1), index >> 2 & 3],
        rng.normal(size=32),
    )
    Z = draw(groups, how_many(groups), seed)
    phi, psi = (owen(Z, looked_up(v, Z), v[0], v[-1], groups) for v in (values, others))
    assert phi[0] == pytest.approx(phi[1], abs=1e-9)
    assert phi[-1] == pytest.approx(0, abs=1e-9)
    both = 2 * values - 3 * others
    assert owen(Z, looked_up(both, Z), both[0], both[-1], groups) == pytest.approx(
        2 * phi - 3 * psi, abs=1e-8
    )


def test_estimates_follow_renumbering_and_ignore_labels():
    rng = np.random.default_rng(1)
    groups = np.array([0, 0, 1, 1, 1, 2, 3, 3])
    Z, y, order = draw(groups, 40, 1), rng.normal(size=40), rng.permutation(8)
    phi = owen(Z, y, 1, 3, groups)
    assert owen(Z[:, order], y, 1, 3, groups[order]) == pytest.approx(phi[order], abs=1e-9)
    assert owen(Z, y, 1, 3, 100 - 7 * groups) == pytest.approx(phi, abs=1e-9)


@pytest.mark.parametrize("groups", STRUCTURES[3:6])
def test_all_coalitions_with_some_of_them_repeatedly_are_exact(groups):
    """A coalition counts once, with the mean of its values."""
    n, m = len(groups), how_many(groups)
    values, Z = np.random.default_rng(n).normal(size=2**n), draw(groups, m, 3)
    rows, apart = np.concatenate([Z, Z[:9], Z[:4], Z[-5:]]), np.zeros(m + 18)
    apart[[0, m]] = 3.0, -3.0
    result = owen(rows, looked_up(values, rows) + apart, values[0], values[-1], groups)
    assert result == pytest.approx(by_orders(values, groups), abs=1e-9)


@pytest.mark.parametrize(
    ("groups", "m", "most"),
    [(np.repeat(range(4), 5), 100, 0.45), slow(np.repeat(range(3), [10, 2, 8]), 200, 0.3)],
)
def test_errors_are_small_and_fall_with_more_coalitions(groups, m, most):
    medians = []
    for rows in (m, 4 * m):
        errors = []
        for seed in range(12):
            rng = np.random.default_rng(seed)
            g = game(len(groups), rng)
            truth, Z = in_closed_form(g, groups), draw(groups, rows, seed)
            phi = owen(Z, g.value(Z), *g.value([[0] * len(groups), [1] * len(groups)]), groups)
            errors.append(np.linalg.norm(phi - truth) / np.linalg.norm(truth - truth.mean()))
        medians.append(np.median(errors))
    assert medians[0] < most
    assert medians[1] < 0.6 * medians[0]


def by_random_orders(value, endpoints, groups, m, rng):
    """Mean gain over random orders that keep groups together, as many as m coalitions allow."""
    n, phi, orders = len(groups), np.zeros(len(groups)), m // (len(groups) - 1)
    for _ in range(orders):
        order = np.concatenate(
            [rng.permutation(np.flatnonzero(groups == k)) for k in rng.permutation(np.unique(groups))]
        )
        Z = np.tril(np.ones((n - 1, n), dtype=bool))[:, np.argsort(order)]
        phi[order] += np.diff(np.concatenate([endpoints[:1], value(Z), endpoints[1:]])) / orders
    return phi


@pytest.mark.parametrize(
    ("groups", "ratio"),
    [(np.repeat(range(4), 5), 0.9), slow(np.repeat(range(10), 3), 0.95), slow(np.repeat(range(20), 2), 0.8)],
)
def test_four_coalitions_a_player_have_less_error_than_random_orders(groups, ratio):
    n, errors = len(groups), []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        g, Z = game(n, rng), draw(groups, 4 * n, seed)
        truth, endpoints = in_closed_form(g, groups), g.value([[0] * n, [1] * n])
        noise = 0.1 * g.value(Z).std()

        def value(Z, g=g, noise=noise, rng=rng):
            return g.value(Z) + noise * rng.normal(size=len(Z))

        of_owen = owen(Z, value(Z), *endpoints, groups)
        of_orders = by_random_orders(value, endpoints, groups, 4 * n, rng)
        for phi in (of_owen, of_orders):
            errors.append(np.linalg.norm(phi - truth) / np.linalg.norm(truth - truth.mean()))
    assert np.median(errors[::2]) < ratio * np.median(errors[1::2])


def test_the_closed_form_is_the_mean_over_orders():
    g, groups = game(6, np.random.default_rng(0)), [0, 0, 1, 1, 1, 2]
    every = (np.arange(64)[:, None] >> np.arange(6)) & 1
    assert in_closed_form(g, groups) == pytest.approx(by_orders(g.value(every), groups), abs=1e-12)


@pytest.mark.parametrize("groups", [[0, 0, 0, 1, 1, 2], np.repeat(range(30), 3), np.repeat(range(3), 40)])
def test_the_design_depends_on_its_arguments_and_is_paired_distinct_and_of_whole_groups(groups):
    n = len(groups)
    groups = np.asarray(groups)
    sizes = [2 * (n - 1), 2 * (n - 1) + 6, 2 * (n - 1) + 14]
    drawn = [draw(groups, m, 5) for m in sizes]
    for (less, more), m in zip(pairwise(drawn), sizes, strict=False):
        assert np.array_equal(less, more[:m])
    Z = drawn[-1]
    assert Z.dtype == bool
    assert np.array_equal(Z[::2], ~Z[1::2])
    assert len(np.unique(Z, axis=0)) == len(Z)
    shares = np.array([Z[:, groups == k].mean(axis=1) for k in np.unique(groups)]).T
    assert np.all(np.sum((shares > 0) & (shares < 1), axis=1) <= 1)
    assert not np.array_equal(Z, draw(groups, sizes[-1], 6))


def test_sizes_of_sets_of_other_groups_are_uniform():
    """Beside parts of a group, within five standard errors of independent draws."""
    groups, seeds = np.repeat(range(5), 4), 50
    count = np.zeros(5)
    for seed in range(seeds):
        Z = draw(groups, 100, seed)
        own = Z[:, groups == 0].sum(axis=1)
        beside = Z[(own > 0) & (own < 4)][:, groups != 0].sum(axis=1)
        whole = Z.reshape(-1, 5, 4).mean(axis=2)[(own > 0) & (own < 4)][:, 1:]
        assert np.isin(whole, (0, 1)).all()
        count += np.bincount(beside // 4, minlength=5)
    expected = count.sum() / 5
    assert np.all(np.abs(count - expected) < 5 * np.sqrt(expected))


@pytest.mark.parametrize("groups", [np.repeat(range(10), 3), np.repeat(range(4), 5), np.repeat(range(12), 2)])
def test_twice_the_fewest_coalitions_distinguish_all_players(groups):
    n = len(groups)
    a = np.random.default_rng(0).normal(size=n)
    for seed in range(8):
        Z = draw(groups, 4 * (n - 1), seed)
        assert owen(Z, Z @ a + 1, 1, 1 + a.sum(), groups) == pytest.approx(a, abs=1e-8)


def test_constant_values_give_nothing():
    groups = [0, 0, 1, 1, 1, 2]
    assert owen(draw(groups, 20, 0), np.full(20, 0.1), 0.1, 0.1, groups) == pytest.approx(
        np.zeros(6), abs=1e-12
    )


@pytest.mark.parametrize(
    ("groups", "m", "seed", "message"),
    [
        ([0, 0, 1, 1], 4, 0, "found m = 4, expected an even number from 6 to 10 for 4 players in 2 groups"),
        ([0, 0, 1, 1], 7, 0, "found m = 7, expected an even"),
        ([0, 0, 1, 1], 12, 0, "found m = 12"),
        ([0, 0, 1, 1], 8.0, 0, "m = 8.0, expected a whole"),
        ([0, 0, 1, 1], 8, -1, "seed = -1"),
        ([0.0, 0.0, 1.0], 4, 0, "float64, expected \\(n,\\) whole numbers"),
        (["a", "b"], 2, 0, "whole numbers"),
        ([[0, 1]], 2, 0, "shape \\(1, 2\\)"),
        ([0], 2, 0, "n >= 2"),
    ],
)
def test_draw_refuses(groups, m, seed, message):
    with pytest.raises(ValuationError, match=message):
        draw(groups, m, seed)


GROUPS = [0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda Z, y: owen(Z, y, 0, 1, GROUPS[:4]), "found groups of 4 players, expected 5"),
        (lambda Z, y: owen(Z, y, 0, 1, [0, 1, 1, 2, 2]), "found part of groups 1, 2 in row \\d+ of Z"),
        (
            lambda Z, y: owen(np.vstack([Z, Z[:1] | True]), np.append(y, 0), 0, 1, GROUPS),
            "the empty coalition or all 5 players",
        ),
        (lambda Z, y: owen(Z, np.append(y[1:], np.nan), 0, 1, GROUPS), "1 of 18 numbers in y not finite"),
        (lambda Z, y: owen(Z, y[1:], 0, 1, GROUPS), "one value for each row"),
        (lambda Z, y: owen(Z * 0.5, y, 0, 1, GROUPS), "entries other than 0 and 1"),
        (lambda Z, y: owen(Z, y, np.inf, 1, GROUPS), "1 of 1 numbers in v0 not finite"),
        (lambda Z, y: owen(Z, y, 0, [1.0], GROUPS), "found v1 of shape \\(1,\\), expected a number"),
        (
            lambda Z, y: owen(Z[split(Z, 0)], y[split(Z, 0)], 0, 1, GROUPS),
            "groups: found no coalitions .* need at least 8 coalitions",
        ),
        (
            lambda Z, y: owen(Z[~split(Z, 1)], y[~split(Z, 1)], 0, 1, GROUPS),
            "players of group 1: found no coalitions",
        ),
        (
            lambda Z, y: owen(*one_repeated_part(Z), 0, 1, GROUPS),
            "players of group 1: found m = 1 coalitions that distinguish 1 differences, expected 2",
        ),
        (
            lambda Z, y: owen(*one_part(), 0, 1, [0, 0, 0, 1, 2, 3, 4]),
            "group 0: found m = 32 coalitions that distinguish 0 differences",
        ),
    ],
)
def test_owen_refuses(call, message):
    with pytest.raises(ValuationError, match=message):
        call(draw(GROUPS, 18, 0), np.zeros(18))


def one_repeated_part(Z):
    """A single part of group 1, repeated."""
    Z = np.vstack([Z[~split(Z, 1)], [[1, 1, 1, 0, 0]] * 9])
    return Z, np.zeros(len(Z))


def one_part():
    """All coalitions of whole groups, and one part of group 0 with its complement beside all sets of others.

    There are so many that functions of size are fitted, which leaves only rounding error of that part.
    """
    others = (np.arange(16)[:, None] >> np.arange(4)) & 1 == 1
    whole = coalitions.draw("leverage", 5, 30, 0)[:, [0, 0, 0, 1, 2, 3, 4]]
    Z = np.vstack([whole, *(np.insert(others, [0, 0, 0], part, axis=1) for part in ([1, 0, 0], [0, 1, 1]))])
    return Z, np.zeros(len(Z))


def split(Z, group):
    share = Z[:, np.array(GROUPS) == group].mean(axis=1)
    return (share > 0) & (share < 1)
