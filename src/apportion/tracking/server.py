"""The tracker that logs to MLflow. Whatever MLflow refuses becomes one clear error."""

import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from apportion import __version__
from apportion.config.credentials import MLFLOW_CREDENTIALS, masked, unsendable
from apportion.errors import StoreError, TrackingError
from apportion.store import Store
from apportion.store.environment import environment
from apportion.tracking.database import prepare
from apportion.tracking.election import Election, search, sweep
from apportion.tracking.library import errors, prepare_mlflow, reason, variables
from apportion.tracking.names import collation_message, key
from apportion.tracking.patience import patience
from apportion.tracking.tracker import LARGEST, Tracker

log = logging.getLogger(__name__)

ROUND, JOB, NOT_FINITE = "apportion.round", "apportion.job", "apportion.not_finite"
"""Tags of runs."""

_PARENT, _TABLES = "mlflow.parentRunId", "mlflow.loggedArtifacts"  # MLflow's own tags
# Entries in one request. MLflow accepts 1,000 metrics, but only 1 MB, and long names become longer when
# escaped.
_PARAMS, _METRICS = 100, 500
_RETRIES, _TIMEOUT = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"
_SECONDS = 20  # in which a server must answer a request, where a call is to end within a minute
_BRIEF, _LONG = 60, 600  # seconds after which a call retries no more
_AT_ONCE = ("BAD_REQUEST", "TEMPORARILY_UNAVAILABLE")
"""MLflow's codes where its database refused one of two processes that wrote the same at the same moment."""
_FIX = (
    "check the server or file there and its credentials (MLFLOW_TRACKING_…), change {options}, or switch "
    "tracking off: tracking.uri=null"
)
_TRUST = "name the file of its certificate authority in MLFLOW_TRACKING_SERVER_CERT_PATH"
_HOST = (
    "the server does not know itself by this name: start it with `--allowed-hosts {host}` (or "
    "MLFLOW_SERVER_ALLOWED_HOSTS={host}; several with commas, and this list replaces the default one of "
    "localhost and private addresses)"
)
_SIZE = (
    "a proxy in front of MLflow limits the size of requests: raise its limit above {size} (nginx: "
    "client_max_body_size; ingress-nginx: the annotation nginx.ingress.kubernetes.io/proxy-body-size)"
)
_AGAIN = "nothing is lost: run the same command again after that"
_PROBE = b"Written by Apportion to check that artifacts can be stored here.\n"


class MlflowTracker(Tracker):
    """A tracking server, or a local database file."""

    def __init__(
        self,
        uri: str,
        artifacts: str | None,
        experiment: str,
        store: Store | None = None,
        *,
        brief: bool = False,
    ) -> None:
        self._uri = uri
        self._artifacts = artifacts
        self._name = experiment
        self._store = store
        self._brief = brief

    def check(self, size: int = LARGEST) -> None:
        with _brief():
            with self._explained("open its experiment"):
                experiment = self._experiment.experiment_id
                _insist(self._client.set_experiment_tag, experiment, "apportion.version", __version__)
                self._pipeline_run()
            self.check_size(size)

    def check_size(self, size: int) -> None:
        with _brief():
            location = self._experiment_location()
            through_mlflow = urlsplit(location).scheme in ("mlflow-artifacts", "http", "https")
            if size > len(_PROBE) and through_mlflow:
                self._check_large_artifact(location, size)
            self._write_artifact(location, _PROBE)

    def check_names(self, contributors: Sequence[str]) -> None:
        if message := collation_message(contributors):
            log.info(message)

    def start(self, round_id: str, job: str | None, tags: Mapping[str, str]) -> str:
        of_job = {JOB: job} if job else {}
        with self._explained(f"start the run of round {round_id}"):
            pipeline = self._pipeline_run()
            if pipeline is None:
                experiment = self._experiment.experiment_id
                run = self._settled(
                    round_id,
                    experiment,
                    ("round",),
                    lambda: self._known(round_id),
                    lambda marks: self._create(experiment, f"round {round_id[:8]}", {**of_job, **marks}),
                    {**tags, ROUND: round_id, **of_job},
                )
                self._sweep(round_id)
            else:
                run = str(pipeline.info.run_id)
                self._tag(run, {**tags, ROUND: round_id, **of_job})
            self._client.update_run(run, status="RUNNING")
            return run

    def params(self, run: str | None, values: Mapping[str, Any]) -> None:
        fix = (
            "a parameter of a run cannot be changed: delete the run in MLflow, or choose another "
            "tracking.experiment"
        )
        with self._explained("log parameters", fix, code="INVALID_PARAMETER_VALUE"):
            from mlflow.entities import Param

            entries = [Param(key(name), str(value)) for name, value in values.items()]
            for batch in _batches(entries, _PARAMS):
                _insist(self._client.log_batch, run, params=batch)

    def metrics(self, run: str | None, values: Mapping[str, float], step: int = 0) -> None:
        with self._explained("log metrics"):
            logged = self._client.get_run(run)
            before = logged.data.metrics
            started = logged.info.start_time
            now = int(time.time() * 1000)
            # MLflow ignores an entry that it has already with the same time, so logging the same value again
            # at the start time of the run adds nothing. A changed value needs a later time to replace the old
            # one.
            entries = []
            for name, value in values.items():
                unchanged = before.get(key(name), value) == value
                entries.append((name, value, started if unchanged else now, step))
            self._log(logged, entries)

    def stepped(self, run: str | None, name: str, values: Sequence[float]) -> None:
        with self._explained(f"log the series {name!r}"):
            logged = self._client.get_run(run)
            started = logged.info.start_time
            self._log(logged, [(name, value, started, step) for step, value in enumerate(values)])

    def table(self, run: str | None, artifact_path: str, columns: Mapping[str, Sequence[Any]]) -> None:
        rows = [[_cell(value) for value in row] for row in zip(*columns.values(), strict=True)]
        text = json.dumps({"columns": list(columns), "data": rows}, ensure_ascii=False, allow_nan=False)
        self.artifact(run, artifact_path, text.encode())
        with self._explained(f"list the table {artifact_path}"):
            tables = json.loads(self._client.get_run(run).data.tags.get(_TABLES, "[]"))
            entry = {"path": artifact_path, "type": "table"}
            if entry not in tables:
                self._tag(run, {_TABLES: json.dumps([*tables, entry])})

    def artifact(self, run: str | None, artifact_path: str, data: bytes) -> None:
        parent, _, name = artifact_path.rpartition("/")
        with self._explained(f"find the run of the artifact {artifact_path}"):
            location = self._client.get_run(run).info.artifact_uri
        with (
            self._writing(f"store the artifact {artifact_path}", location, len(data)),
            TemporaryDirectory() as scratch,
        ):
            path = Path(scratch, name)
            path.write_bytes(data)
            self._client.log_artifact(run, str(path), parent or None)

    def child(
        self,
        run: str | None,
        name: str,
        tags: Mapping[str, str],
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
    ) -> str:
        with self._explained(f"log the nested run {name!r}"):
            parent = self._client.get_run(run)
            experiment = parent.info.experiment_id
            job = parent.data.tags.get(JOB)
            of_job = {JOB: job} if job else {}
            round_id = parent.data.tags.get(ROUND)
            nested = self._settled(
                round_id,
                experiment,
                (parent.info.run_id, name),
                lambda: self._known_child(parent, name),
                lambda marks: self._create(experiment, name, {**of_job, **marks}),
                {**tags, _PARENT: parent.info.run_id, **of_job},
            )
        self.params(nested, params)
        self.metrics(nested, metrics)
        self.finish(nested)
        return nested

    def finish(self, run: str | None, status: str = "FINISHED") -> None:
        with self._explained(f"end the run {run}"):
            self._client.set_terminated(run, status)

    def finish_round(self, round_id: str) -> list[str]:
        with self._explained(f"end the run of round {round_id}"):
            run_ids = [str(run.info.run_id) for run in self._unfinished(round_id)]
            for run_id in run_ids:
                self._client.set_terminated(run_id, "FINISHED")
            self._sweep(round_id)
            return run_ids

    def close_job(self, job: str, status: str) -> list[str]:
        with _brief(retries=2, connecting=True), self._explained(f"end the runs of job {job}"):
            experiment = self._client.get_experiment_by_name(self._name)
            if experiment is None or not job:
                return []
            running = self._search(experiment.experiment_id, "attributes.status = 'RUNNING'")
            run_ids = [str(run.info.run_id) for run in running if run.data.tags.get(JOB) == job]
            for run_id in run_ids:
                self._client.set_terminated(run_id, status)
            return run_ids

    @cached_property
    def _client(self) -> Any:
        if not self._uri:
            raise TrackingError(
                "found an empty tracking.uri, expected an address such as sqlite:///… or https://…, or null "
                "to track nothing"
            )
        if self._uri.startswith("http") and (wrong := unsendable(MLFLOW_CREDENTIALS)):
            raise TrackingError(wrong)
        from mlflow import MlflowClient

        if self._uri.startswith("sqlite:"):
            prepare(self._uri)
        # Without the name of the driver, MLflow would also create a folder whose name is the escaped address.
        return MlflowClient(tracking_uri=re.sub("^sqlite:", "sqlite+pysqlite:", self._uri))

    @cached_property
    def _experiment(self) -> Any:
        from mlflow.exceptions import MlflowException

        experiment = self._client.get_experiment_by_name(self._name)
        if experiment is None:
            try:
                self._client.create_experiment(self._name, artifact_location=self._location())
            except MlflowException as error:
                if (
                    error.error_code != "RESOURCE_ALREADY_EXISTS"
                ):  # another round may have created it just now
                    raise
            experiment = self._client.get_experiment_by_name(self._name)
        if experiment.lifecycle_stage != "active":
            raise TrackingError(
                f"MLflow at {masked(self._uri)}: found experiment {self._name!r} deleted; restore it (mlflow "
                f"experiments restore --experiment-id {experiment.experiment_id}) or choose another "
                "tracking.experiment"
            )
        return experiment

    def _location(self) -> str | None:
        """Where a new experiment keeps its artifacts; None leaves that to the server."""
        # A folder of this machine does not exist on the server's machine, so a server gets addresses only.
        if self._artifacts is None or urlsplit(self._artifacts).scheme:
            return self._artifacts
        return None if self._uri.startswith("http") else Path(self._artifacts).resolve().as_uri()

    def _experiment_location(self) -> str:
        with self._explained("open its experiment"):
            return str(self._experiment.artifact_location)

    def _check_large_artifact(self, location: str, size: int) -> None:
        """Raises TrackingError where an artifact of so many bytes is refused."""
        try:
            self._write_artifact(location, bytes(size))
        except TrackingError as error:
            # Proxies may also end the connection. If a small artifact passes, then it was for the size.
            if "client_max_body_size" in str(error):
                raise
            self._write_artifact(location, _PROBE)
            raise TrackingError(f"{error}; a small artifact was accepted: {_limit(size)}") from error

    @contextmanager
    def _writing(self, action: str, location: str, size: int) -> Iterator[None]:
        """A block that writes an artifact of so many bytes below `location`."""
        fix = _FIX.format(options="tracking.artifacts or tracking.experiment")
        with self._explained(action, fix, size=size), variables(_settings_of_the_store(location)):
            yield

    def _write_artifact(self, location: str, data: bytes) -> None:
        action = f"write artifacts to {location}"
        with self._writing(action, location, len(data)), TemporaryDirectory() as scratch:
            from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

            path = Path(scratch, "apportion-was-here.txt")
            path.write_bytes(data)
            artifacts: Any = get_artifact_repository(location, tracking_uri=self._uri)
            artifacts.log_artifact(str(path))

    def _pipeline_run(self) -> Any:
        """The run of the whole pipeline; None outside a pipeline that has one."""
        # Kubeflow's plugin gives each task a nested run, and MLFLOW_RUN_ID names that one. The run of the
        # pipeline is the last of its ancestors.
        run, run_id = None, os.environ.get("MLFLOW_RUN_ID")
        while run_id:
            fix = (
                "set tracking.uri to the server of the pipeline's plugin (MLFLOW_TRACKING_URI), or unset "
                "MLFLOW_RUN_ID"
            )
            with self._explained(f"find run {run_id}, which MLFLOW_RUN_ID leads to", fix):
                run = self._client.get_run(run_id)
            run_id = run.data.tags.get(_PARENT)
        return run

    def _settled(
        self,
        round_id: str | None,
        experiment: str,
        of: tuple[str, ...],
        find: Callable[[], str | None],
        create: Callable[[Mapping[str, str]], str],
        tags: Mapping[str, str],
    ) -> str:
        """The one run of an experiment for what `of` names, whichever process asks, with these tags; without
        a store, the one that `find` finds or a new one."""
        if self._store is None or round_id is None:
            run = find() or create(tags)
            self._tag(run, tags)
            return run
        entity = self._experiment
        if experiment != entity.experiment_id:  # as where it is that of a pipeline's run
            entity = self._client.get_experiment(experiment)
        election = Election(self._client, self._store, round_id, entity, of)
        run = election.winner(find, create)
        self._tag(run, tags)
        election.unmark(run)
        return run

    def _sweep(self, round_id: str) -> None:
        if self._store is not None:
            sweep(self._client, self._store, self._experiment.experiment_id, round_id)

    def _known(self, round_id: str) -> str | None:
        """A run with the tag of a round: that of an earlier version, or of another store."""
        run = next(self._unfinished(round_id), None) or next(self._runs_of_round(round_id), None)
        return None if run is None else str(run.info.run_id)

    def _known_child(self, parent: Any, name: str) -> str | None:
        children = self._search(parent.info.experiment_id, f"tags.`{_PARENT}` = '{parent.info.run_id}'")
        return next((str(child.info.run_id) for child in children if child.info.run_name == name), None)

    def _unfinished(self, round_id: str) -> Iterator[Any]:
        return (run for run in self._runs_of_round(round_id) if run.info.status != "FINISHED")

    def _runs_of_round(self, round_id: str) -> Iterator[Any]:
        """The runs of a round without nested ones, newest first."""
        runs = self._search(self._experiment.experiment_id, f"tags.`{ROUND}` = '{round_id}'")
        return (run for run in runs if _PARENT not in run.data.tags)

    def _search(self, experiment: str, condition: str) -> Iterator[Any]:
        return search(self._client, experiment, condition)

    def _create(self, experiment: str, name: str, tags: Mapping[str, str]) -> str:
        return str(self._client.create_run(experiment, tags=dict(tags), run_name=name).info.run_id)

    def _tag(self, run: str | None, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        _insist(self._client.log_batch, run, tags=[RunTag(name, value) for name, value in tags.items()])

    def _log(self, run: Any, points: Sequence[tuple[str, float, int, int]]) -> None:
        """Logs (name, value, time in ms, step). MLflow would show an infinite value as 1.8e308."""
        from mlflow.entities import Metric

        entries = []
        not_finite = set()
        for name, value, milliseconds, step in points:
            if math.isfinite(value):
                entries.append(Metric(key(name), float(value), milliseconds, step))
            else:
                not_finite.add(name)
        for batch in _batches(entries, _METRICS):
            _insist(self._client.log_batch, run.info.run_id, metrics=batch)
        if not_finite:
            before = run.data.tags.get(NOT_FINITE, "").splitlines()
            self._tag(run.info.run_id, {NOT_FINITE: "\n".join(sorted(not_finite.union(before)))})

    @contextmanager
    def _explained(
        self, action: str, fix: str | None = None, code: str | None = None, size: int = 0
    ) -> Iterator[None]:
        """Raises TrackingError for an error of MLflow in the block.

        action: what cannot be done then. fix: how to fix it, instead of the usual text; where `code` is
        given, only for errors with this code of MLflow. size: of the artifact that the block writes, in
        bytes.
        """
        prepare_mlflow()
        try:
            with _brief() if self._brief else _limited(_LONG):
                yield
        except errors() as error:
            why = reason(masked(str(error))) or type(error).__name__
            if fix is None or code not in (None, getattr(error, "error_code", None)):
                fix = _FIX.format(options="tracking.uri")
            raise TrackingError(
                f"MLflow at {masked(self._uri)} cannot {masked(action)}: {why}; "
                f"{self._advice(why, size)}{fix}; {_AGAIN}"
            ) from error

    def _advice(self, why: str, size: int) -> str:
        """What mends an error that has one well-known cause."""
        if "CERTIFICATE_VERIFY_FAILED" in why:
            return f"{_TRUST}, "
        if "Invalid Host header" in why:
            return f"{_HOST.format(host=urlsplit(self._uri).netloc.rpartition('@')[2])}, or "
        if re.search(r"\b413 (Client Error|!= 200|error responses)", why):
            return f"{_limit(size)}, or "
        return ""


@contextmanager
def _brief(retries: int = 10, *, connecting: bool = False) -> Iterator[None]:
    """A block whose requests end within about a minute. Retries and timeouts that the user has set in the
    environment stay."""
    ours = {_RETRIES: str(retries), _TIMEOUT: str(_SECONDS)}
    unset = {name: value for name, value in ours.items() if not os.environ.get(name)}
    with _limited(_BRIEF, connecting=connecting), variables(unset):
        yield


def _limited(seconds: float, *, connecting: bool = True) -> AbstractContextManager[None]:
    """Limits the time of retries, unless the user has set their number."""
    return nullcontext() if os.environ.get(_RETRIES) else patience(seconds, connecting=connecting)


def _limit(size: int) -> str:
    return _SIZE.format(size=f"{size / 2**20:.1f} MiB")


def _insist(write: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Calls MLflow, and again where another process writes the same at the same moment: MLflow looks whether
    an entry exists, and then adds it, and its database refuses what was added in between."""
    from mlflow.exceptions import MlflowException

    for pause in (0.1, 0.3, 0.6):
        try:
            write(*arguments, **options)
            return
        except MlflowException as error:
            if error.error_code not in _AT_ONCE:
                raise
        time.sleep(pause)
    write(*arguments, **options)


def _settings_of_the_store(location: str) -> dict[str, str]:
    """Environment variables that give MLflow, where it writes to S3 itself, the settings of the store.

    A variable of MLflow that is already set stays as it is. Raises TrackingError for wrong settings.
    """
    if not location.startswith("s3:"):
        return {}
    try:
        settings = environment()
    except StoreError as error:
        raise TrackingError(f"artifacts at {masked(location)}: {error}") from error
    variables = {"MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE": settings.addressing}
    if settings.encryption:
        variables["MLFLOW_S3_UPLOAD_EXTRA_ARGS"] = json.dumps(settings.encryption)
    unset = {name: value for name, value in variables.items() if not os.environ.get(name)}
    region = {"AWS_DEFAULT_REGION": settings.region} if settings.region else {}
    return unset | region


def _batches(entries: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (entries[first : first + size] for first in range(0, len(entries), size))


def _cell(value: Any) -> Any:
    """A value for JSON: of numpy's numbers the Python number, and None for one that is not finite."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
