"""What a local run shows: our stages' own lines, and of KFP's only which task starts and what fails."""

import contextlib
import io
import logging
import re
import sys
from collections.abc import Iterator
from typing import TextIO

COLOUR = re.compile(r"\x1b\[\d+m")
STARTS = re.compile(r"Executing task '([a-z]+)(-\d+)?'")
NOISE = re.compile(
    r"""^\s*([{}\[\]"]|-+$|$)                                      # a task's inputs as JSON, rules, empty lines
    |KFP\ Executor|Wrote\ executor\ output|Streamed\ logs|workspace  # KFP's own housekeeping
    |finished\ with\ status\ SUCCESS|has\ no\ outputs|outputs:$|^\s*Output:\ |Running\ pipeline|Skipping\ conditional""",
    re.VERBOSE,
)


class Calm(io.TextIOBase):
    """A text stream that passes on, line by line, what a person wants to read."""

    def __init__(self, out: TextIO) -> None:
        self.out, self.line = out, ""

    def write(self, text: str) -> int:
        *whole, self.line = (self.line + text).split("\n")
        for line in whole:
            self._show(COLOUR.sub("", line))
        self.out.flush()
        return len(text)

    def _show(self, line: str) -> None:
        if task := STARTS.search(line):
            self.out.write(f"{task[1]}\n")
        elif not NOISE.search(line):
            self.out.write(f"{line}\n")


@contextlib.contextmanager
def calm() -> Iterator[None]:
    """Filters what KFP prints, and what it logs to the root logger, while a pipeline runs here."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(lambda record: record.name != "root" or record.levelno > logging.INFO)
    with contextlib.redirect_stdout(Calm(sys.stdout)), contextlib.redirect_stderr(Calm(sys.stderr)):
        yield
