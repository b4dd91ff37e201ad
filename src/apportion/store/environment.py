"""What a process is told of an S3 server beside what boto3 itself reads (AWS_…): addressing, encryption, region, certificate authority."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apportion.config import AWS_CREDENTIALS, SECRET, unsendable
from apportion.errors import StoreError

ADDRESSING = ("auto", "path", "virtual")
ENCRYPTION = ("AES256", "aws:kms")
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "MLFLOW_S3_ENDPOINT_URL")


@dataclass(frozen=True)
class Environment:
    """`encryption` goes with every object that is put; a `region` of None leaves boto3 to find one."""

    addressing: str
    encryption: dict[str, Any]
    region: str | None


def environment() -> Environment:
    """Raises StoreError for a value that no server could do anything with: it would show only when something is written, or never."""
    if wrong := unsendable(AWS_CREDENTIALS):
        raise StoreError(wrong)
    for name in ENDPOINTS:
        if "@" in os.environ.get(name, "") or SECRET.search(os.environ.get(name, "")):
            raise StoreError(f"found a user or a password in {name}, expected none: use {', '.join(AWS_CREDENTIALS[:2])}")
    addressing = _one_of("APPORTION_S3_ADDRESSING", ADDRESSING) or "auto"
    algorithm, kms_key = _one_of("APPORTION_S3_SSE", ENCRYPTION), os.environ.get("APPORTION_S3_KMS_KEY")
    if kms_key and algorithm != "aws:kms":
        raise StoreError(f"found APPORTION_S3_KMS_KEY beside APPORTION_S3_SSE={algorithm or ''}, expected APPORTION_S3_SSE=aws:kms")
    authority = os.environ.get("AWS_CA_BUNDLE")
    if authority and not Path(authority).exists():  # a folder of certificates is fine too
        raise StoreError(f"found no file {authority}, which AWS_CA_BUNDLE names, expected the certificate of an authority")
    encryption = {"ServerSideEncryption": algorithm, "SSEKMSKeyId": kms_key}
    # boto3 reads AWS_DEFAULT_REGION alone, where AWS's other tools and the pods of EKS say AWS_REGION.
    return Environment(addressing, {name: told for name, told in encryption.items() if told}, os.environ.get("AWS_REGION") or None)


def _one_of(name: str, known: tuple[str, ...]) -> str | None:
    found = os.environ.get(name)
    if found and found not in known:
        raise StoreError(f"found {name}={found}, expected one of {', '.join(known)}")
    return found or None
