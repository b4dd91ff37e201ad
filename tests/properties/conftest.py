"""The embedded network, drawings of the embedded data, and drawings under noise."""

import pytest
import torch

from apportion.config.network import EMBEDDED
from apportion.datasets.openmoji.classifier import drawings
from apportion.planning.networks import read_network
from apportion.properties.network import FeatureNetwork, load


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def network() -> FeatureNetwork:
    return load(read_network(EMBEDDED), EMBEDDED)


@pytest.fixture(scope="session")
def training() -> torch.Tensor:
    """Every fourth embedded drawing, uint8 (k, 3, 16, 16)."""
    return drawings(16)[0][::4]


@pytest.fixture(scope="session")
def generated(training: torch.Tensor) -> torch.Tensor:
    """Drawings under noise, uint8 (256, 3, 16, 16)."""
    noise = 40 * torch.randn(256, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return (training[:256] + noise).clamp(0, 255).byte()
