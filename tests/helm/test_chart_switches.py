"""Each switch on and off: what comes, what goes, and nothing else changes."""

import json
import re
from typing import Any

import pytest
from chart import (
    EVERYTHING,
    EXTERNAL,
    MONITORING,
    NOTHING,
    PIPELINES,
    ROOT,
    Object,
    configuration,
    ids,
    notes,
    only,
    pods,
    render,
    variables,
)

BASE = ids(render())
GOOGLE = "a@b.iam.gserviceaccount.com"
ROLE = "arn:aws:iam::123456789012:role/apportion"
NO_DOCTOR = {("Job", "apportion-doctor")}
ON: list[tuple[dict[str, Any], tuple[str, ...], set[tuple[str, str]], set[tuple[str, str]]]] = [
    ({"serviceAccount": {"create": False, "name": "mine"}}, (), set(), {("ServiceAccount", "apportion")}),
    (
        {"rbac": {"create": False}}, (), set(),
        {(kind, name) for kind in ("Role", "RoleBinding") for name in ("apportion-runs", "apportion-jobs")},
    ),
    (
        {"runs": {"serviceAccount": "default-editor"}}, (), set(),
        {("Role", "apportion-runs"), ("RoleBinding", "apportion-runs"), ("ServiceAccount", "apportion")},
    ),
    (
        {"runs": {"serviceAccount": "default-editor"}, "jobs": {"serviceAccount": {"create": False}}}, (), set(),
        {("Role", "apportion-runs"), ("RoleBinding", "apportion-runs"), ("ServiceAccount", "apportion-jobs")},
    ),
    ({"jobs": {"serviceAccount": {"create": False}}}, (), set(), {("ServiceAccount", "apportion-jobs")}),
    ({"kfp": {"multiUser": True}}, (), set(), set()),
    ({"serviceAccount": {"awsRoleArn": ROLE}}, (), set(), set()),
    ({"serviceAccount": {"eksPodIdentity": True}}, (), {("NetworkPolicy", "apportion-identity")}, set()),
    (
        {"kfp": {"host": ""}, "pipeline": {"mode": "none"}}, (), set(),
        {("Job", "apportion-register"), ("Job", "apportion-unschedule"), ("CronJob", "apportion-submit")},
    ),
    ({"schedule": {"enabled": True}}, (), {("Job", "apportion-schedule")}, set()),
    ({"submit": {"enabled": False}}, (), set(), {("CronJob", "apportion-submit")}),
    ({"lifecycle": {"enabled": True}}, (), {("Job", "apportion-lifecycle")}, set()),
    ({"doctor": {"enabled": False}}, (), set(), NO_DOCTOR | {("Role", "apportion-jobs"), ("RoleBinding", "apportion-jobs")}),
    ({"doctor": {"enabled": False}, "kfp": {"multiUser": True}}, (), set(), NO_DOCTOR),
    ({"doctor": {"clusterRead": True}}, (), {("ClusterRole", "ml-apportion-nodes"), ("ClusterRoleBinding", "ml-apportion-nodes")}, set()),
    ({"doctor": {"enabled": False, "clusterRead": True}, "kfp": {"multiUser": True}}, (), set(), NO_DOCTOR),
    (
        {"networkPolicy": {"enabled": False}}, (), set(),
        {("NetworkPolicy", f"apportion-{name}") for name in ("default-deny", "dns", "kfp", "s3", "mlflow", "kubernetes")},
    ),
    ({"mlflow": {"enabled": False}}, (), set(), {("NetworkPolicy", "apportion-mlflow")}),
    ({"resourceQuota": {"enabled": True}}, (), {("ResourceQuota", "apportion")}, set()),
    ({"priorityClass": {"create": True}}, (), {("PriorityClass", "ml-apportion-1000-never")}, set()),
    ({"priorityClass": {"create": True, "value": -5}}, (), {("PriorityClass", "ml-apportion-n5-never")}, set()),
    (
        {"priorityClass": {"create": True, "preemptionPolicy": "PreemptLowerPriority"}}, (),
        {("PriorityClass", "ml-apportion-1000-preempt")}, set(),
    ),
    ({"monitoring": {"podMonitor": {"enabled": True}}}, (), set(), set()),
    (
        {"monitoring": {"podMonitor": {"enabled": True}}}, (MONITORING,),
        {("PodMonitor", "apportion"), ("NetworkPolicy", "apportion-metrics")}, set(),
    ),
    ({"monitoring": {"prometheusRule": {"enabled": True}}}, (), set(), set()),
    ({"monitoring": {"prometheusRule": {"enabled": True}}}, (MONITORING,), {("PrometheusRule", "apportion")}, set()),
    ({}, (MONITORING, EXTERNAL), set(), set()),
    ({"pipeline": {"mode": "none"}}, (), set(), {("Job", "apportion-register")}),
    ({"pipeline": {"mode": "job"}}, (PIPELINES,), set(), set()),
    (
        {"externalSecrets": {"enabled": True, "storeName": "vault"}, "s3": {"externalKey": "s3"}}, (EXTERNAL,),
        {("ExternalSecret", "apportion-s3")}, set(),
    ),
    ({"kueue": {"queue": "gpus"}}, (), set(), set()),
    ({"ca": {"configMap": "authority"}}, (), set(), set()),
]  # fmt: skip


@pytest.mark.parametrize(("values", "apis", "come", "go"), ON, ids=[f"{next(iter(row[0]), 'apis')}-{i}" for i, row in enumerate(ON)])
def test_a_switch(values: Object, apis: tuple[str, ...], come: set[tuple[str, str]], go: set[tuple[str, str]]) -> None:
    found = ids(render(values, apis=apis))
    assert (found - BASE, BASE - found) == (come, go)


def test_everything_off_leaves_the_configuration() -> None:
    assert ids(render(NOTHING)) == {("ConfigMap", "apportion")}


# Commands


@pytest.mark.parametrize(
    ("job", "command"),
    [
        ("register", ["python", "-m", "pipelines", "register", "/etc/apportion/config/config.yaml"]),
        ("schedule", ["python", "-m", "pipelines", "schedule", "/etc/apportion/config/config.yaml"]),
        ("unschedule", ["python", "-m", "pipelines", "schedule", "/etc/apportion/config/config.yaml", "--off"]),
        ("submit", ["python", "-m", "pipelines", "submit", "/etc/apportion/config/config.yaml"]),
        ("lifecycle", ["apportion", "lifecycle", "/etc/apportion/config/config.yaml", "--days", "30"]),
        ("doctor", ["apportion", "doctor", "/etc/apportion/config/config.yaml", "--images"]),
    ],
)
def test_commands(job: str, command: list[str]) -> None:
    objects = render(None, EVERYTHING, apis=(EXTERNAL, MONITORING))
    (container,) = dict(pods(objects))[f"apportion-{job}"]["spec"]["containers"]
    assert container["command"] == command


@pytest.mark.parametrize("command", ["register", "schedule", "submit"])
def test_commands_are_those_of_pipelines(command: str) -> None:
    from pipelines.__main__ import parser

    objects = render({"schedule": {"enabled": True}})
    for name, pod in pods(objects):
        told = pod["spec"]["containers"][0]["command"]
        if told[:3] == ["python", "-m", "pipelines"]:
            assert parser().parse_args(told[3:]).act, name


def hook(objects: list[Object], name: str) -> dict[str, str]:
    return {key: value for key, value in only(objects, "Job", name)["metadata"]["annotations"].items() if key.startswith("helm.sh/")}


def test_hooks() -> None:
    after = {"helm.sh/hook": "post-install,post-upgrade,post-rollback", "helm.sh/hook-delete-policy": "before-hook-creation"}
    objects = render({"schedule": {"enabled": True}, "lifecycle": {"enabled": True}})
    assert hook(objects, "apportion-register") == after | {"helm.sh/hook-weight": "0"}
    assert hook(objects, "apportion-lifecycle") == after | {"helm.sh/hook-weight": "0"}
    assert hook(objects, "apportion-schedule") == after | {"helm.sh/hook-weight": "5"}  # when the pipeline is registered
    assert hook(objects, "apportion-doctor")["helm.sh/hook"] == "test"


def test_the_schedule_goes_with_the_release_and_with_its_switch() -> None:
    for enabled, when in ((True, "pre-delete"), (False, "post-upgrade,post-rollback")):
        objects = render({"schedule": {"enabled": enabled}})
        after_all_else = {"helm.sh/hook": when, "helm.sh/hook-weight": "5", "helm.sh/hook-delete-policy": "before-hook-creation"}
        assert hook(objects, "apportion-unschedule") == after_all_else
        assert only(objects, "Job", "apportion-unschedule")["spec"]["backoffLimit"] == 1  # an uninstall waits for it


def test_the_cronjob_never_fires() -> None:
    spec = only(render(), "CronJob")["spec"]
    assert spec["suspend"] is True
    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["schedule"] == "0 0 31 2 *"


# What pods are given


def test_settings_of_jobs() -> None:
    told = {
        "backoffLimit": 7, "activeDeadlineSeconds": 100, "ttlSecondsAfterFinished": 200, "priorityClassName": "urgent",
        "nodeSelector": {"pool": "services"}, "tolerations": [{"key": "a", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "podLabels": {"team": "vision"}, "podAnnotations": {"note": "yes"}, "extraEnv": [{"name": "EXTRA", "value": "1"}],
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "3Gi"}},
    }  # fmt: skip
    job = only(render({"jobs": told, "images": {"pullSecrets": ["registry"]}}), "Job", "apportion-register")["spec"]
    pod = job["template"]
    assert (job["backoffLimit"], job["activeDeadlineSeconds"], job["ttlSecondsAfterFinished"]) == (7, 100, 200)
    for key in ("nodeSelector", "tolerations", "affinity", "priorityClassName"):
        assert pod["spec"][key] == told[key]
    assert pod["metadata"]["labels"]["team"] == "vision"
    assert pod["metadata"]["annotations"]["note"] == "yes"
    assert pod["spec"]["imagePullSecrets"] == [{"name": "registry"}]
    assert variables(pod)["EXTRA"] == "1"
    assert pod["spec"]["containers"][0]["resources"]["limits"]["memory"] == "3Gi"


def test_an_authority_is_mounted_and_trusted() -> None:
    pod = dict(pods(render({"ca": {"configMap": "authority", "key": "root.pem"}})))["apportion-doctor"]
    assert {variables(pod)[name] for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")} == {"/etc/apportion/ca/root.pem"}
    (volume,) = (volume for volume in pod["spec"]["volumes"] if volume["name"] == "ca")
    assert volume["configMap"] == {"name": "authority", "items": [{"key": "root.pem", "path": "root.pem"}], "optional": True}


def test_jobs_have_the_variables_of_runs() -> None:
    objects = render({
        "env": {"LOG_LEVEL": "info"},
        "s3": {"endpoint": "https://s3.example.com", "region": "eu-1", "addressing": "path", "sse": "aws:kms", "kmsKey": "key-1"},
    })  # fmt: skip
    told = {
        "LOG_LEVEL": "info", "AWS_ENDPOINT_URL_S3": "https://s3.example.com", "AWS_REGION": "eu-1", "AWS_DEFAULT_REGION": "eu-1",
        "APPORTION_S3_ADDRESSING": "path", "APPORTION_S3_SSE": "aws:kms", "APPORTION_S3_KMS_KEY": "key-1",
    }  # fmt: skip
    assert configuration(objects)["cluster"]["env"] == told
    for _, pod in pods(objects):
        assert told.items() <= variables(pod).items()


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({}, "apportion/cpu:0.1.0"),
        ({"repository": "registry.internal:5000/a/cpu", "tag": "2.0"}, "registry.internal:5000/a/cpu:2.0"),
        ({"tag": "2.0", "digest": f"sha256:{'a' * 64}"}, f"apportion/cpu@sha256:{'a' * 64}"),
    ],
)
def test_images(image: Object, expected: str) -> None:
    objects = render({"images": {"cpu": image}})
    assert configuration(objects)["cluster"]["images"]["cpu"] == expected
    assert {pod["spec"]["containers"][0]["image"] for _, pod in pods(objects)} == {expected}


def test_a_changed_configuration_is_seen_in_the_pods() -> None:
    def checksum(objects: list[Object]) -> str:
        return str(dict(pods(objects))["apportion-submit"]["metadata"]["annotations"]["checksum/config"])

    assert checksum(render()) != checksum(render({"config": {"seed": 1}}))
    assert checksum(render()) == checksum(render({"resourceQuota": {"enabled": True}}))


def test_the_priority_of_jobs() -> None:
    objects = render({"priorityClass": {"create": True, "value": 7}})
    assert only(objects, "PriorityClass")["value"] == 7
    assert {pod["spec"]["priorityClassName"] for _, pod in pods(objects)} == {"ml-apportion-7-never"}


def test_the_quota() -> None:
    hard = only(render({"resourceQuota": {"enabled": True, "hard": {"pods": "10"}}}), "ResourceQuota")["spec"]["hard"]
    assert hard == {"requests.nvidia.com/gpu": "8", "pods": "10"}


# Monitoring


def test_alerts() -> None:
    values = {
        "monitoring": {"prometheusRule": {"enabled": True, "labels": {"release": "p"}, "severity": "page"}},
        "schedule": {"enabled": True},
    }
    found = only(render(values, apis=(MONITORING,)), "PrometheusRule")
    alerts = {alert["alert"]: alert for alert in found["spec"]["groups"][0]["rules"]}
    assert found["metadata"]["labels"]["release"] == "p"
    assert {alert["labels"]["severity"] for alert in alerts.values()} == {"page"}
    runs = 'namespace="ml",pod=~"(apportion-attribution|ml-apportion).*-system-container-impl-.*"'
    jobs = 'namespace="ml",job_name=~"apportion-(register|schedule|unschedule|submit|lifecycle|doctor).*"'
    assert {name: " ".join(alert["expr"].split()) for name, alert in alerts.items()} == {
        "ApportionJobFailed": f'kube_job_failed{{{jobs},condition="true"}} > 0',
        "ApportionRunPodFailed": f'sum by (namespace, pod) (kube_pod_status_phase{{{runs},phase="Failed"}}) > 0',
        "ApportionScheduleNotRun": f"(time() - max by (namespace) (max_over_time(kube_pod_created{{{runs}}}[26h])) > 93600 "
        f"or absent_over_time(kube_pod_created{{{runs}}}[26h])) "
        'unless on () (time() - kube_configmap_created{namespace="ml",configmap="apportion"} < 93600)',
    }
    assert "{{ $labels.job_name }}" in alerts["ApportionJobFailed"]["annotations"]["description"]


def _expressions(values: Object, **told: Any) -> dict[str, str]:
    rule = {"monitoring": {"prometheusRule": {"enabled": True} | values}, "schedule": {"enabled": True}}
    alerts = only(render(rule, apis=(MONITORING,), **told), "PrometheusRule")["spec"]["groups"][0]["rules"]
    return {alert["alert"]: alert["expr"] for alert in alerts}


def _matched(expression: str, label: str) -> re.Pattern[str]:
    """The regular expression of a label: PromQL's, which is anchored."""
    (found,) = set(re.findall(rf'{label}=~("(?:[^"\\]|\\.)*")', expression))
    return re.compile(json.loads(found))


def test_alerts_know_jobs_and_runs_by_their_names() -> None:
    """Of KFP's names: the pipeline's or, of a schedule, 25 characters of its name, as KFP's API server makes them."""
    found = _expressions({}, release="a.b", namespace="kubeflow-user-example-com")
    schedule = configuration(render(release="a.b", namespace="kubeflow-user-example-com"), "a.b-apportion")["cluster"]["kfp"]["schedule"]
    pods = _matched(found["ApportionScheduleNotRun"], "pod")
    assert pods.fullmatch(f"{schedule[:25]}x7k2p-1-3412-system-container-impl-99")
    assert pods.fullmatch("apportion-attribution-x7k2p-system-container-impl-99")
    assert not pods.fullmatch("other-x7k2p-system-container-impl-99")
    jobs = _matched(found["ApportionJobFailed"], "job_name")
    assert jobs.fullmatch("a.b-apportion-register")
    assert not jobs.fullmatch("a-b-apportion-register")
    (suggested,) = re.findall(r"create job (\S+) --from", notes({}))
    assert _matched(_expressions({})["ApportionJobFailed"], "job_name").fullmatch(suggested)
    (documented,) = re.findall(r"--from=cronjob/apportion-submit (\S+)`", (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8"))
    assert _matched(_expressions({})["ApportionJobFailed"], "job_name").fullmatch(documented)


def test_alerts_may_be_told_names_and_hours() -> None:
    found = _expressions({"runPods": "mine.*", "scheduleHours": 74})["ApportionScheduleNotRun"]
    assert _matched(found, "pod").pattern == "mine.*"
    assert found.count("[74h]") == found.count(str(74 * 3600)) == 2


def test_no_alert_on_a_schedule_that_is_off() -> None:
    found = only(render({"monitoring": {"prometheusRule": {"enabled": True}}}, apis=(MONITORING,)), "PrometheusRule")
    assert [alert["alert"] for alert in found["spec"]["groups"][0]["rules"]] == ["ApportionJobFailed", "ApportionRunPodFailed"]


def test_the_podmonitor_selects_runs() -> None:
    spec = only(render({"monitoring": {"podMonitor": {"enabled": True}}}, apis=(MONITORING,)), "PodMonitor")["spec"]
    assert spec["selector"]["matchLabels"].items() <= configuration(render())["cluster"]["labels"].items()


# Notes


@pytest.mark.parametrize(
    ("values", "apis", "said", "unsaid"),
    [
        ({}, (), ["Job apportion-register", "generic apportion-s3", "schedule.enabled=true"], ["as objects"]),
        ({}, (), ["create job apportion-submit-first --from=cronjob/apportion-submit", "named by tag"], ["networkPolicy.enabled"]),
        ({"schedule": {"enabled": True}}, (), ["Rounds are scheduled: 0 0 3 * * *"], ["schedule.enabled=true"]),
        ({"s3": {"existingSecret": "mine"}}, (), ["The Secret mine has to be there"], ["create secret generic mine"]),
        ({"s3": {"accessKeyIdKey": "user"}}, (), ["--from-literal=user=…"], []),
        ({"serviceAccount": {"awsRoleArn": ROLE}}, (), ["identity of service account apportion and apportion-jobs"], ["apportion-s3"]),
        ({"serviceAccount": {"eksPodIdentity": True}}, (), ["identity of service account apportion and apportion-jobs"], ["apportion-s3"]),
        ({"serviceAccount": {"gcpServiceAccount": GOOGLE}}, (), ["generic apportion-s3"], ["reached by the identity"]),
        ({"serviceAccount": {"azureClientId": "1" * 36}}, (), ["generic apportion-s3"], ["reached by the identity"]),
        ({"mlflow": {"enabled": False}}, (), ["no tracking"], ["apportion-mlflow"]),
        ({"pipeline": {"mode": "none"}}, (), ["(pipeline.mode=none); what is submitted or scheduled is registered first"], []),
        ({"pipeline": {"mode": "none"}, "kfp": {"host": ""}}, (), ["not installed (pipeline.mode=none)."], ["schedule it", "cronjob/"]),
        ({"mlflow": {"enabled": False}, "config": {"tracking": {}}}, (), ["no tracking"], []),
        ({"images": {"gpu": {"tag": "9"}}}, (PIPELINES,), ["Not as objects, though", "other values of images"], []),
        ({"monitoring": {"podMonitor": {"enabled": True}}}, (), ["asked for PodMonitor, but this cluster has no monitoring"], []),
        ({"networkPolicy": {"enabled": False}}, (), ["networkPolicy.enabled is false"], []),
        ({"doctor": {"enabled": False}, "submit": {"enabled": False}}, (), ["3. When it does what you want"], ["helm test", "cronjob/"]),
    ],
)  # fmt: skip
def test_notes_say_what_to_do_next(values: Object, apis: tuple[str, ...], said: list[str], unsaid: list[str]) -> None:
    text = notes(values, apis)
    assert not [part for part in said if part not in text], text
    assert not [part for part in unsaid if part in text], text


def test_notes_name_the_release_and_its_namespace() -> None:
    text = notes({}, release="vision", namespace="drawings")
    assert "helm test vision -n drawings; kubectl -n drawings logs job/vision-apportion-doctor\n" in text
    assert "kubectl -n drawings create job vision-apportion-submit-first --from=cronjob/vision-apportion-submit\n" in text
