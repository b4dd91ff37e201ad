"""Files and folders that systems leave beside a user's own, and that are nobody's contribution."""

import re
from collections.abc import Sequence
from pathlib import Path

from apportion.datasets.contribution import LISTED
from apportion.datasets.names import spelled

LITTER_NAMES = {
    # NAS: Synology, QNAP, NetApp
    *("@eadir", "@tmp", "@sharebin", "@sharesnap", "@appstore", "@synologydrive", "#recycle", "#snapshot"),
    *("@recycle", "@recently-snapshot", "@snapshot", "~snapshot", "@__thumb", ".@__thumb", ".snapshot"),
    *(".snapshots", ".zfs", ".thumbnails", ".thumbs", "synoindex_media_info"),
    # Windows, macOS, Linux, Android
    *("$recycle.bin", "recycler", "recycled", "system volume information", "$extend", "thumbs.db"),
    *("thumbs.db:encryptable", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"),
    *("__macosx", ".ds_store", ".appledouble", ".apdisk", ".spotlight-v100", ".fseventsd", "icon\r"),
    *(".documentrevisions-v100", ".temporaryitems", "network trash folder", "temporary items"),
    *("thevolumesettingsfolder", "lost+found", "lost.dir"),
    # Programs
    *(".ipynb_checkpoints", "__pycache__", ".picasaoriginals", ".picasa.ini", "picasa.ini", ".cache"),
    *("zbthumbnail.info", ".stversions", ".stfolder", ".git", ".dropbox.cache"),
}
"""Files and folders, in small letters."""
LITTER_PATTERN = re.compile(
    r"\._.*|\.trash.*|found\.\d{3}|.*(:zone\.identifier|@syno(eastream|resource))", re.DOTALL
)
"""Names that differ from disk to disk or from file to file."""


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name is one that systems leave behind."""
    return name.lower() in LITTER_NAMES or LITTER_PATTERN.fullmatch(name.lower()) is not None


def is_passed_over(name: str) -> bool:
    """Whether a file or folder is not read because of its name: systems leave it behind, or it is hidden."""
    return name.startswith(".") or is_litter(name)


def said_of_litter(paths: Sequence[Path], root: Path) -> str:
    """One line that says what was passed over below `root`, and where."""
    places: dict[str, list[str]] = {}
    for path in paths:
        name = "._*" if path.name.startswith("._") else path.name
        places.setdefault(name, []).append(path.parent.relative_to(root).as_posix())
    kinds = [_kind(name, sorted(set(where))) for name, where in sorted(places.items())]
    others = f"; and {len(kinds) - LISTED} other names" if len(kinds) > LISTED else ""
    return (
        "passed over, as hidden or left behind by systems and nobody's contribution: "
        f"{'; '.join(kinds[:LISTED])}{others}"
    )


def _kind(name: str, where: Sequence[str], shown: int = 3) -> str:
    places = [spelled(place) if place != "." else "the folder itself" for place in where[:shown]]
    others = f" and {len(where) - shown} more folders" if len(where) > shown else ""
    return f"{spelled(name)} in {', '.join(places)}{others}"
