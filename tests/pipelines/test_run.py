"""The whole tiny pipeline, as a user runs it, and once more."""

import re
from html import unescape
from pathlib import Path

import pytest
from mlflow import MlflowClient
from tiny import CONFIG, REMOVALS, commit, csv_rows

from apportion.config.loading import load
from apportion.errors import ApportionError
from pipelines.__main__ import conclude

NAMES = ["Emily Jäger", "Fanny Jung", "Lisa Thiel", "Sofie Ascherl"]
PROPERTIES = ["cluster_entropy", "colourfulness_p90", "fid", "inception_score"]
METHODS = ["tree_residual", "leverage", "banzhaf", "beta_shapley"]
COALITIONS = ["finetune", "finetune", "sample", "sample", "score", "score"]
"""Two shards."""
BEFORE_CREDITS = ["plan", "train", "prune", *COALITIONS, "attribute"]
AFTER_CREDITS = [*COALITIONS, "evaluate", "publish", "close"]


def tasks(out):
    """The tasks that started, in their order."""
    return [line for line in out.splitlines() if re.fullmatch(r"[a-z]+", line)]


def without_repeats(names):
    return [name for i, name in enumerate(names) if names[i - 1 : i] != [name]]


@pytest.fixture(scope="module")
def runs(whole):
    """The tracking runs, by name."""
    client = MlflowClient(tracking_uri=f"sqlite:///{whole.workdir}/mlflow.db")
    experiment = client.get_experiment_by_name("apportion")
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def round_run(whole, runs):
    return runs[f"round {whole.round.id[:8]}"]


def test_it_succeeds_and_prints_its_tasks(whole):
    assert whole.code == 0, whole.out + whole.err
    started = tasks(whole.out)
    assert sorted(started) == sorted(BEFORE_CREDITS + AFTER_CREDITS)
    # Tasks of the shards run side by side.
    order = [*dict.fromkeys(BEFORE_CREDITS), *dict.fromkeys(AFTER_CREDITS)]
    assert without_repeats(started) == order
    assert "28 of 28 evaluations are not in the ledger" in whole.out
    assert "pruned 164,563 parameters to" in whole.out
    for word in ("Traceback", "Warning", "KFP", "\x1b[", "SUCCESS", '"inputs"'):
        assert word not in whole.out + whole.err


def test_it_ends_with_a_table_for_each_property_and_the_report(whole):
    tables = whole.out[whole.out.index("\nclose\n") :]
    for name in PROPERTIES:
        assert f"{name}  " in tables
    for name in NAMES:
        assert tables.count(name) == len(PROPERTIES)
    for c in whole.round.credits.of("fid"):
        assert re.search(rf"{c.contributor} +{re.escape(f'{c.phi:+.3f}')} +", tables)
    assert "Intervals by leverage cover" in tables
    assert re.search(r"pipeline: \d+\.\d s", whole.err)


def test_the_report_is_at_its_address_and_names_all_contributors(whole):
    uri = re.search(r"^report: (file://\S+/report\.html)$", whole.out, re.MULTILINE)[1]
    page = Path(uri.removeprefix("file://").replace("%20", " "))
    assert page == whole.workdir / "store" / "rounds" / whole.round.id / "report.html"
    text = unescape(page.read_text(encoding="utf-8"))
    assert not [name for name in (*NAMES, *PROPERTIES) if name not in text]
    assert len(re.findall("data:image/", text)) >= len(NAMES)


def test_the_ledger_holds_what_was_planned(whole):
    wanted = {(item.game, item.key) for item in whole.round.wanted}
    games = whole.workdir / "store" / "games"
    records = {(path.parts[-3], path.stem) for path in games.glob("*/ledger/[!.]*.json")}
    assert records == wanted
    # 28 planned; without the top, and without another at random
    assert len({key for _, key in records}) == len(records) == 30


def test_every_evaluation_has_values_and_a_cost(whole):
    purposes = {wanted.purpose for wanted, _ in whole.round.all_evaluations()}
    assert purposes == {"v0", "v1", "design", "held_out", "paired", "baseline", "counterfactual"}
    for wanted, evaluation in whole.round.all_evaluations():
        assert sorted(evaluation.values) == PROPERTIES
        assert evaluation.cost.score > 0
        if wanted.purpose == "baseline":
            assert evaluation.cost.finetune == evaluation.cost.sample == 0
            continue
        assert evaluation.cost.sample > 0
        assert evaluation.cost.finetune > 0 or not wanted.mask(4).any()
        assert evaluation.cost.device.startswith("cpu (1 threads), ")


def test_the_table_of_credits(whole):
    table = csv_rows(whole.round, "credits.csv")
    assert [(row["property"], row["method"], row["contributor"]) for row in table] == [
        (name, method, contributor) for name in PROPERTIES for method in METHODS for contributor in NAMES
    ]
    for name in PROPERTIES:
        gain = whole.round.credits.v1[name].mean - whole.round.credits.v0[name].mean
        for method in ("tree_residual", "leverage"):
            of_method = [row for row in table if (row["property"], row["method"]) == (name, method)]
            assert sum(float(row["phi"]) for row in of_method) == pytest.approx(gain)


def test_the_tracking_runs_are_finished(whole, runs):
    assert set(runs) == {f"round {whole.round.id[:8]}", *METHODS}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    parent = round_run(whole, runs)
    assert commit(whole.round).tracking_run == parent.info.run_id
    assert runs["leverage"].data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.data.tags["apportion.round"] == whole.round.id
    assert parent.data.tags["apportion.manifest"] == whole.round.manifest.id
    assert parent.data.tags["apportion.estimator"] == "tree_residual"


def test_the_tracking_run_has_the_numbers(whole, runs):
    metrics = round_run(whole, runs).data.metrics
    for name in PROPERTIES:
        for c in whole.round.credits.of(name):
            assert metrics[f"phi/{name}/{c.contributor}"] == c.phi
            assert metrics[f"phi_se/{name}/{c.contributor}"] == c.se
            assert runs["tree_residual"].data.metrics[f"phi/{name}/{c.contributor}"] == c.phi
    assert {f"value/{name}" for name in PROPERTIES} <= set(metrics)
    assert metrics["gpu_seconds"] == 0
    assert all(metrics[f"seconds/{step}"] > 0 for step in ("finetune", "sample", "score"))
    assert round_run(whole, runs).data.params["valuation.coalitions"] == "12"


def test_the_tracking_run_has_the_files(whole, runs, tmp_path):
    client = MlflowClient(tracking_uri=f"sqlite:///{whole.workdir}/mlflow.db")
    run = round_run(whole, runs).info.run_id
    files = {"report.html", "credits.csv", "statement.csv", "evidence.json", "plan.json", "config.json"}
    others = {"credits.json", "evaluations.json", "figures"}
    assert {artifact.path for artifact in client.list_artifacts(run)} == files | others
    charts = {artifact.path for artifact in client.list_artifacts(run, "figures")}
    assert charts == {f"figures/{name}.svg" for name in PROPERTIES}
    for name in files:
        copy = Path(client.download_artifacts(run, name, str(tmp_path)))
        assert copy.read_bytes() == whole.round.read(name)


def test_the_same_again_does_nothing(whole, again):
    assert again.code == 0, again.out + again.err
    assert tasks(again.out) == ["plan", "close"]
    reason = "manifest, configuration and code are those of the last committed round"
    assert f"nothing to do: {reason}" in again.out
    assert again.before == again.after == whole.after
    # It shows the credits all the same.
    assert again.out[again.out.index("\nclose\n") :] == whole.out[whole.out.index("\nclose\n") :]
    for word in ("Traceback", "Warning", "KFP", "\x1b[", "SUCCESS", '"inputs"'):
        assert word not in again.out + again.err


def test_the_same_again_starts_no_tracking_run(again, runs):
    client = MlflowClient(tracking_uri=f"sqlite:///{again.workdir}/mlflow.db")
    experiment = client.get_experiment_by_name("apportion")
    after = {run.info.run_id for run in client.search_runs([experiment.experiment_id])}
    assert after == {run.info.run_id for run in runs.values()}


def test_a_round_of_another_configuration_is_not_shown_as_this_one(whole, capsys):
    """Another process may have moved the head since this run published."""
    expected = f"round {whole.round.id} of another configuration was published meanwhile"
    with pytest.raises(ApportionError, match=expected):
        conclude(load(CONFIG, [REMOVALS, "valuation.level=0.9"], whole.workdir), 1.0)
    assert capsys.readouterr().out == ""


def test_everything_is_in_the_work_folder(whole):
    names = {path.name for path in whole.workdir.iterdir()}
    assert names == {"store", "mlflow.db", "artifacts", "pipeline"}
