"""The feature network of a round: every stage measures with the network that `plan` read, even if its file
changes later."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import ROOT, from_folder, image_folder, planned, root, unmodified

from apportion import stages
from apportion.errors import Damaged, NotFound, PropertyError
from apportion.planning.networks import read_network
from apportion.properties import own_network, reference
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


# A network that is trained on the round's own images


@pytest.fixture
def trained_quickly(monkeypatch):
    monkeypatch.setattr(own_network, "STEPS", 4)


def labelled(folder: Path, label=lambda who, i: f"kind {i % 2}", who=lambda name, i: name) -> Path:
    """Noise images of three people in a folder, and a table of them."""
    image_folder(folder, ["ann", "bob", "cy"], images=4)
    rows = [
        f"{name}/{i}.png,{who(name, i)},{label(name, i)}" for name in ("ann", "bob", "cy") for i in range(4)
    ]
    (folder / "table.csv").write_text("\n".join(["path,contributor,label", *rows]))
    return folder / "table.csv"


def own(path: Path, *more: str) -> list[str]:
    return [*from_folder(path, "valuation.coalitions=6", *CREDITS_ONLY), "network=train", *more]


def test_labels_become_classes_of_a_network_of_the_rounds_own(tmp_path, trained_quickly):
    this_round = planned(tmp_path / "work", *own(labelled(tmp_path / "images")))
    (description,) = this_round.plan.networks
    assert description.trained_on == "12 images of this round, by 2 labels"
    assert description.classes == 2
    assert {item.network for game in this_round.games.values() for item in game.properties} == {
        description.network,
        None,
    }


def test_the_same_images_have_the_same_network_whoever_gave_them(tmp_path, trained_quickly, monkeypatch):
    """It is trained once: a second training may give another on another machine."""
    folder = labelled(tmp_path / "images").parent
    first = planned(tmp_path / "work", *own(folder / "table.csv"))
    regiven = labelled(tmp_path / "again", who=lambda name, _: "dee" if name == "ann" else name)
    monkeypatch.setattr(own_network, "train_network", None)
    again = planned(tmp_path / "work", *own(folder / "table.csv", "seed=3"))
    others = planned(tmp_path / "work", *own(regiven))
    assert first.plan.networks == again.plan.networks == others.plan.networks
    assert len({first.id, again.id, others.id}) == 3
    monkeypatch.undo()


def test_other_labels_give_another_network(tmp_path, trained_quickly):
    one = planned(tmp_path / "work", *own(labelled(tmp_path / "a")))
    three = planned(tmp_path / "work", *own(labelled(tmp_path / "b", label=lambda _, i: i % 3)))
    assert one.plan.networks[0].classes == 2
    assert three.plan.networks[0].classes == 3
    assert one.plan.networks[0].network != three.plan.networks[0].network


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        (lambda who, i: "" if (who, i) == ("bob", 1) else i % 2, "because 1 of 12 images have none"),
        (lambda *_: "all", "because all images have the label 'all'"),
        (lambda who, i: f"{who} {i}", "because there are 12 labels for 12 images"),
        (lambda *_: "", ""),
        (lambda who, i: "nan" if i == 0 else i % 2, "because 3 of 12 images have none"),
    ],
)
def test_labels_that_cannot_be_learned_from_are_not_used(tmp_path, trained_quickly, caplog, label, reason):
    with caplog.at_level(logging.WARNING):
        this_round = planned(tmp_path / "work", *own(labelled(tmp_path / "images", label)))
    assert "12 images of this round, without labels" in this_round.plan.networks[0].trained_on
    assert reason in caplog.text
    assert ("does not use the labels" in caplog.text) == bool(reason)


def test_a_damaged_pointer_to_a_trained_network_is_left(tmp_path, trained_quickly):
    this_round = planned(tmp_path / "work", *own(labelled(tmp_path / "images")))
    (key,) = this_round.store.list("networks/trained/")
    path = root(this_round.uri) / key
    for sidecar in path.parent.glob(f"{path.name}*"):
        sidecar.unlink()
    this_round.store.put_if_absent(key, b"[]")
    with unmodified(path), pytest.raises(Damaged, match="found no hash of a network"):
        planned(tmp_path / "work", *own(tmp_path / "images" / "table.csv"))


def test_the_network_is_named_to_measure_later_rounds_with(tmp_path, trained_quickly, caplog):
    with caplog.at_level(logging.INFO):
        this_round = planned(tmp_path / "work", *own(labelled(tmp_path / "images")))
    where = this_round.store.where(network_key(this_round.plan.networks[0].network))
    assert f"network: train: {where}; name this file" in caplog.text
    joined = image_folder(tmp_path / "more", ["dee", "eve"], images=3)
    later = planned(tmp_path / "work", *own(joined), f"network={where}")
    assert later.plan.networks == this_round.plan.networks


def test_a_known_architecture_is_packed_and_measures(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.ViTConfig(**size, patch_size=8, image_size=16)
    transformers.ViTModel(config).save_pretrained(tmp_path / "vit")
    settings = {"size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(settings))
    choice = f"network={{architecture: transformers, weights: {tmp_path / 'vit'}}}"
    this_round = planned(tmp_path / "work", choice, "properties=[fid, colourfulness_p90]", *CREDITS_ONLY)
    (description,) = this_round.plan.networks
    assert description.name == f"transformers of {tmp_path / 'vit'} (vit)"
    assert description.classes == 0
    network = load(stored_network(this_round.store, description.network), "stored")
    assert measure(["fid"], *with_reference(network))["fid"] > 0
    with pytest.raises(PropertyError, match="found 0 classes"):
        planned(tmp_path / "work", choice, "properties=[inception_score]", *CREDITS_ONLY)
    (tmp_path / "vit" / "model.safetensors").unlink()
    with pytest.raises(PropertyError, match=r"cannot read.*model\.safetensors.*network\.weights"):
        planned(tmp_path / "work", choice, *CREDITS_ONLY)


def with_reference(network):
    """Images, the network, and a reference of other images."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (64, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return images[:32], network, build_reference(network, images[32:], None)


def test_a_home_directory_is_expanded(tmp_path, monkeypatch, file):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_network(f"~/{file.name}") == file.read_bytes()
