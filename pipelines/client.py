"""A connection to Kubeflow Pipelines (KFP) whose every failure is one clear message: who was asked for what, and what to do."""

import contextlib
import io
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from html import unescape
from typing import Any, TypeVar

import kfp
import kfp_server_api
import urllib3
from kfp.client import ServiceAccountTokenVolumeCredentials

from apportion import kubeflow
from apportion.config import Kfp, masked
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
    """KFP's own client, but for what it does when it is made: it goes the way of the environment's proxy, looks for KFP once, not five
    times with a traceback each, and neither reads nor writes the user's ~/.config/kfp/context.json, a namespace and cookies of whichever
    server was spoken to last."""

    def _load_config(self, *told: Any) -> kfp_server_api.Configuration:
        config = super()._load_config(*told)
        if proxy := kubeflow.proxy(config.host):
            config.proxy, config.proxy_headers = proxy
        return config

    def _load_context_setting_or_default(self) -> None:
        self._context_setting = {"namespace": ""}

    def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:  # noqa: ARG002 (the name is KFP's)
        api = self._healthz_api.api_client
        if not hasattr(api, "bounded"):  # the first request of all
            _bound(api)
        return self._healthz_api.healthz_service_get_healthz()

    def set_user_namespace(self, namespace: str) -> None:
        self._context_setting["namespace"] = namespace


def _bound(api: Any) -> None:
    """No request of this client waits for ever, is repeated unasked, or follows a redirection to where one logs in; no answer is taken
    for KFP's that is not."""
    pool = api.rest_client.pool_manager
    send, read, api.bounded = pool.request, api.deserialize, True

    def request(method: str, url: str, **told: Any) -> Any:
        told |= {"timeout": TIMEOUT, "retries": False, "redirect": False}
        try:
            answer = _in_time(lambda: send(method, url, **told))
        except TimeoutError as error:
            raise urllib3.exceptions.ReadTimeoutError(pool, url, "the answer does not end") from error
        except urllib3.exceptions.SSLError as error:  # which kfp_server_api would fail to report
            mend = "name the file of its certificate authority in SSL_CERT_FILE, and see that https is right in cluster.kfp.host"
            raise Unusable(f"{error}; {mend}") from error
        if 300 <= answer.status < 400:
            place = re.split("[?#;]", answer.headers.get("Location", "nowhere"))[0]  # what follows may open something
            raise Unusable(f"found a redirection to {masked(place)}, {EXPECTED}")
        if answer.status < 300 and not _is_json(answer.data):
            page = b"<html" in answer.data[:2000].lower()
            raise Unusable(f"found {'a web page' if page else 'what is no JSON' if answer.data else 'an empty answer'}, {EXPECTED}")
        answer.headers["Content-Type"] = "application/json"  # which is UTF-8, whatever else it says
        return answer

    def deserialize(answer: Any, kind: str) -> Any:
        if wrong := next(_wrong(json.loads(answer.data), kind), None):
            raise Unusable(f"found an answer {wrong}, {EXPECTED}")
        try:
            return read(answer, kind)
        except (kfp_server_api.OpenApiException, ValueError, OverflowError) as error:  # of what is no date
            raise Unusable(f"found an answer that cannot be read, {EXPECTED}") from error

    pool.request, api.deserialize = request, deserialize


def _in_time(call: Callable[[], T]) -> T:
    """What `call` returns, or TimeoutError: the limit of urllib3 is for each read alone, and a server may send byte after byte for ever."""
    done: Future[T] = Future()

    def work() -> None:
        try:
            done.set_result(call())
        except Exception as error:  # noqa: BLE001 (raised where the answer is waited for)
            done.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return done.result(1.1 * TIMEOUT)  # a little longer than urllib3, which knows why


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


PRIMITIVE: dict[str, Any] = {"str": str | int, "int": int | str, "bool": bool, "datetime": str}
"""How a kind of kfp_server_api may be in JSON: protobuf tells long numbers as text."""

TOLD = {
    "V2beta1GetHealthzResponse": "multi_user",
    "V2beta1Pipeline": "pipeline_id",
    "V2beta1PipelineVersion": "pipeline_version_id",
    "V2beta1Experiment": "experiment_id",
    "V2beta1Run": "run_id",
    "V2beta1RecurringRun": "recurring_run_id",
}
"""What KFP always tells of a kind."""


def _wrong(value: Any, kind: str, field: str = "") -> Iterator[str]:
    """Why JSON is not of a kind of kfp_server_api, which itself takes nearly anything for an object without fields."""
    model = getattr(kfp_server_api, kind, None)
    fields = {model.attribute_map[own]: inner for own, inner in model.openapi_types.items()} if model else {}
    shape = list if kind.startswith("list[") else dict if fields or kind.startswith("dict(") else str if model else object
    if not isinstance(value, PRIMITIVE.get(kind, shape)):
        yield f"{f'whose {field} is' if field else 'that is'} no {'object' if shape is dict else 'list' if shape is list else kind}"
    elif shape is list:
        for item in value:
            yield from _wrong(item, kind[5:-1], field)
    elif fields:
        if kind in TOLD and value.get(TOLD[kind]) in (None, ""):
            yield f"without {TOLD[kind]}"
        for name, inner in fields.items():
            if value.get(name) is not None:
                yield from _wrong(value[name], inner, name)


class Connection:
    """KFP at one host, in one namespace where it has several users. `ask` does all the talking."""

    def __init__(self, told: Kfp) -> None:
        self.host, self.token = _host(told), kubeflow.token()
        self.namespace: str | None = None
        through = kubeflow.proxy(self.host)
        self.where = f"KFP at {self.host}" + (f" through the proxy {through.address}" if through else "")
        authority = os.environ.get("SSL_CERT_FILE")
        if authority and self.host.startswith("https:"):
            kubeflow.read(authority, "SSL_CERT_FILE")
        make = _shown(self.token) | {"host": self.host, "ssl_ca_cert": authority or None}
        self.client: Client = self.ask("connect", lambda: Client(**make))
        many = self.ask("connect", self.client.get_kfp_healthz).multi_user
        self.namespace = (told.namespace or self.client.get_user_namespace().strip()) if many else None
        if many and not self.namespace:
            raise ConfigError(f"KFP at {self.host} has several users, expected the namespace of one (cluster.kfp.namespace)")

    def ask(self, doing: str, call: Callable[[], T]) -> T:
        """What `call` returns. It is tried again where KFP may do better the next time, so it looks for what it is about to make.

        Raises ClusterError, which says what could not be done (`doing`), why, and what to change.
        """

        def cannot(why: str) -> ClusterError:
            return ClusterError(f"cannot {doing} ({self.where}): {self.hidden(why)}")

        for pause in (*PAUSES, None):
            try:
                with _silence():
                    return call()
            except kfp_server_api.ApiException as error:
                if error.status not in PASSING or pause is None:
                    raise cannot(self._refusal(error)) from error
                log.info("cannot %s yet (%s answers HTTP %s): again in %g s", doing, self.where, error.status, pause)
            except urllib3.exceptions.HTTPError as error:
                if pause is None or not isinstance(error, urllib3.exceptions.ReadTimeoutError | urllib3.exceptions.ProtocolError):
                    raise cannot(_unreached(error)) from error
                log.info("cannot %s yet (%s does not answer): again in %g s", doing, self.where, pause)
            except Unusable as error:
                raise cannot(str(error)) from error
            except UnicodeDecodeError as error:  # kfp_server_api's, of a refusal
                raise cannot(f"found no text, {EXPECTED}") from error
            except OSError as error:
                raise cannot(f"{error}; {self.token.mend}") from error
            time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def hidden(self, said: str) -> str:
        """What a server says, without the token: some tell it to whoever sent it."""
        return masked(said.replace(self.token.text, "***") if self.token.text else said)

    def _refusal(self, error: kfp_server_api.ApiException) -> str:
        said = _message(error.body) or " ".join(str(error.reason).split())
        where = f" in namespace {self.namespace}" if self.namespace else ""
        mend = {
            401: f"the token is missing, wrong or past its time; {self.token.mend}",
            403: f"the account of the token may not{where}; give it the role, or use another (cluster.kfp.namespace, KFP_TOKEN)",
            404: "there is no such thing, or no KFP there; see cluster.kfp.host",
            409: "it exists already, made by somebody else",
        }.get(error.status, "see the log of its API server, and run the same command again" if error.status >= 500 else "")
        return f"HTTP {error.status}: {said}" + (f"; {mend}" if mend else "")


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """KFP's client prints addresses of pages, and logs as nobody in particular what it does and what it does not find."""
    logging.root.addFilter(_nothing)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.root.removeFilter(_nothing)


def _nothing(record: logging.LogRecord) -> bool:  # noqa: ARG001 (whatever it is: loggers with names have filters of their own)
    return False


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
    except (ValueError, RecursionError):
        told = unescape(re.sub(r"<(style|script).*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL | re.IGNORECASE))
    if isinstance(told, dict):
        told = told.get("error_message") or told.get("message") or told.get("error") or ""
    return " ".join(str(told).split())[:300]


def _unreached(error: urllib3.exceptions.HTTPError) -> str:
    """Why there was no answer. Some are kinds of those after them."""
    kinds: Iterable[tuple[type[Exception], str]] = (
        (urllib3.exceptions.ProxyError, "the proxy leads nowhere; see HTTP_PROXY and HTTPS_PROXY, and name in NO_PROXY what needs none"),
        (urllib3.exceptions.NameResolutionError, "its name is not known here; see cluster.kfp.host"),
        (urllib3.exceptions.NewConnectionError, "the connection was refused; see cluster.kfp.host, and that its API server runs"),
        (urllib3.exceptions.ConnectTimeoutError, "no connection in time; see cluster.kfp.host, and what network policies allow"),
        (urllib3.exceptions.ReadTimeoutError, f"no answer within {TIMEOUT:g} s; see the log of its API server"),
        (urllib3.exceptions.ProtocolError, "the connection broke; see cluster.kfp.host, and that http or https is right"),
    )
    return next((text for kind, text in kinds if isinstance(error, kind)), f"{type(error).__name__}; see cluster.kfp.host")
