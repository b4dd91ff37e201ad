"""The feature network: a small classifier whose logits serve the Inception score and whose features serve every distance."""

import hashlib
import json
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import nn

from apportion.errors import PropertyError, StoreError
from apportion.store import open_store

FEATURES = 128
BATCH = 512


class FeatureNetwork(nn.Module):
    """Four convolutions, global average pooling, a linear head. Input: uint8 RGB (k, 3, side, side), any side of 16 or more."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        widths = [3, 32, 64, 96, FEATURES]
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise(widths)):
            layers += [nn.Conv2d(before, after, 3, stride=1 if i == 0 else 2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (k, 128) and logits (k, classes)."""
        features = self.trunk(pixels.float() / 127.5 - 1)
        return features, self.head(features)


@torch.inference_mode()
def embed(network: FeatureNetwork, pixels: torch.Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Features (k, 128) and class probabilities (k, classes) of uint8 images (k, 3, side, side)."""
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
    """Raises PropertyError where `data` is no feature network."""
    try:
        tensors = tensors_from_bytes(data)
        network = FeatureNetwork(len(tensors["head.bias"]))
        network.load_state_dict(tensors)
    except Exception as error:  # safetensors, KeyError and torch's own: each means that this is another kind of file
        raise PropertyError(f"found no feature network in {origin}, expected its safetensors (option network): {error}") from error
    return network.eval()


def network_hash(data: bytes) -> str:
    """What a game records of the network it is scored by."""
    return hashlib.sha256(data).hexdigest()[:32]


def read_network(uri: str) -> bytes:
    """The file at a URI: "openmoji" (embedded), a local path, file:///… or s3://bucket/key.

    On S3 the object must carry its sha256 as metadata, as `Store` writes it. Raises PropertyError where none can be read there."""
    try:
        if uri == "openmoji":
            # by its place in the package: properties must not import the code of data sets
            return files("apportion").joinpath("datasets", "openmoji", "classifier.safetensors").read_bytes()
        if uri.startswith("s3://"):
            folder, _, key = uri.rpartition("/")
            return open_store(folder).get(key)
        if uri.startswith("file:///"):
            return Path(unquote(uri.removeprefix("file://"))).read_bytes()
        if "://" in uri:
            raise PropertyError(f"found {uri!r}, expected openmoji, a path, file:///path or s3://bucket/key (option network)")
        return Path(uri).read_bytes()
    except (OSError, StoreError, ValueError) as error:  # ValueError: a null byte in the path
        raise PropertyError(f"cannot read the feature network {uri!r} (option network): {error}") from error
