"""The forecast of a round's time, from the costs in its ledger."""

import pytest
from tiny import fill, planned

from apportion.ledger import Ledger
from apportion.planning.forecast import RECORDS, forecast
from apportion.rounds.round import Round

OVERRIDES = ("properties=[fid]", "evaluation.counterfactual=null")


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
    assert forecast(this_round.ledger, pending, 2) == expected


def test_without_records_of_a_game_or_pending_evaluations_there_is_no_forecast(partly_filled, tmp_path):
    this_round, pending = partly_filled
    assert forecast(this_round.ledger, [], 2) == ""
    other = planned(tmp_path, *OVERRIDES, "removal.fitting.steps=5")
    unknown = [item for item in other.wanted if not other.is_retrained(item)]
    assert forecast(this_round.ledger, [*pending, *unknown[:1]], 2) == ""


def test_no_more_than_some_records_of_a_game_are_read(partly_filled, monkeypatch):
    """A ledger may have thousands."""
    this_round, pending = partly_filled
    monkeypatch.setattr("apportion.planning.forecast.RECORDS", 2)
    keys, at = [], Ledger.at

    def counting(ledger, game, key):
        keys.append(key)
        return at(ledger, game, key)

    monkeypatch.setattr(Ledger, "at", counting)
    assert forecast(this_round.ledger, pending, 2)
    assert len(keys) == 2 * 2
    assert RECORDS >= 10
