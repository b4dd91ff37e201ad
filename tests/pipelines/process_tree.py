"""What a process has started, and whether it still runs."""

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def _pipes(pid: int | str, descriptors: Iterable[int | str]) -> set[str]:
    pipes = set()
    for descriptor in descriptors:
        with suppress(OSError):
            pipes.add(str(Path(f"/proc/{pid}/fd/{descriptor}").readlink()))
    return {name for name in pipes if name.startswith("pipe:")}


def started_by(pid: int) -> set[int]:
    """The processes that write to a pipe that this process reads: the workers of a run, and what these have
    started. They need not be its children: those of `preloaded` are not."""
    pipes = _pipes(pid, os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
    others = {int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()} - {pid}
    return {other for other in others if _pipes(other, [1]) & pipes}


def running(pids: Iterable[int]) -> set[int]:
    """Those that have not ended. One that has ended, and whose parent does not ask for its status, counts as
    ended."""
    states = {}
    for pid in pids:
        with suppress(OSError):
            states[pid] = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return {pid for pid, state in states.items() if state not in "ZX"}


def seconds_until_ended(pids: set[int], limit: float = 30.0) -> float:
    """Seconds until none of them runs."""
    start = time.monotonic()
    while running(pids):
        assert time.monotonic() - start < limit, running(pids)
        time.sleep(0.001)
    return time.monotonic() - start
