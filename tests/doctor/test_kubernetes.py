"""The doctor's checks of a cluster, by the real Kubernetes client and a small server."""

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from findings import check_finding
from kubernetes import client
from kubernetes_api import SECRET, TOKEN, KubernetesApi, named, node, secret, token_of
from servers import free_port

from apportion import doctor
from apportion.config.cluster import Cluster
from apportion.doctor import Finding, checking
from apportion.doctor.cluster import check_cluster
from apportion.doctor.kubeflow import Kubeflow
from apportion.doctor.kubernetes import SecretData

MANY, ONE = Kubeflow(True, (2, 17)), Kubeflow(False, (2, 17))
PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


def check(section: str = "", kubeflow: Kubeflow = ONE, namespace: str | None = "ml") -> dict[str, Finding]:
    """The findings by check, for a section `cluster` in YAML."""
    options = yaml.safe_load(section) or {}
    options["kfp"] = {"namespace": namespace} | options.get("kfp", {})
    findings = list(check_cluster(Cluster.model_validate(options), kubeflow))
    assert len({finding.check for finding in findings}) == len(findings)
    return {finding.check: finding for finding in findings}


def test_everything_is_right(cluster: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_TOKEN", token_of("ml:jobs"))
    findings = check(kubeflow=MANY)
    assert {finding.result for finding in findings.values()} == {"ok"}
    assert not any(finding.fix for finding in findings.values())
    check_finding(findings["cluster"], "ok", "Kubernetes v1.33.2", cluster.url, "as jane")
    check_finding(findings["namespace"], "ok", "ml; Pod Security enforces restricted")
    check_finding(findings["secret apportion-s3"], "ok", "has AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY")
    check_finding(findings["service account"], "ok", "default-editor in namespace ml")
    check_finding(
        findings["permissions: runs"], "ok", "default-editor has the permissions that the pods of a run need"
    )
    check_finding(
        findings["permissions: registration"],
        "ok",
        "system:serviceaccount:ml:jobs may register, run and schedule in ml",
    )
    check_finding(findings["nodes: gpu"], "ok", "1 of 2 nodes can run its pods: gpu-1")
    check_finding(findings["nodes: cpu"], "ok", "1 of 2 nodes can run its pods: cpu-1")


def test_nothing_is_changed(cluster: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads, and creates reviews, which are not stored."""
    monkeypatch.setenv("KFP_TOKEN", token_of("ml:jobs"))
    check(
        NEEDED
        + "\nca: {config_map: our-ca}\npull_secrets: [pull]\nvolumes: [{claim: drawings, path: /data}]",
        MANY,
    )
    assert {request.method for request in cluster.requests} == {"GET", "POST"}
    assert all("review" in request.path for request in cluster.requests if request.method == "POST")
    assert [request for request in cluster.requests if "/secrets/" in request.path]
    # Secrets are read by name, and never listed.
    assert not [request for request in cluster.requests if request.path.endswith("/secrets")]


# Namespaces


def test_the_namespace(cluster: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_finding(
        check("kfp: {namespace: other}")["namespace"],
        "failed",
        "there is no namespace other",
        "kubectl create namespace other",
    )
    for kubeflow in (MANY, Kubeflow()):
        check_finding(check(namespace=None, kubeflow=kubeflow)["namespace"], "ok", "ml; Pod Security")
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path)))
    finding = check(namespace=None, kubeflow=MANY)["namespace"]
    check_finding(
        finding,
        "failed",
        "there is no namespace kubeflow",
        "is from cluster.kfp.namespace (null: the usual one of KFP)",
    )
    cluster.hidden = {"namespaces"}
    check_finding(
        check()["namespace"],
        "skipped",
        "no permission to read the namespace",
        "grant get on namespace ml",
        "is from cluster.kfp.namespace",
    )


@pytest.mark.parametrize(
    ("host", "namespace"),
    [
        ("https://kubeflow.example.com/pipeline", "kubeflow"),
        ("http://ml-pipeline.tools.svc:8888", "tools"),
        ("http://ml-pipeline.tools.svc.cluster.local:8888", "tools"),
        ("http://ml-pipeline.svc.example.com", "kubeflow"),
        ("http://127.0.0.1:8888", "kubeflow"),
    ],
)
def test_the_namespace_of_one_user_is_that_of_kfp(cluster: KubernetesApi, host: str, namespace: str) -> None:
    """Although the kubeconfig's context names `ml`. Every fix says where the namespace is from."""
    findings = check(f"kfp: {{host: {host!r}}}", ONE, None)
    by = (
        f"; namespace {namespace} is from cluster.kfp.namespace (null: KFP's own, where KFP for one user has "
        "its runs)"
    )
    check_finding(
        findings["service account"],
        "failed",
        f"there is no service account pipeline-runner in namespace {namespace}",
        by,
    )
    in_namespace = [finding for name, finding in findings.items() if not name.startswith("nodes")]
    with_fix = [finding for finding in in_namespace if finding.fix]
    assert len(with_fix) == 4
    assert all(finding.fix.endswith(by) for finding in with_fix)
    cluster.add(named("ServiceAccount", "pipeline-runner", namespace))
    assert check(f"kfp: {{host: {host!r}}}", ONE, None)["service account"].result == "ok"
    finding = check(f"kfp: {{host: {host!r}, namespace: ml}}", ONE)["service account"]
    assert finding.message == "pipeline-runner in namespace ml"


@pytest.mark.parametrize(
    ("level", "version", "result", "word"),
    [
        ("restricted", (2, 17), "ok", "enforces restricted"),
        ("restricted", (2, 15), "warning", "from 2.16 on"),
        ("restricted", None, "ok", "enforces restricted"),
        ("baseline", (2, 15), "ok", "enforces baseline"),
        (None, (2, 15), "ok", "enforces nothing"),
    ],
)
def test_pod_security(
    cluster: KubernetesApi, level: str | None, version: Any, result: str, word: str
) -> None:
    cluster.add(
        named("Namespace", "ml", labels={"pod-security.kubernetes.io/enforce": level} if level else None)
    )
    check_finding(check(kubeflow=Kubeflow(False, version))["namespace"], result, word)


# Secrets, certificates

NEEDED = "secrets: [{name: keys, env: {AWS_ACCESS_KEY_ID: id, AWS_SECRET_ACCESS_KEY: key}}]"
OPTIONAL = NEEDED.replace("}}]", "}, optional: true}]")


def test_a_missing_secret(cluster: KubernetesApi) -> None:
    create = "kubectl -n ml create secret generic keys --from-literal=id=… --from-literal=key=…"
    check_finding(
        check(NEEDED)["secret keys"], "failed", "it is not in namespace ml; no pod starts without it", create
    )
    check_finding(
        check(OPTIONAL)["secret keys"],
        "warning",
        "it is optional, so pods start without AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY",
        create,
    )


def test_a_missing_key(cluster: KubernetesApi) -> None:
    cluster.add(secret("keys", id=SECRET, other=SECRET))
    check_finding(
        check(NEEDED)["secret keys"], "failed", "it lacks key; it has id, other", "correct cluster.secrets"
    )
    check_finding(check(OPTIONAL)["secret keys"], "warning", "it lacks key; it has id, other")
    cluster.add(secret("keys", id=SECRET, key=""))
    check_finding(check(NEEDED)["secret keys"], "failed", "it lacks key")
    cluster.add(secret("keys"))
    check_finding(check(NEEDED)["secret keys"], "failed", "it lacks id, key; it has no keys")


def test_white_space_around_a_value(cluster: KubernetesApi) -> None:
    cluster.add(secret("keys", id=SECRET, key=SECRET + "\n"))
    check_finding(
        check(NEEDED)["secret keys"], "warning", "white space surrounds key, as `echo` without -n leaves it"
    )


def test_no_value_of_a_secret_is_shown(
    cluster: KubernetesApi, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither as it is nor encoded, in no form of output, whatever goes wrong."""
    caplog.set_level(logging.DEBUG)
    outputs = []
    cluster.add(
        secret("keys", id=SECRET, key=f"{SECRET} \n"), secret("pull", "kubernetes.io/dockerconfigjson")
    )
    for data in (
        b"{",
        b"[]",
        b'{"auths": {"r.io": {"auth": "%%"}}}',
        f'{{"auths": {{"r.io": {{"password": "{SECRET}"}}}}}}'.encode(),
    ):
        cluster.add(secret("pull", "kubernetes.io/dockerconfigjson", **{".dockerconfigjson": data.decode()}))
        findings = list(check(NEEDED + "\npull_secrets: [pull]").values())
        outputs += [doctor.to_json(findings), repr(findings)]
    monkeypatch.setattr(
        "apportion.doctor.kubernetes.SecretData.has_surrounding_blanks",
        lambda self, key: json.loads(self.data["no such key"]),
    )
    findings = list(check(NEEDED).values())
    assert "report it" in next(finding.fix for finding in findings if finding.check == "secret keys")
    assert SECRET not in repr(SecretData("Opaque", {"key": SECRET}))
    text = "\n".join([*outputs, doctor.to_json(findings), caplog.text])
    encoded = secret("x", x=SECRET).data["x"].rstrip("=")[:-2]
    assert not [value for value in (SECRET, encoded, TOKEN) if value in text]


def test_a_private_authority(cluster: KubernetesApi) -> None:
    section = "ca: {config_map: our-ca, key: ca.crt}"
    check_finding(
        check(section)["config map our-ca"],
        "failed",
        "no pod starts without it",
        "create configmap our-ca --from-file=ca.crt=FILE",
    )
    cluster.add(named("ConfigMap", "our-ca", "ml", data={"root.pem": PEM}))
    check_finding(
        check(section)["config map our-ca"],
        "failed",
        "it lacks ca.crt; it has root.pem",
        "correct cluster.ca.key",
    )
    cluster.add(named("ConfigMap", "our-ca", "ml", data={"ca.crt": "x"}))
    check_finding(check(section)["config map our-ca"], "failed", "ca.crt holds no certificate")
    cluster.add(named("ConfigMap", "our-ca", "ml", data={"ca.crt": PEM * 2}))
    check_finding(check(section)["config map our-ca"], "ok", "has ca.crt, 2 certificates")


def test_a_volume_with_images(cluster: KubernetesApi) -> None:
    section = "volumes: [{claim: drawings, path: /data}]"
    check_finding(
        check(section)["volume drawings"],
        "failed",
        "there is no claim drawings in namespace ml",
        "cluster.volumes",
    )
    for phase, result, words in [
        ("Pending", "warning", "not bound yet"),
        ("Lost", "failed", "lost its volume"),
        ("Bound", "ok", "bound"),
    ]:
        spec = client.V1PersistentVolumeClaimSpec(access_modes=["ReadOnlyMany"])
        status = client.V1PersistentVolumeClaimStatus(phase=phase)
        cluster.add(named("PersistentVolumeClaim", "drawings", "ml", spec=spec, status=status))
        check_finding(check(section)["volume drawings"], result, words)


def test_pull_secrets(cluster: KubernetesApi) -> None:
    section = "pull_secrets: [pull]"
    check_finding(
        check(section)["pull secret pull"],
        "failed",
        "not in namespace ml",
        "create secret docker-registry pull",
    )
    cluster.add(secret("pull", user=SECRET))
    check_finding(
        check(section)["pull secret pull"],
        "failed",
        "found type Opaque, expected kubernetes.io/dockerconfigjson",
    )
    kind = "kubernetes.io/dockerconfigjson"
    cluster.add(secret("pull", kind, **{".dockerconfigjson": "{}"}))
    check_finding(check(section)["pull secret pull"], "failed", "it names no registry")
    auths = {"https://index.docker.io/v1/": {"auth": ""}, "ghcr.io": {"username": "u", "password": SECRET}}
    cluster.add(secret("pull", kind, **{".dockerconfigjson": json.dumps({"auths": auths})}))
    check_finding(check(section)["pull secret pull"], "ok", "for docker.io, ghcr.io")


# Accounts


def test_service_accounts(cluster: KubernetesApi) -> None:
    check_finding(check(kubeflow=MANY)["service account"], "ok", "default-editor")
    check_finding(check(kubeflow=ONE)["service account"], "ok", "pipeline-runner")
    findings = check("kfp: {service_account: credits}")
    check_finding(
        findings["service account"],
        "failed",
        "there is no service account credits in namespace ml",
        "cluster.kfp.service_account",
    )
    check_finding(findings["permissions: runs"], "skipped", "there is no service account credits")


def test_permissions_of_runs(cluster: KubernetesApi) -> None:
    cluster.denied = {"patch workflowtaskresults", "get configmaps"}
    finding = check(kubeflow=MANY)["permissions: runs"]
    check_finding(
        finding,
        "failed",
        "default-editor lacks permissions in ml: patch workflowtaskresults.argoproj.io, get configmaps "
        "kfp-launcher",
        "rbac.create",
    )
    reviews = [
        request.body["spec"]
        for request in cluster.requests
        if request.path.endswith("localsubjectaccessreviews")
    ]
    assert {review["user"] for review in reviews} == {"system:serviceaccount:ml:default-editor"}
    assert "system:serviceaccounts:ml" in reviews[0]["groups"]
    cluster.denied, cluster.hidden = set(), {"serviceaccounts"}
    assert check()["permissions: runs"].result == "ok"  # the account may exist
    cluster.hidden = {"localsubjectaccessreviews"}
    check_finding(
        check()["permissions: runs"],
        "skipped",
        "grant create on localsubjectaccessreviews.authorization.k8s.io in ml",
    )


JOBS = "system:serviceaccount:tools:jobs"


def test_permissions_for_registration_are_those_of_the_token(
    cluster: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KFP requires the permissions of the token's account, and not those of the kubeconfig's user."""
    monkeypatch.setenv("KFP_TOKEN", token_of("tools:jobs"))
    cluster.denied = {
        f"{JOBS}: {permission}" for permission in ("create runs", "enable jobs", "create pipelines/versions")
    }
    finding = check(kubeflow=MANY)["permissions: registration"]
    words = (
        "create pipelines/versions.pipelines.kubeflow.org, create runs.pipelines.kubeflow.org, enable "
        "jobs.pipelines.kubeflow.org"
    )
    check_finding(
        finding,
        "failed",
        f"{JOBS} lacks permissions in ml: {words}; without them KFP does not register",
        "bind a role with these to it",
    )
    reviews = [
        request.body["spec"]
        for request in cluster.requests
        if request.body and request.body["spec"].get("user") == JOBS
    ]
    assert {review["resourceAttributes"]["namespace"] for review in reviews} == {"ml"}
    assert reviews[0]["groups"] == [
        "system:serviceaccounts",
        "system:serviceaccounts:tools",
        "system:authenticated",
    ]
    cluster.denied = {"jane: create runs"}
    (path := tmp_path / "token").write_text(token_of("tools:jobs") + "\n")
    monkeypatch.delenv("KFP_TOKEN")
    for variable in ("KF_PIPELINES_SA_TOKEN_PATH", "KFP_TOKEN_FILE"):
        monkeypatch.setenv(variable, str(path))
        check_finding(
            check(kubeflow=MANY)["permissions: registration"],
            "ok",
            f"{JOBS} may register, run and schedule in ml",
        )
    check_finding(
        check(kubeflow=ONE)["permissions: registration"], "skipped", "KFP for one user requires none"
    )
    check_finding(check(kubeflow=Kubeflow())["permissions: registration"], "skipped", "KFP cannot be reached")


def test_which_permissions_are_checked(cluster: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """What KFP's API server requires, and what its launcher and Argo's executor do. The chart grants it."""
    monkeypatch.setenv("KFP_TOKEN", token_of("tools:jobs"))
    check(kubeflow=MANY)
    by_user: dict[str, set[tuple[str, ...]]] = {}
    for request in cluster.requests:
        if request.path.endswith("/localsubjectaccessreviews"):
            spec = request.body["spec"]
            attributes = spec["resourceAttributes"]
            parts = [attributes["resource"], attributes.get("subresource"), attributes.get("name")]
            permission = (attributes["verb"], attributes["group"], "/".join(filter(None, parts)))
            by_user.setdefault(spec["user"], set()).add(permission)
    kfp, kinds = "pipelines.kubeflow.org", ("pipelines", "pipelines/versions", "experiments", "runs", "jobs")
    registering = {(verb, kfp, kind) for kind in kinds for verb in ("get", "list", "create")}
    assert by_user[JOBS] == registering | {(verb, kfp, "jobs") for verb in ("delete", "enable")}
    executor = {(verb, "argoproj.io", "workflowtaskresults") for verb in ("create", "patch")}
    launcher = {("get", "", "pods"), ("get", "", "configmaps/kfp-launcher")}
    assert by_user["system:serviceaccount:ml:default-editor"] == executor | launcher


@pytest.mark.parametrize(
    "token",
    [
        "",
        SECRET,
        f"{SECRET}.{SECRET}",
        f"{SECRET}.{SECRET}.{SECRET}",
        "e30.W10.x",  # a list
        f"{token_of('ml:jobs')}.more",
        token_of("ml:jobs", sub=None),
        token_of("ml:jobs", sub="jane@example.com"),
        token_of("ml:jobs", sub="system:serviceaccount:ml"),
        token_of("ml:jobs", sub="system:serviceaccount:ml:jobs:x"),
        token_of("ml:jobs", sub=f"{JOBS} {SECRET}"),
    ],
)
def test_a_token_whose_account_is_not_known(
    cluster: KubernetesApi, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("KFP_TOKEN", token)
    finding = check(kubeflow=MANY)["permissions: registration"]
    check_finding(
        finding,
        "skipped",
        "is not of a service account" if token else "no token",
        "it is not known here whose permissions KFP requires",
    )
    assert SECRET not in repr(finding)
    assert not [
        request
        for request in cluster.requests
        if request.body and "create" in str(request.body) and "runs" in str(request.body)
    ]


def test_a_token_that_cannot_be_read(cluster: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_TOKEN_FILE", "/nowhere/token")
    check_finding(check(kubeflow=MANY)["permissions: registration"], "failed", "cannot read /nowhere/token")


# Nodes

GPU = "pools: {gpu: {node_selector: {%s}, tolerations: [%s]}}"
TOLERATED = "{key: nvidia.com/gpu, operator: Exists}"


def test_a_selector_that_no_node_matches(cluster: KubernetesApi) -> None:
    cluster.add(
        node("gpu-2", {"pool": "gpu", "model": "a10"}, ("nvidia.com/gpu=present:NoSchedule",), gpu="1")
    )
    finding = check(GPU % ("pool: gpu, model: h100", TOLERATED))["nodes: gpu"]
    check_finding(
        finding,
        "unknown",
        "the pool has no node at the moment: none of 3 nodes can run its pods; the closest is gpu-1: label "
        "model=h100: it has none; 0 of 3 nodes have it",
    )
    check_finding(
        finding,
        "unknown",
        "→ nothing, where an autoscaler starts the first node of the pool when a pod waits for it; else "
        "change cluster.pools.gpu.node_selector, or kubectl label node gpu-1 model=h100",
    )
    cluster.add(
        node("gpu-1", {"pool": "gpu", "model": "h200"}, ("nvidia.com/gpu=present:NoSchedule",), gpu="8")
    )
    check_finding(check(GPU % ("model: h100", TOLERATED))["nodes: gpu"], "unknown", "it has 'h200'")


def test_a_pool_that_is_scaled_to_zero(cluster: KubernetesApi) -> None:
    """Its nodes are known by the labels or, where the pool names none, by the accelerator."""
    cluster.remove("nodes/gpu-1")
    findings = check()
    check_finding(findings["nodes: gpu"], "unknown", "no node at the moment", "autoscaler", "device plugin")
    assert findings["nodes: cpu"].result == "ok"
    selected = GPU % ("pool: gpu", TOLERATED)
    assert check(selected)["nodes: gpu"].result == "unknown"
    cluster.add(node("gpu-1", {"pool": "gpu"}, ("nvidia.com/gpu=present:NoSchedule",)))
    finding = check(selected)["nodes: gpu"]
    check_finding(finding, "failed", "nvidia.com/gpu: 0 of 1 requested", "install the device plugin")
    assert "autoscaler" not in finding.fix


def test_the_closest_node_has_the_fewest_mismatches(cluster: KubernetesApi) -> None:
    cluster.add(
        node("a-far", {"pool": "x"}, ("mine:NoExecute",)),
        node("near", {"pool": "gpu"}, ("mine=yes:NoSchedule",), gpu="4"),
    )
    cluster.remove("nodes/gpu-1")
    finding = check(GPU % ("pool: gpu", TOLERATED))["nodes: gpu"]
    check_finding(
        finding,
        "failed",
        "none of 3 nodes can run its pods; the closest is near: taint mine=yes:NoSchedule is not tolerated",
    )
    check_finding(
        finding,
        "failed",
        "add {key: mine, operator: Equal, value: yes, effect: NoSchedule} to cluster.pools.gpu.tolerations",
    )


@pytest.mark.parametrize(
    ("toleration", "fits"),
    [
        ("{operator: Exists}", True),
        ("{key: nvidia.com/gpu, operator: Exists}", True),
        ("{key: nvidia.com/gpu, value: present}", True),
        ("{key: nvidia.com/gpu, value: present, effect: NoSchedule}", True),
        ("{key: nvidia.com/gpu, value: absent}", False),
        ("{key: nvidia.com/gpu, value: present, effect: NoExecute}", False),
        ("{key: other, operator: Exists}", False),
        ("", False),
    ],
)
def test_tolerations_are_those_of_kubernetes(cluster: KubernetesApi, toleration: str, fits: bool) -> None:
    assert check(GPU % ("", toleration))["nodes: gpu"].result == ("ok" if fits else "failed")


def test_taints_that_keep_no_pod_away(cluster: KubernetesApi) -> None:
    cluster.add(node("cpu-1", {}, ("busy:PreferNoSchedule",)))
    assert check()["nodes: cpu"].result == "ok"


def test_a_node_that_is_cordoned_or_not_ready(cluster: KubernetesApi) -> None:
    cluster.add(node("cpu-1", {}, ("node.kubernetes.io/unschedulable:NoSchedule",)))
    check_finding(
        check()["nodes: cpu"],
        "failed",
        "node.kubernetes.io/unschedulable:NoSchedule",
        "check what is wrong with the node (unschedulable)",
    )
    cluster.add(node("cpu-1", {}, ("node.kubernetes.io/not-ready:NoExecute",)))
    check_finding(
        check()["nodes: cpu"],
        "failed",
        "node.kubernetes.io/not-ready:NoExecute",
        "check what is wrong with the node (not-ready)",
    )
    assert "namespace" not in check()["nodes: cpu"].fix


def test_nodes_without_the_accelerator(cluster: KubernetesApi) -> None:
    cluster.add(node("gpu-1", {}, (), gpu="0"))
    check_finding(
        check()["nodes: gpu"],
        "failed",
        "nvidia.com/gpu: 0 of 1 requested",
        "install the device plugin that provides nvidia.com/gpu",
    )
    cluster.add(node("gpu-1", {}, (), gpu="2"))
    check_finding(
        check("pools: {gpu: {accelerators: 4}}")["nodes: gpu"],
        "failed",
        "nvidia.com/gpu: 2 of 4 requested",
        "request less",
    )


def test_nodes_that_are_too_small(cluster: KubernetesApi) -> None:
    assert check("pools: {cpu: {cpu: 7910m, memory: 31Gi}}")["nodes: cpu"].result == "ok"  # all of it
    finding = check("pools: {cpu: {cpu: 8, memory: 32Gi}}")["nodes: cpu"]
    check_finding(
        finding,
        "failed",
        "cpu: 7.91 of 8 requested; memory: 31 Gi of 32 Gi requested",
        "cluster.pools.cpu (cpu)",
        "cluster.pools.cpu (memory)",
    )


def test_stages_that_request_more_than_their_pool(cluster: KubernetesApi) -> None:
    findings = check("stages: {train: {memory: 64Gi}, plan: {pool: gpu}}")
    check_finding(findings["nodes: gpu (train)"], "failed", "31 Gi of 64 Gi")
    check_finding(findings["nodes: gpu (plan, prune, finetune, sample, score)"], "ok", "gpu-1")


def test_nodes_of_another_platform(cluster: KubernetesApi) -> None:
    taint = ("nvidia.com/gpu=present:NoSchedule",)
    cluster.add(node("gpu-1", {"kubernetes.io/arch": "arm64"}, taint, gpu="8"))
    finding = check()["nodes: gpu"]
    check_finding(
        finding,
        "failed",
        "none of 2 nodes can run its pods; the closest is gpu-1: kubernetes.io/arch is arm64, and images "
        "are for amd64",
    )
    check_finding(
        finding,
        "failed",
        "name the platform of your images in cluster.pools.gpu.node_selector, as kubernetes.io/arch: amd64",
    )
    assert check(GPU % ("kubernetes.io/arch: arm64", TOLERATED))["nodes: gpu"].result == "ok"
    cluster.add(node("gpu-1", {"kubernetes.io/os": "windows"}, taint, gpu="8"))
    check_finding(check()["nodes: gpu"], "failed", "kubernetes.io/os is windows, and images are for linux")


def test_nodes_of_several_platforms(cluster: KubernetesApi) -> None:
    """Kubernetes ignores the platform of an image."""
    cluster.add(
        node("arm-1", {"kubernetes.io/arch": "arm64"}),
        node("arm-2", {"kubernetes.io/arch": "arm64"}, ("mine:NoSchedule",)),
    )
    finding = check()["nodes: cpu"]
    check_finding(
        finding,
        "warning",
        "1 of 4 nodes can run its pods: cpu-1; but pods may also be sent to arm-1, and fail there: "
        "kubernetes.io/arch is arm64",
    )
    check_finding(finding, "warning", "cluster.pools.cpu.node_selector", "kubernetes.io/arch: amd64")
    assert check("pools: {cpu: {node_selector: {kubernetes.io/arch: amd64}}}")["nodes: cpu"].result == "ok"


def test_a_cluster_without_nodes(cluster: KubernetesApi) -> None:
    for name in ("cpu-1", "gpu-1"):
        cluster.remove(f"nodes/{name}")
    check_finding(check()["nodes: gpu"], "unknown", "the cluster has no nodes", "autoscaler")


# Without permissions, and without an answer


def test_a_check_without_its_permission_is_skipped(
    cluster: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.hidden = {
        "nodes",
        "secrets",
        "configmaps",
        "serviceaccounts",
        "namespaces",
        "localsubjectaccessreviews",
        "selfsubjectreviews",
    }
    monkeypatch.setenv("KFP_TOKEN", token_of("ml:jobs"))
    findings = check(NEEDED + "\nca: {config_map: our-ca}\npull_secrets: [pull]", MANY)
    assert {name for name, finding in findings.items() if finding.result == "ok"} == {"cluster"}
    assert {finding.result for finding in findings.values()} == {"ok", "skipped"}
    check_finding(
        findings["nodes: gpu"],
        "skipped",
        "no permission to list nodes",
        "grant list on nodes",
        "doctor.clusterRead=true",
    )
    check_finding(
        findings["secret keys"], "skipped", "no permission to read it", "grant get on secret keys in ml"
    )
    check_finding(findings["config map our-ca"], "skipped", "grant get on config map our-ca in ml")
    check_finding(findings["pull secret pull"], "skipped", "grant get on secret pull in ml")
    check_finding(findings["service account"], "skipped", "grant get on service account default-editor in ml")
    check_finding(
        findings["permissions: registration"],
        "skipped",
        f"permissions of {JOBS.replace('tools', 'ml')}",
        "grant create on localsubject",
    )
    check_finding(findings["cluster"], "ok", "as a user whose name is not known")


def test_expired_credentials(cluster: KubernetesApi) -> None:
    path = Path(cluster.authority).with_name("kubeconfig")
    path.write_text(path.read_text().replace(TOKEN, "another"))
    findings = check()
    check_finding(findings["cluster"], "failed", "does not accept the credentials (401)", "log in again")
    assert {finding.result for name, finding in findings.items() if name != "cluster"} == {"skipped"}


def test_a_cluster_that_does_not_answer(cluster: KubernetesApi) -> None:
    path = Path(cluster.authority).with_name("kubeconfig")
    path.write_text(path.read_text().replace(cluster.url, f"https://127.0.0.1:{free_port()}"))
    check_finding(check()["cluster"], "failed", "does not answer", "Connection refused", "KUBECONFIG")


def test_a_cluster_that_is_not_trusted(cluster: KubernetesApi) -> None:
    path = Path(cluster.authority).with_name("kubeconfig")
    settings = yaml.safe_load(path.read_text())
    del settings["clusters"][0]["cluster"]["certificate-authority"]
    path.write_text(yaml.safe_dump(settings))
    check_finding(check()["cluster"], "failed", "does not answer", "CERTIFICATE_VERIFY_FAILED")


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (
            500,
            b"<html>",
            "answers HTTP 500 to the request to get the version: the answer is not one of the Kubernetes API",
        ),
        (200, b"<html>", "is not one of the Kubernetes API"),
        (200, b"{}", "is not one of the Kubernetes API"),
        (200, b"[]", "is not one of the Kubernetes API"),
        (200, b"null", "is no Kubernetes API"),
        (200, b"", "is not one of the Kubernetes API"),
        (404, b"", "is no Kubernetes API"),
        (503, b'{"message": "etcd is slow"}', "HTTP 503 to the request to get the version: etcd is slow"),
        (
            503,
            b"[]",
            "HTTP 503 to the request to get the version: the answer is not one of the Kubernetes API",
        ),
    ],
)
def test_answers_that_are_not_of_the_kubernetes_api(
    cluster: KubernetesApi, status: int, body: bytes, words: str
) -> None:
    cluster.fault = (status, body)
    findings = check()
    check_finding(findings["cluster"], "failed", cluster.url, words)
    assert "report it" not in findings["cluster"].fix
    assert findings["nodes: gpu"] == Finding("nodes: gpu", "skipped", "the cluster cannot be reached")


def test_without_a_kubeconfig() -> None:
    findings = check()
    check_finding(
        findings["cluster"],
        "skipped",
        "neither in a cluster nor with a kubeconfig",
        "set KUBECONFIG, or run this in the cluster",
    )
    assert {finding.result for finding in findings.values()} == {"skipped"}


def changed_kubeconfig(cluster: KubernetesApi, change: Any) -> str:
    """The text of the kubeconfig after a change."""
    settings = yaml.safe_load(Path(cluster.authority).with_name("kubeconfig").read_text())
    change(settings)
    return yaml.safe_dump(settings)


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (lambda settings: settings.update({"current-context": "gone"}), "Expected object with name gone"),
        (lambda settings: settings.pop("current-context"), "Expected key current-context"),
        (
            lambda settings: settings["clusters"][0]["cluster"].update(
                {"certificate-authority": "/nowhere/ca"}
            ),
            "File does not exist: /nowhere/ca",
        ),
        (lambda settings: settings["users"][0].update({"user": None, "token": SECRET}), "Expected key user"),
        (lambda settings: settings.update({"users": [SECRET]}), "to have 'name' key"),
        (lambda settings: settings.update({"clusters": {"c": SECRET}}), "cannot be used"),
        (f"users: [token: {SECRET}", "ParserError"),
        (f"- {SECRET}", "cannot be used"),
        ("", "empty"),
        (f"users: *{SECRET}", "ComposerError"),
    ],
)
@pytest.mark.parametrize("named_by", ["KUBECONFIG", "HOME"])
def test_a_kubeconfig_that_is_broken(
    cluster: KubernetesApi,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    broken: Any,
    why: str,
    named_by: str,
) -> None:
    """The finding names the file, and shows nothing of what is in it."""
    (path := tmp_path / ".kube" / "config").parent.mkdir()
    path.write_text(broken if isinstance(broken, str) else changed_kubeconfig(cluster, broken))
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv(named_by, str(path if named_by == "KUBECONFIG" else tmp_path))
    finding = check()["cluster"]
    shown = path if named_by == "KUBECONFIG" else "~/.kube/config"
    check_finding(
        finding, "failed", f"the kubeconfig {shown} cannot be used", why, "name another in KUBECONFIG"
    )
    assert not [secret for secret in (SECRET, TOKEN) if secret in repr(finding)]


def test_a_kubeconfig_that_cannot_be_read(
    cluster: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.setenv("KUBECONFIG", f"/nowhere/config:{tmp_path / 'folder'}")
    check_finding(
        check()["cluster"], "failed", f"the kubeconfig {tmp_path / 'folder'} cannot be used", "Is a directory"
    )


def test_without_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    check_finding(
        check()["cluster"], "skipped", "the kubernetes client is not installed", "apportion[pipeline]"
    )


def test_inside_a_cluster(cluster: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the account of the pod, in the namespace of the pod."""
    host, _, port = cluster.url.removeprefix("https://").partition(":")
    for name, text in {"token": TOKEN, "namespace": "ml\n"}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_CERT_FILENAME", str(cluster.authority))
    monkeypatch.setattr("apportion.doctor.kubernetes.OWN_NAMESPACE", tmp_path / "namespace")
    answer = cluster.answer

    def answer_to_pod(method: str, path: str, token: str, body: bytes) -> tuple[int, bytes]:
        return answer(method, path, token.replace("bearer", "Bearer"), body)

    monkeypatch.setattr(cluster, "answer", answer_to_pod)
    cluster.user = "system:serviceaccount:ml:jobs"
    monkeypatch.setenv("KFP_TOKEN", token_of("ml:jobs"))
    for kubeflow in (MANY, ONE):  # also with KFP for one user, as the pod is where the chart is
        findings = check(kubeflow=kubeflow, namespace=None)
        assert {finding.result for finding in findings.values()} <= {"ok", "skipped"}
        check_finding(findings["service account"], "ok", "in namespace ml")
    # Every account has the permission for this request.
    assert [request for request in cluster.requests if request.path.endswith("/selfsubjectaccessreviews")]
    (tmp_path / "token").write_text("")
    check_finding(
        check(kubeflow=MANY)["cluster"],
        "failed",
        "the pod's service account cannot be used",
        "automountServiceAccountToken",
    )


def test_a_check_has_a_time_limit(cluster: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes longer does not stop the others."""
    monkeypatch.setattr(checking, "CHECK_SECONDS", 0.3)
    monkeypatch.setattr(client.CoreV1Api, "list_node", lambda *_, **__: time.sleep(2))
    findings = check()
    check_finding(findings["nodes: gpu"], "failed", "no answer within 0.3 s")
    assert findings["service account"].result == "ok"
