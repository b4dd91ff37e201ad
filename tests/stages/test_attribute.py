"""Credits from ledgers of known games, against the exact Shapley values of those games."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from known import endpoints
from tiny import (
    ODD,
    csv_rows,
    fill,
    filled_to_the_end,
    from_folder,
    image_folder,
    planned,
    record_path,
)

from apportion.errors import Damaged, NotFound
from apportion.planning.coalitions import ENDPOINT_SEEDS
from apportion.report.spreadsheets import cell
from apportion.rounds.round import Round
from apportion.rounds.values import goodness
from apportion.stages import attribute, plan
from apportion.valuation import intervals, shapley

ALL = "valuation.coalitions=14"
"""All coalitions of four but the empty and the grand one: the credits are then exact."""
NAMES = ["fid", "inception_score", "cluster_entropy", "colourfulness_p90"]
SCALE = {"fid": -3.0, "inception_score": 1.0, "cluster_entropy": 0.1, "colourfulness_p90": 20.0}
NO_REMOVAL = "evaluation.counterfactual=null"


def game(mask, name, seed):
    """Additive, with interactions of two and of three, on another scale for every property; the values of the
    empty and the grand coalition differ by their seed."""
    a, b, c, d = mask.astype(float)
    value = 10 + SCALE[name] * (a + 2 * b + 3 * c - 0.5 * d + 4 * a * b - 2 * c * d + 1.5 * a * b * c)
    return value + (0.25 * (seed - ENDPOINT_SEEDS) if seed >= ENDPOINT_SEEDS else 0.0)


def game_values(name):
    """The values of all 16 coalitions, by bitmask. The mean over two seeds adds 0.125 to both endpoints."""
    values = np.array([game(np.array(bits[::-1]), name, 0) for bits in product([0, 1], repeat=4)])
    values[[0, -1]] += 0.125
    return values


def attributed(workdir, *overrides, value=game):
    this_round = planned(workdir / "work", ALL, "evaluation.held_out=0", *overrides)
    fill(this_round, value)
    attribute.run(this_round.uri)
    return this_round


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    """A round whose credits are exact. Tests read it only."""
    return attributed(tmp_path_factory.mktemp("exact"))


def phis(credits):
    return [credit.phi for credit in credits]


def test_credits_from_all_coalitions_are_exact_shapley_values(exact):
    for name in NAMES:
        credits = exact.credits.of(name)
        assert [c.contributor for c in credits] == exact.manifest.names == sorted(exact.manifest.names)
        assert {(c.method, c.interval, c.game) for c in credits} == {
            ("tree_residual", "leverage", "sparsified_finetune")
        }
        assert exact.credits.published[name] == "tree_residual"
        for method in ("tree_residual", "leverage"):
            expected = shapley.exact(game_values(name))
            np.testing.assert_allclose(phis(exact.credits.of(name, method)), expected, rtol=1e-9, atol=1e-9)
    assert exact.credits.coalitions == 14
    assert exact.credits.level == 0.95
    assert set(exact.credits.covers) == {"leverage", "banzhaf", "beta_shapley"}
    assert "from all 14 coalitions of 4 players but" in exact.credits.covers["leverage"]
    assert "sparsified_finetune game" in exact.credits.covers["leverage"]


def few_contributors(tmp_path, names):
    """A published round for the game 1 + 2 a - 3 b + 5 a b, and with a third contributor c; its credits by
    name."""
    folder = image_folder(tmp_path / "data", names)
    overrides = (*from_folder(folder), "evaluation.held_out=0", NO_REMOVAL, "properties=[fid]")
    this_round = planned(tmp_path / "work", *overrides, "valuation.coalitions=48")
    worth = [2, -3, 1][: len(names)]
    this_round = filled_to_the_end(
        this_round, lambda mask, *_: 1 + float(mask @ worth) + 5 * float(mask[0] and mask[1])
    )
    return this_round, {c.contributor: c for c in this_round.credits.of("fid")}


def test_two_contributors_share_exactly_and_no_interval_is_claimed(tmp_path, caplog):
    """A budget of 48 is far more than the two coalitions there are."""
    caplog.set_level("INFO")
    this_round, credits = few_contributors(tmp_path, ["ada", "bob"])
    assert "all 2 proper coalitions of 2 contributors are evaluated, not 48" in caplog.text
    assert this_round.credits.coalitions == 2
    assert {name: c.phi for name, c in credits.items()} == pytest.approx({"ada": 4.5, "bob": -0.5}, abs=1e-9)
    everything = this_round.credits.credits
    assert {(c.se, c.low, c.high, c.interval, c.best, c.worst) for c in everything} == {(None,) * 6}
    assert this_round.credits.covers["leverage"].startswith("nothing: intervals need at least 3 players.")
    assert {c.method for c in everything} == {"tree_residual", "leverage", "banzhaf", "beta_shapley"}
    for method in ("leverage", "banzhaf", "beta_shapley"):
        assert phis(this_round.credits.of("fid", method)) == pytest.approx([4.5, -0.5], abs=1e-9)
    statement = csv_rows(this_round, "statement.csv")
    assert {(row["best"], row["interval"], row["covers"]) for row in statement} == {
        ("", "", "nothing: there is no interval")
    }
    assert not plan.run(this_round.config).work


def test_three_contributors_share_exactly_with_intervals(tmp_path):
    this_round, credits = few_contributors(tmp_path, ["ada", "bob", "cy"])
    assert this_round.credits.coalitions == 6
    expected = {"ada": 4.5, "bob": -0.5, "cy": 1.0}
    assert {name: c.phi for name, c in credits.items()} == pytest.approx(expected, abs=1e-9)
    assert all(c.low < c.phi < c.high for c in credits.values())
    assert all(1 <= c.best <= c.worst <= 3 for c in credits.values())
    assert "from all 6 coalitions of 3 players" in this_round.credits.covers["leverage"]


def test_endpoints_are_means_over_seeds_with_their_standard_error(tmp_path):
    this_round = attributed(tmp_path, "valuation.endpoint_seeds=3", "valuation.methods=[leverage]")
    for name in NAMES:
        ends = ((this_round.credits.v0[name], np.zeros(4)), (this_round.credits.v1[name], np.ones(4)))
        for endpoint, mask in ends:
            values = [game(mask, name, ENDPOINT_SEEDS + r) for r in range(3)]
            assert endpoint.mean == pytest.approx(np.mean(values), rel=1e-12)
            assert endpoint.se == pytest.approx(np.std(values, ddof=1) / np.sqrt(3), rel=1e-12)
            assert (endpoint.seeds, endpoint.stated) == (3, False)


def test_shares_and_credits_add_up(exact):
    for name in NAMES:
        credits = exact.credits.of(name)
        gain = exact.credits.v1[name].mean - exact.credits.v0[name].mean
        assert sum(phis(credits)) == pytest.approx(gain, rel=1e-12)
        assert sum(c.share for c in credits) == pytest.approx(1, rel=1e-12)
        assert [c.share for c in credits] == pytest.approx([c.phi / gain for c in credits], rel=1e-12)


@pytest.fixture(scope="module")
def twelve(tmp_path_factory):
    """A round of fewer coalitions than there are, at another level than the default, and its coalitions and
    evaluations. Tests read it only."""
    this_round = attributed(
        tmp_path_factory.mktemp("twelve"), "valuation.coalitions=12", "valuation.level=0.8"
    )
    pairs = this_round.evaluations("design")
    return (
        this_round,
        this_round.masks([wanted for wanted, _ in pairs]),
        [record for _, record in pairs],
    )


def test_intervals_are_those_of_the_library(twelve):
    """With the noise of both endpoints in them, at the requested level."""
    this_round, Z, records = twelve
    for name in NAMES:
        y = [record.values[name] for record in records]
        v0, v1 = endpoints(this_round, name)
        low, high = intervals.hc3(Z, y, v0, v1, 0.8)
        for method in ("tree_residual", "leverage"):
            bounds = [(c.low, c.high) for c in this_round.credits.of(name, method)]
            assert bounds == list(zip(low, high, strict=True))
        # The intervals are centred on the credits by `leverage`.
        assert all(c.low < c.phi < c.high for c in this_round.credits.of(name, "leverage"))
        wide, _ = intervals.hc3(Z, y, v0, v1, 0.95)
        assert (wide < low).all()


def test_standard_errors_are_those_of_the_intervals(twelve):
    """Each credit has its own degrees of freedom."""
    this_round, Z, records = twelve
    for name in NAMES:
        y = [record.values[name] for record in records]
        v0, v1 = endpoints(this_round, name)
        phi, se = intervals.standard_errors(Z, y, v0, v1)
        low, high = intervals.hc3(Z, y, v0, v1, 0.8)
        credits = this_round.credits.of(name, "leverage")
        assert [(c.phi, c.se) for c in credits] == list(zip(phi, se, strict=True))
        assert [c.high - c.phi for c in credits] == pytest.approx(list((high - low) / 2), rel=1e-9)
        assert [c.se for c in this_round.credits.of(name)] == list(se)


def test_a_stated_value_of_the_empty_coalition_replaces_the_measured_one(tmp_path):
    this_round = attributed(tmp_path, "valuation.stated_v0.fid=99", "properties=[fid, inception_score]")
    v0 = this_round.credits.v0["fid"]
    assert (v0.mean, v0.se, v0.seeds, v0.stated) == (99.0, 0.0, 0, True)
    assert not this_round.credits.v0["inception_score"].stated
    gain = this_round.credits.v1["fid"].mean - 99
    assert sum(phis(this_round.credits.of("fid"))) == pytest.approx(gain, rel=1e-12)


def test_semivalues_do_not_add_up_and_have_no_shares(exact):
    credits = exact.credits.credits
    assert {c.share for c in credits if c.method in ("banzhaf", "beta_shapley")} == {None}
    assert None not in {c.share for c in credits if c.method in ("leverage", "tree_residual")}


def test_a_gain_that_may_be_noise_has_no_shares(tmp_path):
    """v1 - v0 is 0.1 here, and its standard error more than half of that."""

    def slight(mask, name, seed):
        return 0.025 * float(mask.sum()) + 0.2 * (seed % 2)

    this_round = attributed(tmp_path, value=slight)
    assert math.hypot(this_round.credits.v0["fid"].se, this_round.credits.v1["fid"].se) > 0.05
    assert {c.share for c in this_round.credits.credits} == {None}


def test_stated_values_are_used_where_no_empty_coalition_is_evaluated(tmp_path):
    stated = {"fid": 99.0, "inception_score": 1.0}
    overrides = [f"valuation.stated_v0.{name}={value}" for name, value in stated.items()]
    this_round = attributed(tmp_path, "properties=[fid, inception_score]", *overrides)
    assert not [item for item in this_round.plan.wanted if item.purpose == "v0"]
    assert {name: end.mean for name, end in this_round.credits.v0.items()} == stated


def test_nobody_has_a_share_of_a_change_for_the_worse(tmp_path):
    """Else the contributor who did most harm would have the largest share. Every property rises here."""

    def rising(mask, name, seed):
        return 10.0 + float(mask @ [1.0, 2.0, 3.0, 4.0]) + (seed % 5) * 1e-3

    this_round = attributed(tmp_path, "properties=[fid, inception_score, colourfulness_p90]", value=rising)
    credits = this_round.credits
    shared = {name: {c.share is not None for c in credits.of(name)} for name in credits.v0}
    assert shared == {"fid": {False}, "inception_score": {True}, "colourfulness_p90": {True}}


def test_a_gain_of_zero_has_no_shares(tmp_path):
    this_round = attributed(tmp_path, value=lambda mask, *_: float(mask[0]) - float(mask[1]))
    assert {c.share for c in this_round.credits.credits} == {None}
    for method in ("leverage", "tree_residual"):
        assert phis(this_round.credits.of("fid", method)) == pytest.approx([1, -1, 0, 0], abs=1e-9)


def test_banzhaf_values_of_an_additive_game_are_its_weights(tmp_path):
    """As the Shapley values are; from all coalitions and without noise they have no error."""
    this_round = attributed(tmp_path, value=lambda mask, *_: float(mask @ [1, 2, 3, 4]))
    banzhaf = this_round.credits.of("fid", "banzhaf")
    assert phis(banzhaf) == pytest.approx([1, 2, 3, 4], rel=1e-9)
    assert all(c.se < 1e-9 and c.low == pytest.approx(c.phi) == c.high for c in banzhaf)
    assert {c.interval for c in banzhaf} == {"banzhaf"}


def test_banzhaf_values_from_all_coalitions_are_exact(exact):
    """The empty and the grand coalition included, at the means over their seeds."""
    for name in NAMES:
        values, index = game_values(name), np.arange(16)
        expected = []
        for i in range(4):
            member = index >> i & 1 == 1
            expected.append(np.mean(values[member]) - np.mean(values[~member]))
        banzhaf = phis(exact.credits.of(name, "banzhaf"))
        np.testing.assert_allclose(banzhaf, expected, rtol=1e-9, atol=1e-9)


def test_the_kernel_design_publishes_kernelshap(tmp_path):
    design = ("valuation.design=shapley_kernel", "valuation.coalitions=40")
    this_round = attributed(tmp_path, *design, value=lambda mask, *_: float(mask @ [1, 2, 3, 4]))
    pairs = this_round.evaluations("design")
    Z = this_round.masks([wanted for wanted, _ in pairs])
    y = [evaluation.values["fid"] for _, evaluation in pairs]
    credits = this_round.credits.of("fid")
    assert {c.method for c in this_round.credits.credits} == {"kernelshap"}
    assert phis(credits) == list(shapley.kernelshap(Z, y, 0.0, 10.0))
    assert {(c.se, c.low, c.high, c.interval, c.best, c.worst) for c in credits} == {(None,) * 6}
    assert this_round.credits.covers == {}


# Further evaluations that the credits call for


@pytest.mark.parametrize(("name", "top"), [("fid", 0), ("inception_score", 3), ("colourfulness_p90", 3)])
def test_the_top_contributors_are_those_that_the_property_would_miss_most(tmp_path, name, top):
    """For fid, where less is better, those with the most negative credits."""
    option = f"evaluation.counterfactual={{property: {name}, game: credit, share: 0.25, seeds: 2, random: 2}}"
    overrides = (option, f"properties=[{name}]", "valuation.methods=[leverage]")
    this_round = attributed(tmp_path, *overrides, value=lambda mask, *_: 20 + float(mask @ [-3, -1, 2, 4]))
    followup = this_round.followup.wanted
    assert len(followup) == 2 * (1 + 1 + 2)
    grand, without_top, *others = [item.mask(4).tolist() for item in followup[::2]]
    assert grand == [True] * 4
    assert without_top == [i != top for i in range(4)]
    assert all(sum(mask) == 3 for mask in others)
    assert others[0] != others[1]
    assert {item.purpose for item in followup} == {"counterfactual"}
    assert {item.game for item in followup} == {this_round.plan.games["credit"]}
    assert [item.seed for item in followup] == [ENDPOINT_SEEDS, ENDPOINT_SEEDS + 1] * 4


def test_evaluations_that_are_known_are_not_pending(exact):
    """The grand coalition with the first seeds is v1; coalitions of three may be in the design, but with
    other seeds."""
    pending = exact.ledger.pending(exact.followup.wanted)
    assert len(pending) == attribute.run(exact.uri) < len(exact.followup.wanted)
    assert all(not item.mask(4).all() for item in pending)


def test_without_a_counterfactual_nothing_more_is_evaluated(tmp_path):
    this_round = attributed(tmp_path, NO_REMOVAL, "properties=[fid]")
    assert this_round.followup.wanted == ()
    assert attribute.run(this_round.uri) == 0


def test_goodness_turns_credits_by_direction():
    phi = np.array([1.0, -2.0])
    assert goodness("fid", phi).tolist() == [-1, 2]
    assert goodness("inception_score", phi).tolist() == [1, -2]
    assert goodness("colourfulness_p90", phi).tolist() == [1, -2]


# The table


def test_the_table_reads_back_to_the_same_numbers(exact):
    table = csv_rows(exact, "credits.csv")
    texts, counts = ("property", "method", "game", "contributor", "interval"), ("best", "worst")
    numbers = ("phi", "se", "low", "high", "share")
    assert list(table[0]) == [*texts[:4], *numbers, "interval", *counts]
    assert len(table) == len(exact.credits.credits) == 4 * 4 * 4
    for row, c in zip(table, exact.credits.credits, strict=True):
        assert [row[key] or None for key in texts] == [getattr(c, key) for key in texts]
        assert [float(row[key]) if row[key] else None for key in numbers] == [
            getattr(c, key) for key in numbers
        ]
        assert [int(row[key]) if row[key] else None for key in counts] == [getattr(c, key) for key in counts]


def test_names_are_quoted_and_never_formulas(tmp_path):
    folder = image_folder(tmp_path / "data", ODD)
    overrides = ("valuation.coalitions=40", "evaluation.held_out=0", "properties=[fid]")
    this_round = planned(tmp_path / "work", *from_folder(folder), *overrides)
    fill(this_round, lambda mask, *_: float(mask.sum()))
    attribute.run(this_round.uri)
    table = csv_rows(this_round, "credits.csv")
    names = [row["contributor"] for row in table if row["method"] == "leverage"]
    assert names == [cell(name) for name in sorted(ODD)]
    assert {"'=SUM(A1)", "'+1", "'-x", "'@home", 'Smith, "Jo"', "名前 Ünï", "''quoted"} <= set(names)
    assert not [name for name in names if name[0] in "=+-@"]
    assert '"Smith, ""Jo"""' in this_round.read("credits.csv").decode()
    # Only the table changes names.
    assert [c.contributor for c in this_round.credits.of("fid")] == sorted(ODD)


@given(st.text(st.sampled_from("=+-@'\t\r\n aé名\x00\u202e"), max_size=6))
@example("=x")
@example("'=x")
@example("''=x")
def test_a_cell_is_harmless_and_gives_its_name_back(name):
    """So no two contributors have the same cell."""
    assert cell(name).removeprefix("'") == name
    assert not cell(name).startswith(tuple("=+-@\t\r"))


# Refusals


def test_a_missing_evaluation_is_reported_with_the_stages_to_run(tmp_path):
    this_round = planned(tmp_path)
    with pytest.raises(NotFound, match="run finetune, sample and score for this round again"):
        attribute.run(this_round.uri)
    assert not this_round.has("credits.json")


def test_a_record_of_another_coalition_is_damage(tmp_path):
    """A whole record with a right checksum, at the address of another: as after a copy by hand."""
    this_round = planned(tmp_path)
    fill(this_round, game)
    first, second = record_path(this_round, 0), record_path(this_round, 1)
    first.write_bytes(second.read_bytes())
    checksum = second.with_name(f".{second.name}.sha256").read_bytes()
    first.with_name(f".{first.name}.sha256").write_bytes(checksum)
    with pytest.raises(Damaged, match="found evaluation"):
        attribute.run(this_round.uri)
    with pytest.raises(Damaged, match="found evaluation"):
        plan.run(this_round.config)


def test_credits_once_written_are_not_written_again(exact):
    before = exact.read("credits.json")
    assert attribute.run(exact.uri) == len(exact.ledger.pending(exact.followup.wanted))
    assert Round.open(exact.uri).read("credits.json") == before
