"""What pods are allowed to do and connect to, and where credentials are: field by field, for everything that
the chart renders."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from chart import (
    MONITORING,
    SECRETS,
    Object,
    configuration,
    ids,
    names,
    only,
    pods,
    render,
    situation,
    variables,
)

from apportion.doctor.cluster import REGISTRATION, RUNNING

PIPELINES_GROUP = "pipelines.kubeflow.org"
PART = "app.kubernetes.io/part-of"
COMPONENT = "app.kubernetes.io/component"
COMPONENTS = ("register", "schedule", "unschedule", "submit", "lifecycle", "doctor")
EVENTS = [{"apiGroups": [""], "resources": ["events"], "verbs": ["create"]}]
AZURE = "11111111-1111-1111-1111-111111111111"
GOOGLE = "a@b.iam.gserviceaccount.com"
ROLE = "arn:aws:iam::123456789012:role/a"


def in_namespace(name: str) -> Object:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


TRACKING, LOCAL, KUBEFLOW = in_namespace("tracking"), in_namespace("ml"), in_namespace("kubeflow")
WORLD = [
    {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}},
    {"ipBlock": {"cidr": "::/0", "except": ["fe80::/10", "fd00:ec2::254/128"]}},
]
OF_KFP = (8888, 8887, 8080, 8333, 9000)


def policies(values: dict[str, Any] | None = None, **options: Any) -> dict[str, Object]:
    """The specifications of the network policies, by name."""
    objects = [o for o in render(values, **options) if o["kind"] == "NetworkPolicy"]
    return {o["metadata"]["name"].removeprefix("apportion-"): o["spec"] for o in objects}


def tcp(*ports: int) -> list[Object]:
    return [{"protocol": "TCP", "port": port} for port in ports]


def selects(policy: Object, labels: dict[str, str]) -> bool:
    """Whether the policy is for pods with these labels."""
    selector = policy["podSelector"]
    assert selector.keys() <= {"matchLabels", "matchExpressions"}
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "NotIn"
        if labels.get(expression["key"]) in expression["values"]:
            return False
    return bool(selector["matchLabels"].items() <= labels.items())


# Pods


def test_pods_are_restricted(objects: list[Object]) -> None:
    """They meet the profile `restricted` of the Pod Security Standards, and their root is read-only."""
    user = {"runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001}
    profile = {"seccompProfile": {"type": "RuntimeDefault"}}
    for _, pod in pods(objects):
        spec = pod["spec"]
        forbidden = {"hostNetwork", "hostPID", "hostIPC", "initContainers", "ephemeralContainers"}
        assert not forbidden & spec.keys()
        assert spec["securityContext"] == {**user, "fsGroup": 10001, **profile}
        for container in spec["containers"]:
            assert container["securityContext"] == {
                **user,
                **profile,
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert not any("hostPort" in port for port in container.get("ports", []))
        for volume in spec["volumes"]:
            assert (volume.keys() - {"name"}) <= {"configMap", "emptyDir", "projected"}


def test_pods_have_limits(objects: list[Object]) -> None:
    for _, pod in pods(objects):
        for container in pod["spec"]["containers"]:
            for kind in ("requests", "limits"):
                assert container["resources"][kind].keys() >= {"cpu", "memory"}
        for volume in pod["spec"]["volumes"]:
            if "emptyDir" in volume:
                assert volume["emptyDir"]["sizeLimit"]


def test_pods_have_no_variables_of_services(objects: list[Object]) -> None:
    for _, pod in pods(objects):
        assert pod["spec"]["enableServiceLinks"] is False


def test_only_the_doctor_has_a_token_of_the_kubernetes_api(objects: list[Object]) -> None:
    for name, pod in pods(objects):
        assert pod["spec"]["automountServiceAccountToken"] is name.endswith("-doctor")


def test_the_writable_folders_are_those_of_the_images(objects: list[Object]) -> None:
    for _, pod in pods(objects):
        mounts = pod["spec"]["containers"][0]["volumeMounts"]
        assert {mount["mountPath"] for mount in mounts if not mount.get("readOnly")} == {"/work", "/tmp"}


def test_each_check_that_checkov_skips_has_a_reason(objects: list[Object]) -> None:
    for o in objects:
        for name, text in (o["metadata"].get("annotations") or {}).items():
            if name.startswith("checkov.io/"):
                assert re.fullmatch(r"CKV_K8S_\d+=.{40,}", text)


# Credentials


def test_no_secret_is_rendered(objects: list[Object]) -> None:
    assert not names(objects, "Secret")
    assert not re.search(r"AKIA[0-9A-Z]{16}|-----BEGIN|eyJhbGciOi", json.dumps(objects))


def test_credentials_are_references(objects: list[Object]) -> None:
    for _, pod in pods(objects):
        for name, value in variables(pod).items():
            if re.search("SECRET|TOKEN|PASSW|ACCESS_KEY", name) and not name.endswith("_FILE"):
                assert value.keys() == {"secretKeyRef"}


def references(pod: Object) -> Object:
    """Where each variable is from, if that is a Secret or a ConfigMap."""
    return {
        name: next(iter(value.values())) for name, value in variables(pod).items() if isinstance(value, dict)
    }


def lifecycle(values: Object) -> Object:
    """The pod of the Job of that name, which is off in the situation `secrets`."""
    objects = render(values | {"lifecycle": {"enabled": True}})
    return dict(pods(objects))["apportion-lifecycle"]


def test_pods_wait_for_existing_secrets() -> None:
    """Those of runs and of every Job but the doctor."""
    objects = situation("secrets")
    assert [secret["optional"] for secret in configuration(objects)["cluster"]["secrets"]] == [False, False]
    key = {"name": "my-s3", "key": "AWS_ACCESS_KEY_ID", "optional": False}
    assert references(lifecycle(SECRETS))["AWS_ACCESS_KEY_ID"] == key
    token = {"name": "my-kfp", "key": "token", "optional": False}
    for name in ("register", "unschedule", "submit"):
        assert references(dict(pods(objects))[f"apportion-{name}"]) == {"KFP_TOKEN": token}


def test_the_doctor_starts_without_what_it_reports_as_missing() -> None:
    """A pod that waits for a Secret or an authority could not report that they are missing."""
    secret, other = ({"name": "mine", "key": key} for key in ("a", "b"))
    extra = [
        {"name": "A", "valueFrom": {"secretKeyRef": secret}},
        {"name": "B", "valueFrom": {"configMapKeyRef": other}},
    ]
    values: Object = SECRETS | {"ca": {"configMap": "authority"}, "jobs": {"extraEnv": extra}}
    templates = dict(pods(render(values)))
    assert references(templates["apportion-doctor"]) == {
        "AWS_ACCESS_KEY_ID": {"name": "my-s3", "key": "AWS_ACCESS_KEY_ID", "optional": True},
        "AWS_SECRET_ACCESS_KEY": {"name": "my-s3", "key": "AWS_SECRET_ACCESS_KEY", "optional": True},
        "MLFLOW_TRACKING_USERNAME": {
            "name": "my-mlflow",
            "key": "MLFLOW_TRACKING_USERNAME",
            "optional": True,
        },
        "MLFLOW_TRACKING_PASSWORD": {
            "name": "my-mlflow",
            "key": "MLFLOW_TRACKING_PASSWORD",
            "optional": True,
        },
        "KFP_TOKEN": {"name": "my-kfp", "key": "token", "optional": True},
        "A": secret | {"optional": True},
        "B": other | {"optional": True},
    }
    assert references(templates["apportion-register"])["A"] == secret
    for name, pod in templates.items():
        (volume,) = (volume["configMap"] for volume in pod["spec"]["volumes"] if volume["name"] == "ca")
        assert volume["optional"] is (name == "apportion-doctor")


def test_the_doctor_reports_that_the_authority_is_missing(tmp_path: Path) -> None:
    """Variables name a file that does not exist then, for the store, MLflow and KFP. The doctor prints its
    table all the same."""
    values = {
        "ca": {"configMap": "authority"},
        "s3": {"endpoint": "https://localhost:9"},
        "kfp": {"host": "https://localhost:9"},
        "config": {"tracking": {"uri": "https://localhost:9"}},
    }
    objects = render(values)
    pod = dict(pods(objects))["apportion-doctor"]
    config = tmp_path / "config.yaml"
    config.write_text(only(objects, "ConfigMap")["data"]["config.yaml"])
    prefixes = ("AWS_", "MLFLOW_", "KUBE", "KFP_", "KF_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    environment |= {name: value for name, value in variables(pod).items() if isinstance(value, str)}
    environment |= {"HOME": str(tmp_path), "COLUMNS": "200"}
    environment |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    del environment["KFP_TOKEN_FILE"]

    program, *arguments = pod["spec"]["containers"][0]["command"]
    command = [Path(sys.executable).with_name(program), *arguments[:-1], config]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for check in ("store", "tracking", "kfp", "cluster", "config map authority"):
        assert re.search(rf"^{check} ", done.stdout, re.MULTILINE), done.stdout + done.stderr
    assert "/etc/apportion/ca/ca.crt" in done.stdout


def test_secrets_that_values_do_not_name_are_optional() -> None:
    secrets = configuration(render())["cluster"]["secrets"]
    optional = [(secret["name"], secret["optional"]) for secret in secrets]
    assert optional == [("apportion-s3", True), ("apportion-mlflow", True)]


def test_keys_of_secrets_can_have_other_names() -> None:
    """Those of the bucket, and a token of MLflow in place of user and password."""
    s3 = {"existingSecret": "minio", "accessKeyIdKey": "rootUser", "secretAccessKeyKey": "rootPassword"}
    objects = render({"s3": s3, "mlflow": {"existingSecret": "mine", "tokenKey": "token"}})
    of_s3, of_mlflow = configuration(objects)["cluster"]["secrets"]
    keys = {"AWS_ACCESS_KEY_ID": "rootUser", "AWS_SECRET_ACCESS_KEY": "rootPassword"}
    assert of_s3 == {"name": "minio", "optional": False, "env": keys}
    assert of_mlflow["env"] == {"MLFLOW_TRACKING_TOKEN": "token"}
    given = references(dict(pods(objects))["apportion-doctor"])
    assert given["AWS_SECRET_ACCESS_KEY"]["key"] == "rootPassword"
    assert given["MLFLOW_TRACKING_TOKEN"] == {"name": "mine", "key": "token", "optional": True}
    assert "MLFLOW_TRACKING_PASSWORD" not in given


def test_jobs_get_the_credentials_of_what_they_use_only() -> None:
    templates = dict(pods(situation("secrets")))
    register = variables(templates["apportion-register"]).keys()
    assert "KFP_TOKEN" in register
    assert "AWS_ACCESS_KEY_ID" not in register
    of_lifecycle = variables(lifecycle(SECRETS)).keys()
    assert "AWS_ACCESS_KEY_ID" in of_lifecycle
    assert not {"KFP_TOKEN", "MLFLOW_TRACKING_PASSWORD"} & of_lifecycle
    doctor = variables(templates["apportion-doctor"]).keys()
    assert {"KFP_TOKEN", "AWS_ACCESS_KEY_ID", "MLFLOW_TRACKING_PASSWORD"} <= doctor


TOKEN = "/var/run/secrets/kubeflow/pipelines/token"


def test_kfp_gets_a_token_for_its_audience_alone() -> None:
    pod = dict(pods(render()))["apportion-register"]
    (volume,) = (volume for volume in pod["spec"]["volumes"] if volume["name"] == "kfp-token")
    token = {"audience": "pipelines.kubeflow.org", "expirationSeconds": 3600, "path": "token"}
    assert volume["projected"]["sources"] == [{"serviceAccountToken": token}]
    assert variables(pod)["KFP_TOKEN_FILE"] == TOKEN


def test_the_doctor_connects_to_kfp_where_nothing_else_does() -> None:
    pod = dict(pods(render({"kfp": {"host": ""}, "pipeline": {"mode": "none"}})))["apportion-doctor"]
    assert variables(pod)["KFP_TOKEN_FILE"] == TOKEN


def test_a_secret_for_kfp_replaces_that_token() -> None:
    pod = dict(pods(situation("secrets")))["apportion-register"]
    assert "kfp-token" not in {volume["name"] for volume in pod["spec"]["volumes"]}
    assert "KFP_TOKEN_FILE" not in variables(pod)


def test_external_secrets() -> None:
    objects = situation("everything")
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    assert only(objects, "ExternalSecret", "apportion-s3")["spec"] == {
        "refreshInterval": "1h",
        "secretStoreRef": {"kind": "SecretStore", "name": "vault"},
        "target": {"name": "apportion-s3", "creationPolicy": "Owner"},
        "data": [{"secretKey": key, "remoteRef": {"key": "stores/s3", "property": key}} for key in keys],
    }
    assert all(not secret["optional"] for secret in configuration(objects)["cluster"]["secrets"])


# Identity and permissions


def test_identities_of_the_clouds() -> None:
    """They are on the account of runs and on that of Jobs: doctor and lifecycle need the bucket too. Further
    annotations are for one account only."""
    identity = {"awsRoleArn": ROLE, "gcpServiceAccount": GOOGLE, "azureClientId": AZURE}
    runs = {"serviceAccount": {**identity, "annotations": {"a": "b"}}}
    objects = render({**runs, "jobs": {"serviceAccount": {"annotations": {"c": "d"}}}})
    annotations = {
        "eks.amazonaws.com/role-arn": ROLE,
        "iam.gke.io/gcp-service-account": GOOGLE,
        "azure.workload.identity/client-id": AZURE,
    }
    account = only(objects, "ServiceAccount", "apportion")
    assert account["metadata"]["annotations"] == annotations | {"a": "b"}
    account = only(objects, "ServiceAccount", "apportion-jobs")
    assert account["metadata"]["annotations"] == annotations | {"c": "d"}
    assert "annotations" not in only(render(), "ServiceAccount", "apportion")["metadata"]


def test_the_account_of_runs_has_a_token_and_that_of_jobs_none() -> None:
    """Argo's executor needs it to report."""
    objects = render()
    assert only(objects, "ServiceAccount", "apportion")["automountServiceAccountToken"] is True
    assert only(objects, "ServiceAccount", "apportion-jobs")["automountServiceAccountToken"] is False


def test_pods_are_labelled_for_an_identity_of_azure() -> None:
    """By the chart, or by the user for an account that the chart does not make."""
    label = {"azure.workload.identity/use": "true"}
    own = render({"runs": {"serviceAccount": "mine", "labels": label}, "jobs": {"podLabels": label}})
    for objects in (situation("everything"), own):
        assert label.items() <= configuration(objects)["cluster"]["labels"].items()
        assert all(label.items() <= pod["metadata"]["labels"].items() for _, pod in pods(objects))


def test_jobs_have_an_account_of_their_own() -> None:
    objects = render({"doctor": {"clusterRead": True}})
    assert {pod["spec"]["serviceAccountName"] for _, pod in pods(objects)} == {"apportion-jobs"}
    assert configuration(objects)["cluster"]["kfp"]["service_account"] == "apportion"
    assert only(objects, "RoleBinding", "apportion-jobs")["subjects"][0]["name"] == "apportion-jobs"
    assert only(objects, "RoleBinding", "apportion-runs")["subjects"][0]["name"] == "apportion"
    assert only(objects, "ClusterRoleBinding")["subjects"][0]["name"] == "apportion-jobs"


def test_jobs_can_share_the_account_of_runs() -> None:
    objects = render({"jobs": {"serviceAccount": {"create": False}}})
    assert {pod["spec"]["serviceAccountName"] for _, pod in pods(objects)} == {"apportion"}
    bindings = [o for o in objects if o["kind"] == "RoleBinding"]
    assert {o["subjects"][0]["name"] for o in bindings} == {"apportion"}


def test_runs_can_act_as_an_account_of_kfp() -> None:
    objects = render({"runs": {"serviceAccount": "default-editor"}})
    assert configuration(objects)["cluster"]["kfp"]["service_account"] == "default-editor"
    assert ("Role", "apportion-runs") not in ids(objects)
    assert names(objects, "ServiceAccount") == {"apportion-jobs"}  # no pod would use the other


def test_no_role_is_bound_to_the_default_account(objects: list[Object]) -> None:
    for o in objects:
        if o["kind"].endswith("RoleBinding"):
            assert "default" not in {subject["name"] for subject in o["subjects"]}


def test_permissions_are_few(objects: list[Object]) -> None:
    for o in objects:
        if o["kind"] not in ("Role", "ClusterRole"):
            continue
        for rule in o["rules"]:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
            if "secrets" in rule["resources"]:
                assert rule["verbs"] == ["get"]
                assert rule["resourceNames"]
            if rule["resources"] == ["localsubjectaccessreviews"]:
                assert rule["verbs"] == ["create"]  # which asks and changes nothing
            writes = set(rule["verbs"]) & {"create", "update", "patch", "delete"}
            if rule["apiGroups"] == [""] and writes:
                assert rule["resources"] == ["events"]  # from rbac.extraRules in `everything`


def test_the_cluster_is_read_only_on_request() -> None:
    assert not names(render(), "ClusterRole", "ClusterRoleBinding")
    role = only(render({"doctor": {"clusterRead": True}}), "ClusterRole")
    assert role["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list"]}]


# The rules of the account of Jobs, by the values that they depend on

KFP = [
    (
        PIPELINES_GROUP,
        ["pipelines", "pipelines/versions", "experiments", "runs"],
        None,
        ["get", "list", "create"],
    ),
    (PIPELINES_GROUP, ["jobs"], None, ["get", "list", "create", "delete", "enable"]),
]
DOCTOR = [
    ("", ["serviceaccounts"], ["apportion"], ["get"]),
    ("authorization.k8s.io", ["localsubjectaccessreviews"], None, ["create"]),
    ("", ["namespaces"], ["ml"], ["get"]),
]
MANY: Object = {"kfp": {"multiUser": True}}
ALONE: Object = {"doctor": {"enabled": False}}


def getting(resource: str, *names: str) -> tuple[str, list[str], list[str], list[str]]:
    return ("", [resource], list(names), ["get"])


OF_THE_RELEASE = getting("secrets", "apportion-mlflow", "apportion-s3")


def rights(values: Object, name: str = "jobs") -> list[Any]:
    """The rules of a Role, whole; none where there is no such Role."""
    roles = [
        o for o in render(values) if o["kind"] == "Role" and o["metadata"]["name"] == f"apportion-{name}"
    ]
    rules = [rule for role in roles for rule in role["rules"]]
    for rule in rules:
        assert rule.keys() <= {"apiGroups", "resources", "resourceNames", "verbs"}
    return [
        (*rule["apiGroups"], rule["resources"], rule.get("resourceNames"), rule["verbs"]) for rule in rules
    ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, [OF_THE_RELEASE, *DOCTOR]),
        (MANY, [*KFP, OF_THE_RELEASE, *DOCTOR]),
        (MANY | ALONE, KFP),
        (ALONE, []),
        (
            {"kfp": {"multiUser": True, "host": ""}, "pipeline": {"mode": "none"}},
            [OF_THE_RELEASE, *DOCTOR],
        ),
        ({"kfp": {"multiUser": True, "host": ""}, "pipeline": {"mode": "none"}} | ALONE, []),
        (
            {"schedule": {"enabled": True}, "lifecycle": {"enabled": True}, "rbac": {"extraRules": EVENTS}},
            [OF_THE_RELEASE, *DOCTOR],
        ),
        ({"doctor": {"clusterRead": True}}, [OF_THE_RELEASE, *DOCTOR]),
        ({"mlflow": {"enabled": False}}, [getting("secrets", "apportion-s3"), *DOCTOR]),
        (
            {
                "ca": {"configMap": "trust"},
                "volumes": [{"claim": "drawings", "path": "/data"}, {"claim": "nets", "path": "/nets"}],
            },
            [
                OF_THE_RELEASE,
                getting("configmaps", "trust"),
                getting("persistentvolumeclaims", "drawings", "nets"),
                *DOCTOR,
            ],
        ),
        (
            {"runs": {"serviceAccount": "default-editor"}},
            [OF_THE_RELEASE, getting("serviceaccounts", "default-editor"), *DOCTOR[1:]],
        ),
        (
            SECRETS | {"images": {"pullSecrets": ["registry"]}},
            [getting("secrets", "my-kfp", "my-mlflow", "my-s3", "registry"), *DOCTOR],
        ),
    ],
    ids=str,
)
def test_what_jobs_are_allowed_to_do(values: Object, expected: list[Any]) -> None:
    assert rights(values) == expected


def test_jobs_have_the_rights_that_the_doctor_requires_for_registering() -> None:
    granted = {
        (verb, group, *resource.split("/"))
        for group, resources, _, verbs in rights(MANY | ALONE)
        for resource in resources
        for verb in verbs
    }
    assert granted == {tuple(part for part in right[:4] if part) for right in REGISTRATION}


def test_runs_have_the_rights_that_the_doctor_requires() -> None:
    granted = {
        (verb, group, resource, name)
        for group, resources, named, verbs in rights({}, "runs")
        for resource in resources
        for verb in verbs
        for name in named or [None]
    }
    assert {(right.verb, right.group, right.resource, right.name) for right in RUNNING} <= granted


def test_what_runs_are_allowed_to_do() -> None:
    """What KFP's launcher and Argo's executor need, and rbac.extraRules."""
    assert [rule[1:] for rule in rights({}, "runs")] == [
        (["workflowtaskresults"], None, ["create", "patch"]),
        (["workflowtasksets"], None, ["list", "watch"]),
        (["workflowtasksets/status"], None, ["patch"]),
        (["pods"], None, ["get", "list", "watch"]),
        (["configmaps"], ["kfp-launcher"], ["get"]),
        (["secrets"], ["mlpipeline-minio-artifact"], ["get"]),
    ]
    values = {"schedule": {"enabled": True}, "lifecycle": {"enabled": True}, "rbac": {"extraRules": EVENTS}}
    assert rights(values, "runs") == [*rights({}, "runs"), ("", ["events"], None, ["create"])]


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


def test_what_each_pod_can_connect_to() -> None:
    """A run's pod has no component."""
    everything = {"dns", "kfp", "s3", "mlflow", "kubernetes"}
    allowed = {name: {"dns", "kfp"} for name in ("register", "schedule", "unschedule", "submit")}
    allowed |= {"lifecycle": {"dns", "s3"}, "doctor": everything, "": everything}
    egress = {name: policy for name, policy in policies().items() if "egress" in policy}
    for component, expected in allowed.items():
        labels = {PART: "apportion"} | ({COMPONENT: component} if component else {})
        assert {name for name, policy in egress.items() if selects(policy, labels)} == expected


def test_components_are_those_that_policies_know() -> None:
    labels = [pod["metadata"]["labels"][COMPONENT] for _, pod in pods(situation("everything"))]
    assert sorted(labels) == sorted(COMPONENTS)


ADDRESSES: list[tuple[str, list[Object]]] = [
    ("http://server.tracking.svc.cluster.local:5000", [{"to": [TRACKING]}]),
    ("http://server.tracking.svc:5000", [{"to": [TRACKING]}]),
    ("http://server-0.server.tracking.svc.cluster.local:5000", [{"to": [TRACKING]}]),
    ("http://server:5000", [{"to": [LOCAL]}]),
    # a service, or a host elsewhere
    ("http://server.tracking:5000", [{"to": [TRACKING]}, {"to": WORLD, "ports": tcp(5000)}]),
    ("https://server.example.com", [{"to": WORLD, "ports": tcp(443)}]),
    ("http://server.example.com", [{"to": WORLD, "ports": tcp(80)}]),
    ("https://server.example.com:8443/path", [{"to": WORLD, "ports": tcp(8443)}]),
    ("http://192.0.2.7:5000", [{"to": WORLD, "ports": tcp(5000)}]),
    ("http://[2001:db8::7]:5000", [{"to": WORLD, "ports": tcp(5000)}]),
    ("https://[2001:db8::7]", [{"to": WORLD, "ports": tcp(443)}]),
    ("https://server.example.com:9000", [{"to": WORLD, "ports": tcp(9000)}]),
]


@pytest.mark.parametrize("index", range(0, len(ADDRESSES), 2))
def test_peers_are_derived_from_addresses(index: int) -> None:
    """Two at a time: the address of MLflow and that of the bucket."""
    (mlflow, of_mlflow), (s3, of_s3) = ADDRESSES[index : index + 2]
    specs = policies({"config": {"tracking": {"uri": mlflow}}, "s3": {"endpoint": s3}})
    assert specs["mlflow"]["egress"] == of_mlflow
    assert specs["s3"]["egress"] == of_s3


@pytest.mark.parametrize(
    ("kfp", "namespace", "expected"),
    [
        ({}, "ml", []),
        ({"host": ""}, "ml", []),  # runs from outside need metadata and the object store too
        ({"host": "http://ml-pipeline.kubeflow:8888"}, "ml", []),
        ({"host": "http://ml-pipeline:8888"}, "kubeflow", []),
        ({"host": "http://ml-pipeline:8888"}, "ml", [{"to": [LOCAL]}]),
        ({"host": "https://kubeflow.example.com/pipeline"}, "ml", [{"to": WORLD, "ports": tcp(443)}]),
        (
            {"host": "https://kubeflow.example.com:8443/pipeline", "multiUser": True},
            "ml",
            [{"to": WORLD, "ports": tcp(8443)}],
        ),
        ({"host": "http://gateway.tracking.svc.cluster.local"}, "ml", [{"to": [TRACKING]}]),
    ],
    ids=str,
)
def test_peers_of_kfp_are_its_services_and_its_address(
    kfp: Object, namespace: str, expected: list[Object]
) -> None:
    values = {"kfp": kfp} if kfp else {}
    if kfp.get("host") == "":
        values["pipeline"] = {"mode": "none"}
    egress = policies(values, namespace=namespace)["kfp"]["egress"]
    assert egress == [{"to": [KUBEFLOW], "ports": tcp(*OF_KFP)}, *expected]


def test_kfp_can_be_in_another_namespace() -> None:
    egress = policies({"kfp": {"namespace": "tracking"}})["kfp"]["egress"]
    assert egress == [{"to": [TRACKING], "ports": tcp(*OF_KFP)}, {"to": [KUBEFLOW]}]


def test_peers_that_values_name_keep_the_port_of_an_address() -> None:
    """The port of a service of the cluster is not that of its pods."""
    to = [{"ipBlock": {"cidr": "203.0.113.0/24"}}]
    named = {name: {"to": to} for name in ("kfp", "s3", "mlflow")}
    for s3, mlflow, ports in (
        ("https://s3.example.com:9000", "https://mlflow.example.com:9000", {"ports": tcp(9000)}),
        ("http://minio.storage:9000", "http://mlflow:5000", {}),
    ):
        values = {
            "s3": {"endpoint": s3},
            "config": {"tracking": {"uri": mlflow}},
            "kfp": {"host": "https://kubeflow.example.com"},
            "networkPolicy": named,
        }
        specs = policies(values)
        assert specs["s3"]["egress"] == specs["mlflow"]["egress"] == [{"to": to, **ports}]
        assert specs["kfp"]["egress"] == [
            {"to": to, "ports": tcp(*OF_KFP)},
            {"to": to, "ports": tcp(443)},
        ]


def test_without_an_endpoint_the_bucket_is_in_aws() -> None:
    assert policies()["s3"]["egress"] == [{"to": WORLD, "ports": tcp(443)}]


@pytest.mark.parametrize(
    ("values", "addresses", "ports"),
    [
        ({"gcpServiceAccount": GOOGLE}, ["169.254.169.254/32", "169.254.169.252/32"], (80, 988)),
        ({"eksPodIdentity": True}, ["169.254.170.23/32", "fd00:ec2::23/128"], (80,)),
    ],
    ids=["gke", "eks"],
)
def test_an_identity_gets_its_token_from_the_node(
    values: Object, addresses: list[str], ports: tuple[int, ...]
) -> None:
    specs = policies({"serviceAccount": values})
    peers = [{"ipBlock": {"cidr": cidr}} for cidr in addresses]
    assert specs["identity"]["egress"] == [{"to": peers, "ports": tcp(*ports)}]
    assert specs.keys() - policies().keys() == {"identity"}
    assert specs["s3"] == policies()["s3"]
    labels = {component: {PART: "apportion", COMPONENT: component} for component in (*COMPONENTS, "")}
    chosen = {component for component, label in labels.items() if selects(specs["identity"], label)}
    assert chosen == {"", "doctor", "lifecycle"}


def test_the_kubernetes_api_is_anywhere_unless_values_say_where() -> None:
    """As values.yaml, README.md and docs/security.md say."""
    assert policies()["kubernetes"]["egress"] == [{"ports": tcp(443, 6443)}]


def test_pods_cannot_connect_to_what_they_do_not_use() -> None:
    assert "mlflow" not in policies({"mlflow": {"enabled": False}})
    assert not policies({"networkPolicy": {"enabled": False}})


def test_metrics_can_be_scraped_where_a_podmonitor_is_installed() -> None:
    values = {"monitoring": {"podMonitor": {"enabled": True}}}
    (ingress,) = policies(values, apis=(MONITORING,))["metrics"]["ingress"]
    assert ingress["ports"] == [{"protocol": "TCP", "port": "metrics"}]
    assert ingress["from"]


def test_further_egress() -> None:
    egress = only(situation("everything"), "NetworkPolicy", "apportion-extra")["spec"]["egress"]
    assert egress == [
        {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"protocol": "TCP", "port": 3128}]}
    ]
