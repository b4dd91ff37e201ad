"""Names of metrics, parameters and contributors in MLflow: what it accepts, and what its database tells
apart."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable

_LATIN = dict(zip("æœøđðħłŧıþ", ("ae", "oe", *"oddhlti", "th"), strict=True))
_SMALL = dict(zip("ぁぃぅぇぉっゃゅょゎ", "あいうえおつやゆよわ", strict=True))
_HIRAGANA = [chr(code) for code in range(0x3041, 0x3097)]
_KANA = {kana: _SMALL.get(kana, kana) for kana in _HIRAGANA}
_KATAKANA = {chr(ord(kana) + 0x60): plain for kana, plain in _KANA.items()}
_PLAIN = str.maketrans(_LATIN | _KANA | _KATAKANA)
"""Letters that databases take for others, and that Unicode does not decompose."""


def key(name: str) -> str:
    """A metric or parameter name that MLflow accepts, for any text.

    Letters of any script, digits and `_ - . /` and spaces stay as they are. Where another character is
    replaced or the name is too long, eight digits of the whole name's sha256 are appended, so that different
    names stay different.
    """
    parts = re.sub(r"[^\w\-. /]", "_", name).split("/")
    # MLflow refuses names that change when they are resolved as a path, such as a//b and a/../b.
    allowed = "/".join(part if part.strip(".") else "_" for part in parts)
    if allowed == name and len(name) <= 250:
        return name
    return f"{allowed[:240]}-{_digits(name)}"


def contributor_keys(names: Iterable[str]) -> dict[str, str]:
    """The last part of each contributor's metric keys: the name; where a database could take several of these
    names for one, the name with eight digits of its sha256.

    A name that has a key with these digits has the same key in all rounds in which it needs one.
    """
    by_name = {name: name for name in names}
    following = [name for group in groups(by_name) if len(group) > 1 for name in group]
    while following:
        by_name |= {name: f"{name.rstrip()}-{_digits(name)}" for name in following}
        hashed = {collated(key(part)) for name, part in by_name.items() if part != name}
        # Somebody may have the key of another contributor as a name.
        following = [name for name, part in by_name.items() if part == name and collated(key(name)) in hashed]
    return by_name


def collation_message(names: Iterable[str]) -> str:
    """Which contributors have keys with a hash, in words; empty where none has."""
    several = [group for group in groups(names) if len(group) > 1]
    if not several:
        return ""
    listed = ", ".join(" and ".join(map(repr, group)) for group in several[:5])
    more = f", and {len(several) - 5} other groups" if len(several) > 5 else ""
    return (
        f"a database of MLflow could take these names for one (MySQL, SQL Server): {listed}{more}; in their "
        "metric keys a hash follows the name"
    )


def groups(names: Iterable[str]) -> list[list[str]]:
    """Names by what a database may take for one name, each group and the groups sorted."""
    alike: dict[str, list[str]] = {}
    for name in sorted(names):
        alike.setdefault(collated(key(name)), []).append(name)
    return list(alike.values())


def collated(name: str) -> str:
    """The name as a collation that ignores case, accents, width, kind of kana and blanks at the end sees it.

    Names that such a collation of MySQL or SQL Server tells apart may be alike here, but hardly the other way
    round. Old collations of MySQL (utf8mb4_general_ci, utf8mb4_unicode_ci) take all characters beyond U+FFFF
    for one, and so does this.
    """
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", name).casefold())
    letters = "".join("\uffff" if ord(c) > 0xFFFF else c for c in decomposed if not unicodedata.combining(c))
    return letters.translate(_PLAIN).rstrip()


def _digits(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:8]
