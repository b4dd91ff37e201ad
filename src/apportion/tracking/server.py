"""The tracker that speaks to MLflow: what MLflow refuses becomes one clear error."""

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
from apportion.config import MLFLOW_CREDENTIALS, masked, unsendable
from apportion.errors import StoreError, TrackingError
from apportion.store.environment import environment
from apportion.tracking.database import prepare
from apportion.tracking.tracker import Tracker

ROUND, JOB, NOT_FINITE = "apportion.round", "apportion.job", "apportion.not_finite"
_PARENT, _TABLES = "mlflow.parentRunId", "mlflow.loggedArtifacts"
_PARAMS, _METRICS = 100, 500  # entries in one request; MLflow takes 1,000 metrics, but only 1 MB, and long names are escaped
_RETRIES, _TIMEOUT = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"  # by default MLflow retries for minutes
_QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
_MEND = "check the server or file there and its credentials (MLFLOW_TRACKING_…), change {options}, or track nothing: tracking.uri=null"
_TRUST = "name the file of its certificate authority in MLFLOW_TRACKING_SERVER_CERT_PATH"
_AGAIN = "nothing is lost: then run the same command again"
_BENEATH = (  # what the libraries beneath MLflow raise through it
    ("sqlalchemy.exc", "SQLAlchemyError"),
    ("alembic.util", "CommandError"),
    ("boto3.exceptions", "Boto3Error"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("google.api_core.exceptions", "GoogleAPIError"),
    ("azure.core.exceptions", "AzureError"),
)


def key(name: str) -> str:
    """The metric or parameter name that MLflow accepts for any text.

    Letters of any script, digits and `_ - . /` and spaces stay. Where something had to go, eight digits of the whole name's hash are
    appended, so that different names stay different.
    """
    parts = re.sub(r"[^\w\-. /]", "_", name).split("/")
    allowed = "/".join(part if part.strip(".") else "_" for part in parts)  # MLflow refuses what a path would resolve: a//b, a/../b
    if allowed == name and len(name) <= 250:
        return name
    return f"{allowed[:240]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


class MlflowTracker(Tracker):
    """A tracking server, or a database file of one's own."""

    def __init__(self, uri: str, artifacts: str | None, experiment: str) -> None:
        self._uri, self._artifacts, self._name = uri, artifacts, experiment

    def check(self) -> None:
        with _impatient():
            with self._explained("open its experiment"):
                self._client.set_experiment_tag(self._experiment.experiment_id, "apportion.version", __version__)
                self._pipeline_run()
            location = self._experiment.artifact_location
            mend = _MEND.format(options="tracking.artifacts or tracking.experiment")
            with self._explained(f"write artifacts to {location}", mend), _set(_of_the_store(location)):
                self._write_artifact(location)

    def start(self, round_id: str, job: str | None, tags: Mapping[str, str]) -> str:
        tags = {**tags, ROUND: round_id, **({JOB: job} if job else {})}
        with self._explained(f"start the run of round {round_id}"):
            found = self._pipeline_run() or next(self._unfinished(round_id), None) or next(self._of_round(round_id), None)
            if found is None:
                return self._create(self._experiment.experiment_id, f"round {round_id[:8]}", tags)
            self._tag(found.info.run_id, tags)
            self._client.update_run(found.info.run_id, status="RUNNING")
            return str(found.info.run_id)

    def params(self, run: str | None, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        entries = [Param(key(name), str(value)) for name, value in values.items()]
        mend = "a run takes each parameter once: delete the run in MLflow, or choose another tracking.experiment"
        with self._explained("log parameters", mend, where="INVALID_PARAMETER_VALUE"):
            for batch in _batches(entries, _PARAMS):
                self._client.log_batch(run, params=batch)

    def metrics(self, run: str | None, values: Mapping[str, float], step: int = 0) -> None:
        with self._explained("log metrics"):
            found = self._client.get_run(run)
            known, began, now = found.data.metrics, found.info.start_time, int(time.time() * 1000)
            # MLflow drops an entry that it has with the same time: only a changed value needs a time of its own to win over the old one.
            times = {name: began if known.get(key(name), value) == value else now for name, value in values.items()}
            self._log(found, [(name, value, times[name], step) for name, value in values.items()])

    def stepped(self, run: str | None, name: str, values: Sequence[float]) -> None:
        with self._explained(f"log the series {name!r}"):
            found = self._client.get_run(run)
            self._log(found, [(name, value, found.info.start_time, step) for step, value in enumerate(values)])

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
        options = "tracking.artifacts or tracking.experiment"
        with self._explained(f"store the artifact {artifact_path}", _MEND.format(options=options)), TemporaryDirectory() as scratch:
            path = Path(scratch, name)
            path.write_bytes(data)
            with _set(_of_the_store(self._client.get_run(run).info.artifact_uri)):
                self._client.log_artifact(run, str(path), folder or None)

    def child(self, run: str | None, name: str, tags: Mapping[str, str], params: Mapping[str, Any], metrics: Mapping[str, float]) -> str:
        with self._explained(f"log the nested run {name!r}"):
            parent = self._client.get_run(run)
            experiment, job = parent.info.experiment_id, parent.data.tags.get(JOB)
            tags = {**tags, _PARENT: parent.info.run_id, **({JOB: job} if job else {})}
            same = (child for child in self._search(experiment, f"tags.`{_PARENT}` = '{run}'") if child.info.run_name == name)
            found = next(same, None)
            nested = str(found.info.run_id) if found else self._create(experiment, name, tags)
            if found:
                self._tag(nested, tags)
        self.params(nested, params)
        self.metrics(nested, metrics)
        self.finish(nested)
        return nested

    def finish(self, run: str | None, status: str = "FINISHED") -> None:
        with self._explained(f"end the run {run}"):
            self._client.set_terminated(run, status)

    def finish_round(self, round_id: str) -> list[str]:
        with self._explained(f"end the run of round {round_id}"):
            left = [str(run.info.run_id) for run in self._unfinished(round_id)]
            for run_id in left:
                self._client.set_terminated(run_id, "FINISHED")
            return left

    def close_job(self, job: str, status: str) -> list[str]:
        with _impatient(retries=2), self._explained(f"end the runs of job {job}"):
            experiment = self._client.get_experiment_by_name(self._name)
            if experiment is None or not job:
                return []
            running = self._search(experiment.experiment_id, "attributes.status = 'RUNNING'")
            left = [str(run.info.run_id) for run in running if run.data.tags.get(JOB) == job]
            for run_id in left:
                self._client.set_terminated(run_id, status)
            return left

    @cached_property
    def _client(self) -> Any:
        if not self._uri:
            raise TrackingError("found an empty tracking.uri, expected an address as sqlite:///… or https://…, or null to track nothing")
        if self._uri.startswith("http") and (wrong := unsendable(MLFLOW_CREDENTIALS)):
            raise TrackingError(wrong)
        from mlflow import MlflowClient

        if self._uri.startswith("sqlite:"):
            prepare(self._uri)
        # With its driver named the address is the same, but MLflow makes no folder of its text, escapes and all.
        return MlflowClient(tracking_uri=re.sub("^sqlite:", "sqlite+pysqlite:", self._uri))

    @cached_property
    def _experiment(self) -> Any:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(self._name)
        if found is None:
            try:
                self._client.create_experiment(self._name, artifact_location=self._location())
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another round may have made it just now
                    raise
            found = self._client.get_experiment_by_name(self._name)
        if found.lifecycle_stage != "active":
            mend = f"restore it (mlflow experiments restore --experiment-id {found.experiment_id}) or choose another tracking.experiment"
            raise TrackingError(f"MLflow at {masked(self._uri)}: found experiment {self._name!r} deleted; {mend}")
        return found

    def _location(self) -> str | None:
        # A folder of this machine means nothing to a server elsewhere: there the server chooses, unless the option is an address.
        if self._artifacts is None or urlsplit(self._artifacts).scheme:
            return self._artifacts
        return None if self._uri.startswith("http") else Path(self._artifacts).resolve().as_uri()

    def _write_artifact(self, location: str) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with TemporaryDirectory() as scratch:
            path = Path(scratch, "apportion-was-here.txt")
            path.write_text("Written by Apportion to see whether artifacts can be stored here.\n")
            artifacts: Any = get_artifact_repository(location, tracking_uri=self._uri)
            artifacts.log_artifact(str(path))

    def _pipeline_run(self) -> Any:
        # Kubeflow's plugin gives every task a nested run of its own: the run of the whole pipeline is the eldest ancestor.
        run, run_id = None, os.environ.get("MLFLOW_RUN_ID")
        while run_id:
            mend = "set tracking.uri to the server of the pipeline's plugin (MLFLOW_TRACKING_URI), or unset MLFLOW_RUN_ID"
            with self._explained(f"find run {run_id}, which MLFLOW_RUN_ID leads to", mend):
                run = self._client.get_run(run_id)
            run_id = run.data.tags.get(_PARENT)
        return run

    def _unfinished(self, round_id: str) -> Iterator[Any]:
        return (run for run in self._of_round(round_id) if run.info.status != "FINISHED")

    def _of_round(self, round_id: str) -> Iterator[Any]:
        """The round's own runs, the youngest first."""
        runs = self._search(self._experiment.experiment_id, f"tags.`{ROUND}` = '{round_id}'")
        return (run for run in runs if _PARENT not in run.data.tags)

    def _search(self, experiment: str, condition: str) -> Iterator[Any]:
        """Runs, the youngest first."""
        token = None
        while True:
            page = self._client.search_runs([experiment], condition, order_by=["attributes.start_time DESC"], page_token=token)
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
        """Logs (name, value, time, step). MLflow would show an infinite value as 1.8e308."""
        from mlflow.entities import Metric

        entries = [Metric(key(name), float(value), stamp, step) for name, value, stamp, step in points if math.isfinite(value)]
        for batch in _batches(entries, _METRICS):
            self._client.log_batch(run.info.run_id, metrics=batch)
        odd = {name for name, value, *_ in points if not math.isfinite(value)}
        if odd:
            before = run.data.tags.get(NOT_FINITE, "").splitlines()
            self._client.set_tag(run.info.run_id, NOT_FINITE, "\n".join(sorted(odd.union(before))))

    @contextmanager
    def _explained(self, what: str, mend: str | None = None, where: str | None = None) -> Iterator[None]:
        """Refusals as one error; `mend` is said where MLflow's code is `where`, or of any."""
        _silence()
        try:
            yield
        except _refusals() as error:
            reason = _reason(masked(str(error))) or type(error).__name__
            if mend is None or where not in (None, getattr(error, "error_code", None)):
                mend = _MEND.format(options="tracking.uri")
            trust = f"{_TRUST}, " if "CERTIFICATE_VERIFY_FAILED" in reason else ""
            raise TrackingError(f"MLflow at {masked(self._uri)} cannot {masked(what)}: {reason}; {trust}{mend}; {_AGAIN}") from error


def _impatient(retries: int = 0) -> AbstractContextManager[None]:
    return _set({_RETRIES: str(retries), _TIMEOUT: "4"})


def _of_the_store(location: str) -> dict[str, str]:
    """Variables by which MLflow, where it writes to S3 itself, does as the store does; what its own variables say is left to them."""
    if not location.startswith("s3:"):
        return {}
    try:
        told = environment()
    except StoreError as error:
        raise TrackingError(f"artifacts at {masked(location)}: {error}") from error
    own = {"MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE": told.addressing}
    if told.encryption:
        own["MLFLOW_S3_UPLOAD_EXTRA_ARGS"] = json.dumps(told.encryption)
    region = {"AWS_DEFAULT_REGION": told.region} if told.region else {}
    return {name: value for name, value in own.items() if not os.environ.get(name)} | region


@contextmanager
def _set(settings: Mapping[str, str]) -> Iterator[None]:
    """Variables of the environment, which is all that MLflow reads them from, until the end of the block."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _silence() -> None:
    # MLflow reports migrations, run links and whole tracebacks on its own, and its use to its makers; ours is one error.
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401  sets its loggers up

    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        logging.getLogger("mlflow").setLevel(logging.CRITICAL)


def _refusals() -> tuple[type[BaseException], ...]:
    from mlflow.exceptions import MlflowException

    loaded = (getattr(sys.modules[module], name) for module, name in _BENEATH if module in sys.modules)
    return (MlflowException, OSError, ValueError, ImportError, sqlite3.Error, *loaded)


def _reason(text: str) -> str:
    """The first line of an error, without what requests and urllib3 say around the cause where there was no answer."""
    line = " ".join(text.partition("\n")[0].split())
    cause = re.sub(r"^API request to \S+ failed with exception .*?\(Caused by (.*)\)$", r"\1", line)
    return re.sub(r"HTTPS?Connection(Pool)?\([^)]*\): ", "", cause)[:600]


def _batches(entries: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (entries[first : first + size] for first in range(0, len(entries), size))


def _cell(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value  # a number of numpy's
    return None if isinstance(value, float) and not math.isfinite(value) else value
