"""The configuration that the chart writes: apportion reads it, and it has the options that the values set."""

from pathlib import Path
from typing import Any

import pytest
from chart import CI, NOTHING, ROOT, Object, configuration, documents, only, render

from apportion.config.cluster import Cluster
from apportion.config.loading import load, parse
from apportion.config.round import Config
from pipelines.parameters import parameters


def read(objects: list[Object], name: str = "apportion") -> Config:
    return parse(configuration(objects, name), "config.yaml")


def default(section: str) -> Any:
    return Config.model_fields[section].get_default()


def test_apportion_reads_it(objects: list[Object], tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(next(o for o in objects if o["kind"] == "ConfigMap")["data"]["config.yaml"])
    assert load(path) == read(objects)


def test_pods_of_a_cluster_can_use_it(objects: list[Object]) -> None:
    assert parameters(read(objects))["shards"]


def test_without_data_it_is_the_demo() -> None:
    demo = load(ROOT / "configs" / "openmoji.yaml")
    assert read(render()).identity() == demo.identity()


def test_sections_replace_those_of_the_demo() -> None:
    config = read(render({"config": {"valuation": {"coalitions": 8}, "project": "mine"}}))
    assert (config.project, config.valuation.coalitions) == ("mine", 8)
    assert (
        config.valuation.endpoint_seeds == default("valuation").endpoint_seeds
    )  # not merged with the demo's
    assert config.removal.method == "experts"


def test_with_data_nothing_of_the_demo_is_used() -> None:
    own = {
        "project": "mine",
        "data": {"source": "folder", "path": "/data", "resolution": 32},
        "properties": ["fid"],
        "train": {"steps": 20000000, "lr": 1e-7},
        "removal": {"method": "retrain"},
    }
    config = read(render({"config": own}))
    assert config.sampling == default("sampling")
    assert (config.train.steps, config.train.lr, config.removal.method) == (20000000, 1e-7, "retrain")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_configurations_of_the_repository_pass_as_they_are(path: Path) -> None:
    (config,) = documents(path.read_text(encoding="utf-8"))
    config.pop("cluster", None)
    objects = render({"config": config | {"store": "s3://bucket/prefix"}})
    assert read(objects).identity() == load(path).identity()


def test_the_store_and_tracking() -> None:
    tracking = {"uri": "https://mlflow.example.com", "experiment": "e"}
    config = read(render({"config": {"store": "s3://bucket/prefix", "tracking": tracking}}))
    assert config.store == "s3://bucket/prefix"
    assert (config.tracking.uri, config.tracking.experiment) == ("https://mlflow.example.com", "e")
    assert config.tracking.artifacts is None  # the server stores them: no pod has a work folder that lasts


def test_artifacts_elsewhere() -> None:
    config = read(render({"config": {"tracking": {"artifacts": "s3://bucket/artifacts"}}}))
    assert config.tracking.artifacts == "s3://bucket/artifacts"


def test_no_tracking() -> None:
    config = read(render(NOTHING))
    assert config.tracking.uri is None
    assert [secret.name for secret in config.cluster.secrets] == ["apportion-s3"]


def test_defaults_are_those_of_apportion() -> None:
    """The chart's compiled pipeline is compiled for apportion's defaults, so it fits a release with default
    values."""
    assert read(render()).cluster.model_dump(exclude={"kfp"}) == Cluster().model_dump(exclude={"kfp"})


def test_pools() -> None:
    common = {
        "cpu": "6",
        "memory": "60Gi",
        "accelerator": "amd.com/gpu",
        "accelerators": 2,
        "shm": "8Gi",
        "tolerations": [{"key": "pool", "operator": "Equal", "value": "mi300", "effect": "NoExecute"}],
    }
    pool = common | {"cpuLimit": "8", "nodeSelector": {"pool": "mi300"}}
    cpu = {"accelerator": "", "accelerators": 0, "tolerations": [], "shm": ""}
    pools = read(render({"pools": {"gpu": pool, "large": pool, "cpu": cpu}})).cluster.pools
    assert pools["gpu"] == pools["large"]
    assert pools["gpu"].model_dump() == common | {"cpu_limit": "8", "node_selector": {"pool": "mi300"}}
    assert (pools["cpu"].accelerator, pools["cpu"].accelerators) == (None, 0)
    assert (pools["cpu"].tolerations, pools["cpu"].shm) == ([], None)


def test_stages_labels_and_kfp() -> None:
    cluster = read(
        render(None, CI["onprem"], apis=("external-secrets.io/v1", "monitoring.coreos.com/v1"))
    ).cluster
    assert cluster.stages["train"].pool == "large"
    assert cluster.stages["train"].timeout == 72
    assert cluster.labels == {
        "app.kubernetes.io/part-of": "apportion",
        "team": "vision",
        "kueue.x-k8s.io/queue-name": "vision",
    }
    assert (cluster.kfp.namespace, cluster.kfp.service_account) == ("ml", "default-editor")
    assert cluster.ca is not None
    assert cluster.ca.config_map == "platform-ca"
    assert cluster.pull_secrets == ["registry-internal"]
    assert [(volume.claim, volume.path) for volume in cluster.volumes] == [("drawings", "/data")]


def test_a_single_user_has_no_namespace_in_kfp() -> None:
    cron = "0 30 2 * * MON-FRI"
    kfp = read(render({"kfp": {"experiment": "nightly"}, "schedule": {"cron": cron}})).cluster.kfp
    assert (kfp.namespace, kfp.experiment, kfp.cron) == (None, "nightly", cron)


def test_every_release_has_a_schedule_of_its_own() -> None:
    """Two releases never share a schedule, and a release keeps its schedule when its project is renamed."""

    def schedule(release: str, namespace: str, **config: Any) -> str | None:
        objects = render({"config": config}, release=release, namespace=namespace)
        name = only(objects, "ConfigMap")["metadata"]["name"]
        return read(objects, name).cluster.kfp.schedule

    assert schedule("apportion", "ml") == schedule("apportion", "ml", project="mine") == "ml-apportion"
    releases = [
        ("apportion-b", "a"),
        ("b-apportion", "a"),
        ("apportion", "a-b"),
        ("apportion", "a-apportion"),
        ("apportion.b", "a"),
        ("apportion-x", "n" * 63),
        ("apportion-y", "n" * 63),
    ]
    schedules = [schedule(release, namespace) for release, namespace in releases]
    assert len(set(schedules)) == len(schedules)


def test_names_of_secrets_contain_the_release() -> None:
    secrets = read(render(release="vision"), "vision-apportion").cluster.secrets
    assert [secret.name for secret in secrets] == ["vision-apportion-s3", "vision-apportion-mlflow"]


def test_numbers_of_every_size_survive() -> None:
    sections: dict[str, Any] = {
        "train": {"steps": 123456789, "lr": 2.5e-10},
        "seed": 4294967295,
        "valuation": {"stated_v0": {"fid": 1e22}},
    }
    config = read(render({"config": sections}))
    assert (config.train.steps, config.train.lr) == (123456789, 2.5e-10)
    assert (config.seed, config.valuation.stated_v0) == (4294967295, {"fid": 1e22})
