"""One whole round in containers: the pipeline's tasks in its order, one of which is killed while it works and
is then run again."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from servers import CREDENTIALS
from tasks import Cluster, Ended

from apportion.config.round import Config
from apportion.config.stages import Phase, of_phase
from apportion.rounds.round import Round
from pipelines.parameters import parameters

BUCKET, PREFIX = "containers", "team/apportion/"


@dataclass(frozen=True)
class Done:
    """A round that ran in containers, one of which was killed while it worked."""

    uri: str
    killed: Ended
    status: dict[str, str]  # of the process of the killed container, from the kernel
    root: str  # the options with which its root was mounted
    round: Round
    bucket: dict[str, tuple[bytes, dict[str, str]]]  # objects and their metadata


def run_round(cluster: Cluster, config: Config, times: dict[str, float]) -> Done:
    """Runs the pipeline's tasks in its order, those of the two shards at the same time. The first fine-tuning
    of shard 1 is killed and then run again."""
    start = time.perf_counter()
    values = parameters(config)
    uri = cluster.run("plan", config=values["config"], job="job-1")
    for stage in of_phase("models"):
        cluster.run(stage, round_uri=uri)
    before = times["until fine-tuning"] = time.perf_counter() - start
    killed, status, root = kill_at_work(cluster, uri)
    times["killed"] = time.perf_counter() - start - before
    evaluate(cluster, uri, values["shards"])
    (credits_stage,) = of_phase("credits")
    if int(cluster.run(credits_stage, round_uri=uri)) > 0:
        evaluate(cluster, uri, values["shards"])
    for stage in of_phase("results"):
        cluster.run(stage, round_uri=uri)
    cluster.run("close", config=values["config"], job="job-1", status={"state": "SUCCEEDED"})
    times["round in containers"] = time.perf_counter() - start
    return Done(uri, killed, status, root, opened(cluster, uri), objects(cluster))


def evaluate(cluster: Cluster, uri: str, shards: list[int]) -> None:
    for phase in ("weights", "coalitions"):

        def chain(shard: int, phase: Phase = phase) -> None:
            for stage in of_phase(phase):
                cluster.run(stage, round_uri=uri, shard=shard)

        with ThreadPoolExecutor() as pool:
            list(pool.map(chain, shards))


def kill_at_work(cluster: Cluster, uri: str) -> tuple[Ended, dict[str, str], str]:
    """Kills a fine-tuning container when it has committed one or two of a dozen models."""
    known = len(models(cluster))
    task = cluster.start("finetune", round_uri=uri, shard=1)
    assert task.pid  # it runs
    status = dict(line.split(":\t", 1) for line in task.proc("status").splitlines() if ":\t" in line)
    mounts = [line.split() for line in task.proc("mountinfo").splitlines()]
    (root,) = (fields[5] for fields in mounts if fields[4] == "/")
    while len(models(cluster)) == known:
        assert task.process.poll() is None, task.end().log
        time.sleep(0.05)
    task.kill()
    return task.end(), status, root


def client(cluster: Cluster) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=cluster.env["AWS_ENDPOINT_URL_S3"],
        region_name=CREDENTIALS["AWS_DEFAULT_REGION"],
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    )


def listed(cluster: Cluster, prefix: str = "") -> list[str]:
    paginator = client(cluster).get_paginator("list_objects_v2")
    pages = paginator.paginate(Bucket=BUCKET, Prefix=PREFIX + prefix)
    return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


def models(cluster: Cluster) -> list[str]:
    return listed(cluster, "checkpoints/")


def objects(cluster: Cluster) -> dict[str, tuple[bytes, dict[str, str]]]:
    s3 = client(cluster)
    answers = {key: s3.get_object(Bucket=BUCKET, Key=key) for key in listed(cluster)}
    return {
        key.removeprefix(PREFIX): (answer["Body"].read(), answer["Metadata"])
        for key, answer in answers.items()
    }


def opened(cluster: Cluster, uri: str) -> Round:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.env.items():
            patch.setenv(name, value)
        return Round.open(uri)  # its client keeps the credentials
