"""Servers that are slow or busy, do not know their name, or sit behind a proxy that limits requests: MLflow
itself, behind a proxy that does so."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest
from mlflow import MlflowClient
from served import SMALL
from servers import MLFLOW_BUCKET, Answer, proxy
from tiny import planned

from apportion.config.tracking import TrackingOptions
from apportion.errors import TrackingError
from apportion.tracking import open_tracker, server
from apportion.tracking.tracker import LARGEST, expected_size

ROUND = "0123456789abcdef0123456789abcdef"
MIB = 2**20


class Busy:
    """A proxy's `respond` with these answers to the first requests, and those of the server after that. A
    number stands for so many seconds before the server's own answer."""

    def __init__(self, *first: Answer | float) -> None:
        self.requests = 0
        self._first = list(first)

    def __call__(self, method: str, headers: dict[str, str], forward: Callable[[], Answer]) -> Answer:
        self.requests += 1
        answer = self._first.pop(0) if self._first else 0
        if isinstance(answer, Answer):
            return answer
        time.sleep(answer)
        return forward()


def refusal(status: int, after: str | None = None) -> Answer:
    return Answer(status, {} if after is None else {"Retry-After": after}, b"<h1>busy</h1>")


def options(url: str, experiment: str = "busy") -> TrackingOptions:
    return TrackingOptions(uri=url, artifacts=None, experiment=experiment)


def in_the_limit(limit: int) -> Callable[[str, dict[str, str], Callable[[], Answer]], Answer]:
    """As nginx answers: 413 to a body of more than `limit` bytes."""

    def respond(_: str, headers: dict[str, str], forward: Callable[[], Answer]) -> Answer:
        if int(headers.get("content-length", 0)) > limit:
            return Answer(413, {"Content-Type": "text/html"}, b"<h1>413 Request Entity Too Large</h1>")
        return forward()

    return respond


# Retries


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_when_it_says(
    mlflow_server: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """Or soon, if it does not say when."""
    for name in ("BACKOFF_FACTOR", "BACKOFF_JITTER"):
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", "0")
    busy = Busy(refusal(status, "1"), refusal(status))
    began = time.monotonic()
    with proxy(mlflow_server, busy) as url:
        open_tracker(options(url)).check(size=0)
    assert time.monotonic() - began > 1
    assert busy.requests > 3
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("apportion")]
    again = f"MLflow answered {status}, trying again"
    assert messages == [f"{again} in 1 s", again]


def test_a_slow_server_is_waited_for(
    mlflow_server: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that takes longer than the limit for one answer is asked again. This limit is for a server that
    starts, whose first answer may take 10 s."""
    assert server._SECONDS >= 15
    monkeypatch.setattr(server, "_SECONDS", 1)
    with proxy(mlflow_server, Busy(1.5)) as url:
        open_tracker(options(url)).check(size=0)
    assert "MLflow does not answer, trying again" in caplog.messages


@pytest.mark.parametrize("call", ["check", "start", "close_job"])
def test_the_wait_is_limited(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """To a minute in all, here to a second."""
    assert server._BRIEF <= 60
    monkeypatch.setattr(server, "_BRIEF", 1)
    with proxy("http://127.0.0.1:1", lambda *_: refusal(503)) as url:
        tracker = open_tracker(options(url), brief=True)
        calls = {
            "check": tracker.check,
            "start": lambda: tracker.start(ROUND, None, {}),
            "close_job": lambda: tracker.close_job("job", "FAILED"),
        }
        began = time.monotonic()
        with pytest.raises(TrackingError, match="the server is busy: it still answers 503"):
            calls[call]()
    assert time.monotonic() - began < 4


@pytest.mark.parametrize("brief", [True, False])
def test_a_longer_pause_than_the_limit_is_not_waited_for(brief: bool) -> None:
    """urllib3 alone would sleep for these six hours."""
    with proxy("http://127.0.0.1:1", lambda *_: refusal(429, "21600")) as url:
        tracker = open_tracker(options(url), brief=brief)
        with pytest.raises(TrackingError, match=r"still answers 429, and asks for 21600 s of pause \(Retry"):
            tracker.start(ROUND, None, {})


@pytest.mark.parametrize("after", ["soon", "", "0"])
def test_a_pause_that_is_no_time_is_ignored(mlflow_server: str, after: str) -> None:
    with proxy(mlflow_server, Busy(refusal(429, after))) as url:
        open_tracker(options(url)).check(size=0)


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize("call", ["check", "close_job"])
def test_the_users_own_settings_win(monkeypatch: pytest.MonkeyPatch, retries: int, call: str) -> None:
    monkeypatch.setattr(server, "_BRIEF", 0)  # they also lift our limit
    for name, value in {
        "MAX_RETRIES": retries,
        "TIMEOUT": 1,
        "BACKOFF_FACTOR": 0,
        "BACKOFF_JITTER": 0,
    }.items():
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", str(value))
    silent = Busy(*[1.6 for _ in range(1 + retries)])
    with proxy("http://127.0.0.1:1", silent) as url:
        tracker = open_tracker(options(url))
        with pytest.raises(TrackingError, match=r"Read timed out\. \(read timeout=1\)"):
            tracker.check() if call == "check" else tracker.close_job("job", "FAILED")
    assert silent.requests == 1 + retries


# The name of the server


def test_a_server_that_does_not_know_its_name(mlflow_server: str) -> None:
    """MLflow 3 answers to its own addresses only, unless it is told its names."""

    def renamed(_: str, headers: dict[str, str], forward: Callable[[], Answer]) -> Answer:
        headers["host"] = "mlflow.example.org"
        return forward()

    with proxy(mlflow_server, renamed) as url, pytest.raises(TrackingError) as caught:
        open_tracker(options(url)).check()
    host = url.removeprefix("http://")
    for words in ("Invalid Host header", f"`--allowed-hosts {host}`", f"MLFLOW_SERVER_ALLOWED_HOSTS={host}"):
        assert words in str(caught.value)


# The size of requests


def test_a_limit_that_the_report_would_exceed_is_found_at_plan(mlflow_server: str, tmp_path: Path) -> None:
    """nginx's default is 1 MiB, and the report of 300 contributors has 2.6 MB."""
    with proxy(mlflow_server, in_the_limit(MIB)) as url:
        where = f"tracking={{uri: '{url}', artifacts: null, experiment: limited}}"
        with pytest.raises(TrackingError) as caught:
            planned(tmp_path, *SMALL, where)
    for words in (
        "413",
        "above 4.0 MiB",
        "client_max_body_size",
        "nginx.ingress.kubernetes.io/proxy-body-size",
    ):
        assert words in str(caught.value)
    assert not list(tmp_path.rglob("images"))  # nothing was copied to the store yet


def test_a_connection_that_ends_for_large_artifacts_alone(
    mlflow_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As some proxies do instead of an answer."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    def respond(_: str, headers: dict[str, str], forward: Callable[[], Answer]) -> Answer:
        if int(headers.get("content-length", 0)) > MIB:
            raise ConnectionError("the connection ends without an answer")
        return forward()

    with (
        proxy(mlflow_server, respond) as url,
        pytest.raises(TrackingError, match=r"small artifact was accepted: a proxy .* client_max_body_size"),
    ):
        open_tracker(options(url)).check()


def test_a_large_artifact_that_was_written_to_check_is_not_kept(mlflow_server: str, s3_bucket: str) -> None:
    """What stays is a line of text."""
    largest = 0

    def respond(method: str, headers: dict[str, str], forward: Callable[[], Answer]) -> Answer:
        nonlocal largest
        largest = max(largest, int(headers.get("content-length", 0)))
        return forward()

    with proxy(mlflow_server, respond) as url:
        open_tracker(options(url, "sizes")).check()
    assert largest == LARGEST > 2_600_000
    experiment = MlflowClient(mlflow_server).get_experiment_by_name("sizes")
    assert experiment
    prefix = f"artifacts/{experiment.experiment_id}/"
    listed = boto3.client("s3").list_objects_v2(Bucket=MLFLOW_BUCKET, Prefix=prefix)["Contents"]
    assert [(item["Key"], item["Size"] < 100) for item in listed] == [
        (f"{prefix}apportion-was-here.txt", True)
    ]


def test_more_contributors_have_larger_artifacts() -> None:
    assert expected_size(2, 10) == expected_size(300, 5000) == LARGEST
    assert expected_size(1000, 10) > 1000 * 2_600_000 / 300


def test_an_artifact_over_the_limit_is_explained_at_publication_too(mlflow_server: str) -> None:
    run = open_tracker(options(mlflow_server)).start(ROUND, None, {})
    with proxy(mlflow_server, in_the_limit(MIB)) as url:
        tracker = open_tracker(options(url))
        tracker.artifact(run, "a.txt", bytes(MIB))
        words = r"store the artifact report\.html: 413 .* limit above 1\.5 MiB \(nginx: client_max_body_size"
        with pytest.raises(TrackingError, match=words):
            tracker.artifact(run, "report.html", bytes(MIB + MIB // 2))


# The process


def test_a_user_without_home_and_name(tmp_path: Path) -> None:
    """As in a container that runs under a number only. MLflow alone ends with a traceback there."""
    script = """
import os, pwd
def unknown(number): raise KeyError(number)
pwd.getpwuid = unknown
os.environ.pop("HOME", None)
try:
    import mlflow
except RuntimeError:
    print("mlflow alone fails")
import sys
for name in [name for name in sys.modules if name.startswith("mlflow")]:
    del sys.modules[name]
from apportion.config.tracking import TrackingOptions
from apportion.tracking import open_tracker
tracker = open_tracker(TrackingOptions(uri="http://127.0.0.1:1", artifacts=None))
try:
    tracker.check()
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "mlflow alone fails"
    assert second.startswith("TrackingError MLflow at http://127.0.0.1:1 cannot")
    assert list(tmp_path.iterdir()) == []
