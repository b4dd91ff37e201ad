"""The processes of a local run, and how it ends them: all, at once, and without leaving one behind."""

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn, cast

from apportion.progress import BARS

WORKER = Path(__file__).with_name("worker.py")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that stop a run."""

LONGEST = 5.0
"""Seconds to wait for the end of processes that were killed."""


class Workers:
    """Starts the tasks of a run, each in a process group of its own.

    A pipe ties them to this process: its end is their end (`pipelines.worker`). So nothing goes on where this
    process is killed, or where a task starts while the others are being stopped.
    """

    def __init__(self) -> None:
        self._lifeline, self._kept_open = os.pipe()
        self._running: set[subprocess.Popen[str]] = set()
        self.stopping = False
        self._bars = {BARS: "1"} if sys.stdout.isatty() else {}

    def run(self, full_command: Sequence[str], env_vars: Mapping[str, str] | None = None) -> int:
        """Carries out a command, prints what it writes, and returns its exit status. In place of
        `kfp.local.subprocess_task_handler.run_local_subprocess`, whose arguments it has."""
        process = subprocess.Popen(  # noqa: S603 (the command of KFP)
            [sys.executable, str(WORKER), *full_command],
            stdin=self._lifeline,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
            env={**os.environ, **self._bars, **(env_vars or {})},
            process_group=0,
        )
        self._running.add(process)
        assert process.stdout is not None  # because of PIPE
        with process:
            for line in process.stdout:
                print(line, end="")  # noqa: T201 (KFP replaces `print`, and shows lines by it)
            if self.stopping:  # KFP must not start another task, nor call this one a failure
                threading.Event().wait()
        self._running.discard(process)
        print("\n")  # noqa: T201 (as KFP does)
        return process.returncode

    def kill(self) -> None:
        """Kills all tasks with all that they started, and waits for their end."""
        self.stopping = True
        running, poll = list(self._running), select.poll()
        self._signal(signal.SIGKILL)
        outputs = set()
        for process in running:
            with suppress(ValueError):  # it has ended, and its output was read and closed
                outputs.add(cast(IO[str], process.stdout).fileno())
        for output in outputs:
            poll.register(
                output, 0
            )  # 0: only of its end, which is the end of every process that writes to it
        deadline = time.monotonic() + LONGEST
        while outputs and (left := deadline - time.monotonic()) > 0:
            for output, _ in poll.poll(1000 * left):
                outputs.discard(output)
                poll.unregister(output)

    def pause(self) -> None:
        """Pauses all tasks and this process, until this process is told to go on."""
        self._signal(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Ends all tasks, if any is left."""
        os.close(self._kept_open)
        os.close(self._lifeline)

    def _signal(self, number: signal.Signals) -> None:
        for process in list(self._running):
            with suppress(ProcessLookupError):  # it has just ended
                os.killpg(process.pid, number)


@contextmanager
def stoppable(resume: str) -> Iterator[Workers]:
    """Workers that end with this process. During the block, SIGTERM, SIGINT and SIGHUP end both, with a
    message that says how to go on (the command `resume`), and exit status 128 + the signal's number.
    """
    workers = Workers()

    def stop(number: int, _: FrameType | None) -> NoReturn:
        if not workers.stopping:  # a second signal does not wait for anything
            workers.kill()
            line = "\n" if os.isatty(2) else ""  # after the ^C of a terminal
            line += (
                f"apportion: stopped by {signal.Signals(number).name}; what was stored is kept, and this "
                f"command goes on from there: {resume}\n"
            )
            with suppress(OSError):  # the terminal may be gone
                # Not through sys.stderr: the signal may have come while this thread was writing to it.
                os.write(2, line.encode())
        os._exit(128 + number)  # now: KFP would go on with the tasks that do not depend on those just killed

    def pause(*_: object) -> None:
        workers.pause()

    handlers = {number: stop for number in SIGNALS if not _is_ignored_on_purpose(number)}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, pause)
    try:
        yield workers
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        workers.close()


def _is_ignored_on_purpose(number: signal.Signals) -> bool:
    """nohup ignores SIGHUP. A shell that is no interactive one ignores SIGINT for what it starts in the
    background, but whoever sends it to this process by its id means it."""
    return number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN
