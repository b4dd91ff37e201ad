"""The feature network: the embedded classifier, features and probabilities, and files that are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

import apportion
from apportion.datasets.openmoji.classifier import drawings
from apportion.errors import PropertyError
from apportion.properties.network import FEATURES, FeatureNetwork, dump, embed, load

EMBEDDED = Path(apportion.__file__).parent / "datasets/openmoji/classifier.safetensors"


def test_the_embedded_classifier_is_small():
    assert EMBEDDED.stat().st_size <= 1_000_000


@pytest.mark.parametrize("side", [16, 32])
def test_the_embedded_classifier_has_the_accuracy_that_its_header_states(network, side):
    with safe_open(EMBEDDED, "pt") as file:
        about = json.loads(file.metadata()["about"])
    pixels, classes, _, names = drawings(side)
    held_out = slice(4, None, 5)  # every fifth drawing
    assert (about["classes"], about["held_out_drawings"]) == (names, len(classes[held_out]))
    with torch.inference_mode():
        right = network(pixels[held_out])[1].argmax(dim=1) == classes[held_out]
    assert right.double().mean().item() == pytest.approx(about["held_out_accuracy"][str(side)], abs=0.005)


def test_features_and_probabilities(network, generated):
    many = torch.cat([generated] * 3)
    features, probabilities = embed(network, many)
    assert len(many) > FeatureNetwork.batch
    assert (features.dtype, features.shape) == (np.float64, (len(many), FEATURES))
    assert (probabilities.dtype, len(probabilities)) == (np.float64, len(many))
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-12)
    assert np.array_equal(features, embed(network, many)[0])


@pytest.fixture(scope="module")
def embedded(network, generated):
    """Features and probabilities of images that are all in one batch."""
    return embed(network, generated)


@pytest.mark.parametrize("batch", [1, 7, 100, 255])
def test_features_do_not_depend_on_how_images_are_split_into_batches(
    batch, network, generated, embedded, monkeypatch
):
    """Up to rounding, because a batch of another size may be summed in another order."""
    features, probabilities = embedded
    monkeypatch.setattr(FeatureNetwork, "batch", batch)
    split_features, split_probabilities = embed(network, generated)
    scale = np.abs(features).max()
    assert split_features == pytest.approx(features, rel=1e-5, abs=1e-6 * scale)
    assert split_probabilities == pytest.approx(probabilities, rel=1e-4, abs=1e-6)


def test_round_trip(network, generated, embedded):
    back = load(dump(network, {"classes": ["a"]}), "x")
    assert not back.training
    assert np.array_equal(embed(back, generated)[0], embedded[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="for machines with CUDA")
def test_features_from_cuda_agree_with_those_from_the_cpu(network, generated, embedded):
    on_cuda = load(dump(network, {}), "x").to("cuda")
    features, probabilities = embedded
    cuda_features, cuda_probabilities = embed(on_cuda, generated)
    scale = np.abs(features).max()
    assert cuda_features == pytest.approx(features, rel=1e-3, abs=1e-4 * scale)
    assert cuda_probabilities == pytest.approx(probabilities, rel=1e-2, abs=1e-4)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not safetensors",
        EMBEDDED.read_bytes()[:-1],
        save({"head.bias": torch.zeros(())}),
        save({"head.bias": torch.zeros(3)}),
    ],
)
def test_another_file_is_refused(data):
    message = r"found no feature network in .*x\.safetensors.*option network"
    with pytest.raises(PropertyError, match=message):
        load(data, "/some/x.safetensors")
