"""Choosing a game: candidates from a configuration, what is measured of them, and the rule of choice."""

import math
from dataclasses import replace

import numpy as np
import pytest
import yaml
from scipy.stats import spearmanr
from tiny import CONFIG, SMALLER, configured, fill

from apportion import calibrate, cli
from apportion.config.loading import load
from apportion.errors import ApportionError, ConfigError
from apportion.records import Cost
from apportion.rounds.round import Round
from apportion.rounds.weights import all_weights, keep_cost
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


EXPERTS = "removal={method: experts, fitting: {steps: 2, lr: 0.001, batch: 8}, sets: 3}"


def noise_of_sets(mask, name, seed):
    """The truth, with noise of the set that a seed belongs to: it hides the truth in each set, and much less
    so in their mean."""
    rng = np.random.default_rng([seed % 3, *mask.astype(int)])
    return truth(mask, name, seed) + 5 * float(rng.standard_normal())


def summarised(this_round):
    empty = calibrate.CandidateResult(calibrate.Candidate("x", ()), this_round.config)
    return calibrate.summary(empty, this_round, 1.0)


def test_games_are_compared_by_one_evaluation_of_a_coalition(tmp_path):
    """Three sets of experts are three evaluations of each coalition. Their mean agrees better with retraining
    than one of them does; but other games have one evaluation, and credits are computed from single ones."""
    this_round = filled(tmp_path, noise_of_sets, EXPERTS)
    evaluations = {p: [r for _, r in this_round.evaluations(p)] for p in ("paired", "held_out")}
    assert len(evaluations["paired"]) == 3 * COALITIONS
    v = np.reshape([record.values["fid"] for record in evaluations["paired"]], (COALITIONS, 3))
    y = [record.values["fid"] for record in evaluations["held_out"]]
    alone = np.mean([spearmanr(of_set, y).statistic for of_set in v.T])
    result = summarised(this_round)
    assert result.faithfulness["fid"].rho == pytest.approx(alone)
    assert result.mean == pytest.approx(alone)
    assert spearmanr(v.mean(axis=1), y).statistic > alone + 0.05


def test_a_standard_error_is_over_coalitions_and_sets():
    """That of plain loops over the same draws, and it grows where sets differ."""
    rng = np.random.default_rng(5)
    y = rng.standard_normal((12, 2))
    alike = np.stack([y, y, y], axis=1) + 0.5 * rng.standard_normal((12, 1, 2))
    apart = alike.copy()
    apart[:, 2] = rng.standard_normal((12, 2))
    for v in (alike, apart):
        mean, error = calibrate.mean_correlation(v, y)
        pairs = [(s, p) for s in range(3) for p in range(2)]
        assert mean == pytest.approx(np.mean([spearmanr(v[:, s, p], y[:, p]).statistic for s, p in pairs]))
        again, means = np.random.default_rng(1), []
        for _ in range(300):
            rows, sets = again.integers(12, size=12), again.integers(3, size=3)
            drawn = [spearmanr(v[rows, s, p], y[rows, p]).statistic for s in sets for p in range(2)]
            means.append(np.mean(drawn))
        assert error == pytest.approx(np.std(means, ddof=1), rel=0.2)
    assert calibrate.mean_correlation(apart, y)[1] > 1.5 * calibrate.mean_correlation(alike, y)[1]


def test_a_coalition_of_experts_has_its_part_of_their_training_after_they_expired(tmp_path):
    """There are no weights in the store; the records of their cost are. Those of every third are missing."""
    this_round = filled(tmp_path, noise_of_sets, EXPERTS)
    shared = [row for row in all_weights(this_round).values() if row.shared]
    assert len(shared) == 18
    for seconds, row in enumerate(shared):
        if seconds % 3:
            keep_cost(this_round.store, row.game, row.address, Cost(finetune=float(seconds), device="cpu"))
    mean = np.mean([seconds for seconds in range(18) if seconds % 3])
    assert summarised(this_round).seconds == pytest.approx(
        3.5 + 18 * mean / 20
    )  # 20 coalitions of the design


def test_experts_of_unknown_cost_are_not_free(tmp_path):
    this_round = filled(tmp_path, noise_of_sets, EXPERTS)
    result = summarised(this_round)
    assert math.isnan(result.seconds)
    line, _ = calibrate.described(result)
    assert "cost unknown (the weights that coalitions share have expired" in line
    assert "nan" not in line


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


@pytest.mark.parametrize(
    ("means", "seconds", "chosen"),
    [
        ([0.8, 0.75, 0.6], [math.nan, 9.0, 0.1], "1"),  # of those within a standard error, one has a cost
        ([0.8, 0.75, 0.6], [9.0, math.nan, 0.1], "0"),
        ([0.8, 0.69, 0.6], [math.nan, 1.0, 0.1], "0"),  # no other is as faithful
        ([0.75, 0.8, 0.6], [math.nan, math.nan, 0.1], "1"),
    ],
)
def test_an_unknown_cost_is_never_the_lowest(tmp_path, means, seconds, chosen):
    config = configured(tmp_path, *SMALLER)
    results = [
        calibrate.CandidateResult(
            calibrate.Candidate(str(i), ()), config, coalitions=6, seconds=s, mean=m, error=0.1
        )
        for i, (m, s) in enumerate(zip(means, seconds, strict=True))
    ]
    first, *others = calibrate.choose(results)
    assert first.candidate.name == chosen
    for result in others:
        if math.isnan(result.seconds):
            assert result.rejected == "as faithful within a standard error, but its cost is unknown"
    lines = [line for result in (first, *others) for line in calibrate.described(result)]
    assert sum("cost unknown" in line for line in lines) == sum(map(math.isnan, seconds))


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
