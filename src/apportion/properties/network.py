"""Feature networks: the Inception score is computed from their class probabilities, every distance from their
features.

A stored network is one safetensors file whose header says what it is: Apportion's own small network, or a
model of a library (`architectures.py`).
"""

import json
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import nn

from apportion.errors import PropertyError
from apportion.properties import architectures
from apportion.safetensors import header

FEATURES = 128


class Network(Protocol):
    """What images are embedded with. batch: how many images at a time."""

    batch: int

    def __call__(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (k, d) and logits (k, classes), of images uint8 (k, 3, side, side)."""

    def to(self, device: torch.device) -> "Network": ...

    def parameters(self) -> Any: ...


class FeatureNetwork(nn.Module):
    """Four convolutions, global average pooling and a linear head. Its input is uint8 RGB (k, 3, side, side),
    of any side of 8 or more. side: what larger images are reduced to; None reduces none. classes may be 0."""

    batch = 512

    def __init__(self, classes: int, side: int | None = None) -> None:
        super().__init__()
        self.side = side
        widths = [3, 32, 64, 96, FEATURES]
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise(widths)):
            layers += [
                nn.Conv2d(before, after, 3, stride=1 if i == 0 else 2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        self.trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(FEATURES, classes) if classes else None

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (k, 128) and logits (k, classes)."""
        features = self.trunk(reduced(pixels.float(), self.side) / 127.5 - 1)
        return features, self.head(features) if self.head else features[:, :0]


def reduced(pixels: torch.Tensor, side: int | None) -> torch.Tensor:
    """Float images (k, 3, side, side), made smaller where they are larger than `side`."""
    if side is None or pixels.shape[-1] <= side:
        return pixels
    return nn.functional.interpolate(pixels, (side, side), mode="area")


@torch.inference_mode()
def embed(network: Network, pixels: torch.Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Features (k, d) and class probabilities (k, classes) of uint8 images (k, 3, side, side), computed in
    fp32 on the device of the network (docs/configuration.md, "Device and precision"). A network without
    classes gives probabilities without columns."""
    device = next(network.parameters()).device
    outputs = [network(batch.to(device)) for batch in torch.split(pixels, network.batch)]
    features = torch.cat([f for f, _ in outputs]).double()
    probabilities = torch.cat([logits for _, logits in outputs]).double().softmax(1)
    return features.cpu().numpy(), probabilities.cpu().numpy()


def dump(network: FeatureNetwork, about: dict[str, Any]) -> bytes:
    """The network as safetensors; `about` (classes, held-out accuracy, trained_on) goes into its header."""
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    about = about if network.side is None else {**about, "side": network.side}
    return tensors_to_bytes(tensors, metadata={"about": json.dumps(about, sort_keys=True)})


def load(data: bytes, origin: str) -> Network:
    """The network in evaluation mode. Raises PropertyError, naming `origin`, where `data` is not a feature
    network."""
    try:
        about, tensors = json.loads(header(data).get("about", "{}")), tensors_from_bytes(data)
        if "architecture" in about:
            return architectures.rebuilt(about, tensors)
        network = FeatureNetwork(len(tensors.get("head.bias", ())), about.get("side"))
        network.load_state_dict(tensors)
    except PropertyError:
        raise
    except Exception as error:  # another kind of file: errors of safetensors and torch, or KeyError
        raise PropertyError(
            f'found no feature network in {origin}, expected one of the kinds that docs/images.md, "Feature '
            f'networks", lists (option network): {type(error).__name__}: {error}'
        ) from error
    return network.eval()
