"""Every object that the chart renders is one that Kubernetes accepts, in every version that is supported."""

import json
import re
from functools import cache
from typing import Any

import kubernetes_validate
import pytest
from chart import (
    CHART,
    CI,
    CLUSTER_WIDE,
    EVERY_API,
    EVERYTHING,
    EXTERNAL,
    MONITORING,
    PIPELINES,
    SITUATIONS,
    Object,
    configuration,
    ids,
    names,
    only,
    pods,
    render,
    run,
    situation,
)

from apportion.config.loading import parse

OWN = {"Pipeline", "PipelineVersion", "ExternalSecret", "PodMonitor", "PrometheusRule"}
"""Kinds that are not part of Kubernetes."""

ROLE = "arn:aws:iam::123456789012:role/apportion"
LONG = "a-release-whose-name-is-as-long-as-helm-allows-it-abc"


def test_lint_finds_nothing() -> None:
    """One run for each set of values: lint takes one."""
    for files in ((), (EVERYTHING,), *((path,) for path in CI.values())):
        output = run("lint", "--strict", str(CHART), *(f"--values={path}" for path in files))
        assert "0 chart(s) failed" in output


@pytest.fixture(autouse=True)
def _definitions_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The validator reads its definitions, which are megabytes of JSON, for every object; here it reads them
    once."""
    monkeypatch.setattr(kubernetes_validate.utils, "schema_contents", _definitions)


_definitions = cache(kubernetes_validate.utils.schema_contents)


def check(objects: list[Object], version: str) -> None:
    for o in objects:
        if o["kind"] not in OWN:
            kubernetes_validate.validate(o, version, strict=True)


@pytest.mark.parametrize("version", ["1.33.0", "1.34.0", "1.35.0"])
def test_objects_are_valid(version: str) -> None:
    for name in SITUATIONS:
        check(situation(name), version)


def test_validation_would_notice() -> None:
    broken = render()[0] | {"spec": {"podSelectr": {}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        check([broken], "1.35.0")


@pytest.mark.parametrize("kube", ["1.29.0", "1.35.2", "1.34.1-gke.100"])
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
    labels = [o["metadata"]["labels"] for o in situation("everything")]
    assert {label["cost-centre"] for label in labels} == {"research"}


def test_nothing_keeps_running(objects: list[Object]) -> None:
    for _, pod in pods(objects):
        assert pod["spec"]["restartPolicy"] == "Never"


def test_nothing_is_rendered_twice(objects: list[Object]) -> None:
    assert len(ids(objects)) == len(objects)


@pytest.mark.parametrize("release", [LONG, "b", f"{LONG[:40]}-apportion"])
def test_names_fit(release: str) -> None:
    objects = render(None, EVERYTHING, release=release, apis=(EXTERNAL, MONITORING), namespace="n" * 63)
    for name in names(objects):
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name)
        assert len(name) <= 63
    for o in objects:
        assert all(len(value) <= 63 for value in o["metadata"]["labels"].values())


def test_what_jobs_mount_exists(objects: list[Object]) -> None:
    """Each ConfigMap is one of the release, or the user's that values name."""
    own = names(objects, "ConfigMap")
    authority = configuration(objects)["cluster"]["ca"]
    theirs = {authority["config_map"]} if authority else set()
    for _, pod in pods(objects):
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        (container,) = pod["spec"]["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
        mounted = {volume["configMap"]["name"] for volume in volumes.values() if "configMap" in volume}
        assert mounted <= own | theirs


def test_accounts_and_roles_that_are_named_exist(objects: list[Object]) -> None:
    accounts = names(objects, "ServiceAccount") | {"default", "default-editor"}
    for o in objects:
        if o["kind"].endswith("RoleBinding"):
            assert (o["roleRef"]["kind"], o["roleRef"]["name"]) in ids(objects)
            assert {subject["name"] for subject in o["subjects"]} <= accounts
            assert {subject["namespace"] for subject in o["subjects"]} == {"ml"}
    assert {pod["spec"]["serviceAccountName"] for _, pod in pods(objects)} <= accounts


@pytest.mark.parametrize("apis", [(), (PIPELINES,)], ids=["job", "objects"])
def test_two_releases_in_one_namespace_share_no_name(apis: tuple[str, ...]) -> None:
    """Except of objects whose name is a hash of their content: the second release leaves those of the first
    alone."""
    one, other = (ids(render(release=release, apis=apis)) for release in ("vision", "audio"))
    assert not {kind for kind, _ in one & other} - {"Pipeline", "PipelineVersion"}


def test_two_long_releases_share_no_name() -> None:
    one, other = (ids(render(release=f"{LONG[:-1]}{end}")) for end in "xy")
    assert not one & other


@pytest.mark.parametrize(
    ("one", "other"),
    [(("apportion", "vision"), ("apportion", "audio")), (("b-apportion", "a"), ("apportion", "a-b"))],
)
def test_two_namespaces_share_no_cluster_wide_name(one: tuple[str, str], other: tuple[str, str]) -> None:
    values = {"doctor": {"clusterRead": True}, "priorityClass": {"create": True}}
    of_one, of_other = (
        names(render(values, release=release, namespace=namespace), *CLUSTER_WIDE)
        for release, namespace in (one, other)
    )
    assert of_one
    assert of_other
    assert not of_one & of_other


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
"""Names to Kubernetes; true or numbers to YAML."""


def odd(text: str) -> Object:
    """Values that set every text that may be nearly anything to this text."""
    return {
        "nameOverride": text,
        "fullnameOverride": text,
        "commonLabels": {"cost": text},
        "images": {"cpu": {"repository": text, "tag": text}, "pullSecrets": [text]},
        "serviceAccount": {"name": text, "annotations": {"note": text}},
        "runs": {"serviceAccount": "", "labels": {"team": text}},
        "pools": {text: {"cpu": "1", "memory": "1Gi", "nodeSelector": {"pool": text}}},
        "env": {"NO": text, "ON": "yes"},
        "ca": {"configMap": text, "key": text},
        "volumes": [{"claim": f"{text}-1", "path": "/data"}],
        "s3": {
            "existingSecret": text,
            "accessKeyIdKey": text,
            "secretAccessKeyKey": text,
            "region": text,
            "endpoint": "https://s3.example.com",
        },
        "mlflow": {"existingSecret": text, "tokenKey": text},
        "kfp": {"externalKey": text, "tokenKey": text, "experiment": text, "multiUser": True},
        "externalSecrets": {"enabled": True, "storeName": text},
        "schedule": {"enabled": True},
        "lifecycle": {"enabled": True},
        "doctor": {"clusterRead": True},
        "jobs": {
            "serviceAccount": {"create": False, "name": text},
            "nodeSelector": {"a": text},
            "podLabels": {"a": text},
            "podAnnotations": {"a": text},
            "extraEnv": [{"name": "Y", "value": text}],
            "priorityClassName": text,
        },
        "kueue": {"queue": text, "priorityClass": text},
        "monitoring": {
            "podMonitor": {"enabled": True, "port": "no", "path": "/no", "labels": {"release": text}},
            "prometheusRule": {"enabled": True, "severity": text, "runPods": text},
        },
    }


@pytest.mark.parametrize("text", ODD)
def test_texts_stay_texts(text: str) -> None:
    objects = render(odd(text), release="123", namespace="456", apis=(EXTERNAL, MONITORING))
    check(objects, "1.34.0")
    assert ("ConfigMap", text) in ids(objects)
    assert all(isinstance(value, str) for o in objects for value in scalars(o["metadata"]))
    external = only(objects, "ExternalSecret", f"{text}-kfp")
    for o in (external, only(objects, "PodMonitor"), only(objects, "PrometheusRule")):
        assert all(isinstance(value, str) for value in scalars(o["spec"])), o["kind"]
    assert parse(configuration(objects, text), "config.yaml").cluster.pools[text].cpu == "1"


def scalars(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [scalar for item in value.values() for scalar in scalars(item)]
    if isinstance(value, list):
        return [scalar for item in value for scalar in scalars(item)]
    return [value]


@pytest.mark.parametrize(
    "added", [", extra: x", "\nextra: x", '", extra: "x', "}, {extra: x", " # extra {{ extra }}"]
)
def test_no_value_adds_a_key(added: str) -> None:
    values = {
        "monitoring": {
            "podMonitor": {"enabled": True, "path": f"/metrics{added}"},
            "prometheusRule": {"enabled": True, "severity": f"warning{added}", "runPods": f"pods{added}"},
        },
        "kfp": {"experiment": f"e{added}", "externalKey": f"k{added}"},
        "externalSecrets": {"enabled": True, "storeName": "vault"},
        "env": {"PLAIN": f"v{added}"},
        "serviceAccount": {"annotations": {"note": f"n{added}"}},
        "schedule": {"enabled": True},
    }
    objects = render(values, apis=EVERY_API)
    (endpoint,) = only(objects, "PodMonitor")["spec"]["podMetricsEndpoints"]
    assert endpoint == {"port": "metrics", "path": f"/metrics{added}", "interval": "30s"}
    rules = only(objects, "PrometheusRule")["spec"]["groups"][0]["rules"]
    assert all(alert["labels"] == {"severity": f"warning{added}"} for alert in rules)
    assert configuration(objects)["cluster"]["kfp"]["experiment"] == f"e{added}"
    data = only(objects, "ExternalSecret")["spec"]["data"]
    assert data[0]["remoteRef"] == {"key": f"k{added}", "property": "token"}
    account = only(objects, "ServiceAccount", "apportion")
    assert account["metadata"]["annotations"] == {"note": f"n{added}"}
    assert all("extra" not in json.dumps(sorted(keys(o))) for o in objects)


def keys(value: Any) -> set[str]:
    if isinstance(value, list):
        return {key for item in value for key in keys(item)}
    if isinstance(value, dict):
        return {key for name, item in value.items() for key in {name} | keys(item)}
    return set()


def test_no_variable_is_set_twice(objects: list[Object]) -> None:
    for _, pod in pods(objects):
        given = [entry["name"] for entry in pod["spec"]["containers"][0]["env"]]
        assert len(set(given)) == len(given)


def test_keys_that_values_and_the_chart_set_are_merged() -> None:
    """All renders are read with a loader that refuses a key given twice, as Kubernetes does."""
    monitors = {
        name: {"enabled": True, "labels": {"team": name}} for name in ("podMonitor", "prometheusRule")
    }
    values = {
        "commonLabels": {"team": "a"},
        "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "other"}, "awsRoleArn": ROLE},
        "jobs": {"podAnnotations": {"checksum/config": "mine"}, "podLabels": {"team": "b"}},
        "monitoring": monitors,
    }
    objects = render(values, apis=(MONITORING,))
    assert only(objects, "PodMonitor")["metadata"]["labels"]["team"] == "podMonitor"
    assert only(objects, "PrometheusRule")["metadata"]["labels"]["team"] == "prometheusRule"
    account = only(objects, "ServiceAccount", "apportion")
    assert account["metadata"]["annotations"] == {"eks.amazonaws.com/role-arn": ROLE}
    doctor = dict(pods(objects))["apportion-doctor"]
    assert doctor["metadata"]["annotations"]["checksum/config"] != "mine"
