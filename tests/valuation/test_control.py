"""Own images as a control: Shapley values stay, intervals become narrower and still cover."""

import numpy as np
import pytest
from marks import slow
from random_games import dealt, game, set_effects

from apportion.errors import ValuationError
from apportion.valuation.coalitions import draw
from apportion.valuation.control import adjusted
from apportion.valuation.intervals import hc3
from apportion.valuation.multifidelity import CheapGame
from apportion.valuation.ranks import order
from apportion.valuation.shapley import exact, leverage


def scaled(n, rng):
    """A random game of unit SD over the design, as a function of coalitions, and its Shapley values."""
    g = game(n, rng)
    scale = g.value(draw("leverage", n, min(400, 2**n - 2), 0)).std()
    return lambda Z: g.value(Z) / scale, g.shapley() / scale


def own_images(value, design, Z, *, noise_free=True):
    return CheapGame(design, value(design), Z, value(Z), noise_free)


@pytest.mark.parametrize("n", [5, 6])
def test_shapley_values_stay_the_same(n):
    """From all coalitions the credits are exact, before and after."""
    rng, every = np.random.default_rng(n), draw("leverage", n, 2**n - 2, 0)
    index = every @ (1 << np.arange(n))
    v, own = rng.normal(size=2**n), rng.normal(size=2**n)
    v += 2 * own
    result = adjusted(every, v[index], CheapGame(every, own[index], noise_free=True))
    assert result.rho == pytest.approx(2, abs=0.5)
    assert np.abs(result.y - v[index]).max() > 0.1
    assert leverage(every, result.y, v[0], v[-1]) == pytest.approx(exact(v), abs=1e-9)
    assert not result.errors.any()


def test_interactions_that_own_images_show_are_no_noise_any_more():
    n, rng = 10, np.random.default_rng(1)
    value, _ = scaled(n, rng)
    Z, a = draw("leverage", n, 60, 0), rng.normal(size=n)
    y = Z @ a + 0.5 * value(Z) + 1e-5 * rng.normal(size=60)
    result = adjusted(Z, y, own_images(value, draw("leverage", n, 2**n - 2, 1), Z))
    before, after = (hc3(Z, values, 0.0, a.sum()) for values in (y, result.y))
    assert result.rho == pytest.approx(0.5, abs=1e-4)
    assert np.max(after[1] - after[0]) < 1e-3 * np.min(before[1] - before[0])


def test_a_control_that_does_not_help_is_not_used():
    n, rng = 8, np.random.default_rng(0)
    (value, _), (other, _) = scaled(n, rng), scaled(n, rng)
    every, Z = draw("leverage", n, 2**n - 2, 1), draw("leverage", n, 60, 0)
    helped = [adjusted(Z, value(Z), own_images(scaled(n, rng)[0], every, Z)) is not None for _ in range(20)]
    assert np.mean(helped) < 0.5
    few = draw("leverage", n, 24, 0)
    assert adjusted(few, value(few), own_images(value, every, few)) is None  # 12 pairs for 9 coefficients
    assert adjusted(Z, value(Z) + other(Z), own_images(value, every, Z)) is not None


def test_the_control_must_know_the_coalitions():
    Z, some = draw("leverage", 8, 60, 0), draw("leverage", 8, 40, 1)
    with pytest.raises(ValuationError, match="of 30 pairs of coalitions that a cheaper game"):
        adjusted(Z, Z @ np.arange(8.0), CheapGame(some, some.sum(axis=1)))


def test_numbering_of_players_does_not_matter():
    n, rng = 8, np.random.default_rng(2)
    (value, _), (other, _) = scaled(n, rng), scaled(n, rng)
    Z, design, shuffled = draw("leverage", n, 60, 0), draw("leverage", n, 120, 1), rng.permutation(n)
    y, own = value(Z) + 0.3 * other(Z), own_images(value, design, Z)
    result = adjusted(Z, y, own)
    other_way = CheapGame(design[:, shuffled], own.y, Z[:, shuffled], own.y_others, True)
    again = adjusted(Z[:, shuffled], y, other_way)
    assert again.y == pytest.approx(result.y, abs=1e-8)
    assert again.errors @ again.errors.T == pytest.approx(
        (result.errors @ result.errors.T)[np.ix_(shuffled, shuffled)], abs=1e-8
    )


def test_too_small_a_design_of_the_control_does_not_make_credits_worse():
    """Its own errors count. With 16 coalitions they are larger than what it explains."""
    n, rng, used = 10, np.random.default_rng(4), []
    for j in range(10):
        value, _ = scaled(n, rng)
        Z, few, every = (
            draw("leverage", n, 60, j),
            draw("leverage", n, 16, j),
            draw("leverage", n, 2**n - 2, j),
        )
        y = value(Z) + 0.3 * rng.normal(size=60)
        used.append([adjusted(Z, y, own_images(value, design, Z)) is not None for design in (few, every)])
    assert np.sum(used, axis=0).tolist() == [0, 10]


def coverage(n, m, own, sets, reps, share=0.9, noise=0.2):
    """Share of (game, player) covered, mean; lowest player; share of data sets with a false statement of
    order; and the median width relative to that without the control."""
    rng, covered, false, width = np.random.default_rng([n, m, own, sets]), [], [], []
    for j in range(reps):
        (value, phi), (other, phi_other) = scaled(n, rng), scaled(n, rng)
        Z, design = draw("leverage", n, m, j), draw("leverage", n, own, j + 10**6)
        rest = np.sqrt(1 - share**2)

        def truth(Z, value=value, other=other, rest=rest):
            return share * value(Z) + rest * other(Z)

        y = truth(Z) + noise * rng.normal(size=m)
        of = None
        if sets:
            of = dealt(Z, sets, rng)
            y = y + 0.5 * set_effects("average", Z, of, rng)
        expected = share * phi + rest * phi_other
        v0, v1 = (float(truth(np.full((1, n), end))[0]) for end in (False, True))
        result = adjusted(Z, y, own_images(value, design, Z))
        if result is None:
            values, errors = y, None
        else:
            values, errors = result.y, result.errors
        low, high = hc3(Z, values, v0, v1, 0.95, of, errors)
        plain = hc3(Z, y, v0, v1, 0.95, of)
        ahead = order(Z, values, v0, v1, 0.95, sets=of, errors=errors).ahead
        covered.append((low <= expected) & (expected <= high))
        false.append(bool(np.any(ahead & (expected[:, None] < expected[None, :]))))
        width.append(np.median(high - low) / np.median(plain[1] - plain[0]))
    each = np.mean(covered, axis=0)
    return each.mean(), each.min(), np.mean(false), np.median(width)


@pytest.mark.parametrize(
    ("n", "m", "own", "sets", "most", "reps"),
    [(8, 60, 254, 0, 0.8, 25), slow(12, 96, 512, 0, 0.85, 100), slow(12, 96, 512, 3, 1.0, 60)],
)
def test_intervals_cover_and_are_narrower(n, m, own, sets, most, reps):
    """Noise of sets, which is half an SD here, is in the intervals with and without the control."""
    mean, lowest, false, width = coverage(n, m, own, sets, reps)
    assert mean > 0.93
    assert lowest > 0.8
    assert false < 0.1
    assert width < most
