"""Numbers as readers see them."""

import pytest

from apportion.report.numbers import ABSENT, duration, interval, number, percent, portion, precision, signed


@pytest.mark.parametrize(
    ("values", "spec"),
    [
        ([8.3, -0.01], ",.2f"),
        ([0.12], ",.3f"),
        ([-149.2], ",.0f"),
        ([0.0], ".2f"),
        ([], ".2f"),
        ([None, 2.0], ",.2f"),
        ([3e8], ".2e"),
        ([2e-6], ".2e"),
    ],
)
def test_the_largest_number_of_a_column_has_three_digits(values, spec):
    assert precision(values) == spec


@pytest.mark.parametrize(
    ("value", "spec", "text"),
    [
        (-0.116, ",.2f", "−0.12"),
        (-0.001, ",.2f", "0.00"),
        (12345.6, ",.1f", "12\u202f345.6"),
        (-1.25e-9, ".2e", "−1.25 × 10⁻⁹"),
        (None, ",.2f", ABSENT),
    ],
)
def test_number(value, spec, text):
    assert number(value, spec) == text


def test_signs():
    assert [signed(v, ",.1f") for v in (1.0, -1.0, -0.01, None)] == ["+1.0", "−1.0", "0.0", ABSENT]


def test_an_absent_bound_is_open_and_two_are_no_interval():
    assert interval(-1.0, 2.0, ",.1f") == "−1.0 to 2.0"
    assert interval(None, 2.0, ",.1f") == "−∞ to 2.0"
    assert interval(-1.0, None, ",.1f") == "−1.0 to ∞"
    assert interval(None, None, ",.1f") == "none"


def test_shares():
    shares = ["12.3\u00a0%", "−50.0\u00a0%", ABSENT, "1.00 × 10¹¹\u00a0%"]
    assert [percent(v) for v in (0.1234, -0.5, None, 1e9)] == shares
    assert [portion(v) for v in (0.95, 0.999, 0.25)] == ["95\u00a0%", "99.9\u00a0%", "25\u00a0%"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.842, "0.84 s"),
        (12.4, "12 s"),
        (59.7, "1 min 00 s"),
        (200.0, "3 min 20 s"),
        (3599.8, "1 h 00 min"),
        (18120.0, "5 h 02 min"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
