"""Sampling designs compared with counts: what they draw, how often, and what they refuse."""

from itertools import pairwise
from math import comb

import numpy as np
import pytest
from marks import slow

from apportion.errors import ValuationError
from apportion.valuation.coalitions import (
    DESIGNS,
    among,
    checked_coalitions,
    complementary_pairs,
    distinct,
    draw,
    log_probability,
    size_shares,
)


def bits(Z):
    return {row.tobytes() for row in Z}


@pytest.mark.parametrize(
    ("n", "m"), [(2, 2), (3, 4), (4, 14), (7, 20), (12, 48), (13, 3000), (20, 500), (258, 600), (1500, 8)]
)
def test_leverage_rows_are_distinct_proper_and_paired(n, m):
    Z = draw("leverage", n, m, 3)
    assert Z.shape == (m, n)
    assert Z.dtype == bool
    assert np.array_equal(Z[0::2], ~Z[1::2])
    assert len(bits(Z)) == m
    assert set(Z.sum(axis=1)) <= set(range(1, n))


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 13])
def test_leverage_can_be_exhaustive(n):
    assert len(bits(draw("leverage", n, 2**n - 2, 0))) == 2**n - 2


def test_among_ignores_order_and_type_of_rows():
    Z = draw("leverage", 5, 30, 0)
    assert among(Z, Z[[7, 3]]).nonzero()[0].tolist() == [3, 7]
    assert among(Z.astype(int), Z[::-1].astype(float)).all()
    assert not among(Z, np.empty((0, 5), bool)).any()
    assert among(np.empty((0, 5), bool), Z).shape == (0,)


@pytest.mark.parametrize("design", ["shapley_kernel", "leverage", "datamodel", "uniform"])
@pytest.mark.parametrize("n", [9, 20, 258])
def test_a_design_depends_on_its_arguments_alone_and_a_larger_budget_extends_a_smaller_one(design, n):
    sizes = (2, 10, 46, 120)
    drawn = [draw(design, n, m, 11) for m in sizes]
    for (less, more), m in zip(pairwise(drawn), sizes, strict=False):
        assert np.array_equal(less, more[:m])
    assert np.array_equal(drawn[-1], draw(design, n, 120, 11))
    assert not np.array_equal(drawn[-1], draw(design, n, 120, 12))


@pytest.mark.parametrize(
    ("design", "n", "m"),
    [
        ("leverage", 5, 10),
        slow("leverage", 6, 40),
        slow("leverage", 6, 4),
        ("shapley_kernel", 5, 10),
        ("datamodel", 5, 6),
        ("uniform", 4, 10),
    ],
)
def test_coalitions_are_as_frequent_as_their_probability(design, n, m):
    """Counts over many seeds, within five standard errors of a count of independent draws."""
    seeds = 1500
    count = np.zeros(2**n)
    for seed in range(seeds):
        np.add.at(count, draw(design, n, m, seed) @ (1 << np.arange(n)), 1)
    every = (np.arange(2**n)[:, None] >> np.arange(n)) & 1 == 1
    shares = size_shares(design, n, m)
    chance = shares[every.sum(axis=1)] / np.array([comb(n, s) for s in every.sum(axis=1)])
    expected = seeds * m * chance
    assert chance.sum() == pytest.approx(1)
    assert np.all(np.abs(count - expected) <= 5 * np.sqrt(expected) + 1e-9)


@pytest.mark.parametrize(
    ("n", "m"),
    [
        (4, 2),
        slow(4, 4),
        slow(6, 4),
        slow(6, 14),
        slow(8, 8),
        (5, 6),
        slow(7, 4),
    ],
)
def test_size_shares_are_right_to_a_tenth_of_a_pair(n, m):
    """They are exact for odd n. For even n and few pairs the share of the middle size is a little off."""
    seeds, count = 2000, np.zeros(n + 1)
    for seed in range(seeds):
        count += np.bincount(draw("leverage", n, m, seed).sum(axis=1), minlength=n + 1)
    off = count / seeds - m * size_shares("leverage", n, m)
    assert np.abs(off + off[::-1]).max() / 2 < (0.03 if n % 2 else 0.2)
    if m == 2 and n == 4:
        assert off[2] == pytest.approx(-2 / 12, abs=0.03)


def test_distinct_coalitions_keep_the_order_of_rows_and_pairs_are_grouped():
    Z = np.array([[0, 1, 1], [1, 0, 0], [0, 1, 1], [1, 1, 0], [1, 0, 0]])
    first, coalition = distinct(Z)
    assert (first.tolist(), coalition.tolist()) == ([0, 1, 3], [0, 1, 0, 2, 1])
    first, pair = complementary_pairs(Z)
    assert sorted(first.tolist()) == [0, 3]
    assert len(set(pair[[0, 1, 2, 4]])) == 1
    assert pair[3] != pair[0]


BAD_COALITIONS = [
    ([1, 0], "shape \\(2,\\), expected coalitions"),
    ([[1, 0, 2]], "entries other than 0 and 1"),
    ([[0.5, 1]], "entries other than 0 and 1"),
    ([["a", "b"]], "entries other than 0 and 1"),
    (np.array([[True, None]], dtype=object), "Z of type object"),
    ([[1, 0], [1]], "rows of different lengths"),
    (np.zeros((3, 0)), "shape \\(3, 0\\)"),
    (None, "shape \\(\\)"),
]


@pytest.mark.parametrize(("Z", "message"), BAD_COALITIONS)
def test_bad_coalitions_are_refused(Z, message):
    known = np.eye(3, dtype=bool)
    calls = (
        checked_coalitions,
        distinct,
        complementary_pairs,
        lambda Z: among(Z, known),
        lambda Z: among(known, Z),
        lambda Z: log_probability("leverage", Z),
    )
    for call in calls:
        with pytest.raises(ValuationError, match=message):
            call(Z)


def test_among_refuses_different_numbers_of_players():
    with pytest.raises(ValuationError, match="found coalitions of 3 and of 4 players"):
        among(np.eye(3), np.eye(4))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("nonesuch", 5, 4), {}, "expected one of shapley_kernel"),
        ((["leverage"], 5, 4), {}, "expected one of shapley_kernel"),
        (("leverage", 1, 4), {}, "n = 1 players"),
        (("leverage", 5.0, 4), {}, "n = 5.0, expected a whole"),
        (("leverage", 5, 0), {}, "m = 0"),
        (("uniform", 5, None), {}, "m = None"),
        (("leverage", 5, 4), {"alpha": 0.5}, "found option alpha of 'leverage', expected none"),
        (
            ("datamodel", 5, 4),
            {"beta": 0.5, "alpha": 0.5},
            "found option beta of 'datamodel', expected alpha",
        ),
        (("datamodel", 5, 4), {"alpha": "x"}, "alpha = 'x'"),
    ],
)
def test_unknown_designs_and_options_are_refused(arguments, options, message):
    with pytest.raises(ValuationError, match=message):
        size_shares(*arguments, **options)
    with pytest.raises(ValuationError, match=message):
        draw(*arguments, 0, **options)


def test_leverage_spreads_pairs_evenly_over_sizes():
    size = draw("leverage", 20, 380, 5).sum(axis=1)
    assert np.ptp(np.bincount(size, minlength=20)[1:]) <= 2


def test_log_probability_in_known_cases():
    Z = draw("leverage", 6, 62, 0)
    assert log_probability("leverage", Z) == pytest.approx(np.full(62, -np.log(62)))
    one = np.zeros((2, 8), dtype=bool)
    one[:, 0] = True
    kernel = np.array([7 / (s * (8 - s)) for s in range(1, 8)])
    assert np.exp(log_probability("shapley_kernel", one)) == pytest.approx(kernel[0] / kernel.sum() / 8)
    assert np.exp(log_probability("uniform", one)) == pytest.approx(2.0**-8)
    assert np.all(log_probability("datamodel", one) == -np.inf)
    assert np.isfinite(log_probability("leverage", draw("leverage", 1500, 8, 0))).all()
    for design in ("loo", "aoi"):
        assert np.exp(log_probability(design, draw(design, 5, 6, 0))) == pytest.approx(1 / 6)


@pytest.mark.parametrize("design", DESIGNS)
def test_shares_sum_to_one(design):
    assert size_shares(design, 30, 100).sum() == pytest.approx(1)


def test_datamodel_has_one_size_and_no_repeats():
    Z = draw("datamodel", 12, 900, 1, alpha=0.5)
    assert set(Z.sum(axis=1)) == {6}
    assert len(bits(Z)) == 900
    assert set(draw("datamodel", 100, 5, 1, alpha=0.29).sum(axis=1)) == {29}


def test_loo_and_aoi():
    assert np.array_equal(draw("aoi", 3, 4, 0), [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert np.array_equal(draw("loo", 3, 4, 0), ~draw("aoi", 3, 4, 0))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("nonesuch", 5, 4, 0), {}, "expected one of shapley_kernel"),
        (("leverage", 1, 2, 0), {}, "n = 1"),
        (("leverage", 2**16 + 1, 2, 0), {}, "n = 65537"),
        (("leverage", 5, 7, 0), {}, "even"),
        (("leverage", 5, 0, 0), {}, "m = 0"),
        (("leverage", 5, 32, 0), {}, "at most 30"),
        (("leverage", 5, 2.0, 0), {}, "m = 2.0"),
        (("leverage", 5, 4, -1), {}, "seed = -1"),
        (("shapley_kernel", 2**16, 2**20, 0), {}, "expected 1 to 65536"),
        (("datamodel", 6, 21, 0), {}, "at most 20"),
        (("datamodel", 6, 2, 0), {"alpha": 0.1}, "alpha = 0.1"),
        (("datamodel", 6, 2, 0), {"alpha": float("nan")}, "alpha = nan"),
        (("datamodel", 6, 2, 0), {"alpha": "0.5"}, "alpha = '0.5'"),
        (("datamodel", 6, 2, 0), {"alpha": None}, "alpha = None"),
        (("shapley_kernel", 6, 2, "1"), {}, "seed = '1', expected a whole"),
        (("loo", 6, 6, 0), {}, "n \\+ 1 = 7"),
    ],
)
def test_refuses(arguments, options, message):
    with pytest.raises(ValuationError, match=message):
        draw(*arguments, **options)
