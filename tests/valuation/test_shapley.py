"""Shapley estimators compared with brute force over orders, an independent solver, and the axioms."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import slow
from random_games import error, game

from apportion.errors import ValuationError
from apportion.valuation.coalitions import draw, log_probability
from apportion.valuation.shapley import (
    _check_sizes,
    average_repeats,
    constrained,
    exact,
    kernelshap,
    leverage,
    tree_residual,
    weighted,
)

steady = settings(derandomize=True, deadline=None, max_examples=25, database=None)
few = settings(steady, max_examples=6)  # for tree_residual, which takes long
seeds = st.integers(0, 2**32 - 1)


def by_orders(values, n):
    """Mean gain of each player over all orders of arrival."""
    phi = np.zeros(n)
    for order in permutations(range(n)):
        there = 0
        for i in order:
            phi[i] += values[there | 1 << i] - values[there]
            there |= 1 << i
    return phi / len(list(permutations(range(n))))


def looked_up(values, Z):
    return values[Z @ (1 << np.arange(Z.shape[1]))]


def every_proper(n, seed=0):
    return draw("leverage", n, 2**n - 2, seed)


def kkt(Z, y, v0, v1):
    """The constrained least squares of KernelSHAP, by its optimality conditions."""
    m, n = Z.shape
    X = Z.astype(float)
    system = np.block([[X.T @ X / m, np.ones((n, 1))], [np.ones((1, n)), np.zeros((1, 1))]])
    return np.linalg.solve(system, np.append(X.T @ (y - v0) / m, v1 - v0))[:n]


@pytest.mark.parametrize("n", range(1, 7))
def test_exact_is_the_mean_over_orders(n):
    values = np.random.default_rng(n).normal(size=2**n)
    assert exact(values) == pytest.approx(by_orders(values, n), abs=1e-12)


@pytest.mark.parametrize("n", [14, slow(20)])
def test_exact_is_the_closed_form_for_many_players(n):
    g = game(n, np.random.default_rng(0))
    every = (np.arange(2**n, dtype=np.uint32)[:, None] >> np.arange(n, dtype=np.uint32)) & 1
    values = np.concatenate([g.value(part) for part in np.split(every, 64)])
    assert exact(values) == pytest.approx(g.shapley(), abs=1e-9)


@pytest.mark.parametrize("n", range(2, 9))
def test_the_exhaustive_leverage_design_is_exact(n):
    values = np.random.default_rng(n).normal(size=2**n)
    Z = every_proper(n)
    assert leverage(Z, looked_up(values, Z), values[0], values[-1]) == pytest.approx(exact(values), abs=1e-8)


def test_kernelshap_with_rows_in_proportion_to_the_kernel_is_exact():
    values = np.random.default_rng(1).normal(size=16)
    Z = every_proper(4)
    Z = np.repeat(
        Z, np.where(Z.sum(axis=1) == 2, 1, 2), axis=0
    )  # 1/4 of the mass on 4, 1/8 on 6, 1/4 on 4 coalitions
    assert kernelshap(Z, looked_up(values, Z), values[0], values[-1]) == pytest.approx(
        exact(values), abs=1e-10
    )


@pytest.mark.parametrize(("n", "m"), [(4, 30), (12, 80), (20, 500), (50, 400)])
def test_kernelshap_solves_its_optimality_conditions(n, m):
    rng = np.random.default_rng(n)
    Z, y = draw("shapley_kernel", n, m, n), rng.normal(size=m)
    assert kernelshap(Z, y, -0.3, 1.7) == pytest.approx(kkt(Z, y, -0.3, 1.7), abs=1e-10)


def test_kernelshap_without_full_rank_takes_the_smallest_credits():
    Z = np.array([[1, 1, 0, 0], [0, 0, 1, 1]])
    assert kernelshap(Z, [3.0, 5.0], 0.0, 8.0) == pytest.approx([1.5, 1.5, 2.5, 2.5])


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 7, slow(8), slow(9), slow(10)])
def test_tree_residual_from_the_exhaustive_design_is_exact(n):
    """Also where trees have an effect: they find the conjunction of three players."""
    rng = np.random.default_rng(n)
    index = np.arange(2**n)
    values = rng.normal(size=2**n) + 6.0 * (index & 7 == 7)
    values[0] -= 20.0
    Z = every_proper(n)
    assert tree_residual(Z, looked_up(values, Z), values[0], values[-1]) == pytest.approx(
        exact(values), abs=1e-8
    )


def test_trees_reduce_the_error_where_players_need_each_other(monkeypatch):
    """Three conjunctions of four of 16 players: trees have an effect, and reduce the error."""
    rng = np.random.default_rng(3)
    Z = draw("leverage", 16, 600, 0)
    groups = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    a = rng.normal(size=16)
    y = Z @ a + 30.0 * sum(Z[:, g].all(axis=1) for g in groups)
    truth = a + 30.0 / 4 * np.isin(np.arange(16), np.concatenate(groups))
    with_trees = tree_residual(Z, y, 0.0, a.sum() + 90.0)
    monkeypatch.setattr("apportion.valuation.shapley.FEWEST_FOR_TREES", 10**6)
    without = tree_residual(Z, y, 0.0, a.sum() + 90.0)
    assert np.linalg.norm(with_trees - truth) < 0.8 * np.linalg.norm(without - truth)


@pytest.mark.parametrize(
    ("n", "m", "noise", "games", "ratio", "most"),
    [
        (20, 80, 1.0, 3, 0.8, 0.8),
        slow(20, 100, 0.1, 20, 0.97, 0.28),
        slow(20, 500, 0.1, 6, 0.95, 0.1),
        slow(50, 200, 1.0, 6, 0.65, 0.8),
    ],
)
def test_tree_residual_has_less_error_than_leverage(n, m, noise, games, ratio, most):
    """benchmarks/estimators.py has more games and the required accuracy."""
    of_trees = error(tree_residual, "leverage", n, m, noise, games)
    of_leverage = error(leverage, "leverage", n, m, noise, games)
    assert of_trees < ratio * of_leverage
    assert of_trees < most


def additive_errors(n, m, seed):
    """The largest error of tree_residual in an additive game without noise, over the range of the credits.

    Also the largest true difference of two players in the wrong order. None where not even `leverage` can
    distinguish all players.
    """
    a, Z = np.random.default_rng(seed).normal(size=n), draw("leverage", n, m, seed)
    try:
        assert leverage(Z, Z @ a, 0.0, a.sum()) == pytest.approx(a, abs=1e-8)
    except ValuationError:
        return None
    phi = tree_residual(Z, Z @ a, 0.0, a.sum())
    true_gap, gap = np.subtract.outer(a, a), np.subtract.outer(phi, phi)
    return np.abs(phi - a).max() / np.ptp(a), np.max(true_gap * (true_gap * gap < 0)) / np.ptp(a)


@pytest.mark.parametrize(
    ("n", "m", "games"),
    [slow(4, 8, 40), slow(5, 10, 40), (6, 12, 40), slow(6, 14, 40), slow(20, 40, 10), slow(20, 42, 10)],
)
def test_an_additive_game_without_noise_is_recovered_from_as_many_pairs_as_players(n, m, games):
    errors = [additive_errors(n, m, seed) for seed in range(games)]
    errors = np.array([each for each in errors if each])
    assert len(errors) > 0.7 * games
    assert np.median(errors[:, 0]) < 0.01
    assert np.quantile(errors[:, 0], 0.9) < 0.05
    assert np.quantile(errors[:, 1], 0.9) < 0.01  # players in the wrong order are nearly equal
    assert errors[:, 1].max() < 0.15


@pytest.mark.parametrize("off", [0.0, 10.0])
@pytest.mark.parametrize(
    ("n", "m", "games"),
    [
        slow(4, 6, 60),
        slow(4, 8, 60),
        slow(5, 8, 60),
        (5, 12, 60),
        slow(6, 10, 60),
        slow(6, 24, 60),
        slow(20, 38, 12),
        slow(20, 60, 10),
    ],
)
def test_few_pairs_are_no_worse_for_tree_residual_than_for_leverage(n, m, games, off):
    """Median error over games with interactions, also with v0 off the scale by `off` standard deviations."""
    rng, errors = np.random.default_rng(0), []
    for seed in range(games):
        g, Z = game(n, rng), draw("leverage", n, m, seed)
        v, (v0, v1) = g.value(Z), g.value([[0] * n, [1] * n])
        y, truth = v + 0.1 * v.std() * rng.normal(size=m), g.shapley()
        try:
            result = [estimate(Z, y, v0 - off * v.std(), v1) for estimate in (tree_residual, leverage)]
        except ValuationError:
            continue
        differences = [phi - truth for phi in result]
        spread = np.linalg.norm(truth - truth.mean())
        errors.append([np.linalg.norm(each - each.mean()) / spread for each in differences])
    of_trees, of_leverage = np.median(errors, axis=0)
    assert of_trees < 1.15 * of_leverage
    assert of_trees < 0.8


def test_an_offset_of_v0_and_v1_changes_no_difference_where_pairs_outnumber_players():
    rng = np.random.default_rng(0)
    for n, m in ((5, 14), (12, 48)):
        Z = draw("leverage", n, m, 1)
        y = Z @ rng.normal(size=n) + 3 * Z[:, :3].all(axis=1) + 0.1 * rng.normal(size=m)
        for estimate in (leverage, tree_residual) if n > 5 else (tree_residual,):
            phi, moved = estimate(Z, y, 0.0, 1.0), estimate(Z, y, -60.0, 31.0)
            assert moved - phi == pytest.approx(np.full(n, 90 / n), abs=1e-8)


@pytest.mark.parametrize("n", [3, 5, 6])
def test_all_coalitions_with_some_of_them_repeatedly_are_exact(n):
    """A coalition counts once, with the mean of its values, however often its complement is repeated."""
    rng = np.random.default_rng(n)
    values, Z = rng.normal(size=2**n) * 3, every_proper(n)
    values[0] += 20.0
    again = np.concatenate([np.arange(len(Z)), rng.integers(0, len(Z), 25)])
    apart = rng.normal(size=len(again))
    apart -= (np.bincount(again, weights=apart) / np.bincount(again))[
        again
    ]  # the mean of each coalition is 0
    mixed = rng.permutation(len(again))
    rows, y = Z[again][mixed], (looked_up(values, Z)[again] + apart)[mixed]
    for estimate in (leverage, tree_residual, lambda *game: constrained(*game).phi):
        assert estimate(rows, y, values[0], values[-1]) == pytest.approx(exact(values), abs=1e-8)


REPEATABLE = {"leverage": leverage, "tree_residual": tree_residual}


@pytest.mark.parametrize("name", REPEATABLE)
def test_many_rows_without_important_sizes_are_refused(name):
    """Rows of one size or of middle sizes say nothing about small and large ones, which have most weight."""
    uniform = draw("uniform", 20, 200, 0)
    for Z in (
        draw("datamodel", 20, 100, 0),
        draw("datamodel", 6, 20, 0),
        uniform[np.abs(uniform.sum(axis=1) - 10) < 6],
    ):
        with pytest.raises(
            ValuationError, match=r"found no coalitions of size 1, .* of the weight, expected at most 0.1"
        ):
            REPEATABLE[name](Z, Z.sum(axis=1), 0.0, 1.0)


@pytest.mark.parametrize("n", [4, 6, 20, 258])
def test_parts_of_a_leverage_design_are_not_refused(n):
    """Its first rows, a random part, repeated rows, and the rows without a player."""
    rng = np.random.default_rng(n)
    for seed in range(12):
        whole = draw("leverage", n, min(1200, 2**n - 2), seed)
        some = np.flatnonzero(rng.random(len(whole)) < rng.uniform(0.3, 1))
        parts = (
            whole[: rng.integers(2, len(whole))],
            whole[rng.permutation(len(whole))],
            whole[some],
            whole[rng.choice(some, 300)],
        )
        for rows in parts:
            _check_sizes(average_repeats(rows, np.zeros(len(rows)))[0])
        without = whole[~whole[:, 0]][:, 1:]
        _check_sizes(without[~without.all(axis=1)])


def test_tree_residual_accepts_repeated_shuffled_and_incomplete_pairs():
    rng = np.random.default_rng(0)
    a = rng.normal(size=8)
    Z = draw("leverage", 8, 60, 0)
    y = Z @ a
    shuffled = rng.permutation(60)
    again = np.concatenate([shuffled, shuffled[:9]])
    assert tree_residual(Z[again], y[again], 0.0, a.sum()) == pytest.approx(a, abs=1e-5)
    broken = tree_residual(Z[:59], y[:59], 0.0, a.sum())
    assert broken == pytest.approx(a, abs=0.2)
    assert broken.sum() == pytest.approx(a.sum(), abs=1e-9)


def test_credits_of_trees_do_not_depend_on_numbering_or_order_of_rows(monkeypatch):
    """Three conjunctions that trees find: credits follow renumbering."""
    rng = np.random.default_rng(1)
    n, m = 12, 240
    Z = draw("leverage", n, m, 1)
    a = rng.normal(size=n)
    conjunctions = sum(Z[:, g].all(axis=1) for g in ([0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]))
    y = Z @ a + 30.0 * conjunctions + 0.3 * rng.normal(size=m)
    v1, order, rows = a.sum() + 90.0, rng.permutation(n), rng.permutation(m)
    phi = tree_residual(Z, y, 0.0, v1)
    assert tree_residual(Z[rows][:, order], y[rows], 0.0, v1) == pytest.approx(phi[order], abs=1e-8)
    monkeypatch.setattr("apportion.valuation.shapley.FEWEST_FOR_TREES", 10**6)
    assert np.abs(tree_residual(Z, y, 0.0, v1) - phi).max() > 0.1  # trees have an effect


def test_seeds_of_v0_and_v1_are_averaged():
    Z = draw("leverage", 6, 30, 0)
    y = np.random.default_rng(0).normal(size=30)
    for estimate in (kernelshap, leverage, tree_residual):
        assert estimate(Z, y, [-1.0, 1.5], [2.0, 3.0, 4.0]) == pytest.approx(
            estimate(Z, y, 0.25, 3.0), abs=1e-12
        )


@pytest.mark.parametrize(
    "y",
    [
        np.ma.masked_less(np.arange(4.0), 1),
        np.arange(4) + 1j,
        ["1", "2", "3", "4"],
        np.arange(4).astype("m8[s]"),
    ],
)
def test_values_that_are_masked_or_no_numbers_are_refused(y):
    with pytest.raises(ValuationError, match="not an array of numbers"):
        leverage(np.array([[1, 0, 0], [0, 1, 1], [0, 1, 0], [1, 0, 1]]), y, 0, 1)


def test_constant_values_give_equal_credits():
    Z = draw("leverage", 6, 50, 0)
    for estimate in (leverage, tree_residual):
        assert estimate(Z, np.full(50, 3.0), 3.0, 3.0) == pytest.approx(np.zeros(6), abs=1e-9)
        assert estimate(Z, np.full(50, 3.0), 0.0, 6.0) == pytest.approx(np.ones(6), abs=1e-9)


def test_planted_players_have_their_known_credits():
    """A copy has the credit of its original, a null player about 0, and a harmful player the least."""
    rng = np.random.default_rng(1)
    Z = draw("leverage", 12, 120, 4)
    a = np.array([2.0, 0.0, -3.0, *rng.uniform(0.5, 2.5, 8), 0.0])

    def value(S):  # the last player is a copy of the first: one of the two has the effect of both
        S = np.atleast_2d(S)
        return S @ a + 4.0 * (S[:, 0] | S[:, 11]) + 1.5 * S[:, 3] * S[:, 4]

    truth = a + 2.0 * np.isin(np.arange(12), (0, 11)) + 0.75 * np.isin(np.arange(12), (3, 4))
    y = value(Z) + 0.1 * rng.normal(size=120)
    for estimate in (leverage, tree_residual):
        phi = estimate(Z, y, 0.0, value(np.ones(12, bool))[0])
        assert np.argmin(phi) == 2
        assert abs(phi[1]) < 0.5
        assert phi[0] - phi[11] == pytest.approx(
            2.0, abs=0.6
        )  # what the first player has beside the copied part
        assert np.abs(phi - truth).max() < 1.0


def test_leverage_with_fewer_coalitions_than_players_gives_the_smallest_credits_that_fit():
    """They equal those of the pseudo-inverse, but never need a matrix of players by players."""
    rng = np.random.default_rng(0)
    Z = draw("leverage", 30, 20, 1)
    y = rng.normal(size=20)
    n, size = 30, Z.sum(axis=1)
    w = np.exp(log_probability("shapley_kernel", Z) - log_probability("leverage", Z))
    U = (Z - size[:, None] / n) * np.sqrt(w)[:, None]
    smallest = np.linalg.pinv(U) @ (np.sqrt(w) * (y - 1.0 - size * 2.0 / n))
    assert leverage(Z, y, 1.0, 3.0) == pytest.approx(2.0 / n + smallest, abs=1e-9)


def test_leverage_recovers_additive_credits_of_258_players():
    a = np.random.default_rng(0).normal(size=258)
    Z = draw("leverage", 258, 600, 1)
    assert leverage(Z, 2 + Z @ a, 2, 2 + a.sum()) == pytest.approx(a, abs=1e-8)


def test_leverage_has_less_error_than_kernelshap():
    of_leverage = error(leverage, "leverage", 20, 100, 0.1, 30)
    of_kernelshap = error(kernelshap, "shapley_kernel", 20, 100, 0.1, 30)
    assert of_leverage < 0.32 < of_kernelshap


@few
@given(st.integers(2, 6), st.integers(1, 40), seeds, st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
def test_credits_sum_to_the_gain(n, m, seed, v0, v1):
    rng = np.random.default_rng(seed)
    Z, y = rng.random((m, n)) < 0.5, rng.normal(size=m)
    Z[0, 0] = True
    assert kernelshap(Z, y, v0, v1).sum() == pytest.approx(v1 - v0, abs=1e-9)
    Z = every_proper(n, seed)
    y = rng.normal(size=len(Z))
    for estimate in (leverage, tree_residual):
        assert estimate(Z, y, v0, v1).sum() == pytest.approx(v1 - v0, abs=1e-9)
    values = rng.normal(size=2**n)
    assert exact(values).sum() == pytest.approx(values[-1] - values[0], abs=1e-9)


@few
@given(st.integers(3, 6), seeds)
def test_axioms_hold_for_exact_and_exhaustive_leverage(n, seed):
    rng = np.random.default_rng(seed)
    index = np.arange(2**n)
    rest = index >> 2
    # Players 0 and 1 are interchangeable, and the last player is a null player.
    table = rng.normal(size=(3, 2 ** (n - 3)))
    values = table[(index & 1) + (index >> 1 & 1), rest % 2 ** (n - 3)]
    Z = every_proper(n, seed)
    y = looked_up(values, Z)
    estimates = [estimate(Z, y, values[0], values[-1]) for estimate in (leverage, tree_residual)]
    for phi in (exact(values), *estimates):
        assert phi[0] == pytest.approx(phi[1], abs=1e-9)
        assert phi[-1] == pytest.approx(0, abs=1e-9)


@steady
@given(seeds)
def test_estimates_are_linear_and_follow_renumbering(seed):
    rng = np.random.default_rng(seed)
    n, m = 6, 30
    order = rng.permutation(n)
    for estimate, design in ((leverage, "leverage"), (kernelshap, "shapley_kernel")):
        Z = draw(design, n, m, seed)
        y, x, a, b = rng.normal(size=m), rng.normal(size=m), *rng.normal(size=2)
        both = estimate(Z, a * y + b * x, a * 1 + b * 2, a * 3 + b * 5)
        assert both == pytest.approx(a * estimate(Z, y, 1, 3) + b * estimate(Z, x, 2, 5), abs=1e-8)
        assert estimate(Z[:, order], y, 1, 3) == pytest.approx(estimate(Z, y, 1, 3)[order], abs=1e-8)
    # tree_residual chooses variances and trees by the values, so it is linear only in units.
    Z = draw("leverage", n, m, seed)
    assert tree_residual(Z, a * y + b, a + b, 3 * a + b) == pytest.approx(
        a * tree_residual(Z, y, 1, 3), abs=1e-6
    )
    assert tree_residual(Z[:, order], y, 1, 3) == pytest.approx(tree_residual(Z, y, 1, 3)[order], abs=1e-8)


@pytest.mark.parametrize("estimate", [kernelshap, leverage, tree_residual])
@pytest.mark.parametrize(
    ("Z", "y", "v0", "message"),
    [
        (np.ones(4), [1.0], 0.0, "shape \\(4,\\)"),
        (np.zeros((0, 3)), [], 0.0, "shape \\(0, 3\\)"),
        (np.ones((3, 1)), [1, 2, 3], 0.0, "n >= 2"),
        (np.full((2, 3), 0.5), [1, 2], 0.0, "entries other than 0 and 1"),
        ([[1, 0, 2], [0, 1, 0]], [1, 2], 0.0, "entries other than 0 and 1"),
        ([["a", "b"]], [1], 0.0, "expected booleans"),
        ([[1, 0, 0], [0, 1, 1]], [1, 2, 3], 0.0, "one value for each row"),
        ([[1, 0, 0], [0, 1, 1]], [1, np.nan], 0.0, "1 of 2 numbers in y not finite"),
        ([[1, 0, 0], [0, 1, 1]], ["one", "two"], 0.0, "not an array of numbers"),
        ([[1, 0, 0], [0, 1, 1]], [1, 2], np.inf, "1 of 1 numbers in v0 not finite"),
        ([[1, 0, 0], [0, 1, 1]], [1, 2], [0.0, np.nan], "1 of 2 numbers in v0 not finite"),
        ([[1, 0, 0], [0, 1, 1]], [1, 2], [0.0], "v0 of shape \\(1,\\), expected a number"),
        ([[1, 0, 0], [0, 1, 1]], [1, 2], "none", "v0 that is not an array of numbers"),
    ],
)
def test_refuses(estimate, Z, y, v0, message):
    with pytest.raises(ValuationError, match=message):
        estimate(Z, y, v0, 1.0)


def test_leverage_says_how_many_coalitions_it_needs():
    Z = draw("leverage", 10, 12, 0)
    with pytest.raises(
        ValuationError, match=r"found m = 12 coalitions that distinguish [1-6] differences.* at least 18"
    ):
        leverage(Z, np.zeros(12), 0, 1)
    Z = draw("leverage", 9, 40, 0)[:, [0, *range(9)]]
    with pytest.raises(
        ValuationError, match=r"distinguish 8 differences, expected 9 for n = 10 players: take another seed"
    ):
        leverage(Z, np.zeros(40), 0, 1)


def test_one_pair_repeated_often_distinguishes_no_players():
    """So many rows allow functions of size, which leave only rounding error of the pair."""
    Z = np.tile(np.array([[1, 0, 0], [0, 1, 1]], dtype=bool), (6, 1))
    with pytest.raises(
        ValuationError, match="found m = 12 coalitions that distinguish 0 differences, expected 2"
    ):
        weighted(Z, np.arange(12.0), 0.0, 1.0, np.ones(12))
    assert leverage(Z, np.tile([1.0, 0.0], 6), 0, 1) == pytest.approx(
        leverage(Z[:2], [1.0, 0.0], 0, 1), abs=1e-12
    )


def test_input_that_a_single_estimator_cannot_use_is_refused():
    with pytest.raises(ValuationError, match="the empty coalition or all"):
        leverage([[1, 1, 1], [1, 0, 0]], [1, 2], 0, 1)
    with pytest.raises(ValuationError, match="empty coalitions"):
        kernelshap(np.zeros((2, 3)), [1, 2], 0, 1)


@pytest.mark.parametrize("values", [[1.0], [1, 2, 3], np.zeros((2, 2)), [], np.zeros(2**21), [0, np.nan]])
def test_exact_refuses(values):
    with pytest.raises(ValuationError, match="expected"):
        exact(values)


def test_shapley_values_of_random_games_are_exact():
    """The closed form that coverage is measured with, compared with enumeration."""
    g = game(5, np.random.default_rng(2))
    every = (np.arange(32)[:, None] >> np.arange(5)) & 1
    assert g.shapley() == pytest.approx(by_orders(g.value(every), 5), abs=1e-12)


def test_the_fit_has_the_effect_of_every_coalition():
    """Found by changing one value at a time."""
    Z, y = draw("leverage", 6, 40, 0), np.random.default_rng(0).normal(size=40)
    fit = constrained(Z, y, 0.3, 1.5)
    assert fit.phi == pytest.approx(0.2 + fit.A @ (y - 0.3 - Z.sum(axis=1) * 0.2), abs=1e-12)
    assert fit.A.sum(axis=0) == pytest.approx(np.zeros(40), abs=1e-12)
    for j in (0, 5, 20, 39):
        moved = constrained(Z, y + (np.arange(40) == j), 0.3, 1.5)
        assert moved.phi - fit.phi == pytest.approx(fit.A[:, j], abs=1e-12)
        assert 1 - (moved.residual - fit.residual)[j] == pytest.approx(fit.leverage[j], abs=1e-12)
    assert fit.leverage.sum() == pytest.approx(5 + fit.nuisance)
