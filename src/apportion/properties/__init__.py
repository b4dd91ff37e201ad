"""Images to numbers: the global properties of a generative model. METHODS.md §4."""

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
