"""Models and samples as stored objects: the bytes, and beside them what they cost and where."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes

from apportion.config import Config
from apportion.diffusion import ddpm
from apportion.diffusion.compute import Compute
from apportion.diffusion.sample import sample
from apportion.diffusion.train import Ticker
from apportion.errors import Damaged
from apportion.safetensors import header
from apportion.store import Store


@dataclass
class Clock:
    """Seconds a block took; zero until it ends."""

    seconds: float = 0.0


@contextmanager
def timed() -> Iterator[Clock]:
    clock, start = Clock(), time.perf_counter()
    yield clock
    clock.seconds = time.perf_counter() - start


@dataclass(frozen=True)
class Spent:
    """What making an object cost: seconds of fine-tuning, seconds of sampling, and the device."""

    finetune: float
    sample: float
    device: str

    def header(self) -> dict[str, str]:
        return {"finetune_seconds": f"{self.finetune:.3f}", "sample_seconds": f"{self.sample:.3f}", "device": self.device}

    @classmethod
    def read(cls, data: bytes, origin: str) -> "Spent":
        """Raises Damaged, naming `origin`, where the header does not say."""
        try:
            about = header(data)
            return cls(float(about["finetune_seconds"]), float(about["sample_seconds"]), about["device"])
        except (KeyError, ValueError) as error:
            raise Damaged(f"found no cost in the header of {origin}: {error}; it is left as it is") from error


def dump_model(unet: UNet2DModel, seconds: float, compute: Compute) -> bytes:
    return ddpm.dump(unet, Spent(seconds, 0.0, compute.name).header())


def load_model(store: Store, key: str, compute: Compute) -> tuple[UNet2DModel, Spent]:
    data = store.get(key)
    return ddpm.load(data, store.where(key), compute.device), Spent.read(data, store.where(key))


def generate(
    unet: UNet2DModel, config: Config, seed: int, compute: Compute, spent: Spent | None = None, tick: Ticker | None = None
) -> tuple[torch.Tensor, Spent]:
    """Seeded images of a model, and what they and the model cost."""
    with timed() as clock:
        images = sample(unet, config.sampling, seed, compute, tick)
    return images, Spent(spent.finetune if spent else 0.0, clock.seconds, compute.name)


def dump_samples(images: torch.Tensor, spent: Spent) -> bytes:
    return tensors_to_bytes({"images": images}, metadata=spent.header())


def load_samples(store: Store, key: str) -> tuple[torch.Tensor, Spent]:
    """Raises Damaged where the object holds no images."""
    data, where = store.get(key), store.where(key)
    try:
        images = tensors_from_bytes(data)["images"]
    except (SafetensorError, KeyError) as error:
        raise Damaged(f"found no images in {where}, expected safetensors of `images`: {error}; it is left as it is") from error
    return images, Spent.read(data, where)
