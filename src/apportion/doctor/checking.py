"""One check: what it found, with the mend, within its seconds."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from apportion.config import masked
from apportion.errors import ApportionError

Result = Literal["ok", "warning", "failed", "skipped"]
log = logging.getLogger(__name__)

SECONDS = 30.0
"""A check may take so long."""


class Answer(NamedTuple):
    result: Result
    found: str
    mend: str = ""


@dataclass(frozen=True)
class Finding:
    """What a check found. `mend` says what to do; nothing where all is well."""

    check: str
    result: Result
    found: str
    mend: str = ""


class Known(Exception):
    """The answer is known before the end of a check."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.found)
        self.answer = answer


def ok(found: str) -> Answer:
    return Answer("ok", found)


def warning(found: str, mend: str) -> Answer:
    return Answer("warning", found, mend)


def failed(found: str, mend: str = "") -> Answer:
    return Answer("failed", found, mend)


def skipped(found: str, mend: str = "") -> Answer:
    return Answer("skipped", found, mend)


def passed_over(checks: Iterable[str], why: str) -> Iterator[Finding]:
    for check in checks:
        yield Finding(check, "skipped", why)


def attempt(check: str, act: Callable[[], Answer]) -> Finding:
    """The finding of `act`, whatever becomes of it, without users and passwords of addresses. One that does not return in time goes
    on, unheard, until the process ends."""
    answers: list[Answer] = []
    worker = threading.Thread(target=lambda: answers.append(_answer(act)), daemon=True)
    worker.start()
    worker.join(SECONDS)
    answer = answers[0] if answers else failed(f"no answer within {SECONDS:g} s", "see the network and the log of what was asked")
    return Finding(check, answer.result, masked(answer.found), masked(answer.mend))


def _answer(act: Callable[[], Answer]) -> Answer:
    try:
        return act()
    except Known as known:
        return known.answer
    except ApportionError as error:
        return failed(str(error))
    except Exception as error:  # a library's surprise in one check must not hide what the others find
        log.debug("a check ended otherwise than by its answer", exc_info=True)
        said = " ".join(masked(str(error)).partition("\n")[0].split())[:300]
        return failed(f"{type(error).__name__}: {said}", "this is not foreseen: report it")
