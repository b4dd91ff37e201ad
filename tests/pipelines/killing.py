"""A round from its plan to its publication in one process, which kills itself at a chosen moment. Tests run
it in a process of its own."""

import os
import re
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import boto3
from tiny import concluded, evaluated, prepared

from apportion import rounds
from apportion.config.loading import parse
from apportion.stages import finetune, plan, sample, score
from apportion.store import FileStore, S3Store, file, open_store

WORK = {"finetune": (finetune, "remove"), "sample": (sample, "generate"), "score": (score.Scorer, "values")}
"""Where each stage computes: a module or class, and the name of the function that it calls."""


def carry_out(config: dict[str, Any], log: str, key: str, moment: str) -> None:
    """Plans a round and runs all its stages. Every computation of a coalition is a line in the file `log`.

    The process is killed at the first commit of an object whose key matches the pattern `key`: `before` or
    `after` it or, in a folder, `between` the checksum and the object.
    """
    share_stores(setattr)
    _log_to(Path(log))
    _kill_at(key, moment)
    uri = plan.run(parse(config, "the test's configuration")).round_uri
    prepared(uri)
    evaluated(uri)
    concluded(uri)


def work_on(uri: str, log: str) -> None:
    """Makes all coalitions of a planned round. Every computation of one is a line in the file `log`."""
    share_stores(setattr)
    _log_to(Path(log))
    evaluated(uri)


def share_stores(replace: Callable[[object, str, object], None]) -> None:
    """Each stage opens its store, and a client of S3 takes 0.2 s: all in this process get the same one. The
    argument is `setattr`, or the one of a test."""
    replace(boto3, "Session", cache(boto3.Session))
    shared = cache(open_store)
    for module in (plan, rounds.round):
        replace(module, "open_store", shared)


def _log_to(log: Path) -> None:
    for stage, (owner, name) in WORK.items():
        setattr(owner, name, _logged(getattr(owner, name), log, stage))


def _logged(work: Any, log: Path, stage: str) -> Any:
    def call(*arguments: Any) -> Any:
        with log.open("a") as lines:
            lines.write(f"{stage}\n")
        return work(*arguments)

    return call


def _kill_at(pattern: str, moment: str) -> None:
    def kill_if(condition: bool) -> None:
        if condition:
            os.kill(os.getpid(), signal.SIGKILL)

    def wrapped(commit: Any) -> Any:
        def call(store: Any, key: str, *arguments: Any) -> Any:
            matches = re.fullmatch(pattern, key) is not None
            kill_if(matches and moment == "before")
            result = commit(store, key, *arguments)
            kill_if(matches and moment == "after" and bool(result))
            return result

        return call

    for kind in (FileStore, S3Store):
        for name in ("put_if_absent", "swap"):
            setattr(kind, name, wrapped(getattr(kind, name)))
    write = file._write_checksums

    def write_checksums(path: Path, *digests: str) -> None:
        write(path, *digests)
        kill_if(moment == "between" and re.fullmatch(f".*/{pattern}", path.as_posix()) is not None)

    file._write_checksums = write_checksums
