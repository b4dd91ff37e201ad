"""The chart's documents and copies: values, schema and README have the same keys, and copies are copies."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from chart import CHART, ROOT
from refresh import WHOLE, documented, fresh, table
from tools import HELM, helm

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
    assert HELM in str(helm()) or helm().name == "helm"


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
