"""A user's own images as a CSV or parquet table `path,contributor[,label][,joined]`, beside or above the
files."""

import csv
import math
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path, PurePath
from typing import NamedTuple
from unicodedata import normalize

import pyarrow as pa
import pyarrow.parquet as pq

from apportion.datasets.contribution import refuse
from apportion.datasets.entries import (
    Entry,
    absence,
    by_contributor,
    is_inside,
    refuse_absent,
    refuse_outside,
)
from apportion.datasets.names import composed, like_missing, printable, spelled
from apportion.errors import DataError

REQUIRED = ("path", "contributor")
OPTIONAL = ("label", "joined")
INDEX = {"", "Unnamed: 0", "__index_level_0__"}
"""Names that pandas gives to the column of its index."""


class SampleTable(NamedTuple):
    """A table as text. rows: where each row is, and its cells; an empty cell is None or ""."""

    columns: list[str]
    rows: list[tuple[str, list[str | None]]]


def entries_of_table(path: Path) -> dict[str, list[Entry]]:
    """Entries by contributor. Raises DataError, and OSError where the table cannot be read."""
    if path.suffix.lower() not in READERS or not path.is_file():
        raise DataError(
            f"found no folder and no .csv or .parquet table at {path}, expected one of them (data.path)"
        )
    try:
        table = READERS[path.suffix.lower()](path)
    except (ValueError, csv.Error, pa.ArrowException) as error:
        raise DataError(f"cannot read the table {path} (data.path): {error}") from error
    rows = _entries(table, path)
    if not rows:
        raise DataError(f"found no rows in {path}, expected one per image (data.path)")
    return by_contributor(_located(rows, path, path.parent.resolve()))


# From a file to text


def _csv(path: Path) -> SampleTable:
    with path.open(encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(text, strict=True)
        columns = next(reader, [])
        _refuse_columns(columns, path)
        return SampleTable(columns, [(f"line {reader.line_num}", list(cells)) for cells in reader if cells])


def _parquet(path: Path) -> SampleTable:
    file = pq.ParquetFile(path, pre_buffer=False)
    names = file.schema_arrow.names
    _refuse_columns(names, path)
    table = file.read(use_threads=False)
    columns = [_texts(name, column) for name, column in zip(names, table.columns, strict=True)]
    rows = [(f"row {i}", list(cells)) for i, cells in enumerate(zip(*columns, strict=True), 1)]
    return SampleTable(names, rows)


def _texts(name: str, column: pa.ChunkedArray) -> list[str | None]:
    """A column as text: whole numbers without a point, which pandas adds to a column with missing cells, and
    a number that is none as a missing cell. Raises ValueError."""
    try:
        texts: list[str | None] = column.cast(pa.string()).to_pylist()
        values = column.to_pylist() if pa.types.is_floating(column.type) else []
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(
            f"column {name!r} has the type {column.type}, expected text, or what can be written as text: "
            f"{error}"
        ) from error
    for i, value in enumerate(values):
        if value is not None and not math.isfinite(value):
            texts[i] = None if math.isnan(value) else texts[i]
        elif value is not None and value == int(value):
            texts[i] = str(int(value))
    return texts


READERS = {".csv": _csv, ".parquet": _parquet}


def _refuse_columns(columns: Sequence[str], path: Path) -> None:
    known = {*REQUIRED, *OPTIONAL}
    if not set(REQUIRED) <= set(columns) <= known or len(set(columns)) < len(columns):
        hint = ""
        if any(";" in column or "\t" in column for column in columns):
            hint = "; save it with commas between the cells"
        elif INDEX & set(columns):
            hint = "; write it without the index of pandas (index=False)"
        raise DataError(
            f"found the columns {list(columns)} in {path}, expected {', '.join(REQUIRED)} and, optionally, "
            f"{', '.join(OPTIONAL)}{hint}"
        )


# From text to entries


def _label(cell: str | None) -> str | None:
    """None where the cell has no label, also as programs write that (`nan`)."""
    return None if cell is None or not cell.strip() or like_missing(cell) else cell


def _entries(table: SampleTable, path: Path) -> list[Entry]:
    """The rows as entries, whose `file` is the path as it was written. Raises DataError where cells are
    missing or malformed."""
    ragged = [row for row, cells in table.rows if len(cells) != len(table.columns)]
    refuse(ragged, f"rows in {path} of another length than its header", f"{len(table.columns)} cells")
    rows = {row: dict(zip(table.columns, cells, strict=True)) for row, cells in table.rows}

    missing = []
    for row, cells in rows.items():
        missing += [f"{row}: no {column}" for column in REQUIRED if not (cells[column] or "").strip()]
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
            contributor=composed(str(cells["contributor"])),
            file=Path(paths[row]),
            title=printable(paths[row]),
            label=_label(cells.get("label")),
            joined=days[row] or None,
            row=row,
        )
        for row, cells in rows.items()
    ]


def _day(text: str) -> str | None:
    """The ISO date of a text that is a date or a time; "" for an empty text, None for a malformed one."""
    try:
        return text and datetime.fromisoformat(text).date().isoformat()
    except ValueError:
        return None


def _may_leave(path: PurePath) -> bool:
    return path.is_absolute() or ".." in path.parts


# From paths to files


def _located(entries: Sequence[Entry], path: Path, root: Path) -> list[Entry]:
    """The entries with the files that their paths lead to. Raises DataError for paths that lead outside, to
    no file, or to one that its contributor has already given."""
    names = Names(root)
    located = [entry._replace(file=names.find(entry.file)) for entry in entries]
    times = Counter((entry.contributor, entry.file) for entry in located)
    repeated = [
        f"{entry.row}: {entry.title:.200}" for entry in located if times[entry.contributor, entry.file] > 1
    ]
    refuse(repeated, f"rows in {path} that repeat an image of one contributor", "one row per image")
    refuse_outside(located, root)
    absent = []
    for written, entry in zip(entries, located, strict=True):
        if why := absence(entry.file):
            other = names.resembling(written.file)
            hint = f"; there is {spelled(other)}, found {spelled(str(written.file))}" if other else ""
            absent.append(f"{entry.row}: {entry.title:.200}: {why}{hint}")
    refuse_absent(absent, root)
    return located


class Names:
    """The names of files below a folder, each folder listed once. Nothing outside it is listed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.listings: dict[tuple[Path, Callable[[str], str]], dict[str, list[str]]] = {}

    def find(self, path: PurePath) -> Path:
        """The file of this name or, where there is none, the only one whose name differs in nothing but how
        accents are written (composed or not); else the path itself, below the folder."""
        as_written = self.root / path
        if absence(as_written) is None:
            return as_written
        found = self.root
        for part in path.parts:
            same = self._same(found, part, composed)
            if part not in same and len(same) != 1:
                return as_written
            found /= part if part in same else same[0]
        return found

    def resembling(self, path: PurePath) -> str | None:
        """The path, from the folder on, of a file whose name differs only in slashes, case, width, accents
        written otherwise, or blanks at an end; None where there is none."""
        found = [self.root]
        parts = [part for part in str(path).replace("\\", "/").split("/") if part.strip() not in ("", ".")]
        for part in parts:
            found = [folder / name for folder in found for name in self._same(folder, part, _resemblance)]
        files = [file for file in found if absence(file) is None]
        return files[0].relative_to(self.root).as_posix() if files else None

    def _same(self, folder: Path, name: str, key: Callable[[str], str]) -> list[str]:
        """The names in a folder that are the same in this respect."""
        if (folder, key) not in self.listings:
            listing: dict[str, list[str]] = {}
            for other in _listed(folder) if is_inside(folder, self.root) else []:
                listing.setdefault(key(other), []).append(other)
            self.listings[folder, key] = listing
        return self.listings[folder, key].get(key(name), [])


def _listed(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError:  # no folder, or one that is closed
        return []


def _resemblance(name: str) -> str:
    return normalize("NFKC", normalize("NFKC", name).casefold()).strip()
