"""A cluster in which everything is right, and the servers that it needs: S3, MLflow, KFP."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from kfp_api import kfp_api  # noqa: F401
from kubernetes_api import SECRET, KubernetesApi, named, node, secret, serve
from servers import mlflow_database, mlflow_server, s3_bucket, s3_endpoint  # noqa: F401


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither a cluster nor a kubeconfig nor a token, whatever this machine has."""
    prefixes = ("KUBE", "KFP_", "KF_", "AWS_", "MLFLOW_", "APPORTION_", "SSL_")
    for name in [name for name in os.environ if name.startswith(prefixes)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", "/nowhere/token")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesApi]:
    """A cluster with namespace `ml`, what the default configuration names there, and a node per pool."""
    with serve(KubernetesApi(tmp_path)) as api:
        api.add(
            named("Namespace", "ml", labels={"pod-security.kubernetes.io/enforce": "restricted"}),
            secret("apportion-s3", AWS_ACCESS_KEY_ID=SECRET, AWS_SECRET_ACCESS_KEY=SECRET),
            secret("apportion-mlflow", MLFLOW_TRACKING_USERNAME=SECRET, MLFLOW_TRACKING_PASSWORD=SECRET),
            named("ServiceAccount", "pipeline-runner", "ml"),
            named("ServiceAccount", "default-editor", "ml"),
            node("cpu-1", {"pool": "cpu"}),
            node("gpu-1", {"pool": "gpu"}, ("nvidia.com/gpu=present:NoSchedule",), gpu="8"),
        )
        monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path, "ml")))
        yield api


@pytest.fixture
def no_migrations(mlflow_database: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """A new MLflow database is a copy of one: MLflow's migrations take a second."""
    import mlflow.db

    def copy(uri: str) -> None:
        shutil.copy(mlflow_database, unquote(uri.removeprefix("sqlite+pysqlite:///")))

    monkeypatch.setattr(mlflow.db.upgrade, "callback", copy)
