"""Seeded images from a model, by DDIM."""

import torch
from diffusers.models.unets.unet_2d import UNet2DModel

from apportion.config import Sampling
from apportion.diffusion.compute import Compute, generator
from apportion.diffusion.ddpm import noise_schedule
from apportion.diffusion.train import Ticker
from apportion.errors import DiffusionError


@torch.inference_mode()
def sample(unet: UNet2DModel, sampling: Sampling, seed: int, compute: Compute, tick: Ticker | None = None) -> torch.Tensor:
    """`sampling.images` images, uint8 (images, 3, side, side) on the CPU.

    Image i starts from noise keyed by (seed, i): the same for every model, so two models' images differ by the models alone.
    Raises DiffusionError for an image that is not finite: as bytes it would pass for a black one.
    """
    unet.to(compute.device).eval()
    batches = torch.arange(sampling.images).split(sampling.batch)
    return torch.cat([_denoise(unet, initial_noise(unet, seed, batch), sampling.steps, compute, tick) for batch in batches])


def initial_noise(unet: UNet2DModel, seed: int, index: torch.Tensor) -> torch.Tensor:
    """Standard normal (len(index), channels, side, side)."""
    side, channels = unet.config.sample_size, unet.config.in_channels
    return torch.stack([torch.randn((channels, side, side), generator=generator(seed, "image", int(i))) for i in index])


def _denoise(unet: UNet2DModel, x: torch.Tensor, steps: int, compute: Compute, tick: Ticker | None) -> torch.Tensor:
    ddim = noise_schedule()
    ddim.set_timesteps(steps)
    x = x.to(compute.device)
    for t in ddim.timesteps:
        with compute.autocast():
            eps = unet(x, t.to(compute.device), return_dict=False)[0]
        x = ddim.step(eps.float(), t, x, return_dict=False)[0]
    if tick:
        tick(len(x))
    broken = int((~torch.isfinite(x)).flatten(1).any(1).sum())
    if broken:
        raise DiffusionError(
            f"found {broken} of {len(x)} images not finite, expected all finite: the model diverged; "
            "lower the lr it was trained with (train.lr, removal.fitting.lr, removal.pruning.retune.lr)"
        )
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
