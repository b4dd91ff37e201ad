"""Seeded images by deterministic samplers: DDIM (Song et al. 2021) and DPM-Solver++(2M) (Lu et al. 2022)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from torch import nn

from apportion.config.family import DdpmOptions
from apportion.config.sampling import Sampling
from apportion.diffusion.compute import Compute, generator
from apportion.diffusion.sampler import Sampler
from apportion.errors import DiffusionError
from apportion.progress import Ticker

BETAS = (1e-4, 0.02)


def noise_schedule() -> DDIMScheduler:
    """The linear schedule of Ho et al. 2020; deterministic DDIM sampling with images kept in [-1, 1]."""
    return DDIMScheduler(
        num_train_timesteps=DdpmOptions.timesteps,
        beta_start=BETAS[0],
        beta_end=BETAS[1],
        beta_schedule="linear",
        clip_sample=True,
        timestep_spacing="trailing",
    )


def dpm_solver() -> DPMSolverMultistepScheduler:
    """DPM-Solver++ of order 2 with several steps for the same noise schedule. Thresholding with a ratio of 1
    keeps images in [-1, 1]."""
    return DPMSolverMultistepScheduler(
        num_train_timesteps=DdpmOptions.timesteps,
        beta_start=BETAS[0],
        beta_end=BETAS[1],
        beta_schedule="linear",
        algorithm_type="dpmsolver++",
        solver_order=2,
        thresholding=True,
        dynamic_thresholding_ratio=1.0,
        sample_max_value=1.0,
        timestep_spacing="trailing",
        final_sigmas_type="zero",
    )


SAMPLERS: dict[str, Callable[[], Any]] = {"ddim": noise_schedule, "dpm_solver": dpm_solver}
"""The scheduler of each `sampling.sampler`. A scheduler of several steps has a state, so each batch gets a
new one."""


@torch.inference_mode()
def sample(
    sampler: Sampler, sampling: Sampling, seed: int, compute: Compute, tick: Ticker | None = None
) -> torch.Tensor:
    """`sampling.images` images, uint8 (images, 3, side, side) on the CPU.

    Image i starts from noise keyed by (seed, i): the same for every model, so the images of two models differ
    by the models alone. Raises DiffusionError for conditions, which these models do not have, and for an
    image that is not finite, which would become a black one as bytes.
    """
    if sampler.conditions:
        raise DiffusionError(
            f"found {len(sampler.conditions)} conditions to sample for, expected none: models of family ddpm "
            "are unconditional (model.family, removal.method)"
        )
    for model in sampler.models:
        model.to(compute.device).eval()
    batches = torch.arange(sampling.images).split(sampling.batch)
    return torch.cat([_denoise(sampler, seed, batch, sampling, compute, tick) for batch in batches])


def initial_noise(side: int, channels: int, seed: int, index: torch.Tensor) -> torch.Tensor:
    """Standard normal noise (len(index), channels, side, side): row i is keyed by (seed, index[i])."""
    shape = (channels, side, side)
    return torch.stack([torch.randn(shape, generator=generator(seed, "image", int(i))) for i in index])


def _denoise(
    sampler: Sampler,
    seed: int,
    index: torch.Tensor,
    sampling: Sampling,
    compute: Compute,
    tick: Ticker | None,
) -> torch.Tensor:
    scheduler = SAMPLERS[sampling.sampler]()
    scheduler.set_timesteps(sampling.steps)
    architecture: Any = sampler.models[0].config
    x = initial_noise(architecture.sample_size, architecture.in_channels, seed, index).to(compute.device)
    for t in scheduler.timesteps:
        with compute.autocast():
            eps = sampler.predict(partial(_predicted_noise, x, t.to(compute.device)))
        x = scheduler.step(eps, t, x, return_dict=False)[0]
    if tick:
        tick(len(x))
    not_finite = int((~torch.isfinite(x)).flatten(1).any(1).sum())
    if not_finite:
        raise DiffusionError(
            f"found {not_finite} of {len(x)} images not finite, expected all finite: the model diverged; "
            "lower the lr it was trained with (train.lr, removal.fitting.lr, removal.pruning.retune.lr)"
        )
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()


def _predicted_noise(x: torch.Tensor, t: torch.Tensor, unet: nn.Module) -> torch.Tensor:
    noise: torch.Tensor = unet(x, t, return_dict=False)[0].float()
    return noise
