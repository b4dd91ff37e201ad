"""Writes the files that are made from the table of stages (`apportion.config.stages.STAGES`): the components,
and the lists of stages in two import contracts of pyproject.toml. The command is `python -m
components.generate`; `make generate` runs it.

Components are generated as files because KFP reads the source of a component's function.
"""

import ast
import re
import sys
from pathlib import Path

from apportion import stages
from apportion.config.stages import STAGES

ROOT = Path(__file__).parents[1]
MODULE = "apportion.stages"

HEAD = '''\
"""{stage}: {summary}."""
{mark}

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
'''

MARK = "# Written by `make generate` from apportion.config.stages: change the table there, not this file."

PLAN = '''\
def {stage}(config: str, job: str) -> str:
    """The round's address, or nothing where it is already committed."""
    from apportion import logs
    from apportion.stages import {stage}

    logs.to_terminal()
    planned = {stage}.run_text(config, job)
    return planned.round_uri if planned.work else ""
'''

EXIT = """\
def {stage}(config: str, job: str, status: dsl.PipelineTaskFinalStatus) -> None:
    from apportion import logs
    from apportion.stages import {stage}

    logs.to_terminal()
    {stage}.run_text(config, job, status.state)
"""

ROUND = """\
def {stage}(round_uri: str) -> {returned}:
    from apportion import logs, stages

    logs.to_terminal()
    return stages.run("{stage}", round_uri)  # type: ignore[return-value]
"""

SHARD = """\
def {stage}(round_uri: str, shard: int) -> {returned}:
    from apportion import logs, stages

    logs.to_terminal()
    return stages.run("{stage}", round_uri, shard)  # type: ignore[return-value]
"""

BODIES = {"plan": PLAN, "weights": SHARD, "coalitions": SHARD, "exit": EXIT}
"""The function of a component by the phase of its stage; `ROUND` for the other phases."""

CONTRACTS = {
    "a tracking server that is down stops no evaluation: only plan, publish and close speak to it": [
        stage for stage, row in STAGES.items() if not row.tracked
    ],
    "credits, evidence and report are made where no deep learning library is": [
        stage for stage, row in STAGES.items() if not row.accelerated and row.phase != "plan"
    ],
}
"""The contracts of import-linter that name stages, by their names in pyproject.toml, and the stages they
name."""


def component(stage: str) -> str:
    """The source of a stage's component. The type of its output is the one that the stage's `run` returns."""
    row = STAGES[stage]
    body = BODIES.get(row.phase, ROUND)
    returned = _returned(stage) if "{returned}" in body else None
    return (HEAD + body).format(stage=stage, summary=row.summary, mark=MARK, returned=returned)


def _returned(stage: str) -> str:
    """Read from the source: importing a stage would import its deep learning library."""
    source = (Path(stages.__path__[0]) / f"{stage}.py").read_text(encoding="utf-8")
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    (annotation,) = (ast.unparse(node.returns) for node in functions if node.name == "run" and node.returns)
    if annotation not in ("int", "str"):
        raise ValueError(f"found {MODULE}.{stage}.run -> {annotation}, expected int or str")
    return annotation


def components() -> dict[str, str]:
    """The source of every component, by file name."""
    return {f"{stage}.py": component(stage) for stage in STAGES}


def contracts(project: str) -> str:
    """The text of a pyproject.toml whose contracts name the stages of the table; modules that are not stages
    stay in them, and nothing else is changed. Raises ValueError where a contract is missing."""
    for name, names in CONTRACTS.items():
        pattern = rf'(name = "{re.escape(name)}"\n(?:(?!\[).*\n)*?source_modules = )\[([^\]]*)\]'
        match = re.search(pattern, project)
        if match is None:
            raise ValueError(
                f"found no contract {name!r} with source_modules in pyproject.toml, expected one"
            )
        others = [
            module for module in re.findall(r'"(.*?)"', match[2]) if not module.startswith(f"{MODULE}.")
        ]
        modules = [f"{MODULE}.{stage}" for stage in names] + others
        listed = "".join(f'    "{module}",\n' for module in modules)
        project = f"{project[: match.start()]}{match[1]}[\n{listed}]{project[match.end() :]}"
    return project


def stale(folder: Path) -> list[Path]:
    """Generated files whose stage is no longer in the table."""
    made = components()
    files = sorted(folder.glob("*.py"))
    return [
        path for path in files if path.name not in made and f"\n{MARK}\n" in path.read_text(encoding="utf-8")
    ]


def main() -> None:
    folder = ROOT / "components"
    texts = {folder / name: text for name, text in components().items()}
    project = ROOT / "pyproject.toml"
    texts[project] = contracts(project.read_text(encoding="utf-8"))
    for path, text in texts.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote {path.relative_to(ROOT)}\n")
    for path in stale(folder):
        path.unlink()
        sys.stdout.write(f"removed {path.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
