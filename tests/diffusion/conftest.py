"""A small U-Net with attention, training images of one colour, and the arithmetic of one CPU thread."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from apportion.config import Model
from apportion.diffusion.compute import Compute
from apportion.diffusion.images import Images


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
def model() -> Model:
    """Two levels, the lower of which attends; 0.2 M parameters."""
    return Model(channels=[16, 32], attention=[False, True], norm_groups=8)


@pytest.fixture(scope="session")
def plain() -> Callable[..., Images]:
    """`k` images of one grey level."""

    def make(level: int, k: int, side: int = 8) -> Images:
        return Images(np.full((k, 3, side, side), level, np.uint8), np.ones(k, np.bool_))

    return make


@pytest.fixture(scope="session")
def varied() -> Images:
    """Twelve different images of noise, every other of which may be mirrored."""
    return Images(np.random.default_rng(5).integers(0, 256, (12, 3, 8, 8), dtype=np.uint8), np.arange(12) % 2 == 0)
