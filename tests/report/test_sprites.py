"""Sprites show the images that they were made of, each at its place."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from apportion.errors import DataError
from apportion.report.images import GAP, grid, sprite

RNG = np.random.default_rng(0)


def decoded(picture):
    """The pixels (height, width, 4) of a sprite."""
    head, _, body = picture.uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body))))


def test_every_image_of_a_grid_is_at_its_place():
    images = RNG.integers(256, size=(10, 16, 16, 3), dtype=np.uint8)
    picture = grid(images, 4, 64)
    pixels = decoded(picture)
    assert (picture.rows, picture.columns) == (3, 4)
    assert pixels.shape == (picture.height, picture.width, 4)
    for i, image in enumerate(images):
        y, x = (i // 4) * (16 + GAP), (i % 4) * (16 + GAP)
        np.testing.assert_array_equal(pixels[y : y + 16, x : x + 16, :3], image)
    assert not pixels[-16:, 2 * (16 + GAP) :, 3].any()
    assert picture.pixel_art


def test_rows_may_differ_in_number_and_large_images_are_averaged_down():
    small = RNG.integers(256, size=(2, 16, 16, 3), dtype=np.uint8)
    large = np.full((3, 128, 128, 3), 9, np.uint8)
    picture = sprite([small, large], 64)
    assert (picture.rows, picture.columns, picture.cell, picture.pixel_art) == (2, 3, 64, False)
    second_row = decoded(picture)[65:]
    opaque = second_row[..., 3].any(axis=0)
    assert (second_row[:, opaque, :3] == 9).all()


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 8, 8, 3)),
        np.zeros((2, 8, 9, 3), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
        np.zeros((8, 8, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(images):
    with pytest.raises(DataError, match="expected uint8"):
        sprite([images], 64)
