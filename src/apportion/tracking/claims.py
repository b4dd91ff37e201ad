"""Which MLflow run is the one of a round, where several processes publish it at once: a pointer in the
round's folder of the store, which only one of them can move.

MLflow has nothing that decides between two processes that create a run at the same moment. Each therefore
creates a candidate, which carries the pointer's random token instead of the round's tags, and then tries to
move the pointer to it. Only the run in the pointer becomes the round's run. A candidate that lost is deleted
by its creator, or, if that was killed, by whoever sweeps next. As tokens are random, nobody deletes a run of
another store, or one that was ever a round's run.
"""

import json
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from apportion.config.hashing import digest
from apportion.errors import Conflict, Damaged
from apportion.store import Store
from apportion.store.layout import round_key


@dataclass(frozen=True)
class Claim:
    """The pointer for one run: of a round, or nested in it.

    round_id: the round. of: whatever else tells the run from others, such as its experiment, its parent and
    its name.
    """

    store: Store
    round_id: str
    of: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"{folder(self.round_id)}{digest([*self.of])[:16]}.json"

    def settle(
        self,
        is_there: Callable[[str], bool],
        find: Callable[[str], str | None],
        create: Callable[[str], str],
        drop: Callable[[str], None],
    ) -> str:
        """The run in the pointer, which is moved first where it names no run or one that is not there.

        is_there: whether a run can be continued. find: a run that is known otherwise, or a candidate with the
        mark that it is given. create: makes a candidate with this mark. drop: deletes a candidate that lost.
        """
        while True:
            state = _read(self.store, self.key)
            if state.token is None:
                with suppress(Conflict):
                    self._write(state, secrets.token_hex(8), None)
                continue
            if state.run is not None and is_there(state.run):
                return state.run
            mark = f"{self.key} {state.token}"
            found = find(mark)
            candidate = found or create(mark)
            try:
                self._write(state, state.token, candidate)
            except Conflict:
                # Another process may have found this candidate, and moved the pointer to it.
                if found is None and has_lost(self.store, mark, candidate):
                    drop(candidate)
                continue
            return candidate

    def _write(self, state: "_State", token: str, run: str | None) -> None:
        content = {"of": [*self.of], "run": run, "token": token}
        text = json.dumps(content, sort_keys=True, ensure_ascii=False, indent=1) + "\n"
        self.store.swap(self.key, state.version, text.encode())


def folder(round_id: str) -> str:
    """How the keys of a round's pointers start."""
    return round_key(round_id, "tracking/")


def has_lost(store: Store, mark: str, candidate: str) -> bool:
    """Whether a candidate with this mark cannot become a run of its round any more, because the pointer names
    another one."""
    key, _, token = mark.partition(" ")
    state = _read(store, key)
    return state.token == token and state.run not in (None, candidate)


class _State(NamedTuple):
    """Token and run in a pointer, and the tag of this version of it; all None where there is no pointer."""

    token: str | None
    run: str | None
    version: str | None


def _read(store: Store, key: str) -> _State:
    pointer = store.read_pointer(key)
    if pointer is None:
        return _State(None, None, None)
    try:
        content = json.loads(pointer.data)
        return _State(str(content["token"]), content["run"], pointer.tag)
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(
            f"{store.where(key)}: found {pointer.data[:80]!r}, expected the MLflow run of a round; move it "
            "away, then the run is found by its tags"
        ) from error
