"""A user's own images: one sub-folder per contributor, or a CSV or parquet manifest `path,contributor[,label][,joined]`.

Every image becomes RGB of one size: the EXIF orientation is applied, transparency is composed on white, 16-bit grey is scaled to 8 bits, an
animation gives its first frame, colour profiles are not applied. Nothing outside the folder (for a manifest: its folder) is ever read.
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

from apportion.config import Folder
from apportion.datasets.contribution import Contribution, enough, first, refuse
from apportion.errors import DataError
from apportion.progress import bar

log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")  # the content decides, whatever the suffix; no other decoder of Pillow is ever entered
LITTER = {"thumbs.db", "desktop.ini", "__macosx"}
REQUIRED, OPTIONAL = ("path", "contributor"), ("label", "joined")
NAME_LENGTH = 100
LARGEST = 80_000_000  # pixels; a larger image is a decompression bomb or of no use at a side of 1024

UNFIT = {
    "unreadable": "files that cannot be read as images, expected whole {suffixes}: replace or remove them (data.path)",
    "size": "images of another size, expected {side}x{side}: set data.resize=crop to crop and shrink them (data.resolution)",
    "small": "images smaller than {side}x{side}, which nothing is enlarged to: remove them or lower data.resolution",
}


class UnfitError(DataError):
    """One image that cannot be used; `kind` is a key of UNFIT."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


class Entry(NamedTuple):
    """An image to read; `title` is its path below the folder, `row` where the manifest lists it."""

    contributor: str
    file: Path
    title: str
    label: str | None = None
    joined: str | None = None
    row: str = ""


class Table(NamedTuple):
    """A manifest as text; `rows` pairs where a row is with its cells, None or "" where nothing is given."""

    columns: list[str]
    rows: list[tuple[str, list[str | None]]]


def load(data: Folder) -> list[Contribution]:
    """One contribution per contributor, sorted by name.

    Raises DataError, which lists the first problems of a kind: names that are no names, files that are no images or lie outside, unreadable
    images, wrong sizes (data.resize, data.resolution), too few images (data.min_images), fewer than two contributors.
    """
    try:
        path = Path(data.path).expanduser()
        gifts = _folders(path.resolve()) if path.is_dir() else _manifest(path)
    except (OSError, RuntimeError) as error:  # RuntimeError: ~ of an unknown user, or folders nested without end
        raise DataError(f"cannot read {data.path} (data.path): {error}") from error
    _refuse_names(list(gifts))
    enough({name: len(entries) for name, entries in gifts.items()}, data.min_images)
    pixels = _pixels([entry for entries in gifts.values() for entry in entries], data)
    return [_contribution(name, gifts[name], pixels, data.flip) for name in sorted(gifts)]


def _contribution(name: str, entries: Sequence[Entry], pixels: dict[Path, NDArray[np.uint8]], flip: bool) -> Contribution:
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


def _folders(root: Path) -> dict[str, list[Entry]]:
    """Entries by contributor; a contributor with an empty folder has none."""
    found = sorted(root.iterdir())
    givers = [path for path in found if not _hidden(path)]
    if passed := [repr(path.name) for path in found if path.name.startswith(".") and _holds_images(path)]:
        log.warning("hidden folders are no contributors, and %s hold images: rename what is one (data.path)", ", ".join(passed))
    if not givers:
        raise DataError(f"found no folders in {root}, expected one per contributor (data.path)")
    strays = [repr(path.name) for path in givers if not path.is_dir() or path.is_symlink()]
    refuse(strays, f"files or links in {root}", "only folders there, one per contributor (data.path)")
    gifts: dict[str, list[Entry]] = {}
    for giver in givers:
        files = [Entry(_composed(giver.name), file, _printable(file.relative_to(root).as_posix())) for file in _files(giver)]
        gifts.setdefault(_composed(giver.name), []).extend(files)
    _refuse_files([entry for entries in gifts.values() for entry in entries], root)
    return gifts


def _holds_images(folder: Path) -> bool:
    return any(path.suffix.lower() in SUFFIXES for path in folder.rglob("*"))


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if _hidden(path):
            continue
        if path.is_dir() and not path.is_symlink():  # a link to a folder may run in circles: it is given out, to be refused as no file
            yield from _files(path)
        else:
            yield path


def _hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in LITTER


# A manifest


def _manifest(path: Path) -> dict[str, list[Entry]]:
    if path.suffix.lower() not in READERS or not path.is_file():
        raise DataError(f"found no folder and no .csv or .parquet manifest at {path}, expected one of them (data.path)")
    try:
        table = READERS[path.suffix.lower()](path)
    except (ValueError, csv.Error, pa.ArrowException) as error:
        raise DataError(f"cannot read the manifest {path} (data.path): {error}") from error
    root = path.parent.resolve()
    entries = _entries(table, path, root)
    _refuse_rows(entries, path, root)
    gifts: dict[str, list[Entry]] = {}
    for entry in entries:
        gifts.setdefault(entry.contributor, []).append(entry)
    return gifts


def _csv(path: Path) -> Table:
    with path.open(encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(text, strict=True)
        columns = next(reader, [])
        return Table(columns, [(f"line {reader.line_num}", list(cells)) for cells in reader if cells])


def _parquet(path: Path) -> Table:
    table = pq.ParquetFile(path, pre_buffer=False).read(use_threads=False)
    columns = [column.cast(pa.string()).to_pylist() for column in table.columns]
    return Table(table.column_names, [(f"row {i}", list(cells)) for i, cells in enumerate(zip(*columns, strict=True), 1)])


READERS = {".csv": _csv, ".parquet": _parquet}


def _entries(table: Table, path: Path, root: Path) -> list[Entry]:
    """The rows as entries, once each has what it must have; where the paths lead is not checked yet."""
    _refuse_columns(table.columns, path)
    ragged = [row for row, cells in table.rows if len(cells) != len(table.columns)]
    refuse(ragged, f"rows in {path} of another length than its header", f"{len(table.columns)} cells")
    rows = {row: dict(zip(table.columns, cells, strict=True)) for row, cells in table.rows}
    missing = [f"{row}: no {column}" for row, cells in rows.items() for column in REQUIRED if not cells[column]]
    refuse(missing, f"empty cells in {path}", "a path and a contributor in every row")
    climbing = [f"{row}: {cells['path']!r:.200}" for row, cells in rows.items() if _climbs(PurePath(str(cells["path"])))]
    refuse(climbing, f"paths in {path} that are absolute or contain '..'", "paths relative to the manifest's folder")
    days = {row: _day(cells.get("joined") or "") for row, cells in rows.items()}
    wrong = [f"{row}: {rows[row]['joined']!r:.80}" for row, day in days.items() if day is None]
    refuse(wrong, f"entries under 'joined' in {path} that are no dates", "dates like 2026-01-31, or nothing")
    return [
        Entry(_composed(str(cells["contributor"])), root / str(cells["path"]), _printable(str(cells["path"])),
              cells.get("label") or None, days[row] or None, row)
        for row, cells in rows.items()
    ]  # fmt: skip


def _refuse_columns(columns: list[str], path: Path) -> None:
    known = {*REQUIRED, *OPTIONAL}
    if not set(REQUIRED) <= set(columns) <= known or len(set(columns)) < len(columns):
        raise DataError(f"found the columns {columns} in {path}, expected {', '.join(REQUIRED)} and, if need be, {', '.join(OPTIONAL)}")


def _day(text: str) -> str | None:
    """The ISO date in a date or a time; "" where there is none, None where it cannot be understood."""
    try:
        return text and datetime.fromisoformat(text).date().isoformat()
    except ValueError:
        return None


def _climbs(path: PurePath) -> bool:
    return path.is_absolute() or ".." in path.parts


def _refuse_rows(entries: Sequence[Entry], path: Path, root: Path) -> None:
    if not entries:
        raise DataError(f"found no rows in {path}, expected one per image (data.path)")
    given = Counter((entry.contributor, entry.file) for entry in entries)
    twice = [f"{entry.row}: {entry.title:.200}" for entry in entries if given[entry.contributor, entry.file] > 1]
    refuse(twice, f"rows in {path} that repeat an image of one contributor", "one row per image")
    _refuse_files(entries, root)


# What both ways of giving images must satisfy


def _refuse_names(names: Sequence[str]) -> None:
    wrong = [f"{name!r:.120}" for name in names if not _is_name(name)]
    refuse(wrong, "contributor names that cannot be used", f"1 to {NAME_LENGTH} printable characters, no / or \\, no space at either end")


def _is_name(name: str) -> bool:
    plain = name.isprintable() and name == name.strip() and not {"/", "\\"} & set(name)
    return plain and 0 < len(name) <= NAME_LENGTH and name not in {".", ".."}


def _composed(name: str) -> str:
    """One spelling of accents: file systems and spreadsheets differ there, and a contributor must keep one name over the rounds."""
    return normalize("NFC", name)


def _printable(text: str) -> str:
    """The text with line ends, escapes and undecodable bytes spelled out: titles are shown in terminals and written as UTF-8."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _refuse_files(entries: Sequence[Entry], root: Path) -> None:
    outside = [f"{entry.title:.200}" for entry in entries if not _inside(entry.file, root)]
    refuse(outside, f"paths that lead outside {root}", "files inside it (data.path)")
    absent = [f"{entry.title:.200}" for entry in entries if not entry.file.is_file()]
    refuse(absent, f"paths in {root} without a file behind them", "one image file each; links to folders are not followed (data.path)")
    others = [f"{entry.title:.200}" for entry in entries if entry.file.suffix.lower() not in SUFFIXES]
    refuse(others, f"files in {root} that are no images", f"only {', '.join(SUFFIXES)} (data.path)")


def _inside(file: Path, root: Path) -> bool:
    try:
        return file.resolve().is_relative_to(root)
    except (OSError, RuntimeError, ValueError):  # links in a circle, or a name that no file can have
        return False


# Images


def _pixels(entries: Sequence[Entry], data: Folder) -> dict[Path, NDArray[np.uint8]]:
    """Every file's image (side, side, 3), or one DataError about all that are unfit."""
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
    messages = [
        "\n  ".join([f"found {len(found)} {UNFIT[kind].format(**words)}:", *first(found)]) for kind, found in unfit.items() if found
    ]
    if messages:
        raise DataError("\n".join(messages))
    return pixels


def picture(file: Path) -> Image.Image:
    """A file's image as RGB: upright, on white, the first frame. Raises UnfitError where it cannot be decoded or is too large."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # LARGEST, below, refuses what it warns of
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > LARGEST:
                    raise ValueError(f"{image.width}x{image.height} pixels, expected at most {LARGEST} (a decompression bomb?)")
                return _on_white(ImageOps.exif_transpose(image))
    except Exception as error:  # Pillow's decoders raise whatever the damage makes them trip over
        raise UnfitError("unreadable", f"{type(error).__name__}: {error}") from error


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would clip 16 bits to 8, which leaves all but the darkest grey white
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
    """The image at data.resolution: as it is or, with data.resize=crop, its middle square shrunk. Raises UnfitError."""
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
