"""The feature network of a round: every stage measures with the network that `plan` read, even if its file
changes later."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import ROOT, planned, root, unmodified

from apportion import stages
from apportion.errors import Damaged, NotFound
from apportion.properties import reference
from apportion.properties.measure import build_reference, measure
from apportion.properties.network import FeatureNetwork, dump, load
from apportion.records import Cost, samples_address
from apportion.rounds.networks import keep_network, network_hash, stored_network
from apportion.rounds.round import Round
from apportion.rounds.samples import dump_samples
from apportion.rounds.training_data import training_images
from apportion.stages import score
from apportion.store import open_store
from apportion.store.layout import network_key, reference_key, samples_key, weights_key

EMBEDDED = ROOT / "src/apportion/datasets/openmoji/classifier.safetensors"
CREDITS_ONLY = ("evaluation.counterfactual=null", "evaluation.held_out=0")


@pytest.fixture
def file(tmp_path) -> Path:
    """A network of the user's own."""
    return Path(shutil.copy(EMBEDDED, tmp_path / "net.safetensors"))


@pytest.fixture(scope="module")
def other_network() -> bytes:
    torch.manual_seed(0)
    return dump(FeatureNetwork(9), {})


def put_images(this_round: Round, key: str, seed: int) -> torch.Tensor:
    """Stores noise in place of generated images."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (64, 3, 16, 16), generator=generator, dtype=torch.uint8)
    this_round.store.put_if_absent(key, dump_samples(images.numpy(), Cost(device="cpu")))
    return images


def test_values_are_those_of_the_network_that_was_planned(file, tmp_path, other_network):
    """The file is another by the time of `score`, as after an update of a shared folder; then it is
    missing."""
    overrides = (f"network={file}", "properties=[inception_score]", *CREDITS_ONLY)
    this_round = planned(tmp_path / "work", *overrides)
    network = load(file.read_bytes(), str(file))
    changes = (lambda: file.write_bytes(other_network), file.unlink)
    for item, change in zip(this_round.plan.wanted, changes, strict=False):
        images = put_images(this_round, this_round.samples_key(item), item.seed)
        change()
        plan_of_one = this_round.plan.model_copy(update={"wanted": (item,)})
        assert score.make(replace(Round.open(this_round.uri), plan=plan_of_one)) == 1
        assert this_round.ledger.read(item).values == measure(["inception_score"], images, network)


def test_the_reference_is_in_the_features_of_the_network_that_was_planned(file, tmp_path, other_network):
    this_round = planned(tmp_path / "work", f"network={file}", "properties=[fid]", *CREDITS_ONLY)
    network = load(file.read_bytes(), str(file))
    base, sampling = this_round.plan.base, this_round.game("truth").sampling
    images = put_images(this_round, samples_key(samples_address(base.id, sampling)), 0)
    this_round.store.put_if_absent(weights_key(base.id), b"not read: there are images of the base model")
    file.write_bytes(other_network)
    stages.run("train", this_round.uri)
    (measurement,) = this_round.game("credit").properties
    key = reference_key(measurement.reference)
    stored = reference.load(this_round.store.get(key), key)
    training = training_images(this_round.store, this_round.manifest.all_data, 16).pixels
    expected = build_reference(network, torch.from_numpy(training), images)
    assert np.allclose(stored.mean, expected.mean)
    assert np.allclose(stored.centroids, expected.centroids)


def test_the_same_network_elsewhere_is_the_same_round(file, tmp_path, monkeypatch, other_network):
    places = (file, file.as_uri(), EMBEDDED, "openmoji")
    rounds = [planned(tmp_path / "work", f"network={place}", *CREDITS_ONLY) for place in places]
    monkeypatch.chdir(tmp_path)
    rounds.append(planned(tmp_path / "work", "network=net.safetensors", *CREDITS_ONLY))
    assert len({this_round.id for this_round in rounds}) == 1
    file.write_bytes(other_network)
    changed = planned(tmp_path / "work", f"network={file}", *CREDITS_ONLY)
    assert changed.id != rounds[0].id
    assert changed.plan.games["credit"] != rounds[0].plan.games["credit"]
    assert len([*changed.store.list("networks/")]) == 2


def test_a_damaged_copy_stops_the_round_at_plan(file, tmp_path):
    this_round = planned(tmp_path / "work", f"network={file}", *CREDITS_ONLY)
    path = root(this_round.uri) / network_key(network_hash(file.read_bytes()))
    path.write_bytes(path.read_bytes()[:-7])
    with unmodified(path), pytest.raises(Damaged, match=rf"{path.name}: sha256"):
        planned(tmp_path / "work", f"network={file}", *CREDITS_ONLY)


def test_another_network_in_the_place_of_a_copy_is_damage(tmp_path, other_network):
    """With a right checksum: a user put it there."""
    store, own = open_store(tmp_path.as_uri()), EMBEDDED.read_bytes()
    key = network_key(network_hash(own))
    with pytest.raises(NotFound, match=key):
        stored_network(store, network_hash(own))
    store.put_if_absent(key, other_network)
    expected = rf"found network {network_hash(other_network)} in .*{key}, expected .*it is left as it is"
    for read in (lambda: stored_network(store, network_hash(own)), lambda: keep_network(store, own)):
        with pytest.raises(Damaged, match=expected):
            read()
    assert store.get(key) == other_network


def test_a_network_is_stored_once_under_its_hash(tmp_path):
    store, own = open_store(tmp_path.as_uri()), EMBEDDED.read_bytes()
    for _ in range(2):
        keep_network(store, own)
    assert [*store.list()] == [network_key(network_hash(own))]
    assert stored_network(store, network_hash(own)) == own


def test_no_copy_is_made_where_no_network_is_needed(tmp_path):
    overrides = ("network=/nowhere", "properties=[colourfulness_p90]", *CREDITS_ONLY)
    this_round = planned(tmp_path / "work", *overrides)
    assert {item.network for game in this_round.games.values() for item in game.properties} == {None}
    assert not [*this_round.store.list("networks/")]
