"""What every store promises: objects that never change, pointers that move by compare-and-swap, and how to find out whether it is kept."""

import hashlib
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import NamedTuple

from apportion.errors import Conflict, Damaged, NotFound, StoreError

# No segment starts with a dot: those names are the store's own (lock, checksums, temporaries). 200 leaves room for their suffixes.
KEY = re.compile(r"(?=.{1,800}\Z)[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,199})*")
HANDS_OFF = "not overwritten; move it away yourself to recompute"


class Pointer(NamedTuple):
    """What a pointer holds and the tag of that version, to hand to `swap`. A tag names the content: A, B, A has the tag of A again."""

    data: bytes
    tag: str


class Store(ABC):
    """Objects that never change and pointers that do, by key. A key must not be a folder of another ("a" and "a/b").

    Every method raises StoreError for a bad key and for a store that cannot be reached, read or written. Threads may share a store;
    another process opens its own with `open_store(store.uri)`.
    """

    uri: str

    def ensure(self, key: str, make: Callable[[], bytes]) -> bool:
        """Make and store the object unless it is there; True if ours was stored. What is there is not read: `get` finds damage."""
        return not self.exists(key) and self.put_if_absent(key, make())

    def get(self, key: str) -> bytes:
        """The object, its checksum verified. Raises NotFound, or Damaged when truncated, altered or without a checksum."""
        return self._read(key).data

    def read_pointer(self, key: str) -> Pointer | None:
        """The pointer and its tag, None if there is none yet. Raises Damaged."""
        try:
            return self._read(key)
        except NotFound:
            return None

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Whether something is stored under the key, whole or damaged; reads none of it."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[str]:
        """The keys that start with the prefix (a plain string: "a/b" also gives "a/bc"), sorted."""

    @abstractmethod
    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Store the object; False, and nothing changed, if the key is taken, be it by a damaged object."""

    @abstractmethod
    def swap(self, key: str, expected: str | None, data: bytes) -> str:
        """Move a pointer from the version tagged `expected` (None: there is none yet); the new tag. Raises Conflict, Damaged."""

    def probe(self) -> None:
        """Write, list and swap a small object. Raises StoreError if the store cannot be written or ignores conditional writes."""
        key = f"probes/{secrets.token_hex(8)}"
        broken = f"{self.uri} %s; Apportion would lose results there: choose a store with conditional writes (option `store`)"
        if not self.put_if_absent(key, b"first"):
            raise StoreError(broken % "refuses an object that is not there (If-None-Match)")
        try:
            if self.put_if_absent(key, b"second"):
                raise StoreError(broken % "ignores If-None-Match")
            first = self.read_pointer(key)
            if first is None or first.data != b"first" or key not in self.list(key):
                raise StoreError(broken % "does not show what was just written")
            self.swap(key, first.tag, b"third")
            try:
                self.swap(key, first.tag, b"fourth")
            except Conflict:
                return
            raise StoreError(broken % "ignores If-Match")
        finally:
            self._remove(key)

    def where(self, key: str) -> str:
        """The key as a URI, for messages."""
        return f"{self.uri}/{key}"

    def __repr__(self) -> str:
        return f"open_store({self.uri!r})"

    @abstractmethod
    def _read(self, key: str) -> Pointer: ...

    @abstractmethod
    def _remove(self, key: str) -> None: ...

    def _verified(self, key: str, data: bytes, accepted: set[str], tag: str = "") -> Pointer:
        digest = sha256(data)
        if digest not in accepted:
            expected = " or ".join(sorted(accepted)) or "a recorded checksum, found none"
            raise Damaged(f"{self.where(key)}: sha256 of its {len(data)} bytes is {digest}, expected {expected}; {HANDS_OFF}")
        return Pointer(data, tag or digest)

    def _conflict(self, key: str, expected: str | None) -> Conflict:
        return Conflict(f"{self.where(key)} was moved by somebody else: expected {expected or 'none yet'}; read it again")


def checked(key: str) -> str:
    if not KEY.fullmatch(key):
        raise StoreError(f"found key {key!r}, expected names of A-Z a-z 0-9 . _ - joined by single '/', none starting with a dot")
    return key


def checked_prefix(prefix: str) -> str:
    checked(prefix + "x")  # a prefix may end anywhere in a key, after a '/' too
    return prefix


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
