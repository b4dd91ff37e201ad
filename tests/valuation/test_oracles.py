"""Estimators compared with exact values of another library (shapiq), and on players of known credit.

shapiq 1.4 has no Owen values and no Beta Shapley values. Their own tests compare them with brute force.
"""

from math import comb, lcm

import numpy as np
import pytest
from marks import slow
from shapiq import ExactComputer

from apportion.valuation import owen
from apportion.valuation.coalitions import draw
from apportion.valuation.semivalues import banzhaf, beta_shapley, semivalue
from apportion.valuation.shapley import exact, kernelshap, leverage, tree_residual


def powers(n):
    return 1 << np.arange(n)


def random_game(n, seed):
    """The value of every coalition (2**n,), bit i of the index for player i; v0 is off the scale."""
    values = np.random.default_rng(seed).normal(size=2**n)
    values[0] += 15
    return values


def by_shapiq(values, n, index, order=1):
    """The index of all sets of up to `order` players, by shapiq."""
    return ExactComputer(lambda Z: values[np.asarray(Z) @ powers(n)], n_players=n)(index, order)


def every_proper(n, seed=0):
    return draw("leverage", n, 2**n - 2, seed)


def all_of(values, n):
    """The arguments of an estimator for the exhaustive design."""
    Z = every_proper(n)
    return Z, values[Z @ powers(n)], values[0], values[-1]


def singles(result, n):
    return np.array([result[(i,)] for i in range(n)])


@pytest.mark.parametrize("n", [2, 3, 6, 8, slow(10)])
def test_shapley_and_banzhaf_values(n):
    values = random_game(n, n)
    shapley, middle = (singles(by_shapiq(values, n, index), n) for index in ("SV", "BV"))
    assert exact(values) == pytest.approx(shapley, abs=1e-8)
    for estimate in (leverage, tree_residual):
        assert estimate(*all_of(values, n)) == pytest.approx(shapley, abs=1e-8)
    assert beta_shapley(*all_of(values, n), 1, 1) == pytest.approx(shapley, abs=1e-8)
    assert owen.owen(*all_of(values, n), np.arange(n)) == pytest.approx(shapley, abs=1e-8)
    assert banzhaf(*all_of(values, n)) == pytest.approx(middle, abs=1e-8)
    if n > 2:
        assert np.abs(shapley - middle).max() > 0.01


@pytest.mark.parametrize(("index", "size"), [("IGV", 0), ("EGV", 5)])
def test_semivalues_of_one_size(index, size):
    """Internal and external values of shapiq are gains on joining the empty coalition, or all others."""
    values = random_game(6, 1)
    assert semivalue(*all_of(values, 6), np.eye(6)[size]) == pytest.approx(
        singles(by_shapiq(values, 6, index), 6), abs=1e-8
    )


@pytest.mark.parametrize("n", [4, 6])
def test_kernelshap_with_rows_in_proportion_to_the_kernel(n):
    values = random_game(n, n)
    Z = every_proper(n)
    rarity = [comb(n, s) * s * (n - s) for s in range(1, n)]
    times = np.array([lcm(*rarity) // each for each in rarity])
    Z = np.repeat(Z, times[Z.sum(axis=1) - 1], axis=0)
    result = kernelshap(Z, values[Z @ powers(n)], values[0], values[-1])
    assert result == pytest.approx(singles(by_shapiq(values, n, "SV"), n), abs=1e-8)


def all_of_groups(values, groups):
    """The arguments of `owen` for all coalitions that it can use."""
    members = np.bincount(groups)
    g, n = len(members), len(groups)
    Z = owen.draw(groups, 2**g - 2 + sum(2 ** (g - 1) * (2 ** int(b) - 2) for b in members), 0)
    return Z, values[Z @ powers(n)], values[0], values[-1], groups


@pytest.mark.parametrize("groups", [[0, 0, 1, 1, 1, 2], [0, 1, 1, 0, 2, 2]])
def test_sums_of_owen_values_are_the_shapley_values_of_groups(groups):
    values, g = random_game(6, 3), 3
    of_groups = values[(np.arange(2**g)[:, None] >> np.arange(g) & 1)[:, groups] @ powers(6)]
    sums = np.bincount(groups, weights=owen.owen(*all_of_groups(values, groups)))
    assert sums == pytest.approx(singles(by_shapiq(of_groups, g, "SV"), g), abs=1e-8)


def test_shapley_interactions_follow_from_owen_and_shapley_values():
    """A pair's interaction is its Owen value as a group less each player's value without the other.

    Source: Grabisch & Roubens 1999. The three values are ours; the interaction is shapiq's.
    """
    n, values = 5, random_game(5, 2)
    index = np.arange(2**n)
    result = by_shapiq(values, n, "SII", 2)
    for i, j in [(0, 1), (1, 3), (2, 4)]:
        groups = [0 if k in (i, j) else k + 1 for k in range(n)]
        groups = np.unique(groups, return_inverse=True)[1].tolist()
        together = owen.owen(*all_of_groups(values, groups))[[i, j]].sum()
        without_j, without_i = (exact(values[index >> gone & 1 == 0]) for gone in (j, i))
        assert together - without_j[i] - without_i[j - 1] == pytest.approx(result[(i, j)], abs=1e-8)


# Player 4 is a copy of 0, player 5 has no effect, player 6 does harm, and the others contribute.
COPY, NULL, HARMFUL = 4, 5, 6
PLANTED_GROUPS = [0, 1, 2, 3, 0, 1, 4, 5, 5, 5]


def planted(Z):
    x = Z.astype(float)
    first = np.maximum(x[:, 0], x[:, COPY])
    rest = x[:, [1, 2, 3, 7, 8, 9]] @ [0.9, 1.6, 1.1, 0.7, 1.3, 1.5]
    return (
        2 * first
        + rest
        + 0.8 * first * x[:, 1]
        - 0.5 * x[:, 2] * x[:, 3]
        - x[:, HARMFUL] * (1.2 + 0.4 * x[:, 2])
    )


PLANTED_ESTIMATES = {
    "leverage": leverage,
    "tree_residual": tree_residual,
    "banzhaf": banzhaf,
    "beta (4, 1)": lambda *game: beta_shapley(*game, 4, 1),
    "beta (1, 4)": lambda *game: beta_shapley(*game, 1, 4),
    "owen": lambda *game: owen.owen(*game, PLANTED_GROUPS),
}


def planted_credits(name, m):
    """From m coalitions, or from all that the estimator can use where m is None."""
    endpoints = planted(np.array([[False] * 10, [True] * 10]))
    if name == "owen":
        Z = (
            all_of_groups(np.zeros(2**10), PLANTED_GROUPS)[0]
            if m is None
            else owen.draw(PLANTED_GROUPS, m, 1)
        )
    else:
        Z = every_proper(10) if m is None else draw("leverage", 10, m, 1)
    return PLANTED_ESTIMATES[name](Z, planted(Z), *endpoints)


PLANTED_CASES = [
    slow(name, m, tolerance) if name == "tree_residual" and m is None else (name, m, tolerance)
    for name in PLANTED_ESTIMATES
    for m, tolerance in [(None, 1e-9), (160, 0.25)]
]


@pytest.mark.parametrize(("name", "m", "tolerance"), PLANTED_CASES)
def test_credits_of_planted_players(name, m, tolerance):
    phi = planted_credits(name, m)
    assert phi[COPY] == pytest.approx(phi[0], abs=tolerance)
    assert phi[NULL] == pytest.approx(0, abs=tolerance)
    assert np.argmin(phi) == HARMFUL
    assert phi[HARMFUL] < -1
    assert np.delete(phi, [NULL, HARMFUL]).min() > 0.25
