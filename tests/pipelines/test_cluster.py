"""What every task of the compiled pipeline gets from the section `cluster`, and the pods that KFP makes of
the tasks."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from commands import compiled as compiled_for
from tiny import CONFIG, ROOT, ran

from apportion import __version__
from apportion.config.cluster import Cluster
from apportion.config.loading import load
from apportion.config.stages import STAGES
from pipelines.attribution import attribution
from pipelines.package import content

EVERYTHING = {
    "images": {
        "cpu": "registry.example.com:5000/a/cpu@sha256:" + "0" * 64,
        "gpu": "registry.example.com:5000/a/gpu:1",
    },
    "pull_policy": "Always",
    "pull_secrets": ["registry", "mirror"],
    "secrets": [
        {"name": "s3", "env": {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key"}},
        {
            "name": "mlflow",
            "env": {"MLFLOW_TRACKING_TOKEN": "token", "MLFLOW_AGAIN": "token"},
            "optional": True,
        },
    ],
    "env": {"AWS_ENDPOINT_URL_S3": "https://s3.example.com", "AWS_REGION": "eu-1"},
    "ca": {"config_map": "apportion-ca", "key": "bundle.pem"},
    "volumes": [{"claim": "drawings", "path": "/data"}, {"claim": "networks", "path": "/networks/ours"}],
    "pools": {
        "cpu": {"node_selector": {"pool": "cpu"}, "cpu_limit": 2},
        "gpu": {
            "node_selector": {"example.com/pool": "a100", "zone": "b"},
            "tolerations": [{"key": "spot", "value": "yes"}, {"operator": "Exists"}],
        },
        "large": {"cpu": 16, "memory": "64Gi", "accelerator": "amd.com/gpu", "accelerators": 4},
    },
    "stages": {
        "train": {"pool": "large", "timeout": 72, "retries": 5},
        "score": {"pool": "cpu", "cpu": "1500m", "memory": "8Gi"},
        "plan": {"retries": 1, "timeout": 0.5},
    },
    "timeout": 12,
    "retries": 3,
    "labels": {"kueue.x-k8s.io/queue-name": "credits", "team": "a"},
}


class Compiled:
    """A pipeline by stage: its container, its options for Kubernetes, and its task. A stage in two loops has
    two of each."""

    def __init__(self, documents: list[dict[str, Any]]) -> None:
        self.documents = documents
        spec, platform = documents
        self.containers = {
            name: body["container"] for name, body in spec["deploymentSpec"]["executors"].items()
        }
        self.kubernetes = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        components = [spec["root"], *spec["components"].values()]
        tasks = [
            task
            for component in components
            if "dag" in component
            for task in component["dag"]["tasks"].values()
        ]
        self.tasks = {f"exec-{task['componentRef']['name'].removeprefix('comp-')}": task for task in tasks}

    def of(self, stage: str, part: str) -> dict[str, Any]:
        """A part of a stage; if it occurs twice, both must be equal."""
        parts = getattr(self, part).items()
        matches = [
            value for name, value in parts if name.removeprefix("exec-").rstrip("-0123456789") == stage
        ]
        assert matches
        assert part == "tasks" or matches == [matches[0]] * len(matches)
        return matches[0]


@pytest.fixture(scope="module")
def compiled():
    """Compiles for a cluster, each once."""
    known: dict[str, Compiled] = {}

    def compiled_with(**options: Any) -> Compiled:
        cluster = Cluster.model_validate(options)
        key = cluster.model_dump_json()
        if key not in known:
            known[key] = Compiled(documents(compiled_for(cluster).data))
        return known[key]

    return compiled_with


def documents(data: bytes) -> list[dict[str, Any]]:
    """The documents of a YAML file."""
    return list(yaml.load_all(data, yaml.CSafeLoader))


def golden(name: str = "attribution") -> list[dict[str, Any]]:
    return documents((ROOT / "pipelines" / "compiled" / f"{name}.yaml").read_bytes())


# Stage by stage


@pytest.mark.parametrize("stage", STAGES)
def test_by_default(stage, compiled):
    pipeline = compiled()
    container, options, task = (pipeline.of(stage, part) for part in ("containers", "kubernetes", "tasks"))
    accelerated = STAGES[stage].accelerated
    assert container["image"] == f"apportion/{'gpu' if accelerated else 'cpu'}:{__version__}"
    resources = container["resources"]
    assert resources["resourceCpuRequest"] == ("4" if accelerated else "1")
    assert "resourceCpuLimit" not in resources
    memory = "16Gi" if accelerated else "4Gi"
    assert resources["resourceMemoryRequest"] == resources["resourceMemoryLimit"] == memory
    if accelerated:
        accelerator = resources["accelerator"]
        assert (accelerator["resourceType"], accelerator["resourceCount"]) == ("nvidia.com/gpu", "1")
        toleration = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
        assert options["tolerations"] == [toleration]
    assert ("accelerator" in resources) == ("tolerations" in options) == accelerated
    assert container["env"] == [{"name": "HOME", "value": "/work"}, {"name": "TMPDIR", "value": "/tmp"}]
    mounts = [{"volumeName": "work", "mountPath": "/work"}, {"volumeName": "tmp", "mountPath": "/tmp"}]
    if accelerated:
        shm = {"volumeName": "shm", "mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": "2Gi"}
        mounts.append(shm)
    assert options["emptyDirMounts"] == mounts
    assert options["securityContext"] == {"runAsUser": "10001", "runAsGroup": "10001", "runAsNonRoot": True}
    assert options["imagePullPolicy"] == "IfNotPresent"
    assert options["activeDeadlineSeconds"] == str(24 * 3600)
    secrets = {
        name: (s["secretName"], s["optional"]) for s in options["secretAsEnv"] for name in variables(s)
    }
    assert secrets == {
        "AWS_ACCESS_KEY_ID": ("apportion-s3", True),
        "AWS_SECRET_ACCESS_KEY": ("apportion-s3", True),
        "MLFLOW_TRACKING_USERNAME": ("apportion-mlflow", True),
        "MLFLOW_TRACKING_PASSWORD": ("apportion-mlflow", True),
    }
    # The chart's network policies select pods by this label.
    assert options["podMetadata"] == {"labels": {"app.kubernetes.io/part-of": "apportion"}}
    assert not {"nodeSelector", "imagePullSecret", "configMapAsVolume"} & set(options)
    assert retries(task) == (0 if stage in ("plan", "close") else 2)


def retries(task: dict[str, Any]) -> int:
    return task.get("retryPolicy", {}).get("maxRetryCount", 0)


def variables(secret: dict[str, Any]) -> list[str]:
    return [pair["envVar"] for pair in secret["keyToEnv"]]


@pytest.mark.parametrize("stage", STAGES)
def test_with_everything(stage, compiled):
    pipeline = compiled(**EVERYTHING)
    container, options, task = (pipeline.of(stage, part) for part in ("containers", "kubernetes", "tasks"))
    default = "gpu" if STAGES[stage].accelerated else "cpu"
    pool = {"train": "large", "score": "cpu"}.get(stage, default)
    assert container["image"] == EVERYTHING["images"]["cpu" if pool == "cpu" else "gpu"]
    assert options["imagePullPolicy"] == "Always"
    assert [secret["secretName"] for secret in options["imagePullSecret"]] == ["registry", "mirror"]
    authorities = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
    assert {variable["name"]: variable["value"] for variable in container["env"]} == {
        "HOME": "/work",
        "TMPDIR": "/tmp",
        **dict.fromkeys(authorities, "/etc/apportion/ca/bundle.pem"),
        "AWS_ENDPOINT_URL_S3": "https://s3.example.com",
        "AWS_REGION": "eu-1",
    }
    assert [(s["secretName"], s["optional"], s["keyToEnv"]) for s in options["secretAsEnv"]] == [
        ("s3", False, [{"secretKey": "id", "envVar": "AWS_ACCESS_KEY_ID"}]),
        ("s3", False, [{"secretKey": "key", "envVar": "AWS_SECRET_ACCESS_KEY"}]),
        ("mlflow", True, [{"secretKey": "token", "envVar": "MLFLOW_TRACKING_TOKEN"}]),
        ("mlflow", True, [{"secretKey": "token", "envVar": "MLFLOW_AGAIN"}]),
    ]
    (volume,) = options["configMapAsVolume"]
    assert (volume["configMapName"], volume["mountPath"]) == ("apportion-ca", "/etc/apportion/ca")
    assert volume["optional"] is False
    claims = [("drawings", "/data"), ("networks", "/networks/ours")] if stage == "plan" else []
    assert [(mount["constant"], mount["mountPath"]) for mount in options.get("pvcMount", [])] == claims
    selectors = {"cpu": {"pool": "cpu"}, "gpu": {"example.com/pool": "a100", "zone": "b"}}
    assert options.get("nodeSelector", {}).get("labels") == selectors.get(pool)
    tolerations = [{"key": "spot", "operator": "Equal", "value": "yes"}, {"operator": "Exists"}]
    assert options.get("tolerations") == (tolerations if pool == "gpu" else None)
    assert options["podMetadata"]["labels"] == EVERYTHING["labels"]
    hours = {"train": 72, "plan": 0.5}.get(stage, 12)
    assert options["activeDeadlineSeconds"] == str(round(hours * 3600))
    assert retries(task) == {"train": 5, "plan": 1, "close": 0}.get(stage, 3)


def test_resources_of_a_stage_and_of_its_pool(compiled):
    pipeline = compiled(**EVERYTHING)
    score, train, plan = (
        pipeline.of(stage, "containers")["resources"] for stage in ("score", "train", "plan")
    )
    assert (score["resourceCpuRequest"], score["resourceMemoryLimit"]) == ("1500m", "8Gi")
    assert "accelerator" not in score
    assert (score["resourceCpuLimit"], plan["resourceCpuLimit"]) == ("2", "2")
    accelerator = train["accelerator"]
    assert (accelerator["resourceType"], accelerator["resourceCount"]) == ("amd.com/gpu", "4")
    mounts = pipeline.of("train", "kubernetes")["emptyDirMounts"]
    assert "/dev/shm" not in [mount["mountPath"] for mount in mounts]


def test_retries_last_as_long_as_their_attempts(compiled):
    """Argo counts the longest backoff from the start of the first attempt: with KFP's default of an hour, a
    longer task would not be retried."""
    for stage, attempts, hours in (("train", 5, 72), ("sample", 3, 12)):
        policy = compiled(**EVERYTHING).of(stage, "tasks")["retryPolicy"]
        assert (policy["backoffDuration"], policy["backoffFactor"]) == ("60s", 2.0)
        waits = sum(60 * 2**i for i in range(attempts))
        longest = (attempts + 1) * hours * 3600 + waits
        assert int(policy["backoffMaxDuration"].removesuffix("s")) == longest


def test_a_cluster_without_accelerators(compiled):
    pipeline = compiled(
        pools={"gpu": {"accelerator": None, "accelerators": 0, "tolerations": [], "shm": None}}
    )
    containers = pipeline.containers.items()
    assert {container["image"] for _, container in containers} == {f"apportion/cpu:{__version__}"}
    assert not [name for name, container in containers if "accelerator" in container["resources"]]


def test_no_secret_is_part_of_a_pipeline(compiled):
    """The variables of Secrets have no value, only the name of a Secret and a key."""
    names = {name for secret in EVERYTHING["secrets"] for name in secret["env"]}
    for container in compiled(**EVERYTHING).containers.values():
        assert not names & {variable["name"] for variable in container["env"]}


# What identifies a pipeline


def test_the_version_is_a_hash_of_the_content(compiled):
    parts = copy.deepcopy(compiled().documents)
    package = compiled_for(Cluster()).package
    assert content(parts) == package.content
    assert package.version == f"apportion-attribution-{package.content[:12]}"
    parts[0]["sdkVersion"] = "kfp-2.99.0"
    assert content(parts) == package.content
    assert content(golden()) == package.content, "run `make compile` and commit pipelines/compiled"
    parts[0]["deploymentSpec"]["executors"]["exec-plan"]["container"]["image"] = "other"
    assert content(parts) != package.content


@pytest.mark.parametrize(
    "options", [{"kfp": {"cron": "0 0 4 * * *", "experiment": "other"}}, {"pools": {"unused": {"cpu": "3"}}}]
)
def test_options_that_no_pod_has_do_not_change_the_version(options):
    assert compiled_for(Cluster.model_validate(options)).package.content == content(golden())


def test_the_resources_of_kubernetes_contain_the_same_pipeline():
    pipeline, version = golden("attribution-kubernetes")
    assert (pipeline["kind"], version["kind"]) == ("Pipeline", "PipelineVersion")
    assert {resource["apiVersion"] for resource in (pipeline, version)} == {"pipelines.kubeflow.org/v2beta1"}
    assert version["spec"]["pipelineName"] == pipeline["metadata"]["name"] == "apportion-attribution"
    assert [version["spec"]["pipelineSpec"], version["spec"]["platformSpec"]] == golden()
    name = f"apportion-attribution-{content(golden())[:12]}"
    assert version["metadata"]["name"] == version["spec"]["displayName"] == name
    assert not {"namespace"} & (pipeline["metadata"].keys() | version["metadata"].keys())


def test_a_task_of_a_local_run_has_no_options_of_a_cluster():
    """No retries, no container image, and nothing that KFP would warn of."""
    local = attribution()
    assert not local.platform_spec.platforms
    deployment = dict(local.pipeline_spec.deployment_spec)
    executors = [executor["container"] for executor in deployment["executors"].values()]
    assert {executor["image"] for executor in executors} == {"python"}
    assert not [executor for executor in executors if "resources" in executor or "env" in executor]
    components = [local.pipeline_spec.root, *local.pipeline_spec.components.values()]
    tasks = [task for component in components for task in component.dag.tasks.values()]
    assert len(tasks) > len(STAGES)
    assert not [task for task in tasks if task.HasField("retry_policy")]


def test_a_local_run_ignores_the_section_cluster(tmp_path):
    """The section is no part of the round's identity. It is checked all the same: an unknown option is
    refused."""
    options = ["cluster.images.gpu=nowhere.invalid/x:1", "cluster.pools.gpu.memory=1Ti"]
    config = load(CONFIG, options, tmp_path)
    assert config.cluster.images.gpu == "nowhere.invalid/x:1"
    assert config.identity() == load(CONFIG, [], tmp_path).identity()
    arguments = [part for option in [*options, "cluster.retry=3"] for part in ("--set", option)]
    code, _, err = ran("-m", "pipelines", "run", CONFIG, "--workdir", tmp_path / "work", *arguments)
    assert code == 1
    assert "cluster.retry: Extra inputs" in err


# The pods. KFP's backend adds a security context to what the pipeline says of an executor, by default since
# 2.16 (kubeflow/pipelines#12782). That default (HARDENED) is KFP's, and is assumed here; the pipeline's own
# options override it.

SCRATCH = (
    *("kfp-launcher", "gcs-scratch", "s3-scratch", "minio-scratch"),
    *("dot-local-scratch", "dot-cache-scratch", "dot-config-scratch"),
)
"""Volumes that KFP adds to every pod."""
IN_POD = {"emptyDirMounts", "configMapAsVolume", "pvcMount", "securityContext"}
"""Options of an executor that `pod` uses."""
UNRESTRICTED = {
    *(
        "secretAsEnv",
        "imagePullPolicy",
        "imagePullSecret",
        "activeDeadlineSeconds",
        "nodeSelector",
        "tolerations",
    ),
    "podMetadata",
}
"""Options of an executor that Pod Security *restricted* does not mention."""
HARDENED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def pod(options: dict[str, Any], container: dict[str, Any]) -> dict[str, Any]:
    """The pod of an executor: KFP's launcher, our container, and the two containers that Argo adds with the
    configuration of KFP's manifests."""
    assert set(options) <= IN_POD | UNRESTRICTED, "a pod has an option that is not checked here"
    numbers = ("runAsUser", "runAsGroup")
    own = {
        field: int(value) if field in numbers else value
        for field, value in options["securityContext"].items()
    }
    empty, config_maps, claims = (
        options.get(kind, []) for kind in ("emptyDirMounts", "configMapAsVolume", "pvcMount")
    )
    return {
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "initContainers": [
            {"name": "init", "securityContext": HARDENED | {"runAsNonRoot": True, "runAsUser": 65532}},
            {"name": "kfp-launcher", "securityContext": HARDENED | {"runAsNonRoot": True}},
        ],
        "containers": [
            {"name": "wait", "securityContext": HARDENED | {"runAsNonRoot": True, "runAsUser": 65532}},
            {
                "name": "main",
                "image": container["image"],
                "securityContext": HARDENED | own,
                "volumeMounts": [{"mountPath": m["mountPath"]} for m in (*empty, *config_maps, *claims)],
            },
        ],
        "volumes": [
            *({"name": name, "emptyDir": {}} for name in SCRATCH),
            *({"name": m["volumeName"], "emptyDir": {"medium": m.get("medium", "")}} for m in empty),
            *({"name": m["configMapName"], "configMap": {"name": m["configMapName"]}} for m in config_maps),
            *({"name": m["constant"], "persistentVolumeClaim": {"claimName": m["constant"]}} for m in claims),
        ],
    }


def violations(pod: dict[str, Any]) -> list[str]:
    """Every field that Pod Security *restricted* forbids (Kubernetes 1.35), as its documentation lists
    them."""
    fields = [field for field in ("hostNetwork", "hostPID", "hostIPC") if pod.get(field)]
    volumes = {
        *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected"),
        "secret",
    }
    fields += [
        f"volume {volume['name']}" for volume in pod["volumes"] if not set(volume) - {"name"} <= volumes
    ]
    shared = pod.get("securityContext", {})
    fields += [
        f"pod.{field}" for field in ("sysctls", "windowsOptions", "seLinuxOptions") if shared.get(field)
    ]
    if shared.get("runAsUser") == 0:
        fields.append("pod.runAsUser")
    for container in pod["initContainers"] + pod["containers"]:
        fields += [f"{container['name']}.{field}" for field in _container_violations(container, shared)]
    return fields


def _container_violations(container: dict[str, Any], shared: dict[str, Any]) -> Iterator[str]:
    """Of one container; `shared` is the security context of its pod."""
    own = container.get("securityContext", {})
    capabilities = own.get("capabilities", {})
    profile = own.get("seccompProfile", shared.get("seccompProfile", {})).get("type")
    yield from ("hostPort" for port in container.get("ports", []) if port.get("hostPort"))
    yield from (field for field in ("privileged", "windowsOptions", "seLinuxOptions") if own.get(field))
    if own.get("procMount", "Default") != "Default":
        yield "procMount"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation"
    if own.get("runAsNonRoot", shared.get("runAsNonRoot")) is not True:
        yield "runAsNonRoot"
    if own.get("runAsUser") == 0:
        yield "runAsUser"
    if profile not in ("RuntimeDefault", "Localhost"):
        yield "seccompProfile"
    if "ALL" not in capabilities.get("drop", []):
        yield "capabilities.drop"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "capabilities.add"


@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["default", "everything"])
def test_every_pod_is_restricted(options, compiled):
    pipeline = compiled(**options)
    assert len(pipeline.kubernetes) == 15
    for name, executor in pipeline.kubernetes.items():
        assert violations(pod(executor, pipeline.containers[name])) == [], name


@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["default", "everything"])
def test_volumes_have_different_names_and_paths(options, compiled):
    """Also different from those of KFP's own volumes."""
    kfp = {"/gcs", "/s3", "/minio", "/.local", "/.cache", "/.config", "/kfp-launcher"}
    pipeline = compiled(**options)
    for name, executor in pipeline.kubernetes.items():
        kubernetes = pod(executor, pipeline.containers[name])
        names = [volume["name"] for volume in kubernetes["volumes"]]
        paths = [mount["mountPath"] for mount in kubernetes["containers"][1]["volumeMounts"]]
        assert len(set(names)) == len(names)
        assert len(set(paths)) == len(paths)
        assert not set(paths) & kfp


@pytest.mark.parametrize(
    ("own", "field"),
    [
        ({"runAsUser": "0"}, "main.runAsUser"),
        ({"runAsNonRoot": False}, "main.runAsNonRoot"),
        ({"allowPrivilegeEscalation": True}, "main.allowPrivilegeEscalation"),
        ({"capabilities": {}}, "main.capabilities.drop"),
        ({"seccompProfile": {"type": "Unconfined"}}, "main.seccompProfile"),
    ],
)
def test_a_forbidden_option_of_the_pipeline_would_be_noticed(own, field, compiled):
    """The pipeline's options override what KFP adds."""
    options = copy.deepcopy(compiled().of("train", "kubernetes"))
    options["securityContext"] |= own
    assert violations(pod(options, compiled().of("train", "containers"))) == [field]


def own_context(pod: dict[str, Any]) -> dict[str, Any]:
    return pod["containers"][1]["securityContext"]


FORBIDDEN = {
    "hostNetwork": lambda pod: pod.update(hostNetwork=True),
    "volume host": lambda pod: pod["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
    "main.runAsUser": lambda pod: own_context(pod).update(runAsUser=0),
    "main.runAsNonRoot": lambda pod: own_context(pod).pop("runAsNonRoot"),
    "main.allowPrivilegeEscalation": lambda pod: own_context(pod).pop("allowPrivilegeEscalation"),
    "main.capabilities.drop": lambda pod: own_context(pod).update(capabilities={"drop": ["NET_RAW"]}),
    "main.capabilities.add": lambda pod: own_context(pod).update(
        capabilities={"drop": ["ALL"], "add": ["SYS_PTRACE"]}
    ),
    "main.seccompProfile": lambda pod: own_context(pod).update(seccompProfile={"type": "Unconfined"}),
    "main.privileged": lambda pod: own_context(pod).update(privileged=True),
    "kfp-launcher.runAsNonRoot": lambda pod: pod["initContainers"][1]["securityContext"].pop("runAsNonRoot"),
}


@pytest.mark.parametrize("field", FORBIDDEN)
def test_a_forbidden_field_of_a_pod_would_be_noticed(field, compiled):
    changed = copy.deepcopy(pod(compiled().of("train", "kubernetes"), compiled().of("train", "containers")))
    FORBIDDEN[field](changed)
    assert violations(changed) == [field]
