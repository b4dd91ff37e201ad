"""Tasks of the compiled pipeline as Kubeflow Pipelines runs them: each in a container, by the command that the compiler wrote for it."""

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
RESTRICTED = ("--user", USER, "--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges", "--pids-limit", "512")
WRITABLE = ("/work", "/tmp")
OURS = f"apportion-test={uuid.uuid4().hex}"
"""Label of every container that this session starts."""
OUTPUT = "/work/outputs/executor.json"


class Ended(NamedTuple):
    """How a container ended: its exit code, what it wrote, the value it returned, and which files it left where none should be."""

    code: int
    log: str
    value: Any
    strays: list[str]


@dataclass(frozen=True)
class Engine:
    """podman or docker, and the image that is tested."""

    name: str
    image: str

    def ask(self, *arguments: str | Path, check: bool = True) -> str:
        """Its standard output."""
        done = subprocess.run([self.name, *arguments], capture_output=True, text=True)
        if check and done.returncode:
            raise RuntimeError(f"{self.name} {' '.join(map(str, arguments))}: {done.stderr}")
        return done.stdout

    def inspect(self, what: str) -> Any:
        (found,) = json.loads(self.ask("inspect", what))
        return found

    def restricted(self) -> tuple[str, ...]:
        return (*RESTRICTED, *(("--read-only-tmpfs=false",) if Path(self.name).name == "podman" else ()))  # or /run and more are writable

    def inside(self, *command: str, check: bool = True) -> str:
        """What a command says in a container that may do as little as a stage may, and reach nothing."""
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:  # what 10001 wrote is not ours where we are not root
            (work := Path(scratch) / "work").mkdir()
            return self.ask(
                "run", "--rm", "--label", OURS, "--network", "none", *self.restricted(), *volumes(work), self.image, *command, check=check
            )

    @cached_property
    def own(self) -> frozenset[str]:
        """What the engine itself changes of the root of a container that does nothing."""
        name = f"apportion-nothing-{uuid.uuid4().hex[:8]}"
        self.ask("run", "--name", name, "--label", OURS, "--network", "host", *self.restricted(), self.image, "true")
        return frozenset(self.changed(name))

    def changed(self, container: str) -> list[str]:
        """What is another in the root of a container that has ended than in its image; the container is removed."""
        found = [line.split(maxsplit=1)[1] for line in self.ask("diff", container).splitlines()]
        self.ask("rm", "--force", "--volumes", container)
        return found

    def clear(self) -> None:
        """Removes what a session that was interrupted has left."""
        for container in self.ask("ps", "--all", "--quiet", "--filter", f"label={OURS}").split():
            self.ask("rm", "--force", "--volumes", container)


def _within(path: str, folders: Sequence[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def volumes(work: Path) -> tuple[str, ...]:
    """Of a container: this folder, which anybody may write to, as an emptyDir is, and a /tmp of its own."""
    work.chmod(0o777)
    return ("--volume", f"{work}:/work", "--tmpfs", "/tmp:rw,mode=1777")


@dataclass
class Task:
    """A stage in a container of its own, from its start to its end."""

    engine: Engine
    container: str
    process: "subprocess.Popen[str]"
    work: Path

    @property
    def pid(self) -> int:
        """Of its first process, as this machine counts."""
        while self.process.poll() is None:
            said = self.engine.ask("inspect", "--format", "{{.State.Pid}}", self.container, check=False).strip()
            if said.isdigit() and int(said):
                return int(said)
            time.sleep(0.05)
        raise RuntimeError(f"{self.container} is not running: {self.process.communicate()[0]}")

    def proc(self, name: str) -> str:
        """A file of /proc about its first process, as the kernel tells those inside, whatever the user is called outside."""
        return self.engine.ask("exec", self.container, "cat", f"/proc/1/{name}")

    def kill(self) -> None:
        """At once, as a node does that goes away: by the kernel where that may be, since an engine takes its time."""
        if os.geteuid() == 0:
            os.kill(self.pid, signal.SIGKILL)
        else:
            self.engine.ask("kill", "--signal", "KILL", self.container)

    def end(self) -> Ended:
        log = self.process.communicate(timeout=540)[0]
        output = self.work / OUTPUT.removeprefix("/work/")
        value = json.loads(output.read_text(encoding="utf-8")).get("parameterValues", {}).get("Output") if output.exists() else None
        strays = [path for path in self.engine.changed(self.container) if path not in self.engine.own and not _within(path, WRITABLE)]
        left = sorted(str(path.relative_to(self.work)) for path in self.work.rglob("*") if path.is_file())
        strays += [f"/work/{path}" for path in left if not path.startswith("outputs/")]
        return Ended(self.process.returncode, log, value, strays)


@dataclass(frozen=True)
class Cluster:
    """Runs tasks with these variables, each with a folder below `scratch` as its /work."""

    engine: Engine
    scratch: Path
    env: Mapping[str, str]
    seconds: dict[str, float] = field(default_factory=dict)

    def start(self, stage: str, **inputs: Any) -> Task:
        told = yaml.safe_load(IR.read_text(encoding="utf-8").partition("\n---\n")[0])["deploymentSpec"]["executors"][f"exec-{stage}"]
        env = {entry["name"]: entry["value"] for entry in told["container"]["env"]} | dict(self.env)
        arguments = [part.replace("{{$}}", json.dumps(executor_input(inputs))) for part in told["container"]["args"]]
        return self._start(stage, env, [*told["container"]["command"], *arguments])

    def _start(self, name: str, env: Mapping[str, str], command: Sequence[str]) -> Task:
        container = f"apportion-{name}-{uuid.uuid4().hex[:8]}"
        work = self.scratch / container
        work.mkdir(parents=True)
        options = [
            *self.engine.restricted(), "--network", "host", "--memory", "4g", *volumes(work),
            *(part for variable in env for part in ("--env", variable)),
        ]  # fmt: skip
        process = subprocess.Popen(
            [self.engine.name, "run", "--name", container, "--label", OURS, *options, self.engine.image, *command],
            env=os.environ | env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        return Task(self.engine, container, process, work)

    def command(self, *command: str) -> Ended:
        """How a command of one's own ends in the same circumstances."""
        return self._start(command[0], self.env, command).end()

    def run(self, stage: str, **inputs: Any) -> Any:
        """The task's value. Raises AssertionError where it failed, or left a file where none should be."""
        begun = time.perf_counter()
        ended = self.start(stage, **inputs).end()
        self.seconds[f"{stage} {inputs.get('shard', '')}".strip()] = round(time.perf_counter() - begun, 1)
        assert ended.code == 0, ended.log
        assert ended.strays == [], ended
        return ended.value


def executor_input(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What KFP's launcher tells the executor, which leaves the task's value in a file."""
    outputs = {"parameters": {"Output": {"outputFile": "/work/outputs/Output"}}, "outputFile": OUTPUT}
    return {"inputs": {"parameterValues": dict(inputs)}, "outputs": outputs}
