"""A store in a folder."""

import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from apportion.errors import Damaged, NotFound, StoreError
from apportion.store.contract import KEY, Pointer, Store, checked, checked_prefix, sha256

ABANDONED = 24 * 3600.0
"""Seconds after which the process that left a file behind must have been killed."""

PASSING = ("probes/", "leases/")
"""How the keys of objects start that are removed by the process that wrote them."""

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]+\.tmp")
_CHECKSUM = re.compile(r"\.(?P<name>.+)\.sha256")


class FileStore(Store):
    """A folder. The sha256 of `name` is in the file `.name.sha256` next to it, in the format of sha256sum.

    An object appears by one rename, after its checksum was written and while the store is locked. A writer
    that is killed at any moment therefore leaves a complete object or none; a checksum or temporary file that
    is left over does no harm, and a later `probe` removes it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self.uri = self._root.as_uri()

    def exists(self, key: str) -> bool:
        with self._explained():
            return self._path(key).is_file()

    def list(self, prefix: str = "") -> Iterator[str]:
        top = self._root / checked_prefix(prefix).rpartition("/")[0]
        with self._explained():
            walk = os.walk(top, onerror=_raise_unless_absent)
            files = [Path(folder, name) for folder, _, names in walk for name in names]
        keys = (path.relative_to(self._root).as_posix() for path in files)
        return iter(sorted(key for key in keys if key.startswith(prefix) and KEY.fullmatch(key)))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        with self._explained():
            if path.is_file():
                return False
            with _temporary(path, data) as temporary, self._lock():
                if path.is_file():
                    return False
                _write_checksums(path, sha256(data))
                temporary.replace(path)
                _sync(path.parent)
        return True

    def swap(self, key: str, expected: str | None, data: bytes) -> str:
        path = self._path(key)
        tag = sha256(data)
        with self._explained(), _temporary(path, data) as temporary, self._lock():
            current = self.read_pointer(key)
            if (current.tag if current else None) != expected:
                raise self._conflict(key, expected)
            # Both checksums are valid while the content changes: neither a crash nor a reader between these
            # steps finds a content without its checksum.
            _write_checksums(path, *([current.tag] if current else []), tag)
            temporary.replace(path)
            if current:
                _write_checksums(path, tag)
            _sync(path.parent)
        return tag

    def probe(self) -> None:
        super().probe()
        for folder, _, names in os.walk(self._root):
            for path in (Path(folder, name) for name in names):
                with suppress(OSError):  # it was removed meanwhile, or may not be, and does no harm
                    if self._is_left_over(path):
                        with self._lock():  # its writer may just have begun to write it again
                            if self._is_left_over(path):
                                path.unlink()

    def _read(self, key: str) -> Pointer:
        # A pointer may move between the reading of its checksums and of its content, so that they differ once
        # or twice. Only an object that fails every time is damaged.
        for _ in range(2):
            with suppress(Damaged):
                return self._read_once(key)
        return self._read_once(key)

    def _read_once(self, key: str) -> Pointer:
        path = self._path(key)
        with self._explained():
            checksums = _read_checksums(path)
            try:
                data = path.read_bytes()
            except (FileNotFoundError, NotADirectoryError) as error:
                raise NotFound(f"{self.where(key)}: nothing is stored there") from error
            return self._verified(key, data, checksums)

    def _remove(self, key: str) -> None:
        path = self._path(key)
        # Without the lock, another process could write the object again between the two.
        with self._explained(), self._lock():
            path.unlink(missing_ok=True)
            _checksum_path(path).unlink(missing_ok=True)

    def _is_left_over(self, path: Path) -> bool:
        """Whether a file is one of those that killed processes leave behind, and old enough: a temporary
        file, an object that should have been removed, or a checksum without its object."""
        if time.time() - path.lstat().st_mtime <= ABANDONED:
            return False
        if checksum := _CHECKSUM.fullmatch(path.name):
            recorded = rf"([0-9a-f]{{64}}  {re.escape(checksum['name'])}\n)+"
            beside = path.with_name(checksum["name"])
            return not os.path.lexists(beside) and bool(re.fullmatch(recorded, _text(path)))
        key = path.relative_to(self._root).as_posix()
        return bool(_TEMPORARY.fullmatch(path.name)) or (key.startswith(PASSING) and bool(KEY.fullmatch(key)))

    def _path(self, key: str) -> Path:
        return self._root / checked(key)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        fd = os.open(self._root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            # Closing alone would not unlock while a forked child has a copy of the descriptor.
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Raises StoreError for an OSError in the block."""
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"{self._root} cannot be used as a store: {error}; make it a writable folder (option `store`)"
            ) from error


def _checksum_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.sha256")


def _read_checksums(path: Path) -> set[str]:
    """The recorded checksums of a file; none where none is recorded."""
    try:
        lines = _text(_checksum_path(path)).splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return set()
    return {line.split()[0] for line in lines if line.strip()}


def _text(checksums: Path) -> str:
    return checksums.read_text("ascii", "replace")


def _write_checksums(path: Path, *digests: str) -> None:
    text = "".join(f"{digest}  {path.name}\n" for digest in digests)
    with _temporary(path, text.encode()) as temporary:
        temporary.replace(_checksum_path(path))


@contextmanager
def _temporary(path: Path, data: bytes) -> Iterator[Path]:
    """A file with these bytes, safely on disk, in the folder of `path`; removed unless it was renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Makes the renames in a folder safe on disk."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _raise_unless_absent(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error
