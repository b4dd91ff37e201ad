"""The chart's documents and copies: values, schema and README have the same keys, and copies are copies."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from chart import CHART, CI, ROOT, notes, run
from refresh import WHOLE, documented, fresh, table
from tools import HELM

VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))


def leaves(values: Any, path: str = "") -> Iterator[str]:
    """The paths of every value that is set by itself."""
    if isinstance(values, dict) and values and path not in WHOLE:
        for name, value in values.items():
            yield from leaves(value, f"{path}.{name}" if path else name)
    else:
        yield path


def node(path: str) -> Any:
    """The part of the schema that is for a value."""
    found = SCHEMA
    for name in path.split("."):
        while "$ref" in found:
            found = SCHEMA["$defs"][found["$ref"].rpartition("/")[2]]
        found = found["properties"][name] if name in found.get("properties", {}) else next(iter(found["patternProperties"].values()))
    return found


def test_helm_is_the_pinned_one() -> None:
    assert run("version", "--template", "{{.Version}}") == HELM


def test_every_value_is_documented() -> None:
    assert [path for path, _, _ in documented((CHART / "values.yaml").read_text(encoding="utf-8"))] == list(leaves(VALUES))


def test_the_readme_has_every_value_once() -> None:
    readme = (CHART / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([\w.]+)` \| `.+` \| .{4,} \|$", readme, re.MULTILINE)[-len(list(leaves(VALUES))) :] == list(leaves(VALUES))


def test_the_schema_knows_every_value() -> None:
    for path in leaves(VALUES):
        assert node(path), path


def test_the_schema_knows_no_other_value() -> None:
    """Sections are closed, and what they allow is in values.yaml; but for `config`, which is apportion's, and free maps."""

    def told(part: Any, values: Any, path: str) -> Iterator[str]:
        while "$ref" in part:
            part = SCHEMA["$defs"][part["$ref"].rpartition("/")[2]]
        if "properties" not in part or path in ("config", "runs.stages", "jobs.affinity", *WHOLE):
            return
        assert part["additionalProperties"] is False, path
        for name, inner in part["properties"].items():
            where = f"{path}.{name}".lstrip(".")
            if name not in values:
                yield where
            elif isinstance(values[name], dict) and values[name]:
                yield from told(inner, values[name], where)

    assert not list(told(SCHEMA, VALUES, ""))


def test_nothing_with_named_parts_is_open() -> None:
    """Anywhere in the schema: where properties are named, others are refused."""

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


def test_every_section_needs_all_its_values() -> None:
    """So that `--set mlflow=null` says what is missing, where templates would stumble over it."""

    def sections(part: Any, values: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
        while "$ref" in part:
            part = SCHEMA["$defs"][part["$ref"].rpartition("/")[2]]
        if isinstance(values, dict) and values and path not in ("config", "pools", *WHOLE):
            yield path, part["required"], list(values)
            for name, inner in values.items():
                yield from sections(part["properties"][name], inner, f"{path}.{name}".lstrip("."))

    for path, required, told in sections(SCHEMA, VALUES, ""):
        assert required == told, path


def test_commands_show_what_the_doctor_found() -> None:
    """`helm test --logs` asks for a pod by the name of the Job, and fails (helm/helm#11236)."""
    for text in (notes({}), *(path.read_text(encoding="utf-8") for path in (CHART / "README.md", ROOT / "docs" / "deploy.md"))):
        assert re.search(r"helm test \S+ -n (\S+); kubectl -n \1 logs job/apportion-doctor", text)
        assert "--logs" not in text


def test_documents_wait_as_long_as_jobs_may_take() -> None:
    for path in (CHART / "README.md", ROOT / "docs" / "deploy.md"):
        for command in re.findall(r"helm install apportion .*", path.read_text(encoding="utf-8")):
            assert f"--timeout {VALUES['jobs']['activeDeadlineSeconds'] // 60}m" in command


@pytest.mark.parametrize("example", CI)
def test_examples_say_where_the_kubernetes_api_is(example: str) -> None:
    values = yaml.safe_load(CI[example].read_text(encoding="utf-8"))
    assert values["networkPolicy"]["kubernetes"]["to"]


def test_examples_are_what_they_say() -> None:
    values = {name: yaml.safe_load(path.read_text(encoding="utf-8")) for name, path in CI.items()}
    assert values["gke"]["schedule"]["cron"].endswith("MON-FRI")
    assert values["gke"]["monitoring"]["prometheusRule"]["scheduleHours"] > 72  # the weekend
    assert "root" not in json.dumps(values["onprem"]["s3"])
    assert "10.96.0.1" in values["onprem"]["env"]["NO_PROXY"].split(",")
    for pool in values["onprem"]["pools"].values():
        assert pool.get("accelerators", 1) == 1  # nothing computes on two
    assert values["onprem"]["pools"]["large"]["tolerations"] == VALUES["pools"]["gpu"]["tolerations"]


@pytest.mark.parametrize("path", fresh(), ids=lambda path: path.name)
def test_what_is_made_is_as_it_would_be_made(path: Any) -> None:
    """`make chart` would change nothing: copies, the schema of `config`, the table of values."""
    assert path.read_text(encoding="utf-8") == fresh()[path]


def test_the_compiled_pipeline_is_a_copy() -> None:
    compiled = ROOT / "pipelines" / "compiled" / "attribution-kubernetes.yaml"
    assert (CHART / "files" / "attribution-kubernetes.yaml").read_bytes() == compiled.read_bytes()


def test_the_table_escapes_nothing_by_accident() -> None:
    assert all(row.count(" | ") == 2 for row in table((CHART / "values.yaml").read_text(encoding="utf-8")).splitlines()[2:])


def test_versions_agree() -> None:
    from apportion import __version__

    about = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert (about["apiVersion"], about["appVersion"], about["kubeVersion"]) == ("v2", __version__, ">=1.29.0-0")
