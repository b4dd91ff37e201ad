"""Estimators against brute force over orders, an independent solver, and the axioms."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_games import error, game

from apportion.errors import ValuationError
from apportion.valuation.coalitions import draw
from apportion.valuation.shapley import banzhaf, exact, kernelshap, leverage

steady = settings(derandomize=True, deadline=None, max_examples=40, database=None)
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


def banzhaf_by_counting(values, n):
    index = np.arange(2**n)
    return np.array([np.mean(values[index[index >> i & 1 == 1]] - values[index[index >> i & 1 == 0]]) for i in range(n)])


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


def test_exact_at_twenty_players_is_the_closed_form():
    rng = np.random.default_rng(0)
    g = game(20, rng)
    every = (np.arange(2**20, dtype=np.uint32)[:, None] >> np.arange(20, dtype=np.uint32)) & 1
    assert exact(np.concatenate([g.value(part) for part in np.split(every, 64)])) == pytest.approx(g.shapley(), abs=1e-9)


@pytest.mark.parametrize("n", range(2, 9))
def test_the_exhaustive_leverage_design_is_exact(n):
    values = np.random.default_rng(n).normal(size=2**n)
    Z = every_proper(n)
    assert leverage(Z, looked_up(values, Z), values[0], values[-1]) == pytest.approx(exact(values), abs=1e-8)


def test_kernelshap_with_rows_in_proportion_to_the_kernel_is_exact():
    values = np.random.default_rng(1).normal(size=16)
    Z = every_proper(4)
    Z = np.repeat(Z, np.where(Z.sum(axis=1) == 2, 1, 2), axis=0)  # 1/4 of the mass on 4, 1/8 on 6, 1/4 on 4 coalitions
    assert kernelshap(Z, looked_up(values, Z), values[0], values[-1]) == pytest.approx(exact(values), abs=1e-10)


@pytest.mark.parametrize(("n", "m"), [(4, 30), (12, 80), (20, 500), (50, 400)])
def test_kernelshap_solves_its_optimality_conditions(n, m):
    rng = np.random.default_rng(n)
    Z, y = draw("shapley_kernel", n, m, n), rng.normal(size=m)
    assert kernelshap(Z, y, -0.3, 1.7) == pytest.approx(kkt(Z, y, -0.3, 1.7), abs=1e-10)


def test_kernelshap_without_full_rank_takes_the_smallest_credits():
    Z = np.array([[1, 1, 0, 0], [0, 0, 1, 1]])
    assert kernelshap(Z, [3.0, 5.0], 0.0, 8.0) == pytest.approx([1.5, 1.5, 2.5, 2.5])


def test_leverage_recovers_additive_credits_of_258_players():
    a = np.random.default_rng(0).normal(size=258)
    Z = draw("leverage", 258, 600, 1)
    assert leverage(Z, 2 + Z @ a, 2, 2 + a.sum()) == pytest.approx(a, abs=1e-8)


def test_leverage_is_closer_than_kernelshap_and_within_what_methods_asks():
    ours, theirs = error(leverage, "leverage", 20, 100, 0.1, 30), error(kernelshap, "shapley_kernel", 20, 100, 0.1, 30)
    assert ours < 0.32 < theirs


@pytest.mark.parametrize("n", [2, 5, 6])
def test_banzhaf_from_all_coalitions_is_a_count(n):
    values = np.random.default_rng(n).normal(size=2**n)
    every = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    assert banzhaf(every, values) == pytest.approx(banzhaf_by_counting(values, n), abs=1e-10)


def test_banzhaf_agrees_across_designs():
    g = game(10, np.random.default_rng(4))
    index = np.arange(2**10)
    truth = banzhaf_by_counting(g.value(index[:, None] >> np.arange(10) & 1), 10)
    for design in ("uniform", "leverage", "shapley_kernel"):
        Z = draw(design, 10, 900, 7)
        found = banzhaf(Z, g.value(Z), design)
        assert np.linalg.norm(found - truth) < 0.25 * np.linalg.norm(truth)
    assert np.linalg.norm(truth - g.shapley()) > 0.1 * np.linalg.norm(truth)  # so that it is not Shapley by accident


@pytest.mark.parametrize("n", range(2, 9))
def test_banzhaf_from_all_proper_coalitions_and_both_ends_is_a_count(n):
    """Nobody's value far off the scale: without it the values of few players would be another game's."""
    values = np.random.default_rng(n).normal(size=2**n)
    values[0] -= 20 * values.std()
    Z = every_proper(n)
    truth = banzhaf_by_counting(values, n)
    found = banzhaf(Z, looked_up(values, Z), "leverage", v0=values[0], v1=values[-1])
    assert found == pytest.approx(truth, abs=1e-9)
    if n > 2:
        assert np.abs(banzhaf(Z, looked_up(values, Z), "leverage") - truth).max() > 0.01


@steady
@given(st.integers(2, 7), st.integers(1, 40), seeds, st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
def test_credits_sum_to_the_gain(n, m, seed, v0, v1):
    rng = np.random.default_rng(seed)
    Z, y = rng.random((m, n)) < 0.5, rng.normal(size=m)
    Z[0, 0] = True
    assert kernelshap(Z, y, v0, v1).sum() == pytest.approx(v1 - v0, abs=1e-9)
    Z = every_proper(n, seed)
    assert leverage(Z, rng.normal(size=len(Z)), v0, v1).sum() == pytest.approx(v1 - v0, abs=1e-9)
    values = rng.normal(size=2**n)
    assert exact(values).sum() == pytest.approx(values[-1] - values[0], abs=1e-9)


@steady
@given(st.integers(3, 6), seeds)
def test_axioms_hold_for_exact_and_exhaustive_leverage(n, seed):
    rng = np.random.default_rng(seed)
    index = np.arange(2**n)
    rest = index >> 2
    # Players 0 and 1 count only by how many of them are there; the last player does nothing.
    table = rng.normal(size=(3, 2 ** (n - 3)))
    values = table[(index & 1) + (index >> 1 & 1), rest % 2 ** (n - 3)]
    Z = every_proper(n, seed)
    for phi in (exact(values), leverage(Z, looked_up(values, Z), values[0], values[-1])):
        assert phi[0] == pytest.approx(phi[1], abs=1e-9)
        assert phi[-1] == pytest.approx(0, abs=1e-9)


@steady
@given(seeds)
def test_estimates_are_linear_and_follow_relabelling(seed):
    rng = np.random.default_rng(seed)
    n, m = 6, 30
    order = rng.permutation(n)
    for estimate, design in ((leverage, "leverage"), (kernelshap, "shapley_kernel")):
        Z = draw(design, n, m, seed)
        y, x, a, b = rng.normal(size=m), rng.normal(size=m), *rng.normal(size=2)
        both = estimate(Z, a * y + b * x, a * 1 + b * 2, a * 3 + b * 5)
        assert both == pytest.approx(a * estimate(Z, y, 1, 3) + b * estimate(Z, x, 2, 5), abs=1e-8)
        assert estimate(Z[:, order], y, 1, 3) == pytest.approx(estimate(Z, y, 1, 3)[order], abs=1e-8)


@pytest.mark.parametrize("estimate", [kernelshap, leverage])
@pytest.mark.parametrize(
    ("Z", "y", "v0", "says"),
    [
        (np.ones(4), [1.0], 0.0, "shape \\(4,\\)"),
        (np.zeros((0, 3)), [], 0.0, "shape \\(0, 3\\)"),
        (np.ones((3, 1)), [1, 2, 3], 0.0, "n >= 2"),
        (np.full((2, 3), 0.5), [1, 2], 0.0, "other entries than 0 and 1"),
        ([[1, 0, 2], [0, 1, 0]], [1, 2], 0.0, "other entries than 0 and 1"),
        ([["a", "b"]], [1], 0.0, "expected booleans"),
        ([[1, 0, 0], [0, 1, 1]], [1, 2, 3], 0.0, "one value for each row"),
        ([[1, 0, 0], [0, 1, 1]], [1, np.nan], 0.0, "1 of 2 numbers in y not finite"),
        ([[1, 0, 0], [0, 1, 1]], ["one", "two"], 0.0, "no array of numbers"),
        ([[1, 0, 0], [0, 1, 1]], [1, 2], np.inf, "v0, v1 not finite"),
        ([[1, 0, 0], [0, 1, 1]], [1, 2], [0.0], "no array of numbers"),
    ],
)
def test_refuses(estimate, Z, y, v0, says):
    with pytest.raises(ValuationError, match=says):
        estimate(Z, y, v0, 1.0)


def test_leverage_says_how_many_coalitions_it_needs():
    Z = draw("leverage", 10, 12, 0)
    with pytest.raises(ValuationError, match=r"found m = 12 coalitions that tell [1-6] differences apart.* at least 18"):
        leverage(Z, np.zeros(12), 0, 1)


def test_refuses_what_only_one_estimator_cannot_use():
    with pytest.raises(ValuationError, match="nobody or of all"):
        leverage([[1, 1, 1], [1, 0, 0]], [1, 2], 0, 1)
    with pytest.raises(ValuationError, match="empty coalitions"):
        kernelshap(np.zeros((2, 3)), [1, 2], 0, 1)
    with pytest.raises(ValuationError, match="reaches every size"):
        banzhaf(draw("datamodel", 6, 10, 0), np.zeros(10), "datamodel")
    with pytest.raises(ValuationError, match="size 0"):
        banzhaf(np.eye(4, 3, k=-1), np.zeros(4), "leverage")
    with pytest.raises(ValuationError, match="found v0 beside design 'uniform', which draws that coalition itself"):
        banzhaf(draw("uniform", 6, 40, 0), np.zeros(40), v0=1.0)
    with pytest.raises(ValuationError, match="v0, v1 not finite"):
        banzhaf(every_proper(3), np.zeros(6), "leverage", v0=np.nan)
    with pytest.raises(ValuationError, match="at least 12"):
        banzhaf(draw("uniform", 6, 4, 0), np.zeros(4))


@pytest.mark.parametrize("values", [[1.0], [1, 2, 3], np.zeros((2, 2)), [], np.zeros(2**21), [0, np.nan]])
def test_exact_refuses(values):
    with pytest.raises(ValuationError, match="expected"):
        exact(values)


def test_random_games_know_their_values():
    """The closed form the coverage table rests on, against enumeration."""
    g = game(5, np.random.default_rng(2))
    every = (np.arange(32)[:, None] >> np.arange(5)) & 1
    assert g.shapley() == pytest.approx(by_orders(g.value(every), 5), abs=1e-12)
