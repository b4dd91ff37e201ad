"""How long to wait for a server that is slow or busy: MLflow's own retries, with a limit in time, the pauses
that the server asks for (Retry-After), and a message for each."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, NamedTuple, Self

from urllib3.connectionpool import ConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    InvalidHeader,
    MaxRetryError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    ReadTimeoutError,
    ResponseError,
)
from urllib3.response import BaseHTTPResponse
from urllib3.util import Retry

log = logging.getLogger(__name__)


class _Limit(NamedTuple):
    """deadline: by `time.monotonic`. connecting: whether to retry where no connection can be made."""

    deadline: float
    connecting: bool


_NONE = _Limit(math.inf, connecting=True)
_limit: ContextVar[_Limit] = ContextVar("limit", default=_NONE)


@contextmanager
def patience(seconds: float, *, connecting: bool = True) -> Iterator[None]:
    """No retry begins later than so many seconds from now, until the end of the block; a limit of an outer
    block that ends earlier stays.

    connecting: whether to retry where no connection can be made, which a wrong address does not mend.
    """
    outer = _limit.get()
    inner = _Limit(min(outer.deadline, time.monotonic() + seconds), connecting and outer.connecting)
    token = _limit.set(inner)
    try:
        yield
    finally:
        _limit.reset(token)


class PatientRetry(Retry):
    """Retries of one request. Raises MaxRetryError where the next would begin after the limit, and for errors
    that a retry does not mend, such as a certificate that is not trusted."""

    _pause = 0.0

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: BaseHTTPResponse | None = None,
        error: Exception | None = None,
        _pool: ConnectionPool | None = None,
        _stacktrace: TracebackType | None = None,
    ) -> Self:
        if error is not None and not _may_pass(error):
            raise MaxRetryError(_pool, url, error) from error  # type: ignore[arg-type]
        following = super().increment(method, url, response, error, _pool, _stacktrace)
        asked = self._asked(response)
        following._pause = asked or following.get_backoff_time()
        if time.monotonic() + following._pause > _limit.get().deadline:
            raise MaxRetryError(_pool, url, error or _given_up(response, asked))  # type: ignore[arg-type]
        what = "does not answer" if response is None else f"answered {response.status}"
        when = f" in {math.ceil(following._pause)} s" if following._pause else ""
        log.warning("MLflow %s, trying again%s", what, when)
        return following

    def sleep(self, response: BaseHTTPResponse | None = None) -> None:  # noqa: ARG002
        time.sleep(self._pause)

    def _asked(self, response: BaseHTTPResponse | None) -> float:
        """The pause in seconds that the server asks for, or 0."""
        if response is None or not self.respect_retry_after_header:
            return 0
        try:
            return self.get_retry_after(response) or 0
        except InvalidHeader:
            return 0


def make_patient() -> None:
    """MLflow's requests use PatientRetry from now on. MLflow has no setting for it, as its retries know no
    limit in time."""
    from mlflow.utils import request_utils

    module: Any = request_utils
    if module.Retry is not PatientRetry:
        module.Retry = PatientRetry
        module._cached_get_request_session.cache_clear()


def _may_pass(error: Exception) -> bool:
    """Whether the request may succeed if it is sent again."""
    if isinstance(error, NewConnectionError | ConnectTimeoutError | ProxyError):
        return _limit.get().connecting
    return isinstance(error, ReadTimeoutError | ProtocolError)


def _given_up(response: BaseHTTPResponse | None, asked: float) -> ResponseError:
    status = "" if response is None else f" {response.status}"
    pause = f", and asks for {math.ceil(asked)} s of pause (Retry-After)" if asked else ""
    return ResponseError(f"the server is busy: it still answers{status}{pause}")
