"""A small U-Net with attention, training images of one grey level or of noise, and one CPU thread."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from apportion.config.family import DdpmOptions
from apportion.diffusion.compute import Compute
from apportion.diffusion.images import TrainingImages


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def cpu() -> Compute:
    return Compute(torch.device("cpu"), "fp32")


@pytest.fixture(scope="session")
def model() -> DdpmOptions:
    """Two levels, of which the lower has attention; 0.2 M parameters."""
    return DdpmOptions(channels=[16, 32], attention=[False, True], norm_groups=8)


@pytest.fixture(scope="session")
def plain() -> Callable[..., TrainingImages]:
    """`k` images of one grey level."""

    def make(level: int, k: int, side: int = 8) -> TrainingImages:
        return TrainingImages(np.full((k, 3, side, side), level, np.uint8), np.ones(k, np.bool_))

    return make


@pytest.fixture(scope="session")
def varied() -> TrainingImages:
    """Twelve different images of noise, of which every other one may be mirrored."""
    pixels = np.random.default_rng(5).integers(0, 256, (12, 3, 8, 8), dtype=np.uint8)
    return TrainingImages(pixels, np.arange(12) % 2 == 0)
