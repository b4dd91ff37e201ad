"""What a local run shows: the lines of our stages, and, of KFP's own lines, only which task starts."""

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
TASK_START = re.compile(STAMP.replace("\\ ", " ") + r"Executing task '([a-z]+)(-\d+)?'$")
KFP_LINE = re.compile(
    r"^\s*(?:[{}\[\]]+,?$|\"\w+\":\ |-+$|$)"  # a task's inputs as JSON, rules, empty lines
    r"|^\s*(?:\[KFP\ Executor\ |Wrote\ executor\ output\ file\ |Output:\ )"  # inside a task, or about it
    rf"|{STAMP}(?:Streamed\ logs:$|Running\ pipeline:\ |Cleaned\ up\ workspace:\ )"
    rf"|{STAMP}Skipping\ (?:conditional\ )?task\ "
    rf"|{STAMP}Task\ '[\w-]+'\ (?:outputs:$|has\ no\ outputs$|finished\ with\ status\ [A-Z]+$)"
    rf"|{STAMP}Pipeline\ '[\w-]+'\ finished\ with\ status\ ",
    re.VERBOSE,
)
INDENT = re.compile(r"^(    )+")
"""KFP indents the lines of a task by four blanks, and by more where tasks run at the same time."""


def plain(text: str) -> str:
    """The text without colours."""
    return COLOUR.sub("", text)


class LineFilter(io.TextIOBase):
    """A text stream that passes on the lines of our stages, one by one, and drops those of KFP. Threads may
    share it."""

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.line = ""
        self.lock = threading.Lock()

    def write(self, text: str) -> int:
        with self.lock:
            *lines, self.line = (self.line + text).split("\n")
            for line in lines:
                self._show(plain(line))
            self.out.flush()
        return len(text)

    def end(self) -> None:
        """Passes on the last line, which may have no line break."""
        if self.line:
            self.write("\n")

    def _show(self, line: str) -> None:
        if task := TASK_START.match(line):
            self.out.write(f"{task[2]}\n")
        elif not KFP_LINE.match(line):
            self.out.write(INDENT.sub("    ", line) + "\n")


@contextlib.contextmanager
def without_kfp_lines() -> Iterator[None]:
    """Drops most of what KFP prints, and of what it logs to the root logger, while a pipeline runs here.

    At the end it restores the root logger and `print`: KFP replaces both in several threads, which may
    restore them in the wrong order.
    """
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    original_print = builtins.print
    out, error = LineFilter(sys.stdout), LineFilter(sys.stderr)
    for handler in handlers:
        handler.addFilter(_not_kfp)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            yield
    finally:
        out.end()
        error.end()
        builtins.print = original_print
        root.handlers[:] = handlers
        root.setLevel(level)
        for handler in handlers:
            handler.removeFilter(_not_kfp)


def _not_kfp(record: logging.LogRecord) -> bool:
    """KFP logs to the root logger; our modules log to loggers of their own."""
    return record.name != "root" or record.levelno > logging.INFO
