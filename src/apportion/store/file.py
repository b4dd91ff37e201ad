"""A store in a folder."""

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from apportion.errors import Damaged, NotFound, StoreError
from apportion.store.contract import KEY, Pointer, Store, checked, checked_prefix, sha256

_ABANDONED = 24 * 3600  # seconds after which a temporary file belongs to a killed writer


class FileStore(Store):
    """A folder. The sha256 of `name` lies beside it in `.name.sha256`, in the format of sha256sum.

    An object appears by one rename, after its checksum and under the lock of the store, so a writer killed anywhere leaves a whole
    object or none; a stray checksum or temporary file is harmless.
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
            files = [Path(folder, name) for folder, _, names in os.walk(top, onerror=_raise_unless_absent) for name in names]
        keys = (path.relative_to(self._root).as_posix() for path in files)
        return iter(sorted(key for key in keys if key.startswith(prefix) and KEY.fullmatch(key)))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        with self._explained():
            if path.is_file():
                return False
            with _temporary(path, data) as payload, self._lock():
                if path.is_file():
                    return False
                _seal(path, sha256(data))
                payload.replace(path)
                _sync(path.parent)
        return True

    def swap(self, key: str, expected: str | None, data: bytes) -> str:
        path, tag = self._path(key), sha256(data)
        with self._explained(), _temporary(path, data) as payload, self._lock():
            current = self.read_pointer(key)
            if (current.tag if current else None) != expected:
                raise self._conflict(key, expected)
            # Both checksums are good while the content changes, so that neither a crash nor a reader in between sees damage.
            _seal(path, *([current.tag] if current else []), tag)
            payload.replace(path)
            _seal(path, tag)
            _sync(path.parent)
        return tag

    def probe(self) -> None:
        super().probe()
        with self._explained():
            for path in self._root.rglob(".*.tmp"):
                with suppress(FileNotFoundError):  # its writer has just finished
                    if time.time() - path.stat().st_mtime > _ABANDONED:
                        path.unlink()

    def _read(self, key: str) -> Pointer:
        # A pointer may move between the reading of its checksum and of its content: only what fails every time is damaged.
        for _ in range(2):
            with suppress(Damaged):
                return self._read_once(key)
        return self._read_once(key)

    def _read_once(self, key: str) -> Pointer:
        path = self._path(key)
        with self._explained():
            seals = _seals(path)
            try:
                data = path.read_bytes()
            except (FileNotFoundError, NotADirectoryError) as error:
                raise NotFound(f"{self.where(key)}: nothing is stored there") from error
            return self._verified(key, data, seals)

    def _remove(self, key: str) -> None:
        path = self._path(key)
        with self._explained():
            path.unlink(missing_ok=True)
            _seal_path(path).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._root / checked(key)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        fd = os.open(self._root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)  # closing is not enough while a forked child holds a copy of the descriptor
            os.close(fd)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(f"{self._root} cannot be used as a store: {error}; make it a writable folder (option `store`)") from error


def _seal_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.sha256")


def _seals(path: Path) -> set[str]:
    try:
        return {line.split()[0] for line in _seal_path(path).read_text("ascii", "replace").splitlines() if line.strip()}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _seal(path: Path, *digests: str) -> None:
    with _temporary(path, "".join(f"{digest}  {path.name}\n" for digest in digests).encode()) as seal:
        seal.replace(_seal_path(path))


@contextmanager
def _temporary(path: Path, data: bytes) -> Iterator[Path]:
    """A file beside `path` with these bytes, safe on disk; removed unless it was renamed."""
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
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _raise_unless_absent(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error
