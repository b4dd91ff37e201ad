"""Does what a round published follow from its ledger, to the last bit or up to rounding?"""

import json
import math
from collections.abc import Callable
from typing import Any

from apportion.errors import Damaged
from apportion.report.spreadsheets import credits_csv
from apportion.rounds.round import Round
from apportion.stages.attribute import credits_of, follow
from apportion.stages.evaluate import evidence_of
from apportion.stages.publish import statement
from apportion.store import layout
from apportion.version import code

TOLERANCE = 1e-9
"""The largest difference, relative or near zero absolute, between results of the same arithmetic on two
machines, whose libraries may add numbers in another order."""

MAKE: dict[str, Callable[[Round], bytes]] = {
    layout.CREDITS_FILE: lambda this_round: credits_of(this_round).dump(),
    layout.CREDITS_CSV: lambda this_round: credits_csv(this_round.credits).encode(),
    layout.FOLLOWUP_FILE: lambda this_round: follow(this_round).dump(),
    layout.EVIDENCE_FILE: lambda this_round: evidence_of(this_round).dump(),
    layout.STATEMENT_FILE: lambda this_round: statement(this_round).encode(),
}
"""How each file is made from the ledger and the stored files before it."""


def verify(round_uri: str) -> dict[str, Any]:
    """Reads every record of a round and makes its files again; says of each file how exactly the two agree.

    Raises Damaged where a record is damaged, or where a file does not follow.
    """
    this_round = Round.open(round_uri)
    records = len(this_round.all_evaluations())
    names = (
        list(MAKE) if this_round.has(layout.COMMIT_FILE) else [name for name in MAKE if this_round.has(name)]
    )
    verified = {name: agreement(this_round, name) for name in names}
    return {"round": this_round.id, "evaluations": records, "verified": verified}


def agreement(this_round: Round, name: str) -> str:
    """How exactly a stored file agrees with what its round's records give here."""
    stored, again = this_round.read(name), MAKE[name](this_round)
    if stored == again:
        return "to the last bit"
    if name.endswith(".json") and close(json.loads(stored), json.loads(again)):
        return f"within {TOLERANCE:g}"
    raise Damaged(
        f"found {this_round.where(name)}, which does not follow from the ledger (Apportion {code()}); it is "
        "left as it is"
    )


def close(a: Any, b: Any) -> bool:
    """Whether two JSON values are the same up to the last digits of fractions."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(close(a[name], b[name]) for name in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(close, a, b))
    return math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE) if isinstance(a, float) else bool(a == b)
