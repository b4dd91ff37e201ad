"""The expected cost of what a round lacks, from what the same games cost before, as the store has it."""

import logging
from collections.abc import Iterable, Iterator
from itertools import islice
from statistics import fmean

from apportion.errors import Damaged, NotFound
from apportion.records import Cost, Wanted
from apportion.rounds.round import Round
from apportion.rounds.weights import untrained_shared_weights
from apportion.store.layout import costs_prefix

log = logging.getLogger(__name__)

RECORDS = 20
"""Records of a game that a forecast is made from, at most."""


def forecast(this_round: Round, pending: list[Wanted]) -> str:
    """The expected time of the pending evaluations, in words, with the training of the models that they share
    and that are not there, each once (without the base model); empty where the ledger has none of a game. Own
    images, which take milliseconds, are not counted."""
    seconds = 0.0
    if not pending:
        return ""
    own_images = this_round.plan.games.get("baseline")
    for game in sorted({item.game for item in pending if item.game != own_images}):
        totals = [cost.total for cost in _costs_of_evaluations(this_round, game)]
        if not totals:
            return ""
        seconds += fmean(totals) * sum(item.game == game for item in pending)
    counted, uncounted = 0, 0
    for game, count in untrained_shared_weights(this_round, pending).items():
        costs = [cost.finetune for cost in _costs_of_shared_weights(this_round, game)]
        if costs:
            seconds += count * fmean(costs)
            counted += count
        else:
            uncounted += count
    which = f"they and the training of {_models(counted)}" if counted else "they"
    shards = this_round.config.compute.shards
    text = f"; {which} should take {seconds / 3600:.2g} device hours, {seconds / 60 / shards:.2g} minutes on "
    text += f"{shards} shards"
    return f"{text}, without the training of {_models(uncounted)}, of unknown cost" if uncounted else text


def _models(count: int) -> str:
    return f"{count} model{'' if count == 1 else 's'} that coalitions share"


def _costs_of_evaluations(this_round: Round, game: str) -> Iterator[Cost]:
    """What some evaluations of a game cost, whichever round they were made for."""
    for key in this_round.ledger.first_keys(game, RECORDS):
        try:
            yield this_round.ledger.at(game, key).cost
        except (Damaged, NotFound) as error:
            _left_out(error)


def _costs_of_shared_weights(this_round: Round, game: str) -> Iterable[Cost]:
    store = this_round.store
    for key in islice(store.list(costs_prefix(game)), RECORDS):
        try:
            yield Cost.parse(store.get(key), store.where(key))
        except (Damaged, NotFound) as error:
            _left_out(error)


def _left_out(error: Exception) -> None:
    """Of the records that the round wants, a damaged one has stopped `plan` before (`stages.plan`). Another
    one would change nothing but the forecast."""
    log.warning("the forecast leaves out a record: %s", error)
