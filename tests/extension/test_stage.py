"""A new stage is a row of STAGES and a module. Its component, its place in the pipeline, its command, the
import contracts and the options of the cluster follow."""

import yaml
from overlay import Overlay
from tiny import CONFIG, fill, planned

ROW = '    "audit": StageRow("results", "how many records a round has"),\n'
MODULE = '''
"""audit: how many records a round has."""

from apportion.rounds.round import Round


def run(round_uri: str) -> int:
    return len(Round.open(round_uri).all_evaluations())
'''


def test_a_stage_is_two_files(tmp_path):
    overlay = Overlay(tmp_path / "overlay", "components", "pipelines", "pyproject.toml")
    overlay.edit(
        "src/apportion/config/stages.py", ('    "publish": StageRow(', ROW + '    "publish": StageRow(')
    )
    overlay.add("src/apportion/stages/audit.py", MODULE.lstrip())
    assert len(overlay.changed) == 2

    overlay.run("-m", "components.generate")
    overlay.run("-m", "pipelines", "compile", "--out", str(tmp_path / "compiled"))
    compiled = next(yaml.safe_load_all((tmp_path / "compiled" / "attribution.yaml").read_text()))
    tasks = [
        group["dag"]["tasks"]
        for group in compiled["components"].values()
        if "audit" in group.get("dag", {}).get("tasks", {})
    ]
    assert tasks
    assert all(group["audit"]["dependentTasks"] == ["evaluate"] for group in tasks)
    assert all(group["publish"]["dependentTasks"] == ["audit"] for group in tasks)
    contracts = (overlay.folder / "pyproject.toml").read_text()
    assert contracts.count('"apportion.stages.audit"') == 2

    this_round = planned(tmp_path / "work", "evaluation.counterfactual=null")
    fill(this_round, lambda mask, name, seed: float(mask.sum()))
    assert overlay.run("-m", "apportion", "audit", this_round.uri).strip() == str(
        len(this_round.all_evaluations())
    )
    options = (
        "from pathlib import Path; from apportion.config.loading import load; import sys; "
        "print(load(Path(sys.argv[1]), ['cluster.stages.audit.retries=1']).cluster.retries_of('audit'))"
    )
    assert overlay.run("-c", options, str(CONFIG)).strip() == "1"
