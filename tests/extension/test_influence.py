"""A new influence method is a row of METHODS that needs scores, and what commits the scores: a stage of its
own, or a part of one that is there."""

import numpy as np
import pytest
from tiny import concluded, fill, planned

from apportion.config.stages import STAGES, StageRow
from apportion.errors import ConfigError, NotFound
from apportion.records import ContributorScores, Scores
from apportion.rounds.round import Round
from apportion.rounds.training_data import training_images
from apportion.valuation.methods import METHODS, Estimate, Method

DARKNESS = Method(
    title="Darkness",
    note="How dark a contributor's images are: an illustration.",
    estimate=lambda given: Estimate(given.scores["darkness"]["sum"], efficient=False),
    needs="scores",
    stage="influence",
)


def influence(this_round):
    """What the stage of this method would do: score every sample, and commit one record."""
    scores = {}
    for contributor in this_round.manifest.contributors:
        images = training_images(this_round.store, [contributor.data], 16)
        dark = 255 - images.pixels.astype(float).mean(axis=(1, 2, 3))
        scores[contributor.data] = ContributorScores(mean=dark.mean(), max=dark.max(), sum=dark.sum())
    record = Scores(method="darkness", base=this_round.plan.base.id, scores=scores)
    assert this_round.store.ensure(this_round.scores_key("darkness"), record.dump)
    return scores


def test_an_influence_method_is_one_row_that_needs_scores(tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "darkness", DARKNESS)
    options = ("valuation.methods=[leverage, darkness]", "evaluation.counterfactual=null")
    with pytest.raises(
        ConfigError, match="whose scores stage 'influence' makes, expected one of the stages plan"
    ):
        planned(tmp_path, *options)
    monkeypatch.setitem(
        STAGES, "influence", StageRow("models", "scores of an influence method", accelerated=True)
    )
    this_round = planned(tmp_path, *options)
    fill(this_round, lambda mask, name, seed: float(mask.sum()))
    with pytest.raises(NotFound, match=r"scores/.*run stage influence for this round"):
        concluded(this_round.uri)
    scores = influence(this_round)
    concluded(this_round.uri)
    this_round = Round.open(this_round.uri)
    phi = [credit.phi for credit in this_round.credits.of("fid", "darkness")]
    assert phi == [scores[contributor.data].sum for contributor in this_round.manifest.contributors]
    assert this_round.credits.published["fid"] == "leverage"
    methods = {score.method for judgement in this_round.evidence.judgements for score in judgement.scores}
    assert methods == {"leverage", "darkness"}  # it is judged by retrained models like any other
    assert np.isfinite(phi).all()
