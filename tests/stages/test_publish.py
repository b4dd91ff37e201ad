"""Published rounds on ledgers of known games: statement, head, record, what is tracked; and the commands that look at them."""

import csv
import hashlib
import io
import json
import re
import shutil
from html import unescape

import numpy as np
import pytest
from mlflow import MlflowClient
from scipy.stats import spearmanr
from tiny import ODD, concluded, fill, from_folder, give, kept, planned, root, told

from apportion import cli, stages, version
from apportion.errors import ApportionError, Conflict, Damaged, NotFound
from apportion.properties.network import read_network
from apportion.records import Commit
from apportion.stages import attribute, evaluate, plan, publish
from apportion.stages.attribute import cell, published
from apportion.stages.heads import head
from apportion.stages.round import Round
from apportion.tracking import MlflowTracker, Tracker, open_tracker
from apportion.valuation import intervals

SMALL = ("properties=[fid, inception_score]", "valuation.coalitions=14")
WORTH = {"fid": [-5.0, -1.0, 2.0, 0.3], "inception_score": [0.1, 0.7, 0.2, 1.6]}


def value(mask, name, seed):
    return 30 + float(mask @ WORTH[name])


def made(workdir, *overrides, v=value):
    """A round with everything but its publication."""
    round = planned(workdir, *SMALL, *overrides)
    fill(round, v)
    attribute.run(round.uri)
    fill(round, v)
    evaluate.run(round.uri)
    return Round.open(round.uri)


@pytest.fixture
def round(tmp_path):
    """A published round."""
    found = made(tmp_path / "work")
    publish.run(found.uri)
    return found


@pytest.fixture
def command(monkeypatch, caplog, capsys):
    """`apportion …` in this process: exit code, what is printed, what is logged."""
    monkeypatch.setattr("apportion.logs.to_terminal", lambda: None)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments):
        caplog.clear()
        caplog.set_level("INFO")
        code = cli.main([str(argument) for argument in arguments])
        return code, capsys.readouterr().out, caplog.text

    return run


def reseal(path, data):
    """Replaces a stored object together with its checksum: what only somebody who means it does."""
    path.write_bytes(data)
    path.with_name(f".{path.name}.sha256").write_text(f"{hashlib.sha256(data).hexdigest()}  {path.name}\n")


def judged(round, name):
    return next(judgement for judgement in round.evidence.judgements if judgement.property == name)


def folder(round):
    return root(round.uri) / "rounds" / round.id


# The statement


def test_the_statement_says_what_may_be_paid_by(round):
    rows = list(csv.DictReader(io.StringIO(round.store.get(f"rounds/{round.id}/statement.csv").decode())))
    columns = ["credit", "se", "low", "high", "share", "interval", "best", "worst", "verdict", "lds", "lds_low", "lds_high", "covers"]
    assert list(rows[0]) == ["property", "contributor", "images", "method", "game", *columns]
    assert [(row["property"], row["contributor"]) for row in rows] == [
        (name, who) for name in sorted(WORTH) for who in round.manifest.names
    ]
    images = {c.name: str(c.samples) for c in round.manifest.contributors}
    for row, c in zip(rows, [c for name in sorted(WORTH) for c in published(round.credits, name)], strict=True):
        assert float(row["credit"]) == c.phi
        assert (float(row["low"]), float(row["high"]), float(row["share"])) == (c.low, c.high, c.share)
        assert row["images"] == images[row["contributor"]]
        assert row["verdict"] == "not established"  # four held-out coalitions are too few
        assert (row["method"], row["game"], row["interval"]) == ("tree_residual", "sparsified_finetune", "leverage")
        assert (int(row["best"]), int(row["worst"])) == (c.best, c.worst)
        assert row["covers"] == round.credits.covers["leverage"]
        (score,) = (score for score in judged(round, row["property"]).scores if score.method == "tree_residual")
        assert [row[name] for name in ("lds", "lds_low", "lds_high")] == [repr(value) for value in (score.lds, score.low, score.high)]


def test_where_nothing_was_retrained_the_statement_has_no_score(tmp_path):
    round = made(tmp_path / "work", "evaluation.held_out=0")
    publish.run(round.uri)
    rows = list(csv.DictReader(io.StringIO(round.store.get(f"rounds/{round.id}/statement.csv").decode())))
    assert {(row["verdict"], row["lds"], row["lds_low"], row["lds_high"]) for row in rows} == {("not established", "", "", "")}


def test_names_in_the_statement_and_the_report_are_kept_harmless(tmp_path):
    data = from_folder(give(tmp_path / "data", [*ODD, "<script>alert(1)</script>".replace("/", "")]), "evaluation.held_out=0")
    overrides = (*data, "valuation.coalitions=48", "evaluation.counterfactual=null", "properties=[fid]")
    round = planned(tmp_path / "work", *overrides)
    fill(round, lambda mask, *_: float(mask.sum()))
    concluded(round.uri)
    rows = list(csv.DictReader(io.StringIO(round.store.get(f"rounds/{round.id}/statement.csv").decode())))
    assert [row["contributor"] for row in rows] == [cell(name) for name in round.manifest.names]
    assert not [row for row in rows if row["contributor"][0] in "=+-@"]
    page = round.store.get(f"rounds/{round.id}/report.html").decode()
    assert "<script>alert(1)" not in page
    assert "名前 Ünï" in page


def test_the_report_warns_of_an_image_that_two_contributors_gave(tmp_path, caplog):
    """As `plan` does, whose lines scroll by."""
    data = give(tmp_path / "data", ["ada", "bob", "cyd", "eve"])
    shutil.copy(data / "ada" / "0.png", data / "eve" / "mine too.png")
    round = planned(tmp_path / "work", *from_folder(data, "evaluation.held_out=0", "evaluation.counterfactual=null", "properties=[fid]"))
    fill(round, lambda mask, *_: float(mask.sum()))
    concluded(round.uri)
    warning = "the same image was given by 'ada' (ada/0.png) and 'eve' (eve/mine too.png): they share the credit for it"
    assert warning in caplog.messages
    assert f"<li>{warning}</li>" in unescape(round.store.get(f"rounds/{round.id}/report.html").decode())


# The record, the head, and rounds that follow each other


def test_the_record_of_a_first_round(round):
    commit = Commit.parse(round.store.get(f"rounds/{round.id}/round.json"), "round.json")
    count = len({item.key for item in round.wanted})
    everything = len(round.wanted)
    assert (commit.round, commit.previous, commit.project, commit.tracking_run) == (round.id, None, "tiny", None)
    assert commit.code == version.code()
    assert count <= everything
    assert commit.seconds == {"finetune": 2.0 * everything, "sample": 1.0 * everything, "score": 0.5 * everything}
    assert head(round.store, "tiny") == round.id


def test_a_published_round_is_planned_with_nothing_to_do(round, tmp_path):
    planned = plan.run(told(tmp_path / "work", *SMALL))
    assert (planned.work, planned.pending, planned.round_uri) == (False, 0, round.uri)
    assert "last committed round" in planned.reason


COMMITTED = ["credits.json", "credits.csv", "followup.json", "evidence.json", "statement.csv", "report.html"]


@pytest.mark.parametrize("name", COMMITTED)
def test_a_committed_round_that_is_not_whole_is_told_and_can_be_made_whole(round, tmp_path, name):
    """There is nothing to do only where everything is there; the command in the message puts back what is gone, to the last bit."""
    path = folder(round) / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    with kept(path), pytest.raises(Damaged, match=rf"{name}: sha256"):
        plan.run(told(tmp_path / "work", *SMALL))
    path.unlink()
    with pytest.raises(Damaged, match=rf"found no {name} in the committed round .* makes it again") as caught:
        plan.run(told(tmp_path / "work", *SMALL))
    stage = re.search(r"`apportion (\w+) (\S+)`", str(caught.value))
    stages.run(*stage.groups())
    assert path.read_bytes() == whole
    assert not plan.run(told(tmp_path / "work", *SMALL)).work


def test_a_committed_round_whose_evaluations_are_damaged_is_told(round, tmp_path):
    item = round.plan.wanted[5]
    path = root(round.uri) / "games" / item.game / "ledger" / f"{item.key}.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    with kept(path), pytest.raises(Damaged, match=rf"{item.key}\.json: sha256"):
        plan.run(told(tmp_path / "work", *SMALL))
    path.unlink()
    with pytest.raises(NotFound, match="run finetune, sample and score for this round again"):
        plan.run(told(tmp_path / "work", *SMALL))


def test_other_code_alone_makes_no_new_round_and_is_told(round, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "code", lambda: "0.1.0+fedcba98")
    found = plan.run(told(tmp_path / "work", *SMALL))
    assert (found.work, found.round_uri) == (False, round.uri)
    assert f"which code {version.code()} made; `apportion verify {round.uri}` says whether 0.1.0+fedcba98 gives the same" in found.reason
    assert "configuration and code" not in found.reason


def test_another_way_from_values_to_credits_is_another_round_of_the_same_evaluations(round, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "CREDITS", plan.CREDITS + 1)
    found = plan.run(told(tmp_path / "work", *SMALL))
    assert (found.work, found.pending) == (True, 0)
    assert found.round_uri != round.uri


def test_publishing_again_changes_nothing(round):
    files = {path.name: path.read_bytes() for path in folder(round).iterdir()}
    assert publish.run(round.uri).endswith(f"{round.id}/report.html")
    assert {path.name: path.read_bytes() for path in folder(round).iterdir()} == files
    assert head(round.store, "tiny") == round.id


def test_a_second_round_names_the_first_and_is_compared_with_it(round, tmp_path):
    """More held-out coalitions: the credits' evaluations are all there already, but for what another ledger says of them."""
    other = made(tmp_path / "work", "valuation.seed=3", v=lambda mask, name, seed: value(mask, name, seed) ** 2)
    assert publish.run(other.uri).startswith("file:///")
    commit = Commit.parse(other.store.get(f"rounds/{other.id}/round.json"), "round.json")
    assert commit.previous == round.id
    assert head(round.store, "tiny") == other.id
    found = publish.metrics(other, round.credits)
    for name in WORTH:
        now, then = ([c.phi for c in published(each.credits, name)] for each in (other, round))
        assert found[f"rank_correlation/{name}"] == pytest.approx(spearmanr(now, then).statistic, abs=1e-12)


def test_rank_correlation_is_over_the_contributors_of_both(tmp_path):
    before = made(tmp_path / "work")
    publish.run(before.uri)
    now = made(tmp_path / "work", "data.contributors=[Emily Jäger, Sofie Ascherl, Lisa Thiel, Mariella Steeb]")
    found = publish.metrics(now, before.credits)
    both = [name for name in now.manifest.names if name in before.manifest.names]
    assert len(both) == 3
    phi = [{c.contributor: c.phi for c in published(each.credits, "fid")} for each in (now, before)]
    assert found["rank_correlation/fid"] == pytest.approx(spearmanr(*([each[who] for who in both] for each in phi)).statistic, abs=1e-12)
    few = made(tmp_path / "work", "data.contributors=[Emily Jäger, Sofie Ascherl, Mariella Steeb, Liz Bravo]")
    assert not [key for key in publish.metrics(few, before.credits) if key.startswith("rank_correlation")]


def test_the_head_of_one_project_is_not_anothers(round, tmp_path):
    other = made(tmp_path / "work", "project=other")
    publish.run(other.uri)
    assert Commit.parse(other.store.get(f"rounds/{other.id}/round.json"), "round.json").previous is None
    assert (head(round.store, "tiny"), head(round.store, "other")) == (round.id, other.id)


def test_of_two_publishers_one_fails(tmp_path, monkeypatch):
    """Somebody publishes while we render: our round was not compared with theirs, so the head stays theirs until we run again."""
    ours, theirs = made(tmp_path / "work"), made(tmp_path / "work", "valuation.seed=3")
    render = publish.render

    def slow(page):
        monkeypatch.setattr(publish, "render", render)
        publish.run(theirs.uri)
        return render(page)

    monkeypatch.setattr(publish, "render", slow)
    with pytest.raises(Conflict, match="heads/tiny was moved by somebody else"):
        publish.run(ours.uri)
    assert head(ours.store, "tiny") == theirs.id
    publish.run(ours.uri)
    assert head(ours.store, "tiny") == ours.id


def test_two_publishers_of_one_round_agree(tmp_path, monkeypatch):
    """As when a task is started again while its first process still runs."""
    round, render = made(tmp_path / "work"), publish.render

    def slow(page):
        monkeypatch.setattr(publish, "render", render)
        publish.run(round.uri)
        return render(page)

    monkeypatch.setattr(publish, "render", slow)
    assert publish.run(round.uri).endswith(f"{round.id}/report.html")
    assert head(round.store, "tiny") == round.id


def test_an_older_round_can_be_published_again(round, tmp_path):
    other = made(tmp_path / "work", "valuation.seed=3")
    publish.run(other.uri)
    again = plan.run(told(tmp_path / "work", *SMALL))
    assert (again.work, again.pending, again.round_uri) == (True, 0, round.uri)
    publish.run(round.uri)
    assert head(round.store, "tiny") == round.id
    assert not plan.run(told(tmp_path / "work", *SMALL)).work


def test_a_round_that_becomes_the_head_again_keeps_its_tracking_run_as_it_was(tmp_path):
    """It is still compared with the round before it, as its report says, not with the one that it takes the head from."""
    tracked = f"tracking.uri=sqlite:///{tmp_path}/work/mlflow.db"
    rounds = [made(tmp_path / "work", tracked, f"valuation.seed={seed}", v=lambda *of, s=seed: value(*of) ** (1 + s)) for seed in (0, 1, 2)]
    for round in rounds:
        publish.run(round.uri)
    client = MlflowClient(tracking_uri=rounds[0].config.tracking.uri)
    commits = [Commit.parse(round.store.get(f"rounds/{round.id}/round.json"), "round.json") for round in rounds]
    before = client.get_run(commits[1].tracking_run).data
    assert "rank_correlation/fid" in before.metrics
    again = plan.run(told(tmp_path / "work", *SMALL, tracked, "valuation.seed=1"))
    assert (again.work, again.round_uri) == (True, rounds[1].uri)
    publish.run(rounds[1].uri)
    experiment = client.get_experiment_by_name("apportion").experiment_id
    parents = [run for run in client.search_runs([experiment]) if "mlflow.parentRunId" not in run.data.tags]
    assert sorted(run.info.run_id for run in parents) == sorted(commit.tracking_run for commit in commits)
    assert {run.info.status for run in parents} == {"FINISHED"}
    after = client.get_run(commits[1].tracking_run).data
    assert (after.metrics, after.params) == (before.metrics, before.params)
    assert after.tags["apportion.previous"] == before.tags["apportion.previous"] == rounds[0].id


def test_a_round_whose_network_has_moved_is_published_again(tmp_path):
    """MLflow takes a parameter once: where a file lay is none. The games name the network by its hash, so the round is the same."""
    tracked, net = f"tracking.uri=sqlite:///{tmp_path}/work/mlflow.db", tmp_path / "net.safetensors"
    net.write_bytes(read_network("openmoji"))
    first, second = (made(tmp_path / "work", tracked, f"valuation.level={level}") for level in (0.95, 0.9))
    for round in (first, second):
        publish.run(round.uri)
    moved = plan.run(told(tmp_path / "work", *SMALL, tracked, f"network={net}"))
    assert (moved.work, moved.round_uri) == (True, first.uri)
    publish.run(first.uri)
    assert head(first.store, "tiny") == first.id
    run = Commit.parse(first.store.get(f"rounds/{first.id}/round.json"), "round.json").tracking_run
    found = MlflowClient(tracking_uri=first.config.tracking.uri).get_run(run).data
    assert found.tags["apportion.network"] == f'"{net}"'
    assert "network" not in found.params


@pytest.mark.parametrize("damage", ["cut", "schema", "of another round", "gone", "head"])
def test_a_previous_round_that_cannot_be_read_stops_the_next_at_plan(round, tmp_path, damage):
    """Not at `publish`, after hours of compute; and the message says how to go on."""
    path = root(round.uri) / "heads" / "tiny" if damage == "head" else folder(round) / "credits.json"
    text = path.read_text()
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_text(text[:-9])
    else:
        reseal(
            path,
            {"schema": text.replace("level", "niveau"), "head": "nonsense"}.get(damage, text.replace(round.id, "f" * 32)).encode(),
        )
    says = "nonsense.* expected the id of a round" if damage == "head" else r"credits\.json.*put its credits back, or move .*tiny away"
    with pytest.raises(Damaged, match=says):
        plan.run(told(tmp_path / "work", *SMALL, "valuation.seed=3"))
    assert len(list((root(round.uri) / "rounds").iterdir())) == 1
    (root(round.uri) / "heads" / "tiny").rename(tmp_path / "the head")
    assert plan.run(told(tmp_path / "work", *SMALL, "valuation.seed=3")).work


def earlier(round):
    """Makes the credits and the plan of a published round those that code before records.CREDITS 3 would have left."""
    said = json.loads((folder(round) / "credits.json").read_bytes())
    new = ("pilots", "interactions", "looked", "exact_v0", "exact_v1")
    said = {name: value for name, value in said.items() if name not in new} | {"covers": said["covers"]["leverage"]}
    kept_ = ("property", "method", "contributor", "phi", "se", "low", "high", "share")
    said["credits"] = [{name: c[name] for name in kept_} for c in said["credits"] if c["method"] in ("leverage", "banzhaf")]
    reseal(folder(round) / "credits.json", (json.dumps(said, sort_keys=True, ensure_ascii=False, indent=1) + "\n").encode())
    plan_ = json.loads((folder(round) / "plan.json").read_bytes())
    del plan_["look"], plan_["credits"]
    reseal(folder(round) / "plan.json", (json.dumps(plan_, sort_keys=True, ensure_ascii=False, indent=1) + "\n").encode())


def test_a_round_of_earlier_code_is_followed_shown_and_not_said_to_be_wrong(round, tmp_path, command):
    """Its credits are read as they are. What it is compared with is what it has: credits by the same method."""
    earlier(round)
    before = {path.name: path.read_bytes() for path in folder(round).iterdir()}
    leverage = "valuation.methods=[leverage, tree_residual]"
    for overrides, compared in ((("valuation.seed=3",), False), (("valuation.seed=3", leverage), True)):
        with kept(folder(round) / "credits.json"):
            other = made(tmp_path / "work", *overrides)
            reseal(root(round.uri) / "heads" / "tiny", f"{round.id}\n".encode())
            publish.run(other.uri)
        assert Commit.parse(other.store.get(f"rounds/{other.id}/round.json"), "round.json").previous == round.id
        page = unescape(other.store.get(f"rounds/{other.id}/report.html").decode())
        assert (f"Round {round.id[:12]} before this one has no credits for this property by this method." in page) != compared
        assert (f"Against round {round.id[:12]}: rank correlation" in page) == compared
    code, out, _ = command("show", round.uri)
    assert code == 0
    assert "95% interval  " in out  # its own, so of no other method
    code, _, log = command("verify", round.uri)
    assert code == 1
    assert "which made credits in another way (records.CREDITS 2, expected 4)" in log
    assert "does not follow from the ledger" not in log
    assert {path.name: path.read_bytes() for path in folder(round).iterdir()} == before


def test_credits_are_not_made_in_a_round_that_earlier_code_planned(round):
    """Its address says how credits come from values; a new plan shares every evaluation."""
    earlier(round)
    (folder(round) / "credits.json").unlink()
    with pytest.raises(ApportionError, match=r"that version makes and verifies them; `plan` here makes a round of its evaluations"):
        attribute.run(round.uri)
    assert not (folder(round) / "credits.json").exists()


def test_of_a_previous_round_only_the_credits_are_needed(round, tmp_path):
    """An older version's configuration, or a plan moved away, keeps nobody from publishing."""
    for name in ("config.json", "plan.json"):
        (folder(round) / name).unlink()
    other = made(tmp_path / "work", "valuation.seed=3")
    publish.run(other.uri)
    assert Commit.parse(other.store.get(f"rounds/{other.id}/round.json"), "round.json").previous == round.id


def test_nothing_is_published_without_credits_or_evidence(tmp_path):
    round = planned(tmp_path / "work", *SMALL)
    fill(round, value)
    with pytest.raises(NotFound, match=r"evidence\.json.*the stage that makes evidence\.json has not run"):
        publish.run(round.uri)
    assert head(round.store, "tiny") is None
    assert not round.has("round.json")


def test_tracking_and_compute_may_change_before_a_round_is_finished(tmp_path):
    """They name no round; the shards of a re-run are those of its own configuration."""
    first = planned(tmp_path, *SMALL, "compute.shards=4")
    again = planned(tmp_path, *SMALL, "compute.shards=1", "tracking.experiment=elsewhere")
    assert again.uri == first.uri
    assert (again.config.compute.shards, again.config.tracking.experiment) == (1, "elsewhere")
    assert len(again.pending(0)) == len({item.key for item in again.plan.wanted})


# What is tracked


def test_a_publication_killed_at_its_very_end_is_ended_by_the_next_plan(tmp_path, monkeypatch):
    """The head is moved, so the next plan finds nothing to do; the tracking run must not go on for ever."""

    def killed(self, run, status="FINISHED"):
        if run == round_run:
            raise KeyboardInterrupt
        finish(self, run, status)

    tracked = f"tracking.uri=sqlite:///{tmp_path}/work/mlflow.db"
    round, finish = made(tmp_path / "work", tracked), MlflowTracker.finish
    round_run = open_tracker(round.config.tracking).start(round.id, None, {})
    monkeypatch.setattr(MlflowTracker, "finish", killed)
    with pytest.raises(KeyboardInterrupt):
        publish.run(round.uri)
    client = MlflowClient(tracking_uri=round.config.tracking.uri)
    assert client.get_run(round_run).info.status == "RUNNING"
    for _ in range(2):
        assert not plan.run(told(tmp_path / "work", *SMALL, tracked)).work
        assert client.get_run(round_run).info.status == "FINISHED"


def test_compute_may_change_after_an_interrupted_publication(tmp_path, monkeypatch):
    """MLflow takes each parameter once, so what names no round is no parameter."""

    def killed(self, run, name, *rest):
        raise KeyboardInterrupt

    tracked = f"tracking.uri=sqlite:///{tmp_path}/work/mlflow.db"
    round = made(tmp_path / "work", tracked)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowTracker, "child", killed)
        with pytest.raises(KeyboardInterrupt):
            publish.run(round.uri)
    assert planned(tmp_path / "work", *SMALL, tracked, "compute.shards=5", "compute.threads=3").uri == round.uri
    publish.run(round.uri)
    client = MlflowClient(tracking_uri=round.config.tracking.uri)
    run = client.get_run(Commit.parse(round.store.get(f"rounds/{round.id}/round.json"), "round.json").tracking_run)
    assert (run.data.tags["apportion.compute.shards"], run.data.tags["apportion.compute.threads"]) == ("5", "3")
    assert not [name for name in run.data.params if name.startswith(("compute", "store", "tracking"))]


class Recorder(Tracker):
    """Keeps what it is told."""

    def __init__(self):
        self.told, self.children, self.ended = {}, {}, []

    def start(self, round_id, job, tags):
        self.tags = dict(tags)
        return "run"

    def params(self, run, values):
        self.told["params"] = dict(values)

    def metrics(self, run, values, step=0):
        self.told["metrics"] = dict(values)

    def stepped(self, run, name, values):
        self.told[name] = list(values)

    def table(self, run, artifact_path, columns):
        self.told[artifact_path] = {name: list(column) for name, column in columns.items()}

    def artifact(self, run, artifact_path, data):
        self.told[artifact_path] = data

    def child(self, run, name, tags, params, metrics):
        self.children[name] = dict(metrics)

    def finish(self, run, status="FINISHED"):
        self.ended.append((run, status))


def test_what_the_tracking_server_is_told(tmp_path, monkeypatch):
    recorder = Recorder()
    round = made(tmp_path / "work")
    monkeypatch.setattr(publish, "open_tracker", lambda tracking: recorder)
    publish.run(round.uri)
    assert recorder.ended == [("run", "FINISHED")]
    assert recorder.tags["apportion.manifest"] == round.manifest.id
    assert (recorder.tags["apportion.estimator"], recorder.tags["apportion.previous"]) == ("tree_residual", "")
    metrics = recorder.told["metrics"]
    for name in WORTH:
        for c in published(round.credits, name):
            assert metrics[f"phi/{name}/{c.contributor}"] == c.phi
            assert metrics[f"phi_se/{name}/{c.contributor}"] == c.se
        assert metrics[f"lds/alpha_0.5/{name}"] == next(j for j in round.evidence.judgements if j.property == name).scores[0].lds
        assert metrics[f"faithfulness/alpha_0.5/{name}"] == 1.0
        assert recorder.told[f"value/{name}"] == [evaluation.values[name] for _, evaluation in round.evaluations("design")]
    everything = len(round.wanted)
    assert (metrics["seconds/finetune"], metrics["seconds/sample"], metrics["gpu_seconds"]) == (2.0 * everything, 1.0 * everything, 0.0)
    assert list(recorder.children) == ["tree_residual", "leverage", "banzhaf", "beta_shapley"]
    for method, logged in recorder.children.items():
        phi = {f"phi/{c.property}/{c.contributor}": c.phi for c in round.credits.credits if c.method == method}
        assert {key: value for key, value in logged.items() if key.startswith("phi/")} == phi
        assert any(key.startswith("phi_se/") for key in logged) == (method in ("tree_residual", "leverage"))
    assert recorder.told["params"]["removal.method"] == '"sparsified_finetune"'
    assert len(recorder.told["evaluations.json"]["key"]) == everything
    for name in ("report.html", "credits.csv", "statement.csv", "evidence.json", "plan.json", "config.json"):
        assert recorder.told[name] == round.store.get(f"rounds/{round.id}/{name}")
    for name in WORTH:
        assert (
            f"{name.upper() if name == 'fid' else 'Inception score'}, credits of 4 contributors"
            in recorder.told[f"figures/{name}.svg"].decode()
        )
    assert Commit.parse(round.store.get(f"rounds/{round.id}/round.json"), "round.json").tracking_run == "run"


def test_gpu_seconds_are_those_of_gpus(tmp_path):
    round = planned(tmp_path, *SMALL, "evaluation.counterfactual=null")
    fill(round, value, device="NVIDIA H200, bf16")
    attribute.run(round.uri)
    evaluate.run(round.uri)
    assert publish.metrics(round, None)["gpu_seconds"] == 3.0 * len(round.wanted)


# Commands


def test_rounds_lists_what_is_committed(round, tmp_path, command):
    planned(tmp_path / "work", *SMALL, "valuation.seed=9")  # planned only
    other = made(tmp_path / "work", "valuation.seed=3")
    publish.run(other.uri)
    code, out, _ = command("rounds", round.store.uri)
    assert code == 0
    rows = [line.replace("│", " ").split() for line in out.splitlines() if "tiny" in line]
    seconds = [f"{3.5 * len(each.wanted):.0f}" for each in (round, other)]
    expected = [[round.id, "tiny", version.code(), seconds[0]], [other.id, "tiny", round.id[:8], version.code(), seconds[1]]]
    assert sorted(rows) == sorted(expected)


def test_show_prints_the_credits_the_best_first(round, command):
    code, out, _ = command("show", round.uri)
    assert code == 0
    for name, better in {"fid": 1, "inception_score": -1}.items():
        v0, v1 = round.credits.v0[name].mean, round.credits.v1[name].mean
        score = next(score for score in judged(round, name).scores if score.method == "tree_residual")
        assert f"  faithfulness ρ 1.00, LDS of these credits {score.lds:.2f} ({score.low:.2f} … {score.high:.2f})\n" in out
        lines = [line for line in out[out.index(f"{name}  ") :].splitlines() if line.strip().startswith(tuple(round.manifest.names))]
        ranked = sorted(published(round.credits, name), key=lambda c: better * c.phi)
        assert [c.contributor in line for c, line in zip(ranked, lines[:4], strict=True)] == [True] * 4
        assert f"{name}  {v0:.3f} (nobody) to {v1:.3f} (everybody); verdict: not established" in out
        for c in published(round.credits, name):
            assert f"{c.phi:+.3f}" in out
            assert f"{c.share:.1%}" in out
            (line,) = (line for line in lines[:4] if c.contributor in line)
            assert f"{c.low:+.3f} … {c.high:+.3f}" in line
            assert f" {c.best} " in line if c.best == c.worst else f" {c.best}–{c.worst} " in line
    assert "95% interval (leverage)" in out
    assert f"Intervals by leverage cover {round.credits.covers['leverage']}." in " ".join(out.split())
    assert f"report: {round.store.where(f'rounds/{round.id}/report.html')}" in out


def test_show_says_only_what_was_measured(tmp_path, command):
    round = made(tmp_path / "work", "evaluation.held_out=0")
    _, out, _ = command("show", round.uri)
    assert not [word for word in ("ρ", "LDS", "nan", "None") if word in out]


def test_names_and_paths_are_shown_as_they_are(tmp_path, command):
    """Neither [bold] nor :heart: is a command to the terminal."""
    data = from_folder(give(tmp_path / "data", ODD), "evaluation.held_out=0", "valuation.coalitions=48", "evaluation.counterfactual=null")
    round = planned(tmp_path / "a [red] :heart: folder", *data, "properties=[fid]")
    fill(round, lambda mask, *_: float(mask.sum()))
    concluded(round.uri)
    code, out, _ = command("show", round.uri)
    assert code == 0
    assert not [name for name in ODD if name not in out]
    assert "report: file:///" in out


def test_a_round_without_credits_has_nothing_to_show(tmp_path, command):
    round = planned(tmp_path, *SMALL)
    code, out, log = command("show", round.uri)
    assert (code, out) == (1, "")
    assert "the stage that makes credits.json has not run" in log


def test_verify_confirms_what_follows_from_the_ledger(round, command):
    code, _, log = command("verify", round.uri)
    assert code == 0
    found = json.loads(log[log.index("{") :])
    assert (found["round"], found["evaluations"]) == (round.id, len(round.wanted))
    files = ["credits.json", "credits.csv", "followup.json", "evidence.json", "statement.csv"]
    assert found["verified"] == dict.fromkeys(files, "to the last bit")


def test_verify_reads_what_there_is_of_a_round_that_goes_on(tmp_path, command):
    round = planned(tmp_path, *SMALL)
    fill(round, value)
    attribute.run(round.uri)
    fill(round, value)
    code, _, log = command("verify", round.uri)
    assert code == 0
    assert list(json.loads(log[log.index("{") :])["verified"]) == ["credits.json", "credits.csv", "followup.json"]


@pytest.mark.parametrize(("off", "follows"), [(1e-12, True), (1e-6, False)])
def test_verify_allows_for_another_machine_and_says_so(round, command, monkeypatch, off, follows):
    """Where the same arithmetic comes out a little different, what was published here must still verify, but no lie."""
    jackknife = intervals.jackknife

    def elsewhere(*arguments):
        found = jackknife(*arguments)
        return found._replace(phi=found.phi * (1 + off))

    monkeypatch.setattr(intervals, "jackknife", elsewhere)
    code, _, log = command("verify", round.uri)
    if not follows:
        assert code == 1
        assert "credits.json, which does not follow from the ledger" in log
    else:
        assert code == 0
        verified = json.loads(log[log.index("{") :])["verified"]
        assert verified.pop("credits.json") == "within 1e-09"
        assert set(verified.values()) == {"to the last bit"}


@pytest.mark.parametrize("name", ["credits.json", "credits.csv", "statement.csv", "evidence.json", "followup.json"])
def test_verify_detects_a_file_that_was_altered(round, command, name):
    path = folder(round) / name
    path.write_bytes(path.read_bytes().replace(b"0", b"1", 1))
    with kept(path):
        code, _, log = command("verify", round.uri)
    assert code == 1
    assert f"{round.id}/{name}" in log
    assert "sha256" in log


@pytest.mark.parametrize("name", ["credits.json", "credits.csv", "statement.csv", "evidence.json"])
def test_verify_detects_a_file_that_was_altered_with_its_checksum(round, command, name):
    path = folder(round) / name
    text = path.read_bytes().decode()
    found, better = ("not established", "faithful") if name == "evidence.json" else (repr(published(round.credits, "fid")[0].phi), "9.5")
    assert found in text
    reseal(path, text.replace(found, better).encode())
    with kept(path):
        code, _, log = command("verify", round.uri)
    assert code == 1
    assert f"{name}, which does not follow from the ledger" in log


def test_verify_detects_an_altered_evaluation(round, command):
    item = round.plan.wanted[5]
    path = root(round.uri) / "games" / item.game / "ledger" / f"{item.key}.json"
    record = json.loads(path.read_bytes())
    record["values"]["fid"] += 1
    reseal(path, (json.dumps(record, sort_keys=True, ensure_ascii=False, indent=1) + "\n").encode())
    with kept(path):
        code, _, log = command("verify", round.uri)
    assert code == 1
    assert "does not follow from the ledger" in log


def test_verify_misses_no_record(round, command):
    item = round.plan.wanted[0]
    (root(round.uri) / "games" / item.game / "ledger" / f"{item.key}.json").unlink()
    code, _, log = command("verify", round.uri)
    assert code == 1
    assert item.key in log


@pytest.mark.parametrize("uri", ["", "nonsense", "file:///tmp/rounds/../../etc", "gopher://x/rounds/" + "0" * 32])
def test_addresses_that_are_none(uri, command):
    code, out, log = command("show", uri)
    assert (code, out) == (1, "")
    assert "expected" in log


def test_a_shard_that_there_is_not(tmp_path, command):
    round = planned(tmp_path, *SMALL)
    for shard in (-1, 2):
        with pytest.raises(Exception, match=rf"found shard {shard} .* expected 0 to 1 \(compute\.shards\)"):
            round.pending(shard)
    shares = [[item.key for item in round.pending(shard)] for shard in (0, 1)]
    assert sorted(shares[0] + shares[1]) == sorted({item.key for item in round.plan.wanted})
    assert abs(len(shares[0]) - len(shares[1])) <= 1


def test_damage_in_a_rounds_own_files_is_reported(round):
    for name in ("plan.json", "config.json"):
        path = folder(round) / name
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with kept(path), pytest.raises(Damaged, match=name):
            Round.open(round.uri)
        path.write_bytes(whole)
    assert np.all(Round.open(round.uri).config.properties == round.config.properties)
