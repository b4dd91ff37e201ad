"""A round has one MLflow run, and one for each method, however many processes log it at once, and wherever
they are killed."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from served import check_against_ledger, logged, unpublished

from apportion.config.tracking import TrackingOptions
from apportion.errors import Damaged
from apportion.rounds.heads import head
from apportion.stages import publish
from apportion.store import FileStore, Store, open_store
from apportion.tracking import MlflowTracker, open_tracker
from apportion.tracking.claims import folder

ROUND = "0123456789abcdef0123456789abcdef"
METHOD = "kernelshap"

fork = multiprocessing.get_context("fork")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store((tmp_path / "store").as_uri())


@pytest.fixture
def options(mlflow_server: str, request: pytest.FixtureRequest) -> TrackingOptions:
    tracking = TrackingOptions(uri=mlflow_server, artifacts=None, experiment=request.node.name)
    open_tracker(tracking).check(size=0)
    return tracking


def runs_of(options: TrackingOptions, view: int = ViewType.ACTIVE_ONLY) -> list[Run]:
    client = MlflowClient(options.uri)
    experiment = client.get_experiment_by_name(options.experiment)
    assert experiment
    return list(client.search_runs([experiment.experiment_id], run_view_type=view))


def tracker_of(options: TrackingOptions, store: Store) -> MlflowTracker:
    tracker = open_tracker(options, store)
    assert isinstance(tracker, MlflowTracker)
    return tracker


def log_round(options: TrackingOptions, store: Store, method: str | None = METHOD) -> str:
    tracker = tracker_of(options, store)
    run = tracker.start(ROUND, "job", {"apportion.project": "tiny"})
    tracker.params(run, {f"option.{i}": i for i in range(20)})
    tracker.metrics(run, {f"phi/{i}": i / 7 for i in range(20)})
    if method:
        tracker.child(run, method, {"apportion.estimator": method}, {"method": method}, {"phi/ada": 0.25})
    tracker.finish(run)
    return run


def check_one_run(options: TrackingOptions, store: Store) -> str:
    """The round has one run with one for its method, both complete, and pointers name these. Returns the
    round's run."""
    runs = {run.info.run_name: run for run in runs_of(options)}
    assert len(runs) == len(runs_of(options))
    assert set(runs) == {"round 01234567", METHOD}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert not [run for run in runs.values() if "apportion.candidate" in run.data.tags]
    parent = runs["round 01234567"]
    assert parent.data.tags["apportion.round"] == ROUND
    assert len(parent.data.params) == 20
    assert runs[METHOD].data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert runs[METHOD].data.metrics == {"phi/ada": 0.25}
    pointers = [store.get(key).decode() for key in store.list(folder(ROUND))]
    assert len(pointers) == 2
    assert all(any(run.info.run_id in text for text in pointers) for run in runs.values())
    return str(parent.info.run_id)


def in_processes(number: int, work: Callable[[], object]) -> list[int]:
    """The exit codes of so many processes that do the same."""
    workers = [fork.Process(target=work) for _ in range(number)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    return [int(worker.exitcode or 0) for worker in workers]


def meet(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Processes wait for each other before each creation of a run, so that all of them have found none."""
    barrier, create = fork.Barrier(number), MlflowTracker._create

    def together(self: MlflowTracker, *arguments: Any) -> str:
        with suppress(threading.BrokenBarrierError):  # not all come if one found a run already
            barrier.wait(20)
        return create(self, *arguments)

    monkeypatch.setattr(MlflowTracker, "_create", together)


def test_three_processes_publish_one_round_at_once(
    mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = TrackingOptions(uri=mlflow_server, artifacts=None, experiment="three at once")
    where, one_method = (tmp_path / "store").as_uri(), "valuation.methods=[leverage]"
    this_round = unpublished(tmp_path / "work", where, mlflow_server, options.experiment, one_method)
    client = MlflowClient(mlflow_server)
    for run in runs_of(options):
        client.delete_run(run.info.run_id)  # that of `plan`, so that there is none
    meet(monkeypatch, 3)
    assert in_processes(3, lambda: publish.run(this_round.uri)) == [0, 0, 0]
    check_against_ledger(client, logged(client, options.experiment, this_round), this_round, tmp_path)
    assert head(this_round.store, "tiny") == this_round.id
    names = sorted(run.info.run_name for run in runs_of(options))
    assert names == sorted([f"round {this_round.id[:8]}", "leverage"])
    deleted = runs_of(options, ViewType.DELETED_ONLY)
    assert len([run for run in deleted if "apportion.candidate" in run.data.tags]) == 2 * len(names)


def killed_at(point: int, work: Callable[[], object], rival: Callable[[], object] | None = None) -> bool:
    """Whether a process that does `work` was killed after so many of the writes that an election consists of:
    moves of a pointer, creations and deletions of runs, changes of tags. Just before it creates a run, a
    rival logs the round."""
    writes = [(FileStore, "swap"), (MlflowClient, "create_run"), (MlflowClient, "delete_run")]
    writes += [(MlflowClient, "delete_tag"), (MlflowClient, "log_batch")]
    undisturbed = {(owner, name): getattr(owner, name) for owner, name in writes}
    done = 0

    def watched(owner: type, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **settings: Any) -> Any:
            nonlocal done, rival
            if name == "create_run" and rival is not None:
                patch.undo()
                rival()
                rival = None
                watch()
            try:
                return undisturbed[owner, name](*arguments, **settings)
            finally:
                done += 1
                if done == point:
                    os.kill(os.getpid(), signal.SIGKILL)

        return call

    def watch() -> None:
        for owner, name in writes:
            patch.setattr(owner, name, watched(owner, name))

    with pytest.MonkeyPatch.context() as patch:
        watch()
        (code,) = in_processes(1, work)
    assert code in (0, -signal.SIGKILL)
    return code != 0


def test_killed_at_any_point_of_the_start_of_a_round(options: TrackingOptions, store: Store) -> None:
    """The next process goes on in the run that was made."""
    tracker = tracker_of(options, store)
    for point in range(1, 99):
        round_id = f"{point:032x}"
        killed = killed_at(point, partial(tracker.start, round_id, "job", {}))
        made = [run.info.run_id for run in runs_of(options) if round_id in str(run.data.tags)]
        run = tracker.start(round_id, "job", {})
        assert made in ([], [run])
        if not killed:
            break
    assert len(runs_of(options)) == point
    assert point > 4


def test_killed_at_any_point_beside_a_rival(options: TrackingOptions, store: Store) -> None:
    """The next process goes on in the rival's run, and removes what the killed one left."""
    tracker = tracker_of(options, store)
    run = tracker.start(ROUND, "job", {})
    for point in range(1, 99):
        log_child = partial(tracker.child, run, f"method {point}", {}, {"point": point}, {"phi/ada": 0.25})
        killed = killed_at(point, log_child, rival=log_child)
        made = {child.info.run_id for child in runs_of(options) if "mlflow.parentRunId" in child.data.tags}
        assert tracker.start(ROUND, "job", {}) == run
        child = log_child()
        assert made | {run, child} == {active.info.run_id for active in runs_of(options)}
        assert (point == 1 and killed) or child in made
        if not killed:
            break
    assert len(runs_of(options)) == 1 + point
    assert point > 5


def test_what_a_killed_process_left_is_removed_by_the_next_plan(
    options: TrackingOptions, store: Store
) -> None:
    """Also where there is nothing to do, so that no run is started."""
    log_round(options, store)
    client, (key, *_) = MlflowClient(options.uri), sorted(store.list(folder(ROUND)))
    token = store.get(key).decode().split('"token": "')[1][:16]
    experiment = runs_of(options)[0].info.experiment_id
    left = client.create_run(experiment, tags={"apportion.candidate": f"{key} {token}"}).info.run_id
    others = client.create_run(experiment, tags={"apportion.candidate": f"{key} {16 * '0'}"}).info.run_id
    tracker_of(options, store).finish_round(ROUND)
    assert client.get_run(left).info.lifecycle_stage == "deleted"
    assert client.get_run(others).info.lifecycle_stage == "active"  # of another store


def test_a_deleted_run_is_replaced(options: TrackingOptions, store: Store) -> None:
    first = log_round(options, store)
    client = MlflowClient(options.uri)
    for run in runs_of(options):
        client.delete_run(run.info.run_id)
    second = log_round(options, store)
    assert second != first
    assert log_round(options, store) == second
    assert len(runs_of(options)) == 2


def test_a_run_of_an_earlier_version_is_continued(options: TrackingOptions, store: Store) -> None:
    """It has no pointer, and is found by its tags."""
    first = open_tracker(options).start(ROUND, None, {})
    assert log_round(options, store) == first
    check_one_run(options, store)


def test_the_same_round_in_another_experiment_has_a_run_there(options: TrackingOptions, store: Store) -> None:
    other = options.model_copy(update={"experiment": f"{options.experiment}, another"})
    runs = {log_round(where, store) for where in (options, other, options, other)}
    assert len(runs) == 2
    assert len(runs_of(options)) == len(runs_of(other)) == 2


def test_a_pointer_that_names_no_run_is_reported(options: TrackingOptions, store: Store) -> None:
    (key,) = (log_round(options, store, method=None), *store.list(folder(ROUND)))[1:]
    for content in (b"nonsense", b"[]", b"{}"):
        pointer = store.read_pointer(key)
        assert pointer
        store.swap(key, pointer.tag, content)
        with pytest.raises(Damaged, match=rf"{key}: found b.*expected the MLflow run of a round; move it"):
            log_round(options, store)
