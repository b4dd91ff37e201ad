"""What two rounds of one store share: models, evaluations, and credits that follow the data."""

import shutil

import numpy as np
import pytest
from tiny import evaluated, fill, filled_to_the_end, from_folder, image_folder, planned

from apportion import stages

FID = ("properties=[fid]", "evaluation.held_out=0")
NAMES = ["ann", "bob", "cy", "dee"]


def test_the_place_of_images_is_not_part_of_a_rounds_id(tmp_path):
    """Another mount, another way to write it, or an option that changes no pixel: the data is the same."""
    data = image_folder(tmp_path / "data", NAMES)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(data, elsewhere)

    def round_id(path, *overrides):
        return planned(tmp_path / "work", *from_folder(path), *FID, *overrides).id

    ids = {round_id(path) for path in (data, f"{data}/", elsewhere)}
    ids.add(round_id(data, "data.resize=crop"))
    assert len(ids) == 1
    image_folder(elsewhere, ["eve"])
    assert round_id(elsewhere) not in ids


def test_a_round_with_nothing_to_evaluate_makes_no_model(tmp_path):
    """Models and images may have expired; evaluations do not expire."""
    overrides = ("evaluation.counterfactual=null", "valuation.methods=[leverage]")
    first = planned(tmp_path / "work", *overrides)
    filled_to_the_end(first, lambda mask, *_: float(mask.sum()))
    second = planned(tmp_path / "work", *overrides, "valuation.level=0.9")
    assert second.settled
    assert stages.run("train", second.uri) == second.plan.base.id
    assert stages.run("prune", second.uri) == second.game("credit").recipe.start.id
    assert set(evaluated(second.uri).values()) == {0}  # nor does a stage need a reference
    for stage in ("attribute", "evaluate", "publish"):
        stages.run(stage, second.uri)
    assert not [*second.store.list("checkpoints/")]
    # Its counterfactual will need models, but of which coalitions is not known yet.
    assert not planned(tmp_path / "work", "valuation.level=0.8").settled


WORTH = [1.0, -2.0, 3.0, 0.5]


@pytest.mark.parametrize("new_names", [["bea", "bob", "cy", "dee"], ["zoe", "dee", "bob", "ann"]])
def test_credits_follow_the_data_to_the_new_names(tmp_path, new_names):
    """Two rounds of one store with another order of contributors: what the second takes from the first
    belongs to the same data."""
    data = image_folder(tmp_path / "data", NAMES)
    overrides = (*from_folder(data), *FID, "evaluation.counterfactual=null", "valuation.coalitions=14")
    before = planned(tmp_path / "work", *overrides)
    worth = {c.data: WORTH[NAMES.index(c.name)] for c in before.manifest.contributors}
    for old, new in zip(NAMES, new_names, strict=True):
        (data / old).rename(data / f"{new} (new)")
    for new in new_names:
        (data / f"{new} (new)").rename(data / new)
    after = planned(tmp_path / "work", *overrides)
    names = {c.data: new_names[NAMES.index(c.name)] for c in before.manifest.contributors}
    assert {c.data: c.name for c in after.manifest.contributors} == names
    for this_round, called in ((before, NAMES), (after, new_names)):
        pending = len(this_round.ledger.pending(this_round.wanted))
        everything = len({item.key for item in this_round.wanted})
        # The second round finds a part of its evaluations in the ledger.
        assert pending == everything if this_round is before else pending < everything
        weights = np.array([worth[c.data] for c in this_round.manifest.contributors])
        fill(this_round, lambda mask, *_, weights=weights: 30 + float(mask @ weights))
        stages.run("attribute", this_round.uri)
        phi = {c.contributor: c.phi for c in this_round.credits.of("fid", "leverage")}
        assert [phi[name] for name in called] == pytest.approx(WORTH, abs=1e-9)
