"""register, submit and schedule, through the real commands and KFP's real client, against a small KFP server."""

# ruff: noqa: F811 (fixtures are imported, and named by the tests that need them)

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
from apportion.config import load, parse
from pipelines import registration
from pipelines.__main__ import main

# The pipeline


def test_a_pipeline_is_registered_once(kfp_api, run):
    said = run("register")
    assert said.code == 0, said.err
    (pipeline,), (version,) = kfp_api.pipelines, kfp_api.versions
    assert (pipeline.name, pipeline.display_name) == ("apportion-attribution", "apportion-attribution")
    assert re.fullmatch("apportion-attribution-[0-9a-f]{12}", version.name)
    assert f"version {version.name} is registered" in said.err
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


def test_another_content_is_another_version(kfp_api, run):
    run("register")
    assert run("register", "cluster.images.gpu=registry.example.com/apportion-gpu:0.2.0").code == 0
    assert run("register", "cluster.pools.gpu.node_selector={pool: a100}").code == 0
    assert len(kfp_api.pipelines) == 1
    assert len({version.name for version in kfp_api.versions}) == 3


def test_another_sdk_is_no_other_content(kfp_api, run):
    run("register")
    kfp_api.versions[0].pipeline_spec["pipeline_spec"]["sdkVersion"] = "kfp-2.17.9"
    assert "was registered before" in run("register").err


OTHERS = {
    "another description": lambda spec: spec["pipeline_spec"]["pipelineInfo"].update(description="another"),
    "another image": lambda spec: spec["pipeline_spec"]["deploymentSpec"]["executors"]["exec-plan"]["container"].update(image="other"),
    "another user": lambda spec: spec["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-plan"].update(
        securityContext={"runAsUser": "0"}
    ),
    "newer fields beside another platform": lambda spec: spec.update(platform_spec={"newField": 1}),
    "no platform": lambda spec: spec.pop("platform_spec"),
    "platform null": lambda spec: spec.update(platform_spec=None),
    "platform of another type": lambda spec: spec.update(platform_spec=5),
    "pipeline null": lambda spec: spec.update(pipeline_spec=None),
    "pipeline of another type": lambda spec: spec.update(pipeline_spec=[1]),
    "a part of another type": lambda spec: spec["pipeline_spec"].update(pipelineInfo=5),
    "no number": lambda spec: spec["pipeline_spec"]["deploymentSpec"].update(x=float("nan")),
    "a workflow of Argo": lambda spec: (spec.clear(), spec.update(apiVersion="argoproj.io/v1alpha1", kind="Workflow")),
    "nothing": lambda spec: spec.clear(),
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_a_version_changed_by_somebody_else_is_refused(kfp_api, run, change):
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


def test_what_only_a_newer_server_says_is_no_other_content(kfp_api, run):
    run("register")
    spec = kfp_api.versions[0].pipeline_spec
    for part in (spec["pipeline_spec"], spec["platform_spec"], spec["platform_spec"]["platforms"]["kubernetes"]):
        part["newField"] = {"a": 1}
    assert "was registered before" in run("register").err


def test_an_upload_whose_answer_does_not_show_the_pipeline(kfp_api, run, monkeypatch):
    add = kfp_api._add_version

    def silent(*told):
        made = copy.copy(add(*told))
        made.pipeline_spec = None
        return made

    monkeypatch.setattr(kfp_api, "_add_version", silent)
    assert run("register").code == 0


def test_a_pipeline_that_was_uploaded_by_hand_gets_a_version(kfp_api, run):
    kfp_api.pipelines.append(
        kfp_server_api.V2beta1Pipeline(pipeline_id="by-hand", name="apportion-attribution", display_name="apportion-attribution")
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


def test_a_run_is_told_the_configuration_and_the_shards(kfp_api, run):
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


def test_every_run_has_a_name_of_its_own(kfp_api, run):
    run("submit")
    run("submit")
    assert len({started.display_name for started in kfp_api.runs}) == 2
    assert all(started.display_name.startswith("tiny 2") for started in kfp_api.runs)
    assert len(kfp_api.experiments) == len(kfp_api.versions) == 1


def test_waiting_for_a_run(kfp_api, run):
    kfp_api.states = ["PENDING", "RUNNING", "RUNNING", "SUCCEEDED"]
    said = run("submit", "--wait")
    assert said.code == 0, said.err
    assert [line.rpartition(": ")[2] for line in said.err.splitlines()[-3:]] == ["pending", "running", "succeeded"]


@pytest.mark.parametrize(("state", "word"), [("FAILED", "failed"), ("CANCELED", "canceled"), ("SKIPPED", "skipped")])
def test_a_run_that_ends_otherwise(kfp_api, run, state, word):
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


def test_a_run_that_fails_without_a_word(kfp_api, run):
    kfp_api.fail("GET", "runs/run", 200, '{"run_id": "1", "state": "FAILED", "error": {"code": 2}, "run_details": {}}')
    run("submit", "--wait").refused("ended failed: KFP gives no reason", "submit again")


def test_who_no_longer_waits_hears_that_the_run_goes_on(kfp_api, run, capsys, monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(registration, "time", SimpleNamespace(sleep=interrupt))
    kfp_api.states = ["RUNNING"]
    with pytest.raises(SystemExit) as ended:
        run("submit", "--wait")
    assert ended.value.code == 130
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == f"no longer waiting: run {kfp_api.runs[0].run_id} goes on"
    assert said.out.strip() == kfp_api.runs[0].run_id


def test_nothing_but_our_own_lines_is_said(kfp_api, run):
    """KFP's client has lines of its own about namespaces, experiments and pages."""
    kfp_api.multi_user = True
    said = run("submit", "cluster.kfp.namespace=team-a")
    assert [line.partition(" ")[0] for line in said.err.splitlines()] == ["pipeline", "run"], said.err
    assert said.out == f"{kfp_api.runs[0].run_id}\n"


def test_a_token_that_ends_while_waiting(kfp_api, run, monkeypatch):
    monkeypatch.setenv("KFP_TOKEN", SECRET)
    kfp_api.fail("GET", "runs/run", 401)
    said = run("submit", "--wait")
    said.refused("HTTP 401", "renew KFP_TOKEN", "which goes on")
    assert said.out.strip() == kfp_api.runs[0].run_id  # known before the wait


# Several users


def test_in_a_namespace(kfp_api, run):
    kfp_api.multi_user = True
    run("submit").refused("several users", "cluster.kfp.namespace")
    assert run("submit", "cluster.kfp.namespace=team-a").code == 0
    assert run("schedule", "cluster.kfp.namespace=team-a").code == 0
    assert [known.namespace for known in (*kfp_api.pipelines, *kfp_api.experiments, *kfp_api.recurring)] == ["team-a"] * 3
    assert run("schedule", "cluster.kfp.namespace=team-a").code == 0
    assert len(kfp_api.recurring) == 1


def test_the_namespace_of_the_pod(kfp_api, run, monkeypatch, tmp_path):
    kfp_api.multi_user = True
    (tmp_path / "namespace").write_text("team-pod\n")
    monkeypatch.setattr(kfp.Client, "_NAMESPACE_PATH", str(tmp_path / "namespace"))
    assert run("submit").code == 0
    assert run("submit", "cluster.kfp.namespace=team-a").code == 0
    assert [known.namespace for known in (*kfp_api.pipelines, *kfp_api.experiments)] == ["team-pod", "team-a"] * 2


CONTEXTS = [
    '{"namespace": "team-b", "client_authentication_cookie": "mine=1"}',
    '{"client_authentication_header_name": "X"}',
    "{}",
    "no JSON",
]


@pytest.mark.parametrize("text", CONTEXTS)
@pytest.mark.parametrize("many", [False, True])
def test_what_kfps_client_remembers_is_neither_read_nor_written(kfp_api, run, monkeypatch, tmp_path, text, many):
    context = tmp_path / "context.json"
    context.write_text(text)
    monkeypatch.setattr(kfp.Client, "_LOCAL_KFP_CONTEXT", str(context))
    (tmp_path / "namespace").write_text("team-pod")
    monkeypatch.setattr(kfp.Client, "_NAMESPACE_PATH", str(tmp_path / "namespace"))
    kfp_api.multi_user, cookies, answer = many, [], kfp_api.answer

    def listening(request, headers, body):
        cookies.append(headers.get("Cookie"))
        return answer(request, headers, body)

    monkeypatch.setattr(kfp_api, "answer", listening)
    said = run("submit")
    assert said.code == 0, said.err
    assert kfp_api.experiments[0].namespace == ("team-pod" if many else None)
    assert set(cookies) == {None}
    assert context.read_text() == text


def test_a_namespace_is_not_told_to_a_server_of_one_user(kfp_api, run):
    assert run("schedule", "cluster.kfp.namespace=kubeflow").code == 0
    assert {request.query.get("namespace") or "" for request in kfp_api.requests} == {""}


def test_a_namespace_of_others(kfp_api, run):
    kfp_api.multi_user, kfp_api.forbidden = True, {"team-b"}
    run("register", "cluster.kfp.namespace=team-b").refused("HTTP 403", "not authorized", "in namespace team-b", "cluster.kfp.namespace")


# Who we are


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_token_from_the_environment(kfp_api, run, monkeypatch, end):
    kfp_api.tokens = {SECRET}
    monkeypatch.setenv("KFP_TOKEN", SECRET + end)
    said = run("submit")
    assert said.code == 0
    assert SECRET not in said.out + said.err
    assert {request.token for request in kfp_api.requests} == {SECRET}


def test_a_token_from_a_file_is_read_anew_for_every_request(kfp_api, run, monkeypatch, tmp_path):
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


def test_the_token_of_the_service_account(kfp_api, run, monkeypatch, tmp_path):
    (tmp_path / "token").write_text("of-the-pod\n")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    kfp_api.tokens = {"of-the-pod"}
    assert run("register").code == 0
    kfp_api.tokens = set()
    run("register").refused("HTTP 401", "service account", "audience pipelines.kubeflow.org", str(tmp_path / "token"))


@pytest.mark.parametrize(("variable", "mend"), [("KFP_TOKEN", "renew KFP_TOKEN"), (None, "set KFP_TOKEN or KFP_TOKEN_FILE")])
def test_a_token_past_its_time(kfp_api, run, monkeypatch, variable, mend):
    kfp_api.tokens = {"a newer one"}
    if variable:
        monkeypatch.setenv(variable, SECRET)
    for command in ("register", "submit", "schedule"):
        run(command).refused(kfp_api.url, "HTTP 401", "past its time", mend)
    assert kfp_api.pipelines == []
    assert len(kfp_api.requests) == 3  # told once, not tried again


def test_a_token_file_past_its_time_is_named(kfp_api, run, monkeypatch, tmp_path):
    (tmp_path / "token").write_text(SECRET)
    monkeypatch.setenv("KFP_TOKEN_FILE", str(tmp_path / "token"))
    kfp_api.tokens = set()
    run("register").refused("HTTP 401", f"renew {tmp_path}/token (KFP_TOKEN_FILE)")


@pytest.mark.parametrize(
    ("text", "says"), [(f"{SECRET} x", "KFP_TOKEN"), (f"{SECRET}\nX-Other: 1", "KFP_TOKEN"), (f"{SECRET}ä", "KFP_TOKEN")]
)
def test_what_is_no_token(kfp_api, run, monkeypatch, text, says):
    monkeypatch.setenv("KFP_TOKEN", text)
    run("register").refused(says, "one word")
    assert kfp_api.requests == []


def test_files_that_are_not_there(kfp_api, run, monkeypatch):
    monkeypatch.setenv("KFP_TOKEN_FILE", "/nowhere/token")
    run("register").refused("cannot read /nowhere/token", "KFP_TOKEN_FILE")
    monkeypatch.delenv("KFP_TOKEN_FILE")
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.crt")
    run("register", to=kfp_api.url.replace("http:", "https:")).refused("cannot read /nowhere/ca.crt", "SSL_CERT_FILE")


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
def test_what_is_on_this_machine_only(kfp_api, run, command, override, says):
    run(command, override).refused(*says)
    assert kfp_api.requests == []


def test_a_configuration_without_a_word_about_the_cluster(kfp_api, run):
    run("submit", shared=[]).refused("store", "file://{workdir}/store")
    assert kfp_api.requests == []


def test_images_inside_the_image(kfp_api, run):
    said = run("submit", "data={source: folder, path: /data/images, resolution: 16}", "network=s3://bucket/features.safetensors")
    assert said.code == 0, said.err
    assert "data.path: `plan` reads /data/images in its pod, so it must be in the image apportion/cpu:" in said.err
    said = run("submit", "data={source: folder, path: /data/images, resolution: 16}", "cluster.volumes=[{claim: ours, path: /data}]")
    assert "so it must be on the claim ours\n" in said.err


def test_a_device_that_plan_cannot_see_is_warned_of(run):
    assert "say compute.device: cuda" in run("submit", "compute.device=auto").err
    assert "compute.device" not in run("submit", "compute.device=auto", "cluster.pools.gpu={accelerator: null, accelerators: 0}").err


@pytest.mark.parametrize(("names", "says"), [(600, "MAX_PARAMETER_BYTES"), (9000, "262,144")])
def test_a_configuration_that_is_too_large(kfp_api, run, names, says):
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


@pytest.mark.parametrize("taken", ["attribution.yaml", "attribution-kubernetes.yaml"])
def test_compile_where_a_file_cannot_be_written(tmp_path, capsys, taken):
    (tmp_path / taken).mkdir()
    assert main(["compile", "--out", str(tmp_path)]) == 1
    assert f"Is a directory: '{tmp_path / taken}'; choose another (--out)" in capsys.readouterr().err


def test_what_is_refused_is_refused_before_kfp_is_imported():
    """Which takes seconds on a busy machine."""
    ask = f"code = main(['submit', {str(CONFIG)!r}])"
    refuse = f"import sys; from pipelines.__main__ import main; {ask}; sys.exit(10 * code + ('kfp' in sys.modules))"
    code, _, err = ran("-c", refuse)
    assert "option store" in err
    assert code == 10


def test_a_pods_token_is_where_kfps_own_client_looks():
    assert (kubeflow.TOKEN, "KF_PIPELINES_SA_TOKEN_PATH") == (kfp.client.KF_PIPELINES_SA_TOKEN_PATH, kfp.client.KF_PIPELINES_SA_TOKEN_ENV)
