"""python -m pipelines run | compile | register | submit | schedule: the pipeline on this machine, or on a cluster."""

import argparse
import logging
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apportion import logs
from apportion.config import Cluster, Config, load
from apportion.errors import ApportionError, ConfigError

if TYPE_CHECKING:
    from pipelines.package import Package

COMPILED = Path(__file__).parent / "compiled"
log = logging.getLogger("pipelines")


def main(arguments: Sequence[str] | None = None) -> int:
    return logs.run_command(parser(), arguments)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m pipelines", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    run = _command(commands, "run", run_here, "run a round here, in sub-processes")
    run.add_argument("--workdir", type=Path, default=Path("work"), help="everything a round makes goes here (default: work)")
    compile_ = commands.add_parser("compile", help="write the pipelines as YAML")
    compile_.add_argument("--config", type=Path, help="apply its section `cluster`: images, nodes, resources, secrets …")
    compile_.add_argument("--out", type=Path, help="where to (default: pipelines/compiled; needed with --config)")
    compile_.add_argument("--kubernetes", action="store_true", help="only the resources Pipeline and PipelineVersion, not the IR")
    compile_.set_defaults(act=compile_all)
    _command(commands, "register", register, "upload the pipeline to Kubeflow Pipelines, where it is not there yet")
    submit_ = _command(commands, "submit", submit, "register, and run a round on the cluster; prints the run's identifier")
    submit_.add_argument("--wait", action="store_true", help="follow the run to its end; exit status 1 where it fails")
    schedule_ = _command(commands, "schedule", schedule, "register, and run rounds by cluster.kfp.cron")
    schedule_.add_argument("--off", action="store_true", help="delete the schedule")
    return top


def _command(commands: Any, name: str, act: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.add_argument("config", type=Path)
    command.add_argument("--set", dest="overrides", action="append", default=[], metavar="key=value", help="override an option")
    command.set_defaults(act=act)
    return command


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
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(told.workdir / "pipeline"))
    start = time.perf_counter()
    try:
        with calm():
            attribution()(config=config.model_dump_json(), shards=list(range(config.compute.shards)))
    except RuntimeError as error:  # kfp's only word for a failed task, whose own message is above
        failed = re.search(r"Inner task failed: '(\w+)", plain(str(error)))
        where = f"in {failed[1]}" if failed else plain(str(error))
        raise ApportionError(f"the pipeline stopped {where}, see above; run the same command again to go on where it stopped") from error
    conclude(config, time.perf_counter() - start)


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
    """Writes every pipeline twice: its intermediate representation, and the resources of Kubernetes that hold the same."""
    from pipelines.attribution import attribution
    from pipelines.package import manifest, pack

    if told.config and not told.out:
        raise ConfigError("found --config without --out, expected both: pipelines/compiled holds what the defaults give")
    pipeline = attribution(load(told.config).cluster if told.config else Cluster())
    out = told.out or COMPILED
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            package = pack(pipeline, Path(scratch) if told.kubernetes else out)
            resources = out / f"{package.path.stem}-kubernetes.yaml"
            manifest(pipeline, package, resources)
    except OSError as error:
        raise ConfigError(f"cannot write the pipelines: {error}; choose another (--out)") from error
    for path in [resources] if told.kubernetes else [package.path, resources]:
        log.info("wrote %s", path)


def register(told: argparse.Namespace) -> None:
    config = load(told.config, told.overrides)
    with packed(config) as package:
        from pipelines import client, registration

        registration.register(client.Connection(config.cluster.kfp), package)


def submit(told: argparse.Namespace) -> None:
    from pipelines.parameters import parameters

    config = load(told.config, told.overrides)
    sent = parameters(config)
    with packed(config) as package:
        from pipelines import client, registration

        connection = client.Connection(config.cluster.kfp)
        run = registration.submit(connection, config, package, sent)
        print(run, flush=True)  # noqa: T201
        if told.wait:
            try:
                registration.follow(connection, run)
            except KeyboardInterrupt:
                log.info("no longer waiting: run %s goes on", run)
                sys.exit(130)  # as shells say it


def schedule(told: argparse.Namespace) -> None:
    from pipelines.parameters import parameters

    config = load(told.config, told.overrides)
    if told.off:
        from pipelines import client, registration

        registration.unschedule(client.Connection(config.cluster.kfp), config)
        return
    sent = parameters(config)
    with packed(config) as package:
        from pipelines import client, registration

        registration.schedule(client.Connection(config.cluster.kfp), config, package, sent)


@contextmanager
def packed(config: Config) -> "Iterator[Package]":
    """The pipeline, compiled for the cluster of a configuration."""
    from pipelines.attribution import attribution
    from pipelines.package import pack

    with tempfile.TemporaryDirectory() as scratch:
        yield pack(attribution(config.cluster), Path(scratch))


if __name__ == "__main__":
    sys.exit(main())
