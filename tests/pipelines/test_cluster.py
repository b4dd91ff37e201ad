"""What every task of the compiled pipeline gets from the `cluster` section, and the pods that KFP makes of it."""

import copy
from typing import Any

import pytest
import yaml
from tiny import CONFIG, ROOT, ran

from apportion import __version__
from apportion.config import WORKERS, Cluster, load
from pipelines.attribution import attribution
from pipelines.package import content, pack

STAGES = ("plan", "train", "prune", "finetune", "sample", "score", "attribute", "evaluate", "publish", "close")
EVERYTHING = {
    "images": {"cpu": "registry.example.com:5000/a/cpu@sha256:" + "0" * 64, "gpu": "registry.example.com:5000/a/gpu:1"},
    "pull_policy": "Always",
    "pull_secrets": ["registry", "mirror"],
    "secrets": [
        {"name": "s3", "env": {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key"}},
        {"name": "mlflow", "env": {"MLFLOW_TRACKING_TOKEN": "token", "MLFLOW_AGAIN": "token"}, "optional": True},
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
    """A pipeline by stage: its container, what is said of it for Kubernetes, and its task. Of the stages that occur twice both."""

    def __init__(self, documents: list[dict[str, Any]]) -> None:
        self.documents = documents
        spec, platform = documents
        self.containers = {name: body["container"] for name, body in spec["deploymentSpec"]["executors"].items()}
        self.kubernetes = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        self.tasks = {
            f"exec-{task['componentRef']['name'].removeprefix('comp-')}": task
            for dag in (spec["root"]["dag"], *(component["dag"] for component in spec["components"].values() if "dag" in component))
            for task in dag["tasks"].values()
        }

    def of(self, stage: str, part: str) -> dict[str, Any]:
        """A part of a stage; what occurs twice must be alike."""
        found = [value for name, value in getattr(self, part).items() if name.removeprefix("exec-").rstrip("-0123456789") == stage]
        assert found
        assert part == "tasks" or found == [found[0]] * len(found)
        return found[0]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Compiles for a cluster, each once."""
    known: dict[str, Compiled] = {}

    def of(**told: Any) -> Compiled:
        cluster = Cluster.model_validate(told)
        if (key := cluster.model_dump_json()) not in known:
            path = pack(attribution(cluster), tmp_path_factory.mktemp("compiled")).path
            known[key] = Compiled(list(yaml.safe_load_all(path.read_text())))
        return known[key]

    return of


def golden() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "pipelines" / "compiled" / "attribution.yaml").read_text()))


# Stage by stage


@pytest.mark.parametrize("stage", STAGES)
def test_by_default(stage, compiled):
    found = compiled()
    container, said, task = (found.of(stage, part) for part in ("containers", "kubernetes", "tasks"))
    worker = stage in WORKERS
    assert container["image"] == f"apportion/{'gpu' if worker else 'cpu'}:{__version__}"
    resources = container["resources"]
    assert (resources["resourceCpuRequest"], "resourceCpuLimit" in resources) == ("4" if worker else "1", False)
    assert resources["resourceMemoryRequest"] == resources["resourceMemoryLimit"] == ("16Gi" if worker else "4Gi")
    if worker:
        assert (resources["accelerator"]["resourceType"], resources["accelerator"]["resourceCount"]) == ("nvidia.com/gpu", "1")
        assert said["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert ("accelerator" in resources) == ("tolerations" in said) == worker
    assert container["env"] == [{"name": "HOME", "value": "/work"}, {"name": "TMPDIR", "value": "/tmp"}]
    shm = [{"volumeName": "shm", "mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": "2Gi"}] if worker else []
    assert said["emptyDirMounts"] == [{"volumeName": "work", "mountPath": "/work"}, {"volumeName": "tmp", "mountPath": "/tmp"}, *shm]
    assert said["securityContext"] == {"runAsUser": "10001", "runAsGroup": "10001", "runAsNonRoot": True}
    assert (said["imagePullPolicy"], said["activeDeadlineSeconds"]) == ("IfNotPresent", str(24 * 3600))
    assert {name: (s["secretName"], s["optional"]) for s in said["secretAsEnv"] for name in variables(s)} == {
        "AWS_ACCESS_KEY_ID": ("apportion-s3", True),
        "AWS_SECRET_ACCESS_KEY": ("apportion-s3", True),
        "MLFLOW_TRACKING_USERNAME": ("apportion-mlflow", True),
        "MLFLOW_TRACKING_PASSWORD": ("apportion-mlflow", True),
    }
    assert said["podMetadata"] == {"labels": {"app.kubernetes.io/part-of": "apportion"}}  # by which the chart's policies know them
    assert not {"nodeSelector", "imagePullSecret", "configMapAsVolume"} & set(said)
    assert task.get("retryPolicy", {}).get("maxRetryCount", 0) == (0 if stage in ("plan", "close") else 2)


def variables(secret: dict[str, Any]) -> list[str]:
    return [pair["envVar"] for pair in secret["keyToEnv"]]


@pytest.mark.parametrize("stage", STAGES)
def test_with_everything(stage, compiled):
    found = compiled(**EVERYTHING)
    container, said, task = (found.of(stage, part) for part in ("containers", "kubernetes", "tasks"))
    pool = {"train": "large", "score": "cpu"}.get(stage, "gpu" if stage in WORKERS else "cpu")
    assert container["image"] == EVERYTHING["images"]["cpu" if pool == "cpu" else "gpu"]
    assert said["imagePullPolicy"] == "Always"
    assert [secret["secretName"] for secret in said["imagePullSecret"]] == ["registry", "mirror"]
    assert {variable["name"]: variable["value"] for variable in container["env"]} == {
        "HOME": "/work",
        "TMPDIR": "/tmp",
        **dict.fromkeys(("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"), "/etc/apportion/ca/bundle.pem"),
        "AWS_ENDPOINT_URL_S3": "https://s3.example.com",
        "AWS_REGION": "eu-1",
    }
    assert [(s["secretName"], s["optional"], s["keyToEnv"]) for s in said["secretAsEnv"]] == [
        ("s3", False, [{"secretKey": "id", "envVar": "AWS_ACCESS_KEY_ID"}]),
        ("s3", False, [{"secretKey": "key", "envVar": "AWS_SECRET_ACCESS_KEY"}]),
        ("mlflow", True, [{"secretKey": "token", "envVar": "MLFLOW_TRACKING_TOKEN"}]),
        ("mlflow", True, [{"secretKey": "token", "envVar": "MLFLOW_AGAIN"}]),
    ]
    (volume,) = said["configMapAsVolume"]
    assert (volume["configMapName"], volume["mountPath"], volume["optional"]) == ("apportion-ca", "/etc/apportion/ca", False)
    claims = [("drawings", "/data"), ("networks", "/networks/ours")] if stage == "plan" else []
    assert [(mount["constant"], mount["mountPath"]) for mount in said.get("pvcMount", [])] == claims
    selectors = {"cpu": {"pool": "cpu"}, "gpu": {"example.com/pool": "a100", "zone": "b"}}
    assert said.get("nodeSelector", {}).get("labels") == selectors.get(pool)
    tolerations = [{"key": "spot", "operator": "Equal", "value": "yes"}, {"operator": "Exists"}]
    assert said.get("tolerations") == (tolerations if pool == "gpu" else None)
    assert said["podMetadata"]["labels"] == EVERYTHING["labels"]
    hours = {"train": 72, "plan": 0.5}.get(stage, 12)
    assert said["activeDeadlineSeconds"] == str(round(hours * 3600))
    retries = {"train": 5, "plan": 1, "close": 0}.get(stage, 3)
    assert task.get("retryPolicy", {}).get("maxRetryCount", 0) == retries


def test_resources_of_a_stage_and_of_its_pool(compiled):
    found = compiled(**EVERYTHING)
    score, train, plan = (found.of(stage, "containers")["resources"] for stage in ("score", "train", "plan"))
    assert (score["resourceCpuRequest"], score["resourceMemoryLimit"], "accelerator" in score) == ("1500m", "8Gi", False)
    assert (score["resourceCpuLimit"], plan["resourceCpuLimit"]) == ("2", "2")
    assert (train["accelerator"]["resourceType"], train["accelerator"]["resourceCount"]) == ("amd.com/gpu", "4")
    assert not [mount for mount in found.of("train", "kubernetes")["emptyDirMounts"] if mount["mountPath"] == "/dev/shm"]


def test_retries_last_as_long_as_their_attempts(compiled):
    """Argo counts the longest backoff from the start of the first attempt: KFP's own hour ends a longer task's retries."""
    for stage, attempts, hours in (("train", 5, 72), ("sample", 3, 12)):
        policy = compiled(**EVERYTHING).of(stage, "tasks")["retryPolicy"]
        assert (policy["backoffDuration"], policy["backoffFactor"]) == ("60s", 2.0)
        waits = sum(60 * 2**i for i in range(attempts))
        assert int(policy["backoffMaxDuration"].removesuffix("s")) == (attempts + 1) * hours * 3600 + waits


def test_a_cluster_without_accelerators(compiled):
    found = compiled(pools={"gpu": {"accelerator": None, "accelerators": 0, "tolerations": [], "shm": None}})
    assert {container["image"] for container in found.containers.values()} == {f"apportion/cpu:{__version__}"}
    assert not [name for name, container in found.containers.items() if "accelerator" in container["resources"]]


def test_no_secret_is_part_of_a_pipeline(compiled):
    """Only where one is found: the variables of Secrets have no value."""
    named = {name for secret in EVERYTHING["secrets"] for name in secret["env"]}
    for container in compiled(**EVERYTHING).containers.values():
        assert not named & {variable["name"] for variable in container["env"]}


# What identifies a pipeline


def test_the_version_is_a_hash_of_the_content(compiled, tmp_path):
    documents = copy.deepcopy(compiled().documents)
    package = pack(attribution(Cluster()), tmp_path)
    assert content(documents) == package.content
    assert package.version == f"apportion-attribution-{package.content[:12]}"
    documents[0]["sdkVersion"] = "kfp-2.99.0"
    assert content(documents) == package.content
    assert content(golden()) == package.content, "run `make compile` and commit pipelines/compiled"
    documents[0]["deploymentSpec"]["executors"]["exec-plan"]["container"]["image"] = "other"
    assert content(documents) != package.content


@pytest.mark.parametrize("told", [{"kfp": {"cron": "0 0 4 * * *", "experiment": "other"}}, {"pools": {"unused": {"cpu": "3"}}}])
def test_what_no_pod_has_makes_no_other_version(told, tmp_path):
    assert pack(attribution(Cluster.model_validate(told)), tmp_path).content == content(golden())


def test_the_resources_of_kubernetes_hold_the_same():
    pipeline, version = yaml.safe_load_all((ROOT / "pipelines" / "compiled" / "attribution-kubernetes.yaml").read_text())
    assert (pipeline["kind"], version["kind"]) == ("Pipeline", "PipelineVersion")
    assert {resource["apiVersion"] for resource in (pipeline, version)} == {"pipelines.kubeflow.org/v2beta1"}
    assert version["spec"]["pipelineName"] == pipeline["metadata"]["name"] == "apportion-attribution"
    assert [version["spec"]["pipelineSpec"], version["spec"]["platformSpec"]] == golden()
    assert version["metadata"]["name"] == version["spec"]["displayName"] == f"apportion-attribution-{content(golden())[:12]}"
    assert not {"namespace"} & (pipeline["metadata"].keys() | version["metadata"].keys())


def test_here_a_task_has_nothing_of_a_cluster():
    """Local runs are what they were: no retries, no image that is run, and nothing that KFP would warn of."""
    local = attribution()
    assert not local.platform_spec.platforms
    executors = [executor["container"] for executor in dict(local.pipeline_spec.deployment_spec)["executors"].values()]
    assert {executor["image"] for executor in executors} == {"python"}
    assert not [executor for executor in executors if "resources" in executor or "env" in executor]
    dags = (local.pipeline_spec.root.dag, *(component.dag for component in local.pipeline_spec.components.values()))
    assert not [name for dag in dags for name, task in dag.tasks.items() if task.HasField("retry_policy")]


def test_a_run_here_takes_no_notice_of_the_cluster_section(tmp_path):
    """Refused where a local run is refused, for its own reason; the section itself is read and checked."""
    options = ["cluster.images.gpu=nowhere.invalid/x:1", "cluster.pools.gpu.memory=1Ti", "compute.device=cuda"]
    assert load(CONFIG, options, tmp_path).cluster.images.gpu == "nowhere.invalid/x:1"
    assert load(CONFIG, options, tmp_path).told() == load(CONFIG, ["compute.device=cuda"], tmp_path).told()
    told = [part for option in [*options, "cluster.retry=3"] for part in ("--set", option)]
    code, _, err = ran("-m", "pipelines", "run", CONFIG, "--workdir", tmp_path / "work", *told)
    assert code == 1
    assert "cluster.retry: Extra inputs" in err


# The pods: KFP's backend adds to the executor's configuration what kubeflow/pipelines#12782 made its default, since 2.16. That default
# (HARDENED) is KFP's and is taken for granted here; what the pipeline says itself is laid over it, whatever that is.

SCRATCH = ("kfp-launcher", "gcs-scratch", "s3-scratch", "minio-scratch", "dot-local-scratch", "dot-cache-scratch", "dot-config-scratch")
MODELLED = {"emptyDirMounts", "configMapAsVolume", "pvcMount", "securityContext"}  # below, and what *restricted* has no word about:
MODELLED |= {"secretAsEnv", "imagePullPolicy", "imagePullSecret", "activeDeadlineSeconds", "nodeSelector", "tolerations", "podMetadata"}
HARDENED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}}


def pod(said: dict[str, Any], container: dict[str, Any]) -> dict[str, Any]:
    """The pod of an executor: KFP's launcher, our container, and the two containers that Argo adds as KFP's manifests configure it."""
    assert set(said) <= MODELLED, "a pod has what is not looked at here"
    own = {field: int(value) if field in ("runAsUser", "runAsGroup") else value for field, value in said["securityContext"].items()}
    mounts = said.get("emptyDirMounts", []), said.get("configMapAsVolume", []), said.get("pvcMount", [])
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
                "volumeMounts": [{"mountPath": mount["mountPath"]} for kind in mounts for mount in kind],
            },
        ],
        "volumes": [
            *({"name": name, "emptyDir": {}} for name in SCRATCH),
            *({"name": mount["volumeName"], "emptyDir": {"medium": mount.get("medium", "")}} for mount in mounts[0]),
            *({"name": mount["configMapName"], "configMap": {"name": mount["configMapName"]}} for mount in mounts[1]),
            *({"name": mount["constant"], "persistentVolumeClaim": {"claimName": mount["constant"]}} for mount in mounts[2]),
        ],
    }


def violations(pod: dict[str, Any]) -> list[str]:
    """Every field that Pod Security *restricted* forbids (Kubernetes 1.35), by the words of its standard."""
    found = [field for field in ("hostNetwork", "hostPID", "hostIPC") if pod.get(field)]
    allowed = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
    found += [f"volume {volume['name']}" for volume in pod["volumes"] if not set(volume) - {"name"} <= allowed]
    whole = pod.get("securityContext", {})
    found += [f"pod.{field}" for field in ("sysctls", "windowsOptions", "seLinuxOptions") if whole.get(field)]
    found += ["pod.runAsUser"] if whole.get("runAsUser") == 0 else []
    for container in pod["initContainers"] + pod["containers"]:
        name, own = container["name"], container.get("securityContext", {})
        found += [f"{name}.hostPort" for port in container.get("ports", []) if port.get("hostPort")]
        found += [f"{name}.{field}" for field in ("privileged", "windowsOptions", "seLinuxOptions") if own.get(field)]
        found += [f"{name}.procMount"] if own.get("procMount", "Default") != "Default" else []
        found += [f"{name}.allowPrivilegeEscalation"] if own.get("allowPrivilegeEscalation") is not False else []
        found += [f"{name}.runAsNonRoot"] if own.get("runAsNonRoot", whole.get("runAsNonRoot")) is not True else []
        found += [f"{name}.runAsUser"] if own.get("runAsUser") == 0 else []
        profile = own.get("seccompProfile", whole.get("seccompProfile", {})).get("type")
        found += [f"{name}.seccompProfile"] if profile not in ("RuntimeDefault", "Localhost") else []
        capabilities = own.get("capabilities", {})
        found += [f"{name}.capabilities.drop"] if "ALL" not in capabilities.get("drop", []) else []
        found += [f"{name}.capabilities.add"] if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"} else []
    return found


@pytest.mark.parametrize("told", [{}, EVERYTHING], ids=["default", "everything"])
def test_every_pod_is_restricted(told, compiled):
    found = compiled(**told)
    assert len(found.kubernetes) == 15
    for name, said in found.kubernetes.items():
        assert violations(pod(said, found.containers[name])) == [], name


@pytest.mark.parametrize("told", [{}, EVERYTHING], ids=["default", "everything"])
def test_volumes_have_names_and_places_of_their_own(told, compiled):
    """KFP's scratch volumes among them."""
    for name, said in compiled(**told).kubernetes.items():
        made = pod(said, compiled(**told).containers[name])
        names, places = (
            [volume["name"] for volume in made["volumes"]],
            [mount["mountPath"] for mount in made["containers"][1]["volumeMounts"]],
        )
        assert len(set(names)) == len(names)
        assert len(set(places)) == len(places)
        assert not set(places) & {"/gcs", "/s3", "/minio", "/.local", "/.cache", "/.config", "/kfp-launcher"}


@pytest.mark.parametrize(
    ("own", "says"),
    [
        ({"runAsUser": "0"}, "main.runAsUser"),
        ({"runAsNonRoot": False}, "main.runAsNonRoot"),
        ({"allowPrivilegeEscalation": True}, "main.allowPrivilegeEscalation"),
        ({"capabilities": {}}, "main.capabilities.drop"),
        ({"seccompProfile": {"type": "Unconfined"}}, "main.seccompProfile"),
    ],
)
def test_what_a_pipeline_says_against_it_would_be_found(own, says, compiled):
    """Over what KFP adds."""
    found = compiled()
    said = copy.deepcopy(found.of("train", "kubernetes"))
    said["securityContext"] |= own
    assert violations(pod(said, found.of("train", "containers"))) == [says]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda pod: pod.update(hostNetwork=True), "hostNetwork"),
        (lambda pod: pod["volumes"].append({"name": "host", "hostPath": {"path": "/"}}), "volume host"),
        (lambda pod: pod["containers"][1]["securityContext"].update(runAsUser=0), "main.runAsUser"),
        (lambda pod: pod["containers"][1]["securityContext"].pop("runAsNonRoot"), "main.runAsNonRoot"),
        (lambda pod: pod["containers"][1]["securityContext"].pop("allowPrivilegeEscalation"), "main.allowPrivilegeEscalation"),
        (lambda pod: pod["containers"][1]["securityContext"].update(capabilities={"drop": ["NET_RAW"]}), "main.capabilities.drop"),
        (
            lambda pod: pod["containers"][1]["securityContext"].update(capabilities={"drop": ["ALL"], "add": ["SYS_PTRACE"]}),
            "main.capabilities.add",
        ),
        (lambda pod: pod["containers"][1]["securityContext"].update(seccompProfile={"type": "Unconfined"}), "main.seccompProfile"),
        (lambda pod: pod["containers"][1]["securityContext"].update(privileged=True), "main.privileged"),
        (lambda pod: pod["initContainers"][1]["securityContext"].pop("runAsNonRoot"), "kfp-launcher.runAsNonRoot"),
    ],
)
def test_what_is_not_restricted_would_be_found(change, says, compiled):
    made = copy.deepcopy(pod(compiled().of("train", "kubernetes"), compiled().of("train", "containers")))
    change(made)
    assert violations(made) == [says]
