"""One whole round in containers: the pipeline's tasks in its order, one of which is killed at work and tried again."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from servers import CREDENTIALS
from tasks import Cluster, Ended

from apportion.config import Config
from apportion.stages import SHARDED
from apportion.stages.round import Round
from pipelines.parameters import parameters

BUCKET, PREFIX = "containers", "team/apportion/"


@dataclass(frozen=True)
class Done:
    """A round that ran in containers, one of which was killed at work."""

    uri: str
    killed: Ended
    status: dict[str, str]  # of the killed one's process, as the kernel told
    root: str  # how its root was mounted
    round: Round
    bucket: dict[str, tuple[bytes, dict[str, str]]]  # objects and their metadata


def run_round(cluster: Cluster, config: Config, times: dict[str, float]) -> Done:
    """The pipeline's tasks in their order, those of two shards side by side; shard 1's first fine-tuning is killed, and tried again."""
    begun, sent = time.perf_counter(), parameters(config)
    uri = cluster.run("plan", config=sent["config"], job="job-1")
    for stage in ("train", "prune"):
        cluster.run(stage, round_uri=uri)
    before = times["until fine-tuning"] = time.perf_counter() - begun
    killed, status, root = kill_at_work(cluster, uri)
    times["killed"] = time.perf_counter() - begun - before
    evaluate(cluster, uri, sent["shards"])
    if int(cluster.run("attribute", round_uri=uri)) > 0:
        evaluate(cluster, uri, sent["shards"])
    for stage in ("evaluate", "publish"):
        cluster.run(stage, round_uri=uri)
    cluster.run("close", config=sent["config"], job="job-1", status={"state": "SUCCEEDED"})
    times["round in containers"] = time.perf_counter() - begun
    return Done(uri, killed, status, root, opened(cluster, uri), objects(cluster))


def evaluate(cluster: Cluster, uri: str, shards: list[int]) -> None:
    def chain(shard: int) -> None:
        for stage in SHARDED:
            cluster.run(stage, round_uri=uri, shard=shard)

    with ThreadPoolExecutor() as pool:
        list(pool.map(chain, shards))


def kill_at_work(cluster: Cluster, uri: str) -> tuple[Ended, dict[str, str], str]:
    """Kills a fine-tuning container when it has committed a model or two of a dozen."""
    known, task = len(models(cluster)), cluster.start("finetune", round_uri=uri, shard=1)
    assert task.pid  # it runs
    status = dict(line.split(":\t", 1) for line in task.proc("status").splitlines() if ":\t" in line)
    (root,) = (fields[5] for line in task.proc("mountinfo").splitlines() if (fields := line.split())[4] == "/")
    while len(models(cluster)) == known:
        assert task.process.poll() is None, task.end().log
        time.sleep(0.05)
    task.kill()
    return task.end(), status, root


def client(cluster: Cluster) -> Any:
    keys = {name.lower(): value for name, value in CREDENTIALS.items() if name.startswith("AWS_") and "REGION" not in name}
    return boto3.client("s3", endpoint_url=cluster.env["AWS_ENDPOINT_URL_S3"], region_name=CREDENTIALS["AWS_DEFAULT_REGION"], **keys)


def listed(cluster: Cluster, prefix: str = "") -> list[str]:
    pages = client(cluster).get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=PREFIX + prefix)
    return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


def models(cluster: Cluster) -> list[str]:
    return listed(cluster, "checkpoints/")


def objects(cluster: Cluster) -> dict[str, tuple[bytes, dict[str, str]]]:
    s3 = client(cluster)
    answers = {key: s3.get_object(Bucket=BUCKET, Key=key) for key in listed(cluster)}
    return {key.removeprefix(PREFIX): (answer["Body"].read(), answer["Metadata"]) for key, answer in answers.items()}


def opened(cluster: Cluster, uri: str) -> Round:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.env.items():
            patch.setenv(name, value)
        return Round.open(uri)  # its client keeps the credentials
