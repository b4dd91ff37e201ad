"""Colourfulness of images of which it is known, and computed pixel by pixel."""

import math
from statistics import fmean, pstdev

import numpy as np
import pytest

from apportion.properties.colourfulness import colourfulness, colourfulness_p90


def plain(*rgb, side=4):
    return np.tile(np.array(rgb, np.uint8)[:, None, None], (1, side, side))


def test_grey_is_zero():
    grey = np.random.default_rng(0).integers(256, size=(1, 8, 8), dtype=np.uint8)
    assert colourfulness(grey.repeat(3, axis=0)) == 0
    assert colourfulness_p90(np.stack([plain(0, 0, 0), plain(255, 255, 255), plain(7, 7, 7)])) == 0


@pytest.mark.parametrize(
    ("rgb", "mean"),
    [
        ((255, 0, 0), math.hypot(255, 127.5)),
        ((0, 0, 255), 255),
        ((255, 255, 0), 255),
        ((0, 255, 0), math.hypot(255, 127.5)),
    ],
)
def test_one_colour_has_no_deviation(rgb, mean):
    assert colourfulness(plain(*rgb)) == pytest.approx(0.3 * mean)


def test_half_red_half_green():
    image = np.concatenate([plain(255, 0, 0), plain(0, 255, 0)], axis=2)
    # red − green is 255 or −255; yellow − blue is 127.5 everywhere
    assert colourfulness(image) == pytest.approx(255 + 0.3 * 127.5)


def test_pixel_by_pixel():
    image = np.random.default_rng(1).integers(256, size=(3, 5, 7), dtype=np.uint8)
    pixels = [tuple(map(int, image[:, y, x])) for y in range(5) for x in range(7)]
    rg = [r - g for r, g, _ in pixels]
    yb = [0.5 * (r + g) - b for r, g, b in pixels]
    expected = math.hypot(pstdev(rg), pstdev(yb)) + 0.3 * math.hypot(fmean(rg), fmean(yb))
    assert colourfulness(image) == pytest.approx(expected, rel=1e-12)


def test_percentile_over_images_interpolates():
    # The colourfulness is 0, 3, …, 15. The 90th percentile of 6 values is halfway between the 5th and the
    # 6th.
    images = np.stack([plain(0, 0, 10 * i) for i in range(6)])
    assert colourfulness_p90(images[[3, 0, 5, 1, 4, 2]]) == pytest.approx(13.5)
