"""A user's own images: one sub-folder per contributor, or a CSV or parquet table
`path,contributor[,label][,joined]` (docs/images.md).

Every image becomes RGB of one size: the EXIF orientation is applied, transparency is composed on white,
16-bit grey is scaled to 8 bits, and only the first frame of an animation is used. Colour profiles are not
applied. No file outside the folder, or outside the folder of the table, is ever read.
"""

import csv
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path, PurePath
from typing import NamedTuple
from unicodedata import normalize

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, ImageOps

from apportion.config.data import Folder
from apportion.datasets.contribution import Contribution, enough, first, refuse
from apportion.errors import DataError
from apportion.progress import bar

log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
"""The decoders that Pillow may use. The content of a file decides which, whatever its suffix."""
LITTER = {"thumbs.db", "desktop.ini", "__macosx"}
"""Files and folders that operating systems leave behind."""
REQUIRED = ("path", "contributor")
OPTIONAL = ("label", "joined")
NAME_LENGTH = 100
MAX_PIXELS = 80_000_000
"""Pixels. A larger image is a decompression bomb, or far larger than data.resolution can be."""

UNFIT = {
    "unreadable": "files that cannot be read as images, expected complete {suffixes}: replace or remove them "
    "(data.path)",
    "size": "images of another size, expected {side}x{side}: set data.resize=crop to crop and shrink them "
    "(data.resolution)",
    "small": "images smaller than {side}x{side}, expected that size or more, because no image is enlarged: "
    "remove them or lower data.resolution",
}
"""The kinds of image that cannot be used, and how the error lists them."""


class UnfitError(DataError):
    """One image that cannot be used; `kind` is a key of UNFIT."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


class Entry(NamedTuple):
    """An image to read. title: its path below the folder. row: where the table lists it."""

    contributor: str
    file: Path
    title: str
    label: str | None = None
    joined: str | None = None
    row: str = ""


class SampleTable(NamedTuple):
    """A table as text. rows: where each row is, and its cells; an empty cell is None or ""."""

    columns: list[str]
    rows: list[tuple[str, list[str | None]]]


def load(data: Folder) -> list[Contribution]:
    """One contribution per contributor, sorted by name.

    Raises DataError, which lists the first problems of each kind: unusable names, files that are not images
    or lie outside the folder, unreadable images, wrong sizes (data.resize, data.resolution), too few images
    (data.min_images), fewer than two contributors.
    """
    try:
        path = Path(data.path).expanduser()
        entries = _from_folders(path.resolve()) if path.is_dir() else _from_table(path)
    # RuntimeError: ~ of an unknown user, or folders nested without end
    except (OSError, RuntimeError) as error:
        raise DataError(f"cannot read {data.path} (data.path): {error}") from error
    _refuse_names(list(entries))
    enough({name: len(own) for name, own in entries.items()}, data.min_images)
    pixels = _pixels([entry for own in entries.values() for entry in own], data)
    return [_contribution(name, entries[name], pixels, data.flip) for name in sorted(entries)]


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


# One sub-folder per contributor


def _from_folders(root: Path) -> dict[str, list[Entry]]:
    """Entries by contributor; a contributor with an empty folder has none."""
    paths = sorted(root.iterdir())
    hidden = [repr(path.name) for path in paths if path.name.startswith(".") and _holds_images(path)]
    if hidden:
        log.warning(
            "hidden folders are ignored, but %s hold images: rename a folder that is a contributor's "
            "(data.path)",
            ", ".join(hidden),
        )
    folders = [path for path in paths if not _is_hidden(path)]
    if not folders:
        raise DataError(f"found no folders in {root}, expected one per contributor (data.path)")
    others = [repr(path.name) for path in folders if not path.is_dir() or path.is_symlink()]
    refuse(others, f"files or links in {root}", "only folders there, one per contributor (data.path)")
    entries: dict[str, list[Entry]] = {}
    for folder in folders:
        name = _composed(folder.name)
        own = entries.setdefault(name, [])
        for file in _files(folder):
            own.append(Entry(name, file, _printable(file.relative_to(root).as_posix())))
    _refuse_files([entry for own in entries.values() for entry in own], root)
    return entries


def _holds_images(folder: Path) -> bool:
    return any(path.suffix.lower() in SUFFIXES for path in folder.rglob("*"))


def _files(folder: Path) -> Iterator[Path]:
    """Everything below a folder that is not a folder itself. A link to a folder is not followed, because it
    may lead in a circle; it is refused later, because it is not a file."""
    for path in sorted(folder.iterdir()):
        if _is_hidden(path):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _files(path)
        else:
            yield path


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in LITTER


# A table


def _from_table(path: Path) -> dict[str, list[Entry]]:
    """Entries by contributor."""
    if path.suffix.lower() not in READERS or not path.is_file():
        raise DataError(
            f"found no folder and no .csv or .parquet table at {path}, expected one of them (data.path)"
        )
    try:
        table = READERS[path.suffix.lower()](path)
    except (ValueError, csv.Error, pa.ArrowException) as error:
        raise DataError(f"cannot read the table {path} (data.path): {error}") from error
    root = path.parent.resolve()
    rows = _entries(table, path, root)
    _refuse_rows(rows, path, root)
    entries: dict[str, list[Entry]] = {}
    for entry in rows:
        entries.setdefault(entry.contributor, []).append(entry)
    return entries


def _csv(path: Path) -> SampleTable:
    with path.open(encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(text, strict=True)
        columns = next(reader, [])
        return SampleTable(columns, [(f"line {reader.line_num}", list(cells)) for cells in reader if cells])


def _parquet(path: Path) -> SampleTable:
    table = pq.ParquetFile(path, pre_buffer=False).read(use_threads=False)
    columns = [column.cast(pa.string()).to_pylist() for column in table.columns]
    rows = [(f"row {i}", list(cells)) for i, cells in enumerate(zip(*columns, strict=True), 1)]
    return SampleTable(table.column_names, rows)


READERS = {".csv": _csv, ".parquet": _parquet}


def _entries(table: SampleTable, path: Path, root: Path) -> list[Entry]:
    """The rows as entries. Raises DataError where columns or cells are missing or malformed; whether the
    paths lead to images is not checked yet."""
    _refuse_columns(table.columns, path)
    ragged = [row for row, cells in table.rows if len(cells) != len(table.columns)]
    refuse(ragged, f"rows in {path} of another length than its header", f"{len(table.columns)} cells")
    rows = {row: dict(zip(table.columns, cells, strict=True)) for row, cells in table.rows}

    missing = []
    for row, cells in rows.items():
        missing += [f"{row}: no {column}" for column in REQUIRED if not cells[column]]
    refuse(missing, f"empty cells in {path}", "a path and a contributor in every row")

    paths = {row: str(cells["path"]) for row, cells in rows.items()}
    leaving = [f"{row}: {text!r:.200}" for row, text in paths.items() if _may_leave(PurePath(text))]
    expected = "paths relative to the folder of the table"
    refuse(leaving, f"paths in {path} that are absolute or contain '..'", expected)

    days = {row: _day(cells.get("joined") or "") for row, cells in rows.items()}
    malformed = [f"{row}: {rows[row]['joined']!r:.80}" for row, day in days.items() if day is None]
    refuse(malformed, f"malformed dates under 'joined' in {path}", "dates like 2026-01-31, or empty cells")

    return [
        Entry(
            contributor=_composed(str(cells["contributor"])),
            file=root / paths[row],
            title=_printable(paths[row]),
            label=cells.get("label") or None,
            joined=days[row] or None,
            row=row,
        )
        for row, cells in rows.items()
    ]


def _refuse_columns(columns: list[str], path: Path) -> None:
    known = {*REQUIRED, *OPTIONAL}
    if not set(REQUIRED) <= set(columns) <= known or len(set(columns)) < len(columns):
        raise DataError(
            f"found the columns {columns} in {path}, expected {', '.join(REQUIRED)} and, optionally, "
            f"{', '.join(OPTIONAL)}"
        )


def _day(text: str) -> str | None:
    """The ISO date of a text that is a date or a time; "" for an empty text, None for a malformed one."""
    try:
        return text and datetime.fromisoformat(text).date().isoformat()
    except ValueError:
        return None


def _may_leave(path: PurePath) -> bool:
    return path.is_absolute() or ".." in path.parts


def _refuse_rows(entries: Sequence[Entry], path: Path, root: Path) -> None:
    if not entries:
        raise DataError(f"found no rows in {path}, expected one per image (data.path)")
    times = Counter((entry.contributor, entry.file) for entry in entries)
    repeated = [
        f"{entry.row}: {entry.title:.200}" for entry in entries if times[entry.contributor, entry.file] > 1
    ]
    refuse(repeated, f"rows in {path} that repeat an image of one contributor", "one row per image")
    _refuse_files(entries, root)


# Checks of names and files, for folders and tables


def _refuse_names(names: Sequence[str]) -> None:
    unusable = [f"{name!r:.120}" for name in names if not _is_name(name)]
    expected = f"1 to {NAME_LENGTH} printable characters, no / or \\, no space at either end"
    refuse(unusable, "contributor names that cannot be used", expected)


def _is_name(name: str) -> bool:
    characters_fit = name.isprintable() and name == name.strip() and not {"/", "\\"} & set(name)
    return characters_fit and 0 < len(name) <= NAME_LENGTH and name not in {".", ".."}


def _composed(name: str) -> str:
    """The name with composed accents: file systems and spreadsheets differ in how they write accents, and a
    contributor must have the same name in all rounds."""
    return normalize("NFC", name)


def _printable(text: str) -> str:
    """The text with line ends, control characters and undecodable bytes as escape sequences, because titles
    are shown in terminals and written as UTF-8."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _refuse_files(entries: Sequence[Entry], root: Path) -> None:
    outside = [f"{entry.title:.200}" for entry in entries if not _inside(entry.file, root)]
    refuse(outside, f"paths that lead outside {root}", "files inside it (data.path)")
    absent = [f"{entry.title:.200}" for entry in entries if not entry.file.is_file()]
    expected = "one image file each; links to folders are not followed (data.path)"
    refuse(absent, f"paths in {root} that lead to no file", expected)
    others = [f"{entry.title:.200}" for entry in entries if entry.file.suffix.lower() not in SUFFIXES]
    refuse(others, f"files in {root} that are not images", f"only {', '.join(SUFFIXES)} (data.path)")


def _inside(file: Path, root: Path) -> bool:
    try:
        return file.resolve().is_relative_to(root)
    except (OSError, RuntimeError, ValueError):  # links in a circle, or an impossible file name
        return False


# Images


def _pixels(entries: Sequence[Entry], data: Folder) -> dict[Path, NDArray[np.uint8]]:
    """The image (side, side, 3) of every file. Raises one DataError about all images that cannot be used."""
    pixels: dict[Path, NDArray[np.uint8]] = {}
    unfit: dict[str, list[str]] = {kind: [] for kind in UNFIT}
    with bar(len(entries), "read", "image") as progress:
        for entry in entries:
            try:
                pixels[entry.file] = np.asarray(fitted(picture(entry.file), data))
            except UnfitError as error:
                unfit[error.kind].append(f"{entry.title}: {error}")
            progress.update()
    words = {"side": data.resolution, "suffixes": ", ".join(SUFFIXES)}
    messages = []
    for kind, problems in unfit.items():
        if problems:
            heading = f"found {len(problems)} {UNFIT[kind].format(**words)}:"
            messages.append("\n  ".join([heading, *first(problems)]))
    if messages:
        raise DataError("\n".join(messages))
    return pixels


def picture(file: Path) -> Image.Image:
    """The image of a file as RGB: upright, on white, the first frame. Raises UnfitError where it cannot be
    decoded or is too large."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of images that MAX_PIXELS refuses below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ValueError(
                        f"{image.width}x{image.height} pixels, expected at most {MAX_PIXELS} (a "
                        "decompression bomb?)"
                    )
                return _on_white(ImageOps.exif_transpose(image))
    except Exception as error:  # the decoders of Pillow raise errors of any kind for damaged files
        raise UnfitError("unreadable", f"{type(error).__name__}: {error}") from error


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow would clip 16 bits to 8, which makes all but the darkest grey white.
        image = _eight_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
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
