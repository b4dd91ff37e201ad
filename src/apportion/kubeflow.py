"""Where Kubeflow Pipelines (KFP) is, how one gets there, and who we are to it: the rules of whoever speaks to it, in a cluster or not."""

import os
import re
from base64 import b64encode
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from pydantic import ValidationError

from apportion.config import Kfp
from apportion.errors import ClusterError

IN_CLUSTER = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
"""The API server of the usual installation."""

TOKEN = "/var/run/secrets/kubeflow/pipelines/token"  # noqa: S105 (where a pod's is, to KFP's own client too)


class Token(NamedTuple):
    """A token: as text, or in a file that is read anew for each request, as the kubelet writes it anew; or neither. `mend` says how to
    have a better one, and shows nothing of it."""

    mend: str
    text: str | None = None
    path: str | None = None


class Proxy(NamedTuple):
    """Of HTTP: its address, and the header that says who we are to it, if it asks. Neither is to be shown."""

    address: str
    headers: dict[str, str]


def address(told: Kfp) -> str | None:
    """From the configuration, the environment, or the usual one in a cluster; None where none is known. Raises ClusterError."""
    usual = IN_CLUSTER if "KUBERNETES_SERVICE_HOST" in os.environ else None
    host = told.host or _address("KF_PIPELINES_ENDPOINT") or usual
    return host.rstrip("/") if host else None


def pages(host: str) -> str:
    """Where a browser finds what the API at `host` tells of. Raises ClusterError."""
    return (_address("KF_PIPELINES_UI_ENDPOINT") or host).rstrip("/")


def _address(variable: str) -> str | None:
    """What an environment variable says, by the rule of `cluster.kfp.host`. The error shows nothing of it, for it may hold a password."""
    text = os.environ.get(variable, "").strip()
    try:
        return Kfp(host=text).host if text else None
    except ValidationError:
        raise ClusterError(
            f"found no address, or a user or a password beside it, in {variable}, expected http://… or https://… alone: "
            "KFP_TOKEN or KFP_TOKEN_FILE say who we are"
        ) from None


def proxy(host: str) -> Proxy | None:
    """What stands between us and a host, by HTTP_PROXY, HTTPS_PROXY and NO_PROXY as Python's own urllib reads them. Raises ClusterError."""
    scheme, place = urlsplit(host)[:2]
    told = getproxies().get(scheme)
    if not told or proxy_bypass(place):
        return None
    found = re.fullmatch(r"(?:(https?)://)?(?!\w+://)(?:(\S*)@)?((?:[^\s/?#@:\[\]]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?)/?", told.strip())
    if not found:
        raise ClusterError(f"found no address in {scheme.upper()}_PROXY, expected http://host:port")
    user = b64encode(unquote(found[2]).encode()).decode() if found[2] else None
    return Proxy(f"{found[1] or 'http'}://{found[3]}", {"Proxy-Authorization": f"Basic {user}"} if user else {})


def token() -> Token:
    """From KFP_TOKEN, the file that KFP_TOKEN_FILE names, or the pod's service account; else none.

    Raises ClusterError where there is none in the place that is named.
    """
    if text := os.environ.get("KFP_TOKEN", "").strip():
        return Token("renew KFP_TOKEN", text=_one_word(text, "KFP_TOKEN"))
    if path := os.environ.get("KFP_TOKEN_FILE"):
        return _of(path, f"renew {path} (KFP_TOKEN_FILE)", "KFP_TOKEN_FILE")
    path = os.environ.get("KF_PIPELINES_SA_TOKEN_PATH", TOKEN)
    if Path(path).exists():
        mend = f"see that {path} is a token of this pod's service account for the audience pipelines.kubeflow.org, and not past its time"
        return _of(path, mend, "KF_PIPELINES_SA_TOKEN_PATH")
    return Token("set KFP_TOKEN or KFP_TOKEN_FILE: none is set, so no token was sent")


def read(path: str, variable: str) -> str:
    """The text of a file that an environment variable names. Raises ClusterError."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ClusterError(f"cannot read {path}, which {variable} names: {error.strerror}") from error


def _of(path: str, mend: str, variable: str) -> Token:
    return Token(mend, text=_one_word(read(path, variable).strip(), path), path=path)


def _one_word(token: str, where: str) -> str:
    """Anything else is no header of HTTP, and the error that says so would show it."""
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise ClusterError(f"found no token, or blanks inside it, in {where}, expected one word")
    return token
