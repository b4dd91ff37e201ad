"""`apportion doctor`: a table or JSON, and an exit status, of a configuration where all is well and of one where nothing is."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from kfp_api import KfpApi
from kubernetes_api import SECRET, TOKEN, KubernetesApi
from servers import free_port
from tiny import CONFIG

from apportion import cli


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: Any) -> Any:
    """Exit status, what is printed, what is logged. Nothing of it is a secret."""
    monkeypatch.setattr("apportion.logs.to_terminal", lambda: None)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: str) -> tuple[int, str, str]:
        caplog.clear()
        status = cli.main(["doctor", str(CONFIG), "--workdir", str(tmp_path / "work"), *arguments])
        out = capsys.readouterr().out
        assert not [value for value in (SECRET, TOKEN) if value in out + caplog.text]
        return status, out, caplog.text

    return run


def test_all_is_well(
    command: Any, cluster: KubernetesApi, kfp_api: KfpApi, s3_bucket: str, mlflow_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.authority.with_name("kubeconfig")))
    kfp_api.fail("GET", "/apis/v2beta1/healthz", 200, '{"tag_name": "2.17.0", "multi_user": false}', times=9)
    endpoint = f"cluster.env={{AWS_ENDPOINT_URL_S3: {os.environ['AWS_ENDPOINT_URL_S3']!r}}}"
    told = [f"store=s3://{s3_bucket}", f"tracking.uri={mlflow_server}", "compute.device=cuda", endpoint]
    told += [f"cluster.kfp.host={kfp_api.url}", "cluster.kfp.namespace=ml"]
    overrides = [part for override in told for part in ("--set", override)]
    status, out, err = command(*overrides)
    assert (status, err) == (0, "")
    assert "→" not in out.partition("─")[2]
    assert out.startswith("check ")
    assert out.rstrip().endswith("\n16 ok, 1 skipped")
    status, out, _ = command(*overrides, "--json")
    told_of = json.loads(out)
    assert (status, told_of["failed"]) == (0, 0)
    names = [check["check"] for check in told_of["checks"]]
    assert names == [
        "configuration", "environment", "store", "store: clock", "store: lifecycle", "tracking", "kfp", "kfp: account", "cluster",
        "namespace", "secret apportion-s3", "secret apportion-mlflow", "service account", "permissions: runs", "permissions: ours",
        "nodes: cpu", "nodes: gpu",
    ]  # fmt: skip
    assert {check["result"] for check in told_of["checks"]} == {"ok", "skipped"}
    assert [check["check"] for check in told_of["checks"] if check["result"] == "skipped"] == ["permissions: ours"]


def test_nothing_is_well(command: Any, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each check is there, whatever the others found."""
    nobody = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", nobody)
    (path := tmp_path / "kubeconfig").write_text(
        f"""current-context: c
contexts: [{{name: c, context: {{cluster: c, user: u}}}}]
clusters: [{{name: c, cluster: {{server: "{nobody}"}}}}]
users: [{{name: u, user: {{token: "{TOKEN}"}}}}]
"""
    )
    monkeypatch.setenv("KUBECONFIG", str(path))
    told = [f"store=s3://{s3_bucket}", f"tracking.uri={nobody}", f"cluster.kfp.host={nobody}", f"cluster.images.cpu={nobody[7:]}/a:1"]
    overrides = [part for override in told for part in ("--set", override)]
    status, out, err = command(*overrides, "--json")
    results = {check["check"]: check["result"] for check in json.loads(out)["checks"]}
    assert {check for check, result in results.items() if result == "failed"} == {"store", "tracking", "kfp", "cluster"}
    assert {check for check, result in results.items() if result == "warning"} == {"configuration", "environment"}
    assert results["nodes: gpu"] == "skipped"
    assert status == 1
    assert f"4 of {len(results)} checks failed: store, tracking, kfp, cluster" in err
    status, out, _ = command(*overrides, "--images")
    assert (status, out.count("failed   ")) == (1, 6)
    assert out.rstrip().endswith("2 warnings, 6 failed, 11 skipped")


def test_a_configuration_that_is_none(command: Any) -> None:
    status, out, err = command("--set", "cluster.pools.gpu.colour=red")
    assert (status, out) == (1, "")
    assert "cluster.pools.gpu.colour" in err
