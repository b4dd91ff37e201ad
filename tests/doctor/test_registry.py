"""Whether images can be pulled, asked of a small registry that speaks the distribution API."""

import json
import threading
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from kubernetes_api import SECRET, KubernetesApi, secret
from servers import free_port

from apportion.config import Cluster
from apportion.doctor import Finding
from apportion.doctor.cluster import check_images
from apportion.doctor.kubernetes import Kubernetes, connect
from apportion.doctor.registry import HUB, Login, Reference, logins, reference
from apportion.doctor.web import ask

DIGEST = "sha256:" + "1" * 64


class Registry:
    """One image, `team/cpu:1`; `kind` says how it asks who one is: not at all, Basic, or Bearer with a token of its own."""

    def __init__(self) -> None:
        self.host, self.kind, self.public, self.requests = "", "Bearer", False, list[tuple[str, str, str]]()
        self.status: int | None = None

    def answer(self, method: str, path: str, authorization: str) -> tuple[int, dict[str, str], bytes]:
        self.requests.append((method, path, authorization))
        if path.startswith("/token"):
            known = authorization == Login("jane", SECRET).header()["Authorization"] or (self.public and not authorization)
            return (200, {}, json.dumps({"token": "of-the-registry"}).encode()) if known else (401, {}, b"{}")
        if self.status:
            return self.status, {}, b""
        basic = Login("jane", SECRET).header()["Authorization"]
        if self.kind and authorization != {"Bearer": "Bearer of-the-registry", "Basic": basic}[self.kind]:
            challenge = f'Bearer realm="http://{self.host}/token",service="registry"' if self.kind == "Bearer" else 'Basic realm="registry"'
            return 401, {"WWW-Authenticate": challenge}, b""
        found = path in ("/v2/team/cpu/manifests/1", f"/v2/team/cpu/manifests/{DIGEST}")
        return (200, {"Docker-Content-Digest": DIGEST}, b"") if found else (404, {}, b"")


@pytest.fixture
def registry() -> Iterator[Registry]:
    state = Registry()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            status, headers, body = state.answer(self.command, self.path, self.headers.get("Authorization", ""))
            assert self.command == "GET" or "application/vnd.oci.image.index.v1+json" in self.headers["Accept"]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_HEAD = handle_any  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    state.host = f"127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    server.server_close()


def found(host: str, api: Kubernetes | None = None, image: str = "team/cpu:1", **told: Any) -> Finding:
    images = {"cpu": f"{host}/{image}", "gpu": f"{host}/{image}"}
    (finding,) = check_images(Cluster.model_validate({"images": images, **told}), api)
    assert SECRET not in repr(finding)
    assert finding.check == f"image {host}/{image}"
    return finding


def says(finding: Finding, result: str, *words: str) -> None:
    text = f"{finding.found} → {finding.mend}"
    assert finding.result == result, text
    assert not [word for word in words if word not in text], text


@pytest.fixture
def pulling(cluster: KubernetesApi, registry: Registry) -> Kubernetes:
    """A cluster with a pull secret for the registry."""
    auth = b64encode(f"jane:{SECRET}".encode()).decode()
    config = json.dumps({"auths": {f"http://{registry.host}": {"auth": auth}}})
    cluster.add(secret("pull", "kubernetes.io/dockerconfigjson", **{".dockerconfigjson": config}))
    return connect(None)


def test_an_image_for_everybody(registry: Registry) -> None:
    registry.kind, registry.public = "", True
    says(found(registry.host), "ok", f"{registry.host} has it, {DIGEST[:19]}…, asked as nobody")
    registry.kind = "Bearer"  # Docker Hub and ghcr.io give a token to nobody too
    says(found(registry.host), "ok", "as nobody")
    assert registry.requests[-2][1].startswith("/token?service=registry&scope=repository%3Ateam%2Fcpu%3Apull")
    says(found(registry.host, image=f"team/cpu@{DIGEST}"), "ok", "has it, asked as nobody")
    says(found(registry.host, image=f"team/cpu:1@{DIGEST}"), "ok")


def test_an_image_that_is_not_there(registry: Registry) -> None:
    registry.public = True
    says(found(registry.host, image="team/cpu:2"), "failed", f"{registry.host} has no team/cpu 2", "push it", "cluster.images")


@pytest.mark.parametrize("kind", ["Bearer", "Basic"])
def test_with_a_pull_secret(registry: Registry, pulling: Kubernetes, kind: str) -> None:
    registry.kind = kind
    says(found(registry.host, pulling, pull_secrets=["pull"]), "ok", "asked with the pull secret")
    assert {method for method, path, _ in registry.requests if "manifests" in path} == {"HEAD"}  # nothing is pulled


@pytest.mark.parametrize("kind", ["Bearer", "Basic"])
def test_a_pull_secret_past_its_time(registry: Registry, cluster: KubernetesApi, kind: str) -> None:
    registry.kind = kind
    config = json.dumps({"auths": {registry.host: {"username": "jane", "password": f"old-{SECRET}"}}})
    cluster.add(secret("pull", "kubernetes.io/dockerconfigjson", **{".dockerconfigjson": config}))
    says(found(registry.host, connect(None), pull_secrets=["pull"]), "failed", "refuses the pull secret (HTTP 401)", "renew it")


@pytest.mark.parametrize("kind", ["Bearer", "Basic"])
def test_a_registry_that_nodes_may_know(registry: Registry, kind: str) -> None:
    """Without a pull secret a refusal says little: clouds' nodes have an identity of their own."""
    registry.kind = kind
    says(found(registry.host), "warning", "refuses nobody (HTTP 401)", "cluster.pull_secrets", "identity")
    says(found(registry.host, pull_secrets=["pull"]), "warning", "refuses nobody")


@pytest.mark.parametrize(("status", "result"), [(429, "warning"), (500, "failed"), (302, "failed")])
def test_a_registry_that_is_not_well(registry: Registry, status: int, result: str) -> None:
    registry.status = status
    assert found(registry.host).result == result


def test_no_registry() -> None:
    says(found(f"127.0.0.1:{free_port()}"), "failed", "no answer from", "see cluster.images")


def test_images_that_are_on_the_nodes(registry: Registry) -> None:
    says(found(registry.host, pull_policy="Never"), "skipped", "it must be on the nodes")
    assert registry.requests == []


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("apportion/cpu:0.1.0", Reference(HUB, "apportion/cpu", "0.1.0")),
        ("cpu:1", Reference(HUB, "library/cpu", "1")),
        ("ghcr.io/apportion/apportion-cpu:1", Reference("ghcr.io", "apportion/apportion-cpu", "1")),
        ("localhost:5000/cpu:1", Reference("localhost:5000", "cpu", "1")),
        ("localhost/cpu:1", Reference("localhost", "cpu", "1")),
        (f"r.io:8443/a/b/c:1@{DIGEST}", Reference("r.io:8443", "a/b/c", DIGEST)),
        (f"a/b@{DIGEST}", Reference(HUB, "a/b", DIGEST)),
    ],
)
def test_names_of_images(image: str, expected: Reference) -> None:
    assert reference(image) == expected


def test_logins() -> None:
    auth = b64encode(b"u:p:with:colons").decode()
    told = {"auths": {"https://index.docker.io/v1/": {"auth": auth}, "r.io:8443": {"username": "v", "password": "q"}, "e.io": {}}}
    found = logins(json.dumps(told).encode())
    assert found == {HUB: ("u", "p:with:colons"), "r.io:8443": ("v", "q"), "e.io": ("", "")}
    assert "with:colons" not in repr(found)


def test_a_password_goes_over_tls_only(registry: Registry, pulling: Kubernetes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that names another place to log in at, without TLS, gets no password sent there."""
    challenge = {"WWW-Authenticate": 'Bearer realm="http://elsewhere.example.com/token"'}
    registry.answer = lambda *asked: (401, challenge, b"")  # type: ignore[method-assign]
    asked = []
    monkeypatch.setattr("apportion.doctor.registry.ask", lambda url, *told: asked.append(url) or ask(url, *told))
    says(found(registry.host, pulling, pull_secrets=["pull"]), "failed", "refuses the pull secret")
    assert not [url for url in asked if "elsewhere" in url]
    challenge["WWW-Authenticate"] = challenge["WWW-Authenticate"].replace("http://elsewhere.example.com", "https://elsewhere.invalid")
    says(found(registry.host, pulling, pull_secrets=["pull"]), "failed", "no answer from https://elsewhere.invalid")
