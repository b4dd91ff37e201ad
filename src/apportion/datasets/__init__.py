"""Training images and who gave them."""

from collections.abc import Iterable, Sequence
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


def found(contributions: Sequence[Contribution], shown: int = 12) -> str:
    """One line that says whom the images are from: numbers of contributors and images, and each contributor
    or, where there are more than `shown`, those with fewest and most images."""
    counts = sorted((len(contribution), contribution.name) for contribution in contributions)
    (fewest, last), (most, top) = counts[0], min(counts, key=lambda count: (-count[0], count[1]))
    line = f"found {len(counts)} contributors with {sum(count for count, _ in counts)} images"
    if fewest == most:
        line += f", {most} each"
    else:
        line += f", from {fewest} ({last!r}) to {most} ({top!r})"
    if len(counts) > shown:
        return line
    each = ", ".join(f"{contribution.name!r} {len(contribution)}" for contribution in contributions)
    return f"{line}: {each}"


def duplicates(contributions: Iterable[Contribution]) -> list[str]:
    """Warnings about images that several contributors gave: one for each of the first LISTED groups of
    contributors, those who share most images first, then one with the number of all. Empty where there are
    none.

    Contributions are read one by one, so that they need not be in memory together.
    """
    titles_by_image: dict[str, dict[str, str]] = {}
    for contribution in contributions:
        for pixels, title in zip(contribution.pixel_hashes, contribution.titles, strict=True):
            titles_by_image.setdefault(pixels, {}).setdefault(contribution.name, title)
    groups: dict[tuple[str, ...], list[list[tuple[str, str]]]] = {}
    for titles in titles_by_image.values():
        if len(titles) > 1:
            groups.setdefault(tuple(sorted(titles)), []).append(sorted(titles.items()))
    most_first = sorted(groups.values(), key=lambda images: (-len(images), min(images)))
    warnings = [_warning(sorted(images)) for images in most_first[:LISTED]]
    if len(groups) > LISTED:
        warnings.append(
            f"{sum(map(len, groups.values()))} images in all were given by more than one contributor, of "
            f"{len(groups)} groups of contributors; the first {LISTED} are named above"
        )
    return warnings


def _warning(images: list[list[tuple[str, str]]], shown: int = 4) -> str:
    """images: names and titles of each image that the same contributors gave."""
    titles, k = images[0], len(images)
    named = " and ".join(f"{name!r} ({title})" for name, title in titles[:shown])
    others = f" and {len(titles) - shown} others" if len(titles) > shown else ""
    if k == 1:
        return f"the same image was given by {named}{others}: they share the credit for it"
    return f"the same {k} images were given by {named}{others}, and so on: they share the credit for them"
