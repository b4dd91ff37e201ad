"""From arrays of images to PNG data URIs. Many images go into one sprite, so that a page stays small and
loads nothing."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from apportion.errors import DataError

ImageArray = NDArray[np.uint8]
"""Images (k, side, side, 3), RGB."""

GRID_WIDTH = 280
"""Pixels of the page up to which a grid is enlarged."""
GAP = 1
"""Transparent pixels between the cells of a sprite."""
PIXEL_ART = 32
"""Images up to this side are enlarged with hard edges."""


@dataclass(frozen=True)
class Sprite:
    """Images in rows and columns of one PNG. cell: the side of each image in it; images repeat every `cell +
    GAP` pixels."""

    uri: str
    columns: int
    rows: int
    cell: int

    @property
    def width(self) -> int:
        return self.columns * (self.cell + GAP) - GAP

    @property
    def height(self) -> int:
        return self.rows * (self.cell + GAP) - GAP

    @property
    def zoom(self) -> int:
        """How many times a grid is enlarged in the page: a whole number, so that its pixels stay square."""
        return max(1, GRID_WIDTH // self.width)

    @property
    def pixel_art(self) -> bool:
        return self.cell <= PIXEL_ART


def sprite(rows: Sequence[ImageArray], cell: int) -> Sprite:
    """A sprite with one row per array (k, side, side, 3); images larger than `cell` are scaled down to it by
    averaging.

    Raises DataError for arrays of another form.
    """
    for images in rows:
        _check(images)
    side = min(cell, max(images.shape[1] for images in rows))
    columns = max(len(images) for images in rows)
    sheet = np.zeros((len(rows), side + GAP, columns, side + GAP, 4), np.uint8)
    for row, images in zip(sheet, rows, strict=True):
        for column, image in enumerate(images):
            row[:side, column, :side, :3] = _fit(image, side)
            row[:side, column, :side, 3] = 255
    flat = sheet.reshape(len(rows) * (side + GAP), columns * (side + GAP), 4)
    return Sprite(_png(flat[:-GAP, :-GAP]), columns, len(rows), side)


def grid(images: ImageArray, columns: int, cell: int) -> Sprite:
    """A sprite of images (k, side, side, 3), row by row, `columns` in each row. Raises DataError for another
    form."""
    _check(images)
    return sprite([images[start : start + columns] for start in range(0, len(images), columns)], cell)


def _check(images: ImageArray) -> None:
    if (
        images.ndim != 4
        or images.dtype != np.uint8
        or images.shape[1] != images.shape[2]
        or images.shape[3] != 3
        or not images.size
    ):
        raise DataError(
            f"found images {images.dtype} {images.shape} for the report, expected uint8 (k, side, side, 3) "
            "with k ≥ 1"
        )


def _fit(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """One image (side, side, 3), scaled to another side."""
    if image.shape[0] == side:
        return image
    method = Image.Resampling.BOX if image.shape[0] > side else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(image).resize((side, side), method))


def _png(pixels: NDArray[np.uint8]) -> str:
    """The data URI of one image (height, width, 4), RGBA."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
