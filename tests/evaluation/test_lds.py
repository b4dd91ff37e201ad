"""The score compared with scipy, and its interval with a loop and in known cases."""

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from apportion.errors import ValuationError
from apportion.evaluation.lds import lds, lds_interval, spearman
from apportion.valuation.coalitions import draw

Z = draw("datamodel", 10, 60, 0)
PHI = np.random.default_rng(0).normal(size=10)


def noisy(scale, seeds=None, seed=1):
    shape = (60,) if seeds is None else (60, seeds)
    truth = Z @ PHI if seeds is None else (Z @ PHI)[:, None]
    return truth + scale * np.random.default_rng(seed).normal(size=shape)


def test_agrees_with_scipy_also_where_values_are_equal():
    y = np.round(noisy(1.0))
    assert lds(Z, y, PHI) == pytest.approx(spearmanr(y, Z @ PHI).statistic)
    assert lds(Z, Z @ PHI, PHI) == pytest.approx(1)
    assert lds(Z, -(Z @ PHI), PHI) == pytest.approx(-1)


def test_sums_that_differ_only_in_their_last_bits_are_equal():
    rows, whole = [[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0], [0, 1, 0, 1]], np.array([1.0, 7.0, 2.0, 6.0])
    assert 0.1 + 0.7 != 0.2 + 0.6
    assert lds(rows, [1, 4, 2, 3], whole / 10) == pytest.approx(lds(rows, [1, 4, 2, 3], whole))


def test_seeds_are_scored_one_by_one():
    y = noisy(1.0, seeds=3)
    expected = np.mean([spearmanr(y[:, j], Z @ PHI).statistic for j in range(3)])
    assert lds(Z, y, PHI) == pytest.approx(expected)


def test_interval_is_that_of_a_bootstrap_in_a_loop():
    """Another generator and another implementation: equal up to the error of resampling."""
    y, rng, scores = noisy(2.0, seeds=3), np.random.default_rng(9), []
    for _ in range(1500):
        rows, columns = rng.integers(60, size=60), rng.integers(3, size=3)
        ranks = [rankdata(y[rows, j]) for j in columns]
        correlations = np.corrcoef([rankdata(Z[rows] @ PHI), *ranks])[0, 1:]
        scores.append(np.mean(correlations))
    assert lds_interval(Z, y, PHI, seed=2) == pytest.approx(np.quantile(scores, [0.025, 0.975]), abs=0.03)


def test_interval_is_seeded_contains_the_score_and_widens_with_level_and_noise():
    y = noisy(1.0)
    low, high = lds_interval(Z, y, PHI, 0.95, 3)
    assert (low, high) == lds_interval(Z, y, PHI, 0.95, 3)
    assert low < lds(Z, y, PHI) < high
    narrow = lds_interval(Z, y, PHI, 0.5, 3)
    assert low < narrow[0] < narrow[1] < high
    assert np.ptp(lds_interval(Z, noisy(5.0), PHI)) > high - low


def test_interval_covers_the_correlation_of_many_coalitions():
    rng = np.random.default_rng(0)
    big = draw("datamodel", 16, 5000, 0)
    phi = rng.normal(size=16)
    y = big @ phi + 2 * rng.normal(size=5000)
    truth, covered = lds(big, y, phi), 0
    for part in np.split(np.arange(5000), 100):
        low, high = lds_interval(big[part], y[part], phi, resamples=400)
        covered += low <= truth <= high
    assert 87 <= covered <= 100


@pytest.mark.parametrize(
    ("rows", "y", "phi", "message"),
    [
        (Z, np.ones(60), PHI, "equal ones have no order"),
        (Z, noisy(1.0), np.ones(10) / 3, "equal ones have no order"),
        (Z, noisy(1.0), np.zeros(10), "equal ones have no order"),
        (Z[:2], np.arange(2.0), PHI, "found 2 coalitions"),
        (Z, noisy(1.0)[:-1], PHI, "one value for each row"),
        (Z, noisy(1.0), PHI[:-1], "one credit for each column"),
        (Z, noisy(1.0), PHI * np.nan, "not finite"),
        (Z, np.where(np.arange(120).reshape(60, 2) == 1, np.nan, 0.0), PHI, "not finite"),
        (Z, np.zeros((60, 2, 2)), PHI, "expected \\(k,\\) or \\(k, seeds\\)"),
    ],
)
def test_invalid_input_is_refused(rows, y, phi, message):
    for score in (lds, lds_interval):
        with pytest.raises(ValuationError, match=message):
            score(rows, y, phi)


def test_invalid_levels_are_refused():
    with pytest.raises(ValuationError, match="level = 2"):
        lds_interval(Z, noisy(1.0), PHI, level=2)
    with pytest.raises(ValuationError, match="found 2 coalitions"):
        spearman([1, 2], [1, 2])
