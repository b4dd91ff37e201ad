"""The commands that show and verify rounds."""

import json

import pytest
from known import SMALL, additive, judged
from tiny import (
    ODD,
    fill,
    filled_to_the_end,
    from_folder,
    image_folder,
    planned,
    record_path,
    round_folder,
    unmodified,
)

from apportion import version
from apportion.stages import attribute, publish
from apportion.valuation import intervals


def test_rounds_lists_committed_rounds(published, tmp_path, command):
    planned(tmp_path / "work", *SMALL, "valuation.seed=9")  # planned only
    other = judged(tmp_path / "work", "valuation.seed=3")
    publish.run(other.uri)
    code, out, _ = command("rounds", published.store.uri)
    assert code == 0
    rows = [line.replace("│", " ").split() for line in out.splitlines() if "tiny" in line]
    seconds = [f"{3.5 * len(this_round.wanted):.0f}" for this_round in (published, other)]
    first = [published.id, "tiny", version.code(), seconds[0]]
    second = [other.id, "tiny", published.id[:8], version.code(), seconds[1]]
    assert sorted(rows) == sorted([first, second])


def test_show_prints_the_credits_the_best_first(published, command):
    code, out, _ = command("show", published.uri)
    assert code == 0
    judgements = {judgement.property: judgement for judgement in published.evidence.judgements}
    for name, better in {"fid": 1, "inception_score": -1}.items():
        v0, v1 = published.credits.v0[name].mean, published.credits.v1[name].mean
        values = f"{name}  {v0:.3f} (empty coalition) to {v1:.3f} (grand coalition)"
        assert f"{values}; verdict: not established" in out
        (score,) = (score for score in judgements[name].scores if score.method == "tree_residual")
        interval = f"({score.low:.2f} … {score.high:.2f})"
        assert f"  faithfulness ρ 1.00, LDS of these credits {score.lds:.2f} {interval}\n" in out
        part = out[out.index(f"{name}  ") :].splitlines()
        lines = [line for line in part if line.strip().startswith(tuple(published.manifest.names))][:4]
        ranked = sorted(published.credits.of(name), key=lambda c: better * c.phi)
        for c, line in zip(ranked, lines, strict=True):
            assert c.contributor in line
            assert f"{c.phi:+.3f}" in line
            assert f"{c.low:+.3f} … {c.high:+.3f}" in line
            assert f"{c.share:.1%}" in line
            assert f" {c.best} " in line if c.best == c.worst else f" {c.best}–{c.worst} " in line
    assert "95% interval (leverage)" in out
    covers = f"Intervals by leverage cover {published.credits.covers['leverage']}."
    assert covers in " ".join(out.split())
    assert f"report: {published.where('report.html')}" in out


def test_show_omits_what_was_not_measured(tmp_path, command):
    this_round = judged(tmp_path / "work", "evaluation.held_out=0")
    _, out, _ = command("show", this_round.uri)
    assert not [word for word in ("ρ", "LDS", "nan", "None") if word in out]


def test_names_and_paths_are_shown_as_they_are(tmp_path, command):
    """Neither [bold] nor :heart: is markup for the terminal."""
    folder = image_folder(tmp_path / "data", ODD)
    overrides = ("evaluation.held_out=0", "evaluation.counterfactual=null", "properties=[fid]")
    methods = ("valuation.coalitions=48", "valuation.methods=[leverage]")
    workdir = tmp_path / "a [red] :heart: folder"
    this_round = planned(workdir, *from_folder(folder), *overrides, *methods)
    filled_to_the_end(this_round, lambda mask, *_: float(mask.sum()))
    code, out, _ = command("show", this_round.uri)
    assert code == 0
    assert not [name for name in ODD if name not in out]
    assert "report: file:///" in out


def test_a_round_without_credits_has_nothing_to_show(tmp_path, command):
    this_round = planned(tmp_path, *SMALL)
    code, out, log = command("show", this_round.uri)
    assert (code, out) == (1, "")
    assert "the stage that makes credits.json has not run" in log


@pytest.mark.parametrize(
    "uri", ["", "nonsense", "file:///tmp/rounds/../../etc", "gopher://x/rounds/" + "0" * 32]
)
def test_wrong_addresses_of_rounds(uri, command):
    code, out, log = command("show", uri)
    assert (code, out) == (1, "")
    assert "expected" in log


def verified(log):
    return json.loads(log[log.index("{") :])


def test_verify_confirms_what_follows_from_the_ledger(published, command):
    code, _, log = command("verify", published.uri)
    assert code == 0
    result = verified(log)
    assert (result["round"], result["evaluations"]) == (published.id, len(published.wanted))
    files = ["credits.json", "credits.csv", "followup.json", "evidence.json", "statement.csv"]
    assert result["verified"] == dict.fromkeys(files, "to the last bit")


def test_verify_reads_what_there_is_of_an_unfinished_round(tmp_path, command):
    this_round = planned(tmp_path, *SMALL)
    fill(this_round, additive)
    attribute.run(this_round.uri)
    fill(this_round, additive)
    code, _, log = command("verify", this_round.uri)
    assert code == 0
    assert list(verified(log)["verified"]) == ["credits.json", "credits.csv", "followup.json"]


@pytest.mark.parametrize(("relative", "follows"), [(1e-12, True), (1e-6, False)])
def test_verify_allows_for_the_rounding_of_another_machine(
    published, command, monkeypatch, relative, follows
):
    """Where the same arithmetic gives a slightly different result, the round must still verify; a larger
    difference is refused."""
    jackknife = intervals.jackknife

    def elsewhere(*arguments):
        fit = jackknife(*arguments)
        return fit._replace(phi=fit.phi * (1 + relative))

    monkeypatch.setattr(intervals, "jackknife", elsewhere)
    code, _, log = command("verify", published.uri)
    if not follows:
        assert code == 1
        assert "credits.json, which does not follow from the ledger" in log
    else:
        assert code == 0
        files = verified(log)["verified"]
        assert files.pop("credits.json") == "within 1e-09"
        assert set(files.values()) == {"to the last bit"}


@pytest.mark.parametrize(
    "name", ["credits.json", "credits.csv", "statement.csv", "evidence.json", "followup.json"]
)
def test_verify_detects_an_altered_file(published, command, name):
    path = round_folder(published) / name
    path.write_bytes(path.read_bytes().replace(b"0", b"1", 1))
    with unmodified(path):
        code, _, log = command("verify", published.uri)
    assert code == 1
    assert f"{published.id}/{name}" in log
    assert "sha256" in log


@pytest.mark.parametrize("name", ["credits.json", "credits.csv", "statement.csv", "evidence.json"])
def test_verify_detects_a_file_that_was_altered_with_its_checksum(published, command, name, replace_object):
    path = round_folder(published) / name
    text = path.read_bytes().decode()
    before, after = repr(published.credits.of("fid")[0].phi), "9.5"
    if name == "evidence.json":
        before, after = "not established", "faithful"
    assert before in text
    replace_object(path, text.replace(before, after).encode())
    with unmodified(path):
        code, _, log = command("verify", published.uri)
    assert code == 1
    assert f"{name}, which does not follow from the ledger" in log


def test_verify_detects_an_altered_evaluation(published, command, replace_object):
    path = record_path(published, 5)
    record = json.loads(path.read_bytes())
    record["values"]["fid"] += 1
    text = json.dumps(record, sort_keys=True, ensure_ascii=False, indent=1) + "\n"
    replace_object(path, text.encode())
    with unmodified(path):
        code, _, log = command("verify", published.uri)
    assert code == 1
    assert "does not follow from the ledger" in log


def test_verify_reports_a_missing_record(published, command):
    record_path(published, 0).unlink()
    code, _, log = command("verify", published.uri)
    assert code == 1
    assert published.plan.wanted[0].key in log
