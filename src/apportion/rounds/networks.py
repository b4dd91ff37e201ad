"""Feature networks in a store. `plan` copies them there, so that the network a property is measured with
cannot change while a round runs."""

import hashlib
from importlib.resources import files
from pathlib import Path
from urllib.parse import unquote

from apportion.errors import ConfigError, Damaged, PropertyError, StoreError
from apportion.store import Store, open_store
from apportion.store.layout import network_key

EMBEDDED = "openmoji"
"""The name of the feature network that comes with the embedded drawings."""


EMBEDDED_HASH = "5e1bd87dbf7673b9111458f177e4965d"
"""The hash of that network, as it was released."""


def check_embedded(data: bytes) -> None:
    """Raises PropertyError where the embedded network is not the released one: the installation is
    damaged."""
    if network_hash(data) != EMBEDDED_HASH:
        raise PropertyError(
            f"found an embedded feature network of hash {network_hash(data)}, expected {EMBEDDED_HASH}: "
            "install Apportion again, or name another network (option network)"
        )


def network_hash(data: bytes) -> str:
    """How a game names a feature network."""
    return hashlib.sha256(data).hexdigest()[:32]


def read_network(uri: str) -> bytes:
    """The file at a URI: "openmoji" (embedded), a local path, file:///… or s3://bucket/key.

    On S3 the object must carry its sha256 as metadata, as `Store` writes it. Raises PropertyError where it
    cannot be read.
    """
    try:
        return read_place(uri, "classifier.safetensors", "option network")
    except ConfigError as error:
        raise PropertyError(str(error)) from error
    except (OSError, StoreError, ValueError) as error:  # ValueError: a null byte in the path
        raise PropertyError(f"cannot read the feature network {uri!r} (option network): {error}") from error


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
    return Path(uri).read_bytes()


def keep_network(store: Store, data: bytes) -> None:
    """Stores a network under its hash, once. Raises Damaged where another one is stored there."""
    if not store.ensure(network_key(network_hash(data)), lambda: data):
        stored_network(store, network_hash(data))


def stored_network(store: Store, network: str) -> bytes:
    """The stored network of that hash. Raises NotFound, or Damaged where another one is stored there."""
    key = network_key(network)
    data = store.get(key)
    if network_hash(data) != network:
        raise Damaged(
            f"found network {network_hash(data)} in {store.where(key)}, expected {network}; it is left as "
            "it is"
        )
    return data
