"""Rounds that are topped up: each plan goes on to the next look until the rule holds, and no coalition is
evaluated twice."""

import json
from html import unescape
from typing import NamedTuple

import numpy as np
import pytest
from known import alike, cheap, endpoints, rows
from mlflow import MlflowClient
from tiny import commit, configured, csv_rows, fill, filled_to_the_end, planned, round_folder, unmodified

from apportion.errors import ConfigError, Damaged
from apportion.rounds.heads import head
from apportion.rounds.round import Round
from apportion.stages import attribute, evaluate, plan, publish
from apportion.tracking import MlflowTracker, open_tracker
from apportion.valuation import intervals, ranks, sequential
from apportion.verify import verify

LOOKS = [20, 28, 40]
SIX = (
    *("data.contributors=6", "properties=[fid, inception_score]", "valuation.coalitions=40"),
    *("evaluation.counterfactual=null", "evaluation.held_out=4"),
)
ONE_METHOD = (*SIX, "valuation.methods=[leverage]")
"""For tests that are not about methods: `tree_residual` takes longer."""


def stop(rule="width", target=1e-6, **more):
    """The option; by default with a rule that never holds."""
    return f"valuation.stop={json.dumps({'looks': LOOKS, 'rule': rule, 'target': target, **more})}"


def concluded(uri):
    """Everything after `plan`."""
    return filled_to_the_end(Round.open(uri), cheap, alike)


def attributed(uri):
    this_round = Round.open(uri)
    fill(this_round, cheap, alike)
    attribute.run(uri)


def keys(this_round, *purposes):
    return [item.key for item in this_round.plan.wanted if item.purpose in purposes or not purposes]


def widest(this_round, name):
    return max(c.high - c.low for c in this_round.credits.of(name, "leverage"))


class Look(NamedTuple):
    """A look of a round: what `plan` returned, the concluded round, and the head after it."""

    planned: plan.Planned
    this_round: Round
    head: str


@pytest.fixture(scope="module")
def looks(tmp_path_factory):
    """All looks of a round whose rule never holds, and its configuration. Tests only read them, or plan
    again."""
    config = configured(tmp_path_factory.mktemp("looks"), *ONE_METHOD, stop())
    result = []
    for _ in LOOKS:
        planned_look = plan.run(config)
        this_round = concluded(planned_look.round_uri)
        result.append(Look(planned_look, this_round, head(this_round.store, "tiny")))
    return config, result


def test_each_plan_goes_on_to_the_next_look_with_only_new_evaluations_until_the_last(looks):
    config, result = looks
    known, before = set(), None
    for look, (m, (planned_look, this_round, head_after)) in enumerate(zip(LOOKS, result, strict=True)):
        assert planned_look.work
        assert planned_look.round_uri == this_round.uri
        assert (this_round.plan.look, len(keys(this_round, "design"))) == (look, m)
        wanted = set(keys(this_round))
        assert planned_look.pending == len(wanted - known)
        # After the first look, only the new coalitions of the design.
        assert planned_look.pending == (m - LOOKS[look - 1] if look else len(wanted))
        assert known <= wanted
        assert head_after == this_round.id
        assert commit(this_round).previous == before
        stopping = this_round.credits.stopping
        assert (stopping.look, list(stopping.looks), stopping.stop) == (look + 1, LOOKS, False)
        assert this_round.credits.coalitions == m
        known, before = wanted, this_round.id
    assert len({look.this_round.id for look in result}) == 3
    last = plan.run(config)
    assert (last.work, last.pending, last.round_uri) == (False, 0, result[-1].this_round.uri)
    expected = (
        "manifest and configuration are those of look 3 of 3, and it is the last (fid: the widest interval"
    )
    assert last.reason.startswith(expected)
    for look in result:
        assert set(verify(look.this_round.uri)["verified"].values()) == {"to the last bit"}


def test_each_look_has_a_statement_of_its_own_credits_and_the_same_held_out_coalitions(looks):
    widths, held_out = [], []
    for look in looks[1]:
        statement = csv_rows(look.this_round, "statement.csv")
        widths.append(np.mean([float(row["high"]) - float(row["low"]) for row in statement]))
        held_out.append(keys(look.this_round, "held_out"))
    assert widths[0] > widths[1] > widths[2]
    assert held_out[0] == held_out[1] == held_out[2]
    wanted = looks[1][-1].this_round.plan.wanted
    masks = {item.members for item in wanted if item.purpose == "held_out"}
    assert not masks & {item.members for item in wanted if item.purpose == "design"}


def test_the_terminal_shows_look_and_stopping_status(looks, tmp_path, command):
    def shown(uri):
        code, out, _ = command("show", uri)
        assert code == 0
        return " ".join(out.split())

    for number, look in enumerate(looks[1], 1):
        ending = "the last" if number == 3 else "run again to evaluate more"
        expected = f"Look {number} of 3, {ending} (fid: the widest interval is "
        assert expected in shown(look.this_round.uri)
    enough = concluded(plan.run(configured(tmp_path, *ONE_METHOD, stop("width", 1e6))).round_uri)
    assert "Look 1 of 3, enough (fid: the widest interval is " in shown(enough.uri)


def test_it_stops_where_the_rule_holds_for_all_its_properties(tmp_path):
    config = configured(tmp_path, *ONE_METHOD, stop("width", 0.5, properties=["fid"]))
    first = concluded(plan.run(config).round_uri)
    assert (widest(first, "fid") > 0.5, first.credits.stopping.stop) == (True, False)
    second = plan.run(config)
    assert second.pending == 8
    this_round = concluded(second.round_uri)
    width = widest(this_round, "fid")
    assert (width <= 0.5, this_round.credits.stopping.stop) == (True, True)
    assert this_round.credits.stopping.reason.startswith(f"fid: the widest interval is {width:.4g}, ")
    again = plan.run(config)
    assert (again.work, again.round_uri) == (False, second.round_uri)
    assert "look 2 of 3, and its stopping rule holds (fid: the widest interval is" in again.reason


def test_the_best_are_established_by_the_propertys_direction(tmp_path):
    """For FID those with the most negative credits."""
    config = configured(tmp_path, *ONE_METHOD, stop("top_order", 2))
    while (planned_look := plan.run(config)).work:
        this_round = concluded(planned_look.round_uri)
    stopping = this_round.credits.stopping
    assert (stopping.stop, planned_look.round_uri) == (True, this_round.uri)
    assert stopping.reason.startswith("fid: 2 of the first 2 places are established; inception_score: ")
    for name, sign in (("fid", -1), ("inception_score", 1)):
        ranked = sorted(this_round.credits.of(name, "leverage"), key=lambda c: -sign * c.phi)
        assert [(c.best, c.worst) for c in ranked[:2]] == [(1, 1), (2, 2)]


def test_the_rule_must_hold_for_every_property(tmp_path):
    seeds = "valuation.endpoint_seeds=4"
    rule = stop("width", 1.0, properties=["fid"])
    one = concluded(plan.run(configured(tmp_path, *ONE_METHOD, seeds, rule)).round_uri)
    assert one.credits.stopping.stop
    both = concluded(plan.run(configured(tmp_path, *ONE_METHOD, seeds, stop("width", 1.0))).round_uri)
    assert widest(both, "fid") < 1 < widest(both, "inception_score")
    assert not both.credits.stopping.stop
    parts = both.credits.stopping.reason.split("; ")
    assert [part.partition(":")[0] for part in parts] == ["fid", "inception_score"]


@pytest.mark.parametrize(
    ("spending", "methods"), [("obrien_fleming", ["tree_residual", "leverage"]), ("pocock", ["leverage"])]
)
def test_intervals_and_ranks_at_each_look_are_at_what_it_may_spend(tmp_path, spending, methods):
    option = f"valuation.methods=[{', '.join(methods)}]"
    config = configured(tmp_path, *SIX, option, stop(spending=spending), "valuation.level=0.9")
    nominal = sequential.levels(LOOKS, 0.9, spending)
    for look, m in enumerate(LOOKS):
        this_round = concluded(plan.run(config).round_uri)
        chance = sequential.spent(LOOKS[: look + 1], 0.9, spending, most=40)[-1]
        for name, sign in (("fid", -1), ("inception_score", 1)):
            (Z, y), (v0, v1) = rows(this_round, name, "design"), endpoints(this_round, name)
            assert len(Z) == m
            low, high = intervals.hc3(Z, y, v0, v1, float(nominal[look]))
            order = ranks.order(Z, sign * y, sign * v0, sign * v1, float(1 - chance))
            for method in methods:
                credits = this_round.credits.of(name, method)
                assert [c.low for c in credits] == pytest.approx(list(low), rel=1e-9)
                assert [c.high for c in credits] == pytest.approx(list(high), rel=1e-9)
                expected = list(zip(order.lowest, order.highest, strict=True))
                assert [(c.best, c.worst) for c in credits] == expected
    assert this_round.credits.level == 0.9


def test_the_same_coalitions_are_retrained_at_every_look(tmp_path):
    overrides = ("valuation.retrained={coalitions: 16}", "valuation.interactions=false")
    config = configured(tmp_path, *SIX, "valuation.methods=[leverage, multifidelity]", stop(), *overrides)
    first = concluded(plan.run(config).round_uri)
    planned_look = plan.run(config)
    assert planned_look.pending == 8
    second = concluded(planned_look.round_uri)
    assert keys(first, "retrained") == keys(second, "retrained")
    assert len(keys(first, "retrained")) == 16
    covers = second.credits.covers["multifidelity"]
    assert covers.endswith("; for this look alone, not for all looks together")
    page = unescape(second.read("report.html").decode())
    assert "This is look 2 of 3, which are at 20, 28, 40 coalitions." in page
    assert "The intervals by Shapley (leverage) and the ranks are valid for all looks together." in page
    assert "Not yet enough: fid: the widest interval is" in page


def test_a_killed_look_is_continued(looks, tmp_path):
    """After evaluations, credits or evidence, the next plan is of the same look, and its results are the
    same."""
    expected = looks[1][1].this_round
    config = configured(tmp_path, *ONE_METHOD, stop())
    concluded(plan.run(config).round_uri)
    uri = plan.run(config).round_uri
    for stage in (lambda: None, lambda: attributed(uri), lambda: evaluate.run(uri)):
        stage()
        again = plan.run(config)
        assert (again.work, again.round_uri) == (True, uri)
    publish.run(uri)
    assert Round.open(uri).id == expected.id
    for name in ("credits.json", "credits.csv", "statement.csv", "evidence.json"):
        assert Round.open(uri).read(name) == expected.read(name)


def test_the_tracking_run_of_a_look_killed_before_the_head_moved_is_ended(tmp_path, tracked, monkeypatch):
    config = configured(tmp_path / "work", *ONE_METHOD, stop(), tracked)
    first = plan.run(config).round_uri
    attributed(first)
    evaluate.run(first)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(publish.heads, "move", killed)
        with pytest.raises(KeyboardInterrupt):
            publish.run(first)
    client = MlflowClient(tracking_uri=config.tracking.uri)
    run = open_tracker(config.tracking).start(Round.open(first).id, None, {})
    assert client.get_run(run).info.status == "RUNNING"
    second = plan.run(config)
    assert Round.open(second.round_uri).plan.look == 1
    assert client.get_run(run).info.status == "FINISHED"
    assert isinstance(open_tracker(config.tracking), MlflowTracker)


def test_another_rule_starts_again_with_the_evaluations_there_are(tmp_path):
    """The configuration is part of a round's id: looks under another rule are not looks of this one."""
    first = concluded(plan.run(configured(tmp_path, *ONE_METHOD, stop())).round_uri)
    other = plan.run(configured(tmp_path, *ONE_METHOD, stop("share", 0.01)))
    this_round = Round.open(other.round_uri)
    assert (other.work, other.pending, this_round.plan.look) == (True, 0, 0)
    assert this_round.id != first.id
    back = plan.run(configured(tmp_path, *ONE_METHOD, stop()))
    assert (back.pending, Round.open(back.round_uri).plan.look) == (8, 1)
    # All coalitions at once share what the first look evaluated.
    at_once = plan.run(configured(tmp_path, *ONE_METHOD))
    assert (at_once.pending, Round.open(at_once.round_uri).plan.look) == (20, 0)


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_an_incomplete_look_stops_the_next(tmp_path, damage):
    config = configured(tmp_path, *ONE_METHOD, stop())
    this_round = concluded(plan.run(config).round_uri)
    path = round_folder(this_round) / "credits.json"
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
        expected = r"found no credits\.json in the committed round .* `apportion attribute .* makes it again"
        with pytest.raises(Damaged, match=expected):
            plan.run(config)
        attribute.run(this_round.uri)
        assert path.read_bytes() == whole
    else:
        path.write_bytes(whole[:-3])
        with unmodified(path), pytest.raises(Damaged, match="sha256"):
            plan.run(config)
        path.write_bytes(whole)
    assert plan.run(config).pending == 8


def test_looks_of_few_contributors(tmp_path):
    with pytest.raises(ConfigError, match=r"valuation\.stop\.looks: List should have at least 2 items"):
        planned(tmp_path, "valuation.stop={looks: [6], rule: width, target: 1}")
    overrides = ("properties=[fid]", "valuation.coalitions=14", "evaluation.held_out=0")
    rule = "valuation.stop={looks: [12, 14], rule: top_order, target: 3}"
    this_round = planned(tmp_path, *overrides, "evaluation.counterfactual=null", rule)
    fill(this_round, lambda mask, *_: float(mask @ [1, 2, 3, 4]))
    attribute.run(this_round.uri)
    assert this_round.credits.stopping.reason.startswith("fid: ")
