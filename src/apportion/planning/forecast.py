"""The expected cost of pending evaluations, from the cost of evaluations of the same games in the ledger."""

import numpy as np

from apportion.ledger import Ledger
from apportion.records import Wanted

RECORDS = 20
"""Evaluations of a game that a forecast is made from."""


def forecast(ledger: Ledger, pending: list[Wanted], shards: int) -> str:
    """The expected time of the pending evaluations (without the base model), in words; empty where the ledger
    has none of a game."""
    hours = 0.0
    if not pending:
        return ""
    for game in sorted({item.game for item in pending}):
        known = sorted(ledger.keys(game))[:RECORDS]
        if not known:
            return ""
        costs = [ledger.at(game, key).cost.total for key in known]
        hours += sum(item.game == game for item in pending) * float(np.mean(costs)) / 3600
    return (
        f"; they should take {hours:.2g} device hours, {60 * hours / shards:.2g} minutes on {shards} shards"
    )
