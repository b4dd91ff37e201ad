"""The doctor's checks of what pods get: a configuration that they can use, and the same settings."""

import json
from pathlib import Path

import pytest
from findings import CONFIG, check_finding
from kfp_api import KfpApi

from apportion import doctor, submission
from apportion.config.loading import load
from apportion.config.stages import STAGES
from apportion.doctor import Finding
from apportion.doctor.pods import FROM_CLUSTER_ONLY, check_pods, is_for_cluster
from apportion.errors import ConfigError
from pipelines.parameters import parameters

SHARED = ("store=s3://bucket/rounds", "tracking.uri=https://mlflow.example.com", "compute.device=cuda")
SECTION = "cluster={labels: {a: b}}"
SECRET = "not-to-be-shown-0123"


def findings_of(*overrides: str) -> dict[str, Finding]:
    config = load(CONFIG, [*SHARED, *overrides], Path("/w"))
    findings = {finding.check: finding for finding in check_pods(config)}
    assert SECRET not in repr(findings)
    return findings


def of_length(length: int) -> str:
    """An override with which the configuration has at least so many bytes."""
    names = ", ".join(f"{i:05}{'x' * 995}" for i in range(length // 1000 + 1))
    return f"data={{source: openmoji, contributors: [{names}], resolution: 16}}"


@pytest.mark.parametrize(
    "override",
    [
        "store=file:///shared/store",
        "tracking.uri=sqlite:///mlflow.db",
        "tracking.uri=mlruns",
        "tracking.artifacts=file:///artifacts",
        "data={source: folder, path: images, resolution: 16}",
        "network=features.safetensors",
        of_length(submission.MAX_BYTES),
    ],
    ids=lambda override: override[:30],
)
def test_configurations_that_cannot_be_submitted(override: str) -> None:
    """The reason is the one that submitting gives."""
    with pytest.raises(ConfigError) as refused:
        parameters(load(CONFIG, [*SHARED, override], Path("/w")))
    assert findings_of(override)["configuration"] == Finding("configuration", "failed", str(refused.value))


def test_configurations_that_can_be_submitted() -> None:
    assert findings_of()["configuration"] == Finding("configuration", "ok", "pods can use it")
    folder = "data={source: folder, path: /data/images, resolution: 16}"
    words = "data.path: `plan` reads /data/images in its pod, so it must be in the image apportion/cpu:"
    check_finding(findings_of(folder)["configuration"], "ok", words)
    volume = "cluster.volumes=[{claim: ours, path: /data}]"
    check_finding(findings_of(folder, volume)["configuration"], "ok", "so it must be on the claim ours")


def test_configurations_with_warnings() -> None:
    finding = findings_of("compute.device=auto")["configuration"]
    check_finding(finding, "warning", "pods can use it", "set compute.device: cuda")
    finding = findings_of(of_length(submission.USUAL))["configuration"]
    check_finding(finding, "warning", "MAX_PARAMETER_BYTES")


def test_no_accelerator_needs_no_device() -> None:
    """Where no accelerated stage runs on a pool with accelerators, `auto` is right."""
    accelerated = [stage for stage, row in STAGES.items() if row.accelerated]
    on_cpu = {stage: {"pool": "cpu"} for stage in accelerated}
    finding = findings_of("compute.device=auto", f"cluster.stages={json.dumps(on_cpu)}")["configuration"]
    assert finding.result == "ok"
    del on_cpu["sample"]
    finding = findings_of("compute.device=auto", f"cluster.stages={json.dumps(on_cpu)}")["configuration"]
    assert finding.result == "warning"


def test_pods_with_other_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://jane:{SECRET}@minio:9000")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    other = "AWS_ENDPOINT_URL_S3: 'https://s3.nowhere.invalid', APPORTION_S3_SSE: nonsense"
    finding = findings_of(f"cluster.env={{{other}, AWS_REGION: eu-west-1, NCCL_DEBUG: INFO}}")["environment"]
    check_finding(
        finding,
        "warning",
        "these checks connect to store and tracking with the settings of this process, and pods have "
        "others: APPORTION_S3_SSE is unset here, 'nonsense' there; AWS_ENDPOINT_URL_S3 is "
        "'http://***@minio:9000' here, 'https://s3.nowhere.invalid' there → set the same in cluster.env and "
        "here",
    )


@pytest.mark.parametrize("variable", FROM_CLUSTER_ONLY)
def test_pods_without_a_setting_of_this_process(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """Without it, pods connect to another server, or in another way."""
    monkeypatch.setenv(variable, "ours")
    words = f"pods have others: {variable} is 'ours' here, unset there → set the same in cluster.env"
    check_finding(findings_of()["environment"], "warning", words)
    assert findings_of(f"cluster.env={{{variable}: ours}}")["environment"].result == "ok"
    secret = f"cluster.secrets=[{{name: s3, env: {{{variable}: key}}}}]"
    assert findings_of(secret)["environment"].result == "ok"


def test_pods_with_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    message = (
        "these checks connect to store and tracking with the settings of pods, except Secrets, identities "
        "and the network"
    )
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", SECRET)
    monkeypatch.setenv("AWS_PROFILE", "ours")
    assert findings_of()["environment"] == Finding("environment", "ok", message)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "")  # an empty variable is the same as an unset one
    environment = "cluster.env={NCCL_DEBUG: INFO, AWS_ENDPOINT_URL_S3: ''}"
    assert findings_of(environment)["environment"].result == "ok"


@pytest.mark.usefixtures("no_migrations")
@pytest.mark.parametrize(
    ("store", "section", "in_cluster", "expected"),
    [
        ("s3://bucket", True, False, True),
        ("s3://bucket", False, True, True),
        ("file:///store", True, True, True),
        ("s3://bucket", False, False, False),
        ("file:///store", True, False, False),
        ("file:///store", False, True, False),
    ],
)
def test_whether_a_configuration_is_for_a_cluster(
    kfp_api: KfpApi,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    store: str,
    section: bool,
    in_cluster: bool,
    expected: bool,
) -> None:
    """Tracking in a local file is right for one machine only."""
    if in_cluster:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    config = load(CONFIG, [f"store={store}", *([SECTION] if section else [])], tmp_path)
    assert is_for_cluster(config) == expected
    monkeypatch.setattr("apportion.doctor.check_store", lambda _: [])
    monkeypatch.setattr("apportion.kubeflow.IN_CLUSTER", kfp_api.url)
    findings = {finding.check: finding for finding in doctor.examine(config)}
    assert "configuration" in findings
    assert ("environment" in findings) == expected
    check_finding(findings["tracking"], "failed" if expected else "ok")
    assert ("which pods of a cluster do not share" in findings["tracking"].message) == expected
    assert (tmp_path / "mlflow.db").exists() != expected
