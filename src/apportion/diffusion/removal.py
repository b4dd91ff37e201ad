"""Removal methods: how weights are made for a coalition (docs/methods.md, "Games"). One table, one signature;
their options, and the choice of weights that a coalition's images are sampled from, are in
`apportion.config.removal`."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from apportion.config.removal import Experts, Finetune, SparsifiedFinetune
from apportion.diffusion.compute import Compute
from apportion.diffusion.family import Family, family_of
from apportion.diffusion.images import TrainingImages
from apportion.diffusion.train import fit
from apportion.progress import Ticker
from apportion.records import Recipe


@dataclass(frozen=True)
class Case:
    """One set of weights to make: by which recipe, from which model (None: random weights), on which
    images."""

    recipe: Recipe
    start: nn.Module | None
    kept: TrainingImages
    seed: int
    compute: Compute
    tick: Ticker | None = None

    @property
    def family(self) -> Family:
        return family_of(self.recipe.model)

    def untrained(self) -> nn.Module:
        """A model with random weights."""
        return self.family.build(self.recipe.model, self.recipe.resolution, self.seed).eval()


def retrain(case: Case) -> nn.Module:
    """Trains from random weights on the kept images: the ground truth."""
    if case.recipe.train is None:
        raise ValueError("found no training options in the recipe, expected those of section train")
    train = case.recipe.train
    return fit(case.family, case.untrained(), case.kept, train, case.seed, case.compute, case.tick)


def finetune(case: Case) -> nn.Module:
    """Continues from the start model, in place, on the kept images. From a pruned model this is sparsified
    fine-tuning."""
    options = case.recipe.removal
    if case.start is None or not isinstance(options, Finetune | SparsifiedFinetune | Experts):
        raise ValueError("found no model or no options to fine-tune with, expected those of the game")
    fitting, section = options.fitting, "removal.fitting"
    return fit(case.family, case.start, case.kept, fitting, case.seed, case.compute, case.tick, section)


REMOVALS: dict[str, Callable[[Case], nn.Module]] = {
    "retrain": retrain,
    "finetune": finetune,
    "sparsified_finetune": finetune,
    "experts": finetune,
}


def remove(case: Case) -> nn.Module:
    """The weights for a coalition. Without images they are random, whatever the removal method."""
    return REMOVALS[case.recipe.removal.method](case) if len(case.kept) else case.untrained()
