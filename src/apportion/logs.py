"""What a process prints while it works and how it ends: plain lines, fewer messages of libraries, one clear
error."""

import atexit
import gc
import logging
import sys
import warnings
from argparse import ArgumentParser
from collections.abc import Sequence
from types import TracebackType

from apportion.errors import ApportionError

VERBOSE_LIBRARIES = ("alembic", "mlflow", "botocore", "urllib3", "diffusers")


def to_terminal() -> None:
    """Sends messages to standard error, hides those of libraries below warnings, and shortens errors that are
    raised on purpose."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    for name in VERBOSE_LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("urllib3", "botocore.credentials"):
        logging.getLogger(name).setLevel(
            logging.ERROR
        )  # they warn of every retry; our error says how a call ended
    warnings.filterwarnings("ignore", category=FutureWarning)
    sys.excepthook = report
    # Without this, a process that ends spends a second on garbage collection of the modules that end with it.
    atexit.register(gc.freeze)


def run_command(parser: ArgumentParser, arguments: Sequence[str] | None) -> int:
    """Runs the command of the arguments (`act` of the parsed arguments) and returns its exit status: 0, or 1
    after an error that was raised on purpose."""
    to_terminal()
    parsed = parser.parse_args(arguments)
    try:
        parsed.act(parsed)
    except ApportionError as error:
        report(type(error), error, None)
        return 1
    return 0


def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Prints the error that a process ends with: of one raised on purpose the message, of any other the
    traceback."""
    if issubclass(kind, ApportionError):
        logging.getLogger("apportion").error("apportion: %s", error)
    else:
        sys.__excepthook__(kind, error, trace)
