"""score: measures every property of each coalition's images, and writes one ledger record per coalition."""

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import torch
from numpy import uint8
from numpy.typing import NDArray

from apportion.diffusion.compute import Compute, prepare
from apportion.progress import bar
from apportion.properties import reference
from apportion.properties.measure import EmbeddedImages, embedded, measure, measured
from apportion.properties.network import Network
from apportion.properties.network import load as load_network
from apportion.records import Cost, Evaluation, Game, Wanted
from apportion.rounds.cost import timed
from apportion.rounds.networks import stored_network
from apportion.rounds.round import Round
from apportion.rounds.samples import load_samples
from apportion.rounds.training_data import training_images
from apportion.store import Store
from apportion.store.layout import network_key, record_key, reference_key
from apportion.store.leases import in_turn
from apportion.version import code


def run(round_uri: str, shard: int = 0) -> int:
    """Scores what has no record; returns how many records this call wrote."""
    return make(Round.open(round_uri), shard)


def make(this_round: Round, shard: int = 0) -> int:
    """As `run`, for a round that is open."""
    todo = this_round.pending(shard)
    if not todo:
        return 0
    options, store = this_round.config.compute, this_round.store
    # Not `cuda`: this stage may run on nodes without the accelerator of the other stages.
    device = "cpu" if options.device == "cpu" else "auto"
    scorer = Scorer(store, prepare(device, "fp32", options.threads))
    items = {record_key(item.game, item.key): item for item in todo}
    made = 0
    with bar(len(items), f"score {shard}", "coalition") as progress:
        for key in in_turn(store, items):
            if not this_round.ledger.has(items[key]):
                made += this_round.ledger.commit(_evaluation(this_round, scorer, items[key]))
            progress.update()
    return made


def _evaluation(this_round: Round, scorer: "Scorer", item: Wanted) -> Evaluation:
    images, spent = None, Cost(device=scorer.device)
    if this_round.generates(item):
        images, spent = load_samples(this_round.store, this_round.samples_key(item))
    with timed() as clock:
        values = scorer.values(this_round.games[item.game], images, this_round.data(item))
    return Evaluation(
        key=item.key,
        game=item.game,
        seed=item.seed,
        members=this_round.data(item),
        values=values,
        cost=Cost(
            finetune=spent.finetune,
            sample=spent.sample,
            score=milliseconds(clock.seconds),
            device=spent.device,
            scored_on=scorer.device,
        ),
        code=code(),
    )


class Scorer:
    """Measures the properties of games, with networks and references that are read from a store once."""

    def __init__(self, store: Store, compute: Compute) -> None:
        self._store, self._compute, self.device = store, compute, compute.name
        self._network, self._reference = cache(self._read_network), cache(self._read_reference)
        self._embedded = cache(self._embed)

    def values(self, game: Game, images: NDArray[uint8] | None, data: Sequence[str]) -> dict[str, float]:
        """Every property of images uint8 (k, 3, side, side) or, where these are None, of the training images
        of the data with these hashes, which are embedded once for all coalitions. Raises PropertyError,
        NotFound or Damaged."""
        values: dict[str, float] = {}
        for names, network, address in _groups(game):
            against = self._reference(address)
            if images is not None:
                values |= measure(names, torch.from_numpy(images), self._network(network), against)
            else:
                parts = [self._embedded(tuple(names), network, item, game.recipe.resolution) for item in data]
                together = EmbeddedImages(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
                values |= measured(names, together, against)
        return values

    def _embed(
        self, names: tuple[str, ...], network: str | None, data: str, resolution: int
    ) -> EmbeddedImages:
        pixels = training_images(self._store, [data], resolution).pixels
        return embedded(names, torch.from_numpy(pixels), self._network(network))

    def _read_network(self, network: str | None) -> Network | None:
        if network is None:
            return None
        where = self._store.where(network_key(network))
        return load_network(stored_network(self._store, network), where).to(self._compute.device)

    def _read_reference(self, address: str | None) -> reference.Reference | None:
        if address is None:
            return None
        key = reference_key(address)
        return reference.load(self._store.get(key), self._store.where(key))


def _groups(game: Game) -> Iterator[tuple[list[str], str | None, str | None]]:
    """Names of properties that are measured together, with their network and their reference: those without a
    reference together with others of their network, so that images are embedded as few times as possible."""
    for network in dict.fromkeys(item.network for item in game.properties):
        items = [item for item in game.properties if item.network == network]
        references = list(dict.fromkeys(item.reference for item in items if item.reference is not None))
        for i, address in enumerate(references or [None]):
            names = [item.property for item in items if item.reference == address]
            if i == 0 and address is not None:
                names += [item.property for item in items if item.reference is None]
            yield names, network, address


def milliseconds(seconds: float) -> float:
    """Seconds to the millisecond."""
    return float(f"{seconds:.3f}")
