"""Interactions of pairs of players and their intervals, compared with the definition, with dense matrices,
and with known interactions in simulations.

`_established` is called directly: what `estimate` returns mixes it with the interval.
"""

from itertools import combinations
from math import factorial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import slow
from random_games import NOISE, dealt, equal_game, game, set_effects
from scipy.stats import t as student

from apportion.errors import ValuationError
from apportion.valuation import interactions
from apportion.valuation.coalitions import draw
from apportion.valuation.interactions import estimate, too_few

steady = settings(derandomize=True, deadline=None, max_examples=4, database=None)
seeds = st.integers(0, 2**32 - 1)


def every(n):
    """All coalitions (2**n, n); bit i of the index says whether player i is in it."""
    return (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(bool)


def index(Z):
    return Z @ (1 << np.arange(Z.shape[1]))


def by_definition(values):
    """Shapley interactions (pairs,) of the game with these values (2**n,): Grabisch & Roubens 1999."""
    n = len(values).bit_length() - 1
    size, S = every(n).sum(axis=1), np.arange(2**n)
    chance = np.array([factorial(s) * factorial(max(n - s - 2, 0)) for s in range(n + 1)]) / factorial(n - 1)
    result = []
    for i, j in combinations(range(n), 2):
        T = S[~every(n)[:, i] & ~every(n)[:, j]]
        i, j = 1 << i, 1 << j
        result.append(chance[size[T]] @ (values[T | i | j] - values[T | i] - values[T | j] + values[T]))
    return np.array(result)


def table(n, seed):
    """Random values of all coalitions, (2**n,)."""
    return np.random.default_rng(seed).normal(size=2**n)


# Known values


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 8])
def test_all_coalitions_give_exact_interactions(n):
    """Up to 4 players there are too few pairs of coalitions for an interval."""
    values, Z = table(n, n), draw("leverage", n, 2**n - 2, 0)
    result = estimate(Z, values[index(Z)], values[0], values[-1])
    truth = by_definition(values)
    assert result.value == pytest.approx(truth, abs=1e-12)
    assert ((result.low <= truth) & (truth <= result.high)).all()
    assert np.isfinite(result.se).all() == (n > 4)
    assert bool(result.unknown) == (n <= 4)


def test_all_coalitions_without_interactions_give_intervals_of_rounding():
    Z = draw("leverage", 6, 62, 0)
    y = Z @ np.arange(6.0)
    result = estimate(Z, y, 0.0, 15.0)
    assert np.abs(result.value).max() < 1e-12
    assert (result.se > 0).all()
    assert (result.se < 1e-4).all()
    assert not result.established.any()


def test_means_over_seeds_are_the_ends_of_the_definition():
    values, Z = table(6, 1), draw("leverage", 6, 62, 0)
    y, v1 = values[index(Z)], values[-1] + np.array([-0.3, 0.1, 0.2])
    known, measured = (estimate(Z, y, values[0], end) for end in (values[-1], v1))
    assert measured.value == pytest.approx(known.value)
    of_end = v1.var(ddof=1) / 3 / 25
    assert measured.se**2 == pytest.approx(known.se**2 + of_end)
    wider = student.ppf(0.975, 2) ** 2 * of_end  # each part has its own quantile
    half = [(result.high - result.low) / 2 for result in (known, measured)]
    assert half[1] ** 2 == pytest.approx(half[0] ** 2 + wider)


def test_substitutes_and_complements_are_established():
    rng = np.random.default_rng(2)
    Z = draw("leverage", 10, 120, 1)
    y = Z @ rng.normal(size=10) + 6.0 * (Z[:, 0] | Z[:, 1]) + 6.0 * (Z[:, 2] & Z[:, 3])
    y += 0.3 * rng.normal(size=120)
    result = estimate(Z, y, 0.0, float(Z[0] @ np.zeros(10)) + 12.0)
    pairs = list(combinations(range(10), 2))
    assert [pairs[k] for k in np.flatnonzero(result.established)] == [(0, 1), (2, 3)]
    assert result.value[pairs.index((0, 1))] < -3
    assert result.value[pairs.index((2, 3))] > 3


# The estimate, with dense matrices


def fixed_model(monkeypatch, of_players, of_sets, noise):
    monkeypatch.setattr(interactions, "OF_PLAYERS", (of_players,))
    monkeypatch.setattr(interactions, "OF_SETS", (of_sets,))
    monkeypatch.setattr(interactions, "NOISE_SHARES", np.array([noise]))


def sample(n, m, seed, sets=0):
    """Coalitions in random order, values of a game with pairs, triples and noise, v0, v1, and the sets."""
    rng = np.random.default_rng(seed)
    g, Z = game(n, rng), draw("leverage", n, m, seed)
    y = g.value(Z) + rng.normal(size=m)
    of_set = dealt(Z, sets, rng) if sets else None
    if sets:
        y = y + set_effects("interactions", Z, of_set, rng)
    rows = rng.permutation(m)
    return Z[rows], y[rows], *g.value([[0] * n, [1] * n]), None if of_set is None else of_set[rows]


def by_the_book(Z, y, v0, v1, of_set, of_players, of_sets, noise):
    """The estimate, the one that is not shrunk, and its squared standard error, (pairs,) each, by matrices of
    all pairs of coalitions and all effects; and the variance that the levels of sets add.

    Best linear unbiased prediction of all even parts, seen or not: Robinson 1991, "That BLUP is a good
    thing", equations 1.2. An effect that is not shrunk has an additional variance that is as good as
    infinite.
    """
    n = Z.shape[1]
    pairs, e1 = list(combinations(range(n), 2)), 2 / (n - 1)
    all_rows = every(n)[1 : 2 ** (n - 1)]  # one of each pair, without the empty coalition
    codes = index(Z)
    mine = [k for k, row in enumerate(Z) if not row[n - 1]]
    e = np.array([(y[k] + y[np.flatnonzero(codes == 2**n - 1 - codes[k])[0]]) / 2 for k in mine])
    at = codes[mine] - 1
    x = np.where(all_rows, 1.0, -1.0)
    X = np.array([x[:, i] * x[:, j] for i, j in pairs]).T
    common = np.array([[len({*a} & {*b}) for b in pairs] for a in pairs])  # players in both pairs
    prior = (1 - of_players) * np.eye(len(pairs)) + of_players / 2 * common
    off = 2 * all_rows.sum(axis=1) / n - 1
    F = np.column_stack([off**0, off**2, off**4])
    seen_F, same = F[at], np.eye(len(at))
    if of_set is not None:
        names = of_set[mine]
        same = (names[:, None] == names).astype(float)
        apart = np.eye(names.max() + 1)[names]
        seen_F = np.hstack([F[at], apart[:, 1:] - apart[:, :1]])
        F = np.hstack([F, np.zeros((len(F), names.max()))])
    else:
        of_sets = 0.0
    kernel = X[at] @ prior @ X[at].T * (1 - of_sets + of_sets * same)
    M = np.eye(len(at)) - seen_F @ np.linalg.pinv(seen_F)
    unit = (len(at) - seen_F.shape[1]) / np.trace(M @ kernel)
    noise = noise**2 / (1 - noise**2)
    inner = unit * kernel + noise * np.eye(len(at))

    of_one_set = unit * of_sets * (X[at] @ prior @ X[at].T) * same

    def weights(V, G):
        """Of the seen even parts in all even parts, without what sets add, (all, seen)."""
        W = np.linalg.inv(V)
        gls = np.linalg.solve(seen_F.T @ W @ seen_F, seen_F.T @ W)
        beside = W @ (np.eye(len(at)) - seen_F @ gls)
        parts = F @ gls + X @ G @ X[at].T @ beside
        parts[at] = np.eye(len(at)) - seen_F[:, 3:] @ gls[3:] - of_one_set @ beside
        return parts

    coefficients = np.zeros((len(pairs), len(all_rows)))
    for k in range(len(all_rows)):
        unit_game = np.zeros(2**n)
        unit_game[[k + 1, 2**n - 2 - k]] = 1.0
        coefficients[:, k] = by_definition(unit_game)
    G = (1 - of_sets) * unit * prior
    value = coefficients @ weights(inner, G) @ e + (v0 + v1) / (n - 1)
    scale = e @ np.linalg.solve(
        inner,
        e
        - seen_F
        @ np.linalg.solve(seen_F.T @ np.linalg.solve(inner, seen_F), seen_F.T @ np.linalg.solve(inner, e)),
    )
    scale /= len(at) - seen_F.shape[1]
    centre, error = np.empty(len(pairs)), np.empty(len(pairs))
    sizes = np.minimum(all_rows.sum(axis=1), n - all_rows.sum(axis=1))
    P = np.linalg.inv(inner)
    P -= P @ seen_F @ np.linalg.solve(seen_F.T @ P @ seen_F, seen_F.T @ P)
    squares = noise * (P @ e) ** 2 / np.diagonal(P)
    by_size = np.array([squares[sizes[at] == s].mean() for s in sizes])
    for k in range(len(pairs)):
        free = np.zeros_like(prior)
        free[k, k] = 1e6
        L = coefficients[k] @ weights(inner + X[at] @ free @ X[at].T, G + free)
        centre[k] = L @ e + (v0 + v1) / (n - 1)
        off_target = L @ X[at] + e1 - 4 * (np.arange(len(pairs)) == k)
        own = (
            np.array([L @ (X[at] * (names == r)[:, None]) for r in range(names.max() + 1)]) if of_sets else 0
        )
        of_effects = off_target @ G @ off_target
        if of_sets:
            of_effects += of_sets * unit * np.sum((own @ prior) * own)
        unseen = np.setdiff1d(np.arange(len(all_rows)), at)
        of_noise = noise * scale * (L @ L + np.sum(coefficients[k, unseen] ** 2))
        sized = L**2 @ by_size[at] + coefficients[k, unseen] ** 2 @ by_size[unseen]
        error[k] = scale * of_effects + max(of_noise, sized)
    level = np.linalg.lstsq(seen_F, e, rcond=None)[0][3:]
    sets = len(level) + 1
    of_levels = e1**2 * np.var([-level.sum(), *level], ddof=1) / sets if sets > 1 else 0.0
    return value, centre, error, of_levels


@pytest.mark.parametrize(
    ("n", "m", "sets", "of_players", "of_sets", "noise"),
    [
        (6, 40, 0, 0.0, 0.0, 0.5),
        (6, 60, 0, 0.4, 0.0, 0.1),
        (7, 36, 0, 0.4, 0.0, 0.8),
        (7, 60, 3, 0.2, 0.0, 0.5),
        (6, 50, 4, 0.5, 0.3, 0.3),
    ],
)
def test_it_is_the_best_linear_unbiased_prediction(n, m, sets, of_players, of_sets, noise, monkeypatch):
    fixed_model(monkeypatch, of_players, of_sets, noise)
    Z, y, v0, v1, of_set = sample(n, m, 1, sets)
    result = estimate(Z, y, v0, v1, sets=of_set)
    value, centre, error, of_levels = by_the_book(Z, y, v0, v1, of_set, of_players, of_sets, noise)
    assert result.value == pytest.approx(value, abs=1e-7)
    assert result.se == pytest.approx(np.sqrt(error + of_levels), rel=1e-4)
    squared = student.ppf(0.975, m // 2 - 3 - max(sets - 1, 0)) ** 2 * error
    half = np.sqrt(squared + (student.ppf(0.975, sets - 1) ** 2 * of_levels if sets else 0.0))
    assert result.low == pytest.approx(np.minimum(centre - half, value), rel=1e-3, abs=1e-3)
    assert result.high == pytest.approx(np.maximum(centre + half, value), rel=1e-3, abs=1e-3)


# Invariances


def signs_of(result):
    """What all parts of a result say, (4, pairs)."""
    return np.array([result.value, result.se, result.low, result.high])


@steady
@given(seeds, st.integers(5, 9), st.sampled_from([0, 3]), st.floats(0.01, 100))
def test_nothing_depends_on_names_order_or_units(seed, n, sets, scale):
    Z, y, v0, v1, of_set = sample(n, min(4 * n, 2**n - 2), seed, sets)
    rng = np.random.default_rng(seed)
    rows, players = rng.permutation(len(y)), rng.permutation(n)
    first = estimate(Z, y, v0, v1, sets=of_set)
    found, close = signs_of(first), {"rel": 1e-5, "abs": 1e-6}
    by_rows = estimate(Z[rows], y[rows], v0, v1, sets=None if of_set is None else of_set[rows])
    assert signs_of(by_rows) == pytest.approx(found, **close)
    square = np.zeros((4, n, n))
    square[:, *np.triu_indices(n, 1)] = found
    renamed = (square + square.swapaxes(1, 2))[:, players][:, :, players][:, *np.triu_indices(n, 1)]
    other_names = None if of_set is None else 7 - 2 * of_set
    by_name = estimate(Z[:, players], y, v0, v1, sets=other_names)
    assert signs_of(by_name) == pytest.approx(renamed, **close)
    scaled = estimate(Z, scale * y, scale * v0, scale * v1, sets=of_set)
    assert signs_of(scaled) / scale == pytest.approx(found, **close)
    opposite = estimate(Z, -y, -v0, -v1, sets=of_set)
    assert signs_of(opposite) == pytest.approx(found[[0, 1, 3, 2]] * [[-1], [1], [-1], [-1]], **close)
    assert (opposite.established == first.established).all()


@steady
@given(seeds, st.integers(5, 9))
def test_what_has_no_interactions_changes_nothing(seed, n):
    Z, y, v0, v1, _ = sample(n, min(4 * n, 2**n - 2), seed)
    a = np.random.default_rng(seed).normal(size=n)
    found = signs_of(estimate(Z, y, v0, v1))
    added = estimate(Z, y + 5 + Z @ a, v0 + 5, v1 + 5 + a.sum())
    assert signs_of(added) == pytest.approx(found, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("n", [6, 9])
def test_the_ends_move_all_interactions_alike(n):
    Z, y, v0, v1, _ = sample(n, 40, 3)
    found, moved = estimate(Z, y, v0, v1), estimate(Z, y, v0 - 4.0, v1 + 1.0)
    assert moved.value == pytest.approx(found.value - 3.0 / (n - 1))
    assert moved.se == pytest.approx(found.se)


def test_the_levels_of_sets_only_widen_intervals():
    Z, y, v0, v1, of_set = sample(7, 60, 5, sets=4)
    level = np.array([3.0, -1.0, 0.0, -2.0])
    found, moved = (estimate(Z, values, v0, v1, sets=of_set) for values in (y, y + level[of_set]))
    assert moved.value == pytest.approx(found.value)
    assert (moved.se > found.se).all()
    assert np.ptp(moved.se**2 - found.se**2) == pytest.approx(0, abs=1e-9)


def test_additive_noise_of_sets_cancels_where_the_grand_coalition_has_it_too():
    Z, y, v0, v1, of_set = sample(7, 60, 5, sets=4)
    of_players = np.random.default_rng(0).normal(size=(4, 7))
    of_players -= of_players.mean(axis=0)
    v1 = v1 + np.array([0.1, -0.2, 0.4, 0.0])
    found = signs_of(estimate(Z, y, v0, v1, sets=of_set))
    noisy = y + np.sum(Z * of_players[of_set], axis=1)
    moved = estimate(Z, noisy, v0, v1 + of_players.sum(axis=1), sets=of_set)
    assert signs_of(moved) == pytest.approx(found, rel=1e-6)
    # Values of five seeds are not those of the sets, and their errors are added.
    apart = estimate(Z, noisy, v0, np.append(v1 + of_players.sum(axis=1), v1.mean()), sets=of_set)
    assert (apart.se > 1.01 * found[1]).all()


def test_fewer_than_three_sets_leave_their_noise_out():
    Z, y, v0, v1, of_set = sample(7, 60, 5, sets=3)
    plain = signs_of(estimate(Z, y, v0, v1))
    assert np.array_equal(signs_of(estimate(Z, y, v0, v1, sets=of_set % 2)), plain)
    assert not np.allclose(signs_of(estimate(Z, y, v0, v1, sets=of_set)), plain, rtol=1e-3)


def test_a_coalition_in_several_rows_counts_once_and_one_without_its_complement_not_at_all():
    Z, y, v0, v1, _ = sample(6, 40, 0)
    result = signs_of(estimate(Z[1:], y[1:], v0, v1))
    partner = int(np.flatnonzero((Z[0] != Z).all(axis=1))[0])
    whole = np.setdiff1d(np.arange(40), [0, partner])
    assert signs_of(estimate(Z[whole], y[whole], v0, v1)) == pytest.approx(result, rel=1e-6)
    rows = np.repeat(np.arange(40), np.arange(40) % 3 + 1)
    apart = np.random.default_rng(1).normal(size=len(rows))
    apart -= (np.bincount(rows, apart) / np.bincount(rows))[rows]
    repeated = estimate(Z[rows], y[rows] + apart, v0, v1)
    assert signs_of(repeated) == pytest.approx(signs_of(estimate(Z, y, v0, v1)), rel=1e-7)


def test_pairs_of_players_are_taken_in_blocks(monkeypatch):
    Z, y, v0, v1, of_set = sample(9, 60, 2, sets=3)
    whole = signs_of(estimate(Z, y, v0, v1, sets=of_set))
    monkeypatch.setattr(interactions, "PAIRS_AT_ONCE", 7)
    assert signs_of(estimate(Z, y, v0, v1, sets=of_set)) == pytest.approx(whole, rel=1e-9)


# Signs


def test_signs_are_those_that_holm_rejects():
    """Holm 1979: the k-th smallest of K p-values is compared with the chance of an error over K - k + 1."""
    rng = np.random.default_rng(0)
    for level in (0.5, 0.9, 0.95):
        centre, se, dof = rng.normal(0, 6, size=12), rng.uniform(0.5, 2, size=12), 9
        p = 2 * student.sf(np.abs(centre) / se, dof)
        order, expected = np.argsort(p), np.zeros(12, bool)
        for k, at in enumerate(order):
            if p[at] >= (1 - level) / (12 - k):
                break
            expected[at] = True

        def half(one, se=se, dof=dof):
            return student.ppf(0.5 + one / 2, dof) * se

        found = interactions._established(centre, half, level)
        assert np.array_equal(found, expected)
        assert 0 < found.sum() < 12


@steady
@given(seeds, st.sampled_from([0, 3]), st.sampled_from([0.5, 0.8, 0.95]))
def test_an_established_sign_is_that_of_the_whole_interval(seed, sets, level):
    Z, y, v0, v1, of_set = sample(6, 56, seed, sets)
    result = estimate(Z, 4 * y, 4 * v0, 4 * v1, level, sets=of_set)
    assert ((result.low <= result.value) & (result.value <= result.high)).all()
    clear = (result.low > 0) | (result.high < 0)
    assert not (result.established & ~clear).any()
    wider = estimate(Z, 4 * y, 4 * v0, 4 * v1, 1 - (1 - level) / 2, sets=of_set)
    assert (
        (wider.low < result.low) & (result.high < wider.high)
        | (result.low == result.value)
        | (result.high == result.value)
    ).all()
    assert not (wider.established & ~result.established).any()


# No interval


@pytest.mark.parametrize(("n", "pairs", "sets"), [(5, 9, 0), (6, 10, 0), (12, 10, 0), (12, 12, 3)])
def test_too_few_pairs_give_estimates_without_intervals(n, pairs, sets):
    Z, y, v0, v1, of_set = sample(n, 2 * pairs, 0, sets)
    result = estimate(Z, y, v0, v1, sets=of_set)
    assert np.isfinite(result.value).all()
    assert np.isinf(result.se).all()
    assert np.isneginf(result.low).all()
    assert np.isposinf(result.high).all()
    assert not result.established.any()
    assert result.unknown == too_few(pairs, n, sets)
    assert f"found {pairs} pairs of a coalition and its complement, expected at least {pairs + 1}" in (
        result.unknown
    )
    Z, y, v0, v1, of_set = sample(n, 2 * pairs + 2, 0, sets)
    result = estimate(Z, y, v0, v1, sets=of_set)
    assert result.unknown == too_few(pairs + 1, n, sets) == ""
    assert np.isfinite(result.se).all()


@pytest.mark.parametrize("value", [lambda size: 0 * size, lambda size: (size - 6.0) ** 4 / 100])
def test_the_error_is_unknown_where_values_follow_from_size(value):
    """A rare coalition of another value may not have been drawn."""
    Z = draw("leverage", 12, 60, 0)
    y = np.float32(Z @ np.arange(12.0) + value(Z.sum(axis=1))).astype(float)
    v0, v1 = np.add(value(np.array([0.0, 12.0])), [0.0, 66.0])
    result = estimate(Z, y, v0, v1)
    assert np.isinf(result.se).all()
    assert "up to rounding" in result.unknown
    truth = np.diff(value(np.arange(13.0)), 2).mean()
    assert result.value == pytest.approx(np.full(66, truth), abs=1e-4)
    noisy = y + np.random.default_rng(0).normal(size=60)
    assert np.isfinite(estimate(Z, noisy, v0, v1).se).all()


def test_players_who_are_always_together_have_no_interval():
    Z = draw("leverage", 6, 60, 0)
    Z = np.column_stack([Z, Z[:, 0]])
    y = np.random.default_rng(0).normal(size=60)
    result = estimate(Z, y, 0.0, 1.0)
    alone = np.array([pair == (0, 6) for pair in combinations(range(7), 2)])
    assert np.array_equal(np.isinf(result.se), alone)
    assert np.isfinite(result.value).all()
    assert result.unknown == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda Z, y: (np.r_[Z, Z[:1] | True], np.r_[y, 0.0]), "the empty coalition or all 8 players"),
        (lambda Z, y: (Z[:4], y[:4]), "found 2 pairs of a coalition and its complement, expected at least 3"),
        (lambda Z, y: (Z[::2], y[::2]), "found 0 pairs of a coalition and its complement"),
        (lambda Z, y: (Z, y[:-1]), "found y of shape"),
    ],
)
def test_rows_that_do_not_fit_are_refused(change, message):
    Z = draw("leverage", 8, 40, 0)
    with pytest.raises(ValuationError, match=message):
        estimate(*change(Z, np.zeros(40)), 0.0, 1.0)


@pytest.mark.parametrize(
    ("level", "sets", "message"),
    [
        (1.0, None, "found level = 1.0"),
        (0.9, np.arange(40), "in more than one set of weights"),
    ],
)
def test_levels_and_sets_that_do_not_fit_are_refused(level, sets, message):
    Z = draw("leverage", 8, 40, 0)
    with pytest.raises(ValuationError, match=message):
        estimate(Z, np.zeros(40), 0.0, 1.0, level, sets)


# Coverage


def with_fours(n, rng):
    Z = every(n)
    fours = np.array([rng.choice(n, 4, replace=False) for _ in range(2 * n)])
    return game(n, rng).value(Z) + 2.0 * Z[:, fours].all(axis=2) @ rng.normal(size=2 * n)


def with_one_player(n, rng):
    Z = every(n)
    return Z @ rng.normal(size=n) + (Z[:, :1] & Z[:, 1:]) @ rng.normal(1.0, 0.5, size=n - 1)


def saturating(n, rng):
    given = every(n) @ (rng.gamma(0.7, size=n) + 0.05)
    return given / (given + given.max() / 4)


KINDS = {
    "pairs and triples": lambda n, rng: game(n, rng).value(every(n)),
    "also fours": with_fours,
    "of one player": with_one_player,
    "saturating": saturating,
    "none": lambda n, rng: equal_game(n, rng).value(every(n)),
}
"""Values of all coalitions of a random game, by what interacts. Saturating: the more of all data there is,
the less a player adds, and the more data a player has, the more it interacts with all others."""


def coverage(
    n,
    m,
    games,
    noise,
    kind="pairs and triples",
    sets=0,
    set_kind="additive",
    set_sd=0.0,
    where="even",
    told=True,
):
    """How often intervals at .95 cover known interactions.

    Noise and set noise are in standard deviations of v. told: whether the intervals are told of the sets.
    Returns the share of (game, pair) that is covered, the same for the tenth of the pairs with the largest
    interactions, the median over games of the mean half-width over the standard deviation of interactions,
    the mean share of signs that are established, and the share of games with any that is false.
    """
    rng, results = np.random.default_rng(0), np.empty((games, 5))
    for j in range(games):
        values, Z = KINDS[kind](n, rng), draw("leverage", n, m, j)
        v, size = values[index(Z)], Z.sum(axis=1)
        spread, scale = NOISE[where](size, n), v.std()
        y = v + noise * scale * spread / np.sqrt(np.mean(spread**2)) * rng.normal(size=m)
        of_set = dealt(Z, sets, rng) if sets else None
        v1 = values[-1]
        if sets:  # the grand coalition is evaluated with each of them
            grand = np.ones((sets, n), dtype=bool)
            effects = set_effects(set_kind, np.r_[Z, grand], np.r_[of_set, np.arange(sets)], rng)
            y = y + set_sd * scale * effects[:m]
            v1 = v1 + set_sd * scale * effects[m:] + noise * scale * rng.normal(size=sets)
        truth = by_definition(values)
        result = estimate(Z, y, values[0], v1, sets=of_set if told else None)
        covered = (result.low <= truth) & (truth <= result.high)
        largest = np.argsort(-np.abs(truth - truth.mean()))[: max(1, len(truth) // 10)]
        wrong = result.established & ((np.sign(truth) != np.sign(result.value)) | (np.abs(truth) < 1e-12))
        width = np.mean(result.high - result.low) / 2 / (truth.std() or 1.0)
        results[j] = covered.mean(), covered[largest].mean(), width, result.established.mean(), wrong.any()
    return *results[:, :2].mean(axis=0), np.median(results[:, 2]), *results[:, 3:].mean(axis=0)


@pytest.mark.parametrize(
    ("n", "m", "games", "noise", "options"),
    [
        (6, 48, 30, 0.3, {}),
        (8, 48, 15, 0.3, {"sets": 3, "set_sd": 1.0}),
        (8, 96, 30, 0.5, {"where": "extremes"}),
        slow(12, 48, 100, 1.0, {}),
        slow(6, 48, 200, 1.0, {}),
        slow(6, 30, 200, 0.3, {}),
        slow(8, 48, 200, 0.3, {}),
        slow(8, 96, 100, 0.3, {"kind": "also fours"}),
        slow(8, 96, 100, 0.3, {"sets": 3, "set_kind": "interactions", "set_sd": 1.0}),
        slow(8, 200, 200, 1.0, {}),
        slow(12, 96, 100, 0.3, {}),
        slow(12, 96, 100, 0.3, {"kind": "saturating"}),
        slow(12, 96, 100, 0.3, {"kind": "of one player"}),
        slow(12, 200, 50, 0.3, {"sets": 3, "set_kind": "interactions", "set_sd": 0.5}),
        slow(12, 200, 100, 0.5, {"where": "extremes"}),
    ],
)
def test_coverage_is_nominal(n, m, games, noise, options):
    covered, largest, *_ = coverage(n, m, games, noise, **options)
    assert 0.93 <= covered <= 0.99
    assert largest > 0.85


def test_told_of_sets_intervals_are_narrower():
    """What a set adds to all of its coalitions is then no noise of single pairs."""
    options = {"sets": 3, "set_sd": 1.0}
    told, untold = (coverage(8, 96, 10, 0.3, **options, told=told)[2] for told in (True, False))
    assert told < 0.7 * untold


@pytest.mark.parametrize(
    ("n", "m", "games", "sets"),
    [(6, 56, 40, 0), slow(6, 56, 150, 3), slow(8, 96, 200, 0), slow(12, 48, 200, 0)],
)
def test_signs_are_rarely_false_where_nothing_interacts(n, m, games, sets):
    *_, false = coverage(n, m, games, 0.5, kind="none", sets=sets, set_sd=0.5)
    assert false < 0.09
