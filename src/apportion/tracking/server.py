"""The tracker that logs to MLflow. Whatever MLflow refuses becomes one clear error."""

import hashlib
import json
import logging
import math
import os
import re
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from apportion import __version__
from apportion.config.credentials import MLFLOW_CREDENTIALS, masked, unsendable
from apportion.errors import StoreError, TrackingError
from apportion.store.environment import environment
from apportion.tracking.database import prepare
from apportion.tracking.tracker import Tracker

ROUND, JOB, NOT_FINITE = "apportion.round", "apportion.job", "apportion.not_finite"
"""Tags of runs."""

_PARENT, _TABLES = "mlflow.parentRunId", "mlflow.loggedArtifacts"  # MLflow's own tags
# Entries in one request. MLflow accepts 1,000 metrics, but only 1 MB, and long names become longer when
# escaped.
_PARAMS, _METRICS = 100, 500
# By default MLflow retries for minutes.
_RETRIES, _TIMEOUT = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"
_SECONDS = 4  # in which a server must answer a check
_QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
_FIX = (
    "check the server or file there and its credentials (MLFLOW_TRACKING_…), change {options}, or switch "
    "tracking off: tracking.uri=null"
)
_TRUST = "name the file of its certificate authority in MLFLOW_TRACKING_SERVER_CERT_PATH"
_AGAIN = "nothing is lost: run the same command again after that"
# Exceptions of the libraries that MLflow uses, which it does not convert to its own.
_LIBRARY_ERRORS = (
    ("sqlalchemy.exc", "SQLAlchemyError"),
    ("alembic.util", "CommandError"),
    ("boto3.exceptions", "Boto3Error"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("google.api_core.exceptions", "GoogleAPIError"),
    ("azure.core.exceptions", "AzureError"),
)


def key(name: str) -> str:
    """A metric or parameter name that MLflow accepts, for any text.

    Letters of any script, digits and `_ - . /` and spaces stay as they are. Where another character is
    replaced or the name is too long, eight digits of the whole name's sha256 are appended, so that different
    names stay different.
    """
    parts = re.sub(r"[^\w\-. /]", "_", name).split("/")
    # MLflow refuses names that change when they are resolved as a path, such as a//b and a/../b.
    allowed = "/".join(part if part.strip(".") else "_" for part in parts)
    if allowed == name and len(name) <= 250:
        return name
    return f"{allowed[:240]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


class MlflowTracker(Tracker):
    """A tracking server, or a local database file."""

    def __init__(self, uri: str, artifacts: str | None, experiment: str) -> None:
        self._uri = uri
        self._artifacts = artifacts
        self._name = experiment

    def check(self) -> None:
        with _short_timeouts():
            with self._explained("open its experiment"):
                experiment = self._experiment.experiment_id
                self._client.set_experiment_tag(experiment, "apportion.version", __version__)
                self._pipeline_run()
            location = self._experiment.artifact_location
            fix = _FIX.format(options="tracking.artifacts or tracking.experiment")
            with (
                self._explained(f"write artifacts to {location}", fix),
                _set_variables(_settings_of_the_store(location)),
            ):
                self._write_artifact(location)

    def start(self, round_id: str, job: str | None, tags: Mapping[str, str]) -> str:
        tags = {**tags, ROUND: round_id, **({JOB: job} if job else {})}
        with self._explained(f"start the run of round {round_id}"):
            run = (
                self._pipeline_run()
                or next(self._unfinished(round_id), None)
                or next(self._runs_of_round(round_id), None)
            )
            if run is None:
                return self._create(self._experiment.experiment_id, f"round {round_id[:8]}", tags)
            self._tag(run.info.run_id, tags)
            self._client.update_run(run.info.run_id, status="RUNNING")
            return str(run.info.run_id)

    def params(self, run: str | None, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        entries = [Param(key(name), str(value)) for name, value in values.items()]
        fix = (
            "a parameter of a run cannot be changed: delete the run in MLflow, or choose another "
            "tracking.experiment"
        )
        with self._explained("log parameters", fix, code="INVALID_PARAMETER_VALUE"):
            for batch in _batches(entries, _PARAMS):
                self._client.log_batch(run, params=batch)

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
                self._client.set_tag(run, _TABLES, json.dumps([*tables, entry]))

    def artifact(self, run: str | None, artifact_path: str, data: bytes) -> None:
        folder, _, name = artifact_path.rpartition("/")
        fix = _FIX.format(options="tracking.artifacts or tracking.experiment")
        with self._explained(f"store the artifact {artifact_path}", fix), TemporaryDirectory() as scratch:
            path = Path(scratch, name)
            path.write_bytes(data)
            location = self._client.get_run(run).info.artifact_uri
            with _set_variables(_settings_of_the_store(location)):
                self._client.log_artifact(run, str(path), folder or None)

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
            tags = {**tags, _PARENT: parent.info.run_id, **({JOB: job} if job else {})}
            children = self._search(experiment, f"tags.`{_PARENT}` = '{run}'")
            existing = next((child for child in children if child.info.run_name == name), None)
            if existing:
                nested = str(existing.info.run_id)
                self._tag(nested, tags)
            else:
                nested = self._create(experiment, name, tags)
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
            return run_ids

    def close_job(self, job: str, status: str) -> list[str]:
        with _short_timeouts(retries=2), self._explained(f"end the runs of job {job}"):
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

    def _write_artifact(self, location: str) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with TemporaryDirectory() as scratch:
            path = Path(scratch, "apportion-was-here.txt")
            path.write_text("Written by Apportion to check that artifacts can be stored here.\n")
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

    def _unfinished(self, round_id: str) -> Iterator[Any]:
        return (run for run in self._runs_of_round(round_id) if run.info.status != "FINISHED")

    def _runs_of_round(self, round_id: str) -> Iterator[Any]:
        """The runs of a round without nested ones, newest first."""
        runs = self._search(self._experiment.experiment_id, f"tags.`{ROUND}` = '{round_id}'")
        return (run for run in runs if _PARENT not in run.data.tags)

    def _search(self, experiment: str, condition: str) -> Iterator[Any]:
        """The runs that meet a condition, newest first."""
        order = ["attributes.start_time DESC"]
        token = None
        while True:
            page = self._client.search_runs([experiment], condition, order_by=order, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _create(self, experiment: str, name: str, tags: Mapping[str, str]) -> str:
        return str(self._client.create_run(experiment, tags=dict(tags), run_name=name).info.run_id)

    def _tag(self, run: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(run, tags=[RunTag(name, value) for name, value in tags.items()])

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
            self._client.log_batch(run.info.run_id, metrics=batch)
        if not_finite:
            before = run.data.tags.get(NOT_FINITE, "").splitlines()
            self._client.set_tag(run.info.run_id, NOT_FINITE, "\n".join(sorted(not_finite.union(before))))

    @contextmanager
    def _explained(self, action: str, fix: str | None = None, code: str | None = None) -> Iterator[None]:
        """Raises TrackingError for an error of MLflow in the block.

        action: what cannot be done then. fix: how to fix it, instead of the usual text; where `code` is
        given, only for errors with this code of MLflow.
        """
        _silence()
        try:
            yield
        except _errors() as error:
            reason = _reason(masked(str(error))) or type(error).__name__
            if fix is None or code not in (None, getattr(error, "error_code", None)):
                fix = _FIX.format(options="tracking.uri")
            trust = f"{_TRUST}, " if "CERTIFICATE_VERIFY_FAILED" in reason else ""
            raise TrackingError(
                f"MLflow at {masked(self._uri)} cannot {masked(action)}: {reason}; {trust}{fix}; {_AGAIN}"
            ) from error


def _short_timeouts(retries: int = 0) -> AbstractContextManager[None]:
    return _set_variables({_RETRIES: str(retries), _TIMEOUT: str(_SECONDS)})


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


@contextmanager
def _set_variables(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables until the end of the block; MLflow takes these settings from there only."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _silence() -> None:
    """Switches off MLflow's own output: telemetry, links to runs, and logs with whole tracebacks."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401  sets up its loggers

    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        logging.getLogger("mlflow").setLevel(logging.CRITICAL)


def _errors() -> tuple[type[BaseException], ...]:
    """The exceptions that MLflow and the libraries it uses raise."""
    from mlflow.exceptions import MlflowException

    loaded = [(module, name) for module, name in _LIBRARY_ERRORS if module in sys.modules]
    of_libraries = (getattr(sys.modules[module], name) for module, name in loaded)
    return (MlflowException, OSError, ValueError, ImportError, sqlite3.Error, *of_libraries)


def _reason(text: str) -> str:
    """The first line of an error; of a failed connection its cause, without what the libraries add."""
    line = " ".join(text.partition("\n")[0].split())
    cause = re.sub(r"^API request to \S+ failed with exception .*?\(Caused by (.*)\)$", r"\1", line)
    return re.sub(r"HTTPS?Connection(Pool)?\([^)]*\): ", "", cause)[:600]


def _batches(entries: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (entries[first : first + size] for first in range(0, len(entries), size))


def _cell(value: Any) -> Any:
    """A value for JSON: of numpy's numbers the Python number, and None for one that is not finite."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
