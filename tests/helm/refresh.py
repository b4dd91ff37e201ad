"""What the chart has from the rest of the repository: the compiled pipeline, the demo's configuration, the schema of `config`, and the
table of values in its README, made from the comments in values.yaml. `make chart` runs this; a test holds all of it equal."""

import json
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from apportion.config import Config

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "apportion"
COMPILED = ROOT / "pipelines" / "compiled" / "attribution-kubernetes.yaml"
WHOLE = ("jobs.resources", "jobs.podLabels", "resourceQuota.hard")
"""Values whose parts are Kubernetes' own, or names of the user's."""

BEGIN, END = "<!-- values: begin -->", "<!-- values: end -->"


@cache
def fresh() -> dict[Path, str]:
    """Every file that is made here, with the text that it should have."""
    readme = (CHART / "README.md").read_text(encoding="utf-8")
    before, after = readme.split(BEGIN)[0], readme.split(END)[1]
    return {
        CHART / "files" / "openmoji.yaml": (ROOT / "configs" / "openmoji.yaml").read_text(encoding="utf-8"),
        CHART / "files" / "attribution-kubernetes.yaml": COMPILED.read_text(encoding="utf-8"),
        CHART / "files" / "cluster.yaml": cluster(),
        CHART / "values.schema.json": schema((CHART / "values.schema.json").read_text(encoding="utf-8")),
        CHART / "README.md": f"{before}{BEGIN}\n{table((CHART / 'values.yaml').read_text(encoding='utf-8'))}{END}{after}",
    }


def cluster() -> str:
    """The `cluster` that the compiled pipeline is for: what a configuration has that says nothing of it."""
    section = Config.model_fields["cluster"].get_default(call_default_factory=True).model_dump(mode="json", exclude={"kfp"})
    return "# What files/attribution-kubernetes.yaml was compiled for.\n" + yaml.safe_dump(section, sort_keys=True)


def schema(text: str) -> str:
    """The chart's schema with `config` as apportion.config has it, less what the chart writes itself."""
    whole = json.loads(text)
    made = json.loads(re.sub(r'"#/\$defs/', '"#/$defs/config.', json.dumps(Config.model_json_schema())))
    parts = {f"config.{name}": part for name, part in made.pop("$defs").items()}
    del made["properties"]["cluster"], made["required"]  # the rest comes from the demo's configuration, or Jobs refuse it
    used = _used({"": made}, parts)
    kept = {name: part for name, part in whole["$defs"].items() if not name.startswith("config")}
    whole["$defs"] = kept | {name: _untitled(parts[name]) for name in sorted(used)} | {"config": _untitled(made)}
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def _used(these: dict[str, Any], parts: dict[str, Any]) -> set[str]:
    """The names of definitions that are reached from these."""
    found: set[str] = set()
    queue = list(these.values())
    while queue:
        names = set(re.findall(r"#/\$defs/([\w.]+)", json.dumps(queue.pop()))) - found
        found |= names
        queue += [parts[name] for name in names]
    return found


def _untitled(part: Any) -> Any:
    """Without titles and defaults, which say nothing that the names and values.yaml do not."""
    if isinstance(part, list):
        return [_untitled(item) for item in part]
    if not isinstance(part, dict):
        return part
    named = isinstance(part.get("properties"), dict) and part.get("type") == "object"
    return {
        key: {name: _untitled(item) for name, item in value.items()} if named and key == "properties" else _untitled(value)
        for key, value in part.items()
        if key not in ("title", "default", "discriminator")
    }


def documented(text: str) -> Iterator[tuple[str, str, str]]:
    """Every value of a values.yaml: its path, its default as JSON, and the comment above it."""
    values = yaml.safe_load(text)
    path: list[tuple[int, str]] = []
    said: list[str] = []
    for line in text.splitlines():
        if comment := re.match(r"\s*# ?(.*)", line):
            said.append(comment[1])
            continue
        if key := re.match(r"(\s*)([A-Za-z][\w.-]*):( .*)?$", line):
            path = [*(step for step in path if step[0] < len(key[1])), (len(key[1]), key[2])]
            default = _at(values, [name for _, name in path])
            if said and (key[3] or not isinstance(default, dict) or ".".join(name for _, name in path) in WHOLE):
                yield ".".join(name for _, name in path), json.dumps(default, ensure_ascii=False), " ".join(said)
        said = []


def _at(values: Any, path: list[str]) -> Any:
    for name in path:
        values = values.get(name) if isinstance(values, dict) else None
    return values


def table(text: str) -> str:
    """The values as Markdown."""
    rows = (f"| `{path}` | `{default}` | {said} |" for path, default, said in documented(text))
    return "\n".join(["| value | default | what it is |", "|---|---|---|", *rows, ""])


def main() -> None:
    for path, text in fresh().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote {path.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
