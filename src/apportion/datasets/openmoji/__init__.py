"""The embedded drawings: OpenMoji 17.0.0 (CC BY-SA 4.0, LICENSE.txt, AUTHORS.txt). The contributors are their
designers."""

from collections import Counter
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import pyarrow.parquet as pq

from apportion.config.data import OpenMoji
from apportion.datasets.contribution import Contribution, enough
from apportion.errors import ConfigError

Drawing = dict[str, Any]
"""A row of the embedded table."""

DRAWINGS = Path(__file__).with_name("drawings.parquet")


def load(data: OpenMoji) -> list[Contribution]:
    """One contribution per designer, sorted by name. Labels are groups of emoji; `joined` is the day of the
    earliest drawing.

    Raises ConfigError where data.contributors names or counts designers that do not exist, and DataError for
    a designer with fewer than data.min_images drawings.
    """
    columns = ["name", "author", "date", "group", "flip", f"rgb{data.resolution}"]
    table = pq.ParquetFile(DRAWINGS, pre_buffer=False).read(columns=columns, use_threads=False)
    by_author: dict[str, list[Drawing]] = {}
    for drawing in table.to_pylist():
        by_author.setdefault(drawing["author"].strip(), []).append(drawing)
    counts = {author: len(drawings) for author, drawings in by_author.items()}
    chosen = _chosen(data.contributors, counts)
    enough({author: counts[author] for author in chosen}, data.min_images)
    return [_contribution(author, by_author[author], data.resolution) for author in sorted(chosen)]


def _chosen(contributors: int | list[str], counts: Mapping[str, int]) -> list[str]:
    if isinstance(contributors, list):
        return _named([normalize("NFC", name) for name in contributors], counts)
    if contributors > len(counts):
        raise ConfigError(
            f"found {contributors} requested contributors, expected at most {len(counts)} (data.contributors)"
        )
    return sorted(counts, key=lambda author: (-counts[author], author))[:contributors]


def _named(names: list[str], counts: Mapping[str, int]) -> list[str]:
    unknown = [f"{name!r}{_suggestion(name, counts)}" for name in names if name not in counts]
    if unknown:
        raise ConfigError(
            f"found no OpenMoji designers {', '.join(unknown)}, expected names from AUTHORS.txt "
            "(data.contributors)"
        )
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated or len(names) < 2:
        raise ConfigError(f"found {names}, expected at least two different names (data.contributors)")
    return names


def _suggestion(name: str, counts: Mapping[str, int]) -> str:
    close = get_close_matches(name, counts)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""


def _contribution(author: str, drawings: list[Drawing], side: int) -> Contribution:
    pixels = np.frombuffer(b"".join(drawing[f"rgb{side}"] for drawing in drawings), np.uint8)
    return Contribution(
        name=author,
        pixels=pixels.reshape(-1, side, side, 3),
        flip=np.array([drawing["flip"] for drawing in drawings]),
        titles=tuple(drawing["name"] for drawing in drawings),
        joined=min(drawing["date"] for drawing in drawings),
        label=tuple(drawing["group"] for drawing in drawings),
    )
