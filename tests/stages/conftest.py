"""A published round, and a database of MLflow: made once, and copied for each test."""

import hashlib
import shutil
from pathlib import Path

import pytest
from known import judged
from tiny import once

from apportion import cli
from apportion.config.tracking import TrackingOptions
from apportion.rounds.round import Round
from apportion.stages import publish
from apportion.tracking import open_tracker


@pytest.fixture(scope="session")
def _published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return once(tmp_path_factory, "published", lambda folder: publish.run(judged(folder / "work").uri))


@pytest.fixture
def published(_published: Path, tmp_path: Path) -> Round:
    """A published round in the work folder `tmp_path / "work"`. A store may be moved: only addresses name
    it."""
    store = shutil.copytree(_published / "work", tmp_path / "work") / "store"
    (round_id,) = (path.name for path in (store / "rounds").iterdir())
    return Round.open(f"{store.as_uri()}/rounds/{round_id}")


@pytest.fixture(scope="session")
def _database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(folder: Path) -> None:
        options = TrackingOptions(
            uri=f"sqlite:///{folder}/mlflow.db", artifacts=str(folder / "artifacts"), experiment="unused"
        )
        open_tracker(options).check()

    return once(tmp_path_factory, "database", make) / "mlflow.db"


@pytest.fixture
def tracked(_database: Path, tmp_path: Path) -> str:
    """The option of a tracking database in the work folder, whose tables are there already: making them takes
    seconds."""
    (tmp_path / "work").mkdir(exist_ok=True)
    return f"tracking.uri=sqlite:///{shutil.copy(_database, tmp_path / 'work')}"


@pytest.fixture
def command(monkeypatch, caplog, capsys):
    """`apportion …` in this process: its exit code, what it prints, what it logs."""
    monkeypatch.setattr("apportion.logs.to_terminal", lambda: None)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments):
        caplog.clear()
        caplog.set_level("INFO")
        code = cli.main([str(argument) for argument in arguments])
        return code, capsys.readouterr().out, caplog.text

    return run


@pytest.fixture
def replace_object():
    """Replaces a stored object together with its checksum, which happens only on purpose."""

    def replace(path: Path, data: bytes) -> None:
        path.write_bytes(data)
        checksum = hashlib.sha256(data).hexdigest()
        path.with_name(f".{path.name}.sha256").write_text(f"{checksum}  {path.name}\n")

    return replace
