"""A whole round in containers, one for each task: the objects in the bucket, the runs in MLflow, and the same
bytes as without containers."""

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

from apportion.config.loading import load
from apportion.config.round import Config
from apportion.tracking import key
from pipelines.parameters import parameters

pytestmark = pytest.mark.timeout(1800)  # the first test waits for image and round

SECONDS = 240

SAME = ("credits.json", "credits.csv", "plan.json", "evidence.json", "statement.csv")
"""Files that depend on neither times nor addresses."""


def test_every_evaluation_is_in_the_ledger_once(done: Done) -> None:
    names = [name for name in done.bucket if "/ledger/" in name]
    records = Counter(name.partition("/ledger/")[2].removesuffix(".json") for name in names)
    assert records == Counter({item.key: 1 for item in done.round.wanted})
    assert len(records) == 30  # 28 planned, one without the top contributors, one without random ones
    for evaluation in done.round.ledger.read_all(done.round.wanted):
        assert sorted(evaluation.values) == sorted(done.round.config.properties)


def test_it_took_minutes(done: Done, local: Path, times: dict[str, float]) -> None:
    """On two idle cores, half of the time is for starting Python. On a busy machine the round without
    containers takes longer too."""
    limit = max(SECONDS, 4 * times["round without containers"])
    assert times["round in containers"] < limit


def test_every_object_has_its_checksum(done: Done) -> None:
    for name, (data, metadata) in done.bucket.items():
        assert metadata["sha256"] == hashlib.sha256(data).hexdigest(), name


def test_credits_equal_those_without_containers_to_the_last_byte(done: Done, local: Path) -> None:
    assert local.name == done.round.id
    for name in SAME:
        assert done.bucket[f"rounds/{local.name}/{name}"][0] == (local / name).read_bytes(), name


def test_verify_in_a_container_gives_the_same(done: Done, cluster: Cluster) -> None:
    ended = cluster.command("apportion", "verify", done.uri)
    assert ended.code == 0, ended.log
    result = json.loads(ended.log.strip().splitlines()[-1])
    assert set(result["verified"].values()) == {"to the last bit"}, result


def test_tracking_has_a_finished_run_with_the_credits(done: Done, config: Config, tmp_path: Path) -> None:
    client = MlflowClient(tracking_uri=config.tracking.uri)
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    run = runs[f"round {done.round.id[:8]}"]
    assert run.data.tags["apportion.job"] == "job-1"
    for name in done.round.config.properties:
        for credit in done.round.credits.of(name):
            assert run.data.metrics[key(f"phi/{name}/{credit.contributor}")] == credit.phi
            assert run.data.metrics[key(f"phi_se/{name}/{credit.contributor}")] == credit.se
    for name in ("report.html", "credits.csv"):
        copy = Path(client.download_artifacts(run.info.run_id, name, str(tmp_path))).read_bytes()
        assert copy == done.bucket[f"rounds/{done.round.id}/{name}"][0]
    table = done.bucket[f"rounds/{done.round.id}/credits.csv"][0].decode()
    rows = list(csv.DictReader(io.StringIO(table)))
    assert {row["contributor"] for row in rows} == set(done.round.manifest.names)


def test_close_ends_the_tracking_run_of_a_job_that_failed(cluster: Cluster, config: Config) -> None:
    store = f"store=s3://{BUCKET}/closed"
    other = load(CONFIG, [store, f"tracking.uri={config.tracking.uri}", "tracking.experiment=closed"])
    text = parameters(other)["config"]
    assert cluster.run("plan", config=text, job="job-5")
    client = MlflowClient(tracking_uri=config.tracking.uri)
    experiment = client.get_experiment_by_name("closed").experiment_id
    assert [run.info.status for run in client.search_runs([experiment])] == ["RUNNING"]
    cluster.run("close", config=text, job="job-5", status={"state": "FAILED"})
    assert [run.info.status for run in client.search_runs([experiment])] == ["FAILED"]


def test_the_killed_container_was_restricted(done: Done) -> None:
    """From what the kernel reports of its process, not from the options of the engine."""
    assert done.killed.code == 137, done.killed.log
    assert done.killed.strays == []
    assert done.status["Uid"].split() == done.status["Gid"].split() == ["10001"] * 4
    capabilities = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    assert {int(done.status[kind], 16) for kind in capabilities} == {0}
    assert done.status["NoNewPrivs"] == "1"
    assert done.status["Seccomp"] == "2"
    assert "ro" in done.root.split(",")


def test_the_same_round_again_does_nothing(done: Done, cluster: Cluster, config: Config) -> None:
    assert cluster.run("plan", config=parameters(config)["config"], job="job-2") == ""
    assert objects(cluster) == done.bucket


def test_without_credentials_the_message_names_the_variables(cluster: Cluster, config: Config) -> None:
    rest = {name: value for name, value in cluster.env.items() if "KEY" not in name}
    bare = Cluster(cluster.engine, cluster.scratch, rest | {"AWS_EC2_METADATA_DISABLED": "true"})
    ended = bare.start("plan", config=parameters(config)["config"], job="job-3").end()
    assert ended.code == 1
    assert ended.log.strip().splitlines()[-1].startswith("apportion: s3://containers/team/apportion")
    assert "no usable credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in ended.log
    assert "Traceback" not in ended.log


def test_the_message_for_a_gpu_configuration_in_the_cpu_image(cluster: Cluster, config: Config) -> None:
    """The CPU image has no CUDA."""
    options = ["compute.device=cuda", f"store={config.store}", "tracking.uri=null", "seed=7"]
    values = parameters(load(CONFIG, options))
    uri = cluster.run("plan", config=values["config"], job="job-4")
    ended = cluster.start("train", round_uri=uri).end()
    assert ended.code == 1
    message = (
        "found no CUDA device on this machine, expected one for compute.device: cuda; choose auto or cpu"
    )
    assert message in ended.log
    assert "Traceback" not in ended.log
