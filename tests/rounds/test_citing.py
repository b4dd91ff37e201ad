"""Evidence that one round measures and another one of the same game cites."""

import csv
import io
import json
import logging
from datetime import UTC, datetime

import numpy as np
import pytest
from scipy.stats import spearmanr
from tiny import ROOT, SMALLER, commit, configured, fill, filled_to_the_end, root, round_folder

from apportion import cli, stages
from apportion.config.loading import load
from apportion.errors import ApportionError, ConfigError, Damaged
from apportion.records import Commit, GameEvidence
from apportion.rounds.citing import cited, evidence_to_cite
from apportion.rounds.round import Round
from apportion.stages import plan
from apportion.store.layout import COMMIT_FILE

FIVE = (*SMALLER, "data.contributors=5", "valuation.coalitions=20", "evaluation.counterfactual=null")
WORTH = [-5.0, -1.0, 2.0, 0.3, 4.0]


def value(mask, name, seed):
    return 30 + float(mask @ WORTH) + (seed % 1000) * 1e-3


def opened(workdir, *overrides):
    return Round.open(plan.run(configured(workdir, *FIVE, *overrides)).round_uri)


def committed(this_round, date):
    """Commits a round as if on this date, or as earlier code did, without one."""
    record = Commit(
        round=this_round.id, previous=None, project="tiny", tracking_run=None, seconds={}, code="0", date=date
    )
    this_round.write(COMMIT_FILE, record.dump)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A round that retrained ten coalitions, committed on 28 November 2026, and its evidence as a file."""
    folder = tmp_path_factory.mktemp("source")
    this_round = opened(folder, "evaluation.held_out=10")
    committed(this_round, "2026-11-28")
    this_round = filled_to_the_end(this_round, value)
    path = folder / "evidence.json"
    path.write_bytes(evidence_to_cite(this_round).dump())
    return this_round, path


@pytest.fixture(scope="module")
def citing(source, tmp_path_factory):
    """A round of another project that retrains nothing and cites it, with its own credits."""
    uri = opened(
        tmp_path_factory.mktemp("citing"),
        "project=other",
        "evaluation.held_out=0",
        f"evaluation.evidence={source[1]}",
    ).uri
    fill(Round.open(uri), lambda mask, name, seed: value(mask, name, seed) + mask[0])
    for stage in ("attribute", "evaluate", "publish"):
        stages.run(stage, uri)
    return Round.open(uri)


def test_the_agreement_is_that_of_the_other_round_and_says_so(source, citing):
    for here, there in zip(citing.evidence.judgements, source[0].evidence.judgements, strict=True):
        for ours, theirs in ((here.faithfulness, there.faithfulness), (here.baseline, there.baseline)):
            # Here the share of a size is that of the coalitions; there it is the configured one.
            assert [faith.model_copy(update={"alpha": 0.5}) for faith in ours] == list(theirs)
        assert here.cited is not None
        assert (here.cited.round, here.cited.date) == (source[0].id, "2026-11-28")
        assert there.cited is None


def test_scores_are_of_the_rounds_own_credits_on_the_retrained_coalitions(source, citing):
    records = [record for _, record in source[0].evaluations("held_out")]
    data = [who.data for who in citing.manifest.contributors]
    for judgement in citing.evidence.judgements:
        for score in judgement.scores:
            phi = {c.contributor: c.phi for c in citing.credits.of(judgement.property, score.method)}
            credit = np.array([phi[name] for name in citing.manifest.names])
            sums = [sum(credit[data.index(one)] for one in record.members) for record in records]
            expected = spearmanr(np.round(sums, 9), [record.values[judgement.property] for record in records])
            assert score.lds == pytest.approx(expected.statistic)
            assert score.held_out == 10


def test_statement_report_and_terminal_name_the_other_round(source, citing, capsys):
    rows = list(csv.DictReader(io.StringIO(citing.read("statement.csv").decode())))
    assert {row["verdict"] for row in rows} == {"faithful (measured in another round)"}
    page = citing.read("report.html").decode()
    assert f"round {source[0].id[:12]} of project tiny, 2026-11-28" in page
    assert '<span class="note">measured in another round</span>' in page
    assert "<dt>Faithful properties (measured in another round)</dt>" in page
    assert cli.main(["show", citing.uri]) == 0
    assert f"measured in round {source[0].id} of project tiny on 2026-11-28" in capsys.readouterr().out


def test_the_rounds_verify(citing):
    assert cli.main(["verify", citing.uri]) == 0


def test_evidence_of_another_game_is_not_used(source, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        this_round = opened(
            tmp_path, "evaluation.held_out=0", f"evaluation.evidence={source[1]}", "sampling.images=33"
        )
    assert this_round.plan.evidence is None
    assert "is of another game of the credits and another game of retraining" in caplog.text
    filled_to_the_end(this_round, value)
    assert all(not judgement.faithfulness for judgement in this_round.evidence.judgements)


def test_the_verdict_is_by_the_threshold_of_the_round_that_cites(source, tmp_path):
    """Correlations are computed again from the evaluations; nothing that the other round concluded is
    kept."""
    text = json.loads(source[1].read_text())
    values = text["held_out"]["paired"][0]["values"]
    text["held_out"]["paired"][0]["values"] = dict.fromkeys(values, 1e3)
    path = tmp_path / "less.json"
    path.write_text(json.dumps(text))
    for threshold, status in (("-1.0", {"faithful", "not established"}), ("1.0", {"not faithful"})):
        this_round = opened(
            tmp_path,
            "evaluation.held_out=0",
            f"evaluation.evidence={path}",
            f"evaluation.threshold={threshold}",
        )
        filled_to_the_end(this_round, value)
        faiths = [faith for judgement in this_round.evidence.judgements for faith in judgement.faithfulness]
        assert all(faith.rho < 1 for faith in faiths)
        assert {faith.status for faith in faiths} <= status


@pytest.mark.parametrize(
    ("part", "other"), [("retrained", "paired"), ("paired", "own_images"), ("own_images", "retrained")]
)
def test_evidence_whose_evaluations_were_changed_is_refused(source, tmp_path, part, other):
    """One is missing, or all are of the same coalitions in another game."""
    path, held_out = tmp_path / "changed.json", json.loads(source[1].read_text())["held_out"]
    for changed in (held_out[part][1:], held_out[other]):
        text = json.loads(source[1].read_text())
        text["held_out"][part] = changed
        path.write_text(json.dumps(text))
        with pytest.raises(ConfigError, match="whose evaluations are not of the same coalitions"):
            opened(tmp_path, "evaluation.held_out=0", f"evaluation.evidence={path}")


def test_evidence_of_a_day_that_does_not_exist_is_refused(source, tmp_path):
    path = tmp_path / "changed.json"
    path.write_text(source[1].read_text().replace("2026-11-28", "2026-11-31"))
    with pytest.raises(ConfigError, match=r"citation\.date"):
        opened(tmp_path, "evaluation.held_out=0", f"evaluation.evidence={path}")


def test_stored_evidence_that_is_another_is_damaged(source, citing, tmp_path):
    path = next((root(citing.uri) / "evidence").glob("*.json"))
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"2026-11-28", b"2026-11-27"))
    try:
        with pytest.raises(Damaged):
            cited(Round.open(citing.uri))
    finally:
        path.write_bytes(whole)


def test_the_place_of_evidence_is_no_part_of_a_rounds_id(source, tmp_path):
    copy = tmp_path / "elsewhere.json"
    copy.write_bytes(source[1].read_bytes())
    ids = {
        opened(tmp_path, "evaluation.held_out=0", f"evaluation.evidence={place}").id
        for place in (source[1], copy)
    }
    assert len(ids) == 1


def test_evidence_is_part_of_a_rounds_id(source, tmp_path):
    other = json.loads(source[1].read_text())
    other["citation"]["date"] = "2026-11-27"
    path = tmp_path / "other.json"
    path.write_bytes(GameEvidence.parse(json.dumps(other).encode(), "other").dump())
    none = opened(tmp_path, "evaluation.held_out=0")
    ids = {
        opened(tmp_path, "evaluation.held_out=0", f"evaluation.evidence={p}").id for p in (source[1], path)
    }
    assert len(ids | {none.id}) == 3


def test_the_command_prints_the_record(source, citing, capsys):
    """On whatever day: its date is that of the round's commit."""
    assert cli.main(["evidence", source[0].uri]) == 0
    assert capsys.readouterr().out.encode() == source[1].read_bytes()
    with pytest.raises(ApportionError, match="found no held-out coalitions"):
        evidence_to_cite(citing)


def test_publish_dates_the_commit(citing):
    written = (round_folder(citing) / COMMIT_FILE).stat().st_mtime
    days = {datetime.fromtimestamp(written - late, tz=UTC).date().isoformat() for late in (0, 60)}
    assert commit(citing).date in days


def test_the_date_of_a_round_that_earlier_code_committed_is_given(tmp_path, capsys):
    this_round = opened(tmp_path, "evaluation.held_out=3")
    fill(this_round, value)
    with pytest.raises(ApportionError, match=r"found no .*round\.json, expected a committed round"):
        evidence_to_cite(this_round)
    committed(this_round, None)
    assert cli.main(["evidence", this_round.uri]) == 1
    said = capsys.readouterr().err
    assert "found no date in" in said
    assert "(--date)" in said
    assert cli.main(["evidence", this_round.uri, "--date", "2026-11-02"]) == 0
    printed = GameEvidence.parse(capsys.readouterr().out.encode(), "printed")
    assert printed.citation.date == "2026-11-02"


def test_another_date_than_that_of_the_commit_is_refused(source, capsys):
    assert evidence_to_cite(source[0], "2026-11-28") == evidence_to_cite(source[0])
    with pytest.raises(ApportionError, match="found --date 2026-11-27, expected 2026-11-28"):
        evidence_to_cite(source[0], "2026-11-27")
    with pytest.raises(SystemExit):
        cli.main(["evidence", source[0].uri, "--date", "yesterday"])
    assert "found 'yesterday', expected YYYY-MM-DD" in capsys.readouterr().err


def test_the_demo_cites_the_evidence_that_comes_with_it(tmp_path):
    """It is of the demo's game: whoever changes the game measures it again, with
    configs/openmoji-check.yaml."""
    demo = load(ROOT / "configs" / "openmoji.yaml", ["tracking.uri=null"], tmp_path / "demo")
    this_round = Round.open(plan.run(demo).round_uri)
    evidence = cited(this_round)
    assert evidence is not None
    assert len(evidence.held_out.retrained) == 24
    assert len(evidence.held_out.paired) == 72
    assert set(evidence.held_out.retrained[0].values) == set(demo.properties)
    check = load(ROOT / "configs" / "openmoji-check.yaml", ["tracking.uri=null"], tmp_path / "check")
    checked = Round.open(plan.run(check).round_uri)
    assert checked.plan.games == this_round.plan.games
    assert evidence.held_out.retrained[0].key in {item.key for item in checked.plan.wanted}


def test_evidence_that_cannot_be_read_is_refused(tmp_path):
    damaged = tmp_path / "damaged.json"
    damaged.write_text("{}")
    for place in (damaged, tmp_path / "missing.json", "https://host/evidence.json"):
        with pytest.raises((ConfigError, Damaged), match=r"evaluation\.evidence"):
            opened(tmp_path, "evaluation.held_out=0", f"evaluation.evidence={place}")
    with pytest.raises(ConfigError, match=r"found evaluation\.evidence beside evaluation\.held_out"):
        opened(tmp_path, "evaluation.held_out=2", f"evaluation.evidence={damaged}")
