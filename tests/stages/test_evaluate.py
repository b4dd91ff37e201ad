"""Evidence from ledgers of games that are known: faithfulness, LDS and counterfactuals against numpy and scipy."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from tiny import fill, planned

from apportion.errors import NotFound
from apportion.evaluation.faithfulness import faithfulness
from apportion.evaluation.verdict import verdict
from apportion.stages import attribute, evaluate, publish

METHODS = ["tree_residual", "leverage", "banzhaf", "beta_shapley"]
WORTH = {"fid": [-5.0, -1.0, 2.0, 0.3, 4.0], "inception_score": [0.1, 0.7, 0.2, 1.6, 0.4]}
FIVE = ("data.contributors=5", "properties=[fid, inception_score]", "valuation.coalitions=20", "evaluation.held_out=10")


def cheap(mask, name, seed):
    """Additive, so credits are its weights; `seed` moves all coalitions alike."""
    return 30 + float(mask @ WORTH[name]) + seed % 1000 * 1e-3


def reversed_(mask, name, seed):
    return 60 - cheap(mask, name, seed)


def noisy(mask, name, seed):
    return cheap(mask, name, seed) + 1.5 * np.sin(37 * float(mask @ [1, 2, 4, 8, 16]))


@pytest.fixture
def judged(tmp_path):
    def make(*overrides, truth=cheap):
        round = planned(tmp_path / "work", *FIVE, *overrides)
        fill(round, cheap, truth)
        attribute.run(round.uri)
        fill(round, cheap, truth)
        return round, evaluate.run(round.uri)

    return make


def of(round, name):
    return next(judgement for judgement in round.evidence.judgements if judgement.property == name)


def test_the_same_game_is_faithful_and_predicted(judged):
    round, faithful = judged()
    assert faithful == 2
    assert [judgement.property for judgement in round.evidence.judgements] == ["fid", "inception_score"]
    for judgement in round.evidence.judgements:
        (faith,) = judgement.faithfulness
        assert (faith.alpha, faith.rho, faith.pairs, faith.status) == (0.5, 1.0, 10, "faithful")
        assert {score.method: score.lds for score in judgement.scores} == dict.fromkeys(METHODS, 1.0)
        assert {(score.alpha, score.held_out) for score in judgement.scores} == {(0.5, 10)}
        assert verdict(judgement) == "faithful"


def test_the_opposite_game_is_not_faithful(judged):
    round, faithful = judged(truth=reversed_)
    assert faithful == 0
    for judgement in round.evidence.judgements:
        assert [(faith.rho, faith.status) for faith in judgement.faithfulness] == [(-1.0, "not faithful")]
        assert {score.lds for score in judgement.scores} == {-1.0}


def test_correlations_are_scipys(judged):
    round, _ = judged(truth=noisy)
    held, paired = round.evaluations("held_out"), round.evaluations("paired")
    Z = round.masks([wanted for wanted, _ in held])
    assert np.array_equal(Z, round.masks([wanted for wanted, _ in paired]))
    for name in WORTH:
        y, x = ([evaluation.values[name] for _, evaluation in pairs] for pairs in (held, paired))
        (faith,) = of(round, name).faithfulness
        assert faith.rho == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
        found = faithfulness(x, y, threshold=0.5)
        assert (faith.low, faith.high, faith.status) == (found.low, found.high, found.status)
        assert [score.method for score in of(round, name).scores] == METHODS
        for score, phi in zip(of(round, name).scores, credits_by(round, name), strict=True):
            assert score.lds == pytest.approx(spearmanr(np.round(Z @ phi, 9), y).statistic, abs=1e-12)
            assert -1 <= score.low <= score.lds <= score.high <= 1


def credits_by(round, name):
    """Credits of one property, by method."""
    return [np.array([c.phi for c in round.credits.credits if (c.property, c.method) == (name, method)]) for method in METHODS]


def test_the_threshold_is_the_rounds_own(judged):
    """A correlation that is positive but imperfect is faithful below the threshold only."""
    round, _ = judged("evaluation.threshold=0.99", truth=noisy)
    statuses = {name: of(round, name).faithfulness[0] for name in WORTH}
    assert all(faith.rho < 0.99 and faith.status == "not faithful" for faith in statuses.values())


def of_design(round):
    """Which of the held-out coalitions the credits were computed from."""
    design, held = ([tuple(item.mask(round.manifest.n)) for item in round.plan.wanted if item.purpose == p] for p in ("design", "held_out"))
    return [mask in design for mask in held]


def test_held_out_coalitions_are_not_of_the_design_while_there_are_others(tmp_path):
    for coalitions, alphas in (("24", "[0.5]"), ("30", "[0.34, 0.5, 0.67]"), ("40", "[0.5]")):
        six = ("data.contributors=6", f"valuation.coalitions={coalitions}", f"evaluation.alphas={alphas}", "evaluation.held_out=6")
        round = planned(tmp_path / coalitions, *six)
        held = [item.members for item in round.plan.wanted if item.purpose == "held_out"]
        assert len(set(held)) == len(held) == 6 * alphas.count(".")
        assert not any(of_design(round))


def test_where_there_are_no_others_their_number_is_told(judged):
    """Of the ten coalitions of two of five, the design of twenty takes the most: the others come first, and the report has the count."""
    round, _ = judged()
    seen = of_design(round)
    assert len(seen) == 10
    assert 0 < sum(seen) < 10
    assert seen == sorted(seen)
    scores = [score for judgement in round.evidence.judgements for score in judgement.scores]
    assert {(score.held_out, score.in_design) for score in scores} == {(10, sum(seen))}
    publish.run(round.uri)
    page = round.store.get(f"rounds/{round.id}/report.html").decode()
    assert f"over 10 coalitions, {sum(seen)} of which the credits were computed from too because there are no others of their size," in page
    assert "over coalitions that no credit was computed from" not in page


def test_few_pairs_establish_nothing(judged):
    round, faithful = judged("evaluation.held_out=7")
    assert faithful == 0
    assert [(of(round, name).faithfulness[0].pairs, verdict(of(round, name))) for name in WORTH] == [(7, "not established")] * 2


def test_without_held_out_coalitions_nothing_is_established(judged):
    round, faithful = judged("evaluation.held_out=0")
    assert faithful == 0
    for name in WORTH:
        assert of(round, name).faithfulness == of(round, name).scores == ()
        assert verdict(of(round, name)) == "not established"


def test_equal_values_have_no_order(judged):
    round, _ = judged(truth=lambda mask, *_: 3.0)
    for name in WORTH:
        assert [(faith.rho, faith.low, faith.high) for faith in of(round, name).faithfulness] == [(None, None, None)]
        assert {(score.lds, score.low, score.high) for score in of(round, name).scores} == {(None, None, None)}
        assert verdict(of(round, name)) == "not established"


def test_each_size_is_judged_by_itself(judged):
    """Of two sizes the smaller is told truly and the larger the wrong way round: the worst counts."""
    small_true = lambda mask, name, seed: (cheap if mask.sum() <= 2 else reversed_)(mask, name, seed)  # noqa: E731
    round, faithful = judged("evaluation.alphas=[0.4, 0.6]", truth=small_true)
    assert faithful == 0
    for name in WORTH:
        assert [(faith.alpha, faith.status) for faith in of(round, name).faithfulness] == [(0.4, "faithful"), (0.6, "not faithful")]
        assert [(score.method, score.alpha, score.lds) for score in of(round, name).scores if score.method == "leverage"] == [
            ("leverage", 0.4, 1.0),
            ("leverage", 0.6, -1.0),
        ]


def test_retraining_as_the_game_of_the_credits(judged):
    """Both games are then one; its values with one seed are judged by those with another, not by themselves."""
    alike = ("removal={method: retrain}", "evaluation.counterfactual.game=truth")
    round, faithful = judged(*alike)
    assert round.plan.truth_game == round.plan.credit_game
    assert faithful == 2
    held, paired = ([item.key for item in round.plan.wanted if item.purpose == purpose] for purpose in ("held_out", "paired"))
    assert not set(held) & set(paired)
    members = [[item.members for item in round.plan.wanted if item.purpose == purpose] for purpose in ("held_out", "paired")]
    assert members[0] == members[1]


# Counterfactuals


def test_the_change_is_relative_and_by_seed(judged):
    asked = "evaluation.counterfactual={property: fid, game: truth, share: 0.4, seeds: 3, random: 2}"
    round, _ = judged(asked, truth=noisy)
    names = np.array(round.manifest.names)
    for name in WORTH:
        top, *others = of(round, name).counterfactuals
        assert top.label == "without the top 2 for fid"
        assert set(top.removed) == set(names[[0, 1]])  # whose fid credits are the most negative
        assert [other.label for other in others] == ["without 2 at random (1)", "without 2 at random (2)"]
        for change in (top, *others):
            gone = np.isin(names, change.removed)
            assert gone.sum() == 2
            before = np.array([noisy(np.ones(5), name, seed) for seed in range(3)])
            after = np.array([noisy(~gone, name, seed) for seed in range(3)])
            relative = (after - before) / np.abs(before)
            assert change.change == pytest.approx(relative.mean(), rel=1e-12)
            assert change.se == pytest.approx(relative.std(ddof=1) / np.sqrt(3), rel=1e-9)
            assert change.value == pytest.approx(after.mean(), rel=1e-12)
            assert change.game == round.plan.truth_game
            assert change.key in {item.key for item in round.followup.wanted}


def test_one_seed_has_no_error(judged):
    round, _ = judged()
    assert {change.se for name in WORTH for change in of(round, name).counterfactuals} == {None}
    assert len(of(round, "fid").counterfactuals) == 2


def test_no_change_is_relative_to_nothing(judged):
    round, _ = judged("evaluation.counterfactual.game=truth", truth=lambda mask, *_: 0.0 if mask.all() else 1.0)
    assert {(change.change, change.se, change.value) for change in of(round, "fid").counterfactuals} == {(None, None, 1.0)}


def test_no_counterfactual_was_asked_for(judged):
    round, _ = judged("evaluation.counterfactual=null")
    assert of(round, "fid").counterfactuals == ()


def test_retraining_that_is_missing_is_named(tmp_path):
    round = planned(tmp_path, *FIVE)
    fill(round, cheap)
    attribute.run(round.uri)
    with pytest.raises(NotFound, match="run finetune, sample and score"):
        evaluate.run(round.uri)  # what the credits call for is not there yet
    assert not round.has("evidence.json")
