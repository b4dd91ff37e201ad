"""The compiled pipeline as objects: when they are installed, how they are named, and that an upgrade changes
no field that Kubernetes or KFP does not allow to change."""

import json
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from chart import (
    CHART,
    CI,
    EVERYTHING,
    EXTERNAL,
    MONITORING,
    NOTHING,
    PIPELINES,
    Object,
    Refused,
    configuration,
    documents,
    ids,
    names,
    only,
    pods,
    render,
    run,
    variables,
)
from kfp_stack import cheap_call_stack  # noqa: F401

COMPILED = (CHART / "files" / "attribution-kubernetes.yaml").read_text(encoding="utf-8")
OWN = {"pipeline": {"manifest": COMPILED}}


def compiled() -> tuple[Object, Object]:
    """The Pipeline and the PipelineVersion, for a test to change."""
    pipeline, version = json.loads(_compiled())
    return pipeline, version


@cache
def _compiled() -> str:
    return json.dumps(documents(COMPILED))


def of_kfp(objects: list[Object]) -> list[Object]:
    return [o for o in objects if o["kind"] in ("Pipeline", "PipelineVersion")]


def test_the_objects_are_what_was_compiled() -> None:
    """With their double braces. Only metadata is the release's. The pipeline comes before its version: Helm
    installs kinds that it does not know in this order, and KFP refuses a version without its pipeline."""
    objects = of_kfp(render(OWN, apis=(PIPELINES,)))
    assert [o["kind"] for o in objects] == ["Pipeline", "PipelineVersion"]
    for o, original in zip(objects, compiled(), strict=True):
        assert o["metadata"]["name"] == original["metadata"]["name"]
        assert o["spec"] == original["spec"]
        assert (
            o["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
        )  # versions outlive the release
        assert o["metadata"]["namespace"] == "ml"
        assert o["metadata"]["labels"]["app.kubernetes.io/instance"] == "apportion"
    assert "{{$}}" in json.dumps(objects)


def test_a_release_with_default_values_gets_the_objects_of_the_chart() -> None:
    """The chart's pipeline is compiled for the default values."""
    objects = render(apis=(PIPELINES,))
    assert of_kfp(objects) == of_kfp(render(OWN, apis=(PIPELINES,)))
    assert ("Job", "apportion-register") not in ids(objects)


@pytest.mark.parametrize(
    "values",
    [
        {"images": {"gpu": {"tag": "9"}}},
        {"s3": {"existingSecret": "mine"}},
        {"s3": {"endpoint": "https://s3.example.com"}},
        {"pools": {"gpu": {"nodeSelector": {"pool": "gpu"}}}},
        {"kueue": {"queue": "gpus"}},
        {"ca": {"configMap": "authority"}},
        {"volumes": [{"claim": "drawings", "path": "/data"}]},
        {"images": {"pullSecrets": ["registry"]}},
        {"runs": {"retries": 5}},
        {"mlflow": {"enabled": False}},
    ],
    ids=str,
)
def test_a_job_registers_where_the_objects_do_not_match_the_values(values: Object) -> None:
    objects = render(values, apis=(PIPELINES,))
    assert not of_kfp(objects)
    assert ("Job", "apportion-register") in ids(objects)


def test_values_that_are_not_part_of_a_pipeline_do_not_matter() -> None:
    values = {
        "schedule": {"enabled": True, "cron": "0 0 4 * * *"},
        "kfp": {"experiment": "e"},
        "config": {"seed": 7},
    }
    assert of_kfp(render(values, apis=(PIPELINES,)))


def test_a_manifest_must_run_the_images_of_the_release() -> None:
    other = COMPILED.replace("apportion/gpu:", "apportion/gpu-of-old:")
    assert not of_kfp(render({"pipeline": {"manifest": other}}, apis=(PIPELINES,)))
    with pytest.raises(
        Refused, match=r"pipeline.manifest runs apportion/gpu-of-old:0\.1\.0 where images\.\* say"
    ):
        render({"pipeline": {"manifest": other, "mode": "native"}}, apis=(PIPELINES,))


@pytest.mark.parametrize("example", CI)
def test_compiling_for_a_release_gives_objects_that_match_it(example: str, tmp_path: Path) -> None:
    """The steps in README.md: render the configuration, compile it, pass the result."""
    from pipelines.__main__ import main

    config = tmp_path / "config.yaml"
    objects = render(None, CI[example], apis=(EXTERNAL, MONITORING))
    config.write_text(only(objects, "ConfigMap")["data"]["config.yaml"])
    assert main(["compile", "--kubernetes", "--config", str(config), "--out", str(tmp_path)]) == 0
    manifest = (tmp_path / "attribution-kubernetes.yaml").read_text()

    values = {"pipeline": {"mode": "native", "manifest": manifest}}
    objects = render(values, CI[example], apis=(PIPELINES, EXTERNAL, MONITORING))
    spec = only(objects, "PipelineVersion")["spec"]
    executors = spec["pipelineSpec"]["deploymentSpec"]["executors"].values()
    images = {executor["container"]["image"] for executor in executors}
    assert images == set(configuration(objects)["cluster"]["images"].values())
    platform = spec["platformSpec"]["platforms"]["kubernetes"]["deploymentSpec"]
    for executor in platform["executors"].values():
        labels = executor["podMetadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == "apportion"  # the network policies select by it
    # Plain variables of the values, as LD_LIBRARY_PATH of GKE's driver, are in runs and in Jobs.
    expected = (yaml.safe_load(CI[example].read_text(encoding="utf-8")).get("env") or {}).items()
    for executor in executors:
        given = {entry["name"]: entry["value"] for entry in executor["container"].get("env", [])}
        assert given.items() >= expected
    for name, pod in pods(objects):
        assert variables(pod).items() >= expected, name


# Upgrades

IMMUTABLE: dict[str, Callable[[Object], Any]] = {
    "Job": lambda o: o["spec"],
    "PipelineVersion": lambda o: o["spec"],
    "RoleBinding": lambda o: o["roleRef"],
    "ClusterRoleBinding": lambda o: o["roleRef"],
    "PriorityClass": lambda o: (o["value"], o["preemptionPolicy"]),
}
"""The fields that Kubernetes or KFP does not allow to change in an object."""


@pytest.fixture(scope="module")
def next_chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart's next version, with another pipeline."""
    copy = shutil.copytree(CHART, tmp_path_factory.mktemp("next") / "apportion")
    about = (copy / "Chart.yaml").read_text()
    (copy / "Chart.yaml").write_text(about.replace("ersion: 0.1.0", "ersion: 0.2.0"))
    (copy / "files" / "attribution-kubernetes.yaml").write_text(other_pipeline("0.2.0"))
    return copy


def other_pipeline(version: str) -> str:
    pipeline, old = compiled()
    old["metadata"]["name"] = old["spec"]["displayName"] = "apportion-attribution-0123456789ab"
    changed = json.loads(json.dumps(old).replace(":0.1.0", f":{version}"))
    return yaml.dump_all([pipeline, changed], Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper))


def changes(before: list[Object], after: list[Object]) -> list[str]:
    """The objects in both that are no hooks and in which an immutable field differs."""
    old = {(o["kind"], o["metadata"]["name"]): o for o in before}
    differing = []
    for o in after:
        kind, name = o["kind"], o["metadata"]["name"]
        fixed = IMMUTABLE.get(kind)
        if fixed and (kind, name) in old and not created_again(o) and fixed(old[kind, name]) != fixed(o):
            differing.append(name)
    return differing


def created_again(o: Object) -> bool:
    """Whether the object is a hook that Helm deletes and creates at each upgrade."""
    annotations = o["metadata"].get("annotations") or {}
    policy = annotations.get("helm.sh/hook-delete-policy", "")
    return "helm.sh/hook" in annotations and "before-hook-creation" in policy


UPGRADES: dict[str, tuple[tuple[Path, ...], Object, Object, tuple[str, ...], int]] = {
    name: (files, {}, {"config": {"seed": 7}, "priorityClass": {"value": 9}}, (EXTERNAL, MONITORING), 0)
    for name, files in {
        "defaults": (),
        "everything": (EVERYTHING,),
        **{name: (path,) for name, path in CI.items()},
    }.items()
}
UPGRADES["objects"] = ((), OWN, {"pipeline": {"manifest": other_pipeline("0.2.0")}}, (PIPELINES,), 2)


@pytest.mark.parametrize(("files", "old", "new", "apis", "objects"), UPGRADES.values(), ids=UPGRADES)
def test_an_upgrade_changes_no_immutable_field(
    files: tuple[Path, ...],
    old: Object,
    new: Object,
    apis: tuple[str, ...],
    objects: int,
    next_chart: Path,
) -> None:
    before = render(old, *files, apis=apis)
    after = render(new, *files, apis=apis, chart=next_chart)
    assert not changes(before, after)
    assert names(before, "ServiceAccount") == names(after, "ServiceAccount")
    assert all("0.2.0" in o["metadata"]["labels"]["helm.sh/chart"] for o in after)
    assert len(of_kfp(after)) == objects


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            {"priorityClass": {"create": True}},
            {"priorityClass": {"create": True, "preemptionPolicy": "PreemptLowerPriority"}},
        ),
        ({"priorityClass": {"create": True}}, {"priorityClass": {"create": True, "value": -5}}),
        ({"jobs": {"serviceAccount": {"create": False}}}, {}),
        (
            {"doctor": {"clusterRead": True}, "jobs": {"serviceAccount": {"create": False}}},
            {"doctor": {"clusterRead": True}},
        ),
        ({}, {"kfp": {"multiUser": True}}),
        ({}, {"runs": {"serviceAccount": "default-editor"}}),
        ({}, {"ca": {"configMap": "authority"}}),
    ],
    ids=str,
)
def test_another_value_changes_no_immutable_field(before: Object, after: Object) -> None:
    assert not changes(render(before), render(after))
    assert not changes(render(after), render(before))


def test_that_comparison_would_notice() -> None:
    before, after = render(), render()
    only(after, "RoleBinding", "apportion-jobs")["roleRef"]["name"] = "other"
    assert changes(before, after) == ["apportion-jobs"]
    before, after = (render({"priorityClass": {"create": True, "value": value}}) for value in (7, -5))
    only(after, "PriorityClass")["metadata"]["name"] = only(before, "PriorityClass")["metadata"]["name"]
    assert changes(before, after)


def test_every_job_is_a_hook_that_is_created_again(objects: list[Object]) -> None:
    assert all(created_again(o) for o in objects if o["kind"] == "Job")


def test_another_pipeline_is_another_object(next_chart: Path) -> None:
    old, new = (
        only(render({"pipeline": {"manifest": text}}, apis=(PIPELINES,)), "PipelineVersion")
        for text in (COMPILED, other_pipeline("0.1.0"))
    )
    assert old["metadata"]["name"] != new["metadata"]["name"]


# Objects that exist in the cluster


def kinds(version: str, *known: str) -> Object:
    resources = [
        {"name": f"{kind.lower()}s", "singularName": "", "kind": kind, "namespaced": True, "verbs": ["get"]}
        for kind in known
    ]
    return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}


class Api(BaseHTTPRequestHandler):
    """The part of Kubernetes' API that helm uses to look up an object; `existing` are the cluster's, by
    name."""

    existing: dict[str, Object]

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        group = {"groupVersion": PIPELINES, "version": "v2beta1"}
        groups = [
            {"name": PIPELINES.partition("/")[0], "versions": [group], "preferredVersion": group},
        ]
        answers: dict[str, Object] = {
            "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/api/v1": kinds("v1", "ConfigMap"),
            "/apis": {"kind": "APIGroupList", "groups": groups},
            f"/apis/{PIPELINES}": kinds(PIPELINES, "Pipeline", "PipelineVersion"),
        }
        answer = answers.get(path) or self.existing.get(path.rpartition("/")[2])
        missing = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "reason": "NotFound",
            "code": 404,
        }
        body = json.dumps(answer or missing).encode()
        self.send_response(200 if answer else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class FakeCluster:
    """A cluster with objects of KFP in it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.existing: dict[str, Object] = {}

    def add(self, *objects: Object, **metadata: Object) -> None:
        for o in objects:
            name = o["metadata"]["name"]
            self.existing[name] = o | {"metadata": {"name": name, "namespace": "ml", **metadata}}

    def render(self) -> list[Object]:
        """What is rendered where helm can ask the cluster."""
        text = run(
            "template",
            "apportion",
            str(CHART),
            "--namespace",
            "ml",
            "--dry-run=server",
            "--kube-apiserver",
            self.address,
            "--disable-openapi-validation",
            "--values",
            "-",
            given=json.dumps(NOTHING | OWN),
        )
        return documents(text)


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    handler = type("Handler", (Api,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    fake = FakeCluster(f"http://127.0.0.1:{server.server_port}")
    handler.existing = fake.existing  # type: ignore[attr-defined]
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield fake
    server.shutdown()
    server.server_close()


def test_objects_that_do_not_exist_are_installed(cluster: FakeCluster) -> None:
    assert len(of_kfp(cluster.render())) == 2


@pytest.mark.parametrize(
    ("owner", "expected"),
    [("apportion", 2), ("vision", 0), ("", 0)],
    ids=["this release", "another", "KFP's API"],
)
def test_versions_of_another_owner_are_shared(owner: str, expected: int, cluster: FakeCluster) -> None:
    """One that another release or KFP's API made, of that name and with that content, is left alone."""
    release = {"meta.helm.sh/release-name": owner, "meta.helm.sh/release-namespace": "ml"}
    annotations = release if owner else {}
    labels = {"app.kubernetes.io/managed-by": "Helm"} if owner else {}
    cluster.add(*compiled(), annotations=annotations, labels=labels)
    assert len(of_kfp(cluster.render())) == expected


@pytest.mark.parametrize(
    ("part", "release"), [("pipelineSpec", "apportion"), ("platformSpec", "vision"), ("platformSpec", None)]
)
def test_a_version_of_that_name_with_another_content_is_refused(
    part: str, release: str | None, cluster: FakeCluster
) -> None:
    pipeline, version = compiled()
    version["spec"][part]["another"] = 1
    annotations = {"meta.helm.sh/release-name": release} if release else {}
    cluster.add(pipeline, version, annotations=annotations)
    with pytest.raises(Refused) as refused:
        cluster.render()
    name = version["metadata"]["name"]
    message = str(refused.value)
    assert f"found PipelineVersion {name} in namespace ml with another content, expected" in message
    assert f"kubectl -n ml delete pipelineversions.pipelines.kubeflow.org {name}" in message


def test_the_sdk_that_wrote_a_version_is_not_part_of_its_content(cluster: FakeCluster) -> None:
    """Its name is a hash without it."""
    pipeline, version = compiled()
    version["spec"]["pipelineSpec"]["sdkVersion"] = "kfp-9.9.9"
    cluster.add(pipeline, version)
    assert not of_kfp(cluster.render())
