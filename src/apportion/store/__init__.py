"""Stores at file:// and s3:// addresses behind one small class.

Objects are written once and their checksum is verified at every reading. Pointers move by compare-and-swap.
"""

import re
from pathlib import Path
from urllib.parse import unquote

from apportion.errors import StoreError
from apportion.store.contract import KEY, Pointer, Store
from apportion.store.file import FileStore
from apportion.store.s3 import S3Store

__all__ = ["FileStore", "Pointer", "S3Store", "Store", "open_store"]

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")


def open_store(uri: str, *, endpoint_url: str | None = None) -> Store:
    """A store at `file:///folder` or `s3://bucket/prefix`. Nothing is read or written yet (see
    `Store.probe`).

    Credentials, region and endpoint of S3 are boto3's own (AWS_…, AWS_ENDPOINT_URL_S3); `endpoint_url`
    overrides the endpoint. Raises StoreError for any other URI, and for wrong settings in the environment.
    """
    scheme, _, rest = uri.partition("://")
    if scheme == "s3":
        bucket, _, prefix = rest.rstrip("/").partition("/")
        if _BUCKET.fullmatch(bucket) and (not prefix or KEY.fullmatch(prefix)):
            return S3Store(bucket, prefix, endpoint_url)
    if scheme == "file" and endpoint_url is not None:
        raise StoreError(
            f"found endpoint {endpoint_url!r} for {uri!r}, expected none: a file:// store has no endpoint "
            "(option `store`)"
        )
    if scheme == "file" and rest.startswith("/") and "\0" not in unquote(rest):
        return FileStore(Path(unquote(rest)))
    raise StoreError(
        f"found {uri!r}, expected file:///absolute/folder or s3://bucket/prefix (option `store`)"
    )
