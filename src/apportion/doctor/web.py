"""One HTTP request with a short timeout that follows no redirects.

Certificates are trusted as KFP's client trusts them (SSL_CERT_FILE).
"""

import os
import ssl
from collections.abc import Mapping
from email.message import Message
from http.client import HTTPException
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

import certifi

from apportion.doctor.checking import EarlyAnswer, failed

REQUEST_SECONDS = 8.0
"""The timeout of connecting and of each read."""
ANSWER_BYTES = 1_000_000
"""Bytes of a body that are read at most."""


class Reply(NamedTuple):
    status: int
    headers: Message
    body: bytes


class _NoRedirects(HTTPRedirectHandler):
    """Returns a redirect as the reply: it usually leads to a login page, which is no answer."""

    def redirect_request(self, *_: Any) -> None:
        return None


def send(url: str, headers: Mapping[str, str], option: str, method: str = "GET") -> Reply:
    """The reply, of any status.

    Raises EarlyAnswer where there is none, with the reason, and with `option` as the option to check.
    """
    request = Request(url, headers=dict(headers), method=method)  # noqa: S310 (an address of the configuration, http or https)
    host = f"{request.type}://{request.host}"
    try:
        trust = ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or certifi.where())
        opener = build_opener(_NoRedirects, HTTPSHandler(context=trust))
        with opener.open(request, timeout=REQUEST_SECONDS) as reply:
            return Reply(reply.status, reply.headers, reply.read(ANSWER_BYTES))
    except HTTPError as error:
        return Reply(error.code, error.headers, error.read(ANSWER_BYTES))
    except (URLError, HTTPException, OSError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        fix = f"check {option}, and what the network and its policies allow"
        if isinstance(
            reason, ssl.SSLError | FileNotFoundError
        ):  # FileNotFoundError: the file of the authority
            fix = (
                "name the file of the certificate authority in SSL_CERT_FILE, and check that https is right "
                f"in {option}"
            )
        message = f"no answer from {host}: {reason or type(reason).__name__}"
        raise EarlyAnswer(failed(message, fix)) from error
