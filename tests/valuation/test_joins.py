"""Players who join or leave: exact values from all coalitions, counted probabilities and coverage."""

import numpy as np
import pytest
from marks import slow
from random_games import game

from apportion.errors import ValuationError
from apportion.valuation.coalitions import draw
from apportion.valuation.joins import (
    EVALUATE,
    GRAND_BEFORE,
    JoinDesign,
    ValuedDesign,
    bridge,
    covers,
    credits,
    drop,
    extend,
    filled,
    first,
)
from apportion.valuation.multifidelity import assisted
from apportion.valuation.shapley import exact, leverage


def table(v):
    """The game whose values are in v (2**players,), for coalitions of its first players."""
    return lambda Z: v[Z @ (1 << np.arange(Z.shape[1]))]


def exhaustive(n):
    return first(draw("leverage", n, 2**n - 2, 0))


def valued(design, before, value):
    """An extension with its values, evaluated only where the design asks for it."""
    y = filled(design, before.y, before.v1, value(design.Z[design.source == EVALUATE]))
    return ValuedDesign(design, y, float(value(np.ones((1, design.Z.shape[1]), bool))[0]))


def evaluated(design, value):
    """A design with its values, all evaluated."""
    return ValuedDesign(design, value(design.Z), float(value(np.ones((1, design.Z.shape[1]), bool))[0]))


def noisy(n, noise, rng):
    """A random game of unit SD with noise, for coalitions of its first players, and its n Shapley values."""
    g = game(n, rng)
    scale = g.value(draw("leverage", n, min(300, 2**n - 2), 0)).std()

    def value(Z):
        padded = np.pad(Z, ((0, 0), (0, n - Z.shape[1])))
        return g.value(padded) / scale + noise * rng.normal(size=len(Z)) * ~Z.all(axis=1)

    return value, g.shapley() / scale


@pytest.mark.parametrize(("n", "joined"), [(5, 1), (5, 2), (6, 1), (5, 3)])
def test_all_extensions_of_all_pairs_give_exact_credits(n, joined):
    v = np.random.default_rng(n).normal(size=2 ** (n + joined))
    value = table(v)
    before = evaluated(exhaustive(n), value)
    now = valued(extend(before.design, joined, 0, every=True), before, value)
    assert len({row.tobytes() for row in now.design.Z}) == 2 ** (n + joined) - 2
    assert now.y == pytest.approx(value(now.design.Z), abs=0)
    assert credits([before, now], v[0]).phi == pytest.approx(exact(v), abs=1e-8)
    assert credits([before], v[0]).phi == pytest.approx(exact(v[: 2**n]), abs=1e-8)


def test_two_joins_and_a_leave_are_exact_from_all_coalitions():
    v = np.random.default_rng(7).normal(size=2**7)
    value = table(v)
    rounds = [evaluated(exhaustive(5), value)]
    for _ in range(2):
        rounds.append(valued(extend(rounds[-1].design, 1, 0, every=True), rounds[-1], value))
    assert credits(rounds, v[0]).phi == pytest.approx(exact(v), abs=1e-8)
    left = drop(rounds[-1].design, [6])
    assert (left.source >= 0).all()
    assert left.pairs().weight.sum() == pytest.approx(1)
    result = credits([ValuedDesign(left, rounds[-1].y[left.source], v[2**6 - 1])], v[0])
    assert result.phi == pytest.approx(exact(v[: 2**6]), abs=1e-8)


@pytest.mark.parametrize(("n", "joined"), [(5, 1), (12, 1), (12, 2), (9, 4)])
def test_an_extension_says_which_values_it_reuses(n, joined):
    old = first(draw("leverage", n, 24, 1))
    new = extend(old, joined, 1)
    extra, complements = 2**joined - 1, new.Z[1::2]
    assert np.array_equal(new.Z[0::2], ~complements)
    assert len(new.Z) == 24 + 2 * extra
    taken = new.source >= 0
    assert np.array_equal(new.Z[taken][:, :n], old.Z[new.source[taken]])
    assert not new.Z[taken][:, n:].any()
    assert (new.source == GRAND_BEFORE).sum() == 1
    old_grand = new.Z[new.source == GRAND_BEFORE][0]
    assert old_grand[:n].all()
    assert not old_grand[n:].any()
    assert new.Z[new.source == EVALUATE][:, n:].any(axis=1).all()
    assert (new.parent == np.append(np.full(extra, -1), np.arange(12))).all()
    if joined == 1:
        assert (new.source == EVALUATE).sum() == 13  # one for each old pair, and the newcomer by itself


def test_an_extension_depends_on_its_arguments_and_begins_with_that_of_fewer_rows():
    Z = draw("leverage", 9, 60, 3)
    whole, part = extend(first(Z), 2, 5), extend(first(Z[:20]), 2, 5)
    assert np.array_equal(whole.Z[: len(part.Z)], part.Z)
    assert np.array_equal(whole.source[: len(part.Z)], part.source)
    assert np.array_equal(extend(first(Z), 2, 5).Z, whole.Z)
    assert not np.array_equal(extend(first(Z), 2, 6).Z, whole.Z)


@pytest.mark.parametrize(
    ("n", "m", "joined", "left"),
    [
        slow(4, 6, 1, ()),
        slow(4, 6, 2, ()),
        slow(5, 8, 1, (0,)),
        slow(5, 12, 0, (1,)),
        (5, 8, 2, (0, 6)),
    ],
)
def test_pairs_are_as_frequent_as_expected(n, m, joined, left):
    """Counts over seeds, within five standard errors, after a join, a leave, or both."""
    seeds, final = 1000, n + joined - len(left)
    count, expected = np.zeros(2**final), np.zeros(2**final)
    subsets = (np.arange(1, 2**final - 1)[:, None] >> np.arange(final)) & 1 == 1
    for seed in range(seeds):
        design = first(draw("leverage", n, m, seed))
        design = extend(design, joined, seed) if joined else design
        design = drop(design, left) if left else design
        np.add.at(count, design.Z @ (1 << np.arange(final)), np.repeat(design.multiplicity, 2))
    expected[1:-1] = np.exp(design.log_expected(subsets))
    assert expected[1:-1] == pytest.approx(np.exp(design.log_expected(~subsets)))
    assert np.abs(count - seeds * expected).max() <= 5 * np.sqrt(seeds * max(expected.max(), 1))
    assert np.all(np.abs(count - seeds * expected) <= 5 * np.sqrt(seeds * expected) + 1e-9)


def test_a_join_keeps_sizes_uniform():
    """Except for the pairs with only newcomers in one coalition, which are all present."""
    n, m = 8, 20
    new = extend(first(draw("leverage", n, m, 0)), 1, 0)
    S = (np.arange(2 ** (n + 1))[:, None] >> np.arange(n + 1)) & 1 == 1
    S = S[S[:, :n].any(axis=1) & ~S[:, :n].all(axis=1)]
    by_size = np.bincount(S.sum(axis=1), weights=np.exp(new.log_expected(S)))
    assert by_size[2:n] == pytest.approx(np.full(n - 2, m / (n - 1) * (n + 1) / (n + 2)))


def test_a_drop_keeps_the_coalitions_without_leavers():
    Z = draw("leverage", 8, 60, 2)
    left = drop(first(Z), [2, 5])
    stay = [0, 1, 3, 4, 6, 7]
    kept = left.source >= 0
    assert np.array_equal(left.Z[kept], Z[left.source[kept]][:, stay])
    assert not Z[left.source[kept]][:, [2, 5]].any()
    usable = {row[stay].tobytes() for row in Z if not row[[2, 5]].any() and row.any() and not row[stay].all()}
    assert usable == {row.tobytes() for row in left.Z[kept]}
    assert np.array_equal(left.Z[0::2], ~left.Z[1::2])
    assert kept.reshape(-1, 2).any(axis=1).all()


def join_coverage(n, m, noise, reps, joined=1, spoil=None):
    """Share of (game, player) covered, and squared error over variance. `spoil` changes the old values."""
    rng, results = np.random.default_rng(1), []
    for seed in range(reps):
        value, truth = noisy(n + joined, noise, rng)
        before = evaluated(first(draw("leverage", n, m, seed)), value)
        now = valued(extend(before.design, joined, seed), before, value)
        if spoil:
            y = np.where(now.design.source == EVALUATE, now.y, value(now.design.Z))
            now = ValuedDesign(now.design, y, now.v1)
            before = ValuedDesign(before.design, spoil(before.y, rng), before.v1)
        c = credits([before, now], 0.0)
        inside = np.mean((c.low <= truth) & (truth <= c.high))
        results.append((inside, np.mean((c.phi - truth) ** 2), np.mean(c.se**2)))
    covered, error, variance = np.mean(results, axis=0)
    return covered, error / variance


@pytest.mark.parametrize(
    ("n", "m", "noise", "joined", "spoil", "reps"),
    [
        (8, 40, 0.3, 1, None, 40),
        slow(20, 120, 0.1, 1, None, 60),
        slow(12, 100, 0.5, 1, None, 60),
        slow(12, 100, 0.3, 2, None, 60),
        slow(12, 100, 0.3, 1, lambda y, rng: -y, 60),
        slow(12, 100, 0.3, 1, lambda y, rng: rng.normal(size=len(y)), 60),
    ],
    ids=[
        "small",
        "little noise",
        "much noise",
        "two newcomers",
        "old game negated",
        "old game of noise",
    ],
)
def test_intervals_cover_after_a_join(n, m, noise, joined, spoil, reps):
    covered, ratio = join_coverage(n, m, noise, reps, joined, spoil)
    assert covered > 0.935
    assert 0.5 < ratio < 1.15


@pytest.mark.parametrize(("n", "m", "noise", "reps"), [(7, 60, 0.3, 40), slow(12, 160, 0.3, 60)])
def test_intervals_cover_after_a_leave_and_a_join(n, m, noise, reps):
    rng, covered = np.random.default_rng(2), []
    for seed in range(reps):
        value, truth = noisy(n + 1, noise, rng)
        wider = first(draw("leverage", n + 2, m, seed))
        left = drop(wider, [n + 1, n])
        y = filled(left, value(wider.Z[:, : n + 1]), 0.0, value(left.Z[left.source == EVALUATE]))
        before = ValuedDesign(left, y, value(np.ones((1, n), bool))[0])
        now = valued(extend(left, 1, seed), before, value)
        c = credits([before, now], 0.0)
        covered.append((c.low <= truth) & (truth <= c.high))
    assert np.mean(covered) > 0.935


@pytest.mark.parametrize(("n", "m", "kept", "reps"), [(12, 300, 40, 10), slow(12, 200, 60, 30)])
def test_old_coalitions_narrow_the_intervals(n, m, kept, reps):
    """Compared with the same rows of the same game without the old credits as control."""
    rng, ratio = np.random.default_rng(3), []
    for seed in range(reps):
        value, _ = noisy(n + 1, 0.1, rng)
        before = evaluated(first(draw("leverage", n, m, seed)), value)
        part = first(before.design.Z[:kept])
        now = valued(extend(part, 1, seed), before, value)
        c = credits([before, now], 0.0)
        alone = assisted(now.design.pairs(), now.design.pairs().odd(now.y))
        ratio.append(np.sqrt(np.mean(c.se**2) / np.mean(np.sum(alone.shift**2, axis=1))))
    assert np.median(ratio) < 0.65


def test_credits_after_a_join_sum_to_the_gain_and_follow_renumbering():
    rng = np.random.default_rng(0)
    value, _ = noisy(9, 0.0, rng)
    order = np.append(rng.permutation(8), 8)
    before = evaluated(first(draw("leverage", 8, 60, 0)), value)
    now = valued(extend(before.design, 1, 0), before, value)
    now = now._replace(v1=[now.v1 - 0.2, now.v1 + 0.2])  # two seeds, as for v0
    result = credits([before, now], [0.2, 0.4])
    known = credits([before, now._replace(v1=np.mean(now.v1))], 0.3)
    assert result.se**2 - known.se**2 == pytest.approx(np.full(9, 0.05 / 81))
    assert result.phi.sum() == pytest.approx(np.mean(now.v1) - 0.3, abs=1e-9)

    def renumbered(r):
        n, d = r.design.Z.shape[1], r.design
        back = np.argsort(order[:n])
        Z = d.Z[:, order[:n]]
        design = JoinDesign(Z, d.source, d.parent, d.multiplicity, lambda S: d.log_expected(S[:, back]))
        return ValuedDesign(design, r.y, r.v1)

    other = credits([renumbered(before), renumbered(now)], [0.2, 0.4])
    assert other.phi == pytest.approx(result.phi[order], abs=1e-8)
    assert other.se == pytest.approx(result.se[order], rel=1e-6)


def test_a_null_newcomer_gets_nothing_and_changes_no_credit():
    """An additive game without noise, from ten completed pairs."""
    rng = np.random.default_rng(4)
    a = np.append(rng.normal(size=12), 0.0)
    value = lambda Z: 2 + Z @ a[: Z.shape[1]]  # noqa: E731
    before = evaluated(first(draw("leverage", 12, 60, 4)), value)
    now = valued(extend(first(before.design.Z[:20]), 1, 4), before, value)
    assert credits([before, now], 2.0).phi == pytest.approx(a, abs=1e-8)


@pytest.mark.parametrize(
    ("n", "m", "rows", "noise", "interaction", "reps"),
    [
        (7, 30, 16, 0.1, 20.0, 60),
        slow(20, 120, 20, 0.1, 3.0, 70),
        slow(20, 120, 40, 0.5, 3.0, 70),
        slow(10, 80, 20, 0.1, 20.0, 70),
    ],
    ids=["small", "ten pairs", "noise", "ten players"],
)
def test_intervals_cover_the_newcomer_and_an_old_player_whose_credit_it_changes(
    n, m, rows, noise, interaction, reps
):
    """The two interact. With one ridge on all old players, the old one was covered in .7 to .88 of games."""
    rng, covered = np.random.default_rng(n), []
    for seed in range(reps):
        plain, truth = noisy(n + 1, noise, rng)

        def value(Z, plain=plain):
            both = Z[:, 0] & Z[:, n] if Z.shape[1] > n else np.zeros(len(Z))
            return plain(Z) + interaction * both

        truth = truth + interaction / 2 * np.isin(np.arange(n + 1), [0, n])
        before = evaluated(first(draw("leverage", n, m, seed)), value)
        now = valued(extend(first(before.design.Z[:rows]), 1, seed), before, value)
        c = credits([before, now], 0.0)
        covered.append((c.low <= truth) & (truth <= c.high))
    assert np.mean(covered, axis=0)[[0, n]].min() >= 0.93
    assert np.mean(covered) > 0.95


def drifts(shift=0.0, slope=0.0, along=0.0, b=12, reps=250):
    """How often a bridge of b coalitions finds drift where the noise has SD 1, and all bridges."""
    rng, results = np.random.default_rng(0), []
    for j in range(reps):
        Z, phi = draw("leverage", 10, b, j), rng.normal(size=10)
        value = Z @ phi
        again = (
            value
            + shift
            + slope * (Z.sum(axis=1) - 5)
            + along * (Z @ (phi - phi.mean()))
            + rng.normal(size=b)
        )
        results.append(bridge(Z, value + rng.normal(size=b), again))
    return np.mean([result.drifted for result in results]), results


def test_a_bridge_finds_drift_as_often_as_it_says():
    false_alarms, unchanged = drifts()
    assert 0.02 < false_alarms < 0.065
    detectable = np.sqrt(np.mean([result.detectable**2 for result in unchanged]))
    assert 0.7 < drifts(shift=detectable)[0] < 0.9
    assert drifts(slope=1.5, reps=100)[0] > 0.9
    assert drifts(along=3.0, reps=100)[0] > 0.8
    _, shifted = drifts(shift=5.0, reps=100)
    assert np.median([result.shift for result in shifted]) == pytest.approx(5, abs=0.2)
    assert "no longer hold" in next(result.reason for result in shifted if result.drifted)
    assert "no drift found" in next(result.reason for result in unchanged if not result.drifted)


@pytest.mark.parametrize(("b", "detectable"), [(8, 2.5), slow(10, 2.0), slow(20, 1.2), slow(30, 0.9)])
def test_a_bridge_finds_its_detectable_shift(b, detectable):
    share, bridges = drifts(shift=detectable, b=b, reps=400)
    assert 0.72 < share < 0.88
    assert np.sqrt(np.mean([result.detectable**2 for result in bridges])) == pytest.approx(
        detectable, rel=0.05
    )


@pytest.mark.parametrize(
    ("b", "relative_noise"),
    [(8, 0.3), *(slow(b, s) for b in (8, 12, 20, 30) for s in (0.3, 2.0) if (b, s) != (8, 0.3))],
)
def test_a_bridge_raises_no_more_false_alarms_than_it_says(b, relative_noise):
    """Over 2000 rounds without drift, within two and a half standard errors.

    The noise is relative to SD(v).
    """
    rng, alarms = np.random.default_rng(b), []
    designs = [draw("leverage", 20, 60, j)[:b] for j in range(20)]
    games = [(Z, game(20, rng).value(Z)) for Z in designs]
    for Z, v in 100 * games:
        noise = relative_noise * v.std() * rng.normal(size=(2, b))
        alarms.append(bridge(Z, v + noise[0], v + noise[1]).drifted)
    assert 0.038 < np.mean(alarms) < 0.062


def test_the_mean_of_both_values_is_uncorrelated_with_changes_unlike_credits():
    """Credits contain the noise of the old values, which the changes contain with the opposite sign."""
    rng, by_credits, by_mean = np.random.default_rng(3), [], []
    for j in range(100):
        Z = draw("leverage", 10, 40, j)
        v = game(10, rng).value(Z)
        y, again = v + 2 * v.std() * rng.normal(size=40), v[:30] + 2 * v.std() * rng.normal(size=30)
        change, phi = again - y[:30], leverage(Z, y, 0.0, 1.0)
        by_credits.append(np.corrcoef(Z[:30] @ (phi - phi.mean()), change)[0, 1])
        by_mean.append(np.corrcoef(again + y[:30], change)[0, 1])
    assert np.mean(by_credits) < -0.2
    assert abs(np.mean(by_mean)) < 0.05


def test_a_bridge_without_noise():
    Z, phi = draw("leverage", 6, 10, 0), np.arange(6.0)
    assert bridge(Z, Z @ phi, Z @ phi).p == 1
    assert bridge(Z, Z @ phi, Z @ phi + 1e-3).drifted


def test_reports_say_what_intervals_cover():
    assert covers(40, 120, 21, "finetune").startswith(
        "ranking only (40 coalitions for 21 players, expected at least 84): a player's"
    )
    assert covers(84, 120, 21, "finetune").startswith(
        "a player's Shapley value in the finetune game of all 21 players"
    )


OLD = draw("leverage", 6, 20, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: first(OLD[1:]), "19 rows not in complementary pairs"),
        (lambda: first(OLD[[0, 2, 1, 3]]), "not in complementary pairs"),
        (lambda: first(OLD[[0, 1, 1, 0]]), "a repeated coalition"),
        (lambda: first(np.repeat([[True], [False]], 6, axis=1)), "the empty or grand coalition"),
        (lambda: first(2 * OLD.astype(int)), "expected booleans"),
        (lambda: extend(first(OLD), 0, 0), "joined = 0"),
        (lambda: extend(first(OLD), 5, 0), "joined = 5"),
        (lambda: extend(first(OLD), 1, -1), "seed = -1"),
        (lambda: extend(first(OLD), 1.5, 0), "joined = 1.5"),
        (lambda: drop(first(OLD), []), "left = \\[\\]"),
        (lambda: drop(first(OLD), [6]), "players from 0 to 5"),
        (lambda: drop(first(OLD), [0, 1, 2, 3, 4]), "at least two remaining"),
        (
            lambda: filled(extend(first(OLD), 1, 0), np.zeros(20), 1.0, np.zeros(3)),
            "3,\\) new values, expected \\(11,\\)",
        ),
        (
            lambda: filled(extend(first(OLD), 1, 0), np.zeros(9), 1.0, np.zeros(11)),
            "y_before of shape \\(9,\\)",
        ),
        (lambda: credits([], 0.0), "no rounds"),
        (lambda: credits([ValuedDesign(first(OLD), np.zeros(19), 1.0)], 0.0), "y of shape"),
        (lambda: credits([ValuedDesign(first(OLD), np.full(20, np.nan), 1.0)], 0.0), "not finite"),
        (lambda: credits([ValuedDesign(first(OLD), np.zeros(20), np.inf)], 0.0), "in v1 not finite"),
        (lambda: credits([ValuedDesign(first(OLD), np.zeros(20), [1.0])], 0.0), "v1 of shape \\(1,\\)"),
        (lambda: credits([ValuedDesign(first(OLD), np.zeros(20), 1.0)], None), "v0 that is not an array"),
        (lambda: credits([ValuedDesign(first(OLD), None, 1.0)], 0.0), "y that is not an array"),
        (lambda: credits([ValuedDesign(first(OLD[:14]), np.zeros(14), 1.0)], 0.0), "found 7 pairs"),
        (lambda: credits([ValuedDesign(first(OLD), np.zeros(20), 1.0)] * 2, 0.0), "does not extend"),
        (lambda: credits([ValuedDesign(first(OLD), np.zeros(20), 1.0)], 0.0, 1.0), "level = 1.0"),
        (lambda: credits([ValuedDesign(first(OLD), np.zeros(20), 1.0)], 0.0, None), "level = None"),
        (lambda: first(None), "Z of shape"),
        (lambda: first([[True, False], [False]]), "rows of different lengths"),
        (lambda: extend(first(OLD), 1, None), "seed = None"),
        (lambda: extend(first(OLD), "1", 0), "joined = '1'"),
        (lambda: extend(first(OLD), 1, np.arange(2)), "seed = array"),
        (lambda: drop(first(OLD), None), "left = None"),
        (lambda: drop(first(OLD), "01"), "left = '01'"),
        (lambda: drop(first(OLD), ["a"]), "left = 'a'"),
        (
            lambda: filled(extend(first(OLD), 1, 0), np.zeros(20), 1.0, ["a"] * 11),
            "evaluated that is not an array",
        ),
        (lambda: filled(extend(first(OLD), 1, 0), None, 1.0, np.zeros(11)), "y_before that is not an array"),
        (lambda: bridge(OLD[:6], np.zeros(6), np.zeros(6)), "6 bridges"),
        (lambda: bridge(OLD, np.zeros(20), np.full(20, np.nan)), "not finite"),
        (lambda: bridge(OLD, np.zeros(20), np.zeros(20), 1.0), "alpha = 1.0"),
        (lambda: bridge(OLD, np.zeros(20), np.zeros(20), None), "alpha = None"),
        (lambda: bridge(OLD, np.zeros(20), np.zeros(20), "some"), "alpha = 'some'"),
        (lambda: bridge(OLD, np.zeros(20), np.zeros(20), np.ones(2) / 2), "alpha = array"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValuationError, match=message):
        call()


def test_rounds_that_do_not_extend_each_other_are_refused():
    value = table(np.random.default_rng(0).normal(size=2**7))
    before = evaluated(first(OLD), value)
    now = valued(extend(before.design, 1, 0), before, value)
    with pytest.raises(ValuationError, match="does not extend the one before it"):
        credits([evaluated(first(OLD[:16]), value), now], 0.0)
    with pytest.raises(ValuationError, match="does not extend the one before it"):
        credits([evaluated(first(draw("leverage", 6, 20, 1)), value), now], 0.0)


@pytest.mark.parametrize(("reps", "most"), [(100, 9), slow(300, 24)])
def test_uneven_noise_causes_no_more_false_alarms(reps, most):
    """The smallest and largest coalitions have ten times the noise.

    An F test would reject in .19 of cases.
    """
    rng, alarms = np.random.default_rng(0), 0
    for seed in range(reps):
        Z = draw("leverage", 12, 24, seed)
        value, spread = Z @ rng.normal(size=12), np.where(np.isin(Z.sum(axis=1), (1, 11)), 10.0, 1.0)
        alarms += bridge(
            Z, value + spread * rng.normal(size=24), value + spread * rng.normal(size=24)
        ).drifted
    assert alarms <= most
