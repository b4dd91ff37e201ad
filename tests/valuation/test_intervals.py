"""Intervals compared with textbook formulas and exact slopes, and their coverage in simulations."""

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import slow
from random_games import coverage, majorities
from scipy.linalg import null_space
from scipy.optimize import brentq
from scipy.stats import t as student

from apportion.errors import ValuationError
from apportion.valuation import intervals
from apportion.valuation.coalitions import draw
from apportion.valuation.intervals import covers, hc3, jackknife, standard_errors
from apportion.valuation.shapley import exact, leverage

steady = settings(derandomize=True, deadline=None, max_examples=25, database=None)
seeds = st.integers(0, 2**32 - 1)


def weights(Z):
    """Shapley kernel over inclusion probability, with the rows per size by bisection."""
    m, n = Z.shape
    level = brentq(lambda c: sum(min(comb(n, s), c) for s in range(1, n)) - m, 0, comb(n, n // 2))
    kernel = {s: (n - 1) / (comb(n, s) * s * (n - s)) for s in range(1, n)}
    return np.array([kernel[s] / min(1, level / comb(n, s)) for s in Z.sum(axis=1)])


def by_the_book(Z, y, v0, v1):
    """Credits, squared standard errors and degrees of freedom, (n,) each, row by row with whole matrices.

    This is CR2 of Bell & McCaffrey. The linear and the cubic function of size are fitted beside the credits;
    a coalition and its complement are a cluster.
    """
    (m, n), root = Z.shape, np.sqrt(weights(Z))
    off, basis = Z.sum(axis=1) / n - 0.5, null_space(np.ones((1, n)))
    X = root[:, None] * np.column_stack([Z @ basis, off, off**3])
    solve = np.linalg.inv(X.T @ X) @ X.T
    A, M = basis @ solve[: n - 1], np.eye(m) - X @ solve
    t = root * (y - v0 - (v1 - v0) / n * Z.sum(axis=1))
    clusters = [tuple(np.flatnonzero((row == Z).all(axis=1) | (row != Z).all(axis=1))) for row in Z]
    parts = []
    for at in (list(cluster) for cluster in dict.fromkeys(clusters)):
        scale, axes = np.linalg.eigh(M[np.ix_(at, at)])
        # The cluster's part in each credit's error, as a function of the errors of values.
        parts.append(A[:, at] @ (axes / np.sqrt(scale)) @ axes.T @ M[at])
    forms = np.einsum("cip,ciq->ipq", parts, parts)
    dof = np.trace(forms, axis1=1, axis2=2) ** 2 / np.sum(forms**2, axis=(1, 2))
    return (v1 - v0) / n + A @ t, np.einsum("p,ipq,q->i", t, forms, t), dof


@pytest.mark.parametrize("case", ["paired", "shuffled", "some complements missing", "some rows repeated"])
def test_intervals_are_cluster_robust_by_the_book(case, monkeypatch):
    n, m = 6, 40
    rng = np.random.default_rng(5)
    Z = draw("leverage", n, m, 5)
    if case != "paired":
        Z = Z[rng.permutation(m)]
    if case == "some complements missing":
        Z = Z[:31]
    if case == "some rows repeated":
        Z = np.concatenate([Z, Z[:6]])
    y = rng.normal(size=len(Z)) + Z @ rng.normal(size=n) + 2 * Z[:, 0] * Z[:, 1]
    # A repeated row is one observation, the mean.
    same = [next(j for j, other in enumerate(Z) if (other == row).all()) for row in Z]
    distinct = sorted(set(same))
    means = np.array([y[np.equal(same, j)].mean() for j in distinct])
    phi, variance, dof = by_the_book(Z[distinct], means, 0.2, 1.4)
    monkeypatch.setattr(intervals, "BLOCK", 7)  # several blocks, the last of them not full
    low, high = hc3(Z, y, 0.2, 1.4, 0.9)
    assert (low + high) / 2 == pytest.approx(phi, abs=1e-9)
    assert (low + high) / 2 == pytest.approx(leverage(Z, y, 0.2, 1.4), abs=1e-12)
    assert (high - low) / 2 == pytest.approx(student.ppf(0.95, dof) * np.sqrt(variance), rel=1e-8)
    assert jackknife(Z, y, 0.2, 1.4).dof == pytest.approx(dof, rel=1e-8)
    pairs = len({row.tobytes() for row in Z ^ Z[:, :1]})
    assert dof.max() < pairs - (n - 1) - 2  # fewer than the fit as a whole has


def test_errors_of_v0_and_v1_enter_by_their_slopes():
    rng = np.random.default_rng(0)
    Z = draw("leverage", 7, 40, 2)[:37]  # unpaired rows, so that v0 matters by itself
    y = rng.normal(size=37)
    by_v0 = leverage(Z, y, 1.0, 0.0) - leverage(Z, y, 0.0, 0.0)
    by_v1 = leverage(Z, y, 0.0, 1.0) - leverage(Z, y, 0.0, 0.0)
    v0, v1 = 0.5 + np.array([-0.3, 0.0, 0.3]), 2.0 + np.array([-1.0, 1.0, -1.0, 1.0])
    plain, dof = standard_errors(Z, y, 0.5, 2.0)[1], jackknife(Z, y, 0.5, 2.0).dof
    phi, wide = standard_errors(Z, y, v0, v1)
    assert phi == pytest.approx(leverage(Z, y, 0.5, 2.0), abs=1e-12)
    parts = np.array([plain**2, by_v0**2 * 0.3**2 / 3, by_v1**2 * (4 / 3) / 4])
    assert wide**2 == pytest.approx(parts.sum(axis=0), rel=1e-6)
    low, high = hc3(Z, y, v0, v1)
    welch = (parts[1] + parts[2]) ** 2 / (parts[1] ** 2 / 2 + parts[2] ** 2 / 3)
    half = np.sqrt(
        student.ppf(0.975, dof) ** 2 * parts[0] + student.ppf(0.975, welch) ** 2 * (parts[1] + parts[2])
    )
    assert low == pytest.approx(phi - half, rel=1e-6)
    assert high == pytest.approx(phi + half, rel=1e-6)


def test_without_other_errors_intervals_are_those_of_the_mean_of_v1():
    """All coalitions of an additive game: only v1 is uncertain, and players share its Student's interval."""
    a, seeds = np.arange(5.0), np.array([9.0, 10.5, 11.0])
    Z = draw("leverage", 5, 30, 0)
    low, high = hc3(Z, Z @ a, 0.0, seeds)
    mean, half = seeds.mean(), student.ppf(0.975, 2) * seeds.std(ddof=1) / np.sqrt(3)
    assert low == pytest.approx(a + (mean - half - 10) / 5, abs=1e-8)
    assert high == pytest.approx(a + (mean + half - 10) / 5, abs=1e-8)


@pytest.mark.parametrize(
    ("n", "m", "games", "level", "least", "most"),
    [
        (8, 64, 300, 0.95, 0.945, 0.973),
        slow(8, 64, 300, 0.8, 0.79, 0.85),
        slow(20, 100, 150, 0.95, 0.94, 0.97),
    ],
)
def test_coverage_is_nominal(n, m, games, level, least, most):
    """Plain HC3 with the degrees of freedom of the whole fit covers .978, .876 and .983 here."""
    assert least < coverage(n, m, games, seed=3, noise=0.5, level=level)[0] < most


@pytest.mark.parametrize(
    ("n", "m", "options"),
    [
        (8, 48, {"endpoint_seeds": 3}),
        slow(8, 48, {"endpoint_seeds": 3, "endpoint_noise": 3.0}),
        slow(8, 48, {"endpoint_seeds": 3, "endpoint_noise": 20.0}),
        (8, 48, {"off": 20.0}),
        (8, 48, {"interactions": 3.0, "noise": 0.1}),
        slow(8, 64, {"noise": 1.0, "where": "small"}),
        slow(8, 64, {"noise": 1.0, "where": "extremes"}),
        (8, 64, {"noise": 1.0, "where": "middle"}),
        slow(20, 100, {"interactions": 0.0}),
    ],
)
def test_coverage_is_at_least_nominal(n, m, options):
    assert coverage(n, m, 100, seed=4, **options)[0] > 0.94


@pytest.mark.parametrize(
    ("m", "repeated", "at"),
    [(40, 0, (1.5, 1.5)), (40, 9, (1.5, 1.5)), (14, 0, (2.0, 2.0)), (40, 0, (-3.0, 4.0))],
)
def test_errors_are_unknown_where_no_residual_is_left(m, repeated, at):
    """Constant values, also with repeated rows and other endpoints, give equal credits of unknown error."""
    Z = draw("leverage", 7, m, 0)
    Z = np.concatenate([Z, Z[:repeated]])
    phi, se = standard_errors(Z, np.full(len(Z), at[0]), *at)
    assert phi == pytest.approx(np.full(7, (at[1] - at[0]) / 7), abs=1e-9)
    assert np.isinf(se).all()


def test_intervals_allow_for_a_rare_decisive_coalition_that_was_not_drawn():
    """Weighted majorities without noise: in most designs only the strongest player decides any coalition."""
    covered, unknown = majorities(10, 40, 60)
    assert covered > 0.95
    assert 0.2 < unknown < 0.6


@steady
@given(seeds, st.integers(3, 9), st.floats(0.01, 100), st.floats(-100, 100))
def test_intervals_do_not_depend_on_numbering_order_of_rows_or_units(seed, n, scale, shift):
    rng = np.random.default_rng(seed)
    Z, y = draw("leverage", n, min(6 * n, 2**n - 2), seed), rng.normal(size=min(6 * n, 2**n - 2))
    names, rows = rng.permutation(n), rng.permutation(len(y))
    try:
        low, high = hc3(Z, y, 0.3, 1.0)
    except ValuationError:
        return  # a design that does not distinguish all players
    assert np.array(hc3(Z[np.ix_(rows, names)], y[rows], 0.3, 1.0)) == pytest.approx(
        np.array([low[names], high[names]]), rel=1e-6
    )
    # An offset of all values changes nothing, and a factor, which may be negative, scales everything.
    moved = np.array(hc3(Z, scale * y + shift, scale * 0.3 + shift, scale * 1.0 + shift))
    assert moved == pytest.approx(scale * np.array([low, high]), rel=1e-6, abs=1e-7 * (scale + abs(shift)))
    assert np.array(hc3(Z, -y, -0.3, -1.0)) == pytest.approx(-np.array([high, low]), rel=1e-6)


@steady
@given(seeds, st.integers(3, 8))
def test_degrees_of_freedom_are_between_one_and_those_of_the_fit(seed, n):
    Z = draw("leverage", n, min(4 * n, 2**n - 2), seed)
    try:
        result = jackknife(Z, np.random.default_rng(seed).normal(size=len(Z)), 0.0, 1.0)
    except ValuationError:
        return
    assert (result.dof >= 1).all()
    assert (result.dof <= max(1, len(Z) // 2 - (n - 1)) + 1e-6).all()


def test_an_additive_game_without_noise_has_no_width_from_all_coalitions():
    a = np.arange(5.0)
    Z = draw("leverage", 5, 30, 1)
    assert np.isinf(hc3(Z[:28], Z[:28] @ a, 0, 10)).all()
    low, high = hc3(Z, Z @ a, 0, 10)
    assert low == pytest.approx(a, abs=1e-9)
    assert high == pytest.approx(a, abs=1e-9)


def test_players_that_a_single_pair_distinguishes_have_no_bounds():
    """Players 0 and 1 are together in all rows but one pair. Other differences are determined many times."""
    Z = np.array([[0, 0, *(int(b) for b in f"{k:03b}")] for k in range(1, 8)] + [[1, 0, 1, 0, 0]], dtype=bool)
    Z = np.concatenate([Z, ~Z])
    low, high = hc3(Z, np.random.default_rng(0).normal(size=16), 0, 1)
    assert np.array_equal(np.isinf(low), [True, True, False, False, False])
    assert np.array_equal(np.isinf(high), np.isinf(low))


def test_reports_say_what_an_interval_covers():
    assert covers(48, 12, "sparsified_finetune").startswith(
        "a player's Shapley value in the sparsified_finetune game"
    )
    assert covers(46, 12, "retrain").startswith(
        "ranking only (46 coalitions for 12 players, expected at least 48)"
    )
    assert covers(12, 4, "retrain").startswith(
        "ranking only (12 coalitions for 4 players, expected at least 14)"
    )
    whole = covers(14, 4, "retrain", every=True)
    assert whole.startswith(
        "a player's Shapley value in the retrain game, for each player separately, over the noise of"
    )
    assert "from all 14 coalitions of 4 players but the empty and the grand coalition" in whole
    two = covers(2, 2, "retrain", every=True)
    assert two.startswith(
        "nothing: intervals need at least 3 players. Credits are from all 2 coalitions of 2 players"
    )


@pytest.mark.parametrize("n", [slow(3), 4, slow(5)])
@pytest.mark.parametrize("interactions", [0.0, 1.0])
def test_with_all_coalitions_evaluated_intervals_cover_the_noise(n, interactions):
    """Games of single players, pairs and whole coalitions. The truth is that of the game without noise."""
    rng = np.random.default_rng(n)
    every = (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(float)
    Z = draw("leverage", n, 2**n - 2, 0)
    covered = []
    for _ in range(150):
        pairs = np.triu(rng.normal(size=(n, n)), 1) * interactions
        v = (
            every @ rng.normal(size=n)
            + np.einsum("ij,jk,ik->i", every, pairs, every)
            + 0.3 * interactions * rng.normal(size=2**n)
        )
        y = v[Z @ (1 << np.arange(n))] + 0.3 * v[1:-1].std() * rng.normal(size=len(Z))
        low, high = hc3(Z, y, v[0], v[-1])
        covered.append((low <= exact(v)) & (exact(v) <= high))
    assert np.mean(covered) > 0.93


@pytest.mark.parametrize(
    ("Z", "y", "v0", "message"),
    [
        (np.ones((4, 2, 2)), np.zeros(4), 0.0, "Z of shape \\(4, 2, 2\\)"),
        (np.full((4, 3), 0.5), np.zeros(4), 0.0, "entries other than 0 and 1"),
        (np.full((4, 3), np.nan), np.zeros(4), 0.0, "entries other than 0 and 1"),
        (draw("leverage", 4, 14, 0), np.zeros(13), 0.0, "y of shape \\(13,\\), expected \\(14,\\)"),
        (draw("leverage", 4, 14, 0), np.r_[np.zeros(13), np.nan], 0.0, "1 of 14 numbers in y not finite"),
        (draw("leverage", 4, 14, 0), np.zeros(14), np.nan, "numbers in v0 not finite"),
        (
            np.concatenate([draw("leverage", 4, 12, 0), np.ones((2, 4))]),
            np.zeros(14),
            0.0,
            "the empty coalition or all 4 players",
        ),
    ],
)
def test_bad_coalitions_and_values_are_refused(Z, y, v0, message):
    with pytest.raises(ValuationError, match=message):
        hc3(Z, y, v0, 1.0)


@pytest.mark.parametrize(
    ("m", "options", "message"),
    [
        (40, {"level": 1.0}, "level = 1.0"),
        (40, {"level": float("nan")}, "level = nan"),
        (40, {"level": "x"}, "level = 'x'"),
        (
            40,
            {"v0": [1.0]},
            "found v0 of shape \\(1,\\), expected a number, taken as known, or the values of 2 or more seeds",
        ),
        (40, {"v1": [1.0, float("inf")]}, "found 1 of 2 numbers in v1 not finite"),
        (40, {"v1": None}, "found v1 that is not an array of numbers"),
        (4, {}, "distinguish 2 differences"),
        (10, {}, "found 5 pairs of coalitions for n = 6 players, expected at least 6"),
    ],
)
def test_refuses(m, options, message):
    Z = draw("leverage", 6, m, 2)
    if m == 10:
        single = np.eye(6, dtype=bool)[:5]
        Z = np.concatenate([single, ~single])
    with pytest.raises(ValuationError, match=message):
        hc3(Z, np.zeros(m), **{"v0": 0, "v1": 1} | options)


def test_functions_of_size_change_no_difference_between_players():
    """A v0 far off the scale, and values that saturate with size, change neither differences nor widths."""
    rng = np.random.default_rng(3)
    Z = draw("leverage", 8, 48, 3)
    y = Z @ rng.normal(size=8) + rng.normal(size=48)
    size, shift = Z.sum(axis=1), lambda s: 9.0 * (s - 4.0) - 0.5 * (s - 4.0) ** 3
    plain = np.array([leverage(Z, y, 0.0, 1.0), *hc3(Z, y, 0.0, 1.0)])
    moved = np.array([leverage(Z, y + shift(size), -80.0, 1.0), *hc3(Z, y + shift(size), -80.0, 1.0)])
    assert moved - plain == pytest.approx(80.0 / 8, abs=1e-8)
