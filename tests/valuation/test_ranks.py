"""Statements about order against tables of the studentised range, the multivariate t, plain simulation and games of known order."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_games import alike, stated
from scipy.stats import multivariate_t, studentized_range
from scipy.stats import t as student

from apportion.errors import ValuationError
from apportion.valuation import ranks
from apportion.valuation.coalitions import draw
from apportion.valuation.intervals import hc3
from apportion.valuation.ranks import Common, of_errors, order, rank_statement

steady = settings(derandomize=True, deadline=None, max_examples=40, database=None)
seeds = st.integers(0, 2**32 - 1)


def independent(phi, spare, level=0.95):
    """Independent credits with standard error 1."""
    return of_errors(np.array(phi, dtype=float), np.eye(len(phi)), np.full(len(phi), float(spare)), level)


@pytest.mark.parametrize(("n", "spare", "level"), [(3, 8, 0.95), (6, 20, 0.95), (6, 20, 0.8), (12, 200, 0.95)])
def test_independent_credits_are_apart_by_tukeys_range(n, spare, level):
    apart = studentized_range.ppf(level, n, spare)
    lead = np.arange(n) == 0
    assert not independent(0.95 * apart * lead, spare, level).ahead.any()
    found = independent(1.05 * apart * lead, spare, level).ahead
    assert found[0, 1:].all()
    assert found.sum() == n - 1


@pytest.mark.parametrize(("spare", "level"), [(5, 0.95), (40, 0.95), (40, 0.8)])
def test_the_band_holds_all_credits_of_a_multivariate_t(spare, level):
    errors = np.array([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.0, 1.0, 2.0]])
    found = of_errors(np.zeros(3), errors, np.full(3, float(spare)), level)
    chance = multivariate_t(shape=errors @ errors.T, df=spare, seed=1).cdf(found.high, lower_limit=found.low)
    assert chance == pytest.approx(level, abs=0.012)


def test_few_degrees_of_freedom_widen_the_bounds_of_their_own_credits():
    found = of_errors(np.zeros(4), np.eye(4), np.array([3.0, 50.0, 50.0, 50.0]))
    assert found.high[0] > 1.3 * found.high[1]
    lead = of_errors(np.array([0, 0, 6.0, 0]), np.eye(4), np.array([3.0, 50.0, 50.0, 50.0]))
    assert lead.ahead[2].tolist() == [False, True, False, True]


def test_what_has_fallen_need_not_be_guarded_against():
    """Two groups far apart: within them a bound holds that is simulated here, with more draws, over what is left to be false."""
    n, spare, group = 8, 30, np.repeat([0.0, 1e4], 4)
    rng = np.random.default_rng(9)
    x = rng.normal(size=(n, 40_000)) / np.sqrt(rng.chisquare(spare, 40_000) / spare)
    every = list(permutations(range(n), 2))
    left = [(i, j) for i, j in every if group[i] <= group[j]]  # i before j: not said yet
    one, stepped = (np.quantile(np.max([x[i] - x[j] for i, j in pairs], axis=0), 0.95) for pairs in (every, left))
    assert stepped < 0.97 * one
    for gap, states in (((stepped + one) / 2, True), (0.97 * stepped, False)):
        assert independent(group + gap * (np.arange(n) == 0), spare).ahead[0, 1] == states
        assert not independent(0 * group + gap * (np.arange(n) == 0), spare).ahead[0, 1]


@pytest.mark.parametrize(("most", "level"), [(4, 0.95), (600, 0.999)])
def test_many_players_and_high_levels_have_bonferronis_bound(monkeypatch, most, level):
    monkeypatch.setattr(ranks, "MOST_SIMULATED", most)
    apart = student.isf((1 - level) / (5 * 4), 12) * np.sqrt(2)
    lead = np.arange(5) == 0
    assert not independent(0.999 * apart * lead, 12, level).ahead.any()
    assert independent(1.001 * apart * lead, 12, level).ahead[0].tolist() == [False, True, True, True, True]
    assert independent(0 * lead, 12, level).high == pytest.approx(np.full(5, student.isf((1 - level) / 10, 12)))


def test_bonferronis_bound_claims_nothing_that_simulation_does_not(monkeypatch):
    phi, errors = 6 * np.random.default_rng(1).normal(size=9), np.random.default_rng(2).normal(size=(9, 20)) / 4
    simulated = of_errors(phi, errors, np.full(9, 15.0))
    monkeypatch.setattr(ranks, "MOST_SIMULATED", 1)
    bound = of_errors(phi, errors, np.full(9, 15.0))
    assert (simulated.ahead >= bound.ahead).all()
    assert simulated.ahead.sum() > bound.ahead.sum() > 0
    assert (simulated.high < bound.high).all()


def test_what_follows_from_two_statements_is_stated(monkeypatch):
    """The first is a hair before the middle, but for sure; that it is before the last has few degrees of freedom by itself."""
    errors, spare = np.array([[0.01, 0.0], [0.0, 0.0], [0.0, 1.0]]), np.array([2.0, 50.0, 50.0])
    follows = of_errors(np.array([0.2, 0.0, -3.7]), errors, spare).ahead
    assert np.array_equal(follows, np.triu(np.ones((3, 3), dtype=bool), 1))
    monkeypatch.setattr(ranks, "_with_what_follows", lambda ahead: ahead)
    by_itself = of_errors(np.array([0.2, 0.0, -3.7]), errors, spare).ahead
    assert np.argwhere(follows & ~by_itself).tolist() == [[0, 2]]


def test_a_game_without_noise_is_ordered_but_for_its_ties():
    """Once all of it is seen: before, nobody knows."""
    a = np.array([3.0, 1.0, 1.0, 2.0, 3.0, 3.0, 0.0])
    Z = draw("leverage", 7, 126, 0)
    assert not order(Z[:124], Z[:124] @ a, 0.0, a.sum()).ahead.any()
    found = order(Z, 1e6 + Z @ a, 1e6, 1e6 + a.sum())
    assert np.array_equal(found.ahead, a[:, None] > a)
    assert found.lowest.tolist() == [1, 5, 5, 4, 1, 1, 7]
    assert found.highest.tolist() == [3, 6, 6, 4, 3, 3, 7]
    assert found.low == pytest.approx(a, abs=1e-6)
    assert found.high == pytest.approx(a, abs=1e-6)


def test_a_difference_within_rounding_is_none():
    a = np.array([1.0, 1 + 1e-11, 2.0, 3.0, 4.0, 5.0])
    Z = draw("leverage", 6, 62, 0)
    found = order(Z, Z @ a, 0.0, a.sum()).ahead
    assert found[:2, :2].sum() == 0
    assert found[2:, :2].all()
    two = np.array([0.9e-9, 0.0]), np.array([[1e-12], [0.0]]), np.full(2, 9.0)
    assert of_errors(*two).ahead[0, 1]
    assert not of_errors(*two, tie=1e-9).ahead.any()


def test_no_values_no_order():
    Z = draw("leverage", 6, 40, 0)
    found = order(Z, np.zeros(40), 0.0, 0.0)
    assert not found.ahead.any()
    assert np.isinf(found.low).all()
    every = order(draw("leverage", 6, 62, 0), np.zeros(62), 0.0, 0.0)
    assert not every.ahead.any()
    assert np.array_equal(every.low, np.zeros(6))


def test_players_told_apart_by_one_pair_alone_take_part_in_no_statement():
    """Players 0 and 1 stay together in all rows but one pair; the rest is determined many times over."""
    Z = np.array([[0, 0, *(int(b) for b in f"{k:03b}")] for k in range(1, 8)] + [[1, 0, 1, 0, 0]], dtype=bool)
    Z = np.concatenate([Z, ~Z])
    a = np.array([9.0, 5.0, 3.0, 2.0, 1.0])
    found = order(Z, Z @ a + 1e-4 * np.random.default_rng(0).normal(size=16), 0.0, a.sum())
    assert not found.ahead[:2].any()
    assert not found.ahead[:, :2].any()
    assert found.ahead[2:, 2:].tolist() == [[False, True, True], [False, False, True], [False, False, False]]
    assert np.isinf(found.high).tolist() == [True, True, False, False, False]
    assert found.lowest.tolist() == [1, 1, 1, 2, 3]
    assert found.highest.tolist() == [5, 5, 3, 4, 5]


def test_the_band_is_wider_than_each_interval_alone():
    rng = np.random.default_rng(0)
    Z = draw("leverage", 8, 60, 0)
    y = Z @ np.arange(8.0) + rng.normal(size=60)
    (low, high), found = hc3(Z, y, 0.0, 28.0), order(Z, y, 0.0, 28.0)
    assert ((found.low < low) & (high < found.high)).all()
    assert found.phi == pytest.approx((low + high) / 2)


def test_errors_of_the_ends_count_where_players_share_them_unevenly():
    rng = np.random.default_rng(0)
    Z = draw("leverage", 7, 40, 2)
    y = Z @ np.arange(7.0) + 0.2 * rng.normal(size=40)
    uneven, even = Z[:37], Z  # without its complement a row's value counts beside v0
    v0, v1 = np.array([-1e4, 0.0, 1e4]), 21 + np.array([-1e4, 1e4])
    certain, open_ = (order(uneven, y[:37], end, 21.0) for end in (0.0, v0))
    assert 6 * open_.ahead.sum() < certain.ahead.sum()
    assert np.array_equal(order(even, y, 0.0, 21.0).ahead, order(even, y, v0, v1).ahead)
    assert (order(even, y, 0.0, v1).high > 1e3).all()


@pytest.mark.parametrize("spread", [0.0, 0.5, 5.0, 100.0])
def test_the_band_holds_what_few_seeds_of_the_ends_leave_open(spread):
    """Credits with independent errors but for the end's, which has two degrees of freedom; simulated from the model itself.

    Of 40,000 trials the band holds .97, .943 at worst (where the end has most of the error) and .95."""
    n, freedom, trials = 6, 20, 400
    rng, held = np.random.default_rng(int(spread) + 1), np.empty(trials, dtype=bool)
    for k in range(trials):
        phi = rng.normal(size=n) + spread * rng.normal()
        errors = np.eye(n) * np.sqrt(rng.chisquare(freedom) / freedom)
        end = np.full((n, 2), [spread * np.sqrt(rng.chisquare(2) / 2), 0.0])
        found = of_errors(phi, errors, np.full(n, float(freedom)), common=Common(end, np.array([2.0, np.inf])))
        held[k] = np.all((found.low <= 0) & (found.high >= 0))
    assert 0.925 < held.mean() < 0.985


@pytest.mark.parametrize("where", ["even", "middle"])
def test_statements_are_rarely_false_even_of_players_alike(where):
    false, rank, credit, _ = stated(8, 48, 100, seed=2, kind=alike, where=where)
    assert false <= 0.09
    assert rank <= false
    assert credit <= 0.09


def test_true_orders_are_stated_when_there_are_coalitions_enough():
    false, _, _, power = stated(8, 200, 30, seed=3)
    assert false == 0
    assert power > 0.45


@steady
@given(seeds, st.integers(1, 9))
def test_an_order_is_one(seed, n):
    rng = np.random.default_rng(seed)
    phi, errors, spare = 5 * rng.normal(size=n), rng.normal(size=(n, 12)) / 4, rng.uniform(1, 30, size=n)
    found = of_errors(phi, errors, spare, seed=3)
    assert not (found.ahead & (phi[:, None] <= phi)).any()
    assert not (found.ahead.astype(int) @ found.ahead & ~found.ahead).any() if n > 1 else not found.ahead.any()
    place = 1 + np.sum(phi[:, None] > phi, axis=0)
    assert ((found.lowest <= place) & (place <= found.highest)).all()
    names, factor = rng.permutation(n), 10 ** rng.uniform(-3, 3)
    renamed = of_errors(factor * phi[names] - 7, factor * errors[names], spare[names], seed=3)
    assert np.array_equal(renamed.ahead, found.ahead[np.ix_(names, names)])
    assert renamed.high + 7 == pytest.approx(factor * found.high[names], rel=1e-6, abs=1e-6)
    assert np.array_equal(of_errors(-phi, -errors, spare, seed=3).ahead, of_errors(phi, errors, spare, seed=3).ahead.T)


def test_says_what_is_established():
    found = independent([0.0, 0.5, 90.0], 20)
    names = ("Ada", "Bob", "Cy")
    assert rank_statement(found, 2, 0, names) == "Cy before Ada holds at 95 %, together with all other such statements"
    assert rank_statement(found, 0, 2, names) == rank_statement(found, 2, 0, names)
    assert rank_statement(found, 0, 1, names) == "the order of Ada and Bob is not established at 95 %"
    assert rank_statement(found._replace(level=0.995), 1, 0, names).endswith("at 99.5 %")


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
    ("phi", "errors", "spare", "says"),
    [
        (np.zeros((2, 1)), np.eye(2), np.ones(2), "shapes \\(2, 1\\)"),
        (np.zeros(3), np.eye(2), np.ones(3), "expected \\(n,\\), \\(n, sources\\)"),
        (np.zeros(2), np.eye(2), np.ones(1), "and \\(1,\\), expected"),
        (np.array([0, np.nan]), np.eye(2), np.ones(2), "no numbers"),
        (np.zeros(2), np.full((2, 2), np.nan), np.ones(2), "no numbers"),
        (np.zeros(2), np.eye(2), np.array([1.0, 0.0]), "above 0"),
    ],
)
def test_refuses_what_are_no_estimates(phi, errors, spare, says):
    with pytest.raises(ValuationError, match=says):
        of_errors(phi, errors, spare)
