"""Images to values: the reference of a game, then the properties of each set of generated images, all from one embedding."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from apportion.errors import PropertyError
from apportion.properties import PROPERTIES, Measured, check
from apportion.properties.cluster_entropy import CLUSTERS, ward_centroids
from apportion.properties.fid import moments
from apportion.properties.network import FeatureNetwork, embed
from apportion.properties.reference import NOTHING, Reference

Array = NDArray[np.float64]


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


def measure(
    names: Sequence[str], pixels: torch.Tensor, network: FeatureNetwork | None = None, reference: Reference | None = None
) -> dict[str, float]:
    """The named properties of uint8 images (k, 3, side, side), all from the same images, which are embedded once.

    Raises PropertyError for unknown properties, other pixels, a network or reference that a property needs and is not given, and, naming
    the property, for a value that is not finite."""
    check(names)
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3 or not pixels.numel():
        raise PropertyError(f"found images {pixels.dtype} {tuple(pixels.shape)}, expected uint8 (k, 3, height, width) with k ≥ 1")
    if reference is None and (lacking := [name for name in names if PROPERTIES[name].needs_reference]):
        raise PropertyError(f"found no reference, expected one for {', '.join(lacking)} (option properties)")
    features, probabilities = _embedded([name for name in names if PROPERTIES[name].needs_network], pixels, network)
    measured = Measured(pixels.cpu().numpy(), features, probabilities, reference or NOTHING)
    values = {name: PROPERTIES[name].function(measured) for name in names}
    for name, value in values.items():
        if not math.isfinite(value):
            raise PropertyError(f"found {name} = {value} from {len(pixels)} images, expected a finite number (option properties)")
    return values


def _embedded(names: Sequence[str], pixels: torch.Tensor, network: FeatureNetwork | None) -> tuple[Array, Array]:
    """Features and probabilities for the properties that need them; no columns where none does."""
    if not names:
        return np.empty((len(pixels), 0)), np.empty((len(pixels), 0))
    if network is None:
        raise PropertyError(f"found no feature network, expected one for {', '.join(names)} (option network)")
    features, probabilities = embed(network, pixels)
    if not (np.isfinite(features).all() and np.isfinite(probabilities).all()):
        raise PropertyError(f"found features that are not finite, expected finite ones for {', '.join(names)} (option network)")
    return features, probabilities


def _features(network: FeatureNetwork, pixels: torch.Tensor) -> Array:
    features, _ = embed(network, pixels)
    if not np.isfinite(features).all():
        raise PropertyError("found features of training or full-model images that are not finite, expected finite ones (option network)")
    return features
