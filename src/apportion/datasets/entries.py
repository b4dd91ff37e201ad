"""An image to read and who gave it, and checks of the files, whether they come from folders or from a
table."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from apportion.datasets.contribution import refuse


class Entry(NamedTuple):
    """An image to read. title: its path below the folder. row: where the table lists it."""

    contributor: str
    file: Path
    title: str
    label: str | None = None
    joined: str | None = None
    row: str = ""


def by_contributor(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """The entries of each contributor, in their order."""
    grouped: dict[str, list[Entry]] = {}
    for entry in entries:
        grouped.setdefault(entry.contributor, []).append(entry)
    return grouped


def is_inside(file: Path, root: Path) -> bool:
    """Whether a path, its links followed, lies below the folder `root`, which has no links in it."""
    try:
        return file.resolve().is_relative_to(root)
    except (OSError, RuntimeError, ValueError):  # links in a circle, or an impossible file name
        return False


def absence(path: Path) -> str | None:
    """Why a path leads to no file that can be opened by name; None where it does."""
    try:
        return None if path.is_file() else "no file"
    except (OSError, ValueError) as error:  # a folder that is closed, or a name that no file can have
        return getattr(error, "strerror", None) or str(error)


def refuse_outside(entries: Sequence[Entry], root: Path) -> None:
    """Raises DataError that lists the entries whose files lie outside `root`."""
    outside = [f"{entry.title:.200}" for entry in entries if not is_inside(entry.file, root)]
    refuse(outside, f"paths that lead outside {root}", "files inside it (data.path)")


def refuse_absent(absent: Sequence[str], root: Path) -> None:
    """Raises DataError that lists these paths, if there are any: they lead to no file."""
    expected = "one image file each; links to folders are not followed (data.path)"
    refuse(absent, f"paths in {root} that lead to no file", expected)
