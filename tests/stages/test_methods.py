"""Every method's credits from a ledger of a known game, against the library's own call; credits of
retraining; interactions."""

import re
from html import unescape
from itertools import combinations

import numpy as np
import pytest
from known import WORTH, alike, cheap, endpoints, half_alike, noise, rows
from tiny import configured, csv_rows, fill, filled_to_the_end, planned

from apportion.planning.coalitions import ENDPOINT_SEEDS
from apportion.report.numbers import number, portion
from apportion.rounds.report_data import purposes
from apportion.rounds.round import Round
from apportion.stages import attribute, evaluate, plan, publish
from apportion.store import Store
from apportion.valuation import interactions, intervals, multifidelity, ranks, semivalues, shapley
from apportion.valuation.control import Adjusted, adjusted
from apportion.valuation.methods import METHODS
from apportion.verify import verify

NO_EVIDENCE = ("evaluation.held_out=0", "evaluation.counterfactual=null")
SIX = (
    *("data.contributors=6", "properties=[fid, inception_score]", "valuation.coalitions=40"),
    *NO_EVIDENCE,
)
RETRAINED = "valuation.retrained={coalitions: 24, endpoint_seeds: 2}"
BEFORE_RETRAINING = "valuation.methods=[leverage, multifidelity]"
EVERY = [name for name in METHODS if METHODS[name].design in (None, "leverage")]
"""All methods that the default design allows."""


def attributed(workdir, *overrides, truth=alike, retraining=200.0):
    this_round = planned(workdir, *SIX, *overrides)
    fill(this_round, cheap, truth, retraining=retraining)
    attribute.run(this_round.uri)
    return Round.open(this_round.uri)


def phis(credits):
    return [credit.phi for credit in credits]


def wanted(this_round, *purposes):
    return [item for item in this_round.plan.wanted if item.purpose in purposes]


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    """A published round with every method that the design allows; retraining is like the removal method's
    game. Tests read it only."""
    this_round = planned(
        tmp_path_factory.mktemp("every"),
        *SIX,
        f"valuation.methods=[{', '.join(EVERY)}]",
        RETRAINED,
        "valuation.datamodel={coalitions: 15, alpha: 0.5}",
        "valuation.beta=[2, 1]",
        "valuation.interactions=true",
        "valuation.own_images=512",
    )
    return filled_to_the_end(this_round, cheap, alike, retraining=200.0)


def test_the_report_has_a_label_for_every_purpose(every):
    labels = purposes()
    assert set(labels) == {item.purpose for item in every.plan.wanted} | {
        "held_out",
        "paired",
        "counterfactual",
        "baseline",
        "by_size",
        "by_size_paired",
        "by_size_baseline",
    }
    assert len(set(labels.values())) == len(labels)


def with_control(this_round, name):
    """Values of the design with own images as a control."""
    own = multifidelity.CheapGame(
        *rows(this_round, name, "control_design"), *rows(this_round, name, "control"), noise_free=True
    )
    Z, y = rows(this_round, name, "design")
    return adjusted(Z, y, own) or Adjusted(y, np.zeros((6, 0)), 0.0)


def library(this_round, name):
    """What the library gives for each method from values that are read here; and its result for
    `multifidelity`."""
    (Z, y), (v0, v1) = rows(this_round, name, "design"), endpoints(this_round, name)
    retrained_Z, retrained_y = rows(this_round, name, "retrained")
    grand, empty = (cheap(np.full(6, whole), name, ENDPOINT_SEEDS) for whole in (True, False))
    ends = endpoints(this_round, name, "retrained_")
    own = multifidelity.CheapGame(
        *rows(this_round, name, "control_design"), *rows(this_round, name, "control"), noise_free=True
    )
    games = [own, multifidelity.CheapGame(Z, y)]
    combined = multifidelity.combine(games, retrained_Z, retrained_y, *ends, 0.95)
    phi = {
        "tree_residual": shapley.tree_residual(Z, with_control(this_round, name).y, v0, v1),
        "leverage": shapley.leverage(Z, with_control(this_round, name).y, v0, v1),
        "multifidelity": combined.phi,
        "banzhaf": semivalues.banzhaf(Z, y, v0, v1),
        "beta_shapley": semivalues.beta_shapley(Z, y, v0, v1, 2, 1),
        "loo": [grand - cheap(mask, name, ENDPOINT_SEEDS) for mask in ~np.eye(6, dtype=bool)],
        "aoi": [cheap(mask, name, ENDPOINT_SEEDS) - empty for mask in np.eye(6, dtype=bool)],
        "datamodel": semivalues.datamodel(*rows(this_round, name, "datamodel")),
    }
    return phi, combined


def test_the_coefficient_of_own_images_is_kept_and_reported(every):
    page = unescape(every.read("report.html").decode())
    assert set(every.credits.controls) == set(WORTH)
    for name, rho in every.credits.controls.items():
        assert (rho or 0.0) == pytest.approx(with_control(every, name).rho)
        used = "not make these credits more" if rho is None else f"subtracted, {number(rho, '.2f')} times"
        assert used in page


def test_each_methods_credits_are_those_of_the_library(every):
    own = ("leverage", "multifidelity", "banzhaf", "beta_shapley")
    sources = {"tree_residual": "leverage"} | {method: method for method in own}
    for name in WORTH:
        expected, combined = library(every, name)
        assert every.credits.methods(name) == list(expected) == EVERY
        for method, phi in expected.items():
            credits = every.credits.of(name, method)
            assert [c.contributor for c in credits] == every.manifest.names
            assert phis(credits) == pytest.approx(list(phi), rel=1e-12, abs=1e-12)
            game = "retrain" if method == "multifidelity" else "sparsified_finetune"
            assert {(c.game, c.interval) for c in credits} == {(game, sources.get(method))}
        bounds = list(zip(combined.se, combined.low, combined.high, strict=True))
        assert [(c.se, c.low, c.high) for c in every.credits.of(name, "multifidelity")] == bounds
        (Z, _), ends = rows(every, name, "design"), endpoints(every, name)
        control = with_control(every, name)
        _, se = intervals.standard_errors(Z, control.y, *ends, errors=control.errors)
        assert [c.se for c in every.credits.of(name, "tree_residual")] == list(se)


def test_shares_are_of_the_gain_of_the_methods_own_game(every):
    for name in WORTH:
        for method, prefix in (("tree_residual", ""), ("leverage", ""), ("multifidelity", "retrained_")):
            v0, v1 = (np.mean(values) for values in endpoints(every, name, prefix))
            credits = every.credits.of(name, method)
            assert sum(phis(credits)) == pytest.approx(v1 - v0, rel=1e-9)
            expected = [c.phi / (v1 - v0) for c in credits]
            assert [c.share for c in credits] == pytest.approx(expected, rel=1e-12)
        ends = (every.credits.retrained_v0[name], every.credits.retrained_v1[name])
        for end, values in zip(ends, endpoints(every, name, "retrained_"), strict=True):
            assert end.mean == pytest.approx(values.mean())
            assert end.se == pytest.approx(values.std(ddof=1) / np.sqrt(2))
            assert end.seeds == 2
    others = ("banzhaf", "beta_shapley", "loo", "aoi", "datamodel")
    assert {c.share for c in every.credits.credits if c.method in others} == {None}


def test_noise_of_one_seed_cancels_in_loo_and_aoi(tmp_path):
    """Values with an error that depends on the seed alone leave them exact, whatever the mean over seeds
    is."""

    def with_noise(mask, name, seed):
        return float(mask @ WORTH[name]) + 100.0 * noise(np.zeros(1), seed, "")

    overrides = ("valuation.methods=[leverage, loo, aoi]", "valuation.endpoint_seeds=3")
    this_round = planned(tmp_path, *SIX, *overrides)
    fill(this_round, with_noise)
    attribute.run(this_round.uri)
    for name in WORTH:
        for method in ("loo", "aoi"):
            assert phis(this_round.credits.of(name, method)) == pytest.approx(WORTH[name], rel=1e-9)


def test_a_stated_value_of_the_empty_coalition_is_used_in_both_games(tmp_path):
    stated = "valuation.stated_v0={fid: 70, inception_score: 1}"
    this_round = attributed(tmp_path, stated, "valuation.methods=[leverage, aoi, multifidelity]", RETRAINED)
    assert not wanted(this_round, "v0", "retrained_v0")
    credits = this_round.credits
    for name, v0 in (("fid", 70.0), ("inception_score", 1.0)):
        assert credits.v0[name] == credits.retrained_v0[name]
        assert (credits.v0[name].mean, credits.v0[name].stated) == (v0, True)
        alone = [cheap(mask, name, ENDPOINT_SEEDS) - v0 for mask in np.eye(6, dtype=bool)]
        assert phis(credits.of(name, "aoi")) == pytest.approx(alone)
        gain = credits.retrained_v1[name].mean - v0
        assert sum(phis(credits.of(name, "multifidelity"))) == pytest.approx(gain)


def test_ranks_count_from_the_largest_contribution(every):
    """For FID, where less is better, from the most negative credit."""
    for name, sign in (("fid", -1), ("inception_score", 1)):
        (Z, y), (v0, v1) = rows(every, name, "design"), endpoints(every, name)
        order = ranks.order(Z, sign * y, sign * v0, sign * v1, 0.95)
        expected = list(zip(order.lowest, order.highest, strict=True))
        for method in ("tree_residual", "leverage"):
            assert [(c.best, c.worst) for c in every.credits.of(name, method)] == expected
        weights = semivalues.banzhaf_weights(6)
        fit = semivalues.semivalue_fit(Z, sign * y, sign * v0, sign * v1, weights)
        best = every.credits.of(name, "banzhaf")[int(np.argmax(fit.phi))]
        assert best.best == 1
        ranked = ("leverage", "banzhaf", "beta_shapley")
        others = [c for c in every.credits.credits if c.interval not in ranked]
        assert {(c.best, c.worst) for c in others} == {(None, None)}
        first = min(every.credits.of(name, "leverage"), key=lambda c: c.best + c.worst)
        assert (first.best, first.worst) == (1, 1)
        assert first.contributor == every.manifest.names[int(np.argmax(sign * np.array(WORTH[name])))]


def test_for_a_property_without_direction_the_first_raises_it_most(tmp_path):
    option = "properties=[colourfulness_p90]"
    this_round = planned(tmp_path, *SIX, option, "valuation.methods=[leverage]")
    fill(this_round, lambda mask, *_: float(mask @ WORTH["fid"]) + 0.01 * noise(mask, 0, ""))
    attribute.run(this_round.uri)
    first = next(c for c in this_round.credits.of("colourfulness_p90") if c.worst == 1)
    assert first.contributor == this_round.manifest.names[2]


def test_the_kernel_design_takes_baselines_and_has_no_ranks(tmp_path):
    """Its coalitions come repeatedly and without complements: the leverage fit is not tried on them."""
    methods = "valuation.methods=[kernelshap, loo, aoi, datamodel]"
    overrides = ("valuation.design=shapley_kernel", "valuation.coalitions=8", methods, "valuation.seed=7")
    this_round = planned(tmp_path, *SIX, *overrides, "valuation.datamodel={coalitions: 10}")
    this_round = filled_to_the_end(this_round, cheap)
    assert {(c.interval, c.best, c.worst) for c in this_round.credits.credits} == {(None, None, None)}
    assert [c.method for c in this_round.credits.of("fid")] == ["kernelshap"] * 6
    grand = cheap(np.ones(6, bool), "fid", ENDPOINT_SEEDS)
    loo = [grand - cheap(mask, "fid", ENDPOINT_SEEDS) for mask in ~np.eye(6, dtype=bool)]
    assert phis(this_round.credits.of("fid", "loo")) == pytest.approx(loo)


def test_methods_are_in_the_order_requested_and_the_first_is_published(tmp_path):
    this_round = planned(tmp_path, *SIX, "valuation.methods=[loo, leverage]")
    this_round = filled_to_the_end(this_round, cheap)
    assert {c.method for c in this_round.credits.of("fid")} == {"loo"}
    assert list(dict.fromkeys(c.method for c in this_round.credits.credits)) == ["loo", "leverage"]
    statement = csv_rows(this_round, "statement.csv")
    assert {(row["method"], row["share"], row["covers"]) for row in statement} == {
        ("loo", "", "nothing: there is no interval")
    }


def test_methods_share_every_evaluation_they_can(tmp_path):
    """Another method of the same coalitions is another round, which has nothing to evaluate."""
    first = attributed(tmp_path, "valuation.methods=[leverage]")
    more = ("valuation.methods=[tree_residual, leverage, beta_shapley]", "valuation.interactions=true")
    second = plan.run(configured(tmp_path, *SIX, *more))
    assert (second.work, second.pending) == (True, 0)
    assert second.round_uri != first.uri
    assert plan.run(configured(tmp_path, *SIX, "valuation.methods=[leverage, loo]")).pending == 6


# Credits of retraining


def test_the_pilot_says_for_each_property_whether_the_removal_methods_game_is_of_use(every):
    for result in every.credits.pilots:
        purpose = {"own_images": "control", "sparsified_finetune": "design"}[result.game]
        (_, y), (Z, retrained_y) = (rows(every, result.property, kind) for kind in (purpose, "retrained"))
        pilot = multifidelity.pilot(Z, y[:24], retrained_y, 3.5, 201.5)
        assert (result.rho, result.low, result.high) == (pilot.rho, pilot.low, pilot.high)
        assert (result.use, result.reason) == (True, pilot.reason)
    found = [(result.property, result.game) for result in every.credits.pilots]
    assert found == [(name, game) for name in sorted(WORTH) for game in ("own_images", "sparsified_finetune")]
    assert set(every.credits.covers) == {"leverage", "multifidelity", "banzhaf", "beta_shapley"}
    covers = every.credits.covers["multifidelity"]
    assert "in the game of retraining" in covers
    assert re.search("from 24 retrained coalitions .*62 of own images and 40 of sparsified finetune", covers)


def test_costs_of_the_pilot_are_those_of_the_ledger(every):
    result = every.credits.pilots[0]
    width = multifidelity.relative_width(result.rho, 3.5 / 201.5)
    assert f"{width:.2f} of the width" in result.reason


def test_retraining_that_does_not_correlate_has_no_credits_and_the_report_says_why(tmp_path):
    this_round = planned(tmp_path, *SIX, RETRAINED, BEFORE_RETRAINING)
    this_round = filled_to_the_end(this_round, cheap, half_alike, retraining=200.0)
    assert this_round.credits.of("fid", "multifidelity")
    assert not this_round.credits.of("inception_score", "multifidelity")
    pilots = {p.property: p for p in this_round.credits.pilots if p.game == "sparsified_finetune"}
    assert (pilots["fid"].use, pilots["inception_score"].use) == (True, False)
    reason = pilots["inception_score"].reason
    assert reason.startswith("the cheap game's odd part does not surely correlate: rho = ")
    page = unescape(this_round.read("report.html").decode())
    remark = f"beside sparsified finetune, {reason}. Retraining itself goes from"
    assert page.count(remark) == 1
    assert page.count("So there are no credits of retraining for this property.") == 1
    headings = re.findall(r"<thead>.*?</thead>", page, re.DOTALL)
    assert sum("Shapley, retraining" in heading for heading in headings) == 1  # the column of FID alone
    assert verify(this_round.uri)["verified"]["credits.json"] == "to the last bit"


def test_retraining_that_costs_no_more_is_used_and_the_reason_says_so(tmp_path):
    this_round = attributed(tmp_path, RETRAINED, BEFORE_RETRAINING, retraining=2.0)
    used = {c.property for c in this_round.credits.credits if c.method == "multifidelity"}
    assert used == set(this_round.config.properties)
    assert {pilot.use for pilot in this_round.credits.pilots} == {True}
    assert all(
        "the retrained game alone would be simpler" in pilot.reason for pilot in this_round.credits.pilots
    )


@pytest.mark.parametrize("level", [3.0, 0.0])
def test_equal_values_have_no_pilot_and_stop_nothing(tmp_path, level):
    this_round = attributed(tmp_path, RETRAINED, BEFORE_RETRAINING, truth=lambda *_: level)
    assert {(pilot.rho, pilot.use) for pilot in this_round.credits.pilots} == {(None, False)}
    assert all("odd parts are all alike" in pilot.reason for pilot in this_round.credits.pilots)


def test_where_credits_of_retraining_come_first_the_next_method_replaces_them(tmp_path):
    """Statement and tracking server have the method and the game of each property's published credits."""
    methods = "valuation.methods=[multifidelity, leverage]"
    this_round = planned(tmp_path, *SIX, RETRAINED, methods)
    this_round = filled_to_the_end(this_round, cheap, half_alike, retraining=200.0)
    published = {"fid": "multifidelity", "inception_score": "leverage"}
    assert this_round.credits.published == published
    for name, method in published.items():
        assert {c.method for c in this_round.credits.of(name)} == {method}
    statement = csv_rows(this_round, "statement.csv")
    assert {(row["property"], row["method"], row["game"], row["interval"]) for row in statement} == {
        ("fid", "multifidelity", "retrain", "multifidelity"),
        ("inception_score", "leverage", "sparsified_finetune", "leverage"),
    }
    metrics = publish.metrics(this_round, None)
    for name in WORTH:
        for c in this_round.credits.of(name):
            assert metrics[f"phi/{name}/{c.contributor}"] == c.phi
            assert metrics[f"phi_se/{name}/{c.contributor}"] == c.se


def test_rank_correlation_is_with_credits_by_the_same_method(tmp_path):
    before = attributed(tmp_path, "valuation.methods=[loo, leverage]")
    now = attributed(tmp_path, "valuation.methods=[leverage, loo]")
    evaluate.run(now.uri)
    metrics = publish.metrics(now, before.credits)
    assert metrics["rank_correlation/fid"] == pytest.approx(1.0)  # of leverage with leverage, not with loo
    loo = tuple(c for c in before.credits.credits if c.method == "loo")
    only_loo = before.credits.model_copy(update={"credits": loo})
    assert not [key for key in publish.metrics(now, only_loo) if key.startswith("rank_correlation")]


def test_held_out_coalitions_that_credits_are_from_are_counted_whatever_their_method(tmp_path):
    overrides = ("valuation.coalitions=20", "valuation.datamodel={coalitions: 20}", "evaluation.held_out=10")
    methods = "valuation.methods=[leverage, datamodel]"
    this_round = planned(tmp_path, *SIX, "properties=[fid]", methods, *overrides)
    this_round = filled_to_the_end(this_round, cheap)
    scores = [score for judgement in this_round.evidence.judgements for score in judgement.scores]
    assert {score.in_design for score in scores} == {10}


# Interactions


def test_interactions_of_every_pair_are_those_of_the_library(every):
    names = every.manifest.names
    for name in WORTH:
        (Z, y), (v0, v1) = rows(every, name, "design"), endpoints(every, name)
        expected = interactions.estimate(Z, y, v0, v1, every.credits.level)
        pairs = [pair for pair in every.credits.interactions if pair.property == name]
        assert [(pair.one, pair.other) for pair in pairs] == list(combinations(names, 2))
        for field in ("value", "se", "low", "high", "established"):
            assert [getattr(pair, field) for pair in pairs] == getattr(expected, field).tolist()
        assert {pair.unknown for pair in pairs} == {""}


def test_interactions_are_in_the_report(every):
    page = unescape(every.read("report.html").decode())
    for name in WORTH:
        pairs = [pair for pair in every.credits.interactions if pair.property == name]
        signs = sum(pair.established for pair in pairs)
        said = f"{signs} of {len(pairs)} signs are established at {portion(0.95)}, for all pairs together"
        assert f"Shapley interactions. {said}" in page
        assert f"<bdi>{min(pairs, key=lambda pair: pair.value).one}</bdi>" in page


def test_interactions_of_coalitions_that_share_sets_of_weights_are_told_of_them(tmp_path):
    options = (
        "removal={method: experts, fitting: {steps: 2, lr: 1e-3, batch: 8}, sets: 3}",
        "properties=[fid]",
    )
    this_round = attributed(tmp_path, *options, "valuation={coalitions: 40, interactions: true}")
    (Z, y), (v0, v1) = rows(this_round, "fid", "design"), endpoints(this_round, "fid")
    v1 = v1[np.argsort([item.seed % 3 for item in wanted(this_round, "v1")])]
    of_set = np.array([item.seed % 3 for item in wanted(this_round, "design")])
    expected = interactions.estimate(Z, y, v0, v1, sets=of_set)
    assert [pair.low for pair in this_round.credits.interactions] == expected.low.tolist()
    assert expected.low != pytest.approx(interactions.estimate(Z, y, v0, v1).low, rel=1e-3)


def test_few_coalitions_give_interactions_without_intervals(tmp_path):
    this_round = attributed(
        tmp_path, "valuation={coalitions: 20, interactions: true, methods: [leverage]}", "properties=[fid]"
    )
    (Z, y), (v0, v1) = rows(this_round, "fid", "design"), endpoints(this_round, "fid")
    expected = interactions.estimate(Z, y, v0, v1)
    pairs = this_round.credits.interactions
    assert [pair.value for pair in pairs] == expected.value.tolist()
    for pair in pairs:
        assert (pair.se, pair.low, pair.high, pair.established) == (None, None, None, False)
        assert pair.unknown == expected.unknown
        assert "found 10 pairs of a coalition and its complement, expected at least 11" in pair.unknown


def test_without_a_request_there_are_no_interactions(tmp_path):
    assert attributed(tmp_path, "valuation.methods=[leverage]").credits.interactions == ()


# All of it together


def test_every_file_verifies(every):
    assert set(verify(every.uri)["verified"].values()) == {"to the last bit"}


def test_the_report_names_every_method_game_and_cost(every):
    page = unescape(every.read("report.html").decode())
    assert not [METHODS[name].title for name in EVERY if METHODS[name].title not in page]
    for purpose in {item.purpose for item in every.plan.wanted}:
        assert f">{purposes()[purpose]}<" in page
    assert purposes()["held_out"] not in page
    assert re.search("95.% intervals by Shapley, retraining cover: ", page)


def test_a_stage_reads_each_record_once(tmp_path, monkeypatch):
    """Each read from an S3 store is a request."""
    removal = "evaluation.counterfactual={property: fid, game: credit, share: 0.34, seeds: 1, random: 1}"
    overrides = (RETRAINED, BEFORE_RETRAINING, "evaluation.held_out=4", removal)
    this_round = planned(tmp_path, *SIX, *overrides)
    keys, get = [], Store.get

    def counting(self, key):
        keys.append(key)
        return get(self, key)

    for command, credits_read in ((attribute.run, 1), (evaluate.run, 1), (publish.run, 3), (verify, 3)):
        fill(this_round, cheap, alike)
        keys.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Store, "get", counting)
            command(this_round.uri)
        records = [key for key in keys if "/ledger/" in key]
        assert len(records) == len(set(records)) > 0
        assert len([key for key in keys if key.endswith("credits.json")]) <= credits_read
