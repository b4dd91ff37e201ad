"""A store in a bucket."""

import hashlib
import secrets
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from apportion.config import masked
from apportion.errors import Damaged, NotFound, StoreError
from apportion.store.contract import HANDS_OFF, KEY, Pointer, Store, checked, checked_prefix
from apportion.store.environment import environment
from apportion.store.refusals import NotS3, hint, skew

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_PUT_LIMIT = 5 * 2**30  # bytes in one PutObject; multipart uploads would need their own commit protocol

# The probe must say "unreachable" in seconds; real work should outlive a hiccup of the server.
_IMPATIENT: dict[str, Any] = {"connect_timeout": 3, "read_timeout": 10, "retries": {"mode": "standard", "total_max_attempts": 2}}
_PATIENT: dict[str, Any] = {"connect_timeout": 10, "read_timeout": 120, "retries": {"mode": "standard", "total_max_attempts": 8}}


class S3Store(Store):
    """A bucket, or a prefix of one. The sha256 is kept as metadata too, so checking does not hang on what the server supports."""

    def __init__(self, bucket: str, prefix: str, endpoint_url: str | None = None, network: dict[str, Any] = _PATIENT) -> None:
        import boto3  # here, so that users of file:// do not wait for it
        from botocore.config import Config

        self._bucket, self.prefix, self._endpoint = bucket, f"{prefix}/" if prefix else "", endpoint_url
        self.uri = self._where = f"s3://{bucket}/{prefix}".rstrip("/")
        told = environment()
        self._encryption = told.encryption
        config = Config(**network, s3={"addressing_style": cast(Any, told.addressing)})
        with self._explained():
            session = boto3.Session(region_name=told.region)
            self._client: S3Client = session.client("s3", endpoint_url=endpoint_url, config=config)
        self._where = f"{self.uri} at {self._client.meta.endpoint_url}"
        self._client.meta.events.register("needs-retry.s3.HeadBucket", _once)
        self._client.meta.events.register("after-call.s3", _by_s3)

    def exists(self, key: str) -> bool:
        return bool(self._ask("head_object", key, 404) != 404)

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
        Store.probe(self.impatient())

    def impatient(self) -> "S3Store":
        """The same store, which answers or fails within seconds."""
        return S3Store(self._bucket, self.prefix.rstrip("/"), self._endpoint, _IMPATIENT)

    def clock(self) -> timedelta | None:
        """How far the server's clock is ahead of ours, to a second or so; None where it tells no time."""
        from botocore.exceptions import ClientError

        with self._explained():
            try:
                return skew(cast(Any, self._client.head_bucket(Bucket=self._bucket)))
            except ClientError as error:  # a refusal tells the time too, but not one of the server of identities
                if error.operation_name != "HeadBucket":
                    raise
                return skew(cast(Any, error.response))

    def lifecycle(self) -> dict[str, Any]:
        """The bucket's own, whoever set it: `Rules`, and what holds for all of them."""
        from botocore.exceptions import ClientError

        with self._explained():
            try:
                told = self._client.get_bucket_lifecycle_configuration(Bucket=self._bucket)
            except ClientError as error:
                if error.response["Error"]["Code"] != "NoSuchLifecycleConfiguration":
                    raise
                return {"Rules": []}
        return {name: value for name, value in told.items() if name != "ResponseMetadata"}

    def set_lifecycle(self, told: dict[str, Any]) -> None:
        """Replaces the whole of it."""
        arguments: Any = {name: value for name, value in told.items() if name != "Rules"}
        with self._explained():
            self._client.put_bucket_lifecycle_configuration(
                Bucket=self._bucket, LifecycleConfiguration={"Rules": told["Rules"]}, **arguments
            )

    def _put(self, key: str, data: bytes, condition: dict[str, str]) -> str | None:
        """The tag of what was written, None if the condition did not hold."""
        if len(data) > _PUT_LIMIT:
            raise StoreError(f"{self.where(key)}: found {len(data)} bytes, one object holds at most {_PUT_LIMIT}; store it in parts")
        digest, writer = hashlib.sha256(data), secrets.token_hex(8)
        checksum = {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": b64encode(digest.digest()).decode()}
        described = {"Metadata": {"sha256": digest.hexdigest(), "writer": writer}, **checksum, **self._encryption}
        refusals = (404, 409, 412) if "IfMatch" in condition else (409, 412)  # 404: what should match is not there
        for attempt in range(8):
            answer = self._ask("put_object", key, *refusals, Body=data, **described, **condition)
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
                    raise Damaged(f"{self.where(key)}: {masked(str(error))}; {HANDS_OFF}") from error
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
                return getattr(self._client, operation)(Bucket=self._bucket, Key=self.prefix + checked(key), **arguments)
            except ClientError as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                if status not in accepted or error.response["Error"]["Code"] == "NoSuchBucket":
                    raise
                return status

    def _pages(self, prefix: str) -> Iterator[str]:
        with self._explained():
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self.prefix + prefix):
                keys = (item["Key"].removeprefix(self.prefix) for item in page.get("Contents", []))
                yield from (key for key in keys if KEY.fullmatch(key))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        try:
            yield
        # The last four: an endpoint that is no URL, and what boto3 lets through of a pod's identity, as a token file that is missing.
        except (BotoCoreError, ClientError, ResponseParserError, OSError, ValueError, KeyError, RuntimeError) as error:
            why = hint(error, bool(self._encryption))
            said = masked(str(error).partition("\n")[0])  # below it may be the whole of an answer, with its keys
            raise StoreError(f"{masked(self._where)}: {why} (option `store`); {said}") from error


_ALWAYS = {
    "PutObject": "ETag",
    "GetObject": "ETag",
    "HeadObject": "ETag",
    "ListObjectsV2": "Name",
    "GetBucketLifecycleConfiguration": "Rules",
}


def _by_s3(parsed: Any, model: Any, **_: Any) -> None:
    """The page of a portal or a proxy is an answer of 200 too."""
    if parsed["ResponseMetadata"]["HTTPStatusCode"] < 300 and _ALWAYS.get(model.name, "ResponseMetadata") not in parsed:
        raise NotS3(f"{model.name} was answered without {_ALWAYS[model.name]}")


def _once(request_dict: Any, response: Any, **_: Any) -> None:
    """botocore asks for a bucket's region where it is sent elsewhere, and without end where that question is sent elsewhere too."""
    if response is not None and "x-amz-bucket-region" not in response[1]["ResponseMetadata"]["HTTPHeaders"]:
        request_dict["context"].setdefault("s3_redirect", {})["redirected"] = True
