"""Counterfactual removal: the contributors removed, random ones to compare with, and the change."""

import numpy as np
import pytest

from apportion.errors import ValuationError
from apportion.evaluation.counterfactual import relative_change, removed, without_random, without_top


def test_the_contributors_of_most_credit_are_removed():
    assert np.array_equal(without_top([0.1, 5, -9, 3, 0.2], 0.4), [True, False, True, False, True])
    assert np.array_equal(without_top([1, 1, 1, 1], 0.5), [False, False, True, True])


@pytest.mark.parametrize(
    ("n", "share", "count"),
    [(12, 0.1, 1), (12, 0.2, 2), (12, 0.4, 5), (10, 0.25, 3), (2, 0.9, 1), (5, 0.01, 1)],
)
def test_a_share_is_a_whole_number_of_players(n, share, count):
    assert removed(n, share) == count
    assert np.count_nonzero(~without_top(np.arange(n), share)) == count


def test_random_coalitions_are_distinct_seeded_and_of_the_same_size():
    Z = without_random(12, 0.4, 30, 1)
    assert set(np.count_nonzero(~Z, axis=1)) == {removed(12, 0.4)}
    assert len(np.unique(Z, axis=0)) == 30
    assert np.array_equal(Z, without_random(12, 0.4, 30, 1))
    for n in range(2, 60):
        assert np.count_nonzero(~without_random(n, 0.4, 1, 0)) == removed(n, 0.4)


def test_the_coalition_to_compare_with_is_not_among_the_random_ones():
    """There are four ways to remove one of four: the one to compare with is left out, and the others keep
    their order."""
    every = without_random(4, 0.25, 4, 0)
    for i, top in enumerate(every):
        others = without_random(4, 0.25, 3, 0, other_than=top)
        assert np.array_equal(others, np.delete(every, i, axis=0))
        assert np.array_equal(without_random(4, 0.25, 1, 0, other_than=top), others[:1])
        with pytest.raises(ValuationError, match="at most 4"):
            without_random(4, 0.25, 4, 0, other_than=top)


def test_change_is_relative_and_paired_by_seed():
    mean, error = relative_change([2.0, 4.0], [1.0, 3.0])
    assert mean == pytest.approx((-0.5 - 0.25) / 2)
    assert error == pytest.approx(0.125)
    assert relative_change([-2.0, -2.0], [-1.0, -1.0]) == pytest.approx((0.5, 0.0))
    assert np.isnan(relative_change([2.0], [1.0])[1])


def test_invalid_input_is_refused():
    for phi, share in (([1, np.nan], 0.4), ([[1, 2]], 0.4), ([1], 0.4), ([1, 2], 0.0), ([1, 2], 1.0)):
        with pytest.raises(ValuationError, match="expected"):
            without_top(phi, share)
    with pytest.raises(ValuationError, match="at most 12"):
        without_random(12, 0.1, 13, 0)
    for before, after in (([1, 2], [1]), ([], []), ([0.0], [1.0]), ([1.0], [np.inf])):
        with pytest.raises(ValuationError, match="found values"):
            relative_change(before, after)
