"""What pods may do, what they may reach, and where credentials are: field by field, for everything that the chart renders."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from chart import EVERYTHING, EXTERNAL, MONITORING, Object, configuration, ids, names, only, pods, render, situation, variables

from apportion.doctor.cluster import REGISTRATION, RUNNING

PIPELINES_GROUP = "pipelines.kubeflow.org"
PART = "app.kubernetes.io/part-of"
EVENTS = [{"apiGroups": [""], "resources": ["events"], "verbs": ["create"]}]
AZURE = "11111111-1111-1111-1111-111111111111"
TRACKING = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "tracking"}}}
LOCAL = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ml"}}}
KUBEFLOW = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kubeflow"}}}
WORLD = [
    {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}},
    {"ipBlock": {"cidr": "::/0", "except": ["fe80::/10", "fd00:ec2::254/128"]}},
]
OF_KFP = (8888, 8887, 8080, 8333, 9000)
COMPONENTS = ("register", "schedule", "unschedule", "submit", "lifecycle", "doctor")


def policies(values: dict[str, Any] | None = None, **told: Any) -> dict[str, Object]:
    found = [o for o in render(values, **told) if o["kind"] == "NetworkPolicy"]
    return {o["metadata"]["name"].removeprefix("apportion-"): o["spec"] for o in found}


def tcp(*ports: int) -> list[Object]:
    return [{"protocol": "TCP", "port": port} for port in ports]


def rule(policy: Object) -> Object:
    return policy["egress"][0]  # type: ignore[no-any-return]


def selects(policy: Object, labels: dict[str, str]) -> bool:
    selector = policy["podSelector"]
    assert selector.keys() <= {"matchLabels", "matchExpressions"}
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "NotIn"
        if labels.get(expression["key"]) in expression["values"]:
            return False
    return bool(selector["matchLabels"].items() <= labels.items())


# Pods


def test_pods_are_restricted(objects: list[Object]) -> None:
    """The Pod Security Standards' profile `restricted`, and a read-only root beside."""
    for _, pod in pods(objects):
        spec = pod["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers", "ephemeralContainers"} & spec.keys()
        assert spec["securityContext"] == {
            "runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001, "seccompProfile": {"type": "RuntimeDefault"},
        }  # fmt: skip
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001, "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
            }  # fmt: skip
            assert not any("hostPort" in port for port in container.get("ports", []))
        for volume in spec["volumes"]:
            assert (volume.keys() - {"name"}) <= {"configMap", "emptyDir", "projected"}


def test_pods_have_bounds(objects: list[Object]) -> None:
    for _, pod in pods(objects):
        for container in pod["spec"]["containers"]:
            for bound in ("requests", "limits"):
                assert container["resources"][bound].keys() >= {"cpu", "memory"}
        for volume in pod["spec"]["volumes"]:
            if "emptyDir" in volume:
                assert volume["emptyDir"]["sizeLimit"]


def test_pods_know_no_services_by_variables(objects: list[Object]) -> None:
    for _, pod in pods(objects):
        assert pod["spec"]["enableServiceLinks"] is False


def test_only_the_doctor_has_a_token_of_the_kubernetes_api(objects: list[Object]) -> None:
    for name, pod in pods(objects):
        assert pod["spec"]["automountServiceAccountToken"] is name.endswith("-doctor")


def test_the_writable_folders_are_those_of_the_images(objects: list[Object]) -> None:
    for _, pod in pods(objects):
        mounts = pod["spec"]["containers"][0]["volumeMounts"]
        assert {mount["mountPath"] for mount in mounts if not mount.get("readOnly")} == {"/work", "/tmp"}


def test_what_checkov_is_told_to_skip_has_a_reason(objects: list[Object]) -> None:
    for o in objects:
        for name, text in (o["metadata"].get("annotations") or {}).items():
            if name.startswith("checkov.io/"):
                assert re.fullmatch(r"CKV_K8S_\d+=.{40,}", text)


# Credentials


def test_no_secret_is_rendered(objects: list[Object]) -> None:
    assert not names(objects, "Secret")


def test_credentials_are_references(objects: list[Object]) -> None:
    for _, pod in pods(objects):
        for name, value in variables(pod).items():
            if re.search("SECRET|TOKEN|PASSW|ACCESS_KEY", name) and not name.endswith("_FILE"):
                assert value.keys() == {"secretKeyRef"}


def test_existing_secrets_are_waited_for() -> None:
    """By runs and by every Job but the doctor."""
    objects = situation("secrets") + _lifecycle({"s3": {"existingSecret": "my-s3"}})
    assert [secret["optional"] for secret in configuration(objects)["cluster"]["secrets"]] == [False, False]
    found = _references(dict(pods(objects))["apportion-lifecycle"])
    assert found["AWS_ACCESS_KEY_ID"] == {"name": "my-s3", "key": "AWS_ACCESS_KEY_ID", "optional": False}
    for name in ("register", "unschedule", "submit"):
        assert _references(dict(pods(objects))[f"apportion-{name}"]) == {"KFP_TOKEN": {"name": "my-kfp", "key": "token", "optional": False}}


def test_the_doctor_starts_without_what_it_is_to_miss() -> None:
    """A pod that waits for a Secret or an authority would never say that they are missing."""
    secret, other = ({"name": "mine", "key": key} for key in ("a", "b"))
    told: Object = {name: {"existingSecret": f"my-{name}"} for name in ("s3", "mlflow", "kfp")} | {"ca": {"configMap": "authority"}}
    told["jobs"] = {
        "extraEnv": [{"name": "A", "valueFrom": {"secretKeyRef": secret}}, {"name": "B", "valueFrom": {"configMapKeyRef": other}}]
    }
    found = dict(pods(render(told)))
    assert _references(found["apportion-doctor"]) == {
        "AWS_ACCESS_KEY_ID": {"name": "my-s3", "key": "AWS_ACCESS_KEY_ID", "optional": True},
        "AWS_SECRET_ACCESS_KEY": {"name": "my-s3", "key": "AWS_SECRET_ACCESS_KEY", "optional": True},
        "MLFLOW_TRACKING_USERNAME": {"name": "my-mlflow", "key": "MLFLOW_TRACKING_USERNAME", "optional": True},
        "MLFLOW_TRACKING_PASSWORD": {"name": "my-mlflow", "key": "MLFLOW_TRACKING_PASSWORD", "optional": True},
        "KFP_TOKEN": {"name": "my-kfp", "key": "token", "optional": True},
        "A": secret | {"optional": True},
        "B": other | {"optional": True},
    }
    assert _references(found["apportion-register"])["A"] == secret
    for name, pod in found.items():
        (volume,) = (volume["configMap"] for volume in pod["spec"]["volumes"] if volume["name"] == "ca")
        assert volume["optional"] is (name == "apportion-doctor")


def test_the_doctor_says_that_the_authority_is_missing(tmp_path: Path) -> None:
    """Its variables name a file that is not there then, in the store, MLflow and KFP; the table comes all the same."""
    objects = render({
        "ca": {"configMap": "authority"}, "s3": {"endpoint": "https://localhost:9"}, "kfp": {"host": "https://localhost:9"},
        "config": {"tracking": {"uri": "https://localhost:9"}},
    })  # fmt: skip
    config, command = tmp_path / "config.yaml", dict(pods(objects))["apportion-doctor"]["spec"]["containers"][0]["command"]
    config.write_text(only(objects, "ConfigMap")["data"]["config.yaml"])
    told = {name: value for name, value in variables(dict(pods(objects))["apportion-doctor"]).items() if isinstance(value, str)}
    own = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MLFLOW_", "KUBE", "KFP_", "KF_"))}
    environment = own | told | {"HOME": str(tmp_path), "COLUMNS": "200", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    del environment["KFP_TOKEN_FILE"]
    program = Path(sys.executable).with_name(command[0])
    done = subprocess.run([program, *command[1:-1], config], capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for check in ("store", "tracking", "kfp", "cluster", "config map authority"):
        assert re.search(rf"^{check} ", done.stdout, re.MULTILINE), done.stdout + done.stderr
    assert "/etc/apportion/ca/ca.crt" in done.stdout


def _references(pod: Object) -> Object:
    """What each variable is from, where that is a Secret or a ConfigMap."""
    return {name: next(iter(value.values())) for name, value in variables(pod).items() if isinstance(value, dict)}


def test_secrets_that_nobody_named_are_optional() -> None:
    secrets = configuration(render())["cluster"]["secrets"]
    assert [(secret["name"], secret["optional"]) for secret in secrets] == [("apportion-s3", True), ("apportion-mlflow", True)]


def test_keys_of_secrets_may_have_other_names() -> None:
    objects = render({"s3": {"existingSecret": "minio", "accessKeyIdKey": "rootUser", "secretAccessKeyKey": "rootPassword"}})
    assert configuration(objects)["cluster"]["secrets"][0] == {
        "name": "minio", "optional": False, "env": {"AWS_ACCESS_KEY_ID": "rootUser", "AWS_SECRET_ACCESS_KEY": "rootPassword"},
    }  # fmt: skip
    assert variables(dict(pods(objects))["apportion-doctor"])["AWS_SECRET_ACCESS_KEY"]["secretKeyRef"]["key"] == "rootPassword"


def test_mlflow_may_ask_for_a_token() -> None:
    objects = render({"mlflow": {"existingSecret": "mine", "tokenKey": "token"}})
    assert configuration(objects)["cluster"]["secrets"][1]["env"] == {"MLFLOW_TRACKING_TOKEN": "token"}
    given = variables(dict(pods(objects))["apportion-doctor"])
    assert given["MLFLOW_TRACKING_TOKEN"] == {"secretKeyRef": {"name": "mine", "key": "token", "optional": True}}
    assert "MLFLOW_TRACKING_PASSWORD" not in given


def test_jobs_get_the_credentials_of_what_they_use_only() -> None:
    found = {name.removeprefix("apportion-"): variables(pod).keys() for name, pod in pods(situation("secrets") + _lifecycle())}
    assert "KFP_TOKEN" in found["register"]
    assert "AWS_ACCESS_KEY_ID" not in found["register"]
    assert "AWS_ACCESS_KEY_ID" in found["lifecycle"]
    assert not {"KFP_TOKEN", "MLFLOW_TRACKING_PASSWORD"} & found["lifecycle"]
    assert {"KFP_TOKEN", "AWS_ACCESS_KEY_ID", "MLFLOW_TRACKING_PASSWORD"} <= found["doctor"]


def _lifecycle(values: Object | None = None) -> list[Object]:
    return [only(render((values or {}) | {"lifecycle": {"enabled": True}}), "Job", "apportion-lifecycle")]


def test_kfp_gets_a_token_for_its_audience_alone() -> None:
    pod = dict(pods(render()))["apportion-register"]
    (volume,) = (volume for volume in pod["spec"]["volumes"] if volume["name"] == "kfp-token")
    assert volume["projected"]["sources"] == [
        {"serviceAccountToken": {"audience": "pipelines.kubeflow.org", "expirationSeconds": 3600, "path": "token"}}
    ]
    assert variables(pod)["KFP_TOKEN_FILE"] == "/var/run/secrets/kubeflow/pipelines/token"


def test_the_doctor_speaks_to_kfp_where_nothing_else_does() -> None:
    pod = dict(pods(render({"kfp": {"host": ""}, "pipeline": {"mode": "none"}})))["apportion-doctor"]
    assert variables(pod)["KFP_TOKEN_FILE"] == "/var/run/secrets/kubeflow/pipelines/token"


def test_a_secret_for_kfp_replaces_that_token() -> None:
    pod = dict(pods(situation("secrets")))["apportion-register"]
    assert "kfp-token" not in {volume["name"] for volume in pod["spec"]["volumes"]}
    assert "KFP_TOKEN_FILE" not in variables(pod)


def test_external_secrets() -> None:
    objects = situation("everything")
    assert only(objects, "ExternalSecret", "apportion-s3")["spec"] == {
        "refreshInterval": "1h",
        "secretStoreRef": {"kind": "SecretStore", "name": "vault"},
        "target": {"name": "apportion-s3", "creationPolicy": "Owner"},
        "data": [
            {"secretKey": key, "remoteRef": {"key": "stores/s3", "property": key}} for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        ],
    }
    assert all(not secret["optional"] for secret in configuration(objects)["cluster"]["secrets"])


def test_external_secrets_for_some() -> None:
    values = {"externalSecrets": {"enabled": True, "storeName": "vault"}, "mlflow": {"externalKey": "mlflow"}}
    assert names(render(values, apis=(EXTERNAL,)), "ExternalSecret") == {"apportion-mlflow"}


# Identity and permissions


@pytest.mark.parametrize(
    ("values", "annotation"),
    [
        ({"awsRoleArn": "arn:aws:iam::123456789012:role/a"}, {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/a"}),
        ({"gcpServiceAccount": "a@b.iam.gserviceaccount.com"}, {"iam.gke.io/gcp-service-account": "a@b.iam.gserviceaccount.com"}),
        ({"azureClientId": AZURE}, {"azure.workload.identity/client-id": AZURE}),
        ({"annotations": {"a": "b"}}, {"a": "b"}),
    ],
    ids=["aws", "gcp", "azure", "own"],
)  # fmt: skip
def test_identity_of_the_cloud(values: Object, annotation: Object) -> None:
    """On the account of runs and, but for what is said of one, on that of Jobs: doctor and lifecycle need the bucket too."""
    objects = render({"serviceAccount": values, "jobs": {"serviceAccount": {"annotations": {"c": "d"}}}})
    assert only(objects, "ServiceAccount", "apportion")["metadata"]["annotations"] == annotation
    theirs = {} if values.keys() == {"annotations"} else annotation
    assert only(objects, "ServiceAccount", "apportion-jobs")["metadata"]["annotations"] == theirs | {"c": "d"}


def test_the_account_of_runs_has_a_token_and_that_of_jobs_none() -> None:
    """Argo's executor reports by it."""
    objects = render()
    assert only(objects, "ServiceAccount", "apportion")["automountServiceAccountToken"] is True
    assert only(objects, "ServiceAccount", "apportion-jobs")["automountServiceAccountToken"] is False


def test_pods_of_azure_may_be_marked_for_an_account_of_ones_own() -> None:
    label = {"azure.workload.identity/use": "true"}
    objects = render({"runs": {"serviceAccount": "mine", "labels": label}, "jobs": {"podLabels": label}})
    assert label.items() <= configuration(objects)["cluster"]["labels"].items()
    assert all(label.items() <= pod["metadata"]["labels"].items() for _, pod in pods(objects))


def test_azure_marks_pods_too() -> None:
    objects = situation("everything")
    label = {"azure.workload.identity/use": "true"}
    assert all(label.items() <= pod["metadata"]["labels"].items() for _, pod in pods(objects))
    assert label.items() <= configuration(objects)["cluster"]["labels"].items()


def test_jobs_have_an_account_of_their_own() -> None:
    objects = render({"doctor": {"clusterRead": True}})
    assert {pod["spec"]["serviceAccountName"] for _, pod in pods(objects)} == {"apportion-jobs"}
    assert configuration(objects)["cluster"]["kfp"]["service_account"] == "apportion"
    assert only(objects, "RoleBinding", "apportion-jobs")["subjects"][0]["name"] == "apportion-jobs"
    assert only(objects, "RoleBinding", "apportion-runs")["subjects"][0]["name"] == "apportion"
    assert only(objects, "ClusterRoleBinding")["subjects"][0]["name"] == "apportion-jobs"


def test_jobs_may_share_the_account_of_runs() -> None:
    objects = render({"jobs": {"serviceAccount": {"create": False}}})
    assert {pod["spec"]["serviceAccountName"] for _, pod in pods(objects)} == {"apportion"}
    assert {o["subjects"][0]["name"] for o in objects if o["kind"] == "RoleBinding"} == {"apportion"}


def test_runs_may_act_as_an_account_of_kfp() -> None:
    objects = render({"runs": {"serviceAccount": "pipeline-runner"}})
    assert configuration(objects)["cluster"]["kfp"]["service_account"] == "pipeline-runner"
    assert ("Role", "apportion-runs") not in ids(objects)
    assert names(objects, "ServiceAccount") == {"apportion-jobs"}  # nobody would use the other


def test_no_role_is_for_everybody(objects: list[Object]) -> None:
    for o in objects:
        if o["kind"].endswith("RoleBinding"):
            assert "default" not in {subject["name"] for subject in o["subjects"]}


def test_permissions_are_few(objects: list[Object]) -> None:
    for o in objects:
        if o["kind"] not in ("Role", "ClusterRole"):
            continue
        for found in o["rules"]:
            assert "*" not in found["verbs"] + found["resources"] + found["apiGroups"]
            if "secrets" in found["resources"]:
                assert found["verbs"] == ["get"]
                assert found["resourceNames"]
            if found["resources"] == ["localsubjectaccessreviews"]:
                assert found["verbs"] == ["create"]  # which asks and changes nothing
            if found["apiGroups"] == [""] and set(found["verbs"]) & {"create", "update", "patch", "delete"}:
                assert found["resources"] == ["events"]  # what `everything` adds by rbac.extraRules


def test_the_cluster_is_read_where_that_is_asked_for_only() -> None:
    assert not names(render(), "ClusterRole", "ClusterRoleBinding")
    role = only(render({"doctor": {"clusterRead": True}}), "ClusterRole")
    assert role["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list"]}]


# What the account of Jobs may do: each rule, by the values that it takes

KFP = [
    (PIPELINES_GROUP, ["pipelines", "pipelines/versions", "experiments", "runs"], None, ["get", "list", "create"]),
    (PIPELINES_GROUP, ["jobs"], None, ["get", "list", "create", "delete", "enable"]),
]
LOOKS = [
    ("", ["serviceaccounts"], ["apportion"], ["get"]),
    ("authorization.k8s.io", ["localsubjectaccessreviews"], None, ["create"]),
    ("", ["namespaces"], ["ml"], ["get"]),
]
SECRETS = ("", ["secrets"], ["apportion-mlflow", "apportion-s3"], ["get"])
MANY: Object = {"kfp": {"multiUser": True}}
ALONE: Object = {"doctor": {"enabled": False}}


def rights(values: Object, name: str = "jobs") -> list[Any]:
    """The rules of a Role, whole; none where there is no such Role."""
    roles = [o for o in render(values) if o["kind"] == "Role" and o["metadata"]["name"] == f"apportion-{name}"]
    for found in (rule for role in roles for rule in role["rules"]):
        assert found.keys() <= {"apiGroups", "resources", "resourceNames", "verbs"}
    return [
        (*found["apiGroups"], found["resources"], found.get("resourceNames"), found["verbs"]) for role in roles for found in role["rules"]
    ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, [SECRETS, *LOOKS]),
        (MANY, [*KFP, SECRETS, *LOOKS]),
        (MANY | ALONE, KFP),
        (ALONE, []),
        ({"kfp": {"multiUser": True, "host": ""}, "pipeline": {"mode": "none"}}, [SECRETS, *LOOKS]),
        ({"kfp": {"multiUser": True, "host": ""}, "pipeline": {"mode": "none"}} | ALONE, []),
        ({"schedule": {"enabled": True}, "lifecycle": {"enabled": True}, "rbac": {"extraRules": EVENTS}}, [SECRETS, *LOOKS]),
        ({"doctor": {"clusterRead": True, "images": True}}, [SECRETS, *LOOKS]),
        ({"mlflow": {"enabled": False}}, [("", ["secrets"], ["apportion-s3"], ["get"]), *LOOKS]),
        ({"ca": {"configMap": "trust"}}, [SECRETS, ("", ["configmaps"], ["trust"], ["get"]), *LOOKS]),
        (
            {"volumes": [{"claim": "drawings", "path": "/data"}, {"claim": "nets", "path": "/nets"}]},
            [SECRETS, ("", ["persistentvolumeclaims"], ["drawings", "nets"], ["get"]), *LOOKS],
        ),
        ({"runs": {"serviceAccount": "pipeline-runner"}}, [SECRETS, ("", ["serviceaccounts"], ["pipeline-runner"], ["get"]), *LOOKS[1:]]),
        (
            {name: {"existingSecret": f"my-{name}"} for name in ("s3", "mlflow", "kfp")} | {"images": {"pullSecrets": ["registry"]}},
            [("", ["secrets"], ["my-kfp", "my-mlflow", "my-s3", "registry"], ["get"]), *LOOKS],
        ),
    ],
    ids=str,
)  # fmt: skip
def test_what_jobs_may_do(values: Object, expected: list[Any]) -> None:
    assert rights(values) == expected


def test_jobs_may_do_what_the_doctor_says_that_registering_takes() -> None:
    granted = {
        (verb, group, *resource.split("/"))
        for group, resources, _, verbs in rights(MANY | ALONE)
        for resource in resources
        for verb in verbs
    }
    assert granted == {tuple(part for part in right[:4] if part) for right in REGISTRATION}


def test_runs_may_do_what_the_doctor_asks_of_them() -> None:
    granted = {
        (verb, group, resource, name)
        for group, resources, named, verbs in rights({}, "runs")
        for resource in resources
        for verb in verbs
        for name in named or [None]
    }
    assert {(right.verb, right.group, right.resource, right.name) for right in RUNNING} <= granted


def test_runs_may_be_given_more() -> None:
    assert rights({"rbac": {"extraRules": EVENTS}}, "runs")[-1] == ("", ["events"], None, ["create"])


# Network


def test_every_pod_is_denied_by_default(objects: list[Object]) -> None:
    if ("NetworkPolicy", "apportion-default-deny") not in ids(objects):
        assert objects == situation("nothing")
        return
    deny = only(objects, "NetworkPolicy", "apportion-default-deny")["spec"]
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & deny.keys()
    for _, pod in pods(objects):
        assert selects(deny, pod["metadata"]["labels"])
    assert selects(deny, configuration(objects)["cluster"]["labels"])


@pytest.mark.parametrize(
    ("component", "allowed"),
    [
        (None, {"dns", "kfp", "s3", "mlflow", "kubernetes"}),  # a run's pod
        ("doctor", {"dns", "kfp", "s3", "mlflow", "kubernetes"}),
        ("register", {"dns", "kfp"}),
        ("schedule", {"dns", "kfp"}),
        ("unschedule", {"dns", "kfp"}),
        ("submit", {"dns", "kfp"}),
        ("lifecycle", {"dns", "s3"}),
    ],
)
def test_what_each_pod_may_reach(component: str | None, allowed: set[str]) -> None:
    labels = {"app.kubernetes.io/part-of": "apportion"} | ({"app.kubernetes.io/component": component} if component else {})
    found = {name for name, policy in policies().items() if "egress" in policy and selects(policy, labels)}
    assert found == allowed


def test_components_are_those_that_policies_know() -> None:
    labels = [pod["metadata"]["labels"]["app.kubernetes.io/component"] for _, pod in pods(situation("everything"))]
    assert sorted(labels) == sorted(COMPONENTS)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("http://mlflow.tracking.svc.cluster.local:5000", [{"to": [TRACKING]}]),
        ("http://mlflow.tracking.svc:5000", [{"to": [TRACKING]}]),
        ("http://mlflow-0.mlflow.tracking.svc.cluster.local:5000", [{"to": [TRACKING]}]),
        ("http://mlflow:5000", [{"to": [LOCAL]}]),
        ("http://mlflow.tracking:5000", [{"to": [TRACKING]}, {"to": WORLD, "ports": tcp(5000)}]),  # a service, or a host
        ("https://mlflow.example.com", [{"to": WORLD, "ports": tcp(443)}]),
        ("http://mlflow.example.com", [{"to": WORLD, "ports": tcp(80)}]),
        ("https://mlflow.example.com:8443/path", [{"to": WORLD, "ports": tcp(8443)}]),
        ("http://192.0.2.7:5000", [{"to": WORLD, "ports": tcp(5000)}]),
        ("http://[2001:db8::7]:5000", [{"to": WORLD, "ports": tcp(5000)}]),
        ("https://[2001:db8::7]", [{"to": WORLD, "ports": tcp(443)}]),
    ],
)  # fmt: skip
def test_peers_are_derived_from_addresses(host: str, expected: list[Object]) -> None:
    assert policies({"config": {"tracking": {"uri": host}}})["mlflow"]["egress"] == expected


@pytest.mark.parametrize(
    ("kfp", "namespace", "expected"),
    [
        ({}, "ml", []),
        ({"host": ""}, "ml", []),  # runs are submitted from outside, and need metadata and the object store all the same
        ({"host": "http://ml-pipeline.kubeflow:8888"}, "ml", []),
        ({"host": "http://ml-pipeline:8888"}, "kubeflow", []),
        ({"host": "http://ml-pipeline:8888"}, "ml", [{"to": [LOCAL]}]),
        ({"host": "https://kubeflow.example.com/pipeline"}, "ml", [{"to": WORLD, "ports": tcp(443)}]),
        ({"host": "https://kubeflow.example.com:8443/pipeline", "multiUser": True}, "ml", [{"to": WORLD, "ports": tcp(8443)}]),
        ({"host": "http://gateway.tracking.svc.cluster.local"}, "ml", [{"to": [TRACKING]}]),
    ],
    ids=str,
)
def test_kfp_is_its_own_services_and_its_address(kfp: Object, namespace: str, expected: list[Object]) -> None:
    values = {"kfp": kfp} | ({} if kfp.get("host", "x") else {"pipeline": {"mode": "none"}})
    found = policies(values, namespace=namespace)["kfp"]["egress"]
    assert found == [{"to": [KUBEFLOW], "ports": tcp(*OF_KFP)}, *expected]


def test_kfp_may_be_in_another_namespace() -> None:
    found = policies({"kfp": {"namespace": "tracking"}})["kfp"]["egress"]
    assert found == [{"to": [TRACKING], "ports": tcp(*OF_KFP)}, {"to": [KUBEFLOW]}]


def test_told_peers_of_kfp_are_for_both() -> None:
    to = [{"ipBlock": {"cidr": "203.0.113.0/24"}}]
    found = policies({"kfp": {"host": "https://kubeflow.example.com"}, "networkPolicy": {"kfp": {"to": to}}})["kfp"]["egress"]
    assert found == [{"to": to, "ports": tcp(*OF_KFP)}, {"to": to, "ports": tcp(443)}]


def test_told_peers_keep_the_port_of_an_address() -> None:
    to = [{"ipBlock": {"cidr": "203.0.113.0/24"}}]
    for endpoint, ports in (
        ("https://s3.example.com:9000", {"ports": tcp(9000)}),
        ("http://minio.storage:9000", {}),
        ("http://minio:9000", {}),
    ):
        assert policies({"s3": {"endpoint": endpoint}, "networkPolicy": {"s3": {"to": to}}})["s3"]["egress"] == [{"to": to} | ports]


def test_aws_is_reached_where_no_endpoint_is_told() -> None:
    assert rule(policies()["s3"])["ports"] == [{"protocol": "TCP", "port": 443}]


@pytest.mark.parametrize(
    ("values", "addresses", "ports"),
    [
        ({"gcpServiceAccount": "a@b.iam.gserviceaccount.com"}, ["169.254.169.254/32", "169.254.169.252/32"], (80, 988)),
        ({"eksPodIdentity": True}, ["169.254.170.23/32", "fd00:ec2::23/128"], (80,)),
    ],
    ids=["gke", "eks"],
)
def test_an_identity_gets_its_token_from_the_node(values: Object, addresses: list[str], ports: tuple[int, ...]) -> None:
    found = policies({"serviceAccount": values})
    assert found["identity"]["egress"] == [{"to": [{"ipBlock": {"cidr": cidr}} for cidr in addresses], "ports": tcp(*ports)}]
    assert found.keys() - policies().keys() == {"identity"}
    assert found["s3"] == policies()["s3"]
    chosen = {c for c in (*COMPONENTS, "") if selects(found["identity"], {PART: "apportion", "app.kubernetes.io/component": c})}
    assert chosen == {"", "doctor", "lifecycle"}


def test_the_kubernetes_api_is_anywhere_until_told() -> None:
    """As values.yaml, README.md and docs/security.md say."""
    assert policies()["kubernetes"]["egress"] == [{"ports": tcp(443, 6443)}]


def test_what_is_not_used_is_not_reached() -> None:
    assert "mlflow" not in policies({"mlflow": {"enabled": False}})
    assert not policies({"networkPolicy": {"enabled": False}})


def test_metrics_come_in_where_they_are_scraped() -> None:
    values = {"monitoring": {"podMonitor": {"enabled": True}}}
    assert "metrics" not in policies(values)
    (ingress,) = policies(values, apis=(MONITORING,))["metrics"]["ingress"]
    assert ingress["ports"] == [{"protocol": "TCP", "port": "metrics"}]
    assert ingress["from"]


def test_further_egress() -> None:
    assert policies({"networkPolicy": {"extraEgress": [{"ports": [{"protocol": "TCP", "port": 3128}]}]}})["extra"]["egress"] == [
        {"ports": [{"protocol": "TCP", "port": 3128}]}
    ]


def test_nothing_of_the_values_that_are_references_leaks() -> None:
    """The text of everything rendered has no key material; what it may have is names."""
    text = json.dumps(render(None, EVERYTHING, apis=(EXTERNAL, MONITORING)))
    assert not re.search(r"AKIA[0-9A-Z]{16}|-----BEGIN|eyJhbGciOi", text)


def test_what_runs_may_do() -> None:
    """Exactly what KFP's launcher and Argo's executor need."""
    rules = only(render(), "Role", "apportion-runs")["rules"]
    assert [(found["resources"], found.get("resourceNames"), found["verbs"]) for found in rules] == [
        (["workflowtaskresults"], None, ["create", "patch"]),
        (["workflowtasksets"], None, ["list", "watch"]),
        (["workflowtasksets/status"], None, ["patch"]),
        (["pods"], None, ["get", "list", "watch"]),
        (["configmaps"], ["kfp-launcher"], ["get"]),
        (["secrets"], ["mlpipeline-minio-artifact"], ["get"]),
    ]
