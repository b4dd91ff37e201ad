"""What the tracker refuses, in good time and in words that help."""

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
from tiny import CONFIG, ran

from apportion.config import Tracking
from apportion.errors import TrackingError
from apportion.tracking import MlflowTracker, open_tracker

ROUND = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def refused(tracking: Tracking, *words: str, seconds: float = 3) -> None:
    began = time.monotonic()
    with pytest.raises(TrackingError) as caught:
        open_tracker(tracking).check()
    assert time.monotonic() - began < seconds
    assert not [word for word in (*words, "tracking.uri=null") if word not in str(caught.value)], str(caught.value)


def test_a_server_that_is_not_there(capfd: pytest.CaptureFixture[str]) -> None:
    before = dict(os.environ)
    refused(Tracking(uri=f"http://127.0.0.1:{free_port()}"), "http://127.0.0.1", "refused", "tracking.uri")
    assert {name: value for name, value in os.environ.items() if "HTTP_REQUEST" in name} == {
        name: value for name, value in before.items() if "HTTP_REQUEST" in name
    }
    assert capfd.readouterr() == ("", "")


def test_no_password_is_shown() -> None:
    """A configuration takes none; who calls the tracker otherwise may have one in its address."""
    with pytest.raises(TrackingError, match=r"http://\*\*\*@127\.0\.0\.1") as caught:
        MlflowTracker(f"http://user:hid@den@127.0.0.1:{free_port()}", None, "apportion").check()
    assert not [word for word in ("user:", "hid@", "den@") if word in str(caught.value)]


def test_an_answer_shows_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "hidden.token")
    body = b'{"error_code": "PERMISSION_DENIED", "message": "hidden.token may not"}'
    denied = Answer(403, {"Content-Type": "application/json"}, body)
    with proxy("http://127.0.0.1:1", lambda *_: denied) as url, pytest.raises(TrackingError, match=r"\*\*\* may not") as caught:
        open_tracker(Tracking(uri=url)).check()
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"), [("TOKEN", "hidden\n"), ("TOKEN", "hidden\r\nX: y"), ("USERNAME", "hidden\n"), ("PASSWORD", "hid den\n")]
)
def test_credentials_that_http_cannot_send(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """Refused before anything is sent, for the error of the library would show a token."""
    monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    asked: list[str] = []
    with proxy("http://127.0.0.1:1", lambda method, *_: asked.append(method) or Answer(401, {}, b"")) as url:
        for call in (lambda tracker: tracker.check(), lambda tracker: tracker.close_job("job", "FAILED")):
            with pytest.raises(TrackingError, match=rf"HTTP cannot send in MLFLOW_TRACKING_{name}: .* `echo -n`") as caught:
                call(open_tracker(Tracking(uri=url)))
            assert not [word for word in ("hidden", "hid den") if word in str(caught.value)]
    assert asked == []


def test_a_token_with_a_line_break_is_in_no_output_of_a_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "hidden\n")
    where = ("--workdir", tmp_path, "--set", "compute.threads=1", "--set", f"tracking.uri=http://127.0.0.1:{free_port()}")
    for command in (("-m", "pipelines", "run"), ("-m", "apportion", "doctor")):
        code, out, err = ran(*command, CONFIG, *where)
        told = " ".join((out + err).split())
        assert code == 1
        assert "MLFLOW_TRACKING_TOKEN" in told
        assert "hidden" not in told


def test_closing_a_job_on_a_server_that_is_not_there() -> None:
    """Some seconds, for one that is only restarting is asked again."""
    began = time.monotonic()
    with pytest.raises(TrackingError, match="cannot end the runs of job"):
        open_tracker(Tracking(uri=f"http://127.0.0.1:{free_port()}")).close_job("job", "FAILED")
    assert time.monotonic() - began < 30


def test_a_server_that_does_not_answer(silent_port: int) -> None:
    refused(Tracking(uri=f"http://127.0.0.1:{silent_port}"), "timed out", seconds=8)


@pytest.mark.parametrize("status", [200, 401, 404, 503])
def test_a_server_that_is_not_mlflow_or_refuses(status: int) -> None:
    with proxy("http://127.0.0.1:1", lambda *_: Answer(status, {"Content-Type": "text/html"}, b"<h1>Hello</h1>")) as url:
        refused(Tracking(uri=url), "" if status == 200 else str(status), "credentials")


def test_a_name_that_does_not_resolve() -> None:
    refused(Tracking(uri="http://no-such-host.invalid:5000"), "no-such-host.invalid", seconds=8)


@pytest.mark.parametrize("uri", ["", "gopher://host", "http://host:port", "sqlite:///", "mysql+nothing://host/db"])
def test_addresses_that_are_none(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrackingError, match=r"tracking\.uri"):
        open_tracker(Tracking(uri=uri)).check()


def test_a_file_that_is_no_database(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"some notes of mine, not a database" * 99)
    refused(Tracking(uri=f"sqlite:///{tmp_path}/mlflow.db"), "not a database", "mlflow.db", "tracking.uri")
    assert (tmp_path / "mlflow.db").read_bytes().startswith(b"some notes")
    assert capfd.readouterr() == ("", "")


def test_a_database_damaged_inside(tracking: Tracking, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "mlflow.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 200_000)
    refused(tracking, "malformed", "tracking.uri")
    assert capfd.readouterr() == ("", "")


def test_a_folder_where_a_file_should_be(tmp_path: Path) -> None:
    refused(Tracking(uri=f"sqlite:///{tmp_path}"), str(tmp_path))
    (tmp_path / "file").touch()
    refused(Tracking(uri=f"sqlite:///{tmp_path}/file/mlflow.db"), "file")


def test_another_programs_database_stays_as_it_is(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "songs.db") as songs:
        songs.execute("CREATE TABLE songs (title TEXT)")
    with pytest.raises(TrackingError, match=r"another program's database in .*songs\.db"):
        open_tracker(Tracking(uri=f"sqlite:///{tmp_path}/songs.db")).check()
    assert [row[0] for row in songs.execute("SELECT name FROM sqlite_master")] == ["songs"]


def test_a_database_of_another_mlflow(tracking: Tracking, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    refused(tracking, "out-of-date database schema", "mlflow db upgrade")


def test_a_database_that_may_only_be_read(
    tracking: Tracking, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    open_tracker(tracking).check()
    uri = f"sqlite:///file:{tmp_path}/mlflow.db?mode=ro&uri=true"  # root may write a file without permission, but not this
    refused(tracking.model_copy(update={"uri": uri}), "readonly")
    assert capfd.readouterr() == ("", "")
    assert not Path("file:").exists()  # MLflow takes the address for a path too


def test_artifacts_that_cannot_be_written(tracking: Tracking, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    refused(tracking.model_copy(update={"artifacts": f"{tmp_path}/taken/artifacts"}), "cannot write artifacts", "tracking.artifacts")
    refused(tracking.model_copy(update={"artifacts": "gopher://x", "experiment": "other"}), "gopher", "tracking.artifacts")


def test_a_deleted_experiment(tracking: Tracking) -> None:
    client = MlflowClient(tracking_uri=tracking.uri)
    client.delete_experiment(client.create_experiment(tracking.experiment))
    with pytest.raises(TrackingError, match=r"'apportion' deleted; restore it .* another tracking\.experiment"):
        open_tracker(tracking).check()


def test_a_parameter_that_changed(tracker: MlflowTracker) -> None:
    run = tracker.start(ROUND, None, {})
    tracker.params(run, {"seed": 0})
    with pytest.raises(TrackingError, match=r"seed.*delete the run in MLflow"):
        tracker.params(run, {"seed": 1})


def test_a_run_that_is_gone(tracker: MlflowTracker, monkeypatch: pytest.MonkeyPatch) -> None:
    for call in (
        lambda: tracker.metrics("f" * 32, {"a": 1.0}),
        lambda: tracker.artifact("f" * 32, "a", b""),
        lambda: tracker.finish("gone"),
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


def test_a_process_killed_while_it_makes_the_database_leaves_nothing_in_the_way(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow.db

    def killed(uri: str) -> None:
        shutil.copy(empty_database, unquote(uri.removeprefix("sqlite+pysqlite:///")))
        raise KeyboardInterrupt

    monkeypatch.setattr(mlflow.db.upgrade, "callback", killed)
    tracking = Tracking(uri=f"sqlite:///{tmp_path}/mlflow.db", artifacts=f"{tmp_path}/artifacts")
    with pytest.raises(KeyboardInterrupt):
        open_tracker(tracking).check()
    assert list(tmp_path.iterdir()) == []


def test_the_faster_of_two_processes_makes_the_database(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow.db

    def slow(uri: str) -> None:
        shutil.copy(empty_database, unquote(uri.removeprefix("sqlite+pysqlite:///")))
        with sqlite3.connect(shutil.copy(empty_database, tmp_path / "mlflow.db")) as faster:
            faster.execute("UPDATE experiments SET name = 'of the faster' WHERE name = 'template'")

    monkeypatch.setattr(mlflow.db.upgrade, "callback", slow)
    tracking = Tracking(uri=f"sqlite:///{tmp_path}/mlflow.db", artifacts=f"{tmp_path}/artifacts")
    open_tracker(tracking).check()
    names = {experiment.name for experiment in MlflowClient(tracking_uri=tracking.uri).search_experiments()}
    assert names == {"Default", "of the faster", "apportion"}


def test_sqlite_without_all_of_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlalchemy.engine", None)  # as with mlflow-skinny
    with pytest.raises(TrackingError, match=r"pip install 'apportion\[tracking\]'"):
        open_tracker(Tracking(uri=f"sqlite:///{tmp_path}/mlflow.db")).check()


def test_importing_the_tracker_imports_nothing_of_mlflow() -> None:
    code = "import sys, apportion.tracking as t; t.open_tracker(t.Tracking()); print([m for m in sys.modules if m.startswith('mlflow')])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert found.stdout == b"[]\n"
