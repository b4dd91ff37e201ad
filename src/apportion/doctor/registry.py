"""Checks whether a registry has an image and lets us pull it, by the distribution API.

Only the image's manifest is requested; nothing is pulled. The request comes from where this runs, with the
pull secrets or without a login. Nodes may have another way to the registry, and nodes of cloud providers have
an identity of their own. A registry that refuses a request without a login is therefore only a warning.
"""

import json
import re
from base64 import b64decode, b64encode
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

from apportion.doctor.checking import Answer, EarlyAnswer, failed, ok, warning
from apportion.doctor.web import Reply, send

HUB = "docker.io"
MANIFEST_TYPES = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)

WITHOUT_TLS = re.compile(r"(localhost|127\.0\.0\.1)(:\d+)?")
"""Registries that need no TLS: container runtimes do not require it of registries on their own machine."""


class Login(NamedTuple):
    user: str
    password: str

    def header(self) -> dict[str, str]:
        encoded = b64encode(f"{self.user}:{self.password}".encode()).decode()
        return {"Authorization": f"Basic {encoded}"}

    def __repr__(self) -> str:
        return f"Login({self.user!r}, …)"


class ImageReference(NamedTuple):
    """The parts of an image's name; `version` is a tag or a digest."""

    registry: str
    repository: str
    version: str


def reference(image: str) -> ImageReference:
    """The parts of an image's name. Without a host, it is on Docker Hub."""
    name, has_digest, digest = image.partition("@")
    first, slash, rest = name.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        first = HUB
        rest = name if slash else f"library/{name}"
    repository, _, tag = rest.partition(":")
    return ImageReference(first, repository, digest if has_digest else tag or "latest")


def logins(text: bytes) -> dict[str, Login]:
    """The logins of a `.dockerconfigjson` by registry. Raises EarlyAnswer where it is not valid."""
    try:
        entries = json.loads(text or b"{}").get("auths", {}).items()
        return {_host(address): _login(entry) for address, entry in entries}
    except (ValueError, AttributeError) as error:
        raise EarlyAnswer(
            failed(
                "its .dockerconfigjson is not valid",
                "kubectl create secret docker-registry makes a valid one",
            )
        ) from error


def _host(address: str) -> str:
    host = urlsplit(address if "://" in address else f"//{address}").netloc
    return HUB if host in ("index.docker.io", "registry-1.docker.io", "docker.io") else host


def _login(entry: dict[str, str]) -> Login:
    if entry.get("auth"):
        user, _, password = b64decode(entry["auth"]).decode().partition(":")
        return Login(user, password)
    return Login(entry.get("username", ""), entry.get("password", ""))


def check_pull(image: str, by_registry: dict[str, Login]) -> Answer:
    """Whether the image can be pulled with the login for its registry, or without one where there is none."""
    parts = reference(image)
    login = by_registry.get(parts.registry)
    reply = _manifest(parts, login)
    if reply.status == 200:
        digest = reply.headers.get("Docker-Content-Digest", "")
        shown = f", {digest[:19]}…" if digest and "@" not in image else ""
        how = "with the pull secret" if login else "without a login"
        return ok(f"{parts.registry} has it{shown}, and shows it {how}")
    if reply.status == 404:
        return failed(
            f"{parts.registry} has no {parts.repository} {parts.version}",
            "push it (make images), or change cluster.images",
        )
    if reply.status in (401, 403) and login:
        return failed(
            f"{parts.registry} refuses the pull secret (HTTP {reply.status})",
            "renew it: it may have expired, or may be for another repository",
        )
    if reply.status in (401, 403):
        return warning(
            f"{parts.registry} refuses a request without a login (HTTP {reply.status}): it has no such "
            "image, or requires a login",
            "nothing, where nodes have an identity that the registry accepts; else name a pull secret in "
            "cluster.pull_secrets",
        )
    if reply.status == 429:
        return warning(f"{parts.registry} has had too many requests from here", "try again later")
    return failed(
        f"{parts.registry} answers HTTP {reply.status}", "check whether it is a registry (cluster.images)"
    )


def _manifest(parts: ImageReference, login: Login | None) -> Reply:
    """The reply to HEAD of the manifest; where the registry requires it, of a second request with the login
    or with a token."""
    host = "registry-1.docker.io" if parts.registry == HUB else parts.registry
    scheme = "http" if WITHOUT_TLS.fullmatch(host) else "https"
    url = f"{scheme}://{host}/v2/{parts.repository}/manifests/{parts.version}"
    accept = {"Accept": MANIFEST_TYPES}
    reply = send(url, accept, "cluster.images", "HEAD")
    if reply.status != 401:
        return reply
    kind, _, challenge = reply.headers.get("WWW-Authenticate", "").partition(" ")
    if kind.lower() == "basic" and login:
        return send(url, accept | login.header(), "cluster.images", "HEAD")
    if kind.lower() == "bearer" and (token := _token(challenge, parts, login)):
        return send(url, accept | {"Authorization": f"Bearer {token}"}, "cluster.images", "HEAD")
    return reply


def _token(challenge: str, parts: ImageReference, login: Login | None) -> str | None:
    """The token from the server that the registry's challenge names; None where it gives none."""
    fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    realm = fields.get("realm", "")
    # The request may contain a password, which must not be sent without TLS.
    if not realm.startswith("https://") and not WITHOUT_TLS.fullmatch(urlsplit(realm).netloc):
        return None
    query = {"service": fields["service"]} if "service" in fields else {}
    query["scope"] = f"repository:{parts.repository}:pull"
    reply = send(f"{realm}?{urlencode(query)}", login.header() if login else {}, "cluster.images")
    try:
        body = json.loads(reply.body)
    except ValueError:
        return None
    token = (body.get("token") or body.get("access_token")) if isinstance(body, dict) else None
    # HTTP cannot send any other token, and the library's error would show it.
    return token if token and re.fullmatch(r"[\x21-\x7e]+", token) else None
