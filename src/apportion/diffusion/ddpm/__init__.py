"""The family `ddpm`: unconditional pixel U-Nets, the linear noise schedule of Ho et al. 2020, and DDIM
sampling."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import nn
from torch.nn.functional import mse_loss

from apportion.config.family import DdpmOptions
from apportion.config.removal import Pruning
from apportion.config.sampling import Sampling
from apportion.diffusion.compute import Compute
from apportion.diffusion.ddpm import unet
from apportion.diffusion.ddpm.sample import noise_schedule, sample
from apportion.diffusion.family import Batch, Family
from apportion.diffusion.images import TrainingImages
from apportion.diffusion.sampler import Sampler
from apportion.progress import Ticker


@dataclass(frozen=True, eq=False)  # eq would compare tensors
class Pixels:
    """Training images as bytes on a device: pixels uint8 (k, 3, side, side), flip bool (k,)."""

    pixels: torch.Tensor
    flip: torch.Tensor

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, index: torch.Tensor, mirror: torch.Tensor) -> Batch:
        """Images in [-1, 1]."""
        x0 = self.pixels[index].float() / 127.5 - 1
        mirrored = mirror & self.flip[index]
        return Batch(torch.where(mirrored[:, None, None, None], x0.flip(-1), x0))


class Ddpm(Family):
    """Unconditional pixel U-Nets that predict the noise."""

    timesteps = DdpmOptions.timesteps

    def build(self, options: DdpmOptions, resolution: int, seed: int) -> UNet2DModel:
        return unet.build(options, resolution, seed)

    def dump(self, model: nn.Module, about: dict[str, str] | None = None) -> bytes:
        return unet.dump(model, about)

    def load(self, data: bytes, origin: str, device: torch.device | str = "cpu") -> UNet2DModel:
        return unet.load(data, origin, device)

    def encode(self, images: TrainingImages, compute: Compute) -> Pixels:
        pixels = torch.from_numpy(images.pixels).to(compute.device)
        flip = torch.from_numpy(images.flip).to(compute.device)
        return Pixels(pixels, flip)

    def signal_to_noise(self, t: torch.Tensor) -> torch.Tensor:
        signal = _signal(t.device)[t]
        return signal / (1 - signal)

    def error(
        self, model: nn.Module, batch: Batch, t: torch.Tensor, eps: torch.Tensor, compute: Compute
    ) -> torch.Tensor:
        """Mean squared error of the predicted noise over channels and pixels (Ho et al. 2020, eq. 14)."""
        signal = _signal(t.device)[t][:, None, None, None]
        noisy = signal.sqrt() * batch.x0 + (1 - signal).sqrt() * eps
        with compute.autocast():
            predicted = model(noisy, t, return_dict=False)[0]
        return mse_loss(predicted.float(), eps, reduction="none").mean(dim=(1, 2, 3))

    def sample(
        self, sampler: Sampler, sampling: Sampling, seed: int, compute: Compute, tick: Ticker | None = None
    ) -> torch.Tensor:
        return sample(sampler, sampling, seed, compute, tick)

    def prune(self, model: Any, pruning: Pruning, seed: int) -> UNet2DModel:
        # Imported here because fine-tuning and sampling need no pruning library.
        from apportion.diffusion.ddpm.prune import prune

        return prune(model, pruning, seed)


@cache
def _signal(device: torch.device) -> torch.Tensor:
    """The share of signal at each timestep, the cumulative product of 1 - beta, (timesteps,)."""
    signal: torch.Tensor = noise_schedule().alphas_cumprod.to(device)
    return signal


FAMILY = Ddpm()
