"""Whether a registry has an image and gives it to us, by the distribution API: its manifest is asked for, and nothing is pulled.

It is asked from where this runs, with the pull secrets or as nobody. Nodes may reach it by another way, and clouds' nodes have an
identity of their own: where a registry refuses nobody, that is a warning.
"""

import json
import re
from base64 import b64decode, b64encode
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

from apportion.doctor.checking import Answer, Known, failed, ok, warning
from apportion.doctor.web import Reply, ask

HUB = "docker.io"
KINDS = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json"  # noqa: E501

PLAIN = re.compile(r"(localhost|127\.0\.0\.1)(:\d+)?")
"""Registries that need no TLS: container runtimes take those of the machine itself for such."""


class Login(NamedTuple):
    user: str
    password: str

    def header(self) -> dict[str, str]:
        return {"Authorization": "Basic " + b64encode(f"{self.user}:{self.password}".encode()).decode()}

    def __repr__(self) -> str:
        return f"Login({self.user!r}, …)"


class Reference(NamedTuple):
    """What the name of an image says."""

    registry: str
    repository: str
    version: str


def reference(image: str) -> Reference:
    """The first part is a registry where it looks like a host; Docker Hub's is left out in names."""
    name, at, digest = image.partition("@")
    first, slash, rest = name.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        first, rest = HUB, name if slash else f"library/{name}"
    repository, _, tag = rest.partition(":")
    return Reference(first, repository, digest if at else tag or "latest")


def logins(text: bytes) -> dict[str, Login]:
    """By registry, from a `.dockerconfigjson`; what is none of those is left out."""
    try:
        entries = json.loads(text or b"{}").get("auths", {}).items()
        return {_host(address): _login(entry) for address, entry in entries}
    except (ValueError, AttributeError) as error:
        raise Known(failed("its .dockerconfigjson is none", "kubectl create secret docker-registry makes one")) from error


def _host(address: str) -> str:
    host = urlsplit(address if "://" in address else f"//{address}").netloc
    return HUB if host in ("index.docker.io", "registry-1.docker.io", "docker.io") else host


def _login(entry: dict[str, str]) -> Login:
    if entry.get("auth"):
        user, _, password = b64decode(entry["auth"]).decode().partition(":")
        return Login(user, password)
    return Login(entry.get("username", ""), entry.get("password", ""))


def pullable(image: str, known: dict[str, Login]) -> Answer:
    asked = reference(image)
    login = known.get(asked.registry)
    reply = _manifest(asked, login)
    as_whom = "with the pull secret" if login else "as nobody"
    if reply.status == 200:
        digest = reply.headers.get("Docker-Content-Digest", "")
        return ok(f"{asked.registry} has it{f', {digest[:19]}…' if digest and '@' not in image else ''}, asked {as_whom}")
    if reply.status == 404:
        return failed(f"{asked.registry} has no {asked.repository} {asked.version}", "push it (make images), or change cluster.images")
    if reply.status in (401, 403) and login:
        return failed(
            f"{asked.registry} refuses the pull secret (HTTP {reply.status})", "renew it: it may be past its time, or of another repository"
        )
    if reply.status in (401, 403):
        return warning(
            f"{asked.registry} refuses nobody (HTTP {reply.status}): it has no such image, or wants a login",
            "nothing, where nodes have an identity that it knows; else name a pull secret in cluster.pull_secrets",
        )
    if reply.status == 429:
        return warning(f"{asked.registry} has been asked too often from here", "try again later")
    return failed(f"{asked.registry} answers HTTP {reply.status}", "see whether it is a registry (cluster.images)")


def _manifest(asked: Reference, login: Login | None) -> Reply:
    """HEAD of the manifest; asked who we are, once more with a token or as it wants."""
    host = "registry-1.docker.io" if asked.registry == HUB else asked.registry
    url = f"{'http' if PLAIN.fullmatch(host) else 'https'}://{host}/v2/{asked.repository}/manifests/{asked.version}"
    reply = ask(url, {"Accept": KINDS}, "cluster.images", "HEAD")
    scheme, _, challenge = reply.headers.get("WWW-Authenticate", "").partition(" ")
    if reply.status != 401:
        return reply
    if scheme.lower() == "basic" and login:
        return ask(url, {"Accept": KINDS} | login.header(), "cluster.images", "HEAD")
    if scheme.lower() == "bearer" and (token := _token(challenge, asked, login)):
        return ask(url, {"Accept": KINDS, "Authorization": f"Bearer {token}"}, "cluster.images", "HEAD")
    return reply


def _token(challenge: str, asked: Reference, login: Login | None) -> str | None:
    told = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    realm = told.get("realm", "")
    if not realm.startswith("https://") and not PLAIN.fullmatch(urlsplit(realm).netloc):
        return None  # a password is sent there
    query = {name: told[name] for name in ("service",) if name in told} | {"scope": f"repository:{asked.repository}:pull"}
    reply = ask(f"{realm}?{urlencode(query)}", login.header() if login else {}, "cluster.images")
    try:
        given = json.loads(reply.body)
    except ValueError:
        return None
    token = (given.get("token") or given.get("access_token")) if isinstance(given, dict) else None
    return token if token and re.fullmatch(r"[\x21-\x7e]+", token) else None  # an error about any other would show it
