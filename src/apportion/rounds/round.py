"""An opened round: its plan, manifest, games and store, and the few questions every stage asks of them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from apportion.config import Config, parse
from apportion.errors import ConfigError, Damaged, NotFound, StoreError
from apportion.ledger import Ledger
from apportion.records import Credits, Evaluation, Evidence, Followup, Game, Manifest, Plan, Purpose, Record, Wanted
from apportion.stages.collection import read_manifest
from apportion.store import Store, open_store

R = TypeVar("R", bound=Record)

ENDPOINT_SEEDS = 2**40
"""Seeds of v(nobody) and v(everybody) lie above those of any design (config.Seed)."""

PAIRED_SEEDS = 2**41
"""So do those of held-out coalitions in the credits' game: with retraining's own seed the two games would share noise, and agree by it."""

DATAMODEL_SEEDS = 2**42
"""And so do those of the coalitions for `datamodel`."""


def weights_key(address: str) -> str:
    return f"checkpoints/{address}.safetensors"


def samples_key(address: str) -> str:
    return f"samples/{address}.safetensors"


def reference_key(address: str) -> str:
    return f"references/{address}.safetensors"


def round_key(round_id: str, name: str) -> str:
    return f"rounds/{round_id}/{name}"


@dataclass(frozen=True)
class Round:
    """One planned round in a store."""

    store: Store
    plan: Plan
    config: Config
    manifest: Manifest

    @classmethod
    def open(cls, uri: str) -> "Round":
        """Opens `<store>/rounds/<id>`. Raises StoreError where the address is none, NotFound where nothing was planned there."""
        root, _, round_id = uri.rstrip("/").rpartition("/rounds/")
        if not root:
            raise StoreError(f"found round address {uri!r}, expected <store>/rounds/<id> as `plan` prints it")
        store = open_store(root)
        plan = _read(store, round_id, "plan.json", Plan)
        return cls(store, plan, _read_config(store, round_id), read_manifest(store, plan.manifest))

    @property
    def id(self) -> str:
        return self.plan.round

    @property
    def uri(self) -> str:
        return f"{self.store.uri.rstrip('/')}/rounds/{self.id}"

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.store)

    @cached_property
    def credit_game(self) -> Game:
        return self.ledger.game(self.plan.credit_game)

    @cached_property
    def truth_game(self) -> Game:
        return self.ledger.game(self.plan.truth_game)

    def game(self, wanted: Wanted) -> Game:
        return self.truth_game if wanted.game == self.plan.truth_game else self.credit_game

    @property
    def wanted(self) -> tuple[Wanted, ...]:
        """Everything the round evaluates: what was planned, and what the credits then called for."""
        return self.plan.wanted + (self.followup.wanted if self.has("followup.json") else ())

    @property
    def settled(self) -> bool:
        """Whether nothing is left to evaluate, nor will be: then no stage needs a model, and one that has expired is not made again."""
        followed = self.config.evaluation.counterfactual is None or self.has("followup.json")
        return followed and not self.ledger.pending(self.wanted)

    def pending(self, shard: int = 0) -> list[Wanted]:
        """What shard `shard` still has to evaluate. Retrained coalitions come first, so that dear and cheap ones are dealt out evenly.

        Shards are dealt from everything the round wants, not from what is left, so a shard that starts later than another, or again,
        never takes over its coalitions.
        """
        shards = self.config.compute.shards
        if not 0 <= shard < shards:
            raise ConfigError(f"found shard {shard} of round {self.id}, expected 0 to {shards - 1} (compute.shards)")
        unique = {item.key: item for item in self.wanted}
        dealt = sorted(unique.values(), key=lambda item: item.game != self.plan.truth_game)
        return self.ledger.pending(dealt[shard::shards])

    def data(self, wanted: Wanted) -> tuple[str, ...]:
        """Sorted data hashes of a coalition's members."""
        return self.manifest.data(wanted.mask(self.manifest.n))

    def weights_key(self, wanted: Wanted) -> str:
        return weights_key(self.game(wanted).weights(wanted.seed, self.data(wanted)))

    def samples_key(self, wanted: Wanted) -> str:
        return samples_key(self.game(wanted).samples(wanted.seed, self.data(wanted)))

    def evaluations(self, *purposes: Purpose) -> list[tuple[Wanted, Evaluation]]:
        """The wanted evaluations of these purposes with their records, in the order of the plan. Raises NotFound where one is missing.

        A record is read once: it is written once and never changed."""
        everything = self.wanted if "counterfactual" in purposes else self.plan.wanted
        wanted = [item for item in everything if item.purpose in purposes]
        unread = list({item.key: item for item in wanted if item.key not in self._records}.values())
        for item, record in zip(unread, self.ledger.read_all(unread), strict=True):
            self._records[item.key] = record
        return [(item, self._records[item.key]) for item in wanted]

    @cached_property
    def _records(self) -> dict[str, Evaluation]:
        """What was read of the ledger, by key: a key tells the game too."""
        return {}

    def masks(self, wanted: list[Wanted]) -> NDArray[np.bool_]:
        """Coalitions as rows, (len(wanted), n)."""
        return np.array([item.mask(self.manifest.n) for item in wanted], dtype=np.bool_).reshape(len(wanted), self.manifest.n)

    def has(self, name: str) -> bool:
        return self.store.exists(round_key(self.id, name))

    def write(self, name: str, make: Callable[[], bytes]) -> bool:
        """Commits one of the round's own files, once."""
        return self.store.ensure(round_key(self.id, name), make)

    @cached_property  # what is committed never changes
    def credits(self) -> Credits:
        return _read(self.store, self.id, "credits.json", Credits)

    @cached_property
    def followup(self) -> Followup:
        return _read(self.store, self.id, "followup.json", Followup)

    @cached_property
    def evidence(self) -> Evidence:
        return _read(self.store, self.id, "evidence.json", Evidence)


def _read(store: Store, round_id: str, name: str, kind: type[R]) -> R:
    key = round_key(round_id, name)
    try:
        return kind.parse(store.get(key), store.where(key))
    except NotFound as missing:
        raise NotFound(f"{missing}; the stage that makes {name} has not run for this round") from missing


def _read_config(store: Store, round_id: str) -> Config:
    key = round_key(round_id, "config.json")
    try:
        return parse(json.loads(store.get(key)), store.where(key))
    except ValueError as error:
        raise Damaged(f"found no configuration in {store.where(key)}: {error}; it is left as it is") from error
