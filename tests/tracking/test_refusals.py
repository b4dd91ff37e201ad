"""Servers, files and options that cannot be used: each is refused within seconds, or, if it may pass, within
a minute (test_busy.py), with a message that says how to fix it."""

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from mlflow import MlflowClient
from servers import Answer, free_port, proxy

from apportion import cli
from apportion.config.tracking import TrackingOptions
from apportion.errors import TrackingError
from apportion.tracking import MlflowTracker, open_tracker, server

CONFIG = Path(__file__).parents[2] / "configs" / "tiny.yaml"
NOWHERE = "http://127.0.0.1:1"
ROUND = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def check_refused(tracking: TrackingOptions, *words: str, seconds: float = 3) -> None:
    """The check fails within so many seconds, with all of these words."""
    began = time.monotonic()
    with pytest.raises(TrackingError) as caught:
        open_tracker(tracking).check()
    assert time.monotonic() - began < seconds
    missing = [word for word in (*words, "tracking.uri=null") if word not in str(caught.value)]
    assert not missing, str(caught.value)


def request_variables() -> dict[str, str]:
    """MLflow's settings of timeouts and retries, which a check changes while it runs."""
    return {name: value for name, value in os.environ.items() if "HTTP_REQUEST" in name}


def test_a_server_that_is_not_there(capfd: pytest.CaptureFixture[str]) -> None:
    before = request_variables()
    options = TrackingOptions(uri=f"http://127.0.0.1:{free_port()}")
    check_refused(options, "http://127.0.0.1", "refused", "tracking.uri")
    assert request_variables() == before
    assert capfd.readouterr() == ("", "")


def test_no_password_is_shown() -> None:
    """A configuration may not contain one, but a tracker can be made with any address."""
    with pytest.raises(TrackingError, match=r"http://\*\*\*@127\.0\.0\.1") as caught:
        MlflowTracker(f"http://user:hid@den@127.0.0.1:{free_port()}", None, "apportion").check()
    for part in ("user:", "hid@", "den@"):
        assert part not in str(caught.value)


def test_no_token_in_an_answer_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "hidden.token")
    body = b'{"error_code": "PERMISSION_DENIED", "message": "hidden.token may not"}'
    denied = Answer(403, {"Content-Type": "application/json"}, body)
    with (
        proxy(NOWHERE, lambda *_: denied) as url,
        pytest.raises(TrackingError, match=r"\*\*\* may not") as caught,
    ):
        open_tracker(TrackingOptions(uri=url)).check()
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("TOKEN", "hidden\n"), ("TOKEN", "hidden\r\nX: y"), ("USERNAME", "hidden\n"), ("PASSWORD", "hid den\n")],
)
def test_credentials_that_http_cannot_send(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """They are refused before any request, as the error of the library would show a token."""
    monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    requests: list[str] = []

    def respond(method: str, *_: object) -> Answer:
        requests.append(method)
        return Answer(401, {}, b"")

    words = rf"HTTP cannot send in MLFLOW_TRACKING_{name}: .* `echo -n`"
    with proxy(NOWHERE, respond) as url:
        tracker = open_tracker(TrackingOptions(uri=url))
        for call in (tracker.check, lambda: tracker.close_job("job", "FAILED")):
            with pytest.raises(TrackingError, match=words) as caught:
                call()
            assert value.strip() not in str(caught.value)
            assert "hidden" not in str(caught.value)
    assert requests == []


def test_a_token_with_a_line_break_is_in_no_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither of a pipeline, a process with further processes, nor of the doctor."""
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "hidden\n")
    uri = f"tracking.uri=http://127.0.0.1:{free_port()}"
    options = [str(CONFIG), "--workdir", str(tmp_path), "--set", "compute.threads=1", "--set", uri]
    command = [sys.executable, "-m", "pipelines", "run", *options]
    pipeline = subprocess.run(command, capture_output=True, text=True, cwd=CONFIG.parents[1])
    monkeypatch.setattr("apportion.logs.to_terminal", lambda: None)
    assert (pipeline.returncode, cli.main(["doctor", *options])) == (1, 1)
    for output in (pipeline.stdout + pipeline.stderr, "".join(capsys.readouterr())):
        assert "MLFLOW_TRACKING_TOKEN" in " ".join(output.split())
        assert "hidden" not in output


def test_closing_a_job_on_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are two retries, as the server may only be restarting."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")
    requests: list[str] = []

    def respond(method: str, *_: object) -> Answer:
        requests.append(method)
        raise ConnectionError("the connection ends without an answer")

    with proxy(NOWHERE, respond) as url, pytest.raises(TrackingError, match="cannot end the runs of job"):
        open_tracker(TrackingOptions(uri=url)).close_job("job", "FAILED")
    assert requests == ["GET"] * 3


def test_a_server_that_does_not_answer(silent_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_SECONDS", 1)
    monkeypatch.setattr(server, "_BRIEF", 1)
    check_refused(TrackingOptions(uri=f"http://127.0.0.1:{silent_port}"), "timed out")


@pytest.mark.parametrize("status", [200, 401, 404, 503])
def test_a_server_that_is_not_mlflow_or_refuses(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_BRIEF", 0)
    with proxy(NOWHERE, lambda *_: Answer(status, {"Content-Type": "text/html"}, b"<h1>Hello</h1>")) as url:
        check_refused(TrackingOptions(uri=url), "" if status == 200 else str(status), "credentials")


def test_a_name_that_does_not_resolve() -> None:
    check_refused(TrackingOptions(uri="http://no-such-host.invalid:5000"), "no-such-host.invalid", seconds=8)


@pytest.mark.parametrize(
    "uri", ["", "gopher://host", "http://host:port", "sqlite:///", "mysql+nothing://host/db"]
)
def test_wrong_addresses(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrackingError, match=r"tracking\.uri"):
        open_tracker(TrackingOptions(uri=uri)).check()


def test_a_file_that_is_not_a_database(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"some notes, and not a database" * 99)
    check_refused(
        TrackingOptions(uri=f"sqlite:///{tmp_path}/mlflow.db"), "not a database", "mlflow.db", "tracking.uri"
    )
    assert (tmp_path / "mlflow.db").read_bytes().startswith(b"some notes")
    assert capfd.readouterr() == ("", "")


def test_a_database_damaged_inside(
    tracking: TrackingOptions, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "mlflow.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 200_000)
    check_refused(tracking, "malformed", "tracking.uri")
    assert capfd.readouterr() == ("", "")


def test_a_folder_where_a_file_should_be(tmp_path: Path) -> None:
    check_refused(TrackingOptions(uri=f"sqlite:///{tmp_path}"), str(tmp_path))
    (tmp_path / "file").touch()
    check_refused(TrackingOptions(uri=f"sqlite:///{tmp_path}/file/mlflow.db"), "file")


def test_another_programs_database_is_not_changed(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "songs.db") as songs:
        songs.execute("CREATE TABLE songs (title TEXT)")
    with pytest.raises(TrackingError, match=r"another program's database in .*songs\.db"):
        open_tracker(TrackingOptions(uri=f"sqlite:///{tmp_path}/songs.db")).check()
    assert [row[0] for row in songs.execute("SELECT name FROM sqlite_master")] == ["songs"]


def test_a_database_of_another_mlflow(tracking: TrackingOptions, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    check_refused(tracking, "out-of-date database schema", "mlflow db upgrade")


def test_a_database_that_can_only_be_read(
    tracking: TrackingOptions,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    open_tracker(tracking).check()
    # The permission of the file would not stop root; this mode does.
    uri = f"sqlite:///file:{tmp_path}/mlflow.db?mode=ro&uri=true"
    check_refused(tracking.model_copy(update={"uri": uri}), "readonly")
    assert capfd.readouterr() == ("", "")
    assert not Path("file:").exists()  # MLflow would make a folder of the address


def test_artifacts_that_cannot_be_written(tracking: TrackingOptions, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    check_refused(
        tracking.model_copy(update={"artifacts": f"{tmp_path}/taken/artifacts"}),
        "cannot write artifacts",
        "tracking.artifacts",
    )
    check_refused(
        tracking.model_copy(update={"artifacts": "gopher://x", "experiment": "other"}),
        "gopher",
        "tracking.artifacts",
    )


def test_a_deleted_experiment(tracking: TrackingOptions) -> None:
    client = MlflowClient(tracking_uri=tracking.uri)
    client.delete_experiment(client.create_experiment(tracking.experiment))
    with pytest.raises(
        TrackingError, match=r"'apportion' deleted; restore it .* another tracking\.experiment"
    ):
        open_tracker(tracking).check()


def test_a_parameter_that_changed(tracker: MlflowTracker) -> None:
    run = tracker.start(ROUND, None, {})
    tracker.params(run, {"seed": 0})
    with pytest.raises(TrackingError, match=r"seed.*delete the run in MLflow"):
        tracker.params(run, {"seed": 1})


def test_a_run_that_does_not_exist(tracker: MlflowTracker, monkeypatch: pytest.MonkeyPatch) -> None:
    for call in (
        lambda: tracker.metrics("f" * 32, {"a": 1.0}),
        lambda: tracker.artifact("f" * 32, "a", b""),
        lambda: tracker.finish("no such run"),
    ):
        with pytest.raises(TrackingError, match="MLflow at sqlite"):
            call()
    monkeypatch.setenv("MLFLOW_RUN_ID", "f" * 32)
    with pytest.raises(TrackingError, match="unset MLFLOW_RUN_ID"):
        tracker.check()


def test_artifacts_stay_inside_their_run(tracker: MlflowTracker) -> None:
    run = tracker.start(ROUND, None, {})
    for path in ("../up.txt", "/etc/up.txt", "a/../../up.txt"):
        with pytest.raises(TrackingError):
            tracker.artifact(run, path, b"x")


def test_a_process_killed_while_it_makes_the_database_leaves_no_file(
    mlflow_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow.db

    def killed(uri: str) -> None:
        shutil.copy(mlflow_database, unquote(uri.removeprefix("sqlite+pysqlite:///")))
        raise KeyboardInterrupt

    monkeypatch.setattr(mlflow.db.upgrade, "callback", killed)
    tracking = TrackingOptions(uri=f"sqlite:///{tmp_path}/mlflow.db", artifacts=f"{tmp_path}/artifacts")
    with pytest.raises(KeyboardInterrupt):
        open_tracker(tracking).check()
    assert list(tmp_path.iterdir()) == []


def test_of_two_processes_the_faster_makes_the_database(
    mlflow_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow.db

    def slow(uri: str) -> None:
        shutil.copy(mlflow_database, unquote(uri.removeprefix("sqlite+pysqlite:///")))
        with sqlite3.connect(shutil.copy(mlflow_database, tmp_path / "mlflow.db")) as faster:
            faster.execute("UPDATE experiments SET name = 'faster' WHERE name = 'template'")

    monkeypatch.setattr(mlflow.db.upgrade, "callback", slow)
    tracking = TrackingOptions(uri=f"sqlite:///{tmp_path}/mlflow.db", artifacts=f"{tmp_path}/artifacts")
    open_tracker(tracking).check()
    names = {experiment.name for experiment in MlflowClient(tracking_uri=tracking.uri).search_experiments()}
    assert names == {"Default", "faster", "apportion"}


def test_sqlite_without_all_of_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlalchemy.engine", None)  # as with mlflow-skinny
    with pytest.raises(TrackingError, match=r"pip install 'apportion\[tracking\]'"):
        open_tracker(TrackingOptions(uri=f"sqlite:///{tmp_path}/mlflow.db")).check()


def test_importing_the_tracker_imports_nothing_of_mlflow() -> None:
    code = """
import sys
from apportion.config.tracking import TrackingOptions
from apportion.tracking import open_tracker
open_tracker(TrackingOptions())
print([name for name in sys.modules if name.startswith("mlflow")])
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert process.stdout == b"[]\n"
