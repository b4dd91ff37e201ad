"""A connection to Kubeflow Pipelines (KFP) whose every failure is one clear message: who was asked for what, and what to do."""

import contextlib
import io
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterable
from html import unescape
from typing import Any, TypeVar

import kfp
import kfp_server_api
import urllib3
from kfp.client import ServiceAccountTokenVolumeCredentials

from apportion import kubeflow
from apportion.config import Kfp
from apportion.errors import ClusterError, ConfigError
from apportion.kubeflow import Token

T = TypeVar("T")
log = logging.getLogger(__name__)

TIMEOUT = 60.0
"""Seconds for one answer."""

PAUSES = (1.0, 3.0, 9.0)
"""Seconds before a request is tried again."""

PASSING = (409, 429, 500, 502, 503, 504)
"""Answers after which it is tried again. 409: somebody else made the same meanwhile, and it is found the next time."""


EXPECTED = "expected KFP's API; cluster.kfp.host is not its address, or one must log in there with KFP_TOKEN or KFP_TOKEN_FILE"


class Unusable(Exception):
    """Why what answers is not KFP's API, or is not to be trusted."""


class Client(kfp.Client):  # type: ignore[misc] # kfp has no annotations
    """KFP's own client, but for what it does when it is made: it looks for KFP once, not five times with a traceback each, and
    writes the namespace it finds nowhere."""

    def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:  # noqa: ARG002 (the name is KFP's)
        _bounded(self._healthz_api.api_client)
        return self._healthz_api.healthz_service_get_healthz()

    def set_user_namespace(self, namespace: str) -> None:
        self._context_setting["namespace"] = namespace


def _bounded(api: kfp_server_api.ApiClient) -> None:
    """No request of this client waits for ever, is repeated unasked, or follows a redirection to where one logs in."""
    pool = api.rest_client.pool_manager
    if not hasattr(pool, "bounded"):
        send, pool.bounded = pool.request, True

        def request(method: str, url: str, **told: Any) -> Any:
            try:
                answer = send(method, url, **(told | {"timeout": TIMEOUT, "retries": False, "redirect": False}))
            except urllib3.exceptions.SSLError as error:  # which kfp_server_api would fail to report
                mend = "name the file of its certificate authority in SSL_CERT_FILE, and see that https is right in cluster.kfp.host"
                raise Unusable(f"{error}; {mend}") from error
            if 300 <= answer.status < 400:
                raise Unusable(f"found a redirection to {answer.headers.get('Location', 'nowhere')}, {EXPECTED}")
            if answer.status < 300 and answer.data and not _is_json(answer.data):
                raise Unusable(f"found {'a web page' if b'<html' in answer.data[:2000].lower() else 'what is no JSON'}, {EXPECTED}")
            return answer

        pool.request = request


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except ValueError:
        return False
    return True


class Connection:
    """KFP at one host, in one namespace where it has several users. `ask` does all the talking."""

    def __init__(self, told: Kfp) -> None:
        self.host, self.token = _host(told), kubeflow.token()
        authority = os.environ.get("SSL_CERT_FILE")
        if authority and self.host.startswith("https:"):
            kubeflow.read(authority, "SSL_CERT_FILE")
        make = _shown(self.token) | {"host": self.host, "ssl_ca_cert": authority or None}
        self.client: Client = self.ask("connect", lambda: Client(**make))
        many = self.ask("connect", self.client.get_kfp_healthz).multi_user
        self.namespace: str | None = (told.namespace or self.client.get_user_namespace()) if many else None
        if many and not self.namespace:
            raise ConfigError(f"KFP at {self.host} has several users, expected the namespace of one (cluster.kfp.namespace)")

    def ask(self, doing: str, call: Callable[[], T]) -> T:
        """What `call` returns. It is tried again where KFP may do better the next time, so it looks for what it is about to make.

        Raises ClusterError, which says what could not be done (`doing`), why, and what to change.
        """
        for pause in (*PAUSES, None):
            try:
                with contextlib.redirect_stdout(io.StringIO()):  # the client prints addresses of pages
                    return call()
            except kfp_server_api.ApiException as error:
                if error.status not in PASSING or pause is None:
                    raise ClusterError(f"cannot {doing} (KFP at {self.host}): {self._refusal(error)}") from error
                log.info("cannot %s yet (KFP at %s answers HTTP %s): again in %g s", doing, self.host, error.status, pause)
            except urllib3.exceptions.HTTPError as error:
                if pause is None or not isinstance(error, urllib3.exceptions.ReadTimeoutError | urllib3.exceptions.ProtocolError):
                    raise ClusterError(f"cannot {doing} (KFP at {self.host}): {_unreached(error)}") from error
                log.info("cannot %s yet (KFP at %s does not answer): again in %g s", doing, self.host, pause)
            except Unusable as error:
                raise ClusterError(f"cannot {doing} (KFP at {self.host}): {error}") from error
            except UnicodeDecodeError as error:  # kfp_server_api's, of a refusal
                raise ClusterError(f"cannot {doing} (KFP at {self.host}): found no text, {EXPECTED}") from error
            except OSError as error:
                raise ClusterError(f"cannot {doing} (KFP at {self.host}): {error}; {self.token.mend}") from error
            time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _refusal(self, error: kfp_server_api.ApiException) -> str:
        said = _message(error.body) or " ".join(str(error.reason).split())
        where = f" in namespace {self.namespace}" if getattr(self, "namespace", None) else ""
        mend = {
            401: f"the token is missing, wrong or past its time; {self.token.mend}",
            403: f"the account of the token may not{where}; give it the role, or use another (cluster.kfp.namespace, KFP_TOKEN)",
            404: "there is no such thing, or no KFP there; see cluster.kfp.host",
            409: "it exists already, made by somebody else",
        }.get(error.status, "see the log of its API server, and run the same command again" if error.status >= 500 else "")
        return f"HTTP {error.status}: {said}" + (f"; {mend}" if mend else "")


def _host(told: Kfp) -> str:
    host = kubeflow.address(told)
    if host is None:
        raise ConfigError(
            "found no address of Kubeflow Pipelines, expected one in cluster.kfp.host, as https://kubeflow.example.com/pipeline"
        )
    return host


def _shown(token: Token) -> dict[str, Any]:
    """What KFP's own client is told of it: a file rather than its text, so that it reads it anew."""
    if token.path:
        return {"credentials": ServiceAccountTokenVolumeCredentials(token.path)}
    return {"existing_token": token.text} if token.text else {}


def _message(body: bytes | str | None) -> str:
    """What the server says, on one line: the message of KFP's JSON, or the text of a page."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else body or ""
    try:
        told = json.loads(text)
    except ValueError:
        told = unescape(re.sub(r"<(style|script).*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL | re.IGNORECASE))
    if isinstance(told, dict):
        told = told.get("error_message") or told.get("message") or told.get("error") or ""
    return " ".join(str(told).split())[:300]


def _unreached(error: urllib3.exceptions.HTTPError) -> str:
    """Why there was no answer. The first two are kinds of those after them."""
    kinds: Iterable[tuple[type[Exception], str]] = (
        (urllib3.exceptions.NameResolutionError, "its name is not known here; see cluster.kfp.host"),
        (urllib3.exceptions.NewConnectionError, "the connection was refused; see cluster.kfp.host, and that its API server runs"),
        (urllib3.exceptions.ConnectTimeoutError, "no connection in time; see cluster.kfp.host, and what network policies allow"),
        (urllib3.exceptions.ReadTimeoutError, f"no answer within {TIMEOUT:g} s; see the log of its API server"),
        (urllib3.exceptions.ProtocolError, "the connection broke; see cluster.kfp.host, and that http or https is right"),
    )
    return next((text for kind, text in kinds if isinstance(error, kind)), f"{type(error).__name__}; see cluster.kfp.host")
