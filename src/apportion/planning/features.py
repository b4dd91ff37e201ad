"""Whether a feature network and properties fit the training images: `plan` embeds some of them, so that what
cannot work is refused before a model is trained."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from apportion.datasets.contribution import Contribution
from apportion.errors import DataError, PropertyError

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

MOST = 1024
"""Images that are embedded, about equally many of each contributor."""
SAME_UP_TO = 1e-6
"""Features that differ by less than this share of their size are the same."""
FEW_CLASSES = 2


def check_features(
    network: bytes, origin: str, names: Sequence[str], contributions: Sequence[Contribution]
) -> None:
    """Raises PropertyError where `network` is not one, where its features or class probabilities are not
    finite or the same for all images, or where it has too few classes for the Inception score, and DataError
    where all images are the same."""
    from apportion.properties.network import embed, load  # torch is imported only where it is needed

    pixels = _some(contributions)
    features, probabilities = embed(load(network, origin), pixels)
    used = {"features": features}
    if "inception_score" in names:
        used["class probabilities"] = probabilities
        if (classes := probabilities.shape[1]) < FEW_CLASSES:
            raise PropertyError(
                f"found {classes} classes in the feature network {origin}, expected 2 or more for "
                "inception_score: leave it out of properties, or choose a classifier or `network: train` "
                "(option network)"
            )
    for what, rows in used.items():
        wrong = int((~np.isfinite(rows).all(axis=1)).sum())
        if wrong:
            raise PropertyError(
                f"found {what} that are not finite, of {wrong} of {len(rows)} training images, in the "
                f"feature network {origin}, expected finite ones: its weights are damaged or its training "
                "diverged; choose another (option network)"
            )
        if len(rows) > 1 and _alike(rows):
            if _same(pixels):
                raise DataError("found the same picture in all images, expected different ones (data.path)")
            raise PropertyError(
                f"found the same {what} for all of {len(rows)} different training images, in the feature "
                f"network {origin}, expected {what} that tell images apart: choose another (option network)"
            )


def warn_of_properties(names: Sequence[str], given: Sequence[Contribution], classes: int) -> None:
    """Logs a warning for each property that would measure something else than its name says."""
    if "colourfulness_p90" in names and all(_is_grey(c.pixels) for c in given):
        log.warning(
            "all images are grey, so colourfulness_p90 measures only the colour noise of generated images "
            "(properties)"
        )
    if "inception_score" in names and classes == FEW_CLASSES:
        log.warning(
            "the feature network tells two classes apart, so inception_score is at most 2 and says little "
            "about diversity (properties, network)"
        )


def _some(given: Sequence[Contribution]) -> "torch.Tensor":
    """Images uint8 (k, 3, side, side), at most about MOST, evenly from each contributor's."""
    import torch

    each = max(1, -(-MOST // len(given)))
    parts = [c.pixels[np.unique(np.linspace(0, len(c) - 1, min(each, len(c))).astype(int))] for c in given]
    return torch.from_numpy(np.ascontiguousarray(np.concatenate(parts).transpose(0, 3, 1, 2)))


def _same(pixels: "torch.Tensor") -> bool:
    return bool((pixels == pixels[:1]).all())


def _alike(rows: NDArray[np.float64]) -> bool:
    """Whether all rows (k, d) are the same up to rounding."""
    size = float(np.abs(rows).max(initial=0.0))
    return len(rows) > 1 and float(np.ptp(rows, axis=0).max(initial=0.0)) <= SAME_UP_TO * size


def _is_grey(pixels: NDArray[np.uint8]) -> bool:
    return bool((pixels == pixels[..., :1]).all())
