"""Damage in the inputs of a round, in its evaluations and in a committed round is found by `plan`, before
compute is spent."""

import pytest
from tiny import configured, fill, filled_to_the_end, planned, record_path, root, round_folder, unmodified

from apportion.errors import Damaged, NotFound
from apportion.rounds import integrity
from apportion.stages import plan
from apportion.store.layout import images_key, reference_key, weights_key

ONE = ("properties=[fid]", "valuation.methods=[leverage]")


def value(mask, name, seed):
    return float(mask.sum())


def damaged(path):
    """Changes one bit of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.fixture
def this_round(tmp_path):
    return planned(tmp_path, *ONE)


def reported(this_round, key):
    """Asserts that damage under a key is reported and left as it is; then repairs it."""
    path = root(this_round.uri) / key
    whole = path.read_bytes()
    damaged(path)
    pending = this_round.pending(0) + this_round.pending(1)
    with unmodified(path), pytest.raises(Damaged, match=rf"{path.name}: sha256 .* not overwritten"):
        integrity.read_inputs(this_round, pending)
    path.write_bytes(whole)


def test_damaged_inputs_are_reported_and_missing_ones_are_not(this_round):
    """Base model, pruned model, reference, and training images. What is missing is made later."""
    pending = this_round.pending(0) + this_round.pending(1)
    integrity.read_inputs(this_round, pending)
    credit = this_round.game("credit")
    (measurement,) = credit.properties
    keys = [weights_key(this_round.plan.base.id), weights_key(credit.recipe.start.id)]
    keys.append(reference_key(measurement.reference))
    assert len(set(keys)) == 3
    for key in keys:
        this_round.store.put_if_absent(key, b"whatever a stage has made")
        reported(this_round, key)
    for data in this_round.manifest.all_data:
        reported(this_round, images_key(data))
    integrity.read_inputs(this_round, pending)


def test_damaged_outputs_of_pending_coalitions_are_reported(this_round):
    item = this_round.pending(0)[0]
    (weights,) = this_round.weights_keys(item)
    for key in (weights, this_round.samples_key(item)):
        this_round.store.put_if_absent(key, b"whatever a stage has made")
        reported(this_round, key)
    damaged(root(this_round.uri) / weights)
    integrity.read_inputs(this_round, [item])  # no stage reads a model once there are its images
    (root(this_round.uri) / this_round.samples_key(item)).unlink()
    with pytest.raises(Damaged, match=weights):
        integrity.read_inputs(this_round, [item])
    integrity.read_inputs(this_round, [])  # nor one whose coalition is evaluated


def test_plan_reads_the_inputs(this_round, tmp_path):
    config = configured(tmp_path, *ONE)
    assert plan.run(config).work
    path = root(this_round.uri) / images_key(this_round.manifest.all_data[0])
    damaged(path)
    with unmodified(path), pytest.raises(Damaged, match=rf"{path.name}: sha256 .* not overwritten"):
        plan.run(config)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def remove_checksum(path):
    path.with_name(f".{path.name}.sha256").unlink()


@pytest.mark.parametrize("damage", [truncate, damaged, remove_checksum])
def test_a_damaged_evaluation_stops_at_plan(this_round, damage):
    fill(this_round, value)
    path = record_path(this_round, 7)
    damage(path)
    with unmodified(path), pytest.raises(Damaged, match=rf"{path.name}: sha256 .* not overwritten"):
        plan.run(this_round.config)


@pytest.mark.parametrize("name", ["{}.bad", "old-{}"])
def test_a_damaged_evaluation_that_was_moved_away_is_planned_again(this_round, name):
    """Whatever its new name in the same folder: it is not a record, and the forecast does not read it."""
    fill(this_round, value)
    path = record_path(this_round, 7)
    truncate(path)
    path.rename(path.with_name(name.format(path.name)))
    assert plan.run(this_round.config).pending == 1


def test_a_committed_round_is_read_whole(this_round):
    with pytest.raises(Damaged, match=r"found no credits\.json in the committed round"):
        integrity.read_committed(this_round.uri)
    this_round = filled_to_the_end(this_round, value)
    assert integrity.read_committed(this_round.uri).round == this_round.id
    assert integrity.read_credits(this_round.uri) == this_round.credits
    for name, stage in (
        ("credits.csv", "attribute"),
        ("evidence.json", "evaluate"),
        ("report.html", "publish"),
    ):
        path = round_folder(this_round) / name
        whole = path.read_bytes()
        path.unlink()
        expected = (
            rf"found no {name} in the committed round {this_round.uri}, expected it beside round\.json; "
        )
        with pytest.raises(Damaged, match=rf"{expected}`apportion {stage} {this_round.uri}` makes it again"):
            integrity.read_committed(this_round.uri)
        path.write_bytes(whole)
    record_path(this_round, 3).unlink()
    with pytest.raises(NotFound, match="run finetune, sample and score for this round again"):
        integrity.read_committed(this_round.uri)
