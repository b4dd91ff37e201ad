"""Semivalues compared with enumeration, published weights and axioms; baselines with their definitions."""

import tracemalloc
from math import comb, gamma

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import slow
from random_games import game, sampled
from sklearn.linear_model import RidgeCV
from test_set_noise import sampled_with_sets

from apportion.errors import ValuationError
from apportion.valuation.coalitions import complementary_pairs, draw
from apportion.valuation.semivalues import (
    PENALTIES,
    _estimated,
    aoi,
    banzhaf,
    banzhaf_weights,
    beta_shapley,
    beta_weights,
    datamodel,
    loo,
    semivalue,
    semivalue_fit,
)
from apportion.valuation.set_noise import moderated
from apportion.valuation.shapley import exact, leverage

steady = settings(derandomize=True, deadline=None, max_examples=25, database=None)
seeds = st.integers(0, 2**32 - 1)


def by_enumeration(values, n, weights):
    """Each player's mean gain over coalitions of the others; those of size s share weights[s] evenly."""
    index = np.arange(2**n)
    phi = []
    for i in range(n):
        without = index[index >> i & 1 == 0]
        each = [weights[s] / comb(n - 1, s) for s in np.bitwise_count(without.astype(np.uint32))]
        phi.append(np.dot(each, values[without | 1 << i] - values[without]))
    return np.array(phi)


def binomial(n):
    return np.array([comb(n - 1, s) / 2 ** (n - 1) for s in range(n)])


def in_closed_form(g, weights):
    """Semivalue of the games of random_games.py, by the chance that one or two given others are present."""
    n = len(weights)
    one, two = (sum(w * comb(s, k) / comb(n - 1, k) for s, w in enumerate(weights)) for k in (1, 2))
    phi = g.a.copy()
    np.add.at(phi, g.pairs, (g.b * one)[:, None])
    np.add.at(phi, g.triples, (g.c * two)[:, None])
    return phi


def looked_up(values, Z):
    return values[Z @ (1 << np.arange(Z.shape[1]))]


def every_proper(n, seed=0):
    return draw("leverage", n, 2**n - 2, seed)


def random_weights(n, seed):
    return np.random.default_rng(seed).dirichlet(np.ones(n))


@pytest.mark.parametrize("n", range(2, 9))
@pytest.mark.parametrize("kind", ["binomial", "random", "size 0", "size n - 1"])
def test_all_proper_coalitions_give_the_exact_values(n, kind):
    """v0 is far off the scale of the other values, and has no more than its weight."""
    weights = {
        "binomial": binomial(n),
        "random": random_weights(n, n),
        "size 0": np.eye(n)[0],
        "size n - 1": np.eye(n)[-1],
    }[kind]
    values = np.random.default_rng(n).normal(size=2**n)
    values[0] -= 20 * values.std()
    Z = every_proper(n)
    y = looked_up(values, Z)
    assert semivalue(Z, y, values[0], values[-1], weights) == pytest.approx(
        by_enumeration(values, n, weights), abs=1e-9
    )
    if kind == "binomial":
        assert banzhaf(Z, y, values[0], values[-1]) == pytest.approx(
            by_enumeration(values, n, weights), abs=1e-9
        )


@pytest.mark.parametrize(("alpha", "beta"), [(16, 1), (4, 1), (1, 4), (0.5, 2.5), (1, 1)])
def test_beta_shapley_has_the_published_weights(alpha, beta):
    """The mean over j of w(j) = n B(j + beta - 1, n - j + alpha) / B(alpha, beta), by order of arrival j.

    Source: Kwon & Zou 2022.
    """

    def b(x, z):
        return gamma(x) * gamma(z) / gamma(x + z)

    n = 7
    weights = [comb(n - 1, j - 1) * b(j + beta - 1, n - j + alpha) / b(alpha, beta) for j in range(1, n + 1)]
    values = np.random.default_rng(3).normal(size=2**n)
    Z = every_proper(n)
    result = beta_shapley(Z, looked_up(values, Z), values[0], values[-1], alpha, beta)
    assert result == pytest.approx(by_enumeration(values, n, weights), abs=1e-9)
    if alpha == beta == 1:
        assert result == pytest.approx(exact(values), abs=1e-9)


def test_a_large_alpha_gives_small_coalitions_more_weight():
    """A player adds 1 to the empty coalition and 0 to any other."""
    Z = every_proper(6)
    y = Z.any(axis=1).astype(float)
    small, large = beta_shapley(Z, y, 0, 1, 16, 1), beta_shapley(Z, y, 0, 1, 1, 16)
    assert np.all(small > 0.7)
    assert np.all(large < 1e-3)


@pytest.mark.parametrize(
    ("design", "most"), [("leverage", 0.08), ("uniform", 0.12), ("shapley_kernel", 0.19)]
)
def test_banzhaf_has_a_small_error_for_any_design(design, most):
    errors = []
    for seed in range(20):
        g = game(12, np.random.default_rng(seed))
        Z = draw(design, 12, 600, seed)
        Z = Z[~np.isin(Z.sum(axis=1), (0, 12))]
        truth = in_closed_form(g, binomial(12))
        result = banzhaf(Z, g.value(Z), *g.value([[0] * 12, [1] * 12]))
        errors.append(np.linalg.norm(result - truth) / np.linalg.norm(truth))
    assert np.median(errors) < most


def banzhaf_by_regression(Z, y, v0, v1):
    """Least squares with an intercept, weighted by the uniform distribution over each row's probability."""
    m, n = Z.shape
    rows, values = np.vstack([Z, np.zeros(n), np.ones(n)]).astype(float), np.append(y, [v0, v1])
    w = np.array([comb(n, s) for s in Z.sum(axis=1)] + [m / (n - 1)] * 2) ** 0.5
    X = np.column_stack([rows, np.ones(len(rows))])
    return np.linalg.lstsq(X * w[:, None], values * w, rcond=None)[0][:n]


@pytest.mark.parametrize(
    ("n", "m", "off", "ratio"),
    [(12, 48, 0, 0.97), (12, 48, 20, 0.97), slow(20, 100, 0, 0.9), slow(20, 100, 20, 0.9)],
)
def test_banzhaf_has_less_error_than_its_regression(n, m, off, ratio):
    of_banzhaf, of_regression = [], []
    rng = np.random.default_rng(0)
    for seed in range(30):
        g = game(n, rng)
        Z = draw("leverage", n, m, seed)
        y, endpoints = g.value(Z), g.value([[0] * n, [1] * n])
        endpoints[0] -= off * y.std()
        truth = in_closed_form(g, binomial(n)) + off * y.std() * binomial(n)[0]
        y += 0.1 * y.std() * rng.normal(size=m)
        for errors, estimate in ((of_banzhaf, banzhaf), (of_regression, banzhaf_by_regression)):
            errors.append(
                np.linalg.norm(estimate(Z, y, *endpoints) - truth) / np.linalg.norm(truth - truth.mean())
            )
    assert np.median(of_banzhaf) < ratio * np.median(of_regression)
    assert np.median(of_banzhaf) < 0.5


def test_few_rows_of_middle_size_are_enough_for_258_players():
    """The weight of Banzhaf values is on sixty sizes here; the other rows still distinguish the players."""
    a = np.random.default_rng(0).normal(size=258)
    Z = draw("leverage", 258, 600, 1)
    assert banzhaf(Z, 2 + Z @ a, 2, 2 + a.sum()) == pytest.approx(a, abs=1e-7)


def test_weights_of_many_players_do_not_overflow():
    n = 400
    Z = draw("loo", n, n + 1, 0)[1:]
    credits = np.random.default_rng(0).normal(size=n)
    for result in (
        semivalue(Z, 5 - credits, 0.0, 5.0, np.eye(n)[-1]),
        beta_shapley(Z, 5 - credits, 0.0, 5.0, 1e-9, 1e9),
    ):
        assert result == pytest.approx(credits, abs=1e-5)


def test_functions_of_size_change_no_difference_between_players():
    """For weights that are not symmetric, and with v0 far off the scale."""
    Z = draw("leverage", 8, 48, 3)
    size = Z.sum(axis=1)
    curve = 9.0 * (size - 4.0) - 0.5 * (size - 4.0) ** 3 + 4 * (size - 4.0) ** 2
    assert np.ptp(beta_shapley(Z, curve, -80.0, 1.0, 4, 1)) < 1e-9


def test_uniform_weights_are_near_the_leverage_estimate():
    rng = np.random.default_rng(1)
    Z = draw("leverage", 10, 60, 2)
    y = Z @ rng.normal(size=10) + Z[:, 0] * Z[:, 1] + 0.1 * rng.normal(size=60)
    result, same = beta_shapley(Z, y, 0, 2, 1, 1), leverage(Z, y, 0, 2)
    assert result == pytest.approx(same, abs=0.1)
    assert result.sum() == pytest.approx(2, abs=1e-9)


@steady
@given(st.integers(3, 6), seeds)
def test_axioms(n, seed):
    """Players 0 and 1 are interchangeable; the last player adds 2.5 to every coalition."""
    rng, weights = np.random.default_rng(seed), random_weights(n, seed)
    index = np.arange(2**n)
    table = rng.normal(size=(3, 2 ** (n - 3)))
    values = table[(index & 1) + (index >> 1 & 1), (index >> 2) % 2 ** (n - 3)] + 2.5 * (index >> n - 1)
    Z = every_proper(n, seed)
    phi = semivalue(Z, looked_up(values, Z), values[0], values[-1], weights)
    assert phi[0] == pytest.approx(phi[1], abs=1e-9)
    assert phi[-1] == pytest.approx(2.5, abs=1e-9)


@steady
@given(seeds)
def test_estimates_are_linear_and_follow_renumbering(seed):
    rng, n, m = np.random.default_rng(seed), 6, 30
    order, weights = rng.permutation(n), random_weights(n, seed)
    Z = draw("leverage", n, m, seed)
    y, x, a, b = rng.normal(size=m), rng.normal(size=m), *rng.normal(size=2)
    for estimate in (
        banzhaf,
        lambda *game: semivalue(*game, weights),
        lambda *game: beta_shapley(*game, 4, 1),
    ):
        both = estimate(Z, a * y + b * x, a * 1 + b * 2, a * 3 + b * 5)
        assert both == pytest.approx(a * estimate(Z, y, 1, 3) + b * estimate(Z, x, 2, 5), abs=1e-8)
        assert estimate(Z[:, order], y, 1, 3) == pytest.approx(estimate(Z, y, 1, 3)[order], abs=1e-8)


@pytest.mark.parametrize(
    "estimate",
    [banzhaf, lambda *game: beta_shapley(*game, 16, 1), lambda *game: semivalue(*game, np.eye(8)[3])],
)
def test_constant_values_give_nothing_and_repeated_rows_change_nothing(estimate):
    Z = draw("leverage", 8, 60, 0)
    assert estimate(Z, np.full(60, 0.1), 0.1, 0.1) == pytest.approx(np.zeros(8), abs=1e-12)
    y = np.random.default_rng(0).normal(size=60)
    for times in (2, np.arange(60) % 3 + 1):
        repeated = estimate(np.repeat(Z, times, axis=0), np.repeat(y, times), 0.0, 1.0)
        assert repeated == pytest.approx(estimate(Z, y, 0.0, 1.0), abs=1e-9)


@pytest.mark.parametrize("n", [3, 6])
def test_all_coalitions_with_some_of_them_repeatedly_are_exact(n):
    """A coalition counts once, with the mean of its values."""
    rng, weights = np.random.default_rng(n), random_weights(n, n)
    values, Z = rng.normal(size=2**n), every_proper(n)
    rows, apart = np.concatenate([Z, Z[:4], Z[:2]]), np.zeros(len(Z) + 6)
    apart[[0, len(Z)]] = 3.0, -3.0
    game = (rows, looked_up(values, rows) + apart, values[0], values[-1])
    assert semivalue(*game, weights) == pytest.approx(by_enumeration(values, n, weights), abs=1e-9)
    assert banzhaf(*game) == pytest.approx(by_enumeration(values, n, binomial(n)), abs=1e-9)
    assert beta_shapley(*game, 1, 1) == pytest.approx(exact(values), abs=1e-9)


def test_loo_and_aoi_are_their_definitions():
    rng = np.random.default_rng(0)
    values = rng.normal(size=32)
    grand, single = 31, 1 << np.arange(5)
    for Z in (draw("loo", 5, 6, 0), every_proper(5)):
        assert loo(Z, looked_up(values, Z), values[-1]) == pytest.approx(values[-1] - values[grand - single])
    for Z in (draw("aoi", 5, 6, 0), every_proper(5)):
        assert aoi(Z, looked_up(values, Z), values[0]) == pytest.approx(values[single] - values[0])


def test_loo_and_aoi_average_repeated_rows():
    Z = np.vstack([np.eye(3), np.eye(3)[1:2]]).astype(bool)
    assert aoi(Z, [1.0, 2.0, 3.0, 6.0], 0.5) == pytest.approx([0.5, 3.5, 2.5])
    assert loo(~Z, [1.0, 2.0, 3.0, 6.0], 7.0) == pytest.approx([6.0, 3.0, 4.0])


def ridge_by_leaving_out(Z, y):
    """The slopes and penalty with the least leave-one-out error, by normal equations without each row."""

    def solve(Z, y, penalty):
        X = Z - Z.mean(axis=0)
        slopes = np.linalg.solve(X.T @ X + penalty * np.eye(Z.shape[1]), X.T @ (y - y.mean()))
        return slopes, y.mean() - Z.mean(axis=0) @ slopes

    def left_out(j, penalty):
        slopes, intercept = solve(np.delete(Z, j, axis=0), np.delete(y, j), penalty)
        return (y[j] - intercept - Z[j] @ slopes) ** 2

    Z = Z.astype(float)
    penalties = PENALTIES * np.linalg.svd(Z - Z.mean(axis=0), compute_uv=False)[0] ** 2
    least = min(penalties, key=lambda penalty: sum(left_out(j, penalty) for j in range(len(y))))
    return solve(Z, y, least)[0], least / penalties[0]


@pytest.mark.parametrize(("n", "m", "noise"), [(6, 19, 0.3), (12, 40, 1.0), (15, 9, 1.0), (12, 60, 0.1)])
def test_datamodel_is_ridge_with_the_best_leave_one_out_penalty(n, m, noise):
    rng = np.random.default_rng(n + m)
    Z = draw("datamodel", n, m, 1)
    y = Z @ rng.normal(size=n) + noise * rng.normal(size=m) + 40
    truth, penalty = ridge_by_leaving_out(Z, y)
    assert datamodel(Z, y) == pytest.approx(truth, rel=1e-5, abs=1e-7)
    assert datamodel(Z, y).sum() == pytest.approx(0, abs=1e-8)
    if m == 40:
        assert 10 < penalty < 1e11  # inside the grid


def test_datamodel_agrees_with_another_library():
    rng = np.random.default_rng(5)
    Z = draw("uniform", 9, 70, 0)
    y = Z @ rng.normal(size=9) + rng.normal(size=70)
    X = Z.astype(float)
    penalties = PENALTIES * np.linalg.svd(X - X.mean(axis=0), compute_uv=False)[0] ** 2
    assert datamodel(Z, y) == pytest.approx(RidgeCV(penalties).fit(X, y).coef_, abs=1e-8)


def test_datamodel_of_constant_values_is_zero():
    assert datamodel(draw("datamodel", 8, 30, 0), np.full(30, 0.1)) == pytest.approx(np.zeros(8), abs=1e-14)


ESTIMATES = {
    "semivalue": lambda Z, y, v: semivalue(Z, y, v, 1.0, np.full(3, 1 / 3)),
    "banzhaf": lambda Z, y, v: banzhaf(Z, y, v, 1.0),
    "beta_shapley": lambda Z, y, v: beta_shapley(Z, y, v, 1.0, 4, 1),
    "loo": loo,
    "aoi": aoi,
    "datamodel": lambda Z, y, _v: datamodel(Z, y),
}


@pytest.mark.parametrize("name", ESTIMATES)
@pytest.mark.parametrize(
    ("Z", "y", "v", "message"),
    [
        (np.ones(4), [1.0], 0.0, "shape \\(4,\\)"),
        (np.zeros((0, 3)), [], 0.0, "shape \\(0, 3\\)"),
        (np.full((2, 3), 0.5), [1, 2], 0.0, "entries other than 0 and 1"),
        ([[1, 0, 2], [0, 1, 0]], [1, 2], 0.0, "entries other than 0 and 1"),
        ([[1, 0, 0], [0, 1, 1]], [1, 2, 3], 0.0, "one value for each row"),
        ([[1, 0, 0], [0, 1, 1]], [1, np.nan], 0.0, "1 of 2 numbers in y not finite"),
        ([[1, 0, 0], [0, 1, 1]], [1, 2], np.nan, "1 of 1 numbers in v[01] not finite"),
        ([[1, 0, 0], [0, 1, 1]], [1, 2], [1.0], "found v[01] of shape \\(1,\\), expected a number"),
    ],
)
def test_refuses(name, Z, y, v, message):
    if name == "datamodel" and "v[01]" in message:
        message = "found 2 distinct coalitions, expected at least 3"
    with pytest.raises(ValuationError, match=message):
        ESTIMATES[name](Z, y, v)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda Z, y: semivalue(Z, y, 0, 1, np.ones(6)), "sum to 6"),
        (lambda Z, y: semivalue(Z, y, 0, 1, np.ones(5) / 5), "weights of shape \\(5,\\), expected \\(6,\\)"),
        (lambda Z, y: semivalue(Z, y, 0, 1, [1.5, -0.5, 0, 0, 0, 0]), "weights of at least -0.5"),
        (lambda Z, y: semivalue(Z, y, 0, 1, [np.nan, 1, 0, 0, 0, 0]), "1 of 6 numbers in weights"),
        (lambda Z, y: beta_shapley(Z, y, 0, 1, 0, 1), "alpha = 0 and beta = 1"),
        (lambda Z, y: beta_shapley(Z, y, 0, 1, 1, np.nan), "beta = nan"),
        (lambda Z, y: beta_shapley(Z, y, 0, 1, 1, np.inf), "beta = inf"),
        (
            lambda Z, y: beta_shapley(Z, y, 0, 1, "4", 1),
            "alpha = '4' and beta = 1, expected two positive numbers",
        ),
        (lambda Z, y: beta_shapley(Z, y, 0, 1, 4, None), "beta = None"),
        (lambda Z, y: beta_shapley(Z, y, 0, 1, [4], 1), "alpha = \\[4\\]"),
        (
            lambda Z, y: banzhaf(np.vstack([Z, Z[:1] | True]), np.append(y, 0), 0, 1),
            "the empty coalition or all 6 players",
        ),
        (lambda Z, y: banzhaf(Z[:6], y[:6], 0, 1), "distinguish [0-9] differences, expected 5"),
        (lambda Z, y: banzhaf(np.tile(Z[:2], (20, 1)), y, 0, 1), "no coalitions of size"),
        (
            lambda Z, y: banzhaf(draw("datamodel", 6, 20, 0), y[:20], 0, 1),
            "no coalitions of size 1, 2, 4, 5, which hold 0.62 of the weight",
        ),
        (
            lambda Z, y: loo(Z[Z.sum(axis=1) < 5], y[Z.sum(axis=1) < 5], 1),
            "all players but one for players 0, 1, 2, 3, 4, 5",
        ),
        (
            lambda Z, y: aoi(np.eye(6)[:5], y[:5], 1),
            "one player alone for player 5, expected one for each of the 6",
        ),
        (lambda Z, y: datamodel(Z & (np.arange(6) != 2), y), "found player 2 in all coalitions or in none"),
        (lambda Z, y: datamodel(Z[[0, 0, 1, 1]], y[:4]), "found 2 distinct coalitions"),
    ],
)
def test_input_that_a_single_estimator_cannot_use_is_refused(call, message):
    with pytest.raises(ValuationError, match=message):
        call(draw("leverage", 6, 40, 0), np.zeros(40))


# Intervals of semivalues


def fit_of(n, m, seed, weights, noise=0.5):
    """A fit to noisy values of a random game, and its true semivalues."""
    rng = np.random.default_rng([n, m, seed])
    g = game(n, rng)
    Z, y, endpoints, _ = sampled(g, n, m, rng, seed, noise)
    return semivalue_fit(Z, y, *endpoints, weights), in_closed_form(g, weights)


@pytest.mark.parametrize(
    ("n", "m", "weights"),
    [
        (6, 30, banzhaf_weights(6)),
        slow(8, 100, banzhaf_weights(8)),
        slow(12, 96, beta_weights(12, 4, 4)),
        slow(8, 48, beta_weights(8, 16, 1)),
    ],
)
def test_intervals_of_semivalues_cover(n, m, weights):
    covered = []
    for seed in range(150):
        fit, true = fit_of(n, m, seed, weights)
        low, high = fit.interval(0.95)
        covered.append((low <= true) & (true <= high))
    assert 0.93 <= np.mean(covered) <= 0.99


@pytest.mark.parametrize("m", [126, 60, 47])
@pytest.mark.parametrize("weights", [banzhaf_weights(7), beta_weights(7, 16, 1), np.eye(7)[-1]])
def test_errors_are_those_of_each_unit_value(m, weights):
    """The estimate is linear: a pair's error is what its two residuals, over what the fit leaves of them,
    change in it. The influence of a value and what is left of it are found from one unit value at a time."""
    Z, y = draw("leverage", 7, 126, 1)[:m], np.random.default_rng(0).normal(size=m)

    def parts(y):
        return _estimated(Z, y, 0.0, 0.0, weights)

    units = [parts(unit) for unit in np.eye(m)]
    influence = np.column_stack([unit.phi for unit in units])
    assert parts(y).influence == pytest.approx(influence, abs=1e-9)
    left = parts(y).residual / [unit.residual[j] for j, unit in enumerate(units)]
    pair = complementary_pairs(Z)[1]
    expected = np.column_stack([(influence * left)[:, pair == c].sum(axis=1) for c in range(pair.max() + 1)])
    assert semivalue_fit(Z, y, 0.0, 0.0, weights).shift == pytest.approx(expected, abs=1e-8)


def test_memory_of_intervals_does_not_grow_with_the_square_of_coalitions():
    """A matrix of coalitions by coalitions would have 32 MB alone."""
    Z, weights = draw("leverage", 12, 2000, 0), banzhaf_weights(12)
    y = np.random.default_rng(0).normal(size=2000)
    tracemalloc.start()
    semivalue_fit(Z, y, 0.0, 1.0, weights)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6


@pytest.mark.parametrize("rows", [1, 2])
def test_what_a_single_row_or_pair_decides_has_no_bounds(rows):
    """Players 0 and 1 are together in all coalitions but one, whose complement is missing, or one pair. The
    fit passes through the row, and through the difference of the two rows, but not through their mean."""
    Z = draw("leverage", 5, 30, 0)
    apart = Z[:, 0] != Z[:, 1]
    Z = np.concatenate([Z[~apart], Z[apart][:1], ~Z[apart][:1]])[: rows - 2 or None]
    fit = semivalue_fit(Z, np.random.default_rng(0).normal(size=len(Z)), 0.0, 1.0, banzhaf_weights(5))
    assert np.isinf(fit.standard_errors()).tolist() == [True, True] + [rows == 1] * 3


@pytest.mark.parametrize(
    ("n", "m", "sets", "kind", "weights"),
    [
        (8, 64, 4, "additive", banzhaf_weights(8)),
        slow(12, 96, 4, "average", beta_weights(12, 4, 4)),
        slow(12, 96, 4, "additive", beta_weights(12, 16, 1)),
    ],
)
def test_intervals_of_semivalues_cover_the_noise_of_sets(n, m, sets, kind, weights):
    rng, covered = np.random.default_rng(0), []
    for seed in range(100):
        g = game(n, rng)
        Z, y, endpoints, _, of_set = sampled_with_sets(g, n, m, sets, kind, 2.0, rng, seed)
        low, high = semivalue_fit(Z, y, *endpoints, weights, of_set).interval(0.95)
        truth = in_closed_form(g, weights)
        covered.append((low <= truth) & (truth <= high))
    assert 0.94 <= np.mean(covered) <= 0.99


def test_slopes_are_the_derivatives_by_the_endpoints():
    Z = draw("leverage", 7, 40, 1)
    y = np.random.default_rng(0).normal(size=40)
    weights = beta_weights(7, 2, 3)
    fit = semivalue_fit(Z, y, 0.5, 2.0, weights)
    moved = [semivalue_fit(Z, y, *ends, weights).phi - fit.phi for ends in ((1.5, 2.0), (0.5, 3.0))]
    assert np.allclose(fit.slopes, np.column_stack(moved), atol=1e-9)


def test_errors_of_semivalues_scale_with_the_noise_and_not_with_the_game():
    Z = draw("leverage", 7, 60, 3)
    weights = banzhaf_weights(7)
    additive, noise = Z @ np.arange(7.0), np.random.default_rng(2).normal(size=60)
    small, large = (
        semivalue_fit(Z, additive + scale * noise, 0.0, 21.0, weights).standard_errors()
        for scale in (0.1, 0.2)
    )
    assert np.allclose(large, 2 * small)
    none = semivalue_fit(Z, additive, 0.0, 21.0, weights)
    assert np.allclose(none.phi, np.arange(7.0))
    # Residuals that are rounding say nothing of the error.
    assert np.all(np.isinf(none.standard_errors()))


def test_the_noise_of_shared_sets_widens_intervals_of_semivalues():
    Z = draw("leverage", 8, 96, 0)
    rng = np.random.default_rng(1)
    sets = np.repeat(np.arange(48) % 4, 2)
    of_set = rng.normal(size=(4, 8))
    y = Z @ np.arange(8.0) + np.einsum("ji,ji->j", Z, 3 * of_set[sets]) + 0.1 * rng.normal(size=96)
    weights = banzhaf_weights(8)
    alone, shared = (semivalue_fit(Z, y, 0.0, 28.0, weights, sets=s) for s in (None, sets))
    assert np.array_equal(alone.phi, shared.phi)
    assert np.all(shared.standard_errors() >= alone.standard_errors())
    assert np.all(shared.dof < alone.dof)
    assert np.median(shared.standard_errors() / alone.standard_errors()) > 1.2


def test_errors_by_set_are_moderated_as_in_set_noise():
    """Sums of the errors of pairs over each set, times R / (R - 1) for R sets."""
    Z, weights = draw("leverage", 7, 60, 0), banzhaf_weights(7)
    rng = np.random.default_rng(1)
    sets = np.repeat(rng.permutation(30) % 3, 2)
    y = rng.normal(size=60) + np.sum(Z * rng.normal(size=(3, 7))[sets], axis=1)
    alone, shared = (semivalue_fit(Z, y, 0.0, 1.0, weights, sets=s) for s in (None, 10 * sets - 5))
    of_pair = sets[complementary_pairs(Z)[0]]
    by_set = np.column_stack([alone.shift[:, of_pair == r].sum(axis=1) for r in range(3)]) * 3 / 2
    ratio, dof = moderated(by_set, np.sum(alone.shift**2, axis=1))
    assert ratio.max() > 1.1
    assert shared.standard_errors() == pytest.approx(alone.standard_errors() * np.sqrt(ratio))
    assert 1 / shared.dof == pytest.approx(1 / alone.dof + 1 / dof)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda sets: sets[:-1], "found sets of shape \\(39,\\) and type int64, expected \\(40,\\)"),
        (lambda sets: sets * 1.0, "type float64, expected \\(40,\\) whole numbers"),
        (lambda sets: np.r_[sets[:-1], 7], "its complement in more than one set of weights"),
    ],
)
def test_sets_that_do_not_fit_are_refused(change, message):
    Z, sets = draw("leverage", 6, 40, 0), np.repeat(np.arange(20) % 4, 2)
    with pytest.raises(ValuationError, match=message):
        semivalue_fit(Z, np.zeros(40), 0.0, 1.0, banzhaf_weights(6), change(sets))
