"""Trees compared with enumeration of the game that they define, and what their predictions depend on."""

import numpy as np
import pytest

from apportion.valuation import trees
from apportion.valuation.coalitions import draw
from apportion.valuation.shapley import exact
from apportion.valuation.trees import Forest, cross_fit

N = 6
EVERY = (np.arange(2**N)[:, None] >> np.arange(N)) & 1 == 1


def forest(seed, leaves=40):
    """Random leaves with up to N players each, not from any tree."""
    rng = np.random.default_rng(seed)
    entries = [
        (leaf, i, rng.random() < 0.5)
        for leaf in range(leaves)
        for i in rng.permutation(N)[: rng.integers(0, N + 1)]
    ]
    leaf, player, present = np.array(entries).T
    return Forest(rng.normal(size=leaves), leaf.astype(np.intp), player.astype(np.intp), present.astype(bool))


def game_value(f, rows):
    """The value of each row, by checking the conditions of every leaf."""
    fits = np.ones((len(rows), len(f.value)), dtype=bool)
    for leaf, player, present in zip(f.leaf, f.player, f.present, strict=True):
        fits[:, leaf] &= rows[:, player] == present
    return fits @ f.value


@pytest.mark.parametrize("seed", range(4))
def test_shapley_values_of_leaves_are_those_of_their_game(seed):
    f = forest(seed)
    assert f.shapley(N) == pytest.approx(exact(game_value(f, EVERY)), abs=1e-12)


def test_a_leaf_without_players_gives_no_credit():
    f = Forest(np.array([3.0]), np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0, bool))
    assert not f.shapley(N).any()


def example(folds=3, m=60):
    rng = np.random.default_rng(5)
    rows = draw("leverage", N, m, 2)
    y = rows @ rng.normal(size=N) + 4.0 * rows[:, 0] * rows[:, 1] + rng.normal(size=m)
    fold = np.repeat(np.arange(m // 2) % folds, 2)
    return rows, y, fold, np.zeros((folds, N))


def test_the_forest_is_the_predicted_game():
    rows, y, fold, main = example()
    result = cross_fit(rows, y, fold, main)
    assert np.ptp(result.fitted) > 1
    assert game_value(result.forest, rows) == pytest.approx(result.fitted, abs=1e-10)


def test_leaves_read_from_the_library_predict_like_the_library():
    """The library's predictions are in single precision."""
    rows, y, fold, main = example()
    booster, scale = trees._train(rows[fold != 1], y[fold != 1])
    by_library = scale * booster.predict(trees.xgboost.DMatrix(rows[fold == 1].astype(np.float32)))
    assert cross_fit(rows, y, fold, main).predicted[fold == 1] == pytest.approx(by_library, abs=1e-4)


def test_predictions_for_a_fold_do_not_depend_on_its_values():
    rows, y, fold, main = example()
    before = cross_fit(rows, y, fold, main).predicted
    y = y + 100.0 * (fold == 1) * rows[:, 2]
    after = cross_fit(rows, y, fold, main).predicted
    assert np.array_equal(before[fold == 1], after[fold == 1])
    assert np.abs(before - after)[fold != 1].min() > 0.1


def test_main_effects_are_subtracted_first():
    """For a game of main effects alone nothing is left for trees to learn."""
    rows, _, fold, main = example()
    a = np.arange(N, dtype=float)
    result = cross_fit(rows, rows @ a, fold, main + a)
    assert not result.forest.shapley(N).any()
    assert not np.ptp(result.predicted)


def test_trees_are_deterministic():
    first, second = cross_fit(*example()), cross_fit(*example())
    assert np.array_equal(first.predicted, second.predicted)
    assert np.array_equal(first.forest.value, second.forest.value)
