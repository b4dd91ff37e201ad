"""Evaluations in a store: what is known of a game, and what a plan still lacks."""

import re
from collections.abc import Iterable, Iterator

from apportion.errors import Damaged, NotFound
from apportion.records import Evaluation, Game, Wanted
from apportion.store import Store


def game_key(game: str) -> str:
    return f"games/{game}/game.json"


def record_key(game: str, key: str) -> str:
    return f"games/{game}/ledger/{key}.json"


RECORD = re.compile(r"games/[0-9a-f]{32}/ledger/(?P<key>[0-9a-f]{32})\.json")


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
        found = Game.parse(self.store.get(game_key(game)), where)
        if found.id != game:
            raise Damaged(f"found game {found.id} in {where}, expected {game}; it is left as it is")
        return found

    def commit(self, evaluation: Evaluation) -> bool:
        """Records an evaluation; False where somebody else already had."""
        return self.store.put_if_absent(record_key(evaluation.game, evaluation.key), evaluation.dump())

    def read(self, wanted: Wanted) -> Evaluation:
        """Raises NotFound where it is not evaluated, Damaged where the record is not what its address says."""
        return self.at(wanted.game, wanted.key)

    def at(self, game: str, key: str) -> Evaluation:
        """The evaluation of a game at a key. Raises as `read` does."""
        name = record_key(game, key)
        found = Evaluation.parse(self.store.get(name), self.store.where(name))
        if (found.game, found.key) != (game, key):
            raise Damaged(f"found evaluation {found.key} in {self.store.where(name)}, expected {key}; it is left as it is")
        return found

    def read_all(self, wanted: Iterable[Wanted]) -> Iterator[Evaluation]:
        """The evaluations in the order asked for. Raises NotFound, saying how to have it made, where one is missing."""
        for item in wanted:
            try:
                yield self.read(item)
            except NotFound as missing:
                raise NotFound(f"{missing}; run finetune, sample and score for this round again, then repeat this stage") from missing

    def keys(self, game: str) -> set[str]:
        """Keys of every evaluation of a game. What else lies there, such as a damaged record under another name, is none."""
        found = (RECORD.fullmatch(name) for name in self.store.list(f"games/{game}/ledger/"))
        return {record["key"] for record in found if record}

    def pending(self, wanted: Iterable[Wanted]) -> list[Wanted]:
        """Those of `wanted` without a record, in their order, each key once."""
        unique = {item.key: item for item in wanted}
        known = {game: self.keys(game) for game in {item.game for item in unique.values()}}
        return [item for item in unique.values() if item.key not in known[item.game]]
