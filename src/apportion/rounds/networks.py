"""Feature networks in a store, where `plan` copies them: what a round is scored by cannot change while it runs."""

from apportion.errors import Damaged
from apportion.properties.network import FeatureNetwork, load, network_hash
from apportion.stages.round import Round
from apportion.store import Store


def network_key(network: str) -> str:
    return f"networks/{network}.safetensors"


def of(round: Round) -> FeatureNetwork | None:
    """The feature network that a round's games are scored by; None where no property needs one. Raises as `stored` does."""
    named = next((found.network for found in round.credit_game.properties if found.network is not None), None)
    return None if named is None else stored(round.store, named)


def keep(store: Store, network: bytes) -> None:
    """Stores a network under its hash, once. Raises Damaged where what is there already is another."""
    if not store.ensure(network_key(network_hash(network)), lambda: network):
        stored(store, network_hash(network))


def stored(store: Store, named: str) -> FeatureNetwork:
    """The feature network of that hash. Raises NotFound, or Damaged where what is stored under it is another."""
    key = network_key(named)
    data = store.get(key)
    if network_hash(data) != named:
        raise Damaged(f"found network {network_hash(data)} in {store.where(key)}, expected {named}; it is left as it is")
    return load(data, store.where(key))
