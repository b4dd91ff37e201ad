"""Training images on their way to a model."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Images:
    """Training images as one array of bytes.

    pixels: uint8 (k, 3, side, side); flip: bool (k,), whether an image may be mirrored.
    """

    pixels: NDArray[np.uint8]
    flip: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.pixels)
