"""What two rounds of one store share when a contributor is renamed, changes their data or joins: keys of evaluations and of models."""

import shutil

import numpy as np
import pytest
from tiny import concluded, evaluated, fill, from_folder, give, planned, told

from apportion.config import digest
from apportion.records import Contributor, Manifest, Plan
from apportion.stages import plan, prune, train

RETRAIN = ("removal={method: retrain}",)
NETWORK = digest("network")


def manifest(**data: str) -> Manifest:
    rows = [Contributor(name=name, data=digest(given), samples=10) for name, given in data.items()]
    return Manifest(contributors=tuple(sorted(rows, key=lambda row: row.name)))


BEFORE = manifest(ann="a", bob="b", cy="c", dee="d")
RENAMED = manifest(anna="a", bob="b", cy="c", dee="d")
MOVED = manifest(zoe="a", bob="b", cy="c", dee="d")  # a name at another place in the alphabet
CHANGED = manifest(ann="a", bob="b", cy="c", dee="e")
JOINED = manifest(ann="a", bob="b", cy="c", dee="d", eve="e")


@pytest.fixture
def drawn(tmp_path):
    """The plan of a manifest and the keys of its evaluations, by purpose."""

    def draw(given: Manifest, *overrides: str) -> tuple[Plan, dict[str, str]]:
        found, _ = plan.draw_up(told(tmp_path, "valuation.coalitions=12", *overrides), given, NETWORK)
        return found, {item.key: item.purpose for item in found.wanted}

    return draw


def members(found: Plan, given: Manifest) -> dict[str, tuple[str, ...]]:
    """The data of every evaluation's coalition, by key."""
    return {item.key: given.data(item.mask(given.n)) for item in found.wanted}


@pytest.mark.parametrize("method", [(), RETRAIN])
def test_a_rename_is_another_round_of_the_same_evaluations(drawn, method):
    (before, known), (after, asked) = drawn(BEFORE, *method), drawn(RENAMED, *method)
    assert asked == known
    assert (after.base, after.pruned, after.reference) == (before.base, before.pruned, before.reference)
    assert (after.credit_game, after.truth_game) == (before.credit_game, before.truth_game)
    assert after.manifest != before.manifest
    assert after.round != before.round


@pytest.mark.parametrize("method", [(), RETRAIN])
def test_a_rename_that_changes_the_order_of_names_shares_models_and_what_coalitions_coincide(drawn, method):
    """Rows are dealt to contributors in the order of names, so other coalitions are asked for; whichever are the same have the same key."""
    (before, known), (after, asked) = drawn(BEFORE, *method), drawn(MOVED, *method)
    assert (after.base, after.pruned, after.reference) == (before.base, before.pruned, before.reference)
    assert (after.credit_game, after.truth_game) == (before.credit_game, before.truth_game)
    ends = {key for key, purpose in known.items() if purpose in ("v0", "v1")}
    assert ends <= asked.keys()
    ours, theirs = members(before, BEFORE), members(after, MOVED)
    assert all(ours[key] == theirs[key] for key in known.keys() & asked.keys())
    assert after.round != before.round


@pytest.mark.parametrize("given", [CHANGED, JOINED])
def test_a_fine_tuning_game_shares_nothing_once_the_base_model_is_another(drawn, given):
    (before, known), (after, asked) = drawn(BEFORE), drawn(given)
    assert after.base != before.base
    assert after.credit_game != before.credit_game
    assert not known.keys() & asked.keys()


@pytest.mark.parametrize("given", [CHANGED, JOINED])
def test_a_property_against_a_reference_shares_nothing_once_the_reference_is_another(drawn, given):
    (before, known), (after, asked) = drawn(BEFORE, *RETRAIN), drawn(given, *RETRAIN)
    assert after.reference != before.reference
    assert not known.keys() & asked.keys()


FREE = (*RETRAIN, "properties=[inception_score, colourfulness_p90]", "evaluation.counterfactual=null")


def test_retraining_without_a_reference_shares_all_coalitions_without_the_changed_contributor(drawn):
    (before, known), (after, asked) = drawn(BEFORE, *FREE), drawn(CHANGED, *FREE)
    assert after.credit_game == before.credit_game
    without = {key for key, data in members(before, BEFORE).items() if digest("d") not in data}
    assert known.keys() & asked.keys() == without
    assert len(without) > len(known) / 3


def test_retraining_without_a_reference_shares_what_a_joins_design_asks_again(drawn):
    """The keys stay valid, but a design for five asks for few of the coalitions of a design for four: nobody, to begin with."""
    (before, known), (after, asked) = drawn(BEFORE, *FREE), drawn(JOINED, *FREE, "valuation.coalitions=20")
    assert after.credit_game == before.credit_game
    shared = known.keys() & asked.keys()
    assert {key for key, purpose in known.items() if purpose == "v0"} <= shared
    ours, theirs = members(before, BEFORE), members(after, JOINED)
    assert all(ours[key] == theirs[key] for key in shared)


def test_where_images_lie_names_no_round(tmp_path):
    """Another mount, another way to write it, another option that changes no pixel: what was given is the same."""
    data = give(tmp_path / "data", ["ann", "bob", "cy", "dee"])
    shutil.copytree(data, tmp_path / "elsewhere")
    asked = ("properties=[fid]", "evaluation.held_out=0")
    ids = {planned(tmp_path / "work", *from_folder(path), *asked).id for path in (data, f"{data}/", tmp_path / "elsewhere")}
    ids.add(planned(tmp_path / "work", *from_folder(data), "data.resize=crop", *asked).id)
    assert len(ids) == 1
    give(tmp_path / "elsewhere", ["eve"])
    assert planned(tmp_path / "work", *from_folder(tmp_path / "elsewhere"), *asked).id not in ids


def test_a_round_with_nothing_to_evaluate_makes_no_model(tmp_path):
    """Models and images expire; what has been evaluated has not."""
    first = planned(tmp_path / "work", "evaluation.counterfactual=null")
    fill(first, lambda mask, *_: float(mask.sum()))
    concluded(first.uri)
    second = planned(tmp_path / "work", "evaluation.counterfactual=null", "valuation.level=0.9")
    assert second.settled
    assert train.run(second.uri) == second.plan.base
    assert prune.run(second.uri) == second.plan.pruned
    assert set(evaluated(second.uri).values()) == {0}  # nor is anything asked for that such a model made, as the reference
    concluded(second.uri)
    assert not list(second.store.list("checkpoints/"))
    followed = planned(tmp_path / "work", "valuation.level=0.8")  # its counterfactual will need models, of whom is not known yet
    assert not followed.settled


WORTH = [1.0, -2.0, 3.0, 0.5]


@pytest.mark.parametrize("names", [["bea", "bob", "cy", "dee"], ["zoe", "dee", "bob", "ann"]])
def test_credits_follow_the_data_to_the_new_names(tmp_path, names):
    """Two rounds of one store whose manifests sort otherwise: what the second takes from the first belongs to the same data."""
    old = ["ann", "bob", "cy", "dee"]
    data = give(tmp_path / "data", old)
    told = ("properties=[fid]", "valuation.coalitions=14", "evaluation.held_out=0", "evaluation.counterfactual=null")
    before = planned(tmp_path / "work", *from_folder(data), *told)
    worth = {c.data: WORTH[old.index(c.name)] for c in before.manifest.contributors}
    for was, now in zip(old, names, strict=True):
        (data / was).rename(data / f"{now} (new)")
    for now in names:
        (data / f"{now} (new)").rename(data / now)
    after = planned(tmp_path / "work", *from_folder(data), *told)
    assert {c.data: c.name for c in after.manifest.contributors} == {c.data: names[old.index(c.name)] for c in before.manifest.contributors}
    for round in (before, after):  # the second finds a part of its evaluations in the ledger
        weights = np.array([worth[c.data] for c in round.manifest.contributors])
        pending = len(round.ledger.pending(round.wanted))
        assert pending == len({item.key for item in round.wanted}) if round is before else pending < len(round.wanted)
        fill(round, lambda mask, *_, weights=weights: 30 + float(mask @ weights))
        concluded(round.uri)
    for round, called in ((before, old), (after, names)):
        phi = {c.contributor: c.phi for c in round.credits.credits if (c.property, c.method) == ("fid", "leverage")}
        assert [phi[name] for name in called] == pytest.approx(WORTH, abs=1e-9)
