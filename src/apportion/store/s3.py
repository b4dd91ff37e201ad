"""A store in a bucket."""

import hashlib
import logging
import secrets
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from apportion.config.credentials import masked
from apportion.errors import Damaged, NotFound, StoreError
from apportion.store.contract import KEY, NOT_OVERWRITTEN, Pointer, Store, checked, checked_prefix, sha256
from apportion.store.environment import bypasses_proxy, environment
from apportion.store.refusals import NotS3, clock_difference, hint, may_be_of_checksums

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

log = logging.getLogger(__name__)

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


@dataclass
class _Dialect:
    """What a server wants that differs from AWS: found out when it first refuses a request for that reason.

    quoted: If-Match has the tag in quotes, as HTTP defines it. Ceph 16 wants it without. checksums: the
    server takes headers x-amz-checksum-….
    """

    quoted: bool = True
    checksums: bool = True


_DIALECTS: dict[tuple[str, str], _Dialect] = {}
"""By endpoint and bucket, for the whole process."""


class S3Store(Store):
    """A bucket, or a prefix of one.

    The sha256 of an object is its metadata, so that checking it does not depend on what the server supports.
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
        config = Config(
            **network,
            s3={"addressing_style": cast(Any, settings.addressing)},
            # `_send` sends checksums itself, and `_read` has its own.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        with self._explained():
            session = boto3.Session(region_name=settings.region)
            self._client: S3Client = session.client("s3", endpoint_url=endpoint_url, config=config)
            if bypasses_proxy(self._client.meta.endpoint_url):
                config = config.merge(Config(proxies={}))
                self._client = session.client("s3", endpoint_url=endpoint_url, config=config)
        self._where = f"{self.uri} at {self._client.meta.endpoint_url}"
        self._dialect = _DIALECTS.setdefault((self._client.meta.endpoint_url, bucket), _Dialect())
        self._sends_checksums = settings.checksums
        self._client.meta.events.register("needs-retry.s3.HeadBucket", _redirect_once)
        self._client.meta.events.register("after-call.s3", _refuse_other_servers)

    def exists(self, key: str) -> bool:
        return bool(self._request("head_object", key, 404) != 404)

    def list(self, prefix: str = "") -> Iterator[str]:
        return self._pages(checked_prefix(prefix))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self._put(key, data, None) is not None

    def swap(self, key: str, expected: str | None, data: bytes) -> str:
        tag = self._put(key, data, expected)
        if tag is None:
            raise self._conflict(key, expected)
        return tag

    def probe(self) -> None:
        Store.probe(self.with_short_timeouts())

    def peculiarities(self) -> tuple[str, ...]:
        """What was found out so far that differs from AWS, and is respected from then on."""
        found = {
            "If-Match without quotes, as Ceph 16": self._dialect.quoted,
            "no headers x-amz-checksum-…": self._dialect.checksums,
        }
        return tuple(text for text, usual in found.items() if not usual)

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

    def _put(self, key: str, data: bytes, expected: str | None) -> str | None:
        """The tag of what was written; None where the object has another tag than `expected`, or where that
        is None and there is an object."""
        if len(data) > _PUT_LIMIT:
            raise StoreError(
                f"{self.where(key)}: found {len(data)} bytes, expected at most {_PUT_LIMIT} in one object; "
                "store it in parts"
            )
        answer: Any = None
        asked_for_form = False
        for attempt in range(8):
            answer = self._send(key, data, self._condition(expected))
            if not isinstance(answer, int):
                return str(answer["ETag"])
            if answer != 409:
                if expected is None or not self._has_tag(key, expected):
                    return None
                # The condition holds: either the pointer has just moved back to this version, or the server
                # wants the tag in the other form.
                if not asked_for_form:
                    asked_for_form = True
                    self._find_form_of_tags()
                    continue
            time.sleep(min(0.05 * 2**attempt, 2))  # 409: another conditional write of this key is in progress
        if answer != 409:
            return None
        raise StoreError(
            f"{self.where(key)}: the server refused it 8 times because others were writing it (409); run the "
            "same command again"
        )

    def _condition(self, expected: str | None) -> dict[str, str]:
        if expected is None:
            return {"IfNoneMatch": "*"}
        return {"IfMatch": expected if self._dialect.quoted else _bare(expected)}

    def _has_tag(self, key: str, tag: str) -> bool:
        head = self._request("head_object", key, 404)
        return head != 404 and _bare(head["ETag"]) == _bare(tag)

    def _find_form_of_tags(self) -> None:
        """Finds out whether the server wants the tag of If-Match in quotes, by an object of its own.

        A form counts only if the server refuses another tag in it: one that it does not understand may be
        ignored. Raises StoreError where neither form is right.
        """
        key = f"probes/{secrets.token_hex(8)}"
        tag = self._put(key, b"first", None) or ""
        try:
            for quoted, wrong, right in ((True, f'"{_NO_TAG}"', tag), (False, _NO_TAG, _bare(tag))):
                if not isinstance(self._send(key, b"wrong", {"IfMatch": wrong}, 400), int):
                    break
                if not isinstance(self._send(key, b"right", {"IfMatch": right}, 400), int):
                    self._dialect.quoted = quoted
                    if not quoted:
                        log.info("%s: the server takes If-Match only without quotes", self._where)
                    return
        finally:
            self._remove(key)
        raise StoreError(
            f"{self._where}: the server refuses If-Match with the tag that it gave the object itself, with "
            "quotes and without; Apportion would lose results there: choose a store with conditional writes "
            "(option `store`)"
        )

    def _send(self, key: str, data: bytes, condition: dict[str, str], *accepted: int) -> Any:
        """The answer to a PutObject or, where it was refused because of its condition or with one of the
        statuses `accepted`, the status.

        Where the server refuses the header of the checksum, the request is sent again with an MD5, which
        every server knows, and so is every later one.
        """
        digest, writer = hashlib.sha256(data), secrets.token_hex(8)
        arguments = {
            "Body": data,
            "Metadata": {"sha256": digest.hexdigest(), "writer": writer},
            **self._encryption,
            **condition,
        }
        if "IfMatch" in condition:
            accepted += (404,)  # there is no object to match

        def put(**checksum: str) -> Any:
            answer = self._request("put_object", key, 409, 412, *accepted, **checksum, **arguments)
            if answer in (404, 412):
                # Perhaps the first attempt succeeded, its answer was lost, and boto3's retry was refused
                # because of it: then the object has our `writer`.
                head = self._request("head_object", key, 404)
                if head != 404 and _metadata(head).get("writer") == writer:
                    return head
            return answer

        usual = self._sends_checksums and self._dialect.checksums
        if usual:
            try:
                return put(ChecksumSHA256=b64encode(digest.digest()).decode())
            except StoreError as error:
                if not may_be_of_checksums(error.__cause__):
                    raise
        answer = put(ContentMD5=b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode())
        if usual:
            log.info("%s: the server refuses x-amz-checksum-sha256, and gets Content-MD5", self._where)
            self._dialect.checksums = False
        return answer

    def _read(self, key: str) -> Pointer:
        from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

        for attempt in (1, 2, 3):
            answer = self._request("get_object", key, 404)
            if answer == 404:
                raise NotFound(f"{self.where(key)}: nothing is stored there")
            with self._explained():
                try:
                    data = answer["Body"].read()
                    break
                except (ResponseStreamingError, IncompleteReadError, ReadTimeoutError):
                    if attempt == 3:  # boto3 retries a request, but not the reading of a body that breaks off
                        raise
        recorded = _metadata(answer).get("sha256")
        if recorded is None:
            raise Damaged(
                f"{self.where(key)}: sha256 of its {len(data)} bytes is {sha256(data)}, expected that of its "
                "metadata (x-amz-meta-sha256), found none: another program wrote it, or the server, or a "
                f"proxy in front of it, drops metadata; {NOT_OVERWRITTEN}"
            )
        return self._verified(key, data, {recorded}, answer["ETag"])

    def _lost(self, key: str) -> str:
        for operation in ("head_object", "get_object"):
            answer = self._request(operation, key, 404)
            if answer == 404:
                return ""  # `probe` says so
            if operation == "get_object":
                answer["Body"].close()
            if missing := {"sha256", "writer"} - _metadata(answer).keys():
                names = ", ".join(f"x-amz-meta-{name}" for name in sorted(missing))
                method = operation.partition("_")[0].upper()
                return (
                    f"drops the metadata of objects ({names} of a PUT is missing in the answer to {method}), "
                    "where the checksum of each object is: let the server, or the proxy in front of it, keep "
                    "the headers x-amz-meta-*"
                )
        return ""

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


_NO_TAG = "0" * 32
"""A tag that no object has."""


def _bare(tag: str) -> str:
    """A tag without its quotes."""
    return tag.strip('"')


def _metadata(answer: Any) -> dict[str, str]:
    """The metadata of an object. Some servers and proxies write its names with capital letters."""
    return {name.lower(): value for name, value in answer["Metadata"].items()}


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
