"""Everything that a round is configured with."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from apportion.config.cluster import Cluster
from apportion.config.compute import ComputeOptions
from apportion.config.credentials import Address
from apportion.config.data import Data
from apportion.config.evaluation import EvaluationOptions
from apportion.config.family import DdpmOptions, Model
from apportion.config.fitting import Fitting
from apportion.config.hashing import identity
from apportion.config.network import NetworkChoice
from apportion.config.removal import Removal, Retrain
from apportion.config.sampling import Sampling
from apportion.config.strict import Name, Seed, Strict
from apportion.config.tracking import TrackingOptions
from apportion.config.valuation import ValuationOptions


class Config(Strict):
    """The configuration of a round, a section a field."""

    project: Name
    store: Address = "file://{workdir}/store"
    data: Data
    model: Model = DdpmOptions()
    train: Fitting
    removal: Removal
    sampling: Sampling = Sampling()
    properties: Annotated[list[str], Field(min_length=1)]
    network: NetworkChoice | None = None
    valuation: ValuationOptions = ValuationOptions()
    evaluation: EvaluationOptions = EvaluationOptions()
    tracking: TrackingOptions = TrackingOptions()
    compute: ComputeOptions = ComputeOptions()
    cluster: Cluster = Field(default=Cluster(), exclude=True)
    seed: Seed = 0

    @model_validator(mode="after")
    def _model_fits(self) -> "Config":
        self.model.check(self.data.resolution, self.sampling)
        return self

    @model_validator(mode="after")
    def _retrains_beside_another_method(self) -> "Config":
        if self.valuation.retrained and isinstance(self.removal, Retrain):
            raise ValueError(
                "found valuation.retrained beside removal.method 'retrain', expected another removal "
                "method: with this one every coalition is retrained"
            )
        if self.valuation.own_images and not self.removal.generates:
            raise ValueError(
                f"found valuation.own_images beside removal.method {self.removal.method!r}, expected another "
                "removal method: with this one every coalition is measured by its own images"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """The part of the configuration that a round's id depends on (see `hashing.identity`). The places of
        data, network and cited evidence are not in it: manifest, games and plan name their contents by
        hash."""
        fields: dict[str, Any] = identity(self)
        elsewhere = ("store", "data", "tracking", "compute", "network")
        kept = {name: value for name, value in fields.items() if name not in elsewhere}
        if "evaluation" in kept:
            kept["evaluation"] = {k: v for k, v in kept["evaluation"].items() if k != "evidence"}
            if not kept["evaluation"]:
                del kept["evaluation"]
        return kept
