"""How to reach Kubeflow Pipelines (KFP): its address, the proxy on the way, and the token to send.

The same rules apply inside and outside a cluster.
"""

import os
import re
from base64 import b64encode
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from pydantic import ValidationError

from apportion.config.cluster import Kfp
from apportion.errors import ClusterError

IN_CLUSTER = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
"""The API server of the usual installation."""

TOKEN = "/var/run/secrets/kubeflow/pipelines/token"  # noqa: S105 (the path where KFP's own client expects a pod's token)

PROXY = re.compile(
    r"(?:(?P<scheme>https?)://)?(?!\w+://)(?:(?P<user>\S*)@)?"
    r"(?P<host>(?:[^\s/?#@:\[\]]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?)/?"
)
"""The address of a proxy, optionally with a user and a password."""


class Token(NamedTuple):
    """A token: its text, or its text and the path of its file, or nothing.

    A file is read again for each request, because the kubelet renews it. `fix` says how to get a valid token;
    it does not contain the token.
    """

    fix: str
    text: str | None = None
    path: str | None = None


class Proxy(NamedTuple):
    """An HTTP proxy: its address, and the headers that identify us to it. The headers must not be shown."""

    address: str
    headers: dict[str, str]


def address(options: Kfp) -> str | None:
    """KFP's address: from the configuration, the environment, or the usual one inside a cluster; None where
    there is none. Raises ClusterError."""
    usual = IN_CLUSTER if "KUBERNETES_SERVICE_HOST" in os.environ else None
    host = options.host or _address("KF_PIPELINES_ENDPOINT") or usual
    return host.rstrip("/") if host else None


def pages(host: str) -> str:
    """The address of KFP's web pages, for the API at `host`. Raises ClusterError."""
    return (_address("KF_PIPELINES_UI_ENDPOINT") or host).rstrip("/")


def _address(variable: str) -> str | None:
    """The address in an environment variable, by the rule of `cluster.kfp.host`.

    Raises ClusterError. Its message does not contain the value, which may hold a password.
    """
    text = os.environ.get(variable, "").strip()
    try:
        return Kfp(host=text).host if text else None
    except ValidationError:
        raise ClusterError(
            f"found no address, or one with a user or a password, in {variable}, expected http://… or "
            "https://… alone: credentials belong in KFP_TOKEN or KFP_TOKEN_FILE"
        ) from None


def proxy(host: str) -> Proxy | None:
    """The proxy between us and a host, by HTTP_PROXY, HTTPS_PROXY and NO_PROXY as Python's urllib reads them;
    None where there is none. Raises ClusterError."""
    scheme, netloc = urlsplit(host)[:2]
    text = getproxies().get(scheme)
    if not text or proxy_bypass(netloc):
        return None
    match = PROXY.fullmatch(text.strip())
    if not match:
        raise ClusterError(f"found no address in {scheme.upper()}_PROXY, expected http://host:port")
    headers = {}
    if match["user"]:
        encoded = b64encode(unquote(match["user"]).encode()).decode()
        headers["Proxy-Authorization"] = f"Basic {encoded}"
    return Proxy(f"{match['scheme'] or 'http'}://{match['host']}", headers)


def token() -> Token:
    """The token of KFP_TOKEN, of the file that KFP_TOKEN_FILE names, or of the pod's service account; else
    none.

    Raises ClusterError where the variable or the file that is used holds no token.
    """
    if text := os.environ.get("KFP_TOKEN", "").strip():
        return Token("renew KFP_TOKEN", text=_one_word(text, "KFP_TOKEN"))
    if path := os.environ.get("KFP_TOKEN_FILE"):
        return _from_file(path, f"renew {path} (KFP_TOKEN_FILE)", "KFP_TOKEN_FILE")
    path = os.environ.get("KF_PIPELINES_SA_TOKEN_PATH", TOKEN)
    if Path(path).exists():
        fix = (
            f"check that {path} is a token of this pod's service account for the audience "
            "pipelines.kubeflow.org, and that it has not expired"
        )
        return _from_file(path, fix, "KF_PIPELINES_SA_TOKEN_PATH")
    return Token("set KFP_TOKEN or KFP_TOKEN_FILE: none is set, so no token was sent")


def read(path: str, variable: str) -> str:
    """The text of a file that an environment variable names. Raises ClusterError."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ClusterError(f"cannot read {path}, which {variable} names: {error.strerror}") from error


def _from_file(path: str, fix: str, variable: str) -> Token:
    return Token(fix, text=_one_word(read(path, variable).strip(), path), path=path)


def _one_word(token: str, place: str) -> str:
    """The token. Raises ClusterError where HTTP cannot send it, because the library's error would show it."""
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise ClusterError(f"found no token, or blanks inside it, in {place}, expected one word")
    return token
