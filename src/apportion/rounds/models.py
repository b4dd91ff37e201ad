"""Models as stored objects, and the images they generate."""

import numpy as np
from diffusers.models.unets.unet_2d import UNet2DModel
from numpy.typing import NDArray

from apportion.config import Config
from apportion.diffusion import ddpm
from apportion.diffusion.compute import Compute
from apportion.diffusion.sample import sample
from apportion.diffusion.train import Ticker
from apportion.stages.spent import Spent, timed
from apportion.store import Store


def dump_model(unet: UNet2DModel, seconds: float, compute: Compute) -> bytes:
    return ddpm.dump(unet, Spent(seconds, 0.0, compute.name).header())


def load_model(store: Store, key: str, compute: Compute) -> tuple[UNet2DModel, Spent]:
    data = store.get(key)
    return ddpm.load(data, store.where(key), compute.device), Spent.read(data, store.where(key))


def generate(
    unet: UNet2DModel, config: Config, seed: int, compute: Compute, spent: Spent | None = None, tick: Ticker | None = None
) -> tuple[NDArray[np.uint8], Spent]:
    """Seeded images of a model, and what they and the model cost."""
    with timed() as clock:
        images = sample(unet, config.sampling, seed, compute, tick).numpy()
    return images, Spent(spent.finetune if spent else 0.0, clock.seconds, compute.name)
