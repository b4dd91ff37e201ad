"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 5.0

BARS = "APPORTION_PROGRESS_BARS"
"""A variable of the environment. If it is set, bars are drawn although standard error is no terminal: the
process that reads them shows them on one (`python -m pipelines run`)."""

Ticker = Callable[[int], None]
"""Called with the number of steps or images done since the last call, for a progress bar."""

_last = time.monotonic()
"""When anything of this process last advanced."""


def idle() -> float:
    """Seconds since anything of this process last advanced."""
    return time.monotonic() - _last


def bar(total: int, what: str, unit: str) -> "Progress":
    """The progress of `total` units, named `what`; use it in a with statement and call its `update`."""
    interactive = sys.stderr.isatty()
    return (Bar if interactive or os.environ.get(BARS) else Lines)(total, what, unit)


class Progress:
    """How many of `total` units are done. Nothing is shown where the total is 0."""

    def __init__(self, total: int, what: str, unit: str) -> None:
        self.total, self.what, self.unit, self.done = total, what, unit, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def update(self, units: int = 1) -> None:
        """Counts units that were done since the last call."""
        global _last
        _last = time.monotonic()
        self.done += units


class Bar(Progress):
    """A bar that is drawn again and again in its line."""

    def __init__(self, total: int, what: str, unit: str) -> None:
        super().__init__(total, what, unit)
        interactive = sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            desc=f"{what:<12}",
            unit=unit,
            disable=total == 0,
            mininterval=0.2 if interactive else SECONDS_BETWEEN_LINES,
            maxinterval=1.0 if interactive else SECONDS_BETWEEN_LINES,
            ncols=100,
            bar_format="{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} {unit} [{elapsed}<{remaining}]",
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def update(self, units: int = 1) -> None:
        super().update(units)
        self._bar.update(units)


class Lines(Progress):
    """A line at the start, one every few seconds, and one at the end. Each ends with a line feed: tools that
    collect the output of a container show nothing of a line before its end."""

    def __init__(self, total: int, what: str, unit: str) -> None:
        super().__init__(total, what, unit)
        self._start = time.monotonic()
        self._show("")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._show(f", after {in_words(time.monotonic() - self._start)}")

    def update(self, units: int = 1) -> None:
        super().update(units)
        now = time.monotonic()
        if now - self._shown >= SECONDS_BETWEEN_LINES and 0 < self.done < self.total:
            left = (now - self._start) / self.done * (self.total - self.done)
            self._show(f", {in_words(left)} left")

    def _show(self, more: str) -> None:
        self._shown = time.monotonic()
        if self.total:
            plural = "" if self.total == 1 else "s"
            share = f"{int(100 * self.done / self.total)} %"
            print(  # noqa: T201
                f"{self.what}: {self.done}/{self.total} {self.unit}{plural}, {share}{more}",
                file=sys.stderr,
                flush=True,
            )


_UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"))


def in_words(seconds: float) -> str:
    """Seconds in words, in the largest unit of which there are at least two: "90 seconds", "10 minutes"."""
    size, unit = next(((size, unit) for size, unit in _UNITS if seconds >= 2 * size), (1, "second"))
    count = round(seconds / size)
    return f"{count} {unit}{'' if count == 1 else 's'}"
