"""Removal methods: how the model of a coalition is obtained. One table, one signature (METHODS.md, section 1)."""

from collections.abc import Callable
from dataclasses import dataclass

from diffusers.models.unets.unet_2d import UNet2DModel

from apportion.config import Fitting, Model
from apportion.diffusion import ddpm
from apportion.diffusion.compute import Compute
from apportion.diffusion.images import Images
from apportion.diffusion.train import Ticker, fit


@dataclass(frozen=True)
class Case:
    """One coalition's model to make: what it may start from, the images that are kept, and how to fit them."""

    base: UNet2DModel | None
    model: Model
    resolution: int
    kept: Images
    fitting: Fitting
    seed: int
    compute: Compute
    tick: Ticker | None = None

    def untrained(self) -> UNet2DModel:
        return ddpm.build(self.model, self.resolution, self.seed).eval()


def retrain(case: Case) -> UNet2DModel:
    """Trains from scratch on the kept images: the ground truth."""
    return fit(case.untrained(), case.kept, case.fitting, case.seed, case.compute, case.tick)


def finetune(case: Case) -> UNet2DModel:
    """Continues from the base model, in place, on the kept images. With a pruned base this is the paper's sparsified fine-tuning."""
    if case.base is None:
        raise ValueError("found no base model, expected one to fine-tune")
    return fit(case.base, case.kept, case.fitting, case.seed, case.compute, case.tick, "removal.fitting")


REMOVALS: dict[str, Callable[[Case], UNet2DModel]] = {"retrain": retrain, "finetune": finetune, "sparsified_finetune": finetune}


def remove(method: str, case: Case) -> UNet2DModel:
    """The model of a coalition. Of nobody's images: the untrained model, whatever the method."""
    return REMOVALS[method](case) if len(case.kept) else case.untrained()
