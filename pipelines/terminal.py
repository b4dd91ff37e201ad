"""What a local run shows: our stages' own lines, and of KFP's only which task starts."""

import builtins
import contextlib
import io
import logging
import re
import sys
import threading
from collections.abc import Iterator
from typing import TextIO

COLOUR = re.compile(r"\x1b\[\d+m")
STAMP = r"^\s*(\d\d:\d\d:\d\d\.\d{3}\ -\ [A-Z]+\ -\ )?"
STARTS = re.compile(STAMP.replace("\\ ", " ") + r"Executing task '([a-z]+)(-\d+)?'$")
NOISE = re.compile(
    r"^\s*(?:[{}\[\]]+,?$|\"\w+\":\ |-+$|$)"  # a task's inputs as JSON, rules, empty lines
    r"|^\s*(?:\[KFP\ Executor\ |Wrote\ executor\ output\ file\ |Output:\ )"  # said inside a task, or of it
    rf"|{STAMP}(?:Streamed\ logs:$|Running\ pipeline:\ |Skipping\ (?:conditional\ )?task\ |Cleaned\ up\ workspace:\ )"
    rf"|{STAMP}Task\ '[\w-]+'\ (?:outputs:$|has\ no\ outputs$|finished\ with\ status\ [A-Z]+$)"
    rf"|{STAMP}Pipeline\ '[\w-]+'\ finished\ with\ status\ ",
    re.VERBOSE,
)
DEEP = re.compile(r"^(    )+")  # KFP indents a task's lines by four, and by more the more tasks ran side by side


def plain(text: str) -> str:
    """Without colours."""
    return COLOUR.sub("", text)


class Calm(io.TextIOBase):
    """A text stream that passes on, line by line, what a person wants to read. Threads may share it."""

    def __init__(self, out: TextIO) -> None:
        self.out, self.line, self.lock = out, "", threading.Lock()

    def write(self, text: str) -> int:
        with self.lock:
            *whole, self.line = (self.line + text).split("\n")
            for line in whole:
                self._show(plain(line))
            self.out.flush()
        return len(text)

    def end(self) -> None:
        """Passes on what has no end of line yet."""
        if self.line:
            self.write("\n")

    def _show(self, line: str) -> None:
        if task := STARTS.match(line):
            self.out.write(f"{task[2]}\n")
        elif not NOISE.match(line):
            self.out.write(DEEP.sub("    ", line) + "\n")


@contextlib.contextmanager
def calm() -> Iterator[None]:
    """Filters what KFP prints, and what it logs to the root logger, while a pipeline runs here.

    Afterwards puts back the root logger and `print`, which KFP exchanges in threads that race each other.
    """
    root, printing, out, error = logging.getLogger(), builtins.print, Calm(sys.stdout), Calm(sys.stderr)
    handlers, level = root.handlers[:], root.level
    for handler in handlers:
        handler.addFilter(_ours)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            yield
    finally:
        out.end()
        error.end()
        builtins.print = printing
        root.handlers[:] = handlers
        root.setLevel(level)
        for handler in handlers:
            handler.removeFilter(_ours)


def _ours(record: logging.LogRecord) -> bool:
    return record.name != "root" or record.levelno > logging.INFO
