"""Section `removal`: how the model of a coalition is obtained (docs/methods.md, "Games").

A new removal method is a class here, a member of `Removal`, and a row of `diffusion.removal.REMOVALS`
(docs/architecture.md).
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import BeforeValidator, Field

from apportion.config.fitting import Fitting
from apportion.config.strict import Share, Strict


class Member(NamedTuple):
    """A member of a coalition: the hash of its data, and how many samples it has."""

    data: str
    samples: int


class TrainingRun(NamedTuple):
    """One stored set of weights: trained with this seed on the data with these hashes (sorted)."""

    seed: int
    data: tuple[str, ...]


class Part(NamedTuple):
    """A model in a mixture. `run` is None for the model that the game starts from, used as it is."""

    run: TrainingRun | None
    weight: float = 1.0


class Mixture(NamedTuple):
    """What the images of a coalition are sampled from.

    parts: models and their weights, which sum to one. average: whether the weights of the models are
    averaged, which gives one model, or their predictions, which gives an ensemble. conditions: labels or
    captions that images are drawn for, in turn; empty for models without a condition.
    """

    parts: tuple[Part, ...]
    average: Literal["weights", "predictions"] = "weights"
    conditions: tuple[str, ...] = ()


class RemovalOptions(Strict):
    """The options and the behaviour that all removal methods have."""

    method: str
    starts: ClassVar[bool] = True
    """Whether training starts from the base model, or its pruned form, rather than from random weights."""

    @property
    def prune(self) -> "Pruning | None":
        """How the base model is pruned before training starts from it; None where it is not."""
        return None

    def steps(self, train: Fitting | None) -> int:
        """Training steps of one run; `train` is how models are trained from random weights, None where none
        are."""
        raise NotImplementedError

    def mixture(self, seed: int, members: Sequence[Member]) -> Mixture:
        """What the images of a coalition are sampled from; here one model, trained on the data of all
        members."""
        return Mixture((Part(TrainingRun(seed, tuple(sorted(member.data for member in members)))),))


class Pruning(Strict):
    """Structured pruning of the base model, and its re-tuning on all data."""

    ratio: Share
    importance: Literal["magnitude", "random"] = "magnitude"
    retune: Fitting


def _none(value: object) -> None:
    if value is not None:
        raise ValueError("this removal method has no such section, expected none")


Absent = Annotated[None, BeforeValidator(_none)]
"""A section that a removal method does not have. It may be null, so that `--set` can switch a section off."""


class Retrain(RemovalOptions):
    """Training from random weights, with the options of section `train`: the ground truth."""

    method: Literal["retrain"]
    fitting: Absent = None
    pruning: Absent = None
    starts: ClassVar[bool] = False

    def steps(self, train: Fitting | None) -> int:
        if train is None:
            raise ValueError("found no training options, expected those of section train")
        return train.steps


class Finetune(RemovalOptions):
    """Fine-tuning of the base model on the coalition's data."""

    method: Literal["finetune"]
    fitting: Fitting
    pruning: Absent = None

    def steps(self, train: Fitting | None) -> int:  # noqa: ARG002 (only retraining reads it)
        return self.fitting.steps


class SparsifiedFinetune(RemovalOptions):
    """Fine-tuning of the pruned base model on the coalition's data."""

    method: Literal["sparsified_finetune"]
    fitting: Fitting
    pruning: Pruning

    @property
    def prune(self) -> Pruning:
        return self.pruning

    def steps(self, train: Fitting | None) -> int:  # noqa: ARG002 (only retraining reads it)
        return self.fitting.steps


Removal = Annotated[Retrain | Finetune | SparsifiedFinetune, Field(discriminator="method")]
