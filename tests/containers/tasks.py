"""Tasks of the compiled pipeline as Kubeflow Pipelines runs them: each in its own container, with the command
that the compiler wrote."""

import json
import os
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[2]
IR = ROOT / "pipelines" / "compiled" / "attribution.yaml"
USER = "10001:10001"
RESTRICTED = (
    *("--user", USER, "--read-only", "--cap-drop", "all"),
    *("--security-opt", "no-new-privileges", "--pids-limit", "512"),
)
WRITABLE = ("/work", "/tmp")
OURS = f"apportion-test={uuid.uuid4().hex}"
"""Label of every container that this session starts."""
OUTPUT = "/work/outputs/executor.json"


class Ended(NamedTuple):
    """How a container ended: its exit code, its log, the value it returned, and the files it left where it
    must leave none."""

    code: int
    log: str
    value: Any
    strays: list[str]


@dataclass(frozen=True)
class Engine:
    """podman or docker, and the image under test."""

    name: str
    image: str

    def ask(self, *arguments: str | Path, check: bool = True) -> str:
        """The standard output of a command of the engine."""
        result = subprocess.run([self.name, *arguments], capture_output=True, text=True)
        if check and result.returncode:
            raise RuntimeError(f"{self.name} {' '.join(map(str, arguments))}: {result.stderr}")
        return result.stdout

    def inspect(self, name: str) -> Any:
        (description,) = json.loads(self.ask("inspect", name))
        return description

    def restricted(self) -> tuple[str, ...]:
        if Path(self.name).name == "podman":  # by default podman makes /run and other folders writable
            return (*RESTRICTED, "--read-only-tmpfs=false")
        return RESTRICTED

    def inside(self, *command: str, check: bool = True) -> str:
        """The output of a command in a container with the same restrictions as a stage, and without a
        network."""
        # Files of user 10001 cannot be deleted here unless this runs as root.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
            work = Path(scratch) / "work"
            work.mkdir()
            options = ["--rm", "--label", OURS, "--network", "none", *self.restricted(), *volumes(work)]
            return self.ask("run", *options, self.image, *command, check=check)

    @cached_property
    def own(self) -> frozenset[str]:
        """The files that the engine itself changes in the root of a container that does nothing."""
        name = f"apportion-nothing-{uuid.uuid4().hex[:8]}"
        options = ["--name", name, "--label", OURS, "--network", "host", *self.restricted()]
        self.ask("run", *options, self.image, "true")
        return frozenset(self.changed(name))

    def changed(self, container: str) -> list[str]:
        """The files in the root of a container that differ from its image; the container, which has ended, is
        removed."""
        paths = [line.split(maxsplit=1)[1] for line in self.ask("diff", container).splitlines()]
        self.ask("rm", "--force", "--volumes", container)
        return paths

    def clear(self) -> None:
        """Removes the containers of this test session that are left, as after an interruption."""
        for container in self.ask("ps", "--all", "--quiet", "--filter", f"label={OURS}").split():
            self.ask("rm", "--force", "--volumes", container)


def _within(path: str, folders: Sequence[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def volumes(work: Path) -> tuple[str, ...]:
    """The volumes of a container: this folder, which every user may write to as in an emptyDir, and its own
    /tmp."""
    work.chmod(0o777)
    return ("--volume", f"{work}:/work", "--tmpfs", "/tmp:rw,mode=1777")


@dataclass
class Task:
    """A stage in its own container, from its start to its end."""

    engine: Engine
    container: str
    process: "subprocess.Popen[str]"
    work: Path

    @property
    def pid(self) -> int:
        """The number of its first process on this machine."""
        while self.process.poll() is None:
            command = ("inspect", "--format", "{{.State.Pid}}", self.container)
            text = self.engine.ask(*command, check=False).strip()
            if text.isdigit() and int(text):
                return int(text)
            time.sleep(0.05)
        raise RuntimeError(f"{self.container} is not running: {self.process.communicate()[0]}")

    def proc(self, name: str) -> str:
        """A file of /proc about its first process, read inside the container: outside, its user may have
        another number."""
        return self.engine.ask("exec", self.container, "cat", f"/proc/1/{name}")

    def kill(self) -> None:
        """Kills it at once, as when its node fails. Where this runs as root, the signal is sent directly,
        since the engine is slow."""
        if os.geteuid() == 0:
            os.kill(self.pid, signal.SIGKILL)
        else:
            self.engine.ask("kill", "--signal", "KILL", self.container)

    def end(self) -> Ended:
        log = self.process.communicate(timeout=540)[0]
        output = self.work / OUTPUT.removeprefix("/work/")
        value = None
        if output.exists():
            value = json.loads(output.read_text(encoding="utf-8")).get("parameterValues", {}).get("Output")
        changed = [path for path in self.engine.changed(self.container) if path not in self.engine.own]
        strays = [path for path in changed if not _within(path, WRITABLE)]
        files = sorted(str(path.relative_to(self.work)) for path in self.work.rglob("*") if path.is_file())
        strays += [f"/work/{path}" for path in files if not path.startswith("outputs/")]
        return Ended(self.process.returncode, log, value, strays)


@dataclass(frozen=True)
class Cluster:
    """Runs tasks with these environment variables, each with a folder below `scratch` as its /work."""

    engine: Engine
    scratch: Path
    env: Mapping[str, str]
    seconds: dict[str, float] = field(default_factory=dict)

    def start(self, stage: str, **inputs: Any) -> Task:
        specification = yaml.safe_load(IR.read_text(encoding="utf-8").partition("\n---\n")[0])
        container = specification["deploymentSpec"]["executors"][f"exec-{stage}"]["container"]
        env = {entry["name"]: entry["value"] for entry in container["env"]} | dict(self.env)
        arguments = [part.replace("{{$}}", json.dumps(executor_input(inputs))) for part in container["args"]]
        return self._start(stage, env, [*container["command"], *arguments])

    def _start(self, name: str, env: Mapping[str, str], command: Sequence[str]) -> Task:
        container = f"apportion-{name}-{uuid.uuid4().hex[:8]}"
        work = self.scratch / container
        work.mkdir(parents=True)
        options = ["--name", container, "--label", OURS, "--network", "host", "--memory", "4g"]
        options += [*self.engine.restricted(), *volumes(work)]
        options += [part for variable in env for part in ("--env", variable)]
        process = subprocess.Popen(
            [self.engine.name, "run", *options, self.engine.image, *command],
            env=os.environ | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return Task(self.engine, container, process, work)

    def command(self, *command: str) -> Ended:
        """How another command ends in such a container."""
        return self._start(command[0], self.env, command).end()

    def run(self, stage: str, **inputs: Any) -> Any:
        """The task's value. Raises AssertionError where it failed, or left a file where it must leave
        none."""
        start = time.perf_counter()
        ended = self.start(stage, **inputs).end()
        self.seconds[f"{stage} {inputs.get('shard', '')}".strip()] = round(time.perf_counter() - start, 1)
        assert ended.code == 0, ended.log
        assert ended.strays == [], ended
        return ended.value


def executor_input(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The input that KFP's launcher gives to the executor, which writes the task's value to a file."""
    output = {"outputFile": "/work/outputs/Output"}
    outputs = {"parameters": {"Output": output}, "outputFile": OUTPUT}
    return {"inputs": {"parameterValues": dict(inputs)}, "outputs": outputs}
