"""Statements about order compared with tables, the multivariate t, simulation and games of known order."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import slow
from random_games import equal_game, order_errors
from scipy.stats import multivariate_t, studentized_range
from scipy.stats import t as student

from apportion.errors import ValuationError
from apportion.valuation import ranks
from apportion.valuation.coalitions import draw
from apportion.valuation.intervals import hc3
from apportion.valuation.ranks import EndpointErrors, order, order_from_errors, rank_statement

steady = settings(derandomize=True, deadline=None, max_examples=25, database=None)
seeds = st.integers(0, 2**32 - 1)


def independent(phi, dof, level=0.95):
    """Independent credits with standard error 1."""
    return order_from_errors(
        np.array(phi, dtype=float), np.eye(len(phi)), np.full(len(phi), float(dof)), level
    )


@pytest.mark.parametrize(("n", "dof", "level"), [(3, 8, 0.95), (6, 20, 0.95), (6, 20, 0.8), (12, 200, 0.95)])
def test_independent_credits_need_tukeys_range(n, dof, level):
    apart = studentized_range.ppf(level, n, dof)
    lead = np.arange(n) == 0
    assert not independent(0.95 * apart * lead, dof, level).ahead.any()
    result = independent(1.05 * apart * lead, dof, level).ahead
    assert result[0, 1:].all()
    assert result.sum() == n - 1


@pytest.mark.parametrize(("dof", "level"), [(5, 0.95), (40, 0.95), (40, 0.8)])
def test_the_band_holds_all_credits_of_a_multivariate_t(dof, level):
    errors = np.array([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.0, 1.0, 2.0]])
    result = order_from_errors(np.zeros(3), errors, np.full(3, float(dof)), level)
    chance = multivariate_t(shape=errors @ errors.T, df=dof, seed=1).cdf(result.high, lower_limit=result.low)
    assert chance == pytest.approx(level, abs=0.012)


def test_few_degrees_of_freedom_widen_the_bounds_of_their_own_credits():
    result = order_from_errors(np.zeros(4), np.eye(4), np.array([3.0, 50.0, 50.0, 50.0]))
    assert result.high[0] > 1.3 * result.high[1]
    lead = order_from_errors(np.array([0, 0, 6.0, 0]), np.eye(4), np.array([3.0, 50.0, 50.0, 50.0]))
    assert lead.ahead[2].tolist() == [False, True, False, True]


def test_rejected_hypotheses_no_longer_widen_bounds():
    """Two groups far apart: within them the bound is that of the hypotheses that remain, simulated here."""
    n, dof, group = 8, 30, np.repeat([0.0, 1e4], 4)
    rng = np.random.default_rng(9)
    x = rng.normal(size=(n, 40_000)) / np.sqrt(rng.chisquare(dof, 40_000) / dof)
    every = list(permutations(range(n), 2))
    remaining = [(i, j) for i, j in every if group[i] <= group[j]]  # i before j is not yet stated
    one, stepped = (
        np.quantile(np.max([x[i] - x[j] for i, j in pairs], axis=0), 0.95) for pairs in (every, remaining)
    )
    assert stepped < 0.97 * one
    for gap, states in (((stepped + one) / 2, True), (0.97 * stepped, False)):
        assert independent(group + gap * (np.arange(n) == 0), dof).ahead[0, 1] == states
        assert not independent(0 * group + gap * (np.arange(n) == 0), dof).ahead[0, 1]


@pytest.mark.parametrize(("most", "level"), [(4, 0.95), (600, 0.999)])
def test_many_players_and_high_levels_have_bonferronis_bound(monkeypatch, most, level):
    monkeypatch.setattr(ranks, "MAX_SIMULATED_PLAYERS", most)
    apart = student.isf((1 - level) / (5 * 4), 12) * np.sqrt(2)
    lead = np.arange(5) == 0
    assert not independent(0.999 * apart * lead, 12, level).ahead.any()
    assert independent(1.001 * apart * lead, 12, level).ahead[0].tolist() == [False, True, True, True, True]
    assert independent(0 * lead, 12, level).high == pytest.approx(
        np.full(5, student.isf((1 - level) / 10, 12))
    )


def test_bonferronis_bound_claims_less_than_simulation(monkeypatch):
    phi, errors = (
        6 * np.random.default_rng(1).normal(size=9),
        np.random.default_rng(2).normal(size=(9, 20)) / 4,
    )
    simulated = order_from_errors(phi, errors, np.full(9, 15.0))
    monkeypatch.setattr(ranks, "MAX_SIMULATED_PLAYERS", 1)
    bound = order_from_errors(phi, errors, np.full(9, 15.0))
    assert (simulated.ahead >= bound.ahead).all()
    assert simulated.ahead.sum() > bound.ahead.sum() > 0
    assert (simulated.high < bound.high).all()


def test_what_two_statements_imply_is_stated(monkeypatch):
    """The first player is surely ahead of the second; its lead over the third has few degrees of freedom."""
    errors, dof = np.array([[0.01, 0.0], [0.0, 0.0], [0.0, 1.0]]), np.array([2.0, 50.0, 50.0])
    follows = order_from_errors(np.array([0.2, 0.0, -3.7]), errors, dof).ahead
    assert np.array_equal(follows, np.triu(np.ones((3, 3), dtype=bool), 1))
    monkeypatch.setattr(ranks, "_transitive_closure", lambda ahead: ahead)
    direct = order_from_errors(np.array([0.2, 0.0, -3.7]), errors, dof).ahead
    assert np.argwhere(follows & ~direct).tolist() == [[0, 2]]


def test_a_game_without_noise_is_ordered_except_for_ties():
    """Only once all coalitions are present."""
    a = np.array([3.0, 1.0, 1.0, 2.0, 3.0, 3.0, 0.0])
    Z = draw("leverage", 7, 126, 0)
    assert not order(Z[:124], Z[:124] @ a, 0.0, a.sum()).ahead.any()
    result = order(Z, 1e6 + Z @ a, 1e6, 1e6 + a.sum())
    assert np.array_equal(result.ahead, a[:, None] > a)
    assert result.lowest.tolist() == [1, 5, 5, 4, 1, 1, 7]
    assert result.highest.tolist() == [3, 6, 6, 4, 3, 3, 7]
    assert result.low == pytest.approx(a, abs=1e-6)
    assert result.high == pytest.approx(a, abs=1e-6)


def test_a_difference_within_rounding_error_counts_as_zero():
    a = np.array([1.0, 1 + 1e-11, 2.0, 3.0, 4.0, 5.0])
    Z = draw("leverage", 6, 62, 0)
    result = order(Z, Z @ a, 0.0, a.sum()).ahead
    assert result[:2, :2].sum() == 0
    assert result[2:, :2].all()
    two = np.array([0.9e-9, 0.0]), np.array([[1e-12], [0.0]]), np.full(2, 9.0)
    assert order_from_errors(*two).ahead[0, 1]
    assert not order_from_errors(*two, tie=1e-9).ahead.any()


def test_zero_values_have_no_order():
    Z = draw("leverage", 6, 40, 0)
    result = order(Z, np.zeros(40), 0.0, 0.0)
    assert not result.ahead.any()
    assert np.isinf(result.low).all()
    every = order(draw("leverage", 6, 62, 0), np.zeros(62), 0.0, 0.0)
    assert not every.ahead.any()
    assert np.array_equal(every.low, np.zeros(6))


def test_players_that_a_single_pair_distinguishes_take_part_in_no_statement():
    """Players 0 and 1 are together in all rows but one pair. Other differences are determined many times."""
    Z = np.array([[0, 0, *(int(b) for b in f"{k:03b}")] for k in range(1, 8)] + [[1, 0, 1, 0, 0]], dtype=bool)
    Z = np.concatenate([Z, ~Z])
    a = np.array([9.0, 5.0, 3.0, 2.0, 1.0])
    result = order(Z, Z @ a + 1e-4 * np.random.default_rng(0).normal(size=16), 0.0, a.sum())
    assert not result.ahead[:2].any()
    assert not result.ahead[:, :2].any()
    assert result.ahead[2:, 2:].tolist() == [[False, True, True], [False, False, True], [False, False, False]]
    assert np.isinf(result.high).tolist() == [True, True, False, False, False]
    assert result.lowest.tolist() == [1, 1, 1, 2, 3]
    assert result.highest.tolist() == [5, 5, 3, 4, 5]


def test_the_band_is_wider_than_each_interval_alone():
    rng = np.random.default_rng(0)
    Z = draw("leverage", 8, 60, 0)
    y = Z @ np.arange(8.0) + rng.normal(size=60)
    (low, high), result = hc3(Z, y, 0.0, 28.0), order(Z, y, 0.0, 28.0)
    assert ((result.low < low) & (high < result.high)).all()
    assert result.phi == pytest.approx((low + high) / 2)


def test_errors_of_v0_and_v1_matter_where_players_share_them_unevenly():
    rng = np.random.default_rng(0)
    Z = draw("leverage", 7, 40, 2)
    y = Z @ np.arange(7.0) + 0.2 * rng.normal(size=40)
    uneven, even = Z[:37], Z  # without their complements the last rows depend on v0
    v0, v1 = np.array([-1e4, 0.0, 1e4]), 21 + np.array([-1e4, 1e4])
    certain, open_ = (order(uneven, y[:37], end, 21.0) for end in (0.0, v0))
    assert 6 * open_.ahead.sum() < certain.ahead.sum()
    assert np.array_equal(order(even, y, 0.0, 21.0).ahead, order(even, y, v0, v1).ahead)
    assert (order(even, y, 0.0, v1).high > 1e3).all()


@pytest.mark.parametrize("spread", [slow(0.0), slow(0.5), 5.0, slow(100.0)])
def test_the_band_covers_errors_of_an_endpoint_with_few_seeds(spread):
    """Credits with independent errors and a common error of an endpoint with two degrees of freedom.

    In 40,000 trials the band covers .97, at worst .943 (where the endpoint has most of the error), and .95.
    """
    n, dof, trials = 6, 20, 400
    rng, covered = np.random.default_rng(int(spread) + 1), np.empty(trials, dtype=bool)
    for k in range(trials):
        phi = rng.normal(size=n) + spread * rng.normal()
        errors = np.eye(n) * np.sqrt(rng.chisquare(dof) / dof)
        end = np.full((n, 2), [spread * np.sqrt(rng.chisquare(2) / 2), 0.0])
        endpoint_errors = EndpointErrors(end, np.array([2.0, np.inf]))
        result = order_from_errors(phi, errors, np.full(n, float(dof)), endpoint_errors=endpoint_errors)
        covered[k] = np.all((result.low <= 0) & (result.high >= 0))
    assert 0.925 < covered.mean() < 0.985


@pytest.mark.parametrize("where", [slow("even"), "middle"])
def test_statements_about_equal_players_are_rarely_false(where):
    false, rank, credit, _ = order_errors(8, 48, 100, seed=2, kind=equal_game, where=where)
    assert false <= 0.09
    assert rank <= false
    assert credit <= 0.09


def test_true_orders_are_stated_from_enough_coalitions():
    false, _, _, power = order_errors(8, 200, 30, seed=3)
    assert false == 0
    assert power > 0.45


@steady
@given(seeds, st.integers(1, 9))
def test_an_order_is_transitive_and_follows_renumbering_and_units(seed, n):
    rng = np.random.default_rng(seed)
    phi, errors, dof = 5 * rng.normal(size=n), rng.normal(size=(n, 12)) / 4, rng.uniform(1, 30, size=n)
    result = order_from_errors(phi, errors, dof, seed=3)
    assert not (result.ahead & (phi[:, None] <= phi)).any()
    assert (
        not (result.ahead.astype(int) @ result.ahead & ~result.ahead).any()
        if n > 1
        else not result.ahead.any()
    )
    place = 1 + np.sum(phi[:, None] > phi, axis=0)
    assert ((result.lowest <= place) & (place <= result.highest)).all()
    names, factor = rng.permutation(n), 10 ** rng.uniform(-3, 3)
    renamed = order_from_errors(factor * phi[names] - 7, factor * errors[names], dof[names], seed=3)
    assert np.array_equal(renamed.ahead, result.ahead[np.ix_(names, names)])
    assert renamed.high + 7 == pytest.approx(factor * result.high[names], rel=1e-6, abs=1e-6)
    assert np.array_equal(
        order_from_errors(-phi, -errors, dof, seed=3).ahead,
        order_from_errors(phi, errors, dof, seed=3).ahead.T,
    )


def test_reports_say_what_is_established():
    result = independent([0.0, 0.5, 90.0], 20)
    names = ("Ada", "Bob", "Cy")
    assert (
        rank_statement(result, 2, 0, names)
        == "Cy before Ada holds at 95 %, together with all other such statements"
    )
    assert rank_statement(result, 0, 2, names) == rank_statement(result, 2, 0, names)
    assert rank_statement(result, 0, 1, names) == "the order of Ada and Bob is not established at 95 %"
    assert rank_statement(result._replace(level=0.995), 1, 0, names).endswith("at 99.5 %")


@pytest.mark.parametrize("level", [0.0, 1.0, float("nan")])
def test_refuses(level):
    Z = draw("leverage", 6, 40, 0)
    with pytest.raises(ValuationError, match="found level"):
        order(Z, np.zeros(40), 0.0, 1.0, level)
    with pytest.raises(ValuationError, match="found v0 of shape"):
        order(Z, np.zeros(40), np.zeros((2, 2)), 1.0)
    with pytest.raises(ValuationError, match="in y not finite"):
        order(Z, np.full(40, np.nan), 0.0, 1.0)


@pytest.mark.parametrize(
    ("phi", "errors", "dof", "message"),
    [
        (np.zeros((2, 1)), np.eye(2), np.ones(2), "shapes \\(2, 1\\)"),
        (np.zeros(3), np.eye(2), np.ones(3), "expected \\(n,\\), \\(n, sources\\)"),
        (np.zeros(2), np.eye(2), np.ones(1), "and \\(1,\\), expected"),
        (np.array([0, np.nan]), np.eye(2), np.ones(2), "not numbers"),
        (np.zeros(2), np.full((2, 2), np.nan), np.ones(2), "not numbers"),
        (np.zeros(2), np.eye(2), np.array([1.0, 0.0]), "above 0"),
    ],
)
def test_bad_estimates_are_refused(phi, errors, dof, message):
    with pytest.raises(ValuationError, match=message):
        order_from_errors(phi, errors, dof)
