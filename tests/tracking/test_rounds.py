"""Rounds logged to real MLflow stores and read back with MLflow's own client."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from apportion.config.tracking import TrackingOptions
from apportion.tracking import MlflowTracker, NullTracker, Tracker, key, open_tracker

ROUND = "0123456789abcdef0123456789abcdef"
UNUSUAL = [
    'Jörg "J" Müller (Zürich)',
    "O'Neill; DROP TABLE runs",
    "名前",
    "a//b",
    "../up",
    ".",
    "",
    "tab\there\n",
    "50%",
    "x" * 300,
    "e\u0301",
]


METRICS = 1100
"""More than MLflow accepts in one request, and enough for three batches."""


def client_of(tracking: TrackingOptions) -> MlflowClient:
    assert tracking.uri
    return MlflowClient(tracking_uri=tracking.uri)


def runs_of(tracking: TrackingOptions) -> list[Run]:
    client = client_of(tracking)
    experiment = client.get_experiment_by_name(tracking.experiment)
    assert experiment
    return list(client.search_runs([experiment.experiment_id]))


def log_round(tracker: Tracker, job: str) -> str | None:
    """A whole round as `publish` would log it."""
    run = tracker.start(ROUND, job, {"apportion.previous": "none"})
    tracker.params(run, {"seed": 0, "removal.method": "finetune", **{f"option.{i}": i for i in range(248)}})
    tracker.metrics(run, {**{f"phi/{i}": i / 7 for i in range(METRICS)}, "gpu_seconds": np.float32(1.5)})
    tracker.stepped(run, "value/fid", [3.0, 2.0, 2.0, 1.0])
    tracker.table(
        run,
        "tables/values.json",
        {"coalition": ["1f", "2a"], "fid": [np.float64(3.5), float("nan")], "seed": [np.int64(1), 2]},
    )
    tracker.artifact(run, "report.html", b"<p>caf\xc3\xa9</p>")
    tracker.child(run, "kernelshap", {"estimator": "kernelshap"}, {"level": 0.95}, {"phi/ada": 0.25})
    tracker.child(run, "leave-one-out (LOO)", {"estimator": "loo"}, {}, {"phi/ada": 0.5})
    tracker.finish(run)
    return run


def check_round(tracking: TrackingOptions, run_id: str | None, scratch: Path) -> None:
    """What MLflow's own client reads of `log_round`."""
    client = client_of(tracking)
    runs = {run.info.run_name: run for run in runs_of(tracking)}
    assert set(runs) == {"round 01234567", "kernelshap", "leave-one-out (LOO)"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    logged = runs["round 01234567"]
    assert logged.info.run_id == run_id
    assert logged.data.tags["apportion.round"] == ROUND
    assert logged.data.params == {
        "seed": "0",
        "removal.method": "finetune",
        **{f"option.{i}": str(i) for i in range(248)},
    }
    assert logged.data.metrics == {
        **{f"phi/{i}": i / 7 for i in range(METRICS)},
        "gpu_seconds": 1.5,
        "value/fid": 1.0,
    }
    assert [(m.step, m.value) for m in client.get_metric_history(run_id, "value/fid")] == [
        (0, 3),
        (1, 2),
        (2, 2),
        (3, 1),
    ]
    assert len(client.get_metric_history(run_id, "phi/7")) == 1
    assert {artifact.path for artifact in client.list_artifacts(run_id)} == {"tables", "report.html"}
    assert (
        Path(client.download_artifacts(run_id, "report.html", str(scratch))).read_bytes()
        == b"<p>caf\xc3\xa9</p>"
    )
    table = client.load_table(logged.info.experiment_id, "tables/values.json", [run_id])
    assert table.drop(columns="run_id", errors="ignore").fillna(-1).to_dict("list") == {
        "coalition": ["1f", "2a"],
        "fid": [3.5, -1],
        "seed": [1, 2],
    }
    nested = runs["kernelshap"]
    assert nested.data.tags["mlflow.parentRunId"] == run_id
    assert (nested.data.params, nested.data.metrics) == ({"level": "0.95"}, {"phi/ada": 0.25})


def test_a_round_logged_twice_is_one_round_in_sqlite(
    tracking: TrackingOptions,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracker = open_tracker(tracking)
    tracker.check()
    first = log_round(tracker, "job 1")
    client_of(tracking).set_terminated(first, "FAILED")
    assert log_round(open_tracker(tracking), "job 2") == first
    assert capfd.readouterr() == ("", "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tracking.uri))  # where `load_table` reads
    check_round(tracking, first, tmp_path)
    assert Path(tmp_path, "the ärtifacts", str(first), "artifacts", "report.html").exists()


def test_a_round_logged_twice_is_one_round_on_a_server(
    mlflow_server: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = TrackingOptions(
        uri=mlflow_server, artifacts=f"{tmp_path}/local folder", experiment="Zürich: rounds"
    )
    tracker = open_tracker(tracking)
    tracker.check()
    first = log_round(tracker, "job 1")
    client_of(tracking).update_run(first, "RUNNING")
    assert log_round(open_tracker(tracking), "job 2") == first
    assert capfd.readouterr() == ("", "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    check_round(tracking, first, tmp_path)
    assert not Path(tmp_path, "local folder").exists()


def test_names_that_mlflow_refuses(tracker: MlflowTracker, tracking: TrackingOptions) -> None:
    run = tracker.start(ROUND, None, {})
    tracker.metrics(run, {f"phi/{name}": float(i) for i, name in enumerate(UNUSUAL)})
    tracker.params(run, {name: i for i, name in enumerate(UNUSUAL)})
    tracker.child(run, UNUSUAL[0], {"contributor": UNUSUAL[1]}, {}, {})
    logged = client_of(tracking).get_run(run).data
    assert logged.metrics == {key(f"phi/{name}"): float(i) for i, name in enumerate(UNUSUAL)}
    assert logged.params == {key(name): str(i) for i, name in enumerate(UNUSUAL)}
    assert key("phi/Jörg Müller") == "phi/Jörg Müller"
    assert key("phi/Ana (a)").startswith("phi/Ana _a_-")


def test_different_names_stay_different() -> None:
    names = [
        a + b + c
        for a in ("a", "(", "/")
        for b in ("!", "?", "_", "//", ".")
        for c in ("", "z", "x" * 260, "x" * 261)
    ]
    assert len({key(name) for name in names}) == len(names)


def test_values_that_are_not_finite_are_left_out_and_named(
    tracker: MlflowTracker, tracking: TrackingOptions
) -> None:
    run = tracker.start(ROUND, None, {})
    tracker.metrics(run, {"high/ada": float("inf"), "low/ada": float("-inf"), "phi/ada": 1.0})
    tracker.stepped(run, "lds", [0.5, float("nan"), 0.75])
    logged = client_of(tracking).get_run(run).data
    assert logged.metrics == {"phi/ada": 1.0, "lds": 0.75}
    assert logged.tags["apportion.not_finite"].split("\n") == ["high/ada", "lds", "low/ada"]


def test_a_changed_metric_replaces_the_old_value(tracker: MlflowTracker, tracking: TrackingOptions) -> None:
    run = tracker.start(ROUND, None, {})
    for seconds in (9.0, 4.0, 4.0):
        tracker.metrics(run, {"gpu_seconds": seconds})
    assert client_of(tracking).get_run(run).data.metrics == {"gpu_seconds": 4.0}


def test_mlflow_shows_a_table_as_a_table(tracker: MlflowTracker, tracking: TrackingOptions) -> None:
    run = tracker.start(ROUND, None, {})
    for rows in ([1], [1, 2]):
        tracker.table(run, "t/v.json", {"n": rows})
    tracker.table(run, "w.json", {})
    tags = client_of(tracking).get_run(run).data.tags
    assert json.loads(tags["mlflow.loggedArtifacts"]) == [
        {"path": "t/v.json", "type": "table"},
        {"path": "w.json", "type": "table"},
    ]


@pytest.mark.parametrize("status", ["RUNNING", "FAILED", "KILLED", "FINISHED"])
def test_a_round_continues_in_its_run(tracker: MlflowTracker, tracking: TrackingOptions, status: str) -> None:
    run = tracker.start(ROUND, "job 1", {"code": "1"})
    tracker.child(run, "loo", {"apportion.round": ROUND}, {}, {})
    client_of(tracking).update_run(run, status)
    again = tracker.start(ROUND, "job 2", {"code": "2"})
    assert again == run
    continued = client_of(tracking).get_run(again)
    assert (continued.info.status, continued.data.tags["apportion.job"], continued.data.tags["code"]) == (
        "RUNNING",
        "job 2",
        "2",
    )
    assert tracker.start(ROUND, None, {}) == again  # without a job, the run keeps the job that it has
    assert client_of(tracking).get_run(again).data.tags["apportion.job"] == "job 2"
    assert tracker.start("f" * 32, "job 2", {}) != run


def test_of_several_runs_of_a_round_the_unfinished_one_continues(
    tracker: MlflowTracker, tracking: TrackingOptions
) -> None:
    """An older version of Apportion made a new run where the round's had finished."""
    client = client_of(tracking)
    first, second = (tracker.start(digit * 32, None, {}) for digit in "ab")
    for run in (first, second):
        client.set_tag(run, "apportion.round", ROUND)
    client.set_terminated(second)
    assert tracker.start(ROUND, None, {}) == first


def test_finishing_a_round_ends_its_runs_and_no_others(
    tracker: MlflowTracker, tracking: TrackingOptions
) -> None:
    mine, others = tracker.start(ROUND, "job", {}), tracker.start("f" * 32, "job", {})
    nested = tracker.child(mine, "loo", {"apportion.round": ROUND}, {}, {})
    for status in ("RUNNING", "FAILED"):
        client_of(tracking).update_run(mine, status)
        assert tracker.finish_round(ROUND) == [mine]
    assert tracker.finish_round(ROUND) == tracker.finish_round("0" * 32) == []
    statuses = {run.info.run_id: run.info.status for run in runs_of(tracking)}
    assert statuses == {mine: "FINISHED", nested: "FINISHED", others: "RUNNING"}


def test_close_job_ends_the_running_runs_of_the_job_and_no_others(
    tracker: MlflowTracker, tracking: TrackingOptions
) -> None:
    mine, others, jobless = (
        tracker.start("a" * 32, "mine", {}),
        tracker.start("b" * 32, "others", {}),
        tracker.start("c" * 32, None, {}),
    )
    done = tracker.start("d" * 32, "mine", {})
    tracker.finish(done)
    nested = tracker.child(mine, "loo", {}, {}, {})
    client_of(tracking).update_run(nested, "RUNNING")  # as when the process is killed within `child`
    assert set(tracker.close_job("mine", "KILLED")) == {mine, nested}
    assert tracker.close_job("mine", "FAILED") == []
    assert tracker.close_job("", "FAILED") == []
    assert (
        open_tracker(tracking.model_copy(update={"experiment": "never made"})).close_job("mine", "FAILED")
        == []
    )
    assert client_of(tracking).get_experiment_by_name("never made") is None
    expected = {mine: "KILLED", nested: "KILLED", others: "RUNNING", jobless: "RUNNING", done: "FINISHED"}
    assert {run.info.run_id: run.info.status for run in runs_of(tracking)} == expected


def test_in_a_kubeflow_pipeline_the_round_is_the_pipelines_run(
    tracker: MlflowTracker, tracking: TrackingOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(tracking)
    elsewhere = client.create_experiment("KFP", artifact_location=tracking.artifacts)
    pipeline = client.create_run(elsewhere, run_name="nightly").info.run_id
    loop = client.create_run(elsewhere, tags={"mlflow.parentRunId": pipeline}).info.run_id
    task = client.create_run(elsewhere, tags={"mlflow.parentRunId": loop}).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", task)
    tracker.check()
    assert tracker.start(ROUND, "job", {}) == pipeline
    tracker.child(pipeline, "loo", {}, {}, {"phi/ada": 1.0})
    logged = client.get_run(pipeline)
    assert (logged.info.run_name, logged.data.tags["apportion.round"]) == ("nightly", ROUND)
    assert runs_of(tracking) == []


def test_an_experiment_that_exists_keeps_its_location(tracking: TrackingOptions, tmp_path: Path) -> None:
    client = client_of(tracking)
    client.create_experiment(tracking.experiment, artifact_location=(tmp_path / "older").as_uri())
    tracker = open_tracker(tracking)
    tracker.check()
    tracker.artifact(tracker.start(ROUND, None, {}), "a.txt", b"here")
    assert [path.read_bytes() for path in tmp_path.glob("older/*/artifacts/a.txt")] == [b"here"]


def test_the_null_tracker_accepts_everything_and_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tracker = open_tracker(TrackingOptions(uri=None))
    assert isinstance(tracker, NullTracker)
    tracker.check()
    assert log_round(tracker, "job") is None
    assert tracker.child(None, "loo", {}, {}, {}) is None
    assert tracker.close_job("job", "FAILED") == tracker.finish_round(ROUND) == []
    assert list(tmp_path.iterdir()) == []


def test_both_trackers_have_the_same_methods() -> None:
    public = {name for name in vars(Tracker) if not name.startswith("_")}
    assert public == {name for name in vars(MlflowTracker) if not name.startswith("_")}


def test_mlflow_logs_nothing_unless_its_level_is_set(
    tracker: MlflowTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("mlflow"), "level", logging.INFO)
    monkeypatch.setenv("MLFLOW_LOGGING_LEVEL", "INFO")
    tracker.close_job("job", "FAILED")
    assert logging.getLogger("mlflow").level == logging.INFO
    monkeypatch.delenv("MLFLOW_LOGGING_LEVEL")
    tracker.close_job("job", "FAILED")
    assert logging.getLogger("mlflow").level == logging.CRITICAL
