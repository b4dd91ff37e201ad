"""file:// and s3:// behind one small class: objects are written once and checked on every reading; pointers move by compare-and-swap."""

import fcntl
import hashlib
import os
import re
import secrets
import time
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from apportion.errors import Conflict, Damaged, NotFound, StoreError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# No segment starts with a dot: those names are the store's own (lock, checksums, temporaries). 200 leaves room for their suffixes.
_KEY = re.compile(r"(?=.{1,800}\Z)[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,199})*")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_HANDS_OFF = "not overwritten; move it away yourself to recompute"
_PUT_LIMIT = 5 * 2**30  # bytes in one PutObject; multipart uploads would need their own commit protocol
_ABANDONED = 24 * 3600  # seconds after which a temporary file belongs to a killed writer

# The probe must say "unreachable" in seconds; real work should outlive a hiccup of the server.
_IMPATIENT: dict[str, Any] = {"connect_timeout": 3, "read_timeout": 10, "retries": {"mode": "standard", "total_max_attempts": 2}}
_PATIENT: dict[str, Any] = {"connect_timeout": 10, "read_timeout": 120, "retries": {"mode": "standard", "total_max_attempts": 8}}

_HINTS = {
    "NoSuchBucket": "the bucket does not exist: create it or name another",
    "404": "not an S3 endpoint, it seems: check AWS_ENDPOINT_URL_S3",
    "NotImplemented": "the server lacks conditional writes (If-None-Match, If-Match): use one that has them",
    # a HEAD has no body to name its error: botocore gives the status instead
    **dict.fromkeys(("AccessDenied", "403"), "access denied: the credentials need s3:GetObject, s3:PutObject and s3:ListBucket"),
    **dict.fromkeys(
        ("NoCredentialsError", "PartialCredentialsError", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"),
        "no usable credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or an identity of the pod",
    ),
    **dict.fromkeys(
        ("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError"),
        "no answer from the endpoint: check AWS_ENDPOINT_URL_S3 and the network",
    ),
}


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
        _probe(self)

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
        digest = _sha256(data)
        if digest not in accepted:
            expected = " or ".join(sorted(accepted)) or "a recorded checksum, found none"
            raise Damaged(f"{self.where(key)}: sha256 of its {len(data)} bytes is {digest}, expected {expected}; {_HANDS_OFF}")
        return Pointer(data, tag or digest)

    def _conflict(self, key: str, expected: str | None) -> Conflict:
        return Conflict(f"{self.where(key)} was moved by somebody else: expected {expected or 'none yet'}; read it again")


def open_store(uri: str, *, endpoint_url: str | None = None) -> Store:
    """A store at `file:///folder` or `s3://bucket/prefix`; nothing is read or written yet (see `probe`).

    Credentials, region and endpoint of S3 are boto3's own (AWS_…, AWS_ENDPOINT_URL_S3); `endpoint_url` overrides the endpoint.
    Raises StoreError for any other URI.
    """
    scheme, _, rest = uri.partition("://")
    if scheme == "s3":
        bucket, _, prefix = rest.rstrip("/").partition("/")
        if _BUCKET.fullmatch(bucket) and (not prefix or _KEY.fullmatch(prefix)):
            return S3Store(bucket, prefix, endpoint_url)
    if scheme == "file" and endpoint_url is not None:
        raise StoreError(f"found endpoint {endpoint_url!r} for {uri!r}: a file:// store has none (option `store`)")
    if scheme == "file" and rest.startswith("/") and "\0" not in unquote(rest):
        return FileStore(Path(unquote(rest)))
    raise StoreError(f"found {uri!r}, expected file:///absolute/folder or s3://bucket/prefix (option `store`)")


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
        top = self._root / _checked_prefix(prefix).rpartition("/")[0]
        with self._explained():
            files = [Path(folder, name) for folder, _, names in os.walk(top, onerror=_raise_unless_absent) for name in names]
        keys = (path.relative_to(self._root).as_posix() for path in files)
        return iter(sorted(key for key in keys if key.startswith(prefix) and _KEY.fullmatch(key)))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        with self._explained():
            if path.is_file():
                return False
            with _temporary(path, data) as payload, self._lock():
                if path.is_file():
                    return False
                _seal(path, _sha256(data))
                payload.replace(path)
                _sync(path.parent)
        return True

    def swap(self, key: str, expected: str | None, data: bytes) -> str:
        path, tag = self._path(key), _sha256(data)
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
        return self._root / _checked(key)

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


class S3Store(Store):
    """A bucket, or a prefix of one. The sha256 is kept as metadata too, so checking does not hang on what the server supports."""

    def __init__(self, bucket: str, prefix: str, endpoint_url: str | None = None, network: dict[str, Any] = _PATIENT) -> None:
        import boto3  # here, so that users of file:// do not wait for it
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        self._bucket, self._prefix, self._endpoint = bucket, f"{prefix}/" if prefix else "", endpoint_url
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        try:
            self._client: S3Client = boto3.Session().client("s3", endpoint_url=endpoint_url, config=Config(**network))
        except (BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is no URL
            raise StoreError(f"{self.uri}: {error}; correct the AWS_… settings or option `store`") from error

    def exists(self, key: str) -> bool:
        return bool(self._ask("head_object", key, 404) != 404)

    def list(self, prefix: str = "") -> Iterator[str]:
        return self._pages(_checked_prefix(prefix))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self._put(key, data, {"IfNoneMatch": "*"}) is not None

    def swap(self, key: str, expected: str | None, data: bytes) -> str:
        tag = self._put(key, data, {"IfNoneMatch": "*"} if expected is None else {"IfMatch": expected})
        if tag is None:
            raise self._conflict(key, expected)
        return tag

    def probe(self) -> None:
        _probe(S3Store(self._bucket, self._prefix.rstrip("/"), self._endpoint, _IMPATIENT))

    def _put(self, key: str, data: bytes, condition: dict[str, str]) -> str | None:
        """The tag of what was written, None if the condition did not hold."""
        if len(data) > _PUT_LIMIT:
            raise StoreError(f"{self.where(key)}: found {len(data)} bytes, one object holds at most {_PUT_LIMIT}; store it in parts")
        digest, writer = hashlib.sha256(data), secrets.token_hex(8)
        checksum = {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": b64encode(digest.digest()).decode()}
        metadata = {"sha256": digest.hexdigest(), "writer": writer}
        refusals = (404, 409, 412) if "IfMatch" in condition else (409, 412)  # 404: what should match is not there
        for attempt in range(8):
            answer = self._ask("put_object", key, *refusals, Body=data, Metadata=metadata, **checksum, **condition)
            if answer in (404, 412):
                # The answer to our first attempt may have been lost and boto3's retry refused: then the object there is ours.
                head = self._ask("head_object", key, 404)
                return head["ETag"] if head != 404 and head["Metadata"].get("writer") == writer else None
            if answer != 409:
                return str(answer["ETag"])
            time.sleep(min(0.05 * 2**attempt, 2))  # 409: another conditional write of this key is under way
        raise StoreError(f"{self.where(key)}: refused 8 times while others wrote it (409); run again")

    def _read(self, key: str) -> Pointer:
        from botocore.exceptions import FlexibleChecksumError, IncompleteReadError, ReadTimeoutError, ResponseStreamingError

        for attempt in (1, 2, 3):
            answer = self._ask("get_object", key, 404, ChecksumMode="ENABLED")
            if answer == 404:
                raise NotFound(f"{self.where(key)}: nothing is stored there")
            with self._explained():
                try:
                    data = answer["Body"].read()
                    break
                except FlexibleChecksumError as error:
                    raise Damaged(f"{self.where(key)}: {error}; {_HANDS_OFF}") from error
                except (ResponseStreamingError, IncompleteReadError, ReadTimeoutError):
                    if attempt == 3:  # boto3 retries a request, but not a body that breaks off
                        raise
        recorded = answer["Metadata"].get("sha256")
        return self._verified(key, data, {recorded} if recorded else set(), answer["ETag"])

    def _remove(self, key: str) -> None:
        self._ask("delete_object", key, 403)  # write-once credentials may not delete: a few bytes under probes/ stay

    def _ask(self, operation: str, key: str, *accepted: int, **arguments: Any) -> Any:
        """The answer, or the HTTP status of a refusal if it is one of `accepted`."""
        from botocore.exceptions import ClientError

        with self._explained():
            try:
                return getattr(self._client, operation)(Bucket=self._bucket, Key=self._prefix + _checked(key), **arguments)
            except ClientError as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                if status not in accepted or error.response["Error"]["Code"] == "NoSuchBucket":
                    raise
                return status

    def _pages(self, prefix: str) -> Iterator[str]:
        with self._explained():
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
                keys = (item["Key"].removeprefix(self._prefix) for item in page.get("Contents", []))
                yield from (key for key in keys if _KEY.fullmatch(key))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError) as error:
            name = error.response["Error"]["Code"] if isinstance(error, ClientError) else type(error).__name__
            hint = _HINTS.get(name, "check the server")
            raise StoreError(f"{self.uri} at {self._client.meta.endpoint_url}: {hint} (option `store`); {error}") from error


def _probe(store: Store) -> None:
    key = f"probes/{secrets.token_hex(8)}"
    broken = f"{store.uri} %s; Apportion would lose results there: choose a store with conditional writes (option `store`)"
    if not store.put_if_absent(key, b"first"):
        raise StoreError(broken % "refuses an object that is not there (If-None-Match)")
    try:
        if store.put_if_absent(key, b"second"):
            raise StoreError(broken % "ignores If-None-Match")
        first = store.read_pointer(key)
        if first is None or first.data != b"first" or key not in store.list(key):
            raise StoreError(broken % "does not show what was just written")
        store.swap(key, first.tag, b"third")
        try:
            store.swap(key, first.tag, b"fourth")
        except Conflict:
            return
        raise StoreError(broken % "ignores If-Match")
    finally:
        store._remove(key)


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise StoreError(f"found key {key!r}, expected names of A-Z a-z 0-9 . _ - joined by single '/', none starting with a dot")
    return key


def _checked_prefix(prefix: str) -> str:
    _checked(prefix + "x")  # a prefix may end anywhere in a key, after a '/' too
    return prefix


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


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
