"""What generated images are measured against, made once for a game: no coalition embeds the training images again."""

from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as arrays_from_bytes
from safetensors.numpy import save as arrays_to_bytes

from apportion.errors import Damaged, PropertyError
from apportion.properties.cluster_entropy import CLUSTERS, ward_centroids
from apportion.properties.fid import moments
from apportion.properties.network import FeatureNetwork, embed

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Reference:
    """Mean (d,) and covariance (d, d) of the training images' features; centroids (clusters, d) of the full model's images, or (0, d)."""

    mean: Array
    covariance: Array
    centroids: Array


NOTHING = Reference(np.empty(0), np.empty((0, 0)), np.empty((0, 0)))


def build_reference(
    network: FeatureNetwork, training: torch.Tensor, full_model_samples: torch.Tensor | None, clusters: int = CLUSTERS
) -> Reference:
    """From all training images and images of the full model, both uint8 (k, 3, side, side).

    Without samples there are no centroids, and cluster_entropy refuses to be measured. Raises PropertyError for fewer than 2 training
    images, fewer distinct samples than clusters, or features that are not finite."""
    mean, covariance = moments(_features(network, training))
    if full_model_samples is None:
        return Reference(mean, covariance, np.empty((0, len(mean))))
    return Reference(mean, covariance, ward_centroids(_features(network, full_model_samples), clusters))


def dump(reference: Reference) -> bytes:
    """The reference as safetensors."""
    return arrays_to_bytes({name: np.ascontiguousarray(array) for name, array in asdict(reference).items()})


def load(data: bytes, origin: str) -> Reference:
    """Raises Damaged, naming `origin`, where `data` is not what `dump` wrote."""
    try:
        arrays = arrays_from_bytes(data)
        reference = Reference(**arrays)
    except (SafetensorError, KeyError, TypeError) as error:  # KeyError: a type of number that numpy lacks; TypeError: other names
        raise Damaged(f"found no reference in {origin}, expected safetensors of mean, covariance and centroids: {error}") from error
    d, form = reference.mean.size, [array.shape for array in (reference.mean, reference.covariance)]
    fits = form == [(d,), (d, d)] and reference.centroids.ndim == 2 and reference.centroids.shape[1] == d
    if not fits or not all(array.dtype == np.float64 and np.isfinite(array).all() for array in arrays.values()):
        found = {name: f"{array.dtype} {array.shape}" for name, array in sorted(arrays.items())}
        raise Damaged(f"found {found} in {origin}, expected finite float64 mean (d,), covariance (d, d) and centroids (clusters, d)")
    return reference


def _features(network: FeatureNetwork, pixels: torch.Tensor) -> Array:
    features, _ = embed(network, pixels)
    if not np.isfinite(features).all():
        raise PropertyError("found features of training or full-model images that are not finite, expected finite ones (option network)")
    return features
