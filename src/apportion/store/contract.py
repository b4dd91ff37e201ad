"""What every store guarantees: objects that never change, and pointers that move by compare-and-swap.

`Store.probe` finds out whether a given store keeps these guarantees.
"""

import hashlib
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import NamedTuple

from apportion.errors import Conflict, Damaged, NotFound, StoreError

# No segment starts with a dot: such names belong to the store itself (lock, checksums, temporary files). A
# file name has at most 255 bytes, so 200 leave room for the suffixes of those names.
KEY = re.compile(r"(?=.{1,800}\Z)[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,199})*")
NOT_OVERWRITTEN = "it is not overwritten; move it away yourself to recompute it"


class Pointer(NamedTuple):
    """The content of a pointer, and the tag of that version, which `swap` expects.

    A tag names the content: a pointer that moves from A to B and back to A has the tag of A again.
    """

    data: bytes
    tag: str


class Store(ABC):
    """Objects that never change, and pointers that do, by key. No key may be a folder of another ("a" and
    "a/b").

    Every method raises StoreError for an invalid key and for a store that cannot be reached, read or written.
    Threads may share a store; another process opens its own with `open_store(store.uri)`.
    """

    uri: str

    def ensure(self, key: str, make: Callable[[], bytes]) -> bool:
        """Make and store the object unless something is stored under the key; True if this call stored it.

        An existing object is not read, so damage is reported by `get` only.
        """
        return not self.exists(key) and self.put_if_absent(key, make())

    def get(self, key: str) -> bytes:
        """The object, after its checksum was verified.

        Raises NotFound, or Damaged where the object is truncated, altered or without a checksum.
        """
        return self._read(key).data

    def read_pointer(self, key: str) -> Pointer | None:
        """The pointer and its tag; None where there is no pointer yet. Raises Damaged."""
        try:
            return self._read(key)
        except NotFound:
            return None

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Whether something is stored under the key, intact or damaged; its content is not read."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[str]:
        """The keys that start with the prefix, sorted; "a/b" also matches "a/bc"."""

    @abstractmethod
    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Store the object. False, and no change, where the key is in use, even by a damaged object."""

    @abstractmethod
    def swap(self, key: str, expected: str | None, data: bytes) -> str:
        """Move a pointer from the version tagged `expected` (None: no pointer yet), and return the new tag.

        Raises Conflict where the pointer has another version, and Damaged.
        """

    def probe(self) -> None:
        """Write, list and swap a small object, and remove it.

        Raises StoreError where the store cannot be written, ignores conditional writes or loses what belongs
        to an object.
        """
        key = f"probes/{secrets.token_hex(8)}"
        broken = (
            f"{self.uri} %s; Apportion would lose results there: choose a store with conditional writes "
            "(option `store`)"
        )
        if not self.put_if_absent(key, b"first"):
            raise StoreError(broken % "refuses to store an object under a new key (If-None-Match)")
        try:
            if lost := self._lost(key):
                raise StoreError(f"{self.uri} {lost}, or choose another store (option `store`)")
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

    def _lost(self, key: str) -> str:  # noqa: ARG002
        """What the store does not keep of an object, and what to change; empty where it keeps all."""
        return ""

    @abstractmethod
    def _read(self, key: str) -> Pointer: ...

    @abstractmethod
    def _remove(self, key: str) -> None: ...

    def _verified(self, key: str, data: bytes, accepted: set[str], tag: str = "") -> Pointer:
        """The data as a Pointer. Raises Damaged where its sha256 is none of those accepted."""
        digest = sha256(data)
        if digest not in accepted:
            expected = " or ".join(sorted(accepted)) or "a recorded checksum, found none"
            raise Damaged(
                f"{self.where(key)}: sha256 of its {len(data)} bytes is {digest}, expected {expected}; "
                f"{NOT_OVERWRITTEN}"
            )
        return Pointer(data, tag or digest)

    def _conflict(self, key: str, expected: str | None) -> Conflict:
        return Conflict(
            f"{self.where(key)} was moved by another process: expected {expected or 'no pointer yet'}; "
            "read it again"
        )


def checked(key: str) -> str:
    """The key. Raises StoreError where it is not valid."""
    if not KEY.fullmatch(key):
        raise StoreError(
            f"found key {key!r}, expected names of A-Z a-z 0-9 . _ - joined by single '/', none starting "
            "with a dot"
        )
    return key


def checked_prefix(prefix: str) -> str:
    """The prefix of a key. Raises StoreError where no valid key starts with it."""
    checked(prefix + "x")  # a prefix may end anywhere in a key, also after a '/'
    return prefix


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
