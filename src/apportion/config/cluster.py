"""Section `cluster`: images, nodes, resources, environment and volumes of the pods of a pipeline. It does not
change what a round computes, and is not stored with a round."""

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from apportion import __version__
from apportion.config.credentials import Address, without_credentials
from apportion.config.stages import STAGES, Stage
from apportion.config.strict import Hours, Strict, matching

CREDENTIAL = re.compile(r"SECRET|TOKEN|PASSW|CREDENTIAL|PRIVATE_?KEY|ACCESS_?KEY|API_?KEY", re.IGNORECASE)
"""A part of a variable's name which says that its value is a credential."""


def _number_as_text(value: Any) -> Any:
    """YAML reads `cpu: 4` as a number; Kubernetes takes both forms."""
    return f"{value}" if isinstance(value, int | float) and not isinstance(value, bool) else value


def _no_credential(name: str) -> str:
    """The name of a file that holds a credential is fine, as in `…_TOKEN_FILE`; a credential itself is
    not."""
    if CREDENTIAL.search(name) and not name.endswith(("_FILE", "_PATH")):
        raise ValueError(
            "expected no credential, because this is part of the compiled pipeline; use cluster.secrets"
        )
    return name


def _no_credential_inside(value: str) -> str:
    try:
        return without_credentials(value)
    except ValueError as error:
        raise ValueError(
            "expected no user or password in an address, because this is part of the compiled pipeline; use "
            "cluster.secrets"
        ) from error


Label = Annotated[
    str, matching(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", "lower-case letters, digits and '-', at most 63")
]
Subdomain = Annotated[
    str, matching(r"(?=.{1,253}$)[a-z0-9]([a-z0-9.-]*[a-z0-9])?", "lower-case letters, digits, '-' and '.'")
]
LabelKey = Annotated[
    str,
    matching(
        r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?",
        "the key of a label, such as pool or example.com/pool",
    ),
]
LabelValue = Annotated[
    str,
    matching(
        r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?",
        "the value of a label: letters, digits, '-', '_' and '.', at most 63",
    ),
]
Variable = Annotated[str, matching(r"[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable")]
Plain = Annotated[Variable, AfterValidator(_no_credential)]
Value = Annotated[str, AfterValidator(_no_credential_inside)]
Key = Annotated[str, matching(r"[A-Za-z0-9._-]{1,253}", "a key: letters, digits, '-', '_' and '.'")]
Cpu = Annotated[
    str,
    BeforeValidator(_number_as_text),
    matching(
        r"(?![0.]+m?$)([0-9]+m|[0-9]+(\.[0-9]{1,3})?)",
        "a number of processors greater than 0, such as 4, 0.5 or 500m",
    ),
]
Bytes = Annotated[
    str, matching(r"[1-9][0-9]*(Ki|Mi|Gi|Ti|M|G|T)", "a number of bytes with its unit, such as 512Mi or 4Gi")
]
Image = Annotated[
    str,
    matching(
        r"[a-z0-9][a-z0-9._-]*(:[0-9]+)?(/[a-z0-9._-]+)*"
        r"((:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?@sha256:[0-9a-f]{64}|:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})",
        "an image with its tag or, in releases, its digest, such as registry/apportion-cpu:0.1.0",
    ),
]


class ContainerImages(Strict):
    """The image of a stage is `gpu` where its pool has accelerators, else `cpu`."""

    cpu: Image = f"apportion/cpu:{__version__}"
    gpu: Image = f"apportion/gpu:{__version__}"


class Secret(Strict):
    """Variables from the keys of a Secret. Without `optional`, no pod starts while the Secret is missing."""

    name: Subdomain
    env: Annotated[dict[Variable, Key], Field(min_length=1)]
    optional: bool = False


class Authority(Strict):
    """A certificate authority, as a key of a ConfigMap."""

    config_map: Label
    key: Key = "ca.crt"


RESERVED_FOLDERS = (
    *("/work", "/tmp", "/dev", "/etc", "/opt/apportion", "/proc", "/sys", "/run", "/var/run"),  # noqa: S108
    *("/usr", "/bin", "/sbin", "/lib", "/lib64", "/root", "/kfp-launcher", "/gcs", "/s3", "/minio"),
)
"""Folders of a pod that belong to the image, or that KFP mounts."""
RESERVED_VOLUMES = ("work", "tmp", "shm", "kfp-launcher")
"""Names of volumes that every pod has."""


def _free(path: str) -> str:
    """The path. Raises ValueError where a volume there would hide a folder that a pod needs."""
    overlaps = any(
        path == folder or path.startswith(folder + "/") or folder.startswith(path + "/")
        for folder in RESERVED_FOLDERS
    )
    if path == "/" or "/." in path or "//" in path or overlaps:
        raise ValueError(
            f"found {path}, expected a separate folder, such as /data: neither above nor below "
            f"{', '.join(RESERVED_FOLDERS)}"
        )
    return path


class Volume(Strict):
    """A PersistentVolumeClaim of the runs' namespace, with the images or the network that `plan` reads."""

    claim: Label
    path: Annotated[
        str,
        matching(r"/[A-Za-z0-9._/-]*[A-Za-z0-9]", "an absolute path, such as /data"),
        AfterValidator(_free),
    ]


class Toleration(Strict):
    """As in the specification of a pod."""

    key: LabelKey | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: LabelValue | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None

    @model_validator(mode="after")
    def _complete(self) -> "Toleration":
        if (self.operator == "Exists") != (self.value is None) or (
            self.key is None and self.operator == "Equal"
        ):
            raise ValueError("expected operator Exists without a value, or Equal with a key and a value")
        return self


class Pool(Strict):
    """Nodes, and the resources that a pod requests of a node. The requested memory is also the limit; `shm`
    is shared memory, which is part of the memory."""

    cpu: Cpu = "1"
    cpu_limit: Cpu | None = None
    memory: Bytes = "4Gi"
    accelerator: LabelKey | None = None
    accelerators: Annotated[int, Field(ge=0)] = 0
    node_selector: dict[LabelKey, LabelValue] = {}
    tolerations: list[Toleration] = []
    shm: Bytes | None = None

    @model_validator(mode="after")
    def _fits(self) -> "Pool":
        if (self.accelerator is None) != (self.accelerators == 0):
            raise ValueError(
                f"found accelerator {self.accelerator} and accelerators {self.accelerators}, expected both "
                "or neither"
            )
        if self.cpu_limit is not None and quantity(self.cpu_limit) < quantity(self.cpu):
            raise ValueError(f"found cpu_limit {self.cpu_limit}, expected at least cpu ({self.cpu})")
        if self.shm is not None and quantity(self.shm) >= quantity(self.memory):
            raise ValueError(
                f"found shm {self.shm}, expected less than memory ({self.memory}), which it is a part of"
            )
        return self


UNITS = {"m": 1e-3, "": 1, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def quantity(text: str) -> float:
    """A quantity of Kubernetes, such as 500m or 4Gi, as a number."""
    number = text.rstrip("mMGTKi")
    return float(number) * UNITS[text[len(number) :]]


class StageOptions(Strict):
    """What is different for one stage from its pool and from the other options of `cluster`."""

    pool: str | None = None
    cpu: Cpu | None = None
    memory: Bytes | None = None
    retries: Annotated[int, Field(ge=0, le=20)] | None = None
    timeout: Hours | None = None


CRON = (
    ("second", 0, 59),
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day", 1, 31),
    ("month", 1, 12),
    ("day of the week", 0, 6),
)
DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
NAMES = {name: number for number, name in enumerate(DAYS)} | {
    name: number for number, name in enumerate(MONTHS, 1)
}


def _six_fields(cron: str) -> str:
    """The cron, in KFP's form, which begins with seconds. A cron of five fields is a common mistake: its runs
    would start at other times than intended."""
    fields = cron.split()
    if len(fields) != len(CRON):
        example = f"write '0 {cron}'" if len(fields) == 5 else "as in '0 0 3 * * *' for three every night"
        raise ValueError(
            f"found {len(fields)} fields, expected 6: KFP's cron begins with seconds; {example} (times are "
            "UTC)"
        )
    for field, (name, low, high) in zip(fields, CRON, strict=True):
        if not all(_in_range(part, low, high) for part in field.split(",")):
            raise ValueError(
                f"found {field!r} for the {name}, expected *, or numbers from {low} to {high} such as 5, "
                "1-5, 1,3 or */2"
            )
    return cron


def _in_range(part: str, low: int, high: int) -> bool:
    """Whether a part of a cron field is *, a number or a range, from `low` to `high`, and optionally a
    step."""
    match = re.fullmatch(r"(?:[*?]|(\w+)(?:-(\w+))?)(?:/([1-9][0-9]*))?", part)
    if match is None:
        return False
    texts = [text for text in (match[1], match[2]) if text]
    numbers = [NAMES.get(text.upper(), int(text) if text.isdecimal() else -1) for text in texts]
    return numbers == sorted(numbers) and all(low <= number <= high for number in numbers)


class Kfp(Strict):
    """Kubeflow Pipelines: its address, and the namespace, experiment and names of runs and of the schedule. A
    `host` of null is KF_PIPELINES_ENDPOINT or, in a cluster, the service of the usual installation."""

    host: Annotated[Address, matching(r"https?://[^/\s?#]+(/[^\s?#]*)?", "http://… or https://…")] | None = (
        None
    )
    namespace: Label | None = None
    experiment: Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)] = "apportion"
    service_account: Subdomain | None = None
    cron: Annotated[str, AfterValidator(_six_fields)] = "0 0 3 * * *"
    schedule: Label | None = None


POOLS: dict[str, dict[str, Any]] = {
    "cpu": {},
    "gpu": {
        "cpu": "4",
        "memory": "16Gi",
        "accelerator": "nvidia.com/gpu",
        "accelerators": 1,
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "shm": "2Gi",
    },
}
"""The two pools by default. An option of a pool in a configuration changes that option alone."""

SECRETS: list[dict[str, Any]] = [
    {
        "name": "apportion-s3",
        "env": {"AWS_ACCESS_KEY_ID": "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY": "AWS_SECRET_ACCESS_KEY"},
    },
    {
        "name": "apportion-mlflow",
        "env": {
            "MLFLOW_TRACKING_USERNAME": "MLFLOW_TRACKING_USERNAME",
            "MLFLOW_TRACKING_PASSWORD": "MLFLOW_TRACKING_PASSWORD",
        },
    },
]


class Cluster(Strict):
    """The options of section `cluster`: pods, and Kubeflow Pipelines."""

    images: ContainerImages = ContainerImages()
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    pull_secrets: list[Subdomain] = []
    secrets: list[Secret] = [Secret(**secret, optional=True) for secret in SECRETS]
    env: dict[Plain, Value] = {}
    ca: Authority | None = None
    volumes: list[Volume] = []
    pools: dict[Label, Pool] = {name: Pool.model_validate(pool) for name, pool in POOLS.items()}
    stages: dict[Stage, StageOptions] = {}
    retries: Annotated[int, Field(ge=0, le=20)] = 2
    timeout: Hours = 24.0
    # The chart's network policies select the pods of runs by this label.
    labels: dict[LabelKey, LabelValue] = {"app.kubernetes.io/part-of": "apportion"}
    kfp: Kfp = Kfp()

    @field_validator("pools", mode="before")
    @classmethod
    def _over_defaults(cls, pools: Any) -> Any:
        if not isinstance(pools, dict):
            return pools
        merged = {
            name: {**POOLS.get(name, {}), **pool} if isinstance(pool, dict) else pool
            for name, pool in pools.items()
        }
        return {**POOLS, **merged}

    @model_validator(mode="after")
    def _consistent(self) -> "Cluster":
        for name, options in self.stages.items():
            if options.pool is not None and options.pool not in self.pools:
                raise ValueError(
                    f"found pool {options.pool!r} in stages.{name}, expected one of pools: "
                    f"{', '.join(self.pools)}"
                )
            try:
                self.pool(name)
            except ValidationError as error:
                raise ValueError(
                    f"found stages.{name} that does not fit its pool: {error.errors()[0]['msg']}"
                ) from error
        variables = [name for secret in self.secrets for name in secret.env] + list(self.env)
        if repeated := _repeated(variables):
            raise ValueError(
                f"found {repeated} more than once in secrets and env, expected each variable once"
            )
        volumes = [*RESERVED_VOLUMES, *(volume.claim for volume in self.volumes)]
        if self.ca:
            volumes.append(self.ca.config_map)
        if repeated := _repeated(volumes):
            raise ValueError(
                f"found {repeated} in volumes or ca, expected another name: the pod has a volume of that name"
            )
        if repeated := _repeated([volume.path for volume in self.volumes]):
            raise ValueError(f"found {repeated} more than once in volumes, expected a path for each claim")
        return self

    def pool_name(self, stage: str) -> str:
        """The name of the pool that a stage runs on."""
        options = self.stages.get(stage, StageOptions())
        return options.pool or ("gpu" if STAGES[stage].accelerated else "cpu")

    def pool(self, stage: str) -> Pool:
        """Where a stage runs and what it requests there: its pool, changed by the options of the stage."""
        options = self.stages.get(stage, StageOptions())
        requests = {
            name: value for name, value in (("cpu", options.cpu), ("memory", options.memory)) if value
        }
        return Pool.model_validate({**self.pools[self.pool_name(stage)].model_dump(), **requests})

    def image(self, stage: str) -> str:
        """The container image that a stage runs."""
        return self.images.gpu if self.pool(stage).accelerators else self.images.cpu

    def hours(self, stage: str) -> float:
        """How long one attempt of a stage may take."""
        return self.stages.get(stage, StageOptions()).timeout or self.timeout

    def retries_of(self, stage: str) -> int:
        """How often a stage is retried. `plan` and `close` are not, unless their own option says so: a second
        attempt of `plan` would refuse the same input, and the user should see the error at once."""
        retries = self.stages.get(stage, StageOptions()).retries
        if retries is not None:
            return retries
        return 0 if STAGES[stage].phase in ("plan", "exit") else self.retries


def _repeated(names: list[str]) -> str:
    """The names that occur more than once, as text; empty where none does."""
    return ", ".join(sorted({name for name in names if names.count(name) > 1}))
