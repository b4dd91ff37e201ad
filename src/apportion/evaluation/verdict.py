"""May a property's credits be paid by? One word for what was found of the game and of the credits drawn from it (METHODS.md §10)."""

from collections.abc import Sequence
from typing import get_args

from apportion.records import Faith, Judgement, Score, Status

SEVERITY = {status: place for place, status in enumerate(get_args(Status))}


def verdict(judgement: Judgement) -> Status:
    """The worst of what was found at each size of coalition; nothing is established where nothing was retrained."""
    if not judgement.faithfulness:
        return "not established"
    game, score = weakest_faith(judgement.faithfulness).status, weakest_score(judgement.scores)
    return game if score is None else min(game, prediction(score), key=SEVERITY.__getitem__)


def prediction(score: Score) -> Status:
    """Credits predict where their score is not chance, nor the opposite of the truth: where its interval lies above 0."""
    if score.lds is None or score.low is None:
        return "not established"
    return "faithful" if score.low > 0 else "not predictive"


def weakest_faith(faithfulness: Sequence[Faith]) -> Faith:
    """Of the sizes measured, the one at which the game is least like retraining."""
    return min(faithfulness, key=lambda faith: (SEVERITY[faith.status], 2.0 if faith.rho is None else faith.rho))


def weakest_score(scores: Sequence[Score]) -> Score | None:
    """The lowest score of the published credits, whose method is the first; None where nothing was scored."""
    published = [score for score in scores if score.method == scores[0].method]
    return min(published, key=lambda score: (SEVERITY[prediction(score)], 2.0 if score.lds is None else score.lds), default=None)
