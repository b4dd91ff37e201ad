"""How a check runs: within a time limit, and with a result whatever happens in it."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from apportion.config.credentials import masked
from apportion.errors import ApportionError

Result = Literal["ok", "warning", "unknown", "failed", "skipped"]
log = logging.getLogger(__name__)

CHECK_SECONDS = 30.0
"""The time limit of a check."""


class Answer(NamedTuple):
    """The result of a check, and how to fix what is wrong; `fix` is empty where nothing is wrong."""

    result: Result
    message: str
    fix: str = ""


@dataclass(frozen=True)
class Finding:
    """The answer of a named check, without credentials."""

    check: str
    result: Result
    message: str
    fix: str = ""


class EarlyAnswer(Exception):
    """Ends a check with an answer, from any depth of its functions."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.message)
        self.answer = answer


def ok(message: str) -> Answer:
    return Answer("ok", message)


def warning(message: str, fix: str) -> Answer:
    return Answer("warning", message, fix)


def unknown(message: str, fix: str) -> Answer:
    """Nothing shows whether it is right: this is no failure."""
    return Answer("unknown", message, fix)


def failed(message: str, fix: str = "") -> Answer:
    return Answer("failed", message, fix)


def skipped(message: str, fix: str = "") -> Answer:
    return Answer("skipped", message, fix)


def skip_all(checks: Iterable[str], reason: str) -> Iterator[Finding]:
    """A finding for each of these checks, which do not run."""
    for check in checks:
        yield Finding(check, "skipped", reason)


def run_check(check: str, act: Callable[[], Answer]) -> Finding:
    """The finding of `act`, also where it raises or exceeds the time limit, without credentials.

    Where it exceeds the limit, it continues in its thread until the process ends, and its answer is ignored.
    """
    answers: list[Answer] = []
    worker = threading.Thread(target=lambda: answers.append(_answer(act)), daemon=True)
    worker.start()
    worker.join(CHECK_SECONDS)
    if answers:
        answer = answers[0]
    else:
        answer = failed(
            f"no answer within {CHECK_SECONDS:g} s", "check the network and the log of the server"
        )
    return Finding(check, answer.result, masked(answer.message), masked(answer.fix))


def _answer(act: Callable[[], Answer]) -> Answer:
    try:
        return act()
    except EarlyAnswer as early:
        return early.answer
    except ApportionError as error:
        return failed(str(error))
    except (
        Exception
    ) as error:  # an unexpected error of a library in one check must not hide the other findings
        log.debug("a check raised an unexpected error", exc_info=True)
        text = " ".join(masked(str(error)).partition("\n")[0].split())[:300]
        return failed(f"{type(error).__name__}: {text}", "this error is unexpected: report it")
