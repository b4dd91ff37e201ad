"""Finding damage before compute is spent: `plan` reads what a round will start from, and what a committed
round consists of."""

from collections.abc import Iterable

from apportion.errors import Damaged, NotFound
from apportion.records import Commit, Credits, Wanted
from apportion.rounds.round import Round
from apportion.store.layout import (
    COMMIT_FILE,
    CREDITS_FILE,
    MADE_BY,
    images_key,
    reference_key,
    weights_key,
)


def read_inputs(this_round: Round, pending: Iterable[Wanted]) -> None:
    """Reads what is stored of the inputs of the stages: training images, models, references, and what the
    pending evaluations have so far.

    What is missing is made by the stages. Raises Damaged.
    """
    keys = [weights_key(this_round.plan.base.id)]
    for game in this_round.games.values():
        if game.recipe.start is not None:
            keys.append(weights_key(game.recipe.start.id))
        keys += [reference_key(item.reference) for item in game.properties if item.reference is not None]
    keys += [images_key(data) for data in this_round.manifest.all_data]
    for item in pending:
        samples = this_round.samples_key(item)
        # Once there are images, no stage reads the model again.
        keys += [samples] if this_round.store.exists(samples) else this_round.weights_keys(item)
    for key in dict.fromkeys(keys):
        if this_round.store.exists(key):
            this_round.store.get(key)


def read_committed(uri: str) -> Commit:
    """Reads everything that a committed round consists of. Raises Damaged or NotFound, saying what to run,
    where a part of it is damaged or missing."""
    this_round = Round.open(uri)
    for name in MADE_BY:
        _read(this_round, name)
    for _ in this_round.ledger.read_all(this_round.wanted):
        pass
    return Commit.parse(this_round.read(COMMIT_FILE), this_round.where(COMMIT_FILE))


def read_credits(uri: str) -> Credits:
    """The credits of a committed round. Raises as `read_committed` does."""
    this_round = Round.open(uri)
    _read(this_round, CREDITS_FILE)
    return this_round.credits


def _read(this_round: Round, name: str) -> None:
    try:
        this_round.read(name)
    except NotFound as missing:
        raise Damaged(
            f"found no {name} in the committed round {this_round.uri}, expected it beside {COMMIT_FILE}; "
            f"`apportion {MADE_BY[name]} {this_round.uri}` makes it again"
        ) from missing
