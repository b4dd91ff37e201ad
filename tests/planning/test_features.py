"""Feature networks and properties that do not fit the images are refused, or warned of, by `plan`."""

import logging

import numpy as np
import pytest
import torch
from tiny import configured, from_folder, image_folder, nothing_computed, planned

from apportion.datasets.contribution import Contribution
from apportion.errors import DataError, PropertyError
from apportion.planning.features import MOST, check_features, warn_of_properties
from apportion.properties import own_network
from apportion.properties.network import FeatureNetwork, dump
from apportion.stages import plan

ALL = ("fid", "inception_score", "cluster_entropy")


def contribution(name, pixels):
    k = len(pixels)
    return Contribution(name, pixels, np.zeros(k, bool), tuple(f"{i}.png" for i in range(k)))


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [contribution(name, rng.integers(256, size=(4, 16, 16, 3), dtype=np.uint8)) for name in "ab"]


def network(classes=5, change=None):
    torch.manual_seed(0)
    made = FeatureNetwork(classes).eval()
    if change:
        with torch.no_grad():
            change(made)
    return dump(made, {})


def spoil(part, index, value):
    def change(made):
        getattr(made, part)[index].weight.fill_(value) if index is not None else made.head.weight.fill_(value)

    return change


def negative_variance(made):
    made.trunk[1].running_var.fill_(-1.0)


def nothing_seen(made):
    made.trunk[0].weight.zero_()


def no_opinion(made):
    made.head.weight.zero_()


def test_a_sound_network_is_accepted(images):
    check_features(network(), "net", ALL, images)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (network(change=spoil("trunk", 3, torch.nan)), "features that are not finite, of 8 of 8"),
        (network(change=spoil("trunk", 3, torch.inf)), "features that are not finite, of 8 of 8"),
        (network(change=spoil("head", None, torch.nan)), "class probabilities that are not finite"),
        (network(change=negative_variance), "features that are not finite"),
        (network(change=nothing_seen), "the same features for all of 8 different"),
        (network(change=no_opinion), "the same class probabilities for all of 8"),
        (network(0), "found 0 classes"),
        (network(1), "found 1 classes"),
        (b"nothing", "found no feature network in net"),
    ],
)
def test_a_network_that_cannot_work_is_refused(images, data, message):
    with pytest.raises(PropertyError, match=rf"{message}.*option network"):
        check_features(data, "net", ALL, images)


@pytest.mark.parametrize("data", [network(0), network(1), network(change=spoil("head", None, torch.nan))])
def test_classes_matter_to_the_inception_score_alone(images, data):
    check_features(data, "net", ["fid", "cluster_entropy"], images)


def test_images_that_are_all_the_same_are_blamed_on_the_data():
    white = np.full((3, 16, 16, 3), 255, np.uint8)
    with pytest.raises(DataError, match=r"found the same picture in all images.*data\.path"):
        check_features(network(), "net", ALL, [contribution("a", white), contribution("b", white)])


def test_of_many_images_some_of_every_contributor_are_embedded(monkeypatch):
    """The last one is spoiled by a network that cannot stand black images."""
    seen = []
    monkeypatch.setattr(
        FeatureNetwork,
        "forward",
        lambda self, pixels: seen.append(pixels) or (torch.rand(len(pixels), 3), torch.rand(len(pixels), 5)),
    )
    rng = np.random.default_rng(0)
    many = [
        contribution(name, rng.integers(low, low + 50, size=(k, 8, 8, 3), dtype=np.uint8))
        for name, low, k in (("large", 0, 3000), ("small", 100, 3), ("middle", 200, 400))
    ]
    check_features(network(), "net", ALL, many)
    pixels = torch.cat(seen).numpy()
    shown = [int(((pixels >= low) & (pixels < low + 50)).all(axis=(1, 2, 3)).sum()) for low in (0, 100, 200)]
    assert shown == [-(-MOST // 3), 3, -(-MOST // 3)]


def test_properties_that_measure_something_else_are_warned_of(images, caplog):
    grey = [contribution("a", np.repeat(images[0].pixels[..., :1], 3, axis=3))]
    names = ("colourfulness_p90", "inception_score")
    with caplog.at_level(logging.WARNING):
        warn_of_properties(names, images, 10)
        warn_of_properties(("fid",), grey, 2)
        assert not caplog.text
        warn_of_properties(names, grey, 10)
        assert "all images are grey, so colourfulness_p90" in caplog.text
        caplog.clear()
        warn_of_properties(names, images, 2)
        assert "two classes apart, so inception_score is at most 2" in caplog.text


def test_plan_refuses_before_anything_is_computed(tmp_path):
    folder = image_folder(tmp_path / "images", ["ann", "bob", "cy"], images=4)
    (tmp_path / "net.safetensors").write_bytes(network(change=spoil("trunk", 3, torch.nan)))
    options = from_folder(folder, f"network={tmp_path / 'net.safetensors'}", "valuation.coalitions=6")
    with pytest.raises(PropertyError, match="features that are not finite"):
        plan.run(configured(tmp_path / "work", *options, "evaluation.held_out=0"))
    assert nothing_computed(tmp_path / "work")


def test_a_network_is_trained_on_a_folder_of_images_that_names_none(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(own_network, "STEPS", 3)
    folder = image_folder(tmp_path / "images", ["ann", "bob", "cy"], images=4)
    options = [*from_folder(folder), "valuation.coalitions=6", "evaluation.held_out=0"]
    without = [option for option in options if not option.startswith("network=")]
    with caplog.at_level(logging.WARNING):
        (description,) = planned(tmp_path / "own", *without).plan.networks
    assert description.trained_on.startswith("12 images of this round")
    assert "no feature network is named (option network), so one is trained on these images" in caplog.text
    with caplog.at_level(logging.WARNING):
        assert plan.run(configured(tmp_path / "work", *options)).work
    assert "knows only drawings of OpenMoji" in caplog.text
    free = [option for option in without if not option.startswith("properties=")]
    removal = "evaluation.counterfactual=null"
    assert plan.run(configured(tmp_path / "free", *free, "properties=[colourfulness_p90]", removal)).work
