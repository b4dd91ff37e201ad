"""Real servers on the loopback for tests: an S3 endpoint (moto) and MLflow, each in a process of its own, and a misbehaving proxy.

Import the fixtures in a conftest.py (`from servers import s3_endpoint, s3_bucket`); run as a script it serves S3 at the port given.
"""

import itertools
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

import pytest

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1", "NO_PROXY": "127.0.0.1"}
EXPERIMENT = "/api/2.0/mlflow/experiments/get?experiment_id=0"
PAGE = 100  # keys in one answer to a listing, 1,000 at AWS: tests of paging need fewer keys
_numbers = itertools.count()


def free_port() -> int:
    """A port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def s3_server(port: int | None = None) -> Iterator[str]:
    """The URL of an S3 server (moto) that keeps its objects in memory until the end of the block."""
    for _ in range(1 if port else 5):  # another process may take the free port before the server does
        chosen = port or free_port()
        server = subprocess.Popen([sys.executable, __file__, str(chosen)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            if _answers(server, url := f"http://127.0.0.1:{chosen}", "/moto-api/"):
                yield url
                return
        finally:
            server.kill()
            server.wait()
    raise OSError(f"the S3 server did not start{f' on port {port}: is it taken?' if port else ''}")


@contextmanager
def mlflow_on(folder: Path, artifacts: str, port: int | None = None, settings: dict[str, str] | None = None) -> Iterator[str]:
    """The URL of an MLflow server until the end of the block: runs in `<folder>/mlflow.db`, which stays, artifacts through the server."""
    port = port or free_port()
    options = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", artifacts]
    command = [sys.executable, "-m", "mlflow", "server", "--serve-artifacts", "--workers", "1", "--port", str(port), *options]
    own = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "mlflow.log").open("wb") as log:
        server = subprocess.Popen(command, env=os.environ | own | (settings or {}), stdout=log, stderr=log, start_new_session=True)
    try:
        # The second question opens the database: Apportion waits for seconds only, and the first answer may take more.
        if not all(_answers(server, url := f"http://127.0.0.1:{port}", path) for path in ("/health", EXPERIMENT)):
            raise OSError(f"the MLflow server did not start: {(folder / 'mlflow.log').read_text()[-2000:]}")
        yield url
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # its workers are processes of their own
        server.wait()


def make_bucket(endpoint: str, name: str) -> None:
    if _forward(endpoint, f"/{name}", "PUT", {}, b"").status != 200:
        raise OSError(f"the S3 server did not make bucket {name}")


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The URL of an S3 server that lives as long as the test session (one per pytest-xdist worker)."""
    with s3_server() as url:
        yield url


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an MLflow server on an empty SQLite file that keeps artifacts itself; it lives as long as the test session."""
    folder = tmp_path_factory.mktemp("mlflow")
    with mlflow_on(folder, str(folder / "artifacts")) as url:
        yield url


@pytest.fixture
def s3_bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a fresh bucket at `s3_endpoint`, with boto3's environment set so that `s3://<name>` just works."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "APPORTION_S3_"))]:
        monkeypatch.delenv(name)
    for name, value in (CREDENTIALS | {"AWS_ENDPOINT_URL_S3": s3_endpoint}).items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{os.getpid()}-{next(_numbers)}"
    make_bucket(s3_endpoint, bucket)
    return bucket


def _answers(server: subprocess.Popen[bytes], url: str, path: str) -> bool:
    deadline = time.monotonic() + 60
    while server.poll() is None and time.monotonic() < deadline:
        try:
            _forward(url, path, "GET", {}, b"")
            return server.poll() is None
        except OSError:
            time.sleep(0.05)
    return False


class Answer(NamedTuple):
    """What goes back through the proxy."""

    status: int
    headers: dict[str, str]
    body: bytes


Meddle = Callable[[str, dict[str, str], Callable[[], Answer]], Answer]


@contextmanager
def proxy(upstream: str, meddle: Meddle, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """The URL of an HTTP server in front of `upstream`, over TLS with a certificate (`certified`); `meddle(method, headers, forward)`
    may change either direction."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # or boto3 waits a second for "100 Continue" before it sends a body

        def handle_any(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", 0)))
            answer = meddle(self.command, headers, lambda: _forward(upstream, self.path, self.command, headers, body))
            self.send_response_only(answer.status)
            for name, value in ({"Date": self.date_time_string()} | answer.headers).items():
                self.send_header(name, value)
            if not any(name.lower() == "content-length" for name in answer.headers):
                self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_any  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign] # a client may go, or not trust us
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def certified(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """The file of a certificate authority made for the purpose, and what a server on the loopback needs to be trusted by its friends."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    def signed(name: str, key: Any, issuer: str, by: Any, extension: x509.ExtensionType) -> bytes:
        names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)]) for text in (name, issuer)]
        builder = x509.CertificateBuilder(names[1], names[0], key.public_key(), x509.random_serial_number())
        lasting = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
        identified = lasting.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        return identified.add_extension(extension, critical=True).sign(by, hashes.SHA256()).public_bytes(Encoding.PEM)

    now, root, own = datetime.now(UTC), ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority, certificate = folder / "authority.pem", folder / "server.pem"
    authority.write_bytes(signed("an authority", root, "an authority", root, x509.BasicConstraints(ca=True, path_length=0)))
    loopback = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    secret = own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    certificate.write_bytes(secret + signed("a server", own, "an authority", root, loopback))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return authority, context


def _forward(upstream: str, path: str, method: str, headers: dict[str, str], body: bytes) -> Answer:
    connection = HTTPConnection(upstream.removeprefix("http://"), timeout=30)
    try:
        connection.request(method, path, body, {name: value for name, value in headers.items() if name not in ("expect", "connection")})
        response = connection.getresponse()
        hidden = ("transfer-encoding", "connection", "server", "date")
        return Answer(response.status, {k: v for k, v in response.getheaders() if k.lower() not in hidden}, response.read())
    finally:
        connection.close()


def _serve(port: int) -> None:
    os.environ["MOTO_S3_DEFAULT_MAX_KEYS"] = str(PAGE)
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, run_simple

    moto, one_at_a_time = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def app(environ: Any, start_response: Any) -> list[bytes]:
        # moto checks a condition, stores the body and adds its metadata in three steps that other threads can see between.
        with one_at_a_time:
            return [b"".join(moto(environ, start_response))]

    class Quiet(WSGIRequestHandler):
        def log(self, type: str, message: str, *args: Any) -> None:
            """Say nothing."""

    run_simple("127.0.0.1", port, app, threaded=True, request_handler=Quiet)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
