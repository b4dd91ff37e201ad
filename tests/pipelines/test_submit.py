"""register, submit and schedule, through the real commands and KFP's real client, against a small KFP server."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import kfp.client
import kfp_server_api
import pytest
import yaml
from kfp_api import KfpApi, kfp_api, serve  # noqa: F401
from servers import certified, free_port
from tiny import CONFIG, ran

from apportion import kubeflow
from apportion.config import load, parse
from pipelines import attribution, client, package, registration
from pipelines.__main__ import main

SHARED = ["store=s3://bucket/rounds", "tracking.uri=https://mlflow.example.com", "compute.device=cuda"]
SECRET = "s3cret-t0ken"
BUILT: dict[str, Any] = {}
PACKED: dict[int, tuple[package.Package, bytes]] = {}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Short waits, and every pipeline is compiled once for all tests."""
    monkeypatch.setattr(client, "PAUSES", (0.001, 0.001, 0.001))
    monkeypatch.setattr(registration, "POLL", 0.001)
    build, pack = attribution.attribution, package.pack

    def built(cluster):
        key = cluster.model_dump_json(exclude={"kfp"})
        BUILT[key] = BUILT.get(key) or build(cluster)
        return BUILT[key]

    def packed(pipeline, folder: Path) -> package.Package:
        if id(pipeline) not in PACKED:
            made = pack(pipeline, folder)
            PACKED[id(pipeline)] = made, made.path.read_bytes()
        made, data = PACKED[id(pipeline)]
        (folder / made.path.name).write_bytes(data)
        return dataclasses.replace(made, path=folder / made.path.name)

    monkeypatch.setattr(attribution, "attribution", built)
    monkeypatch.setattr(package, "pack", packed)


class Said:
    """How a command ended, and what it said on either stream."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def refused(self, *words: str) -> str:
        """The one line of a failure; asserts that it is one, says these words, and shows neither token nor traceback."""
        assert self.code == 1, self.err
        assert "Traceback" not in self.err
        lines = [line for line in self.err.splitlines() if line.startswith("apportion: ")]
        assert len(lines) == 1, self.err
        assert not [word for word in words if word not in lines[0]], lines[0]
        assert SECRET not in self.out + self.err
        return lines[0]


@pytest.fixture
def run(kfp_api: KfpApi, capsys, request):  # noqa: F811
    """Runs a command with the tiny configuration at the server."""

    def of(command: str, *arguments: str, to: str | None = None, shared: list[str] = SHARED) -> Said:
        options = [*shared, f"cluster.kfp.host={to or kfp_api.url}", *(text for text in arguments if not text.startswith("--"))]
        flags = [text for text in arguments if text.startswith("--")]
        capsys.readouterr()
        code = main([command, str(CONFIG), *flags, *(part for option in options for part in ("--set", option))])
        return Said(code, *capsys.readouterr())

    return of


# The pipeline


def test_a_pipeline_is_registered_once(kfp_api, run):  # noqa: F811
    said = run("register")
    assert said.code == 0, said.err
    (pipeline,), (version,) = kfp_api.pipelines, kfp_api.versions
    assert (pipeline.name, pipeline.display_name) == ("apportion-attribution", "apportion-attribution")
    assert re.fullmatch("apportion-attribution-[0-9a-f]{12}", version.name)
    assert f"version {version.name} is registered" in said.err
    again = run("register")
    assert f"version {version.name} was registered before" in again.err
    assert (len(kfp_api.pipelines), len(kfp_api.versions)) == (1, 1)


def test_the_version_is_what_compile_writes(kfp_api, run, tmp_path, capsys):  # noqa: F811
    run("register")
    (version,) = kfp_api.versions
    (tmp_path / "round.yaml").write_text(CONFIG.read_text())
    assert main(["compile", "--config", str(tmp_path / "round.yaml"), "--out", str(tmp_path / "out")]) == 0
    resources = list(yaml.safe_load_all((tmp_path / "out" / "attribution-kubernetes.yaml").read_text()))
    assert [(resource["kind"], resource["metadata"]["name"]) for resource in resources] == [
        ("Pipeline", "apportion-attribution"),
        ("PipelineVersion", version.name),
    ]
    assert resources[1]["spec"]["pipelineSpec"] == version.pipeline_spec["pipeline_spec"]
    assert resources[1]["spec"]["platformSpec"] == version.pipeline_spec["platform_spec"]


def test_another_content_is_another_version(kfp_api, run):  # noqa: F811
    run("register")
    assert run("register", "cluster.images.gpu=registry.example.com/apportion-gpu:0.2.0").code == 0
    assert run("register", "cluster.pools.gpu.node_selector={pool: a100}").code == 0
    assert len(kfp_api.pipelines) == 1
    assert len({version.name for version in kfp_api.versions}) == 3


def test_another_sdk_is_no_other_content(kfp_api, run):  # noqa: F811
    run("register")
    kfp_api.versions[0].pipeline_spec["pipeline_spec"]["sdkVersion"] = "kfp-2.17.9"
    assert "was registered before" in run("register").err


def test_a_version_changed_by_somebody_else_is_refused(kfp_api, run):  # noqa: F811
    run("register")
    kfp_api.versions[0].pipeline_spec["pipeline_spec"]["pipelineInfo"]["description"] = "another"
    for command in ("register", "submit", "schedule"):
        run(command).refused(kfp_api.versions[0].name, "other content", "delete that version")
    assert kfp_api.runs == kfp_api.recurring == []


def test_a_pipeline_that_was_uploaded_by_hand_gets_a_version(kfp_api, run):  # noqa: F811
    kfp_api.pipelines.append(
        kfp_server_api.V2beta1Pipeline(pipeline_id="by-hand", name="apportion-attribution", display_name="apportion-attribution")
    )
    assert run("register").code == 0
    assert [version.pipeline_id for version in kfp_api.versions] == ["by-hand"]


def test_killed_between_pipeline_and_version(kfp_api, run):  # noqa: F811
    kfp_api.fail("POST", "upload_version", 403)
    run("register").refused("HTTP 403")
    assert (len(kfp_api.pipelines), len(kfp_api.versions)) == (1, 0)
    assert run("register").code == 0
    assert (len(kfp_api.pipelines), len(kfp_api.versions)) == (1, 1)


# A run


def test_a_run_is_told_the_configuration_and_the_shards(kfp_api, run):  # noqa: F811
    said = run("submit", "compute.shards=3", "cluster.kfp.service_account=apportion", "cluster.kfp.experiment=credits")
    assert said.code == 0, said.err
    (started,) = kfp_api.runs
    assert said.out == f"{started.run_id}\n"
    assert f"{kfp_api.url}/#/runs/details/{started.run_id}" in said.err
    told = started.runtime_config.parameters
    assert told["shards"] == [0, 1, 2]
    assert parse(json.loads(told["config"]), "what was sent") == load(CONFIG, [*SHARED, "compute.shards=3"])
    assert "cluster" not in json.loads(told["config"])
    assert started.service_account == "apportion"
    assert [experiment.display_name for experiment in kfp_api.experiments] == ["credits"]
    assert started.pipeline_version_reference.pipeline_version_id == kfp_api.versions[0].pipeline_version_id


def test_every_run_has_a_name_of_its_own(kfp_api, run):  # noqa: F811
    run("submit")
    run("submit")
    assert len({started.display_name for started in kfp_api.runs}) == 2
    assert all(started.display_name.startswith("tiny 2") for started in kfp_api.runs)
    assert len(kfp_api.experiments) == len(kfp_api.versions) == 1


def test_waiting_for_a_run(kfp_api, run):  # noqa: F811
    kfp_api.states = ["PENDING", "RUNNING", "RUNNING", "SUCCEEDED"]
    said = run("submit", "--wait")
    assert said.code == 0, said.err
    assert [line.rpartition(": ")[2] for line in said.err.splitlines()[-3:]] == ["pending", "running", "succeeded"]


@pytest.mark.parametrize(("state", "word"), [("FAILED", "failed"), ("CANCELED", "canceled"), ("SKIPPED", "skipped")])
def test_a_run_that_ends_otherwise(kfp_api, run, state, word):  # noqa: F811
    kfp_api.states = ["RUNNING", state]
    child = kfp_server_api.PipelineTaskDetailChildTask(task_id="2")
    because = kfp_server_api.GoogleRpcStatus(code=13, message="apportion: store refused\nthe key")
    kfp_api.failed = [
        kfp_server_api.V2beta1PipelineTaskDetail(display_name="work", state="FAILED", child_tasks=[child]),
        kfp_server_api.V2beta1PipelineTaskDetail(display_name="finetune", state="FAILED", error=because),
        kfp_server_api.V2beta1PipelineTaskDetail(display_name="plan", state="SUCCEEDED"),
    ]
    line = run("submit", "--wait").refused(f"ended {word}", "submit again")
    assert ("finetune (apportion: store refused the key)" in line) == (state == "FAILED")
    assert "plan" not in line
    assert "work" not in line


def test_a_token_that_ends_while_waiting(kfp_api, run, monkeypatch):  # noqa: F811
    monkeypatch.setenv("KFP_TOKEN", SECRET)
    kfp_api.fail("GET", "runs/run", 401)
    said = run("submit", "--wait")
    said.refused("HTTP 401", "renew KFP_TOKEN", "which goes on")
    assert said.out.strip() == kfp_api.runs[0].run_id  # known before the wait


# A schedule


def test_a_schedule(kfp_api, run):  # noqa: F811
    assert run("schedule", "cluster.kfp.cron='0 30 2 * * MON-FRI'").code == 0
    (made,) = kfp_api.recurring
    assert (made.display_name, made.status, made.no_catchup, made.max_concurrency) == ("apportion-tiny", "ENABLED", True, "1")
    assert made.trigger.cron_schedule.cron == "0 30 2 * * MON-FRI"
    assert made.runtime_config.parameters["shards"] == [0, 1]
    assert made.pipeline_version_reference.pipeline_version_id == kfp_api.versions[0].pipeline_version_id


def test_the_same_schedule_stays(kfp_api, run):  # noqa: F811
    run("schedule")
    (before,) = kfp_api.recurring
    said = run("schedule")
    assert "is as it was" in said.err
    assert kfp_api.recurring == [before]
    assert len(kfp_api.sent("POST", "recurringruns$")) == 1


@pytest.mark.parametrize(
    "change",
    [
        "cluster.kfp.cron='0 0 4 * * *'",
        "valuation.level=0.9",
        "compute.shards=4",
        "cluster.retries=5",
        "cluster.kfp.service_account=other",
        "cluster.kfp.experiment=other",
    ],
)
def test_a_changed_schedule_takes_the_place_of_the_old_one(kfp_api, run, change):  # noqa: F811
    run("schedule")
    (old,) = kfp_api.recurring
    assert run("schedule", change).code == 0
    (new,) = kfp_api.recurring
    assert new.recurring_run_id != old.recurring_run_id
    changes = [(request.method, request.path) for request in kfp_api.requests if "recurring" in request.path and request.method != "GET"]
    assert changes[-2:] == [  # never none
        ("POST", "/apis/v2beta1/recurringruns"),
        ("DELETE", f"/apis/v2beta1/recurringruns/{old.recurring_run_id}"),
    ]


def test_killed_between_the_new_schedule_and_the_old_one(kfp_api, run):  # noqa: F811
    run("schedule")
    kfp_api.fail("DELETE", "recurringruns", 403)
    run("schedule", "compute.shards=4").refused("cannot delete a schedule", "HTTP 403")
    assert len(kfp_api.recurring) == 2
    assert run("schedule", "compute.shards=4").code == 0
    (left,) = kfp_api.recurring
    assert left.runtime_config.parameters["shards"] == [0, 1, 2, 3]


def test_a_schedule_that_somebody_deletes_meanwhile(kfp_api, run):  # noqa: F811
    run("schedule")
    kfp_api.fail("DELETE", "recurringruns", 404)
    assert run("schedule", "compute.shards=4").code == 0


def test_a_paused_schedule_is_enabled(kfp_api, run):  # noqa: F811
    run("schedule")
    kfp_api.recurring[0].status, kfp_api.recurring[0].mode = "DISABLED", "DISABLE"
    assert run("schedule").code == 0
    assert [known.status for known in kfp_api.recurring] == ["ENABLED"]


def test_schedules_of_two_projects(kfp_api, run):  # noqa: F811
    run("schedule")
    run("schedule", "project=other")
    assert {known.display_name for known in kfp_api.recurring} == {"apportion-tiny", "apportion-other"}
    said = run("schedule", "--off", shared=[])  # what is switched off need not be fit to run
    assert said.code == 0, said.err
    assert [known.display_name for known in kfp_api.recurring] == ["apportion-other"]
    assert "there was none" in run("schedule", "--off").err


# Several users


def test_in_a_namespace(kfp_api, run):  # noqa: F811
    kfp_api.multi_user = True
    run("submit").refused("several users", "cluster.kfp.namespace")
    assert run("submit", "cluster.kfp.namespace=team-a").code == 0
    assert run("schedule", "cluster.kfp.namespace=team-a").code == 0
    assert [known.namespace for known in (*kfp_api.pipelines, *kfp_api.experiments, *kfp_api.recurring)] == ["team-a"] * 3
    assert run("schedule", "cluster.kfp.namespace=team-a").code == 0
    assert len(kfp_api.recurring) == 1


def test_a_namespace_is_not_told_to_a_server_of_one_user(kfp_api, run):  # noqa: F811
    assert run("schedule", "cluster.kfp.namespace=kubeflow").code == 0
    assert {request.query.get("namespace") or "" for request in kfp_api.requests} == {""}


def test_a_namespace_of_others(kfp_api, run):  # noqa: F811
    kfp_api.multi_user, kfp_api.forbidden = True, {"team-b"}
    run("register", "cluster.kfp.namespace=team-b").refused("HTTP 403", "not authorized", "in namespace team-b", "cluster.kfp.namespace")


# Who we are


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_token_from_the_environment(kfp_api, run, monkeypatch, end):  # noqa: F811
    kfp_api.tokens = {SECRET}
    monkeypatch.setenv("KFP_TOKEN", SECRET + end)
    said = run("submit")
    assert said.code == 0
    assert SECRET not in said.out + said.err
    assert {request.token for request in kfp_api.requests} == {SECRET}


def test_a_token_from_a_file_is_read_anew_for_every_request(kfp_api, run, monkeypatch, tmp_path):  # noqa: F811
    (tmp_path / "token").write_text("first")
    monkeypatch.setenv("KFP_TOKEN_FILE", str(tmp_path / "token"))
    answer = kfp_api.answer

    def renewing(request, headers, body):
        if request.path.endswith("/healthz"):
            (tmp_path / "token").write_text("second")
        return answer(request, headers, body)

    monkeypatch.setattr(kfp_api, "answer", renewing)
    assert run("register").code == 0
    assert kfp_api.requests[0].token == "first"
    assert kfp_api.requests[-1].token == "second"


def test_the_token_of_the_service_account(kfp_api, run, monkeypatch, tmp_path):  # noqa: F811
    (tmp_path / "token").write_text("of-the-pod\n")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    kfp_api.tokens = {"of-the-pod"}
    assert run("register").code == 0
    kfp_api.tokens = set()
    run("register").refused("HTTP 401", "service account", "audience pipelines.kubeflow.org", str(tmp_path / "token"))


@pytest.mark.parametrize(("variable", "mend"), [("KFP_TOKEN", "renew KFP_TOKEN"), (None, "set KFP_TOKEN or KFP_TOKEN_FILE")])
def test_a_token_past_its_time(kfp_api, run, monkeypatch, variable, mend):  # noqa: F811
    kfp_api.tokens = {"a newer one"}
    if variable:
        monkeypatch.setenv(variable, SECRET)
    for command in ("register", "submit", "schedule"):
        run(command).refused(kfp_api.url, "HTTP 401", "past its time", mend)
    assert kfp_api.pipelines == []
    assert len(kfp_api.requests) == 3  # told once, not tried again


def test_a_token_file_past_its_time_is_named(kfp_api, run, monkeypatch, tmp_path):  # noqa: F811
    (tmp_path / "token").write_text(SECRET)
    monkeypatch.setenv("KFP_TOKEN_FILE", str(tmp_path / "token"))
    kfp_api.tokens = set()
    run("register").refused("HTTP 401", f"renew {tmp_path}/token (KFP_TOKEN_FILE)")


@pytest.mark.parametrize(
    ("text", "says"), [(f"{SECRET} x", "KFP_TOKEN"), (f"{SECRET}\nX-Other: 1", "KFP_TOKEN"), (f"{SECRET}ä", "KFP_TOKEN")]
)
def test_what_is_no_token(kfp_api, run, monkeypatch, text, says):  # noqa: F811
    monkeypatch.setenv("KFP_TOKEN", text)
    run("register").refused(says, "one word")
    assert kfp_api.requests == []


def test_files_that_are_not_there(kfp_api, run, monkeypatch):  # noqa: F811
    monkeypatch.setenv("KFP_TOKEN_FILE", "/nowhere/token")
    run("register").refused("cannot read /nowhere/token", "KFP_TOKEN_FILE")
    monkeypatch.delenv("KFP_TOKEN_FILE")
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.crt")
    run("register", to=kfp_api.url.replace("http:", "https:")).refused("cannot read /nowhere/ca.crt", "SSL_CERT_FILE")


# A server that fails


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "healthz", 503),
        ("GET", "pipelines$", 500),
        ("POST", "pipelines$", 502),
        ("POST", "upload_version", 503),
        ("POST", "experiments", 500),
        ("POST", "runs$", 504),
        ("GET", "runs$", 429),
    ],
)
def test_a_server_that_fails_for_a_moment(kfp_api, run, method, path, status):  # noqa: F811
    kfp_api.fail(method, path, status, times=2)
    said = run("submit")
    assert said.code == 0, said.err
    assert f"answers HTTP {status}" in said.err
    assert len(kfp_api.pipelines) == len(kfp_api.versions) == len(kfp_api.experiments) == len(kfp_api.runs) == 1


@pytest.mark.parametrize(
    ("command", "path"),
    [
        ("submit", "pipelines$"),
        ("submit", "upload_version"),
        ("submit", "experiments"),
        ("submit", "runs$"),
        ("schedule", "recurringruns$"),
    ],
)
def test_an_answer_that_is_lost_makes_nothing_twice(kfp_api, run, path, command):  # noqa: F811
    kfp_api.fail("POST", path, 504, lost=True)
    assert run(command).code == 0
    assert len(kfp_api.sent("POST", path)) == 1  # the second time it was found
    made = [kfp_api.pipelines, kfp_api.versions, kfp_api.experiments, kfp_api.runs if command == "submit" else kfp_api.recurring]
    assert [len(things) for things in made] == [1, 1, 1, 1]
    assert kfp_api.most_enabled <= 1


def test_a_server_that_fails_for_good(kfp_api, run):  # noqa: F811
    kfp_api.fail("POST", "runs$", 503, times=99)
    run("submit").refused(kfp_api.url, "cannot start a run", "HTTP 503: injected", "log of its API server", "again")
    assert len(kfp_api.sent("POST", "/runs$")) == 4


def test_somebody_else_registers_at_the_same_moment(kfp_api, run):  # noqa: F811
    kfp_api.fail("POST", "pipelines$", 409, lost=True)
    kfp_api.fail("POST", "upload_version", 409, lost=True)
    assert run("register").code == 0
    assert (len(kfp_api.pipelines), len(kfp_api.versions)) == (1, 1)


def test_what_exists_but_cannot_be_found(kfp_api, run):  # noqa: F811
    kfp_api.fail("POST", "upload_version", 409, times=99)
    run("register").refused("cannot upload version apportion-attribution-", "HTTP 409", "exists already", "somebody else")


@pytest.mark.parametrize(
    ("status", "words"),
    [(400, ["HTTP 400: no such option"]), (403, ["HTTP 403: no such option", "may not"]), (404, ["HTTP 404", "cluster.kfp.host"])],
)
def test_what_is_refused_is_not_tried_again(kfp_api, run, status, words):  # noqa: F811
    kfp_api.fail("POST", "runs$", status, json.dumps({"error_message": "no such\n option", "error_details": "a stack"}))
    run("submit").refused("cannot start a run", *words)
    assert len(kfp_api.sent("POST", "/runs$")) == 1


@pytest.mark.parametrize("status", [200, 404, 503])
def test_a_web_page_is_no_api(kfp_api, run, status):  # noqa: F811
    page = "<!DOCTYPE html><html><head><style>a{}</style></head><body>Please <b>log&nbsp;in</b></body></html>"
    kfp_api.fail("GET", ".*", status, page, times=99)
    line = run("register").refused("cluster.kfp.host" if status < 500 else "log of its API server")
    assert "a web page" in line if status == 200 else "Please log in" in line
    assert "<" not in line


@pytest.mark.parametrize("status", [200, 401, 503])
def test_what_is_no_text_is_no_api(kfp_api, run, status):  # noqa: F811
    kfp_api.fail("GET", ".*", status, b"<\xff\xfe\x00", times=99)
    run("register").refused("cluster.kfp.host")


def test_a_redirection_to_log_in(kfp_api, run, monkeypatch):  # noqa: F811
    monkeypatch.setenv("KFP_TOKEN", SECRET)
    kfp_api.fail("GET", "healthz", 302, "https://login.example.com/")
    run("register").refused("a redirection to https://login.example.com/", "cluster.kfp.host", "KFP_TOKEN")


def test_a_server_that_does_not_answer(kfp_api, run, monkeypatch):  # noqa: F811
    monkeypatch.setattr(client, "TIMEOUT", 0.2)
    kfp_api.fail("GET", "pipelines$", 0, seconds=0.6, times=1)
    assert run("register").code == 0
    kfp_api.fail("GET", "pipelines$", 0, seconds=0.6, times=99)
    run("register").refused("no answer within 0.2 s")


def test_a_server_that_is_not_there(run):
    port = free_port()
    run("register", to=f"http://127.0.0.1:{port}").refused(f"http://127.0.0.1:{port}", "refused", "cluster.kfp.host")
    run("register", to="http://kfp.invalid").refused("http://kfp.invalid", "cluster.kfp.host")


def test_https_where_there_is_none(kfp_api, run):  # noqa: F811
    run("register", to=kfp_api.url.replace("http:", "https:")).refused("SSL", "https is right", "SSL_CERT_FILE")


def test_a_certificate_of_an_authority_of_ones_own(run, kfp_api, monkeypatch, tmp_path):  # noqa: F811
    authority, tls = certified(tmp_path)
    with serve(KfpApi(), tls) as secure:
        run("register", to=secure.url).refused("certificate", "SSL_CERT_FILE")
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        assert run("register", to=secure.url).code == 0
        assert len(secure.versions) == 1


def test_a_path_before_the_api(kfp_api, run):  # noqa: F811
    """As `https://host/pipeline` in Kubeflow; here nothing is there."""
    run("register", to=f"{kfp_api.url}/wrong/").refused("HTTP 404", "cluster.kfp.host")


def test_no_address_at_all(kfp_api, run, monkeypatch):  # noqa: F811
    run("register", "cluster.kfp.host=null").refused("cluster.kfp.host", "expected one")
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", kfp_api.url)
    assert run("register", "cluster.kfp.host=null").code == 0


# What pods could not use is not sent


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("store=file:///shared/store", ["store", "file:///shared/store", "s3://bucket/prefix"]),
        ("tracking.uri=sqlite:///mlflow.db", ["tracking.uri", "https://", "null"]),
        ("tracking.uri=sqlite+pysqlite:///mlflow.db", ["tracking.uri"]),
        ("tracking.uri=file:///mlruns", ["tracking.uri"]),
        ("tracking.uri=mlruns", ["tracking.uri"]),
        ("tracking.artifacts=file:///artifacts", ["tracking.artifacts", "s3://bucket/prefix"]),
        ("data={source: folder, path: images, resolution: 16}", ["data.path", "'images'", "an absolute path: `plan` reads it in its pod"]),
        ("data={source: folder, path: '{workdir}/images', resolution: 16}", ["data.path"]),
        ("network=features.safetensors", ["network", "an absolute path: `plan` reads it in its pod"]),
    ],
)
@pytest.mark.parametrize("command", ["submit", "schedule"])
def test_what_is_on_this_machine_only(kfp_api, run, command, override, says):  # noqa: F811
    run(command, override).refused(*says)
    assert kfp_api.requests == []


def test_a_configuration_without_a_word_about_the_cluster(kfp_api, run):  # noqa: F811
    run("submit", shared=[]).refused("store", "file://{workdir}/store")
    assert kfp_api.requests == []


def test_images_inside_the_image(kfp_api, run):  # noqa: F811
    said = run("submit", "data={source: folder, path: /data/images, resolution: 16}", "network=s3://bucket/features.safetensors")
    assert said.code == 0, said.err
    assert "data.path: `plan` reads /data/images in its pod, so it must be in the image apportion/cpu:" in said.err
    said = run("submit", "data={source: folder, path: /data/images, resolution: 16}", "cluster.volumes=[{claim: ours, path: /data}]")
    assert "so it must be on the claim ours\n" in said.err


def test_a_device_that_plan_cannot_see_is_warned_of(run):
    assert "say compute.device: cuda" in run("submit", "compute.device=auto").err
    assert "compute.device" not in run("submit", "compute.device=auto", "cluster.pools.gpu={accelerator: null, accelerators: 0}").err


@pytest.mark.parametrize(("names", "says"), [(600, "MAX_PARAMETER_BYTES"), (9000, "262,144")])
def test_a_configuration_that_is_too_large(kfp_api, run, names, says):  # noqa: F811
    many = ", ".join(f"contributor number {i:05}" for i in range(names))
    said = run("submit", f"data={{source: openmoji, contributors: [{many}], resolution: 16}}")
    said.refused("exceed maximum size of 10000" if names == 600 else says)
    assert says in said.err
    assert bool(kfp_api.requests) == (names == 600)


def test_compile_asks_where_to(tmp_path, capsys):
    assert main(["compile", "--config", str(CONFIG)]) == 1
    assert "--out" in capsys.readouterr().err
    (tmp_path / "taken").write_text("mine")
    assert main(["compile", "--out", str(tmp_path / "taken" / "out")]) == 1
    assert "choose another (--out)" in capsys.readouterr().err
    assert main(["compile", "--kubernetes", "--out", str(tmp_path / "out")]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["attribution-kubernetes.yaml"]


def test_what_is_refused_is_refused_before_kfp_is_imported():
    """Which takes seconds on a busy machine."""
    ask = f"code = main(['submit', {str(CONFIG)!r}])"
    refuse = f"import sys; from pipelines.__main__ import main; {ask}; sys.exit(10 * code + ('kfp' in sys.modules))"
    code, _, err = ran("-c", refuse)
    assert "option store" in err
    assert code == 10


def test_a_pods_token_is_where_kfps_own_client_looks():
    assert (kubeflow.TOKEN, "KF_PIPELINES_SA_TOKEN_PATH") == (kfp.client.KF_PIPELINES_SA_TOKEN_PATH, kfp.client.KF_PIPELINES_SA_TOKEN_ENV)
