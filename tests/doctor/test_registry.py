"""The doctor's check whether images can be pulled, with a small registry of the distribution API."""

import json
import threading
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from findings import check_finding
from kubernetes_api import SECRET, KubernetesApi, secret
from servers import free_port

from apportion.config.cluster import Cluster
from apportion.doctor import Finding
from apportion.doctor.cluster import check_images
from apportion.doctor.kubernetes import Kubernetes, connect
from apportion.doctor.registry import HUB, ImageReference, Login, logins, reference
from apportion.doctor.web import send

DIGEST = "sha256:" + "1" * 64


class Registry:
    """A registry with one image, `team/cpu:1`.

    scheme: how it requires a login: not at all (empty), Basic, or Bearer with a token that it gives itself.
    public: whether it also gives a token without a login. status: the status of every answer, where there is
    one.
    """

    def __init__(self) -> None:
        self.host = ""
        self.scheme = "Bearer"
        self.public = False
        self.status: int | None = None
        self.requests: list[tuple[str, str, str]] = []

    def answer(self, method: str, path: str, authorization: str) -> tuple[int, dict[str, str], bytes]:
        self.requests.append((method, path, authorization))
        basic = Login("jane", SECRET).header()["Authorization"]
        if path.startswith("/token"):
            known = authorization == basic or (self.public and not authorization)
            return (200, {}, json.dumps({"token": "a-token"}).encode()) if known else (401, {}, b"{}")
        if self.status:
            return self.status, {}, b""
        if self.scheme and authorization != {"Bearer": "Bearer a-token", "Basic": basic}[self.scheme]:
            challenge = 'Basic realm="registry"'
            if self.scheme == "Bearer":
                challenge = f'Bearer realm="http://{self.host}/token",service="registry"'
            return 401, {"WWW-Authenticate": challenge}, b""
        exists = path in ("/v2/team/cpu/manifests/1", f"/v2/team/cpu/manifests/{DIGEST}")
        return (200, {"Docker-Content-Digest": DIGEST}, b"") if exists else (404, {}, b"")


@pytest.fixture
def registry() -> Iterator[Registry]:
    state = Registry()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            authorization = self.headers.get("Authorization", "")
            status, headers, body = state.answer(self.command, self.path, authorization)
            if self.command == "HEAD":
                assert "application/vnd.oci.image.index.v1+json" in self.headers["Accept"]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_HEAD = handle_any  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Prints nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    state.host = f"127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    server.server_close()


def finding_of(
    host: str, api: Kubernetes | None = None, image: str = "team/cpu:1", **options: Any
) -> Finding:
    images = {"cpu": f"{host}/{image}", "gpu": f"{host}/{image}"}
    (finding,) = check_images(Cluster.model_validate({"images": images, **options}), api)
    assert SECRET not in repr(finding)
    assert finding.check == f"image {host}/{image}"
    return finding


@pytest.fixture
def with_pull_secret(cluster: KubernetesApi, registry: Registry) -> Kubernetes:
    """A cluster with a pull secret for the registry."""
    auth = b64encode(f"jane:{SECRET}".encode()).decode()
    config = json.dumps({"auths": {f"http://{registry.host}": {"auth": auth}}})
    cluster.add(secret("pull", "kubernetes.io/dockerconfigjson", **{".dockerconfigjson": config}))
    return connect(None)


def test_a_public_image(registry: Registry) -> None:
    registry.scheme, registry.public = "", True
    words = f"{registry.host} has it, {DIGEST[:19]}…, and shows it without a login"
    check_finding(finding_of(registry.host), "ok", words)
    registry.scheme = "Bearer"  # Docker Hub and ghcr.io give tokens without a login
    check_finding(finding_of(registry.host), "ok", "without a login")
    path = "/token?service=registry&scope=repository%3Ateam%2Fcpu%3Apull"
    assert registry.requests[-2][1].startswith(path)
    finding = finding_of(registry.host, image=f"team/cpu@{DIGEST}")
    check_finding(finding, "ok", "has it, and shows it without a login")
    check_finding(finding_of(registry.host, image=f"team/cpu:1@{DIGEST}"), "ok")


def test_an_image_that_does_not_exist(registry: Registry) -> None:
    registry.public = True
    finding = finding_of(registry.host, image="team/cpu:2")
    check_finding(finding, "failed", f"{registry.host} has no team/cpu 2", "push it", "cluster.images")


@pytest.mark.parametrize("scheme", ["Bearer", "Basic"])
def test_with_a_pull_secret(registry: Registry, with_pull_secret: Kubernetes, scheme: str) -> None:
    registry.scheme = scheme
    finding = finding_of(registry.host, with_pull_secret, pull_secrets=["pull"])
    check_finding(finding, "ok", "shows it with the pull secret")
    # Nothing is pulled.
    assert {method for method, path, _ in registry.requests if "manifests" in path} == {"HEAD"}


@pytest.mark.parametrize("scheme", ["Bearer", "Basic"])
def test_an_expired_pull_secret(registry: Registry, cluster: KubernetesApi, scheme: str) -> None:
    registry.scheme = scheme
    config = json.dumps({"auths": {registry.host: {"username": "jane", "password": f"old-{SECRET}"}}})
    cluster.add(secret("pull", "kubernetes.io/dockerconfigjson", **{".dockerconfigjson": config}))
    finding = finding_of(registry.host, connect(None), pull_secrets=["pull"])
    check_finding(finding, "failed", "refuses the pull secret (HTTP 401)", "renew it")


@pytest.mark.parametrize("scheme", ["Bearer", "Basic"])
def test_a_registry_that_may_accept_nodes(registry: Registry, scheme: str) -> None:
    """A refusal without a pull secret proves nothing: nodes may have an identity of their own."""
    registry.scheme = scheme
    finding = finding_of(registry.host)
    words = "refuses a request without a login (HTTP 401)"
    check_finding(finding, "warning", words, "cluster.pull_secrets", "identity")
    check_finding(finding_of(registry.host, pull_secrets=["pull"]), "warning", "refuses a request")


@pytest.mark.parametrize(("status", "result"), [(429, "warning"), (500, "failed"), (302, "failed")])
def test_a_registry_with_a_problem(registry: Registry, status: int, result: str) -> None:
    registry.status = status
    assert finding_of(registry.host).result == result


def test_no_registry() -> None:
    check_finding(finding_of(f"127.0.0.1:{free_port()}"), "failed", "no answer from", "check cluster.images")


def test_images_that_are_on_the_nodes(registry: Registry) -> None:
    check_finding(finding_of(registry.host, pull_policy="Never"), "skipped", "it must be on the nodes")
    assert registry.requests == []


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("apportion/cpu:0.1.0", ImageReference(HUB, "apportion/cpu", "0.1.0")),
        ("cpu:1", ImageReference(HUB, "library/cpu", "1")),
        ("ghcr.io/apportion/apportion-cpu:1", ImageReference("ghcr.io", "apportion/apportion-cpu", "1")),
        ("localhost:5000/cpu:1", ImageReference("localhost:5000", "cpu", "1")),
        ("localhost/cpu:1", ImageReference("localhost", "cpu", "1")),
        (f"r.io:8443/a/b/c:1@{DIGEST}", ImageReference("r.io:8443", "a/b/c", DIGEST)),
        (f"a/b@{DIGEST}", ImageReference(HUB, "a/b", DIGEST)),
    ],
)
def test_names_of_images(image: str, expected: ImageReference) -> None:
    assert reference(image) == expected


def test_logins() -> None:
    auth = b64encode(b"u:p:with:colons").decode()
    auths = {
        "https://index.docker.io/v1/": {"auth": auth},
        "r.io:8443": {"username": "v", "password": "q"},
        "e.io": {},
    }
    by_registry = logins(json.dumps({"auths": auths}).encode())
    assert by_registry == {HUB: ("u", "p:with:colons"), "r.io:8443": ("v", "q"), "e.io": ("", "")}
    assert "with:colons" not in repr(by_registry)


def test_a_password_is_sent_over_tls_only(
    registry: Registry, with_pull_secret: Kubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No password is sent to a login server that the registry names, where that has no TLS."""
    challenge = {"WWW-Authenticate": 'Bearer realm="http://elsewhere.example.com/token"'}
    registry.answer = lambda *_: (401, challenge, b"")  # type: ignore[method-assign]
    urls = []

    def record(url: str, *arguments: Any) -> Any:
        urls.append(url)
        return send(url, *arguments)

    monkeypatch.setattr("apportion.doctor.registry.send", record)
    finding = finding_of(registry.host, with_pull_secret, pull_secrets=["pull"])
    check_finding(finding, "failed", "refuses the pull secret")
    assert not [url for url in urls if "elsewhere" in url]
    challenge["WWW-Authenticate"] = 'Bearer realm="https://elsewhere.invalid/token"'
    finding = finding_of(registry.host, with_pull_secret, pull_secrets=["pull"])
    check_finding(finding, "failed", "no answer from https://elsewhere.invalid")
