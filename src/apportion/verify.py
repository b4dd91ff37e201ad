"""verify: does what a round published follow from its ledger, to the last bit or but for rounding?"""

import json
import math
from collections.abc import Callable
from typing import Any

from apportion.errors import Damaged
from apportion.stages.attribute import credit, follow, table
from apportion.stages.evaluate import judge
from apportion.stages.publish import everything, statement
from apportion.stages.round import Round, round_key
from apportion.version import code

TOLERANCE = 1e-9
"""Relative, and absolute near zero: how far the same arithmetic may come out elsewhere, where libraries add in another order."""

MADE: dict[str, Callable[[Round], bytes]] = {
    "credits.json": lambda round: credit(round).dump(),
    "credits.csv": lambda round: table(round.credits).encode(),
    "followup.json": lambda round: follow(round).dump(),
    "evidence.json": lambda round: judge(round).dump(),
    "statement.csv": lambda round: statement(round).encode(),
}
"""Each from the ledger and those before it as they are stored: arithmetic is done for credits.json and evidence.json alone."""


def run(round_uri: str) -> dict[str, Any]:
    """Reads every record of a round and makes its files again; says of each file how exactly it came out the same.

    Raises Damaged where a record is, or where a file does not follow.
    """
    round = Round.open(round_uri)
    records = len(everything(round))
    names = list(MADE) if round.has("round.json") else [name for name in MADE if round.has(name)]
    return {"round": round.id, "evaluations": records, "verified": {name: agreement(round, name) for name in names}}


def agreement(round: Round, name: str) -> str:
    """How exactly a stored file is what its round's records give here."""
    key = round_key(round.id, name)
    stored, again = round.store.get(key), MADE[name](round)
    if stored == again:
        return "to the last bit"
    if name.endswith(".json") and close(json.loads(stored), json.loads(again)):
        return f"within {TOLERANCE:g}"
    raise Damaged(f"found {round.store.where(key)}, which does not follow from the ledger (Apportion {code()}); it is left as it is")


def close(a: Any, b: Any) -> bool:
    """Whether two JSON values are the same but for the last digits of fractions."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(close(a[name], b[name]) for name in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(close, a, b))
    return math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE) if isinstance(a, float) else bool(a == b)
