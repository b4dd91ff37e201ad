"""The status of a property, by which payments are decided."""

import pytest

from apportion.evaluation.verdict import verdict, weakest_score
from apportion.records import Faith, Judgement, LdsScore


def judged(statuses: list[str], scores: list[LdsScore], published: str = "leverage") -> Judgement:
    faiths = [Faith(alpha=0.5, rho=0.6, low=0.2, high=0.8, pairs=24, status=status) for status in statuses]
    return Judgement(
        property="fid",
        published=published,
        faithfulness=tuple(faiths),
        scores=tuple(scores),
        counterfactuals=(),
    )


def score(lds: float | None, low: float | None, method: str = "leverage", alpha: float = 0.5) -> LdsScore:
    high = None if low is None else 0.95
    return LdsScore(method=method, alpha=alpha, lds=lds, low=low, high=high, held_out=24)


GOOD = score(0.7, 0.3)


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["faithful", "faithful"], "faithful"),
        (["faithful", "not established"], "not established"),
        (["not established", "not faithful", "faithful"], "not faithful"),
        ([], "not established"),
    ],
)
def test_the_worst_of_all_sizes(statuses, expected):
    assert verdict(judged(statuses, [GOOD])) == expected


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([GOOD], "faithful"),
        ([score(-0.2, -0.6)], "not predictive"),
        ([score(0.6, 0.0)], "not predictive"),  # may be chance
        ([score(None, None)], "not established"),
        ([GOOD, score(0.1, -0.3, alpha=0.75)], "not predictive"),  # the worst of the sizes
        ([GOOD, score(-0.5, -0.8, method="banzhaf")], "faithful"),  # only the published method counts
        ([score(-0.5, -0.8, method="banzhaf"), GOOD], "faithful"),  # wherever its scores are
    ],
)
def test_credits_of_a_faithful_game_must_predict(scores, expected):
    assert verdict(judged(["faithful"], scores)) == expected


def test_the_weakest_score_is_that_of_the_published_method():
    scores = [GOOD, score(0.4, 0.2, alpha=0.75), score(0.1, -0.3, method="banzhaf")]
    assert weakest_score(judged(["faithful"], scores)) == scores[1]
    assert weakest_score(judged(["faithful"], scores, published="banzhaf")) == scores[2]
    assert weakest_score(judged(["faithful"], scores, published="loo")) is None
    assert verdict(judged(["faithful"], scores, published="loo")) == "faithful"


def test_a_game_that_disagrees_is_worse_than_credits_that_do_not_predict():
    assert verdict(judged(["not faithful"], [score(-0.2, -0.6)])) == "not faithful"
    assert verdict(judged(["not established"], [score(-0.2, -0.6)])) == "not established"
