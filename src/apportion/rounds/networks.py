"""Feature networks in a store. `plan` copies them there, so that the network a property is measured with
cannot change while a round runs."""

import hashlib

from apportion.errors import Damaged
from apportion.store import Store
from apportion.store.layout import network_key


def network_hash(data: bytes) -> str:
    """How a game names a feature network."""
    return hashlib.sha256(data).hexdigest()[:32]


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
