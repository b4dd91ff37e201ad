"""Python processes that start in milliseconds: forks of one process that has imported the large libraries.

Importing torch, diffusers, MLflow and KFP takes seconds of processor time, and a pipeline has twenty
processes. `server` starts a process that imports them once. `Forks.start` then runs `python …` as a fork of
it, with its own arguments, environment, folder, output and process group. There `sys.executable` is a script
that does the same, so that the processes of a pipeline are forks too. Everything else is as in a new process.

Run as a script, this file is the server.
"""

import array
import atexit
import fcntl
import gc
import hashlib
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

LIBRARIES = (
    *("torch", "torch_pruning", "apportion.diffusion.ddpm.prune", "apportion.diffusion.ddpm.sample"),
    *("mlflow", "mlflow.store.tracking.sqlalchemy_store", "boto3", "apportion.tracking.server"),
    *("kfp.local", "kfp.dsl.executor", "pipelines.attribution", "apportion.cli", "pytest", "PIL.Image"),
)
PROCESS, LIFELINE = b"p", b"l"
"""The first byte of a connection: it asks for a process, or keeps the server running while it is open."""

LAUNCHER = """#!{python} -SE
import array, json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    server.sendmsg([b"p"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
    request = {{"arguments": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}}
    request["group"] = os.getpgid(0)
    server.sendall(json.dumps(request).encode() + b"\\n")
    code = int(server.makefile().read().split()[1])
sys.exit(code if code >= 0 else 128 - code)
"""
"""The script in place of Python. The fork is in the script's process group, and is killed with it."""


class Fork:
    """A process that was started. It is the leader of its process group."""

    def __init__(self, connection: socket.socket, out: IO[str], err: IO[str]) -> None:
        self._connection = connection
        self._out, self._err = out, err
        self.pid = self._number()
        self._code: int | None = None

    def wait(self) -> tuple[int, str, str]:
        """The exit status, negative for a signal, and what was written on either stream, once it has
        ended."""
        if self._code is None:
            self._code = self._number()
            self._connection.close()
        texts = []
        for file in (self._out, self._err):
            file.seek(0)
            texts.append(file.read())
        return self._code, texts[0], texts[1]

    def ended(self, seconds: float = 0.0) -> bool:
        """Whether it has ended, or does so within some seconds."""
        return self._code is not None or bool(select.select([self._connection], [], [], seconds)[0])

    def kill(self) -> int:
        """Kills the whole process group, as when a machine fails; returns the exit status. A fork that was
        requested just before is in the group only now, so it is killed until all have ended."""
        while not self.ended(0.005):
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        return self.wait()[0]

    def _number(self) -> int:
        """The next line of the server's answer."""
        line = b""
        while not line.endswith(b"\n"):
            part = self._connection.recv(1)
            if not part:
                raise OSError("the server of forks has ended")
            line += part
        return int(line)


class Forks:
    """Starts processes at a server."""

    def __init__(self, address: str, folder: Path) -> None:
        self._address, self._folder = address, folder

    def start(self, *arguments: object) -> Fork:
        """`python …` in `folder`."""
        out, err = (tempfile.TemporaryFile("w+", encoding="utf-8") for _ in range(2))  # noqa: SIM115
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._address)
        fds = array.array("i", [0, out.fileno(), err.fileno()])
        connection.sendmsg([PROCESS], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        request = {
            "arguments": [str(argument) for argument in arguments],
            "folder": str(self._folder),
            "environment": dict(os.environ),
            "group": 0,
        }
        connection.sendall(json.dumps(request).encode() + b"\n")
        return Fork(connection, out, err)

    def run(self, *arguments: object) -> tuple[int, str, str]:
        """Exit status and output of `python …`."""
        return self.start(*arguments).wait()


@contextmanager
def server(shared: Path, folder: Path) -> Iterator[Forks]:
    """A server whose forks run in `folder`. Processes that name the same folder `shared` use the same server,
    which ends with the last of them."""
    name = hashlib.sha256(str(shared.resolve()).encode()).hexdigest()[:16]
    address = f"{tempfile.gettempdir()}/preloaded-{name}"  # the address of a socket must be short
    started = None
    with (shared / "preloaded.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lifeline = _connect(address)
        if lifeline is None:
            with (shared / "preloaded.log").open("w") as log:
                command = [sys.executable, __file__, address]
                started = subprocess.Popen(
                    command, stdout=log, stderr=log, cwd=folder, start_new_session=True
                )
            while (lifeline := _connect(address)) is None:
                if started.poll() is not None:
                    raise OSError((shared / "preloaded.log").read_text())
                time.sleep(0.02)
    try:
        yield Forks(address, folder)
    finally:
        lifeline.close()
        if started is not None:
            with suppress(subprocess.TimeoutExpired):  # another process still uses it
                started.wait(60)


def _connect(address: str) -> socket.socket | None:
    """A connection that keeps the server running; None where no server is there."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(address)
        connection.sendall(LIFELINE)
    except OSError:
        connection.close()
        return None
    return connection


# The server


class _Running(NamedTuple):
    connection: socket.socket
    group: int


def _serve(address: str) -> None:
    sys.path[0] = str(Path.cwd())  # as of `python -m`, not the folder of this file
    from apportion.config.stages import STAGES

    for name in (*LIBRARIES, *(f"apportion.stages.{stage}" for stage in STAGES)):
        importlib.import_module(name)
    threads = [thread.name for thread in threading.enumerate()]
    assert threads == ["MainThread"], threads  # a fork has no other thread, and would wait for their locks
    gc.collect()
    gc.freeze()  # otherwise each fork examines, and so copies, all objects of the libraries
    Path(address).unlink(missing_ok=True)
    launcher = Path(f"{address}-python")
    launcher.write_text(LAUNCHER.format(python=sys.executable, address=address))
    launcher.chmod(0o700)
    sys.executable = str(launcher)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    running: dict[int, _Running] = {}
    ended: dict[int, int] = {}
    lifelines: list[socket.socket] = []
    used = False
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(128)
        while lifelines or not used:
            ready, _, _ = select.select([listener, woken, *lifelines], [], [])
            lifelines = [line for line in lifelines if line not in ready]
            if woken in ready:
                os.read(woken, 4096)
                _reap(running, ended)
            if listener in ready:
                connection, _ = listener.accept()
                with suppress(OSError, ValueError):  # the process that made the request was killed
                    kind, fds, *_ = socket.recv_fds(connection, 1, 3)
                    if kind == PROCESS:
                        request = json.loads(connection.makefile().readline())
                        pid, group = _fork(request, fds)
                        running[pid] = _Running(connection, group)
                        connection.sendall(f"{pid}\n".encode())
                    elif kind == LIFELINE:
                        lifelines.append(connection)
                        used = True
    Path(address).unlink()
    launcher.unlink()
    os._exit(0)  # the end of so many modules takes time


def _reap(running: dict[int, _Running], ended: dict[int, int]) -> None:
    """Answers for the forks that have ended; for the leader of a group, once all forks in the group have."""
    with suppress(ChildProcessError):
        while (pair := os.waitpid(-1, os.WNOHANG))[0]:
            ended[pair[0]] = os.waitstatus_to_exitcode(pair[1])
    for pid in list(ended):
        if not any(fork.group == pid and other not in ended for other, fork in running.items()):
            with suppress(BrokenPipeError):  # the launcher was killed
                running[pid].connection.sendall(f"{ended[pid]}\n".encode())
            running.pop(pid).connection.close()
            del ended[pid]


def _fork(request: dict[str, Any], fds: list[int]) -> tuple[int, int]:
    """The new process and its group."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for number, fd in enumerate(fds):
                os.dup2(fd, number)
            os.closerange(3, 4096)
            os.setpgid(0, request["group"])
            code = _run(request)
        except BaseException:  # noqa: BLE001 (it must not go on as another server)
            traceback.print_exc()
        finally:
            os._exit(code)
    for fd in fds:
        os.close(fd)
    group = request["group"] or pid
    with suppress(OSError):  # the fork has done it already, or has ended
        os.setpgid(pid, group)
    return pid, group


def _run(request: dict[str, Any]) -> int:
    """Does what Python does with these arguments; returns the exit status."""
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    option, *rest = request["arguments"]
    paths = [
        path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in ("", *sys.path)
    ]
    sys.path[0:1] = [request["folder"], *paths]
    code: object = 0
    try:
        if option == "-m":
            sys.argv = rest
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        elif option == "-c":
            sys.argv = ["-c", *rest[1:]]
            exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = [option, *rest]
            runpy.run_path(option, run_name="__main__")
    except SystemExit as error:
        code = error.code
    except BaseException:  # noqa: BLE001 (as the interpreter)
        sys.excepthook(*sys.exc_info())
        code = 1
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)  # noqa: T201
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


if __name__ == "__main__":
    _serve(sys.argv[1])
