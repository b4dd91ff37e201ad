"""Arrays of images to PNG data URIs: one sprite for many images, so that a page stays small and needs nothing from elsewhere."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from apportion.errors import DataError

Images = NDArray[np.uint8]  # (k, side, side, 3)

WIDE = 280  # pixels of the page that a grid takes at most, unless it has more itself
GAP = 1  # transparent pixels between the cells of a sprite
PIXEL_ART = 32  # up to this side, images are enlarged with hard edges


@dataclass(frozen=True)
class Sprite:
    """Images in rows and columns of one PNG; `cell` is their side in it, and cells lie `cell + GAP` apart."""

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
        """A whole number of times to enlarge a grid for the page, so that its pixels stay square."""
        return max(1, WIDE // self.width)

    @property
    def pixel_art(self) -> bool:
        return self.cell <= PIXEL_ART


def sprite(rows: Sequence[Images], cell: int) -> Sprite:
    """One row of the sprite per array (k, side, side, 3); sides larger than `cell` are averaged down to it.

    Raises DataError for arrays of another form."""
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


def grid(images: Images, columns: int, cell: int) -> Sprite:
    """Images (k, side, side, 3) line by line, `columns` to a line."""
    _check(images)
    return sprite([images[start : start + columns] for start in range(0, len(images), columns)], cell)


def _check(images: Images) -> None:
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[1] != images.shape[2] or images.shape[3] != 3 or not images.size:
        raise DataError(f"found images {images.dtype} {images.shape} for the report, expected uint8 (k, side, side, 3) with k ≥ 1")


def _fit(image: Images, side: int) -> Images:
    if image.shape[0] == side:
        return image
    kind = Image.Resampling.BOX if image.shape[0] > side else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(image).resize((side, side), kind))


def _png(pixels: Images) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
