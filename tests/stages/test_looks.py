"""Rounds that are topped up: each plan goes on to the next look until the rule holds, and nothing is evaluated twice."""

import csv
import io
import json
from html import unescape

import numpy as np
import pytest
from known import cheap, ends, like, of, seen
from mlflow import MlflowClient
from tiny import fill, kept, planned, root, told

from apportion import cli
from apportion.errors import Damaged
from apportion.records import Commit
from apportion.stages import attribute, evaluate, plan, publish, verify
from apportion.stages.heads import head
from apportion.stages.round import Round
from apportion.tracking import MlflowTracker, open_tracker
from apportion.valuation import intervals, ranks, sequential

LOOKS = [20, 28, 40]
BARE = ("data.contributors=6", "properties=[fid, inception_score]", "valuation.coalitions=40", "evaluation.counterfactual=null")
SIX = (*BARE, "evaluation.held_out=4")


def stop(rule="width", target=1e-6, **more):
    """The option; by default of a rule that never holds."""
    return f"valuation.stop={json.dumps({'looks': LOOKS, 'rule': rule, 'target': target, **more})}"


def attributed(uri):
    round = Round.open(uri)
    fill(round, cheap, like)
    attribute.run(uri)
    return Round.open(uri)


def concluded(uri):
    """Everything after `plan`."""
    attributed(uri)
    evaluate.run(uri)
    publish.run(uri)
    return Round.open(uri)


def count(round, purpose="design"):
    return sum(item.purpose == purpose for item in round.plan.wanted)


def test_each_plan_goes_on_to_the_next_look_with_only_new_evaluations_until_the_last(tmp_path):
    config, uris, keys = told(tmp_path, *SIX, stop()), [], set()
    for look, m in enumerate(LOOKS):
        found = plan.run(config)
        round = Round.open(found.round_uri)
        assert (found.work, round.plan.look, count(round)) == (True, look, m)
        wanted = {item.key for item in round.plan.wanted}
        assert found.pending == len(wanted - keys)
        assert found.pending == (m - LOOKS[look - 1] if look else len(wanted))  # only the design's own new coalitions
        assert keys <= wanted
        round = concluded(found.round_uri)
        assert head(round.store, "tiny") == round.id
        commit = Commit.parse(round.store.get(f"rounds/{round.id}/round.json"), "round.json")
        assert commit.previous == (uris[-1].rpartition("/")[2] if uris else None)
        looked = round.credits.looked
        assert (looked.look, list(looked.looks), looked.stop) == (look + 1, LOOKS, False)
        assert round.credits.coalitions == m
        uris, keys = [*uris, found.round_uri], wanted
    assert len(set(uris)) == 3
    last = plan.run(config)
    assert (last.work, last.pending, last.round_uri) == (False, 0, uris[-1])
    assert last.reason.startswith("manifest and configuration are those of look 3 of 3, and it is the last (fid: the widest interval is ")
    for uri in uris:
        assert set(verify.run(uri)["verified"].values()) == {"to the last bit"}


def test_it_stops_where_the_rule_holds_for_all_its_properties(tmp_path):
    config = told(tmp_path, *SIX, stop("width", 0.5, properties=["fid"]))
    first = concluded(plan.run(config).round_uri)
    assert (widest(first, "fid") > 0.5, first.credits.looked.stop) == (True, False)
    second = plan.run(config)
    assert second.pending == 8
    round = concluded(second.round_uri)
    assert (widest(round, "fid") <= 0.5, round.credits.looked.stop) == (True, True)
    assert round.credits.looked.reason == f"fid: the widest interval is {widest(round, 'fid'):.4g}, asked for at most 0.5"
    again = plan.run(config)
    assert (again.work, again.round_uri) == (False, second.round_uri)
    assert "look 2 of 3, and its rule to stop holds (fid: the widest interval is" in again.reason


def widest(round, name):
    return max(c.high - c.low for c in of(round, name, "leverage"))


def test_the_best_are_established_by_the_propertys_direction(tmp_path):
    """Of FID those with the most negative credits."""
    config = told(tmp_path, *SIX, stop("top_order", 2))
    while (found := plan.run(config)).work:
        round = concluded(found.round_uri)
    assert (round.credits.looked.stop, found.round_uri) == (True, round.uri)
    assert round.credits.looked.reason.startswith("fid: 2 of the first 2 places are established; inception_score: ")
    for name, sign in (("fid", -1), ("inception_score", 1)):
        ranked = sorted(of(round, name, "leverage"), key=lambda c: -sign * c.phi)
        assert [(c.best, c.worst) for c in ranked[:2]] == [(1, 1), (2, 2)]


def test_one_property_that_is_not_known_well_enough_goes_on(tmp_path):
    seeds = "valuation.endpoint_seeds=4"
    one = concluded(plan.run(told(tmp_path / "a", *SIX, seeds, stop("width", 1.0, properties=["fid"]))).round_uri)
    assert one.credits.looked.stop
    both = concluded(plan.run(told(tmp_path / "b", *SIX, seeds, stop("width", 1.0))).round_uri)
    assert (widest(both, "fid") < 1 < widest(both, "inception_score"), both.credits.looked.stop) == (True, False)
    assert [part.partition(":")[0] for part in both.credits.looked.reason.split("; ")] == ["fid", "inception_score"]


@pytest.mark.parametrize("spending", ["obrien_fleming", "pocock"])
def test_intervals_and_ranks_at_each_look_are_at_what_it_may_spend(tmp_path, spending):
    config = told(tmp_path, *SIX, stop(spending=spending), "valuation.level=0.9")
    nominal = sequential.levels(LOOKS, 0.9, spending)
    for look, m in enumerate(LOOKS):
        round = concluded(plan.run(config).round_uri)
        chance = sequential.spent(LOOKS[: look + 1], 0.9, spending, most=40)[-1]
        for name, sign in (("fid", -1), ("inception_score", 1)):
            (Z, y), (v0, v1) = seen(round, name, "design"), ends(round, name)
            assert len(Z) == m
            low, high = intervals.hc3(Z, y, v0, v1, float(nominal[look]))
            order = ranks.order(Z, sign * y, sign * v0, sign * v1, float(1 - chance))
            for method in ("tree_residual", "leverage"):
                assert [c.low for c in of(round, name, method)] == pytest.approx(list(low), rel=1e-9)
                assert [c.high for c in of(round, name, method)] == pytest.approx(list(high), rel=1e-9)
                assert [(c.best, c.worst) for c in of(round, name, method)] == list(zip(order.lowest, order.highest, strict=True))
    assert round.credits.level == 0.9


def test_the_same_coalitions_are_retrained_at_every_look(tmp_path):
    config = told(tmp_path, *SIX, stop(), "valuation.exact={coalitions: 16}", "valuation.interactions=false")
    first = concluded(plan.run(config).round_uri)
    found = plan.run(config)
    assert found.pending == 8
    second = concluded(found.round_uri)
    exact = [[item.key for item in round.plan.wanted if item.purpose == "exact"] for round in (first, second)]
    assert exact[0] == exact[1]
    assert len(exact[0]) == 16
    assert second.credits.covers["multifidelity"].endswith("; at this look alone, whatever the others showed")
    page = unescape(second.store.get(f"rounds/{second.id}/report.html").decode())
    assert "Look 2 of 3 at 20, 28, 40 coalitions; the intervals by Shapley (leverage) and the ranks of all looks hold together." in page
    assert "Not yet enough: fid: the widest interval is" in page


def test_a_killed_look_is_gone_on_with(tmp_path):
    """After evaluations, credits, evidence or the report: the next plan is of the same look and its result the same."""
    config = told(tmp_path, *SIX, stop())
    whole = told(tmp_path / "whole", *SIX, stop())
    expected = [concluded(plan.run(whole).round_uri) for _ in range(2)][1]
    concluded(plan.run(config).round_uri)
    uri = plan.run(config).round_uri
    for stage in (lambda: None, lambda: attributed(uri), lambda: evaluate.run(uri)):
        stage()
        again = plan.run(config)
        assert (again.work, again.round_uri) == (True, uri)
    publish.run(uri)
    assert Round.open(uri).id == expected.id
    for name in ("credits.json", "credits.csv", "statement.csv", "evidence.json"):
        assert Round.open(uri).store.get(f"rounds/{expected.id}/{name}") == expected.store.get(f"rounds/{expected.id}/{name}")


def test_a_publication_killed_before_the_head_moved_goes_on_and_its_tracking_run_is_ended(tmp_path, monkeypatch):
    tracked = f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"
    config = told(tmp_path, *SIX, stop(), tracked)
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
    found = plan.run(config)
    assert Round.open(found.round_uri).plan.look == 1
    assert client.get_run(run).info.status == "FINISHED"
    assert isinstance(open_tracker(config.tracking), MlflowTracker)


def test_another_rule_starts_again_with_what_is_evaluated(tmp_path):
    """The configuration names the round: looks that were taken under another rule are no looks of this one."""
    first = concluded(plan.run(told(tmp_path, *SIX, stop())).round_uri)
    found = plan.run(told(tmp_path, *SIX, stop("share", 0.01)))
    round = Round.open(found.round_uri)
    assert (found.work, found.pending, round.plan.look) == (True, 0, 0)
    assert round.id != first.id
    back = plan.run(told(tmp_path, *SIX, stop()))
    assert (back.pending, Round.open(back.round_uri).plan.look) == (8, 1)
    once = plan.run(told(tmp_path, *SIX))  # all at once: what the first look evaluated is shared
    assert (once.pending, Round.open(once.round_uri).plan.look) == (20, 0)


def test_held_out_coalitions_are_of_no_look(tmp_path):
    config, held = told(tmp_path, *SIX, stop()), []
    for _ in LOOKS:
        round = concluded(plan.run(config).round_uri)
        held.append([item.key for item in round.plan.wanted if item.purpose == "held_out"])
    assert held[0] == held[1] == held[2]
    masks = {item.members for item in round.plan.wanted if item.purpose == "held_out"}
    assert not masks & {item.members for item in round.plan.wanted if item.purpose == "design"}


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_look_that_is_not_whole_stops_the_next(tmp_path, damage):
    config = told(tmp_path, *SIX, stop())
    round = concluded(plan.run(config).round_uri)
    path = root(round.uri) / "rounds" / round.id / "credits.json"
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
        with pytest.raises(Damaged, match=r"found no credits\.json in the committed round .* `apportion attribute .* makes it again"):
            plan.run(config)
        attribute.run(round.uri)
        assert path.read_bytes() == whole
    else:
        path.write_bytes(whole[:-3])
        with kept(path), pytest.raises(Damaged, match="sha256"):
            plan.run(config)
        path.write_bytes(whole)
    assert plan.run(config).pending == 8


def test_the_terminal_says_where_it_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("apportion.logs.to_terminal", lambda: None)
    config, said = told(tmp_path, *SIX, stop()), []
    for _ in LOOKS:
        uri = concluded(plan.run(config).round_uri).uri
        assert cli.main(["show", uri]) == 0
        said.append(" ".join(capsys.readouterr().out.split()))
    for look, out in enumerate(said, 1):
        ending = "the last" if look == 3 else "run again to go on"
        assert f"Look {look} of 3, {ending} (fid: the widest interval is " in out
    enough = concluded(plan.run(told(tmp_path, *SIX, stop("width", 1e6))).round_uri)
    assert cli.main(["show", enough.uri]) == 0
    assert "Look 1 of 3, enough (fid: the widest interval is " in " ".join(capsys.readouterr().out.split())


def test_at_every_look_the_statement_is_of_that_looks_credits(tmp_path):
    config = told(tmp_path, *SIX, stop())
    widths = []
    for _ in LOOKS:
        round = concluded(plan.run(config).round_uri)
        rows = list(csv.DictReader(io.StringIO(round.store.get(f"rounds/{round.id}/statement.csv").decode())))
        widths.append(np.mean([float(row["high"]) - float(row["low"]) for row in rows]))
    assert widths[0] > widths[1] > widths[2]


def test_three_contributors_have_looks_too(tmp_path):
    option = "valuation.stop={looks: [6], rule: width, target: 1}"
    with pytest.raises(Exception, match=r"valuation\.stop\.looks: List should have at least 2 items"):
        planned(tmp_path, option)
    four = ("properties=[fid]", "valuation.coalitions=14", "evaluation.held_out=0", "evaluation.counterfactual=null")
    round = planned(tmp_path, *four, "valuation.stop={looks: [12, 14], rule: top_order, target: 3}")
    fill(round, lambda mask, *_: float(mask @ [1, 2, 3, 4]))
    attribute.run(round.uri)
    assert round.credits.looked.reason.startswith("fid: ")
