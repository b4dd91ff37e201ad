"""Choosing a game: candidates from a configuration, what is measured of them, and the rule of choice."""

from dataclasses import replace

import numpy as np
import pytest
import yaml
from scipy.stats import spearmanr
from tiny import CONFIG, SMALLER, configured, fill

from apportion import calibrate, cli
from apportion.config.loading import load
from apportion.errors import ApportionError, ConfigError
from apportion.rounds.round import Round
from apportion.stages import plan

WORTH = np.array([1.0, -2.0, 3.0, 0.5, -1.0, 2.0])
OVERRIDES = (*SMALLER, "data.contributors=6", "valuation.coalitions=20", "tracking.uri=null")
COALITIONS = 6


def truth(mask, name, seed):
    return 30 + float(mask @ WORTH)


def noisy(mask, name, seed):
    """Another order than the truth's."""
    return 30 + float(mask @ WORTH) + 4 * np.sin(11 * float(mask @ [1, 2, 4, 8, 16, 32]))


def filled(workdir, credit, *overrides):
    """Fills everything that a candidate needs."""
    held_out = f"evaluation={{held_out: {COALITIONS}, alphas: [0.5]}}"
    config = load(CONFIG, [*OVERRIDES, *overrides, held_out], workdir)
    this_round = Round.open(plan.run(config).round_uri)
    fill(this_round, credit, truth)
    return this_round


def test_candidates_are_made_from_the_configuration(tmp_path):
    config = configured(tmp_path, *SMALLER)
    names = [item.name for item in calibrate.candidates(config)]
    assert names == [
        "as configured",
        "experts of 1 steps",
        "experts of 2 steps",
        "experts of 4 steps",
        "finetune of 2 steps",
        "as configured, 5 steps of dpm_solver",
    ]
    for item in calibrate.candidates(config):
        load(CONFIG, [*SMALLER, *item.overrides])  # each is a valid configuration


def test_a_candidate_is_named_by_its_overrides():
    text = "sampling.steps=5 'removal={method: finetune, fitting: {steps: 2, lr: 0.1}}'"
    assert calibrate.parsed(text).overrides == (
        "sampling.steps=5",
        "removal={method: finetune, fitting: {steps: 2, lr: 0.1}}",
    )
    with pytest.raises(ConfigError, match="found --try"):
        calibrate.parsed("'sampling.steps=5")


def test_what_is_in_the_ledger_is_summarised(tmp_path):
    this_round = filled(tmp_path, noisy)
    empty = calibrate.CandidateResult(calibrate.Candidate("x", ()), this_round.config)
    result = calibrate.summary(empty, this_round, 1.0)
    cheap, retrained = (
        [record.values["fid"] for _, record in this_round.evaluations(purpose)]
        for purpose in ("paired", "held_out")
    )
    expected = spearmanr(cheap, retrained).statistic
    assert result.faithfulness["fid"].rho == pytest.approx(expected)
    assert result.mean == pytest.approx(expected)  # both properties have the same values
    assert result.seconds == 3.5  # as `fill` writes it
    assert result.error > 0
    assert (result.coalitions, result.rejected) == (COALITIONS, "")


def test_a_candidate_without_enough_coalitions_is_rejected(tmp_path):
    config = load(CONFIG, [*OVERRIDES, "evaluation={held_out: 6}"], tmp_path)
    this_round = Round.open(plan.run(config).round_uri)
    empty = calibrate.CandidateResult(calibrate.Candidate("x", ()), config)
    result = calibrate.summary(empty, this_round, 7.0)
    assert result.rejected == "the budget of 7 minutes was used after 0 of 6 coalitions"
    with pytest.raises(ApportionError, match="found no candidate that was measured on all coalitions"):
        calibrate.choose([result])


@pytest.mark.parametrize(
    ("means", "seconds", "chosen"),
    [
        ([0.8, 0.75, 0.6], [2.0, 1.0, 0.1], 1),  # the cheaper of the two within a standard error
        ([0.8, 0.75, 0.6], [2.0, 3.0, 0.1], 0),
        ([0.8, 0.69, 0.6], [2.0, 1.0, 0.1], 0),
    ],
)
def test_the_cheapest_of_the_best_is_chosen(tmp_path, means, seconds, chosen):
    config = configured(tmp_path, *SMALLER)
    results = [
        calibrate.CandidateResult(
            calibrate.Candidate(str(i), ()), config, coalitions=6, seconds=s, mean=m, error=0.1
        )
        for i, (m, s) in enumerate(zip(means, seconds, strict=True))
    ]
    late = replace(results[0], candidate=calibrate.Candidate("late", ()), mean=0.9, rejected="no time")
    ordered = calibrate.choose([*results, late])
    assert ordered[0].candidate.name == str(chosen)
    assert ordered[0].rejected == ""
    assert all(result.rejected for result in ordered[1:])
    assert {result.candidate.name for result in ordered} == {"0", "1", "2", "late"}


def test_the_command_prints_candidates_and_writes_the_chosen_sections(tmp_path, capsys):
    """Everything is in the ledger, so nothing is computed."""
    work = tmp_path / "work"
    other = "removal={method: finetune, fitting: {steps: 3, lr: 0.001, batch: 8}}"
    filled(work, truth, other)
    filled(work, noisy)
    out = tmp_path / "chosen.yaml"
    options = [part for override in OVERRIDES for part in ("--set", override)]
    status = cli.main(
        [
            *("calibrate", str(CONFIG), "--workdir", str(work), *options),
            *("--coalitions", str(COALITIONS), "--try", "", "--try", f"'{other}'", "--out", str(out)),
        ]
    )
    assert status == 0
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert lines[0].startswith(f"{other}: mean ρ 1.00 ± ")
    assert lines[0].endswith(" over 6 coalitions, 3.5 s a coalition, 0.286 per second: chosen")
    assert any(line.startswith("as configured: ") and "less faithful" in line for line in lines)
    assert any(line.startswith("own images, without any model: ") for line in lines)
    assert yaml.safe_load(out.read_text())["removal"]["method"] == "finetune"
    assert not [*(work / "store").glob("checkpoints/*")]


def test_a_wrong_candidate_is_refused_before_anything_is_computed(tmp_path):
    with pytest.raises(ConfigError, match="removal"):
        calibrate.calibrate(CONFIG, OVERRIDES, tmp_path, [calibrate.parsed("removal.method=nothing")], 6, 1.0)
    assert not tmp_path.joinpath("store").exists()
