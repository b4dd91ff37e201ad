"""Damage is found by `plan`, before compute is spent: it reads what a round will start from, or what a committed one consists of."""

from collections.abc import Iterable

from apportion.errors import Damaged, NotFound
from apportion.records import Commit, Credits, Wanted
from apportion.stages.collection import images_key
from apportion.stages.round import Round, reference_key, round_key, weights_key

MADE_BY = {
    "credits.json": "attribute",
    "credits.csv": "attribute",
    "followup.json": "attribute",
    "evidence.json": "evaluate",
    "statement.csv": "publish",
    "report.html": "publish",
}
"""The files of a committed round, and the stage that makes each again where it is gone."""


def read_materials(round: Round, pending: Iterable[Wanted]) -> None:
    """Reads what there is of what the stages will read: training images, models, reference, what pending evaluations have got so far.

    What is not there is made by the stages. Raises Damaged.
    """
    keys = [weights_key(round.plan.base), weights_key(round.plan.pruned or round.plan.base), reference_key(round.plan.reference)]
    keys += [images_key(data) for data in round.manifest.everybody]
    for item in pending:
        samples = round.samples_key(item)  # where they are, nothing reads the model any more
        keys.append(samples if round.store.exists(samples) else round.weights_key(item))
    for key in dict.fromkeys(keys):
        if round.store.exists(key):
            round.store.get(key)


def read_committed(uri: str) -> Commit:
    """Reads everything that a committed round consists of. Raises Damaged or NotFound, saying what to run, where it is not whole."""
    round = Round.open(uri)
    for name in MADE_BY:
        _read(round, name)
    for _ in round.ledger.read_all(round.wanted):
        pass
    key = round_key(round.id, "round.json")
    return Commit.parse(round.store.get(key), round.store.where(key))


def read_credits(uri: str) -> Credits:
    """The credits of a committed round. Raises as `read_committed` does."""
    round = Round.open(uri)
    _read(round, "credits.json")
    return round.credits


def _read(round: Round, name: str) -> None:
    try:
        round.store.get(round_key(round.id, name))
    except NotFound as missing:
        raise Damaged(
            f"found no {name} in the committed round {round.uri}, expected it beside round.json; "
            f"`apportion {MADE_BY[name]} {round.uri}` makes it again"
        ) from missing
