"""Whether what contributors gave are different pictures that show something."""

import logging
from collections.abc import Sequence

import numpy as np

from apportion.datasets.contribution import Contribution, first
from apportion.errors import DataError

log = logging.getLogger(__name__)


def check_pictures(contributions: Sequence[Contribution], min_images: int) -> None:
    """Warns of images of one colour and of exact copies within a contribution. Raises DataError where a
    contributor gave fewer than `min_images` different images, or several that are all the same, or where all
    images of all contributors are the same. Images that differ in a single pixel are different."""
    _warn(
        [title for contribution in contributions for title in _blank(contribution)],
        "images show nothing but one colour, once transparency is white and only the first frame is used",
    )
    _warn(
        [copy for contribution in contributions for copy in _copies(contribution)],
        "images are exact copies of another one of the same contributor: all are trained on, and they count "
        "once for data.min_images",
    )
    few = [
        message
        for contribution in contributions
        if (message := _too_few(contribution, min_images)) is not None
    ]
    if not few and len({pixels for c in contributions for pixels in c.pixel_hashes}) == 1:
        few = ["found one picture, given by every contributor, expected different ones (data.path)"]
    if few:
        raise DataError("\n".join(first(few)))


def _warn(titles: Sequence[str], what: str) -> None:
    if titles:
        log.warning("%d %s (data.path): %s", len(titles), what, ", ".join(first(titles)))


def _blank(contribution: Contribution) -> list[str]:
    pixels = contribution.pixels.reshape(len(contribution), -1, 3)
    one_colour = np.all(pixels == pixels[:, :1], axis=(1, 2))
    return [title for title, blank in zip(contribution.titles, one_colour, strict=True) if blank]


def _copies(contribution: Contribution) -> list[str]:
    originals: dict[str, str] = {}
    copies = []
    for pixels, title in zip(contribution.pixel_hashes, contribution.titles, strict=True):
        if originals.setdefault(pixels, title) != title:
            copies.append(f"{title} (as {originals[pixels]})")
    return copies


def _too_few(contribution: Contribution, min_images: int) -> str | None:
    different, given = len(set(contribution.pixel_hashes)), len(contribution)
    if different >= min_images and (different > 1 or given == 1):
        return None
    needed = max(min_images, 2)
    return (
        f"found {different} different images for contributor {contribution.name!r}, and {given - different} "
        f"exact copies, need at least {needed} different ones (data.min_images)"
    )
