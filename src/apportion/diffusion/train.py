"""The one training loop: base models, re-tuning after pruning, retraining and fine-tuning on a coalition all
use it.

Random numbers are keyed by (seed, step) and never by the coalition, so coalitions with one seed see the same
noise, timesteps and mirrorings: common random numbers, which take most of the training noise out of
differences between coalitions (docs/methods.md, "Games").
"""

import math
from collections.abc import Callable

import torch
from diffusers.training_utils import EMAModel
from torch import nn

from apportion.config.fitting import Fitting
from apportion.diffusion.compute import Compute, generator
from apportion.diffusion.family import Batch, Examples, Family
from apportion.diffusion.images import TrainingImages
from apportion.errors import DiffusionError
from apportion.progress import Ticker

CLIP = 1.0
"""The largest norm of a gradient; larger ones are scaled down to it."""


def fit(
    family: Family,
    model: nn.Module,
    images: TrainingImages,
    fitting: Fitting,
    seed: int,
    compute: Compute,
    tick: Ticker | None = None,
    option: str = "train",
) -> nn.Module:
    """Minimises the family's mean training error on `images`, in place; returns the model with its averaged
    weights.

    The moving average starts anew with its step counter at zero. The decay of its first step is 0, so the
    weights that `model` had before have no part in it. Raises DiffusionError, naming `option`, the section of
    the configuration that `fitting` is from, where the model diverged.
    """
    model.to(compute.device).train()
    examples = family.encode(images, compute)
    optimiser = torch.optim.AdamW(
        model.parameters(),
        lr=fitting.lr,
        betas=(0.9, fitting.beta2),
        weight_decay=fitting.weight_decay,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: SCHEDULES[fitting.schedule](step / fitting.steps)
    )
    average = EMAModel(model.parameters(), decay=fitting.ema, foreach=True)
    for step in range(fitting.steps):
        batch = _batch(examples, fitting.batch, seed, step, compute)
        loss = _loss(
            family, model, batch, WEIGHTINGS[fitting.weighting], generator(seed, "noise", step), compute
        )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP, foreach=True)
        optimiser.step()
        schedule.step()
        average.step(model.parameters())
        if tick:
            tick(1)
    average.copy_to(model.parameters())
    _check_finite(model, fitting, option)
    return model.eval()


def _check_finite(model: nn.Module, fitting: Fitting, option: str) -> None:
    tensors = list(model.parameters())
    not_finite = sum(not bool(torch.isfinite(tensor).all()) for tensor in tensors)
    if not_finite:
        raise DiffusionError(
            f"found {not_finite} of {len(tensors)} weight tensors not finite after {fitting.steps} steps, "
            f"expected all finite: training diverged at {option}.lr = {fitting.lr:g}; lower {option}.lr"
        )


def _batch(examples: Examples, size: int, seed: int, step: int, compute: Compute) -> Batch:
    """`size` examples drawn with replacement, each mirrored with probability one half where it may be."""
    draw = generator(seed, "batch", step)
    index = (torch.rand(size, generator=draw) * len(examples)).long().to(compute.device)
    mirror = (torch.rand(size, generator=draw) < 0.5).to(compute.device)
    return examples.batch(index, mirror)


def _loss(
    family: Family,
    model: nn.Module,
    batch: Batch,
    weighting: "Weighting",
    draw: torch.Generator,
    compute: Compute,
) -> torch.Tensor:
    """Weighted mean error at antithetic timesteps (t, T-1-t), with one noise for each example."""
    x0 = batch.x0
    half = torch.randint(0, family.timesteps, ((len(x0) + 1) // 2,), generator=draw)
    t = torch.cat([half, family.timesteps - 1 - half])[: len(x0)].to(x0.device)
    eps = torch.randn(x0.shape, generator=draw).to(x0.device)
    errors = family.error(model, batch, t, eps, compute)
    return (weighting(family.signal_to_noise(t)) * errors).mean()


def uniform(snr: torch.Tensor) -> torch.Tensor:
    """The same weight at every timestep: the simple loss of Ho et al. 2020."""
    return torch.ones_like(snr)


def p2(snr: torch.Tensor) -> torch.Tensor:
    """Less weight where little noise is left to remove (Choi et al. 2022, k = gamma = 1): shapes and colours
    are learned sooner."""
    return 1 / (1 + snr)


Weighting = Callable[[torch.Tensor], torch.Tensor]
WEIGHTINGS: dict[str, Weighting] = {"uniform": uniform, "p2": p2}


def one_cycle(done: float) -> float:
    """Up along a cosine over the first 30 %, then down to zero along another (Smith and Topin 2018, as
    torch's OneCycleLR)."""
    if done < 0.3:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * done / 0.3)) / 2
    return (1 + math.cos(math.pi * (done - 0.3) / 0.7)) / 2


def cosine(done: float) -> float:
    """The full rate at first, then down to zero along a cosine."""
    return (1 + math.cos(math.pi * done)) / 2


def constant(_: float) -> float:
    """The full rate throughout."""
    return 1.0


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": constant,
    "cosine": cosine,
    "one_cycle": one_cycle,
}
"""The fraction of the learning rate, by the fraction of the steps that is done."""
