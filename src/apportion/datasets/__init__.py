"""Training images and who gave them."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from apportion.config.data import Folder, OpenMoji
from apportion.datasets import folder, openmoji
from apportion.datasets.contribution import LISTED, Contribution
from apportion.errors import DataError

SOURCES: dict[str, Any] = {"openmoji": openmoji.load, "folder": folder.load}


def load(data: OpenMoji | Folder, condition: str | None = None) -> list[Contribution]:
    """The contributions that `data` describes, at least two, sorted by contributor.

    condition: "label" where models are conditioned on labels, which then are part of the data hash. Raises
    DataError or ConfigError.
    """
    contributions: list[Contribution] = SOURCES[data.source](data)
    if condition not in (None, "label"):
        raise DataError(f"found models conditioned on {condition!r}, expected label or none (model.family)")
    if condition == "label":
        contributions = [replace(contribution, conditioned=True) for contribution in contributions]
    return sorted(contributions, key=lambda contribution: contribution.name)


def duplicates(contributions: Iterable[Contribution]) -> list[str]:
    """Warnings about images that several contributors gave: one for each of the first LISTED images, then one
    with the number of all. Empty where there are none.

    Contributions are read one by one, so that they need not be in memory together.
    """
    titles_by_image: dict[str, dict[str, str]] = {}
    for contribution in contributions:
        for pixels, title in zip(contribution.pixel_hashes, contribution.titles, strict=True):
            titles_by_image.setdefault(pixels, {}).setdefault(contribution.name, title)
    shared = sorted(list(titles.items()) for titles in titles_by_image.values() if len(titles) > 1)
    warnings = [_warning(titles) for titles in shared[:LISTED]]
    if len(shared) > LISTED:
        warnings.append(
            f"{len(shared)} images in all were given by more than one contributor; the first {LISTED} are "
            "named above"
        )
    return warnings


def _warning(titles: list[tuple[str, str]], shown: int = 4) -> str:
    named = " and ".join(f"{name!r} ({title})" for name, title in titles[:shown])
    others = f" and {len(titles) - shown} others" if len(titles) > shown else ""
    return f"the same image was given by {named}{others}: they share the credit for it"
