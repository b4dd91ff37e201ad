"""Values that cannot work are refused before anything is installed, by the schema or with the option to change."""

from typing import Any

import pytest
from chart import EXTERNAL, PIPELINES, Refused, render

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
    ({"runs": {"timeout": 0}}, "at '/runs/timeout'"),
    ({"runs": {"labels": {"app.kubernetes.io/part-of": "mine"}}}, "at '/runs/labels/app.kubernetes.io~1part-of'"),
    ({"jobs": {"podLabels": {"app.kubernetes.io/component": "mine"}}}, "at '/jobs/podLabels/app.kubernetes.io~1component'"),
    ({"fullnameOverride": "My_Release"}, "at '/fullnameOverride'"),
    # credentials
    ({"env": {"A B": "x"}}, "at '/env': additional properties 'A B' not allowed"),
    ({"jobs": {"extraEnv": [{"name": "DB_PASSWORD", "value": "x"}]}}, "at '/jobs/extraEnv/0'"),
]

CONTRADICTIONS: list[tuple[dict[str, Any], tuple[str, ...], str]] = [
    ({"config": {"store": "file:///work/store"}}, (), 'config.store: found "file:///work/store", expected s3://bucket/prefix'),
    ({"config": {"store": "s3://key:secret@bucket"}}, (), "config.store: found a user or a password in the address"),
    ({"config": {"tracking": {"uri": "https://me:pw@mlflow"}}}, (), "config.tracking.uri: found a user or a password in the address"),
    ({"config": {"network": "https://me:pw@host/net"}}, (), "config.network: found a user or a password in the address"),
    ({"config": {"tracking": {"uri": "sqlite:///mlflow.db"}}}, (), 'config.tracking.uri: found "sqlite:///mlflow.db"'),
    ({"env": {"AWS_SECRET_ACCESS_KEY": "x"}}, (), "env.AWS_SECRET_ACCESS_KEY: found what looks like a credential"),
    ({"env": {"mlflow_tracking_token": "x"}}, (), "env.mlflow_tracking_token: found what looks like a credential"),
    ({"env": {"HTTPS_PROXY": "http://me:pw@proxy:3128"}}, (), "env.HTTPS_PROXY: found a user or a password in the address"),
    ({"pipeline": {"mode": "native"}}, (), "pipeline.mode: found native, but this cluster has no pipelines.kubeflow.org/v2beta1"),
    ({"pipeline": {"mode": "native"}, "images": {"gpu": {"tag": "9"}}}, (PIPELINES,), "is for other values of images"),
    ({"pipeline": {"manifest": "kind: Deployment"}}, (), "pipeline.manifest: found no PipelineVersion"),
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
    ({"serviceAccount": {"create": False, "awsRoleArn": "arn:aws:iam::123456789012:role/a"}}, (), "serviceAccount: found an identity"),
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
    assert render({"global": {"domain": "example.com"}})


@pytest.mark.parametrize("name", ["AWS_WEB_IDENTITY_TOKEN_FILE", "MLFLOW_TRACKING_SERVER_CERT_PATH", "LOG_LEVEL"])
def test_variables_that_only_name_a_file_pass(name: str) -> None:
    assert render({"env": {name: "/path"}, "jobs": {"extraEnv": [{"name": name + "_2", "value": "x"}] if "TOKEN" not in name else []}})
