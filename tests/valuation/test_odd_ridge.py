"""The ridge on effects of one and three players against the same ridge with its features written out."""

from itertools import combinations

import numpy as np
import pytest

from apportion.valuation import odd_ridge
from apportion.valuation.coalitions import draw
from apportion.valuation.odd_ridge import NOISES, PRIOR, RATIOS, fit, grouped

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


def models(sign, t, everybody=None):
    """(ratio, noise, pairs, odd parts, chance) of every model, by whole matrices: everybody as a pair, or as none.

    -2 log of the restricted likelihood is, but for a constant, log|V| + log|P'V⁻¹P| + (p - q) log of the least squares that is left."""
    found = []
    if everybody is not None:
        found = [(*model[:4], model[4] + odd_ridge.DOUBT) for model in likelihoods(sign, t, everybody)]
        sign, t = np.vstack([sign, np.ones(N)]), np.append(t, everybody)
    found += likelihoods(sign, t)
    unlikely = np.array([model[4] for model in found])
    chances = np.exp((unlikely.min() - unlikely) / 2)
    return [(*model[:4], chance / chances.sum()) for model, chance in zip(found, chances, strict=True)]


def likelihoods(sign, t, other=None):
    """`other` has the variance of a pair, but for how much its square is beyond theirs."""
    P, found = odd_ridge._of_size(sign), []
    beyond = 0 if other is None else other**2 / np.mean(t**2)
    for ratio in RATIOS:
        X = written_out(sign, ratio)
        for noise, prior in zip(odd_ridge.NOISES, odd_ridge.PRIOR, strict=True):
            V = X @ X.T + noise * np.eye(len(t))
            inner = P.T @ np.linalg.solve(V, P)
            across = np.linalg.solve(V, t)
            left = t @ across - P.T @ across @ np.linalg.solve(inner, P.T @ across)
            terms, determinants = len(t) - P.shape[1], np.linalg.slogdet(V)[1] + np.linalg.slogdet(inner)[1]
            if other is not None:
                left, terms = left + other**2 / (1 + beyond) / (1 + noise), terms + 1
                determinants += np.log(1 + noise) + np.log(1 + beyond)
            unlikely = determinants + terms * np.log(left) - 2 * np.log(prior) + odd_ridge.DOUBT * (ratio > 0)
            found.append((ratio, noise, sign, t, unlikely))
    return found


def by_normal_equations(sign, t, ratio, noise):
    """Effects scaled as `written_out` with those of functions of size behind them, and the features of both: ridge with the noise as its
    penalty, functions of size without one."""
    P = odd_ridge._of_size(sign)
    F = np.hstack([written_out(sign, ratio), P])
    penalty = np.append(np.full(F.shape[1] - P.shape[1], noise), np.zeros(P.shape[1]))
    return np.linalg.solve(F.T @ F + np.diag(penalty), F.T @ t), F


@pytest.fixture
def coarse(monkeypatch):
    """No variances left out, and none of noise so small that normal equations do not bear it."""
    monkeypatch.setattr(odd_ridge, "UNLIKELY", 0.0)
    monkeypatch.setattr(odd_ridge, "NOISES", NOISES[::6][2:])
    monkeypatch.setattr(odd_ridge, "PRIOR", PRIOR[::6][2:])


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("everybody", [None, 0.7, 6.0])
def test_the_fit_is_the_mean_of_ridges_with_their_features_written_out(seed, everybody):
    _, pairs, t = odd_game(seed, 40 if everybody is None else 6)
    p = len(t)
    assert odd_ridge._of_size(pairs.sign).shape[1] == (2 if everybody is None else 0)
    found, credits, fitted = fit(pairs.sign, t, everybody), np.zeros(N), np.zeros(p)
    for ratio, noise, sign, odd, chance in models(pairs.sign, t, everybody):
        effects, F = by_normal_equations(sign, odd, ratio, noise)
        credits += chance * credited(effects[: N + len(TRIPLES)], ratio)
        fitted += chance * (F @ effects)[:p]
    assert found.credits == pytest.approx(credits, abs=1e-7)
    assert found.residual == pytest.approx(t - fitted, abs=1e-7)


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize("everybody", [None, 1.5])
def test_left_out_residuals_are_those_of_fits_without_the_pair(everybody):
    """The chances are those of all pairs. Everybody is never left out."""
    _, pairs, t = odd_game(0, 40 if everybody is None else 6)
    left = fit(pairs.sign, t, everybody).left_out(t, everybody or 0.0)
    basis = odd_ridge._of_size(pairs.sign)
    assert len(left) == len(t)
    for out in (0, 3, len(t) - 1):
        missed = 0.0
        for ratio, noise, sign, odd, chance in models(pairs.sign, t, everybody):
            X, rest = written_out(sign, ratio), np.delete(np.arange(len(odd)), out)
            if basis.size:
                X = np.hstack([X, basis])
            penalty = np.append(np.full(N + len(TRIPLES), noise), np.zeros(basis.shape[1]))
            effects = np.linalg.solve(X[rest].T @ X[rest] + np.diag(penalty), X[rest].T @ odd[rest])
            missed += chance * (odd[out] - X[out] @ effects)
        assert left[out] == pytest.approx(missed, abs=1e-7)


def chance_of(sign, t, such):
    return sum(chance for ratio, noise, _, _, chance in models(sign, t) if such(ratio, noise))


def test_chances_tell_noise_from_effects():
    """With hardly any noise it is small beside the effects, with nothing else it is all there is; triples are seen where they are."""
    _, pairs, t = odd_game(1, noise=0.01)
    assert chance_of(pairs.sign, t, lambda ratio, noise: noise < 0.1) > 0.99
    assert chance_of(pairs.sign, t, lambda ratio, noise: ratio > 0) > 0.99
    pure = np.random.default_rng(0).normal(size=len(pairs.sign))
    assert chance_of(pairs.sign, pure, lambda ratio, noise: noise > 1) > 0.9
    assert chance_of(pairs.sign, pairs.sign @ np.arange(1.0, N + 1), lambda ratio, noise: ratio == 0) > 0.99


def test_everybody_counts_as_a_pair_unless_far_off_the_scale():
    """Of an additive game without noise, from one pair less than there are players, which with it tell them all apart."""
    pairs, f = grouped(draw("leverage", N, 2 * (N - 1), 10)), np.random.default_rng(0).normal(size=N)
    assert np.linalg.matrix_rank(np.vstack([pairs.sign, np.ones(N)])) == N
    t, truth = pairs.sign @ f, 2 * f - 2 * f.mean()
    known = fit(pairs.sign, t, f.sum()).credits
    without, off, far, farther = (fit(pairs.sign, t, None if k is None else k * t.std()).credits for k in (None, 100.0, 1e5, 1e9))
    assert np.linalg.norm(known - truth) < 0.4 * np.linalg.norm(without - truth)
    assert np.linalg.norm(off - truth) < 1.02 * np.linalg.norm(without - truth)
    assert off == pytest.approx(far, abs=1e-4)
    assert np.array_equal(farther, without)


def test_functions_of_size_move_no_credit():
    _, pairs, _ = odd_game(3)
    off = pairs.sign.mean(axis=1)
    assert fit(pairs.sign, 5 * off - 3 * off**3).credits == pytest.approx(np.zeros(N), abs=1e-9)


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
