"""What one contributor gave, addressed by its content; and the refusals that every source of images shares."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from apportion.config import digest
from apportion.errors import DataError

SHOWN = 10  # problems that one message lists; it says how many there are in all


@dataclass(frozen=True, eq=False)  # eq would compare arrays, which have no single truth value
class Contribution:
    """The images of one contributor, k of them, put in the order of their sample hashes so that the order of files never matters.

    pixels (k, side, side, 3) RGB; flip (k,): training may mirror the image; titles: file or drawing name per image; joined: ISO date;
    label: a class per image, where the source knows one. Raises DataError where the parts do not fit together.
    """

    name: str
    pixels: NDArray[np.uint8]
    flip: NDArray[np.bool_]
    titles: tuple[str, ...]
    joined: str | None = None
    label: tuple[str | None, ...] | None = None

    def __post_init__(self) -> None:
        self._check()
        labels = self.label or ("",) * len(self.titles)
        hashes = [_hash(*sample) for sample in zip(self.pixels, self.flip, strict=True)]
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
        """One per image, ascending: all that training sees of it (shape, pixels, whether it may be mirrored)."""
        return tuple(_hash(*sample) for sample in zip(self.pixels, self.flip, strict=True))

    @cached_property
    def pixel_hashes(self) -> tuple[str, ...]:
        """One per image, in the order of the images: the same picture has the same hash, however training may treat it."""
        return tuple(_hash(image) for image in self.pixels)

    @property
    def data_hash(self) -> str:
        """Address of the whole contribution. Name, titles, labels and date are no part of it: they do not change a model."""
        return digest(sorted(self.sample_hashes))

    def _check(self) -> None:
        k, side = len(self.titles), self.pixels.shape[1:2]
        fits = self.pixels.shape == (k, *side, *side, 3) and self.flip.shape == (k,) and len(self.label or self.titles) == k
        if not (k and fits and self.pixels.dtype == np.uint8 and self.flip.dtype == np.bool_):
            pixels, flip = (f"{part.dtype} {part.shape}" for part in (self.pixels, self.flip))
            raise DataError(
                f"found pixels {pixels}, flip {flip}, {k} titles and {len(self.label or ())} labels for contributor {self.name!r}, "
                "expected uint8 (k, side, side, 3), bool (k,), k titles and k labels or none"
            )


def _hash(image: NDArray[np.uint8], flip: np.bool_ | None = None) -> str:
    whole = hashlib.sha256(str(image.shape).encode())
    whole.update(np.ascontiguousarray(image).data)
    if flip is not None:
        whole.update(b"\1" if flip else b"\0")
    return whole.hexdigest()[:32]


def enough(counts: Mapping[str, int], min_images: int) -> None:
    """Raises DataError unless there are at least two contributors and each gave `min_images` images."""
    if len(counts) < 2:
        raise DataError(f"found {len(counts)} contributors {sorted(counts)}, need at least 2 to share credit among (data.path)")
    few = [
        f"found {count} images for contributor {name!r}, need at least {min_images} (data.min_images)"
        for name, count in sorted(counts.items())
        if count < min_images
    ]
    if few:
        raise DataError("\n".join(first(few)))


def refuse(found: Sequence[str], what: str, expected: str) -> None:
    """Raises DataError that lists `found`, if anything was."""
    if found:
        raise DataError("\n  ".join([f"found {len(found)} {what}, expected {expected}:", *first(found)]))


def first(lines: Sequence[str]) -> list[str]:
    """The first SHOWN lines, and a last one that counts the rest."""
    rest = len(lines) - SHOWN
    return [*lines[:SHOWN], f"… and {rest} more"] if rest > 0 else list(lines)
