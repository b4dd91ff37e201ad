"""A small Kubeflow Pipelines server: the part of the REST API of version 2.17 that `pipelines` uses, in
memory, in a thread.

It checks requests against the models of kfp_server_api, which are generated from KFP's own definition: an
unknown field or a value of another type is a problem, and the fixture fails the test. It can fail once or
always (`fail`), leave out fields or send null for them, send single bytes slowly (`drip`), and refuse tokens.
A page of a listing has few items.
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
from functools import cache
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
    """Another answer to a request: `body` is sent unchanged, after `seconds`; with `lost` after the request
    is done."""

    method: str
    path: str
    status: int
    body: bytes | None
    seconds: float
    lost: bool

    def answer(self, message: str) -> bytes:
        return _error(self.status, message) if self.body is None else self.body


class Request(NamedTuple):
    method: str
    path: str
    query: dict[str, str]
    token: str | None


def check(value: Any, kind: str, where: str) -> Iterator[str]:
    """How a JSON value differs from a type of kfp_server_api."""
    if value is None:
        return
    if container := re.fullmatch(r"(?:list\[(.+)\]|dict\(str, (.+)\))", kind):
        inner = container[1] or container[2]
        if not isinstance(value, list if container[1] else dict):
            yield f"{where}: found {value!r}, expected {kind}"
            return
        for key, item in enumerate(value) if container[1] else value.items():
            yield from check(item, inner, f"{where}.{key}")
    elif kind in PRIMITIVE:
        # max_concurrency is an int64, which may be a number or text in protobuf's JSON.
        numeric = where.endswith(".max_concurrency") and isinstance(value, int)
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


@cache
def _parsed(text: str | bytes) -> str:
    """A compiled pipeline as JSON. Tests upload few different ones, and parsing one takes long."""
    documents = list(yaml.load_all(text, yaml.CSafeLoader))
    kinds = (pipeline_spec_pb2.PipelineSpec, pipeline_spec_pb2.PlatformSpec)
    messages = [
        json_format.ParseDict(document, kind()) for document, kind in zip(documents, kinds, strict=False)
    ]
    specs = [json_format.MessageToDict(message) for message in messages]
    return json.dumps({"pipeline_spec": specs[0], "platform_spec": specs[1]} if len(specs) == 2 else specs[0])


class KfpApi:
    """The state of the server, and the requests that it received."""

    def __init__(self) -> None:
        self.url = ""
        self.multi_user = False
        self.version = "2.17.0"
        self.account = "pipeline-runner"  # of runs that name none
        self.page = 1  # the most items on a page of a listing
        self.left_out: set[str] = set()  # fields
        self.nulls: set[str] = set()  # fields
        self.charset = ""  # added to the content type of an answer
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
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._wire = api.ApiClient()

    def fail(
        self,
        method: str,
        path: str,
        status: int,
        body: bytes | str | None = None,
        times: int = 1,
        seconds: float = 0.0,
        lost: bool = False,
    ) -> None:
        """Sets the answer to the next requests for a path (a regular expression). Without a body it is KFP's
        message of a failure."""
        data = body.encode() if isinstance(body, str) else body
        self.faults.append([Fault(method, path, status, data, seconds, lost), times])

    def sent(self, method: str, path: str) -> list[Request]:
        return [
            request for request in self.requests if request.method == method and re.search(path, request.path)
        ]

    # One request

    def answer(self, request: Request, headers: Any, body: bytes) -> tuple[int, bytes]:
        self.requests.append(request)
        fault = self._fault(request)
        if fault:
            time.sleep(fault.seconds)
        if fault and not fault.lost and fault.status:
            return fault.status, fault.answer("injected")
        with self._lock:
            try:
                self._allowed(request)
                result = self._do(request, headers, body)
            except Refused as error:
                return error.status, _error(error.status, str(error))
        if fault and fault.lost:
            return fault.status, fault.answer("the answer was lost")
        return 200, json.dumps(self._thinned(self._wire.sanitize_for_serialization(result))).encode()

    def _thinned(self, value: Any) -> Any:
        """A JSON value without the fields in `left_out`, and with null for those in `nulls`."""
        if not (self.left_out or self.nulls):
            return value
        if isinstance(value, list):
            return [self._thinned(item) for item in value]
        if not isinstance(value, dict):
            return value
        kept = {key: item for key, item in value.items() if key not in self.left_out}
        return {key: None if key in self.nulls else self._thinned(item) for key, item in kept.items()}

    def _fault(self, request: Request) -> Fault | None:
        for entry in self.faults:
            if entry[1] and entry[0].method == request.method and re.search(entry[0].path, request.path):
                entry[1] -= 1
                return entry[0]
        return None

    def _allowed(self, request: Request) -> None:
        if self.tokens is not None and request.token not in self.tokens:
            missing = "Request header error: there is no user identity header."
            raise Refused(401, missing if request.token is None else "Jwt is expired")
        if (namespace := request.query.get("namespace")) in self.forbidden:
            raise Refused(403, f"User is not authorized with reason: cannot list in {namespace}")

    def _do(self, request: Request, headers: Any, body: bytes) -> Any:
        path = request.path.removeprefix("/apis/v2beta1/")
        listed = self._listed
        routes = {
            ("GET", r"healthz"): self._healthz,
            ("GET", r"pipelines"): lambda: listed(
                api.V2beta1ListPipelinesResponse, self.pipelines, request, "namespace"
            ),
            ("POST", r"pipelines"): lambda: self._pipeline(self._read("V2beta1Pipeline", body)),
            ("POST", r"pipelines/upload"): lambda: self._upload(request, headers, body),
            ("POST", r"pipelines/upload_version"): lambda: self._upload_version(request, headers, body),
            ("GET", r"pipelines/([^/]+)/versions"): lambda pipeline: listed(
                api.V2beta1ListPipelineVersionsResponse, self._versions(pipeline), request, ""
            ),
            ("GET", r"pipelines/[^/]+/versions/([^/]+)"): lambda version: _one(
                self.versions, "pipeline_version_id", version
            ),
            ("GET", r"experiments"): lambda: listed(
                api.V2beta1ListExperimentsResponse, self.experiments, request, "namespace"
            ),
            ("POST", r"experiments"): lambda: self._experiment(self._read("V2beta1Experiment", body)),
            ("GET", r"runs"): lambda: listed(
                api.V2beta1ListRunsResponse, self.runs, request, "experiment_id"
            ),
            ("POST", r"runs"): lambda: self._run(self._read("V2beta1Run", body)),
            ("GET", r"runs/([^/]+)"): self._look,
            ("GET", r"recurringruns"): lambda: listed(
                api.V2beta1ListRecurringRunsResponse, self.recurring, request, "namespace"
            ),
            ("POST", r"recurringruns"): lambda: self._recur(self._read("V2beta1RecurringRun", body)),
            ("DELETE", r"recurringruns/([^/]+)"): self._delete,
            ("POST", r"recurringruns/([^/]+):enable"): self._enable,
        }
        for (method, pattern), act in routes.items():
            if method == request.method and (match := re.fullmatch(pattern, path)):
                return act(*match.groups())
        raise Refused(404, "Not Found")

    def _healthz(self) -> dict[str, Any]:
        return {
            "commit_sha": "0" * 40,
            "tag_name": self.version,
            "multi_user": self.multi_user,
            "pipeline_store": "database",
        }

    def _delete(self, identifier: str) -> dict[str, Any]:
        self.recurring.remove(_one(self.recurring, "recurring_run_id", identifier))
        return {}

    def _read(self, model: str, body: bytes) -> Any:
        problems = list(check(json.loads(body), model, model))
        self.problems += problems
        if problems:
            raise Refused(400, "; ".join(problems))
        return self._wire.deserialize(type("Response", (), {"data": body}), model)

    def _listed(self, kind: Any, things: list[Any], request: Request, by: str) -> Any:
        """A page of the things that the filter of names selects, in the namespace or of the experiment. As
        KFP's server does, it sends null for an empty page, and accepts a page token with the same filter
        only."""
        wanted = dict[str, str]()
        chosen = request.query.get("filter") or "{}"
        for predicate in json.loads(chosen).get("predicates", []):
            if set(predicate) != {"operation", "key", "stringValue"} or predicate["operation"] != "EQUALS":
                self.problems.append(f"filter {predicate}")
            wanted[predicate["key"]] = predicate["stringValue"]
        if by == "namespace" and self.multi_user is False and request.query.get("namespace"):
            raise Refused(400, "In single-user mode, the request cannot filter by namespace.")
        owner = request.query.get(by) or ("" if by == "namespace" else None)
        if owner is not None:
            things = [thing for thing in things if (getattr(thing, by) or "") == owner]
        matches = [
            thing for thing in things if all(getattr(thing, key) == value for key, value in wanted.items())
        ]
        start, _, same = (request.query.get("page_token") or f"0 {chosen}").partition(" ")
        if same != chosen:
            raise Refused(400, "The page token was made with another filter.")
        end = int(start) + min(self.page, int(request.query.get("page_size") or 20))
        (field,) = (name for name, inner in kind.openapi_types.items() if inner.startswith("list["))
        page = {
            field: matches[int(start) : end] or None,
            "next_page_token": f"{end} {chosen}" if end < len(matches) else None,
        }
        return kind(total_size=len(matches), **page)

    def _id(self, kind: str) -> str:
        return f"{kind}-{next(self._numbers)}"

    # Pipelines

    def _pipeline(self, pipeline: Any) -> Any:
        if not pipeline.name:
            raise Refused(400, "name is required")
        if self.multi_user is False and pipeline.namespace:
            raise Refused(400, "In single-user mode, CreatePipeline shouldn't contain a namespace")
        names = [(known.name, known.namespace) for known in self.pipelines]
        if (pipeline.name, pipeline.namespace) in names:
            raise Refused(409, f"The name {pipeline.name} already exists")
        pipeline.pipeline_id = self._id("pipeline")
        pipeline.created_at = datetime.now(UTC)
        self.pipelines.append(pipeline)
        return pipeline

    def _spec(self, headers: Any, body: bytes) -> dict[str, Any]:
        """The uploaded file, parsed as strictly as the server does: the pipeline, and its options for a
        platform where it has them."""
        head = b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n"
        (part,) = message_from_bytes(head + body, policy=HTTP).iter_parts()
        disposition = part["Content-Disposition"].params
        if disposition["name"] != "uploadfile" or not disposition["filename"].endswith(".yaml"):
            raise Refused(400, "Failed to read pipeline from file")
        return json.loads(_parsed(part.get_content()))

    def _upload(self, request: Request, headers: Any, body: bytes) -> Any:
        name = request.query["name"]
        pipeline = self._pipeline(api.V2beta1Pipeline(name=name, display_name=name))
        self._add_version(pipeline.pipeline_id, name, self._spec(headers, body))
        return pipeline

    def _upload_version(self, request: Request, headers: Any, body: bytes) -> Any:
        _one(self.pipelines, "pipeline_id", request.query["pipelineid"])
        return self._add_version(
            request.query["pipelineid"], request.query["name"], self._spec(headers, body)
        )

    def _add_version(self, pipeline: str, name: str, spec: dict[str, Any]) -> Any:
        if any((known.pipeline_id, known.name) == (pipeline, name) for known in self.versions):
            raise Refused(409, f"Failed to create a pipeline version: {name} already exists")
        version = api.V2beta1PipelineVersion(
            pipeline_id=pipeline,
            pipeline_version_id=self._id("version"),
            name=name,
            display_name=name,
            pipeline_spec=spec,
        )
        self.versions.append(version)
        return version

    def _versions(self, pipeline: str) -> list[Any]:
        return [version for version in self.versions if version.pipeline_id == pipeline]

    # Runs

    def _experiment(self, experiment: Any) -> Any:
        if self.multi_user and not experiment.namespace:
            raise Refused(400, "Experiment has no namespace")
        if not self.multi_user and experiment.namespace:
            raise Refused(400, "In single-user mode, CreateExperiment shouldn't contain a namespace")
        names = [(known.display_name, known.namespace) for known in self.experiments]
        if (experiment.display_name, experiment.namespace) in names:
            raise Refused(409, f"Experiment with name {experiment.display_name} already exists")
        experiment.experiment_id = self._id("experiment")
        self.experiments.append(experiment)
        return experiment

    def _start(self, run: Any) -> None:
        """Checks a run or a recurring run, and fills in what the server chooses for both."""
        reference = run.pipeline_version_reference
        version = _one(self.versions, "pipeline_version_id", reference.pipeline_version_id)
        if version.pipeline_id != reference.pipeline_id:
            raise Refused(400, "the version is of another pipeline")
        experiment = _one(self.experiments, "experiment_id", run.experiment_id)
        if len(json.dumps(run.runtime_config.parameters)) > MAX_PARAMETER_BYTES:
            raise Refused(400, f"The input parameter length exceed maximum size of {MAX_PARAMETER_BYTES}.")
        run.namespace = experiment.namespace
        run.service_account = run.service_account or self.account
        run.created_at = datetime.now(UTC)

    def _run(self, run: Any) -> Any:
        self._start(run)
        run.run_id = self._id("run")
        run.state = "PENDING"
        self.runs.append(run)
        return run

    def _look(self, identifier: str) -> Any:
        run = _one(self.runs, "run_id", identifier)
        run.state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if run.state == "FAILED" and self.failed:
            run.run_details = api.V2beta1RunDetails(task_details=self.failed)
        return run

    def _recur(self, run: Any) -> Any:
        self._start(run)
        if len(run.trigger.cron_schedule.cron.split()) != 6:
            raise Refused(400, "Schedule cron is not a supported format")
        if not 1 <= int(run.max_concurrency) <= 10:
            raise Refused(400, "The max concurrency of the recurring run is out of range")
        run.recurring_run_id = self._id("recurring")
        run.status = "ENABLED" if run.mode == "ENABLE" else "DISABLED"
        parameters = run.runtime_config.parameters  # a protobuf Struct, whose numbers are all floating-point
        parameters["shards"] = [float(shard) for shard in parameters["shards"]]
        self.recurring.append(run)
        self.most_enabled = max(self.most_enabled, sum(known.status == "ENABLED" for known in self.recurring))
        return run

    def _enable(self, identifier: str) -> Any:
        run = _one(self.recurring, "recurring_run_id", identifier)
        run.status, run.mode = "ENABLED", "ENABLE"
        return {}


def _one(things: list[Any], key: str, value: str) -> Any:
    for thing in things:
        if getattr(thing, key) == value:
            return thing
    raise Refused(404, f"{key} {value} not found")


def _error(status: int, message: str) -> bytes:
    """A failure as KFP's gateway sends it."""
    answer = {"error": message, "code": CODES.get(status, 2), "message": message, "details": []}
    return json.dumps(answer).encode()


class Dripping(io.RawIOBase):
    """Writes single bytes, with a pause before each."""

    def __init__(self, into: Any, seconds: float) -> None:
        self.into, self.seconds = into, seconds

    def write(self, data: Any) -> int:
        for byte in bytes(data):
            time.sleep(self.seconds)
            self.into.write(bytes([byte]))
        return len(data)


@contextmanager
def serve(server: KfpApi, tls: ssl.SSLContext | None = None) -> Iterator[KfpApi]:
    """Answers at `server.url` until the end of the block; over TLS with a context of `servers.certified`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = (
            True  # otherwise each answer takes 40 ms, as its head and its body are sent apart
        )

        def handle_any(self) -> None:
            parts = urlsplit(self.path)
            queries = parse_qs(parts.query, keep_blank_values=True)
            query = {key: values[0] for key, values in queries.items()}
            token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, data = server.answer(Request(self.command, parts.path, query, token), self.headers, body)
            if server.drip:
                self.wfile = Dripping(self.wfile, server.drip)
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", data.decode())
            kind = "text/html" if data.startswith(b"<") else f"application/json{server.charset}"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = handle_any  # noqa: N815

        def log_message(self, *args: Any) -> None:
            """Prints nothing."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    # A client may have closed its connection.
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
    """A server without pipelines, and an environment that names no other server. Fails the test after an
    invalid request."""
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
