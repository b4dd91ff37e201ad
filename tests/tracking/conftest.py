"""The MLflow server, and trackers on SQLite files that start as copies of one."""

import shutil
from pathlib import Path

import pytest
from servers import mlflow_server  # noqa: F401

from apportion.config import Tracking
from apportion.tracking import MlflowTracker, open_tracker


@pytest.fixture(autouse=True)
def _no_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Apportion makes where there is nothing; its experiment's name differs from that of the tests."""
    folder = tmp_path_factory.mktemp("template") / "not there yet"
    open_tracker(Tracking(uri=f"sqlite:///{folder}/mlflow.db", artifacts=f"{folder}/artifacts", experiment="template")).check()
    return folder / "mlflow.db"


@pytest.fixture
def tracking(empty_database: Path, tmp_path: Path) -> Tracking:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return Tracking(uri=f"sqlite:///{tmp_path}/mlflow.db", artifacts=f"{tmp_path}/the ärtifacts")


@pytest.fixture
def tracker(tracking: Tracking) -> MlflowTracker:
    found = open_tracker(tracking)
    assert isinstance(found, MlflowTracker)
    found.check()
    return found
