"""Every object that the chart renders is one that Kubernetes takes, in every version that is supported."""

import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from chart import (
    CHART,
    CI,
    EVERY_API,
    EVERYTHING,
    EXTERNAL,
    MONITORING,
    PIPELINES,
    Object,
    configuration,
    ids,
    names,
    only,
    pods,
    render,
    run,
)

from apportion.config import _Loader, parse

OWN = {"Pipeline", "PipelineVersion", "ExternalSecret", "PodMonitor", "PrometheusRule"}
"""Kinds whose definitions are no part of Kubernetes."""

CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding", "PriorityClass"}
ROLE = "arn:aws:iam::123456789012:role/apportion"
LONG = "a-release-whose-name-is-as-long-as-helm-allows-it-abc"


@pytest.mark.parametrize("values", [(), (EVERYTHING,), *((path,) for path in CI.values())], ids=["defaults", "everything", *CI])
def test_lint_finds_nothing(values: tuple[Path, ...]) -> None:
    assert "0 chart(s) failed" in run("lint", "--strict", str(CHART), *(f"--values={path}" for path in values))


@pytest.mark.parametrize("version", ["1.33.0", "1.34.0", "1.35.0"])
def test_objects_are_valid(objects: list[Object], version: str) -> None:
    for o in objects:
        if o["kind"] not in OWN:
            kubernetes_validate.validate(o, version, strict=True)


def test_validation_would_notice() -> None:
    broken = render()[0] | {"spec": {"podSelectr": {}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.35.0", strict=True)


@pytest.mark.parametrize("kube", ["1.29.0", "1.33.0", "1.35.2", "1.34.1-gke.100"])
def test_supported_clusters(kube: str) -> None:
    assert render(kube=kube)


def test_every_object_is_labelled_and_in_its_namespace(objects: list[Object]) -> None:
    for o in objects:
        labels = o["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "apportion"
        assert labels["app.kubernetes.io/part-of"] == "apportion"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert labels["app.kubernetes.io/version"] == "0.1.0"
        assert labels["helm.sh/chart"] == "apportion-0.1.0"
        assert o["metadata"].get("namespace") == (None if o["kind"] in CLUSTER_WIDE else "ml")


def test_common_labels_are_everywhere() -> None:
    assert {o["metadata"]["labels"]["cost-centre"] for o in render({"commonLabels": {"cost-centre": "research"}})} == {"research"}


def test_nothing_keeps_running(objects: list[Object]) -> None:
    for _, pod in pods(objects):
        assert pod["spec"]["restartPolicy"] == "Never"


def test_nothing_is_rendered_twice(objects: list[Object]) -> None:
    assert len(ids(objects)) == len(objects)


@pytest.mark.parametrize("release", [LONG, "apportion", "b", f"{LONG[:40]}-apportion"])
def test_names_fit(release: str) -> None:
    objects = render(None, EVERYTHING, release=release, apis=("external-secrets.io/v1", "monitoring.coreos.com/v1"), namespace="n" * 63)
    assert all(re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name) and len(name) <= 63 for name in names(objects))
    for o in objects:
        assert all(len(value) <= 63 for value in o["metadata"]["labels"].values())


def test_what_jobs_mount_is_there(objects: list[Object]) -> None:
    """ConfigMaps of the release's own by their real name; others are the user's."""
    own = names(objects, "ConfigMap")
    theirs = {authority["config_map"]} if (authority := configuration(objects)["cluster"]["ca"]) else set()
    for _, pod in pods(objects):
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        (container,) = pod["spec"]["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
        assert {volume["configMap"]["name"] for volume in volumes.values() if "configMap" in volume} <= own | theirs


def test_accounts_and_roles_that_are_named_are_there(objects: list[Object]) -> None:
    accounts = names(objects, "ServiceAccount") | {"default", "default-editor"}
    for o in objects:
        if o["kind"].endswith("RoleBinding") or o["kind"] == "ClusterRoleBinding":
            assert (o["roleRef"]["kind"], o["roleRef"]["name"]) in ids(objects)
            assert {subject["name"] for subject in o["subjects"]} <= accounts
            assert {subject["namespace"] for subject in o["subjects"]} == {"ml"}
    assert {pod["spec"]["serviceAccountName"] for _, pod in pods(objects)} <= accounts


@pytest.mark.parametrize("apis", [(), (PIPELINES,)], ids=["job", "objects"])
def test_two_releases_in_one_namespace_share_no_name(apis: tuple[str, ...]) -> None:
    shared = {"Pipeline", "PipelineVersion"}  # by content: the second release leaves the first one's alone
    one, other = (ids(render(release=release, apis=apis)) for release in ("vision", "audio"))
    assert not {found for found in one & other if found[0] not in shared}


def test_two_long_releases_share_no_name() -> None:
    one, other = (ids(render(release=f"{LONG[:-1]}{end}")) for end in "xy")
    assert not one & other


@pytest.mark.parametrize("ones", [("apportion", "vision", "apportion", "audio"), ("b-apportion", "a", "apportion", "a-b")])
def test_two_namespaces_share_no_cluster_wide_name(ones: tuple[str, str, str, str]) -> None:
    values = {"doctor": {"clusterRead": True}, "priorityClass": {"create": True}}
    one, other = (names(render(values, release=r, namespace=n), *CLUSTER_WIDE) for r, n in (ones[:2], ones[2:]))
    assert one
    assert other
    assert not one & other


@pytest.mark.parametrize(
    ("values", "release", "expected"),
    [
        ({}, "vision", "vision-apportion"),
        ({}, "my-apportion", "my-apportion"),
        ({"nameOverride": "credit"}, "vision", "vision-credit"),
        ({"fullnameOverride": "credit"}, "vision", "credit"),
    ],
)
def test_the_full_name(values: Object, release: str, expected: str) -> None:
    assert names(render(values, release=release), "ConfigMap") == {expected}


# Texts that YAML would read as something else

ODD = ["no", "123", "1e3", "0x1f", "012"]
"""Names to Kubernetes; to YAML truths or numbers. Read here with apportion's loader, which knows 1e3 too, as helm does."""


def odd(text: str) -> Object:
    """Every value whose text may be nearly anything, that text."""
    return {
        "nameOverride": text, "fullnameOverride": text, "commonLabels": {"cost": text},
        "images": {"cpu": {"repository": text, "tag": text}, "pullSecrets": [text]},
        "serviceAccount": {"name": text, "annotations": {"note": text}}, "runs": {"serviceAccount": "", "labels": {"team": text}},
        "pools": {text: {"cpu": "1", "memory": "1Gi", "nodeSelector": {"pool": text}}}, "env": {"NO": text, "ON": "yes"},
        "ca": {"configMap": text, "key": text}, "volumes": [{"claim": f"{text}-1", "path": "/data"}],
        "s3": {"existingSecret": text, "accessKeyIdKey": text, "secretAccessKeyKey": text, "region": text, "endpoint": "https://s3.example.com"},
        "mlflow": {"existingSecret": text, "tokenKey": text},
        "kfp": {"externalKey": text, "tokenKey": text, "experiment": text, "multiUser": True},
        "externalSecrets": {"enabled": True, "storeName": text}, "schedule": {"enabled": True}, "lifecycle": {"enabled": True},
        "doctor": {"clusterRead": True},
        "jobs": {
            "serviceAccount": {"create": False, "name": text}, "nodeSelector": {"a": text}, "podLabels": {"a": text},
            "podAnnotations": {"a": text}, "extraEnv": [{"name": "Y", "value": text}], "priorityClassName": text,
        },
        "kueue": {"queue": text, "priorityClass": text},
        "monitoring": {
            "podMonitor": {"enabled": True, "port": "no", "path": "/no", "labels": {"release": text}},
            "prometheusRule": {"enabled": True, "severity": text, "runPods": text},
        },
    }  # fmt: skip


@pytest.mark.parametrize("text", ODD)
def test_texts_stay_texts(text: str) -> None:
    chart = ["template", "123", str(CHART), "--namespace", "456", "--kube-version", "1.34.0", "--values", "-"]
    rendered = run(*chart, "--api-versions", EXTERNAL, "--api-versions", MONITORING, given=json.dumps(odd(text)))
    objects = [o for o in yaml.load_all(rendered, _Loader) if o]
    for o in objects:
        if o["kind"] not in OWN:
            kubernetes_validate.validate(o, "1.34.0", strict=True)
    assert ("ConfigMap", text) in ids(objects)
    assert all(isinstance(value, str) for o in objects for value in _scalars(o["metadata"]))
    for kind in OWN - {"Pipeline", "PipelineVersion"}:
        spec = only(objects, kind, *([f"{text}-kfp"] if kind == "ExternalSecret" else []))["spec"]
        assert all(isinstance(value, str) for value in _scalars(spec)), kind
    assert parse(yaml.load(only(objects, "ConfigMap")["data"]["config.yaml"], _Loader), "config.yaml").cluster.pools[text].cpu == "1"


def _scalars(value: Any) -> list[Any]:
    if isinstance(value, dict | list):
        return [found for item in (value.values() if isinstance(value, dict) else value) for found in _scalars(item)]
    return [value]


@pytest.mark.parametrize("added", [", extra: x", "\nextra: x", '", extra: "x', "}, {extra: x", " # extra", "{{ extra }}"])
def test_no_value_adds_a_key(added: str) -> None:
    told = {
        "monitoring": {
            "podMonitor": {"enabled": True, "path": f"/metrics{added}"},
            "prometheusRule": {"enabled": True, "severity": f"warning{added}", "runPods": f"pods{added}"},
        },
        "kfp": {"experiment": f"e{added}", "externalKey": f"k{added}"}, "externalSecrets": {"enabled": True, "storeName": "vault"},
        "env": {"PLAIN": f"v{added}"}, "serviceAccount": {"annotations": {"note": f"n{added}"}}, "schedule": {"enabled": True},
    }  # fmt: skip
    objects = render(told, apis=EVERY_API)
    assert only(objects, "PodMonitor")["spec"]["podMetricsEndpoints"] == [
        {"port": "metrics", "path": f"/metrics{added}", "interval": "30s"}
    ]
    rules = only(objects, "PrometheusRule")["spec"]["groups"][0]["rules"]
    assert {json.dumps(rule["labels"]) for rule in rules} == {json.dumps({"severity": f"warning{added}"})}
    assert configuration(objects)["cluster"]["kfp"]["experiment"] == f"e{added}"
    assert only(objects, "ExternalSecret")["spec"]["data"][0]["remoteRef"] == {"key": f"k{added}", "property": "token"}
    assert only(objects, "ServiceAccount", "apportion")["metadata"]["annotations"] == {"note": f"n{added}"}
    assert all("extra" not in json.dumps(sorted(_keys(o))) for o in objects)


def _keys(value: Any) -> set[str]:
    if isinstance(value, list):
        return {key for item in value for key in _keys(item)}
    return {key for name, item in value.items() for key in {name} | _keys(item)} if isinstance(value, dict) else set()


def test_no_key_is_given_twice(objects: list[Object]) -> None:
    for _, pod in pods(objects):
        given = [entry["name"] for entry in pod["spec"]["containers"][0]["env"]]
        assert len(set(given)) == len(given)


def test_keys_that_values_and_the_chart_have_are_merged() -> None:
    """Read with a loader that refuses a key given twice, as Kubernetes does."""
    told = {
        "commonLabels": {"team": "a"}, "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "other"}, "awsRoleArn": ROLE},
        "jobs": {"podAnnotations": {"checksum/config": "mine"}, "podLabels": {"team": "b"}},
        "monitoring": {name: {"enabled": True, "labels": {"team": name}} for name in ("podMonitor", "prometheusRule")},
    }  # fmt: skip
    text = run(
        "template", "apportion", str(CHART), "--namespace", "ml", "--kube-version", "1.34.0", "--api-versions", MONITORING, "--values", "-",
        given=json.dumps(told),
    )  # fmt: skip
    objects = [o for o in yaml.load_all(text, _Loader) if o]
    assert only(objects, "PodMonitor")["metadata"]["labels"]["team"] == "podMonitor"
    assert only(objects, "PrometheusRule")["metadata"]["labels"]["team"] == "prometheusRule"
    assert only(objects, "ServiceAccount", "apportion")["metadata"]["annotations"] == {"eks.amazonaws.com/role-arn": ROLE}
    assert dict(pods(objects))["apportion-doctor"]["metadata"]["annotations"]["checksum/config"] != "mine"
