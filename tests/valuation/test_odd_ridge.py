"""The ridge on effects of one and three players against the same ridge with its features written out."""

from itertools import combinations

import numpy as np
import pytest

from apportion.valuation import odd_ridge
from apportion.valuation.coalitions import draw
from apportion.valuation.odd_ridge import fit, grouped

N = 7
TRIPLES = list(combinations(range(N), 3))


def written_out(sign, ratio):
    """Parities of one and of three players, scaled to the variances that `ratio` says, (p, effects)."""
    three = np.array([sign[:, list(T)].prod(axis=1) for T in TRIPLES]).T
    return np.hstack([sign / np.sqrt(N), three * np.sqrt(ratio / len(TRIPLES))])


def credited(effects, ratio):
    """Credits (n,) of effects as `written_out` scales them: φ_i = 2 Σ f_T / |T|, centred."""
    f1, f3 = effects[:N] / np.sqrt(N), effects[N:] * np.sqrt(ratio / len(TRIPLES))
    phi = 2 * f1
    for T, f in zip(TRIPLES, f3, strict=True):
        phi[list(T)] += 2 / 3 * f
    return phi - phi.mean()


def odd_game(seed, p=40, noise=0.2):
    rng = np.random.default_rng(seed)
    rows = draw("leverage", N, 2 * p, seed)
    pairs = grouped(rows)
    t = pairs.sign @ rng.normal(size=N) + pairs.sign[:, :3].prod(axis=1) + noise * rng.normal(size=p)
    return rows, pairs, t


@pytest.mark.parametrize("seed", range(3))
def test_the_kernel_is_the_ridge_with_its_features_written_out(seed):
    _, pairs, t = odd_game(seed)
    ratio, noise = odd_ridge._variances(pairs.sign, t)
    assert ratio > 0
    X, P = written_out(pairs.sign, ratio), odd_ridge._of_size(pairs.sign)
    # Ridge with noise as its penalty, functions of size without one.
    penalty = np.concatenate([np.full(X.shape[1], noise), np.zeros(P.shape[1])])
    F = np.hstack([X, P])
    effects = np.linalg.solve(F.T @ F + np.diag(penalty), F.T @ t)
    found = fit(pairs.sign, t)
    assert found.credits(t) == pytest.approx(credited(effects[: X.shape[1]], ratio), abs=1e-8)
    assert found.residual(t) == pytest.approx(t - F @ effects, abs=1e-8)


def test_left_out_residuals_are_those_of_fits_without_the_pair(monkeypatch):
    _, pairs, t = odd_game(0)
    settled = odd_ridge._variances(pairs.sign, t)
    basis = odd_ridge._of_size(pairs.sign)
    monkeypatch.setattr(odd_ridge, "_variances", lambda sign, t: settled)
    left = fit(pairs.sign, t).left_out(t)
    for out in (0, 7, 39):
        rest = np.delete(np.arange(len(t)), out)
        X = np.hstack([written_out(pairs.sign, settled[0]), basis])
        penalty = np.concatenate([np.full(N + len(TRIPLES), settled[1]), np.zeros(basis.shape[1])])
        effects = np.linalg.solve(X[rest].T @ X[rest] + np.diag(penalty), X[rest].T @ t[rest])
        assert left[out] == pytest.approx(t[out] - X[out] @ effects, abs=1e-7)


def test_variances_tell_noise_from_effects():
    """With hardly any noise it is small beside the effects, with nothing else it is all there is; triples are seen where they are."""
    _, pairs, t = odd_game(1, noise=0.01)
    assert odd_ridge._variances(pairs.sign, t)[1] < 0.01
    _, pairs, _ = odd_game(2)
    pure = np.random.default_rng(0).normal(size=len(pairs.sign))
    assert odd_ridge._variances(pairs.sign, pure)[1] > 10
    assert odd_ridge._variances(pairs.sign, pairs.sign @ np.arange(1.0, N + 1))[0] < 0.1


def test_functions_of_size_move_no_credit():
    _, pairs, t = odd_game(3)
    off = pairs.sign.mean(axis=1)
    ridge = fit(pairs.sign, t)
    assert ridge.credits(5 * off - 3 * off**3) == pytest.approx(np.zeros(N), abs=1e-9)


def test_odd_parts_of_whole_repeated_and_broken_pairs():
    rows = np.array([[1, 0, 0], [0, 1, 1], [1, 0, 0], [0, 0, 1], [1, 1, 0], [0, 1, 0]], dtype=bool)
    pairs = grouped(rows)
    found = {tuple(sign > 0): value for sign, value in zip(pairs.sign, pairs.odd(np.array([5.0, 1.0, 7.0, 2.0, 4.0, 9.0])), strict=True)}
    # {0} came as 5 and 7 beside its complement's 1; {0, 1} as 4 beside 2; {1} came without its complement, and pairs share (3.5 + 3) / 2.
    assert found == {
        (True, False, False): pytest.approx(2.5),
        (True, True, False): pytest.approx(1.0),
        (True, False, True): pytest.approx((3.5 + 3) / 2 - 9),
    }


def test_rows_without_any_complement_are_measured_from_their_mean():
    rows = np.array([[1, 0, 0], [1, 1, 0]], dtype=bool)
    assert sorted(grouped(rows).odd(np.array([1.0, 4.0]))) == [-1.5, 1.5]
