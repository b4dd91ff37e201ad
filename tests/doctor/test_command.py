"""`apportion doctor`: table, JSON and exit status, where everything is right and where nothing is."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from findings import CONFIG
from kfp_api import KfpApi
from kubernetes_api import SECRET, TOKEN, KubernetesApi
from servers import free_port

from apportion import cli

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: Any
) -> Command:
    """Runs the command; its exit status, what it prints and what it logs, which contain no secret."""
    monkeypatch.setattr("apportion.logs.to_terminal", lambda: None)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: str) -> tuple[int, str, str]:
        caplog.clear()
        status = cli.main(["doctor", str(CONFIG), "--workdir", str(tmp_path / "work"), *arguments])
        out = capsys.readouterr().out
        assert not [value for value in (SECRET, TOKEN) if value in out + caplog.text]
        return status, out, caplog.text

    return run


def set_options(*overrides: str) -> list[str]:
    return [argument for override in overrides for argument in ("--set", override)]


def test_everything_is_right(
    command: Command,
    cluster: KubernetesApi,
    kfp_api: KfpApi,
    s3_bucket: str,
    mlflow_server: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.authority.with_name("kubeconfig")))
    health = '{"tag_name": "2.17.0", "multi_user": false}'
    kfp_api.fail("GET", "/apis/v2beta1/healthz", 200, health, times=9)
    options = set_options(
        f"store=s3://{s3_bucket}",
        f"tracking.uri={mlflow_server}",
        "compute.device=cuda",
        f"cluster.env={{AWS_ENDPOINT_URL_S3: {os.environ['AWS_ENDPOINT_URL_S3']!r}}}",
        f"cluster.kfp.host={kfp_api.url}",
        "cluster.kfp.namespace=ml",
    )
    status, out, err = command(*options)
    assert (status, err) == (0, "")
    assert "→" not in out.partition("─")[2]
    assert out.startswith("check ")
    assert out.rstrip().endswith("\n16 ok, 1 skipped")
    status, out, _ = command(*options, "--json")
    report = json.loads(out)
    assert (status, report["failed"]) == (0, 0)
    assert report["checks"][0] == {
        "check": "configuration",
        "result": "ok",
        "message": "pods can use it",
        "fix": "",
    }
    assert {check["check"]: check["result"] for check in report["checks"]} == {
        "configuration": "ok",
        "environment": "ok",
        "store": "ok",
        "store: clock": "ok",
        "store: lifecycle": "ok",
        "tracking": "ok",
        "kfp": "ok",
        "kfp: account": "ok",
        "cluster": "ok",
        "namespace": "ok",
        "secret apportion-s3": "ok",
        "secret apportion-mlflow": "ok",
        "service account": "ok",
        "permissions: runs": "ok",
        "permissions: registration": "skipped",
        "nodes: cpu": "ok",
        "nodes: gpu": "ok",
    }


def test_nothing_is_right(
    command: Command, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every check has a finding, whatever the others find."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", nowhere)
    (path := tmp_path / "kubeconfig").write_text(
        f"""current-context: c
contexts: [{{name: c, context: {{cluster: c, user: u}}}}]
clusters: [{{name: c, cluster: {{server: "{nowhere}"}}}}]
users: [{{name: u, user: {{token: "{TOKEN}"}}}}]
"""
    )
    monkeypatch.setenv("KUBECONFIG", str(path))
    options = set_options(
        f"store=s3://{s3_bucket}",
        f"tracking.uri={nowhere}",
        f"cluster.kfp.host={nowhere}",
        f"cluster.images.cpu={nowhere.removeprefix('http://')}/a:1",
    )
    status, out, err = command(*options, "--json")
    results = {check["check"]: check["result"] for check in json.loads(out)["checks"]}
    failed = {check for check, result in results.items() if result == "failed"}
    assert failed == {"store", "tracking", "kfp", "cluster"}
    warnings = {check for check, result in results.items() if result == "warning"}
    assert warnings == {"configuration", "environment"}
    assert results["nodes: gpu"] == "skipped"
    assert status == 1
    assert f"4 of {len(results)} checks failed: store, tracking, kfp, cluster" in err
    status, out, _ = command(*options, "--images")
    assert (status, out.count("failed   ")) == (1, 6)
    assert out.rstrip().endswith("2 warnings, 6 failed, 11 skipped")


def test_what_is_unknown_is_no_failure(command: Command, cluster: KubernetesApi) -> None:
    cluster.remove("nodes/gpu-1")
    options = set_options(
        "tracking.uri=null", "cluster.kfp.namespace=ml", "cluster.kfp.host=http://127.0.0.1:1"
    )
    _, out, err = command(*options)
    row = next(line for line in out.splitlines() if line.startswith("nodes: gpu"))
    assert row.split()[2] == "unknown"
    assert "1 unknown, " in out.rstrip().splitlines()[-1]
    assert "nodes" not in err


def test_a_configuration_that_is_not_valid(command: Command) -> None:
    status, out, err = command("--set", "cluster.pools.gpu.colour=red")
    assert (status, out) == (1, "")
    assert "cluster.pools.gpu.colour" in err
