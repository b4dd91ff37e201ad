"""The three verdicts and what they rest on."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from apportion.errors import ValuationError
from apportion.evaluation.faithfulness import faithfulness

RNG = np.random.default_rng(0)
EXACT = RNG.normal(size=24)
NOISE = RNG.normal(size=24)


def test_a_close_game_is_faithful():
    found = faithfulness(EXACT + 0.3 * NOISE, EXACT)
    assert found.status == "faithful"
    assert found.rho == pytest.approx(spearmanr(EXACT + 0.3 * NOISE, EXACT).statistic)
    assert found.low < found.rho < found.high
    assert found.pairs == 24


def test_an_unrelated_game_is_not_faithful():
    assert faithfulness(NOISE, EXACT).status == "not faithful"
    assert faithfulness(-EXACT, EXACT).status == "not faithful"


def test_the_threshold_decides():
    cheap = EXACT + NOISE
    rho = faithfulness(cheap, EXACT).rho
    assert faithfulness(cheap, EXACT, threshold=rho).status == "faithful"
    assert faithfulness(cheap, EXACT, threshold=rho + 1e-9).status == "not faithful"


@pytest.mark.parametrize("k", range(8))
def test_few_pairs_establish_nothing(k):
    assert faithfulness(EXACT[:k], EXACT[:k]).status == "not established"


def test_a_high_correlation_that_could_be_zero_is_not_established():
    exact, cheap = np.arange(8.0), np.array([7.0, 0, 1, 2, 3, 4, 5, 6])
    found = faithfulness(cheap, exact, threshold=0.3)
    assert found.rho > 0.3
    assert found.low <= 0
    assert found.status == "not established"


@pytest.mark.parametrize(("cheap", "exact"), [(np.ones(24), EXACT), (EXACT, np.ones(24))])
def test_a_constant_game_is_not_established(cheap, exact):
    found = faithfulness(cheap, exact)
    assert found.status == "not established"
    assert np.isnan(found.rho)


def test_retraining_seeds_are_averaged_first():
    exact = EXACT[:, None] + RNG.normal(size=(24, 3))
    assert faithfulness(EXACT, exact).rho == pytest.approx(spearmanr(EXACT, exact.mean(axis=1)).statistic)


def test_refuses():
    with pytest.raises(ValuationError, match="shape \\(3,\\)"):
        faithfulness(np.ones(3), np.ones(4))
    with pytest.raises(ValuationError, match="not finite"):
        faithfulness([1, 2, np.nan], [1, 2, 3])
