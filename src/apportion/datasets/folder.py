"""A user's own images: one sub-folder per contributor, or a CSV or parquet table
`path,contributor[,label][,joined]` (docs/images.md).

Every image becomes RGB of one size: the EXIF orientation is applied, transparency is composed on white,
16-bit grey is scaled to 8 bits, and only the first frame of an animation is used. Colour profiles are not
applied. No file outside the folder, or outside the folder of the table, is ever read.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from apportion.config.data import Folder
from apportion.datasets.contribution import Contribution, enough, first
from apportion.datasets.decoding import SIGNATURES, UnfitError, decoded, limits
from apportion.datasets.entries import Entry
from apportion.datasets.names import alike, like_missing, refuse_names
from apportion.datasets.sameness import check_pictures
from apportion.datasets.table import entries_of_table
from apportion.datasets.tree import entries_of_folders
from apportion.errors import DataError
from apportion.progress import bar

log = logging.getLogger(__name__)

UNFIT = {
    "unreadable": "files that cannot be read as images, expected complete {formats} files: replace or remove "
    "them (data.path)",
    "large": "images of more than {max_pixels} pixels (decompression bombs?): shrink them or, where there is "
    "memory for 12 bytes a pixel, raise data.max_pixels",
    "size": "images of another size, expected {side}x{side}: set data.resize=crop to crop and shrink them "
    "(data.resolution)",
    "small": "images smaller than {side}x{side}, expected that size or more, because no image is enlarged: "
    "remove them or lower data.resolution",
}
"""The kinds of image that cannot be used, and how the error lists them."""


def load(data: Folder) -> list[Contribution]:
    """One contribution per contributor, sorted by name.

    Raises DataError, which lists the first problems of each kind: unusable names, files that are not images
    or lie outside the folder, unreadable or damaged images, wrong sizes (data.resize, data.resolution,
    data.max_pixels), too few different images (data.min_images), fewer than two contributors. Logs what was
    passed over, and what is worth a second look.
    """
    try:
        path = Path(data.path).expanduser()
        entries = entries_of_folders(path.resolve()) if path.is_dir() else entries_of_table(path)
    # RuntimeError: ~ of an unknown user, or folders nested without end. ValueError: no path at all
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"cannot read {data.path} (data.path): {error}") from error
    refuse_names(list(entries))
    _warn_of_names(entries)
    enough({name: len(own) for name, own in entries.items()}, data.min_images)
    pixels = _pixels([entry for own in entries.values() for entry in own], data)
    contributions = [_contribution(name, entries[name], pixels, data.flip) for name in sorted(entries)]
    check_pictures(contributions, data.min_images)
    return contributions


def _contribution(
    name: str, entries: Sequence[Entry], pixels: dict[Path, NDArray[np.uint8]], flip: bool
) -> Contribution:
    labels = tuple(entry.label for entry in entries)
    return Contribution(
        name=name,
        pixels=np.stack([pixels[entry.file] for entry in entries]),
        flip=np.full(len(entries), flip),
        titles=tuple(entry.title for entry in entries),
        joined=min((entry.joined for entry in entries if entry.joined), default=None),
        label=labels if any(labels) else None,
    )


def _warn_of_names(entries: Mapping[str, Sequence[Entry]]) -> None:
    for warning in alike(entries):
        log.warning(warning)
    for name, own in entries.items():
        if like_missing(name):
            log.warning(
                "the contributor %r reads like a missing value, as pandas and other tools write it, and is "
                "credited under that name (data.path): %s",
                name,
                ", ".join(first([entry.row or entry.title for entry in own])),
            )


def _pixels(entries: Sequence[Entry], data: Folder) -> dict[Path, NDArray[np.uint8]]:
    """The image (side, side, 3) of every file. Raises one DataError about all images that cannot be used."""
    pixels: dict[Path, NDArray[np.uint8]] = {}
    unfit: dict[str, list[str]] = {kind: [] for kind in UNFIT}
    titles_by_remark: dict[str, list[str]] = {}
    with bar(len(entries), "read", "image") as progress:
        for entry in entries:
            progress.update()
            if entry.file in pixels:
                continue  # a table may list an image for two contributors
            try:
                image, remarks = decoded(entry.file, data.max_pixels)
                with limits():
                    pixels[entry.file] = np.asarray(fitted(on_white(image), data))
                for remark in remarks:
                    titles_by_remark.setdefault(remark, []).append(entry.title)
            except UnfitError as error:
                unfit[error.kind].append(f"{entry.title}: {error}")
    for remark, titles in titles_by_remark.items():
        log.warning("%s: %s", ", ".join(first(titles)), remark)
    words = {
        "side": data.resolution,
        "max_pixels": data.max_pixels,
        "formats": ", ".join(SIGNATURES),
    }
    messages = []
    for kind, problems in unfit.items():
        if problems:
            heading = f"found {len(problems)} {UNFIT[kind].format(**words)}:"
            messages.append("\n  ".join([heading, *first(problems)]))
    if messages:
        raise DataError("\n".join(messages))
    return pixels


def on_white(image: Image.Image) -> Image.Image:
    """The image as 8-bit RGB, with what is transparent composed on white."""
    if image.mode.startswith("I;16"):
        # Pillow would clip 16 bits to 8, which makes all but the darkest grey white.
        image = _eight_bits(image)
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    colours = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours).convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    grey = np.asarray(image).astype(np.uint16)
    if "transparency" in image.info:
        grey = np.where(grey == image.info["transparency"], np.uint16(65535), grey)
    return Image.fromarray(np.round(grey / 257).astype(np.uint8))


def fitted(image: Image.Image, data: Folder) -> Image.Image:
    """The image at data.resolution: as it is or, with data.resize=crop, its middle square scaled down. Raises
    UnfitError for an image of another size that must not be cropped, or that is smaller."""
    width, height = image.size
    side = min(width, height)
    if side < data.resolution:
        raise UnfitError("small", f"{width}x{height} pixels")
    if width == height == data.resolution:
        return image
    if data.resize == "refuse":
        raise UnfitError("size", f"{width}x{height} pixels")
    left, top = (width - side) // 2, (height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return square.resize((data.resolution, data.resolution), Image.Resampling.LANCZOS)
