"""python -m pipelines run | compile | register | submit | schedule: the pipeline on this machine, or on a
cluster."""

import argparse
import logging
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apportion import logs
from apportion.config.cluster import Cluster
from apportion.config.loading import load
from apportion.config.round import Config
from apportion.errors import ApportionError, ConfigError

if TYPE_CHECKING:
    from pipelines.package import Package
    from pipelines.processes import Workers

COMPILED = Path(__file__).parent / "compiled"
log = logging.getLogger("pipelines")


def main(arguments: Sequence[str] | None = None) -> int:
    return logs.run_command(parser(), arguments)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m pipelines", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    run = _command(commands, "run", run_here, "run a round here, in sub-processes")
    run.add_argument(
        "--workdir",
        type=Path,
        default=Path("work"),
        help="folder for everything a round makes (default: work)",
    )

    compile_ = commands.add_parser("compile", help="write the pipeline as YAML")
    compile_.add_argument(
        "--config", type=Path, help="apply its section `cluster`: images, nodes, resources, secrets …"
    )
    compile_.add_argument(
        "--out", type=Path, help="folder to write to (default: pipelines/compiled; needed with --config)"
    )
    compile_.add_argument(
        "--kubernetes",
        action="store_true",
        help="write only the resources Pipeline and PipelineVersion, not the IR",
    )
    compile_.set_defaults(act=compile_all)

    _command(
        commands, "register", register, "upload the pipeline to Kubeflow Pipelines, if it is not there yet"
    )

    submit_ = _command(
        commands, "submit", submit, "register, and run a round on the cluster; prints the run's identifier"
    )
    submit_.add_argument(
        "--wait", action="store_true", help="wait for the end of the run; exit status 1 if it fails"
    )

    schedule_ = _command(
        commands, "schedule", schedule, "register, and run rounds at the times of cluster.kfp.cron"
    )
    schedule_.add_argument("--off", action="store_true", help="delete the schedule")
    return top


def _command(
    commands: Any, name: str, act: Callable[[argparse.Namespace], None], text: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.add_argument("config", type=Path)
    command.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="key=value", help="override an option"
    )
    command.set_defaults(act=act)
    return command


def run_here(arguments: argparse.Namespace) -> None:
    """Runs the pipeline with kfp.local: every task is a separate process, in place of a container."""
    from pipelines.processes import stoppable

    with stoppable(resume=shlex.join(sys.orig_argv)) as workers:
        _run_with(workers, arguments)


def _run_with(workers: "Workers", arguments: argparse.Namespace) -> None:
    from kfp import local
    from kfp.local import subprocess_task_handler

    from apportion.planning.checks import check_options
    from pipelines.attribution import attribution
    from pipelines.terminal import plain, without_kfp_lines

    config = load(arguments.config, arguments.overrides, arguments.workdir)
    check_options(config)
    check_device(config)
    try:
        arguments.workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the work folder: {error}; choose another (--workdir)") from error
    folder = arguments.workdir / "pipeline"
    # No component has a workspace. KFP would make a temporary folder for it, and a run that is stopped would
    # leave it behind.
    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=str(folder),
        workspace_root=str(folder / "workspace"),
    )
    subprocess_task_handler.run_local_subprocess = workers.run
    start = time.perf_counter()
    try:
        with without_kfp_lines():
            attribution()(config=config.model_dump_json(), shards=list(range(config.compute.shards)))
    except RuntimeError as error:  # KFP raises nothing else for a failed task, and has printed its message
        message = plain(str(error))
        task = re.search(r"Inner task failed: '(\w+)", message)
        where = f"in {task[1]}" if task else message
        raise ApportionError(
            f"the pipeline stopped {where}, see above; run the same command again to continue from there"
        ) from error
    conclude(config, time.perf_counter() - start)


def check_device(config: Config) -> None:
    """Raises ConfigError where this machine lacks the device that a local run needs."""
    if config.compute.device == "cuda":  # only this device can be missing, and looking for it takes seconds
        from apportion.diffusion.compute import pick

        pick(config.compute.device)


def conclude(config: Config, seconds: float) -> None:
    """Prints the table of credits and the address of the report."""
    from apportion.cli import console, print_credits
    from apportion.rounds.heads import head
    from apportion.rounds.round import Round
    from apportion.store import open_store
    from apportion.store.layout import round_uri

    store = open_store(config.store)
    last = head(store, config.project)
    assert last is not None  # a pipeline that ends well has published a round, now or before
    published = Round.open(round_uri(store, last))
    if published.config.identity() != config.identity():
        raise ApportionError(
            f"round {published.id} of another configuration was published meanwhile: "
            "`apportion rounds` lists the round of this run"
        )
    console.print()
    print_credits(published)
    log.info("pipeline: %.1f s", seconds)


def compile_all(arguments: argparse.Namespace) -> None:
    """Writes the pipeline as KFP's intermediate representation, and as the resources of Kubernetes that
    contain it."""
    from pipelines.attribution import attribution
    from pipelines.package import manifest, pack

    if arguments.config and not arguments.out:
        raise ConfigError(
            "found --config without --out, expected both: pipelines/compiled holds the pipeline of the "
            "default options"
        )
    pipeline = attribution(load(arguments.config).cluster if arguments.config else Cluster())
    out = arguments.out or COMPILED
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            package = pack(pipeline, Path(scratch) if arguments.kubernetes else out)
            resources = out / f"{package.path.stem}-kubernetes.yaml"
            manifest(pipeline, package, resources)
    except OSError as error:
        raise ConfigError(f"cannot write the pipeline: {error}; choose another folder (--out)") from error
    for path in [resources] if arguments.kubernetes else [package.path, resources]:
        log.info("wrote %s", path)


def register(arguments: argparse.Namespace) -> None:
    from apportion.planning.checks import check_options

    config = load(arguments.config, arguments.overrides)
    check_options(config)
    with packed(config) as package:
        from pipelines import client, registration

        registration.register(client.Connection(config.cluster.kfp), package)


def submit(arguments: argparse.Namespace) -> None:
    from pipelines.parameters import parameters

    config = load(arguments.config, arguments.overrides)
    values = parameters(config)
    with packed(config) as package:
        from pipelines import client, registration

        connection = client.Connection(config.cluster.kfp)
        identifier = registration.submit(connection, config, package, values)
        print(identifier, flush=True)  # noqa: T201
        if arguments.wait:
            try:
                registration.follow(connection, identifier)
            except KeyboardInterrupt:
                log.info("no longer waiting: run %s continues", identifier)
                sys.exit(130)  # the exit status of shells after Ctrl-C


def schedule(arguments: argparse.Namespace) -> None:
    from pipelines.parameters import parameters

    config = load(arguments.config, arguments.overrides)
    if arguments.off:
        from pipelines import client, registration

        registration.unschedule(client.Connection(config.cluster.kfp), config)
        return
    values = parameters(config)
    with packed(config) as package:
        from pipelines import client, registration

        registration.schedule(client.Connection(config.cluster.kfp), config, package, values)


@contextmanager
def packed(config: Config) -> "Iterator[Package]":
    """The pipeline, compiled for the section `cluster` of a configuration, until the end of the block."""
    from pipelines.attribution import attribution
    from pipelines.package import pack

    with tempfile.TemporaryDirectory() as scratch:
        yield pack(attribution(config.cluster), Path(scratch))


if __name__ == "__main__":
    sys.exit(main())
