"""Several games together: exact values, formulas solved in another way, and coverage of intervals."""

import numpy as np
import pytest
from marks import slow
from random_games import game
from scipy.optimize import minimize_scalar
from scipy.stats import t as student

from apportion.errors import ValuationError
from apportion.valuation.coalitions import draw, size_shares
from apportion.valuation.inputs import checked_endpoints
from apportion.valuation.multifidelity import (
    CheapGame,
    Control,
    assisted,
    combine,
    controlled,
    covers,
    leverage_pairs,
    pilot,
    relative_width,
    split,
    with_intervals,
)
from apportion.valuation.shapley import exact, leverage


def two_games(n, rho, noise, rng, off=0.0, added=(), visible=0.0):
    """A cheap and a retrained game of unit SD with noise, and the endpoints and Shapley values of the latter.

    In the retrained game the first players contribute `added` SD more, of which the cheap game shows the
    share `visible`.
    """
    games = game(n, rng), game(n, rng)
    scale = [g.value(draw("leverage", n, min(400, 2**n - 2), 0)).std() for g in games]
    endpoints = games[0].value([[0] * n, [1] * n]) / scale[0]
    more = np.pad(np.array(added, dtype=float), (0, n - len(added)))
    endpoints = endpoints + np.array([0.0, more.sum()])
    truth = games[0].shapley() / scale[0] + off / n + more

    def high(Z):
        return games[0].value(Z) / scale[0] + Z @ more + noise * rng.normal(size=len(Z))

    def low(Z):
        first, second = (g.value(Z) / s for g, s in zip(games, scale, strict=True))
        value = rho * first + np.sqrt(1 - rho**2) * second + visible * (Z @ more)
        return value + noise * rng.normal(size=len(Z))

    return low, high, (endpoints[0] - off, endpoints[1]), truth


def together(Z_low, y_low, Z, y, y_paired, v0, v1, level=0.95):
    """`combine` with one cheap game, of values y_low of Z_low and y_paired of Z."""
    return combine([CheapGame(Z_low, y_low, Z, y_paired)], Z, y, v0, v1, level)


def fitted(pairs, D, x, known, parent):
    """`controlled` by one game. parent: the pair of `known` that each pair shares coalitions with, or -1."""
    new = parent < 0
    cluster = np.where(new, known.shift.shape[1] - 1 + np.cumsum(new), known.cluster[parent])
    return controlled(pairs, D, [Control(x, known)], cluster)


def coverage(n, J, noise, rho, reps, seed=0, apart=False, off=0.0, cheap=300):
    """Share of (game, player) covered, mean squared error of the middle over mean variance, median width.

    From J retrained pairs and `cheap` cheap coalitions; the pairs are `apart` or among those.
    """
    rng, results = np.random.default_rng(seed), []
    for j in range(reps):
        low, high, endpoints, truth = two_games(n, rho, noise, rng, off)
        Z_low = draw("leverage", n, cheap, seed + j)
        Z = draw("leverage", n, 2 * J, seed + j + 10**6) if apart else Z_low[: 2 * J]
        y_low = low(Z_low)
        c = together(Z_low, y_low, Z, high(Z), low(Z) if apart else y_low[: 2 * J], *endpoints)
        results.append(
            (
                np.mean((c.low <= truth) & (truth <= c.high)),
                np.mean(((c.low + c.high) / 2 - truth) ** 2),
                np.mean(c.se**2),
                np.mean(c.high - c.low),
            )
        )
    covered, error, variance, _ = np.mean(results, axis=0)
    return covered, error / variance, np.median(results, axis=0)[3]


def example(n=8, J=20, seed=0):
    rng = np.random.default_rng(seed)
    low, high, endpoints, truth = two_games(n, 0.9, 0.3, rng)
    Z_low = draw("leverage", n, 100, seed)
    y_low = low(Z_low)
    return [Z_low, y_low, Z_low[: 2 * J], high(Z_low[: 2 * J]), y_low[: 2 * J], *endpoints], truth


def test_the_known_gram_matrix_is_that_of_the_kernel():
    n = 6
    every = leverage_pairs(draw("leverage", n, 2**n - 2, 0))
    u = every.S - every.S.mean(axis=1, keepdims=True)
    g = 1 / (2 * sum(1 / k for k in range(1, n)))
    assert every.weight.sum() == pytest.approx(1)
    assert (u.T * every.weight) @ u == pytest.approx(g * (np.eye(n) - 1 / n), abs=1e-12)


def test_weights_are_kernel_over_chance():
    n, m = 9, 40
    Z = draw("leverage", n, m, 1)
    pairs = leverage_pairs(Z)
    size = pairs.S.sum(axis=1)
    ratio = size_shares("shapley_kernel", n, m)[1:-1] / size_shares("leverage", n, m)[1:-1]
    assert pairs.weight == pytest.approx(ratio[size - 1] * 2 / m)
    assert np.array_equal(Z[pairs.rows[:, 0]], pairs.S)
    assert np.array_equal(Z[pairs.rows[:, 1]], ~pairs.S)


@pytest.mark.parametrize("n", [5, 6, 8])
def test_all_coalitions_give_exact_credits_for_any_cheap_game(n):
    rng = np.random.default_rng(n)
    v, cheap, every = rng.normal(size=2**n), rng.normal(size=2**n), draw("leverage", n, 2**n - 2, 0)
    index = every @ (1 << np.arange(n))
    result = together(every, cheap[index], every, v[index], cheap[index], v[0], v[-1])
    pairs = leverage_pairs(every)
    assert result.phi == pytest.approx(exact(v), abs=1e-8)
    without_control = assisted(pairs, pairs.odd(v[index])).phi
    assert without_control == pytest.approx(exact(v) - (v[-1] - v[0]) / n, abs=1e-8)


def test_a_cheap_game_equal_to_the_retrained_one_gives_its_credits():
    """With the same values in both games, everything is known from the cheap coalitions."""
    (Z_low, y_low, Z, _, paired, v0, v1), _ = example(n=8, J=12)
    result = together(Z_low, y_low, Z, paired, paired, v0, v1)
    alone = assisted(leverage_pairs(Z_low), leverage_pairs(Z_low).odd(y_low))
    assert result.phi == pytest.approx(alone.phi - alone.phi.mean() + (v1 - v0) / 8, abs=1e-8)
    assert result.rho[0] == pytest.approx((1, 1), abs=1e-6)
    assert result.se == pytest.approx(together(Z_low, y_low, Z_low, y_low, y_low, v0, v1).se, rel=0.15)


def test_additive_games_are_recovered_from_fewer_pairs_than_players():
    rng = np.random.default_rng(0)
    n, a = 30, rng.normal(size=30)
    Z_low = draw("leverage", n, 200, 0)
    y, cheap = 3 + Z_low @ a, Z_low @ a / 2
    result = together(Z_low, cheap, Z_low[:24], y[:24], cheap[:24], 3, 3 + a.sum())
    assert result.phi == pytest.approx(a, abs=1e-8)


def test_without_ridge_the_estimate_is_constrained_least_squares(monkeypatch):
    monkeypatch.setattr("apportion.valuation.multifidelity.RIDGES", (0.0,))
    rng = np.random.default_rng(2)
    n, Z = 6, draw("leverage", 6, 60, 2)
    y = rng.normal(size=60) + Z @ rng.normal(size=n)
    result = assisted(leverage_pairs(Z), leverage_pairs(Z).odd(y))
    assert result.phi == pytest.approx(leverage(Z, y, 0, 0), abs=1e-9)


@pytest.mark.parametrize("ridge", [0.3, 1e6])
def test_shifts_are_what_leaving_a_pair_out_of_each_players_own_fit_does(monkeypatch, ridge):
    """Each residual comes from a new regression without its pair and without a ridge on the player."""
    for name, value in {"RIDGES": (0.0, ridge), "MAX_OUTLIERS": 0, "INFLATION_POWER": 1.0}.items():
        monkeypatch.setattr(f"apportion.valuation.multifidelity.{name}", value)
    n, rng = 10, np.random.default_rng(3)
    Z = draw("leverage", n, 24, 3)  # twelve pairs are too few for a fit without ridge
    pairs = leverage_pairs(Z)
    D = rng.normal(size=12)
    result = assisted(pairs, D)
    u, off = pairs.S - pairs.S.mean(axis=1, keepdims=True), 2 * pairs.S.mean(axis=1) - 1
    F, w = np.column_stack([off, u]), pairs.weight
    g = 1 / (2 * sum(1 / k for k in range(1, n)))
    for i in range(n):
        penalty = np.diag([0, *np.where(np.arange(n) == i, 0, ridge * g * n / 12)])

        def coefficients(keep, D, penalty=penalty):
            return np.linalg.lstsq(
                (F[keep].T * w[keep]) @ F[keep] + penalty, (F[keep].T * w[keep]) @ D[keep], rcond=None
            )[0]

        def credit(D, i=i, coefficients=coefficients):
            theta = coefficients(np.arange(12), D)
            return theta[1 + i] - theta[1:].mean() + (w * u[:, i]) @ (D - F @ theta) / g

        assert result.phi[i] == pytest.approx(credit(D), abs=1e-8)
        for j in range(12):
            residual = D[j] - F[j] @ coefficients(np.arange(12) != j, D)
            slope = credit(np.eye(12)[j])
            assert result.T[i, j] == pytest.approx(slope, abs=1e-7)
            assert result.shift[i, j] == pytest.approx(slope * residual, abs=1e-6)


def test_a_player_is_not_shrunk_by_its_own_contribution(monkeypatch):
    """The player's own estimate follows an added contribution in full; the fit of all players does not."""
    monkeypatch.setattr("apportion.valuation.multifidelity.MAX_OUTLIERS", 0)
    monkeypatch.setattr("apportion.valuation.multifidelity.RIDGES", (0.0, 1.0))
    Z = draw("leverage", 12, 20, 1)
    pairs, rng = leverage_pairs(Z), np.random.default_rng(1)
    y = rng.normal(size=20)
    plain, more = assisted(pairs, pairs.odd(y)), assisted(pairs, pairs.odd(y + 7 * Z[:, 4]))
    assert more.phi[4] - plain.phi[4] == pytest.approx(7 * 11 / 12)
    assert more.shrunk[4] - plain.shrunk[4] < 0.9 * 7 * 11 / 12
    assert more.shrunk.sum() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("n", "J", "cheap", "reps"), [(10, 12, 100, 10), slow(20, 20, 300, 25)])
def test_an_outlier_does_not_affect_the_other_players(n, J, cheap, reps):
    """Neither their errors nor their widths."""
    rng, results = np.random.default_rng(4), []
    for j in range(reps):
        state = rng.bit_generator.state
        for added in (0.0, 30.0):
            rng.bit_generator.state = state
            low, high, endpoints, truth = two_games(n, 0.9, 0.1, rng, added=(added,))
            Z_low = draw("leverage", n, cheap, j)
            y_low = low(Z_low)
            Z = Z_low[: 2 * J]
            c = together(Z_low, y_low, Z, high(Z), y_low[: 2 * J], *endpoints)
            results.append((np.mean(np.abs(c.phi - truth)[1:]), np.mean((c.high - c.low)[1:])))
    plain, with_outlier = np.median(results[0::2], axis=0), np.median(results[1::2], axis=0)
    assert np.all(with_outlier < 1.15 * plain)


def test_credits_sum_to_the_gain_and_endpoints_enter_equally():
    args, _ = example()
    v0, v1 = args[5:]
    plain, noisy = together(*args), together(*args[:5], [v0 - 0.3, v0 + 0.3], [v1 - 0.4, v1 + 0.4])
    assert plain.phi.sum() == pytest.approx(v1 - v0, abs=1e-9)
    assert noisy.phi == pytest.approx(plain.phi)
    assert noisy.se**2 - plain.se**2 == pytest.approx(np.full(8, 0.25 / 64))
    assert np.all(noisy.high - noisy.low > plain.high - plain.low)
    assert together(*args[:5], v0 - 50, v1).phi - plain.phi == pytest.approx(np.full(8, 50 / 8))
    assert plain.dof.shape == (8,)
    narrow = together(*args, 0.8)
    assert np.all((narrow.low < narrow.phi) & (narrow.phi < narrow.high))
    assert narrow.high - narrow.low == pytest.approx(2 * student.ppf(0.9, plain.dof) * plain.se)


def test_numbering_of_players_and_order_of_rows_do_not_matter():
    args, _ = example()
    result = together(*args)
    rng = np.random.default_rng(0)
    order, low_rows, rows = rng.permutation(8), rng.permutation(100), rng.permutation(40)
    Z_low, y_low, Z, y, paired, v0, v1 = args
    other = together(
        Z_low[low_rows][:, order], y_low[low_rows], Z[rows][:, order], y[rows], paired[rows], v0, v1
    )
    assert other.phi == pytest.approx(result.phi[order], abs=1e-8)
    assert other.se == pytest.approx(result.se[order], rel=1e-6)


def test_units_do_not_matter():
    (Z_low, y_low, Z, y, paired, v0, v1), _ = example()
    result = together(Z_low, y_low, Z, y, paired, v0, v1)
    other = together(Z_low, 1e6 * y_low - 7, Z, 1e-3 * y, 1e6 * paired - 7, 1e-3 * v0, 1e-3 * v1)
    assert other.phi == pytest.approx(1e-3 * result.phi, rel=1e-6)
    assert other.se == pytest.approx(1e-3 * result.se, rel=1e-5)


@pytest.mark.parametrize(
    ("n", "J", "cheap", "noise", "rho", "apart", "off", "reps"),
    [
        (8, 12, 80, 0.3, 0.9, False, 0.0, 40),
        slow(20, 12, 300, 0.1, 0.9, False, 0.0, 60),
        slow(20, 30, 300, 0.5, 0.9, False, 0.0, 60),
        slow(12, 20, 300, 0.1, 0.9, True, 0.0, 60),
        slow(12, 20, 300, 0.1, 0.9, False, 20.0, 60),
        (8, 12, 80, 0.1, 0.0, True, 20.0, 40),  # an unrelated cheap game
        slow(12, 20, 300, 0.1, 0.0, False, 0.0, 60),
        slow(12, 20, 300, 0.5, -0.9, True, 0.0, 60),  # a cheap game opposite to the retrained one
    ],
)
def test_intervals_cover(n, J, cheap, noise, rho, apart, off, reps):
    covered, ratio, _ = coverage(n, J, noise, rho, reps, apart=apart, off=off, cheap=cheap)
    assert covered > 0.935
    assert 0.4 < ratio < 1.15


def coverage_with_outliers(n, J, cheap, noise, added, visible, reps):
    """Share of games in which each player is covered (n,), and the median width over players and games.

    Also the share of games in which any credit is outside its interval.
    """
    rng, covered, width, outside = np.random.default_rng(n + J), [], [], []
    for j in range(reps):
        low, high, endpoints, truth = two_games(n, 0.9, noise, rng, added=added, visible=visible)
        Z_low = draw("leverage", n, cheap, j)
        y_low = low(Z_low)
        c = together(Z_low, y_low, Z_low[: 2 * J], high(Z_low[: 2 * J]), y_low[: 2 * J], *endpoints)
        covered.append((c.low <= truth) & (truth <= c.high))
        width.append(np.median(c.high - c.low))
        outside.append(np.any((c.phi < c.low) | (c.phi > c.high)))
    return np.mean(covered, axis=0), np.median(width), np.mean(outside)


@pytest.mark.parametrize(
    ("n", "J", "cheap", "noise", "added", "visible", "widest", "reps"),
    [
        (8, 12, 60, 0.1, (10.0,), 0.0, 4.0, 50),
        slow(20, 12, 300, 0.1, (3.0,), 0.0, 3.5, 80),
        slow(20, 12, 300, 0.1, (30.0,), -1.0, 3.5, 80),
        slow(20, 8, 300, 0.1, (10.0,), 0.0, 60.0, 80),
        slow(20, 20, 300, 0.5, (3.0,), 0.0, 2.0, 80),
        slow(10, 12, 300, 0.1, (10.0, -7.0), 0.0, 2.5, 80),
    ],
    ids=["small", "not visible", "opposite", "eight pairs", "noise", "two outliers"],
)
def test_intervals_cover_players_who_stand_out_in_the_retrained_game_alone(
    n, J, cheap, noise, added, visible, widest, reps
):
    """One ridge for all players would cover them in .67 to .9 of games, and all players together in .98."""
    covered, width, outside = coverage_with_outliers(n, J, cheap, noise, added, visible, reps)
    assert covered[: len(added)].min() >= 0.93
    assert covered.mean() > 0.95
    assert width < widest
    assert outside == 0


def one_distinguishing_pair():
    """Eleven pairs of which a single one has the first and the last player in the same coalition."""
    S = leverage_pairs(draw("leverage", 8, 200, 0)).S
    S = np.vstack([S[S[:, 0]][:10], S[~S[:, 0]][:1]])
    return leverage_pairs(np.stack([S, ~S], axis=1).reshape(-1, 8))


def test_a_player_that_a_single_pair_distinguishes_has_an_infinite_interval():
    """The difference to a newcomer contains that pair's noise, which cannot be estimated."""
    pairs = one_distinguishing_pair()
    D = np.random.default_rng(0).normal(size=11)
    fit = assisted(pairs, D, joined=1)
    result = with_intervals(fit, checked_endpoints(0.0, 28.0), 0.95)
    assert np.isinf([result.se[0], result.high[0], -result.low[0]]).all()
    assert np.isfinite(result.phi).all()
    assert np.isfinite((result.high - result.low)[1:]).all()
    with pytest.raises(ValuationError, match="found 1 players in a control game that only a single pair"):
        controlled(pairs, D, [Control(D, fit)], np.arange(11))


def test_reports_say_what_intervals_cover():
    assert covers(24, ["240 of finetune"], 20).startswith(
        "ranking only (24 retrained coalitions for 20 players, expected at least 80): a player's"
    )
    enough = covers(80, ["240 of finetune"], 20)
    assert enough.startswith("a player's Shapley value in the game of retraining")
    assert covers(14, ["14 of finetune"], 4).startswith("a player's")


def test_a_cheap_game_on_the_same_pairs_adds_nothing(monkeypatch):
    """Credits and errors are those of the retrained game alone: HC3 of one part and HC2 of the other."""
    monkeypatch.setattr("apportion.valuation.multifidelity.RIDGES", (0.0,))
    low, high, endpoints, _ = two_games(10, 0.95, 0.1, np.random.default_rng(1))
    Z = draw("leverage", 10, 160, 1)
    y, cheap = high(Z), low(Z)
    both, pairs = together(Z, cheap, Z, y, cheap, *endpoints), leverage_pairs(Z)
    alone = assisted(pairs, pairs.odd(y))
    assert both.phi == pytest.approx(alone.phi + (endpoints[1] - endpoints[0]) / 10, abs=1e-8)
    assert both.rho[0][1] > 0.6
    assert 0.97 * np.sum(alone.as_known().shift ** 2) < np.sum(both.se**2) < 1.03 * np.sum(alone.shift**2)


def test_shared_coalitions_are_one_source_of_error():
    """Errors of a pair in both games are added before they are squared, also over three games."""
    low, high, _, _ = two_games(9, 0.9, 0.3, np.random.default_rng(1))
    Z = draw("leverage", 9, 60, 1)
    cheap, retrained = leverage_pairs(Z), leverage_pairs(Z[:40])
    D, x = retrained.odd(high(Z[:40])), retrained.odd(low(Z[:40]))
    known, own = assisted(cheap, cheap.odd(low(Z))), np.arange(20)
    certain = known._replace(shift=0 * known.shift)
    apart = fitted(retrained, D, x, certain, np.full(20, -1))
    parent = np.where(own < 15, own + 3, -1)
    shared = fitted(retrained, D, x, certain, parent)
    assert apart.shift[:, :30] == pytest.approx(0)
    assert shared.shift[:, 3:18] == pytest.approx(apart.shift[:, 30:45])
    assert shared.shift[:, 30:] == pytest.approx(apart.shift[:, 45:])
    assert shared.cluster.tolist() == [*range(3, 18), *range(30, 35)]
    third = fitted(retrained, D, x, shared, np.where(own < 10, own + 10, -1))
    assert third.cluster.tolist() == [*range(13, 18), *range(30, 35), *range(35, 45)]
    assert third.shift.shape == (9, 45)


def test_uncertain_credits_have_a_penalty_as_control():
    """Not where their errors come from the same pairs."""
    low, high, _, _ = two_games(9, 0.9, 0.1, np.random.default_rng(1))
    Z = draw("leverage", 9, 60, 1)
    pairs = leverage_pairs(Z)
    D, x = pairs.odd(high(Z)), pairs.odd(low(Z))
    known = assisted(pairs, x)
    rho = [
        fitted(pairs, D, x, known._replace(shift=worse * known.shift), parent).rho[1]
        for worse, parent in ((1, np.full(30, -1)), (9, np.full(30, -1)), (9, np.arange(30)))
    ]
    assert rho[1] < 0.2 * rho[2]
    assert rho[1] < rho[0] < rho[2]


@pytest.mark.parametrize(
    ("n", "J", "cheap", "reps", "most"),
    [(6, 10, 40, 40, 0.6), (6, 20, 40, 40, 0.4), slow(12, 12, 120, 120, 0.6), slow(12, 40, 120, 120, 0.25)],
)
def test_bias_is_small_and_falls_with_pairs(n, J, cheap, reps, most):
    """The root mean square of the players' mean errors in one game, corrected for chance, in SD."""
    rng = np.random.default_rng(5)
    low, high, endpoints, truth = two_games(n, 0.9, 0.1, rng)
    errors = []
    for j in range(reps):
        Z_low = draw("leverage", n, cheap, j)
        y_low = low(Z_low)
        Z = Z_low[: 2 * J]
        errors.append(together(Z_low, y_low, Z, high(Z), y_low[: 2 * J], *endpoints).phi - truth)
    variance = np.mean(np.var(errors, axis=0))
    bias = np.mean(np.mean(errors, axis=0) ** 2) - variance / reps
    assert np.sqrt(max(bias, 0.0) / variance) < most


@pytest.mark.parametrize(("n", "J", "cheap", "reps"), [(10, 14, 200, 12), slow(20, 24, 300, 30)])
def test_a_faithful_cheap_game_narrows_intervals(n, J, cheap, reps):
    """Compared with an unrelated cheap game."""
    faithful = coverage(n, J, 0.1, 0.97, reps, cheap=cheap)[2]
    unrelated = coverage(n, J, 0.1, 0.0, reps, cheap=cheap)[2]
    assert faithful < 0.65 * unrelated


def test_pilot_recognises_a_correlated_game():
    rng = np.random.default_rng(0)
    pilots = {rho: [] for rho in (0.9, 0.0, -0.9)}
    for rho, results in pilots.items():
        for j in range(40):
            low, high, _, _ = two_games(12, rho, 0.1, rng)
            Z = draw("leverage", 12, 28, j)
            results.append(pilot(Z, low(Z), high(Z), 1.0, 20.0))
    assert np.mean([p.use for p in pilots[0.9]]) > 0.75
    assert np.mean([p.use for p in pilots[0.0]]) < 0.1
    assert not any(p.use for p in pilots[-0.9])
    assert np.median([p.rho for p in pilots[0.9]]) == pytest.approx(0.9, abs=0.05)
    assert np.mean([p.low < 0 < p.high for p in pilots[0.0]]) > 0.82
    refused = next(p for p in pilots[0.0] if not p.use)
    assert "does not surely correlate" in refused.reason
    assert "of use" in pilots[0.9][0].reason


def test_pilot_advises_against_high_cost_but_uses_existing_values():
    low, high, _, _ = two_games(12, 0.95, 0.0, np.random.default_rng(1))
    Z = draw("leverage", 12, 40, 1)
    assert pilot(Z, low(Z), high(Z), 1.0, 20.0).use
    expensive = pilot(Z, low(Z), high(Z), 0.9, 1.0)
    assert expensive.use
    assert expensive.reason.endswith("the gain is so small that the retrained game alone would be simpler")


@pytest.mark.parametrize(("rho", "ratio"), [(0.9, 20), (0.96, 20), (0.8, 50), (0.99, 5)])
def test_the_split_minimises_the_width(rho, ratio):
    budget = 4000.0

    def width(share):
        high = share * budget
        return np.sqrt(((1 - rho**2) / high + rho**2 / ((budget - high) * ratio)) * budget)

    best = minimize_scalar(width, bounds=(0.01, 0.99), method="bounded")
    result = split(budget, 1 / ratio, 1.0, rho)
    assert result.width == pytest.approx(best.fun, rel=1e-4)
    assert result.high == pytest.approx(best.x * budget, abs=2 + 0.01 * budget)
    assert result.high % 2 == result.low % 2 == 0
    assert budget - 1 < result.high + result.low / ratio <= budget
    assert relative_width(rho, 1 / ratio) == result.width


def test_half_the_width_needs_a_correlation_of_96_at_a_twentieth_of_the_cost():
    assert relative_width(0.96, 1 / 20) < 0.5 < relative_width(0.95, 1 / 20)


@pytest.mark.parametrize(("rho", "ratio"), [(0.2, 20), (0.7, 20), (0.0, 20), (-0.9, 20), (0.9, 1.2)])
def test_the_retrained_game_alone_where_a_cheap_one_gains_nothing(rho, ratio):
    result = split(101, 1 / ratio, 1.0, rho)
    assert (result.high, result.low) == (100, 0)
    assert "alone" in result.reason


def altered(position, change):
    args, _ = example()
    args[position] = change(args[position])
    return args


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        (altered(0, lambda Z: Z[:, :7]), {}, "found 8 players in Z and 7 in a cheap game"),
        (altered(1, lambda y: y[:-1]), {}, "y of shape"),
        (
            altered(3, lambda y: np.where(np.arange(len(y)) == 3, np.nan, y)),
            {},
            "1 of 40 numbers in y not finite",
        ),
        (altered(4, lambda y: y[:, None]), {}, "y of shape"),
        (altered(2, lambda Z: 2 * Z.astype(int)), {}, "expected booleans"),
        (altered(2, lambda Z: np.roll(Z, 1, axis=1)[[*range(39), 0]]), {}, "repeated rows"),
        (
            altered(2, lambda Z: np.vstack([Z[:39], ~Z[:1] ^ (np.arange(8) == 2)])),
            {},
            "without their complement",
        ),
        (
            altered(2, lambda Z: np.vstack([Z[:39], np.ones((1, 8), bool)])),
            {},
            "the empty coalition or all 8",
        ),
        (altered(5, lambda v: np.nan), {}, "in v0 not finite"),
        (altered(6, lambda v: np.ones((2, 2))), {}, "v1 of shape \\(2, 2\\)"),
        (altered(6, lambda v: [1.0]), {}, "v1 of shape \\(1,\\)"),
        (altered(5, lambda v: "0"), {}, "v0 that is not an array of numbers"),
        (altered(5, lambda v: v), {"level": 1.0}, "level = 1.0"),
        (altered(5, lambda v: v), {"level": None}, "level = None"),
        (altered(5, lambda v: v), {"level": "most"}, "level = 'most'"),
        (altered(5, lambda v: v), {"level": np.ones(2) / 2}, "level = array"),
        (altered(3, lambda y: None), {}, "y that is not an array of numbers"),
        (altered(0, lambda Z: None), {}, "Z of shape"),
        (
            [a[:14] if 2 <= j < 5 else a for j, a in enumerate(example()[0])],
            {},
            "found 7 pairs of coalitions, expected at least 8",
        ),
    ],
)
def test_combine_refuses(args, options, message):
    with pytest.raises(ValuationError, match=message):
        together(*args, **options)


def test_pilot_and_split_refuse():
    Z = draw("leverage", 6, 20, 0)
    y = Z @ np.arange(6.0)
    for args, message in [
        ((Z[:14], y[:14], y[:14], 1, 20), "found 7 pairs"),
        ((Z, y, y, 0, 20), "cost_low = 0"),
        ((Z, y, y, 1, np.inf), "in cost_high not finite"),
        ((Z, y, y, "1", 20), "cost_low that is not an array of numbers"),
        ((Z, y, y, 1, None), "cost_high that is not an array of numbers"),
        ((Z, y, y, [1, 2], 20), "cost_low of shape"),
        ((Z, y, y, 1, 20, "high"), "level = 'high'"),
        ((Z, y, y, 1, 20, 0.0), "level = 0.0"),
        ((Z, np.ones(20), y, 1, 20), "odd parts are all alike"),
    ]:
        with pytest.raises(ValuationError, match=message):
            pilot(*args)
    for args, message in [
        ((10, 1, 2, 0.9), "budget = 10"),
        ((np.nan, 1, 2, 0.9), "budget"),
        ((1e3, 1, 2, 1.0), "rho = 1.0"),
        ((1e3, 1, 2, "0.9"), "rho that is not an array"),
        ((1e3, 1, 2, np.nan), "in rho not finite"),
        ((None, 1, 2, 0.9), "budget that is not an array"),
        ((np.inf, 1, 2, 0.9), "in budget not finite"),
        ((1e3, -1, 2, 0.9), "cost_low"),
        ((1e3, [1], 2, 0.9), "cost_low of shape"),
    ]:
        with pytest.raises(ValuationError, match=message):
            split(*args)


def test_errors_are_unknown_without_residuals_until_all_coalitions_are_present():
    """A rare coalition decides and is not among the retrained ones, also with values in single precision."""
    Z = draw("leverage", 10, 60, 2)
    rare = Z[:, :3].all(axis=1) & ~Z[:, 3:6].any(axis=1)
    assert not rare[:24].any()
    a = np.arange(10) * 0.37
    for y in (Z @ a, (Z @ a).astype(np.float32)):
        result = together(Z, y, Z[:24], y[:24], y[:24], 0.0, a.sum())
        assert np.isinf(result.low).all()
        assert np.isinf(result.high).all()
    every = draw("leverage", 5, 30, 0)
    y = every @ a[:5]
    known = together(every, y, every, y, y, 0.0, a[:5].sum())
    assert known.low == pytest.approx(a[:5], abs=1e-9)


# Several cheap games


def three_games(n, rng):
    """Three random games of unit SD, with the endpoints and the Shapley values of the first."""
    games = [game(n, rng) for _ in range(3)]
    scale = [g.value(draw("leverage", n, min(400, 2**n - 2), 0)).std() for g in games]
    endpoints = games[0].value([[0] * n, [1] * n]) / scale[0]
    values = [lambda Z, g=g, s=s: g.value(Z) / s for g, s in zip(games, scale, strict=True)]
    return values, endpoints, games[0].shapley() / scale[0]


def test_games_that_add_up_to_the_retrained_one_give_its_credits_from_few_pairs():
    """Neither of them alone says all of it. Both are known without error, so nothing is left to estimate."""
    (first, second, _), _, _ = three_games(8, np.random.default_rng(3))
    every = draw("leverage", 8, 2**8 - 2, 0)
    Z = draw("leverage", 8, 24, 1)
    low, high = np.zeros((1, 8), bool), np.ones((1, 8), bool)
    v0, v1 = (float(first(end)[0] + 2 * second(end)[0]) for end in (low, high))
    games = [
        CheapGame(every, first(every), noise_free=True),
        CheapGame(every, second(every), noise_free=True),
    ]
    result = combine(games, Z, first(Z) + 2 * second(Z), v0, v1)
    index = every @ (1 << np.arange(8))
    v = np.empty(2**8)
    v[index], v[0], v[-1] = first(every) + 2 * second(every), v0, v1
    assert result.phi == pytest.approx(exact(v), abs=1e-6)
    assert [rho[1] for rho in result.rho] == pytest.approx([1, 2], abs=1e-6)


@pytest.mark.parametrize("n", [5, 6])
def test_all_coalitions_give_exact_credits_for_any_two_cheap_games(n):
    rng, every = np.random.default_rng(n), draw("leverage", n, 2**n - 2, 0)
    v, index = rng.normal(size=2**n), every @ (1 << np.arange(n))
    games = [CheapGame(every, rng.normal(size=len(every))) for _ in range(2)]
    assert combine(games, every, v[index], v[0], v[-1]).phi == pytest.approx(exact(v), abs=1e-8)


def test_a_useless_second_game_is_left_out():
    (truth, other, noise), endpoints, _ = three_games(10, np.random.default_rng(0))
    Z_low, Z = draw("leverage", 10, 300, 0), draw("leverage", 10, 40, 1)
    good = CheapGame(Z_low, truth(Z_low) + 0.3 * other(Z_low), Z, truth(Z) + 0.3 * other(Z))
    useless = CheapGame(Z_low, noise(Z_low), Z, noise(Z))
    alone, both = (combine(games, Z, truth(Z), *endpoints) for games in ([good], [useless, good]))
    assert both.rho[0] == (0.0, 0.0)
    assert both.phi == pytest.approx(alone.phi)
    assert both.se == pytest.approx(alone.se)


@pytest.mark.parametrize("n", [5, 6, 8])
def test_games_that_are_too_many_for_few_pairs_are_left_out(n):
    """Eight retrained pairs allow one control, not two."""
    (truth, own, other), endpoints, _ = three_games(n, np.random.default_rng(n))
    every, design = draw("leverage", n, 2**n - 2, 1), draw("leverage", n, min(40, 2**n - 2), 0)
    Z = design[:16]
    games = [
        CheapGame(every, own(every), design, own(design), noise_free=True),
        CheapGame(design, truth(design) + other(design)),
    ]
    result = combine(games, Z, truth(Z), *endpoints)
    assert sum(rho != (0.0, 0.0) for rho in result.rho) == 1
    assert np.isfinite(result.phi).all()


def test_a_cheaper_game_needs_the_coalitions_of_dearer_ones():
    Z_low, Z = draw("leverage", 8, 60, 0), draw("leverage", 8, 40, 1)
    games = [CheapGame(Z_low, Z_low.sum(axis=1)), CheapGame(Z, Z.sum(axis=1))]
    with pytest.raises(
        ValuationError, match="of 20 pairs of coalitions that a cheaper game was not evaluated"
    ):
        combine(games, Z, Z.sum(axis=1), 0.0, 8.0)


@pytest.mark.parametrize(
    ("n", "J", "noise", "sets", "reps"),
    [(8, 12, 0.3, 0.5, 20), slow(12, 12, 0.3, 0.5, 60), slow(12, 24, 0.1, 1.0, 60)],
)
def test_intervals_cover_with_own_images_and_experts_that_share_sets(n, J, noise, sets, reps):
    """The second game has three sets of weights, dealt to its pairs. Each shifts players by itself, `sets` SD
    of a coalition's value, which is no noise of the retrained game."""
    rng, covered, width = np.random.default_rng(1), [], []
    for j in range(reps):
        (truth, first, second), endpoints, phi = three_games(n, rng)
        shift = rng.normal(size=(3, n)) * 2 * sets / np.sqrt(n)
        design = draw("leverage", n, 96, j)
        dealt = np.repeat(rng.permutation(np.arange(48) % 3), 2)

        def own(Z, truth=truth, first=first):
            return 0.9 * truth(Z) + 0.44 * first(Z)

        experts = 0.85 * truth(design) + 0.53 * second(design) + noise * rng.normal(size=96)
        experts += np.einsum("ij,ij->i", design - 0.5, shift[dealt])
        own_design = draw("leverage", n, min(2**n - 2, 512), j + 10**6)
        games = [
            CheapGame(own_design, own(own_design), design, own(design), True),
            CheapGame(design, experts),
        ]
        Z = design[: 2 * J]
        y = truth(Z) + noise * rng.normal(size=2 * J)
        c, alone = combine(games, Z, y, *endpoints), leverage_pairs(Z)
        covered.append(np.mean((c.low <= phi) & (phi <= c.high)))
        by_itself = with_intervals(assisted(alone, alone.odd(y)), checked_endpoints(*endpoints), 0.95)
        width.append(np.median(c.high - c.low) / np.median(by_itself.high - by_itself.low))
    assert np.mean(covered) > 0.92
    assert np.median(width) < 0.9
