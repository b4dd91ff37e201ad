"""One HTTP request that follows no redirection and waits for seconds only; trust is as in KFP's client (SSL_CERT_FILE)."""

import os
import ssl
from collections.abc import Mapping
from email.message import Message
from http.client import HTTPException
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

import certifi

from apportion.doctor.checking import Known, failed

SECONDS = 8.0


class Reply(NamedTuple):
    status: int
    headers: Message
    body: bytes


class _Stay(HTTPRedirectHandler):
    """A page to log in at is no answer."""

    def redirect_request(self, *_: Any) -> None:
        return None


def ask(url: str, headers: Mapping[str, str], option: str, method: str = "GET") -> Reply:
    """The reply, of any status. Where there is none, what is known ends the check: why, and that `option` may be wrong."""
    request = Request(url, headers=dict(headers), method=method)  # noqa: S310 (an address of the configuration, http or https)
    host = f"{request.type}://{request.host}"
    try:
        trust = ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or certifi.where())
        with build_opener(_Stay, HTTPSHandler(context=trust)).open(request, timeout=SECONDS) as reply:
            return Reply(reply.status, reply.headers, reply.read(1_000_000))
    except HTTPError as error:
        return Reply(error.code, error.headers, error.read(1_000_000))
    except (URLError, HTTPException, OSError) as error:
        why = error.reason if isinstance(error, URLError) else error
        mend = f"see {option}, and what the network and its policies allow"
        if isinstance(why, ssl.SSLError | FileNotFoundError):  # FileNotFoundError: of the authority
            mend = f"name the file of the certificate authority in SSL_CERT_FILE, and see that https is right in {option}"
        raise Known(failed(f"no answer from {host}: {why or type(why).__name__}", mend)) from error
