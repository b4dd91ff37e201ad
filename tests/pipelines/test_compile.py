"""The pipeline as a cluster gets it: the golden YAML, components that only call the library, and small parameters."""

import ast
import importlib
from pathlib import Path

import pytest
import yaml
from tiny import ROOT, ran

from apportion import __version__

GOLDEN = ROOT / "pipelines" / "compiled"
COMPONENTS = sorted(path for path in (ROOT / "components").glob("*.py") if path.stem not in ("__init__", "image"))
STAGES = {"plan", "train", "prune", "finetune", "sample", "score", "attribute", "evaluate", "publish", "close"}


def read(path):
    """The documents of a file without the version of the SDK that wrote them."""
    documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    for document in documents:
        document.get("spec", {}).get("pipelineSpec", document).pop("sdkVersion", None)
    return documents


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compiled")
    code, out, err = ran("-m", "pipelines", "compile", "--out", folder)
    assert code == 0, err
    for name in ("attribution", "attribution-kubernetes"):
        assert f"wrote {folder}/{name}.yaml" in out + err
    return folder


@pytest.fixture(scope="module")
def specification():
    return read(GOLDEN / "attribution.yaml")[0]


def dags(specification):
    """Every DAG of a pipeline by name, the root's among them."""
    found = {name: component["dag"] for name, component in specification["components"].items() if "dag" in component}
    return found | {"root": specification["root"]["dag"]}


def tasks(specification):
    """Tasks that run something, as (name of their DAG, name, task)."""
    return [
        (dag, name, task)
        for dag, body in dags(specification).items()
        for name, task in body["tasks"].items()
        if "executorLabel" in specification["components"][task["componentRef"]["name"]]
    ]


def test_the_golden_yaml_is_what_the_code_compiles_to(compiled):
    assert {path.name for path in GOLDEN.glob("*.yaml")} == {path.name for path in compiled.iterdir()}
    for path in GOLDEN.glob("*.yaml"):
        assert read(path) == read(compiled / path.name), "run `make compile` and commit pipelines/compiled"


def test_every_stage_is_a_component():
    assert {path.stem for path in COMPONENTS} == STAGES


def test_the_pipeline_runs_every_stage(specification):
    assert {name.rstrip("-0123456789") for _, name, _ in tasks(specification)} == STAGES


def test_nothing_comes_from_kfps_cache(specification):
    """Which cannot see the store."""
    assert [name for _, name, task in tasks(specification) if task.get("cachingOptions", {}).get("enableCache")] == []


def test_no_component_installs_anything_when_it_starts(specification):
    executors = specification["deploymentSpec"]["executors"]
    assert [name for name, body in executors.items() if "pip install" in str(body["container"]["command"])] == []
    assert {body["container"]["image"] for body in executors.values()} == {f"apportion/{pool}:{__version__}" for pool in ("cpu", "gpu")}


def test_the_exit_handler_is_told_how_the_pipeline_ended(specification):
    close = specification["components"]["comp-close"]
    assert close["inputDefinitions"]["parameters"]["status"] == {"isOptional": True, "parameterType": "TASK_FINAL_STATUS"}
    root = specification["root"]["dag"]["tasks"]
    assert root["close"]["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    assert root["close"]["dependentTasks"] == ["exit-handler-1"]
    assert root["close"]["inputs"]["parameters"]["status"] == {"taskFinalStatus": {"producerTask": "exit-handler-1"}}
    assert set(root) == {"close", "exit-handler-1"}  # everything else is inside


def test_plan_and_close_speak_of_the_same_job(specification):
    told = {name: task["inputs"]["parameters"]["job"] for _, name, task in tasks(specification) if name in ("plan", "close")}
    assert len(told) == 2
    assert told["plan"] == told["close"] == {"runtimeValue": {"constant": "{{$.pipeline_job_uuid}}"}}


def test_between_tasks_travel_an_address_and_small_numbers_only(specification):
    """Never coalitions: parameters are limited in size, and one task for each would be three pods for each."""
    for _, name, task in tasks(specification):
        inputs = specification["components"][task["componentRef"]["name"]].get("inputDefinitions", {})
        assert "artifacts" not in inputs
        types = {key: value["parameterType"] for key, value in inputs.get("parameters", {}).items()}
        if name.rstrip("-0123456789") not in ("plan", "close"):
            assert set(types.items()) <= {("round_uri", "STRING"), ("shard", "NUMBER_INTEGER")}, name
    outputs = [component.get("outputDefinitions", {}).get("parameters", {}) for component in specification["components"].values()]
    assert {value["parameterType"] for each in outputs for value in each.values()} <= {"STRING", "NUMBER_INTEGER"}
    lists = [
        name
        for component in (specification["root"], *specification["components"].values())
        for name, value in component.get("inputDefinitions", {}).get("parameters", {}).items()
        if value["parameterType"] in ("LIST", "STRUCT")
    ]
    assert {name.removeprefix("pipelinechannel--") for name in lists} == {"shards"}


def test_coalitions_are_evaluated_in_loops_over_shards(specification):
    loops = [
        task["parameterIterator"] for dag in dags(specification).values() for task in dag["tasks"].values() if "parameterIterator" in task
    ]
    assert [loop["items"] for loop in loops] == [{"inputParameter": "pipelinechannel--shards"}] * 2
    inside = {dag for dag, name, _ in tasks(specification) if name.rstrip("-0123456789") in ("finetune", "sample", "score")}
    assert all(name.startswith("comp-for-loop") for name in inside)
    assert len(inside) == 2


def test_stages_wait_for_each_other(specification):
    """finetune → sample → score in a shard, train → prune before, and nothing at all unless `plan` found work."""
    for dag in dags(specification).values():
        waits = {name.rstrip("-0123456789"): task.get("dependentTasks", []) for name, task in dag["tasks"].items()}
        for stage, before in (("sample", "finetune"), ("score", "sample"), ("prune", "train"), ("publish", "evaluate")):
            if stage in waits:
                assert [name for name in waits[stage] if name.startswith(before)], (stage, waits)
    handler = specification["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    (work,) = (task for name, task in handler.items() if name.startswith("condition"))
    assert work["triggerPolicy"]["condition"] == "inputs.parameter_values['pipelinechannel--plan-Output'] != ''"
    assert set(handler) == {"plan", *(name for name in handler if name.startswith("condition"))}


# Components


def function(path: Path) -> ast.FunctionDef:
    (found,) = (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef))
    return found


@pytest.mark.parametrize("path", COMPONENTS, ids=lambda path: path.stem)
def test_a_component_is_one_call_of_the_library(path):
    """Beside imports and the terminal: one call, and for `plan` whether it found work."""
    body = function(path).body
    thin = [node for node in body if not isinstance(node, ast.ImportFrom)]
    if isinstance(thin[0], ast.Expr) and isinstance(thin[0].value, ast.Constant):
        thin = thin[1:]
    assert ast.unparse(thin[0]) == "logs.to_terminal()"
    assert len(thin) <= (3 if path.stem == "plan" else 2)
    assert len([node for node in ast.walk(ast.Module(thin, [])) if isinstance(node, ast.Call)]) == 2
    assert not [node for node in ast.walk(function(path)) if isinstance(node, ast.If | ast.For | ast.While | ast.Try | ast.With)]


@pytest.mark.parametrize("path", COMPONENTS, ids=lambda path: path.stem)
def test_what_a_component_imports_exists(path):
    """KFP ships the source of the body alone, so a wrong name would show on the cluster only."""
    imports = [node for node in ast.walk(function(path)) if isinstance(node, ast.ImportFrom)]
    assert imports
    for node in imports:
        assert node.module.split(".")[0] == "apportion"
        module = importlib.import_module(node.module)
        for alias in node.names:
            if not hasattr(module, alias.name):
                importlib.import_module(f"{node.module}.{alias.name}")


@pytest.mark.parametrize("path", COMPONENTS, ids=lambda path: path.stem)
def test_a_component_calls_what_there_is(path):
    """`stages.run("<its own name>", …)`, or the function of its module."""
    calls = [ast.unparse(node) for node in ast.walk(function(path)) if isinstance(node, ast.Call)]
    call = next(text for text in calls if "to_terminal" not in text and "component" not in text)
    if path.stem in ("plan", "close"):
        assert call.startswith(f"{path.stem}.run_text(")
        assert callable(importlib.import_module(f"apportion.stages.{path.stem}").run_text)
    else:
        assert call.startswith(f"stages.run('{path.stem}', round_uri")
        assert callable(importlib.import_module(f"apportion.stages.{path.stem}").run)
