"""A user's own images as folders: each folder below the given one is a contributor's, with images at any
depth."""

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from apportion.datasets.contribution import refuse
from apportion.datasets.entries import Entry, absence, refuse_absent, refuse_outside
from apportion.datasets.litter import is_litter, is_passed_over, said_of_litter
from apportion.datasets.names import composed, printable, spelled
from apportion.errors import DataError

log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif")
"""How names of images usually end. What is in a folder that is read is judged by its content instead."""
SPLIT = re.compile(
    r"(train|training|test|testing|val|valid|validation|dev|eval|evaluation|hold[-_ ]?out)"
    r"([-_ ]?(set|data|images|split|\d+))?"
)
"""Names of the parts that data sets are split into, in small letters."""


class Tree(NamedTuple):
    """What lies below a folder. closed: what this process may not list or look at, and why."""

    files: list[Path]
    passed_over: list[Path]
    closed: list[str]


def entries_of_folders(root: Path) -> dict[str, list[Entry]]:
    """Entries by contributor; a contributor with an empty folder has none.

    root: a folder, with no links in its path. What is_passed_over is never opened. Raises DataError, and
    OSError where the folder itself cannot be read.
    """
    found = Tree([], [], [])
    paths = sorted(root.iterdir())
    folders: list[Path] = []
    for path in paths:
        (found.passed_over if is_passed_over(path.name) else folders).append(path)
    _warn_of_hidden(found.passed_over)
    if not folders:
        raise DataError(f"found no folders in {root}, expected one per contributor (data.path)")
    others = [spelled(path.name) for path in folders if path.is_symlink() or not path.is_dir()]
    refuse(others, f"files or links in {root}", "only folders there, one per contributor (data.path)")
    entries: dict[str, list[Entry]] = {}
    for folder in folders:
        name = composed(folder.name)
        already = len(found.files)
        _walk(folder, root, found)
        own = [Entry(name, file, _title(file, root)) for file in found.files[already:]]
        entries.setdefault(name, []).extend(own)
    if found.passed_over:
        log.info(said_of_litter(found.passed_over, root))
    expected = "only what this process may read: change permissions, or remove them (data.path)"
    refuse(found.closed, "folders that cannot be read", expected)
    for warning in _splits(folders, found.files):
        log.warning(warning)
    everything = [entry for own in entries.values() for entry in own]
    refuse_outside(everything, root)
    refuse_absent([f"{e.title:.200}: {why}" for e in everything if (why := absence(e.file))], root)
    return entries


def _walk(folder: Path, root: Path, found: Tree) -> None:
    """Adds all below a folder to what was found. A link to a folder is not followed, because it may lead in a
    circle; it is refused later, because it is not a file."""
    try:
        for path in sorted(folder.iterdir()):
            if is_passed_over(path.name):
                found.passed_over.append(path)
            elif path.is_dir() and not path.is_symlink():
                _walk(path, root, found)
            else:
                found.files.append(path)
    except OSError as error:
        found.closed.append(f"{_title(folder, root):.200}: {error.strerror}")


def _title(path: Path, root: Path) -> str:
    return printable(path.relative_to(root).as_posix())


def _warn_of_hidden(paths: Sequence[Path]) -> None:
    hidden = [spelled(path.name) for path in paths if not is_litter(path.name) and _holds_images(path)]
    if hidden:
        log.warning(
            "hidden folders are ignored, but %s hold images: rename a folder that is a contributor's "
            "(data.path)",
            ", ".join(hidden),
        )


def _holds_images(folder: Path) -> bool:
    """Whether a folder has files that are named like images; False for a link, and for what cannot be
    listed."""
    if folder.is_symlink():
        return False
    names = (name for _, _, files in os.walk(folder) for name in files)
    return any(name.lower().endswith(SUFFIXES) for name in names)


def _splits(folders: Sequence[Path], files: Sequence[Path]) -> list[str]:
    """A warning where the folders look like parts of a data set, with the contributors one level below: all
    are named so, or all hold the same two or more folders and no files beside them."""
    below: dict[Path, set[str]] = {folder: set() for folder in folders}
    beside = set()
    for file in files:
        folder = next(parent for parent in (file, *file.parents) if parent in below)
        parts = file.relative_to(folder).parts
        if len(parts) > 1:
            below[folder].add(parts[0])
        else:
            beside.add(folder)
    named = all(SPLIT.fullmatch(folder.name.lower()) for folder in folders)
    first, *rest = below.values()
    alike = bool(rest) and not beside and len(first) > 1 and all(other == first for other in rest)
    if len(folders) < 2 or not (named or alike):
        return []
    names = ", ".join(spelled(folder.name) for folder in folders[:4]) + (", …" if len(folders) > 4 else "")
    inner = ", ".join(spelled(name) for name in sorted(first)[:4]) + (", …" if len(first) > 4 else "")
    why = "each holds the same folders" if alike else "they are named like parts of a data set"
    held = f" ({inner})" if first else ""
    return [
        f"the folders directly below data.path are taken as the contributors: {names}; but {why}{held}. If "
        "the contributors are the folders inside them, set data.path to one of these folders, or to a table "
        "path,contributor of all images (docs/images.md)"
    ]
