"""Credits from ledgers of games that are known, against the exact values of those games."""

import csv
import io
import math
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from known import ends
from tiny import ODD, concluded, fill, from_folder, give, planned

from apportion.errors import Damaged, NotFound
from apportion.stages import attribute, plan
from apportion.stages.attribute import cell, goodness, published
from apportion.stages.round import ENDPOINT_SEEDS, Round
from apportion.valuation import intervals, shapley
from apportion.valuation.inputs import reach

ALL = "valuation.coalitions=14"  # every coalition of four but nobody and everybody: the credits are then exact
NAMES = ["fid", "inception_score", "cluster_entropy", "colourfulness_p90"]
SCALE = {"fid": -3.0, "inception_score": 1.0, "cluster_entropy": 0.1, "colourfulness_p90": 20.0}


def game(mask, name, seed):
    """Additive, with interactions of two and of three, another scale for every property; endpoints differ by their seed."""
    a, b, c, d = mask.astype(float)
    value = 10 + SCALE[name] * (a + 2 * b + 3 * c - 0.5 * d + 4 * a * b - 2 * c * d + 1.5 * a * b * c)
    return value + (0.25 * (seed - ENDPOINT_SEEDS) if seed >= ENDPOINT_SEEDS else 0.0)


def exact(name, shift=0.125):
    """Shapley values of `game`; `shift` is what the mean over the seeds of both endpoints adds."""
    values = np.array([game(np.array(bits[::-1]), name, 0) for bits in product([0, 1], repeat=4)])
    values[[0, -1]] += shift
    return shapley.exact(values)


@pytest.fixture
def attributed(tmp_path):
    def make(*overrides, value=game):
        round = planned(tmp_path / "work", ALL, "evaluation.held_out=0", *overrides)
        fill(round, value)
        attribute.run(round.uri)
        return round

    return make


def test_credits_of_every_coalition_are_exact_shapley_values(attributed):
    round = attributed()
    for name in NAMES:
        credits = published(round.credits, name)
        assert [c.contributor for c in credits] == round.manifest.names == sorted(round.manifest.names)
        assert {(c.method, c.interval, c.game) for c in credits} == {("tree_residual", "leverage", "sparsified_finetune")}
        for found in (credits, by_method(round, name, "leverage")):
            np.testing.assert_allclose([c.phi for c in found], exact(name), rtol=1e-9, atol=1e-9)
    assert round.credits.coalitions == 14
    assert round.credits.level == 0.95
    assert list(round.credits.covers) == ["leverage"]
    assert "from all 14 coalitions of 4 players but nobody and everybody" in round.credits.covers["leverage"]
    assert "sparsified_finetune game" in round.credits.covers["leverage"]


def by_method(round, name, method):
    """The credits of one property by one method, in the order of contributors."""
    return [c for c in round.credits.credits if (c.property, c.method) == (name, method)]


def credits_of(tmp_path, names, *overrides):
    """The published credits for the value of a coalition, 1 + 2 a - 3 b + 5 a b and so on, by name; its round."""
    data = from_folder(give(tmp_path / "data", names), "evaluation.held_out=0", "evaluation.counterfactual=null", "properties=[fid]")
    round = planned(tmp_path / "work", *data, *overrides)
    fill(round, lambda mask, *_: 1 + float(mask @ [2, -3, 1][: len(names)]) + 5 * float(mask[0] and mask[1]))
    concluded(round.uri)
    return round, {c.contributor: c for c in published(round.credits, "fid")}


def test_two_contributors_share_exactly_and_no_interval_is_claimed(tmp_path, caplog):
    """The default budget of 48 is far more than the two coalitions there are."""
    caplog.set_level("INFO")
    round, credits = credits_of(tmp_path, ["ada", "bob"], "valuation.coalitions=48")
    assert "all 2 proper coalitions of 2 contributors are evaluated, not 48" in caplog.text
    assert round.credits.coalitions == 2
    assert {name: c.phi for name, c in credits.items()} == pytest.approx({"ada": 4.5, "bob": -0.5}, abs=1e-9)
    assert {(c.se, c.low, c.high, c.interval, c.best, c.worst) for c in round.credits.credits} == {(None,) * 6}
    assert round.credits.covers["leverage"].startswith("nothing: they need more players.")
    assert {c.method for c in round.credits.credits} == {"tree_residual", "leverage", "banzhaf", "beta_shapley"}
    for method in ("leverage", "banzhaf", "beta_shapley"):
        assert [c.phi for c in by_method(round, "fid", method)] == pytest.approx([4.5, -0.5], abs=1e-9)
    rows = list(csv.DictReader(io.StringIO(round.store.get(f"rounds/{round.id}/statement.csv").decode())))
    assert {(row["best"], row["interval"], row["covers"]) for row in rows} == {("", "", "nothing: there is no honest interval")}
    assert not plan.run(round.config).work


def test_three_contributors_share_exactly_with_intervals(tmp_path):
    round, credits = credits_of(tmp_path, ["ada", "bob", "cy"], "valuation.coalitions=48")
    assert round.credits.coalitions == 6
    assert {name: c.phi for name, c in credits.items()} == pytest.approx({"ada": 4.5, "bob": -0.5, "cy": 1.0}, abs=1e-9)
    assert all(c.low < c.phi < c.high for c in credits.values())
    assert all(1 <= c.best <= c.worst <= 3 for c in credits.values())
    assert "from all 6 coalitions of 3 players" in round.credits.covers["leverage"]


def test_endpoints_are_means_over_seeds_with_their_standard_error(attributed):
    round = attributed("valuation.endpoint_seeds=3")
    for name in NAMES:
        for endpoint, mask in ((round.credits.v0[name], np.zeros(4)), (round.credits.v1[name], np.ones(4))):
            values = [game(mask, name, ENDPOINT_SEEDS + r) for r in range(3)]
            assert endpoint.mean == pytest.approx(np.mean(values), rel=1e-12)
            assert endpoint.se == pytest.approx(np.std(values, ddof=1) / np.sqrt(3), rel=1e-12)
            assert (endpoint.seeds, endpoint.stated) == (3, False)


def test_shares_and_credits_add_up(attributed):
    round = attributed()
    for name in NAMES:
        credits, gain = published(round.credits, name), round.credits.v1[name].mean - round.credits.v0[name].mean
        assert sum(c.phi for c in credits) == pytest.approx(gain, rel=1e-12)
        assert sum(c.share for c in credits) == pytest.approx(1, rel=1e-12)
        assert [c.share for c in credits] == pytest.approx([c.phi / gain for c in credits], rel=1e-12)


def test_intervals_are_the_librarys(attributed):
    """Of fewer coalitions than all, with the noise of both endpoints in them, at the level asked for."""
    round = attributed("valuation.coalitions=12", "valuation.level=0.8")
    pairs = round.evaluations("design")
    Z = round.masks([wanted for wanted, _ in pairs])
    for name in NAMES:
        y = [evaluation.values[name] for _, evaluation in pairs]
        v0, v1 = ends(round, name)
        low, high = intervals.hc3(Z, y, v0, v1, 0.8)
        for credits in (published(round.credits, name), by_method(round, name, "leverage")):
            assert [(c.low, c.high) for c in credits] == list(zip(low, high, strict=True))
        assert all(c.low < c.phi < c.high for c in by_method(round, name, "leverage"))  # which they are centred on
        wide, _ = intervals.hc3(Z, y, v0, v1, 0.95)
        assert (wide < low).all()


def test_standard_errors_lie_under_the_intervals(attributed):
    """Each credit has degrees of freedom of its own."""
    round = attributed("valuation.coalitions=12")
    pairs = round.evaluations("design")
    Z = round.masks([wanted for wanted, _ in pairs])
    for name in NAMES:
        y = [evaluation.values[name] for _, evaluation in pairs]
        phi, se = intervals.standard_errors(Z, y, *ends(round, name))
        found = intervals.jackknife(Z, y, *ends(round, name))
        half = reach(0.95, found.variance(), found.spare, found.of_ends(), found.ends.spare)
        credits = by_method(round, name, "leverage")
        assert [(c.phi, c.se) for c in credits] == list(zip(phi, se, strict=True))
        assert [c.high - c.phi for c in credits] == pytest.approx(half, rel=1e-9)
        assert [c.se for c in published(round.credits, name)] == list(se)


def test_a_stated_value_of_nobody_replaces_the_measured_one(attributed):
    round = attributed("valuation.stated_v0.fid=99")
    v0 = round.credits.v0["fid"]
    assert (v0.mean, v0.se, v0.seeds, v0.stated) == (99.0, 0.0, 0, True)
    assert not round.credits.v0["inception_score"].stated
    assert sum(c.phi for c in published(round.credits, "fid")) == pytest.approx(round.credits.v1["fid"].mean - 99, rel=1e-12)


def test_semivalues_do_not_add_up_and_have_no_shares(attributed):
    credits = attributed().credits.credits
    assert {c.share for c in credits if c.method in ("banzhaf", "beta_shapley")} == {None}
    assert None not in {c.share for c in credits if c.method in ("leverage", "tree_residual")}


def test_no_shares_of_a_gain_that_may_be_noise(attributed):
    """v1 - v0 is 0.1 here, and its standard error more than half of that."""
    round = attributed(value=lambda mask, _, seed: 0.025 * float(mask.sum()) + 0.2 * (seed % 2))
    assert math.hypot(round.credits.v0["fid"].se, round.credits.v1["fid"].se) > 0.05
    assert {c.share for c in round.credits.credits} == {None}


def test_a_stated_value_for_every_property_asks_for_no_model_of_nobody(attributed):
    stated = {"fid": 99.0, "inception_score": 1.0, "cluster_entropy": 0.0, "colourfulness_p90": 76.0}
    round = attributed(*(f"valuation.stated_v0.{name}={value}" for name, value in stated.items()))
    assert not [item for item in round.plan.wanted if item.purpose == "v0"]
    assert {name: end.mean for name, end in round.credits.v0.items()} == stated


def test_no_shares_of_no_gain(attributed):
    round = attributed(value=lambda mask, name, seed: float(mask[0]) - float(mask[1]))
    assert {c.share for c in round.credits.credits} == {None}
    assert [c.phi for c in by_method(round, "fid", "leverage")] == pytest.approx([1, -1, 0, 0], abs=1e-9)
    assert [c.phi for c in published(round.credits, "fid")] == pytest.approx([1, -1, 0, 0], abs=1e-9)


def test_banzhaf_values_stand_beside(attributed):
    """Of an additive game the same as Shapley values; never with an interval."""
    round = attributed(value=lambda mask, name, seed: float(mask @ [1, 2, 3, 4]))
    banzhaf = by_method(round, "fid", "banzhaf")
    assert [c.phi for c in banzhaf] == pytest.approx([1, 2, 3, 4], rel=1e-9)
    assert {(c.se, c.low, c.high) for c in banzhaf} == {(None, None, None)}


def test_banzhaf_values_of_every_coalition_are_exact(attributed):
    """Both ends included, at the means over their seeds."""
    round = attributed()
    for name in NAMES:
        values = np.array([game(np.array(bits[::-1]), name, 0) for bits in product([0, 1], repeat=4)])
        values[[0, -1]] += 0.125
        index = np.arange(16)
        truth = [np.mean(values[index[index >> i & 1 == 1]]) - np.mean(values[index[index >> i & 1 == 0]]) for i in range(4)]
        banzhaf = [c.phi for c in by_method(round, name, "banzhaf")]
        np.testing.assert_allclose(banzhaf, truth, rtol=1e-9, atol=1e-9)


def test_the_kernel_design_publishes_the_papers_estimator(attributed):
    round = attributed("valuation.design=shapley_kernel", "valuation.coalitions=40", value=lambda mask, *_: float(mask @ [1, 2, 3, 4]))
    pairs = round.evaluations("design")
    Z, y = round.masks([wanted for wanted, _ in pairs]), [evaluation.values["fid"] for _, evaluation in pairs]
    credits = published(round.credits, "fid")
    assert {c.method for c in round.credits.credits} == {"kernelshap"}
    assert [c.phi for c in credits] == list(shapley.kernelshap(Z, y, 0.0, 10.0))
    assert {(c.se, c.low, c.high, c.interval, c.best, c.worst) for c in credits} == {(None,) * 6}
    assert round.credits.covers == {}


# What the credits call for


@pytest.mark.parametrize(("name", "top"), [("fid", 0), ("inception_score", 3), ("colourfulness_p90", 3)])
def test_the_top_is_whom_the_property_would_miss_most(attributed, name, top):
    """Of fid, where less is better, those with the most negative credits."""
    asked = f"evaluation.counterfactual={{property: {name}, game: credit, share: 0.25, seeds: 2, random: 2}}"
    round = attributed(asked, value=lambda mask, *_: 20 + float(mask @ [-3, -1, 2, 4]))
    followup = round.followup.wanted
    assert len(followup) == 2 * (1 + 1 + 2)
    everybody, without_top, *others = [item.mask(4).tolist() for item in followup[::2]]
    assert everybody == [True] * 4
    assert without_top == [i != top for i in range(4)]
    assert all(sum(mask) == 3 for mask in others)
    assert others[0] != others[1]
    assert {item.purpose for item in followup} == {"counterfactual"}
    assert {item.game for item in followup} == {round.plan.credit_game}
    assert [item.seed for item in followup] == [ENDPOINT_SEEDS, ENDPOINT_SEEDS + 1] * 4


@pytest.mark.parametrize("top", range(4))
def test_no_random_removal_is_that_of_the_top(attributed, top):
    """Of four removals of one, the three others: whoever is at the top."""
    asked = "evaluation.counterfactual={property: inception_score, game: credit, share: 0.25, seeds: 1, random: 3}"
    round = attributed(asked, value=lambda mask, *_: 20 + float(mask @ np.eye(4)[top]))
    _, first, *others = [tuple(item.mask(4)) for item in round.followup.wanted]
    assert first == tuple(i != top for i in range(4))
    assert len({first, *others}) == 4


def test_the_truth_is_asked_with_the_seeds_of_retraining(attributed):
    round = attributed("seed=7", "evaluation.counterfactual={property: fid, game: truth, share: 0.5, seeds: 2, random: 1}")
    assert {item.game for item in round.followup.wanted} == {round.plan.truth_game}
    assert {item.seed for item in round.followup.wanted} == {7, 8}


def test_what_is_known_already_is_not_pending(attributed):
    """Everybody's value with the first seeds is v1, and coalitions of three may be in the design, but with other seeds."""
    round = attributed()
    pending = round.ledger.pending(round.followup.wanted)
    assert len(pending) == attribute.run(round.uri) < len(round.followup.wanted)
    assert all(not item.mask(4).all() for item in pending)


def test_without_a_counterfactual_nothing_more_is_asked(attributed):
    round = attributed("evaluation.counterfactual=null")
    assert round.followup.wanted == ()
    assert attribute.run(round.uri) == 0


def test_goodness_turns_credits_by_direction():
    phi = np.array([1.0, -2.0])
    assert goodness("fid", phi).tolist() == [-1, 2]
    assert goodness("inception_score", phi).tolist() == goodness("colourfulness_p90", phi).tolist() == [1, -2]


# The table


def test_the_table_reads_back_to_the_same_numbers(attributed):
    round = attributed()
    rows = list(csv.DictReader(io.StringIO(round.store.get(f"rounds/{round.id}/credits.csv").decode())))
    texts, counts = ("property", "method", "game", "contributor", "interval"), ("best", "worst")
    numbers = ("phi", "se", "low", "high", "share")
    assert list(rows[0]) == [*texts[:4], *numbers, "interval", *counts]
    assert len(rows) == len(round.credits.credits) == 4 * 4 * 4
    for row, c in zip(rows, round.credits.credits, strict=True):
        assert [row[key] or None for key in texts] == [getattr(c, key) for key in texts]
        assert [float(row[key]) if row[key] else None for key in numbers] == [getattr(c, key) for key in numbers]
        assert [int(row[key]) if row[key] else None for key in counts] == [getattr(c, key) for key in counts]


def test_names_are_quoted_and_never_formulas(tmp_path):
    overrides = from_folder(give(tmp_path / "data", ODD), "valuation.coalitions=40", "evaluation.held_out=0", "properties=[fid]")
    round = planned(tmp_path / "work", *overrides)
    fill(round, lambda mask, *_: float(mask.sum()))
    attribute.run(round.uri)
    text = round.store.get(f"rounds/{round.id}/credits.csv").decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    names = [row["contributor"] for row in rows if row["method"] == "leverage"]
    assert names == [cell(name) for name in sorted(ODD)]
    assert {"'=SUM(A1)", "'+1", "'-x", "'@home", 'Smith, "Jo"', "名前 Ünï", "''quoted"} <= set(names)
    assert not [name for name in names if name[0] in "=+-@"]
    assert '"Smith, ""Jo"""' in text
    assert [c.contributor for c in published(round.credits, "fid")] == sorted(ODD)  # only the table changes names


@given(st.text(st.sampled_from("=+-@'\t\r\n a"), max_size=4) | st.text())
@example("=x")
@example("'=x")
@example("''=x")
def test_a_cell_is_harmless_and_gives_its_name_back(name):
    """So that no two contributors have the same cell."""
    assert cell(name).removeprefix("'") == name
    assert not cell(name).startswith(tuple("=+-@\t\r"))


# What it refuses


def test_a_missing_evaluation_says_how_to_have_it_made(tmp_path):
    round = planned(tmp_path)
    with pytest.raises(NotFound, match="run finetune, sample and score for this round again"):
        attribute.run(round.uri)
    assert not round.has("credits.json")


def test_a_record_of_another_coalition_is_damage(tmp_path):
    """A whole record with a good checksum, at the address of another: as after a copy by hand."""
    round = planned(tmp_path)
    fill(round, game)
    first, second = (tmp_path / "store/games" / item.game / "ledger" / f"{item.key}.json" for item in round.plan.wanted[:2])
    first.write_bytes(second.read_bytes())
    first.with_name(f".{first.name}.sha256").write_bytes(second.with_name(f".{second.name}.sha256").read_bytes())
    with pytest.raises(Damaged, match="found evaluation"):
        attribute.run(round.uri)
    with pytest.raises(Damaged, match="found evaluation"):
        plan.run(round.config)


def test_credits_once_written_are_not_written_again(attributed):
    round = attributed()
    before = round.store.get(f"rounds/{round.id}/credits.json")
    assert attribute.run(round.uri) == len(round.ledger.pending(round.followup.wanted))
    assert Round.open(round.uri).store.get(f"rounds/{round.id}/credits.json") == before
