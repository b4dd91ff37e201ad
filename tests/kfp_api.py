"""A small Kubeflow Pipelines server: the REST API of version 2.17 that `pipelines` talks to, in memory, in a thread.

What it is sent it reads with the models that kfp_server_api generates from KFP's own definition: a field these do not have, or a value of
another type, is a problem, and the fixture fails the test. It can misbehave once or always (`fail`), leave fields out or send null for
them, send byte after byte (`drip`), and knows tokens that are past it. A listing shows few at once.
"""

import io
import itertools
import json
import re
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email import message_from_bytes
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import kfp_server_api as api
import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

MAX_PARAMETER_BYTES = 10_000
CODES = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 500: 13, 503: 14}
PRIMITIVE = {"str": str, "bool": bool, "int": int, "float": float, "object": object, "datetime": str}


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Fault(NamedTuple):
    """How a request is answered instead: `body` is sent as it is, after `seconds`; with `lost` only when it has been done."""

    method: str
    path: str
    status: int
    body: bytes | None
    seconds: float
    lost: bool


class Request(NamedTuple):
    method: str
    path: str
    query: dict[str, str]
    token: str | None


def check(value: Any, kind: str, where: str) -> Iterator[str]:
    """What is wrong with a JSON value as one of kfp_server_api's types."""
    if value is None:
        return
    if found := re.fullmatch(r"(?:list\[(.+)\]|dict\(str, (.+)\))", kind):
        inner = found[1] or found[2]
        if not isinstance(value, list if found[1] else dict):
            yield f"{where}: found {value!r}, expected {kind}"
            return
        for key, item in enumerate(value) if found[1] else value.items():
            yield from check(item, inner, f"{where}.{key}")
    elif kind in PRIMITIVE:
        numeric = where.endswith(".max_concurrency") and isinstance(value, int)  # int64: protobuf's JSON takes number and text
        if not isinstance(value, PRIMITIVE[kind]) and not numeric:
            yield f"{where}: found {value!r}, expected {kind}"
    elif allowed := getattr(getattr(api, kind), "allowable_values", None):
        if value not in allowed:
            yield f"{where}: found {value!r}, expected one of {allowed}"
    else:
        model = getattr(api, kind)
        fields = {name: model.openapi_types[own] for own, name in model.attribute_map.items()}
        for name, item in value.items():
            if name not in fields:
                yield f"{where}: found field {name!r}, expected those of {kind}"
            else:
                yield from check(item, fields[name], f"{where}.{name}")


class KfpApi:
    """The state of the server, and what it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.multi_user = False
        self.version = "2.17.0"
        self.account = "pipeline-runner"  # of runs for which none is named
        self.page = 1  # so many are on a page of a listing, if that many are asked for
        self.left_out: set[str] = set()  # fields
        self.nulls: set[str] = set()  # fields
        self.charset = ""  # after the type of an answer
        self.drip = 0.0  # seconds before each byte of an answer
        self.tokens: set[str] | None = None
        self.forbidden: set[str] = set()  # namespaces
        self.faults: list[list[Any]] = []  # [Fault, times left]
        self.requests: list[Request] = []
        self.problems: list[str] = []
        self.pipelines: list[api.V2beta1Pipeline] = []
        self.versions: list[api.V2beta1PipelineVersion] = []
        self.experiments: list[api.V2beta1Experiment] = []
        self.runs: list[api.V2beta1Run] = []
        self.recurring: list[api.V2beta1RecurringRun] = []
        self.states = ["PENDING", "RUNNING", "SUCCEEDED"]  # of a run, one at each look
        self.failed: list[api.V2beta1PipelineTaskDetail] = []
        self.most_enabled = 0
        self._numbers, self._lock, self._wire = itertools.count(1), threading.Lock(), api.ApiClient()

    def fail(
        self, method: str, path: str, status: int, body: bytes | str | None = None, times: int = 1, seconds: float = 0.0, lost: bool = False
    ) -> None:
        """Answers the next requests to a path (a regular expression) so, without a body as KFP tells of a failure."""
        data = body.encode() if isinstance(body, str) else body
        self.faults.append([Fault(method, path, status, data, seconds, lost), times])

    def sent(self, method: str, path: str) -> list[Request]:
        return [request for request in self.requests if request.method == method and re.search(path, request.path)]

    # One request

    def answer(self, request: Request, headers: Any, body: bytes) -> tuple[int, bytes]:
        self.requests.append(request)
        fault = self._fault(request)
        if fault:
            time.sleep(fault.seconds)
        if fault and not fault.lost and fault.status:
            return fault.status, _error(fault.status, "injected") if fault.body is None else fault.body
        with self._lock:
            try:
                self._allowed(request)
                made = self._do(request, headers, body)
            except Refused as error:
                return error.status, _error(error.status, str(error))
        if fault and fault.lost:
            return fault.status, _error(fault.status, "the answer was lost") if fault.body is None else fault.body
        return 200, json.dumps(self._thinned(self._wire.sanitize_for_serialization(made))).encode()

    def _thinned(self, told: Any) -> Any:
        """Without the fields that are left out."""
        if isinstance(told, list):
            return [self._thinned(item) for item in told]
        if not isinstance(told, dict):
            return told
        return {key: None if key in self.nulls else self._thinned(value) for key, value in told.items() if key not in self.left_out}

    def _fault(self, request: Request) -> Fault | None:
        for entry in self.faults:
            if entry[1] and entry[0].method == request.method and re.search(entry[0].path, request.path):
                entry[1] -= 1
                return entry[0]
        return None

    def _allowed(self, request: Request) -> None:
        if self.tokens is not None and request.token not in self.tokens:
            raise Refused(401, "Request header error: there is no user identity header." if request.token is None else "Jwt is expired")
        if request.query.get("namespace") in self.forbidden:
            raise Refused(403, f"User is not authorized with reason: cannot list in {request.query['namespace']}")

    def _do(self, request: Request, headers: Any, body: bytes) -> Any:
        path = request.path.removeprefix("/apis/v2beta1/")
        routes = {
            ("GET", r"healthz"): lambda: {
                "commit_sha": "0" * 40,
                "tag_name": self.version,
                "multi_user": self.multi_user,
                "pipeline_store": "database",
            },
            ("GET", r"pipelines"): lambda: self._listed(api.V2beta1ListPipelinesResponse, self.pipelines, request, "namespace"),
            ("POST", r"pipelines"): lambda: self._pipeline(self._read("V2beta1Pipeline", body)),
            ("POST", r"pipelines/upload"): lambda: self._upload(request, headers, body),
            ("POST", r"pipelines/upload_version"): lambda: self._upload_version(request, headers, body),
            ("GET", r"pipelines/([^/]+)/versions"): lambda id: self._listed(
                api.V2beta1ListPipelineVersionsResponse, self._versions(id), request, ""
            ),
            ("GET", r"pipelines/[^/]+/versions/([^/]+)"): lambda id: _one(self.versions, "pipeline_version_id", id),
            ("GET", r"experiments"): lambda: self._listed(api.V2beta1ListExperimentsResponse, self.experiments, request, "namespace"),
            ("POST", r"experiments"): lambda: self._experiment(self._read("V2beta1Experiment", body)),
            ("GET", r"runs"): lambda: self._listed(api.V2beta1ListRunsResponse, self.runs, request, "experiment_id"),
            ("POST", r"runs"): lambda: self._run(self._read("V2beta1Run", body)),
            ("GET", r"runs/([^/]+)"): self._look,
            ("GET", r"recurringruns"): lambda: self._listed(api.V2beta1ListRecurringRunsResponse, self.recurring, request, "namespace"),
            ("POST", r"recurringruns"): lambda: self._recur(self._read("V2beta1RecurringRun", body)),
            ("DELETE", r"recurringruns/([^/]+)"): lambda id: self.recurring.remove(_one(self.recurring, "recurring_run_id", id)) or {},
            ("POST", r"recurringruns/([^/]+):enable"): self._enable,
        }
        for (method, pattern), act in routes.items():
            if method == request.method and (found := re.fullmatch(pattern, path)):
                return act(*found.groups())
        raise Refused(404, "Not Found")

    def _read(self, model: str, body: bytes) -> Any:
        told = json.loads(body)
        wrong = list(check(told, model, model))
        self.problems += wrong
        if wrong:
            raise Refused(400, "; ".join(wrong))
        return self._wire.deserialize(type("Response", (), {"data": body}), model)

    def _listed(self, kind: Any, things: list[Any], request: Request, by: str) -> Any:
        """A page of those that a filter of names selects, in the namespace or of the experiment; like the server, nothing says that there
        are none, and a token is good for the same filter only."""
        wanted, chosen = dict[str, str](), request.query.get("filter") or "{}"
        for predicate in json.loads(chosen).get("predicates", []):
            if set(predicate) != {"operation", "key", "stringValue"} or predicate["operation"] != "EQUALS":
                self.problems.append(f"filter {predicate}")
            wanted[predicate["key"]] = predicate["stringValue"]
        if by == "namespace" and self.multi_user is False and request.query.get("namespace"):
            raise Refused(400, "In single-user mode, the request cannot filter by namespace.")
        of = request.query.get(by) or ("" if by == "namespace" else None)
        found = [
            thing
            for thing in things
            if all(getattr(thing, key) == value for key, value in wanted.items()) and (of is None or (getattr(thing, by) or "") == of)
        ]
        start, _, same = (request.query.get("page_token") or f"0 {chosen}").partition(" ")
        if same != chosen:
            raise Refused(400, "The page token was made with another filter.")
        end = int(start) + min(self.page, int(request.query.get("page_size") or 20))
        (field,) = (name for name, inner in kind.openapi_types.items() if inner.startswith("list["))
        told = {field: found[int(start) : end] or None, "next_page_token": f"{end} {chosen}" if end < len(found) else None}
        return kind(total_size=len(found), **told)

    def _id(self, kind: str) -> str:
        return f"{kind}-{next(self._numbers)}"

    # Pipelines

    def _pipeline(self, told: Any) -> Any:
        if not told.name:
            raise Refused(400, "name is required")
        if self.multi_user is False and told.namespace:
            raise Refused(400, "In single-user mode, CreatePipeline shouldn't contain a namespace")
        if any((known.name, known.namespace) == (told.name, told.namespace) for known in self.pipelines):
            raise Refused(409, f"The name {told.name} already exists")
        told.pipeline_id, told.created_at = self._id("pipeline"), datetime.now(UTC)
        self.pipelines.append(told)
        return told

    def _spec(self, headers: Any, body: bytes) -> dict[str, Any]:
        """The uploaded file, as strictly as the server reads it: the pipeline, beside what is said for its platform where it is."""
        message = message_from_bytes(b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n" + body, policy=HTTP)
        (part,) = message.iter_parts()
        disposition = part["Content-Disposition"].params
        if disposition["name"] != "uploadfile" or not disposition["filename"].endswith(".yaml"):
            raise Refused(400, "Failed to read pipeline from file")
        documents = list(yaml.safe_load_all(part.get_content()))
        kinds = (pipeline_spec_pb2.PipelineSpec, pipeline_spec_pb2.PlatformSpec)
        told = [json_format.MessageToDict(json_format.ParseDict(text, kind())) for text, kind in zip(documents, kinds, strict=False)]
        return {"pipeline_spec": told[0], "platform_spec": told[1]} if len(told) == 2 else told[0]

    def _upload(self, request: Request, headers: Any, body: bytes) -> Any:
        made = self._pipeline(api.V2beta1Pipeline(name=request.query["name"], display_name=request.query["name"]))
        self._add_version(made.pipeline_id, request.query["name"], self._spec(headers, body))
        return made

    def _upload_version(self, request: Request, headers: Any, body: bytes) -> Any:
        _one(self.pipelines, "pipeline_id", request.query["pipelineid"])
        return self._add_version(request.query["pipelineid"], request.query["name"], self._spec(headers, body))

    def _add_version(self, pipeline: str, name: str, spec: dict[str, Any]) -> Any:
        if any((known.pipeline_id, known.name) == (pipeline, name) for known in self.versions):
            raise Refused(409, f"Failed to create a pipeline version: {name} already exists")
        made = api.V2beta1PipelineVersion(
            pipeline_id=pipeline, pipeline_version_id=self._id("version"), name=name, display_name=name, pipeline_spec=spec
        )
        self.versions.append(made)
        return made

    def _versions(self, pipeline: str) -> list[Any]:
        return [version for version in self.versions if version.pipeline_id == pipeline]

    # Runs

    def _experiment(self, told: Any) -> Any:
        if self.multi_user and not told.namespace:
            raise Refused(400, "Experiment has no namespace")
        if not self.multi_user and told.namespace:
            raise Refused(400, "In single-user mode, CreateExperiment shouldn't contain a namespace")
        if any((known.display_name, known.namespace) == (told.display_name, told.namespace) for known in self.experiments):
            raise Refused(409, f"Experiment with name {told.display_name} already exists")
        told.experiment_id = self._id("experiment")
        self.experiments.append(told)
        return told

    def _started(self, told: Any) -> None:
        reference = told.pipeline_version_reference
        if _one(self.versions, "pipeline_version_id", reference.pipeline_version_id).pipeline_id != reference.pipeline_id:
            raise Refused(400, "the version is of another pipeline")
        _one(self.experiments, "experiment_id", told.experiment_id)
        if len(json.dumps(told.runtime_config.parameters)) > MAX_PARAMETER_BYTES:
            raise Refused(400, f"The input parameter length exceed maximum size of {MAX_PARAMETER_BYTES}.")
        told.namespace = _one(self.experiments, "experiment_id", told.experiment_id).namespace
        told.service_account = told.service_account or self.account
        told.created_at = datetime.now(UTC)

    def _run(self, told: Any) -> Any:
        self._started(told)
        told.run_id, told.state = self._id("run"), "PENDING"
        self.runs.append(told)
        return told

    def _look(self, id: str) -> Any:
        run = _one(self.runs, "run_id", id)
        run.state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if run.state == "FAILED" and self.failed:
            run.run_details = api.V2beta1RunDetails(task_details=self.failed)
        return run

    def _recur(self, told: Any) -> Any:
        self._started(told)
        if len(told.trigger.cron_schedule.cron.split()) != 6:
            raise Refused(400, "Schedule cron is not a supported format")
        if not 1 <= int(told.max_concurrency) <= 10:
            raise Refused(400, "The max concurrency of the recurring run is out of range")
        told.recurring_run_id, told.status = self._id("recurring"), "ENABLED" if told.mode == "ENABLE" else "DISABLED"
        told.runtime_config.parameters["shards"] = [float(shard) for shard in told.runtime_config.parameters["shards"]]  # as a Struct does
        self.recurring.append(told)
        self.most_enabled = max(self.most_enabled, sum(run.status == "ENABLED" for run in self.recurring))
        return told

    def _enable(self, id: str) -> Any:
        run = _one(self.recurring, "recurring_run_id", id)
        run.status, run.mode = "ENABLED", "ENABLE"
        return {}


def _one(things: list[Any], key: str, value: str) -> Any:
    for thing in things:
        if getattr(thing, key) == value:
            return thing
    raise Refused(404, f"{key} {value} not found")


def _error(status: int, message: str) -> bytes:
    """As KFP's gateway says it."""
    return json.dumps({"error": message, "code": CODES.get(status, 2), "message": message, "details": []}).encode()


class Dripping(io.RawIOBase):
    """Writes byte after byte."""

    def __init__(self, into: Any, seconds: float) -> None:
        self.into, self.seconds = into, seconds

    def write(self, data: Any) -> int:
        for byte in bytes(data):
            time.sleep(self.seconds)
            self.into.write(bytes([byte]))
        return len(data)


@contextmanager
def serve(server: KfpApi, tls: ssl.SSLContext | None = None) -> Iterator[KfpApi]:
    """Answers at `server.url` until the end of the block; over TLS as `servers.certified` makes it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
            token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, data = server.answer(Request(self.command, parts.path, query, token), self.headers, body)
            if server.drip:
                self.wfile = Dripping(self.wfile, server.drip)
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", data.decode())
            self.send_header("Content-Type", "text/html" if data.startswith(b"<") else "application/json" + server.charset)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = handle_any  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

        def handle_error(self, *args: Any) -> None:
            """A client may have gone."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.handle_error = lambda *_: None  # type: ignore[method-assign]
    if tls:
        listening.socket = tls.wrap_socket(listening.socket, server_side=True)
    threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{listening.server_port}"
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()


@pytest.fixture
def kfp_api(monkeypatch: pytest.MonkeyPatch) -> Iterator[KfpApi]:
    """A server without pipelines, and an environment that names no other; whatever it was sent must have been right."""
    for name in (
        "KFP_TOKEN",
        "KFP_TOKEN_FILE",
        "KF_PIPELINES_ENDPOINT",
        "KF_PIPELINES_UI_ENDPOINT",
        "SSL_CERT_FILE",
        "KUBERNETES_SERVICE_HOST",
        *("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"),
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", "/nowhere/token")
    with serve(KfpApi()) as server:
        yield server
    assert server.problems == []
