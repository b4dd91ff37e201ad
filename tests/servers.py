"""Real servers on the loopback for tests: an S3 endpoint (moto) and MLflow, each in its own process, and a
proxy that can change requests and answers.

Import the fixtures in a conftest.py (`from servers import s3_endpoint, s3_bucket`). Run as a script, this
file serves S3 at the given port.
"""

import functools
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
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

import pytest

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "NO_PROXY": "127.0.0.1",
}
EXPERIMENT = "/api/2.0/mlflow/experiments/get?experiment_id=0"
MLFLOW_BUCKET = "artifacts-of-mlflow"
"""Where `mlflow_server` keeps artifacts, at `s3_endpoint`."""
PAGE = 100  # keys in one answer to a listing; AWS has 1,000, but tests of paging should need fewer keys
_numbers = itertools.count()


def free_port() -> int:
    """A port at which no process listens at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def s3_server(port: int | None = None) -> Iterator[str]:
    """The URL of an S3 server (moto) that keeps its objects in memory until the end of the block."""
    for _ in range(1 if port else 5):  # another process may take the free port before the server does
        chosen = port or free_port()
        command = [sys.executable, __file__, str(chosen)]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            if _answers(server, url := f"http://127.0.0.1:{chosen}", "/moto-api/"):
                yield url
                return
        finally:
            server.kill()
            server.wait()
    raise OSError(f"the S3 server did not start{f' on port {port}: is it in use?' if port else ''}")


@contextmanager
def mlflow_on(
    folder: Path, artifacts: str, port: int | None = None, settings: dict[str, str] | None = None
) -> Iterator[str]:
    """The URL of an MLflow server until the end of the block.

    Runs are in `<folder>/mlflow.db`, which stays; clients send artifacts to the server, which stores them.
    """
    port = port or free_port()
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--serve-artifacts",
        "--workers",
        "1",
        "--port",
        str(port),
    ]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", artifacts]
    own = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment = os.environ | own | (settings or {})
    with (folder / "mlflow.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        # The second request makes the server open its database. Apportion waits for seconds only, and the
        # first answer may take longer.
        url = f"http://127.0.0.1:{port}"
        if not all(_answers(server, url, path) for path in ("/health", EXPERIMENT)):
            raise OSError(f"the MLflow server did not start: {(folder / 'mlflow.log').read_text()[-2000:]}")
        yield url
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # its workers are separate processes
        server.wait()


def make_bucket(endpoint: str, name: str) -> None:
    if _forward(endpoint, f"/{name}", "PUT", {}, b"").status != 200:
        raise OSError(f"the S3 server did not make bucket {name}")


class _Shared:
    """One server for a session fixture that several folders import.

    pytest runs such a fixture once for each of these folders. The server starts at the first of them, and
    ends with the last.
    """

    def __init__(self) -> None:
        self._users = 0
        self._url = ""
        self._running = ExitStack()

    @contextmanager
    def use(self, start: Callable[[], AbstractContextManager[str]]) -> Iterator[str]:
        """The server's URL; `start` is called where the server does not run yet."""
        if self._users == 0:
            self._url = self._running.enter_context(start())
        self._users += 1
        try:
            yield self._url
        finally:
            self._users -= 1
            if self._users == 0:
                self._running.close()


_s3, _mlflow = _Shared(), _Shared()


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The URL of an S3 server that runs until the end of the test session (one per pytest-xdist worker)."""
    import botocore.session

    with pytest.MonkeyPatch.context() as patch, _s3.use(s3_server) as url:
        # Each client would otherwise parse 1 MB of descriptions of AWS's services, which takes most of its
        # time.
        patch.setattr(botocore.session, "create_loader", _cached_loader(botocore.session.create_loader))
        yield url


def _cached_loader(create: Callable[..., Any]) -> Callable[..., Any]:
    """A function that returns the same botocore Loader for the same arguments."""
    create = functools.cache(create)

    def cached(*arguments: Any) -> Any:
        loader = create(*arguments)
        # Each boto3 session appends its own folder again.
        loader.search_paths[:] = dict.fromkeys(loader.search_paths)
        return loader

    return cached


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory, s3_endpoint: str) -> Iterator[str]:
    """The URL of an MLflow server that runs until the end of the test session.

    Its database is empty at first, and its artifacts are in MLFLOW_BUCKET at `s3_endpoint`.
    """

    def start() -> AbstractContextManager[str]:
        make_bucket(s3_endpoint, MLFLOW_BUCKET)
        settings = CREDENTIALS | {"AWS_ENDPOINT_URL_S3": s3_endpoint}
        return mlflow_on(
            tmp_path_factory.mktemp("mlflow"), f"s3://{MLFLOW_BUCKET}/artifacts", settings=settings
        )

    with _mlflow.use(start) as url:
        yield url


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database as Apportion creates it, with its experiment `template`."""
    return _database(tmp_path_factory.getbasetemp() / "template of mlflow" / "not there yet")


@functools.cache
def _database(folder: Path) -> Path:
    """Created once, also where several folders import the fixture: MLflow's migrations take a second."""
    from apportion.config.tracking import TrackingOptions
    from apportion.tracking import open_tracker

    options = TrackingOptions(
        uri=f"sqlite:///{folder}/mlflow.db", artifacts=f"{folder}/artifacts", experiment="template"
    )
    open_tracker(options).check()
    return folder / "mlflow.db"


@pytest.fixture
def s3_bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an empty bucket at `s3_endpoint`; boto3's variables are set so that s3://<name> works."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "APPORTION_S3_"))]:
        monkeypatch.delenv(name)
    for name, value in (CREDENTIALS | {"AWS_ENDPOINT_URL_S3": s3_endpoint}).items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{os.getpid()}-{next(_numbers)}"
    make_bucket(s3_endpoint, bucket)
    return bucket


def _answers(server: subprocess.Popen[bytes], url: str, path: str) -> bool:
    """Waits until the server answers; False where it ended, or did not answer within a minute."""
    deadline = time.monotonic() + 60
    while server.poll() is None and time.monotonic() < deadline:
        try:
            _forward(url, path, "GET", {}, b"")
            return server.poll() is None
        except OSError:
            time.sleep(0.05)
    return False


class Answer(NamedTuple):
    """What the proxy sends back."""

    status: int
    headers: dict[str, str]
    body: bytes


Respond = Callable[[str, dict[str, str], Callable[[], Answer]], Answer]
"""`respond(method, headers, forward)` returns the answer to a request; `forward()` gets the answer of the
server behind the proxy. It may change the headers of the request before, and the answer after."""


@contextmanager
def proxy(upstream: str, respond: Respond, tls: ssl.SSLContext | None = None, port: int = 0) -> Iterator[str]:
    """The URL of an HTTP server in front of `upstream`; with a certificate (`certified`) it speaks TLS.

    Its connections end with the block.
    """
    connections = set[socket.socket]()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # or boto3 waits a second for "100 Continue" before it sends a body

        def setup(self) -> None:
            super().setup()
            connections.add(self.connection)

        def finish(self) -> None:
            connections.discard(self.connection)
            super().finish()

        def handle_any(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", 0)))
            forward = functools.partial(_forward, upstream, self.path, self.command, headers, body)
            answer = respond(self.command, headers, forward)
            self.send_response_only(answer.status)
            for name, value in ({"Date": self.date_time_string()} | answer.headers).items():
                self.send_header(name, value)
            if not any(name.lower() == "content-length" for name in answer.headers):
                self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_any  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Prints nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    # A client may close its connection early, or may not trust the certificate.
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        for connection in list(connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def certified(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """The file of a new certificate authority, and the TLS context of a server that it certifies."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    now = datetime.now(UTC)
    authority_key = ec.generate_private_key(ec.SECP256R1())
    server_key = ec.generate_private_key(ec.SECP256R1())

    def signed(name: str, key: Any, extension: x509.ExtensionType) -> bytes:
        """The certificate of a key, signed by the authority."""
        subject, issuer = (
            x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)]) for text in (name, "an authority")
        )
        builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = builder.add_extension(identifier, critical=False).add_extension(extension, critical=True)
        return builder.sign(authority_key, hashes.SHA256()).public_bytes(Encoding.PEM)

    authority = folder / "authority.pem"
    constraints = x509.BasicConstraints(ca=True, path_length=0)
    authority.write_bytes(signed("an authority", authority_key, constraints))
    certificate = folder / "server.pem"
    secret = server_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    loopback = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    certificate.write_bytes(secret + signed("a server", server_key, loopback))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return authority, context


def _forward(upstream: str, path: str, method: str, headers: dict[str, str], body: bytes) -> Answer:
    connection = HTTPConnection(upstream.removeprefix("http://"), timeout=30)
    try:
        sent = {name: value for name, value in headers.items() if name not in ("expect", "connection")}
        connection.request(method, path, body, sent)
        response = connection.getresponse()
        left_out = ("transfer-encoding", "connection", "server", "date")
        received = {name: value for name, value in response.getheaders() if name.lower() not in left_out}
        return Answer(response.status, received, response.read())
    finally:
        connection.close()


def _serve(port: int) -> None:
    os.environ["MOTO_S3_DEFAULT_MAX_KEYS"] = str(PAGE)
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, run_simple

    moto, one_at_a_time = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def app(environ: Any, start_response: Any) -> list[bytes]:
        # moto checks a condition, stores the body and adds its metadata in three steps, between which other
        # threads would see an incomplete object.
        with one_at_a_time:
            return [b"".join(moto(environ, start_response))]

    class Quiet(WSGIRequestHandler):
        def log(self, *_: Any) -> None:
            """Prints nothing."""

    run_simple("127.0.0.1", port, app, threaded=True, request_handler=Quiet)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
