"""A connection to Kubeflow Pipelines (KFP). Each failure is one message: what was requested from which
server, what went wrong, and what to change."""

import contextlib
import io
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from html import unescape
from typing import Any, TypeVar

import kfp
import kfp_server_api
import urllib3
from kfp.client import ServiceAccountTokenVolumeCredentials

from apportion import kubeflow
from apportion.config.cluster import Kfp
from apportion.config.credentials import masked
from apportion.errors import ClusterError, ConfigError
from apportion.kubeflow import Token

T = TypeVar("T")
log = logging.getLogger(__name__)

TIMEOUT = 60.0
"""Seconds to wait for one answer."""

PAUSES = (1.0, 3.0, 9.0)
"""Seconds before each retry of a request."""

RETRIED = (409, 429, 500, 502, 503, 504)
"""HTTP statuses after which a request is sent again. 409: another process has just created the same object,
and the next attempt finds it."""

EXPECTED = (
    "expected KFP's API: cluster.kfp.host is not its address, or it needs a login (KFP_TOKEN or "
    "KFP_TOKEN_FILE)"
)


class Unusable(Exception):
    """The answer of a server that is not KFP's API or cannot be trusted."""


class Client(kfp.Client):  # type: ignore[misc] # kfp has no annotations
    """KFP's own client with three changes to what its constructor does.

    It uses the proxy of the environment. It looks for KFP once, where the original tries five times and
    prints a traceback each time. It neither reads nor writes the user's ~/.config/kfp/context.json, where the
    original keeps the namespace and the cookies of the last server.
    """

    def _load_config(self, *arguments: Any) -> kfp_server_api.Configuration:
        config = super()._load_config(*arguments)
        if proxy := kubeflow.proxy(config.host):
            config.proxy, config.proxy_headers = proxy
        return config

    def _load_context_setting_or_default(self) -> None:
        self._context_setting = {"namespace": ""}

    def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:  # noqa: ARG002 (the name is KFP's)
        api = self._healthz_api.api_client
        if not hasattr(api, "guarded"):  # before the first request of this client
            _guard(api)
        return self._healthz_api.healthz_service_get_healthz()

    def set_user_namespace(self, namespace: str) -> None:
        self._context_setting["namespace"] = namespace


def _guard(api: Any) -> None:
    """Changes a client of kfp_server_api: every request has a time limit, and is neither retried nor
    redirected (a redirection leads to a login page). Answers that are not KFP's are refused."""
    pool = api.rest_client.pool_manager
    send, read = pool.request, api.deserialize
    api.guarded = True

    def request(method: str, url: str, **options: Any) -> Any:
        options |= {"timeout": TIMEOUT, "retries": False, "redirect": False}
        try:
            answer = _in_time(lambda: send(method, url, **options))
        except TimeoutError as error:
            raise urllib3.exceptions.ReadTimeoutError(pool, url, "the answer does not end") from error
        except urllib3.exceptions.SSLError as error:  # kfp_server_api fails on this error
            raise Unusable(
                f"{error}; set SSL_CERT_FILE to the file of its certificate authority, and check that https "
                "is right in cluster.kfp.host"
            ) from error
        if 300 <= answer.status < 400:
            # The query, parameters and fragment of the address may contain credentials.
            place = re.split("[?#;]", answer.headers.get("Location", "nowhere"))[0]
            raise Unusable(f"found a redirection to {masked(place)}, {EXPECTED}")
        if answer.status < 300 and not _is_json(answer.data):
            if not answer.data:
                content = "an empty answer"
            elif b"<html" in answer.data[:2000].lower():
                content = "a web page"
            else:
                content = "an answer that is not JSON"
            raise Unusable(f"found {content}, {EXPECTED}")
        # JSON is UTF-8, also where the header says otherwise.
        answer.headers["Content-Type"] = "application/json"
        return answer

    def deserialize(answer: Any, kind: str) -> Any:
        if mismatch := next(_mismatches(json.loads(answer.data), kind), None):
            raise Unusable(f"found an answer {mismatch}, {EXPECTED}")
        try:
            return read(answer, kind)
        except (
            kfp_server_api.OpenApiException,
            ValueError,
            OverflowError,
        ) as error:  # as for a malformed date
            raise Unusable(f"found an answer that cannot be read, {EXPECTED}") from error

    pool.request, api.deserialize = request, deserialize


def _in_time(call: Callable[[], T]) -> T:
    """The result of `call`. Raises TimeoutError: the limit of urllib3 is for each read, and a server may send
    single bytes without end."""
    done: Future[T] = Future()

    def work() -> None:
        try:
            done.set_result(call())
        except Exception as error:  # noqa: BLE001 (raised where the result is waited for)
            done.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return done.result(1.1 * TIMEOUT)  # longer than urllib3's limit, whose error has more to say


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


PRIMITIVE: dict[str, Any] = {"str": str | int, "int": int | str, "bool": bool, "datetime": str}
"""The types that JSON may have for a primitive type of kfp_server_api: protobuf writes long numbers as
text."""

IDENTIFIERS = {
    "V2beta1GetHealthzResponse": "multi_user",
    "V2beta1Pipeline": "pipeline_id",
    "V2beta1PipelineVersion": "pipeline_version_id",
    "V2beta1Experiment": "experiment_id",
    "V2beta1Run": "run_id",
    "V2beta1RecurringRun": "recurring_run_id",
}
"""A field that KFP's answers of each type always have."""


def _mismatches(value: Any, kind: str, field: str = "") -> Iterator[str]:
    """How JSON differs from a type of kfp_server_api, which itself accepts nearly anything as an object
    without fields."""
    model = getattr(kfp_server_api, kind, None)
    fields = {model.attribute_map[own]: inner for own, inner in model.openapi_types.items()} if model else {}
    name = kind
    expected: Any
    if kind.startswith("list["):
        expected, name = list, "list"
    elif fields or kind.startswith("dict("):
        expected, name = dict, "object"
    elif model:  # an enumeration
        expected = str
    else:
        expected = PRIMITIVE.get(kind, object)
    if not isinstance(value, expected):
        yield f"{f'whose {field} is' if field else 'that is'} not of type {name}"
    elif expected is list:
        for item in value:
            yield from _mismatches(item, kind[len("list[") : -1], field)
    elif fields:
        if kind in IDENTIFIERS and value.get(IDENTIFIERS[kind]) in (None, ""):
            yield f"without {IDENTIFIERS[kind]}"
        for inner_field, inner in fields.items():
            if value.get(inner_field) is not None:
                yield from _mismatches(value[inner_field], inner, inner_field)


class Connection:
    """KFP at one host, and in one namespace where the server has several users. Every request goes through
    `attempt`.

    Raises ClusterError where the server cannot be reached, and ConfigError where an option is missing.
    """

    def __init__(self, options: Kfp) -> None:
        self.host = _host(options)
        self.token = kubeflow.token()
        self.namespace: str | None = None
        proxy = kubeflow.proxy(self.host)
        self.where = f"KFP at {self.host}" + (f" through the proxy {proxy.address}" if proxy else "")
        authority = os.environ.get("SSL_CERT_FILE")
        if authority and self.host.startswith("https:"):
            kubeflow.read(authority, "SSL_CERT_FILE")
        arguments = _credentials(self.token) | {"host": self.host, "ssl_ca_cert": authority or None}
        self.client: Client = self.attempt("connect", lambda: Client(**arguments))
        if self.attempt("connect", self.client.get_kfp_healthz).multi_user:
            self.namespace = options.namespace or self.client.get_user_namespace().strip()
            if not self.namespace:
                raise ConfigError(
                    f"found several users in KFP at {self.host}, expected the namespace of one of them "
                    "(cluster.kfp.namespace)"
                )

    def attempt(self, action: str, call: Callable[[], T]) -> T:
        """The result of `call`, which is called again where a retry may succeed: a call that creates an
        object first looks for it.

        Raises ClusterError, which says what could not be done (`action`), why, and what to change.
        """

        def cannot(why: str) -> ClusterError:
            return ClusterError(f"cannot {action} ({self.where}): {self.without_token(why)}")

        for pause in (*PAUSES, None):
            try:
                with _silence():
                    return call()
            except kfp_server_api.ApiException as error:
                if error.status not in RETRIED or pause is None:
                    raise cannot(self._refusal(error)) from error
                problem = f"answers HTTP {error.status}"
            except urllib3.exceptions.HTTPError as error:
                passing = urllib3.exceptions.ReadTimeoutError | urllib3.exceptions.ProtocolError
                if pause is None or not isinstance(error, passing):
                    raise cannot(_unreached(error)) from error
                problem = "does not answer"
            except Unusable as error:
                raise cannot(str(error)) from error
            except UnicodeDecodeError as error:  # kfp_server_api's, for the text of a refusal
                raise cannot(f"found an answer that is not text, {EXPECTED}") from error
            except OSError as error:
                raise cannot(f"{error}; {self.token.fix}") from error
            log.info("cannot %s yet (%s %s): next attempt in %g s", action, self.where, problem, pause)
            time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def without_token(self, text: str) -> str:
        """The text of a server without the token, which some servers repeat."""
        return masked(text.replace(self.token.text, "***") if self.token.text else text)

    def _refusal(self, error: kfp_server_api.ApiException) -> str:
        reason = _message(error.body) or " ".join(str(error.reason).split())
        where = f" in namespace {self.namespace}" if self.namespace else ""
        fixes = {
            401: f"the token is missing, wrong or expired; {self.token.fix}",
            403: f"the account of the token lacks a permission{where}; give it the role, or use another "
            "account or namespace (KFP_TOKEN, cluster.kfp.namespace)",
            404: "the object does not exist, or KFP is not at this address; check cluster.kfp.host",
            409: "it exists already: another process created it",
        }
        fix = fixes.get(error.status)
        if fix is None and error.status >= 500:
            fix = "see the log of its API server, and run the same command again"
        return f"HTTP {error.status}: {reason}" + (f"; {fix}" if fix else "")


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Hides what KFP's client prints (addresses of pages) and what it logs to the root logger."""
    logging.root.addFilter(_drop)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.root.removeFilter(_drop)


def _drop(record: logging.LogRecord) -> bool:  # noqa: ARG001 (all: the filter is on the root logger alone)
    return False


def _host(options: Kfp) -> str:
    host = kubeflow.address(options)
    if host is None:
        raise ConfigError(
            "found no address of Kubeflow Pipelines, expected one in cluster.kfp.host, such as "
            "https://kubeflow.example.com/pipeline"
        )
    return host


def _credentials(token: Token) -> dict[str, Any]:
    """The token as arguments of KFP's own client: as a file where there is one, so that the client reads it
    again for each request."""
    if token.path:
        return {"credentials": ServiceAccountTokenVolumeCredentials(token.path)}
    return {"existing_token": token.text} if token.text else {}


def _message(body: bytes | str | None) -> str:
    """The message of a refusal, on one line: from KFP's JSON, or the text of a web page."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else body or ""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        message = unescape(
            re.sub(r"<(style|script).*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL | re.IGNORECASE)
        )
    if isinstance(message, dict):
        message = message.get("error_message") or message.get("message") or message.get("error") or ""
    return " ".join(str(message).split())[:300]


def _unreached(error: urllib3.exceptions.HTTPError) -> str:
    """Why there was no answer."""
    exceptions = urllib3.exceptions
    reasons: list[tuple[type[Exception], str]] = [  # subclasses before their base classes
        (
            exceptions.ProxyError,
            "no connection through the proxy; check HTTP_PROXY and HTTPS_PROXY, and list hosts that need no "
            "proxy in NO_PROXY",
        ),
        (exceptions.NameResolutionError, "its host name cannot be resolved; check cluster.kfp.host"),
        (
            exceptions.NewConnectionError,
            "the connection was refused; check cluster.kfp.host, and that its API server is running",
        ),
        (
            exceptions.ConnectTimeoutError,
            "no connection in time; check cluster.kfp.host, and that network policies allow it",
        ),
        (exceptions.ReadTimeoutError, f"no answer within {TIMEOUT:g} s; see the log of its API server"),
        (
            exceptions.ProtocolError,
            "the connection broke; check cluster.kfp.host, and whether http or https is right",
        ),
    ]
    matches = (text for kind, text in reasons if isinstance(error, kind))
    return next(matches, f"{type(error).__name__}; check cluster.kfp.host")
