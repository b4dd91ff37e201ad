"""A whole round in containers, one per task: what is in the bucket, what MLflow was told, and the same bytes as without containers."""

import csv
import hashlib
import io
import json
from collections import Counter
from pathlib import Path

import pytest
from mlflow import MlflowClient
from rounds import BUCKET, Done, objects
from tasks import Cluster
from tiny import CONFIG

from apportion.config import Config, load
from apportion.stages.attribute import published
from apportion.tracking import key
from pipelines.parameters import parameters

pytestmark = pytest.mark.timeout(1800)  # the first test waits for image and round

SECONDS = 240

SAME = ("credits.json", "credits.csv", "plan.json", "evidence.json", "statement.csv")
"""What is made of values, and of neither seconds nor addresses."""


def test_every_evaluation_is_in_the_ledger_once(done: Done) -> None:
    held = Counter(name.partition("/ledger/")[2].removesuffix(".json") for name in done.bucket if "/ledger/" in name)
    assert held == Counter({item.key: 1 for item in done.round.wanted})
    assert len(held) == 26  # 24 planned; without the top, and without another at random
    for evaluation in done.round.ledger.read_all(done.round.wanted):
        assert sorted(evaluation.values) == sorted(done.round.config.properties)


def test_it_took_minutes(done: Done, local: Path, times: dict[str, float]) -> None:
    """On two cores that nobody else uses, half of it is starting Python; on a busy machine the round without containers takes long too."""
    assert times["round in containers"] < max(SECONDS, 4 * times["round without containers"])


def test_every_object_has_its_checksum(done: Done) -> None:
    for name, (data, metadata) in done.bucket.items():
        assert metadata["sha256"] == hashlib.sha256(data).hexdigest(), name


def test_credits_are_those_without_containers_to_the_last_byte(done: Done, local: Path) -> None:
    assert local.name == done.round.id
    for name in SAME:
        assert done.bucket[f"rounds/{local.name}/{name}"][0] == (local / name).read_bytes(), name


def test_verify_in_a_container_finds_the_same(done: Done, cluster: Cluster) -> None:
    said = cluster.command("apportion", "verify", done.uri)
    assert said.code == 0, said.log
    found = json.loads(said.log.strip().splitlines()[-1])
    assert set(found["verified"].values()) == {"to the last bit"}, found


def test_tracking_has_a_finished_run_with_the_credits(done: Done, config: Config, tmp_path: Path) -> None:
    client = MlflowClient(tracking_uri=config.tracking.uri)
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    run = runs[f"round {done.round.id[:8]}"]
    assert run.data.tags["apportion.job"] == "job-1"
    for name in done.round.config.properties:
        for c in published(done.round.credits, name):
            assert run.data.metrics[key(f"phi/{name}/{c.contributor}")] == c.phi
            assert run.data.metrics[key(f"phi_se/{name}/{c.contributor}")] == c.se
    for name in ("report.html", "credits.csv"):
        copy = Path(client.download_artifacts(run.info.run_id, name, str(tmp_path))).read_bytes()
        assert copy == done.bucket[f"rounds/{done.round.id}/{name}"][0]
    rows = list(csv.DictReader(io.StringIO(done.bucket[f"rounds/{done.round.id}/credits.csv"][0].decode())))
    assert {row["contributor"] for row in rows} == set(done.round.manifest.names)


def test_close_ends_the_tracking_run_of_a_job_that_failed(cluster: Cluster, config: Config) -> None:
    other = [f"store=s3://{BUCKET}/closed", f"tracking.uri={config.tracking.uri}", "tracking.experiment=closed"]
    told = parameters(load(CONFIG, other))["config"]
    assert cluster.run("plan", config=told, job="job-5")
    client = MlflowClient(tracking_uri=config.tracking.uri)
    experiment = client.get_experiment_by_name("closed").experiment_id
    assert [run.info.status for run in client.search_runs([experiment])] == ["RUNNING"]
    cluster.run("close", config=told, job="job-5", status={"state": "FAILED"})
    assert [run.info.status for run in client.search_runs([experiment])] == ["FAILED"]


def test_the_killed_container_was_restricted(done: Done) -> None:
    """As this machine's kernel tells of its process, not as the engine was asked."""
    assert done.killed.code == 137, done.killed.log
    assert done.killed.strays == []
    assert done.status["Uid"].split() == done.status["Gid"].split() == ["10001"] * 4
    assert {int(done.status[kind], 16) for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert done.status["NoNewPrivs"] == "1"
    assert done.status["Seccomp"] == "2"
    assert "ro" in done.root.split(",")


def test_the_same_again_does_nothing(done: Done, cluster: Cluster, config: Config) -> None:
    assert cluster.run("plan", config=parameters(config)["config"], job="job-2") == ""
    assert objects(cluster) == done.bucket


def test_without_credentials_it_says_which_to_set(cluster: Cluster, config: Config) -> None:
    rest = {name: value for name, value in cluster.env.items() if "KEY" not in name}
    bare = Cluster(cluster.engine, cluster.scratch, rest | {"AWS_EC2_METADATA_DISABLED": "true"})
    ended = bare.start("plan", config=parameters(config)["config"], job="job-3").end()
    assert ended.code == 1
    assert ended.log.strip().splitlines()[-1].startswith("apportion: s3://containers/team/apportion")
    assert "no usable credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in ended.log
    assert "Traceback" not in ended.log


def test_the_wrong_image_is_named_as_such(cluster: Cluster, config: Config) -> None:
    """A task that asks for a GPU in the image that has no CUDA."""
    asked = load(CONFIG, ["compute.device=cuda", f"store={config.store}", "tracking.uri=null", "seed=7"])
    uri = cluster.run("plan", config=parameters(asked)["config"], job="job-4")
    ended = cluster.start("train", round_uri=uri).end()
    assert ended.code == 1
    assert "found no CUDA device on this machine, expected one for compute.device: cuda; choose auto or cpu" in ended.log
    assert "Traceback" not in ended.log
