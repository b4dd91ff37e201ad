"""Evidence from ledgers of known games: faithfulness, LDS and counterfactuals against numpy and scipy."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from tiny import fill, planned

from apportion.errors import ConfigError, NotFound
from apportion.evaluation.faithfulness import faithfulness
from apportion.evaluation.verdict import verdict
from apportion.planning.coalitions import PAIRED_SEEDS
from apportion.stages import attribute, evaluate, publish

METHODS = ["tree_residual", "leverage", "banzhaf", "beta_shapley"]
WORTH = {"fid": [-5.0, -1.0, 2.0, 0.3, 4.0], "inception_score": [0.1, 0.7, 0.2, 1.6, 0.4]}
FIVE = (
    *("data.contributors=5", "properties=[fid, inception_score]"),
    *("valuation.coalitions=20", "evaluation.held_out=10"),
)


def cheap(mask, name, seed):
    """Additive, so credits are its weights; `seed` adds the same to all coalitions."""
    return 30 + float(mask @ WORTH[name]) + seed % 1000 * 1e-3


def opposite(mask, name, seed):
    return 60 - cheap(mask, name, seed)


def noisy(mask, name, seed):
    return cheap(mask, name, seed) + 1.5 * np.sin(37 * float(mask @ [1, 2, 4, 8, 16]))


@pytest.fixture
def judged(tmp_path):
    """Makes a round with evidence; returns it and what `evaluate` returned."""

    def make(*overrides, truth=cheap, credit=cheap):
        this_round = planned(tmp_path / "work", *FIVE, *overrides)
        fill(this_round, credit, truth)
        attribute.run(this_round.uri)
        fill(this_round, credit, truth)
        return this_round, evaluate.run(this_round.uri)

    return make


def judgement_of(this_round, name):
    return next(judgement for judgement in this_round.evidence.judgements if judgement.property == name)


def members(this_round, purpose):
    """The coalitions of a purpose, as the plan has them."""
    return [item.members for item in this_round.plan.wanted if item.purpose == purpose]


def test_the_same_game_is_faithful_and_predicted(judged):
    this_round, faithful = judged()
    assert faithful == 2
    assert [judgement.property for judgement in this_round.evidence.judgements] == ["fid", "inception_score"]
    for judgement in this_round.evidence.judgements:
        (faith,) = judgement.faithfulness
        assert (faith.alpha, faith.rho, faith.pairs, faith.status) == (0.5, 1.0, 10, "faithful")
        assert {score.method: score.lds for score in judgement.scores} == dict.fromkeys(METHODS, 1.0)
        assert {(score.alpha, score.held_out) for score in judgement.scores} == {(0.5, 10)}
        assert judgement.published == "tree_residual"
        assert verdict(judgement) == "faithful"


def test_the_opposite_game_is_not_faithful(judged):
    this_round, faithful = judged(truth=opposite)
    assert faithful == 0
    for judgement in this_round.evidence.judgements:
        assert [(faith.rho, faith.status) for faith in judgement.faithfulness] == [(-1.0, "not faithful")]
        assert {score.lds for score in judgement.scores} == {-1.0}


def test_correlations_are_those_of_scipy(judged):
    this_round, _ = judged(truth=noisy)
    held, paired = this_round.evaluations("held_out"), this_round.evaluations("paired")
    Z = this_round.masks([wanted for wanted, _ in held])
    assert np.array_equal(Z, this_round.masks([wanted for wanted, _ in paired]))
    for name in WORTH:
        y, x = ([evaluation.values[name] for _, evaluation in pairs] for pairs in (held, paired))
        (faith,) = judgement_of(this_round, name).faithfulness
        assert faith.rho == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
        expected = faithfulness(x, y, threshold=0.5)
        assert (faith.low, faith.high, faith.status) == (expected.low, expected.high, expected.status)
        scores = judgement_of(this_round, name).scores
        assert [score.method for score in scores] == METHODS
        for score in scores:
            phi = np.array([c.phi for c in this_round.credits.of(name, score.method)])
            assert score.lds == pytest.approx(spearmanr(np.round(Z @ phi, 9), y).statistic, abs=1e-12)
            assert -1 <= score.low <= score.lds <= score.high <= 1


def test_the_threshold_is_the_rounds_own(judged):
    """A correlation that is positive but imperfect is faithful below the threshold only."""
    this_round, _ = judged("evaluation.threshold=0.99", truth=noisy)
    faiths = [judgement_of(this_round, name).faithfulness[0] for name in WORTH]
    assert all(faith.rho < 0.99 and faith.status == "not faithful" for faith in faiths)


def test_where_there_are_too_few_other_coalitions_the_report_has_the_number(judged):
    """The design of twenty has most of the ten coalitions of two of five: the others come first."""
    this_round, _ = judged()
    design, held = members(this_round, "design"), members(this_round, "held_out")
    in_design = [coalition in design for coalition in held]
    assert len(in_design) == 10
    assert 0 < sum(in_design) < 10
    assert in_design == sorted(in_design)
    scores = [score for judgement in this_round.evidence.judgements for score in judgement.scores]
    assert {(score.held_out, score.in_design) for score in scores} == {(10, sum(in_design))}
    publish.run(this_round.uri)
    page = this_round.read("report.html").decode()
    assert f"over 10 coalitions, {sum(in_design)} of which the credits were computed from too" in page
    assert "over coalitions that no credit was computed from" not in page


def test_few_pairs_establish_nothing(judged):
    this_round, faithful = judged("evaluation.held_out=7")
    assert faithful == 0
    for name in WORTH:
        judgement = judgement_of(this_round, name)
        assert (judgement.faithfulness[0].pairs, verdict(judgement)) == (7, "not established")


def test_without_held_out_coalitions_nothing_is_established(judged):
    this_round, faithful = judged("evaluation.held_out=0")
    assert faithful == 0
    for name in WORTH:
        judgement = judgement_of(this_round, name)
        assert judgement.faithfulness == judgement.scores == judgement.baseline == ()
        assert judgement.by_size == judgement.by_size_baseline == ()
        assert verdict(judgement) == "not established"


def test_equal_values_have_no_order(judged):
    this_round, _ = judged(truth=lambda mask, *_: 3.0)
    for name in WORTH:
        judgement = judgement_of(this_round, name)
        assert [(faith.rho, faith.low, faith.high) for faith in judgement.faithfulness] == [(None,) * 3]
        assert {(score.lds, score.low, score.high) for score in judgement.scores} == {(None,) * 3}
        assert verdict(judgement) == "not established"


def test_each_size_is_judged_by_itself(judged):
    """The smaller size is faithful, the larger is the opposite: the worst counts."""

    def half_opposite(mask, name, seed):
        return cheap(mask, name, seed) if mask.sum() <= 2 else opposite(mask, name, seed)

    this_round, faithful = judged("evaluation.alphas=[0.4, 0.6]", truth=half_opposite)
    assert faithful == 0
    for name in WORTH:
        judgement = judgement_of(this_round, name)
        assert [(faith.alpha, faith.status) for faith in judgement.faithfulness] == [
            (0.4, "faithful"),
            (0.6, "not faithful"),
        ]
        scores = [(score.alpha, score.lds) for score in judgement.scores if score.method == "leverage"]
        assert scores == [(0.4, 1.0), (0.6, -1.0)]


def test_retraining_as_the_game_of_the_credits(judged):
    """Both games are then one; its values with one seed are judged by those with another, not by
    themselves."""
    this_round, faithful = judged("removal={method: retrain}", "evaluation.counterfactual.game=truth")
    assert this_round.plan.games["truth"] == this_round.plan.games["credit"]
    assert faithful == 2
    held, paired = (
        {item.key for item in this_round.plan.wanted if item.purpose == purpose}
        for purpose in ("held_out", "paired")
    )
    assert not held & paired
    assert members(this_round, "held_out") == members(this_round, "paired")


# Experts, own images and further sizes

EXPERTS = "removal={method: experts, fitting: {steps: 2, lr: 0.1}, sets: 3}"


def by_set(mask, name, seed):
    """As `cheap`, where each set of experts has noise of its own when a coalition is compared with
    retraining; over the three sets it sums to zero."""
    repeat = seed - PAIRED_SEEDS - 1000
    noise = {0: 1.0, 1: -2.0, 2: 1.0}.get(repeat, 0.0) * np.sin(37 * float(mask @ [1, 2, 4, 8, 16]))
    return cheap(mask, name, 0) + 10 * noise


def test_values_with_several_sets_are_averaged(judged):
    this_round, faithful = judged(EXPERTS, credit=by_set, truth=lambda mask, name, _: cheap(mask, name, 0))
    held, paired = this_round.evaluations("held_out"), this_round.evaluations("paired")
    assert (len(held), len(paired)) == (10, 30)
    for name in WORTH:
        (faith,) = judgement_of(this_round, name).faithfulness
        assert (faith.rho, faith.pairs, faith.status) == (1.0, 10, "faithful")
        y = [record.values[name] for _, record in held]
        for repeat in range(3):  # with a single set they agree less
            x = [record.values[name] for _, record in paired[repeat::3]]
            assert spearmanr(x, y).statistic < 0.9
    assert faithful == 2


def own_opposite(mask, name, seed):
    """The game of the coalitions' own images, which has seed 0, is the opposite of the others."""
    return opposite(mask, name, seed) if seed == 0 else cheap(mask, name, seed)


@pytest.mark.parametrize("removal", [(), (EXPERTS,)])
def test_own_images_are_compared_with_retraining_and_do_not_enter_the_verdict(judged, removal):
    this_round, faithful = judged(*removal, "valuation.seed=1", credit=own_opposite, truth=cheap)
    assert len(this_round.evaluations("baseline")) == 10
    for name in WORTH:
        judgement = judgement_of(this_round, name)
        (own,) = judgement.baseline
        assert (own.alpha, own.rho, own.pairs, own.status) == (0.5, -1.0, 10, "not faithful")
        assert [faith.rho for faith in judgement.faithfulness] == [1.0]
        assert verdict(judgement) == "faithful"
    assert faithful == 2


def test_each_size_has_its_own_images(judged):
    def half_opposite(mask, name, seed):
        return own_opposite(mask, name, seed if mask.sum() > 2 else 7)

    options = ("evaluation.alphas=[0.6, 0.4]", "valuation.seed=1")
    this_round, _ = judged(*options, credit=half_opposite, truth=lambda mask, name, _: cheap(mask, name, 7))
    for name in WORTH:
        own = judgement_of(this_round, name).baseline
        assert [(faith.alpha, faith.rho) for faith in own] == [(0.6, -1.0), (0.4, 1.0)]


@pytest.mark.parametrize("removal", [(), (EXPERTS,)])
def test_further_sizes_are_reported_and_do_not_enter_the_verdict(judged, removal):
    """Of five contributors one, two and four. Only coalitions of two agree with retraining, by whose size
    credits are judged; the own images agree at the others."""

    def other(mask, name, seed):
        return opposite(mask, name, 0) if mask.sum() != 2 else cheap(mask, name, 0)

    def credit(mask, name, seed):
        return opposite(mask, name, 0) if seed == 0 else cheap(mask, name, 0)

    options = ("evaluation.by_size=7", "valuation.seed=1", *removal)
    this_round, faithful = judged(*options, credit=credit, truth=other)
    assert faithful == 2
    for name in WORTH:
        judgement = judgement_of(this_round, name)
        found = [(faith.alpha, faith.rho, faith.pairs) for faith in judgement.by_size]
        assert found == [(0.2, -1.0, 5), (0.4, 1.0, 7), (0.8, -1.0, 5)]
        own = [(faith.alpha, faith.rho, faith.pairs) for faith in judgement.by_size_baseline]
        assert own == [(0.2, 1.0, 5), (0.4, -1.0, 7), (0.8, 1.0, 5)]
        assert [faith.alpha for faith in judgement.faithfulness] == [0.5]
        assert {score.alpha for score in judgement.scores} == {0.5}
        assert verdict(judgement) == "faithful"


def test_further_sizes_need_held_out_coalitions(judged):
    with pytest.raises(ConfigError, match=r"found evaluation\.by_size 7 without evaluation\.held_out"):
        judged("evaluation.held_out=0", "evaluation.by_size=7")


# Counterfactuals


def test_the_change_is_relative_and_by_seed(judged):
    option = "evaluation.counterfactual={property: fid, game: truth, share: 0.4, seeds: 3, random: 2}"
    this_round, _ = judged(option, truth=noisy)
    names = np.array(this_round.manifest.names)
    for name in WORTH:
        top, *others = judgement_of(this_round, name).counterfactuals
        assert top.label == "without the top 2 for fid"
        assert set(top.removed) == set(names[[0, 1]])  # those with the most negative credits for fid
        labels = [other.label for other in others]
        assert labels == ["without 2 at random (1)", "without 2 at random (2)"]
        for change in (top, *others):
            removed = np.isin(names, change.removed)
            assert removed.sum() == 2
            before = np.array([noisy(np.ones(5), name, seed) for seed in range(3)])
            after = np.array([noisy(~removed, name, seed) for seed in range(3)])
            relative = (after - before) / np.abs(before)
            assert change.change == pytest.approx(relative.mean(), rel=1e-12)
            assert change.se == pytest.approx(relative.std(ddof=1) / np.sqrt(3), rel=1e-9)
            assert change.value == pytest.approx(after.mean(), rel=1e-12)
            assert change.game == this_round.plan.games["truth"]
            assert change.key in {item.key for item in this_round.followup.wanted}


def test_one_seed_has_no_error(judged):
    this_round, _ = judged()
    changes = [change for name in WORTH for change in judgement_of(this_round, name).counterfactuals]
    assert {change.se for change in changes} == {None}
    assert len(changes) == 2 * 2


def test_no_change_is_relative_to_zero(judged):
    def zero_before(mask, *_):
        return 0.0 if mask.all() else 1.0

    this_round, _ = judged("evaluation.counterfactual.game=truth", truth=zero_before)
    changes = judgement_of(this_round, "fid").counterfactuals
    assert {(change.change, change.se, change.value) for change in changes} == {(None, None, 1.0)}


def test_no_counterfactual_was_requested(judged):
    this_round, _ = judged("evaluation.counterfactual=null")
    assert judgement_of(this_round, "fid").counterfactuals == ()


def test_missing_evaluations_are_reported(tmp_path):
    this_round = planned(tmp_path, *FIVE)
    fill(this_round, cheap)
    attribute.run(this_round.uri)
    with pytest.raises(NotFound, match="run finetune, sample and score"):
        evaluate.run(this_round.uri)  # those that the credits call for are missing
    assert not this_round.has("evidence.json")
