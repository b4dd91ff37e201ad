"""Settings of an S3 server from the environment, besides those that boto3 itself reads (AWS_…): addressing,
encryption, region, certificate authority, checksums, and networks without a proxy."""

import os
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

from apportion.config.credentials import AWS_CREDENTIALS, SECRET, unsendable
from apportion.errors import StoreError

ADDRESSING = ("auto", "path", "virtual")
ENCRYPTION = ("AES256", "aws:kms")
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "MLFLOW_S3_ENDPOINT_URL")


@dataclass(frozen=True)
class Environment:
    """encryption: arguments of every PutObject. region: None leaves the choice to boto3. checksums: whether
    to send headers x-amz-checksum-…."""

    addressing: str
    encryption: dict[str, Any]
    region: str | None
    checksums: bool


def environment() -> Environment:
    """The settings of this process. Raises StoreError for a value that no server accepts.

    Without this check, such a value would fail at the first writing, or would be ignored silently.
    """
    if wrong := unsendable(AWS_CREDENTIALS):
        raise StoreError(wrong)
    for name in ENDPOINTS:
        address = os.environ.get(name, "")
        if "@" in address or SECRET.search(address):
            raise StoreError(
                f"found a user or a password in {name}, expected none: use {', '.join(AWS_CREDENTIALS[:2])}"
            )
    addressing = _one_of("APPORTION_S3_ADDRESSING", ADDRESSING) or "auto"
    algorithm = _one_of("APPORTION_S3_SSE", ENCRYPTION)
    kms_key = os.environ.get("APPORTION_S3_KMS_KEY")
    if kms_key and algorithm != "aws:kms":
        raise StoreError(
            f"found APPORTION_S3_KMS_KEY with APPORTION_S3_SSE={algorithm or ''}, expected "
            "APPORTION_S3_SSE=aws:kms"
        )
    authority = os.environ.get("AWS_CA_BUNDLE")
    if authority and not Path(authority).exists():  # a folder of certificates is also accepted
        raise StoreError(
            f"found no file {authority}, which AWS_CA_BUNDLE names, expected the certificate of an authority"
        )
    arguments = {"ServerSideEncryption": algorithm, "SSEKMSKeyId": kms_key}
    encryption = {name: value for name, value in arguments.items() if value}
    # boto3 reads AWS_DEFAULT_REGION only; AWS's other tools and the pods of EKS use AWS_REGION.
    region = os.environ.get("AWS_REGION") or None
    checksums = os.environ.get("AWS_REQUEST_CHECKSUM_CALCULATION", "").lower() != "when_required"
    return Environment(addressing, encryption, region, checksums)


def bypasses_proxy(url: str) -> bool:
    """Whether the host of a URL is an address in a network of NO_PROXY, such as 10.0.0.0/8.

    boto3 compares names and addresses there, but no networks; MLflow's client does both. Like that client,
    this does not look up the address of a name.
    """
    entries = getproxies_environment().get("no", "").split(",")
    try:
        address = ip_address(urlsplit(url).hostname or "")
    except ValueError:
        return False
    return any(_contains(entry.strip(), address) for entry in entries if "/" in entry)


def _contains(network: str, address: Any) -> bool:
    """Whether an entry of NO_PROXY is a network with this address."""
    try:
        return address in ip_network(network, strict=False)
    except ValueError:
        return False


def _one_of(name: str, allowed: tuple[str, ...]) -> str | None:
    """The value of a variable; None where it is unset or empty. Raises StoreError for another value."""
    value = os.environ.get(name)
    if value and value not in allowed:
        raise StoreError(f"found {name}={value}, expected one of {', '.join(allowed)}")
    return value or None
