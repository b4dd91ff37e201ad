"""Every method's credits from a ledger of a known game, against the library's own call; credits of retraining; interactions."""

import csv
import io
import json
import re
from html import unescape
from typing import get_args

import numpy as np
import pytest
from known import WORTH, cheap, ends, like, noise, of, seen, unlike
from tiny import concluded, fill, planned, told

from apportion.config import Method
from apportion.records import Purpose
from apportion.stages import attribute, evaluate, plan, publish, verify
from apportion.stages.attribute import published
from apportion.stages.estimates import METHODS
from apportion.stages.pages import PURPOSES
from apportion.stages.round import DATAMODEL_SEEDS, ENDPOINT_SEEDS, Round
from apportion.store import Store
from apportion.valuation import intervals, multifidelity, ranks, semivalues, shapley

BARE = ("evaluation.held_out=0", "evaluation.counterfactual=null")
SIX = ("data.contributors=6", "properties=[fid, inception_score]", "valuation.coalitions=40", *BARE)
EXACT = "valuation.exact={coalitions: 24, endpoint_seeds: 2}"
EVERY = "valuation.methods=[tree_residual, leverage, multifidelity, banzhaf, beta_shapley, loo, aoi, datamodel]"


def attributed(workdir, *overrides, truth=like, retraining=200.0):
    round = planned(workdir, *SIX, *overrides)
    fill(round, cheap, truth, retraining=retraining)
    attribute.run(round.uri)
    return Round.open(round.uri)


def test_there_is_a_method_for_every_name_and_a_label_for_every_purpose():
    assert set(METHODS) == set(get_args(Method))
    assert set(PURPOSES) == set(get_args(Purpose))
    assert len(set(PURPOSES.values())) == len(PURPOSES)


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    """A round with all methods that the design allows, concluded; retraining is like the cheap game."""
    workdir = tmp_path_factory.mktemp("every")
    round = planned(
        workdir,
        *SIX,
        EVERY,
        EXACT,
        "valuation.datamodel={coalitions: 15, alpha: 0.5}",
        "valuation.beta=[2, 1]",
        "valuation.interactions=true",
    )
    fill(round, cheap, like, retraining=200.0)
    concluded(round.uri)
    return Round.open(round.uri)


def library(round, name):
    """What the library says of each method, from values that are read here."""
    (Z, y), (v0, v1), (Ze, ye) = seen(round, name, "design"), ends(round, name), seen(round, name, "exact")
    everybody, nobody = (cheap(np.full(6, whole), name, ENDPOINT_SEEDS) for whole in (True, False))
    combined = multifidelity.combine(Z, y, Ze, ye, y[:24], *ends(round, name, "exact_"), 0.95)
    return (
        {
            "tree_residual": shapley.tree_residual(Z, y, v0, v1),
            "leverage": shapley.leverage(Z, y, v0, v1),
            "multifidelity": combined.phi,
            "banzhaf": semivalues.banzhaf(Z, y, v0, v1),
            "beta_shapley": semivalues.beta_shapley(Z, y, v0, v1, 2, 1),
            "loo": [everybody - cheap(mask, name, ENDPOINT_SEEDS) for mask in ~np.eye(6, dtype=bool)],
            "aoi": [cheap(mask, name, ENDPOINT_SEEDS) - nobody for mask in np.eye(6, dtype=bool)],
            "datamodel": semivalues.datamodel(*seen(round, name, "datamodel")),
        },
        combined,
        intervals.standard_errors(Z, y, v0, v1),
    )


def test_each_methods_credits_are_the_librarys(every):
    for name in WORTH:
        found, combined, (_, se) = library(every, name)
        assert list(dict.fromkeys(c.method for c in every.credits.credits if c.property == name)) == list(found)
        for method, phi in found.items():
            credits = of(every, name, method)
            assert [c.contributor for c in credits] == every.manifest.names
            assert [c.phi for c in credits] == pytest.approx(list(phi), rel=1e-12, abs=1e-12)
            assert {c.game for c in credits} == {"retrain" if method == "multifidelity" else "sparsified_finetune"}
        by = {"tree_residual": "leverage", "leverage": "leverage", "multifidelity": "multifidelity"}
        assert {c.method: c.interval for c in every.credits.credits} == {method: by.get(method) for method in found}
        assert [(c.se, c.low, c.high) for c in of(every, name, "multifidelity")] == list(
            zip(combined.se, combined.low, combined.high, strict=True)
        )
        assert [c.se for c in of(every, name, "tree_residual")] == list(se)


def test_shares_are_of_the_gain_of_the_methods_own_game(every):
    for name in WORTH:
        for method, prefix in (("tree_residual", ""), ("leverage", ""), ("multifidelity", "exact_")):
            v0, v1 = (np.mean(values) for values in ends(every, name, prefix))
            assert sum(c.phi for c in of(every, name, method)) == pytest.approx(v1 - v0, rel=1e-9)
            assert [c.share for c in of(every, name, method)] == pytest.approx(
                [c.phi / (v1 - v0) for c in of(every, name, method)], rel=1e-12
            )
        v0, v1 = ends(every, name, "exact_")
        assert [(end.mean, end.se, end.seeds) for end in (every.credits.exact_v0[name], every.credits.exact_v1[name])] == [
            (pytest.approx(v.mean()), pytest.approx(v.std(ddof=1) / np.sqrt(2)), 2) for v in (v0, v1)
        ]  # fmt: skip
    assert {c.share for c in every.credits.credits if c.method in ("banzhaf", "beta_shapley", "loo", "aoi", "datamodel")} == {None}


def test_what_is_left_out_and_what_is_alone_share_the_seed_of_everybody_and_nobody(every):
    """So that what one seed does to all of them alike cancels; coalitions of `datamodel` have seeds of their own."""
    for purpose, kept in (("loo", 5), ("aoi", 1)):
        items = [item for item in every.plan.wanted if item.purpose == purpose]
        assert [item.mask(6).sum() for item in items] == [kept] * 6
        assert {item.seed for item in items} == {ENDPOINT_SEEDS}
    items = [item for item in every.plan.wanted if item.purpose == "datamodel"]
    assert [item.seed for item in items] == [DATAMODEL_SEEDS + row for row in range(15)]
    assert {int(item.mask(6).sum()) for item in items} == {3}
    assert len({item.members for item in items}) == 15
    assert {item.game for item in every.plan.wanted if item.purpose in ("loo", "aoi", "datamodel")} == {every.plan.credit_game}


def test_noise_of_one_seed_cancels_in_loo_and_aoi(tmp_path):
    """Values that are off by as much as their seed says leave them exact, whatever the mean over seeds is."""
    round = planned(tmp_path, *SIX, "valuation.methods=[tree_residual, loo, aoi]", "valuation.endpoint_seeds=3")
    fill(round, lambda mask, name, seed: float(mask @ WORTH[name]) + 100.0 * noise(np.zeros(1), seed, ""))
    attribute.run(round.uri)
    for name in WORTH:
        for method in ("loo", "aoi"):
            assert [c.phi for c in of(round, name, method)] == pytest.approx(WORTH[name], rel=1e-9)


def test_a_stated_value_of_nobody_stands_for_both_games(tmp_path):
    stated = ("valuation.stated_v0={fid: 70, inception_score: 1}", "valuation.methods=[leverage, aoi, multifidelity]")
    round = attributed(tmp_path, *stated, EXACT)
    assert not [item for item in round.plan.wanted if item.purpose in ("v0", "exact_v0")]
    for name, v0 in (("fid", 70.0), ("inception_score", 1.0)):
        assert round.credits.v0[name] == round.credits.exact_v0[name]
        assert (round.credits.v0[name].mean, round.credits.v0[name].stated) == (v0, True)
        alone = [cheap(mask, name, ENDPOINT_SEEDS) - v0 for mask in np.eye(6, dtype=bool)]
        assert [c.phi for c in of(round, name, "aoi")] == pytest.approx(alone)
        assert sum(c.phi for c in of(round, name, "multifidelity")) == pytest.approx(round.credits.exact_v1[name].mean - v0)


def test_ranks_count_from_who_contributed_most(every):
    """Of FID, where less is better, from the most negative credit."""
    for name, sign in (("fid", -1), ("inception_score", 1)):
        (Z, y), (v0, v1) = seen(every, name, "design"), ends(every, name)
        order = ranks.order(Z, sign * y, sign * v0, sign * v1, 0.95)
        for method in ("tree_residual", "leverage"):
            assert [(c.best, c.worst) for c in of(every, name, method)] == list(zip(order.lowest, order.highest, strict=True))
        assert {(c.best, c.worst) for c in every.credits.credits if c.interval != "leverage"} == {(None, None)}
        first = min(of(every, name, "leverage"), key=lambda c: c.best + c.worst)
        assert (first.best, first.worst) == (1, 1)
        assert first.contributor == every.manifest.names[int(np.argmax(sign * np.array(WORTH[name])))]


def test_of_an_unsigned_property_who_raises_it_most_is_first(tmp_path):
    round = planned(tmp_path, "data.contributors=6", "properties=[colourfulness_p90]", "valuation.coalitions=40", *BARE)
    fill(round, lambda mask, name, seed: float(mask @ WORTH["fid"]) + 0.01 * noise(mask, seed, ""))
    attribute.run(round.uri)
    first = next(c for c in published(round.credits, "colourfulness_p90") if c.worst == 1)
    assert first.contributor == round.manifest.names[2]


def test_the_kernel_design_takes_baselines_and_says_nothing_of_ranks(tmp_path):
    """Its coalitions come repeatedly and without complements: nothing of the leverage fit is tried on them."""
    overrides = ("valuation.design=shapley_kernel", "valuation.coalitions=8", "valuation.methods=[kernelshap, loo, aoi, datamodel]")
    round = planned(tmp_path, *SIX, *overrides, "valuation.datamodel={coalitions: 10}", "valuation.seed=7")
    fill(round, cheap)
    concluded(round.uri)
    assert {c.interval for c in round.credits.credits} == {None}
    assert [c.method for c in published(round.credits, "fid")] == ["kernelshap"] * 6
    assert [c.phi for c in of(round, "fid", "loo")] == pytest.approx(library_loo("fid"))


def library_loo(name):
    return [cheap(np.ones(6, bool), name, ENDPOINT_SEEDS) - cheap(mask, name, ENDPOINT_SEEDS) for mask in ~np.eye(6, dtype=bool)]


def test_methods_in_the_order_asked_for_and_the_first_is_published(tmp_path):
    round = attributed(tmp_path, "valuation.methods=[loo, leverage]")
    assert {c.method for c in published(round.credits, "fid")} == {"loo"}
    assert list(dict.fromkeys(c.method for c in round.credits.credits)) == ["loo", "leverage"]
    fill(round, cheap)
    evaluate.run(round.uri)
    publish.run(round.uri)
    rows = list(csv.DictReader(io.StringIO(round.store.get(f"rounds/{round.id}/statement.csv").decode())))
    assert {(row["method"], row["share"], row["covers"]) for row in rows} == {("loo", "", "nothing: there is no honest interval")}


def test_methods_share_every_evaluation_they_can(tmp_path):
    """Another method of the same coalitions is another round that asks for nothing."""
    first = attributed(tmp_path, "valuation.methods=[leverage]")
    found = plan.run(told(tmp_path, *SIX, "valuation.methods=[tree_residual, leverage, beta_shapley]", "valuation.interactions=true"))
    assert (found.work, found.pending) == (True, 0)
    assert found.round_uri != first.uri
    assert plan.run(told(tmp_path, *SIX, "valuation.methods=[leverage, loo]")).pending == 6


# Credits of retraining


def test_the_first_coalitions_are_retrained_too_with_the_same_seeds(every):
    design, exact = ([(i.members, i.seed) for i in every.plan.wanted if i.purpose == purpose] for purpose in ("design", "exact"))
    assert exact == design[:24]
    purposes = ("exact", "exact_v0", "exact_v1")
    assert {item.game for item in every.plan.wanted if item.purpose in purposes} == {every.plan.truth_game}
    assert [item.mask(6).all() for item in every.plan.wanted if item.purpose == "exact_v1"] == [True, True]


def test_a_pilot_tells_for_each_property_whether_the_cheap_game_is_of_use(every):
    for held in every.credits.pilots:
        (_, y), (Ze, ye) = seen(every, held.property, "design"), seen(every, held.property, "exact")
        pilot = multifidelity.pilot(Ze, y[:24], ye, 3.5, 201.5)
        assert (held.rho, held.low, held.high, held.use, held.reason) == (pilot.rho, pilot.low, pilot.high, True, pilot.reason)
    assert [held.property for held in every.credits.pilots] == sorted(WORTH)
    assert set(every.credits.covers) == {"leverage", "multifidelity"}
    assert "in the game of retraining" in every.credits.covers["multifidelity"]
    assert "from 24 retrained coalitions with the help of 40 of sparsified_finetune" in every.credits.covers["multifidelity"]


def test_retraining_that_the_cheap_game_tells_nothing_of_has_no_credits_and_the_report_says_why(tmp_path):
    round = attributed(tmp_path, EXACT, truth=unlike)
    fill(round, cheap, unlike)
    evaluate.run(round.uri)
    publish.run(round.uri)
    assert of(round, "fid", "multifidelity")
    assert not of(round, "inception_score", "multifidelity")
    held = {pilot.property: pilot for pilot in round.credits.pilots}
    assert (held["fid"].use, held["inception_score"].use) == (True, False)
    assert held["inception_score"].reason.startswith("the cheap game's odd part does not surely correlate: rho = ")
    page = unescape(round.store.get(f"rounds/{round.id}/report.html").decode())
    why = f"Retrained coalitions beside the removal method: {held['inception_score'].reason}; retraining itself goes from"
    assert page.count(why) == 1
    assert page.count("So there are no credits of retraining for this property.") == 1
    heads = re.findall(r"<thead>.*?</thead>", page, re.DOTALL)
    assert sum("Shapley, retraining" in head for head in heads) == 1  # the column of FID alone
    assert verify.run(round.uri)["verified"]["credits.json"] == "to the last bit"


def test_retraining_that_is_no_dearer_is_used_and_advised_against(tmp_path):
    round = attributed(tmp_path, EXACT, retraining=2.0)
    assert {c.property for c in round.credits.credits if c.method == "multifidelity"} == set(round.config.properties)
    assert {pilot.use for pilot in round.credits.pilots} == {True}
    assert all("the exact game alone would be simpler" in pilot.reason for pilot in round.credits.pilots)


@pytest.mark.parametrize("level", [3.0, 0.0])
def test_values_all_alike_have_no_pilot_and_stop_nothing(tmp_path, level):
    round = attributed(tmp_path, EXACT, truth=lambda *_: level)
    assert {(pilot.rho, pilot.use) for pilot in round.credits.pilots} == {(None, False)}
    assert all("odd parts are all alike" in pilot.reason for pilot in round.credits.pilots)


def test_where_credits_of_retraining_come_first_the_next_method_stands_in_by_name(tmp_path):
    """Each property says by which method and of which game its published credits are, and is tracked so."""
    first = "valuation.methods=[multifidelity, tree_residual]"
    round = attributed(tmp_path, EXACT, first, truth=unlike)
    fill(round, cheap, unlike)
    evaluate.run(round.uri)
    publish.run(round.uri)
    assert {c.method for c in published(round.credits, "fid")} == {"multifidelity"}
    assert {c.method for c in published(round.credits, "inception_score")} == {"tree_residual"}
    rows = list(csv.DictReader(io.StringIO(round.store.get(f"rounds/{round.id}/statement.csv").decode())))
    assert {(row["property"], row["method"], row["game"], row["interval"]) for row in rows} == {
        ("fid", "multifidelity", "retrain", "multifidelity"),
        ("inception_score", "tree_residual", "sparsified_finetune", "leverage"),
    }
    found = publish.metrics(round, None)
    for name in WORTH:
        for c in published(round.credits, name):
            assert found[f"phi/{name}/{c.contributor}"] == c.phi
            assert found[f"phi_se/{name}/{c.contributor}"] == c.se


def test_rank_correlation_is_with_credits_by_the_same_method(tmp_path):
    before, now = (attributed(tmp_path, f"valuation.methods=[{methods}]") for methods in ("loo, leverage", "leverage, loo"))
    fill(now, cheap)
    evaluate.run(now.uri)
    found = publish.metrics(now, before.credits)
    assert found["rank_correlation/fid"] == pytest.approx(1.0)  # leverage with leverage, not with the leave-one-out before
    alone = before.credits.model_copy(update={"credits": tuple(c for c in before.credits.credits if c.method == "loo")})
    assert not [key for key in publish.metrics(now, alone) if key.startswith("rank_correlation")]


def test_no_held_out_coalition_is_one_that_credits_are_from_while_there_are_others(tmp_path):
    """Of 20 coalitions of three of six, `datamodel` takes 8 and the design some; then come those that were not retrained."""
    overrides = ("valuation.coalitions=24", "valuation.datamodel={coalitions: 8}", "valuation.exact={coalitions: 16}")
    for held_out in (6, 20):
        round = planned(tmp_path / str(held_out), "data.contributors=6", *overrides, f"evaluation.held_out={held_out}")
        by = {purpose: [item.members for item in round.plan.wanted if item.purpose == purpose] for purpose in PURPOSES}
        held, sources = by["held_out"], set(by["design"]) | set(by["datamodel"])
        last = [(member in sources) + (member in by["exact"]) for member in held]
        assert last == sorted(last)
        assert len(set(held)) == held_out
        assert (held_out == 20) == bool(set(held) & sources) == bool(set(held) & set(by["exact"]))
        keys = {item.key for item in round.plan.wanted if item.purpose == "exact"}
        assert not keys & {item.key for item in round.plan.wanted if item.purpose == "held_out"}


def test_held_out_coalitions_that_credits_are_from_are_counted_whatever_method_they_were_for(tmp_path):
    overrides = ("valuation.coalitions=20", "valuation.datamodel={coalitions: 20}", "evaluation.held_out=10")
    round = planned(tmp_path, "data.contributors=6", "properties=[fid]", "evaluation.counterfactual=null", *overrides)
    fill(round, cheap)
    concluded(round.uri)
    assert {score.in_design for judgement in round.evidence.judgements for score in judgement.scores} == {10}


# Interactions


def test_interactions_of_every_pair_are_the_librarys(every):
    for name in WORTH:
        (Z, y), (v0, v1) = seen(every, name, "design"), ends(every, name)
        expected = shapley.interactions(Z, y, v0, v1)
        found = [i for i in every.credits.interactions if i.property == name]
        names = every.manifest.names
        assert [(i.one, i.other) for i in found] == [(a, b) for k, a in enumerate(names) for b in names[k + 1 :]]
        assert [i.value for i in found] == pytest.approx([expected[names.index(i.one), names.index(i.other)] for i in found], abs=1e-15)


def test_interactions_are_in_the_report_with_what_they_are(every):
    page = unescape(every.store.get(f"rounds/{every.id}/report.html").decode())
    assert page.count("Shapley interactions of a tree surrogate, without intervals") == 2 * 2  # a caption and its region, of each property
    least = min((i for i in every.credits.interactions if i.property == "fid"), key=lambda i: i.value)
    assert f"<bdi>{least.one}</bdi>" in page


def test_without_being_asked_for_there_are_none(tmp_path):
    assert attributed(tmp_path).credits.interactions == ()


# All of it together


def test_everything_verifies(every):
    assert set(verify.run(every.uri)["verified"].values()) == {"to the last bit"}


def test_the_report_names_every_method_game_and_cost(every):
    page = unescape(every.store.get(f"rounds/{every.id}/report.html").decode())
    for label in (
        "Shapley (trees and ridge)",
        "Shapley (leverage)",
        "Shapley, retraining",
        "Banzhaf",
        "Beta Shapley",
        "Leave one out",
        "Datamodel",
    ):
        assert label in page
    asked = ("v0", "v1", "design", "loo", "aoi", "datamodel", "exact", "exact_v0", "exact_v1")
    for purpose in asked:
        assert f">{PURPOSES[purpose]}<" in page
    assert PURPOSES["held_out"] not in page
    assert re.search("What the 95.% intervals by Shapley, retraining cover: ", page)


def test_a_stage_reads_each_record_once(tmp_path, monkeypatch):
    """Of an S3 store each read is a request."""
    round = planned(
        tmp_path,
        *SIX,
        EXACT,
        "evaluation.held_out=4",
        "evaluation.counterfactual={property: fid, game: credit, share: 0.34, seeds: 1, random: 1}",
    )
    read, get = [], Store.get

    def counting(self, key):
        read.append(key)
        return get(self, key)

    fill(round, cheap, like)
    for stage in (attribute, evaluate, publish, verify):
        fill(round, cheap, like)
        read.clear()
        with monkeypatch.context() as patch:
            for kind in {type(round.store), Store}:
                if "get" in vars(kind):
                    patch.setattr(kind, "get", counting)
            stage.run(round.uri)
        records = [key for key in read if "/ledger/" in key]
        assert len(records) == len(set(records)) > 0
        assert len([key for key in read if key.endswith("credits.json")]) <= (3 if stage in (publish, verify) else 1)


def test_costs_of_the_pilot_are_those_of_the_ledger(tmp_path):
    round = attributed(tmp_path, EXACT)
    text = json.loads(round.store.get(f"rounds/{round.id}/credits.json"))["pilots"][0]["reason"]
    width = multifidelity.relative_width(round.credits.pilots[0].rho, 3.5 / 201.5)
    assert f"{width:.2f} of the width" in text
