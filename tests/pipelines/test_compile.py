"""The pipeline as a cluster gets it: the committed YAML, generated components that only call the library, and
small parameters."""

import ast
import importlib
import importlib.util
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format
from tiny import ROOT, ran

from apportion import __version__
from apportion.config import stages
from apportion.config.stages import STAGES, StageRow, of_phase
from components import generate
from pipelines.attribution import attribution

GOLDEN = ROOT / "pipelines" / "compiled"
FOLDER = ROOT / "components"
COMPONENTS = sorted(
    path for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "generate", "image")
)


def read(path):
    """The documents of a file without the version of the SDK that wrote them."""
    documents = list(yaml.load_all(path.read_bytes(), yaml.CSafeLoader))
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
    """Every DAG of a pipeline by name; the name of the outermost is `root`."""
    components = specification["components"].items()
    inner = {name: component["dag"] for name, component in components if "dag" in component}
    return inner | {"root": specification["root"]["dag"]}


def stage_of(name):
    """The stage of a task: a second task of a stage has a number at the end of its name."""
    return name.rstrip("-0123456789")


def tasks(specification):
    """The tasks that run a component, as (name of their DAG, name, task)."""
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


def test_the_pipeline_runs_every_stage(specification):
    names = [stage_of(name) for _, name, _ in tasks(specification)]
    assert set(names) == set(STAGES)
    repeated = of_phase("weights", "coalitions", "results")  # with and without a second loop over coalitions
    assert {name for name in names if names.count(name) == 2} == set(repeated)
    assert len(names) == len(STAGES) + len(repeated)


def test_no_task_uses_kfps_cache(specification):
    """KFP's cache does not know the store."""
    cached = [task.get("cachingOptions", {}).get("enableCache", False) for _, _, task in tasks(specification)]
    assert not any(cached)


def test_no_component_installs_anything_when_it_starts(specification):
    executors = specification["deploymentSpec"]["executors"]
    assert [
        name for name, body in executors.items() if "pip install" in str(body["container"]["command"])
    ] == []
    images = {body["container"]["image"] for body in executors.values()}
    assert images == {f"apportion/{pool}:{__version__}" for pool in ("cpu", "gpu")}


def test_the_exit_handler_gets_the_status_of_the_pipeline(specification):
    close = specification["components"]["comp-close"]
    status = close["inputDefinitions"]["parameters"]["status"]
    assert status == {"isOptional": True, "parameterType": "TASK_FINAL_STATUS"}
    root = specification["root"]["dag"]["tasks"]
    assert root["close"]["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    assert root["close"]["dependentTasks"] == ["exit-handler-1"]
    producer = {"taskFinalStatus": {"producerTask": "exit-handler-1"}}
    assert root["close"]["inputs"]["parameters"]["status"] == producer
    assert set(root) == {"close", "exit-handler-1"}  # every other task is inside


def test_plan_and_close_get_the_same_job(specification):
    inputs = {name: task.get("inputs", {}).get("parameters", {}) for _, name, task in tasks(specification)}
    jobs = {name: values["job"] for name, values in inputs.items() if "job" in values}
    job = {"runtimeValue": {"constant": "{{$.pipeline_job_uuid}}"}}
    assert jobs == {"plan": job, "close": job}


def test_tasks_pass_on_only_an_address_and_small_numbers(specification):
    """Not coalitions: parameters are limited in size, and a task for each coalition would be three pods for
    each."""
    for _, name, task in tasks(specification):
        inputs = specification["components"][task["componentRef"]["name"]].get("inputDefinitions", {})
        assert "artifacts" not in inputs
        types = {key: value["parameterType"] for key, value in inputs.get("parameters", {}).items()}
        if stage_of(name) not in ("plan", "close"):
            assert set(types.items()) <= {("round_uri", "STRING"), ("shard", "NUMBER_INTEGER")}, name
    components = [specification["root"], *specification["components"].values()]
    outputs = [component.get("outputDefinitions", {}).get("parameters", {}) for component in components]
    types = {value["parameterType"] for parameters in outputs for value in parameters.values()}
    assert types <= {"STRING", "NUMBER_INTEGER"}
    inputs = [component.get("inputDefinitions", {}).get("parameters", {}) for component in components]
    lists = {
        name.removeprefix("pipelinechannel--")
        for parameters in inputs
        for name, value in parameters.items()
        if value["parameterType"] in ("LIST", "STRUCT")
    }
    assert lists == {"shards"}


def test_coalitions_are_evaluated_in_loops_over_shards(specification):
    every_task = [task for dag in dags(specification).values() for task in dag["tasks"].values()]
    loops = [task["parameterIterator"] for task in every_task if "parameterIterator" in task]
    assert [loop["items"] for loop in loops] == [{"inputParameter": "pipelinechannel--shards"}] * 4
    inside = {dag for dag, name, _ in tasks(specification) if STAGES[stage_of(name)].sharded}
    assert all(name.startswith("comp-for-loop") for name in inside)
    assert len(inside) == 4  # weights, then what is made from them; twice


def test_no_coalition_is_sampled_before_all_weights_are_made(specification):
    """Shards divide the weights, and a coalition may need weights of any shard."""
    loops = {
        dag: {STAGES[stage_of(name)].phase for name in body["tasks"]}
        for dag, body in dags(specification).items()
        if any(STAGES[stage_of(name)].sharded for name in body["tasks"] if stage_of(name) in STAGES)
    }
    assert sorted(map(sorted, loops.values())) == [["coalitions"]] * 2 + [["weights"]] * 2
    waits = 0
    for body in dags(specification).values():
        phases = {
            name: loops[task["componentRef"]["name"]]
            for name, task in body["tasks"].items()
            if task["componentRef"]["name"] in loops
        }
        for name, phase in phases.items():
            if phase == {"coalitions"}:
                (before,) = body["tasks"][name]["dependentTasks"]
                assert phases[before] == {"weights"}
                waits += 1
    assert waits == 2


def test_stages_wait_for_each_other(specification):
    """train → prune, sample → score in a shard, evaluate → publish, and only where `plan` found work."""
    pairs = {"prune": "train", "score": "sample", "publish": "evaluate"}
    for dag in dags(specification).values():
        waits = {stage_of(name): task.get("dependentTasks", []) for name, task in dag["tasks"].items()}
        for stage in pairs.keys() & waits.keys():
            assert pairs[stage] in [stage_of(name) for name in waits[stage]], (stage, waits)
    handler = specification["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    (work,) = (task for name, task in handler.items() if name.startswith("condition"))
    assert (
        work["triggerPolicy"]["condition"] == "inputs.parameter_values['pipelinechannel--plan-Output'] != ''"
    )
    assert set(handler) == {"plan", *(name for name in handler if name.startswith("condition"))}


# Components


def test_the_components_are_those_that_the_table_of_stages_makes():
    texts = {path.name: path.read_text(encoding="utf-8") for path in COMPONENTS}
    assert texts == generate.components(), "run `make generate` and commit components/"
    assert not generate.stale(FOLDER)


def test_the_import_contracts_name_the_stages_of_the_table():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert generate.contracts(project) == project, "run `make generate` and commit pyproject.toml"


def test_only_the_modules_of_contracts_are_rewritten():
    names = list(generate.CONTRACTS)
    project = (
        "[other]\nsource_modules = ['kept']\n[[tool.importlinter.contracts]]\n"
        f'name = "{names[0]}"\ntype = "forbidden"\n'
        'source_modules = ["apportion.stages.gone", "apportion.verify"]\n'
        f'forbidden_modules = ["x"] # kept\n\n[[tool.importlinter.contracts]]\nname = "{names[1]}"\n'
        'source_modules = [\n    "apportion.stages.attribute",\n]\nlast = 1'
    )
    written = generate.contracts(project)
    assert generate.contracts(written) == written
    first, second = tomllib.loads(written)["tool"]["importlinter"]["contracts"]
    assert first["source_modules"] == [
        f"apportion.stages.{name}" for name in generate.CONTRACTS[names[0]]
    ] + ["apportion.verify"]
    assert second["source_modules"] == [f"apportion.stages.{name}" for name in generate.CONTRACTS[names[1]]]
    start, _, rest = project.partition('["apportion.stages.gone", "apportion.verify"]')
    middle, _, end = rest.partition('[\n    "apportion.stages.attribute",\n]')
    assert written.startswith(start)
    assert middle in written
    assert written.endswith(end)
    with pytest.raises(ValueError, match="found no contract"):
        generate.contracts(project.replace(names[1], "renamed"))


def test_files_of_removed_stages_are_stale(tmp_path):
    (tmp_path / "gone.py").write_text(generate.component("train").replace("train", "gone"))
    (tmp_path / "train.py").write_text(generate.component("train"))
    (tmp_path / "image.py").write_text("IMAGE = 1\n")
    assert generate.stale(tmp_path) == [tmp_path / "gone.py"]


@pytest.mark.parametrize("phase", ["models", "weights", "coalitions", "credits", "results"])
def test_a_stage_that_is_added_to_the_table_is_in_the_pipeline(phase, monkeypatch, tmp_path):
    rows = list(STAGES.items())
    position = list(STAGES).index(of_phase(phase)[0]) + 1
    rows.insert(position, ("audit", StageRow(phase, "a new stage")))
    monkeypatch.setattr(stages, "STAGES", dict(rows))
    monkeypatch.setattr(generate, "STAGES", dict(rows))
    monkeypatch.setattr(generate, "_returned", lambda stage: "int")
    (tmp_path / "audit.py").write_text(generate.component("audit"))
    spec = importlib.util.spec_from_file_location("components.audit", tmp_path / "audit.py")
    monkeypatch.setitem(sys.modules, spec.name, importlib.util.module_from_spec(spec))
    spec.loader.exec_module(sys.modules[spec.name])
    specification = json_format.MessageToDict(attribution().pipeline_spec)
    audits = [task for _, name, task in tasks(specification) if stage_of(name) == "audit"]
    assert len(audits) == (2 if phase in ("weights", "coalitions", "results") else 1)
    previous = rows[position - 1][0]
    assert all(previous in [stage_of(name) for name in task["dependentTasks"]] for task in audits)


def function(path: Path) -> ast.FunctionDef:
    (only,) = (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef))
    return only


@pytest.mark.parametrize("path", COMPONENTS, ids=lambda path: path.stem)
def test_a_component_is_one_call_of_the_library(path):
    """Besides imports and the terminal: one call, and for `plan` whether there is work."""
    body = function(path).body
    thin = [node for node in body if not isinstance(node, ast.ImportFrom)]
    if isinstance(thin[0], ast.Expr) and isinstance(thin[0].value, ast.Constant):
        thin = thin[1:]
    assert ast.unparse(thin[0]) == "logs.to_terminal()"
    assert len(thin) <= (3 if path.stem == "plan" else 2)
    assert len([node for node in ast.walk(ast.Module(thin, [])) if isinstance(node, ast.Call)]) == 2
    statements = ast.If | ast.For | ast.While | ast.Try | ast.With
    assert not [node for node in ast.walk(function(path)) if isinstance(node, statements)]


@pytest.mark.parametrize("path", COMPONENTS, ids=lambda path: path.stem)
def test_what_a_component_imports_exists(path):
    """KFP sends only the source of the function, so a wrong name would be noticed on the cluster alone."""
    imports = [node for node in ast.walk(function(path)) if isinstance(node, ast.ImportFrom)]
    assert imports
    for node in imports:
        assert node.module.split(".")[0] == "apportion"
        module = importlib.import_module(node.module)
        for alias in node.names:
            if not hasattr(module, alias.name):
                importlib.import_module(f"{node.module}.{alias.name}")


@pytest.mark.parametrize("path", COMPONENTS, ids=lambda path: path.stem)
def test_what_a_component_calls_exists(path):
    """`stages.run` with its own stage, or `run_text` of its stage's module."""
    calls = [ast.unparse(node) for node in ast.walk(function(path)) if isinstance(node, ast.Call)]
    call = next(text for text in calls if "to_terminal" not in text and "component" not in text)
    if path.stem in ("plan", "close"):
        assert call.startswith(f"{path.stem}.run_text(")
        assert callable(importlib.import_module(f"apportion.stages.{path.stem}").run_text)
    else:
        assert call.startswith(f"stages.run('{path.stem}', round_uri")
        assert callable(importlib.import_module(f"apportion.stages.{path.stem}").run)
