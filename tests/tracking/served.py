"""Rounds that are logged to an MLflow server, and checks of what it holds of them."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from tiny import fill, planned

from apportion.rounds.round import Round
from apportion.stages import attribute, evaluate
from apportion.tracking import key

SMALL = ("properties=[fid, inception_score]", "valuation.coalitions=14")
WORTH = {"fid": [-5.0, -1.0, 2.0, 0.3], "inception_score": [0.1, 0.7, 0.2, 1.6]}
ARTIFACTS = ("report.html", "credits.csv", "statement.csv", "evidence.json", "plan.json", "config.json")


def value(members: Any, name: str, seed: int) -> float:
    """The value of a coalition in a game whose credits are known."""
    return 30 + float(members @ WORTH[name]) + (seed % 7) / 10


def unpublished(workdir: Path, store: str, uri: str, experiment: str, *overrides: str) -> Round:
    """A round with everything except its publication."""
    tracking = f"tracking={{uri: '{uri}', artifacts: null, experiment: {experiment}}}"
    this_round = planned(workdir, *SMALL, f"store={store}", tracking, *overrides)
    for stage in (attribute, evaluate):
        fill(this_round, value)
        stage.run(this_round.uri)
    return Round.open(this_round.uri)


def files(this_round: Round) -> dict[str, bytes]:
    """The round's own files in the store."""
    return {name: this_round.read(name) for name in ARTIFACTS}


def logged(client: MlflowClient, experiment_name: str, this_round: Round) -> Run:
    experiment = client.get_experiment_by_name(experiment_name)
    assert experiment
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`apportion.round` = '{this_round.id}'")
    return run


def check_against_ledger(client: MlflowClient, run: Run, this_round: Round, scratch: Path) -> None:
    """What MLflow holds of a round is what the ledger and the store hold."""
    metrics, tags = run.data.metrics, run.data.tags
    records = this_round.all_evaluations()
    rows = csv.DictReader(io.StringIO(files(this_round)["statement.csv"].decode()))
    phi = {key(f"phi/{row['property']}/{row['contributor']}"): float(row["credit"]) for row in rows}
    assert {name: number for name, number in metrics.items() if name.startswith("phi/")} == phi
    for step in ("finetune", "sample", "score"):
        seconds = sum(getattr(record.cost, step) for _, record in records)
        assert metrics[f"seconds/{step}"] == pytest.approx(seconds)
    for name in this_round.config.properties:
        values = [record.values[name] for _, record in this_round.evaluations("design")]
        history = sorted(
            client.get_metric_history(run.info.run_id, f"value/{name}"), key=lambda point: point.step
        )
        assert [point.value for point in history] == values
    assert run.info.status == "FINISHED"
    assert tags["apportion.manifest"] == this_round.plan.manifest
    assert tags["apportion.project"] == "tiny"
    for name, content in files(this_round).items():
        assert Path(client.download_artifacts(run.info.run_id, name, str(scratch))).read_bytes() == content
    path = client.download_artifacts(run.info.run_id, "evaluations.json", str(scratch))
    table = json.loads(Path(path).read_text())
    key_column, fid_column = table["columns"].index("key"), table["columns"].index("fid")
    in_table = {row[key_column]: row[fid_column] for row in table["data"]}
    assert in_table == {wanted.key: record.values["fid"] for wanted, record in records}
