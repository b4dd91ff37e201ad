"""Published rounds on ledgers of known games: the statement, the commit record, the head, and rounds that
follow each other."""

import json
import re
import shutil
from html import unescape

import pytest
from known import FOUR, SMALL, additive, judged
from scipy.stats import spearmanr
from tiny import (
    ODD,
    commit,
    configured,
    csv_rows,
    fill,
    filled_to_the_end,
    from_folder,
    image_folder,
    planned,
    record_path,
    root,
    round_folder,
    unmodified,
)

from apportion import stages, version
from apportion.errors import Conflict, Damaged, NotFound, StoreError
from apportion.report.spreadsheets import cell
from apportion.rounds.heads import head
from apportion.stages import attribute, plan, publish

NO_EVIDENCE = ("evaluation.held_out=0", "evaluation.counterfactual=null")


def plan_again(tmp_path, *overrides):
    return plan.run(configured(tmp_path / "work", *SMALL, *overrides))


# The statement and the report


def test_the_statement_has_what_payments_can_be_based_on(published):
    statement = csv_rows(published, "statement.csv")
    assert list(statement[0]) == [
        *("property", "contributor", "images", "method", "game"),
        *("credit", "se", "low", "high", "share", "interval", "best", "worst"),
        *("verdict", "lds", "lds_low", "lds_high", "covers", "network"),
    ]
    assert [(row["property"], row["contributor"]) for row in statement] == [
        (name, contributor) for name in sorted(FOUR) for contributor in published.manifest.names
    ]
    images = {c.name: str(c.samples) for c in published.manifest.contributors}
    credits = [c for name in sorted(FOUR) for c in published.credits.of(name)]
    judgements = {judgement.property: judgement for judgement in published.evidence.judgements}
    for row, c in zip(statement, credits, strict=True):
        assert float(row["credit"]) == c.phi
        assert (float(row["low"]), float(row["high"]), float(row["share"])) == (c.low, c.high, c.share)
        assert row["images"] == images[row["contributor"]]
        assert row["verdict"] == "not established"  # four held-out coalitions are too few
        assert (row["method"], row["game"]) == ("tree_residual", "sparsified_finetune")
        assert row["interval"] == "leverage"
        assert (int(row["best"]), int(row["worst"])) == (c.best, c.worst)
        assert row["covers"] == published.credits.covers["leverage"]
        measured = "trained on the drawings of OpenMoji" in row["network"]
        assert measured == (row["property"] != "colourfulness_p90") == bool(row["network"])
        scores = judgements[row["property"]].scores
        (score,) = (score for score in scores if score.method == "tree_residual")
        expected = [repr(value) for value in (score.lds, score.low, score.high)]
        assert [row[name] for name in ("lds", "lds_low", "lds_high")] == expected


def test_where_nothing_was_retrained_the_statement_has_no_score(tmp_path):
    this_round = judged(tmp_path / "work", "evaluation.held_out=0")
    publish.run(this_round.uri)
    columns = ("verdict", "lds", "lds_low", "lds_high")
    rows = {tuple(row[name] for name in columns) for row in csv_rows(this_round, "statement.csv")}
    assert rows == {("not established", "", "", "")}


def test_names_in_the_statement_and_the_report_are_made_harmless(tmp_path):
    script = "<script>alert(1)<script>"
    folder = image_folder(tmp_path / "data", [*ODD, script])
    overrides = ("valuation.coalitions=48", "valuation.methods=[leverage]", "properties=[fid]")
    this_round = planned(tmp_path / "work", *from_folder(folder), *NO_EVIDENCE, *overrides)
    this_round = filled_to_the_end(this_round, lambda mask, *_: float(mask.sum()))
    names = [row["contributor"] for row in csv_rows(this_round, "statement.csv")]
    assert names == [cell(name) for name in this_round.manifest.names]
    assert not [name for name in names if name[0] in "=+-@"]
    page = this_round.read("report.html").decode()
    assert "<script>alert(1)" not in page
    assert "名前 Ünï" in page


def test_the_report_warns_of_an_image_that_two_contributors_gave(tmp_path, caplog):
    """As `plan` does, whose output is soon out of sight."""
    data = image_folder(tmp_path / "data", ["ada", "bob", "cyd", "eve"])
    shutil.copy(data / "ada" / "0.png", data / "eve" / "mine too.png")
    this_round = planned(tmp_path / "work", *from_folder(data), *NO_EVIDENCE, "properties=[fid]")
    this_round = filled_to_the_end(this_round, lambda mask, *_: float(mask.sum()))
    images = "'ada' (ada/0.png) and 'eve' (eve/mine too.png)"
    warning = f"the same image was given by {images}: they share the credit for it"
    assert warning in caplog.messages
    assert f"<li>{warning}</li>" in unescape(this_round.read("report.html").decode())


# The commit record


def test_the_record_of_a_first_round(published):
    record, count = commit(published), len(published.wanted)
    assert (record.round, record.previous, record.project) == (published.id, None, "tiny")
    assert record.tracking_run is None
    assert record.code == version.code()
    assert record.seconds == {"finetune": 2.0 * count, "sample": 1.0 * count, "score": 0.5 * count}
    assert head(published.store, "tiny") == published.id


def test_a_published_round_is_planned_with_nothing_to_do(published, tmp_path):
    again = plan_again(tmp_path)
    assert (again.work, again.pending, again.round_uri) == (False, 0, published.uri)
    assert "last committed round" in again.reason


COMMITTED = ["credits.json", "credits.csv", "followup.json", "evidence.json", "statement.csv", "report.html"]


@pytest.mark.parametrize("name", COMMITTED)
def test_an_incomplete_committed_round_is_reported_and_can_be_completed(published, tmp_path, name):
    """There is nothing to do only where everything is there. The command in the message makes a missing file
    again, to the last bit."""
    path = round_folder(published) / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    with unmodified(path), pytest.raises(Damaged, match=rf"{name}: sha256"):
        plan_again(tmp_path)
    path.unlink()
    expected = rf"found no {name} in the committed round .* makes it again"
    with pytest.raises(Damaged, match=expected) as caught:
        plan_again(tmp_path)
    stage = re.search(r"`apportion (\w+) (\S+)`", str(caught.value))
    stages.run(*stage.groups())
    assert path.read_bytes() == whole
    assert not plan_again(tmp_path).work


def test_damaged_evaluations_of_a_committed_round_are_reported(published, tmp_path):
    path = record_path(published, 5)
    path.write_bytes(path.read_bytes()[:-3])
    with unmodified(path), pytest.raises(Damaged, match=rf"{path.name}: sha256"):
        plan_again(tmp_path)
    path.unlink()
    with pytest.raises(NotFound, match="run finetune, sample and score for this round again"):
        plan_again(tmp_path)


def test_other_code_alone_makes_no_new_round_and_is_named(published, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "code", lambda: "0.1.0+fedcba98")
    again = plan_again(tmp_path)
    assert (again.work, again.round_uri) == (False, published.uri)
    verify = f"`apportion verify {published.uri}` says whether 0.1.0+fedcba98 gives the same"
    assert f"which code {version.code()} made; {verify}" in again.reason
    assert "configuration and code" not in again.reason


def test_another_way_from_values_to_credits_is_another_round_of_the_same_evaluations(
    published, tmp_path, monkeypatch
):
    number = plan.CREDITS + 1
    monkeypatch.setattr(plan, "CREDITS", number)
    again = plan_again(tmp_path)
    assert (again.work, again.pending) == (True, 0)
    assert again.round_uri != published.uri


def test_credits_of_a_plan_with_another_version_of_credits_are_shown_and_not_made(
    published, command, replace_object
):
    folder = round_folder(published)
    fields = json.loads((folder / "plan.json").read_bytes()) | {"credits": plan.CREDITS + 1}
    replace_object(folder / "plan.json", json_text(fields))
    assert command("show", published.uri)[0] == 0
    code, _, log = command("verify", published.uri)
    assert code == 1
    versions = f"records.CREDITS {plan.CREDITS + 1}, expected {plan.CREDITS}"
    assert f"which made credits in another way ({versions})" in log


def test_publishing_again_changes_nothing(published):
    files = {path.name: path.read_bytes() for path in round_folder(published).iterdir()}
    assert publish.run(published.uri).endswith(f"{published.id}/report.html")
    assert {path.name: path.read_bytes() for path in round_folder(published).iterdir()} == files
    assert head(published.store, "tiny") == published.id


def test_nothing_is_published_without_credits_or_evidence(tmp_path):
    this_round = planned(tmp_path / "work", *SMALL)
    fill(this_round, additive)
    for stages_before, missing in (((), "(credits|evidence)"), (("attribute",), "evidence")):
        for stage in stages_before:
            stages.run(stage, this_round.uri)
        expected = rf"{missing}\.json.*the stage that makes {missing}\.json has not run"
        with pytest.raises(NotFound, match=expected):
            publish.run(this_round.uri)
        assert head(this_round.store, "tiny") is None
        assert not this_round.has("round.json")


# Rounds that follow each other


def correlation(this_round, before, name):
    """Rank correlation of published credits, over the contributors of both rounds."""
    pair = [{c.contributor: c.phi for c in each.credits.of(name)} for each in (this_round, before)]
    both = sorted(pair[0].keys() & pair[1].keys())
    return len(both), spearmanr(*([credits[who] for who in both] for credits in pair)).statistic


def test_a_second_round_names_the_first_and_is_compared_with_it(published, tmp_path):
    other = judged(tmp_path / "work", "valuation.seed=3", value=lambda *of: additive(*of) ** 2)
    assert publish.run(other.uri).startswith("file:///")
    assert commit(other).previous == published.id
    assert head(published.store, "tiny") == other.id
    metrics = publish.metrics(other, published.credits)
    for name in FOUR:
        _, expected = correlation(other, published, name)
        assert metrics[f"rank_correlation/{name}"] == pytest.approx(expected, abs=1e-12)


def test_rank_correlation_is_over_the_contributors_of_both(published, tmp_path):
    names = "[Emily Jäger, Sofie Ascherl, Lisa Thiel, Mariella Steeb]"
    now = judged(tmp_path / "work", f"data.contributors={names}")
    metrics = publish.metrics(now, published.credits)
    count, expected = correlation(now, published, "fid")
    assert count == 3
    assert metrics["rank_correlation/fid"] == pytest.approx(expected, abs=1e-12)
    names = "[Emily Jäger, Sofie Ascherl, Mariella Steeb, Liz Bravo]"
    few = publish.metrics(judged(tmp_path / "work", f"data.contributors={names}"), published.credits)
    assert not [key for key in few if key.startswith("rank_correlation")]


def test_projects_have_heads_of_their_own(published, tmp_path):
    other = judged(tmp_path / "work", "project=other")
    publish.run(other.uri)
    assert commit(other).previous is None
    heads = (head(published.store, "tiny"), head(published.store, "other"))
    assert heads == (published.id, other.id)


def test_of_two_publishers_one_fails(tmp_path, monkeypatch):
    """Another round is published while the report of this one is made. This one was not compared with it, so
    the head stays there until this one is published again."""
    ours, theirs = judged(tmp_path / "work"), judged(tmp_path / "work", "valuation.seed=3")
    render = publish.render

    def slow(page):
        monkeypatch.setattr(publish, "render", render)
        publish.run(theirs.uri)
        return render(page)

    monkeypatch.setattr(publish, "render", slow)
    with pytest.raises(Conflict, match="heads/tiny was moved by another process"):
        publish.run(ours.uri)
    assert head(ours.store, "tiny") == theirs.id
    publish.run(ours.uri)
    assert head(ours.store, "tiny") == ours.id


def test_two_publishers_of_one_round_agree(tmp_path, monkeypatch):
    """As when a task is started again while its first process still runs."""
    this_round, render = judged(tmp_path / "work"), publish.render

    def slow(page):
        monkeypatch.setattr(publish, "render", render)
        publish.run(this_round.uri)
        return render(page)

    monkeypatch.setattr(publish, "render", slow)
    assert publish.run(this_round.uri).endswith(f"{this_round.id}/report.html")
    assert head(this_round.store, "tiny") == this_round.id


def test_an_older_round_can_be_published_again(published, tmp_path):
    other = judged(tmp_path / "work", "valuation.seed=3")
    publish.run(other.uri)
    again = plan_again(tmp_path)
    assert (again.work, again.pending, again.round_uri) == (True, 0, published.uri)
    publish.run(published.uri)
    assert head(published.store, "tiny") == published.id
    assert not plan_again(tmp_path).work


@pytest.mark.parametrize("damage", ["truncated", "schema", "of another round", "missing", "head"])
def test_a_previous_round_that_cannot_be_read_stops_the_next_at_plan(
    published, tmp_path, damage, replace_object
):
    """Not at `publish`, after hours of compute; and the message says how to go on."""
    pointer, credits = root(published.uri) / "heads" / "tiny", round_folder(published) / "credits.json"
    text = credits.read_text()
    if damage == "missing":
        credits.unlink()
    elif damage == "truncated":
        credits.write_text(text[:-9])
    elif damage == "head":
        replace_object(pointer, b"nonsense")
    elif damage == "schema":
        replace_object(credits, text.replace("level", "niveau").encode())
    else:
        replace_object(credits, text.replace(published.id, "f" * 32).encode())
    expected = r"credits\.json.*put its credits back, or move .*tiny away"
    if damage == "head":
        expected = "nonsense.* expected the id of a round"
    with pytest.raises(Damaged, match=expected):
        plan_again(tmp_path, "valuation.seed=3")
    assert len(list((root(published.uri) / "rounds").iterdir())) == 1
    pointer.rename(tmp_path / "the head")
    assert plan_again(tmp_path, "valuation.seed=3").work


def test_only_the_credits_of_a_previous_round_are_needed(published, tmp_path):
    """The configuration of an older version, or a plan that was moved away, does not prevent publication."""
    for name in ("config.json", "plan.json"):
        (round_folder(published) / name).unlink()
    other = judged(tmp_path / "work", "valuation.seed=3")
    publish.run(other.uri)
    assert commit(other).previous == published.id


# Rounds of earlier versions

NEWER_THAN_2 = ("pilots", "interactions", "stopping", "retrained_v0", "retrained_v1", "published")
IN_2 = ("property", "method", "contributor", "phi", "se", "low", "high", "share")


def as_version_2(fields):
    """The fields of credits.json as they were before intervals of several methods (CREDITS 2)."""
    covers = fields["covers"]["leverage"]
    fields = {name: value for name, value in fields.items() if name not in NEWER_THAN_2}
    credits = [c for c in fields["credits"] if c["method"] in ("leverage", "banzhaf")]
    return fields | {"covers": covers, "credits": [{name: c[name] for name in IN_2} for c in credits]}


def as_version_4(fields):
    """The fields of credits.json as they were before the published method was stored (CREDITS 3 and 4)."""
    del fields["published"]
    for old, new in (("exact_v0", "retrained_v0"), ("exact_v1", "retrained_v1"), ("looked", "stopping")):
        fields[old] = fields.pop(new)
    return fields


def json_text(fields):
    return (json.dumps(fields, sort_keys=True, ensure_ascii=False, indent=1) + "\n").encode()


@pytest.fixture(params=[2, 3, 4])
def earlier(request, published, replace_object):
    """The version of a published round whose credits and plan are made those of an earlier version."""
    folder = round_folder(published)
    convert = as_version_2 if request.param == 2 else as_version_4
    credits = convert(json.loads((folder / "credits.json").read_bytes()))
    replace_object(folder / "credits.json", json_text(credits))
    fields = json.loads((folder / "plan.json").read_bytes())
    if request.param == 2:
        del fields["look"], fields["credits"]
    else:
        fields["credits"] = request.param
    games = fields.pop("games")
    fields |= {"base": "0" * 32, "credit_game": games["credit"], "truth_game": games["truth"]}
    del fields["methods"]
    replace_object(folder / "plan.json", json_text(fields))
    return request.param


def test_a_round_of_an_earlier_version_is_followed_and_its_plan_is_refused(
    earlier, published, tmp_path, command, replace_object
):
    """Its credits are read as they are, and the next round is compared with them. Commands that need its plan
    name the version to use."""
    before = {path.name: path.read_bytes() for path in round_folder(published).iterdir()}
    by_leverage = "valuation.methods=[leverage, tree_residual]"
    by_trees = "valuation.methods=[tree_residual, leverage]"
    for method, compared in ((by_trees, earlier > 2), (by_leverage, True)):
        with unmodified(round_folder(published) / "credits.json"):
            other = judged(tmp_path / "work", "valuation.seed=3", method)
            replace_object(root(published.uri) / "heads" / "tiny", f"{published.id}\n".encode())
            publish.run(other.uri)
        assert commit(other).previous == published.id
        page = unescape(other.read("report.html").decode())
        missing = (
            f"Round {published.id[:12]} before this one has no credits for this property by this method."
        )
        assert (missing in page) != compared
        assert (f"Against round {published.id[:12]}: rank correlation" in page) == compared
    for name in ("show", "verify"):
        code, out, log = command(name, published.uri)
        assert (code, out) == (1, "")
        assert f"found a plan of Apportion {version.code()} in " in log
        assert "show and verify its round with that version; `plan` here makes a new round" in log
        assert "damaged" not in log
        assert "does not follow from the ledger" not in log
    assert {path.name: path.read_bytes() for path in round_folder(published).iterdir()} == before


def test_credits_are_not_made_in_a_round_that_an_earlier_version_planned(earlier, published):
    """Its id includes how credits come from values; a new plan shares every evaluation."""
    path = round_folder(published) / "credits.json"
    path.unlink()
    with pytest.raises(StoreError, match=r"with that version; `plan` here makes a new round"):
        attribute.run(published.uri)
    assert not path.exists()
