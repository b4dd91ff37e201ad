"""What the doctor finds in a cluster, through the real Kubernetes client and a server that answers as a test says."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client
from kubernetes_api import SECRET, TOKEN, KubernetesApi, named, node, secret, token_of
from servers import free_port

from apportion import doctor
from apportion.config import Cluster
from apportion.doctor import Finding, checking
from apportion.doctor.cluster import check_cluster
from apportion.doctor.kubeflow import Kubeflow
from apportion.doctor.kubernetes import Opened

MANY, ONE = Kubeflow(True, (2, 17)), Kubeflow(False, (2, 17))
PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


def found(told: str = "", kubeflow: Kubeflow = ONE, namespace: str | None = "ml") -> dict[str, Finding]:
    """Findings by check, for a `cluster` section in YAML."""
    section = yaml.safe_load(told) or {}
    section["kfp"] = {"namespace": namespace} | section.get("kfp", {})
    findings = list(check_cluster(Cluster.model_validate(section), kubeflow))
    assert len({finding.check for finding in findings}) == len(findings)
    return {finding.check: finding for finding in findings}


def says(finding: Finding, result: str, *words: str) -> None:
    text = f"{finding.found} → {finding.mend}"
    assert finding.result == result, text
    assert not [word for word in words if word not in text], text


def test_all_is_well(cluster: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_TOKEN", token_of("ml:jobs"))
    findings = found(kubeflow=MANY)
    assert {finding.result for finding in findings.values()} == {"ok"}
    assert not any(finding.mend for finding in findings.values())
    says(findings["cluster"], "ok", "Kubernetes v1.33.2", cluster.url, "as jane")
    says(findings["namespace"], "ok", "ml; Pod Security enforces restricted")
    says(findings["secret apportion-s3"], "ok", "has AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY")
    says(findings["service account"], "ok", "default-editor in namespace ml")
    says(findings["permissions: runs"], "ok", "default-editor may do what a run's pods do")
    says(findings["permissions: ours"], "ok", "system:serviceaccount:ml:jobs may register, run and schedule in ml")
    says(findings["nodes: gpu"], "ok", "1 of 2 nodes fit: gpu-1")
    says(findings["nodes: cpu"], "ok", "1 of 2 nodes fit: cpu-1")


def test_nothing_is_changed(cluster: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads, and asks for reviews, which keep nothing."""
    monkeypatch.setenv("KFP_TOKEN", token_of("ml:jobs"))
    found(NEEDED + "\nca: {config_map: our-ca}\npull_secrets: [pull]\nvolumes: [{claim: drawings, path: /data}]", MANY)
    assert {asked.method for asked in cluster.asked} == {"GET", "POST"}
    assert all("review" in asked.path for asked in cluster.asked if asked.method == "POST")
    assert [asked for asked in cluster.asked if "/secrets/" in asked.path]
    assert not [asked for asked in cluster.asked if asked.path.endswith("/secrets")]  # Secrets are asked for by name, never listed


# Namespaces


def test_the_namespace(cluster: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says(found("kfp: {namespace: other}")["namespace"], "failed", "there is no namespace other", "kubectl create namespace other")
    for kubeflow in (MANY, Kubeflow()):
        says(found(namespace=None, kubeflow=kubeflow)["namespace"], "ok", "ml; Pod Security")
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path)))
    said = found(namespace=None, kubeflow=MANY)["namespace"]
    says(said, "failed", "there is no namespace kubeflow", "is from cluster.kfp.namespace (null: KFP's usual one)")
    cluster.hidden = {"namespaces"}
    says(found()["namespace"], "skipped", "we may not see the namespace", "grant get on namespace ml", "is from cluster.kfp.namespace")


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
    """Whatever the kubeconfig's context names: `ml`. Every mend says where the namespace is from."""
    findings = found(f"kfp: {{host: {host!r}}}", ONE, None)
    by = f"; namespace {namespace} is from cluster.kfp.namespace (null: KFP's, which has the runs of its one user beside itself)"
    says(findings["service account"], "failed", f"there is no service account pipeline-runner in namespace {namespace}", by)
    lacking = [finding for check, finding in findings.items() if finding.mend and not check.startswith("nodes")]
    assert len(lacking) == 4
    assert all(finding.mend.endswith(by) for finding in lacking)
    cluster.add(named("ServiceAccount", "pipeline-runner", namespace))
    assert found(f"kfp: {{host: {host!r}}}", ONE, None)["service account"].result == "ok"
    assert found(f"kfp: {{host: {host!r}, namespace: ml}}", ONE)["service account"].found == "pipeline-runner in namespace ml"


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
def test_pod_security(cluster: KubernetesApi, level: str | None, version: Any, result: str, word: str) -> None:
    cluster.add(named("Namespace", "ml", labels={"pod-security.kubernetes.io/enforce": level} if level else None))
    says(found(kubeflow=Kubeflow(False, version))["namespace"], result, word)


# Secrets, certificates

NEEDED = "secrets: [{name: keys, env: {AWS_ACCESS_KEY_ID: id, AWS_SECRET_ACCESS_KEY: key}}]"
OPTIONAL = NEEDED.replace("}}]", "}, optional: true}]")


def test_a_missing_secret(cluster: KubernetesApi) -> None:
    create = "kubectl -n ml create secret generic keys --from-literal=id=… --from-literal=key=…"
    says(found(NEEDED)["secret keys"], "failed", "it is not in namespace ml; no pod starts without", create)
    says(found(OPTIONAL)["secret keys"], "warning", "optional, so pods start without AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY", create)


def test_a_missing_key(cluster: KubernetesApi) -> None:
    cluster.add(secret("keys", id=SECRET, other=SECRET))
    says(found(NEEDED)["secret keys"], "failed", "without key; it has id, other", "correct cluster.secrets")
    says(found(OPTIONAL)["secret keys"], "warning", "without key; it has id, other")
    cluster.add(secret("keys", id=SECRET, key=""))
    says(found(NEEDED)["secret keys"], "failed", "without key")
    cluster.add(secret("keys"))
    says(found(NEEDED)["secret keys"], "failed", "without id, key; it has nothing")


def test_white_space_around_a_value(cluster: KubernetesApi) -> None:
    cluster.add(secret("keys", id=SECRET, key=SECRET + "\n"))
    says(found(NEEDED)["secret keys"], "warning", "white space surrounds key, as `echo` without -n leaves it")


def test_no_value_of_a_secret_is_shown(cluster: KubernetesApi, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither as it is nor encoded, in no form of what is said, whatever goes wrong."""
    caplog.set_level(logging.DEBUG)
    said = []
    cluster.add(secret("keys", id=SECRET, key=f"{SECRET} \n"), secret("pull", "kubernetes.io/dockerconfigjson"))
    for data in (b"{", b"[]", b'{"auths": {"r.io": {"auth": "%%"}}}', f'{{"auths": {{"r.io": {{"password": "{SECRET}"}}}}}}'.encode()):
        cluster.add(secret("pull", "kubernetes.io/dockerconfigjson", **{".dockerconfigjson": data.decode()}))
        findings = list(found(NEEDED + "\npull_secrets: [pull]").values())
        said += [doctor.to_json(findings), repr(findings)]
    monkeypatch.setattr("apportion.doctor.kubernetes.Opened.padded", lambda self, key: json.loads(self.data["no such key"]))
    findings = list(found(NEEDED).values())
    assert "report it" in next(finding.mend for finding in findings if finding.check == "secret keys")
    assert SECRET not in repr(Opened("Opaque", {"key": SECRET}))
    text = "\n".join([*said, doctor.to_json(findings), caplog.text])
    encoded = secret("x", x=SECRET).data["x"].rstrip("=")[:-2]
    assert not [value for value in (SECRET, encoded, TOKEN) if value in text]


def test_an_authority_of_ones_own(cluster: KubernetesApi) -> None:
    told = "ca: {config_map: our-ca, key: ca.crt}"
    says(found(told)["config map our-ca"], "failed", "no pod starts without", "create configmap our-ca --from-file=ca.crt=FILE")
    cluster.add(named("ConfigMap", "our-ca", "ml", data={"root.pem": PEM}))
    says(found(told)["config map our-ca"], "failed", "without ca.crt; it has root.pem", "correct cluster.ca.key")
    cluster.add(named("ConfigMap", "our-ca", "ml", data={"ca.crt": "x"}))
    says(found(told)["config map our-ca"], "failed", "ca.crt holds no certificate")
    cluster.add(named("ConfigMap", "our-ca", "ml", data={"ca.crt": PEM * 2}))
    says(found(told)["config map our-ca"], "ok", "has ca.crt, 2 certificates")


def test_a_claim_of_images(cluster: KubernetesApi) -> None:
    told = "volumes: [{claim: drawings, path: /data}]"
    says(found(told)["volume drawings"], "failed", "there is no claim drawings in namespace ml", "cluster.volumes")
    for phase, result, says_so in [
        ("Pending", "warning", "not bound yet"),
        ("Lost", "failed", "lost its volume"),
        ("Bound", "ok", "bound"),
    ]:
        spec = client.V1PersistentVolumeClaimSpec(access_modes=["ReadOnlyMany"])
        status = client.V1PersistentVolumeClaimStatus(phase=phase)
        cluster.add(named("PersistentVolumeClaim", "drawings", "ml", spec=spec, status=status))
        says(found(told)["volume drawings"], result, says_so)


def test_pull_secrets(cluster: KubernetesApi) -> None:
    told = "pull_secrets: [pull]"
    says(found(told)["pull secret pull"], "failed", "not in namespace ml", "create secret docker-registry pull")
    cluster.add(secret("pull", user=SECRET))
    says(found(told)["pull secret pull"], "failed", "its type is Opaque, expected kubernetes.io/dockerconfigjson")
    kind = "kubernetes.io/dockerconfigjson"
    cluster.add(secret("pull", kind, **{".dockerconfigjson": "{}"}))
    says(found(told)["pull secret pull"], "failed", "it names no registry")
    auths = {"https://index.docker.io/v1/": {"auth": ""}, "ghcr.io": {"username": "u", "password": SECRET}}
    cluster.add(secret("pull", kind, **{".dockerconfigjson": json.dumps({"auths": auths})}))
    says(found(told)["pull secret pull"], "ok", "for docker.io, ghcr.io")


# Accounts


def test_service_accounts(cluster: KubernetesApi) -> None:
    says(found(kubeflow=MANY)["service account"], "ok", "default-editor")
    says(found(kubeflow=ONE)["service account"], "ok", "pipeline-runner")
    findings = found("kfp: {service_account: credits}")
    says(findings["service account"], "failed", "there is no service account credits in namespace ml", "cluster.kfp.service_account")
    says(findings["permissions: runs"], "skipped", "there is no service account credits")


def test_permissions_of_runs(cluster: KubernetesApi) -> None:
    cluster.denied = {"patch workflowtaskresults", "get configmaps"}
    said = found(kubeflow=MANY)["permissions: runs"]
    says(said, "failed", "default-editor may not patch workflowtaskresults.argoproj.io, get configmaps kfp-launcher in ml", "rbac.create")
    reviews = [asked.body["spec"] for asked in cluster.asked if asked.path.endswith("localsubjectaccessreviews")]
    assert {review["user"] for review in reviews} == {"system:serviceaccount:ml:default-editor"}
    assert "system:serviceaccounts:ml" in reviews[0]["groups"]
    cluster.denied, cluster.hidden = set(), {"serviceaccounts"}
    assert found()["permissions: runs"].result == "ok"  # it may be there
    cluster.hidden = {"localsubjectaccessreviews"}
    says(found()["permissions: runs"], "skipped", "grant create on localsubjectaccessreviews.authorization.k8s.io in ml")


JOBS = "system:serviceaccount:tools:jobs"


def test_our_own_permissions_are_those_of_the_token(cluster: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """KFP asks for the rights of whom the token is of, and not of whom the kubeconfig is of."""
    monkeypatch.setenv("KFP_TOKEN", token_of("tools:jobs"))
    cluster.denied = {f"{JOBS}: {right}" for right in ("create runs", "enable jobs", "create pipelines/versions")}
    said = found(kubeflow=MANY)["permissions: ours"]
    words = "create pipelines/versions.pipelines.kubeflow.org, create runs.pipelines.kubeflow.org, enable jobs.pipelines.kubeflow.org in ml"
    says(said, "failed", f"{JOBS} may not {words}", "bind a role with these to it")
    reviews = [asked.body["spec"] for asked in cluster.asked if asked.body and asked.body["spec"].get("user") == JOBS]
    assert {review["resourceAttributes"]["namespace"] for review in reviews} == {"ml"}
    assert reviews[0]["groups"] == ["system:serviceaccounts", "system:serviceaccounts:tools", "system:authenticated"]
    cluster.denied = {"jane: create runs"}
    (path := tmp_path / "token").write_text(token_of("tools:jobs") + "\n")
    monkeypatch.delenv("KFP_TOKEN")
    for variable in ("KF_PIPELINES_SA_TOKEN_PATH", "KFP_TOKEN_FILE"):
        monkeypatch.setenv(variable, str(path))
        says(found(kubeflow=MANY)["permissions: ours"], "ok", f"{JOBS} may register, run and schedule in ml")
    says(found(kubeflow=ONE)["permissions: ours"], "skipped", "KFP for one user asks for none")
    says(found(kubeflow=Kubeflow())["permissions: ours"], "skipped", "nothing is known of KFP")


def test_which_permissions_are_asked_for(cluster: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """What KFP's API server asks for, and what its launcher and Argo's executor do; the chart grants the same."""
    monkeypatch.setenv("KFP_TOKEN", token_of("tools:jobs"))
    found(kubeflow=MANY)
    asked: dict[str, set[tuple[str, ...]]] = {}
    for review in [asked.body["spec"] for asked in cluster.asked if asked.path.endswith("/localsubjectaccessreviews")]:
        of = review["resourceAttributes"]
        right = (of["verb"], of["group"], "/".join(filter(None, [of["resource"], of.get("subresource"), of.get("name")])))
        asked.setdefault(review["user"], set()).add(right)
    kinds = ("pipelines", "pipelines/versions", "experiments", "runs", "jobs")
    registering = {(verb, "pipelines.kubeflow.org", kind) for kind in kinds for verb in ("get", "list", "create")}
    assert asked[JOBS] == registering | {(verb, "pipelines.kubeflow.org", "jobs") for verb in ("delete", "enable")}
    executor = {(verb, "argoproj.io", "workflowtaskresults") for verb in ("create", "patch")}
    assert asked["system:serviceaccount:ml:default-editor"] == executor | {("get", "", "pods"), ("get", "", "configmaps/kfp-launcher")}


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
def test_a_token_of_whom_is_not_known(cluster: KubernetesApi, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("KFP_TOKEN", token)
    said = found(kubeflow=MANY)["permissions: ours"]
    says(said, "skipped", "is not of a service account" if token else "no token", "whose rights it asks for is not known here")
    assert SECRET not in repr(said)
    assert not [asked for asked in cluster.asked if asked.body and "create" in str(asked.body) and "runs" in str(asked.body)]


def test_a_token_that_cannot_be_read(cluster: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_TOKEN_FILE", "/nowhere/token")
    says(found(kubeflow=MANY)["permissions: ours"], "failed", "cannot read /nowhere/token")


# Nodes

GPU = "pools: {gpu: {node_selector: {%s}, tolerations: [%s]}}"
TOLERATED = "{key: nvidia.com/gpu, operator: Exists}"


def test_a_selector_that_no_node_matches(cluster: KubernetesApi) -> None:
    cluster.add(node("gpu-2", {"pool": "gpu", "model": "a10"}, ("nvidia.com/gpu=present:NoSchedule",), gpu="1"))
    said = found(GPU % ("pool: gpu, model: h100", TOLERATED))["nodes: gpu"]
    says(said, "failed", "none of 3 nodes fits; nearest is gpu-1: label model=h100: it has none; 0 of 3 nodes have it")
    says(said, "failed", "change cluster.pools.gpu.node_selector, or kubectl label node gpu-1 model=h100", "autoscaler")
    cluster.add(node("gpu-1", {"pool": "gpu", "model": "h200"}, ("nvidia.com/gpu=present:NoSchedule",), gpu="8"))
    says(found(GPU % ("model: h100", TOLERATED))["nodes: gpu"], "failed", "it has 'h200'")


def test_the_nearest_of_nodes_lacks_the_least(cluster: KubernetesApi) -> None:
    cluster.add(node("a-far", {"pool": "x"}, ("mine:NoExecute",)), node("near", {"pool": "gpu"}, ("mine=yes:NoSchedule",), gpu="4"))
    cluster.remove("nodes/gpu-1")
    said = found(GPU % ("pool: gpu", TOLERATED))["nodes: gpu"]
    says(said, "failed", "none of 3 nodes fits; nearest is near: taint mine=yes:NoSchedule is not tolerated")
    says(said, "failed", "add {key: mine, operator: Equal, value: yes, effect: NoSchedule} to cluster.pools.gpu.tolerations")


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
    assert found(GPU % ("", toleration))["nodes: gpu"].result == ("ok" if fits else "failed")


def test_taints_that_keep_nobody_away(cluster: KubernetesApi) -> None:
    cluster.add(node("cpu-1", {}, ("busy:PreferNoSchedule",)))
    assert found()["nodes: cpu"].result == "ok"


def test_a_node_that_is_cordoned_or_not_ready(cluster: KubernetesApi) -> None:
    cluster.add(node("cpu-1", {}, ("node.kubernetes.io/unschedulable:NoSchedule",)))
    says(found()["nodes: cpu"], "failed", "node.kubernetes.io/unschedulable:NoSchedule", "see what is wrong with the node (unschedulable)")
    cluster.add(node("cpu-1", {}, ("node.kubernetes.io/not-ready:NoExecute",)))
    says(found()["nodes: cpu"], "failed", "node.kubernetes.io/not-ready:NoExecute", "see what is wrong with the node (not-ready)")
    assert "namespace" not in found()["nodes: cpu"].mend


def test_nodes_without_the_accelerator(cluster: KubernetesApi) -> None:
    cluster.add(node("gpu-1", {}, (), gpu="0"))
    says(found()["nodes: gpu"], "failed", "nvidia.com/gpu: 0 of 1 asked for", "install the device plugin that offers nvidia.com/gpu")
    cluster.add(node("gpu-1", {}, (), gpu="2"))
    says(found("pools: {gpu: {accelerators: 4}}")["nodes: gpu"], "failed", "nvidia.com/gpu: 2 of 4 asked for", "ask for less")


def test_nodes_that_are_too_small(cluster: KubernetesApi) -> None:
    assert found("pools: {cpu: {cpu: 7910m, memory: 31Gi}}")["nodes: cpu"].result == "ok"  # to the last
    said = found("pools: {cpu: {cpu: 8, memory: 32Gi}}")["nodes: cpu"]
    says(
        said,
        "failed",
        "cpu: 7.91 of 8 asked for; memory: 31 Gi of 32 Gi asked for",
        "cluster.pools.cpu (cpu)",
        "cluster.pools.cpu (memory)",
    )


def test_stages_that_ask_for_more_than_their_pool(cluster: KubernetesApi) -> None:
    findings = found("stages: {train: {memory: 64Gi}, plan: {pool: gpu}}")
    says(findings["nodes: gpu (train)"], "failed", "31 Gi of 64 Gi")
    says(findings["nodes: gpu (plan, prune, finetune, sample, score)"], "ok", "gpu-1")


def test_nodes_of_another_platform(cluster: KubernetesApi) -> None:
    taint = ("nvidia.com/gpu=present:NoSchedule",)
    cluster.add(node("gpu-1", {"kubernetes.io/arch": "arm64"}, taint, gpu="8"))
    said = found()["nodes: gpu"]
    says(said, "failed", "none of 2 nodes fits; nearest is gpu-1: kubernetes.io/arch is arm64, and images are for amd64")
    says(said, "failed", "say in cluster.pools.gpu.node_selector what images are for, as kubernetes.io/arch: amd64")
    assert found(GPU % ("kubernetes.io/arch: arm64", TOLERATED))["nodes: gpu"].result == "ok"
    cluster.add(node("gpu-1", {"kubernetes.io/os": "windows"}, taint, gpu="8"))
    says(found()["nodes: gpu"], "failed", "kubernetes.io/os is windows, and images are for linux")


def test_nodes_of_several_platforms(cluster: KubernetesApi) -> None:
    """Kubernetes takes no notice of what an image is for."""
    cluster.add(node("arm-1", {"kubernetes.io/arch": "arm64"}), node("arm-2", {"kubernetes.io/arch": "arm64"}, ("mine:NoSchedule",)))
    said = found()["nodes: cpu"]
    says(said, "warning", "1 of 4 nodes fit: cpu-1; but pods may go to arm-1 too, and fail there: kubernetes.io/arch is arm64")
    says(said, "warning", "cluster.pools.cpu.node_selector", "kubernetes.io/arch: amd64")
    assert found("pools: {cpu: {node_selector: {kubernetes.io/arch: amd64}}}")["nodes: cpu"].result == "ok"


def test_a_cluster_without_nodes(cluster: KubernetesApi) -> None:
    for name in ("cpu-1", "gpu-1"):
        cluster.remove(f"nodes/{name}")
    says(found()["nodes: gpu"], "failed", "the cluster has no nodes", "autoscaler")


# Where we may not look, or nobody answers


def test_what_we_may_not_see_is_skipped(cluster: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.hidden = {"nodes", "secrets", "configmaps", "serviceaccounts", "namespaces", "localsubjectaccessreviews", "selfsubjectreviews"}
    monkeypatch.setenv("KFP_TOKEN", token_of("ml:jobs"))
    findings = found(NEEDED + "\nca: {config_map: our-ca}\npull_secrets: [pull]", MANY)
    assert {check for check, finding in findings.items() if finding.result == "ok"} == {"cluster"}
    assert {finding.result for finding in findings.values()} == {"ok", "skipped"}
    says(findings["nodes: gpu"], "skipped", "we may not list nodes", "grant list on nodes", "doctor.clusterRead=true")
    says(findings["secret keys"], "skipped", "we may not see it", "grant get on secret keys in ml")
    says(findings["config map our-ca"], "skipped", "grant get on config map our-ca in ml")
    says(findings["pull secret pull"], "skipped", "grant get on secret pull in ml")
    says(findings["service account"], "skipped", "grant get on service account default-editor in ml")
    says(findings["permissions: ours"], "skipped", f"permissions of {JOBS.replace('tools', 'ml')}", "grant create on localsubject")
    says(findings["cluster"], "ok", "as somebody")


def test_credentials_past_their_time(cluster: KubernetesApi) -> None:
    path = Path(cluster.authority).with_name("kubeconfig")
    path.write_text(path.read_text().replace(TOKEN, "another"))
    findings = found()
    says(findings["cluster"], "failed", "does not know who we are (401)", "log in again")
    assert {finding.result for check, finding in findings.items() if check != "cluster"} == {"skipped"}


def test_a_cluster_that_does_not_answer(cluster: KubernetesApi) -> None:
    path = Path(cluster.authority).with_name("kubeconfig")
    path.write_text(path.read_text().replace(cluster.url, f"https://127.0.0.1:{free_port()}"))
    says(found()["cluster"], "failed", "does not answer", "Connection refused", "KUBECONFIG")


def test_a_cluster_that_is_not_trusted(cluster: KubernetesApi) -> None:
    told = yaml.safe_load((path := Path(cluster.authority).with_name("kubeconfig")).read_text())
    del told["clusters"][0]["cluster"]["certificate-authority"]
    path.write_text(yaml.safe_dump(told))
    says(found()["cluster"], "failed", "does not answer", "CERTIFICATE_VERIFY_FAILED")


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (500, b"<html>", "answers HTTP 500, asked to ask for the version: no answer of the Kubernetes API"),
        (200, b"<html>", "answers what no Kubernetes API does"),
        (200, b"{}", "answers what no Kubernetes API does"),
        (200, b"[]", "answers what no Kubernetes API does"),
        (200, b"null", "is no Kubernetes API"),
        (200, b"", "answers what no Kubernetes API does"),
        (404, b"", "is no Kubernetes API"),
        (503, b'{"message": "etcd is slow"}', "HTTP 503, asked to ask for the version: etcd is slow"),
        (503, b"[]", "HTTP 503, asked to ask for the version: no answer of the Kubernetes API"),
    ],
)
def test_what_is_no_cluster(cluster: KubernetesApi, status: int, body: bytes, words: str) -> None:
    cluster.broken = (status, body)
    findings = found()
    says(findings["cluster"], "failed", cluster.url, words)
    assert "report it" not in findings["cluster"].mend
    assert findings["nodes: gpu"] == Finding("nodes: gpu", "skipped", "there is no cluster to ask")


def test_without_a_kubeconfig() -> None:
    findings = found()
    says(findings["cluster"], "skipped", "neither in a cluster nor with a kubeconfig", "set KUBECONFIG, or run this in the cluster")
    assert {finding.result for finding in findings.values()} == {"skipped"}


def configured(cluster: KubernetesApi, change: Any) -> str:
    """The text of a kubeconfig after a change."""
    told = yaml.safe_load(Path(cluster.authority).with_name("kubeconfig").read_text())
    change(told)
    return yaml.safe_dump(told)


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (lambda told: told.update({"current-context": "gone"}), "Expected object with name gone"),
        (lambda told: told.pop("current-context"), "Expected key current-context"),
        (lambda told: told["clusters"][0]["cluster"].update({"certificate-authority": "/nowhere/ca"}), "File does not exist: /nowhere/ca"),
        (lambda told: told["users"][0].update({"user": None, "token": SECRET}), "Expected key user"),
        (lambda told: told.update({"users": [SECRET]}), "to have 'name' key"),
        (lambda told: told.update({"clusters": {"c": SECRET}}), "cannot be used"),
        (f"users: [token: {SECRET}", "ParserError"),
        (f"- {SECRET}", "cannot be used"),
        ("", "empty"),
        (f"users: *{SECRET}", "ComposerError"),
    ],
)
@pytest.mark.parametrize("named_by", ["KUBECONFIG", "HOME"])
def test_a_kubeconfig_that_is_broken(
    cluster: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Any, why: str, named_by: str
) -> None:
    """It fails, with the name of the file and nothing of what is in it."""
    (path := tmp_path / ".kube" / "config").parent.mkdir()
    path.write_text(broken if isinstance(broken, str) else configured(cluster, broken))
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv(named_by, str(path if named_by == "KUBECONFIG" else tmp_path))
    said = found()["cluster"]
    shown = path if named_by == "KUBECONFIG" else "~/.kube/config"
    says(said, "failed", f"the kubeconfig {shown} cannot be used", why, "name another in KUBECONFIG")
    assert not [secret for secret in (SECRET, TOKEN) if secret in repr(said)]


def test_a_kubeconfig_that_may_not_be_read(cluster: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.setenv("KUBECONFIG", f"/nowhere/config:{tmp_path / 'folder'}")
    says(found()["cluster"], "failed", f"the kubeconfig {tmp_path / 'folder'} cannot be used", "Is a directory")


def test_without_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    says(found()["cluster"], "skipped", "the kubernetes client is not installed", "apportion[pipeline]")


def test_inside_a_cluster(cluster: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the pod's own account, in the pod's own namespace."""
    host, _, port = cluster.url.removeprefix("https://").partition(":")
    for name, text in {"token": TOKEN, "namespace": "ml\n"}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_CERT_FILENAME", str(cluster.authority))
    monkeypatch.setattr("apportion.doctor.kubernetes.OWN", tmp_path / "namespace")
    cluster.answer, answer = lambda method, path, token, body: answer(method, path, token.replace("bearer", "Bearer"), body), cluster.answer
    cluster.user = "system:serviceaccount:ml:jobs"
    monkeypatch.setenv("KFP_TOKEN", token_of("ml:jobs"))
    for kubeflow in (MANY, ONE):  # KFP for one user too: the pod is where the chart is
        findings = found(kubeflow=kubeflow, namespace=None)
        assert {finding.result for finding in findings.values()} <= {"ok", "skipped"}
        says(findings["service account"], "ok", "in namespace ml")
    assert [asked for asked in cluster.asked if asked.path.endswith("/selfsubjectaccessreviews")]  # which everybody may ask for
    (tmp_path / "token").write_text("")
    says(found(kubeflow=MANY)["cluster"], "failed", "the pod's service account cannot be used", "automountServiceAccountToken")


def test_a_check_has_its_seconds(cluster: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes longer does not stop the others."""
    import time

    monkeypatch.setattr(checking, "SECONDS", 0.3)
    monkeypatch.setattr(client.CoreV1Api, "list_node", lambda *_, **__: time.sleep(5))
    findings = found()
    says(findings["nodes: gpu"], "failed", "no answer within 0.3 s")
    assert findings["service account"].result == "ok"
