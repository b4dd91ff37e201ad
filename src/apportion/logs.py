"""What a process says while it works: plain lines, and silence from libraries that chatter."""

import logging
import sys
import warnings
from types import TracebackType

CHATTER = ("alembic", "mlflow", "botocore", "urllib3", "diffusers")


def to_terminal() -> None:
    """Sends our own messages to standard error, quiets the libraries below warnings, and shortens errors raised on purpose."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    for name in CHATTER:
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning)
    sys.excepthook = plainly


def plainly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """How a process ends by an error: one raised on purpose says all in its message, any other shows where it came from."""
    if kind.__module__ == "apportion.errors":
        logging.getLogger("apportion").error("apportion: %s", error)
    else:
        sys.__excepthook__(kind, error, trace)
