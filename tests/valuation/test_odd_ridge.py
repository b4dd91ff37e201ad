"""The ridge on single and triple effects, compared with the same ridge with explicit features."""

from itertools import combinations

import numpy as np
import pytest

from apportion.valuation import odd_ridge
from apportion.valuation.coalitions import draw
from apportion.valuation.odd_ridge import NOISE_PRIOR, NOISES, RATIOS, fit_ridge, signed_pairs

N = 7
TRIPLES = list(combinations(range(N), 3))


def explicit_features(sign, ratio):
    """Parities of one and of three players, scaled to the variances that `ratio` says, (p, effects)."""
    three = np.array([sign[:, list(T)].prod(axis=1) for T in TRIPLES]).T
    return np.hstack([sign / np.sqrt(N), three * np.sqrt(ratio / len(TRIPLES))])


def credited(effects, ratio):
    """Credits (n,) of effects scaled as in `explicit_features`: φ_i = 2 Σ f_T / |T|, centred."""
    f1, f3 = effects[:N] / np.sqrt(N), effects[N:] * np.sqrt(ratio / len(TRIPLES))
    phi = 2 * f1
    for T, f in zip(TRIPLES, f3, strict=True):
        phi[list(T)] += 2 / 3 * f
    return phi - phi.mean()


def odd_game(seed, p=40, noise=0.2):
    rng = np.random.default_rng(seed)
    rows = draw("leverage", N, 2 * p, seed)
    pairs = signed_pairs(rows)
    t = pairs.sign @ rng.normal(size=N) + pairs.sign[:, :3].prod(axis=1) + noise * rng.normal(size=p)
    return rows, pairs, t


def models(sign, t, endpoint_odd=None):
    """(ratio, noise, pairs, odd parts, probability) of every model, by whole matrices.

    With `endpoint_odd` every model has two variants: the endpoint pair belongs with the others, or not. Up to
    a constant, -2 log of the restricted likelihood is log|V| + log|P'V⁻¹P| + (p - q) log of the remaining sum
    of squares.
    """
    results = []
    if endpoint_odd is not None:
        results = [
            (*model[:4], model[4] + odd_ridge.COMPLEXITY_PENALTY)
            for model in deviances(sign, t, endpoint_odd)
        ]
        sign, t = np.vstack([sign, np.ones(N)]), np.append(t, endpoint_odd)
    results += deviances(sign, t)
    deviance = np.array([model[4] for model in results])
    probabilities = np.exp((deviance.min() - deviance) / 2)
    return [
        (*model[:4], probability / probabilities.sum())
        for model, probability in zip(results, probabilities, strict=True)
    ]


def deviances(sign, t, other=None):
    """-2 log probability of every model. `other` is the odd part of a pair unrelated to the others.

    Its variance is that of a pair, times how far its square exceeds theirs.
    """
    P, results = odd_ridge._odd_size_functions(sign), []
    beyond = 0 if other is None else other**2 / np.mean(t**2)
    for ratio in RATIOS:
        X = explicit_features(sign, ratio)
        for noise, prior in zip(odd_ridge.NOISES, odd_ridge.NOISE_PRIOR, strict=True):
            V = X @ X.T + noise * np.eye(len(t))
            inner = P.T @ np.linalg.solve(V, P)
            across = np.linalg.solve(V, t)
            left = t @ across - P.T @ across @ np.linalg.solve(inner, P.T @ across)
            terms, determinants = len(t) - P.shape[1], np.linalg.slogdet(V)[1] + np.linalg.slogdet(inner)[1]
            if other is not None:
                left, terms = left + other**2 / (1 + beyond) / (1 + noise), terms + 1
                determinants += np.log(1 + noise) + np.log(1 + beyond)
            deviance = (
                determinants
                + terms * np.log(left)
                - 2 * np.log(prior)
                + odd_ridge.COMPLEXITY_PENALTY * (ratio > 0)
            )
            results.append((ratio, noise, sign, t, deviance))
    return results


def by_normal_equations(sign, t, ratio, noise):
    """Effects scaled as in `explicit_features`, then those of functions of size, and the features of both.

    The noise is the penalty of the effects; functions of size have no penalty.
    """
    P = odd_ridge._odd_size_functions(sign)
    F = np.hstack([explicit_features(sign, ratio), P])
    penalty = np.append(np.full(F.shape[1] - P.shape[1], noise), np.zeros(P.shape[1]))
    return np.linalg.solve(F.T @ F + np.diag(penalty), F.T @ t), F


@pytest.fixture
def coarse(monkeypatch):
    """No model is left out, and no noise is so small that normal equations become inaccurate."""
    monkeypatch.setattr(odd_ridge, "LEAST_PROBABILITY", 0.0)
    monkeypatch.setattr(odd_ridge, "NOISES", NOISES[::6][2:])
    monkeypatch.setattr(odd_ridge, "NOISE_PRIOR", NOISE_PRIOR[::6][2:])


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("endpoint_odd", [None, 0.7, 6.0])
def test_the_fit_is_the_mean_of_ridges_with_explicit_features(seed, endpoint_odd):
    _, pairs, t = odd_game(seed, 40 if endpoint_odd is None else 6)
    p = len(t)
    assert odd_ridge._odd_size_functions(pairs.sign).shape[1] == (2 if endpoint_odd is None else 0)
    result, credits, fitted = fit_ridge(pairs.sign, t, endpoint_odd), np.zeros(N), np.zeros(p)
    for ratio, noise, sign, odd, probability in models(pairs.sign, t, endpoint_odd):
        effects, F = by_normal_equations(sign, odd, ratio, noise)
        credits += probability * credited(effects[: N + len(TRIPLES)], ratio)
        fitted += probability * (F @ effects)[:p]
    assert result.credits == pytest.approx(credits, abs=1e-7)
    assert result.residual == pytest.approx(t - fitted, abs=1e-7)


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize("endpoint_odd", [None, 1.5])
def test_left_out_residuals_are_those_of_fits_without_the_pair(endpoint_odd):
    """The probabilities are those of all pairs. The endpoint pair is never left out."""
    _, pairs, t = odd_game(0, 40 if endpoint_odd is None else 6)
    left = fit_ridge(pairs.sign, t, endpoint_odd).left_out(t, endpoint_odd or 0.0)
    basis = odd_ridge._odd_size_functions(pairs.sign)
    assert len(left) == len(t)
    for out in (0, 3, len(t) - 1):
        residual = 0.0
        for ratio, noise, sign, odd, probability in models(pairs.sign, t, endpoint_odd):
            X, rest = explicit_features(sign, ratio), np.delete(np.arange(len(odd)), out)
            if basis.size:
                X = np.hstack([X, basis])
            penalty = np.append(np.full(N + len(TRIPLES), noise), np.zeros(basis.shape[1]))
            effects = np.linalg.solve(X[rest].T @ X[rest] + np.diag(penalty), X[rest].T @ odd[rest])
            residual += probability * (odd[out] - X[out] @ effects)
        assert left[out] == pytest.approx(residual, abs=1e-7)


def probability_that(sign, t, condition):
    return sum(probability for ratio, noise, _, _, probability in models(sign, t) if condition(ratio, noise))


def test_probabilities_distinguish_noise_from_effects():
    """Little noise is estimated as small, pure noise as large, and triple effects where there are some."""
    _, pairs, t = odd_game(1, noise=0.01)
    assert probability_that(pairs.sign, t, lambda ratio, noise: noise < 0.1) > 0.99
    assert probability_that(pairs.sign, t, lambda ratio, noise: ratio > 0) > 0.99
    pure = np.random.default_rng(0).normal(size=len(pairs.sign))
    assert probability_that(pairs.sign, pure, lambda ratio, noise: noise > 1) > 0.9
    assert (
        probability_that(pairs.sign, pairs.sign @ np.arange(1.0, N + 1), lambda ratio, noise: ratio == 0)
        > 0.99
    )


def test_the_endpoint_pair_counts_unless_it_is_far_off_the_scale():
    """An additive game without noise and one pair too few: only the endpoint pair completes what is known."""
    pairs, f = signed_pairs(draw("leverage", N, 2 * (N - 1), 10)), np.random.default_rng(0).normal(size=N)
    assert np.linalg.matrix_rank(np.vstack([pairs.sign, np.ones(N)])) == N
    t, truth = pairs.sign @ f, 2 * f - 2 * f.mean()
    known = fit_ridge(pairs.sign, t, f.sum()).credits
    without, off, far, farther = (
        fit_ridge(pairs.sign, t, None if k is None else k * t.std()).credits for k in (None, 100.0, 1e5, 1e9)
    )
    assert np.linalg.norm(known - truth) < 0.4 * np.linalg.norm(without - truth)
    assert np.linalg.norm(off - truth) < 1.02 * np.linalg.norm(without - truth)
    assert off == pytest.approx(far, abs=1e-4)
    assert np.array_equal(farther, without)


def test_functions_of_size_change_no_credit():
    _, pairs, _ = odd_game(3)
    off = pairs.sign.mean(axis=1)
    assert fit_ridge(pairs.sign, 5 * off - 3 * off**3).credits == pytest.approx(np.zeros(N), abs=1e-9)


def test_odd_parts_of_repeated_and_incomplete_pairs():
    rows = np.array([[1, 0, 0], [0, 1, 1], [1, 0, 0], [0, 0, 1], [1, 1, 0], [0, 1, 0]], dtype=bool)
    pairs = signed_pairs(rows)
    result = {
        tuple(sign > 0): value
        for sign, value in zip(pairs.sign, pairs.odd(np.array([5.0, 1.0, 7.0, 2.0, 4.0, 9.0])), strict=True)
    }
    # {0} has the values 5 and 7 and its complement 1; {0, 1} has 4 and its complement 2. {1} has no
    # complement, and the mean even part is (3.5 + 3) / 2.
    assert result == {
        (True, False, False): pytest.approx(2.5),
        (True, True, False): pytest.approx(1.0),
        (True, False, True): pytest.approx((3.5 + 3) / 2 - 9),
    }


def test_without_any_complement_odd_parts_are_relative_to_the_mean():
    rows = np.array([[1, 0, 0], [1, 1, 0]], dtype=bool)
    assert sorted(signed_pairs(rows).odd(np.array([1.0, 4.0]))) == [-1.5, 1.5]
