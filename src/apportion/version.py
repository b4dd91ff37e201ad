"""Which code made a record: the version and a hash of the sources, which differs between two states of one
version."""

import hashlib
from functools import cache
from pathlib import Path

from apportion import __version__


@cache
def code() -> str:
    """Such as "0.1.0+1a2b3c4d": the same wherever the same sources are installed."""
    root, whole = Path(__file__).parent, hashlib.sha256()
    for name in sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py")):
        whole.update(f"{name}\n{hashlib.sha256((root / name).read_bytes()).hexdigest()}\n".encode())
    return f"{__version__}+{whole.hexdigest()[:8]}"
