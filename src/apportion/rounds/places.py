"""Files that a configuration names by their place: feature networks and cited evidence."""

from importlib.resources import files
from pathlib import Path
from urllib.parse import unquote

from apportion.config.network import EMBEDDED
from apportion.errors import ConfigError
from apportion.store import open_store


def read_place(uri: str, embedded: str, option: str) -> bytes:
    """The file at a URI: "openmoji" for the file `embedded` beside the embedded drawings, a local path,
    file:///… or s3://bucket/key. Raises ConfigError, naming `option`, for another kind of URI, and OSError,
    StoreError or ValueError where the file cannot be read."""
    if uri == EMBEDDED:
        return files("apportion").joinpath("datasets", "openmoji", embedded).read_bytes()
    if uri.startswith("s3://"):
        folder, _, key = uri.rpartition("/")
        return open_store(folder).get(key)
    if uri.startswith("file:///"):
        return Path(unquote(uri.removeprefix("file://"))).read_bytes()
    if "://" in uri:
        raise ConfigError(
            f"found {uri!r}, expected openmoji, a path, file:///path or s3://bucket/key ({option})"
        )
    return Path(uri).expanduser().read_bytes()
