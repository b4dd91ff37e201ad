"""The stage `plan`: what it says, where it writes, and what it imports."""

import subprocess
import sys
from pathlib import Path

import pytest
from tiny import ALONE, CONFIG, ROOT, configured, fill

from apportion.config.loading import load
from apportion.rounds.round import Round
from apportion.stages import plan
from apportion.tracking import open_tracker

NAMES = ["50% ü 名 #1;&=+[x]{y}'\"", "a%20b {workdir}", "what?x=1"]


@pytest.mark.parametrize("name", NAMES)
def test_a_work_folder_may_have_any_name(name, tmp_path, monkeypatch, tracked):
    """Everything is written below it."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    workdir = Path(name) / "rounds"
    config = load(CONFIG, [ALONE, "properties=[fid]"], workdir)
    workdir.mkdir(parents=True)
    # The tables of the database are there already, as making them takes seconds.
    (tmp_path / "work" / "mlflow.db").rename(workdir / "mlflow.db")
    this_round = Round.open(plan.run(config, "job").round_uri)
    fill(this_round, lambda mask, *_: float(mask.sum()))
    assert plan.run(config, "job").pending == 0
    tracker = open_tracker(config.tracking)
    tracker.artifact(tracker.start(this_round.id, "job", {}), "here.txt", b"")
    assert [path.name for path in home.iterdir()] == [name]
    assert {path.name for path in workdir.iterdir()} == {"store", "mlflow.db", "artifacts"}
    assert len([*workdir.glob("artifacts/*/artifacts/here.txt")]) == 1
    assert (workdir / "store" / "rounds" / this_round.id / "plan.json").exists()


def test_a_plan_says_what_is_pending_and_what_it_should_take(tmp_path):
    config = configured(tmp_path, "properties=[fid]", "evaluation.counterfactual=null")
    first = plan.run(config)
    this_round = Round.open(first.round_uri)
    count = len({item.key for item in this_round.wanted})
    assert (first.work, first.pending) == (True, count)
    assert first.reason == f"{count} of {count} evaluations are not in the ledger"
    fill(this_round, lambda mask, *_: float(mask.sum()))
    next(tmp_path.glob("store/games/*/ledger/*.json")).unlink()
    again = plan.run(config)
    assert (again.work, again.pending, again.round_uri) == (True, 1, first.round_uri)
    assert again.reason.startswith(f"1 of {count} evaluations are not in the ledger; they should take ")
    assert again.reason.endswith(" minutes on 2 shards")


def test_a_pipeline_passes_the_configuration_as_text(tmp_path, caplog):
    caplog.set_level("INFO")
    config = configured(tmp_path, "properties=[fid]")
    planned_round = plan.run_text(config.model_dump_json())
    assert planned_round == plan.run(config)
    assert f"round {planned_round.round_uri}: {planned_round.reason}" in caplog.messages


WITHOUT_TORCH = """
import sys
from pathlib import Path

sys.path.insert(0, "tests")
from tiny import configured, fill
from apportion import stages
from apportion.rounds.round import Round
from apportion.stages import plan

overrides = ("properties=[fid, inception_score]", "compute.device=cpu", "valuation.methods=[leverage]")
this_round = Round.open(plan.run(configured(Path(sys.argv[1]), *overrides)).round_uri)
fill(this_round, lambda mask, *_: float(mask @ [1, 2, 3, 5]))
stages.run("attribute", this_round.uri)
fill(this_round, lambda mask, *_: float(mask @ [1, 2, 3, 5]))
stages.run("evaluate", this_round.uri)
stages.run("publish", this_round.uri)
assert this_round.has("round.json")
assert not plan.run(this_round.config).work
loaded = {"torch", "diffusers", "torchvision", "torchmetrics", "torch_pruning"} & sys.modules.keys()
assert not loaded, loaded
"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere the precision of a processor is known by torch"
)
def test_planning_and_publication_import_no_deep_learning_library(tmp_path):
    """Of a round of the embedded drawings: `plan`, `attribute`, `evaluate` and `publish` run in the small
    image."""
    command = [sys.executable, "-c", WITHOUT_TORCH, tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
