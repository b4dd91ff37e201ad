"""A small Kubernetes API server over TLS, in a thread: it knows the objects that a test gives it, as the client's own models, and nothing
else; it denies what a test says, and records what it is asked. A kubeconfig leads the real client to it."""

import json
import re
import threading
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from kubernetes import client
from servers import certified

TOKEN = "jane's-own-token"
SECRET = "do-not-tell-0123"
"""The value of every Secret: it may be in nothing that the doctor says."""

PLURALS = {kind: f"{kind.lower()}s" for kind in ("Namespace", "Node", "Secret", "ConfigMap", "ServiceAccount", "PersistentVolumeClaim")}
REVIEWS = {
    "selfsubjectreviews": "V1SelfSubjectReview",
    "selfsubjectaccessreviews": "V1SelfSubjectAccessReview",
    "localsubjectaccessreviews": "V1LocalSubjectAccessReview",
}


class Asked(NamedTuple):
    method: str
    path: str
    body: Any


class KubernetesApi:
    """The state of the server. `hidden` are plurals that answer 403; `denied` are rights that nobody has, as `create runs`, or that
    somebody has not, as `jane: create runs`."""

    def __init__(self, folder: Path) -> None:
        self.url, self.version, self.user, self.hidden, self.denied = "", "v1.33.2", "jane", set[str](), set[str]()
        self.asked: list[Asked] = []
        self.broken: tuple[int, bytes] | None = None
        self._objects: dict[str, Any] = {}
        self._wire = client.ApiClient()
        self.authority, self.tls = certified(folder)

    def add(self, *objects: Any) -> None:
        for made in objects:
            of = f"namespaces/{made.metadata.namespace}/" if made.metadata.namespace else ""
            self._objects[f"/api/v1/{of}{PLURALS[made.kind]}/{made.metadata.name}"] = made

    def remove(self, path: str) -> None:
        del self._objects[f"/api/v1/{path}"]

    def kubeconfig(self, folder: Path, namespace: str | None = None) -> Path:
        path, context = folder / "kubeconfig", {"cluster": "c", "user": "jane"} | ({"namespace": namespace} if namespace else {})
        told = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [{"name": "here", "context": context}],
            "clusters": [{"name": "c", "cluster": {"server": self.url, "certificate-authority": str(self.authority)}}],
            "users": [{"name": "jane", "user": {"token": TOKEN}}],
        }
        path.write_text(yaml.safe_dump(told))
        return path

    def answer(self, method: str, path: str, token: str, body: bytes) -> tuple[int, bytes]:
        told = json.loads(body) if body else None
        self.asked.append(Asked(method, path, told))
        if self.broken:
            return self.broken
        if token != f"Bearer {TOKEN}":
            return _status(401, "Unauthorized")
        plural = path.split("/")[-1] if method == "POST" or path.endswith("/nodes") else path.split("/")[-2]
        if plural in self.hidden:
            return _status(403, f'{plural} is forbidden: User "jane" cannot')
        if method == "POST":
            return 201, self._json(self._reviewed(plural, told))
        if path == "/version/":
            numbers = dict.fromkeys(("build_date", "compiler", "git_commit", "git_tree_state", "go_version", "platform"), "")
            return 200, self._json(client.VersionInfo(git_version=self.version, major="1", minor="33", **numbers))
        if path == "/api/v1/nodes":
            nodes = [made for made in self._objects.values() if made.kind == "Node"]
            return 200, self._json(client.V1NodeList(items=nodes, metadata=client.V1ListMeta(resource_version="1")))
        found = self._objects.get(path)
        return (200, self._json(found)) if found else _status(404, f"{path} not found")

    def _reviewed(self, plural: str, told: Any) -> Any:
        """The review as the client's own model reads it, with its answer."""
        review = self._wire.deserialize(type("Response", (), {"data": json.dumps(told)}), REVIEWS[plural])
        if plural == "selfsubjectreviews":
            review.status = client.V1SelfSubjectReviewStatus(user_info=client.V1UserInfo(username=self.user))
            return review
        asked = review.spec.resource_attributes
        assert (asked.verb, asked.resource, asked.namespace) == (asked.verb or None, asked.resource or None, asked.namespace or None)
        right = f"{asked.verb} {asked.resource}{f'/{asked.subresource}' if asked.subresource else ''}"
        who = review.spec.user if plural == "localsubjectaccessreviews" else self.user
        review.status = client.V1SubjectAccessReviewStatus(allowed=not {right, f"{who}: {right}"} & self.denied)
        return review

    def _json(self, made: Any) -> bytes:
        return json.dumps(self._wire.sanitize_for_serialization(made)).encode()


def _status(code: int, message: str) -> tuple[int, bytes]:
    return code, json.dumps({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}).encode()


@contextmanager
def serve(api: KubernetesApi) -> Iterator[KubernetesApi]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet, or each answer waits 40 ms for the other's acknowledgement

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = re.sub(r"\?.*", "", self.path)
            status, data = api.answer(self.command, path, self.headers.get("Authorization", ""), body)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = handle_any  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    server.socket = api.tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    api.url = f"https://127.0.0.1:{server.server_port}"
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()


# Objects


def named(kind: str, name: str, namespace: str | None = None, **more: Any) -> Any:
    """An object of the core API with its metadata."""
    metadata = client.V1ObjectMeta(name=name, namespace=namespace, labels=more.pop("labels", None))
    return getattr(client, f"V1{kind}")(api_version="v1", kind=kind, metadata=metadata, **more)


def node(name: str, labels: dict[str, str], taints: tuple[str, ...] = (), **offers: str) -> Any:
    """Taints as `key=value:effect`; `gpu` is nvidia.com/gpu."""
    labels = {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"} | labels
    parts = [re.fullmatch(r"([^=:]+)(?:=([^:]*))?:(\w+)", taint) for taint in taints]
    spec = client.V1NodeSpec(taints=[client.V1Taint(key=part[1], value=part[2], effect=part[3]) for part in parts if part] or None)
    amounts = {"cpu": "7910m", "memory": "31Gi", "ephemeral-storage": "47093746742", "pods": "110"} | offers
    if "gpu" in amounts:
        amounts["nvidia.com/gpu"] = amounts.pop("gpu")
    return named("Node", name, labels=labels, spec=spec, status=client.V1NodeStatus(allocatable=amounts))


def token_of(account: str, **claims: Any) -> str:
    """A token as Kubernetes makes them for a service account, NAMESPACE:NAME, but for who signed it."""
    told = {"sub": f"system:serviceaccount:{account}", "aud": ["pipelines.kubeflow.org"]} | claims
    parts = [json.dumps(part).encode() for part in ({"alg": "RS256"}, told)]
    return ".".join(urlsafe_b64encode(part).decode().rstrip("=") for part in [*parts, SECRET.encode()])


def secret(name: str, kind: str = "Opaque", **values: str) -> Any:
    return named("Secret", name, "ml", type=kind, data=opened(**values))


def opened(**values: str) -> dict[str, str]:
    return {name: b64encode(value.encode()).decode() for name, value in values.items()}
