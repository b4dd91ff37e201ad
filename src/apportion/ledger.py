"""Evaluations in a store: what is known of a game, and what a plan still lacks."""

from collections.abc import Iterable, Iterator
from itertools import islice

from apportion.errors import Damaged, NotFound
from apportion.records import Evaluation, Game, Wanted
from apportion.store import Store
from apportion.store.layout import RECORD, game_key, ledger_prefix, record_key


class Ledger:
    """The evaluations of every game in one store. Records are written once and never changed."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def open_game(self, game: Game) -> None:
        """Writes a game's definition beside its evaluations, once."""
        self.store.put_if_absent(game_key(game.id), game.dump())

    def game(self, game: str) -> Game:
        """Raises NotFound, or Damaged where the text is not the game of that id."""
        where = self.store.where(game_key(game))
        stored = Game.parse(self.store.get(game_key(game)), where)
        if stored.id != game:
            raise Damaged(f"found game {stored.id} in {where}, expected {game}; it is left as it is")
        return stored

    def commit(self, evaluation: Evaluation) -> bool:
        """Records an evaluation; False where another process already had."""
        return self.store.put_if_absent(record_key(evaluation.game, evaluation.key), evaluation.dump())

    def read(self, wanted: Wanted) -> Evaluation:
        """Raises NotFound where it is not evaluated, Damaged where the record does not match its address."""
        return self.at(wanted.game, wanted.key)

    def at(self, game: str, key: str) -> Evaluation:
        """The evaluation of a game at a key. Raises as `read` does."""
        name = record_key(game, key)
        record = Evaluation.parse(self.store.get(name), self.store.where(name))
        if (record.game, record.key) != (game, key):
            raise Damaged(
                f"found evaluation {record.key} in {self.store.where(name)}, expected {key}; it is left as "
                "it is"
            )
        return record

    def read_all(self, wanted: Iterable[Wanted]) -> Iterator[Evaluation]:
        """The evaluations in the order given. Raises NotFound, saying how to have it made, where one is
        missing."""
        for item in wanted:
            try:
                yield self.read(item)
            except NotFound as missing:
                raise NotFound(
                    f"{missing}; run finetune, sample and score for this round again, then repeat this stage"
                ) from missing

    def keys(self, game: str) -> set[str]:
        """Keys of every evaluation of a game. Other objects there, such as renamed damaged records, are
        ignored."""
        return set(self._keys(game))

    def first_keys(self, game: str, number: int) -> list[str]:
        """The first keys of a game, in their order. No more of the ledger is listed than that: it may have
        many thousand records. Keys are hashes, so this is a random choice of the game's evaluations."""
        return list(islice(self._keys(game), number))

    def _keys(self, game: str) -> Iterator[str]:
        matches = (RECORD.fullmatch(name) for name in self.store.list(ledger_prefix(game)))
        return (match["key"] for match in matches if match)

    def has(self, wanted: Wanted) -> bool:
        """Whether there is a record, intact or damaged."""
        return self.store.exists(record_key(wanted.game, wanted.key))

    def pending(self, wanted: Iterable[Wanted]) -> list[Wanted]:
        """Those of `wanted` without a record, in their order, each key once."""
        unique = {item.key: item for item in wanted}
        known = {game: self.keys(game) for game in {item.game for item in unique.values()}}
        return [item for item in unique.values() if item.key not in known[item.game]]
