"""MLflow with its artifacts on S3, which may go and come back; rounds for it, and what it should hold of them."""

import csv
import io
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from servers import CREDENTIALS, free_port, make_bucket, mlflow_on
from tiny import fill, planned

from apportion.stages import attribute, evaluate
from apportion.stages.publish import everything
from apportion.stages.round import Round, round_key
from apportion.tracking import key

SMALL = ("properties=[fid, inception_score]", "valuation.coalitions=14")
WORTH = {"fid": [-5.0, -1.0, 2.0, 0.3], "inception_score": [0.1, 0.7, 0.2, 1.6]}
ARTIFACTS = ("report.html", "credits.csv", "statement.csv", "evidence.json", "plan.json", "config.json")


def value(mask: Any, name: str, seed: int) -> float:
    return 30 + float(mask @ WORTH[name]) + (seed % 7) / 10


class Server:
    """MLflow, which may go and come back with all that it knew."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.bucket, self._folder, self._port = f"mlflow-{os.getpid()}", folder, free_port()
        self._settings, self._running = CREDENTIALS | {"AWS_ENDPOINT_URL_S3": endpoint}, ExitStack()
        make_bucket(endpoint, self.bucket)
        self.url = self.start()

    def start(self) -> str:
        return self._running.enter_context(mlflow_on(self._folder, f"s3://{self.bucket}/artifacts", self._port, self._settings))

    def kill(self) -> None:
        self._running.close()


def made(workdir: Path, store: str, uri: str, experiment: str, *overrides: str) -> Round:
    """A round with everything but its publication."""
    where = (f"store={store}", f"tracking={{uri: '{uri}', artifacts: null, experiment: {experiment}}}")
    round = planned(workdir, *SMALL, *where, *overrides)
    for stage in (attribute, evaluate):
        fill(round, value)
        stage.run(round.uri)
    return Round.open(round.uri)


def told(round: Round) -> dict[str, bytes]:
    """The round's own files of the store."""
    return {name: round.store.get(round_key(round.id, name)) for name in ARTIFACTS}


def logged(client: MlflowClient, experiment: str, round: Round) -> Run:
    found = client.get_experiment_by_name(experiment)
    assert found
    (run,) = client.search_runs([found.experiment_id], f"tags.`apportion.round` = '{round.id}'")
    return run


def check_against_ledger(client: MlflowClient, run: Run, round: Round, scratch: Path) -> None:
    """What MLflow holds of a round is what the ledger and the store hold."""
    data, records = run.data, everything(round)
    rows = list(csv.DictReader(io.StringIO(told(round)["statement.csv"].decode())))
    phi = {key(f"phi/{row['property']}/{row['contributor']}"): float(row["credit"]) for row in rows}
    assert {name: number for name, number in data.metrics.items() if name.startswith("phi/")} == phi
    for step in ("finetune", "sample", "score"):
        assert data.metrics[f"seconds/{step}"] == pytest.approx(sum(getattr(record.cost, step) for _, record in records))
    for name in round.config.properties:
        values = [record.values[name] for _, record in round.evaluations("design")]
        history = sorted(client.get_metric_history(run.info.run_id, f"value/{name}"), key=lambda point: point.step)
        assert [point.value for point in history] == values
    assert (run.info.status, data.tags["apportion.manifest"], data.tags["apportion.project"]) == ("FINISHED", round.plan.manifest, "tiny")
    for name, content in told(round).items():
        assert Path(client.download_artifacts(run.info.run_id, name, str(scratch))).read_bytes() == content
    table = json.loads(Path(client.download_artifacts(run.info.run_id, "evaluations.json", str(scratch))).read_text())
    found = {row[table["columns"].index("key")]: row[table["columns"].index("fid")] for row in table["data"]}
    assert found == {wanted.key: record.values["fid"] for wanted, record in records}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, s3_endpoint: str) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("mlflow on s3"), s3_endpoint)
    yield running
    running.kill()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow would try again for minutes."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
