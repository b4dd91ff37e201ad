"""Progress of long work: a bar on a terminal, a line every few seconds where output is captured."""

import sys
from collections.abc import Callable

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 5.0

Ticker = Callable[[int], None]
"""Called with the number of steps or images done since the last call, for a progress bar."""


def bar(total: int, what: str, unit: str) -> "tqdm[int]":
    """A progress bar of `total` units named `what`; use it in a with statement and call its `update`."""
    interactive = sys.stderr.isatty()
    return tqdm(
        total=total,
        desc=f"{what:<12}",
        unit=unit,
        disable=total == 0,
        mininterval=0.2 if interactive else SECONDS_BETWEEN_LINES,
        maxinterval=1.0 if interactive else SECONDS_BETWEEN_LINES,
        ncols=100,
        bar_format="{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} {unit} [{elapsed}<{remaining}]",
    )
