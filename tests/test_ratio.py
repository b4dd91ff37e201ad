"""benchmarks/ratio.py: the cost of a coalition in a round's game and by retraining."""

import runpy

import pytest
from tiny import ROOT, SMALLER, fill, planned

from apportion.records import Cost
from apportion.rounds.weights import all_weights, keep_cost

EXPERTS = "removal={method: experts, fitting: {steps: 2, lr: 0.001, batch: 8}, sets: 2}"
FOUR = (*SMALLER, "data.contributors=4", "valuation.coalitions=12", "evaluation.counterfactual=null")


@pytest.fixture
def ratio(monkeypatch, capsys):
    """What the benchmark prints of a round, as words."""

    def run(this_round):
        monkeypatch.setattr("sys.argv", ["ratio.py", this_round.uri])
        runpy.run_path(str(ROOT / "benchmarks" / "ratio.py"), run_name="__main__")
        return [line.split() for line in capsys.readouterr().out.splitlines()]

    return run


def filled(workdir, *overrides):
    """A round whose coalitions take 2 s of training by the ledger, or 100 s by retraining, and 1 s of
    sampling."""
    this_round = planned(workdir, *FOUR, *overrides)
    fill(this_round, lambda mask, *_: float(mask.sum()), retraining=100.0)
    return this_round


def test_the_ratio_of_a_game_whose_coalitions_have_weights_of_their_own(tmp_path, ratio):
    retrain, cheap, last = ratio(filled(tmp_path))
    assert " ".join(retrain).startswith("retrain 100.0 s train + 1.0 s sample = 101.0 s (1 evaluations")
    assert " ".join(cheap) == "sparsified_finetune 2.0 s train + 1.0 s sample = 3.0 s (1 evaluations)"
    assert last == ["ratio", f"{101 / 3:.1f}"]


def test_the_training_of_experts_is_divided_by_the_coalitions_of_the_design(tmp_path, ratio):
    """Eight experts of 30 s and twelve coalitions: 20 s for each."""
    this_round = filled(tmp_path, EXPERTS)
    for row in all_weights(this_round).values():
        if row.shared:
            keep_cost(this_round.store, row.game, row.address, Cost(finetune=30, device="cpu"))
    _, cheap, last = ratio(this_round)
    assert " ".join(cheap) == (
        "experts 22.0 s train + 1.0 s sample = 23.0 s (2 evaluations, 20.0 s of training are shared)"
    )
    assert last == ["ratio", f"{101 / 23:.1f}"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([EXPERTS], "found no record of what the weights cost that coalitions of"),
        (["evaluation.held_out=0"], "found no held-out coalitions in"),
    ],
)
def test_without_costs_or_held_out_coalitions_there_is_no_ratio(overrides, words, tmp_path, ratio, capsys):
    this_round = filled(tmp_path, *overrides)
    with pytest.raises(SystemExit):
        ratio(this_round)
    assert words in capsys.readouterr().err
