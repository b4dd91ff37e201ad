"""The images of one contributor, addressed by their content; and checks that all sources of images share."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from apportion.config.hashing import digest
from apportion.errors import DataError

LISTED = 10
"""The number of problems that one message lists; it also says how many there are in all."""


@dataclass(frozen=True, eq=False)  # eq would compare arrays, which have no single truth value
class Contribution:
    """The images of one contributor, k of them, sorted by their sample hashes, so that the order of files
    never matters.

    pixels: (k, side, side, 3), RGB. flip: (k,), whether training may mirror the image. titles: the name of
    each file or drawing. joined: ISO date. label: the class of each image, where the source has one.
    conditioned: whether models are conditioned on the label, which is then part of an image's hash. Raises
    DataError where the parts do not fit together, or where models are conditioned on labels and an image has
    none.
    """

    name: str
    pixels: NDArray[np.uint8]
    flip: NDArray[np.bool_]
    titles: tuple[str, ...]
    joined: str | None = None
    label: tuple[str | None, ...] | None = None
    conditioned: bool = False

    def __post_init__(self) -> None:
        self._check()
        labels = self.label or ("",) * len(self.titles)
        hashes = self._hashes()
        order = sorted(range(len(hashes)), key=lambda i: (hashes[i], self.titles[i], labels[i] or ""))
        object.__setattr__(self, "pixels", self.pixels[order])
        object.__setattr__(self, "flip", self.flip[order])
        object.__setattr__(self, "titles", tuple(self.titles[i] for i in order))
        if self.label is not None:
            object.__setattr__(self, "label", tuple(self.label[i] for i in order))

    def __len__(self) -> int:
        return len(self.titles)

    @cached_property
    def sample_hashes(self) -> tuple[str, ...]:
        """One hash per image, ascending: of all that training uses of it (shape, pixels, whether it may be
        mirrored, and the label where models are conditioned on it)."""
        return tuple(self._hashes())

    def _hashes(self) -> list[str]:
        conditions = self.label if self.conditioned and self.label else [None] * len(self)
        return [_hash(*sample) for sample in zip(self.pixels, self.flip, conditions, strict=True)]

    @cached_property
    def pixel_hashes(self) -> tuple[str, ...]:
        """One hash per image, in the order of the images, of its shape and pixels alone."""
        return tuple(_hash(image) for image in self.pixels)

    @property
    def data_hash(self) -> str:
        """Address of the whole contribution. Name, titles and date are not part of it, because they do not
        change a model; labels are part of it only where models are conditioned on them."""
        return digest(sorted(self.sample_hashes))

    def _check(self) -> None:
        k = len(self.titles)
        side = self.pixels.shape[1:2]
        shapes_fit = (
            k > 0
            and self.pixels.shape == (k, *side, *side, 3)
            and self.flip.shape == (k,)
            and len(self.label or self.titles) == k
        )
        if not (shapes_fit and self.pixels.dtype == np.uint8 and self.flip.dtype == np.bool_):
            pixels, flip = (f"{part.dtype} {part.shape}" for part in (self.pixels, self.flip))
            raise DataError(
                f"found pixels {pixels}, flip {flip}, {k} titles and {len(self.label or ())} labels for "
                f"contributor {self.name!r}, expected uint8 (k, side, side, 3), bool (k,), k titles and k "
                "labels or none"
            )
        if self.conditioned and not all(self.label or [None]):
            raise DataError(
                f"found images of contributor {self.name!r} without a label, expected one for each: the "
                "model family is conditioned on labels (model.family, data.path)"
            )


def _hash(image: NDArray[np.uint8], flip: np.bool_ | None = None, condition: str | None = None) -> str:
    whole = hashlib.sha256(str(image.shape).encode())
    whole.update(np.ascontiguousarray(image).data)
    if flip is not None:
        whole.update(b"\1" if flip else b"\0")
    if condition is not None:
        whole.update(b"condition:" + condition.encode())
    return whole.hexdigest()[:32]


def enough(counts: Mapping[str, int], min_images: int) -> None:
    """Raises DataError unless there are at least two contributors and each gave `min_images` images."""
    if len(counts) < 2:
        raise DataError(
            f"found {len(counts)} contributors {sorted(counts)}, need at least 2 to share credit among "
            "(data.path)"
        )
    few = [
        f"found {count} images for contributor {name!r}, need at least {min_images} (data.min_images)"
        for name, count in sorted(counts.items())
        if count < min_images
    ]
    if few:
        raise DataError("\n".join(first(few)))


def refuse(problems: Sequence[str], what: str, expected: str) -> None:
    """Raises DataError that lists the problems, if there are any. what: what they are."""
    if problems:
        raise DataError(
            "\n  ".join([f"found {len(problems)} {what}, expected {expected}:", *first(problems)])
        )


def first(lines: Sequence[str]) -> list[str]:
    """The first LISTED lines, and a last one with the number of the others."""
    rest = len(lines) - LISTED
    return [*lines[:LISTED], f"… and {rest} more"] if rest > 0 else list(lines)
