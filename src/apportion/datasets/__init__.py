"""Training images and who gave them."""

from collections.abc import Iterable
from typing import Any

from apportion.config import Folder, OpenMoji
from apportion.datasets import folder, openmoji
from apportion.datasets.contribution import SHOWN, Contribution

SOURCES: dict[str, Any] = {"openmoji": openmoji.load, "folder": folder.load}


def load(data: OpenMoji | Folder) -> list[Contribution]:
    """The contributions that `data` describes, at least two, sorted by contributor. Raises DataError or ConfigError."""
    contributions: list[Contribution] = SOURCES[data.source](data)
    return sorted(contributions, key=lambda contribution: contribution.name)


def duplicates(contributions: Iterable[Contribution]) -> list[str]:
    """Warnings about images that several contributors gave: the first few by name, then how many in all. Empty if none.

    Contributions are looked at one by one: none needs to stay in memory.
    """
    givers: dict[str, dict[str, str]] = {}
    for contribution in contributions:
        for pixels, title in zip(contribution.pixel_hashes, contribution.titles, strict=True):
            givers.setdefault(pixels, {}).setdefault(contribution.name, title)
    shared = sorted(list(titles.items()) for titles in givers.values() if len(titles) > 1)
    warnings = [_warning(titles) for titles in shared[:SHOWN]]
    if len(shared) > SHOWN:
        warnings.append(f"{len(shared)} images in all were given by more than one contributor; the first {SHOWN} are named above")
    return warnings


def _warning(titles: list[tuple[str, str]], shown: int = 4) -> str:
    named = " and ".join(f"{name!r} ({title})" for name, title in titles[:shown])
    others = f" and {len(titles) - shown} others" if len(titles) > shown else ""
    return f"the same image was given by {named}{others}: they share the credit for it"
