"""Alpha spending compared with published tables and simulation, stopping rules, and repeated looks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_games import repeated_looks
from scipy.stats import norm

from apportion.errors import ValuationError
from apportion.valuation.coalitions import draw
from apportion.valuation.intervals import hc3
from apportion.valuation.ranks import order, order_from_errors
from apportion.valuation.sequential import RULES, SPENDING, Look, decide, levels, look, spent

steady = settings(derandomize=True, deadline=None, max_examples=25, database=None)

# Two-sided, 5 % in all, equally spaced looks: Lan & DeMets 1983; Jennison & Turnbull 2000, chapter 7; the
# program ld98.
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
    assert bounds(100 * np.arange(1, k + 1), spending=spending) == pytest.approx(
        PUBLISHED[spending, k], abs=6e-4
    )


@pytest.mark.parametrize("spending", SPENDING)
@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_a_single_look_has_the_full_level(spending, level):
    assert levels([300], level, spending) == pytest.approx([level], abs=1e-9)


@pytest.mark.parametrize("spending", SPENDING)
def test_a_brownian_motion_passes_the_bounds_as_often_as_is_spent(spending):
    """Looks at uneven distances, the last of them before all is spent."""
    looks, most, paths = [60, 100, 110, 240, 300], 400, 200_000
    steps = np.sqrt(np.diff(looks, prepend=0))
    z = np.cumsum(np.random.default_rng(0).normal(size=(paths, 5)) * steps, axis=1) / np.sqrt(looks)
    first = np.argmax(
        np.column_stack([np.abs(z) > bounds(looks, 0.8, spending, most=most), np.ones(paths, dtype=bool)]),
        axis=1,
    )
    share = np.bincount(first, minlength=6)[:5] / paths
    assert share == pytest.approx(spent(looks, 0.8, spending, most=most), abs=4 * np.sqrt(0.1 / paths))


@steady
@given(
    st.sets(st.integers(10, 200), min_size=1, max_size=6),
    st.sampled_from(sorted(SPENDING)),
    st.floats(0.5, 0.99),
)
def test_later_looks_do_not_change_earlier_ones(chosen, spending, level):
    looks, most = 10 * np.sort(list(chosen)), 2000
    nominal, chances = levels(looks, level, spending, most=most), spent(looks, level, spending, most=most)
    assert (nominal >= level - 1e-9).all()
    assert (1 - nominal >= chances - 1e-9).all()
    assert (chances > 0).all()
    assert chances.sum() <= 1 - level + 1e-12
    assert (
        levels(looks[:-1], level, spending, most=most) == pytest.approx(nominal[:-1], abs=1e-12)
        if len(looks) > 1
        else True
    )
    assert spent([*looks, 3000], level, spending).sum() == pytest.approx(1 - level)


def test_very_early_looks_claim_hardly_anything():
    assert (levels([5, 6], most=10_000) > 1 - 1e-14).all()
    Z = draw("leverage", 6, 40, 0)
    result = look(
        Z, Z @ np.arange(6.0) + np.random.default_rng(0).normal(size=40), 0.0, 15.0, [40], most=10**6
    )
    assert not result.order.ahead.any()


@pytest.mark.parametrize(
    ("looks", "options", "message"),
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
def test_refuses(looks, options, message):
    with pytest.raises(ValuationError, match=message):
        levels(looks, **options)


def look_at(phi, width=1.0, gain=10.0):
    """A look at independent credits whose standard errors are a quarter of the width."""
    phi = np.array(phi, dtype=float)
    n = len(phi)
    return Look(
        phi - width / 2, phi + width / 2, order_from_errors(phi, width / 4 * np.eye(n), np.full(n, 1e3)), gain
    )


@pytest.mark.parametrize(
    ("phi", "rule", "target", "stop", "reason"),
    [
        ([1, 2, 7], "width", 1.01, True, "the widest interval is 1, expected at most 1.01"),
        ([1, 2, 7], "width", 0.99, False, "the widest interval is 1, expected at most 0.99"),
        ([1, 2, 7], "share", 0.11, True, "the widest interval is 1, expected at most 1.1: 0.11 of |v1 - v0|"),
        (
            [1, 2, 7],
            "share",
            0.09,
            False,
            "the widest interval is 1, expected at most 0.9: 0.09 of |v1 - v0|",
        ),
        ([9, 9, 5, 5], "top_set", 2, True, "2 of the first 2 are established, in any order"),
        ([9, 9, 5, 5], "top_set", 3, False, "2 of the first 3 are established, in any order"),
        ([9, 9, 5, 5], "top_set", 1, False, "0 of the first 1 are established, in any order"),
        ([9, 9, 5, 5], "top_order", 2, False, "0 of the first 2 places are established"),
        ([9, 7, 5, 5], "top_order", 2, True, "2 of the first 2 places are established"),
        ([5, 7, 9, 5], "top_order", 3, False, "2 of the first 3 places are established"),
    ],
)
def test_stopping_rules(phi, rule, target, stop, reason):
    assert decide(look_at(phi), rule, target) == (stop, reason)


def test_a_negative_gain_and_a_gain_of_zero():
    assert decide(look_at([1, 2, 7], gain=-10), "share", 0.11).stop
    assert decide(look_at([1, 2, 7], gain=0), "share", 0.11) == (
        False,
        "v1 - v0 is 0, so a share of it is not defined: 0.11 of |v1 - v0|",
    )
    unknown = look_at([1, 2, 7])
    assert not decide(unknown._replace(high=np.full(3, np.inf)), "width", 1e9).stop


@pytest.mark.parametrize(
    ("rule", "target", "message"),
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
def test_unknown_rules_and_bad_targets_are_refused(rule, target, message):
    with pytest.raises(ValuationError, match=message):
        decide(look_at([1, 2, 3, 4]), rule, target)


def test_a_look_has_the_level_of_its_spending():
    rng = np.random.default_rng(0)
    Z = draw("leverage", 8, 80, 0)
    y = Z @ np.arange(8.0) ** 1.5 + 0.3 * rng.normal(size=80)
    gain = float(np.sum(np.arange(8.0) ** 1.5))
    endpoints = np.array([-0.2, 0.0, 0.2]), gain + np.array([-0.3, 0.0, 0.3])
    result = look(Z, y, *endpoints, [60, 80], 0.9, "pocock", most=160)
    low, high = hc3(Z, y, *endpoints, levels([60, 80], 0.9, "pocock", most=160)[1])
    assert np.array_equal([result.low, result.high], [low, high])
    expected = order(Z, y, *endpoints, 1 - spent([60, 80], 0.9, "pocock", most=160)[1])
    assert np.array_equal(result.order.ahead, expected.ahead)
    assert expected.ahead.any()
    assert result.order.level == pytest.approx(1 - spent([60, 80], 0.9, "pocock", most=160)[1])
    assert result.gain == pytest.approx(gain)
    assert all(decide(result, rule, 1).stop for rule in RULES)


def test_repeated_looks_need_spending():
    """The whole table is in benchmarks/intervals.py."""
    looks = [40, 60, 80, 110, 150, 200]
    naive = repeated_looks(10, looks, 20, None, seed=5)
    with_spending = repeated_looks(10, looks, 20, "obrien_fleming", seed=5)
    for without, correct in zip(naive, with_spending, strict=True):
        assert without < 0.9 < 0.935 < correct
