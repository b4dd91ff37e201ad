"""The one training loop: base models, re-tuning after pruning, retraining and fine-tuning on a coalition all run through it.

Randomness is keyed by (seed, step) and never by the coalition, so coalitions with one seed see the same noise, timesteps and mirrorings:
common random numbers, which take most of the training noise out of differences between coalitions.
"""

import math
from collections.abc import Callable

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.training_utils import EMAModel
from torch.nn.functional import mse_loss

from apportion.config import Fitting
from apportion.diffusion.compute import Compute, generator
from apportion.diffusion.ddpm import TIMESTEPS, noise_schedule
from apportion.diffusion.images import Images
from apportion.errors import DiffusionError

CLIP = 1.0

Ticker = Callable[[int], None]
"""Called with the number of steps done since the last call, for a progress bar."""


def fit(
    unet: UNet2DModel,
    images: Images,
    fitting: Fitting,
    seed: int,
    compute: Compute,
    tick: Ticker | None = None,
    option: str = "train",
) -> UNet2DModel:
    """Minimises the denoising loss of [A, eq. 1] on `images`, in place, and returns the model with its averaged weights.

    The moving average starts from the weights given, with its step counter at zero: what a model knew before is forgotten at the rate
    that the data says, not at the average's. Raises DiffusionError, naming `option`, where the fitting was told, if the model diverged.
    """
    unet.to(compute.device).train()
    pixels, flip = (torch.from_numpy(part).to(compute.device) for part in (images.pixels, images.flip))
    alphas = noise_schedule().alphas_cumprod.to(compute.device)
    optimiser = torch.optim.AdamW(
        unet.parameters(), lr=fitting.lr, betas=(0.9, fitting.beta2), weight_decay=fitting.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: SCHEDULES[fitting.schedule](step / fitting.steps))
    average = EMAModel(unet.parameters(), decay=fitting.ema, foreach=True)
    for step in range(fitting.steps):
        x0 = _batch(pixels, flip, fitting.batch, seed, step)
        loss = _loss(unet, x0, alphas, WEIGHTINGS[fitting.weighting], generator(seed, "noise", step), compute)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), CLIP, foreach=True)
        optimiser.step()
        schedule.step()
        average.step(unet.parameters())
        if tick:
            tick(1)
    average.copy_to(unet.parameters())
    _check_finite(unet, fitting, option)
    return unet.eval()


def _check_finite(unet: UNet2DModel, fitting: Fitting, option: str) -> None:
    parts = list(unet.parameters())
    bad = sum(not bool(torch.isfinite(part).all()) for part in parts)
    if bad:
        raise DiffusionError(
            f"found {bad} of {len(parts)} weight tensors not finite after {fitting.steps} steps, expected all finite: "
            f"training diverged at {option}.lr = {fitting.lr:g}; lower {option}.lr"
        )


def _batch(pixels: torch.Tensor, flip: torch.Tensor, size: int, seed: int, step: int) -> torch.Tensor:
    """`size` images drawn with replacement, in [-1, 1], each mirrored with probability one half where it may be."""
    draw = generator(seed, "batch", step)
    index = (torch.rand(size, generator=draw) * len(pixels)).long().to(pixels.device)
    mirror = (torch.rand(size, generator=draw) < 0.5).to(pixels.device) & flip[index]
    batch = pixels[index].float() / 127.5 - 1
    return torch.where(mirror[:, None, None, None], batch.flip(-1), batch)


def _loss(
    unet: UNet2DModel, x0: torch.Tensor, alphas: torch.Tensor, weighting: "Weighting", draw: torch.Generator, compute: Compute
) -> torch.Tensor:
    """Weighted mean squared error of the predicted noise at antithetic timesteps (t, T-1-t)."""
    half = torch.randint(0, TIMESTEPS, ((len(x0) + 1) // 2,), generator=draw)
    t = torch.cat([half, TIMESTEPS - 1 - half])[: len(x0)].to(x0.device)
    eps = torch.randn(x0.shape, generator=draw).to(x0.device)
    signal = alphas[t][:, None, None, None]
    noisy = signal.sqrt() * x0 + (1 - signal).sqrt() * eps
    with compute.autocast():
        predicted = unet(noisy, t, return_dict=False)[0]
    errors = mse_loss(predicted.float(), eps, reduction="none").mean(dim=(1, 2, 3))
    return (weighting(alphas[t] / (1 - alphas[t])) * errors).mean()


def uniform(snr: torch.Tensor) -> torch.Tensor:
    """Every timestep alike: the simple loss of Ho et al. 2020, which the paper uses."""
    return torch.ones_like(snr)


def p2(snr: torch.Tensor) -> torch.Tensor:
    """Less weight where little noise is left to remove (Choi et al. 2022, k = gamma = 1): shapes and colours are learned sooner."""
    return 1 / (1 + snr)


Weighting = Callable[[torch.Tensor], torch.Tensor]
WEIGHTINGS: dict[str, Weighting] = {"uniform": uniform, "p2": p2}


def one_cycle(done: float) -> float:
    """Cosine up over the first 30 %, cosine down to nothing: Smith and Topin 2018, as torch's OneCycleLR does by default."""
    if done < 0.3:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * done / 0.3)) / 2
    return (1 + math.cos(math.pi * (done - 0.3) / 0.7)) / 2


def cosine(done: float) -> float:
    """Full rate at first, cosine down to nothing."""
    return (1 + math.cos(math.pi * done)) / 2


def constant(_: float) -> float:
    return 1.0


SCHEDULES: dict[str, Callable[[float], float]] = {"constant": constant, "cosine": cosine, "one_cycle": one_cycle}
