"""What rounds log to MLflow, and publications that are killed or repeated."""

import pytest
from known import FOUR, SMALL, additive, judged
from mlflow import MlflowClient
from tiny import commit, configured, fill, filled_to_the_end, from_folder, image_folder, planned

from apportion.planning.networks import read_network
from apportion.rounds.heads import head
from apportion.stages import attribute, evaluate, plan, publish
from apportion.tracking import MlflowTracker, Tracker, contributor_keys, open_tracker

ONE_METHOD = "valuation.methods=[leverage]"
"""Each method has a run of its own, which takes time."""


def plan_again(tmp_path, *overrides):
    return plan.run(configured(tmp_path / "work", *SMALL, *overrides))


def client_of(this_round):
    return MlflowClient(tracking_uri=this_round.config.tracking.uri)


def test_a_round_that_becomes_the_head_again_keeps_its_tracking_run(tmp_path, tracked):
    """It is still compared with the round before it, as its report says, and not with the round that was the
    head meanwhile."""
    rounds = []
    for seed in range(3):
        overrides = (tracked, ONE_METHOD, f"valuation.seed={seed}")

        def value(*of, power=1 + seed):
            return additive(*of) ** power

        rounds.append(judged(tmp_path / "work", *overrides, value=value))
    for this_round in rounds:
        publish.run(this_round.uri)
    client, commits = client_of(rounds[0]), [commit(this_round) for this_round in rounds]
    before = client.get_run(commits[1].tracking_run).data
    assert "rank_correlation/fid" in before.metrics
    again = plan_again(tmp_path, tracked, ONE_METHOD, "valuation.seed=1")
    assert (again.work, again.round_uri) == (True, rounds[1].uri)
    publish.run(rounds[1].uri)
    experiment = client.get_experiment_by_name("apportion").experiment_id
    runs = client.search_runs([experiment])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert {run.info.run_id for run in parents} == {record.tracking_run for record in commits}
    assert len(parents) == 3
    assert {run.info.status for run in parents} == {"FINISHED"}
    after = client.get_run(commits[1].tracking_run).data
    assert (after.metrics, after.params) == (before.metrics, before.params)
    assert after.tags["apportion.previous"] == before.tags["apportion.previous"] == rounds[0].id


def test_a_round_whose_network_was_moved_is_published_again(tmp_path, tracked):
    """MLflow accepts a parameter once, so the place of a file is not one. Games name the network by its hash,
    so the round is the same."""
    network = tmp_path / "net.safetensors"
    network.write_bytes(read_network("openmoji"))
    first, second = (
        judged(tmp_path / "work", tracked, ONE_METHOD, f"valuation.level={level}") for level in (0.95, 0.9)
    )
    for this_round in (first, second):
        publish.run(this_round.uri)
    moved = plan_again(tmp_path, tracked, ONE_METHOD, f"network={network}")
    assert (moved.work, moved.round_uri) == (True, first.uri)
    publish.run(first.uri)
    assert head(first.store, "tiny") == first.id
    data = client_of(first).get_run(commit(first).tracking_run).data
    assert data.tags["apportion.network"] == f'"{network}"'
    assert "network" not in data.params


def test_the_run_of_a_publication_killed_at_its_very_end_is_ended_by_the_next_plan(
    tmp_path, tracked, monkeypatch
):
    """The head is moved, so the next plan finds nothing to do; without it the run would never end."""
    this_round, finish = judged(tmp_path / "work", tracked, ONE_METHOD), MlflowTracker.finish
    run = open_tracker(this_round.config.tracking).start(this_round.id, None, {})

    def killed(self, ended, status="FINISHED"):
        if ended == run:
            raise KeyboardInterrupt
        finish(self, ended, status)

    monkeypatch.setattr(MlflowTracker, "finish", killed)
    with pytest.raises(KeyboardInterrupt):
        publish.run(this_round.uri)
    client = client_of(this_round)
    assert client.get_run(run).info.status == "RUNNING"
    for _ in range(2):
        assert not plan_again(tmp_path, tracked, ONE_METHOD).work
        assert client.get_run(run).info.status == "FINISHED"


def test_compute_may_change_after_an_interrupted_publication(tmp_path, tracked, monkeypatch):
    """MLflow accepts each parameter once, so options that may change are tags."""

    def killed(self, run, name, *rest):
        raise KeyboardInterrupt

    this_round = judged(tmp_path / "work", tracked)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowTracker, "child", killed)
        with pytest.raises(KeyboardInterrupt):
            publish.run(this_round.uri)
    changed = ("compute.shards=5", "compute.threads=3")
    assert planned(tmp_path / "work", *SMALL, tracked, *changed).uri == this_round.uri
    publish.run(this_round.uri)
    data = client_of(this_round).get_run(commit(this_round).tracking_run).data
    assert (data.tags["apportion.compute.shards"], data.tags["apportion.compute.threads"]) == ("5", "3")
    assert not [name for name in data.params if name.startswith(("compute", "store", "tracking"))]


def test_contributors_whose_names_a_database_could_take_for_one(tmp_path, tracked, caplog):
    """`plan` says so, and their metrics have keys of their own (MySQL takes these names for one)."""
    caplog.set_level("INFO")
    data = image_folder(tmp_path / "data", ["Müller", "muller", "bob", "cyd"])
    overrides = ("evaluation.held_out=0", "evaluation.counterfactual=null", "properties=[fid]", ONE_METHOD)
    this_round = planned(tmp_path / "work", *from_folder(data), *overrides, tracked)
    message = (
        "could take these names for one (MySQL, SQL Server): 'Müller' and 'muller'; in their metric keys"
    )
    assert len([line for line in caplog.messages if message in line]) == 1
    this_round = filled_to_the_end(this_round, lambda mask, *_: float(mask.sum()))
    client, run = client_of(this_round), commit(this_round).tracking_run
    (nested,) = client.search_runs(
        [client.get_run(run).info.experiment_id], f"tags.`mlflow.parentRunId` = '{run}'"
    )
    keys = contributor_keys(this_round.manifest.names)
    assert {name for name, part in keys.items() if name == part} == {"bob", "cyd"}
    for logged in (client.get_run(run), nested):
        phi = {name: value for name, value in logged.data.metrics.items() if name.startswith("phi/")}
        assert phi == {f"phi/fid/{keys[c.contributor]}": c.phi for c in this_round.credits.credits}


class Recorder(Tracker):
    """Keeps what is logged."""

    def __init__(self):
        self.logged, self.children, self.ended = {}, {}, []

    def start(self, round_id, job, tags):
        self.tags = dict(tags)
        return "run"

    def params(self, run, values):
        self.logged["params"] = dict(values)

    def metrics(self, run, values, step=0):
        self.logged["metrics"] = dict(values)

    def stepped(self, run, name, values):
        self.logged[name] = [*values]

    def table(self, run, artifact_path, columns):
        self.logged[artifact_path] = {name: [*column] for name, column in columns.items()}

    def artifact(self, run, artifact_path, data):
        self.logged[artifact_path] = data

    def child(self, run, name, tags, params, metrics):
        self.children[name] = dict(metrics)

    def finish(self, run, status="FINISHED"):
        self.ended.append((run, status))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A published round, and what was logged of it."""
    recorder, this_round = Recorder(), judged(tmp_path_factory.mktemp("recorded"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publish, "open_tracker", lambda *_: recorder)
        publish.run(this_round.uri)
    return this_round, recorder


def test_everything_of_a_round_is_logged(recorded):
    this_round, recorder = recorded
    assert recorder.ended == [("run", "FINISHED")]
    assert recorder.tags["apportion.manifest"] == this_round.manifest.id
    assert (recorder.tags["apportion.estimator"], recorder.tags["apportion.previous"]) == (
        "tree_residual",
        "",
    )
    metrics, count = recorder.logged["metrics"], len(this_round.wanted)
    judgements = {judgement.property: judgement for judgement in this_round.evidence.judgements}
    for name in FOUR:
        for c in this_round.credits.of(name):
            assert metrics[f"phi/{name}/{c.contributor}"] == c.phi
            assert metrics[f"phi_se/{name}/{c.contributor}"] == c.se
        assert metrics[f"lds/alpha_0.5/{name}"] == judgements[name].scores[0].lds
        assert metrics[f"faithfulness/alpha_0.5/{name}"] == 1.0
        values = [evaluation.values[name] for _, evaluation in this_round.evaluations("design")]
        assert recorder.logged[f"value/{name}"] == values
    assert (metrics["seconds/finetune"], metrics["seconds/sample"]) == (2.0 * count, 1.0 * count)
    assert metrics["gpu_seconds"] == 0.0
    assert recorder.logged["params"]["removal.method"] == '"sparsified_finetune"'
    assert len(recorder.logged["evaluations.json"]["key"]) == count
    assert commit(this_round).tracking_run == "run"


def test_each_method_has_a_run_with_its_credits(recorded):
    this_round, recorder = recorded
    assert list(recorder.children) == ["tree_residual", "leverage", "banzhaf", "beta_shapley"]
    for method, metrics in recorder.children.items():
        credits = [c for c in this_round.credits.credits if c.method == method]
        phi = {f"phi/{c.property}/{c.contributor}": c.phi for c in credits}
        assert {key: value for key, value in metrics.items() if key.startswith("phi/")} == phi
        errors = any(key.startswith("phi_se/") for key in metrics)
        assert errors, method


def test_files_and_charts_of_a_round_are_logged(recorded):
    this_round, recorder = recorded
    for name in (
        *("report.html", "credits.csv", "statement.csv"),
        *("evidence.json", "plan.json", "config.json"),
    ):
        assert recorder.logged[name] == this_round.read(name)
    for name, label in (("fid", "FID"), ("inception_score", "Inception score")):
        chart = recorder.logged[f"figures/{name}.svg"].decode()
        assert f"{label}, credits of 4 contributors" in chart


def test_gpu_seconds_are_those_of_gpus(tmp_path):
    this_round = planned(tmp_path, *SMALL, "evaluation.counterfactual=null", ONE_METHOD)
    fill(this_round, additive, device="NVIDIA H200, bf16")
    attribute.run(this_round.uri)
    evaluate.run(this_round.uri)
    assert publish.metrics(this_round, None)["gpu_seconds"] == 3.0 * len(this_round.wanted)
