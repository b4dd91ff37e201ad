"""A cluster in which all is well, and the servers it stands beside: S3, MLflow, KFP."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from kfp_api import kfp_api  # noqa: F401
from kubernetes_api import SECRET, KubernetesApi, named, node, secret, serve
from servers import mlflow_server, s3_bucket, s3_endpoint  # noqa: F401


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither in a cluster, nor with a kubeconfig or a token, whatever this machine has."""
    for name in [name for name in os.environ if name.startswith(("KUBE", "KFP_", "KF_", "AWS_", "MLFLOW_", "APPORTION_", "SSL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", "/nowhere/token")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesApi]:
    """A cluster with namespace `ml`, what the default configuration names there, and one node for each pool."""
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
