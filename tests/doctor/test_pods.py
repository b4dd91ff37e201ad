"""What the doctor finds of what pods are told: a configuration that submitting takes, and an environment like ours."""

from pathlib import Path

import pytest
from kfp_api import KfpApi
from tiny import CONFIG

from apportion import doctor
from apportion.config import load
from apportion.doctor import Finding
from apportion.doctor.pods import DECISIVE, check_pods, for_cluster
from apportion.errors import ConfigError
from pipelines.parameters import parameters

SHARED = ("store=s3://bucket/rounds", "tracking.uri=https://mlflow.example.com", "compute.device=cuda")
POOLS = "cluster={labels: {a: b}}"
SECRET = "not-to-be-told-0123"


def found(*overrides: str) -> dict[str, Finding]:
    findings = {finding.check: finding for finding in check_pods(load(CONFIG, [*SHARED, *overrides], Path("/w")))}
    assert SECRET not in repr(findings)
    return findings


def says(finding: Finding, result: str, *words: str) -> None:
    text = f"{finding.found} → {finding.mend}"
    assert finding.result == result, text
    assert not [word for word in words if word not in text], text


@pytest.mark.parametrize(
    "override",
    [
        "store=file:///shared/store",
        "tracking.uri=sqlite:///mlflow.db",
        "tracking.uri=mlruns",
        "tracking.artifacts=file:///artifacts",
        "data={source: folder, path: images, resolution: 16}",
        "network=features.safetensors",
        f"data={{source: openmoji, contributors: [{', '.join(f'contributor number {i:05}' for i in range(9000))}], resolution: 16}}",
    ],
    ids=lambda override: override[:30],
)
def test_what_submitting_refuses(override: str) -> None:
    """For the same reason."""
    with pytest.raises(ConfigError) as refused:
        parameters(load(CONFIG, [*SHARED, override], Path("/w")))
    assert found(override)["configuration"] == Finding("configuration", "failed", str(refused.value))


def test_what_submitting_takes() -> None:
    assert found()["configuration"] == Finding("configuration", "ok", "pods can use it")
    folder = "data={source: folder, path: /data/images, resolution: 16}"
    says(found(folder)["configuration"], "ok", "data.path: `plan` reads /data/images in its pod, so it must be in the image apportion/cpu:")
    says(found(folder, "cluster.volumes=[{claim: ours, path: /data}]")["configuration"], "ok", "so it must be on the claim ours")


def test_what_submitting_warns_of() -> None:
    says(found("compute.device=auto")["configuration"], "warning", "pods can use it", "say compute.device: cuda")
    many = ", ".join(f"contributor number {i:05}" for i in range(600))
    says(found(f"data={{source: openmoji, contributors: [{many}], resolution: 16}}")["configuration"], "warning", "MAX_PARAMETER_BYTES")


def test_pods_that_have_other_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://jane:{SECRET}@minio:9000")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    other = "AWS_ENDPOINT_URL_S3: 'https://s3.nowhere.invalid', APPORTION_S3_SSE: nonsense"
    says(
        found(f"cluster.env={{{other}, AWS_REGION: eu-west-1, NCCL_DEBUG: INFO}}")["environment"],
        "warning",
        "store and tracking are asked with our settings, and pods have others: APPORTION_S3_SSE is unset here, 'nonsense' there; "
        "AWS_ENDPOINT_URL_S3 is 'http://***@minio:9000' here, 'https://s3.nowhere.invalid' there → set the same in cluster.env and here",
    )


@pytest.mark.parametrize("variable", DECISIVE)
def test_pods_that_lack_our_settings(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """Without it a pod asks another server, or in another way."""
    monkeypatch.setenv(variable, "ours")
    says(found()["environment"], "warning", f"pods have others: {variable} is 'ours' here, unset there → set the same in cluster.env")
    assert found(f"cluster.env={{{variable}: ours}}")["environment"].result == "ok"
    assert found(f"cluster.secrets=[{{name: s3, env: {{{variable}: key}}}}]")["environment"].result == "ok"


def test_pods_that_have_our_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "store and tracking are asked with what pods are set, but for Secrets, identities and the network"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", SECRET)
    monkeypatch.setenv("AWS_PROFILE", "ours")
    assert found()["environment"] == Finding("environment", "ok", said)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "")  # as if it were not set
    assert found("cluster.env={NCCL_DEBUG: INFO, AWS_ENDPOINT_URL_S3: ''}")["environment"].result == "ok"


@pytest.mark.parametrize(
    ("store", "section", "inside", "expected"),
    [
        ("s3://bucket", True, False, True),
        ("s3://bucket", False, True, True),
        ("file:///store", True, True, True),
        ("s3://bucket", False, False, False),
        ("file:///store", True, False, False),
        ("file:///store", False, True, False),
    ],
)
def test_what_a_configuration_is_for(
    kfp_api: KfpApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: str, section: bool, inside: bool, expected: bool
) -> None:
    """Tracking in a file of one's own is right for one machine, and only there."""
    if inside:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    config = load(CONFIG, [f"store={store}", *([POOLS] if section else [])], tmp_path)
    assert for_cluster(config) == expected
    monkeypatch.setattr("apportion.doctor.check_store", lambda _: [])
    monkeypatch.setattr("apportion.kubeflow.IN_CLUSTER", kfp_api.url)
    findings = {finding.check: finding for finding in doctor.examine(config)}
    assert ("configuration" in findings, "environment" in findings) == (expected, expected)
    assert findings["tracking"].result == ("failed" if expected else "ok")
    assert ("which pods of a cluster do not share" in findings["tracking"].found) == expected
    assert (tmp_path / "mlflow.db").exists() != expected
