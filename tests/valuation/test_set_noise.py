"""Credits and errors where coalitions share sets of weights, compared with dense matrices, with the fit
without sets, and with known Shapley values in simulations.

`_set_variance`, `_prior`, `_inverse_trigamma`, `_independent` and `_set_errors` have no other way to be seen:
what `fit` returns mixes them. They are therefore called directly.
"""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import slow
from random_games import dealt, equal_game, game, sampled, set_effects
from scipy.linalg import null_space
from scipy.optimize import brentq
from scipy.special import comb, polygamma
from scipy.stats import chi2

from apportion.errors import ValuationError
from apportion.valuation import set_noise
from apportion.valuation.coalitions import complementary_pairs, draw
from apportion.valuation.intervals import hc3, jackknife, standard_errors
from apportion.valuation.ranks import order
from apportion.valuation.sequential import levels, look, spent

steady = settings(derandomize=True, deadline=None, max_examples=10, database=None)
seeds = st.integers(0, 2**32 - 1)


def sample(n, m, sets, seed, set_sd=1.0):
    """Coalitions (m, n) in random order, values (m,) of a game with noise of sets, and the sets (m,)."""
    rng = np.random.default_rng(seed)
    Z = draw("leverage", n, m, seed)
    of_set, rows = dealt(Z, sets, rng), rng.permutation(m)
    effects = set_sd * rng.normal(size=(sets, n))
    y = Z @ rng.normal(size=n) + np.sum(Z * effects[of_set], axis=1) + rng.normal(size=m)
    return Z[rows], y[rows], of_set[rows]


def weights(Z):
    """Share of the Shapley kernel over share of the design, of each row, with rows per size by bisection."""
    (m, n), size = Z.shape, Z.sum(axis=1)
    s = np.arange(1, n)
    level = brentq(lambda c: np.minimum(comb(n, s), c).sum() - m, 0, comb(n, n // 2))
    kernel = 1 / (s * (n - s))
    return (kernel / kernel.sum() / (np.minimum(comb(n, s), level) / m))[size - 1]


def by_the_book(Z, y, v0, v1, of_set, ratio):
    """Credits (n,) and the logarithm of the restricted likelihood, up to a constant, with matrices (m, m).

    The model is that of all rows: the even part of each pair is free, errors have the variance 2/w, so that
    those of odd parts have 1/w, and a set adds to a coalition's value what it adds to each of its players, of
    variance `ratio`. Generalised least
    squares and restricted likelihood: Searle, Casella & McCulloch 1992, Variance components, chapter 6.
    """
    (m, n), size = Z.shape, Z.sum(axis=1)
    basis, U, off = null_space(np.ones((1, n))), Z - size[:, None] / n, size / n - 0.5
    same_pair = (Z[:, None] == Z).all(axis=2) | (Z[:, None] != Z).all(axis=2)
    X = np.column_stack([U @ basis, off, off**3, np.unique(same_pair, axis=0).T])
    covariance = np.diag(2 / weights(Z)) + ratio * (of_set[:, None] == of_set) * (Z.astype(float) @ Z.T)
    precision = np.linalg.inv(covariance)
    gram = X.T @ precision @ X
    t = y - v0 - (v1 - v0) / n * size
    theta = np.linalg.solve(gram, X.T @ precision @ t)
    residual = t - X @ theta
    power = (m - X.shape[1]) * np.log(residual @ precision @ residual)
    likelihood = -0.5 * (power + np.linalg.slogdet(covariance)[1] + np.linalg.slogdet(gram)[1])
    return (v1 - v0) / n + basis @ theta[: n - 1], likelihood


def errors_by_the_book(Z, y, of_set, ratio):
    """Squared standard errors by pairs and their degrees of freedom, (n,) each: HC2 and Bell & McCaffrey 2002
    of the odd parts, multiplied by the inverse root of their covariance."""
    n = Z.shape[1]
    mine = Z[:, 0]  # one row of each pair
    other = [int(np.flatnonzero((row != Z).all(axis=1))[0]) for row in Z[mine]]
    rows, odd, sets = Z[mine], (y[mine] - y[other]) / 2, of_set[mine]
    size, root = rows.sum(axis=1), np.sqrt(weights(Z)[mine])
    basis, U, off = null_space(np.ones((1, n))), rows - size[:, None] / n, size / n - 0.5
    of_players = (rows - 0.5) @ (rows - 0.5).T  # half the difference of a row and its complement, z - 1/2
    covariance = np.eye(len(odd)) + ratio * (sets[:, None] == sets) * of_players * np.outer(root, root)
    scale, axes = np.linalg.eigh(covariance)
    white = axes / np.sqrt(scale) @ axes.T * root
    X, D = white @ np.column_stack([U @ basis, off, off**3]), white @ odd
    solve = np.linalg.inv(X.T @ X) @ X.T
    A, M = basis @ solve[: n - 1], np.eye(len(D)) - X @ solve
    part = A**2 / np.diagonal(M)
    square = [np.trace(np.diag(p) @ M @ np.diag(p) @ M) for p in part]
    return part @ (M @ D) ** 2, (part @ np.diagonal(M)) ** 2 / square


def model_of(Z, y, v0, v1, of_set):
    """The regression of `fit` and the pairs of each set."""
    first, pair = complementary_pairs(Z)
    parts = [np.flatnonzero(of_set[first] == name) for name in np.unique(of_set)]
    return set_noise._model(Z, first, pair, y, v1 - v0), parts


def estimated_ratio(Z, y, v0, v1, of_set):
    model, parts = model_of(Z, y, v0, v1, of_set)
    return set_noise._set_variance(model, set_noise._directions(model, parts))


def fix(monkeypatch, ratio, moderated=(1.0, np.inf)):
    """Fixes the variance of sets, and what the spread of sets adds to errors by pairs: by default nothing."""
    monkeypatch.setattr(set_noise, "_set_variance", lambda *_: ratio)
    monkeypatch.setattr(
        set_noise, "moderated", lambda errors, _: tuple(np.full(len(errors), value) for value in moderated)
    )


# The fit


@pytest.mark.parametrize(("n", "m"), [(4, 14), (6, 20), (7, 40), (12, 96)])
def test_without_set_variance_it_is_the_fit_without_sets(n, m, monkeypatch):
    """From few pairs, one function of size is fitted, from more, two."""
    fix(monkeypatch, 0.0)
    Z, y, of_set = sample(n, m, 3, 1)
    shared, plain = jackknife(Z, y, 0.2, [1.0, 1.6], of_set), jackknife(Z, y, 0.2, [1.0, 1.6])
    for mine, expected in [
        (shared.phi, plain.phi),
        (shared.variance(), plain.variance()),
        (shared.dof, plain.dof),
        (shared.slopes, plain.slopes),
        (shared.endpoint_variance(), plain.endpoint_variance()),
    ]:
        assert mine == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert np.array_equal(shared.pair, plain.pair)


@pytest.mark.parametrize("ratio", [0.0, 0.05, 1.0, 30.0])
def test_credits_are_generalised_least_squares_by_the_book(ratio, monkeypatch):
    fix(monkeypatch, ratio)
    Z, y, of_set = sample(7, 50, 4, 2)
    fit = set_noise.fit(Z, y, 0.3, 1.5, of_set)
    assert fit.phi == pytest.approx(by_the_book(Z, y, 0.3, 1.5, of_set, ratio)[0], abs=1e-9)
    variance, dof = errors_by_the_book(Z, y - 0.3, of_set, ratio)
    assert np.sum(fit.shift**2, axis=1) == pytest.approx(variance, rel=1e-8)
    assert fit.dof == pytest.approx(dof, rel=1e-8)


def test_variances_and_degrees_of_freedom_are_those_of_pairs_times_those_of_sets(monkeypatch):
    """A product of two independent estimates has the sum of their relative variances, 2 / dof each."""
    Z, y, of_set = sample(7, 50, 4, 2)
    fix(monkeypatch, 0.5)
    pairs = jackknife(Z, y, 0.3, 1.5, of_set)
    fix(monkeypatch, 0.5, (2.5, 6.0))
    both = jackknife(Z, y, 0.3, 1.5, of_set)
    assert both.variance() == pytest.approx(2.5 * pairs.variance())
    assert 2 / both.dof == pytest.approx(2 / pairs.dof + 2 / 6.0)
    assert np.array_equal(both.phi, pairs.phi)


def test_the_spread_of_sets_widens_errors():
    """Sets that move all players along one direction: the model, whose sets move players independently,
    counts a part of it as noise of players, which is less than the sets differ."""
    Z, y, of_set = sample(7, 50, 5, 2, 0.0)
    y = y + 5 * (Z @ np.array([1, -1, 1, -1, 1, -1, 0])) * np.array([-2.0, 1.0, 0.0, 3.0, -1.0])[of_set]
    fit = set_noise.fit(Z, y, 0.3, 1.5, of_set)
    with pytest.MonkeyPatch.context() as patch:
        fix(patch, estimated_ratio(Z, y, 0.3, 1.5, of_set))
        pairs = set_noise.fit(Z, y, 0.3, 1.5, of_set)
    ratio = np.sum(fit.shift**2, axis=1) / np.sum(pairs.shift**2, axis=1)
    assert ratio.min() >= 1 - 1e-9
    assert ratio.max() > 1.1
    assert (fit.dof < pairs.dof).all()


def test_set_errors_are_unbiased_where_errors_are_as_in_the_model():
    """Over independent errors of odd parts with variance 1, the mean square of a set's error in a credit is
    the part of the set in the variance of that credit, whatever the fit takes of it. It is computed exactly,
    from one unit error at a time."""
    Z, y, of_set = sample(6, 50, 3, 4)
    model, parts = model_of(Z, y, 0.0, 1.0, of_set)
    axes, T, _ = set_noise._solved(model)
    M = np.eye(len(axes)) - axes @ axes.T
    of_units = np.stack([set_noise._set_errors(axes, T, row, parts) for row in M])
    expected = np.column_stack([np.sum(T[:, part] ** 2, axis=1) for part in parts])
    assert np.sum(of_units**2, axis=0) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "m", "sets"), [(5, 20, 3), (6, 50, 3), (8, 120, 4)])
def test_set_errors_are_those_of_dense_inverse_roots(n, m, sets):
    """From few pairs, some sets alone determine a combination of players: nothing of it is left in their
    residuals, and their block has no inverse."""
    Z, y, of_set = sample(n, m, sets, 4)
    model, parts = model_of(Z, y, 0.0, 1.0, of_set)
    axes, T, _ = set_noise._solved(model)
    M = np.eye(len(axes)) - axes @ axes.T
    expected, lost = [], 0
    for part in parts:
        scale, own = np.linalg.eigh(M[np.ix_(part, part)])
        kept = scale > 1e-8
        lost += np.sum(~kept)
        root = own[:, kept] / np.sqrt(scale[kept]) @ own[:, kept].T
        expected.append(T[:, part] @ root @ M[part] @ model.D)
    found = set_noise._set_errors(axes, T, M @ model.D, parts)
    assert found == pytest.approx(np.column_stack(expected), abs=1e-9)
    assert (lost > 0) == (m == 20)


@pytest.mark.parametrize("block", [1, 7, 20, 100])
def test_degrees_of_freedom_do_not_depend_on_blocks(block):
    """Those of a quadratic form, with dense matrices."""
    rng = np.random.default_rng(0)
    axes, part = np.linalg.qr(rng.normal(size=(20, 6)))[0], rng.uniform(size=(3, 20))
    M = np.eye(20) - axes @ axes.T
    forms = [M @ np.diag(p) @ M for p in part]
    expected = [np.trace(form) ** 2 / np.sum(form**2) for form in forms]
    assert set_noise.degrees_of_freedom(axes, part, block) == pytest.approx(expected)
    assert set_noise.degrees_of_freedom(axes, 0 * part, block).tolist() == [1.0, 1.0, 1.0]


def test_memory_does_not_grow_with_the_square_of_coalitions():
    """A matrix of pairs by pairs would have 25 MB alone."""
    rng = np.random.default_rng(0)
    pairs = np.unique(rng.random((3600, 16)) < rng.uniform(0.2, 0.8, size=(3600, 1)), axis=0)
    pairs = pairs[complementary_pairs(pairs)[0]]
    pairs = pairs[(pairs.sum(axis=1) > 0) & (pairs.sum(axis=1) < 16)]
    Z, of_set = np.concatenate([pairs, ~pairs]), np.tile(np.arange(len(pairs)) % 4, 2)
    y = rng.normal(size=len(Z))
    tracemalloc.start()
    set_noise.fit(Z, y, 0.0, 1.0, of_set)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(pairs) > 1700
    assert peak < 8 * len(pairs) ** 2


# The variance of sets


@pytest.mark.parametrize(("set_sd", "seed"), [(0.0, 0), (0.3, 1), (0.3, 2), (1.0, 0), (1.0, 1), (4.0, 2)])
def test_the_set_variance_is_at_the_maximum_of_the_restricted_likelihood(set_sd, seed):
    Z, y, of_set = sample(7, 48, 4, seed, set_sd)
    grid = [0.0, *np.exp(np.linspace(-7, set_noise.LOG_LAMBDA[1], 109))]
    likelihood = [by_the_book(Z, y, 0.3, 1.5, of_set, ratio)[1] for ratio in grid]
    found = estimated_ratio(Z, y, 0.3, 1.5, of_set)
    assert by_the_book(Z, y, 0.3, 1.5, of_set, found)[1] >= max(likelihood) - 1e-3
    best = grid[int(np.argmax(likelihood))]
    assert found == pytest.approx(best, rel=0.15)  # neighbours in the grid differ by 15 %


def of_the_model(n, m, sets, ratio, seed):
    """As `sample`, but with errors of variance 2/w."""
    rng = np.random.default_rng(seed)
    Z = draw("leverage", n, m, seed)
    of_set = dealt(Z, sets, rng)
    effects = np.sqrt(ratio) * rng.normal(size=(sets, n))
    error = np.sqrt(2 / weights(Z)) * rng.normal(size=m)
    return Z, Z @ rng.normal(size=n) + np.sum(Z * effects[of_set], axis=1) + error, of_set


def test_without_set_noise_its_variance_is_zero_or_small():
    """The likelihood is largest at 0 for many such data, and else near it."""
    found = []
    for seed in range(6):
        Z, y, of_set = of_the_model(16, 600, 12, 0.0, seed)
        found.append(estimated_ratio(Z, y, 0.3, 1.5, of_set))
    assert 0.0 in found
    assert max(found) < 0.1


@pytest.mark.parametrize("ratio", [0.5, 5.0])
def test_the_set_variance_is_near_the_truth_for_many_sets(ratio):
    """The standard error of a logarithm is at least sqrt(2 / (16 * 12)) = .1, and of the mean of four .05."""
    found = []
    for seed in range(4):
        Z, y, of_set = of_the_model(16, 600, 12, ratio, seed)
        found.append(estimated_ratio(Z, y, 0.0, 1.0, of_set))
    assert np.mean(found) == pytest.approx(ratio, rel=0.2)


# Moderated ratios


@pytest.mark.parametrize(("scale", "prior_dof"), [(1.0, 3.0), (2.5, 8.0), (0.3, 30.0)])
@pytest.mark.parametrize("d", [2, 5])
def test_the_prior_of_many_ratios_is_that_of_their_scaled_f_distribution(scale, prior_dof, d):
    ratios = scale * np.random.default_rng(3).f(d, prior_dof, size=400_000)
    assert set_noise._prior(ratios, d) == pytest.approx((scale, prior_dof), rel=0.15)


@pytest.mark.parametrize("d", [2, 3, 8])
def test_ratios_that_differ_by_chance_alone_have_infinite_degrees_of_freedom(d):
    """Quantiles of chi-square, which are spread a little less than the distribution itself."""
    ratios = 1.7 * chi2.ppf((np.arange(2000) + 0.5) / 2000, d) / d
    scale, dof = set_noise._prior(ratios, d)
    assert np.isinf(dof)
    assert scale == pytest.approx(1.7, rel=2e-3)
    # A random sample gives infinity or so many that they change nothing.
    drawn = np.random.default_rng(d).chisquare(d, size=100_000) / d
    assert set_noise._prior(drawn, d)[1] > 100


@pytest.mark.parametrize("value", [1e-6, 1e-3, 0.1, 1.0, 7.0, 1e3, 1e6])
def test_trigamma_is_inverted(value):
    assert polygamma(1, set_noise._inverse_trigamma(value)) == pytest.approx(value, rel=1e-8)


@pytest.mark.parametrize("d", [2, 5])
def test_errors_along_one_direction_are_worth_one_player(d):
    rng = np.random.default_rng(0)
    errors = np.outer(rng.normal(size=9), rng.normal(size=d + 1))
    assert set_noise._independent(errors) == pytest.approx(1.0)


def worth(covariance, d, draws):
    """What `_independent` finds for normal errors (n, d + 1) of that covariance whose sum over sets is 0."""
    scale, axes = np.linalg.eigh(covariance)
    root, to_sets = axes * np.sqrt(np.maximum(scale, 0)), null_space(np.ones((1, d + 1)))
    rng = np.random.default_rng(1)
    return [set_noise._independent(root @ rng.normal(size=(len(root), d)) @ to_sets.T) for _ in range(draws)]


@pytest.mark.parametrize("n", [6, 12])
def test_independent_errors_are_worth_all_players_but_one(n):
    """Errors of credits sum to 0 over players. An estimate above n - 1 is cut off there, so the mean is below
    it."""
    found = worth(np.eye(n) - 1 / n, 5, 1000)
    assert max(found) == n - 1 == pytest.approx(np.median(found), rel=0.02)
    assert 0.85 * (n - 1) < np.mean(found) < n - 1


@pytest.mark.parametrize("common", [1.0, 4.0])
def test_errors_are_worth_as_many_players_as_their_covariance_says(common):
    direction = np.where(np.arange(12) % 2, 1.0, -1.0) / np.sqrt(12)
    covariance = np.eye(12) - 1 / 12 + common * np.outer(direction, direction)
    expected = np.trace(covariance) ** 2 / np.sum(covariance**2)
    assert np.mean(worth(covariance, 200, 50)) == pytest.approx(expected, rel=0.03)
    assert expected < 10.5


def test_moderated_ratios_are_between_those_of_the_player_and_of_all():
    """Errors that differ between players by more than chance."""
    d, rng = 4, np.random.default_rng(2)
    sd = np.sqrt(4.0 / rng.chisquare(4, size=40))
    errors = 3 * sd[:, None] * rng.normal(size=(40, d + 1))
    variance = rng.uniform(1, 2, size=40)
    own = np.sum(errors**2, axis=1) / variance
    alone = set_noise._outlying(own, d)
    scale, prior_dof = set_noise._prior(own[~alone], d)
    ratio, dof = set_noise.moderated(errors, variance)
    assert prior_dof < 50
    assert 0 < alone.sum() < 8
    drawn = np.maximum(1, (prior_dof * scale + d * own) / (prior_dof + d))
    assert ratio == pytest.approx(np.where(alone, own, drawn))
    assert dof == pytest.approx(np.where(alone, d, prior_dof + d))


def test_a_player_whose_set_errors_are_unlike_the_others_keeps_its_own():
    """It does not make the others' larger, and has its own few degrees of freedom."""
    d, n, rng = 2, 12, np.random.default_rng(1)
    errors = 2 * rng.normal(size=(n, d + 1))
    before = set_noise.moderated(errors, np.ones(n))[0]
    errors[0] *= 30 / np.sqrt(np.sum(errors[0] ** 2))
    ratio, dof = set_noise.moderated(errors, np.ones(n))
    assert (ratio[0], dof[0]) == pytest.approx((900, d))
    assert dof[1:].min() > d
    assert ratio[1:].mean() < 1.3 * before[1:].mean()


def test_players_that_move_together_have_the_degrees_of_freedom_of_one():
    """However much their ratios differ."""
    d, rng = 3, np.random.default_rng(0)
    errors = np.outer(3 * np.exp(rng.normal(size=20)), rng.normal(size=d + 1))
    assert set_noise._prior(np.sum(errors**2, axis=1), d)[1] < 10
    assert set_noise.moderated(errors, np.ones(20))[1] == pytest.approx(np.full(20, d))


def test_equal_ratios_are_replaced_by_their_mean():
    """Independent players of one variance: their ratios differ by chance alone."""
    d, n = 3, 15
    own = 4 * chi2.ppf((np.arange(n) + 2) / (n + 3), d) / d
    directions = np.random.default_rng(0).normal(size=(n, d + 1))
    errors = directions * np.sqrt(own / np.sum(directions**2, axis=1))[:, None]
    ratio, dof = set_noise.moderated(errors, np.ones(n))
    assert ratio == pytest.approx(np.full(n, own.mean()))
    assert np.unique(dof) == pytest.approx([d * set_noise._independent(errors)])
    assert dof[0] > 2 * d


def test_set_errors_make_no_error_smaller():
    errors = 0.1 * np.random.default_rng(0).normal(size=(8, 4))
    assert np.array_equal(set_noise.moderated(errors, np.ones(8))[0], np.ones(8))


@pytest.mark.parametrize("unknown", [0.0, np.inf])
def test_players_without_a_known_error_are_left_as_they_are(unknown):
    errors = 5 * np.random.default_rng(0).normal(size=(8, 4))
    ratio, dof = set_noise.moderated(errors, np.r_[unknown, np.ones(6), unknown])
    others, others_dof = set_noise.moderated(errors[1:7], np.ones(6))
    assert ratio == pytest.approx(np.r_[1.0, others, 1.0])
    assert dof == pytest.approx(np.r_[3.0, others_dof, 3.0])
    assert others.min() > 1
    ratio, dof = set_noise.moderated(errors, np.full(8, unknown))
    assert np.array_equal([ratio, dof], [np.ones(8), np.full(8, 3.0)])


def test_a_player_without_set_errors_leaves_each_ratio_to_itself():
    errors = np.r_[np.zeros((1, 4)), 5 * np.random.default_rng(0).normal(size=(3, 4))]
    ratio = set_noise.moderated(errors, np.ones(4))[0]
    assert ratio == pytest.approx(np.maximum(1, np.sum(errors**2, axis=1)))


# Invariances


def results(Z, y, v0, v1, of_set):
    fit = jackknife(Z, y, v0, v1, of_set)
    return np.array([fit.phi, np.sqrt(fit.variance()), fit.dof])


@steady
@given(seeds, st.integers(5, 9), st.integers(3, 5), st.sampled_from([0.0, 0.5, 3.0]), st.floats(0.01, 100))
def test_nothing_depends_on_names_order_or_units(seed, n, sets, set_sd, scale):
    Z, y, of_set = sample(n, min(5 * n // 2 * 2, 2**n - 2), sets, seed, set_sd)
    rng = np.random.default_rng(seed)
    rows, players = rng.permutation(len(y)), rng.permutation(n)
    found = results(Z, y, 0.3, 1.0, of_set)
    close = {"rel": 1e-5, "abs": 1e-7}
    assert found[0].sum() == pytest.approx(0.7)
    assert results(Z[rows], y[rows], 0.3, 1.0, of_set[rows]) == pytest.approx(found, **close)
    names = rng.choice(1000, size=sets, replace=False) - 500
    assert results(Z, y, 0.3, 1.0, names[of_set]) == pytest.approx(found, **close)
    assert results(Z[:, players], y, 0.3, 1.0, of_set) == pytest.approx(found[:, players], **close)
    assert results(Z, y + 20, 20.3, 21.0, of_set) == pytest.approx(found, **close)
    unit = np.array([[scale], [scale], [1.0]])
    scaled = results(Z, scale * y, scale * 0.3, scale * 1.0, of_set) / unit
    assert scaled == pytest.approx(found, **close)
    opposite = results(Z, -y, -0.3, -1.0, of_set) * [[-1], [1], [1]]
    assert opposite == pytest.approx(found, **close)


@pytest.mark.parametrize(("n", "m"), [(6, 20), (7, 44)])
def test_slopes_are_the_derivatives_by_v0_and_v1(n, m):
    Z, y, of_set = sample(n, m, 4, 9, 3.0)
    fit = jackknife(Z, y, 0.3, 1.5, of_set)
    assert estimated_ratio(Z, y, 0.3, 1.5, of_set) > 0.05
    h = 1e-3
    by_v0 = jackknife(Z, y, 0.3 + h, 1.5, of_set).phi - jackknife(Z, y, 0.3 - h, 1.5, of_set).phi
    by_v1 = jackknife(Z, y, 0.3, 1.5 + h, of_set).phi - jackknife(Z, y, 0.3, 1.5 - h, of_set).phi
    assert fit.slopes == pytest.approx(np.column_stack([by_v0, by_v1]) / (2 * h), abs=1e-8)


# Coverage


def sampled_with_sets(g, n, m, sets, kind, set_sd, rng, seed):
    """As `sampled`, with evaluation noise of .3 SD(v), noise of sets of `set_sd` SD(v), and the sets (m,)."""
    Z, y, endpoints, scale = sampled(g, n, m, rng, seed, 0.3)
    of_set = dealt(Z, sets, rng)
    return Z, y + set_sd * scale * set_effects(kind, Z, of_set, rng), endpoints, scale, of_set


def coverage(n, m, sets, kind, set_sd, games, told=True):
    """How often intervals at .95 cover the credits of games with interactions of pairs and triples: the share
    of games for each player (n,), and the median over games of the mean width over SD(v). `told`: whether the
    intervals are told of the sets."""
    rng = np.random.default_rng(0)
    covered, width = np.empty((games, n), dtype=bool), np.empty(games)
    for j in range(games):
        g = game(n, rng)
        Z, y, endpoints, scale, of_set = sampled_with_sets(g, n, m, sets, kind, set_sd, rng, j)
        low, high = hc3(Z, y, *endpoints, sets=of_set if told else None)
        covered[j] = (low <= g.shapley()) & (g.shapley() <= high)
        width[j] = np.mean(high - low) / scale
    return covered.mean(axis=0), np.median(width)


DESIGNS = [(8, 64, 4), (12, 48, 3), (12, 96, 4), (12, 96, 6), (20, 160, 3)]
"""Players, coalitions and sets."""


@pytest.mark.parametrize(
    ("n", "m", "sets", "kind", "set_sd", "games"),
    [
        (8, 64, 3, "interactions", 1.0, 60),
        (8, 64, 4, "additive", 0.5, 60),
        slow(8, 64, 4, "average", 1.0, 200),
        slow(8, 64, 4, "additive", 2.0, 200),
        slow(12, 48, 3, "interactions", 0.5, 200),
        slow(12, 48, 3, "uneven", 1.0, 200),
        slow(12, 96, 6, "additive", 2.0, 200),
        slow(12, 96, 6, "uneven", 2.0, 200),
        slow(20, 160, 3, "interactions", 2.0, 200),
        slow(20, 160, 3, "additive", 0.5, 200),
    ],
)
def test_coverage_is_nominal_on_average_over_players(n, m, sets, kind, set_sd, games):
    """Noisier players than others are covered less often, the others more often."""
    covered, _ = coverage(n, m, sets, kind, set_sd, games)
    assert 0.94 <= covered.mean() <= 0.985
    assert covered.min() > 0.8


@pytest.mark.parametrize(("n", "m", "sets"), [slow(12, 48, 3), slow(20, 160, 3)])
def test_where_sets_have_no_noise_they_widen_intervals_by_a_quarter_at_most(n, m, sets):
    """Ratios are never below 1, so coverage is above the level, most of all for few players."""
    covered, width = coverage(n, m, sets, "additive", 0.0, 200)
    plain = coverage(n, m, sets, "additive", 0.0, 200, told=False)[1]
    assert 0.94 <= covered.mean() <= 0.985
    assert 1 < width / plain < 1.25


@pytest.mark.parametrize(("n", "m", "sd"), [slow(20, 160, 2.0)])
def test_few_sets_that_move_all_players_together_are_covered_less_often(n, m, sd):
    """Three errors along one direction say little about their variance, and no player adds to it."""
    assert 0.8 < coverage(n, m, 3, "one direction", sd, 200)[0].mean() < 0.95


def test_intervals_that_are_not_told_of_sets_do_not_cover_their_noise():
    assert coverage(8, 64, 3, "additive", 2.0, 60, told=False)[0].mean() < 0.88


# Errors that are unknown


@pytest.mark.parametrize("values", [np.arange(6.0), np.full(6, 1 / 3), np.zeros(6)])
def test_errors_are_unknown_where_every_residual_is_rounding(values):
    Z = draw("leverage", 6, 40, 0)
    of_set = dealt(Z, 4, np.random.default_rng(0))
    y = np.float32(Z @ values).astype(float)
    phi, se = standard_errors(Z, y, 0.0, values.sum(), of_set)
    assert phi == pytest.approx(values, abs=1e-5)
    assert np.isinf(se).all()
    low, high = hc3(Z, y, 0.0, values.sum(), sets=of_set)
    assert np.isneginf(low).all()
    assert np.isposinf(high).all()
    # Noise of sets alone is not rounding.
    noisy = y + np.sum(Z * np.random.default_rng(1).normal(size=(4, 6))[of_set], axis=1)
    assert np.isfinite(standard_errors(Z, noisy, 0.0, values.sum(), of_set)[1]).all()


@pytest.mark.parametrize("set_sd", [0.0, 3.0])
def test_players_that_a_single_pair_distinguishes_have_no_bounds(set_sd):
    """Players 0 and 1 are together in all rows but one pair. Set noise, which the fit estimates, mixes this
    pair with others of its set, but tells no more about it."""
    Z = np.array([[0, 0, *(int(b) for b in f"{k:04b}")] for k in range(1, 16)] + [[1, 0, 1, 0, 0, 1]], bool)
    Z, of_set = np.concatenate([Z, ~Z]), np.tile(np.arange(16) % 3, 2)
    rng = np.random.default_rng(0)
    y = rng.normal(size=32) + np.sum(Z * set_sd * rng.normal(size=(3, 6))[of_set], axis=1)
    assert (estimated_ratio(Z, y, 0.0, 1.0, of_set) > 0) == (set_sd > 0)
    low, high = hc3(Z, y, 0.0, 1.0, sets=of_set)
    assert np.isinf(low).tolist() == np.isinf(high).tolist() == [True, True, False, False, False, False]


# Input that is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda Z, of_set: (Z[:-1], of_set[:-1]), "without their complement"),
        (
            lambda Z, of_set: (Z, np.r_[of_set[:-1], of_set[-1] + 1]),
            "its complement in more than one set of weights \\(1 such pairs\\), expected all rows of a pair",
        ),
        (
            lambda Z, of_set: (np.r_[Z, Z[:1]], np.r_[of_set, of_set[0] + 1]),
            "in more than one set of weights \\(1 such pairs\\)",
        ),
        (lambda Z, of_set: (Z[:14], of_set[:14]), "found 7 pairs of coalitions, expected at least 8, better"),
        (
            lambda Z, of_set: (Z, of_set[:-1]),
            "found sets of shape \\(39,\\) and type int64, expected \\(40,\\)",
        ),
        (lambda Z, of_set: (Z, of_set[:, None]), "found sets of shape \\(40, 1\\)"),
        (lambda Z, of_set: (Z, of_set * 1.0), "and type float64, expected \\(40,\\) whole numbers"),
        (lambda Z, of_set: (Z, of_set.astype(str)), "expected \\(40,\\) whole numbers"),
    ],
)
def test_rows_and_sets_that_do_not_fit_are_refused(change, message):
    Z = draw("leverage", 6, 40, 0)
    Z, of_set = change(Z, dealt(Z, 3, np.random.default_rng(0)))
    y = np.random.default_rng(0).normal(size=len(Z))
    for function in (jackknife, standard_errors):
        with pytest.raises(ValuationError, match=message):
            function(Z, y, 0.0, 1.0, of_set)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda Z: np.r_[Z, Z[:1] | True], "the empty coalition or all 8 players"),
        (lambda Z: Z[np.isin(Z.sum(axis=1), (3, 4, 5))], "no coalitions of size 1, 2, 6, 7, which hold"),
        (lambda Z: Z[Z[:, 0] == Z[:, 1]], "distinguish 6 differences, expected 7 for n = 8 players"),
    ],
)
def test_rows_are_refused_as_without_sets(change, message):
    Z = change(draw("leverage", 8, 120, 0))
    of_set = complementary_pairs(Z)[1] % 3
    y = np.random.default_rng(0).normal(size=len(Z))
    said = []
    for sets in (None, of_set):
        with pytest.raises(ValuationError, match=message) as error:
            hc3(Z, y, 0.0, 1.0, sets=sets)
        said.append(str(error.value))
    assert said[0] == said[1]


def test_a_coalition_in_several_rows_counts_once_with_the_mean_of_their_values():
    Z, y, of_set = sample(6, 40, 3, 0)
    rows = np.repeat(np.arange(40), np.arange(40) % 3 + 1)
    apart = np.random.default_rng(1).normal(size=len(rows))
    apart -= (np.bincount(rows, apart) / np.bincount(rows))[rows]
    repeated = results(Z[rows], y[rows] + apart, 0.3, 1.5, of_set[rows])
    assert repeated == pytest.approx(results(Z, y, 0.3, 1.5, of_set), rel=1e-7)


def test_fewer_than_three_sets_leave_their_noise_out():
    Z, y, _ = sample(6, 40, 3, 0)
    pair = complementary_pairs(Z)[1]
    for of_set in (pair % 2, 0 * pair):
        with pytest.raises(
            ValuationError, match=f"found {of_set.max() + 1} sets of weights, expected at least 3"
        ):
            set_noise.fit(Z, y, 0.0, 1.0, of_set)
        assert np.array_equal(hc3(Z, y, 0.0, 1.0, sets=of_set), hc3(Z, y, 0.0, 1.0))


# Ranks and repeated looks


def test_an_order_has_the_credits_and_errors_of_the_intervals():
    Z, y, of_set = sample(7, 60, 4, 5)
    v0, v1 = np.array([-0.1, 0.1]), np.array([0.9, 1.1, 1.3])
    low, high = hc3(Z, y, v0, v1, 0.9, of_set)
    result = order(Z, y, v0, v1, 0.9, sets=of_set)
    fit = jackknife(Z, y, v0, v1, of_set)
    assert np.array_equal(result.phi, fit.phi)
    assert result.phi == pytest.approx((low + high) / 2)
    assert ((result.low < low) & (high < result.high)).all()
    # Where the bands of two players do not overlap, their order is established.
    assert result.ahead.any()
    apart = result.low[:, None] > result.high
    assert not (apart & ~result.ahead).any()
    assert order(Z, y, v0, v1, 0.9).phi != pytest.approx(result.phi, rel=1e-3)


def test_a_look_has_the_intervals_and_the_order_of_its_level():
    Z, y, of_set = sample(7, 60, 4, 5)
    result = look(Z, y, 0.0, 1.1, [40, 60], 0.9, "pocock", most=120, sets=of_set)
    nominal = levels([40, 60], 0.9, "pocock", most=120)[1]
    low, high = hc3(Z, y, 0.0, 1.1, nominal, of_set)
    assert np.array_equal([result.low, result.high], [low, high])
    chance = spent([40, 60], 0.9, "pocock", most=120)[1]
    expected = order(Z, y, 0.0, 1.1, 1 - chance, sets=of_set)
    for mine, theirs in zip(result.order[:6], expected[:6], strict=True):
        assert np.array_equal(mine, theirs)
    plain = look(Z, y, 0.0, 1.1, [40, 60], 0.9, "pocock", most=120)
    assert (plain.high - plain.low < result.high - result.low).all()


@pytest.mark.parametrize(("sets", "kind", "sd"), [slow(3, "additive", 1.0), slow(5, "uneven", 0.5)])
def test_statements_about_equal_players_are_rarely_false(sets, kind, sd):
    rng, wrong = np.random.default_rng(1), []
    for j in range(200):
        g = equal_game(8, rng)
        Z, y, endpoints, _, of_set = sampled_with_sets(g, 8, 64, sets, kind, sd, rng, j)
        result = order(Z, y, *endpoints, sets=of_set)
        truth = g.shapley()
        outside = (result.low > truth) | (truth > result.high)
        wrong.append([result.ahead.any(), outside.any()])
    assert (np.mean(wrong, axis=0) < 0.09).all()
