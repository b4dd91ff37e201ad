"""Spending against published tables and plain simulation; rules of stopping; what peeking costs and spending keeps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_games import peeked
from scipy.stats import norm

from apportion.errors import ValuationError
from apportion.valuation.coalitions import draw
from apportion.valuation.intervals import hc3
from apportion.valuation.ranks import of_errors, order
from apportion.valuation.sequential import RULES, SPENDING, Look, decide, levels, look, spent

steady = settings(derandomize=True, deadline=None, max_examples=40, database=None)

# Two-sided, 5 % in all, equally spaced looks: Lan & DeMets 1983; Jennison & Turnbull 2000, chapter 7; the program ld98.
PUBLISHED = {
    ("obrien_fleming", 2): [2.963, 1.969],
    ("obrien_fleming", 3): [3.710, 2.511, 1.993],
    ("obrien_fleming", 5): [4.877, 3.357, 2.680, 2.290, 2.031],
    ("pocock", 2): [2.157, 2.201],
    ("pocock", 5): [2.438, 2.427, 2.410, 2.397, 2.386],
}


def bounds(*arguments, **more):
    return norm.isf((1 - levels(*arguments, **more)) / 2)


@pytest.mark.parametrize(("spending", "k"), PUBLISHED)
def test_bounds_are_the_published_ones(spending, k):
    assert bounds(100 * np.arange(1, k + 1), spending=spending) == pytest.approx(PUBLISHED[spending, k], abs=6e-4)


@pytest.mark.parametrize("spending", SPENDING)
@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_a_single_look_costs_nothing(spending, level):
    assert levels([300], level, spending) == pytest.approx([level], abs=1e-9)


@pytest.mark.parametrize("spending", SPENDING)
def test_a_brownian_motion_passes_as_often_as_is_spent(spending):
    """Uneven looks, the last before all is spent."""
    looks, most, paths = [60, 100, 110, 240, 300], 400, 200_000
    steps = np.sqrt(np.diff(looks, prepend=0))
    z = np.cumsum(np.random.default_rng(0).normal(size=(paths, 5)) * steps, axis=1) / np.sqrt(looks)
    first = np.argmax(np.column_stack([np.abs(z) > bounds(looks, 0.8, spending, most=most), np.ones(paths, dtype=bool)]), axis=1)
    share = np.bincount(first, minlength=6)[:5] / paths
    assert share == pytest.approx(spent(looks, 0.8, spending, most=most), abs=4 * np.sqrt(0.1 / paths))


@steady
@given(st.sets(st.integers(10, 200), min_size=1, max_size=6), st.sampled_from(sorted(SPENDING)), st.floats(0.5, 0.99))
def test_looks_are_paid_as_they_come(chosen, spending, level):
    looks, most = 10 * np.sort(list(chosen)), 2000
    nominal, chances = levels(looks, level, spending, most=most), spent(looks, level, spending, most=most)
    assert (nominal >= level - 1e-9).all()
    assert (1 - nominal >= chances - 1e-9).all()
    assert (chances > 0).all()
    assert chances.sum() <= 1 - level + 1e-12
    assert levels(looks[:-1], level, spending, most=most) == pytest.approx(nominal[:-1], abs=1e-12) if len(looks) > 1 else True
    assert spent([*looks, 3000], level, spending).sum() == pytest.approx(1 - level)


def test_very_early_looks_claim_next_to_nothing():
    assert (levels([5, 6], most=10_000) > 1 - 1e-14).all()
    Z = draw("leverage", 6, 40, 0)
    found = look(Z, Z @ np.arange(6.0) + np.random.default_rng(0).normal(size=40), 0.0, 15.0, [40], most=10**6)
    assert not found.order.ahead.any()


@pytest.mark.parametrize(
    ("looks", "options", "says"),
    [
        ([], {}, "expected numbers of coalitions"),
        ([[1, 2]], {}, "expected numbers of coalitions"),
        ([100, np.nan], {}, "expected numbers of coalitions"),
        ([0, 10], {}, "increase from above 0"),
        ([10, 10], {}, "increase from above 0"),
        ([20, 10], {}, "increase from above 0"),
        ([9_999, 10_000], {}, "each by 0.1% or more"),
        ([10, 30], {"most": 20}, "of at most 20 coalitions"),
        ([10], {"level": 1.0}, "found level = 1.0"),
        ([10], {"spending": "all"}, "expected one of obrien_fleming, pocock"),
    ],
)
def test_refuses(looks, options, says):
    with pytest.raises(ValuationError, match=says):
        levels(looks, **options)


def seen(phi, width=1.0, gain=10.0):
    """A look at independent credits whose standard errors are a quarter of the width."""
    phi = np.array(phi, dtype=float)
    n = len(phi)
    return Look(phi - width / 2, phi + width / 2, of_errors(phi, width / 4 * np.eye(n), np.full(n, 1e3)), gain)


@pytest.mark.parametrize(
    ("phi", "rule", "target", "stop", "reason"),
    [
        ([1, 2, 7], "width", 1.01, True, "the widest interval is 1, asked for at most 1.01"),
        ([1, 2, 7], "width", 0.99, False, "the widest interval is 1, asked for at most 0.99"),
        ([1, 2, 7], "share", 0.11, True, "the widest interval is 1, asked for at most 1.1: 0.11 of |v1 - v0|"),
        ([1, 2, 7], "share", 0.09, False, "the widest interval is 1, asked for at most 0.9: 0.09 of |v1 - v0|"),
        ([9, 9, 5, 5], "top_set", 2, True, "2 of the first 2 are established, in whatever order"),
        ([9, 9, 5, 5], "top_set", 3, False, "2 of the first 3 are established, in whatever order"),
        ([9, 9, 5, 5], "top_set", 1, False, "0 of the first 1 are established, in whatever order"),
        ([9, 9, 5, 5], "top_order", 2, False, "0 of the first 2 places are established"),
        ([9, 7, 5, 5], "top_order", 2, True, "2 of the first 2 places are established"),
        ([5, 7, 9, 5], "top_order", 3, False, "2 of the first 3 places are established"),
    ],
)
def test_decides(phi, rule, target, stop, reason):
    assert decide(seen(phi), rule, target) == (stop, reason)


def test_the_sign_of_the_gain_and_its_absence():
    assert decide(seen([1, 2, 7], gain=-10), "share", 0.11).stop
    assert decide(seen([1, 2, 7], gain=0), "share", 0.11) == (False, "v1 - v0 is 0, of which there is no share: 0.11 of |v1 - v0|")
    unknown = seen([1, 2, 7])
    assert not decide(unknown._replace(high=np.full(3, np.inf)), "width", 1e9).stop


@pytest.mark.parametrize(
    ("rule", "target", "says"),
    [
        ("soon", 1, "expected one of width, share, top_set, top_order"),
        ("width", 0, "a width above 0"),
        ("share", float("nan"), "above 0"),
        ("top_set", 4, "a whole number from 1 to 3 for n = 4 players"),
        ("top_set", 1.5, "a whole number from 1 to 3"),
        ("top_order", 0, "a whole number from 1 to 3"),
        ("top_order", float("inf"), "a whole number from 1 to 3"),
    ],
)
def test_refuses_what_is_no_rule(rule, target, says):
    with pytest.raises(ValuationError, match=says):
        decide(seen([1, 2, 3, 4]), rule, target)


def test_a_look_spends_what_it_may():
    rng = np.random.default_rng(0)
    Z = draw("leverage", 8, 80, 0)
    y = Z @ np.arange(8.0) ** 1.5 + 0.3 * rng.normal(size=80)
    gain = float(np.sum(np.arange(8.0) ** 1.5))
    ends = np.array([-0.2, 0.0, 0.2]), gain + np.array([-0.3, 0.0, 0.3])
    found = look(Z, y, *ends, [60, 80], 0.9, "pocock", most=160)
    low, high = hc3(Z, y, *ends, levels([60, 80], 0.9, "pocock", most=160)[1])
    assert np.array_equal([found.low, found.high], [low, high])
    expected = order(Z, y, *ends, 1 - spent([60, 80], 0.9, "pocock", most=160)[1])
    assert np.array_equal(found.order.ahead, expected.ahead)
    assert expected.ahead.any()
    assert found.order.level == pytest.approx(1 - spent([60, 80], 0.9, "pocock", most=160)[1])
    assert found.gain == pytest.approx(gain)
    assert all(decide(found, rule, 1).stop for rule in RULES)


def test_peeking_breaks_what_spending_keeps():
    """The whole table is in benchmarks/intervals.py."""
    looks = [40, 60, 80, 110, 150, 200]
    naive, spending = (peeked(10, looks, 30, how, seed=5) for how in (None, "obrien_fleming"))
    assert naive[0] < 0.9 < 0.935 < spending[0]
    assert naive[1] < 0.9 < 0.935 < spending[1]
