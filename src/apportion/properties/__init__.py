"""Images to numbers: the global properties of a generative model. METHODS.md §4."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
import torch
from numpy.typing import NDArray

from apportion.errors import PropertyError
from apportion.properties import cluster_entropy, colourfulness, fid, inception_score
from apportion.properties.network import FeatureNetwork, embed
from apportion.properties.reference import NOTHING, Reference

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Measured:
    """The same generated images for every property: pixels uint8 (k, 3, side, side), features (k, d), probabilities (k, classes)."""

    pixels: NDArray[np.uint8]
    features: Array
    probabilities: Array
    reference: Reference


@dataclass(frozen=True)
class Property:
    """`meaning` is for readers of the report; `higher_is_better` is None where more is neither better nor worse."""

    name: str
    function: Callable[[Measured], float]
    higher_is_better: bool | None
    needs_network: bool
    needs_reference: bool
    meaning: str


PROPERTIES: dict[str, Property] = {
    "inception_score": Property(
        "inception_score",
        lambda m: inception_score.inception_score(m.probabilities),
        higher_is_better=True,
        needs_network=True,
        needs_reference=False,
        meaning="how clearly images show one class each, and how many classes they show together; 1 is the least",
    ),
    "fid": Property(
        "fid",
        lambda m: fid.fid(m.features, m.reference.mean, m.reference.covariance),
        higher_is_better=False,
        needs_network=True,
        needs_reference=True,
        meaning="how far generated images lie from all training images in the features of the network; 0 is the closest",
    ),
    "cluster_entropy": Property(
        "cluster_entropy",
        lambda m: cluster_entropy.cluster_entropy(m.features, m.reference.centroids),
        higher_is_better=True,
        needs_network=True,
        needs_reference=True,
        meaning="how evenly images spread over the kinds of image that the full model makes; 0 is all of one kind",
    ),
    "colourfulness_p90": Property(
        "colourfulness_p90",
        lambda m: colourfulness.colourfulness_p90(m.pixels),
        higher_is_better=None,
        needs_network=False,
        needs_reference=False,
        meaning="how colourful the more colourful images are (a tenth of them lies above); 0 is grey",
    ),
}


def check(names: Sequence[str]) -> None:
    """Raises PropertyError for a name that no property has, or one given twice."""
    for name in names:
        if name not in PROPERTIES:
            close = get_close_matches(name, PROPERTIES)
            hint = f" (did you mean {' or '.join(close)}?)" if close else ""
            raise PropertyError(f"found property {name!r}{hint}, expected some of {', '.join(PROPERTIES)} (option properties)")
        if names.count(name) > 1:
            raise PropertyError(f"found property {name!r} {names.count(name)} times, expected once (option properties)")


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
