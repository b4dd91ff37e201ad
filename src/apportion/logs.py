"""What a process says while it works and how it ends: plain lines, silence from libraries that chatter, one clear message."""

import atexit
import gc
import logging
import sys
import warnings
from argparse import ArgumentParser
from collections.abc import Sequence
from types import TracebackType

from apportion.errors import ApportionError

CHATTER = ("alembic", "mlflow", "botocore", "urllib3", "diffusers")


def to_terminal() -> None:
    """Sends our own messages to standard error, quiets the libraries below warnings, and shortens errors raised on purpose."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    for name in CHATTER:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("urllib3", "botocore.credentials"):
        logging.getLogger(name).setLevel(logging.ERROR)  # neither every retry nor a trace: how the call ends is said by us
    warnings.filterwarnings("ignore", category=FutureWarning)
    sys.excepthook = plainly
    atexit.register(gc.freeze)  # or a process that ends spends a second in looking for cycles among the modules that end with it


def run_command(parser: ArgumentParser, arguments: Sequence[str] | None) -> int:
    """Does what the arguments ask for, `act` of what the parser makes of them: 0, or 1 with the message where it cannot be done."""
    to_terminal()
    told = parser.parse_args(arguments)
    try:
        told.act(told)
    except ApportionError as error:
        plainly(type(error), error, None)
        return 1
    return 0


def plainly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """How a process ends by an error: one raised on purpose says all in its message, any other shows where it came from."""
    if issubclass(kind, ApportionError):
        logging.getLogger("apportion").error("apportion: %s", error)
    else:
        sys.__excepthook__(kind, error, trace)
