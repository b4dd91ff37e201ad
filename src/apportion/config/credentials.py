"""Credentials: none may be part of an address that is stored, and none may be shown in a message."""

import os
import re
from collections.abc import Iterable
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

CREDENTIALS = {
    "http": "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    "https": "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or another link of the AWS credential chain",
}
"""Where the credentials for an address belong, by the address's scheme."""

AWS_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
MLFLOW_CREDENTIALS = ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")

SECRET = re.compile(
    r"([?&;](?:user|pwd|[\w-]*(?:passw(?:or)?d|token|credential|sig(?:nature)?)|[\w-]*(?:secret|access_?key)[\w-]*)=)"
    r"[^&;\s'\"]*",
    re.IGNORECASE,
)
"""A parameter in an address's query that holds a user, a password or a signature."""


def without_credentials(address: str) -> str:
    """The address, or a ValueError where it holds a user or a password: a configuration is stored with its
    round, shown and tracked."""
    parts = urlsplit(address)
    if parts.scheme and ("@" in parts.netloc or SECRET.search(f"?{parts.query}")):
        place = CREDENTIALS.get(
            parts.scheme, "what the driver reads, such as PGUSER and PGPASSWORD for PostgreSQL"
        )
        raise ValueError(
            "found a user or a password in an address, expected none, because it is stored with the round; "
            f"use {place}"
        )
    return address


Address = Annotated[str, AfterValidator(without_credentials)]


def masked(text: str) -> str:
    """The text without users and passwords of addresses, without secrets in their queries, and without the
    credentials of the environment, which errors of libraries may quote."""
    for name in (*AWS_CREDENTIALS, *MLFLOW_CREDENTIALS, "KFP_TOKEN"):
        value = os.environ.get(name, "").strip()
        shortest = 16 if name.endswith(("_ID", "_USERNAME")) else 6
        # A plain word such as minio, mlflow or test is not secret, and messages use it for other things.
        if len(value) >= shortest and not re.fullmatch("[A-Za-z]{1,11}", value):
            text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", "***", text)
    return SECRET.sub(r"\1***", re.sub(r"://[^/\s]+@", "://***@", text))


def unsendable(names: Iterable[str]) -> str | None:
    """What is wrong with the first of these environment variables that HTTP cannot send as a header; None
    where all are fine. Such a credential is refused before a library shows it."""
    for name in names:
        # Usernames, passwords and secret keys are sent encoded or are not sent at all, so blanks and letters
        # of any script are fine in them.
        encoded = name.endswith(("USERNAME", "PASSWORD", "SECRET_ACCESS_KEY"))
        value = os.environ.get(name, "")
        surrounded = name.endswith("_KEY") and value != value.strip()
        if surrounded or not re.fullmatch(r"[^\x00-\x1f\x7f]*" if encoded else r"[\x21-\x7e]*", value):
            return (
                f"found a line break, a blank or another character that HTTP cannot send in {name}: a "
                "Secret made from `echo` ends in a line break; make it again with `echo -n` or `kubectl "
                f"create secret generic … --from-literal={name}=…`"
            )
    return None
