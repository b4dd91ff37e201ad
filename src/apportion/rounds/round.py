"""An opened round: its plan, manifest, games and store, and what every stage reads from them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from apportion.config.loading import parse
from apportion.config.removal import Mixture
from apportion.config.round import Config
from apportion.errors import ConfigError, Damaged, NotFound
from apportion.ledger import Ledger
from apportion.records import (
    Credits,
    Evaluation,
    Evidence,
    Followup,
    Game,
    Manifest,
    Plan,
    Purpose,
    Record,
    Role,
    Scores,
    Wanted,
    scores_address,
)
from apportion.rounds.training_data import read_manifest
from apportion.store import Store, layout, open_store
from apportion.store.layout import round_key, round_uri, split_round_uri

R = TypeVar("R", bound=Record)
T = TypeVar("T")


@dataclass(frozen=True)
class Round:
    """One planned round in a store."""

    store: Store
    plan: Plan
    config: Config
    manifest: Manifest

    @classmethod
    def open(cls, uri: str) -> "Round":
        """Opens `<store>/rounds/<id>`. Raises StoreError where the address is not one of a round, NotFound
        where nothing was planned there."""
        root, round_id = split_round_uri(uri)
        store = open_store(root)
        plan = _read(store, round_id, layout.PLAN_FILE, Plan)
        return cls(store, plan, _read_config(store, round_id), read_manifest(store, plan.manifest))

    @property
    def id(self) -> str:
        return self.plan.round

    @property
    def uri(self) -> str:
        return round_uri(self.store, self.id)

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.store)

    @cached_property
    def games(self) -> dict[str, Game]:
        """Every game of the round, by its id."""
        return {game: self.ledger.game(game) for game in self.plan.games.values()}

    def game(self, role: Role) -> Game:
        """The game that the round uses in this role."""
        return self.games[self.plan.games[role]]

    def is_retrained(self, wanted: Wanted) -> bool:
        """Whether an evaluation is of a retrained model."""
        return wanted.game == self.plan.games["truth"]

    @property
    def wanted(self) -> tuple[Wanted, ...]:
        """Everything that the round evaluates: what was planned, and what the credits then required."""
        return self.plan.wanted + (self.followup.wanted if self.has(layout.FOLLOWUP_FILE) else ())

    @property
    def settled(self) -> bool:
        """Whether every evaluation is in the ledger and none will be added: then no stage needs a model, and
        a model that has expired is not made again."""
        followed = self.config.evaluation.counterfactual is None or self.has(layout.FOLLOWUP_FILE)
        return followed and not self.ledger.pending(self.wanted)

    def pending(self, shard: int = 0) -> list[Wanted]:
        """What shard `shard` still has to evaluate."""
        return self.ledger.pending(self.part(self.distinct(), shard))

    def distinct(self) -> list[Wanted]:
        """Everything that the round evaluates, each evaluation once. Retrained coalitions come first, so that
        each shard gets its part of the expensive ones."""
        unique = {item.key: item for item in self.wanted}
        return sorted(unique.values(), key=lambda item: not self.is_retrained(item))

    def part(self, items: Sequence[T], shard: int) -> Sequence[T]:
        """What of `items` a shard works on. They must be all items of the round, not those that are left:
        then a shard that starts later than another, or again, never takes over items of the other. Raises
        ConfigError for a shard that the round does not have."""
        shards = self.config.compute.shards
        if not 0 <= shard < shards:
            raise ConfigError(
                f"found shard {shard} of round {self.id}, expected 0 to {shards - 1} (compute.shards)"
            )
        return items[shard::shards]

    def data(self, wanted: Wanted) -> tuple[str, ...]:
        """Sorted data hashes of a coalition's members."""
        return self.manifest.data(wanted.mask(self.manifest.n))

    def mixture(self, wanted: Wanted) -> Mixture:
        """What a coalition's images are sampled from."""
        members = self.manifest.members(wanted.mask(self.manifest.n))
        return self.games[wanted.game].recipe.mixture(wanted.seed, members)

    def weights_keys(self, wanted: Wanted) -> list[str]:
        """Where the weights are that a coalition's images are sampled from."""
        recipe = self.games[wanted.game].recipe
        return [layout.weights_key(recipe.weights(part)) for part in self.mixture(wanted).parts]

    def samples_key(self, wanted: Wanted) -> str:
        """Where a coalition's images are."""
        return layout.samples_key(self.games[wanted.game].samples(wanted.seed, self.data(wanted)))

    def evaluations(self, *purposes: Purpose) -> list[tuple[Wanted, Evaluation]]:
        """The wanted evaluations of these purposes with their records, in the order of the plan.

        A record is read once: it is written once and never changed. Raises NotFound where one is missing.
        """
        candidates = self.wanted if "counterfactual" in purposes else self.plan.wanted
        wanted = [item for item in candidates if item.purpose in purposes]
        unread = list({item.key: item for item in wanted if item.key not in self._records}.values())
        for item, record in zip(unread, self.ledger.read_all(unread), strict=True):
            self._records[item.key] = record
        return [(item, self._records[item.key]) for item in wanted]

    def all_evaluations(self) -> list[tuple[Wanted, Evaluation]]:
        """Everything that the round evaluates with its records, in the order of the plan. Raises NotFound
        where one is missing."""
        return self.evaluations(*dict.fromkeys(item.purpose for item in self.wanted))

    @cached_property
    def _records(self) -> dict[str, Evaluation]:
        """What was read of the ledger, by key; a key is unique over all games."""
        return {}

    def scores(self, method: str) -> Scores:
        """What the stage of an influence method committed. Raises NotFound or Damaged."""
        key = self.scores_key(method)
        return Scores.parse(self.store.get(key), self.store.where(key))

    def scores_key(self, method: str) -> str:
        """Where the scores of an influence method are."""
        base = self.plan.base.id
        return layout.scores_key(scores_address(method, base, self.manifest.all_data))

    def masks(self, wanted: list[Wanted]) -> NDArray[np.bool_]:
        """Coalitions as rows, (len(wanted), n)."""
        rows = [item.mask(self.manifest.n) for item in wanted]
        return np.array(rows, dtype=np.bool_).reshape(len(wanted), self.manifest.n)

    def has(self, name: str) -> bool:
        """Whether one of the round's own files is there."""
        return self.store.exists(round_key(self.id, name))

    def where(self, name: str) -> str:
        """The URI of one of the round's own files, for messages."""
        return self.store.where(round_key(self.id, name))

    def read(self, name: str) -> bytes:
        """One of the round's own files. Raises NotFound or Damaged."""
        return self.store.get(round_key(self.id, name))

    def write(self, name: str, make: Callable[[], bytes]) -> bool:
        """Commits one of the round's own files, once."""
        return self.store.ensure(round_key(self.id, name), make)

    @cached_property  # what is committed never changes
    def credits(self) -> Credits:
        return _read(self.store, self.id, layout.CREDITS_FILE, Credits)

    @cached_property
    def followup(self) -> Followup:
        return _read(self.store, self.id, layout.FOLLOWUP_FILE, Followup)

    @cached_property
    def evidence(self) -> Evidence:
        return _read(self.store, self.id, layout.EVIDENCE_FILE, Evidence)


def _read(store: Store, round_id: str, name: str, kind: type[R]) -> R:
    key = round_key(round_id, name)
    try:
        return kind.parse(store.get(key), store.where(key))
    except NotFound as missing:
        raise NotFound(f"{missing}; the stage that makes {name} has not run for this round") from missing


def _read_config(store: Store, round_id: str) -> Config:
    key = round_key(round_id, layout.CONFIG_FILE)
    try:
        return parse(json.loads(store.get(key)), store.where(key))
    except ValueError as error:
        raise Damaged(
            f"found no configuration in {store.where(key)}: {error}; it is left as it is"
        ) from error
