"""What processes that were killed leave in a bucket: probes and leases that nobody removed. A folder removes
its own when it is probed (`FileStore.probe`)."""

from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Any

from apportion.errors import StoreError
from apportion.store.contract import Store
from apportion.store.file import ABANDONED, PASSING
from apportion.store.s3 import S3Store

AT_ONCE = 100
"""Objects that are looked at in one call. Credentials that may not delete never remove any."""


def remove_leftovers(store: Store) -> None:
    """Removes probes and leases of a bucket that are older than a day, by the clock of its server."""
    if not isinstance(store, S3Store):
        return
    with suppress(StoreError):  # they do no harm where they stay
        for prefix in PASSING:
            for key in islice(store.list(prefix), AT_ONCE):
                head = store._request("head_object", key, 404)
                if head != 404 and _age(head) > ABANDONED:
                    store._remove(key)


def _age(head: dict[str, Any]) -> float:
    """Seconds since an object was written."""
    now = parsedate_to_datetime(head["ResponseMetadata"]["HTTPHeaders"]["date"])
    written: datetime = head["LastModified"]
    return (now - written).total_seconds()
