"""Kill any process at any moment: the re-run ends with the same credits, and evaluates no coalition twice."""

# ruff: noqa: F811 (fixtures are imported, and named by the tests that need them)

import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from killing import share_stores
from mlflow import MlflowClient
from preloaded import Fork
from process_tree import seconds_until_ended, started_by
from servers import s3_bucket, s3_endpoint  # noqa: F401
from tiny import (
    REMOVALS,
    ROOT,
    SHARDED,
    SMALLER,
    concluded,
    configured,
    evaluated,
    pipeline,
    root,
    round_folder,
)
from tiny import snapshot as all_objects

from apportion import stages
from apportion.rounds.round import Round
from apportion.stages import finetune, plan, sample, score
from apportion.store import FileStore, Store, open_store
from apportion.store.layout import record_key

WORK = {"finetune": (finetune, "remove"), "sample": (sample, "generate"), "score": (score.Scorer, "values")}
"""Where each stage computes: a module or class, and the name of the function that it calls."""


def planned_keys(this_round: Round, stage: str, shard: int | None = None) -> list[str]:
    """The keys of what a stage makes of the planned coalitions, of all shards or of one."""
    unique = {item.key: item for item in this_round.plan.wanted}.values()
    items = sorted(unique, key=lambda item: not this_round.is_retrained(item))
    step = slice(None) if shard is None else slice(shard, None, this_round.config.compute.shards)
    if stage == "finetune":  # shards divide the models, not the coalitions
        return [key for item in items for key in this_round.weights_keys(item)][step]
    if stage == "sample":
        return [this_round.samples_key(item) for item in items[step] if this_round.generates(item)]
    return [record_key(item.game, item.key) for item in items[step]]


def snapshot(folder: Path) -> dict:
    """Every object of a store but leases, which are removed."""
    return {name: entry for name, entry in all_objects(folder).items() if not name.startswith("leases/")}


def wait_for_the_next_of(process: Fork, paths: list[Path]) -> None:
    """Waits until another of these files is there."""
    before, deadline = {path for path in paths if path.exists()}, time.monotonic() + 300
    while not any(path.exists() for path in paths if path not in before):
        assert not process.ended(), process.wait()
        assert time.monotonic() < deadline, "made nothing in time"
        time.sleep(0.0005)


def kill_at_the_next_of(process: Fork, paths: list[Path]) -> None:
    """Kills a process, and all that it started, as soon as another of these files is there."""
    wait_for_the_next_of(process, paths)
    assert process.kill() == -signal.SIGKILL, process.wait()


def unchanged(before: dict, folder: Path) -> bool:
    """Whether every object of a snapshot is still the same file, and not one that was made again."""
    after = snapshot(folder)
    return {name: after.get(name) for name in before} == before


def has_one_record_for_each_evaluation(this_round: Round) -> bool:
    """The follow-up evaluations included."""
    wanted = {record_key(item.game, item.key) for item in this_round.wanted}
    return {key for key in this_round.store.list("games/") if "/ledger/" in key} == wanted


FILES = ("credits.json", "credits.csv", "followup.json", "evidence.json", "statement.csv")


EVALUATIONS = dict.fromkeys(SHARDED, 14) | {"score": 15}
"""What each stage makes of a whole round. The held-out coalition is also measured by its own images, for
which only `score` has something to do."""


def results(this_round: Round) -> dict[str, bytes]:
    return {name: this_round.read(name) for name in FILES}


@pytest.fixture(scope="module")
def uninterrupted(copied_store) -> dict[str, bytes]:
    """The results of the round that the tests interrupt, without interruption."""
    this_round = copied_store("uninterrupted")
    # The held-out coalition is also measured by its own images, for which nothing is made.
    assert evaluated(this_round.uri) == dict.fromkeys(SHARDED, 12) | {"score": 13}
    concluded(this_round.uri)
    this_round = Round.open(this_round.uri)
    assert len({item.key for item in this_round.wanted}) == 15
    return results(this_round)


@pytest.fixture
def computations(monkeypatch):
    """How often each stage computes in this process."""
    counts: Counter[str] = Counter()

    def counting(stage, work):
        def call(*arguments):
            counts[stage] += 1
            return work(*arguments)

        return call

    for stage, (owner, name) in WORK.items():
        monkeypatch.setattr(owner, name, counting(stage, getattr(owner, name)))
    return counts


# One stage


def test_killed_inside_each_stage(ready, uninterrupted, computations, forks):
    """At any moment: as soon as the first of its results is seen."""
    folder = root(ready.uri)
    for stage in SHARDED:
        of_shard = [folder / key for key in planned_keys(ready, stage, 0)]
        everything = [folder / key for key in planned_keys(ready, stage)]
        assert not [path for path in everything if path.exists()]
        kill_at_the_next_of(forks.start("-m", "apportion", stage, ready.uri, "--shard", 0), of_shard)
        there = [path for path in of_shard if path.exists()]
        assert 0 < len(there) < len(of_shard)
        before = snapshot(folder)
        computations.clear()
        # Nothing that was there is computed again.
        assert evaluated(ready.uri, [stage]) == {stage: len(everything) - len(there)}
        assert computations == {stage: len(everything) - len(there)}
        assert unchanged(before, folder)
    before = snapshot(folder)
    concluded(ready.uri)
    assert unchanged(before, folder)
    assert has_one_record_for_each_evaluation(ready)
    assert results(ready) == uninterrupted


# Several workers


def script(call: str) -> str:
    """A program that calls a function of `killing`."""
    folders = [str(ROOT / "tests"), str(ROOT / "tests" / "pipelines")]
    return f"import sys; sys.path[:0] = {folders}; import killing; {call}"


def copy_to_bucket(this_round: Round, store: Store) -> Round:
    """The same round in another store."""
    for key in this_round.store.list():
        store.put_if_absent(key, this_round.store.get(key))
    return Round.open(this_round.uri.replace(this_round.store.uri, store.uri))


@pytest.fixture
def shared_stores(monkeypatch):
    """Stages do not each make a client of S3."""
    share_stores(monkeypatch.setattr)


@pytest.fixture(params=["folder", "bucket"])
def anywhere(request, ready):
    """The round `ready` in a folder and in a bucket."""
    if request.param == "folder":
        return ready
    request.getfixturevalue("shared_stores")
    bucket = request.getfixturevalue("s3_bucket")
    return copy_to_bucket(ready, open_store(f"s3://{bucket}/some/prefix"))


def test_three_processes_at_once_compute_nothing_twice(anywhere, uninterrupted, forks, tmp_path):
    """Each goes through all stages of all shards: what one is making, the others leave to it."""
    log = tmp_path / "computations"
    processes = [
        forks.start("-c", script(f"killing.work_on({anywhere.uri!r}, {str(log)!r})")) for _ in range(3)
    ]
    for process in processes:
        code, _, err = process.wait()
        assert code == 0, err
    assert Counter(log.read_text().split()) == dict.fromkeys(SHARDED, 12) | {"score": 13}
    assert list(anywhere.store.list("leases/")) == []
    concluded(anywhere.uri)
    assert results(anywhere) == uninterrupted


def test_two_processes_on_one_shard_at_once(anywhere, uninterrupted, forks):
    """Both go through finetune, sample and score of the same shard. What one has committed the other takes,
    or it drops its own."""
    commands = [["-m", "apportion", stage, anywhere.uri, "--shard", 0] for stage in SHARDED]
    for command in commands:
        processes = [forks.start(*command) for _ in range(2)]
        made = []
        for process in processes:
            code, out, err = process.wait()
            assert code == 0, err
            made.append(int(out))
        expected = len(planned_keys(anywhere, command[2], 0))
        assert sum(made) == expected > 5  # each object was stored by one of them
    keys = [key for stage in SHARDED for key in planned_keys(anywhere, stage, 0)]
    assert all(anywhere.store.exists(key) for key in keys)
    before = {key: anywhere.store.get(key) for key in keys}
    for stage in SHARDED:
        assert stages.run(stage, anywhere.uri, 0) == 0
        assert stages.run(stage, anywhere.uri, 1) == len(planned_keys(anywhere, stage, 1))
    concluded(anywhere.uri)
    assert {key: anywhere.store.get(key) for key in keys} == before
    assert has_one_record_for_each_evaluation(anywhere)
    assert results(anywhere) == uninterrupted


# Every commit

ROUND, GAME = r"rounds/[0-9a-f]{32}/", r"games/[0-9a-f]{32}/"
WEIGHTS, IMAGES, RECORD = r"checkpoints/.*", r"samples/.*", GAME + r"ledger/.*"

# A stage, the object at whose commit the process is killed, and the moments: `between` its checksum and the
# object itself, so that what was computed is lost, and `after` it.
COMMITS = [
    ("plan", r"probes/.*", ["after"]),
    ("plan", r"images/.*", ["between", "after"]),
    ("plan", r"manifests/.*", ["between"]),
    ("plan", r"networks/.*", ["between"]),
    ("plan", GAME + r"game\.json", ["after"]),
    ("plan", ROUND + r"config\.json", ["between"]),
    ("plan", ROUND + r"plan\.json", ["between", "after"]),
    ("train", WEIGHTS, ["between", "after"]),
    ("train", IMAGES, ["between", "after"]),
    ("train", r"references/.*", ["between", "after"]),
    ("prune", WEIGHTS, ["between", "after"]),
    ("finetune", WEIGHTS, ["between", "after"]),
    ("sample", IMAGES, ["between", "after"]),
    ("score", RECORD, ["between", "after"]),
    ("attribute", ROUND + r"credits\.json", ["between", "after"]),
    ("attribute", ROUND + r"credits\.csv", ["between"]),
    ("attribute", ROUND + r"followup\.json", ["between", "after"]),
    ("finetune", WEIGHTS, ["between"]),  # of the evaluations that the credits call for
    ("sample", IMAGES, ["after"]),
    ("score", RECORD, ["between"]),
    ("evaluate", ROUND + r"evidence\.json", ["between", "after"]),
    ("publish", ROUND + r"statement\.csv", ["after"]),
    ("publish", ROUND + r"report\.html", ["between"]),
    ("publish", ROUND + r"round\.json", ["between", "after"]),
    ("publish", r"heads/.*", ["between", "after"]),
]


@pytest.fixture
def carried_out(tmp_path, forks):
    """Carries a round out in a process that is killed at a commit, or goes on to the end."""
    log = tmp_path / "computations"

    def carry_out(config, key="nothing", moment="after"):
        arguments = (config.model_dump(mode="json"), str(log), key, moment)
        return forks.run("-c", script(f"killing.carry_out(*{arguments})"))

    carry_out.log = log
    return carry_out


def test_killed_at_every_commit_of_a_round(tmp_path, uninterrupted, carried_out):
    """One process after another, each killed at the commit where the one before could not get to."""
    config, folder = configured(tmp_path, *SMALLER), tmp_path / "store"
    seen, lost = {}, Counter()
    for stage, key, moments in COMMITS:
        for moment in moments:
            code, _, err = carried_out(config, key, moment)
            assert code == -signal.SIGKILL, (stage, key, moment, err)
            assert unchanged(seen, folder), (stage, key, moment)
            seen = snapshot(folder)
            lost[stage] += moment == "between"
    code, _, err = carried_out(config)
    assert code == 0, err
    assert unchanged(seen, folder)
    again = plan.run(config)
    assert not again.work
    this_round = Round.open(again.round_uri)
    assert has_one_record_for_each_evaluation(this_round)
    assert results(this_round) == uninterrupted
    # Each object was computed once, and once more where it was lost.
    counts = Counter(carried_out.log.read_text().split())
    assert counts == {stage: EVALUATIONS[stage] + lost[stage] for stage in SHARDED}


def test_killed_in_a_bucket(tmp_path, ready, uninterrupted, carried_out, shared_stores, s3_bucket):
    """From planning to publication. An object of a bucket appears together with its checksum. Nothing is
    written here."""
    workdir = tmp_path / "work"
    config = configured(workdir, *SMALLER, f"store=s3://{s3_bucket}/some/prefix")
    store = open_store(config.store)
    weights, record = (planned_keys(ready, stage)[3] for stage in ("finetune", "score"))
    known: dict[str, bytes] = {}
    for key in (weights, record, ROUND + r"credits\.json", r"heads/.*"):
        code, _, err = carried_out(config, key)
        assert code == -signal.SIGKILL, (key, err)
        keys = (key for key in store.list() if not key.startswith("leases/"))
        known |= {key: store.get(key) for key in keys if key not in known}
    code, _, err = carried_out(config)
    assert code == 0, err
    assert {key: store.get(key) for key in known} == known
    again = plan.run(config)
    assert not again.work
    this_round = Round.open(again.round_uri)
    assert has_one_record_for_each_evaluation(this_round)
    assert results(this_round) == uninterrupted
    assert Counter(carried_out.log.read_text().split()) == EVALUATIONS
    assert not workdir.exists()


# The pipeline


def tracked(workdir: Path) -> list[str]:
    """How the tracking runs of a work folder ended."""
    client = MlflowClient(tracking_uri=f"sqlite:///{workdir}/mlflow.db")
    experiment = client.get_experiment_by_name("apportion")
    return [run.info.status for run in client.search_runs([experiment.experiment_id])]


def test_stopped_and_killed_inside_the_pipeline(tmp_path, ready, uninterrupted, forks):
    """`python -m pipelines run` is stopped, then killed alone; all its processes end with it, and the same
    command goes on."""
    workdir = tmp_path / "work"
    arguments = pipeline(workdir, *SMALLER, REMOVALS)
    models = [workdir / "store" / key for key in planned_keys(ready, "finetune")]
    for number in (signal.SIGTERM, signal.SIGKILL):
        run = forks.start(*arguments)
        wait_for_the_next_of(run, models)
        workers = started_by(run.pid)
        assert workers
        os.kill(run.pid, number)
        code, out, err = run.wait()
        assert seconds_until_ended(workers) < 10
        assert tracked(workdir) == ["RUNNING"]
        if number == signal.SIGTERM:
            assert code == 128 + number
            assert (
                err.count("apportion: stopped by SIGTERM; what was stored is kept, and this command goes")
                == 1
            )
            assert "stopped in" not in out + err  # as KFP would say of a task that failed
    made = [path for path in models if path.exists()]
    assert 2 <= len(made) < len(models)
    before = snapshot(workdir / "store")

    code, out, err = forks.run(*arguments)
    assert code == 0, out + err
    store = FileStore(workdir / "store")
    this_round = Round.open(f"{store.uri}/rounds/{ready.id}")
    assert (round_folder(this_round) / "round.json").exists()
    assert unchanged(before, workdir / "store")
    assert list(store.list("leases/")) == []
    assert has_one_record_for_each_evaluation(this_round)
    assert results(this_round) == uninterrupted
    assert tracked(workdir) == ["FINISHED"] * 2  # of the round, and of its method
