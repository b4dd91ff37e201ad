"""Feature networks that are read by URI, and what is refused."""

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch

import apportion
from apportion.config.network import EMBEDDED
from apportion.errors import PropertyError
from apportion.planning.networks import read_network
from apportion.properties.network import FeatureNetwork, dump, embed, load
from apportion.rounds.networks import network_hash
from apportion.store import open_store

CLASSIFIER = Path(apportion.__file__).parent / "datasets/openmoji/classifier.safetensors"


def test_the_embedded_network_is_the_classifier_of_the_drawings_named_by_its_hash():
    data = read_network(EMBEDDED)
    assert data == CLASSIFIER.read_bytes()
    assert network_hash(data) == sha256(data).hexdigest()[:32]


def test_a_path_a_file_uri_and_s3_are_the_same_network(tmp_path, s3_bucket):
    torch.manual_seed(0)
    images = torch.randint(256, (8, 3, 16, 16), dtype=torch.uint8)
    network = FeatureNetwork(3).eval()
    data = dump(network, {"classes": ["a", "b", "c"]})
    path = tmp_path / "my network.safetensors"
    path.write_bytes(data)
    open_store(f"s3://{s3_bucket}/networks").put_if_absent("mine.safetensors", data)
    expected = embed(network, images)[0]
    for uri in (str(path), path.as_uri(), f"s3://{s3_bucket}/networks/mine.safetensors"):
        assert read_network(uri) == data
        assert np.array_equal(embed(load(read_network(uri), uri), images)[0], expected)


def test_a_network_that_cannot_be_read_names_the_option(tmp_path, s3_bucket):
    missing = tmp_path / "missing.safetensors"
    on_s3 = [f"s3://{s3_bucket}/missing", "s3://"]
    for uri in (str(missing), missing.as_uri(), str(tmp_path), *on_s3, "", "nul\0l", "openmojo"):
        with pytest.raises(PropertyError, match=r"cannot read the feature network .*option network"):
            read_network(uri)
    for uri in ("http://example.org/x", "file://x"):
        with pytest.raises(PropertyError, match=r"found .*, expected openmoji, a path.*option network"):
            read_network(uri)
