"""Rounds on real servers: the store on S3, MLflow with a database of its own and its artifacts on the same S3; over TLS too."""

from pathlib import Path

import pytest
from mlflow import MlflowClient
from served import ARTIFACTS, Server, at_once, check_against_ledger, logged, made, server  # noqa: F401
from servers import certified, proxy, s3_bucket, s3_endpoint  # noqa: F401

from apportion.config import Tracking
from apportion.errors import TrackingError
from apportion.stages import publish
from apportion.stages.heads import head
from apportion.tracking import open_tracker

pytestmark = pytest.mark.usefixtures("at_once")


def test_two_rounds_are_logged_read_back_and_compared(server: Server, s3_bucket: str, tmp_path: Path) -> None:  # noqa: F811
    client, store = MlflowClient(server.url), f"s3://{s3_bucket}/credits"
    rounds = []
    for seed in (0, 1):
        round = made(tmp_path / "work", store, server.url, "two", f"valuation.seed={seed}")
        publish.run(round.uri)
        (folder := tmp_path / str(seed)).mkdir()
        check_against_ledger(client, logged(client, "two", round), round, folder)
        rounds.append(round)
    one, two = (logged(client, "two", round) for round in rounds)
    assert (one.data.tags["apportion.previous"], two.data.tags["apportion.previous"]) == ("", rounds[0].id)
    assert set(two.data.metrics) - set(one.data.metrics) == {"rank_correlation/fid", "rank_correlation/inception_score"}
    assert set(one.data.metrics) <= set(two.data.metrics)
    assert one.data.params.keys() == two.data.params.keys()
    assert {name for name in one.data.params if one.data.params[name] != two.data.params[name]} == {"valuation.seed"}
    assert head(rounds[1].store, "tiny") == rounds[1].id
    assert all(run.info.artifact_uri.startswith("mlflow-artifacts:/") for run in (one, two))  # through the server: no client needs a key
    objects = _objects(server.bucket)
    assert {f"artifacts/{run.info.experiment_id}/{run.info.run_id}/artifacts/{name}" for run in (one, two) for name in ARTIFACTS} <= objects


def _objects(bucket: str) -> set[str]:
    import boto3

    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return {item["Key"] for page in pages for item in page.get("Contents", [])}


def test_tls_with_an_authority_of_ones_own(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    authority, context = certified(tmp_path)
    with proxy(server.url, lambda _, __, forward: forward(), context) as url:
        tracker = open_tracker(Tracking(uri=url, artifacts=None, experiment="over TLS"))
        with pytest.raises(TrackingError, match="name the file of its certificate authority in MLFLOW_TRACKING_SERVER_CERT_PATH"):
            tracker.check()
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(authority))
        tracker.check()
        run = tracker.start("0" * 32, None, {})
        tracker.artifact(run, "a.txt", b"over TLS")
    client = MlflowClient(server.url)
    assert Path(client.download_artifacts(run, "a.txt", str(tmp_path))).read_bytes() == b"over TLS"
