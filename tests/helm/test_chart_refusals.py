"""Values that cannot work are refused before anything is installed, by the schema or with the option to change."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from chart import CHART, EXTERNAL, NOTHING, PIPELINES, Refused, render, run
from test_chart_pipeline import COMPILED

from apportion.config import SECRET, Kfp

SCHEMA: list[tuple[dict[str, Any], str]] = [
    # unknown
    ({"replicas": 1}, "additional properties 'replicas' not allowed"),
    ({"s3": {"secretKey": "x"}}, "at '/s3': additional properties 'secretKey' not allowed"),
    ({"s3": {"secretAccessKey": "x"}}, "additional properties 'secretAccessKey' not allowed"),
    ({"mlflow": {"password": "x"}}, "at '/mlflow': additional properties 'password' not allowed"),
    ({"kfp": {"token": "x"}}, "at '/kfp': additional properties 'token' not allowed"),
    ({"images": {"cpu": {"name": "x"}}}, "at '/images/cpu': additional properties 'name' not allowed"),
    ({"pools": {"gpu": {"gpus": 1}}}, "at '/pools/gpu': additional properties 'gpus' not allowed"),
    ({"runs": {"stages": {"trian": {"timeout": 1}}}}, "at '/runs/stages': additional properties 'trian' not allowed"),
    ({"networkPolicy": {"s3": {"cidr": "0.0.0.0/0"}}}, "at '/networkPolicy/s3': additional properties 'cidr' not allowed"),
    ({"config": {"cluster": {}}}, "at '/config': additional properties 'cluster' not allowed"),
    ({"config": {"valuation": {"coalitons": 8}}}, "at '/config/valuation': additional properties 'coalitons' not allowed"),
    # of another type
    ({"schedule": {"enabled": "yes"}}, "at '/schedule/enabled': got string, want boolean"),
    ({"lifecycle": {"days": "30"}}, "at '/lifecycle/days': got string, want integer"),
    ({"jobs": {"backoffLimit": 1.5}}, "at '/jobs/backoffLimit': got number, want integer"),
    ({"images": {"pullSecrets": "registry"}}, "at '/images/pullSecrets': got string, want array"),
    ({"pools": {"gpu": {"cpu": 4}}}, "at '/pools/gpu/cpu': got number, want string"),
    ({"env": {"LEVEL": 1}}, "at '/env/LEVEL': got number, want string"),
    ({"commonLabels": {"a": True}}, "at '/commonLabels/a': got boolean, want string"),
    ({"config": {"valuation": {"coalitions": "8"}}}, "at '/config/valuation/coalitions': got string, want integer"),
    ({"config": {"properties": []}}, "at '/config/properties': minItems: got 0, want 1"),
    # no such choice
    ({"pipeline": {"mode": "crd"}}, "at '/pipeline/mode': value must be one of 'auto', 'native', 'job', 'none'"),
    ({"images": {"pullPolicy": "Sometimes"}}, "at '/images/pullPolicy': value must be one of"),
    ({"s3": {"addressing": "dns"}}, "at '/s3/addressing': value must be one of"),
    ({"s3": {"sse": "AES512"}}, "at '/s3/sse': value must be one of"),
    ({"externalSecrets": {"storeKind": "Vault"}}, "at '/externalSecrets/storeKind': value must be one of"),
    ({"priorityClass": {"preemptionPolicy": "Always"}}, "at '/priorityClass/preemptionPolicy': value must be one of"),
    ({"config": {"removal": {"method": "forget"}}}, "at '/config/removal/method': value must be one of"),
    # not of that form
    ({"schedule": {"cron": "0 3 * * *"}}, "at '/schedule/cron'"),
    ({"kfp": {"experiment": "  "}}, "at '/kfp/experiment'"),
    ({"kfp": {"namespace": ""}}, "at '/kfp/namespace'"),
    ({"images": {"pullSecrets": [""]}}, "at '/images/pullSecrets/0'"),
    ({"pools": {"gpu": {"cpu": "0"}}}, "at '/pools/gpu/cpu'"),
    ({"pools": {"gpu": {"cpu": "0.0"}}}, "at '/pools/gpu/cpu'"),
    ({"pools": {"gpu": {"accelerator": "-nvidia/gpu"}}}, "at '/pools/gpu/accelerator'"),
    ({"pools": {"gpu": {"tolerations": [{"key": "", "operator": "Exists"}]}}}, "at '/pools/gpu/tolerations/0/key'"),
    ({"pools": {"gpu": {"tolerations": [{"key": "a", "value": "b c"}]}}}, "at '/pools/gpu/tolerations/0/value'"),
    ({"volumes": [{"claim": "tmp", "path": "/data"}]}, "at '/volumes/0/claim'"),
    ({"volumes": [{"claim": "a", "path": "/work/data"}]}, "at '/volumes/0/path'"),
    ({"volumes": [{"claim": "a", "path": "/var"}]}, "at '/volumes/0/path'"),
    ({"volumes": [{"claim": "a", "path": "/usr/local/lib"}]}, "at '/volumes/0/path'"),
    ({"volumes": [{"claim": "a", "path": "//work"}]}, "at '/volumes/0/path'"),
    ({"volumes": [{"claim": "a", "path": "/data/../etc"}]}, "at '/volumes/0/path'"),
    ({"ca": {"configMap": "shm"}}, "at '/ca/configMap'"),
    ({"images": {"cpu": {"digest": "sha256:abc"}}}, "at '/images/cpu/digest'"),
    ({"images": {"cpu": {"repository": "Registry/Cpu"}}}, "at '/images/cpu/repository'"),
    ({"serviceAccount": {"awsRoleArn": "apportion"}}, "at '/serviceAccount/awsRoleArn'"),
    ({"serviceAccount": {"gcpServiceAccount": "someone@example.com"}}, "at '/serviceAccount/gcpServiceAccount'"),
    ({"serviceAccount": {"azureClientId": "me"}}, "at '/serviceAccount/azureClientId'"),
    ({"kfp": {"host": "ml-pipeline:8888"}}, "at '/kfp/host'"),
    ({"s3": {"endpoint": "https://user:secret@s3.example.com"}}, "at '/s3/endpoint'"),
    ({"pools": {"gpu": {"memory": "16"}}}, "at '/pools/gpu/memory'"),
    ({"pools": {"Large": {"cpu": "1", "memory": "1Gi"}}}, "at '/pools': additional properties 'Large' not allowed"),
    ({"pools": {"large": {"cpu": "1"}}}, "at '/pools/large': missing property 'memory'"),
    ({"pools": {"gpu": {"accelerators": 0}}}, "at '/pools/gpu/accelerators'"),
    ({"pools": {"cpu": {"accelerators": 1}}}, "at '/pools/cpu/accelerators'"),
    ({"networkPolicy": {"s3": {"ports": [70000]}}}, "at '/networkPolicy/s3/ports/0'"),
    ({"networkPolicy": {"s3": {"to": [{}]}}}, "at '/networkPolicy/s3/to/0'"),
    # what would allow everything
    ({"networkPolicy": {"dns": {"to": []}}}, "at '/networkPolicy/dns/to': minItems: got 0, want 1"),
    ({"networkPolicy": {"dns": {"ports": []}}}, "at '/networkPolicy/dns/ports': minItems: got 0, want 1"),
    ({"networkPolicy": {"kubernetes": {"ports": []}}}, "at '/networkPolicy/kubernetes/ports': minItems: got 0, want 1"),
    ({"networkPolicy": {"kfp": {"ports": []}}}, "at '/networkPolicy/kfp/ports': minItems: got 0, want 1"),
    ({"networkPolicy": {"metricsFrom": []}}, "at '/networkPolicy/metricsFrom': minItems: got 0, want 1"),
    ({"networkPolicy": {"extraEgress": [{}]}}, "at '/networkPolicy/extraEgress/0': minProperties: got 0, want 1"),
    ({"networkPolicy": {"extraEgress": [{"to": []}]}}, "at '/networkPolicy/extraEgress/0/to': minItems: got 0, want 1"),
    ({"networkPolicy": {"extraEgress": [{"ports": []}]}}, "at '/networkPolicy/extraEgress/0/ports': minItems: got 0, want 1"),
    ({"networkPolicy": {"s3": {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}}}, "at '/networkPolicy/s3/to/0'"),
    ({"runs": {"timeout": 0}}, "at '/runs/timeout'"),
    ({"runs": {"labels": {"app.kubernetes.io/part-of": "mine"}}}, "at '/runs/labels/app.kubernetes.io~1part-of'"),
    ({"jobs": {"podLabels": {"app.kubernetes.io/component": "mine"}}}, "at '/jobs/podLabels/app.kubernetes.io~1component'"),
    ({"fullnameOverride": "My_Release"}, "at '/fullnameOverride'"),
    # credentials
    ({"env": {"A B": "x"}}, "at '/env': additional properties 'A B' not allowed"),
    ({"jobs": {"extraEnv": [{"name": "DB_PASSWORD", "value": "x"}]}}, "at '/jobs/extraEnv/0'"),
]

ROLE = "arn:aws:iam::123456789012:role/a"
RULES = [{"apiGroups": [""], "resources": ["events"], "verbs": ["create"]}]
EFFECT = '{"effect":"NoSchedule","key":"a"}'
HOW = "expected operator Exists without a value, or Equal with a key and a value"
ADMIN = """---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: everything}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: default, namespace: ml}]
"""
"""What must not come in by pipeline.manifest."""

CONTRADICTIONS: list[tuple[dict[str, Any], tuple[str, ...], str]] = [
    ({"config": {"store": "file:///work/store"}}, (), 'config.store: found "file:///work/store", expected s3://bucket/prefix'),
    ({"config": {"store": "s3://key:secret@bucket"}}, (), "config.store: found a user or a password in the address"),
    ({"config": {"tracking": {"uri": "https://me:pw@mlflow"}}}, (), "config.tracking.uri: found a user or a password in the address"),
    ({"config": {"network": "https://me:pw@host/net"}}, (), "config.network: found a user or a password in the address"),
    ({"config": {"store": "s3://"}}, (), 'config.store: found "s3://", expected s3://bucket/prefix'),
    ({"config": {"store": "s3:///prefix"}}, (), "config.store: found"),
    ({"config": {"store": "s3://bucket/a?access_key=AKIA"}}, (), "config.store: found a user or a password in the address"),
    ({"config": {"tracking": {"uri": "https://m/?token=abc"}}}, (), "config.tracking.uri: found a user or a password in the address"),
    ({"config": {"tracking": {"uri": "https://m/?a=b&X-Amz-Signature=c"}}}, (), "config.tracking.uri: found a user or a password"),
    ({"env": {"DATABASE": "postgres://db/x?password=y"}}, (), "env.DATABASE: found a user or a password in the address"),
    ({"jobs": {"extraEnv": [{"name": "DATABASE_URL", "value": "postgres://me:pw@db"}]}}, (), "in the address of DATABASE_URL"),
    ({"jobs": {"extraEnv": [{"name": "URL", "value": "https://a/?api_token=y"}]}}, (), "in the address of URL"),
    ({"config": {"tracking": {"uri": "sqlite:///mlflow.db"}}}, (), 'config.tracking.uri: found "sqlite:///mlflow.db"'),
    ({"env": {"AWS_SECRET_ACCESS_KEY": "x"}}, (), "env.AWS_SECRET_ACCESS_KEY: found what looks like a credential"),
    ({"env": {"mlflow_tracking_token": "x"}}, (), "env.mlflow_tracking_token: found what looks like a credential"),
    ({"env": {"HTTPS_PROXY": "http://me:pw@proxy:3128"}}, (), "env.HTTPS_PROXY: found a user or a password in the address"),
    ({"pipeline": {"mode": "native"}}, (), "pipeline.mode: found native, but this cluster has no pipelines.kubeflow.org/v2beta1"),
    ({"pipeline": {"mode": "native"}, "images": {"gpu": {"tag": "9"}}}, (PIPELINES,), "is for other values of images"),
    ({"pipeline": {"manifest": "kind: Deployment"}}, (), "pipeline.manifest: found what is no such object (Deployment), expected one"),
    ({"pipeline": {"manifest": "# nothing"}}, (), "pipeline.manifest: found nothing, expected one Pipeline and one PipelineVersion"),
    ({"pipeline": {"manifest": COMPILED + ADMIN}}, (PIPELINES,), "what is no such object (ClusterRoleBinding)"),
    ({"pipeline": {"manifest": COMPILED + ADMIN.replace("---", "--- # more")}}, (), "what is no such object (ClusterRoleBinding)"),
    ({"pipeline": {"manifest": f"{COMPILED}---\n{COMPILED}"}}, (), "found Pipeline, Pipeline, PipelineVersion, PipelineVersion, expected"),
    ({"pipeline": {"manifest": COMPILED.replace("kind: Pipeline\n", "kind: [a\n")}}, (PIPELINES,), "what is no such object (no YAML)"),
    ({"pipeline": {"manifest": COMPILED.partition("---\n")[2]}}, (), "found PipelineVersion, expected one Pipeline and one"),
    ({"pipeline": {"manifest": COMPILED.replace("v2beta1", "v1", 1)}}, (), "what is no such object (Pipeline)"),
    ({"kfp": {"host": ""}}, (), "kfp.host: found nothing, expected the address of KFP's API server, which registers the pipeline"),
    ({"kfp": {"host": ""}, "pipeline": {"mode": "none"}, "schedule": {"enabled": True}}, (), "found nothing beside schedule.enabled"),
    ({"externalSecrets": {"enabled": True, "storeName": "v"}, "s3": {"externalKey": "s3"}}, (), "has no external-secrets.io/v1"),
    ({"externalSecrets": {"enabled": True}, "s3": {"externalKey": "s3"}}, (EXTERNAL,), "externalSecrets.storeName: found nothing"),
    ({"externalSecrets": {"enabled": True, "storeName": "v"}}, (EXTERNAL,), "externalSecrets.enabled: found no externalKey"),
    ({"s3": {"externalKey": "s3"}}, (EXTERNAL,), 's3.externalKey: found "s3", but externalSecrets.enabled is false'),
    (
        {"externalSecrets": {"enabled": True, "storeName": "v"}, "s3": {"externalKey": "s3", "existingSecret": "mine"}}, (EXTERNAL,),
        "s3.externalKey: found it beside s3.existingSecret",
    ),
    ({"priorityClass": {"create": True}, "jobs": {"priorityClassName": "urgent"}}, (), "found it beside priorityClass.create"),
    ({"s3": {"kmsKey": "key-1"}}, (), "s3.kmsKey: found a key beside s3.sse"),
    ({"runs": {"stages": {"train": {"pool": "large"}}}}, (), 'runs.stages.train.pool: found "large", expected one of pools: cpu, gpu'),
    ({"serviceAccount": {"create": False, "awsRoleArn": ROLE}, "rbac": {"create": False}}, (), "serviceAccount: found an identity"),
    ({"serviceAccount": {"awsRoleArn": ROLE}, "runs": {"serviceAccount": "default-editor"}}, (), "serviceAccount: found an identity"),
    # roles for everybody
    ({"serviceAccount": {"create": False}}, (), "found rbac.create beside the account `default`"),
    ({"serviceAccount": {"name": "default"}}, (), "found rbac.create beside the account `default`"),
    (NOTHING | {"rbac": {"create": True}, "runs": {"serviceAccount": "a"}}, (), "found rbac.create beside the account `default`"),
    ({"jobs": {"serviceAccount": {"name": "default"}}}, (), "found rbac.create beside the account `default`"),
    ({"jobs": {"serviceAccount": {"name": "apportion"}}}, (), "jobs.serviceAccount.name: found apportion, the account of runs"),
    ({"rbac": {"extraRules": RULES}, "runs": {"serviceAccount": "a"}}, (), "rbac.extraRules: found rules that nobody would get"),
    ({"rbac": {"extraRules": RULES, "create": False}}, (), "rbac.extraRules: found rules that nobody would get"),
    # each variable once
    ({"env": {"MLFLOW_TRACKING_USERNAME": "me"}}, (), "env.MLFLOW_TRACKING_USERNAME: found it beside what the chart sets"),
    ({"env": {"KFP_TOKEN_FILE": "/token"}}, (), "env.KFP_TOKEN_FILE: found it beside what the chart sets"),
    ({"env": {"AWS_REGION": "eu-1"}, "s3": {"region": "eu-2"}}, (), "env.AWS_REGION: found it beside what the chart sets"),
    ({"env": {"SSL_CERT_FILE": "/ca"}, "ca": {"configMap": "authority"}}, (), "env.SSL_CERT_FILE: found it beside what the chart sets"),
    ({"jobs": {"extraEnv": [{"name": "AWS_REGION", "value": "a"}]}, "s3": {"region": "b"}}, (), "jobs.extraEnv: found AWS_REGION"),
    ({"jobs": {"extraEnv": [{"name": "A", "value": "a"}]}, "env": {"A": "b"}}, (), "jobs.extraEnv: found A"),
    ({"jobs": {"extraEnv": [{"name": "A", "value": "a"}, {"name": "A", "value": "b"}]}}, (), "jobs.extraEnv: found A"),
    # what Jobs would refuse
    ({"config": {"data": {"source": "openmoji"}}}, (), "config.project: found nothing, expected it beside config.data"),
    ({"config": {"data": {"source": "openmoji"}, "project": "a"}}, (), "config.train: found nothing, expected it beside config.data"),
    ({"config": {"sampling": {"steps": 7}}}, (), "config.sampling.steps: found 7, expected a divisor of the 1000 timesteps"),
    ({"config": {"model": {"channels": [32, 64]}}}, (), "config.model.attention: found 3 entries, expected one per level of channels (2)"),
    ({"schedule": {"cron": "0 0 3 * * 5-1"}}, (), "schedule.cron: found 5-1, expected the smaller number first"),
    ({"pools": {"gpu": {"shm": "16Gi"}}}, (), "pools.gpu: found shm 16Gi, expected less than memory (16Gi), which it is a part of"),
    ({"runs": {"stages": {"train": {"memory": "2147M"}}}}, (), "runs.stages.train: found shm 2Gi, expected less than memory (2147M)"),
    ({"runs": {"stages": {"plan": {"cpu": "2"}}}, "pools": {"cpu": {"cpuLimit": "1"}}}, (), "runs.stages.plan: found cpuLimit 1"),
    ({"pools": {"cpu": {"cpuLimit": "999m"}}}, (), "pools.cpu: found cpuLimit 999m, expected at least cpu (1)"),
    ({"pools": {"gpu": {"tolerations": [{"key": "a", "effect": "NoSchedule"}]}}}, (), f"pools.gpu.tolerations: found {EFFECT}, {HOW}"),
    ({"pools": {"gpu": {"tolerations": [{"operator": "Exists", "value": ""}]}}}, (), HOW),
    ({"pools": {"gpu": {"tolerations": [{"operator": "Equal", "value": "a"}]}}}, (), HOW),
    ({"volumes": [{"claim": "a", "path": "/a"}, {"claim": "a", "path": "/b"}]}, (), "volumes: found a at /b, expected each claim once"),
    ({"volumes": [{"claim": "a", "path": "/a"}, {"claim": "b", "path": "/a"}]}, (), "volumes: found b at /a"),
    ({"volumes": [{"claim": "a", "path": "/a"}], "ca": {"configMap": "a"}}, (), "none called as ca.configMap"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "said"), SCHEMA, ids=[str(values)[:60] for values, _ in SCHEMA])
def test_the_schema_refuses(values: dict[str, Any], said: str) -> None:
    with pytest.raises(Refused) as refused:
        render(values)
    assert said in str(refused.value)
    assert "values don't meet the specifications of the schema" in str(refused.value)


@pytest.mark.parametrize(("values", "apis", "said"), CONTRADICTIONS, ids=[said[:50] for *_, said in CONTRADICTIONS])
def test_contradictions_are_refused(values: dict[str, Any], apis: tuple[str, ...], said: str) -> None:
    with pytest.raises(Refused) as refused:
        render(values, apis=apis)
    assert said in str(refused.value)


def test_no_refusal_shows_a_password() -> None:
    for values in ({"config": {"store": "s3://key:hunter2@bucket"}}, {"env": {"PROXY": "http://me:hunter2@proxy"}}):
        with pytest.raises(Refused) as refused:
            render(values)
        assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("kube", ["1.28.9", "1.20.0"])
def test_an_old_cluster_is_refused(kube: str) -> None:
    with pytest.raises(Refused, match="chart requires kubeVersion"):
        render(kube=kube)


@pytest.mark.parametrize("setting", ["s3.secretKey=abc", "config.cluster.retries=1", "schedule.enabled=maybe", "pools.gpu.accelerators=0"])
def test_settings_of_the_command_line_are_refused_too(setting: str) -> None:
    with pytest.raises(Refused, match="values don't meet the specifications of the schema"):
        render(sets=[setting])


def test_a_parent_chart_may_pass_global_values() -> None:
    assert render({"global": {"domain": "example.com"}, "enabled": False}) == render()


def test_a_parent_chart_may_have_a_condition(tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    shutil.copytree(CHART, parent / "charts" / "apportion")
    dependency = {"name": "apportion", "version": "0.1.0", "condition": "apportion.enabled"}
    about = {"apiVersion": "v2", "name": "parent", "version": "1.0.0", "dependencies": [dependency]}
    (parent / "Chart.yaml").write_text(json.dumps(about))
    for enabled, expected in (("true", True), ("false", False)):
        text = run("template", "mine", str(parent), "--set", f"apportion.enabled={enabled}", "--kube-version", "1.34.0")
        assert ("kind: ConfigMap" in text) is expected


@pytest.mark.parametrize("value", ["mlflow", "env", "kfp.host", "images.pullSecrets", "networkPolicy.dns.to", "jobs.extraEnv", "config"])
def test_a_value_that_is_taken_away_is_missed_by_name(value: str) -> None:
    section, _, name = value.rpartition(".")
    with pytest.raises(Refused) as refused:
        render(sets=[f"{value}=null"])
    assert f"at '{'/' if section else ''}{section.replace('.', '/')}': missing property '{name}'" in str(refused.value)


@pytest.mark.parametrize("value", ["config.store", "config.tracking", "config.tracking.uri"])
def test_so_is_one_of_the_configuration(value: str) -> None:
    with pytest.raises(Refused, match=r'config\.(store|tracking\.uri): found "", expected'):
        render(sets=[f"{value}=null"])


CRONS = ["0 0 3 * * *", "0 30 2 * * MON-FRI", "*/5 0,30 0-6/2 1-15 jan-Mar,6 ?", "59 59 23 31 12 6", "07 08 09 01 012 0", "? ? ? ? ? ?"]
NO_CRONS = [
    "99 0 3 * * *",
    "0 60 * * * *",
    "0 0 24 * * *",
    "0 0 0 0 * *",
    "0 0 0 32 * *",
    "0 0 0 * 13 *",
    "0 0 0 * * 7",
    "99 99 99 99 99 99",
]
NO_CRONS += ["0 0 3 * *", "0 0 3 * * * *", "0 0 3 * * */0", "0 0 3 * * x", "0 0 3 * * 1,", "@daily", "0 0 3-x * * *", "-1 0 3 * * *"]


@pytest.mark.parametrize("cron", CRONS)
def test_crons_that_apportion_takes_pass(cron: str) -> None:
    assert Kfp(cron=cron).cron == cron
    assert render({"schedule": {"cron": cron}})


@pytest.mark.parametrize("cron", NO_CRONS)
def test_crons_that_apportion_refuses_do_not(cron: str) -> None:
    with pytest.raises(ValueError, match="cron"):
        Kfp(cron=cron)
    with pytest.raises(Refused, match="at '/schedule/cron'"):
        render({"schedule": {"cron": cron}})


@pytest.mark.parametrize(
    "name", ["user", "pwd", "password", "db_passwd", "x-token", "credential", "client_secret_id", "access_key_id", "sig"]
)
def test_credentials_in_a_query_are_those_that_apportion_knows(name: str) -> None:
    address = f"https://host/path?a=b&{name}=c"
    assert SECRET.search(address)
    with pytest.raises(Refused, match=r"env\.ADDRESS: found a user or a password"):
        render({"env": {"ADDRESS": address}})


@pytest.mark.parametrize("address", ["https://host/a@b", "https://host/path?name=c", "https://host/tokens=1", "mail@example.com"])
def test_what_is_no_credential_passes(address: str) -> None:
    assert render({"env": {"ADDRESS": address}, "jobs": {"extraEnv": [{"name": "OTHER", "value": address}]}})


def test_what_is_at_its_bound_passes() -> None:
    pool = {"shm": "1023Mi", "memory": "1Gi", "cpu": "1.5", "cpuLimit": "1500m"}
    tolerations = [{"key": "a", "value": "b"}, {"operator": "Exists"}, {"key": "a", "operator": "Equal", "value": ""}]
    assert render({"pools": {"gpu": pool | {"tolerations": tolerations}}, "volumes": [{"claim": "a", "path": "/opt/data"}]})


def test_jobs_tolerations_are_kubernetes_own() -> None:
    assert render({"jobs": {"tolerations": [{"key": "dedicated", "effect": "NoSchedule"}]}})


@pytest.mark.parametrize("name", ["AWS_WEB_IDENTITY_TOKEN_FILE", "MLFLOW_TRACKING_SERVER_CERT_PATH", "LOG_LEVEL"])
def test_variables_that_only_name_a_file_pass(name: str) -> None:
    assert render({"env": {name: "/path"}, "jobs": {"extraEnv": [{"name": name + "_2", "value": "x"}] if "TOKEN" not in name else []}})
