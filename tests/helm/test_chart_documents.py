"""The chart's documents and copies: values, schema and README have the same keys, and copies equal their
originals."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart import CHART, CI, ROOT, notes, run
from refresh import WHOLE, documented, fresh, table
from tools import HELM

from apportion import __version__
from apportion.config.stages import STAGES

TEXT = (CHART / "values.yaml").read_text(encoding="utf-8")
VALUES: dict[str, Any] = yaml.safe_load(TEXT)
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))


def leaves(values: Any, path: str = "") -> Iterator[str]:
    """The paths of every value that is documented by itself."""
    if isinstance(values, dict) and values and path not in WHOLE:
        for name, value in values.items():
            yield from leaves(value, f"{path}.{name}" if path else name)
    else:
        yield path


def resolved(part: Any) -> Any:
    """The part of the schema that a reference stands for."""
    while "$ref" in part:
        part = SCHEMA["$defs"][part["$ref"].rpartition("/")[2]]
    return part


def schema_of(path: str) -> Any:
    """The part of the schema that is for a value."""
    part = SCHEMA
    for name in path.split("."):
        part = resolved(part)
        if name in part.get("properties", {}):
            part = part["properties"][name]
        else:
            part = next(iter(part["patternProperties"].values()))
    return part


def test_helm_is_the_pinned_one() -> None:
    assert run("version", "--template", "{{.Version}}") == HELM


def test_every_value_is_documented() -> None:
    assert [path for path, _, _ in documented(TEXT)] == list(leaves(VALUES))


def test_the_readme_has_every_value_once() -> None:
    readme = (CHART / "README.md").read_text(encoding="utf-8")
    paths = list(leaves(VALUES))
    assert re.findall(r"^\| `([\w.]+)` \| `.+` \| .{4,} \|$", readme, re.MULTILINE)[-len(paths) :] == paths


def test_the_schema_knows_every_value() -> None:
    for path in leaves(VALUES):
        assert schema_of(path), path


def test_the_schema_knows_no_other_value() -> None:
    """Sections are closed and allow what is in values.yaml; except `config`, which apportion.config
    determines, and maps with names of the user's."""

    def others(part: Any, values: Any, path: str) -> Iterator[str]:
        part = resolved(part)
        if "properties" not in part or path in ("config", "runs.stages", "jobs.affinity", *WHOLE):
            return
        assert part["additionalProperties"] is False, path
        for name, inner in part["properties"].items():
            where = f"{path}.{name}".lstrip(".")
            if name not in values:
                yield where
            elif isinstance(values[name], dict) and values[name]:
                yield from others(inner, values[name], where)

    assert not list(others(SCHEMA, VALUES, ""))


def test_no_object_of_the_schema_is_open() -> None:
    """Where the schema names the properties of an object, it refuses others."""

    def parts(value: Any) -> Iterator[Any]:
        if isinstance(value, dict):
            if value.get("type") == "object" and "properties" in value:
                yield value
            for inner in value.values():
                yield from parts(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from parts(inner)

    assert all(part.get("additionalProperties") is False for part in parts(SCHEMA))


def test_every_section_requires_all_its_values() -> None:
    """So helm names what is missing after `--set mlflow=null`; a template would only fail. Except `global`,
    which no template reads, and which a parent chart may set to null."""

    def sections(part: Any, values: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
        part = resolved(part)
        if isinstance(values, dict) and values and path not in ("config", "pools", *WHOLE):
            yield path, part["required"], list(values)
            for name, inner in values.items():
                yield from sections(part["properties"][name], inner, f"{path}.{name}".lstrip("."))

    for path, required, given in sections(SCHEMA, VALUES, ""):
        assert required == [name for name in given if path or name != "global"], path


def test_stages_are_those_of_apportion() -> None:
    assert list(schema_of("runs.stages")["properties"]) == list(STAGES)
    (comment,) = re.findall("# Stages: (.*)[.]", TEXT)
    assert [name.rstrip("*") for name in comment.split(", ")] == list(STAGES)
    starred = [name.rstrip("*") for name in comment.split(", ") if name.endswith("*")]
    assert starred == [name for name, row in STAGES.items() if row.accelerated]


def test_commands_show_what_the_doctor_found() -> None:
    """`helm test --logs` asks for a pod by the name of the Job, and fails (helm/helm#11236)."""
    documents = (CHART / "README.md", ROOT / "docs" / "deploy.md")
    for text in (notes({}), *(path.read_text(encoding="utf-8") for path in documents)):
        assert re.search(r"helm test \S+ -n (\S+); kubectl -n \1 logs job/apportion-doctor", text)
        assert "--logs" not in text


def test_documents_wait_as_long_as_jobs_may_take() -> None:
    minutes = VALUES["jobs"]["activeDeadlineSeconds"] // 60
    for path in (CHART / "README.md", ROOT / "docs" / "deploy.md"):
        commands = re.findall(r"helm install apportion .*", path.read_text(encoding="utf-8"))
        assert commands
        assert all(f"--timeout {minutes}m" in command for command in commands)


def test_examples_are_what_they_say() -> None:
    values = {name: yaml.safe_load(path.read_text(encoding="utf-8")) for name, path in CI.items()}
    assert all(example["networkPolicy"]["kubernetes"]["to"] for example in values.values())
    assert values["gke"]["schedule"]["cron"].endswith("MON-FRI")
    assert values["gke"]["monitoring"]["prometheusRule"]["scheduleHours"] > 72  # the weekend
    assert values["gke"]["env"] == {"LD_LIBRARY_PATH": "/usr/local/nvidia/lib64"}
    assert "root" not in json.dumps(values["onprem"]["s3"])
    assert "10.96.0.1" in values["onprem"]["env"]["NO_PROXY"].split(",")
    for pool in values["onprem"]["pools"].values():
        assert pool.get("accelerators", 1) == 1  # no stage computes on two
    assert values["onprem"]["pools"]["large"]["tolerations"] == VALUES["pools"]["gpu"]["tolerations"]


@pytest.mark.parametrize("path", fresh(), ids=lambda path: path.name)
def test_generated_files_are_up_to_date(path: Path) -> None:
    """`make chart` would change nothing."""
    assert path.read_text(encoding="utf-8") == fresh()[path]


def test_no_cell_of_the_table_contains_a_separator() -> None:
    assert all(row.count(" | ") == 2 for row in table(TEXT).splitlines()[2:])


def test_versions_agree() -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert about["apiVersion"] == "v2"
    assert about["appVersion"] == __version__
    assert about["kubeVersion"] == ">=1.29.0-0"
