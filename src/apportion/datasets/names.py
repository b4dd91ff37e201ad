"""Names of contributors: which can be used, and which of them a reader takes for one another."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

from apportion.datasets.contribution import LISTED, refuse

NAME_LENGTH = 100
JOINERS = "\u200c\u200d"
"""Zero width non-joiner and joiner. Persian and Sinhala need them, and emoji that are made of others."""
JOINED = ("L", "M", "So", "Sk")
"""The general categories that a joiner may stand between: letters, marks, emoji and their skin tones."""
MISSING = {"nan", "nat", "none", "null", "nil", "na", "n/a", "<na>", "#n/a", "#na", "<null>", "undefined"}
"""What programs write into a table where a cell has no value, in small letters."""
CONFUSABLE = str.maketrans(
    "авеѕіјкмнорстухһԁԛԝүӏ" + "αβεζηικμνορτυχγ" + "ıօսհցոℓɑɡ",
    "abesijkmhopctyxhdqwyl" + "abezhikmnoptyxy" + "iouhgnlag",
)
"""Small letters (Cyrillic, Greek, others) and the Latin ones that they, or their capitals, look like."""


def refuse_names(names: Sequence[str]) -> None:
    """Raises DataError that lists the names that cannot be used."""
    unusable = [f"{name!r:.120}" for name in names if not _is_usable(name)]
    expected = (
        f"1 to {NAME_LENGTH} printable characters, no / or \\, no space at either end, joiners (U+200C, "
        "U+200D) between letters or emoji alone"
    )
    refuse(unusable, "contributor names that cannot be used", expected)


def _is_usable(name: str) -> bool:
    visible = "".join(c for i, c in enumerate(name) if not _joins(name, i))
    characters_fit = visible.isprintable() and name == name.strip() and not {"/", "\\"} & set(name)
    return characters_fit and 0 < len(name) <= NAME_LENGTH and name not in {".", ".."}


def _joins(name: str, i: int) -> bool:
    """Whether character `i` is a joiner between two characters that can be joined."""
    around = name[i - 1 : i] + name[i + 1 : i + 2]
    return (
        name[i] in JOINERS
        and len(around) == 2
        and all(unicodedata.category(c).startswith(JOINED) for c in around)
    )


def composed(name: str) -> str:
    """The name with composed accents: file systems and spreadsheets differ in how they write accents, and a
    contributor must have the same name in all rounds."""
    return unicodedata.normalize("NFC", name)


def printable(text: str) -> str:
    """The text with line ends, control characters and undecodable bytes as escape sequences, because titles
    are shown in terminals and written as UTF-8."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def spelled(text: str) -> str:
    """The text in quotes; where it has characters that are not ASCII, also with those as escape sequences,
    which tells apart what looks alike."""
    shown = repr(printable(text))
    return shown if text.isascii() else f"{shown} ({text!a})"


def looks(name: str) -> str:
    """What a reader sees of a name: without case, blanks, punctuation and joiners, full-width letters as
    normal ones, and letters that look like a Latin one as that one. Names of one contributor often agree in
    it, and names of two contributors seldom; digits that something stands between stay apart."""
    letters = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", name).casefold())
    letters = letters.translate(CONFUSABLE).replace("i\u0307", "i").replace("\ufe0f", "")
    spaced = "".join(" " if unicodedata.category(c)[0] in "ZPC" else c for c in letters)
    return re.sub(r"(?<=\d) +(?=\d)", "-", spaced).replace(" ", "") or name


def alike(names: Iterable[str]) -> list[str]:
    """Warnings about names that look alike: one for each of the first LISTED groups, then one with the number
    of all. Empty where there are none."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(looks(name), []).append(name)
    several = [group for group in groups.values() if len(group) > 1]
    warnings = [
        f"found {len(group)} contributors whose names differ only in case, blanks, punctuation, joiners or "
        f"letters that look alike, and who are credited separately: {', '.join(map(spelled, group))}. If "
        "they are one contributor, give all these images one name (data.path)"
        for group in several[:LISTED]
    ]
    if len(several) > LISTED:
        warnings.append(
            f"{len(several)} groups of names look alike in all; the first {LISTED} are named above"
        )
    return warnings


def like_missing(name: str) -> bool:
    """Whether a name is what programs write for a cell without a value."""
    return name.strip().lower() in MISSING
