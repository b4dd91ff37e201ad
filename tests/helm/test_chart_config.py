"""The configuration that the chart writes is one that apportion reads, and says what the values say."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart import CI, NOTHING, ROOT, Object, configuration, only, render

from apportion.config import Cluster, Config, load, parse
from pipelines.parameters import parameters


def read(objects: list[Object], name: str = "apportion") -> Config:
    return parse(configuration(objects, name), "config.yaml")


def test_apportion_reads_it(objects: list[Object], tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(next(o for o in objects if o["kind"] == "ConfigMap")["data"]["config.yaml"])
    assert load(path) == read(objects)


def test_pods_of_a_cluster_can_use_it(objects: list[Object]) -> None:
    assert parameters(read(objects))["shards"]


def test_without_data_it_is_the_demo() -> None:
    demo = load(ROOT / "configs" / "openmoji.yaml")
    assert read(render()).told() == demo.told()


def test_sections_replace_those_of_the_demo() -> None:
    told = read(render({"config": {"valuation": {"coalitions": 8}, "project": "mine"}}))
    assert (told.project, told.valuation.coalitions, told.valuation.endpoint_seeds) == ("mine", 8, 3)
    assert told.valuation.endpoint_seeds == Config.model_fields["valuation"].get_default().endpoint_seeds  # not merged with the demo's
    assert told.removal.method == "sparsified_finetune"


def test_with_data_nothing_of_the_demo_is_used() -> None:
    config = {
        "project": "mine", "data": {"source": "folder", "path": "/data", "resolution": 32}, "properties": ["fid"],
        "train": {"steps": 20000000, "lr": 1e-7}, "removal": {"method": "retrain"},
    }  # fmt: skip
    told = read(render({"config": config}))
    assert told.sampling == Config.model_fields["sampling"].get_default()
    assert (told.train.steps, told.train.lr, told.removal.method) == (20000000, 1e-7, "retrain")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_configurations_of_the_repository_pass_as_they_are(path: Path) -> None:
    config = yaml.safe_load(path.read_text()) | {"store": "s3://bucket/prefix"}
    config.pop("cluster", None)
    assert read(render({"config": config})).told() == load(path).told()


def test_the_store_and_tracking() -> None:
    told = read(render({"config": {"store": "s3://bucket/prefix", "tracking": {"uri": "https://mlflow.example.com", "experiment": "e"}}}))
    assert (told.store, told.tracking.uri, told.tracking.experiment) == ("s3://bucket/prefix", "https://mlflow.example.com", "e")
    assert told.tracking.artifacts is None  # where the server keeps them: no pod has a work folder that lasts


def test_artifacts_elsewhere() -> None:
    assert read(render({"config": {"tracking": {"artifacts": "s3://bucket/artifacts"}}})).tracking.artifacts == "s3://bucket/artifacts"


def test_no_tracking() -> None:
    told = read(render(NOTHING))
    assert told.tracking.uri is None
    assert [secret.name for secret in told.cluster.secrets] == ["apportion-s3"]


def test_defaults_are_those_of_apportion() -> None:
    """So that the compiled pipeline, which is compiled for apportion's own defaults, fits a release that says nothing."""
    mine, theirs = (cluster.model_dump(exclude={"kfp"}) for cluster in (read(render()).cluster, Cluster()))
    assert mine == theirs


def test_pools() -> None:
    pool = {
        "cpu": "6", "cpuLimit": "8", "memory": "60Gi", "accelerator": "amd.com/gpu", "accelerators": 2, "shm": "8Gi",
        "nodeSelector": {"pool": "mi300"}, "tolerations": [{"key": "pool", "operator": "Equal", "value": "mi300", "effect": "NoExecute"}],
    }  # fmt: skip
    found = read(render({"pools": {"gpu": pool, "large": pool}})).cluster.pools
    assert found["gpu"] == found["large"]
    assert found["gpu"].model_dump() == {
        "cpu": "6", "cpu_limit": "8", "memory": "60Gi", "accelerator": "amd.com/gpu", "accelerators": 2, "shm": "8Gi",
        "node_selector": {"pool": "mi300"}, "tolerations": [{"key": "pool", "operator": "Equal", "value": "mi300", "effect": "NoExecute"}],
    }  # fmt: skip


def test_a_pool_without_gpus() -> None:
    told = {"accelerator": "", "accelerators": 0, "tolerations": [], "shm": ""}
    pool = read(render({"pools": {"gpu": told}})).cluster.pools["gpu"]
    assert (pool.accelerator, pool.accelerators, pool.tolerations, pool.shm) == (None, 0, [], None)


def test_stages_labels_and_kfp() -> None:
    cluster = read(render(None, CI["onprem"])).cluster
    assert cluster.stages["train"].pool == "large"
    assert cluster.stages["train"].timeout == 72
    assert cluster.labels == {"app.kubernetes.io/part-of": "apportion", "team": "vision", "kueue.x-k8s.io/queue-name": "vision"}
    assert (cluster.kfp.namespace, cluster.kfp.service_account) == ("ml", "default-editor")
    assert cluster.ca is not None
    assert cluster.ca.config_map == "platform-ca"
    assert cluster.pull_secrets == ["registry-internal"]


def test_volumes() -> None:
    (volume,) = read(render({"volumes": [{"claim": "drawings", "path": "/data"}]})).cluster.volumes
    assert (volume.claim, volume.path) == ("drawings", "/data")


def test_one_user_has_no_namespace_in_kfp() -> None:
    kfp = read(render({"kfp": {"experiment": "nightly"}, "schedule": {"cron": "0 30 2 * * MON-FRI"}})).cluster.kfp
    assert (kfp.namespace, kfp.experiment, kfp.cron) == (None, "nightly", "0 30 2 * * MON-FRI")


def test_every_release_has_a_schedule_of_its_own() -> None:
    """Whatever the project is called: two releases never share one, and a project that is renamed keeps it."""

    def schedule(release: str, namespace: str, **config: Any) -> str | None:
        objects = render({"config": config}, release=release, namespace=namespace)
        return parse(configuration(objects, only(objects, "ConfigMap")["metadata"]["name"]), "config.yaml").cluster.kfp.schedule

    assert schedule("apportion", "ml") == schedule("apportion", "ml", project="renamed") == "ml-apportion"
    releases = [("apportion", "vision"), ("apportion-b", "a"), ("b-apportion", "a"), ("apportion", "a-b"), ("apportion", "a-apportion")]
    releases += [("apportion.b", "a"), ("apportion-x", "n" * 63), ("apportion-y", "n" * 63)]
    names = [schedule(release, namespace) for release, namespace in releases]
    assert len(set(names)) == len(names)


def test_names_of_secrets_have_the_release_in_them() -> None:
    secrets = read(render(release="vision"), "vision-apportion").cluster.secrets
    assert [secret.name for secret in secrets] == ["vision-apportion-s3", "vision-apportion-mlflow"]


def test_numbers_of_every_size_survive() -> None:
    sections: dict[str, Any] = {"train": {"steps": 123456789, "lr": 2.5e-10}, "seed": 4294967295, "valuation": {"stated_v0": {"fid": 1e22}}}
    told = read(render({"config": copy.deepcopy(sections)}))
    assert (told.train.steps, told.train.lr, told.seed, told.valuation.stated_v0) == (123456789, 2.5e-10, 4294967295, {"fid": 1e22})
