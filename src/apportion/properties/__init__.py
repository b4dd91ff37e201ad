"""The global properties of a generative model, computed from its images (docs/methods.md, "Properties").

A new property is a row of PROPERTIES and a module with its function (docs/architecture.md).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from apportion.errors import PropertyError
from apportion.properties import cluster_entropy, colourfulness, fid, inception_score
from apportion.properties.reference import Reference

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PropertyInput:
    """What a property is computed from: generated images as pixels uint8 (k, 3, side, side), their features
    (k, d) and class probabilities (k, classes), and the reference that images are compared with."""

    pixels: NDArray[np.uint8]
    features: Array
    probabilities: Array
    reference: Reference


@dataclass(frozen=True)
class Property:
    """One property. `meaning` is for readers of the report; `higher_is_better` is None where more is neither
    better nor worse; `fewest_images` is the number of images that it needs to have a value."""

    name: str
    function: Callable[[PropertyInput], float]
    higher_is_better: bool | None
    needs_network: bool
    needs_reference: bool
    meaning: str
    fewest_images: int = 1


PROPERTIES: dict[str, Property] = {
    "inception_score": Property(
        "inception_score",
        lambda images: inception_score.inception_score(images.probabilities),
        higher_is_better=True,
        needs_network=True,
        needs_reference=False,
        meaning="how clearly each image shows one class, and how many classes all images show together; "
        "the lowest value is 1",
    ),
    "fid": Property(
        "fid",
        lambda images: fid.fid(images.features, images.reference.mean, images.reference.covariance),
        higher_is_better=False,
        needs_network=True,
        needs_reference=True,
        meaning="how far the generated images are from all training images, in the features of the feature "
        "network; the lowest value, 0, is the closest",
        fewest_images=2,
    ),
    "cluster_entropy": Property(
        "cluster_entropy",
        lambda images: cluster_entropy.cluster_entropy(images.features, images.reference.centroids),
        higher_is_better=True,
        needs_network=True,
        needs_reference=True,
        meaning="how evenly the images spread over the kinds of image that the base model makes; 0 means "
        "that all are of one kind",
    ),
    "colourfulness_p90": Property(
        "colourfulness_p90",
        lambda images: colourfulness.colourfulness_p90(images.pixels),
        higher_is_better=None,
        needs_network=False,
        needs_reference=False,
        meaning="how colourful the more colourful images are: a tenth of the images is above this value; 0 "
        "means grey",
    ),
}


def check(names: Sequence[str]) -> None:
    """Raises PropertyError for a name that is not a property, or that occurs twice."""
    for name in names:
        if name not in PROPERTIES:
            close = get_close_matches(name, PROPERTIES)
            hint = f" (did you mean {' or '.join(close)}?)" if close else ""
            raise PropertyError(
                f"found property {name!r}{hint}, expected some of {', '.join(PROPERTIES)} (option properties)"
            )
        if names.count(name) > 1:
            raise PropertyError(
                f"found property {name!r} {names.count(name)} times, expected once (option properties)"
            )
