"""Explanations of errors of S3: what an error means, and what to change."""

import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

MAX_CLOCK_DIFFERENCE = timedelta(minutes=15)
"""S3 refuses requests signed by a clock that differs from its own by more."""

_AGAIN = "nothing is lost: run the same command again after that"

_ENDPOINT = "no answer from the endpoint: check AWS_ENDPOINT_URL_S3 and the network"
_CREDENTIALS = (
    "no usable credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or an identity of "
    "the pod"
)
_EXPIRED = (
    "the credentials have expired: renew them (AWS_SESSION_TOKEN, AWS_PROFILE, or the identity of the pod); "
    f"{_AGAIN}"
)
_REGION = (
    "the bucket is in another region: set AWS_REGION to its own, and AWS_ENDPOINT_URL_S3 to an endpoint "
    "there or to nothing"
)
_REDIRECTED = (
    "the endpoint redirects to another address: check http or https and the name in AWS_ENDPOINT_URL_S3, "
    "and AWS_REGION"
)
_FULL = (
    "the bucket or its server is full: raise the quota, or let old weights expire (apportion lifecycle "
    f"CONFIG --days N); {_AGAIN}"
)
_BUSY = f"the server is overloaded, or is starting: run fewer shards (compute.shards), or wait; {_AGAIN}"
_TLS = (
    "no trusted connection: name the file of the certificate authority in AWS_CA_BUNDLE, and check http or "
    "https and the name in AWS_ENDPOINT_URL_S3"
)
_KMS = (
    "the key for encryption cannot be used: check APPORTION_S3_KMS_KEY, and that the credentials may "
    "kms:GenerateDataKey and kms:Decrypt"
)
_NOT_S3 = "the answer is not from an S3 server: check AWS_ENDPOINT_URL_S3"
_ACCESS = "access denied: the credentials need s3:GetObject, s3:PutObject and s3:ListBucket"
_NO_CHECKSUMS = (
    "the server refuses the headers x-amz-checksum-… and x-amz-sdk-checksum-algorithm: use a newer version "
    "of it"
)
_NO_LIFECYCLE = "the server has no lifecycle rules: delete old weights yourself"


def _same(explanation: str, *names: str) -> dict[str, str]:
    return dict.fromkeys(names, explanation)


_EXPLANATIONS = {
    "NoSuchBucket": "the bucket does not exist: create it or name another",
    "404": "probably not an S3 endpoint: check AWS_ENDPOINT_URL_S3",
    # The answer to a HEAD has no body that names its error: botocore gives the status instead.
    **_same(_ACCESS, "AccessDenied", "403"),
    **_same(_CREDENTIALS, "NoCredentialsError", "PartialCredentialsError"),
    **_same(_CREDENTIALS, "InvalidAccessKeyId", "SignatureDoesNotMatch"),
    **_same(_EXPIRED, "ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"),
    **_same(_EXPIRED, "InvalidToken", "CredentialRetrievalError"),
    **_same(_EXPIRED, "UnauthorizedSSOTokenError", "TokenRetrievalError"),
    **_same(_ENDPOINT, "EndpointConnectionError", "ConnectTimeoutError"),
    **_same(_ENDPOINT, "ReadTimeoutError", "ConnectionClosedError"),
    "400": "the server calls the request invalid: check AWS_REGION, the credentials and AWS_ENDPOINT_URL_S3",
    "SSLError": _TLS,
    "NotS3": _NOT_S3,
    "InvalidObjectState": (
        "a lifecycle rule moved the object to an archive: restore it, and limit the rule to other prefixes"
    ),
    **_same(_REDIRECTED, "PermanentRedirect", "TemporaryRedirect", "301", "302", "307", "308"),
    **_same(
        _REGION, "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "InvalidRegionName"
    ),
    **_same(_FULL, "QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull"),
    **_same(_FULL, "InsufficientStorage", "507"),
    **_same(_BUSY, "SlowDown", "SlowDownRead", "SlowDownWrite", "ServiceUnavailable"),
    **_same(_BUSY, "XMinioServerNotInitialized", "503"),
    **_same(_KMS, "KMS.NotFoundException", "KMS.DisabledException", "KMS.KMSInvalidStateException"),
    **_same(_KMS, "KMSNotConfigured"),
}
"""By the name of botocore's exception, the error code of the server or the HTTP status."""

_EXPLANATIONS_OF_OPERATIONS = {
    ("GetBucketLifecycleConfiguration", "AccessDenied"): (
        "access denied: the credentials need s3:GetLifecycleConfiguration"
    ),
    ("PutBucketLifecycleConfiguration", "AccessDenied"): (
        "access denied: the credentials need s3:PutLifecycleConfiguration"
    ),
    ("GetBucketLifecycleConfiguration", "NotImplemented"): _NO_LIFECYCLE,
    ("PutBucketLifecycleConfiguration", "NotImplemented"): _NO_LIFECYCLE,
}
"""By operation and error code; these come before the others."""

_WEB_IDENTITY = "AWS_WEB_IDENTITY_TOKEN_FILE"
_POD_IDENTITY = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")


class NotS3(ValueError):
    """An answer that no S3 server gives."""


def hint(error: Exception, encrypted: bool) -> str:
    """What an error of botocore means and what to change. encrypted: the settings request encryption."""
    from botocore.exceptions import ClientError

    if _is_of_identity(error):
        return _identity()
    if not isinstance(error, ClientError):
        return _EXPLANATIONS.get(type(error).__name__, "check the AWS_… settings and the server")
    response: Any = error.response
    code = response.get("Error", {}).get("Code", "")
    difference = clock_difference(response)
    refused_by_clock = code == "403" and difference is not None and abs(difference) > MAX_CLOCK_DIFFERENCE
    if code == "RequestTimeTooSkewed" or refused_by_clock:
        amount = "" if difference is None else f" by {duration_text(difference)}"
        return f"the clocks of this machine and of the server differ{amount}: set the clock (NTP); {_AGAIN}"
    if explanation := _EXPLANATIONS_OF_OPERATIONS.get((error.operation_name, code)):
        return explanation
    if _names_checksums(error):
        return _NO_CHECKSUMS
    content_type = response["ResponseMetadata"].get("HTTPHeaders", {}).get("content-type", "")
    if code == "500" and re.search("html|json", content_type):
        return _NOT_S3  # botocore gives the code 500 also to an answer of status 200 whose body is not XML
    if code == "NotImplemented":
        others = ", or the encryption that APPORTION_S3_SSE requests" if encrypted else ""
        return f"the server lacks conditional writes (If-None-Match, If-Match){others}: use one that has them"
    if code == "AccessDenied" and encrypted:
        return f"{_ACCESS}, and of a KMS key kms:GenerateDataKey and kms:Decrypt"
    status = response["ResponseMetadata"].get("HTTPStatusCode")
    of_status = _EXPLANATIONS.get(str(status)) if status != 400 else None
    return _EXPLANATIONS.get(code) or of_status or "check the server"


_WRONG_DATA = ("BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch")
"""Codes of a refusal because the data that arrived is not what was sent."""

_UNKNOWN_HEADER = ("NotImplemented", "InvalidArgument", "InvalidRequest", "400", "501")
"""Codes of servers that refuse a header without naming it."""


def may_be_of_checksums(error: Any) -> bool:
    """Whether a server may have refused a request because of a header x-amz-checksum-…. Without it, the
    request is another one that is as safe, so a false alarm costs that request only."""
    from botocore.exceptions import ClientError

    if not isinstance(error, ClientError):
        return False
    status = error.response["ResponseMetadata"].get("HTTPStatusCode")
    code = error.response.get("Error", {}).get("Code")
    unknown = code in _UNKNOWN_HEADER or _names_checksums(error)
    return status in (400, 501) and code not in _WRONG_DATA and unknown


def _names_checksums(error: Any) -> bool:
    """Whether the error of a server names a header of checksums."""
    texts = error.response.get("Error", {}).values()
    return any(re.search("x-amz-(sdk-)?checksum", str(text), re.IGNORECASE) for text in texts)


def _is_of_identity(error: Any) -> bool:
    """Whether the error occurred while boto3 obtained credentials, before any request to the store."""
    from botocore.exceptions import BotoCoreError, ClientError

    if isinstance(error, ClientError):
        return error.operation_name.startswith("AssumeRole")
    if isinstance(error, BotoCoreError) and (endpoint := error.kwargs.get("endpoint_url")):
        own_endpoint = os.environ.get("AWS_ENDPOINT_URL_STS") or "none"
        return bool(re.search(r"[/.]sts[.-]", endpoint)) or endpoint.startswith(own_endpoint)
    if not any(name in os.environ for name in (_WEB_IDENTITY, *_POD_IDENTITY)):
        return False
    if isinstance(error, BotoCoreError):
        return type(error).__name__ in ("CredentialRetrievalError", "InvalidConfigError")
    # For a missing token file and for answers of a node's agent boto3 has no exceptions of its own. A
    # ValueError may also come from an endpoint that is not a URL.
    if isinstance(error, ValueError) and not isinstance(error, UnicodeError):
        return str(error).startswith(("Unsupported host", "Auth token"))
    return True


def _identity() -> str:
    """What to check where the identity of a pod gives no credentials."""
    if path := os.environ.get(_WEB_IDENTITY):
        role = os.environ.get("AWS_ROLE_ARN") or "that AWS_ROLE_ARN names"
        return (
            f"the pod's identity ({_WEB_IDENTITY} {path}) gives no credentials: check the annotation "
            "eks.amazonaws.com/role-arn of the service account, "
            f"the trust policy of the role {role}, and that STS can be reached"
        )
    if name := next((name for name in _POD_IDENTITY if name in os.environ), None):
        return (
            f"the pod's identity ({name}) gives no credentials: check the pod identity association of the "
            "service account, and that the agent runs on the node"
        )
    return "the role gives no credentials: check AWS_PROFILE and the trust policy of the role"


def clock_difference(response: Mapping[str, Any]) -> timedelta | None:
    """How far the server's clock is ahead of ours, by an answer that just arrived; None without a time."""
    headers = response["ResponseMetadata"].get("HTTPHeaders", {})
    text = response.get("Error", {}).get("ServerTime") or headers.get("date")
    if not text:
        return None
    try:
        server = datetime.fromisoformat(text) if text[:1].isdigit() else parsedate_to_datetime(text)
    except ValueError:
        return None
    return server.replace(tzinfo=server.tzinfo or UTC) - datetime.now(UTC)


def duration_text(difference: timedelta) -> str:
    """A difference of clocks in rounded seconds, minutes or hours."""
    seconds = abs(difference.total_seconds())
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
