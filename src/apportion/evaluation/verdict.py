"""Whether payments may follow the credits of a property: one status from what is known of the game and of the
credits (docs/methods.md, "Faithfulness")."""

from collections.abc import Sequence
from typing import get_args

from apportion.records import Faith, Judgement, LdsScore, Status

SEVERITY = {status: place for place, status in enumerate(get_args(Status))}
"""The place of each status, the worst first."""


def verdict(judgement: Judgement) -> Status:
    """The worst status over the sizes of coalitions that were measured; "not established" where nothing was
    retrained."""
    if not judgement.faithfulness:
        return "not established"
    game, score = weakest_faith(judgement.faithfulness).status, weakest_score(judgement)
    return game if score is None else min(game, prediction(score), key=SEVERITY.__getitem__)


def verdict_text(judgement: Judgement) -> str:
    """The verdict in words; it says where the agreement with retraining was measured in another round."""
    status = verdict(judgement)
    return status if judgement.cited is None else f"{status} (measured in another round)"


def prediction(score: LdsScore) -> Status:
    """Whether credits predict retrained models: they do where the interval of their score is above 0, which
    excludes chance and a reversed order."""
    if score.lds is None or score.low is None:
        return "not established"
    return "faithful" if score.low > 0 else "not predictive"


def weakest_faith(faithfulness: Sequence[Faith]) -> Faith:
    """The size of coalition, of those measured, at which the game agrees least with retraining."""
    return min(
        faithfulness, key=lambda faith: (SEVERITY[faith.status], 2.0 if faith.rho is None else faith.rho)
    )


def weakest_score(judgement: Judgement) -> LdsScore | None:
    """The lowest score of the published credits; None where nothing was scored."""
    scores = [score for score in judgement.scores if score.method == judgement.published]

    def strength(score: LdsScore) -> tuple[int, float]:
        return SEVERITY[prediction(score)], 2.0 if score.lds is None else score.lds

    return min(scores, key=strength, default=None)
