"""What pods may do, what they may reach, and where credentials are: field by field, for everything that the chart renders."""

import json
import re
from typing import Any

import pytest
from chart import CI, EVERYTHING, EXTERNAL, MONITORING, Object, configuration, ids, names, only, pods, render, situation, variables

AZURE = "11111111-1111-1111-1111-111111111111"
TRACKING = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "tracking"}}}
WORLD = {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}}
COMPONENTS = ("register", "schedule", "unschedule", "submit", "lifecycle", "doctor")


def policies(values: dict[str, Any] | None = None, **told: Any) -> dict[str, Object]:
    found = [o for o in render(values, **told) if o["kind"] == "NetworkPolicy"]
    return {o["metadata"]["name"].removeprefix("apportion-"): o["spec"] for o in found}


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
    pod = dict(pods(situation("secrets")))["apportion-doctor"]
    found = {name: value["secretKeyRef"] for name, value in variables(pod).items() if isinstance(value, dict)}
    assert found["AWS_ACCESS_KEY_ID"] == {"name": "my-s3", "key": "AWS_ACCESS_KEY_ID", "optional": False}
    assert found["MLFLOW_TRACKING_PASSWORD"] == {"name": "my-mlflow", "key": "MLFLOW_TRACKING_PASSWORD", "optional": False}
    assert found["KFP_TOKEN"] == {"name": "my-kfp", "key": "token", "optional": False}


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
    assert given["MLFLOW_TRACKING_TOKEN"] == {"secretKeyRef": {"name": "mine", "key": "token", "optional": False}}
    assert "MLFLOW_TRACKING_PASSWORD" not in given


def test_jobs_get_the_credentials_of_what_they_use_only() -> None:
    found = {name.removeprefix("apportion-"): variables(pod).keys() for name, pod in pods(situation("secrets") + _lifecycle())}
    assert "KFP_TOKEN" in found["register"]
    assert "AWS_ACCESS_KEY_ID" not in found["register"]
    assert "AWS_ACCESS_KEY_ID" in found["lifecycle"]
    assert not {"KFP_TOKEN", "MLFLOW_TRACKING_PASSWORD"} & found["lifecycle"]
    assert {"KFP_TOKEN", "AWS_ACCESS_KEY_ID", "MLFLOW_TRACKING_PASSWORD"} <= found["doctor"]


def _lifecycle() -> list[Object]:
    return [only(render({"lifecycle": {"enabled": True}}), "Job", "apportion-lifecycle")]


def test_kfp_gets_a_token_for_its_audience_alone() -> None:
    pod = dict(pods(render()))["apportion-register"]
    (volume,) = (volume for volume in pod["spec"]["volumes"] if volume["name"] == "kfp-token")
    assert volume["projected"]["sources"] == [
        {"serviceAccountToken": {"audience": "pipelines.kubeflow.org", "expirationSeconds": 3600, "path": "token"}}
    ]
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
    assert only(render({"serviceAccount": values}), "ServiceAccount")["metadata"]["annotations"] == annotation


def test_azure_marks_pods_too() -> None:
    objects = situation("everything")
    label = {"azure.workload.identity/use": "true"}
    assert all(label.items() <= pod["metadata"]["labels"].items() for _, pod in pods(objects))
    assert label.items() <= configuration(objects)["cluster"]["labels"].items()


def test_jobs_may_have_an_account_of_their_own() -> None:
    objects = render({"jobs": {"serviceAccount": {"create": True}}})
    assert {pod["spec"]["serviceAccountName"] for _, pod in pods(objects)} == {"apportion-jobs"}
    assert configuration(objects)["cluster"]["kfp"]["service_account"] == "apportion"
    assert only(objects, "RoleBinding", "apportion-jobs")["subjects"][0]["name"] == "apportion-jobs"
    assert only(objects, "RoleBinding", "apportion-runs")["subjects"][0]["name"] == "apportion"
    assert only(objects, "ServiceAccount", "apportion-jobs")["automountServiceAccountToken"] is False


def test_runs_may_act_as_an_account_of_kfp() -> None:
    objects = render({"runs": {"serviceAccount": "pipeline-runner"}})
    assert configuration(objects)["cluster"]["kfp"]["service_account"] == "pipeline-runner"
    assert ("Role", "apportion-runs") not in ids(objects)


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


def test_the_doctor_may_read_every_secret_that_is_named() -> None:
    rules = only(render(None, CI["onprem"]), "Role", "apportion-jobs")["rules"]
    (secrets,) = (found for found in rules if found["resources"] == ["secrets"])
    assert secrets["resourceNames"] == ["minio-apportion", "mlflow-apportion", "registry-internal"]


def test_the_doctor_may_ask_what_it_asks() -> None:
    """Every look of src/apportion/doctor/cluster.py but at nodes, and nothing where there is no doctor."""
    told: Object = {"runs": {"serviceAccount": "pipeline-runner"}, "ca": {"configMap": "trust"}}
    told["volumes"] = [{"claim": "drawings", "path": "/data"}]
    rules = only(render(told), "Role", "apportion-jobs")["rules"]
    found = [(r["resources"], r.get("resourceNames"), r["verbs"]) for r in rules if r["apiGroups"] != ["pipelines.kubeflow.org"]]
    assert found == [
        (["secrets"], ["apportion-mlflow", "apportion-s3"], ["get"]),
        (["configmaps"], ["trust"], ["get"]),
        (["persistentvolumeclaims"], ["drawings"], ["get"]),
        (["serviceaccounts"], ["pipeline-runner"], ["get"]),
        (["localsubjectaccessreviews"], None, ["create"]),
        (["namespaces"], ["ml"], ["get"]),
    ]
    rules = only(render({"doctor": {"enabled": False}}), "Role", "apportion-jobs")["rules"]
    assert {group for r in rules for group in r["apiGroups"]} == {"pipelines.kubeflow.org"}


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
    ("host", "peer", "ports"),
    [
        ("http://mlflow.tracking.svc.cluster.local:5000", TRACKING, None),
        ("http://mlflow.tracking.svc:5000", TRACKING, None),
        ("http://mlflow:5000", {"podSelector": {}}, None),
        ("https://mlflow.example.com", WORLD, [443]),
        ("http://mlflow.example.com", WORLD, [80]),
        ("https://mlflow.example.com:8443/path", WORLD, [8443]),
    ],
)  # fmt: skip
def test_peers_are_derived_from_addresses(host: str, peer: Object, ports: list[int] | None) -> None:
    found = rule(policies({"config": {"tracking": {"uri": host}}})["mlflow"])
    assert found["to"] == [peer]
    assert [port["port"] for port in found["ports"]] == ports if ports else "ports" not in found


def test_peers_and_ports_may_be_told() -> None:
    told = {"to": [{"ipBlock": {"cidr": "203.0.113.0/24"}}], "ports": [9000]}
    for name in ("s3", "kfp", "mlflow", "kubernetes"):
        assert rule(policies({"networkPolicy": {name: told}})[name]) == {"to": told["to"], "ports": [{"protocol": "TCP", "port": 9000}]}
    dns = rule(policies({"networkPolicy": {"dns": told}})["dns"])
    assert dns["ports"] == [{"protocol": "UDP", "port": 9000}, {"protocol": "TCP", "port": 9000}]


def test_aws_is_reached_where_no_endpoint_is_told() -> None:
    assert rule(policies()["s3"])["ports"] == [{"protocol": "TCP", "port": 443}]


def test_google_gives_tokens_at_its_metadata_server() -> None:
    _, metadata = policies({"serviceAccount": {"gcpServiceAccount": "a@b.iam.gserviceaccount.com"}})["s3"]["egress"]
    assert metadata["to"][0] == {"ipBlock": {"cidr": "169.254.169.254/32"}}


def test_what_is_not_used_is_not_reached() -> None:
    assert "mlflow" not in policies({"mlflow": {"enabled": False}})
    assert "kfp" not in policies({"kfp": {"host": ""}, "pipeline": {"mode": "none"}})
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
