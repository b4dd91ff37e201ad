"""Values that cannot work are refused: by the schema, by the chart where its values contradict each other,
and by the first Job where they break a rule of the configuration. Each message names the option to change."""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from chart import CHART, NOTHING, PIPELINES, Refused, configuration, only, render, run

from apportion.config.cluster import Cluster
from apportion.config.loading import parse
from apportion.errors import ConfigError

COMPILED = (CHART / "files" / "attribution-kubernetes.yaml").read_text(encoding="utf-8")

Values = Mapping[str, Any]

# The schema


class Violation(NamedTuple):
    """A value that breaks one rule of the schema: a JSON pointer to it, the value, and the beginning of
    helm's message. `where` is the place that the message names, if that is another than usual."""

    pointer: str
    value: Any
    message: str
    where: str | None = None

    @property
    def values(self) -> Values:
        """The values of the chart that set only this one."""
        values = self.value
        for name in reversed(self.pointer.split("/")[1:]):
            values = {name.replace("~1", "/"): values}
        return values  # type: ignore[no-any-return]

    @property
    def place(self) -> str:
        """The place that the message names: usually the value or, for an unknown value, its section."""
        unknown = self.message.startswith("additional properties")
        usual = self.pointer.rpartition("/")[0] if unknown else self.pointer
        return usual if self.where is None else self.where


VIOLATIONS = [
    # unknown values
    Violation("/replicas", 1, "additional properties 'replicas' not allowed"),
    Violation("/s3/secretKey", "x", "additional properties 'secretKey' not allowed"),
    Violation("/s3/secretAccessKey", "x", "additional properties 'secretAccessKey' not allowed"),
    Violation("/mlflow/password", "x", "additional properties 'password' not allowed"),
    Violation("/kfp/token", "x", "additional properties 'token' not allowed"),
    Violation("/images/cpu/name", "x", "additional properties 'name' not allowed"),
    Violation("/pools/gpu/gpus", 1, "additional properties 'gpus' not allowed"),
    Violation(
        "/runs/stages/trian/timeout", 1, "additional properties 'trian' not allowed", where="/runs/stages"
    ),
    Violation("/networkPolicy/s3/cidr", "0.0.0.0/0", "additional properties 'cidr' not allowed"),
    Violation("/config/cluster", {}, "additional properties 'cluster' not allowed"),
    Violation("/config/valuation/coalitons", 8, "additional properties 'coalitons' not allowed"),
    Violation("/env/A B", "x", "additional properties 'A B' not allowed"),
    Violation("/pools/Large", {"cpu": "1", "memory": "1Gi"}, "additional properties 'Large' not allowed"),
    # values that are missing
    Violation("/pools/large", {"cpu": "1"}, "missing property 'memory'"),
    Violation(
        "/config",
        {"data": {"source": "openmoji"}, "project": "a"},
        "properties 'train', 'removal', 'properties' required, if 'data' exists",
    ),
    # of another type
    Violation("/schedule/enabled", "yes", "got string, want boolean"),
    Violation("/lifecycle/days", "30", "got string, want integer"),
    Violation("/jobs/backoffLimit", 1.5, "got number, want integer"),
    Violation("/images/pullSecrets", "registry", "got string, want array"),
    Violation("/pools/gpu/cpu", 4, "got number, want string"),
    Violation("/env/LEVEL", 1, "got number, want string"),
    Violation("/commonLabels/a", True, "got boolean, want string"),
    Violation("/config/valuation/coalitions", "8", "got string, want integer"),
    Violation("/config/properties", [], "minItems: got 0, want 1"),
    # no such choice
    Violation("/pipeline/mode", "crd", "value must be one of 'auto', 'native', 'job', 'none'"),
    Violation("/images/pullPolicy", "Sometimes", "value must be one of"),
    Violation("/s3/addressing", "dns", "value must be one of"),
    Violation("/s3/sse", "AES512", "value must be one of"),
    Violation("/externalSecrets/storeKind", "Vault", "value must be one of"),
    Violation("/priorityClass/preemptionPolicy", "Always", "value must be one of"),
    Violation("/config/removal/method", "forget", "value must be one of"),
    Violation(
        "/pools/gpu/tolerations",
        [{"key": "a", "operator": "Is"}],
        "value must be one of 'Exists', 'Equal'",
        where="/pools/gpu/tolerations/0/operator",
    ),
    # out of range
    Violation("/runs/timeout", 0, "exclusiveMinimum: got 0, want 0"),
    Violation("/runs/retries", 21, "maximum: got 21, want 20"),
    Violation("/runs/stages/plan/retries", -1, "minimum: got -1, want 0"),
    Violation(
        "/networkPolicy/s3/ports",
        [70000],
        "maximum: got 70,000, want 65,535",
        where="/networkPolicy/s3/ports/0",
    ),
    # not of that form
    Violation("/config/store", "file:///work/store", "'file:///work/store' does not"),
    Violation("/config/store", "s3:///prefix", "'s3:///prefix' does not match pattern"),
    Violation("/schedule/cron", " ", "' ' does not match pattern"),
    Violation("/kfp/experiment", "  ", "'  ' does not match pattern"),
    Violation("/kfp/namespace", "", "'' does not match pattern"),
    Violation("/kfp/host", "ml-pipeline:8888", "'ml-pipeline:8888' does not match"),
    Violation("/images/pullSecrets", [""], "minLength: got 0, want 1", where="/images/pullSecrets/0"),
    Violation("/pools/gpu/memory", "16", "'16' does not match pattern"),
    Violation("/pools/gpu/accelerator", "-a/gpu", "'-a/gpu' does not"),
    Violation("/images/cpu/digest", "sha256:abc", "'sha256:abc' does not"),
    Violation("/images/cpu/repository", "Registry/Cpu", "'Registry/Cpu' does not match pattern"),
    Violation("/serviceAccount/awsRoleArn", "apportion", "'apportion' does not match pattern"),
    Violation(
        "/serviceAccount/gcpServiceAccount",
        "someone@example.com",
        "'someone@example.com' does not match pattern",
    ),
    Violation("/serviceAccount/azureClientId", "me", "'me' does not match pattern"),
    Violation(
        "/volumes", [{"claim": "A", "path": "/a"}], "'A' does not match pattern", where="/volumes/0/claim"
    ),
    Violation(
        "/volumes", [{"claim": "a", "path": "a"}], "'a' does not match pattern", where="/volumes/0/path"
    ),
    Violation("/networkPolicy/s3/to", [{}], "minProperties: got 0", where="/networkPolicy/s3/to/0"),
    Violation("/fullnameOverride", "My_Release", "'My_Release' does not match pattern"),
    # labels that the chart sets itself
    Violation("/runs/labels/app.kubernetes.io~1part-of", "mine", "false schema"),
    Violation("/jobs/podLabels/app.kubernetes.io~1component", "mine", "false schema"),
    # rules that would allow every connection
    Violation("/networkPolicy/dns/to", [], "minItems: got 0, want 1"),
    Violation("/networkPolicy/dns/ports", [], "minItems: got 0, want 1"),
    Violation("/networkPolicy/kubernetes/ports", [], "minItems: got 0, want 1"),
    Violation("/networkPolicy/kfp/ports", [], "minItems: got 0, want 1"),
    Violation("/networkPolicy/metricsFrom", [], "minItems: got 0, want 1"),
    Violation(
        "/networkPolicy/extraEgress",
        [{}],
        "minProperties: got 0, want 1",
        where="/networkPolicy/extraEgress/0",
    ),
    Violation(
        "/networkPolicy/extraEgress",
        [{"to": []}],
        "minItems: got 0, want 1",
        where="/networkPolicy/extraEgress/0/to",
    ),
    Violation(
        "/networkPolicy/extraEgress",
        [{"ports": []}],
        "minItems: got 0, want 1",
        where="/networkPolicy/extraEgress/0/ports",
    ),
    Violation(
        "/networkPolicy/mlflow/to",
        [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}],
        "maxProperties: got 2, want 1",
        where="/networkPolicy/mlflow/to/0",
    ),
]


def leaves(values: Any, path: str = "") -> list[str]:
    """The paths of the values that are set, each ending in a slash."""
    if not isinstance(values, dict) or not values:
        return [f"{path}/"]
    return [leaf for name, inner in values.items() for leaf in leaves(inner, f"{path}/{name}")]


def independent(one: Violation, other: Violation) -> bool:
    """Whether one release can have both, with a message about each: they set no value twice."""
    pairs = [(a, b) for a in leaves(one.values) for b in leaves(other.values)]
    overlap = any(a.startswith(b) or b.startswith(a) for a, b in pairs)
    return one.place != other.place and not overlap


def groups(violations: Sequence[Violation]) -> list[list[Violation]]:
    """The violations in few groups, so that helm has to run once for each group only."""
    made: list[list[Violation]] = []
    for violation in violations:
        fitting = [group for group in made if all(independent(violation, member) for member in group)]
        if fitting:
            fitting[0].append(violation)
        else:
            made.append([violation])
    return made


def merged(parts: Sequence[Values]) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            both = isinstance(value, dict) and name in whole
            whole[name] = merged([whole[name], value]) if both else value
    return whole


def refusal(values: Values | None = None, **options: Any) -> str:
    """Helm's message."""
    with pytest.raises(Refused) as refused:
        render(values, **options)
    return str(refused.value)


def violations(message: str) -> set[tuple[str, str]]:
    """Where and what, of each violation in a message of helm; without lines that only introduce others."""
    assert "values don't meet the specifications of the schema" in message
    lines = re.findall(r"^ *- at '(.*?)': (.*)$", message, re.MULTILINE)
    return {(where, text) for where, text in lines if not re.search("^validation failed|^'.*' failed", text)}


@pytest.mark.parametrize("group", groups(VIOLATIONS), ids=lambda group: f"{len(group)} of {group[0].pointer}")
def test_the_schema_refuses(group: list[Violation]) -> None:
    lines = violations(refusal(merged([violation.values for violation in group])))
    for violation in group:
        texts = [text for where, text in lines if where == violation.place]
        assert any(text.startswith(violation.message) for text in texts), (violation, texts)
    assert {where for where, _ in lines} == {violation.place for violation in group}


def test_groups_hold_every_violation_once() -> None:
    grouped = [violation for group in groups(VIOLATIONS) for violation in group]
    assert sorted(map(str, grouped)) == sorted(map(str, VIOLATIONS))


def test_settings_of_the_command_line_are_refused_too() -> None:
    settings = ["s3.secretKey=abc", "config.cluster.retries=1", "schedule.enabled=maybe", "pools.gpu.shm=1"]
    wheres = {where for where, _ in violations(refusal(sets=settings))}
    assert wheres == {"/s3", "/config", "/schedule/enabled", "/pools/gpu/shm"}


def test_a_value_that_is_taken_away_is_missed_by_name() -> None:
    taken = ["mlflow", "env", "kfp.host", "images.pullSecrets", "networkPolicy.dns.to", "jobs.extraEnv"]
    lines = violations(refusal(sets=[f"{value}=null" for value in (*taken, "config.store")]))
    assert lines == {
        ("", "missing properties 'env', 'mlflow'"),
        ("/kfp", "missing property 'host'"),
        ("/images", "missing property 'pullSecrets'"),
        ("/networkPolicy/dns", "missing property 'to'"),
        ("/jobs", "missing property 'extraEnv'"),
        ("/config", "missing property 'store'"),
    }


# The chart

ROLE = "arn:aws:iam::123456789012:role/a"
RULES = [{"apiGroups": [""], "resources": ["events"], "verbs": ["create"]}]
DEFAULT = "serviceAccount: found rbac.create beside the account `default`"
EXTRA = "rbac.extraRules: found rules that no account would get"
ADDRESS = "found a user or a password in the address"


def problems(values: Values, **options: Any) -> list[str]:
    """The problems that helm reports of values, each a line."""
    message = refusal(values, **options)
    lines = message.partition("found values that the chart refuses:\n")[2].splitlines()
    assert lines, message
    return [line for line in lines if line and not line.startswith("Use --debug")]


CONTRADICTIONS: list[tuple[str, Values, list[str]]] = [
    (
        "tracking without a server",
        {"config": {"tracking": {"uri": "sqlite:///mlflow.db"}}},
        ['config.tracking.uri: found "sqlite:///mlflow.db", expected the http(s):// address'],
    ),
    (
        "a mode that the cluster does not have, for other values",
        {"pipeline": {"mode": "native"}, "images": {"gpu": {"tag": "9"}}},
        [
            "pipeline.mode: found native, but this cluster has no pipelines.kubeflow.org/v2beta1",
            "pipeline.mode: found native, but the chart's compiled pipeline is for other values of images",
        ],
    ),
    (
        "no KFP",
        {"kfp": {"host": ""}, "schedule": {"enabled": True}},
        [
            "kfp.host: found nothing, expected the address of KFP's API server, which registers the pipeline",
            "kfp.host: found nothing beside schedule.enabled",
        ],
    ),
    (
        "no KFP for the schedule",
        {"kfp": {"host": ""}, "schedule": {"enabled": True}, "pipeline": {"mode": "none"}},
        ["kfp.host: found nothing beside schedule.enabled"],
    ),
    (
        "external secrets without store, entries and API",
        {"externalSecrets": {"enabled": True}},
        [
            "externalSecrets.enabled: this cluster has no external-secrets.io/v1",
            "externalSecrets.storeName: found nothing",
            "externalSecrets.enabled: found no externalKey",
        ],
    ),
    (
        "values beside others that exclude them",
        {
            "s3": {"externalKey": "stores/s3", "existingSecret": "mine", "kmsKey": "key-1"},
            "priorityClass": {"create": True},
            "jobs": {"priorityClassName": "urgent"},
        },
        [
            's3.externalKey: found "stores/s3", but externalSecrets.enabled is false',
            "s3.externalKey: found it beside s3.existingSecret",
            's3.kmsKey: found a key beside s3.sse ""',
            "jobs.priorityClassName: found it beside priorityClass.create",
        ],
    ),
    (
        "an identity without an account",
        {"serviceAccount": {"create": False, "awsRoleArn": ROLE}},
        ["serviceAccount: found an identity, but runs act as an account that the chart", DEFAULT],
    ),
    (
        "an identity beside another account of runs",
        {
            "serviceAccount": {"awsRoleArn": ROLE},
            "runs": {"serviceAccount": "default-editor"},
            "rbac": {"extraRules": RULES},
        },
        ["serviceAccount: found an identity, but runs act as an account that the chart", EXTRA],
    ),
    (
        "rules without a role",
        {"rbac": {"extraRules": RULES, "create": False}, "jobs": {"serviceAccount": {"name": "apportion"}}},
        ["jobs.serviceAccount.name: found apportion, the account of runs, expected another", EXTRA],
    ),
    ("runs as default", {"serviceAccount": {"name": "default"}}, [DEFAULT]),
    ("Jobs as default", {"jobs": {"serviceAccount": {"name": "default"}}}, [DEFAULT]),
    (
        "Jobs as the account that is not created",
        {**NOTHING, "rbac": {"create": True}, "runs": {"serviceAccount": "a"}},
        [DEFAULT],
    ),
    (
        "variables that are set twice",
        {
            "env": {
                "A": "b",
                "AWS_REGION": "eu-1",
                "KFP_TOKEN_FILE": "/token",
                "MLFLOW_TRACKING_USERNAME": "me",
                "SSL_CERT_FILE": "/ca",
            },
            "s3": {"region": "eu-2"},
            "ca": {"configMap": "authority"},
            "jobs": {
                "extraEnv": [
                    {"name": "AWS_DEFAULT_REGION", "value": "a"},
                    {"name": "A", "value": "a"},
                    {"name": "B", "value": "a"},
                    {"name": "B", "value": "b"},
                ]
            },
        },
        [
            "env.AWS_REGION: found a variable that the chart sets itself",
            "env.KFP_TOKEN_FILE: found a variable that the chart sets itself",
            "env.MLFLOW_TRACKING_USERNAME: found a variable that the chart sets itself",
            "env.SSL_CERT_FILE: found a variable that the chart sets itself",
            "jobs.extraEnv: found AWS_DEFAULT_REGION, which the chart, env or an earlier entry sets",
            "jobs.extraEnv: found A, which the chart, env or an earlier entry sets",
            "jobs.extraEnv: found B, which the chart, env or an earlier entry sets",
        ],
    ),
    (
        "a cron without seconds",
        {"schedule": {"cron": "0 3 * * MON-FRI"}},
        [
            "schedule.cron: found 5 fields, expected six: KFP's schedules begin with seconds; write "
            '"0 0 3 * * MON-FRI" (times are UTC)'
        ],
    ),
    (
        "no cron at all",
        {"schedule": {"cron": "@daily"}},
        ["schedule.cron: found 1 fields, expected six: KFP's schedules begin with seconds; as in"],
    ),
    (
        "a quota of limits beside pods without limits",
        {
            "resourceQuota": {"enabled": True, "hard": {"limits.cpu": "40", "limits.memory": "1Ti"}},
            "pools": {"large": {"cpu": "8", "memory": "64Gi"}, "gpu": {"cpuLimit": "8"}},
            "jobs": {"resources": {"limits": {"cpu": None}}},
        },
        [
            "resourceQuota.hard: found limits.cpu beside pods without a limit, expected one for every pod, "
            "because Kubernetes refuses the others; set pools.cpu.cpuLimit, pools.large.cpuLimit, "
            "jobs.resources.limits.cpu, or limit requests.cpu instead"
        ],
    ),
    (
        "a quota beside Jobs without requests",
        {
            "resourceQuota": {"enabled": True, "hard": {"limits.memory": "1Ti", "cpu": "9"}},
            "jobs": {"resources": {"limits": None, "requests": None}},
        },
        [
            "resourceQuota.hard: found cpu beside pods without a request, expected one for every pod, "
            "because Kubernetes refuses the others; set jobs.resources.requests.cpu",
            "resourceQuota.hard: found limits.memory beside pods without a limit, expected one for every "
            "pod, because Kubernetes refuses the others; set jobs.resources.limits.memory, or limit "
            "requests.memory instead",
        ],
    ),
    (
        "credentials in addresses",
        {
            "config": {
                "store": "s3://key:hunter2@bucket",
                "network": "https://me:hunter2@host/net",
                "tracking": {
                    "uri": "postgresql://me:hunter2@mlflow",
                    "artifacts": "s3://bucket/a?b=c&X-Amz-Signature=hunter2",
                },
            },
            "s3": {"endpoint": "https://user:hunter2@s3.example.com"},
            "kfp": {"host": "https://user:hunter2@kfp.example.com"},
            "env": {"DATABASE": "postgres://db/x?password=hunter2", "PROXY": "http://me:hunter2@proxy:3128"},
            "jobs": {
                "extraEnv": [
                    {"name": "DATABASE_URL", "value": "postgres://me:hunter2@db"},
                    {"name": "URL", "value": "https://a/?api_token=hunter2"},
                ]
            },
        },
        [
            f"config.network: {ADDRESS}",
            f"config.store: {ADDRESS}",
            f"config.tracking.artifacts: {ADDRESS}",
            f"config.tracking.uri: {ADDRESS}",
            f"kfp.host: {ADDRESS}",
            f"s3.endpoint: {ADDRESS}",
            f"env.DATABASE: {ADDRESS}",
            f"env.PROXY: {ADDRESS}",
            f"jobs.extraEnv: {ADDRESS} of DATABASE_URL",
            f"jobs.extraEnv: {ADDRESS} of URL",
        ],
    ),
]


@pytest.mark.parametrize(
    ("values", "expected"), [row[1:] for row in CONTRADICTIONS], ids=[row[0] for row in CONTRADICTIONS]
)
def test_contradictions_are_refused(values: Values, expected: list[str]) -> None:
    """All at once, each with the option to change, and none with a password."""
    lines = problems(values)
    assert len(lines) == len(expected), lines
    for line, beginning in zip(lines, expected, strict=True):
        assert line.startswith(beginning)
        assert "hunter2" not in line


def test_tracking_needs_a_server() -> None:
    for taken in ("config.tracking", "config.tracking.uri"):
        message = refusal(sets=[f"{taken}=null"])
        assert 'config.tracking.uri: found "", expected the http(s):// address of an MLflow server' in message


ADMIN = """---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: everything}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: default, namespace: ml}]
"""
"""An object that pipeline.manifest must not bring into the cluster."""

MANIFESTS = {
    "another object": ("kind: Deployment", "another object (Deployment)"),
    "nothing": ("# nothing", "nothing"),
    "more": (COMPILED + ADMIN, "Pipeline, PipelineVersion, another object (ClusterRoleBinding)"),
    "more, after a comment": (
        COMPILED + ADMIN.replace("---", "--- # more"),
        "Pipeline, PipelineVersion, another object (ClusterRoleBinding)",
    ),
    "twice": (f"{COMPILED}---\n{COMPILED}", "Pipeline, Pipeline, PipelineVersion, PipelineVersion"),
    "no YAML": (
        COMPILED.replace("kind: Pipeline\n", "kind: [a\n"),
        "PipelineVersion, another object (no YAML)",
    ),
    "half": (COMPILED.partition("---\n")[2], "PipelineVersion"),
    "another version": (
        COMPILED.replace("v2beta1", "v1", 1),
        "PipelineVersion, another object (Pipeline)",
    ),
}


@pytest.mark.parametrize(("manifest", "contents"), MANIFESTS.values(), ids=MANIFESTS)
def test_manifests_of_anything_but_a_pipeline_are_refused(manifest: str, contents: str) -> None:
    message = refusal({"pipeline": {"manifest": manifest}}, apis=(PIPELINES,))
    assert f"pipeline.manifest: found {contents}, expected one Pipeline and one PipelineVersion" in message


def test_credentials_are_those_that_apportion_refuses() -> None:
    """By the name of a variable, and by a parameter of an address."""
    parameters = ["user", "pwd", "password", "db_passwd", "x-token", "credential", "sig", "name", "tokens"]
    parameters += ["client_secret_id", "access_key_id"]
    addresses = [f"https://host/path?a=b&{parameter}=c" for parameter in parameters]
    addresses += ["https://host/a@b", "https://host/tokens=1", "mail@example.com", "https://me@host"]
    variables = {f"ADDRESS_{number:02}": address for number, address in enumerate(addresses)}
    variables |= dict.fromkeys(
        ["AWS_SECRET_KEY", "my_token", "API_KEY", "APIKEY", "DB_PASSWD", "TOKEN_FILES", "CREDENTIALS"], "x"
    )
    variables |= dict.fromkeys(["AWS_WEB_IDENTITY_TOKEN_FILE", "SECRET_PATH", "LOG_LEVEL", "KEY"], "/path")
    refused = [name for name, value in variables.items() if refuses(name, value)]
    assert 10 < len(refused) < len(variables)

    of_runs = problems({"env": variables})
    assert [line.partition(":")[0] for line in of_runs] == sorted(f"env.{name}" for name in refused)
    entries = [{"name": name, "value": value} for name, value in variables.items()]
    of_jobs = problems({"jobs": {"extraEnv": entries}})
    assert [re.findall(r"(?:of|address of) (\w+)[,:]", line)[0] for line in of_jobs] == refused

    passing = {name: value for name, value in variables.items() if name not in refused}
    others = [{"name": f"OTHER_{name}", "value": value} for name, value in passing.items()]
    assert render({"env": passing, "jobs": {"extraEnv": others}})


def refuses(name: str, value: str) -> bool:
    """Whether apportion refuses the variable in a configuration."""
    try:
        Cluster(env={name: value})
    except ValueError:
        return True
    return False


def test_credentials_by_reference_pass() -> None:
    reference = {"secretKeyRef": {"name": "database", "key": "password"}}
    assert render({"jobs": {"extraEnv": [{"name": "DB_PASSWORD", "valueFrom": reference}]}})


@pytest.mark.parametrize("kube", ["1.28.9", "1.20.0"])
def test_an_old_cluster_is_refused(kube: str) -> None:
    with pytest.raises(Refused, match="chart requires kubeVersion"):
        render(kube=kube)


def test_a_parent_chart_may_pass_global_values() -> None:
    assert render({"global": {"domain": "example.com"}, "enabled": False}) == render()


def test_quotas_that_the_pods_satisfy_pass() -> None:
    hard = {"limits.cpu": "40", "limits.memory": "1Ti", "requests.cpu": "9", "memory": "9Gi", "pods": "9"}
    values = {
        "resourceQuota": {"enabled": True, "hard": hard},
        "pools": {"cpu": {"cpuLimit": "2"}, "gpu": {"cpuLimit": "8"}},
        # Kubernetes takes a limit for the request that is missing.
        "jobs": {"resources": {"requests": None}},
    }
    assert only(render(values), "ResourceQuota")["spec"]["hard"].items() >= hard.items()
    off = {"resourceQuota": {"hard": hard}}
    assert render(off)


def _parent(folder: Path) -> Path:
    """A chart that has this one as a dependency."""
    parent = folder / "parent"
    shutil.copytree(CHART, parent / "charts" / "apportion")
    dependency = {"name": "apportion", "version": "0.1.0", "condition": "apportion.enabled"}
    about = {"apiVersion": "v2", "name": "parent", "version": "1.0.0", "dependencies": [dependency]}
    (parent / "Chart.yaml").write_text(json.dumps(about))
    return parent


@pytest.mark.parametrize(
    "values",
    [{"global": None}, {"apportion": {"global": None}}, {"global": {"domain": "example.com"}}],
    ids=str,
)
def test_a_parent_chart_may_have_null_as_global_values(tmp_path: Path, values: Values) -> None:
    """`global:` with nothing behind it is null."""
    arguments = ("template", "mine", str(_parent(tmp_path)), "--kube-version", "1.34.0", "--values", "-")
    assert "kind: ConfigMap" in run(*arguments, given=json.dumps(values))
    with pytest.raises(Refused, match="got array, want null or object"):
        run(*arguments, given=json.dumps({"apportion": {"global": []}}))


def test_global_values_may_be_taken_away() -> None:
    assert render(sets=["global=null"]) == render()


def test_a_parent_chart_may_have_a_condition(tmp_path: Path) -> None:
    parent = _parent(tmp_path)
    for enabled, expected in (("true", True), ("false", False)):
        settings = ("--set", f"apportion.enabled={enabled}", "--kube-version", "1.34.0")
        assert ("kind: ConfigMap" in run("template", "mine", str(parent), *settings)) is expected


# The first Job

REFUSED_BY_THE_JOB: dict[str, tuple[Values, list[str]]] = {
    "options by themselves": (
        {
            "config": {"model": {"channels": [32, 64]}},
            "schedule": {"cron": "0 0 24 * * 5-1"},
            "pools": {
                "cpu": {"cpuLimit": "999m"},
                "gpu": {"shm": "16Gi"},
                "a": {"cpu": "1", "memory": "1Gi", "tolerations": [{"key": "a", "effect": "NoSchedule"}]},
                "b": {"cpu": "1", "memory": "1Gi", "tolerations": [{"operator": "Exists", "value": ""}]},
                "c": {"cpu": "1", "memory": "1Gi", "tolerations": [{"operator": "Equal", "value": "a"}]},
                "d": {"cpu": "1", "memory": "1Gi", "accelerator": "nvidia.com/gpu"},
                "e": {"cpu": "1", "memory": "1Gi", "accelerators": 1},
                "f": {"cpu": "0.0", "memory": "1Gi"},
                "g": {"cpu": "1", "memory": "1Gi", "tolerations": [{"key": "", "operator": "Exists"}]},
                "h": {"cpu": "1", "memory": "1Gi", "tolerations": [{"key": "a", "value": "b c"}]},
            },
            "volumes": [
                {"claim": "a", "path": "/work/data"},
                {"claim": "b", "path": "/var"},
                {"claim": "c", "path": "/usr/local/lib"},
                {"claim": "d", "path": "//work"},
                {"claim": "e", "path": "/data/../etc"},
            ],
        },
        [
            "model: Value error, found 3 entries in attention, expected one per level of channels (2)",
            "cluster.volumes.0.path: Value error, found /work/data, expected a separate folder",
            "cluster.volumes.1.path: Value error, found /var, expected a separate folder",
            "cluster.volumes.2.path: Value error, found /usr/local/lib, expected a separate folder",
            "cluster.volumes.3.path: Value error, found //work, expected a separate folder",
            "cluster.volumes.4.path: Value error, found /data/../etc, expected a separate folder",
            "cluster.pools.cpu: Value error, found cpu_limit 999m, expected at least cpu (1)",
            "cluster.pools.gpu: Value error, found shm 16Gi, expected less than memory (16Gi)",
            "cluster.pools.a.tolerations.0: Value error, expected operator Exists without a value, or Equal",
            "cluster.pools.b.tolerations.0: Value error, expected operator Exists without a value, or Equal",
            "cluster.pools.c.tolerations.0: Value error, expected operator Exists without a value, or Equal",
            "cluster.pools.d: Value error, found accelerator nvidia.com/gpu and accelerators 0",
            "cluster.pools.e: Value error, found accelerator None and accelerators 1",
            "cluster.pools.f.cpu: Value error, expected a number of processors greater than 0",
            "cluster.pools.g.tolerations.0.key: Value error, expected the key of a label",
            "cluster.pools.h.tolerations.0.value: Value error, expected the value of a label",
            "cluster.kfp.cron: Value error, found '24' for the hour",
        ],
    ),
    "days in the wrong order": (
        {"schedule": {"cron": "0 0 3 * * 5-1"}},
        ["cluster.kfp.cron: Value error, found '5-1' for the day of the week"],
    ),
    "an unknown pool": (
        {"runs": {"stages": {"train": {"pool": "large"}}}},
        ["cluster: Value error, found pool 'large' in stages.train, expected one of pools: cpu, gpu"],
    ),
    "a stage with too little memory": (
        {"runs": {"stages": {"train": {"memory": "2147M"}}}},
        [
            "cluster: Value error, found stages.train that does not fit its pool: Value error, found shm "
            "2Gi, expected less than memory (2147M)"
        ],
    ),
    "a stage above the limit of its pool": (
        {"runs": {"stages": {"plan": {"cpu": "2"}}}, "pools": {"cpu": {"cpuLimit": "1"}}},
        ["cluster: Value error, found stages.plan that does not fit its pool: Value error, found cpu_limit"],
    ),
    "names of volumes that are in use": (
        {
            "volumes": [
                {"claim": "a", "path": "/a"},
                {"claim": "a", "path": "/b"},
                {"claim": "authority", "path": "/c"},
                {"claim": "tmp", "path": "/d"},
            ],
            "ca": {"configMap": "authority"},
        },
        ["cluster: Value error, found a, authority, tmp in volumes or ca, expected another name"],
    ),
    "a name of the authority that is in use": (
        {"ca": {"configMap": "shm"}},
        ["cluster: Value error, found shm in volumes or ca, expected another name"],
    ),
    "one path for two claims": (
        {"volumes": [{"claim": "a", "path": "/a"}, {"claim": "b", "path": "/a"}]},
        ["cluster: Value error, found /a more than once in volumes, expected a path for each claim"],
    ),
    "steps that no sampler can take": (
        {"config": {"sampling": {"steps": 7}}},
        ["found sampling.steps 7, expected a divisor of the 1000 timesteps"],
    ),
    "an image that is too small for the levels": (
        {"config": {"model": {"channels": [16] * 6, "attention": [False] * 6}}},
        ["found data.resolution 16, expected a multiple of 32"],
    ),
}


@pytest.mark.parametrize(("values", "expected"), REFUSED_BY_THE_JOB.values(), ids=REFUSED_BY_THE_JOB)
def test_the_first_job_refuses_what_breaks_a_rule_of_the_configuration(
    values: Values, expected: list[str]
) -> None:
    """The chart has no copy of these rules: it installs, and the code that every Job starts with refuses."""
    config = configuration(render(values))
    with pytest.raises(ConfigError) as refused:
        parse(config, "config.yaml")
    lines = [line.strip() for line in str(refused.value).splitlines()[1:]]
    for beginning in expected:
        assert any(line.startswith(beginning) for line in lines), (beginning, lines)
    assert len(lines) == len(expected), lines


def test_the_log_of_the_register_job_names_the_option(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipelines.__main__ import main

    path = tmp_path / "config.yaml"
    objects = render({"schedule": {"cron": "0 0 3 * * 5-1"}})
    path.write_text(only(objects, "ConfigMap")["data"]["config.yaml"])
    assert main(["register", str(path)]) != 0
    assert "cluster.kfp.cron: Value error, found '5-1'" in caplog.text + capsys.readouterr().err


def test_values_at_their_bounds_pass() -> None:
    pool = {"shm": "1023Mi", "memory": "1Gi", "cpu": "1.5", "cpuLimit": "1500m"}
    tolerations = [
        {"key": "a", "value": "b"},
        {"operator": "Exists"},
        {"key": "a", "operator": "Equal", "value": ""},
    ]
    values = {
        "pools": {"gpu": pool | {"tolerations": tolerations}},
        "volumes": [{"claim": "a", "path": "/opt/data"}],
        "schedule": {"cron": "*/5 0,30 0-6/2 1-15 jan-Mar,6 ?"},
        "jobs": {"tolerations": [{"key": "dedicated", "effect": "NoSchedule"}]},
    }
    cluster = parse(configuration(render(values)), "config.yaml").cluster
    assert cluster.pools["gpu"].cpu_limit == "1500m"
    assert cluster.kfp.cron == "*/5 0,30 0-6/2 1-15 jan-Mar,6 ?"
