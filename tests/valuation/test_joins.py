"""Who joins and who leaves: exact values from all coalitions, chances by counting, and coverage that is counted."""

import numpy as np
import pytest
from random_games import game

from apportion.errors import ValuationError
from apportion.valuation.coalitions import draw
from apportion.valuation.joins import EVALUATE, EVERYONE, Design, Round, bridge, covers, credits, drop, extend, filled, first
from apportion.valuation.multifidelity import assisted
from apportion.valuation.shapley import exact, leverage


def table(v):
    """The game whose value of a coalition of its first players is looked up in v (2**players,)."""
    return lambda Z: v[Z @ (1 << np.arange(Z.shape[1]))]


def every(n):
    return first(draw("leverage", n, 2**n - 2, 0))


def valued(design, before, value):
    """The round of an extension, with only the rows to be evaluated looked up."""
    y = filled(design, before.y, before.v1, value(design.Z[design.source == EVALUATE]))
    return Round(design, y, float(value(np.ones((1, design.Z.shape[1]), bool))[0]))


def opening(design, value):
    return Round(design, value(design.Z), float(value(np.ones((1, design.Z.shape[1]), bool))[0]))


def noisy(n, noise, rng):
    """Values of coalitions of the first players of a random game of unit SD, and the Shapley values of all n."""
    g = game(n, rng)
    scale = g.value(draw("leverage", n, 300, 0)).std()

    def value(Z):
        padded = np.pad(Z, ((0, 0), (0, n - Z.shape[1])))
        return g.value(padded) / scale + noise * rng.normal(size=len(Z)) * ~Z.all(axis=1)

    return value, g.shapley() / scale


@pytest.mark.parametrize(("n", "joined"), [(5, 1), (5, 2), (6, 1), (5, 3)])
def test_all_pairs_of_all_old_ones_give_exact_credits(n, joined):
    v = np.random.default_rng(n).normal(size=2 ** (n + joined))
    value = table(v)
    before = opening(every(n), value)
    now = valued(extend(before.design, joined, 0, every=True), before, value)
    assert len({row.tobytes() for row in now.design.Z}) == 2 ** (n + joined) - 2
    assert now.y == pytest.approx(value(now.design.Z), abs=0)
    assert credits([before, now], v[0]).phi == pytest.approx(exact(v), abs=1e-8)
    assert credits([before], v[0]).phi == pytest.approx(exact(v[: 2**n]), abs=1e-8)


def test_a_second_join_and_a_leave_are_exact_in_the_limit():
    v = np.random.default_rng(7).normal(size=2**7)
    value = table(v)
    rounds = [opening(every(5), value)]
    for _ in range(2):
        rounds.append(valued(extend(rounds[-1].design, 1, 0, every=True), rounds[-1], value))
    assert credits(rounds, v[0]).phi == pytest.approx(exact(v), abs=1e-8)
    left = drop(rounds[-1].design, [6])
    assert (left.source >= 0).all()
    assert left.pairs().weight.sum() == pytest.approx(1)
    found = credits([Round(left, rounds[-1].y[left.source], v[2**6 - 1])], v[0])
    assert found.phi == pytest.approx(exact(v[: 2**6]), abs=1e-8)


@pytest.mark.parametrize(("n", "joined"), [(5, 1), (12, 1), (12, 2), (9, 4)])
def test_an_extension_says_what_it_uses(n, joined):
    old = first(draw("leverage", n, 24, 1))
    new = extend(old, joined, 1)
    extra, complements = 2**joined - 1, new.Z[1::2]
    assert np.array_equal(new.Z[0::2], ~complements)
    assert len(new.Z) == 24 + 2 * extra
    taken = new.source >= 0
    assert np.array_equal(new.Z[taken][:, :n], old.Z[new.source[taken]])
    assert not new.Z[taken][:, n:].any()
    assert (new.source == EVERYONE).sum() == 1
    everyone = new.Z[new.source == EVERYONE][0]
    assert everyone[:n].all()
    assert not everyone[n:].any()
    assert new.Z[new.source == EVALUATE][:, n:].any(axis=1).all()
    assert (new.parent == np.append(np.full(extra, -1), np.arange(12))).all()
    if joined == 1:
        assert (new.source == EVALUATE).sum() == 13  # one for each old pair, and the newcomer alone


def test_an_extension_is_pure_and_that_of_fewer_rows_its_beginning():
    Z = draw("leverage", 9, 60, 3)
    whole, part = extend(first(Z), 2, 5), extend(first(Z[:20]), 2, 5)
    assert np.array_equal(whole.Z[: len(part.Z)], part.Z)
    assert np.array_equal(whole.source[: len(part.Z)], part.source)
    assert np.array_equal(extend(first(Z), 2, 5).Z, whole.Z)
    assert not np.array_equal(extend(first(Z), 2, 6).Z, whole.Z)


@pytest.mark.parametrize(("n", "m", "joined", "left"), [(4, 6, 1, ()), (4, 6, 2, ()), (5, 8, 1, (0,)), (5, 12, 0, (1,)), (5, 8, 2, (0, 6))])
def test_pairs_come_as_often_as_said(n, m, joined, left):
    """Counts over seeds, within five standard errors: after a join, a leave, and a leave of old and new players after a join."""
    seeds, final = 1500, n + joined - len(left)
    count, said = np.zeros(2**final), np.zeros(2**final)
    subsets = (np.arange(1, 2**final - 1)[:, None] >> np.arange(final)) & 1 == 1
    for seed in range(seeds):
        design = first(draw("leverage", n, m, seed))
        design = extend(design, joined, seed) if joined else design
        design = drop(design, left) if left else design
        np.add.at(count, design.Z @ (1 << np.arange(final)), np.repeat(design.times, 2))
    said[1:-1] = np.exp(design.log_expected(subsets))
    assert said[1:-1] == pytest.approx(np.exp(design.log_expected(~subsets)))
    assert np.abs(count - seeds * said).max() <= 5 * np.sqrt(seeds * max(said.max(), 1))
    assert np.all(np.abs(count - seeds * said) <= 5 * np.sqrt(seeds * said) + 1e-9)


def test_a_join_keeps_sizes_uniform():
    """But for the pairs without any old player on one side, which are all there."""
    n, m = 8, 20
    new = extend(first(draw("leverage", n, m, 0)), 1, 0)
    S = (np.arange(2 ** (n + 1))[:, None] >> np.arange(n + 1)) & 1 == 1
    S = S[S[:, :n].any(axis=1) & ~S[:, :n].all(axis=1)]
    by_size = np.bincount(S.sum(axis=1), weights=np.exp(new.log_expected(S)))
    assert by_size[2:n] == pytest.approx(np.full(n - 2, m / (n - 1) * (n + 1) / (n + 2)))


def test_dropping_keeps_what_lacks_the_leavers():
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
    """Share of (game, player) covered, and squared error over variance. `spoil` is done to the values of the old game."""
    rng, found = np.random.default_rng(1), []
    for seed in range(reps):
        value, truth = noisy(n + joined, noise, rng)
        before = opening(first(draw("leverage", n, m, seed)), value)
        now = valued(extend(before.design, joined, seed), before, value)
        if spoil:
            now = Round(now.design, np.where(now.design.source == EVALUATE, now.y, value(now.design.Z)), now.v1)
            before = Round(before.design, spoil(before.y, rng), before.v1)
        c = credits([before, now], 0.0)
        found.append((np.mean((c.low <= truth) & (truth <= c.high)), np.mean((c.phi - truth) ** 2), np.mean(c.se**2)))
    held, error, variance = np.mean(found, axis=0)
    return held, error / variance


@pytest.mark.parametrize(
    ("n", "m", "noise", "joined", "spoil"),
    [
        (20, 120, 0.1, 1, None),
        (12, 100, 0.5, 1, None),
        (12, 100, 0.3, 2, None),
        (12, 100, 0.3, 1, lambda y, rng: -y),
        (12, 100, 0.3, 1, lambda y, rng: rng.normal(size=len(y))),
    ],
    ids=["little noise", "much noise", "two at once", "old game turned round", "old game of noise"],
)
def test_intervals_cover_after_a_join(n, m, noise, joined, spoil):
    held, ratio = join_coverage(n, m, noise, 60, joined, spoil)
    assert held > 0.935
    assert 0.5 < ratio < 1.15


def test_intervals_cover_after_a_leave_and_a_join():
    rng, held = np.random.default_rng(2), []
    for seed in range(60):
        value, truth = noisy(13, 0.3, rng)
        wider = first(draw("leverage", 14, 160, seed))
        left = drop(wider, [13, 12])
        before = Round(
            left, filled(left, value(wider.Z[:, :13]), 0.0, value(left.Z[left.source == EVALUATE])), value(np.ones((1, 12), bool))[0]
        )
        now = valued(extend(left, 1, seed), before, value)
        c = credits([before, now], 0.0)
        held.append((c.low <= truth) & (truth <= c.high))
    assert np.mean(held) > 0.935


def test_old_coalitions_narrow_the_intervals():
    """The new pairs without the old credits to follow are a design of their own: same game, same rows."""
    rng, ratio = np.random.default_rng(3), []
    for seed in range(30):
        value, _ = noisy(13, 0.1, rng)
        before = opening(first(draw("leverage", 12, 200, seed)), value)
        part = first(before.design.Z[:60])
        now = valued(extend(part, 1, seed), before, value)
        c = credits([before, now], 0.0)
        alone = assisted(now.design.pairs(), now.design.pairs().odd(now.y))
        ratio.append(np.sqrt(np.mean(c.se**2) / np.mean(np.sum(alone.shift**2, axis=1))))
    assert np.median(ratio) < 0.65


def test_credits_after_a_join_sum_to_the_gain_and_follow_the_numbering():
    rng = np.random.default_rng(0)
    value, _ = noisy(9, 0.0, rng)
    order = np.append(rng.permutation(8), 8)
    before = opening(first(draw("leverage", 8, 60, 0)), value)
    now = valued(extend(before.design, 1, 0), before, value)
    now = now._replace(v1=[now.v1 - 0.2, now.v1 + 0.2])  # two seeds, as of nobody
    found = credits([before, now], [0.2, 0.4])
    assert found.se**2 - credits([before, now._replace(v1=np.mean(now.v1))], 0.3).se ** 2 == pytest.approx(np.full(9, 0.05 / 81))
    assert found.phi.sum() == pytest.approx(np.mean(now.v1) - 0.3, abs=1e-9)

    def renumbered(r):
        n, d = r.design.Z.shape[1], r.design
        back = np.argsort(order[:n])
        return Round(Design(d.Z[:, order[:n]], d.source, d.parent, d.times, lambda S: d.log_expected(S[:, back])), r.y, r.v1)

    other = credits([renumbered(before), renumbered(now)], [0.2, 0.4])
    assert other.phi == pytest.approx(found.phi[order], abs=1e-8)
    assert other.se == pytest.approx(found.se[order], rel=1e-6)


def test_a_newcomer_who_changes_nothing_gets_nothing_and_others_what_they_had():
    """Without noise and with additive values, from ten completed pairs."""
    rng = np.random.default_rng(4)
    a = np.append(rng.normal(size=12), 0.0)
    value = lambda Z: 2 + Z @ a[: Z.shape[1]]  # noqa: E731
    before = opening(first(draw("leverage", 12, 60, 4)), value)
    now = valued(extend(first(before.design.Z[:20]), 1, 4), before, value)
    assert credits([before, now], 2.0).phi == pytest.approx(a, abs=1e-8)


@pytest.mark.parametrize(
    ("n", "m", "rows", "noise", "worth"),
    [(20, 120, 20, 0.1, 3.0), (20, 120, 40, 0.5, 3.0), (10, 80, 20, 0.1, 20.0)],
    ids=["ten pairs", "noise", "ten players"],
)
def test_intervals_cover_the_newcomer_and_an_old_player_whose_credit_he_changes(n, m, rows, noise, worth):
    """They are worth something together. Where one ridge drew all old players, the old one was covered in .7 to .88 of games."""
    rng, held = np.random.default_rng(n), []
    for seed in range(70):
        plain, truth = noisy(n + 1, noise, rng)
        value = lambda Z, plain=plain: plain(Z) + worth * (Z[:, 0] & Z[:, n] if Z.shape[1] > n else np.zeros(len(Z)))  # noqa: E731
        truth = truth + worth / 2 * np.isin(np.arange(n + 1), [0, n])
        before = opening(first(draw("leverage", n, m, seed)), value)
        now = valued(extend(first(before.design.Z[:rows]), 1, seed), before, value)
        c = credits([before, now], 0.0)
        held.append((c.low <= truth) & (truth <= c.high))
    assert np.mean(held, axis=0)[[0, n]].min() >= 0.93
    assert np.mean(held) > 0.95


def drifts(shift=0.0, slope=0.0, along=0.0, b=12, reps=250):
    """How often a bridge of b coalitions finds drift, noise having SD 1."""
    rng, found = np.random.default_rng(0), []
    for j in range(reps):
        Z, phi = draw("leverage", 10, b, j), rng.normal(size=10)
        value = Z @ phi
        again = value + shift + slope * (Z.sum(axis=1) - 5) + along * (Z @ (phi - phi.mean())) + rng.normal(size=b)
        found.append(bridge(Z, value + rng.normal(size=b), again))
    return np.mean([f.drifted for f in found]), found


def test_a_bridge_finds_drift_as_often_as_it_says():
    still, found = drifts()
    assert 0.02 < still < 0.065
    detectable = np.sqrt(np.mean([f.detectable**2 for f in found]))
    assert 0.7 < drifts(shift=detectable)[0] < 0.9
    assert drifts(slope=1.5)[0] > 0.9
    assert drifts(along=3.0)[0] > 0.8
    assert np.median([f.shift for f in drifts(shift=5.0)[1]]) == pytest.approx(5, abs=0.2)
    assert "no longer hold" in next(f.reason for f in drifts(shift=5.0)[1] if f.drifted)
    assert "no drift found" in next(f.reason for f in found if not f.drifted)


@pytest.mark.parametrize(("b", "found"), [(8, 2.5), (10, 2.0), (20, 1.2), (30, 0.9)])
def test_a_bridge_finds_the_shift_that_it_says(b, found):
    share, bridges = drifts(shift=found, b=b, reps=400)
    assert 0.72 < share < 0.88
    assert np.sqrt(np.mean([f.detectable**2 for f in bridges])) == pytest.approx(found, rel=0.05)


@pytest.mark.parametrize("b", [8, 12, 20, 30])
@pytest.mark.parametrize("size", [0.3, 2.0])
def test_a_bridge_raises_no_more_false_alarms_than_it_says(b, size):
    """Over 2000 rounds without drift, within two and a half standard errors; noise of `size` SD of the values."""
    rng, alarms = np.random.default_rng(b), []
    designs = [draw("leverage", 20, 60, j)[:b] for j in range(20)]
    games = [(Z, game(20, rng).value(Z)) for Z in designs]
    for Z, v in 100 * games:
        noise = size * v.std() * rng.normal(size=(2, b))
        alarms.append(bridge(Z, v + noise[0], v + noise[1]).drifted)
    assert 0.038 < np.mean(alarms) < 0.062


def test_credits_fitted_to_the_bridges_would_make_alarms_and_what_they_are_tested_along_does_not():
    """Credits are made of the old values' noise, which is in the changes with the other sign; the mean of both values is not."""
    rng, by_credits, ours = np.random.default_rng(3), [], []
    for j in range(100):
        Z = draw("leverage", 10, 40, j)
        v = game(10, rng).value(Z)
        y, again = v + 2 * v.std() * rng.normal(size=40), v[:30] + 2 * v.std() * rng.normal(size=30)
        change, phi = again - y[:30], leverage(Z, y, 0.0, 1.0)
        by_credits.append(np.corrcoef(Z[:30] @ (phi - phi.mean()), change)[0, 1])
        ours.append(np.corrcoef(again + y[:30], change)[0, 1])
    assert np.mean(by_credits) < -0.2
    assert abs(np.mean(ours)) < 0.05


def test_a_bridge_without_noise():
    Z, phi = draw("leverage", 6, 10, 0), np.arange(6.0)
    assert bridge(Z, Z @ phi, Z @ phi).p == 1
    assert bridge(Z, Z @ phi, Z @ phi + 1e-3).drifted


def test_what_intervals_cover_is_said():
    assert covers(40, 120, 21, "finetune").startswith("ranking only (40 coalitions for 21 players, expected at least 84): a player's")
    assert covers(84, 120, 21, "finetune").startswith("a player's Shapley value in the finetune game of all 21 players")


OLD = draw("leverage", 6, 20, 0)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: first(OLD[1:]), "19 rows not in complementary pairs"),
        (lambda: first(OLD[[0, 2, 1, 3]]), "not in complementary pairs"),
        (lambda: first(OLD[[0, 1, 1, 0]]), "a coalition twice"),
        (lambda: first(np.repeat([[True], [False]], 6, axis=1)), "nobody or everybody"),
        (lambda: first(2 * OLD.astype(int)), "expected booleans"),
        (lambda: extend(first(OLD), 0, 0), "joined = 0"),
        (lambda: extend(first(OLD), 5, 0), "joined = 5"),
        (lambda: extend(first(OLD), 1, -1), "seed = -1"),
        (lambda: extend(first(OLD), 1.5, 0), "joined = 1.5"),
        (lambda: drop(first(OLD), []), "left = \\[\\]"),
        (lambda: drop(first(OLD), [6]), "players from 0 to 5"),
        (lambda: drop(first(OLD), [0, 1, 2, 3, 4]), "at least two remaining"),
        (lambda: filled(extend(first(OLD), 1, 0), np.zeros(20), 1.0, np.zeros(3)), "3,\\) new values, expected \\(11,\\)"),
        (lambda: filled(extend(first(OLD), 1, 0), np.zeros(9), 1.0, np.zeros(11)), "y_before of shape \\(9,\\)"),
        (lambda: credits([], 0.0), "no rounds"),
        (lambda: credits([Round(first(OLD), np.zeros(19), 1.0)], 0.0), "y of shape"),
        (lambda: credits([Round(first(OLD), np.full(20, np.nan), 1.0)], 0.0), "not finite"),
        (lambda: credits([Round(first(OLD), np.zeros(20), np.inf)], 0.0), "in v1 not finite"),
        (lambda: credits([Round(first(OLD), np.zeros(20), [1.0])], 0.0), "v1 of shape \\(1,\\)"),
        (lambda: credits([Round(first(OLD), np.zeros(20), 1.0)], None), "v0 that is no array"),
        (lambda: credits([Round(first(OLD), None, 1.0)], 0.0), "y that is no array"),
        (lambda: credits([Round(first(OLD[:14]), np.zeros(14), 1.0)], 0.0), "found 7 pairs"),
        (lambda: credits([Round(first(OLD), np.zeros(20), 1.0)] * 2, 0.0), "does not extend"),
        (lambda: credits([Round(first(OLD), np.zeros(20), 1.0)], 0.0, 1.0), "level = 1.0"),
        (lambda: credits([Round(first(OLD), np.zeros(20), 1.0)], 0.0, None), "level = None"),
        (lambda: first(None), "Z of shape"),
        (lambda: first([[True, False], [False]]), "rows of several lengths"),
        (lambda: extend(first(OLD), 1, None), "seed = None"),
        (lambda: extend(first(OLD), "1", 0), "joined = '1'"),
        (lambda: extend(first(OLD), 1, np.arange(2)), "seed = array"),
        (lambda: drop(first(OLD), None), "left = None"),
        (lambda: drop(first(OLD), "01"), "left = '01'"),
        (lambda: drop(first(OLD), ["a"]), "left = 'a'"),
        (lambda: filled(extend(first(OLD), 1, 0), np.zeros(20), 1.0, ["a"] * 11), "evaluated that is no array"),
        (lambda: filled(extend(first(OLD), 1, 0), None, 1.0, np.zeros(11)), "y_before that is no array"),
        (lambda: bridge(OLD[:6], np.zeros(6), np.zeros(6)), "6 bridges"),
        (lambda: bridge(OLD, np.zeros(20), np.full(20, np.nan)), "not finite"),
        (lambda: bridge(OLD, np.zeros(20), np.zeros(20), 1.0), "alpha = 1.0"),
        (lambda: bridge(OLD, np.zeros(20), np.zeros(20), None), "alpha = None"),
        (lambda: bridge(OLD, np.zeros(20), np.zeros(20), "some"), "alpha = 'some'"),
        (lambda: bridge(OLD, np.zeros(20), np.zeros(20), np.ones(2) / 2), "alpha = array"),
    ],
)
def test_refuses(call, says):
    with pytest.raises(ValuationError, match=says):
        call()


def test_rounds_that_do_not_belong_together_are_refused():
    value = table(np.random.default_rng(0).normal(size=2**7))
    before = opening(first(OLD), value)
    now = valued(extend(before.design, 1, 0), before, value)
    with pytest.raises(ValuationError, match="does not extend the one before it"):
        credits([opening(first(OLD[:16]), value), now], 0.0)
    with pytest.raises(ValuationError, match="does not extend the one before it"):
        credits([opening(first(draw("leverage", 6, 20, 1)), value), now], 0.0)


def test_bridges_of_uneven_noise_raise_no_more_false_alarms():
    """Noise ten times as large at the smallest and the largest coalitions: an F test would be alarmed in .19 of cases."""
    rng, alarms = np.random.default_rng(0), 0
    for seed in range(300):
        Z = draw("leverage", 12, 24, seed)
        value, spread = Z @ rng.normal(size=12), np.where(np.isin(Z.sum(axis=1), (1, 11)), 10.0, 1.0)
        alarms += bridge(Z, value + spread * rng.normal(size=24), value + spread * rng.normal(size=24)).drifted
    assert alarms <= 24
