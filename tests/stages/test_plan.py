"""Planning in work folders of any name: everything goes where it says, and nothing beside it."""

from pathlib import Path

import pytest
from tiny import ALONE, CONFIG, fill

from apportion.config import load
from apportion.stages import plan
from apportion.stages.round import Round
from apportion.tracking import open_tracker

NAMES = ["50% ü 名 #1;&=+[x]{y}'\"", "a%20b {workdir}", "what?x=1"]


@pytest.mark.parametrize("name", NAMES)
def test_a_work_folder_may_have_any_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workdir = Path(name) / "rounds"
    config = load(CONFIG, [ALONE, "properties=[fid]"], workdir)
    round = Round.open(plan.run(config, "job").round_uri)
    fill(round, lambda mask, *_: float(mask.sum()))
    assert plan.run(config, "job").pending == 0
    tracker = open_tracker(config.tracking)
    tracker.artifact(tracker.start(round.id, "job", {}), "here.txt", b"")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert {path.name for path in workdir.iterdir()} == {"store", "mlflow.db", "artifacts"}
    assert len(list(workdir.glob("artifacts/*/artifacts/here.txt"))) == 1
    assert (workdir / "store" / "rounds" / round.id / "plan.json").exists()
