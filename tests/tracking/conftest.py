"""The MLflow server, and trackers on SQLite files that start as copies of one."""

import shutil
from pathlib import Path

import pytest
from servers import mlflow_database, mlflow_server, s3_bucket, s3_endpoint  # noqa: F401

from apportion.config.tracking import TrackingOptions
from apportion.tracking import MlflowTracker, open_tracker


@pytest.fixture(autouse=True)
def _no_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)


@pytest.fixture
def tracking(mlflow_database: Path, tmp_path: Path) -> TrackingOptions:  # noqa: F811
    shutil.copy(mlflow_database, tmp_path / "mlflow.db")
    return TrackingOptions(uri=f"sqlite:///{tmp_path}/mlflow.db", artifacts=f"{tmp_path}/the ärtifacts")


@pytest.fixture
def tracker(tracking: TrackingOptions) -> MlflowTracker:
    tracker = open_tracker(tracking)
    assert isinstance(tracker, MlflowTracker)
    tracker.check()
    return tracker


@pytest.fixture
def no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default MLflow would retry for minutes."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
