"""A model family: all that differs between kinds of diffusion models. Training, removal and the stages are
written for any of them; `apportion.config.family.FAMILIES` lists them."""

from abc import ABC, abstractmethod
from importlib import import_module
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from apportion.config.family import FAMILIES, FamilyOptions
from apportion.config.removal import Pruning
from apportion.config.sampling import Sampling
from apportion.diffusion.compute import Compute
from apportion.diffusion.images import TrainingImages
from apportion.diffusion.sampler import Sampler
from apportion.progress import Ticker


class Batch(NamedTuple):
    """Encoded examples: x0 (b, ...), pixels or latents, and what each is conditioned on, or None."""

    x0: torch.Tensor
    condition: Any = None


class Examples(Protocol):
    """Encoded training images on a device."""

    def __len__(self) -> int: ...

    def batch(self, index: torch.Tensor, mirror: torch.Tensor) -> Batch:
        """The examples `index` (b,), each mirrored where `mirror` (b,) is true and the image may be
        mirrored."""
        ...


class Family(ABC):
    """One kind of diffusion model. Models are plain torch modules; a family has no state of its own."""

    timesteps: int
    """Timesteps of the noise schedule, 0..timesteps-1."""

    @abstractmethod
    def build(self, options: Any, resolution: int, seed: int) -> nn.Module:
        """A model with random weights for images of `resolution` pixels a side; a seed always gives the same
        weights. `options` are those of the family in `apportion.config.family`."""

    @abstractmethod
    def dump(self, model: nn.Module, about: dict[str, str] | None = None) -> bytes:
        """The model as one safetensors file; `about` goes into its header."""

    @abstractmethod
    def load(self, data: bytes, origin: str, device: torch.device | str = "cpu") -> nn.Module:
        """The model that `dump` wrote, in evaluation mode. Raises Damaged, naming `origin`, for other
        bytes."""

    @abstractmethod
    def encode(self, images: TrainingImages, compute: Compute) -> Examples:
        """Training images as what models of the family are trained on."""

    @abstractmethod
    def signal_to_noise(self, t: torch.Tensor) -> torch.Tensor:
        """The ratio of signal to noise at timesteps t (b,), (b,)."""

    @abstractmethod
    def error(
        self, model: nn.Module, batch: Batch, t: torch.Tensor, eps: torch.Tensor, compute: Compute
    ) -> torch.Tensor:
        """The training error of each example, (b,), float32: at timesteps t (b,) with noise eps, of the shape
        of x0. The training loop averages it; influence methods differentiate it."""

    @abstractmethod
    def sample(
        self, sampler: Sampler, sampling: Sampling, seed: int, compute: Compute, tick: Ticker | None = None
    ) -> torch.Tensor:
        """`sampling.images` images, uint8 (images, 3, side, side) on the CPU. Image i starts from noise keyed
        by (seed, i), whatever the model. Raises DiffusionError for an image that is not finite."""

    @abstractmethod
    def prune(self, model: nn.Module, pruning: Pruning, seed: int) -> nn.Module:
        """The model without its least important parts, before re-tuning; may change the model it is given."""


def family_of(options: FamilyOptions) -> Family:
    """The implementation of the family that these options belong to."""
    implementation: Family = import_module(FAMILIES[options.family]).FAMILY
    return implementation


def parameter_count(model: nn.Module) -> int:
    """The number of parameters."""
    return sum(p.numel() for p in model.parameters())
