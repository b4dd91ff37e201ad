"""The table of properties, and measuring all of them from the same images."""

import copy
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from apportion.errors import PropertyError
from apportion.properties import PROPERTIES, check
from apportion.properties.cluster_entropy import cluster_entropy
from apportion.properties.colourfulness import colourfulness_p90
from apportion.properties.fid import fid
from apportion.properties.inception_score import inception_score
from apportion.properties.measure import build_reference, measure
from apportion.properties.network import FeatureNetwork, embed
from apportion.properties.reference import dump

NAMES = list(PROPERTIES)


@pytest.fixture(scope="module")
def reference(network, training):
    return build_reference(network, training, training[:64])


def test_the_table_is_by_name_and_describes_each_property():
    assert all(name == entry.name and entry.meaning for name, entry in PROPERTIES.items())
    assert {name: entry.higher_is_better for name, entry in PROPERTIES.items()} == {
        "inception_score": True,
        "fid": False,
        "cluster_entropy": True,
        "colourfulness_p90": None,
    }


def test_every_value_is_its_own_function_of_the_same_images(network, generated, reference):
    features, probabilities = embed(network, generated)
    assert measure(NAMES, generated, network, reference) == {
        "inception_score": inception_score(probabilities),
        "fid": fid(features, reference.mean, reference.covariance),
        "cluster_entropy": cluster_entropy(features, reference.centroids),
        "colourfulness_p90": colourfulness_p90(generated.numpy()),
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_property_has_a_value_from_its_fewest_images_on(name, network, generated, reference):
    fewest = PROPERTIES[name].fewest_images
    assert math.isfinite(measure([name], generated[:fewest], network, reference)[name])
    with pytest.raises(PropertyError):
        measure([name], generated[: fewest - 1], network, reference)


def test_images_are_embedded_once(network, generated, reference, monkeypatch):
    calls = []

    def counted(*inputs):
        calls.append(inputs)
        return embed(*inputs)

    monkeypatch.setattr("apportion.properties.measure.embed", counted)
    measure(NAMES, generated, network, reference)
    assert len(calls) == 1


def test_a_property_that_needs_no_network_is_measured_without_one(generated):
    expected = {"colourfulness_p90": colourfulness_p90(generated.numpy())}
    assert measure(["colourfulness_p90"], generated) == expected


def test_values_are_in_the_order_of_the_names_and_do_not_depend_on_the_order_of_the_images(
    network, generated, reference
):
    values = measure(NAMES, generated, network, reference)
    reversed_values = measure(NAMES[::-1], generated.flip(0), network, reference)
    assert list(reversed_values) == NAMES[::-1]
    assert reversed_values == pytest.approx(values, rel=1e-5)


def test_another_process_measures_the_same_bits(network, generated, reference, tmp_path):
    (tmp_path / "reference").write_bytes(dump(reference))
    np.save(tmp_path / "pixels.npy", generated.numpy())
    script = f"""
import numpy, torch
from pathlib import Path
from apportion.properties import PROPERTIES
from apportion.properties.measure import measure
from apportion.properties.network import load as load_network
from apportion.properties.reference import load
from apportion.planning.networks import read_network
torch.set_num_threads(1)  # as in the test
folder = Path({str(tmp_path)!r})
pixels = torch.from_numpy(numpy.load(folder / "pixels.npy"))
network = load_network(read_network("openmoji"), "openmoji")
reference = load((folder / "reference").read_bytes(), "x")
print(measure(list(PROPERTIES), pixels, network, reference))
"""
    out = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=True)
    assert out.stdout.strip() == str(measure(NAMES, generated, network, reference))


def test_identical_images(network, reference):
    values = measure(NAMES, torch.full((32, 3, 16, 16), 255, dtype=torch.uint8), network, reference)
    assert values["inception_score"] == pytest.approx(1, abs=1e-6)
    assert values["cluster_entropy"] == values["colourfulness_p90"] == 0
    assert math.isfinite(values["fid"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["fidd"],
            r"'fidd' \(did you mean fid\?\), expected some of inception_score, fid, cluster_entropy, "
            "colourfulness_p90",
        ),
        (["fid", "colorfulness_p90"], "did you mean colourfulness_p90"),
        (["beauty"], "'beauty', expected some of"),
        (["fid", "inception_score", "fid"], "'fid' 2 times"),
    ],
)
def test_unknown_properties_are_refused(names, message):
    with pytest.raises(PropertyError, match=message + ".*option properties"):
        check(names)
    with pytest.raises(PropertyError, match=message):
        measure(names, torch.zeros(0))


def test_known_properties_pass():
    check(NAMES)
    check([])


@pytest.mark.parametrize(
    "pixels",
    [
        torch.zeros(2, 3, 16, 16),
        torch.zeros(2, 1, 16, 16, dtype=torch.uint8),
        torch.zeros(3, 16, 16, dtype=torch.uint8),
        torch.zeros(0, 3, 16, 16, dtype=torch.uint8),
    ],
)
def test_other_pixels_are_refused(pixels):
    with pytest.raises(PropertyError, match=r"found images .* expected uint8"):
        measure(["colourfulness_p90"], pixels)


def test_a_missing_network_or_reference_is_named(network, generated):
    message = r"found no feature network, expected one for inception_score \(option network\)"
    with pytest.raises(PropertyError, match=message):
        measure(["colourfulness_p90", "inception_score"], generated)
    with pytest.raises(PropertyError, match="found no reference, expected one for fid, cluster_entropy"):
        measure(NAMES, generated, network)


def test_a_value_that_is_not_finite_is_named(generated, monkeypatch):
    broken = replace(PROPERTIES["colourfulness_p90"], function=lambda images: math.nan)
    monkeypatch.setitem(PROPERTIES, "colourfulness_p90", broken)
    with pytest.raises(PropertyError, match="found colourfulness_p90 = nan from 256 images"):
        measure(["colourfulness_p90"], generated)


def test_a_network_whose_features_are_not_finite_is_named(generated, reference):
    broken = FeatureNetwork(3).eval()
    torch.nn.init.constant_(broken.trunk[0].weight, math.nan)
    message = r"not finite, expected finite ones for fid, cluster_entropy \(option network"
    with pytest.raises(PropertyError, match=message):
        measure(["fid", "cluster_entropy"], generated, broken, reference)
    with pytest.raises(PropertyError, match=r"not finite.*option network"):
        build_reference(broken, generated, None)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="for machines with CUDA")
def test_values_from_cuda_agree_with_those_from_the_cpu(network, generated, training, reference):
    """To the relative accuracy that `embed` states."""
    on_cuda = copy.deepcopy(network).to("cuda")
    own_reference = build_reference(on_cuda, training, training[:64])
    assert own_reference.mean == pytest.approx(reference.mean, rel=1e-3, abs=1e-6)
    expected = measure(NAMES, generated, network, reference)
    for compared in (reference, own_reference):
        assert measure(NAMES, generated, on_cuda, compared) == pytest.approx(expected, rel=1e-3)
