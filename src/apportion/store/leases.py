"""Leases: processes that work on the same round at the same time divide its computations among themselves.

A process that is about to make an object writes `leases/<key>`, renews it while it works, and removes it at
the end. Another process makes something else in the meantime.

A lease decides nothing: what is stored is decided by the conditional write of the object alone. Where leases
fail, objects are made twice, as without them. No process waits for one that has died: its lease is taken over
at once where its death can be seen, else once the lease has not changed for `EXPIRY`. That time is measured
by the clock of the process that waits, so clocks of different machines need not agree. A process that hangs
stops renewing (`STALLED`).
"""

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from apportion import progress
from apportion.errors import Conflict, StoreError
from apportion.store.contract import Store

log = logging.getLogger(__name__)

EXPIRY = 60.0
"""Seconds after which a lease that has not changed is taken over."""

RENEWAL = 15.0
"""Seconds between two renewals of a lease."""

STALLED = 900.0
"""Seconds without progress after which a process no longer renews its lease."""

PAUSES = (0.05, 3.0)
"""Seconds between two looks at what others are making: at first, and at most."""

PREFIX = "leases/"

_held: set[str] = set()
"""The tokens of the leases that this process holds."""


def in_turn(store: Store, keys: Iterable[str], stop: Callable[[], bool] = lambda: False) -> Iterator[str]:
    """Yields each key once, when it is this process's turn to make the object, or when the object is there;
    what other processes are making comes last. Ends early once `stop` is true.

    To be used as `for key in in_turn(store, keys): store.ensure(key, …)`. The lease ends with the body of the
    loop.
    """
    others: dict[str, _Sight] = {}
    for key in keys:
        if stop():
            return
        lease = _take(store, key, others)
        if lease is not None:
            others.pop(key, None)
            with lease:
                yield key
    said = False
    pause, longest = PAUSES
    while others:
        before = len(others)
        for key in list(others):
            if stop():
                return
            lease = nullcontext() if store.exists(key) else _take(store, key, others)
            if lease is not None:
                others.pop(key, None)
                with lease:
                    yield key
        if len(others) == before:
            if pause == longest and not said:
                log.info("waiting for what other processes are making: %s", ", ".join(others))
                said = True
            time.sleep(pause)
            pause = min(1.5 * pause, longest)


def ensure(store: Store, key: str, make: Callable[[], bytes]) -> bool:
    """As `Store.ensure`, with a lease; waits where another process is making the object."""
    made = False
    for _ in in_turn(store, [key]):
        made = store.ensure(key, make)
    return made


def lease_key(key: str) -> str:
    """Where the lease of an object is."""
    return PREFIX + key.replace("/", "-")


@dataclass(frozen=True)
class _Sight:
    """The content of a lease of another process (None: no lease), and since when it is that."""

    data: bytes | None
    since: float


def _take(store: Store, key: str, others: dict[str, _Sight]) -> AbstractContextManager[object] | None:
    """The lease of an object; None where another process has it, which is then noted in `others`. Where
    leases do not work, what is returned is no lease."""
    name = lease_key(key)
    try:
        return _Lease(store, name, None)
    except Conflict:
        pass
    except StoreError:
        return nullcontext()
    now = time.monotonic()
    try:
        found = store.read_pointer(name)
        data = None if found is None else found.data
        if key not in others or others[key].data != data:
            others[key] = _Sight(data, now)
        unchanged = now - others[key].since
        if found is not None and (unchanged > EXPIRY or _is_of_the_dead(found.data)):
            with suppress(Conflict):
                return _Lease(store, name, found.tag)
    except StoreError:
        return nullcontext()
    # A server that neither accepts a new lease nor shows or changes the old one must not stop the round.
    return nullcontext() if unchanged > 2 * EXPIRY else None


class _Lease:
    """A lease of this process, which is renewed until the end of the block. Raises Conflict where another
    process has it, StoreError where the store does not take it."""

    def __init__(self, store: Store, name: str, expected: str | None) -> None:
        self._store, self._name, self._renewals = store, name, 0
        self._token, self._done = secrets.token_hex(8), threading.Event()
        self._start = self._renewed = time.monotonic()
        self._tag = store.swap(name, expected, self._content())

    def __enter__(self) -> Self:
        _held.add(self._token)
        threading.Thread(target=self._renew, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        _held.discard(self._token)
        if time.monotonic() - self._renewed < EXPIRY:  # otherwise it may be another process's by now
            with suppress(StoreError):
                self._store._remove(self._name)

    def _renew(self) -> None:
        while not self._done.wait(RENEWAL):
            now = time.monotonic()
            if min(progress.idle(), now - self._start) > STALLED:
                return
            self._renewals += 1
            try:
                self._tag = self._store.swap(self._name, self._tag, self._content())
            except Conflict:
                return  # it was taken over, or has just been removed
            except StoreError:
                continue  # perhaps the server can be reached again the next time
            self._renewed = now

    def _content(self) -> bytes:
        """Differs at each renewal: others see by it that this process lives."""
        content = {
            "machine": _machine(),
            "pid": os.getpid(),
            "token": self._token,
            "renewals": self._renewals,
        }
        return (json.dumps(content) + "\n").encode()


def _machine() -> str:
    """The machine, or the container, in which the process ids of this process are valid."""
    try:
        return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return socket.gethostname()


def _is_of_the_dead(data: bytes) -> bool:
    """Whether a lease is known to be of a process that has ended. Nothing is known of one of another machine,
    nor of what is no lease."""
    try:
        content = json.loads(data)
        machine, pid, token = content["machine"], int(content["pid"]), content["token"]
    except (ValueError, KeyError, TypeError):
        return False
    if machine != _machine() or pid <= 0:
        return False
    if pid == os.getpid():  # an earlier process may have had this number, as in a container that is restarted
        return token not in _held
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False
