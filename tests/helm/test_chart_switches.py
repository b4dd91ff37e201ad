"""Each switch on and off: the objects that are added and removed, while all others stay."""

import json
import re
from typing import Any

import pytest
from chart import (
    EXTERNAL,
    MONITORING,
    NOTHING,
    PIPELINES,
    ROOT,
    SECRETS,
    Object,
    configuration,
    ids,
    notes,
    only,
    pods,
    render,
    situation,
    variables,
)

GOOGLE = "a@b.iam.gserviceaccount.com"
ROLE = "arn:aws:iam::123456789012:role/apportion"
AZURE = "11111111-1111-1111-1111-111111111111"
DOCTOR = "Job/apportion-doctor"
RUNS = "Role/apportion-runs RoleBinding/apportion-runs"
JOBS = "Role/apportion-jobs RoleBinding/apportion-jobs"

SWITCHES: list[tuple[Object, tuple[str, ...], str, str]] = [
    # values, APIs of the cluster, objects that are added, objects that are removed
    ({"serviceAccount": {"create": False, "name": "mine"}}, (), "", "ServiceAccount/apportion"),
    ({"rbac": {"create": False}}, (), "", f"{RUNS} {JOBS}"),
    ({"runs": {"serviceAccount": "default-editor"}}, (), "", f"{RUNS} ServiceAccount/apportion"),
    (
        {"runs": {"serviceAccount": "default-editor"}, "jobs": {"serviceAccount": {"create": False}}},
        (),
        "",
        f"{RUNS} ServiceAccount/apportion-jobs",
    ),
    ({"jobs": {"serviceAccount": {"create": False}}}, (), "", "ServiceAccount/apportion-jobs"),
    ({"kfp": {"multiUser": True}}, (), "", ""),
    ({"serviceAccount": {"awsRoleArn": ROLE}}, (), "", ""),
    ({"serviceAccount": {"eksPodIdentity": True}}, (), "NetworkPolicy/apportion-identity", ""),
    (
        {"kfp": {"host": ""}, "pipeline": {"mode": "none"}},
        (),
        "",
        "Job/apportion-register Job/apportion-unschedule CronJob/apportion-submit",
    ),
    ({"schedule": {"enabled": True}}, (), "Job/apportion-schedule", ""),
    ({"submit": {"enabled": False}}, (), "", "CronJob/apportion-submit"),
    ({"lifecycle": {"enabled": True}}, (), "Job/apportion-lifecycle", ""),
    ({"doctor": {"enabled": False}}, (), "", f"{DOCTOR} {JOBS}"),
    ({"doctor": {"enabled": False}, "kfp": {"multiUser": True}}, (), "", DOCTOR),
    (
        {"doctor": {"clusterRead": True}},
        (),
        "ClusterRole/ml-apportion-nodes ClusterRoleBinding/ml-apportion-nodes",
        "",
    ),
    ({"doctor": {"enabled": False, "clusterRead": True}, "kfp": {"multiUser": True}}, (), "", DOCTOR),
    (
        {"networkPolicy": {"enabled": False}},
        (),
        "",
        " ".join(
            f"NetworkPolicy/apportion-{name}"
            for name in ("default-deny", "dns", "kfp", "s3", "mlflow", "kubernetes")
        ),
    ),
    ({"mlflow": {"enabled": False}}, (), "", "NetworkPolicy/apportion-mlflow"),
    ({"resourceQuota": {"enabled": True}}, (), "ResourceQuota/apportion", ""),
    ({"priorityClass": {"create": True}}, (), "PriorityClass/ml-apportion-1000-never", ""),
    ({"priorityClass": {"create": True, "value": -5}}, (), "PriorityClass/ml-apportion-n5-never", ""),
    (
        {"priorityClass": {"create": True, "preemptionPolicy": "PreemptLowerPriority"}},
        (),
        "PriorityClass/ml-apportion-1000-preempt",
        "",
    ),
    (
        {"monitoring": {"podMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}}},
        (),
        "",
        "",
    ),
    (
        {"monitoring": {"podMonitor": {"enabled": True}}},
        (MONITORING,),
        "PodMonitor/apportion NetworkPolicy/apportion-metrics",
        "",
    ),
    ({"monitoring": {"prometheusRule": {"enabled": True}}}, (MONITORING,), "PrometheusRule/apportion", ""),
    ({}, (MONITORING, EXTERNAL), "", ""),
    ({"pipeline": {"mode": "none"}}, (), "", "Job/apportion-register"),
    ({"pipeline": {"mode": "job"}}, (PIPELINES,), "", ""),
    (
        {"externalSecrets": {"enabled": True, "storeName": "vault"}, "mlflow": {"externalKey": "mlflow"}},
        (EXTERNAL,),
        "ExternalSecret/apportion-mlflow",
        "",
    ),
    ({"kueue": {"queue": "gpus"}}, (), "", ""),
    ({"ca": {"configMap": "authority"}}, (), "", ""),
]


def texts(objects: list[Object]) -> set[str]:
    return {f"{kind}/{name}" for kind, name in ids(objects)}


def labels(rows: list[Any]) -> list[str]:
    return [f"{number}-{next(iter(row[0]), 'apis')}" for number, row in enumerate(rows)]


@pytest.mark.parametrize(("values", "apis", "added", "removed"), SWITCHES, ids=labels(SWITCHES))
def test_a_switch(values: Object, apis: tuple[str, ...], added: str, removed: str) -> None:
    before, after = texts(render()), texts(render(values, apis=apis))
    assert after - before == set(added.split())
    assert before - after == set(removed.split())


def test_everything_off_leaves_the_configuration() -> None:
    assert ids(render(NOTHING)) == {("ConfigMap", "apportion")}


# Commands

CONFIG = "/etc/apportion/config/config.yaml"
COMMANDS = {
    "register": ["python", "-m", "pipelines", "register", CONFIG],
    "schedule": ["python", "-m", "pipelines", "schedule", CONFIG],
    "unschedule": ["python", "-m", "pipelines", "schedule", CONFIG, "--off"],
    "submit": ["python", "-m", "pipelines", "submit", CONFIG],
    "lifecycle": ["apportion", "lifecycle", CONFIG, "--days", "30"],
    "doctor": ["apportion", "doctor", CONFIG, "--images"],
}


def test_commands() -> None:
    of_pods = {
        name.removeprefix("apportion-"): pod["spec"]["containers"][0]["command"]
        for name, pod in pods(situation("everything"))
    }
    assert of_pods == COMMANDS


def test_commands_are_those_of_pipelines() -> None:
    from pipelines.__main__ import parser

    arguments = [command[3:] for command in COMMANDS.values() if command[:3] == ["python", "-m", "pipelines"]]
    assert len(arguments) == 4
    for command in arguments:
        assert parser().parse_args(command).act


def hook(objects: list[Object], name: str) -> dict[str, str]:
    annotations = only(objects, "Job", f"apportion-{name}")["metadata"]["annotations"]
    return {key: value for key, value in annotations.items() if key.startswith("helm.sh/")}


def test_hooks() -> None:
    def after(when: str, weight: str) -> dict[str, str]:
        policy = {"helm.sh/hook-delete-policy": "before-hook-creation"}
        return {"helm.sh/hook": when, "helm.sh/hook-weight": weight, **policy}

    always = "post-install,post-upgrade,post-rollback"
    on = render({"schedule": {"enabled": True}, "lifecycle": {"enabled": True}})
    assert hook(on, "register") == after(always, "0")
    assert hook(on, "lifecycle") == after(always, "0")
    assert hook(on, "schedule") == after(always, "5")  # after the pipeline is registered
    assert hook(on, "doctor")["helm.sh/hook"] == "test"
    # The schedule is removed with the release, and where its switch is off.
    assert hook(on, "unschedule") == after("pre-delete", "5")
    assert hook(render(), "unschedule") == after("post-upgrade,post-rollback", "5")
    # An uninstall waits for it.
    assert only(on, "Job", "apportion-unschedule")["spec"]["backoffLimit"] == 1


def test_the_cronjob_never_fires() -> None:
    spec = only(render(), "CronJob")["spec"]
    assert spec["suspend"] is True
    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["schedule"] == "0 0 31 2 *"


# Settings of pods


def test_settings_of_jobs() -> None:
    jobs = {
        "backoffLimit": 7,
        "activeDeadlineSeconds": 100,
        "ttlSecondsAfterFinished": 200,
        "priorityClassName": "urgent",
        "nodeSelector": {"pool": "services"},
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "podLabels": {"team": "vision"},
        "podAnnotations": {"note": "yes"},
        "extraEnv": [{"name": "EXTRA", "value": "1"}],
        "resources": {
            "requests": {"cpu": "1", "memory": "1Gi"},
            "limits": {"cpu": "2", "memory": "3Gi"},
        },
    }
    objects = render({"jobs": jobs, "images": {"pullSecrets": ["registry"]}})
    job = only(objects, "Job", "apportion-register")["spec"]
    pod = job["template"]
    for key in ("backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"):
        assert job[key] == jobs[key]
    for key in ("nodeSelector", "tolerations", "affinity", "priorityClassName"):
        assert pod["spec"][key] == jobs[key]
    assert pod["metadata"]["labels"]["team"] == "vision"
    assert pod["metadata"]["annotations"]["note"] == "yes"
    assert pod["spec"]["imagePullSecrets"] == [{"name": "registry"}]
    assert variables(pod)["EXTRA"] == "1"
    assert pod["spec"]["containers"][0]["resources"]["limits"]["memory"] == "3Gi"


def test_an_authority_is_mounted_and_trusted() -> None:
    pod = dict(pods(situation("everything")))["apportion-doctor"]
    paths = {variables(pod)[name] for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")}
    assert paths == {"/etc/apportion/ca/root.pem"}
    (volume,) = (volume for volume in pod["spec"]["volumes"] if volume["name"] == "ca")
    items = [{"key": "root.pem", "path": "root.pem"}]
    assert volume["configMap"] == {"name": "platform-ca", "items": items, "optional": True}


def test_jobs_have_the_variables_of_runs() -> None:
    objects = situation("everything")
    expected = {
        "LOG_LEVEL": "info",
        "AWS_ENDPOINT_URL_S3": "https://minio.storage.svc:9000",
        "AWS_REGION": "eu-1",
        "AWS_DEFAULT_REGION": "eu-1",
        "APPORTION_S3_ADDRESSING": "path",
        "APPORTION_S3_SSE": "aws:kms",
        "APPORTION_S3_KMS_KEY": "key-1",
    }
    assert configuration(objects)["cluster"]["env"] == expected
    for _, pod in pods(objects):
        assert expected.items() <= variables(pod).items()


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({}, "apportion/cpu:0.1.0"),
        ({"repository": "registry.internal:5000/a/cpu", "tag": "2.0"}, "registry.internal:5000/a/cpu:2.0"),
        ({"tag": "2.0", "digest": f"sha256:{'a' * 64}"}, f"apportion/cpu@sha256:{'a' * 64}"),
    ],
    ids=["default", "tag", "digest"],
)
def test_images(image: Object, expected: str) -> None:
    objects = render({"images": {"cpu": image}} if image else {})
    assert configuration(objects)["cluster"]["images"]["cpu"] == expected
    assert {pod["spec"]["containers"][0]["image"] for _, pod in pods(objects)} == {expected}


def test_a_changed_configuration_changes_the_pods() -> None:
    def checksum(objects: list[Object]) -> str:
        pod = dict(pods(objects))["apportion-submit"]
        return str(pod["metadata"]["annotations"]["checksum/config"])

    assert checksum(render()) != checksum(render({"config": {"seed": 1}}))
    assert checksum(render()) == checksum(render({"resourceQuota": {"enabled": True}}))


def test_the_priority_of_jobs() -> None:
    objects = render({"priorityClass": {"create": True, "value": 7}})
    assert only(objects, "PriorityClass")["value"] == 7
    assert {pod["spec"]["priorityClassName"] for _, pod in pods(objects)} == {"ml-apportion-7-never"}


def test_the_quota() -> None:
    objects = render({"resourceQuota": {"enabled": True, "hard": {"pods": "10"}}})
    hard = only(objects, "ResourceQuota")["spec"]["hard"]
    assert hard == {"requests.nvidia.com/gpu": "8", "pods": "10"}


# Monitoring


def test_alerts() -> None:
    rule = {"enabled": True, "labels": {"release": "p"}, "severity": "page"}
    values = {"monitoring": {"prometheusRule": rule}, "schedule": {"enabled": True}}
    o = only(render(values, apis=(MONITORING,)), "PrometheusRule")
    alerts = {alert["alert"]: alert for alert in o["spec"]["groups"][0]["rules"]}
    assert o["metadata"]["labels"]["release"] == "p"
    assert {alert["labels"]["severity"] for alert in alerts.values()} == {"page"}
    runs = 'namespace="ml",pod=~"(apportion-attribution|ml-apportion).*-system-container-impl-.*"'
    suffix = "(register|schedule|unschedule|submit|lifecycle|doctor).*"
    jobs = f'namespace="ml",job_name=~"apportion-{suffix}"'
    last = f"max by (namespace) (max_over_time(kube_pod_created{{{runs}}}[26h]))"
    age = 'time() - kube_configmap_created{namespace="ml",configmap="apportion"}'
    assert {name: " ".join(alert["expr"].split()) for name, alert in alerts.items()} == {
        "ApportionJobFailed": f'kube_job_failed{{{jobs},condition="true"}} > 0',
        "ApportionRunPodFailed": (
            f'sum by (namespace, pod) (kube_pod_status_phase{{{runs},phase="Failed"}}) > 0'
        ),
        "ApportionScheduleNotRun": (
            f"(time() - {last} > 93600 or absent_over_time(kube_pod_created{{{runs}}}[26h])) "
            f"unless on () ({age} < 93600)"
        ),
    }
    assert "{{ $labels.job_name }}" in alerts["ApportionJobFailed"]["annotations"]["description"]


def expressions(values: Object, **options: Any) -> dict[str, str]:
    """The expression of each alert, with a schedule."""
    rule = {"monitoring": {"prometheusRule": {"enabled": True} | values}, "schedule": {"enabled": True}}
    o = only(render(rule, apis=(MONITORING,), **options), "PrometheusRule")
    return {alert["alert"]: alert["expr"] for alert in o["spec"]["groups"][0]["rules"]}


def selected(expression: str, label: str) -> re.Pattern[str]:
    """The regular expression for a label. PromQL's match the whole value."""
    (quoted,) = set(re.findall(rf'{label}=~("(?:[^"\\]|\\.)*")', expression))
    return re.compile(json.loads(quoted))


def test_alerts_select_jobs_and_runs_by_their_names() -> None:
    """The pods of runs begin with the name of the pipeline or, if scheduled, with 25 characters of the
    schedule's: KFP's API server makes them so."""
    release = {"release": "a.b", "namespace": "kubeflow-user-example-com"}
    alerts = expressions({}, **release)
    schedule = configuration(render(**release), "a.b-apportion")["cluster"]["kfp"]["schedule"]
    pods = selected(alerts["ApportionScheduleNotRun"], "pod")
    assert pods.fullmatch(f"{schedule[:25]}x7k2p-1-3412-system-container-impl-99")
    assert pods.fullmatch("apportion-attribution-x7k2p-system-container-impl-99")
    assert not pods.fullmatch("other-x7k2p-system-container-impl-99")
    jobs = selected(alerts["ApportionJobFailed"], "job_name")
    assert jobs.fullmatch("a.b-apportion-register")
    assert not jobs.fullmatch("a-b-apportion-register")

    jobs = selected(expressions({})["ApportionJobFailed"], "job_name")
    (suggested,) = re.findall(r"create job (\S+) --from", notes({}))
    assert jobs.fullmatch(suggested)
    deploy = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    (documented,) = re.findall(r"--from=cronjob/apportion-submit (\S+)`", deploy)
    assert jobs.fullmatch(documented)


def test_names_and_hours_of_alerts_can_be_set() -> None:
    alert = expressions({"runPods": "mine.*", "scheduleHours": 74})["ApportionScheduleNotRun"]
    assert selected(alert, "pod").pattern == "mine.*"
    assert alert.count("[74h]") == alert.count(str(74 * 3600)) == 2


def test_there_is_no_alert_on_a_schedule_that_is_off() -> None:
    objects = render({"monitoring": {"prometheusRule": {"enabled": True}}}, apis=(MONITORING,))
    rules = only(objects, "PrometheusRule")["spec"]["groups"][0]["rules"]
    assert [alert["alert"] for alert in rules] == ["ApportionJobFailed", "ApportionRunPodFailed"]


def test_the_podmonitor_selects_runs() -> None:
    objects = render({"monitoring": {"podMonitor": {"enabled": True}}}, apis=(MONITORING,))
    selector = only(objects, "PodMonitor")["spec"]["selector"]["matchLabels"]
    assert selector.items() <= configuration(objects)["cluster"]["labels"].items()


# Notes

NOTES: list[tuple[Object, tuple[str, ...], list[str], list[str]]] = [
    # values, APIs of the cluster, texts that are in the notes, texts that are not
    (
        {},
        (),
        [
            "the Job apportion-register",
            "generic apportion-s3",
            "generic apportion-mlflow --from-literal=MLFLOW_TRACKING_PASSWORD=… --from-literal=MLFLOW",
            "--set schedule.enabled=true",
            "create job apportion-submit-first --from=cronjob/apportion-submit",
            "named by tag",
        ],
        ["as objects", "networkPolicy.enabled"],
    ),
    (
        {"schedule": {"enabled": True}, "networkPolicy": {"enabled": False}, "mlflow": {"enabled": False}},
        (),
        ["Rounds are scheduled: 0 0 3 * * *", "networkPolicy.enabled is false", "no tracking"],
        ["schedule.enabled=true", "apportion-mlflow"],
    ),
    (
        SECRETS,
        (),
        ["Create the Secret my-s3 if", "Create the Secret my-mlflow if"],
        ["create secret generic"],
    ),
    ({"s3": {"accessKeyIdKey": "user"}}, (), ["--from-literal=user=…"], []),
    (
        {"serviceAccount": {"awsRoleArn": ROLE}},
        (),
        ["Let the IAM role trust apportion and apportion-jobs"],
        ["apportion-s3"],
    ),
    (
        {"serviceAccount": {"eksPodIdentity": True}},
        (),
        ["Let the IAM role trust apportion and apportion-jobs"],
        ["apportion-s3"],
    ),
    (
        {"serviceAccount": {"gcpServiceAccount": GOOGLE, "azureClientId": AZURE}},
        (),
        ["generic apportion-s3"],
        ["IAM role"],
    ),
    (
        {"pipeline": {"mode": "none"}},
        (),
        ["not installed (pipeline.mode=none); submit and schedule register it before they use it."],
        [],
    ),
    (
        {"pipeline": {"mode": "none"}, "kfp": {"host": ""}},
        (),
        ["not installed (pipeline.mode=none)."],
        ["schedule rounds", "cronjob/"],
    ),
    (
        {"images": {"gpu": {"tag": "9"}}},
        (PIPELINES,),
        ["Not as objects, although", "other values of images"],
        [],
    ),
    (
        {"monitoring": {"podMonitor": {"enabled": True}}},
        (),
        ["values enable PodMonitor, but this cluster has no monitoring"],
        [],
    ),
    (
        {"doctor": {"enabled": False}, "submit": {"enabled": False}},
        (),
        ["3. Once a round has succeeded"],
        ["helm test", "cronjob/"],
    ),
]


@pytest.mark.parametrize(("values", "apis", "present", "absent"), NOTES, ids=labels(NOTES))
def test_notes_say_what_to_do_next(
    values: Object, apis: tuple[str, ...], present: list[str], absent: list[str]
) -> None:
    text = notes(values, apis=apis)
    assert not [part for part in present if part not in text], text
    assert not [part for part in absent if part in text], text


def test_notes_name_the_release_and_its_namespace() -> None:
    text = notes({}, release="vision", namespace="drawings")
    doctor = "helm test vision -n drawings; kubectl -n drawings logs job/vision-apportion-doctor\n"
    submit = "create job vision-apportion-submit-first --from=cronjob/vision-apportion-submit\n"
    assert doctor in text
    assert f"kubectl -n drawings {submit}" in text
