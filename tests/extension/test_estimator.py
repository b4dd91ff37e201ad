"""A new estimator is a row of METHODS, and a function from values of coalitions to credits. It may need
coalitions of its own, and it may be the published one."""

import numpy as np
import pytest
from tiny import concluded, fill, planned

from apportion.errors import ConfigError, ValuationError
from apportion.rounds.round import Round
from apportion.valuation.methods import METHODS, Estimate, Method, OwnCoalitions

WORTH = np.array([1.0, 2.0, -4.0, 8.0])


def value(mask, name, seed):
    return float(mask @ WORTH)


def without_neighbours(given):
    """Each contributor's credit from the coalition of all others but the next."""
    _, y = given.rows["toy"]
    phi = given.v1.mean() - y
    return Estimate(phi, np.ones(4), phi - 2, phi + 2, "toy", efficient=False)


def pairs_removed(options, n):
    keep = ~(np.eye(n, dtype=bool) | np.roll(np.eye(n, dtype=bool), 1, axis=1))
    return OwnCoalitions(keep, "own")


def refuse_three(Z, options):
    if Z.shape[1] == 3:
        raise ValuationError("found 3 contributors, expected another number")


TOY = Method(
    title="Toy",
    note="What two neighbours are worth.",
    estimate=without_neighbours,
    own=pairs_removed,
    own_title="all contributors but two neighbours",
    check=refuse_three,
    fix="change valuation.methods",
    interval="toy",
    covers=lambda given, removal: f"the toy's error in the {removal} game",
)


def test_an_estimator_is_one_row(tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "toy", TOY)
    this_round = planned(tmp_path, "valuation.methods=[toy, leverage]", "evaluation.counterfactual=null")
    own = [item for item in this_round.plan.wanted if item.purpose == "toy"]
    assert len(own) == 4
    assert len({item.seed for item in own}) == 4
    fill(this_round, value)
    concluded(this_round.uri)
    this_round = Round.open(this_round.uri)
    assert this_round.credits.published == dict.fromkeys(this_round.config.properties, "toy")
    credits = [credit.phi for credit in this_round.credits.of("fid")]
    assert credits == pytest.approx(WORTH + np.roll(WORTH, -1))
    assert this_round.evidence.judgements[0].published == "toy"
    page = this_round.read("report.html").decode()
    assert all(
        text in page
        for text in ("Credits by Toy", "What two neighbours are worth.", "all contributors but two")
    )
    statement = this_round.read("statement.csv").decode()
    assert ",toy," in statement
    assert "the toy's error in the sparsified_finetune game" in statement


def test_its_check_refuses_at_plan(tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "toy", TOY)
    three = "data={source: openmoji, contributors: 3, resolution: 16}"
    with pytest.raises(
        ConfigError, match=r"found 3 contributors, expected another number; .*change valuation.methods"
    ):
        planned(tmp_path, three, "valuation={coalitions: 6, methods: [toy]}", "evaluation={}")
