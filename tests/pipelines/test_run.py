"""The whole tiny pipeline, as a user runs it, and once more."""

import csv
import io
import re
from html import unescape
from pathlib import Path

import pytest
from mlflow import MlflowClient
from tiny import CONFIG, REMOVALS

from apportion.config import load
from apportion.errors import ApportionError
from apportion.stages.attribute import published
from pipelines.__main__ import conclude

NAMES = ["Emily Jäger", "Fanny Jung", "Lisa Thiel", "Sofie Ascherl"]
PROPERTIES = ["cluster_entropy", "colourfulness_p90", "fid", "inception_score"]
METHODS = ["tree_residual", "leverage", "banzhaf", "beta_shapley"]
STAGES = ["plan", "train", "prune", *["finetune", "finetune", "sample", "sample", "score", "score"], "attribute"]
AFTER = [*["finetune", "finetune", "sample", "sample", "score", "score"], "evaluate", "publish", "close"]


def stages(out):
    """Which tasks started, in their order."""
    return [line for line in out.splitlines() if re.fullmatch(r"[a-z]+", line)]


@pytest.fixture(scope="module")
def runs(whole):
    client = MlflowClient(tracking_uri=f"sqlite:///{whole.workdir}/mlflow.db")
    experiment = client.get_experiment_by_name("apportion")
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def test_it_succeeds_and_says_what_it_does(whole):
    assert whole.code == 0, whole.out + whole.err
    started = stages(whole.out)
    assert sorted(started) == sorted(STAGES + AFTER)
    assert [name for i, name in enumerate(started) if started[i - 1 : i] != [name]] == list(dict.fromkeys(STAGES)) + list(
        dict.fromkeys(AFTER)
    )
    assert "24 of 24 evaluations are not in the ledger" in whole.out
    assert "pruned 164,563 parameters to" in whole.out
    for word in ("Traceback", "Warning", "KFP", "\x1b[", "SUCCESS", '"inputs"'):
        assert word not in whole.out + whole.err


def test_it_ends_with_a_table_for_each_property_and_the_report(whole):
    tables = whole.out[whole.out.index("\nclose\n") :]
    for name in PROPERTIES:
        assert f"{name}  " in tables
    for name in NAMES:
        assert tables.count(name) == len(PROPERTIES)
    for c in published(whole.round.credits, "fid"):
        assert re.search(rf"{c.contributor} +{re.escape(f'{c.phi:+.3f}')} +", tables)
    assert "Intervals by leverage cover" in tables
    assert re.search(r"pipeline: \d+\.\d s", whole.err)


def test_the_report_is_where_it_says_and_names_everybody(whole):
    uri = re.search(r"^report: (file://\S+/report\.html)$", whole.out, re.MULTILINE)[1]
    page = Path(uri.removeprefix("file://").replace("%20", " "))
    assert page == whole.workdir / "store" / "rounds" / whole.round.id / "report.html"
    text = unescape(page.read_text(encoding="utf-8"))
    assert not [name for name in (*NAMES, *PROPERTIES) if name not in text]
    assert len(re.findall("data:image/", text)) >= len(NAMES)


def test_the_ledger_holds_what_was_planned(whole):
    wanted = {(item.game, item.key) for item in whole.round.wanted}
    held = {(game.name, path.stem) for game in (whole.workdir / "store" / "games").iterdir() for path in game.glob("ledger/*.json")}
    assert held == wanted
    assert len({key for _, key in held}) == len(held) == 26  # 24 planned; without the top, and without another at random


def test_every_evaluation_has_values_and_a_cost(whole):
    for wanted, evaluation in whole.round.evaluations("v0", "v1", "design", "held_out", "paired", "counterfactual"):
        assert sorted(evaluation.values) == PROPERTIES
        assert evaluation.cost.sample > 0
        assert evaluation.cost.score > 0
        assert evaluation.cost.finetune > 0 or not wanted.mask(4).any()
        assert evaluation.cost.device.startswith("cpu (1 threads), ")


def test_the_table_of_credits(whole):
    rows = list(csv.DictReader(io.StringIO(whole.credits.decode())))
    assert [(row["property"], row["method"], row["contributor"]) for row in rows] == [
        (name, method, who) for name in PROPERTIES for method in METHODS for who in NAMES
    ]
    for name in PROPERTIES:
        gain = whole.round.credits.v1[name].mean - whole.round.credits.v0[name].mean
        for method in ("tree_residual", "leverage"):
            assert sum(float(row["phi"]) for row in rows if (row["property"], row["method"]) == (name, method)) == pytest.approx(gain)


def test_the_tracking_runs_are_finished(whole, runs):
    assert set(runs) == {f"round {whole.round.id[:8]}", *METHODS}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    parent = runs[f"round {whole.round.id[:8]}"]
    assert runs["leverage"].data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.data.tags["apportion.round"] == whole.round.id
    assert parent.data.tags["apportion.manifest"] == whole.round.manifest.id
    assert parent.data.tags["apportion.estimator"] == "tree_residual"


def test_the_tracking_run_has_the_numbers(whole, runs):
    metrics = runs[f"round {whole.round.id[:8]}"].data.metrics
    for name in PROPERTIES:
        for c in published(whole.round.credits, name):
            assert metrics[f"phi/{name}/{c.contributor}"] == c.phi
            assert metrics[f"phi_se/{name}/{c.contributor}"] == c.se
            assert runs["tree_residual"].data.metrics[f"phi/{name}/{c.contributor}"] == c.phi
    assert {f"value/{name}" for name in PROPERTIES} <= set(metrics)
    assert metrics["gpu_seconds"] == 0
    assert all(metrics[f"seconds/{step}"] > 0 for step in ("finetune", "sample", "score"))
    assert runs[f"round {whole.round.id[:8]}"].data.params["valuation.coalitions"] == "12"


def test_the_tracking_run_has_the_files(whole, runs, tmp_path):
    client, run = MlflowClient(tracking_uri=f"sqlite:///{whole.workdir}/mlflow.db"), runs[f"round {whole.round.id[:8]}"].info.run_id
    files = {"report.html", "credits.csv", "statement.csv", "evidence.json", "plan.json", "config.json"}
    assert {artifact.path for artifact in client.list_artifacts(run)} == files | {"credits.json", "evaluations.json", "figures"}
    assert {artifact.path for artifact in client.list_artifacts(run, "figures")} == {f"figures/{name}.svg" for name in PROPERTIES}
    for name in files:
        copy = Path(client.download_artifacts(run, name, str(tmp_path))).read_bytes()
        assert copy == whole.round.store.get(f"rounds/{whole.round.id}/{name}")


def test_the_same_again_does_nothing(whole, again):
    assert again.code == 0, again.out + again.err
    assert stages(again.out) == ["plan", "close"]
    assert "nothing to do: manifest, configuration and code are those of the last committed round" in again.out
    assert again.before == again.after == whole.after
    assert again.out[again.out.index("\nclose\n") :] == whole.out[whole.out.index("\nclose\n") :]  # it shows the credits all the same


def test_the_same_again_starts_no_tracking_run(again, runs):
    client = MlflowClient(tracking_uri=f"sqlite:///{again.workdir}/mlflow.db")
    experiment = client.get_experiment_by_name("apportion")
    assert {run.info.run_id for run in client.search_runs([experiment.experiment_id])} == {run.info.run_id for run in runs.values()}


def test_a_round_of_another_configuration_is_not_shown_as_this_one(whole, capsys):
    """The head may have been moved by somebody else since this run published."""
    with pytest.raises(ApportionError, match=f"round {whole.round.id} of another configuration was published meanwhile"):
        conclude(load(CONFIG, [REMOVALS, "valuation.level=0.9"], whole.workdir), 1.0)
    assert capsys.readouterr().out == ""


def test_everything_lies_in_the_work_folder(whole):
    assert {path.name for path in whole.workdir.iterdir()} == {"store", "mlflow.db", "artifacts", "pipeline"}
