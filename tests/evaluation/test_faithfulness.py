"""The three statuses, and what they depend on."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from apportion.errors import ValuationError
from apportion.evaluation.faithfulness import faithfulness

RNG = np.random.default_rng(0)
RETRAINED = RNG.normal(size=24)
NOISE = RNG.normal(size=24)


def test_a_close_game_is_faithful():
    cheap = RETRAINED + 0.3 * NOISE
    result = faithfulness(cheap, RETRAINED)
    assert result.status == "faithful"
    assert result.rho == pytest.approx(spearmanr(cheap, RETRAINED).statistic)
    assert result.low < result.rho < result.high
    assert result.pairs == 24


def test_an_unrelated_game_is_not_faithful():
    assert faithfulness(NOISE, RETRAINED).status == "not faithful"
    assert faithfulness(-RETRAINED, RETRAINED).status == "not faithful"


def test_the_threshold_decides():
    cheap = RETRAINED + NOISE
    rho = faithfulness(cheap, RETRAINED).rho
    assert faithfulness(cheap, RETRAINED, threshold=rho).status == "faithful"
    assert faithfulness(cheap, RETRAINED, threshold=rho + 1e-9).status == "not faithful"


@pytest.mark.parametrize("k", range(8))
def test_few_pairs_establish_nothing(k):
    assert faithfulness(RETRAINED[:k], RETRAINED[:k]).status == "not established"


def test_a_high_correlation_that_could_be_zero_is_not_established():
    cheap = np.array([7.0, 0, 1, 2, 3, 4, 5, 6])
    result = faithfulness(cheap, np.arange(8.0), threshold=0.3)
    assert result.rho > 0.3
    assert result.low <= 0
    assert result.status == "not established"


@pytest.mark.parametrize(("cheap", "retrained"), [(np.ones(24), RETRAINED), (RETRAINED, np.ones(24))])
def test_a_constant_game_is_not_established(cheap, retrained):
    result = faithfulness(cheap, retrained)
    assert result.status == "not established"
    assert np.isnan(result.rho)


def test_retraining_seeds_are_averaged_first():
    retrained = RETRAINED[:, None] + RNG.normal(size=(24, 3))
    expected = spearmanr(RETRAINED, retrained.mean(axis=1)).statistic
    assert faithfulness(RETRAINED, retrained).rho == pytest.approx(expected)


def test_invalid_input_is_refused():
    with pytest.raises(ValuationError, match="shape \\(3,\\)"):
        faithfulness(np.ones(3), np.ones(4))
    with pytest.raises(ValuationError, match="not finite"):
        faithfulness([1, 2, np.nan], [1, 2, 3])
