"""The feature network: a small classifier. The Inception score is computed from its logits, every distance
from its features."""

import json
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import nn

from apportion.errors import PropertyError

FEATURES = 128
BATCH = 512
"""Images that are embedded at a time."""


class FeatureNetwork(nn.Module):
    """Four convolutions, global average pooling and a linear head. Its input is uint8 RGB (k, 3, side, side),
    of any side of 16 or more."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        widths = [3, 32, 64, 96, FEATURES]
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise(widths)):
            layers += [
                nn.Conv2d(before, after, 3, stride=1 if i == 0 else 2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        self.trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (k, 128) and logits (k, classes)."""
        features = self.trunk(pixels.float() / 127.5 - 1)
        return features, self.head(features)


@torch.inference_mode()
def embed(network: FeatureNetwork, pixels: torch.Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Features (k, 128) and class probabilities (k, classes) of uint8 images (k, 3, side, side), computed in
    fp32 on the device of the network (docs/configuration.md, "Device and precision")."""
    device = next(network.parameters()).device
    outputs = [network(batch.to(device)) for batch in torch.split(pixels, BATCH)]
    features = torch.cat([f for f, _ in outputs]).double()
    probabilities = torch.cat([logits for _, logits in outputs]).double().softmax(1)
    return features.cpu().numpy(), probabilities.cpu().numpy()


def dump(network: FeatureNetwork, about: dict[str, object]) -> bytes:
    """The network as safetensors; `about` (classes, held-out accuracy) goes into its header."""
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    return tensors_to_bytes(tensors, metadata={"about": json.dumps(about, sort_keys=True)})


def load(data: bytes, origin: str) -> FeatureNetwork:
    """The network in evaluation mode. Raises PropertyError, naming `origin`, where `data` is not a feature
    network."""
    try:
        tensors = tensors_from_bytes(data)
        network = FeatureNetwork(len(tensors["head.bias"]))
        network.load_state_dict(tensors)
    except Exception as error:  # another kind of file: errors of safetensors and torch, or KeyError
        raise PropertyError(
            f"found no feature network in {origin}, expected its safetensors (option network): {error}"
        ) from error
    return network.eval()
