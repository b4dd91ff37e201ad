"""The compiled pipeline as objects: when, how they are named, and that an upgrade changes nothing that cannot change."""

import json
import shutil
from collections.abc import Callable, Iterator
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
    ids,
    names,
    only,
    render,
    run,
)

COMPILED = (CHART / "files" / "attribution-kubernetes.yaml").read_text(encoding="utf-8")
OWN = {"pipeline": {"manifest": COMPILED}}


def objects_of_kfp(objects: list[Object]) -> list[Object]:
    return [o for o in objects if o["kind"] in ("Pipeline", "PipelineVersion")]


def test_a_release_that_says_nothing_gets_the_charts_objects() -> None:
    """Values that say nothing are what the chart's pipeline is compiled for."""
    objects = render(apis=(PIPELINES,))
    assert [o["kind"] for o in objects_of_kfp(objects)] == ["Pipeline", "PipelineVersion"]
    assert ("Job", "apportion-register") not in ids(objects)


def test_the_objects_are_what_was_compiled() -> None:
    """Double braces and all; only metadata is the release's."""
    compiled = list(yaml.safe_load_all(COMPILED))
    rendered = objects_of_kfp(render(OWN, apis=(PIPELINES,)))
    assert [o["metadata"]["name"] for o in rendered] == [o["metadata"]["name"] for o in compiled]
    assert [o["spec"] for o in rendered] == [o["spec"] for o in compiled]
    assert "{{$}}" in json.dumps(rendered)


def test_the_pipeline_comes_before_its_version() -> None:
    """Helm installs kinds that it does not know in the order of their names; KFP refuses a version without its pipeline."""
    assert [o["kind"] for o in render(OWN, apis=(PIPELINES,)) if o["apiVersion"] == PIPELINES] == ["Pipeline", "PipelineVersion"]


def test_versions_outlive_the_release() -> None:
    for o in objects_of_kfp(render(OWN, apis=(PIPELINES,))):
        assert o["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
        assert o["metadata"]["namespace"] == "ml"
        assert o["metadata"]["labels"]["app.kubernetes.io/instance"] == "apportion"


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
def test_the_job_registers_what_the_charts_objects_do_not_fit(values: Object) -> None:
    objects = render(values, apis=(PIPELINES,))
    assert not objects_of_kfp(objects)
    assert ("Job", "apportion-register") in ids(objects)


def test_values_that_are_no_part_of_a_pipeline_change_nothing_of_that() -> None:
    values = OWN | {"schedule": {"enabled": True, "cron": "0 0 4 * * *"}, "kfp": {"experiment": "e"}, "config": {"seed": 7}}
    assert objects_of_kfp(render(values, apis=(PIPELINES,)))


def test_a_pipeline_of_ones_own_must_run_this_releases_images() -> None:
    other = COMPILED.replace("apportion/gpu:", "apportion/gpu-of-old:")
    assert not objects_of_kfp(render({"pipeline": {"manifest": other}}, apis=(PIPELINES,)))
    with pytest.raises(Refused, match=r"pipeline.manifest runs apportion/gpu-of-old:0\.1\.0 where images\.\* say"):
        render({"pipeline": {"manifest": other, "mode": "native"}}, apis=(PIPELINES,))


@pytest.mark.parametrize("example", CI)
def test_compiling_for_a_release_gives_objects_that_fit_it(example: str, tmp_path: Path) -> None:
    """What README.md says to do: render the configuration, compile it, pass the result."""
    from pipelines.__main__ import main

    (tmp_path / "config.yaml").write_text(only(render(None, CI[example], apis=(EXTERNAL, MONITORING)), "ConfigMap")["data"]["config.yaml"])
    assert main(["compile", "--kubernetes", "--config", str(tmp_path / "config.yaml"), "--out", str(tmp_path)]) == 0
    manifest = (tmp_path / "attribution-kubernetes.yaml").read_text()
    values = {"pipeline": {"mode": "native", "manifest": manifest}}
    objects = render(values, CI[example], apis=(PIPELINES, EXTERNAL, MONITORING))
    version = only(objects, "PipelineVersion")
    images = {executor["container"]["image"] for executor in version["spec"]["pipelineSpec"]["deploymentSpec"]["executors"].values()}
    assert images == set(configuration(objects)["cluster"]["images"].values())
    for executor in version["spec"]["platformSpec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        assert executor["podMetadata"]["labels"]["app.kubernetes.io/part-of"] == "apportion"  # what the network policies select


# Upgrades

IMMUTABLE: dict[str, Callable[[Object], Any]] = {
    "Job": lambda o: o["spec"],
    "PipelineVersion": lambda o: o["spec"],
    "RoleBinding": lambda o: o["roleRef"],
    "ClusterRoleBinding": lambda o: o["roleRef"],
    "PriorityClass": lambda o: (o["value"], o["preemptionPolicy"]),
}
"""What Kubernetes, or KFP, refuses to change in an object that stays."""


@pytest.fixture(scope="module")
def next_chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart's next version, with another pipeline in it."""
    copy = shutil.copytree(CHART, tmp_path_factory.mktemp("next") / "apportion")
    about = (copy / "Chart.yaml").read_text()
    (copy / "Chart.yaml").write_text(about.replace("ersion: 0.1.0", "ersion: 0.2.0"))
    (copy / "files" / "attribution-kubernetes.yaml").write_text(_other_pipeline("0.2.0"))
    return copy


def _other_pipeline(version: str) -> str:
    pipeline, old = yaml.safe_load_all(COMPILED)
    old["metadata"]["name"] = old["spec"]["displayName"] = "apportion-attribution-0123456789ab"
    return yaml.safe_dump_all([pipeline, json.loads(json.dumps(old).replace(":0.1.0", f":{version}"))])


def changed(before: list[Object], after: list[Object]) -> list[str]:
    """What stays from one version to the next, is no hook, and would have to change what cannot."""
    old = {(o["kind"], o["metadata"]["name"]): o for o in before}
    return [
        o["metadata"]["name"]
        for o in after
        if (same := old.get((o["kind"], o["metadata"]["name"]))) and not _made_anew(o)
        if o["kind"] in IMMUTABLE and IMMUTABLE[o["kind"]](same) != IMMUTABLE[o["kind"]](o)
    ]


def _made_anew(o: Object) -> bool:
    told = o["metadata"].get("annotations") or {}
    return "helm.sh/hook" in told and "before-hook-creation" in told["helm.sh/hook-delete-policy"]


@pytest.mark.parametrize("situation", ["defaults", "everything", "objects", *CI])
def test_an_upgrade_changes_nothing_that_cannot_change(situation: str, next_chart: Path) -> None:
    files = {"everything": (EVERYTHING,)} | {name: (path,) for name, path in CI.items()}
    apis = (EXTERNAL, MONITORING, *((PIPELINES,) if situation == "objects" else ()))
    values: Any = {"pipeline": {"manifest": COMPILED}} if situation == "objects" else {}
    later: Any = (
        {"pipeline": {"manifest": _other_pipeline("0.2.0")}}
        if situation == "objects"
        else {"config": {"seed": 7}, "priorityClass": {"value": 9}}
    )
    before = render(values, *files.get(situation, ()), apis=apis)
    after = render(later, *files.get(situation, ()), apis=apis, chart=next_chart)
    assert not changed(before, after)
    assert names(before, "ServiceAccount") == names(after, "ServiceAccount")
    assert all("0.2.0" in o["metadata"]["labels"]["helm.sh/chart"] for o in after)
    assert len(objects_of_kfp(after)) == (2 if situation == "objects" else 0)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"priorityClass": {"create": True}}, {"priorityClass": {"create": True, "preemptionPolicy": "PreemptLowerPriority"}}),
        ({"priorityClass": {"create": True}}, {"priorityClass": {"create": True, "value": -1000}}),
        ({"jobs": {"serviceAccount": {"create": False}}}, {}),
        ({"doctor": {"clusterRead": True}, "jobs": {"serviceAccount": {"create": False}}}, {"doctor": {"clusterRead": True}}),
        ({}, {"kfp": {"multiUser": True}}),
        ({}, {"runs": {"serviceAccount": "default-editor"}}),
        ({}, {"ca": {"configMap": "authority"}, "kfp": {"existingSecret": "mine"}}),
    ],
    ids=str,
)
def test_another_value_changes_nothing_that_cannot_change(before: Object, after: Object) -> None:
    assert not changed(render(before), render(after))
    assert not changed(render(after), render(before))


def test_that_comparison_would_notice() -> None:
    before, after = render(), render()
    only(after, "RoleBinding", "apportion-jobs")["roleRef"]["name"] = "other"
    assert changed(before, after) == ["apportion-jobs"]
    before, after = (render({"priorityClass": {"create": True, "value": value}}) for value in (1, 2))
    only(after, "PriorityClass")["metadata"]["name"] = only(before, "PriorityClass")["metadata"]["name"]
    assert changed(before, after)


def test_every_job_is_a_hook_that_is_made_anew(objects: list[Object]) -> None:
    assert all(_made_anew(o) for o in objects if o["kind"] == "Job")


def test_another_pipeline_is_another_object(next_chart: Path) -> None:
    old, new = (
        only(render({"pipeline": {"manifest": text}}, apis=(PIPELINES,)), "PipelineVersion")
        for text in (COMPILED, _other_pipeline("0.1.0"))
    )
    assert old["metadata"]["name"] != new["metadata"]["name"]


# What is in the cluster already


def _kinds(version: str, *kinds: str) -> Object:
    resources = [{"name": f"{kind.lower()}s", "singularName": "", "kind": kind, "namespaced": True, "verbs": ["get"]} for kind in kinds]
    return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}


class Api(BaseHTTPRequestHandler):
    """As much of Kubernetes' API as helm asks for to look an object up; `there` is what the cluster has."""

    there: dict[str, Object]

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        group = {"groupVersion": PIPELINES, "version": "v2beta1"}
        answers: dict[str, Object] = {
            "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/api/v1": _kinds("v1", "ConfigMap"),
            "/apis": {
                "kind": "APIGroupList",
                "groups": [{"name": PIPELINES.partition("/")[0], "versions": [group], "preferredVersion": group}],
            },
            f"/apis/{PIPELINES}": _kinds(PIPELINES, "Pipeline", "PipelineVersion"),
        }
        found = answers.get(path) or self.there.get(path.rpartition("/")[2])
        body = json.dumps(found or {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def cluster() -> Iterator[tuple[str, dict[str, Object]]]:
    """Address of a cluster, and the objects in it."""
    there: dict[str, Object] = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Api", (Api,), {"there": there}))
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", there
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("owner", "expected"), [(None, 2), ("apportion", 2), ("vision", 0), ("", 0)], ids=["nobody", "us", "others", "api"]
)
def test_versions_that_others_made_are_shared(owner: str | None, expected: int, cluster: tuple[str, dict[str, Object]]) -> None:
    """One that another release, or KFP's API, made under that name and with that content: it is left alone, not fought over."""
    address, there = cluster
    if owner is not None:
        told = {"meta.helm.sh/release-name": owner, "meta.helm.sh/release-namespace": "ml"} if owner else {}
        labels = {"app.kubernetes.io/managed-by": "Helm"} if owner else {}
        for o in yaml.safe_load_all(COMPILED):
            name = o["metadata"]["name"]
            there[name] = o | {"metadata": {"name": name, "namespace": "ml", "annotations": told, "labels": labels}}
    assert len(objects_of_kfp(_asking(address))) == expected


def _asking(address: str) -> list[Object]:
    """What is rendered where the cluster is asked."""
    text = run(
        "template", "apportion", str(CHART), "--namespace", "ml", "--dry-run=server", "--kube-apiserver", address,
        "--disable-openapi-validation", "--values", "-", given=json.dumps(NOTHING | OWN),
    )  # fmt: skip
    return [o for o in yaml.safe_load_all(text) if o]


@pytest.mark.parametrize("release", ["apportion", "vision", None], ids=["us", "others", "api"])
@pytest.mark.parametrize("part", ["pipelineSpec", "platformSpec"])
def test_a_version_of_that_name_with_another_content_is_not_shared(
    release: str | None, part: str, cluster: tuple[str, dict[str, Object]]
) -> None:
    address, there = cluster
    told = {"meta.helm.sh/release-name": release} if release else {}
    for o in yaml.safe_load_all(COMPILED):
        there[o["metadata"]["name"]] = o | {"metadata": o["metadata"] | {"namespace": "ml", "annotations": told}}
    version = next(o for o in there.values() if o["kind"] == "PipelineVersion")
    version["spec"] = version["spec"] | {part: version["spec"][part] | {"another": 1}}
    with pytest.raises(Refused) as refused:
        _asking(address)
    name = version["metadata"]["name"]
    assert f"found PipelineVersion {name} in namespace ml with another content than this name stands for" in str(refused.value)
    assert f"kubectl -n ml delete pipelineversions.pipelines.kubeflow.org {name}" in str(refused.value)


def test_the_sdk_that_wrote_a_version_is_no_part_of_its_content(cluster: tuple[str, dict[str, Object]]) -> None:
    """Its name is a hash without it."""
    address, there = cluster
    for o in yaml.safe_load_all(COMPILED):
        there[o["metadata"]["name"]] = o
    version = next(o for o in there.values() if o["kind"] == "PipelineVersion")
    version["spec"]["pipelineSpec"]["sdkVersion"] = "kfp-9.9.9"
    assert not objects_of_kfp(_asking(address))
