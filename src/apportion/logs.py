"""What a process says while it works: plain lines, and silence from libraries that chatter."""

import logging
import warnings

CHATTER = ("alembic", "mlflow", "botocore", "urllib3", "diffusers")


def to_terminal() -> None:
    """Sends our own messages to standard error and quiets the libraries below warnings."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    for name in CHATTER:
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning)
