"""What a round is told: strict models, loaded from YAML, printed and saved beside what they produced."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from apportion import __version__
from apportion.errors import ConfigError

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Hours = Annotated[float, Field(gt=0, le=24 * 365)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(gt=0, lt=1)]

CREDENTIALS = {
    "http": "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    "https": "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or another link of the AWS credential chain",
}
"""By scheme of an address: where its credentials belong."""

AWS_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
MLFLOW_CREDENTIALS = ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")

SECRET = re.compile(
    r"([?&;](?:user|pwd|[\w-]*(?:passw(?:or)?d|token|credential|sig(?:nature)?)|[\w-]*(?:secret|access_?key)[\w-]*)=)[^&;\s'\"]*",
    re.IGNORECASE,
)
"""A parameter of an address's query that tells a user or a password, as drivers of databases and signed addresses have them."""


def _without_credentials(address: str) -> str:
    """A configuration is stored with its round, shown and tracked, so nothing secret may be in it."""
    parts = urlsplit(address)
    if parts.scheme and ("@" in parts.netloc or SECRET.search(f"?{parts.query}")):
        place = CREDENTIALS.get(parts.scheme, "what the driver reads, as PGUSER and PGPASSWORD for PostgreSQL")
        raise ValueError(f"found a user or a password in an address, expected none, as it is stored with the round; use {place}")
    return address


def masked(text: str) -> str:
    """Without what stands before the host in the addresses of a text, without what in their queries is secret, and without the
    credentials of the environment, which the errors of libraries may show."""
    for name in (*AWS_CREDENTIALS, *MLFLOW_CREDENTIALS, "KFP_TOKEN"):
        value = os.environ.get(name, "").strip()
        # A name or a plain word is no secret to keep, but part of what a message says: minio, mlflow, test.
        if len(value) >= (16 if name.endswith(("_ID", "_USERNAME")) else 6) and not re.fullmatch("[A-Za-z]{1,11}", value):
            text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", "***", text)
    return SECRET.sub(r"\1***", re.sub(r"://[^/\s]+@", "://***@", text))


def unsendable(names: Iterable[str]) -> str | None:
    """What is wrong with a credential of the environment that no header of HTTP takes: to be refused before a library shows it."""
    for name in names:
        # Sent as base64, blanks and letters of any script too, or not at all: what signs is no part of what is signed.
        encoded = name.endswith(("USERNAME", "PASSWORD", "SECRET_ACCESS_KEY"))
        value = os.environ.get(name, "")
        surrounded = name.endswith("_KEY") and value != value.strip()
        if surrounded or not re.fullmatch(r"[^\x00-\x1f\x7f]*" if encoded else r"[\x21-\x7e]*", value):
            return (
                f"found a line break, a blank or another sign that HTTP cannot send in {name}: a Secret made from `echo` ends in a line "
                f"break; make it again with `echo -n` or `kubectl create secret generic … --from-literal={name}=…`"
            )
    return None


Address = Annotated[str, AfterValidator(_without_credentials)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class OpenMoji(Strict):
    """The embedded drawings; `contributors` is how many designers (by number of drawings) or their names."""

    source: Literal["openmoji"]
    contributors: Annotated[int, Field(ge=2)] | list[str] = 12
    resolution: Literal[16, 32] = 16
    min_images: Count = 8


class Folder(Strict):
    """A user's own images: one sub-folder per contributor, or a CSV or parquet manifest `path,contributor[,label][,joined]`."""

    source: Literal["folder"]
    path: str
    resolution: Annotated[int, Field(ge=8, le=1024)]
    resize: Literal["refuse", "crop"] = "refuse"
    flip: bool = True
    min_images: Count = 8


class Model(Strict):
    """The U-Net: channels per level (coarser to the right), layers per block, which levels attend."""

    channels: list[Count] = [32, 64, 64]
    layers_per_block: Count = 1
    attention: list[bool] = [False, False, False]
    attention_head_dim: Count = 8
    norm_groups: Count = 16

    @model_validator(mode="after")
    def _levels(self) -> "Model":
        if len(self.attention) != len(self.channels):
            raise ValueError(f"found {len(self.attention)} entries in attention, expected one per level of channels ({len(self.channels)})")
        odd = [width for width in self.channels if width % self.norm_groups]
        if odd:
            raise ValueError(f"found channels {odd}, expected multiples of norm_groups ({self.norm_groups})")
        attending = [width for width, attends in zip(self.channels, self.attention, strict=True) if attends] + self.channels[-1:]
        if not attending or min(attending) < self.attention_head_dim:  # the last level always attends, in the middle of the U-Net
            raise ValueError(f"found channels {attending} that attend, expected at least attention_head_dim ({self.attention_head_dim})")
        return self


class Fitting(Strict):
    """One run of the training loop."""

    steps: Count
    lr: Rate
    batch: Count = 64
    schedule: Literal["constant", "cosine", "one_cycle"] = "constant"
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    beta2: Share = 0.999
    weighting: Literal["uniform", "p2"] = "uniform"


class Pruning(Strict):
    """Structured pruning of the base model and its re-tuning on all data."""

    ratio: Share
    importance: Literal["magnitude", "random"] = "magnitude"
    retune: Fitting


class Removal(Strict):
    """How the model of a coalition is obtained (METHODS.md, section 1)."""

    method: Literal["retrain", "finetune", "sparsified_finetune"]
    fitting: Fitting | None = None
    pruning: Pruning | None = None

    @model_validator(mode="after")
    def _parts(self) -> "Removal":
        needs = {"retrain": set(), "finetune": {"fitting"}, "sparsified_finetune": {"fitting", "pruning"}}[self.method]
        has = {part for part in ("fitting", "pruning") if getattr(self, part) is not None}
        if needs != has:
            raise ValueError(f"found {sorted(has) or 'nothing'} beside method {self.method!r}, expected {sorted(needs) or 'nothing'}")
        return self


class Sampling(Strict):
    """Generated images per coalition, by deterministic DDIM."""

    images: Annotated[int, Field(ge=32)] = 256
    steps: Annotated[int, Field(ge=1, le=1000)] = 20
    batch: Count = 256

    @field_validator("steps")
    @classmethod
    def _even(cls, steps: int) -> int:
        if 1000 % steps:  # DDIM would go down by less than the whole way, and end where some noise is left
            near = sorted((d for d in range(1, 1001) if 1000 % d == 0), key=lambda d: (abs(d - steps), d))[:2]
            raise ValueError(f"found {steps}, expected a divisor of the 1000 timesteps, such as {near[0]} or {near[1]}")
        return steps


Method = Literal[
    "tree_residual", "leverage", "multifidelity", "banzhaf", "beta_shapley", "loo", "aoi", "datamodel", "kernelshap"
]  # fmt: skip
OF_DESIGN: dict[str, tuple[Method, ...]] = {
    "leverage": ("tree_residual", "leverage", "banzhaf", "beta_shapley"),
    "shapley_kernel": ("kernelshap",),
}
"""Methods that are right for a design only, whose probabilities they know; without `valuation.methods` they are what is computed."""


class Datamodel(Strict):
    """Coalitions of one size for the `datamodel` method."""

    coalitions: Annotated[int, Field(ge=3)]
    alpha: Share = 0.5


class Exact(Strict):
    """The first coalitions of the design are retrained too, and everybody and nobody: credits for retraining (`multifidelity`)."""

    coalitions: Annotated[int, Field(ge=16, multiple_of=2)]
    endpoint_seeds: Annotated[int, Field(ge=2)] = 3


class Stop(Strict):
    """When to stop topping a round up: each run of `plan` goes on to the next of `looks`, a number of coalitions, until `rule` holds
    for all `properties` (all that are measured, where none is named). The rules are those of `valuation.sequential`."""

    looks: Annotated[list[Annotated[int, Field(ge=2, multiple_of=2)]], Field(min_length=2, max_length=20)]
    rule: Literal["width", "share", "top_set", "top_order"]
    target: Rate
    properties: list[str] = []
    spending: Literal["obrien_fleming", "pocock"] = "obrien_fleming"

    @field_validator("looks")
    @classmethod
    def _grow(cls, looks: list[int]) -> list[int]:
        if any(more <= less for less, more in pairwise(looks)):
            raise ValueError(f"found {looks}, expected numbers of coalitions that grow from look to look")
        return looks


class Valuation(Strict):
    """Which coalitions are evaluated and how their values become credits."""

    design: Literal["leverage", "shapley_kernel"] = "leverage"
    coalitions: Annotated[int, Field(ge=2)] = 48
    methods: Annotated[list[Method], Field(min_length=1)] | None = None
    beta: Annotated[list[Rate], Field(min_length=2, max_length=2)] = [4.0, 4.0]
    datamodel: Datamodel | None = None
    exact: Exact | None = None
    stop: Stop | None = None
    interactions: bool = False
    endpoint_seeds: Annotated[int, Field(ge=2)] = 3
    stated_v0: dict[str, float] = {}
    level: Share = 0.95
    seed: Seed = 0

    @property
    def chosen(self) -> tuple[Method, ...]:
        """The methods that are computed; credits by the first are published."""
        if self.methods is not None:
            return tuple(self.methods)
        return OF_DESIGN[self.design] + (("multifidelity",) if self.exact else ()) + (("datamodel",) if self.datamodel else ())

    @model_validator(mode="after")
    def _fits(self) -> "Valuation":
        chosen, others = self.chosen, {name for design, names in OF_DESIGN.items() if design != self.design for name in names}
        if wrong := [name for name in chosen if name in others]:
            raise ValueError(f"found methods {wrong} beside design {self.design!r}, expected {list(OF_DESIGN[self.design])} or baselines")
        if len(set(chosen)) < len(chosen):
            raise ValueError(f"found methods {list(chosen)}, expected each once")
        for name, section in (("multifidelity", "exact"), ("datamodel", "datamodel")):
            if (name in chosen) != (getattr(self, section) is not None):
                raise ValueError(f"found only one of method {name!r} and valuation.{section}, expected both or neither")
        if chosen == ("multifidelity",):
            raise ValueError("found no method but 'multifidelity', expected another: a property whose pilot says no has no credits by it")
        for section in ("exact", "stop", "interactions"):
            if getattr(self, section) and self.design != "leverage":
                raise ValueError(f"found valuation.{section} beside design {self.design!r}, expected design 'leverage'")
        if self.stop and self.stop.looks[-1] != self.coalitions:
            raise ValueError(
                f"found valuation.stop.looks up to {self.stop.looks[-1]}, expected the last to be coalitions ({self.coalitions})"
            )
        if self.exact and self.exact.coalitions > (self.stop.looks[0] if self.stop else self.coalitions):
            raise ValueError(f"found {self.exact.coalitions} coalitions in valuation.exact, expected at most those of the design")
        return self


class Counterfactual(Strict):
    """Removal of the top contributors of one property, against removal of as many random ones, in one of the two games."""

    property: str
    game: Literal["credit", "truth"] = "truth"
    share: Share = 0.4
    seeds: Count = 1
    random: Count = 1


class Evaluation(Strict):
    """Retrained models that the credits are judged by: `held_out` coalitions of each size share in `alphas`; zero switches it off."""

    held_out: Annotated[int, Field(ge=0)] = 0
    alphas: Annotated[list[Share], Field(min_length=1)] = [0.5]
    threshold: Annotated[float, Field(ge=-1, le=1)] = 0.5
    counterfactual: Counterfactual | None = None
    seed: Seed = 1000

    @model_validator(mode="after")
    def _once(self) -> "Evaluation":
        twice = sorted({alpha for alpha in self.alphas if self.alphas.count(alpha) > 1})
        if twice:
            raise ValueError(f"found {', '.join(map(str, twice))} more than once in alphas, expected each share once")
        return self


class Tracking(Strict):
    """MLflow; null switches it off."""

    uri: Address | None = "sqlite:///{workdir}/mlflow.db"
    artifacts: Address | None = "{workdir}/artifacts"
    experiment: Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)] = "apportion"


class Compute(Strict):
    """Where the arithmetic runs. The precision is settled when a round is planned and is part of its game; the device, by each process."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    shards: Annotated[int, Field(ge=1, le=64)] = 2
    threads: Count = 1
    base_threads: Count = 2


# Where and how a cluster runs it: nothing of this is what a round is told


def _matching(pattern: str, expected: str) -> AfterValidator:
    """A text of one form. What was found is shown once, by whoever shows the error."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"expected {expected}")
        return text

    return AfterValidator(check)


def _number_as_text(value: Any) -> Any:
    """YAML reads `cpu: 4` as a number, and Kubernetes means the same by both."""
    return f"{value}" if isinstance(value, int | float) and not isinstance(value, bool) else value


def _no_credential(name: str) -> str:
    """What lies in a file or a key's own name may be told; `MLFLOW_TRACKING_TOKEN` may not."""
    if CREDENTIAL.search(name) and not name.endswith(("_FILE", "_PATH")):
        raise ValueError("expected no credential, as this is part of the compiled pipeline; use cluster.secrets")
    return name


def _no_credential_inside(value: str) -> str:
    try:
        return _without_credentials(value)
    except ValueError as error:
        raise ValueError(
            "expected no user or password in an address, as this is part of the compiled pipeline; use cluster.secrets"
        ) from error


CREDENTIAL = re.compile(r"SECRET|TOKEN|PASSW|CREDENTIAL|PRIVATE_?KEY|ACCESS_?KEY|API_?KEY", re.IGNORECASE)
"""A part of a variable's name that says its value opens something."""

Label = Annotated[str, _matching(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", "lower-case letters, digits and '-', at most 63")]
Subdomain = Annotated[str, _matching(r"(?=.{1,253}$)[a-z0-9]([a-z0-9.-]*[a-z0-9])?", "lower-case letters, digits, '-' and '.'")]
LabelKey = Annotated[
    str,
    _matching(
        r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?",
        "the key of a label, as pool or example.com/pool",
    ),
]
LabelValue = Annotated[
    str,
    _matching(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?", "the value of a label: letters, digits, '-', '_' and '.', at most 63"),
]
Variable = Annotated[str, _matching(r"[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable")]
Plain = Annotated[Variable, AfterValidator(_no_credential)]
Value = Annotated[str, AfterValidator(_no_credential_inside)]
Key = Annotated[str, _matching(r"[A-Za-z0-9._-]{1,253}", "a key: letters, digits, '-', '_' and '.'")]
Cpu = Annotated[
    str,
    BeforeValidator(_number_as_text),
    _matching(r"(?![0.]+m?$)([0-9]+m|[0-9]+(\.[0-9]{1,3})?)", "a number of processors greater than 0, as 4, 0.5 or 500m"),
]
Bytes = Annotated[str, _matching(r"[1-9][0-9]*(Ki|Mi|Gi|Ti|M|G|T)", "a number of bytes with its unit, as 512Mi or 4Gi")]
Image = Annotated[
    str,
    _matching(
        r"[a-z0-9][a-z0-9._-]*(:[0-9]+)?(/[a-z0-9._-]+)*((:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?@sha256:[0-9a-f]{64}|:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})",
        "an image with its tag or, in releases, its digest, as registry/apportion-cpu:0.1.0",
    ),
]

Stage = Literal["plan", "train", "prune", "finetune", "sample", "score", "attribute", "evaluate", "publish", "close"]
WORKERS: tuple[Stage, ...] = ("train", "prune", "finetune", "sample", "score")
"""Stages that compute with models: on pool `gpu`, where their own option does not say otherwise. The others are on pool `cpu`."""


class Images(Strict):
    """What the pods run: `gpu` where the pool of the stage has accelerators, else `cpu`."""

    cpu: Image = f"apportion/cpu:{__version__}"
    gpu: Image = f"apportion/gpu:{__version__}"


class Secret(Strict):
    """Variables from the keys of a Secret; without `optional` no pod starts before it is there."""

    name: Subdomain
    env: Annotated[dict[Variable, Key], Field(min_length=1)]
    optional: bool = False


class Authority(Strict):
    """A certificate authority of one's own, a key of a ConfigMap."""

    config_map: Label
    key: Key = "ca.crt"


OURS = (
    *("/work", "/tmp", "/dev", "/etc", "/opt/apportion", "/proc", "/sys", "/run", "/var/run", "/usr", "/bin", "/sbin", "/lib", "/lib64"),  # noqa: S108
    *("/root", "/kfp-launcher", "/gcs", "/s3", "/minio"),
)
"""Folders of a pod: the image's, and those that KFP mounts."""
TAKEN = ("work", "tmp", "shm", "kfp-launcher")
"""Volumes that a pod has already."""


def _free(path: str) -> str:
    """A folder that hides nothing a pod needs."""
    if (
        path == "/"
        or "/." in path
        or "//" in path
        or any(path == own or path.startswith(own + "/") or own.startswith(path + "/") for own in OURS)
    ):
        raise ValueError(f"found {path}, expected a folder of its own, as /data: neither above nor below {', '.join(OURS)}")
    return path


class Volume(Strict):
    """A PersistentVolumeClaim of the runs' namespace, with the images or the network that `plan` reads."""

    claim: Label
    path: Annotated[str, _matching(r"/[A-Za-z0-9._/-]*[A-Za-z0-9]", "an absolute path, as /data"), AfterValidator(_free)]


class Toleration(Strict):
    """As in a pod."""

    key: LabelKey | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: LabelValue | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None

    @model_validator(mode="after")
    def _says_what(self) -> "Toleration":
        if (self.operator == "Exists") != (self.value is None) or (self.key is None and self.operator == "Equal"):
            raise ValueError("expected operator Exists without a value, or Equal with a key and a value")
        return self


class Pool(Strict):
    """Nodes and what a pod asks of one. The memory asked for is the limit too; `shm` is shared memory, which counts as memory."""

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
            raise ValueError(f"found accelerator {self.accelerator} and accelerators {self.accelerators}, expected both or neither")
        if self.cpu_limit is not None and quantity(self.cpu_limit) < quantity(self.cpu):
            raise ValueError(f"found cpu_limit {self.cpu_limit}, expected at least cpu ({self.cpu})")
        if self.shm is not None and quantity(self.shm) >= quantity(self.memory):
            raise ValueError(f"found shm {self.shm}, expected less than memory ({self.memory}), which it is a part of")
        return self


UNITS = {"m": 1e-3, "": 1, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def quantity(text: str) -> float:
    """A quantity of Kubernetes as a number."""
    number = text.rstrip("mMGTKi")
    return float(number) * UNITS[text[len(number) :]]


class OfStage(Strict):
    """What a stage has otherwise than its pool and the cluster."""

    pool: str | None = None
    cpu: Cpu | None = None
    memory: Bytes | None = None
    retries: Annotated[int, Field(ge=0, le=20)] | None = None
    timeout: Hours | None = None


CRON = (("second", 0, 59), ("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("day of the week", 0, 6))
NAMES = {name: number for number, name in enumerate(["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"])} | {
    name: number for number, name in enumerate(["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"], 1)
}


def _six_fields(cron: str) -> str:
    """KFP's cron, which begins with seconds: one field less is the usual mistake, and runs at other times than it says."""
    fields = cron.split()
    if len(fields) != len(CRON):
        raise ValueError(f"found {len(fields)} fields, expected 6: KFP's cron begins with seconds, as in 0 0 3 * * * for three every night")
    for field, (name, low, high) in zip(fields, CRON, strict=True):
        for part in field.split(","):
            found = re.fullmatch(r"(?:[*?]|(\w+)(?:-(\w+))?)(?:/([1-9][0-9]*))?", part)
            ends = [NAMES.get(end.upper(), int(end) if end.isdecimal() else -1) for end in (found[1], found[2]) if end] if found else [-1]
            if ends != sorted(ends) or not all(low <= end <= high for end in ends):
                raise ValueError(f"found {field!r} for the {name}, expected *, or numbers from {low} to {high} as 5, 1-5, 1,3 or */2")
    return cron


class Kfp(Strict):
    """Kubeflow Pipelines: where it is and how runs and the schedule are filed there. `host` null is KF_PIPELINES_ENDPOINT or, in a
    cluster, the service of the usual installation."""

    host: Annotated[Address, _matching(r"https?://[^/\s?#]+(/[^\s?#]*)?", "http://… or https://…")] | None = None
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
"""What the two pools are where nothing else is said; an option of a pool changes that option alone."""

SECRETS: list[dict[str, Any]] = [
    {"name": "apportion-s3", "env": {"AWS_ACCESS_KEY_ID": "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY": "AWS_SECRET_ACCESS_KEY"}},
    {
        "name": "apportion-mlflow",
        "env": {
            "MLFLOW_TRACKING_USERNAME": "MLFLOW_TRACKING_USERNAME",
            "MLFLOW_TRACKING_PASSWORD": "MLFLOW_TRACKING_PASSWORD",
        },
    },
]


class Cluster(Strict):
    """Pods: what they run, where, with how much, and what they are given."""

    images: Images = Images()
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    pull_secrets: list[Subdomain] = []
    secrets: list[Secret] = [Secret(**secret, optional=True) for secret in SECRETS]
    env: dict[Plain, Value] = {}
    ca: Authority | None = None
    volumes: list[Volume] = []
    pools: dict[Label, Pool] = {name: Pool.model_validate(pool) for name, pool in POOLS.items()}
    stages: dict[Stage, OfStage] = {}
    retries: Annotated[int, Field(ge=0, le=20)] = 2
    timeout: Hours = 24.0
    labels: dict[LabelKey, LabelValue] = {"app.kubernetes.io/part-of": "apportion"}  # what policies of the chart know runs by
    kfp: Kfp = Kfp()

    @field_validator("pools", mode="before")
    @classmethod
    def _over_the_usual(cls, pools: Any) -> Any:
        if not isinstance(pools, dict):
            return pools
        told = {name: {**POOLS.get(name, {}), **pool} if isinstance(pool, dict) else pool for name, pool in pools.items()}
        return {**POOLS, **told}

    @model_validator(mode="after")
    def _known(self) -> "Cluster":
        for name, own in self.stages.items():
            if own.pool is not None and own.pool not in self.pools:
                raise ValueError(f"found pool {own.pool!r} in stages.{name}, expected one of pools: {', '.join(self.pools)}")
            try:
                self.pool(name)
            except ValidationError as error:
                raise ValueError(f"found stages.{name} beside its pool: {error.errors()[0]['msg']}") from error
        given = [name for secret in self.secrets for name in secret.env] + list(self.env)
        if twice := sorted({name for name in given if given.count(name) > 1}):
            raise ValueError(f"found {', '.join(twice)} more than once in secrets and env, expected each variable once")
        named = [*TAKEN, *([self.ca.config_map] if self.ca else []), *(volume.claim for volume in self.volumes)]
        if twice := sorted({name for name in named if named.count(name) > 1}):
            raise ValueError(f"found {', '.join(twice)} in volumes or ca, expected another name: the pod has a volume of that name")
        places = [volume.path for volume in self.volumes]
        if twice := sorted({place for place in places if places.count(place) > 1}):
            raise ValueError(f"found {', '.join(twice)} more than once in volumes, expected a path for each claim")
        return self

    def pool(self, stage: Stage) -> Pool:
        """Where a stage runs, with what the stage asks otherwise."""
        own = self.stages.get(stage, OfStage())
        asked = {name: value for name, value in (("cpu", own.cpu), ("memory", own.memory)) if value is not None}
        name = own.pool or ("gpu" if stage in WORKERS else "cpu")
        return Pool.model_validate({**self.pools[name].model_dump(), **asked})

    def image(self, stage: Stage) -> str:
        return self.images.gpu if self.pool(stage).accelerators else self.images.cpu

    def hours(self, stage: Stage) -> float:
        """How long one attempt of a stage may take."""
        return self.stages.get(stage, OfStage()).timeout or self.timeout

    def attempts(self, stage: Stage) -> int:
        """How often a stage is tried again. `plan` and `close` are not unless their own option says so: what `plan` refuses it would
        refuse again, and says at once."""
        own = self.stages.get(stage, OfStage()).retries
        return (0 if stage in ("plan", "close") else self.retries) if own is None else own


class Config(Strict):
    """Everything a round is told."""

    project: Name
    store: Address = "file://{workdir}/store"
    data: Annotated[OpenMoji | Folder, Field(discriminator="source")]
    model: Model = Model()
    train: Fitting
    removal: Removal
    sampling: Sampling = Sampling()
    properties: Annotated[list[str], Field(min_length=1)]
    network: Address = "openmoji"
    valuation: Valuation = Valuation()
    evaluation: Evaluation = Evaluation()
    tracking: Tracking = Tracking()
    compute: Compute = Compute()
    cluster: Cluster = Field(default=Cluster(), exclude=True)
    seed: Seed = 0

    @model_validator(mode="after")
    def _halves(self) -> "Config":
        levels = len(self.model.channels)
        if self.data.resolution % 2 ** (levels - 1):
            raise ValueError(
                f"found data.resolution {self.data.resolution}, expected a multiple of {2 ** (levels - 1)}: "
                f"each of the {levels} levels of model.channels halves it but the first"
            )
        return self

    @model_validator(mode="after")
    def _cheap(self) -> "Config":
        if self.valuation.exact and self.removal.method == "retrain":
            raise ValueError("found valuation.exact beside removal.method 'retrain', expected a cheap method: retraining is exact itself")
        return self

    def told(self) -> dict[str, Any]:
        """What of this names a round. Where data and network lie does not: the manifest and the games name them by their hashes."""
        return self.model_dump(mode="json", exclude={"store", "data", "tracking", "compute", "network"})


class _Loader(yaml.SafeLoader):
    """Safe YAML that takes 1e-3 for a number, as YAML 1.2 does, and refuses a key given twice."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        keys = [key.value for key, _ in node.value]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise yaml.MarkedYAMLError(
                problem=f"found {twice[0]!r} more than once, expected each option once", problem_mark=node.start_mark
            )
        return node


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789"))


def load(path: Path, overrides: Sequence[str] = (), workdir: Path | None = None) -> Config:
    """Reads a YAML configuration, applies `key.sub=value` overrides and fills `{workdir}` in.

    Raises ConfigError, naming each wrong key with what was found, where the text or an override does not fit the models above.
    """
    try:
        raw = _yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"found {type(raw).__name__} in {path}, expected a mapping of options")
    for override in overrides:
        raw = _override(raw, override)
    config = parse(raw, str(path))
    if workdir is None:
        return config
    filled = _fill(config.model_dump(mode="json"), str(workdir.resolve()))  # a default may name the work folder too
    return parse({**filled, "cluster": raw.get("cluster", {})}, str(path))


def parse(raw: Mapping[str, Any], origin: str) -> Config:
    """Validates a mapping as a Config."""
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        problems = [f"  {_option(e['loc'])}: {e['msg']} (found {masked(repr(e['input'])):.80})" for e in error.errors()]
        raise ConfigError(f"{origin} is not a valid configuration:\n" + "\n".join(problems)) from error


def _yaml(text: str) -> Any:
    """Raises ConfigError where the text is no YAML, or has a tag beside the plain ones."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: PyYAML's own, for the 45th of a month
        raise ConfigError(str(error)) from error


def _option(loc: tuple[int | str, ...]) -> str:
    """The option as the user writes it, without what pydantic adds: the kind of data and the branch of a union."""
    own = loc[:1] + loc[2:] if loc[:1] == ("data",) else loc
    return ".".join(str(part) for part in own if part not in ("constrained-int", "list[str]"))


def _override(raw: dict[str, Any], override: str) -> dict[str, Any]:
    """A copy with one option changed: a section that YAML shares by an anchor changes where it is named and nowhere else."""
    key, equals, value = override.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*", key):
        raise ConfigError(f"found --set {override!r}, expected key.sub=value")
    *parents, last = key.split(".")
    section = whole = dict(raw)
    for parent in parents:
        inner = section.get(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"found --set {override!r}, but {parent!r} is no section")
        section[parent] = dict(inner)
        section = section[parent]
    try:
        section[last] = _yaml(value)
    except ConfigError as error:
        raise ConfigError(f"found --set {override!r}, expected a YAML value: {error}") from error
    return whole


_RESERVED = str.maketrans({mark: f"%{ord(mark):02X}" for mark in "%?#"})  # what would end or change the path of a URI


def _fill(value: Any, workdir: str) -> Any:
    if isinstance(value, dict):
        return {key: _fill(item, workdir) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, workdir) for item in value]
    if not isinstance(value, str):
        return value
    return value.replace("{workdir}", workdir.translate(_RESERVED) if value.startswith(("file:", "sqlite:")) else workdir)


def digest(value: Any) -> str:
    """Hash of a JSON value: 32 hexadecimal digits of SHA-256 over its canonical text."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
