"""Training images on their way to a model."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)  # eq would compare arrays
class TrainingImages:
    """Training images as one array of bytes.

    pixels: uint8 (k, 3, side, side). flip: bool (k,), whether an image may be mirrored. condition: the label
    or caption of each image, for models that are conditioned on one, else None.
    """

    pixels: NDArray[np.uint8]
    flip: NDArray[np.bool_]
    condition: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.pixels)
