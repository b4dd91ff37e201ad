"""Every object that the chart renders is one that Kubernetes takes, in every version that is supported."""

import re
from pathlib import Path

import kubernetes_validate
import pytest
from chart import CHART, CI, EVERYTHING, PIPELINES, Object, configuration, ids, names, pods, render, run

OWN = {"Pipeline", "PipelineVersion", "ExternalSecret", "PodMonitor", "PrometheusRule"}
"""Kinds whose definitions are no part of Kubernetes."""

CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding", "PriorityClass"}
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


def test_two_namespaces_share_no_cluster_wide_name() -> None:
    values = {"doctor": {"clusterRead": True}, "priorityClass": {"create": True}}
    one, other = (names(render(values, namespace=namespace), *CLUSTER_WIDE) for namespace in ("vision", "audio"))
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
