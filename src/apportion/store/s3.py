"""A store in a bucket."""

import hashlib
import secrets
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from apportion.config.credentials import masked
from apportion.errors import Damaged, NotFound, StoreError
from apportion.store.contract import KEY, NOT_OVERWRITTEN, Pointer, Store, checked, checked_prefix
from apportion.store.environment import environment
from apportion.store.refusals import NotS3, clock_difference, hint

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_PUT_LIMIT = 5 * 2**30  # bytes in one PutObject; multipart uploads would need a commit protocol of their own

# Checks must find out within seconds that a server cannot be reached; other requests should survive a short
# outage.
_SHORT_TIMEOUTS: dict[str, Any] = {
    "connect_timeout": 3,
    "read_timeout": 10,
    "retries": {"mode": "standard", "total_max_attempts": 2},
}
_LONG_TIMEOUTS: dict[str, Any] = {
    "connect_timeout": 10,
    "read_timeout": 120,
    "retries": {"mode": "standard", "total_max_attempts": 8},
}


class S3Store(Store):
    """A bucket, or a prefix of one.

    The sha256 of an object is also kept as its metadata, so that checking it does not depend on what the
    server supports.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str,
        endpoint_url: str | None = None,
        network: dict[str, Any] = _LONG_TIMEOUTS,
    ) -> None:
        import boto3  # here, so that users of file:// do not wait for it
        from botocore.config import Config

        self._bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        self._endpoint = endpoint_url
        self.uri = self._where = f"s3://{bucket}/{prefix}".rstrip("/")
        settings = environment()
        self._encryption = settings.encryption
        config = Config(**network, s3={"addressing_style": cast(Any, settings.addressing)})
        with self._explained():
            session = boto3.Session(region_name=settings.region)
            self._client: S3Client = session.client("s3", endpoint_url=endpoint_url, config=config)
        self._where = f"{self.uri} at {self._client.meta.endpoint_url}"
        self._client.meta.events.register("needs-retry.s3.HeadBucket", _redirect_once)
        self._client.meta.events.register("after-call.s3", _refuse_other_servers)

    def exists(self, key: str) -> bool:
        return bool(self._request("head_object", key, 404) != 404)

    def list(self, prefix: str = "") -> Iterator[str]:
        return self._pages(checked_prefix(prefix))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self._put(key, data, {"IfNoneMatch": "*"}) is not None

    def swap(self, key: str, expected: str | None, data: bytes) -> str:
        tag = self._put(key, data, {"IfNoneMatch": "*"} if expected is None else {"IfMatch": expected})
        if tag is None:
            raise self._conflict(key, expected)
        return tag

    def probe(self) -> None:
        Store.probe(self.with_short_timeouts())

    def with_short_timeouts(self) -> "S3Store":
        """The same store, whose requests succeed or fail within seconds."""
        return S3Store(self._bucket, self.prefix.rstrip("/"), self._endpoint, _SHORT_TIMEOUTS)

    def clock(self) -> timedelta | None:
        """How far the server's clock is ahead of ours, to about a second; None if its answer has no time."""
        from botocore.exceptions import ClientError

        with self._explained():
            try:
                return clock_difference(cast(Any, self._client.head_bucket(Bucket=self._bucket)))
            except ClientError as error:
                # A refusal of the store has a time as well. One of the server of identities does not count:
                # its clock is another.
                if error.operation_name != "HeadBucket":
                    raise
                return clock_difference(cast(Any, error.response))

    def lifecycle(self) -> dict[str, Any]:
        """The lifecycle configuration of the bucket: `Rules`, and the settings that apply to all of them."""
        from botocore.exceptions import ClientError

        with self._explained():
            try:
                answer = self._client.get_bucket_lifecycle_configuration(Bucket=self._bucket)
            except ClientError as error:
                if error.response["Error"]["Code"] != "NoSuchLifecycleConfiguration":
                    raise
                return {"Rules": []}
        return {name: value for name, value in answer.items() if name != "ResponseMetadata"}

    def set_lifecycle(self, lifecycle: dict[str, Any]) -> None:
        """Replaces the whole lifecycle configuration of the bucket, in the form that `lifecycle` returns."""
        others: Any = {name: value for name, value in lifecycle.items() if name != "Rules"}
        with self._explained():
            self._client.put_bucket_lifecycle_configuration(
                Bucket=self._bucket, LifecycleConfiguration={"Rules": lifecycle["Rules"]}, **others
            )

    def _put(self, key: str, data: bytes, condition: dict[str, str]) -> str | None:
        """The tag of what was written; None where the condition did not hold."""
        if len(data) > _PUT_LIMIT:
            raise StoreError(
                f"{self.where(key)}: found {len(data)} bytes, expected at most {_PUT_LIMIT} in one object; "
                "store it in parts"
            )
        digest = hashlib.sha256(data)
        writer = secrets.token_hex(8)
        arguments = {
            "Metadata": {"sha256": digest.hexdigest(), "writer": writer},
            "ChecksumAlgorithm": "SHA256",
            "ChecksumSHA256": b64encode(digest.digest()).decode(),
            **self._encryption,
        }
        # 404: there is no object to match.
        refusals = (404, 409, 412) if "IfMatch" in condition else (409, 412)
        for attempt in range(8):
            answer = self._request("put_object", key, *refusals, Body=data, **arguments, **condition)
            if answer in (404, 412):
                # Perhaps the first attempt succeeded, its answer was lost, and boto3's retry was refused
                # because of it: then the object has our `writer`.
                head = self._request("head_object", key, 404)
                return head["ETag"] if head != 404 and head["Metadata"].get("writer") == writer else None
            if answer != 409:
                return str(answer["ETag"])
            time.sleep(min(0.05 * 2**attempt, 2))  # 409: another conditional write of this key is in progress
        raise StoreError(
            f"{self.where(key)}: the server refused it 8 times because others were writing it (409); run the "
            "same command again"
        )

    def _read(self, key: str) -> Pointer:
        from botocore.exceptions import (
            FlexibleChecksumError,
            IncompleteReadError,
            ReadTimeoutError,
            ResponseStreamingError,
        )

        for attempt in (1, 2, 3):
            answer = self._request("get_object", key, 404, ChecksumMode="ENABLED")
            if answer == 404:
                raise NotFound(f"{self.where(key)}: nothing is stored there")
            with self._explained():
                try:
                    data = answer["Body"].read()
                    break
                except FlexibleChecksumError as error:
                    raise Damaged(f"{self.where(key)}: {masked(str(error))}; {NOT_OVERWRITTEN}") from error
                except (ResponseStreamingError, IncompleteReadError, ReadTimeoutError):
                    if attempt == 3:  # boto3 retries a request, but not the reading of a body that breaks off
                        raise
        recorded = answer["Metadata"].get("sha256")
        return self._verified(key, data, {recorded} if recorded else set(), answer["ETag"])

    def _remove(self, key: str) -> None:
        # Credentials that may only write get a 403: then a few bytes under probes/ stay.
        self._request("delete_object", key, 403)

    def _request(self, operation: str, key: str, *accepted: int, **arguments: Any) -> Any:
        """The answer, or the HTTP status of a refusal where it is one of `accepted`."""
        from botocore.exceptions import ClientError

        with self._explained():
            try:
                call = getattr(self._client, operation)
                return call(Bucket=self._bucket, Key=self.prefix + checked(key), **arguments)
            except ClientError as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                if status not in accepted or error.response["Error"]["Code"] == "NoSuchBucket":
                    raise
                return status

    def _pages(self, prefix: str) -> Iterator[str]:
        with self._explained():
            paginator = self._client.get_paginator("list_objects_v2")
            for page in paginator.paginate(Bucket=self._bucket, Prefix=self.prefix + prefix):
                keys = (item["Key"].removeprefix(self.prefix) for item in page.get("Contents", []))
                yield from (key for key in keys if KEY.fullmatch(key))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Raises StoreError, with a hint, for an error of boto3 in the block."""
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        # OSError to RuntimeError: boto3 raises these for an endpoint that is not a URL, and for problems with
        # a pod's identity, such as a missing token file.
        errors = (
            BotoCoreError,
            ClientError,
            ResponseParserError,
            OSError,
            ValueError,
            KeyError,
            RuntimeError,
        )
        try:
            yield
        except errors as error:
            explanation = hint(error, bool(self._encryption))
            # Further lines may quote a whole answer with its keys.
            text = masked(str(error).partition("\n")[0])
            raise StoreError(f"{masked(self._where)}: {explanation} (option `store`); {text}") from error


_FIELDS_OF_ANSWERS = {
    "PutObject": "ETag",
    "GetObject": "ETag",
    "HeadObject": "ETag",
    "ListObjectsV2": "Name",
    "GetBucketLifecycleConfiguration": "Rules",
}
"""By operation, a field that every successful answer of an S3 server has."""


def _refuse_other_servers(parsed: Any, model: Any, **_: Any) -> None:
    """Raises NotS3 for a successful answer without that field: a login page has status 200 too."""
    field = _FIELDS_OF_ANSWERS.get(model.name, "ResponseMetadata")
    if parsed["ResponseMetadata"]["HTTPStatusCode"] < 300 and field not in parsed:
        raise NotS3(f"the answer to {model.name} has no {field}")


def _redirect_once(request_dict: Any, response: Any, **_: Any) -> None:
    """Stops botocore from following redirects without end.

    After a redirect it requests the bucket's region by HeadBucket, and does so again where that request is
    redirected too.
    """
    if response is not None and "x-amz-bucket-region" not in response[1]["ResponseMetadata"]["HTTPHeaders"]:
        request_dict["context"].setdefault("s3_redirect", {})["redirected"] = True
