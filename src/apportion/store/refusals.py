"""What S3 refuses, in words that help: why, and what to change."""

import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

SKEW = timedelta(minutes=15)
"""Signatures are good for so long: S3 takes none from a clock that differs by more."""

_AGAIN = "nothing is lost: then run the same command again"

_ENDPOINT = "no answer from the endpoint: check AWS_ENDPOINT_URL_S3 and the network"
_CREDENTIALS = "no usable credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or an identity of the pod"
_EXPIRED = f"the credentials are past their time: renew them (AWS_SESSION_TOKEN, AWS_PROFILE, or the identity of the pod); {_AGAIN}"
_REGION = "the bucket is in another region: set AWS_REGION to its own, and AWS_ENDPOINT_URL_S3 to an endpoint there or to nothing"
_REDIRECTED = "the endpoint sends us elsewhere: see that http or https and the name are right in AWS_ENDPOINT_URL_S3, and AWS_REGION"
_FULL = f"the bucket or its server is full: raise the quota, or let old weights expire (apportion lifecycle CONFIG --days N); {_AGAIN}"
_BUSY = f"the server has too much to do, or is starting: run fewer shards (compute.shards), or wait; {_AGAIN}"
_TLS = (
    "no trusted connection: name the file of the certificate authority in AWS_CA_BUNDLE, and see that "
    "http or https and the name are right in AWS_ENDPOINT_URL_S3"
)
_KMS = "the key for encryption cannot be used: check APPORTION_S3_KMS_KEY, and that the credentials may kms:GenerateDataKey and kms:Decrypt"
_NOT_S3 = "what answers is no S3 server: check AWS_ENDPOINT_URL_S3"
_ACCESS = "access denied: the credentials need s3:GetObject, s3:PutObject and s3:ListBucket"

_HINTS = {
    "NoSuchBucket": "the bucket does not exist: create it or name another",
    "404": "not an S3 endpoint, it seems: check AWS_ENDPOINT_URL_S3",
    # a HEAD has no body to name its error: botocore gives the status instead
    **dict.fromkeys(("AccessDenied", "403"), _ACCESS),
    **dict.fromkeys(("NoCredentialsError", "PartialCredentialsError", "InvalidAccessKeyId", "SignatureDoesNotMatch"), _CREDENTIALS),
    **dict.fromkeys(("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"), _EXPIRED),
    **dict.fromkeys(("InvalidToken", "CredentialRetrievalError", "UnauthorizedSSOTokenError", "TokenRetrievalError"), _EXPIRED),
    **dict.fromkeys(("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError"), _ENDPOINT),
    "400": "the server calls the request a bad one: check AWS_REGION, the credentials and AWS_ENDPOINT_URL_S3",
    "SSLError": _TLS,
    "NotS3": _NOT_S3,
    "InvalidObjectState": "a lifecycle rule moved the object to an archive: restore it, and limit the rule to other prefixes",
    **dict.fromkeys(("PermanentRedirect", "TemporaryRedirect", "301", "302", "307", "308"), _REDIRECTED),
    **dict.fromkeys(("AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "InvalidRegionName"), _REGION),
    **dict.fromkeys(("QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "507"), _FULL),
    **dict.fromkeys(("SlowDown", "SlowDownRead", "SlowDownWrite", "ServiceUnavailable", "XMinioServerNotInitialized", "503"), _BUSY),
    **dict.fromkeys(("KMS.NotFoundException", "KMS.DisabledException", "KMS.KMSInvalidStateException", "KMSNotConfigured"), _KMS),
}

_OF_OPERATION = {
    ("GetBucketLifecycleConfiguration", "AccessDenied"): "access denied: the credentials need s3:GetLifecycleConfiguration",
    ("PutBucketLifecycleConfiguration", "AccessDenied"): "access denied: the credentials need s3:PutLifecycleConfiguration",
    ("GetBucketLifecycleConfiguration", "NotImplemented"): "the server knows no lifecycle rules: delete old weights yourself",
    ("PutBucketLifecycleConfiguration", "NotImplemented"): "the server knows no lifecycle rules: delete old weights yourself",
}


_WEB, _POD = "AWS_WEB_IDENTITY_TOKEN_FILE", ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")


class NotS3(ValueError):
    """An answer that no S3 server gives."""


def hint(error: Exception, encrypted: bool) -> str:
    """What an error of botocore means and what to change; `encrypted` says whether encryption was asked for."""
    from botocore.exceptions import ClientError

    if _of_identity(error):
        return _identity()
    if not isinstance(error, ClientError):
        return _HINTS.get(type(error).__name__, "check the AWS_… settings and the server")
    response: Any = error.response
    code = response.get("Error", {}).get("Code", "")
    differs = skew(response)
    if code == "RequestTimeTooSkewed" or (code == "403" and differs is not None and abs(differs) > SKEW):
        by = "" if differs is None else f" by {spoken(differs)}"
        return f"the clocks of this machine and of the server differ{by}: set the clock (NTP); {_AGAIN}"
    if found := _OF_OPERATION.get((error.operation_name, code)):
        return found
    if code == "500" and re.search("html|json", response["ResponseMetadata"].get("HTTPHeaders", {}).get("content-type", "")):
        return _NOT_S3  # botocore says 500 of an answer of 200, too, that is no XML
    if code == "NotImplemented":
        others = ", or the encryption that APPORTION_S3_SSE asks for" if encrypted else ""
        return f"the server lacks conditional writes (If-None-Match, If-Match){others}: use one that has them"
    if code == "AccessDenied" and encrypted:
        return f"{_ACCESS}, and of a KMS key kms:GenerateDataKey and kms:Decrypt"
    status = response["ResponseMetadata"].get("HTTPStatusCode")
    return _HINTS.get(code) or (_HINTS.get(str(status)) if status != 400 else None) or "check the server"


def _of_identity(error: Any) -> bool:
    """Whether it is the identity that gives no credentials, before the store was asked anything."""
    from botocore.exceptions import BotoCoreError, ClientError

    if isinstance(error, ClientError):
        return error.operation_name.startswith("AssumeRole")
    if isinstance(error, BotoCoreError) and (asked := error.kwargs.get("endpoint_url")):
        return bool(re.search(r"[/.]sts[.-]", asked)) or asked.startswith(os.environ.get("AWS_ENDPOINT_URL_STS") or "none")
    if not any(name in os.environ for name in (_WEB, *_POD)):
        return False
    if isinstance(error, BotoCoreError):
        return type(error).__name__ in ("CredentialRetrievalError", "InvalidConfigError")
    # boto3 makes no errors of its own of a token file and of what a node's agent says; an endpoint that is no URL is a ValueError too.
    return not isinstance(error, ValueError) or isinstance(error, UnicodeError) or str(error).startswith(("Unsupported host", "Auth token"))


def _identity() -> str:
    """What a pod's identity hangs on."""
    if path := os.environ.get(_WEB):
        role = os.environ.get("AWS_ROLE_ARN") or "that AWS_ROLE_ARN names"
        return (
            f"the pod's identity ({_WEB} {path}) gives no credentials: see the annotation eks.amazonaws.com/role-arn of the service "
            f"account, the trust policy of the role {role}, and that STS can be reached"
        )
    if name := next((name for name in _POD if name in os.environ), None):
        return (
            f"the pod's identity ({name}) gives no credentials: see the pod identity association of the service account, and that the "
            "agent runs on the node"
        )
    return "the role gives no credentials: see AWS_PROFILE and the trust policy of the role"


def skew(response: Mapping[str, Any]) -> timedelta | None:
    """How far the server's clock is ahead of ours, by what it has just answered; None where it tells no time."""
    told = response.get("Error", {}).get("ServerTime") or response["ResponseMetadata"].get("HTTPHeaders", {}).get("date")
    if not told:
        return None
    try:
        server = datetime.fromisoformat(told) if told[:1].isdigit() else parsedate_to_datetime(told)
    except ValueError:
        return None
    return server.replace(tzinfo=server.tzinfo or UTC) - datetime.now(UTC)


def spoken(differs: timedelta) -> str:
    """A difference of clocks, as somebody would say it."""
    seconds = abs(differs.total_seconds())
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
