"""MLflow as a library: imported when it is first needed, quiet, and its errors in a few words."""

import logging
import os
import re
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from apportion.tracking.patience import make_patient

_QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
# Exceptions of the libraries that MLflow uses, which it does not convert to its own.
_LIBRARY_ERRORS = (
    ("sqlalchemy.exc", "SQLAlchemyError"),
    ("alembic.util", "CommandError"),
    ("boto3.exceptions", "Boto3Error"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("google.api_core.exceptions", "GoogleAPIError"),
    ("azure.core.exceptions", "AzureError"),
)


def prepare_mlflow() -> None:
    """Imports MLflow, switches off its own output (telemetry, links to runs, logs with whole tracebacks), and
    limits its retries."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        Path.home()
    except RuntimeError:
        # MLflow asks for the home folder when it is imported, and ends with a traceback where a user has
        # neither HOME nor an entry in /etc/passwd. Container runtimes set the same for such users.
        os.environ["HOME"] = "/"
    import mlflow  # noqa: F401  sets up its loggers

    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        logging.getLogger("mlflow").setLevel(logging.CRITICAL)
    make_patient()


@contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables until the end of the block; MLflow takes these settings from there only."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def errors() -> tuple[type[BaseException], ...]:
    """The exceptions that MLflow and the libraries it uses raise."""
    from mlflow.exceptions import MlflowException

    loaded = [(module, name) for module, name in _LIBRARY_ERRORS if module in sys.modules]
    of_libraries = (getattr(sys.modules[module], name) for module, name in loaded)
    return (MlflowException, OSError, ValueError, ImportError, sqlite3.Error, *of_libraries)


def reason(text: str) -> str:
    """The first line of an error; of a failed connection its cause, without what the libraries add."""
    line = " ".join(text.partition("\n")[0].split())
    cause = re.sub(r"^API request to \S+ failed with exception .*?\(Caused by (.*)\)$", r"\1", line)
    cause = re.sub(r"^ResponseError\('(.*)'\)$", r"\1", cause)
    return re.sub(r"HTTPS?Connection(Pool)?\([^)]*\): ", "", cause)[:600]
