"""The forecast of a round's time, from the costs in its ledger and of the models that coalitions share."""

from dataclasses import replace

import pytest
from tiny import SMALLER, configured, fill, planned

from apportion.ledger import Ledger
from apportion.planning.forecast import RECORDS, forecast
from apportion.records import Cost
from apportion.rounds.round import Round
from apportion.rounds.weights import all_weights, keep_cost
from apportion.stages import plan
from apportion.store.layout import weights_key

OVERRIDES = ("properties=[fid]", "evaluation.counterfactual=null")
EXPERTS = "removal={method: experts, fitting: {steps: 2, lr: 1e-3, batch: 8}, sets: 3}"


@pytest.fixture
def partly_filled(tmp_path):
    """A round and its pending evaluations: all but two of each game are known, at 3.5 seconds, or at 101.5
    by retraining."""
    this_round = planned(tmp_path, *OVERRIDES)
    retrained = [item for item in this_round.wanted if this_round.is_retrained(item)]
    others = [item for item in this_round.wanted if not this_round.is_retrained(item)]
    known = this_round.plan.model_copy(update={"wanted": (*retrained[2:], *others[2:])})
    fill(
        Round(this_round.store, known, this_round.config, this_round.manifest),
        lambda *_: 1.0,
        retraining=100.0,
    )
    return this_round, [*retrained[:2], *others[:2]]


def test_the_forecast_is_the_mean_cost_of_each_game_times_its_evaluations(partly_filled):
    this_round, pending = partly_filled
    assert len(this_round.ledger.pending(this_round.wanted)) == len(pending) == 4
    seconds = 2 * 101.5 + 2 * 3.5
    hours, minutes = f"{seconds / 3600:.2g}", f"{seconds / 60 / 2:.2g}"
    expected = f"; they should take {hours} device hours, {minutes} minutes on 2 shards"
    assert forecast(this_round, pending) == expected


def test_without_records_of_a_game_or_pending_evaluations_there_is_no_forecast(partly_filled, tmp_path):
    this_round, pending = partly_filled
    assert forecast(this_round, []) == ""
    other = planned(tmp_path, *OVERRIDES, "removal.fitting.steps=5")
    unknown = [item for item in other.wanted if not other.is_retrained(item)]
    assert forecast(this_round, [*pending, *unknown[:1]]) == ""


def test_no_more_than_some_records_of_a_game_are_read(partly_filled, monkeypatch):
    """A ledger may have thousands."""
    this_round, pending = partly_filled
    monkeypatch.setattr("apportion.planning.forecast.RECORDS", 2)
    keys, at = [], Ledger.at

    def counting(ledger, game, key):
        keys.append(key)
        return at(ledger, game, key)

    monkeypatch.setattr(Ledger, "at", counting)
    assert forecast(this_round, pending)
    assert len(keys) == 2 * 2
    assert RECORDS >= 10


# Models that coalitions share


@pytest.fixture
def experts(tmp_path):
    """A round of three sets of four experts and its pending evaluations: both of the grand coalition, with
    sets 1 and 2; the others are known, at 3.5 seconds."""
    more = ("data.contributors=4", "valuation.coalitions=12", EXPERTS)
    this_round = planned(tmp_path, *SMALLER, *OVERRIDES, *more)
    pending = [item for item in this_round.plan.wanted if item.purpose == "v1"]
    known = tuple(item for item in this_round.plan.wanted if item not in pending)
    fill(replace(this_round, plan=this_round.plan.model_copy(update={"wanted": known})), lambda *_: 1.0)
    return this_round, pending


def shared(this_round):
    return [row for row in all_weights(this_round).values() if row.shared]


def test_the_training_of_missing_experts_is_counted_once(experts):
    """Eight of them: two sets of four. One of these is there."""
    this_round, pending = experts
    for seconds, row in enumerate(shared(this_round), 100):
        keep_cost(this_round.store, row.game, row.address, Cost(finetune=seconds, device="cpu"))
    there = next(row for row in shared(this_round) if row.run.seed == pending[0].seed % 3)
    this_round.store.put_if_absent(weights_key(there.address), b"weights")
    seconds = 2 * 3.5 + 7 * 105.5
    assert forecast(this_round, pending) == (
        "; they and the training of 7 models that coalitions share should take "
        f"{seconds / 3600:.2g} device hours, {seconds / 60 / 2:.2g} minutes on 2 shards"
    )


def test_experts_of_unknown_cost_are_not_passed_over(experts):
    this_round, pending = experts
    said = forecast(this_round, pending)
    assert said.startswith(f"; they should take {7 / 3600:.2g} device hours, ")
    assert said.endswith(", without the training of 8 models that coalitions share, of unknown cost")


def test_experts_whose_coalitions_have_their_images_are_not_trained_again(experts):
    this_round, pending = experts
    for item in pending:
        this_round.store.put_if_absent(this_round.samples_key(item), b"images")
    assert "training" not in forecast(this_round, pending)


def test_plan_says_so(experts, tmp_path):
    this_round, _ = experts
    keep_cost(this_round.store, shared(this_round)[0].game, "a", Cost(finetune=3600, device="cpu"))
    more = ("data.contributors=4", "valuation.coalitions=12", EXPERTS)
    reason = plan.run(configured(tmp_path, *SMALLER, *OVERRIDES, *more)).reason
    assert reason.startswith("2 of ")
    assert "; they and the training of 8 models that coalitions share should take 8 device hours" in reason
