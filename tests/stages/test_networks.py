"""The feature network of a round: what `plan` read is what every later stage measures with, whatever became of its file."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import ROOT, kept, planned, root

from apportion.diffusion.compute import prepare
from apportion.errors import Damaged, NotFound
from apportion.properties import reference
from apportion.properties.measure import build_reference, measure
from apportion.properties.network import FeatureNetwork, dump, load, network_hash
from apportion.stages import networks, score, train
from apportion.stages.collection import training_images
from apportion.stages.generated import dump_samples
from apportion.stages.networks import network_key
from apportion.stages.round import Round
from apportion.stages.spent import Spent

OWN = ROOT / "src/apportion/datasets/openmoji/classifier.safetensors"
CHEAP = ("evaluation.counterfactual=null", "evaluation.held_out=0")


@pytest.fixture
def file(tmp_path) -> Path:
    """A network of the user's own."""
    return Path(shutil.copy(OWN, tmp_path / "net.safetensors"))


def another() -> bytes:
    torch.manual_seed(0)
    return dump(FeatureNetwork(9), {})


def images(seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (64, 3, 16, 16), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def put(round: Round, key: str, seed: int) -> torch.Tensor:
    """Generated images, in the place of a model's."""
    round.store.put_if_absent(key, dump_samples(images(seed).numpy(), Spent(0.0, 0.0, "cpu")))
    return images(seed)


def test_values_are_those_of_the_network_that_was_planned(file, tmp_path):
    """The file is another by the time of `score`, as after an update of a shared folder; and then it is gone."""
    round = planned(tmp_path / "work", f"network={file}", "properties=[inception_score]", *CHEAP)
    network = load(file.read_bytes(), str(file))
    for item, change in zip(round.plan.wanted, (lambda: file.write_bytes(another()), file.unlink), strict=False):
        made = put(round, round.samples_key(item), item.seed)
        change()
        assert score.make(Round.open(round.uri), [item]) == 1
        assert round.ledger.read(item).values == measure(["inception_score"], made, network)


def test_the_reference_is_in_the_features_of_the_network_that_was_planned(file, tmp_path):
    round = planned(tmp_path / "work", f"network={file}", "properties=[fid]", *CHEAP)
    network = load(file.read_bytes(), str(file))
    made = put(round, train.base_samples_key(round), 0)
    file.write_bytes(another())
    found = reference.load(train._reference(Round.open(round.uri), prepare("cpu", "fp32", 1)), "here")
    training = training_images(round.store, round.manifest.everybody, 16).pixels
    expected = build_reference(network, torch.from_numpy(training), made)
    assert np.allclose(found.mean, expected.mean)
    assert np.allclose(found.centroids, expected.centroids)


def test_the_same_network_elsewhere_is_the_same_round(file, tmp_path, monkeypatch):
    rounds = [planned(tmp_path / "work", f"network={where}", *CHEAP) for where in (file, file.as_uri(), OWN, "openmoji")]
    monkeypatch.chdir(tmp_path)
    rounds.append(planned(tmp_path / "work", "network=net.safetensors", *CHEAP))
    assert len({round.id for round in rounds}) == 1
    file.write_bytes(another())
    changed = planned(tmp_path / "work", f"network={file}", *CHEAP)
    assert changed.id != rounds[0].id
    assert changed.credit_game.id != rounds[0].credit_game.id
    assert len(list(changed.store.list("networks/"))) == 2


def test_a_copy_that_is_damaged_stops_the_round_at_plan(file, tmp_path):
    round = planned(tmp_path / "work", f"network={file}", *CHEAP)
    path = root(round.uri) / network_key(network_hash(file.read_bytes()))
    path.write_bytes(path.read_bytes()[:-7])
    with kept(path), pytest.raises(Damaged, match=rf"{path.name}: sha256"):
        planned(tmp_path / "work", f"network={file}", *CHEAP)


def test_a_copy_that_is_another_network_is_damage(file, tmp_path):
    """With a checksum that is right: somebody put it there."""
    round = planned(tmp_path / "work", f"network={file}", *CHEAP)
    key = network_key(network_hash(file.read_bytes()))
    (root(round.uri) / key).unlink()
    with pytest.raises(NotFound, match=key):
        networks.of(Round.open(round.uri))
    round.store.put_if_absent(key, another())
    with pytest.raises(Damaged, match=rf"found network {network_hash(another())} in .*{key}, expected .*it is left as it is"):
        networks.of(Round.open(round.uri))


def test_no_copy_where_no_network_is_needed(tmp_path):
    round = planned(tmp_path / "work", "network=/nowhere", "properties=[colourfulness_p90]", *CHEAP)
    assert networks.of(round) is None
    assert not list(round.store.list("networks/"))
