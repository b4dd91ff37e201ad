"""The embedded classifier, and networks opened by URI."""

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

import apportion
from apportion.datasets.openmoji.classifier import drawings
from apportion.errors import PropertyError
from apportion.properties.network import BATCH, FEATURES, FeatureNetwork, dump, embed, load, network_hash, read_network
from apportion.store import open_store

EMBEDDED = Path(apportion.__file__).parent / "datasets/openmoji/classifier.safetensors"


def test_the_embedded_classifier_is_small_and_named_by_its_hash():
    assert EMBEDDED.stat().st_size <= 1_000_000
    assert network_hash(read_network("openmoji")) == sha256(EMBEDDED.read_bytes()).hexdigest()[:32]


@pytest.mark.parametrize("side", [16, 32])
def test_the_embedded_classifier_is_as_accurate_as_it_says(network, side):
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
    assert len(many) > BATCH
    assert (features.dtype, features.shape, probabilities.dtype) == (np.float64, (len(many), FEATURES), np.float64)
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-12)
    assert np.array_equal(features, embed(network, many)[0])


def test_a_path_a_file_uri_and_s3_are_the_same_network(tmp_path, s3_bucket, generated):
    torch.manual_seed(0)
    network = FeatureNetwork(3).eval()
    data = dump(network, {"classes": ["a", "b", "c"]})
    path = tmp_path / "my network.safetensors"
    path.write_bytes(data)
    open_store(f"s3://{s3_bucket}/networks").put_if_absent("mine.safetensors", data)
    expected = embed(network, generated)[0]
    for uri in (str(path), path.as_uri(), f"s3://{s3_bucket}/networks/mine.safetensors"):
        assert read_network(uri) == data
        assert np.array_equal(embed(load(read_network(uri), uri), generated)[0], expected)


def test_what_cannot_be_read_names_the_option(tmp_path, s3_bucket):
    missing = tmp_path / "missing.safetensors"
    for uri in (str(missing), missing.as_uri(), str(tmp_path), f"s3://{s3_bucket}/missing", "s3://", "", "nul\0l", "openmojo"):
        with pytest.raises(PropertyError, match=r"cannot read the feature network .*option network"):
            read_network(uri)
    for uri in ("http://example.org/x", "file://x"):
        with pytest.raises(PropertyError, match=r"found .*, expected openmoji, a path.*option network"):
            read_network(uri)


@pytest.mark.parametrize(
    "data", [b"", b"not safetensors", EMBEDDED.read_bytes()[:-1], save({"head.bias": torch.zeros(())}), save({"head.bias": torch.zeros(3)})]
)
def test_another_file_is_no_network(data):
    with pytest.raises(PropertyError, match=r"found no feature network in .*x\.safetensors.*option network"):
        load(data, "/some/x.safetensors")
