"""Rounds on real servers: the store on S3, MLflow with a database of its own and its artifacts on the same S3; over TLS too."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from served import ARTIFACTS, Server, at_once, check_against_ledger, logged, made, server  # noqa: F401
from servers import Answer, certified, proxy, s3_bucket, s3_endpoint  # noqa: F401

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


@pytest.fixture
def heard(s3_endpoint: str, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, str]]]:  # noqa: F811
    """The headers of every PUT, of a bucket whose endpoint only the AWS variables tell."""
    from mlflow.store.artifact.s3_artifact_repo import _cached_get_s3_client

    puts: list[dict[str, str]] = []

    def hear(method: str, headers: dict[str, str], forward: Callable[[], Answer]) -> Answer:
        puts.extend([headers] if method == "PUT" else [])
        return forward()

    _cached_get_s3_client.cache_clear()
    with proxy(s3_endpoint, hear) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
        yield puts
    _cached_get_s3_client.cache_clear()


KEY = "arn:aws:kms:eu-west-1:1:key/2"


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, {}),
        ({"APPORTION_S3_SSE": "AES256"}, {"x-amz-server-side-encryption": "AES256"}),
        (
            {"APPORTION_S3_SSE": "aws:kms", "APPORTION_S3_KMS_KEY": KEY},
            {"x-amz-server-side-encryption": "aws:kms", "x-amz-server-side-encryption-aws-kms-key-id": KEY},
        ),
        (
            {"APPORTION_S3_SSE": "AES256", "MLFLOW_S3_UPLOAD_EXTRA_ARGS": '{"ServerSideEncryption": "aws:kms"}'},
            {"x-amz-server-side-encryption": "aws:kms"},
        ),
    ],
)
def test_artifacts_that_we_write_to_s3_are_encrypted_as_the_store_is(
    heard: list[dict[str, str]],
    s3_bucket: str,  # noqa: F811
    tracking: Tracking,
    monkeypatch: pytest.MonkeyPatch,
    told: dict[str, str],
    expected: dict[str, str],
) -> None:
    for name, value in (told | {"AWS_REGION": "eu-central-1"}).items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    tracker = open_tracker(tracking.model_copy(update={"artifacts": f"s3://{s3_bucket}/artifacts", "experiment": "on S3"}))
    tracker.check()
    tracker.artifact(tracker.start("0" * 32, None, {}), "a.txt", b"told")
    assert len(heard) == 2
    for headers in heard:
        assert {name: value for name, value in headers.items() if name.startswith("x-amz-server-side")} == expected
        assert "/eu-central-1/s3/aws4_request" in headers["authorization"]
    assert {name: value for name, value in os.environ.items() if "S3" in name or "AWS" in name} == {
        name: value for name, value in before.items() if "S3" in name or "AWS" in name
    }


@pytest.mark.parametrize(
    ("name", "value"), [("AWS_SESSION_TOKEN", "hidden\n"), ("MLFLOW_S3_ENDPOINT_URL", "http://ada:hidden@s3"), ("APPORTION_S3_SSE", "yes")]
)
def test_what_s3_could_not_use_is_refused(
    heard: list[dict[str, str]],
    s3_bucket: str,  # noqa: F811
    tracking: Tracking,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(TrackingError, match=rf"artifacts at s3://.*{name}") as caught:
        open_tracker(tracking.model_copy(update={"artifacts": f"s3://{s3_bucket}/artifacts", "experiment": "on S3"})).check()
    assert "hidden" not in str(caught.value)
    assert heard == []
