"""A small Kubernetes API server over TLS, in a thread, for the real client, which gets there by a kubeconfig.

It has the objects that a test adds, as the client's own models, and no others. It denies what a test says,
and records its requests.
"""

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
SECRET = "do-not-show-0123"
"""The value of every Secret. It must not be in anything that the doctor shows."""

KINDS = ("Namespace", "Node", "Secret", "ConfigMap", "ServiceAccount", "PersistentVolumeClaim")
PLURALS = {kind: f"{kind.lower()}s" for kind in KINDS}
REVIEWS = {
    "selfsubjectreviews": "V1SelfSubjectReview",
    "selfsubjectaccessreviews": "V1SelfSubjectAccessReview",
    "localsubjectaccessreviews": "V1LocalSubjectAccessReview",
}


class Request(NamedTuple):
    method: str
    path: str
    body: Any


class KubernetesApi:
    """The state of the server.

    hidden: plurals whose requests are answered by 403. denied: permissions that no user has, as `create
    runs`, or that one user does not have, as `jane: create runs`. fault: the answer to every request, where
    there is one.
    """

    def __init__(self, folder: Path) -> None:
        self.url = ""
        self.version = "v1.33.2"
        self.user = "jane"
        self.hidden = set[str]()
        self.denied = set[str]()
        self.fault: tuple[int, bytes] | None = None
        self.requests: list[Request] = []
        self.authority, self.tls = certified(folder)
        self._objects: dict[str, Any] = {}
        self._wire = client.ApiClient()

    def add(self, *objects: Any) -> None:
        for added in objects:
            namespace = added.metadata.namespace
            folder = f"namespaces/{namespace}/" if namespace else ""
            self._objects[f"/api/v1/{folder}{PLURALS[added.kind]}/{added.metadata.name}"] = added

    def remove(self, path: str) -> None:
        del self._objects[f"/api/v1/{path}"]

    def kubeconfig(self, folder: Path, namespace: str | None = None) -> Path:
        """A kubeconfig for this server; with a namespace, its context names it."""
        context = {"cluster": "c", "user": "jane"} | ({"namespace": namespace} if namespace else {})
        settings = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [{"name": "here", "context": context}],
            "clusters": [
                {"name": "c", "cluster": {"server": self.url, "certificate-authority": str(self.authority)}}
            ],
            "users": [{"name": "jane", "user": {"token": TOKEN}}],
        }
        path = folder / "kubeconfig"
        path.write_text(yaml.safe_dump(settings))
        return path

    def answer(self, method: str, path: str, token: str, body: bytes) -> tuple[int, bytes]:
        """The status and the body of the answer to a request."""
        content = json.loads(body) if body else None
        self.requests.append(Request(method, path, content))
        if self.fault:
            return self.fault
        if token != f"Bearer {TOKEN}":
            return _status(401, "Unauthorized")
        plural = path.split("/")[-1] if method == "POST" or path.endswith("/nodes") else path.split("/")[-2]
        if plural in self.hidden:
            return _status(403, f'{plural} is forbidden: User "jane" cannot')
        if method == "POST":
            return 201, self._json(self._reviewed(plural, content))
        if path == "/version/":
            others = ("build_date", "compiler", "git_commit", "git_tree_state", "go_version", "platform")
            version = client.VersionInfo(
                git_version=self.version, major="1", minor="33", **dict.fromkeys(others, "")
            )
            return 200, self._json(version)
        if path == "/api/v1/nodes":
            nodes = [stored for stored in self._objects.values() if stored.kind == "Node"]
            metadata = client.V1ListMeta(resource_version="1")
            return 200, self._json(client.V1NodeList(items=nodes, metadata=metadata))
        if path not in self._objects:
            return _status(404, f"{path} not found")
        return 200, self._json(self._objects[path])

    def _reviewed(self, plural: str, content: Any) -> Any:
        """The review, as the client's own model reads it, with its status."""
        review = self._wire.deserialize(type("Response", (), {"data": json.dumps(content)}), REVIEWS[plural])
        if plural == "selfsubjectreviews":
            user_info = client.V1UserInfo(username=self.user)
            review.status = client.V1SelfSubjectReviewStatus(user_info=user_info)
            return review
        attributes = review.spec.resource_attributes
        for value in (attributes.verb, attributes.resource, attributes.namespace):
            assert value != ""
        subresource = f"/{attributes.subresource}" if attributes.subresource else ""
        permission = f"{attributes.verb} {attributes.resource}{subresource}"
        user = review.spec.user if plural == "localsubjectaccessreviews" else self.user
        allowed = not {permission, f"{user}: {permission}"} & self.denied
        review.status = client.V1SubjectAccessReviewStatus(allowed=allowed)
        return review

    def _json(self, model: Any) -> bytes:
        return json.dumps(self._wire.sanitize_for_serialization(model)).encode()


def _status(code: int, message: str) -> tuple[int, bytes]:
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}
    return code, json.dumps(status).encode()


@contextmanager
def serve(api: KubernetesApi) -> Iterator[KubernetesApi]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body in one packet: otherwise each answer waits 40 ms for the acknowledgement of its head.
        wbufsize = -1

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

        def log_message(self, *_: Any) -> None:
            """Prints nothing."""

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


def named(kind: str, name: str, namespace: str | None = None, **fields: Any) -> Any:
    """An object of the core API with its metadata."""
    metadata = client.V1ObjectMeta(name=name, namespace=namespace, labels=fields.pop("labels", None))
    return getattr(client, f"V1{kind}")(api_version="v1", kind=kind, metadata=metadata, **fields)


def node(name: str, labels: dict[str, str], taints: tuple[str, ...] = (), **amounts: str) -> Any:
    """A node of Linux on amd64. Taints are `key=value:effect`; the amount `gpu` is of nvidia.com/gpu."""
    labels = {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"} | labels
    parts = [re.fullmatch(r"([^=:]+)(?:=([^:]*))?:(\w+)", taint) for taint in taints]
    models = [client.V1Taint(key=part[1], value=part[2], effect=part[3]) for part in parts if part]
    allocatable = {
        "cpu": "7910m",
        "memory": "31Gi",
        "ephemeral-storage": "47093746742",
        "pods": "110",
    } | amounts
    if "gpu" in allocatable:
        allocatable["nvidia.com/gpu"] = allocatable.pop("gpu")
    status = client.V1NodeStatus(allocatable=allocatable)
    return named("Node", name, labels=labels, spec=client.V1NodeSpec(taints=models or None), status=status)


def token_of(account: str, **claims: Any) -> str:
    """A token as Kubernetes makes them for a service account (NAMESPACE:NAME), except for its signature."""
    payload = {"sub": f"system:serviceaccount:{account}", "aud": ["pipelines.kubeflow.org"]} | claims
    parts = [json.dumps({"alg": "RS256"}).encode(), json.dumps(payload).encode(), SECRET.encode()]
    return ".".join(urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


def secret(name: str, kind: str = "Opaque", **values: str) -> Any:
    data = {key: b64encode(value.encode()).decode() for key, value in values.items()}
    return named("Secret", name, "ml", type=kind, data=data)
