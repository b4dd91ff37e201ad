"""HC3 against leaving pairs out by hand, exact slopes, and coverage that is counted."""

from math import comb

import numpy as np
import pytest
from random_games import coverage
from scipy.optimize import brentq
from scipy.stats import t as student

from apportion.errors import ValuationError
from apportion.valuation.coalitions import draw
from apportion.valuation.intervals import covers, hc3
from apportion.valuation.shapley import exact, leverage


def weights(Z):
    """Shapley kernel over inclusion probability, with the level found by bisection."""
    m, n = Z.shape
    level = brentq(lambda c: sum(min(comb(n, s), c) for s in range(1, n)) - m, 0, comb(n, n // 2))
    kernel = {s: (n - 1) / (comb(n, s) * s * (n - s)) for s in range(1, n)}
    return np.array([kernel[s] / min(1, level / comb(n, s)) for s in Z.sum(axis=1)])


def solve(Z, y, v0, v1, w):
    """Constrained least squares by its optimality conditions, with the linear and the cubic function of size beside the credits."""
    n = Z.shape[1]
    off = Z.sum(axis=1) / n - 0.5
    X = np.column_stack([Z, off, off**3])
    ones = np.append(np.ones(n), [0.0, 0.0])[:, None]
    system = np.block([[X.T @ (w[:, None] * X), ones], [ones.T, np.zeros((1, 1))]])
    return np.linalg.solve(system, np.append(X.T @ (w * (y - v0)), v1 - v0))[:n]


def jackknife(Z, y, v0, v1):
    """Credits, the sum of squared moves when each pair is left out and the rest solved again, and the number of pairs."""
    w = weights(Z)
    phi = solve(Z, y, v0, v1, w)
    left, pairs = list(range(len(Z))), []
    while left:
        pair = [j for j in left if np.array_equal(Z[j], Z[left[0]]) or np.array_equal(Z[j], ~Z[left[0]])]
        pairs.append(pair)
        left = [j for j in left if j not in pair]
    moves = [solve(*(np.delete(part, pair, axis=0) for part in (Z, y)), v0, v1, np.delete(w, pair)) - phi for pair in pairs]
    return phi, np.sum(np.square(moves), axis=0), len(pairs)


@pytest.mark.parametrize("case", ["paired", "shuffled", "some partners missing", "some rows twice"])
def test_hc3_is_the_jackknife_over_pairs(case):
    n, m = 6, 40
    rng = np.random.default_rng(5)
    Z = draw("leverage", n, m, 5)
    if case != "paired":
        Z = Z[rng.permutation(m)]
    if case == "some partners missing":
        Z = Z[:31]
    if case == "some rows twice":
        Z = np.concatenate([Z, Z[:6]])
    y = rng.normal(size=len(Z)) + Z @ rng.normal(size=n) + 2 * Z[:, 0] * Z[:, 1]
    low, high = hc3(Z, y, 0.2, 1.4, 0.9)
    phi, variance, pairs = jackknife(Z, y, 0.2, 1.4)
    assert (low + high) / 2 == pytest.approx(phi, abs=1e-9)
    assert (low + high) / 2 == pytest.approx(leverage(Z, y, 0.2, 1.4), abs=1e-12)
    assert (high - low) / 2 == pytest.approx(student.ppf(0.95, pairs - n + 1 - 2) * np.sqrt(variance), rel=1e-8)


def test_errors_of_the_ends_enter_by_their_slopes():
    rng = np.random.default_rng(0)
    Z = draw("leverage", 7, 40, 2)[:37]  # unpaired rows, so that v0 matters by itself
    y = rng.normal(size=37)
    by_v0 = leverage(Z, y, 1.0, 0.0) - leverage(Z, y, 0.0, 0.0)
    by_v1 = leverage(Z, y, 0.0, 1.0) - leverage(Z, y, 0.0, 0.0)
    spare = 19 - 6 - 2
    t = student.ppf(0.975, spare)
    plain, wide = hc3(Z, y, 0.5, 2.0), hc3(Z, y, 0.5, 2.0, v0_se=0.3, v1_se=0.7)
    added = ((wide[1] - wide[0]) / 2 / t) ** 2 - ((plain[1] - plain[0]) / 2 / t) ** 2
    assert added == pytest.approx((0.3 * by_v0) ** 2 + (0.7 * by_v1) ** 2, rel=1e-6)


@pytest.mark.parametrize(("level", "least", "most"), [(0.95, 0.945, 0.99), (0.8, 0.78, 0.88)])
def test_coverage_is_near_nominal(level, least, most):
    assert least < coverage(8, 64, 300, seed=3, noise=0.5, level=level)[0] < most


def test_coverage_with_measured_ends():
    assert 0.945 < coverage(8, 48, 150, seed=4, noise=0.5, end_seeds=3)[0] < 0.995


def test_an_additive_game_without_noise_has_no_width():
    a = np.arange(5.0)
    Z = draw("leverage", 5, 20, 1)
    low, high = hc3(Z, Z @ a, 0, 10)
    assert low == pytest.approx(a, abs=1e-9)
    assert high == pytest.approx(a, abs=1e-9)


def test_players_told_apart_by_one_pair_alone_have_no_bounds():
    """Players 0 and 1 stay together in all rows but one pair; the rest is determined many times over."""
    Z = np.array([[0, 0, *(int(b) for b in f"{k:03b}")] for k in range(1, 8)] + [[1, 0, 1, 0, 0]], dtype=bool)
    Z = np.concatenate([Z, ~Z])
    low, high = hc3(Z, np.random.default_rng(0).normal(size=16), 0, 1)
    assert np.array_equal(np.isinf(low), [True, True, False, False, False])
    assert np.array_equal(np.isinf(high), np.isinf(low))


def test_says_what_an_interval_covers():
    assert covers(48, 12, "sparsified_finetune").startswith("a player's Shapley value in the sparsified_finetune game")
    assert covers(46, 12, "retrain").startswith("ranking only (46 coalitions for 12 players, expected at least 48)")
    assert covers(12, 4, "retrain").startswith("ranking only (12 coalitions for 4 players, expected at least 14)")  # there are no more
    whole = covers(14, 4, "retrain", every=True)
    assert whole.startswith("a player's Shapley value in the retrain game, each player taken alone, over the noise of evaluation")
    assert "from all 14 coalitions of 4 players but nobody and everybody" in whole
    assert covers(2, 2, "retrain", every=True).startswith("nothing: they need more players. Credits are from all 2 coalitions of 2 players")


@pytest.mark.parametrize("n", [3, 4, 5])
@pytest.mark.parametrize("together", [0.0, 1.0])
def test_with_all_coalitions_evaluated_intervals_cover_the_noise(n, together):
    """Games of singles, pairs and whole coalitions; the truth is exact enumeration of the game without its noise."""
    rng = np.random.default_rng(n)
    every = (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(float)
    Z = draw("leverage", n, 2**n - 2, 0)
    hits = []
    for _ in range(150):
        pairs = np.triu(rng.normal(size=(n, n)), 1) * together
        v = every @ rng.normal(size=n) + np.einsum("ij,jk,ik->i", every, pairs, every) + 0.3 * together * rng.normal(size=2**n)
        y = v[Z @ (1 << np.arange(n))] + 0.3 * v[1:-1].std() * rng.normal(size=len(Z))
        low, high = hc3(Z, y, v[0], v[-1])
        hits.append((low <= exact(v)) & (exact(v) <= high))
    assert np.mean(hits) > 0.93


@pytest.mark.parametrize(
    ("m", "options", "says"),
    [
        (40, {"level": 1.0}, "level = 1.0"),
        (40, {"level": float("nan")}, "level = nan"),
        (40, {"v0_se": -1.0}, "v0_se = -1.0"),
        (40, {"v1_se": float("inf")}, "v1_se = inf"),
        (4, {}, "differences apart"),
        (10, {}, "found 5 pairs of coalitions for n = 6 players, expected at least 6"),
    ],
)
def test_refuses(m, options, says):
    Z = draw("leverage", 6, m, 2) if m != 10 else np.concatenate([np.eye(6, dtype=bool)[:5], ~np.eye(6, dtype=bool)[:5]])
    with pytest.raises(ValuationError, match=says):
        hc3(Z, np.zeros(m), 0, 1, **options)


def test_a_game_of_sizes_alone_moves_nothing_between_players():
    """Nobody's value far off the scale, and values that saturate with size, leave credits and intervals as they were."""
    rng = np.random.default_rng(3)
    Z = draw("leverage", 8, 48, 3)
    y = Z @ rng.normal(size=8) + rng.normal(size=48)
    size, shift = Z.sum(axis=1), lambda s: 9.0 * (s - 4.0) - 0.5 * (s - 4.0) ** 3
    plain = np.array([leverage(Z, y, 0.0, 1.0), *hc3(Z, y, 0.0, 1.0)])
    moved = np.array([leverage(Z, y + shift(size), -80.0, 1.0), *hc3(Z, y + shift(size), -80.0, 1.0)])
    assert moved - plain == pytest.approx(80.0 / 8, abs=1e-8)
