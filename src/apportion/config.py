"""What a round is told: strict models, loaded from YAML, printed and saved beside what they produced."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from apportion.errors import ConfigError

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(gt=0, lt=1)]

CREDENTIALS = {
    "http": "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    "https": "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or another link of the AWS credential chain",
}
"""By scheme of an address: where its credentials belong."""

SECRET = re.compile(
    r"([?&;](?:user|\w*passw(?:or)?d|pwd|\w*token|\w*secret\w*|access_?key\w*|(?:\w|-)*sig(?:nature)?)=)[^&;\s'\"]*", re.IGNORECASE
)
"""A parameter of an address's query that tells a user or a password, as drivers of databases take them."""


def _without_credentials(address: str) -> str:
    """A configuration is stored with its round, shown and tracked, so nothing secret may be in it."""
    parts = urlsplit(address)
    if parts.scheme and ("@" in parts.netloc or SECRET.search(f"?{parts.query}")):
        place = CREDENTIALS.get(parts.scheme, "what the driver reads, as PGUSER and PGPASSWORD for PostgreSQL")
        raise ValueError(f"found a user or a password in an address, expected none, as it is stored with the round; use {place}")
    return address


def masked(text: str) -> str:
    """Without what stands before the host in the addresses of a text, and without what in their queries is secret."""
    return SECRET.sub(r"\1***", re.sub(r"://[^/\s]+@", "://***@", text))


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
    return parse(_fill(config.model_dump(mode="json"), str(workdir.resolve())), str(path))  # a default may name the work folder too


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
