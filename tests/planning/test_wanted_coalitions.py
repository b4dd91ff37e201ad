"""The evaluations that a round wants: coalitions, games, seeds and purposes."""

from collections import Counter
from math import comb

import numpy as np
import pytest
from tiny import CONFIG, REMOVALS

from apportion.config.hashing import digest
from apportion.config.loading import load
from apportion.errors import ConfigError
from apportion.planning.coalitions import (
    ENDPOINT_SEEDS,
    METHOD_SEEDS,
    PAIRED_SEEDS,
    budget,
    by_size,
    design,
    held_out,
    removals,
    repeats,
    seeds_of,
    sets_of,
    wanted_evaluations,
)
from apportion.planning.games import base_of, games_of
from apportion.records import Contributor, Manifest
from apportion.valuation import coalitions

SIX = ("valuation.coalitions=40", "evaluation.held_out=0")
EXPERTS = "removal={{method: experts, sets: {}, fitting: {{steps: 5, lr: 0.1}}}}"
NETWORK = digest("network")


class Wanted:
    """The configuration, the manifest, the games and the evaluations of a round of `n` contributors."""

    def __init__(self, n, *overrides, look=0):
        self.n = n
        self.config = load(CONFIG, ["compute.precision=fp32", REMOVALS, *overrides])
        rows = [Contributor(name=f"c{i}", data=digest(i), samples=10) for i in range(n)]
        self.manifest = Manifest(contributors=tuple(rows))
        base = base_of(self.config, self.manifest, "fp32")
        self.games = games_of(self.config, base, NETWORK, "fp32")
        self.all = [*wanted_evaluations(self.config, self.manifest, self.games, look)]

    def of(self, *purposes):
        return [item for item in self.all if item.purpose in purposes]

    def masks(self, *purposes):
        return np.array([item.mask(self.n) for item in self.of(*purposes)])

    def role(self, item):
        return next(role for role, game in self.games.items() if game.id == item.game)


def seeds(items):
    return [item.seed for item in items]


def roles(wanted, *purposes):
    return {wanted.role(item) for item in wanted.of(*purposes)}


def test_the_plan_of_the_tiny_configuration():
    wanted = Wanted(4)
    assert [item.purpose for item in wanted.all] == [
        *["v0", "v1"] * 2,
        *["design"] * 12,
        *["held_out", "paired", "baseline"] * 4,
    ]
    assert len({item.key for item in wanted.all}) == len(wanted.all)
    for item in wanted.all:
        game, data = wanted.games[wanted.role(item)], wanted.manifest.data(item.mask(4))
        assert item.key == game.key(item.seed, data)
    assert roles(wanted, "v0", "v1", "design", "paired") == {"credit"}
    assert roles(wanted, "held_out") == {"truth"}
    assert roles(wanted, "baseline") == {"baseline"}


def test_endpoints_have_seeds_of_their_own():
    wanted = Wanted(4, "valuation.endpoint_seeds=3")
    for purpose, member in (("v0", False), ("v1", True)):
        assert seeds(wanted.of(purpose)) == [ENDPOINT_SEEDS + r for r in range(3)]
        assert np.array_equal(wanted.masks(purpose), np.full((3, 4), member))


def test_the_empty_coalition_is_not_evaluated_where_its_value_is_stated_for_every_property():
    stated = {"fid": 99.0, "inception_score": 1.0, "cluster_entropy": 0.0, "colourfulness_p90": 76.0}
    options = [f"valuation.stated_v0.{name}={value}" for name, value in stated.items()]
    assert not Wanted(4, *options).of("v0")
    assert len(Wanted(4, *options[:-1]).of("v0")) == 2
    retrained = Wanted(6, *SIX, *options, "valuation.retrained={coalitions: 16}")
    assert not retrained.of("v0", "retrained_v0")
    assert retrained.of("retrained_v1")


def test_a_coalition_of_the_leverage_design_shares_its_seed_with_its_complement():
    """So the noise of one seed cancels in their difference."""
    wanted = Wanted(4, "valuation.seed=7")
    Z = wanted.masks("design")
    assert np.array_equal(Z, coalitions.draw("leverage", 4, 12, 7))
    assert np.array_equal(Z[::2], ~Z[1::2])
    assert seeds(wanted.of("design")) == [7 + pair for pair in range(6) for _ in range(2)]


def test_coalitions_of_the_kernel_design_have_seeds_of_their_own():
    wanted = Wanted(4, "valuation.design=shapley_kernel", "valuation.coalitions=9")
    assert np.array_equal(wanted.masks("design"), coalitions.draw("shapley_kernel", 4, 9, 0))
    assert seeds(wanted.of("design")) == [*range(9)]


@pytest.mark.parametrize(("n", "available"), [(2, 2), (3, 6), (6, 48)])
def test_the_leverage_design_has_at_most_all_proper_coalitions(n, available):
    options = load(CONFIG, ["valuation.coalitions=48"]).valuation
    assert budget(options, n) == len(design(options, n)) == available
    kernel = load(CONFIG, ["valuation.coalitions=48", "valuation.design=shapley_kernel"]).valuation
    assert budget(kernel, n) == len(design(kernel, n)) == 48


def test_each_look_extends_the_one_before():
    rule = "valuation.stop={looks: [20, 28, 40], rule: width, target: 1}"
    looks = [Wanted(6, *SIX, rule, look=look) for look in range(3)]
    assert [len(look.of("design")) for look in looks] == [20, 28, 40]
    at_once = Wanted(6, *SIX).of("design")
    for look in looks:
        assert look.of("design") == at_once[: len(look.of("design"))]


# Coalitions that share sets of weights


def with_sets(sets, *overrides):
    return load(CONFIG, ["compute.precision=fp32", EXPERTS.format(sets), "evaluation.held_out=0", *overrides])


def pairs(n, count, sets, *overrides):
    """The smaller size, the seed and the set of each pair of a leverage design, (pairs,) each; asserts that a
    coalition and its complement have the same."""
    config = with_sets(sets, f"valuation.coalitions={count}", *overrides)
    Z = design(config.valuation, n)
    seeds, of_set, size = np.array(seeds_of(config, Z)), sets_of(config, Z), Z.sum(axis=1)
    assert np.array_equal(Z[::2], ~Z[1::2])
    assert np.array_equal(seeds[::2], seeds[1::2])
    assert np.array_equal(of_set, seeds % sets)
    return np.minimum(size, n - size)[::2], seeds[::2], of_set[::2]


@pytest.mark.parametrize(("n", "count"), [(4, 14), (7, 40), (12, 96), (30, 200)])
@pytest.mark.parametrize("sets", [2, 3, 5, 64])
@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_pairs_of_each_size_are_dealt_to_the_sets_equally(n, count, sets, seed):
    sizes, seeds, of_set = pairs(n, count, sets, f"valuation.seed={seed}")
    assert len(set(seeds)) == len(seeds) == count // 2
    assert seeds.max() < ENDPOINT_SEEDS
    for size in set(sizes):
        dealt = np.bincount(of_set[sizes == size], minlength=sets)
        assert len(dealt) == sets
        assert dealt.max() - dealt.min() <= 1


def test_sizes_begin_with_different_sets():
    """Else the first set would have the largest part of every size."""
    sizes, _, of_set = pairs(30, 200, 5)
    first = [of_set[sizes == size][0] for size in set(sizes)]
    assert len(set(first)) > 1
    others, _, elsewhere = pairs(30, 200, 5, "valuation.seed=1")
    assert first != [elsewhere[others == size][0] for size in set(others)]


@pytest.mark.parametrize("name", ["leverage", "shapley_kernel"])
def test_a_smaller_budget_has_the_first_rows_seeds_and_sets(name):
    option = f"valuation.design={name}"
    small, large = (with_sets(3, option, f"valuation.coalitions={count}") for count in (30, 90))
    Z, more = design(small.valuation, 9), design(large.valuation, 9)
    assert np.array_equal(Z, more[:30])
    assert seeds_of(small, Z) == seeds_of(large, more)[:30] == seeds_of(large, more[:30])
    assert np.array_equal(sets_of(small, Z), sets_of(large, more)[:30])


def test_each_look_has_the_seeds_of_the_one_before():
    rule = "valuation.stop={looks: [20, 28, 40], rule: width, target: 1}"
    first, last = (Wanted(6, *SIX, rule, EXPERTS.format(3), look=look) for look in (0, 2))
    assert first.of("design") == last.of("design")[:20]


def test_coalitions_of_the_kernel_design_are_dealt_one_by_one():
    config = with_sets(3, "valuation.design=shapley_kernel", "valuation.coalitions=60")
    Z = design(config.valuation, 8)
    seeds, of_set = seeds_of(config, Z), sets_of(config, Z)
    assert len(set(seeds)) == 60
    for size in set(Z.sum(axis=1)):
        dealt = np.bincount(of_set[Z.sum(axis=1) == size], minlength=3)
        assert dealt.max() - dealt.min() <= 1


@pytest.mark.parametrize("name", ["leverage", "shapley_kernel"])
def test_without_several_sets_seeds_are_the_next_ones(name):
    """One set leaves no choice, so its seeds are those of a game without sets."""
    options = (f"valuation.design={name}", "valuation.coalitions=20", "valuation.seed=7")
    without, one = load(CONFIG, list(options)), with_sets(1, *options)
    Z = design(without.valuation, 6)
    expected = [7 + row // 2 for row in range(20)] if name == "leverage" else [7 + row for row in range(20)]
    assert seeds_of(without, Z) == seeds_of(one, Z) == expected
    assert sets_of(without, Z) is None
    assert sets_of(one, Z).tolist() == [0] * 20


# Coalitions that only some methods need


def test_leave_one_out_and_add_one_in_share_the_seed_of_the_endpoints():
    """So what one seed adds to all of them cancels."""
    wanted = Wanted(6, *SIX, "valuation.methods=[leverage, loo, aoi]")
    for purpose, expected in (("loo", ~np.eye(6, dtype=bool)), ("aoi", np.eye(6, dtype=bool))):
        assert np.array_equal(wanted.masks(purpose), expected)
        assert set(seeds(wanted.of(purpose))) == {ENDPOINT_SEEDS}
    assert roles(wanted, "loo", "aoi") == {"credit"}


def test_coalitions_of_the_datamodel_are_of_one_size_and_have_seeds_of_their_own():
    wanted = Wanted(6, *SIX, "valuation.datamodel={coalitions: 15, alpha: 0.5}")
    assert seeds(wanted.of("datamodel")) == [METHOD_SEEDS + row for row in range(15)]
    assert set(wanted.masks("datamodel").sum(axis=1)) == {3}
    assert len({item.members for item in wanted.of("datamodel")}) == 15
    assert roles(wanted, "datamodel") == {"credit"}


def test_the_first_coalitions_are_retrained_too_with_the_same_seeds():
    wanted = Wanted(6, *SIX, "valuation.retrained={coalitions: 24, endpoint_seeds: 2}")
    pairs = [[(item.members, item.seed) for item in wanted.of(name)] for name in ("design", "retrained")]
    assert pairs[1] == pairs[0][:24]
    assert roles(wanted, "retrained", "retrained_v0", "retrained_v1") == {"truth"}
    for purpose, member in (("retrained_v0", False), ("retrained_v1", True)):
        assert np.array_equal(wanted.masks(purpose), np.full((2, 6), member))
        assert seeds(wanted.of(purpose)) == [ENDPOINT_SEEDS, ENDPOINT_SEEDS + 1]


# Held-out coalitions


def test_held_out_coalitions_are_paired_with_the_game_of_the_credits_at_another_seed():
    """With the seeds of retraining the two games would share noise."""
    wanted = Wanted(4, "evaluation.seed=50", "evaluation.alphas=[0.25, 0.5]")
    held, paired = wanted.of("held_out"), wanted.of("paired")
    assert [item.members for item in held] == [item.members for item in paired]
    assert (set(seeds(held)), set(seeds(paired))) == ({50}, {PAIRED_SEEDS + 50})
    assert list(wanted.masks("held_out").sum(axis=1)) == [1] * 4 + [2] * 4


def test_held_out_coalitions_are_measured_by_their_own_images_too():
    """Nothing of it is random, so it has one seed."""
    wanted = Wanted(4, "evaluation.seed=50", "evaluation.alphas=[0.25, 0.5]", EXPERTS.format(3))
    assert members(wanted, "baseline") == members(wanted, "held_out")
    assert set(seeds(wanted.of("baseline"))) == {0}
    assert roles(wanted, "baseline") == {"baseline"}


@pytest.mark.parametrize("sets", [1, 3, 4])
def test_a_compared_coalition_is_evaluated_once_with_each_set(sets):
    wanted = Wanted(4, EXPERTS.format(sets), "evaluation.by_size=2")
    assert repeats(wanted.config) == sets
    for truth, cheap in (("held_out", "paired"), ("by_size", "by_size_paired")):
        items = wanted.of(cheap)
        groups = [items[start : start + sets] for start in range(0, len(items), sets)]
        expected = [[members] * sets for members in members(wanted, truth)]
        assert [[item.members for item in group] for group in groups] == expected
        for group in groups:
            assert seeds(group) == [PAIRED_SEEDS + 1000 + repeat for repeat in range(sets)]
            assert {seed % sets for seed in seeds(group)} == set(range(sets))


def test_a_game_without_sets_is_evaluated_once():
    assert repeats(Wanted(4).config) == 1


def members(wanted, *purposes):
    return [item.members for item in wanted.of(*purposes)]


@pytest.mark.parametrize(("count", "alphas"), [(24, "[0.5]"), (30, "[0.34, 0.5, 0.67]"), (40, "[0.5]")])
def test_held_out_coalitions_are_not_in_the_design_while_there_are_others(count, alphas):
    options = (f"valuation.coalitions={count}", f"evaluation.alphas={alphas}", "evaluation.held_out=6")
    wanted = Wanted(6, *options)
    held = members(wanted, "held_out")
    assert len(set(held)) == len(held) == 6 * alphas.count(".")
    assert not set(held) & set(members(wanted, "design"))


def test_where_there_are_no_others_the_coalitions_of_the_design_come_last():
    wanted = Wanted(5, "valuation.coalitions=20", "evaluation.held_out=10")
    held, sources = members(wanted, "held_out"), set(members(wanted, "design"))
    in_design = [coalition in sources for coalition in held]
    assert len(set(held)) == 10
    assert 0 < sum(in_design) < 10
    assert in_design == sorted(in_design)


def test_own_images_of_a_design_of_their_own_and_of_the_credits_coalitions_are_a_control():
    wanted = Wanted(6, *SIX, EXPERTS.format(3), "valuation.own_images=16")
    assert roles(wanted, "control", "control_design") == {"baseline"}
    assert members(wanted, "control") == members(wanted, "design")
    assert np.array_equal(wanted.masks("control_design"), coalitions.draw("leverage", 6, 16, 1))
    every = Wanted(6, *SIX, "valuation.own_images=512")
    assert len({item.key for item in every.of("control_design")}) == 2**6 - 2
    assert not Wanted(6, *SIX).of("control")
    with pytest.raises(ConfigError, match=r"found valuation\.own_images beside removal\.method 'own_images'"):
        Wanted(6, *SIX, "valuation.own_images=16", "removal={method: own_images}")


def test_too_few_own_images_to_be_a_control_are_refused():
    with pytest.raises(ConfigError, match=r"own_images: .*found 14, expected 0 or at least 16"):
        Wanted(6, *SIX, "valuation.own_images=14")


@pytest.mark.parametrize("count", [6, 20])
def test_held_out_coalitions_of_no_credit_come_first_then_those_that_are_not_retrained(count):
    """Of 20 coalitions of three of six, `datamodel` has 8 and the design some."""
    options = (
        *("valuation.coalitions=24", "valuation.datamodel={coalitions: 8}"),
        *("valuation.retrained={coalitions: 16}", f"evaluation.held_out={count}"),
    )
    wanted = Wanted(6, *options)
    held, retrained = members(wanted, "held_out"), members(wanted, "retrained")
    sources = set(members(wanted, "design", "datamodel"))
    order = [(coalition in sources) + (coalition in retrained) for coalition in held]
    assert order == sorted(order)
    assert len(set(held)) == count
    assert (count == 20) == bool(set(held) & sources) == bool(set(held) & set(retrained))
    keys = {item.key for item in wanted.of("retrained")}
    assert not keys & {item.key for item in wanted.of("held_out")}


def test_without_held_out_coalitions_there_are_none():
    wanted = Wanted(4, "evaluation.held_out=0")
    assert held_out(wanted.config, 4).shape == (0, 4)
    assert not wanted.of("held_out", "paired", "baseline")


# Further sizes


@pytest.mark.parametrize(
    ("n", "sizes"),
    [(2, [1]), (3, [1, 2]), (4, [1, 2, 3]), (5, [1, 2, 4]), (8, [2, 6, 7]), (12, [2, 3, 9, 11])],
)
def test_further_sizes_are_from_two_contributors_to_all_but_one(n, sizes):
    """Two, a quarter, three quarters and all but one; with few contributors some are the same."""
    Z = by_size(load(CONFIG, ["evaluation.by_size=3"]), n)
    counts = {size: min(3, comb(n, size)) for size in sizes}
    assert Counter(Z.sum(axis=1).tolist()) == counts
    assert Z.sum(axis=1).tolist() == sorted(Z.sum(axis=1))
    assert len(np.unique(Z, axis=0)) == len(Z)


def test_of_any_number_of_contributors_the_sizes_are_those_that_were_meant():
    config = load(CONFIG, ["evaluation.by_size=1"])
    for n in range(4, 260):
        sizes = {2, round(n / 4), round(3 * n / 4), n - 1}
        assert by_size(config, n).sum(axis=1).tolist() == sorted(sizes)


def test_a_larger_number_of_a_size_has_the_first_of_a_smaller():
    few, many = (by_size(load(CONFIG, [f"evaluation.by_size={count}"]), 9) for count in (2, 5))
    for size in (2, 7, 8):
        assert np.array_equal(many[many.sum(axis=1) == size][:2], few[few.sum(axis=1) == size])


def test_further_sizes_are_evaluated_as_held_out_coalitions_are():
    wanted = Wanted(8, "evaluation.by_size=4", "evaluation.seed=50", "evaluation.held_out=1")
    held, paired, own = (wanted.of(f"by_size{end}") for end in ("", "_paired", "_baseline"))
    assert np.array_equal(wanted.masks("by_size"), by_size(wanted.config, 8))
    assert [item.members for item in held] == [item.members for item in paired]
    assert [item.members for item in held] == [item.members for item in own]
    assert [set(seeds(items)) for items in (held, paired, own)] == [{50}, {PAIRED_SEEDS + 50}, {0}]
    expected = {"by_size": "truth", "by_size_paired": "credit", "by_size_baseline": "baseline"}
    assert {purpose: roles(wanted, purpose) for purpose in expected} == {
        purpose: {role} for purpose, role in expected.items()
    }


def test_without_further_sizes_there_are_none():
    wanted = Wanted(8)
    assert by_size(wanted.config, 8).shape == (0, 8)
    assert not wanted.of("by_size", "by_size_paired", "by_size_baseline")


# Removals


def removed(wanted, goodness):
    return [*removals(wanted.config, wanted.manifest, wanted.games, np.array(goodness))]


def test_removals_are_of_the_top_contributors_and_of_random_ones_with_the_same_seeds():
    option = "evaluation.counterfactual={property: fid, game: credit, share: 0.25, seeds: 2, random: 2}"
    wanted = Wanted(4, option)
    items = removed(wanted, [1.0, -2.0, 5.0, 0.0])
    grand, top, *others = [item.mask(4).tolist() for item in items[::2]]
    assert grand == [True] * 4
    assert top == [True, True, False, True]
    assert all(sum(mask) == 3 for mask in others)
    assert len({tuple(mask) for mask in (top, *others)}) == 3
    assert seeds(items) == [ENDPOINT_SEEDS, ENDPOINT_SEEDS + 1] * 4
    assert {(wanted.role(item), item.purpose) for item in items} == {("credit", "counterfactual")}


@pytest.mark.parametrize("top", range(4))
def test_no_random_removal_is_that_of_the_top(top):
    """Of the four removals of one contributor, the three others."""
    option = "evaluation.counterfactual={property: fid, game: credit, share: 0.25, seeds: 1, random: 3}"
    _, first, *others = [tuple(item.mask(4)) for item in removed(Wanted(4, option), np.eye(4)[top])]
    assert first == tuple(i != top for i in range(4))
    assert len({first, *others}) == 4


def test_removals_by_retraining_have_the_seeds_of_the_base_model():
    option = "evaluation.counterfactual={property: fid, game: truth, share: 0.5, seeds: 2, random: 1}"
    wanted = Wanted(4, "seed=7", option)
    items = removed(wanted, [1.0, 2.0, 3.0, 4.0])
    assert {wanted.role(item) for item in items} == {"truth"}
    assert set(seeds(items)) == {7, 8}


def test_without_a_counterfactual_nothing_is_removed():
    assert removed(Wanted(4, "evaluation.counterfactual=null"), [1.0, 2.0, 3.0, 4.0]) == []
