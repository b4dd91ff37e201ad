"""The parts of the chart that are made from the rest of the repository: the compiled pipeline, the demo's
configuration, apportion's rules of credentials, the schema of the configuration, the list of stages, and the
table of values in the chart's README. `make chart` runs this; a test compares every file with what this would
write."""

import json
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from apportion.config.cluster import CREDENTIAL, Cluster
from apportion.config.credentials import SECRET
from apportion.config.round import Config
from apportion.config.stages import STAGES
from apportion.properties import PROPERTIES
from apportion.valuation.methods import METHODS

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "apportion"
COMPILED = ROOT / "pipelines" / "compiled" / "attribution-kubernetes.yaml"
WHOLE = ("jobs.resources", "jobs.podLabels", "resourceQuota.hard")
"""Values that are documented as a whole: their parts are Kubernetes' own, or names that the user chooses."""

BEGIN, END = "<!-- values: begin -->", "<!-- values: end -->"
STAGES_COMMENT = re.compile(r"(?m)^  # Stages: .*$")
CHART_OPTIONS = {"cpu": "cpu", "memory": "bytes"}
"""Options of a stage for which the chart's own schema has a pattern: the name of its definition."""


@cache
def fresh() -> dict[Path, str]:
    """The files that are made here, whole or in part, each with the text that it should have."""
    values = STAGES_COMMENT.sub(stages_comment(), _read(CHART / "values.yaml"))
    readme = _read(CHART / "README.md")
    before = readme.split(BEGIN)[0]
    after = readme.split(END)[1]
    return {
        CHART / "files" / "openmoji.yaml": _read(ROOT / "configs" / "openmoji.yaml"),
        CHART / "files" / "attribution-kubernetes.yaml": _read(COMPILED),
        CHART / "files" / "cluster.yaml": cluster(),
        CHART / "files" / "credentials.yaml": credentials(),
        CHART / "values.schema.json": schema(_read(CHART / "values.schema.json")),
        CHART / "values.yaml": values,
        CHART / "README.md": f"{before}{BEGIN}\n{table(values)}{END}{after}",
    }


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def cluster() -> str:
    """The section `cluster` that the compiled pipeline is for: the default, without `kfp`."""
    section = Cluster().model_dump(mode="json", exclude={"kfp"})
    return "# What files/attribution-kubernetes.yaml was compiled for.\n" + yaml.safe_dump(
        section, sort_keys=True
    )


def credentials() -> str:
    """apportion's rules of what looks like a credential, as regular expressions for Go."""
    rules = {
        "name": f"(?i){CREDENTIAL.pattern}",
        "file": "_(FILE|PATH)$",
        "inside": f"://[^/?#]*@|(?i:{SECRET.pattern})",
    }
    about = (
        "# apportion's rules of what looks like a credential.\n"
        "# name: a variable that holds one; file: a variable that names a file, which is allowed;\n"
        "# inside: an address that contains one.\n"
    )
    return about + yaml.safe_dump(rules, sort_keys=False, width=200)


def schema(current: str) -> str:
    """The chart's schema with the parts that apportion.config determines: `config`, and in `images`, `pools`
    and `runs` the options that the chart passes on as they are."""
    whole = json.loads(current)
    text = json.dumps(Config.model_json_schema())
    made = json.loads(text.replace('"#/$defs/', '"#/$defs/config.'))
    parts = {f"config.{name}": part for name, part in made.pop("$defs").items()}
    options = parts["config.Cluster"]["properties"]
    stage = _without_null(parts["config.StageOptions"])
    for option, definition in CHART_OPTIONS.items():
        stage["properties"][option] = {"$ref": f"#/$defs/{definition}"}
    parts["config.StageOptions"] = stage
    parts["config.Toleration"] = _without_null(parts["config.Toleration"])
    _for_the_chart(made)
    for names, known in (
        (made["properties"]["properties"], PROPERTIES),
        (parts["config.ValuationOptions"]["properties"]["methods"]["anyOf"][0], METHODS),
    ):
        names["items"]["enum"] = list(known)

    runs = whole["properties"]["runs"]["properties"]
    runs["retries"] = _bare(options["retries"])
    runs["timeout"] = _bare(options["timeout"])
    runs["stages"]["properties"] = {name: {"$ref": "#/$defs/config.StageOptions"} for name in STAGES}
    whole["properties"]["images"]["properties"]["pullPolicy"] = _bare(options["pull_policy"])
    kept = {name: part for name, part in whole["$defs"].items() if not name.startswith("config")}
    names = sorted(_used([made, whole["properties"], kept], parts))
    whole["$defs"] = {**kept, **{name: _bare(parts[name]) for name in names}, "config": _bare(made)}
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def _for_the_chart(config: dict[str, Any]) -> None:
    """What is different for a configuration in the chart: `cluster` is made from other values, the store must
    be one that all pods reach, and the demo's sections are there where `data` is not given."""
    del config["properties"]["cluster"]
    config["properties"]["store"]["pattern"] = "^s3://[^/?#]+"
    config["dependencies"] = {"data": [name for name in config["required"] if name != "data"]}
    config["required"] = ["store"]


def _used(these: list[Any], parts: dict[str, Any]) -> set[str]:
    """The names of the parts that these refer to, directly or through other parts."""
    names: set[str] = set()
    queue = list(these)
    while queue:
        text = json.dumps(queue.pop())
        new = set(re.findall(r"#/\$defs/([\w.]+)", text)) & parts.keys() - names
        names |= new
        queue += [parts[name] for name in new]
    return names


def _without_null(part: dict[str, Any]) -> dict[str, Any]:
    """The schema of options where each may be absent but none is null: Helm takes null values away."""
    properties = {}
    for name, option in part["properties"].items():
        choices = [choice for choice in option.get("anyOf", [option]) if choice != {"type": "null"}]
        properties[name] = choices[0] if len(choices) == 1 else {"anyOf": choices}
    return {**part, "properties": properties}


def _bare(part: Any) -> Any:
    """A schema without titles and defaults, which names and values.yaml say already, and with unions in a
    form in which Helm's message is about the chosen member only."""
    if isinstance(part, list):
        return [_bare(item) for item in part]
    if not isinstance(part, dict):
        return part
    if len(part.get("oneOf", [])) == 1:
        return _bare(part["oneOf"][0])
    if "discriminator" in part:
        return _by_name(part["discriminator"])
    bare = {}
    for key, value in part.items():
        if key == "properties" and part.get("type") == "object":
            bare[key] = {name: _bare(option) for name, option in value.items()}
        elif key not in ("title", "default", "discriminator"):
            bare[key] = _bare(value)
    return bare


def _by_name(discriminator: dict[str, Any]) -> dict[str, Any]:
    """The schema of a union whose members have different values of one option, as `method`."""
    option = discriminator["propertyName"]
    members = [
        {"if": {"properties": {option: {"const": name}}}, "then": {"$ref": reference}}
        for name, reference in discriminator["mapping"].items()
    ]
    names = list(discriminator["mapping"])
    return {"properties": {option: {"enum": names}}, "required": [option], "allOf": members}


def stages_comment() -> str:
    """The line of values.yaml that lists the stages."""
    names = [f"{name}*" if row.accelerated else name for name, row in STAGES.items()]
    return f"  # Stages: {', '.join(names)}."


def documented(text: str) -> Iterator[tuple[str, str, str]]:
    """Every value of a values.yaml: its path, its default as JSON, and the comment above it."""
    values = yaml.safe_load(text)
    path: list[tuple[int, str]] = []
    comments: list[str] = []
    for line in text.splitlines():
        if comment := re.match(r"\s*# ?(.*)", line):
            comments.append(comment[1])
            continue
        if key := re.match(r"(\s*)([A-Za-z][\w.-]*):( .*)?$", line):
            indent = len(key[1])
            path = [*(step for step in path if step[0] < indent), (indent, key[2])]
            names = [name for _, name in path]
            default = _at(values, names)
            leaf = key[3] or not isinstance(default, dict) or ".".join(names) in WHOLE
            if comments and leaf:
                yield ".".join(names), json.dumps(default, ensure_ascii=False), " ".join(comments)
        comments = []


def _at(values: Any, path: list[str]) -> Any:
    for name in path:
        values = values.get(name) if isinstance(values, dict) else None
    return values


def table(text: str) -> str:
    """The values of a values.yaml as a table in Markdown."""
    rows = [f"| `{path}` | `{default}` | {comment} |" for path, default, comment in documented(text)]
    return "\n".join(["| value | default | meaning |", "|---|---|---|", *rows, ""])


def main() -> None:
    for path, text in fresh().items():
        if not path.exists() or _read(path) != text:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote {path.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
