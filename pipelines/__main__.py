"""python -m pipelines run | compile: the pipeline on this machine, or as the YAML that a cluster runs."""

import argparse
import logging
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from apportion import logs
from apportion.config import Config, load
from apportion.errors import ApportionError, ConfigError

if TYPE_CHECKING:
    from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

COMPILED = Path(__file__).parent / "compiled"
log = logging.getLogger("pipelines")


def main(arguments: Sequence[str] | None = None) -> int:
    return logs.run_command(parser(), arguments)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m pipelines", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run a round here, in sub-processes")
    run.add_argument("config", type=Path)
    run.add_argument("--workdir", type=Path, default=Path("work"), help="everything a round makes goes here (default: work)")
    run.add_argument("--set", dest="overrides", action="append", default=[], metavar="key=value", help="override an option")
    run.set_defaults(act=run_here)
    compile_ = commands.add_parser("compile", help="write the pipelines as YAML")
    compile_.add_argument("--out", type=Path, default=COMPILED)
    compile_.set_defaults(act=compile_all)
    return top


def run_here(told: argparse.Namespace) -> None:
    """Runs the pipeline with kfp.local: every task is a process of its own, as every task is a container on a cluster."""
    from kfp import local

    from pipelines.attribution import attribution
    from pipelines.terminal import calm, plain

    config = load(told.config, told.overrides, told.workdir)
    check_device(config)
    try:
        told.workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the work folder: {error}; choose another (--workdir)") from error
    without_retries(attribution.pipeline_spec)
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(told.workdir / "pipeline"))
    start = time.perf_counter()
    try:
        with calm():
            attribution(config=config.model_dump_json(), shards=list(range(config.compute.shards)))
    except RuntimeError as error:  # kfp's only word for a failed task, whose own message is above
        failed = re.search(r"Inner task failed: '(\w+)", plain(str(error)))
        where = f"in {failed[1]}" if failed else plain(str(error))
        raise ApportionError(f"the pipeline stopped {where}, see above; run the same command again to go on where it stopped") from error
    conclude(config, time.perf_counter() - start)


def without_retries(spec: "PipelineSpec") -> None:
    """Lets every task fail at once: here no node is lost, a user's mistake need be said once, and the same command goes on."""
    for dag in (spec.root.dag, *(component.dag for component in spec.components.values())):
        for task in dag.tasks.values():
            task.ClearField("retry_policy")


def check_device(config: Config) -> None:
    """Raises ConfigError where this machine lacks the device asked for: here it plans and computes, on a cluster workers compute."""
    if config.compute.device == "cuda":  # no other can be absent, and to ask costs seconds
        from apportion.diffusion.compute import pick

        pick(config.compute.device)


def conclude(config: Config, seconds: float) -> None:
    """The table of credits and where the report is."""
    from apportion.cli import console, print_credits
    from apportion.stages.heads import head
    from apportion.stages.round import Round
    from apportion.store import open_store

    store = open_store(config.store)
    round = Round.open(f"{store.uri.rstrip('/')}/rounds/{head(store, config.project)}")
    if round.config.told() != config.told():
        raise ApportionError(f"round {round.id} of another configuration was published meanwhile: `apportion rounds` lists this one")
    console.print()
    print_credits(round)
    log.info("pipeline: %.1f s", seconds)


def compile_all(told: argparse.Namespace) -> None:
    """Writes the intermediate representation of every pipeline."""
    from kfp import compiler

    from pipelines.attribution import attribution

    told.out.mkdir(parents=True, exist_ok=True)
    for pipeline in (attribution,):
        target = told.out / f"{pipeline.name.removeprefix('apportion-')}.yaml"
        compiler.Compiler().compile(pipeline, str(target))
        log.info("wrote %s", target)


if __name__ == "__main__":
    sys.exit(main())
