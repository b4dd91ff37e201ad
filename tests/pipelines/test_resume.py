"""Kill any process at any moment: the re-run ends with the same credits and evaluates no coalition twice."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from servers import s3_bucket, s3_endpoint  # noqa: F401
from tiny import MODULES, SHARDED, concluded, evaluated, pipeline, plan, prepared, ran, root, said, snapshot, started, told

from apportion.ledger import record_key
from apportion.stages.round import Round, round_key

WORK = {"finetune": "remove", "sample": "generate", "score": "measure"}
"""The call in each stage that computes."""


def outputs(round: Round, stage: str, shard: int | None = None) -> list[Path]:
    """Where a stage puts what it makes of the planned coalitions, of all or of one shard."""
    dealt = sorted({item.key: item for item in round.plan.wanted}.values(), key=lambda item: item.game != round.plan.truth_game)
    chosen = dealt if shard is None else dealt[shard :: round.config.compute.shards]
    key = {"finetune": round.weights_key, "sample": round.samples_key, "score": lambda item: record_key(item.game, item.key)}[stage]
    return [root(round.uri) / key(item) for item in chosen]


def kill_inside(process: "subprocess.Popen[str]", expected: list[Path]) -> None:
    """Kills a process and all it started as soon as a part of what is expected is there."""
    before, deadline = {path for path in expected if path.exists()}, time.monotonic() + 400
    try:
        while not any(path.exists() for path in expected if path not in before):
            assert process.poll() is None, said(process)
            assert time.monotonic() < deadline, "made nothing in time"
            time.sleep(0.001)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL


def unchanged(before: dict, folder: Path) -> bool:
    """Whether every object of a snapshot is the one that was there then, not one that was made again."""
    after = snapshot(folder)
    return {name: after.get(name) for name in before} == before


def one_record_each(round: Round) -> bool:
    held = [path for path in (root(round.uri) / "games").glob("*/ledger/*") if path.suffix == ".json" and not path.name.startswith(".")]
    return sorted(path.stem for path in held) == sorted({item.key for item in round.wanted})


def credits(round: Round) -> bytes:
    return round.store.get(round_key(round.id, "credits.csv"))


def tracked(workdir: Path) -> list[str]:
    """How the tracking runs of a work folder ended."""
    client = MlflowClient(tracking_uri=f"sqlite:///{workdir}/mlflow.db")
    return [run.info.status for run in client.search_runs([client.get_experiment_by_name("apportion").experiment_id])]


@pytest.fixture
def counted(monkeypatch):
    """How often each stage computes in this process."""
    calls = dict.fromkeys(WORK, 0)

    def counting(stage, work):
        def call(*arguments):
            calls[stage] += 1
            return work(*arguments)

        return call

    for stage, name in WORK.items():
        monkeypatch.setattr(MODULES[stage], name, counting(stage, getattr(MODULES[stage], name)))
    return calls


@pytest.mark.parametrize("stage", SHARDED)
def test_killed_inside_a_stage(stage, ready, whole, counted):
    evaluated(ready.uri, SHARDED[: SHARDED.index(stage)])
    mine, everything = outputs(ready, stage, 0), outputs(ready, stage)
    assert not [path for path in everything if path.exists()]
    kill_inside(started("-m", "apportion", stage, ready.uri, "--shard", 0), mine)
    there = [path for path in mine if path.exists()]
    assert 0 < len(there) < len(mine)
    before = snapshot(root(ready.uri))
    counted[stage] = 0
    made = evaluated(ready.uri, SHARDED[SHARDED.index(stage) :])
    assert made[stage] == counted[stage] == len(everything) - len(there)  # nothing that was there was computed again
    assert counted["score"] <= len(everything)
    concluded(ready.uri)
    assert unchanged(before, root(ready.uri))
    assert one_record_each(ready)
    assert credits(ready) == whole.credits


def test_two_processes_on_one_shard_at_once(ready, whole):
    """Each goes through finetune, sample and score of the same shard; what one has committed the other takes, or drops its own."""
    both = f"import sys; from apportion.cli import main; sys.exit(max(main([s, {ready.uri!r}, '--shard', '0']) for s in {SHARDED!r}))"
    processes = [started("-c", both) for _ in range(2)]
    for process in processes:
        code, _, err = said(process)
        assert code == 0, err
    assert all(path.exists() for stage in SHARDED for path in outputs(ready, stage, 0))
    before = snapshot(root(ready.uri))
    for stage in SHARDED:
        assert MODULES[stage].run(ready.uri, 0) == 0
        MODULES[stage].run(ready.uri, 1)
    concluded(ready.uri)
    assert unchanged(before, root(ready.uri))
    assert one_record_each(ready)
    assert credits(ready) == whole.credits


def test_killed_inside_the_pipeline(tmp_path, whole):
    """The process group of `python -m pipelines run` goes at once, as with a machine; the same command goes on.

    Without the counterfactual, which changes no credits, it is done sooner."""
    arguments = pipeline(tmp_path / "work")
    models = [tmp_path / "work" / path.relative_to(whole.workdir) for path in outputs(whole.round, "finetune")]
    kill_inside(started(*arguments), models)
    made = [path for path in models if path.exists()]
    assert 0 < len(made) < len(models)
    before = snapshot(tmp_path / "work" / "store")
    assert tracked(tmp_path / "work") == ["RUNNING"]

    code, out, err = ran(*arguments)
    assert code == 0, out + err
    store = tmp_path / "work" / "store"
    round = Round.open(f"{store.as_uri()}/rounds/{(store / 'heads' / 'tiny').read_text().strip()}")
    assert unchanged(before, store)
    assert one_record_each(round)
    assert credits(round) == whole.credits
    assert tracked(tmp_path / "work") == ["FINISHED"] * 5  # the round's, and one for each method


def test_a_round_in_a_bucket(whole, tmp_path, s3_bucket):  # noqa: F811
    """The same stages on s3://, from planning to publication, end with the same bytes."""
    config = told(tmp_path, f"store=s3://{s3_bucket}/some/prefix")
    planned = plan.run(config)
    assert (planned.work, planned.pending) == (True, 24)
    prepared(planned.round_uri)
    round = Round.open(planned.round_uri)
    assert round.id == whole.round.id
    assert evaluated(round.uri) == {"finetune": 24, "sample": 24, "score": 24}
    assert evaluated(round.uri) == {"finetune": 0, "sample": 0, "score": 0}
    concluded(round.uri)
    assert credits(round) == whole.credits
    assert list(tmp_path.iterdir()) == []
    assert not plan.run(config).work
