"""A store in a bucket."""

import hashlib
import secrets
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from apportion.errors import Damaged, NotFound, StoreError
from apportion.store.contract import HANDS_OFF, KEY, Pointer, Store, checked, checked_prefix

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_PUT_LIMIT = 5 * 2**30  # bytes in one PutObject; multipart uploads would need their own commit protocol

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
        return self._pages(checked_prefix(prefix))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self._put(key, data, {"IfNoneMatch": "*"}) is not None

    def swap(self, key: str, expected: str | None, data: bytes) -> str:
        tag = self._put(key, data, {"IfNoneMatch": "*"} if expected is None else {"IfMatch": expected})
        if tag is None:
            raise self._conflict(key, expected)
        return tag

    def probe(self) -> None:
        Store.probe(S3Store(self._bucket, self._prefix.rstrip("/"), self._endpoint, _IMPATIENT))

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
                    raise Damaged(f"{self.where(key)}: {error}; {HANDS_OFF}") from error
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
                return getattr(self._client, operation)(Bucket=self._bucket, Key=self._prefix + checked(key), **arguments)
            except ClientError as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                if status not in accepted or error.response["Error"]["Code"] == "NoSuchBucket":
                    raise
                return status

    def _pages(self, prefix: str) -> Iterator[str]:
        with self._explained():
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
                keys = (item["Key"].removeprefix(self._prefix) for item in page.get("Contents", []))
                yield from (key for key in keys if KEY.fullmatch(key))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError) as error:
            name = error.response["Error"]["Code"] if isinstance(error, ClientError) else type(error).__name__
            hint = _HINTS.get(name, "check the server")
            raise StoreError(f"{self.uri} at {self._client.meta.endpoint_url}: {hint} (option `store`); {error}") from error
