"""MLflow with its artifacts on S3: rounds on a server whose artifacts are there, the same over TLS, and
artifacts that Apportion writes to S3 itself."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from mlflow import MlflowClient
from served import ARTIFACTS, check_against_ledger, logged, unpublished
from servers import MLFLOW_BUCKET, Answer, certified, proxy

from apportion.config.tracking import TrackingOptions
from apportion.errors import TrackingError
from apportion.rounds.heads import head
from apportion.stages import publish
from apportion.tracking import open_tracker

pytestmark = pytest.mark.usefixtures("no_retries")


def test_two_rounds_are_logged_read_back_and_compared(
    mlflow_server: str,
    s3_bucket: str,
    tmp_path: Path,
) -> None:
    client, store = MlflowClient(mlflow_server), f"s3://{s3_bucket}/credits"
    rounds = []
    for seed in (0, 1):
        this_round = unpublished(tmp_path / "work", store, mlflow_server, "two", f"valuation.seed={seed}")
        publish.run(this_round.uri)
        (folder := tmp_path / str(seed)).mkdir()
        check_against_ledger(client, logged(client, "two", this_round), this_round, folder)
        rounds.append(this_round)
    one, two = (logged(client, "two", this_round) for this_round in rounds)
    assert one.data.tags["apportion.previous"] == ""
    assert two.data.tags["apportion.previous"] == rounds[0].id
    added = {"rank_correlation/fid", "rank_correlation/inception_score"}
    assert set(two.data.metrics) - set(one.data.metrics) == added
    assert set(one.data.metrics) <= set(two.data.metrics)
    before, after = one.data.params, two.data.params
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} == {"valuation.seed"}
    assert head(rounds[1].store, "tiny") == rounds[1].id
    for run in (one, two):
        # The server writes artifacts, so no client needs credentials of the bucket.
        assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
        folder_key = f"artifacts/{run.info.experiment_id}/{run.info.run_id}/artifacts/"
        assert {folder_key + name for name in ARTIFACTS} <= keys_of(MLFLOW_BUCKET, folder_key)


def keys_of(bucket: str, prefix: str) -> set[str]:
    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return {item["Key"] for page in pages for item in page.get("Contents", [])}


def test_tls_with_a_private_authority(
    mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, context = certified(tmp_path)
    with proxy(mlflow_server, lambda _, __, forward: forward(), context) as url:
        tracker = open_tracker(TrackingOptions(uri=url, artifacts=None, experiment="over TLS"))
        words = "name the file of its certificate authority in MLFLOW_TRACKING_SERVER_CERT_PATH"
        with pytest.raises(TrackingError, match=words):
            tracker.check()
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(authority))
        tracker.check()
        run = tracker.start("0" * 32, None, {})
        tracker.artifact(run, "a.txt", b"over TLS")
    client = MlflowClient(mlflow_server)
    assert Path(client.download_artifacts(run, "a.txt", str(tmp_path))).read_bytes() == b"over TLS"


@pytest.fixture
def puts(
    s3_endpoint: str,
    s3_bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[list[dict[str, str]]]:
    """The headers of every PUT to an S3 server whose endpoint is given by the AWS variables only."""
    from mlflow.store.artifact.s3_artifact_repo import _cached_get_s3_client

    recorded: list[dict[str, str]] = []

    def record(method: str, headers: dict[str, str], forward: Callable[[], Answer]) -> Answer:
        if method == "PUT":
            recorded.append(headers)
        return forward()

    _cached_get_s3_client.cache_clear()
    with proxy(s3_endpoint, record) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
        yield recorded
    _cached_get_s3_client.cache_clear()


KMS_KEY = "arn:aws:kms:eu-west-1:1:key/2"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, {}),
        ({"APPORTION_S3_SSE": "AES256"}, {"x-amz-server-side-encryption": "AES256"}),
        (
            {"APPORTION_S3_SSE": "aws:kms", "APPORTION_S3_KMS_KEY": KMS_KEY},
            {
                "x-amz-server-side-encryption": "aws:kms",
                "x-amz-server-side-encryption-aws-kms-key-id": KMS_KEY,
            },
        ),
        (
            {
                "APPORTION_S3_SSE": "AES256",
                "MLFLOW_S3_UPLOAD_EXTRA_ARGS": '{"ServerSideEncryption": "aws:kms"}',
            },
            {"x-amz-server-side-encryption": "aws:kms"},
        ),
    ],
)
def test_artifacts_written_to_s3_are_encrypted_like_the_store(
    puts: list[dict[str, str]],
    s3_bucket: str,
    tracking: TrackingOptions,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    expected: dict[str, str],
) -> None:
    for name, value in (variables | {"AWS_REGION": "eu-central-1"}).items():
        monkeypatch.setenv(name, value)
    before = variables_of_s3()
    options = {"artifacts": f"s3://{s3_bucket}/artifacts", "experiment": "on S3"}
    tracker = open_tracker(tracking.model_copy(update=options))
    tracker.check()
    tracker.artifact(tracker.start("0" * 32, None, {}), "a.txt", b"an artifact")
    assert len(puts) == 2
    for headers in puts:
        of_encryption = {
            name: value for name, value in headers.items() if name.startswith("x-amz-server-side")
        }
        assert of_encryption == expected
        assert "/eu-central-1/s3/aws4_request" in headers["authorization"]
    assert variables_of_s3() == before


def variables_of_s3() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if "S3" in name or "AWS" in name}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_SESSION_TOKEN", "hidden\n"),
        ("MLFLOW_S3_ENDPOINT_URL", "http://ada:hidden@s3"),
        ("APPORTION_S3_SSE", "yes"),
    ],
)
def test_settings_that_s3_could_not_use_are_refused(
    puts: list[dict[str, str]],
    s3_bucket: str,
    tracking: TrackingOptions,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
) -> None:
    monkeypatch.setenv(name, value)
    options = {"artifacts": f"s3://{s3_bucket}/artifacts", "experiment": "on S3"}
    with pytest.raises(TrackingError, match=rf"artifacts at s3://.*{name}") as caught:
        open_tracker(tracking.model_copy(update=options)).check()
    assert "hidden" not in str(caught.value)
    assert puts == []
