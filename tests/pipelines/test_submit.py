"""register, submit and schedule: the real commands and KFP's real client, against a small KFP server."""

# ruff: noqa: F811 (fixtures are imported, and are parameters of the tests that need them)

import copy
import json
import re
from types import SimpleNamespace

import kfp.client
import kfp_server_api
import pytest
import yaml
from commands import SECRET, SHARED, kfp_api, quick, run  # noqa: F401
from tiny import CONFIG, ran

from apportion import kubeflow
from apportion.config.loading import load, parse
from pipelines import registration
from pipelines.__main__ import main

# The pipeline


def test_a_pipeline_is_registered_once(kfp_api, run):
    result = run("register")
    assert result.code == 0, result.err
    (pipeline,), (version,) = kfp_api.pipelines, kfp_api.versions
    assert (pipeline.name, pipeline.display_name) == ("apportion-attribution", "apportion-attribution")
    assert re.fullmatch("apportion-attribution-[0-9a-f]{12}", version.name)
    assert f"version {version.name} is registered" in result.err
    again = run("register")
    assert f"version {version.name} was registered before" in again.err
    assert (len(kfp_api.pipelines), len(kfp_api.versions)) == (1, 1)


def test_the_version_is_what_compile_writes(kfp_api, run, tmp_path, capsys):
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


def test_other_content_is_another_version(kfp_api, run):
    run("register")
    assert run("register", "cluster.images.gpu=registry.example.com/apportion-gpu:0.2.0").code == 0
    assert run("register", "cluster.pools.gpu.node_selector={pool: a100}").code == 0
    assert len(kfp_api.pipelines) == 1
    assert len({version.name for version in kfp_api.versions}) == 3


def test_another_version_of_the_sdk_is_the_same_content(kfp_api, run):
    run("register")
    kfp_api.versions[0].pipeline_spec["pipeline_spec"]["sdkVersion"] = "kfp-2.17.9"
    assert "was registered before" in run("register").err


def executors(spec):
    return spec["deploymentSpec"]["executors"]


OTHERS = {
    "another description": lambda spec: spec["pipeline_spec"]["pipelineInfo"].update(description="another"),
    "another image": lambda spec: executors(spec["pipeline_spec"])["exec-plan"]["container"].update(
        image="other"
    ),
    "another user": lambda spec: executors(spec["platform_spec"]["platforms"]["kubernetes"])[
        "exec-plan"
    ].update(securityContext={"runAsUser": "0"}),
    "newer fields beside another platform": lambda spec: spec.update(platform_spec={"newField": 1}),
    "no platform": lambda spec: spec.pop("platform_spec"),
    "platform null": lambda spec: spec.update(platform_spec=None),
    "platform of another type": lambda spec: spec.update(platform_spec=5),
    "pipeline null": lambda spec: spec.update(pipeline_spec=None),
    "pipeline of another type": lambda spec: spec.update(pipeline_spec=[1]),
    "a part of another type": lambda spec: spec["pipeline_spec"].update(pipelineInfo=5),
    "not a number": lambda spec: spec["pipeline_spec"]["deploymentSpec"].update(x=float("nan")),
    "a workflow of Argo": lambda spec: (
        spec.clear(),
        spec.update(apiVersion="argoproj.io/v1alpha1", kind="Workflow"),
    ),
    "nothing": lambda spec: spec.clear(),
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_a_version_with_other_content_is_refused(kfp_api, run, change):
    run("register")
    change(kfp_api.versions[0].pipeline_spec)
    run("register").refused(kfp_api.versions[0].name, "other content", "delete that version")


@pytest.mark.parametrize("spec", [None, "a text", ["a list"]], ids=str)
def test_a_version_that_shows_no_pipeline_is_refused(kfp_api, run, spec):
    run("register")
    kfp_api.versions[0].pipeline_spec = spec
    for command in ("register", "submit", "schedule"):
        run(command).refused(kfp_api.versions[0].name, "other content", "delete that version")
    assert kfp_api.runs == kfp_api.recurring == []


def test_fields_of_a_newer_server_are_ignored(kfp_api, run):
    run("register")
    spec = kfp_api.versions[0].pipeline_spec
    for part in (
        spec["pipeline_spec"],
        spec["platform_spec"],
        spec["platform_spec"]["platforms"]["kubernetes"],
    ):
        part["newField"] = {"a": 1}
    assert "was registered before" in run("register").err


def test_an_answer_to_an_upload_without_the_pipeline(kfp_api, run, monkeypatch):
    add = kfp_api._add_version

    def add_without_spec(*arguments):
        version = copy.copy(add(*arguments))
        version.pipeline_spec = None
        return version

    monkeypatch.setattr(kfp_api, "_add_version", add_without_spec)
    assert run("register").code == 0


def test_a_pipeline_that_was_uploaded_by_hand_gets_a_version(kfp_api, run):
    name = "apportion-attribution"
    kfp_api.pipelines.append(
        kfp_server_api.V2beta1Pipeline(pipeline_id="by-hand", name=name, display_name=name)
    )
    assert run("register").code == 0
    assert [version.pipeline_id for version in kfp_api.versions] == ["by-hand"]


def test_killed_between_pipeline_and_version(kfp_api, run):
    kfp_api.fail("POST", "upload_version", 403)
    run("register").refused("HTTP 403")
    assert (len(kfp_api.pipelines), len(kfp_api.versions)) == (1, 0)
    assert run("register").code == 0
    assert (len(kfp_api.pipelines), len(kfp_api.versions)) == (1, 1)


# A run


def test_a_run_gets_the_configuration_and_the_shards(kfp_api, run):
    kfp_options = ["cluster.kfp.service_account=apportion", "cluster.kfp.experiment=credits"]
    result = run("submit", "compute.shards=3", *kfp_options)
    assert result.code == 0, result.err
    (started,) = kfp_api.runs
    assert result.out == f"{started.run_id}\n"
    assert f"{kfp_api.url}/#/runs/details/{started.run_id}" in result.err
    parameters = started.runtime_config.parameters
    assert parameters["shards"] == [0, 1, 2]
    config = json.loads(parameters["config"])
    assert parse(config, "the parameter config") == load(CONFIG, [*SHARED, "compute.shards=3"])
    assert "cluster" not in config
    assert started.service_account == "apportion"
    assert [experiment.display_name for experiment in kfp_api.experiments] == ["credits"]
    assert started.pipeline_version_reference.pipeline_version_id == kfp_api.versions[0].pipeline_version_id


def test_every_run_has_its_own_name(kfp_api, run):
    run("submit")
    run("submit")
    assert len({started.display_name for started in kfp_api.runs}) == 2
    assert all(started.display_name.startswith("tiny 2") for started in kfp_api.runs)
    assert len(kfp_api.experiments) == len(kfp_api.versions) == 1


def test_waiting_for_a_run(kfp_api, run):
    kfp_api.states = ["PENDING", "RUNNING", "RUNNING", "SUCCEEDED"]
    result = run("submit", "--wait")
    assert result.code == 0, result.err
    assert [line.rpartition(": ")[2] for line in result.err.splitlines()[-3:]] == [
        "pending",
        "running",
        "succeeded",
    ]


@pytest.mark.parametrize(
    ("state", "word"), [("FAILED", "failed"), ("CANCELED", "canceled"), ("SKIPPED", "skipped")]
)
def test_a_run_that_does_not_succeed(kfp_api, run, state, word):
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


def test_a_run_that_fails_without_a_reason(kfp_api, run):
    answer = '{"run_id": "1", "state": "FAILED", "error": {"code": 2}, "run_details": {}}'
    kfp_api.fail("GET", "runs/run", 200, answer)
    run("submit", "--wait").refused("ended failed: KFP gives no reason", "submit again")


def test_interrupting_the_wait_does_not_stop_the_run(kfp_api, run, capsys, monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(registration, "time", SimpleNamespace(sleep=interrupt))
    kfp_api.states = ["RUNNING"]
    with pytest.raises(SystemExit) as ended:
        run("submit", "--wait")
    assert ended.value.code == 130
    result = capsys.readouterr()
    assert result.err.splitlines()[-1] == f"no longer waiting: run {kfp_api.runs[0].run_id} continues"
    assert result.out.strip() == kfp_api.runs[0].run_id


def test_only_our_own_lines_are_printed(kfp_api, run):
    """KFP's client prints and logs lines about namespaces, experiments and pages."""
    kfp_api.multi_user = True
    result = run("submit", "cluster.kfp.namespace=team-a")
    assert [line.partition(" ")[0] for line in result.err.splitlines()] == ["pipeline", "run"], result.err
    assert result.out == f"{kfp_api.runs[0].run_id}\n"


def test_a_token_that_expires_during_the_wait(kfp_api, run, monkeypatch):
    monkeypatch.setenv("KFP_TOKEN", SECRET)
    kfp_api.fail("GET", "runs/run", 401)
    result = run("submit", "--wait")
    result.refused("HTTP 401", "renew KFP_TOKEN", "which continues")
    assert result.out.strip() == kfp_api.runs[0].run_id  # known before the wait


# Several users


def test_in_a_namespace(kfp_api, run):
    kfp_api.multi_user = True
    run("submit").refused("several users", "cluster.kfp.namespace")
    assert run("submit", "cluster.kfp.namespace=team-a").code == 0
    assert run("schedule", "cluster.kfp.namespace=team-a").code == 0
    objects = (*kfp_api.pipelines, *kfp_api.experiments, *kfp_api.recurring)
    assert [known.namespace for known in objects] == ["team-a"] * 3
    assert run("schedule", "cluster.kfp.namespace=team-a").code == 0
    assert len(kfp_api.recurring) == 1


def test_the_namespace_of_the_pod(kfp_api, run, monkeypatch, tmp_path):
    kfp_api.multi_user = True
    (tmp_path / "namespace").write_text("team-pod\n")
    monkeypatch.setattr(kfp.Client, "_NAMESPACE_PATH", str(tmp_path / "namespace"))
    assert run("submit").code == 0
    assert run("submit", "cluster.kfp.namespace=team-a").code == 0
    objects = (*kfp_api.pipelines, *kfp_api.experiments)
    assert [known.namespace for known in objects] == ["team-pod", "team-a"] * 2


CONTEXTS = [
    '{"namespace": "team-b", "client_authentication_cookie": "mine=1"}',
    '{"client_authentication_header_name": "X"}',
    "{}",
    "not JSON",
]


@pytest.mark.parametrize("text", CONTEXTS)
@pytest.mark.parametrize("multi_user", [False, True])
def test_the_context_file_of_kfps_client_is_neither_read_nor_written(
    kfp_api, run, monkeypatch, tmp_path, text, multi_user
):
    context = tmp_path / "context.json"
    context.write_text(text)
    monkeypatch.setattr(kfp.Client, "_LOCAL_KFP_CONTEXT", str(context))
    (tmp_path / "namespace").write_text("team-pod")
    monkeypatch.setattr(kfp.Client, "_NAMESPACE_PATH", str(tmp_path / "namespace"))
    kfp_api.multi_user = multi_user
    cookies, answer = [], kfp_api.answer

    def answer_and_note(request, headers, body):
        cookies.append(headers.get("Cookie"))
        return answer(request, headers, body)

    monkeypatch.setattr(kfp_api, "answer", answer_and_note)
    result = run("submit")
    assert result.code == 0, result.err
    assert kfp_api.experiments[0].namespace == ("team-pod" if multi_user else None)
    assert set(cookies) == {None}
    assert context.read_text() == text


def test_a_namespace_is_not_sent_to_a_server_for_one_user(kfp_api, run):
    assert run("schedule", "cluster.kfp.namespace=kubeflow").code == 0
    assert {request.query.get("namespace") or "" for request in kfp_api.requests} == {""}


def test_a_namespace_of_other_users(kfp_api, run):
    kfp_api.multi_user, kfp_api.forbidden = True, {"team-b"}
    result = run("register", "cluster.kfp.namespace=team-b")
    result.refused("HTTP 403", "not authorized", "in namespace team-b", "cluster.kfp.namespace")


# Tokens


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_token_from_the_environment(kfp_api, run, monkeypatch, end):
    kfp_api.tokens = {SECRET}
    monkeypatch.setenv("KFP_TOKEN", SECRET + end)
    result = run("submit")
    assert result.code == 0
    assert SECRET not in result.out + result.err
    assert {request.token for request in kfp_api.requests} == {SECRET}


def test_a_token_file_is_read_again_for_every_request(kfp_api, run, monkeypatch, tmp_path):
    (tmp_path / "token").write_text("first")
    monkeypatch.setenv("KFP_TOKEN_FILE", str(tmp_path / "token"))
    answer = kfp_api.answer

    def renew_and_answer(request, headers, body):
        if request.path.endswith("/healthz"):
            (tmp_path / "token").write_text("second")
        return answer(request, headers, body)

    monkeypatch.setattr(kfp_api, "answer", renew_and_answer)
    assert run("register").code == 0
    assert kfp_api.requests[0].token == "first"
    assert kfp_api.requests[-1].token == "second"


def test_the_token_of_the_service_account(kfp_api, run, monkeypatch, tmp_path):
    (tmp_path / "token").write_text("of-the-pod\n")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    kfp_api.tokens = {"of-the-pod"}
    assert run("register").code == 0
    kfp_api.tokens = set()
    run("register").refused(
        "HTTP 401", "service account", "audience pipelines.kubeflow.org", str(tmp_path / "token")
    )


@pytest.mark.parametrize(
    ("variable", "fix"), [("KFP_TOKEN", "renew KFP_TOKEN"), (None, "set KFP_TOKEN or KFP_TOKEN_FILE")]
)
def test_an_expired_token(kfp_api, run, monkeypatch, variable, fix):
    kfp_api.tokens = {"a newer one"}
    if variable:
        monkeypatch.setenv(variable, SECRET)
    for command in ("register", "submit", "schedule"):
        run(command).refused(kfp_api.url, "HTTP 401", "expired", fix)
    assert kfp_api.pipelines == []
    assert len(kfp_api.requests) == 3  # one for each command: none is retried


def test_the_file_of_an_expired_token_is_named(kfp_api, run, monkeypatch, tmp_path):
    (tmp_path / "token").write_text(SECRET)
    monkeypatch.setenv("KFP_TOKEN_FILE", str(tmp_path / "token"))
    kfp_api.tokens = set()
    run("register").refused("HTTP 401", f"renew {tmp_path}/token (KFP_TOKEN_FILE)")


@pytest.mark.parametrize("text", [f"{SECRET} x", f"{SECRET}\nX-Other: 1", f"{SECRET}ä"])
def test_a_malformed_token(kfp_api, run, monkeypatch, text):
    monkeypatch.setenv("KFP_TOKEN", text)
    run("register").refused("KFP_TOKEN", "one word")
    assert kfp_api.requests == []


def test_missing_files(kfp_api, run, monkeypatch):
    monkeypatch.setenv("KFP_TOKEN_FILE", "/nowhere/token")
    run("register").refused("cannot read /nowhere/token", "KFP_TOKEN_FILE")
    monkeypatch.delenv("KFP_TOKEN_FILE")
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.crt")
    result = run("register", to=kfp_api.url.replace("http:", "https:"))
    result.refused("cannot read /nowhere/ca.crt", "SSL_CERT_FILE")


# Options that pods could not use


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("store=file:///shared/store", ["store", "file:///shared/store", "s3://bucket/prefix"]),
        ("tracking.uri=sqlite:///mlflow.db", ["tracking.uri", "https://", "null"]),
        ("tracking.uri=sqlite+pysqlite:///mlflow.db", ["tracking.uri"]),
        ("tracking.uri=file:///mlruns", ["tracking.uri"]),
        ("tracking.uri=mlruns", ["tracking.uri"]),
        ("tracking.artifacts=file:///artifacts", ["tracking.artifacts", "s3://bucket/prefix"]),
        (
            "data={source: folder, path: images, resolution: 16}",
            ["data.path", "'images'", "an absolute path: `plan` reads it in its pod"],
        ),
        ("data={source: folder, path: '{workdir}/images', resolution: 16}", ["data.path"]),
        ("network=features.safetensors", ["network", "an absolute path: `plan` reads it in its pod"]),
        ("network={architecture: transformers, weights: clip}", ["network.weights", "an absolute path"]),
    ],
)
@pytest.mark.parametrize("command", ["submit", "schedule"])
def test_places_of_this_machine_are_refused(kfp_api, run, command, override, words):
    run(command, override).refused(*words)
    assert kfp_api.requests == []


def test_a_configuration_for_this_machine(kfp_api, run):
    run("submit", shared=[]).refused("store", "file://{workdir}/store")
    assert kfp_api.requests == []


def test_images_inside_the_container_image(kfp_api, run):
    folder = "data={source: folder, path: /data/images, resolution: 16}"
    weights = "network={architecture: transformers, weights: s3://bucket/clip}"
    for network in ("network=s3://bucket/features.safetensors", weights, "network=train", "network=openmoji"):
        result = run("submit", folder, network)
        assert result.code == 0, result.err
        assert "network: `plan` reads" not in result.err
    path = "data.path: `plan` reads /data/images in its pod, so it must be"
    assert f"{path} in the image apportion/cpu:" in result.err
    result = run("submit", folder, "cluster.volumes=[{claim: ours, path: /data}]")
    assert f"{path} on the claim ours\n" in result.err


def test_a_warning_for_a_device_that_plan_cannot_see(run):
    assert "set compute.device: cuda" in run("submit", "compute.device=auto").err
    without = "cluster.pools.gpu={accelerator: null, accelerators: 0}"
    assert "compute.device" not in run("submit", "compute.device=auto", without).err


@pytest.mark.parametrize(("contributors", "words"), [(600, "MAX_PARAMETER_BYTES"), (9000, "262,144")])
def test_a_configuration_that_is_too_large(kfp_api, run, contributors, words):
    names = ", ".join(f"contributor number {i:05}" for i in range(contributors))
    result = run("submit", f"data={{source: openmoji, contributors: [{names}], resolution: 16}}")
    sent = contributors == 600  # and refused by the server; the larger one is refused here
    result.refused("exceed maximum size of 10000" if sent else words)
    assert words in result.err
    assert bool(kfp_api.requests) == sent


def test_compile_needs_a_folder(tmp_path, capsys):
    assert main(["compile", "--config", str(CONFIG)]) == 1
    assert "--out" in capsys.readouterr().err
    (tmp_path / "taken").write_text("a file")
    assert main(["compile", "--out", str(tmp_path / "taken" / "out")]) == 1
    assert "choose another folder (--out)" in capsys.readouterr().err
    assert main(["compile", "--kubernetes", "--out", str(tmp_path / "out")]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["attribution-kubernetes.yaml"]


@pytest.mark.parametrize("taken", ["attribution.yaml", "attribution-kubernetes.yaml"])
def test_compile_where_a_file_cannot_be_written(tmp_path, capsys, taken):
    (tmp_path / taken).mkdir()
    assert main(["compile", "--out", str(tmp_path)]) == 1
    assert f"Is a directory: '{tmp_path / taken}'; choose another folder (--out)" in capsys.readouterr().err


def test_a_configuration_is_refused_before_kfp_is_imported():
    """Importing KFP takes seconds on a busy machine."""
    submit = f"code = main(['submit', {str(CONFIG)!r}])"
    status = "10 * code + ('kfp' in sys.modules)"
    code, _, err = ran("-c", f"import sys; from pipelines.__main__ import main; {submit}; sys.exit({status})")
    assert "option store" in err
    assert code == 10


def test_the_token_of_a_pod_is_where_kfps_own_client_expects_it():
    assert kfp.client.KF_PIPELINES_SA_TOKEN_PATH == kubeflow.TOKEN
    assert kfp.client.KF_PIPELINES_SA_TOKEN_ENV == "KF_PIPELINES_SA_TOKEN_PATH"
