"""Builds the reference that images are compared with, and measures the properties of a set of generated
images, all from one embedding."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from apportion.errors import PropertyError
from apportion.properties import PROPERTIES, PropertyInput, check
from apportion.properties.cluster_entropy import CLUSTERS, ward_centroids
from apportion.properties.fid import moments
from apportion.properties.network import Network, embed
from apportion.properties.reference import NO_REFERENCE, Reference

Array = NDArray[np.float64]


class EmbeddedImages(NamedTuple):
    """Images as pixels uint8 (k, 3, side, side), with their features (k, d) and class probabilities (k,
    classes), which have no columns where no property needs them."""

    pixels: NDArray[np.uint8]
    features: Array
    probabilities: Array


def build_reference(
    network: Network,
    training: torch.Tensor,
    base_samples: torch.Tensor | None,
    clusters: int = CLUSTERS,
) -> Reference:
    """What properties compare images with, from all training images and images of the base model, both uint8
    (k, 3, side, side).

    Without images of the base model the reference has no centroids, and measuring cluster_entropy with it
    raises PropertyError. Raises PropertyError for fewer than 2 training images, fewer distinct images of the
    base model than clusters, or features that are not finite.
    """
    mean, covariance = moments(_features(network, training))
    if base_samples is None:
        return Reference(mean, covariance, np.empty((0, len(mean))))
    return Reference(mean, covariance, ward_centroids(_features(network, base_samples), clusters))


def measure(
    names: Sequence[str],
    pixels: torch.Tensor,
    network: Network | None = None,
    reference: Reference | None = None,
) -> dict[str, float]:
    """The named properties of uint8 images (k, 3, side, side), all from the same images, which are embedded
    once.

    Raises PropertyError for unknown properties, pixels of another form, a missing network or reference, and,
    naming the property, for a value that is not finite.
    """
    return measured(names, embedded(names, pixels, network), reference)


def embedded(names: Sequence[str], pixels: torch.Tensor, network: Network | None = None) -> EmbeddedImages:
    """What the named properties need of uint8 images (k, 3, side, side).

    Raises PropertyError for unknown properties, pixels of another form, a missing network, and features that
    are not finite.
    """
    check(names)
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3 or not pixels.numel():
        raise PropertyError(
            f"found images {pixels.dtype} {tuple(pixels.shape)}, expected uint8 (k, 3, height, width) with "
            "k ≥ 1"
        )
    features, probabilities = _embedded(
        [name for name in names if PROPERTIES[name].needs_network], pixels, network
    )
    return EmbeddedImages(pixels.cpu().numpy(), features, probabilities)


def measured(
    names: Sequence[str], of: EmbeddedImages, reference: Reference | None = None
) -> dict[str, float]:
    """The named properties of images that are embedded for them. Raises PropertyError for a missing reference
    and, naming the property, for a value that is not finite."""
    compared = [name for name in names if PROPERTIES[name].needs_reference]
    if compared and reference is None:
        raise PropertyError(f"found no reference, expected one for {', '.join(compared)} (option properties)")
    images = PropertyInput(*of, reference or NO_REFERENCE)
    values = {name: PROPERTIES[name].function(images) for name in names}
    for name, value in values.items():
        if not math.isfinite(value):
            raise PropertyError(
                f"found {name} = {value} from {len(of.pixels)} images, expected a finite number (option "
                "properties)"
            )
    return values


def _embedded(names: Sequence[str], pixels: torch.Tensor, network: Network | None) -> tuple[Array, Array]:
    """Features and class probabilities for the named properties; arrays without columns where no property is
    named."""
    if not names:
        return np.empty((len(pixels), 0)), np.empty((len(pixels), 0))
    if network is None:
        raise PropertyError(f"found no feature network, expected one for {', '.join(names)} (option network)")
    features, probabilities = embed(network, pixels)
    if not (np.isfinite(features).all() and np.isfinite(probabilities).all()):
        raise PropertyError(
            f"found features that are not finite, expected finite ones for {', '.join(names)} (option "
            "network)"
        )
    return features, probabilities


def _features(network: Network, pixels: torch.Tensor) -> Array:
    features, _ = embed(network, pixels)
    if not np.isfinite(features).all():
        raise PropertyError(
            "found features that are not finite, of training images or of images of the base model, "
            "expected finite ones (option network)"
        )
    return features
