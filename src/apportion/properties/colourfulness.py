"""Colourfulness by Hasler and Süsstrunk 2003 ("Measuring colourfulness in natural images", section 7), which
needs no feature network."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def colourfulness_p90(pixels: NDArray[np.uint8]) -> float:
    """90th percentile of the colourfulness of uint8 images (k, 3, height, width)."""
    return float(np.percentile([colourfulness(image) for image in pixels], 90))


def colourfulness(image: NDArray[np.uint8]) -> float:
    """σ + 0.3 μ of one uint8 image (3, height, width), over its opponent colours red − green and yellow −
    blue; 0 for grey."""
    red, green, blue = image.astype(np.float64)
    opponents: Array = np.stack([red - green, (red + green) / 2 - blue]).reshape(2, -1)
    return float(np.hypot(*opponents.std(axis=1)) + 0.3 * np.hypot(*opponents.mean(axis=1)))
