"""The reference: what it holds, how it is stored and loaded, and which files are refused."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from apportion.errors import Damaged, PropertyError
from apportion.properties.measure import build_reference
from apportion.properties.network import embed
from apportion.properties.reference import NO_REFERENCE, Reference, dump, load


@pytest.fixture(scope="module")
def reference(network, training, generated):
    return build_reference(network, training, generated, clusters=6)


def same(a, b):
    parts = ("mean", "covariance", "centroids")
    return all(np.array_equal(getattr(a, part), getattr(b, part)) for part in parts)


def test_moments_are_those_of_all_training_images(reference, network, training):
    x = embed(network, training)[0]
    centred = x - x.sum(axis=0) / len(x)
    assert reference.mean == pytest.approx(x.sum(axis=0) / len(x), rel=1e-12)
    covariance = np.einsum("ki,kj->ij", centred, centred) / (len(x) - 1)
    assert reference.covariance == pytest.approx(covariance, rel=1e-9, abs=1e-12)
    assert reference.centroids.shape == (6, 128)


def test_is_the_same_bits_every_time(reference, network, training, generated):
    assert dump(build_reference(network, training, generated, clusters=6)) == dump(reference)


def test_round_trip(reference):
    assert same(load(dump(reference), "x"), reference)
    assert same(load(dump(NO_REFERENCE), "x"), NO_REFERENCE)


def test_without_samples_there_are_no_centroids(network, training):
    partial = build_reference(network, training, None)
    assert partial.centroids.shape == (0, 128)
    assert same(load(dump(partial), "x"), partial)


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"mean": np.zeros(3), "covariance": np.eye(3)},
        {"mean": np.zeros(3), "covariance": np.eye(3), "centroids": np.eye(3), "more": np.eye(3)},
        {"mean": np.zeros(3), "covariance": np.eye(4), "centroids": np.eye(3)},
        {"mean": np.zeros((3, 1)), "covariance": np.eye(3), "centroids": np.eye(3)},
        {"mean": np.zeros(3), "covariance": np.eye(3), "centroids": np.zeros(3)},
        {"mean": np.zeros(3), "covariance": np.eye(3), "centroids": np.eye(4)},
        {"mean": np.zeros(3, np.float32), "covariance": np.eye(3), "centroids": np.eye(3)},
        {"mean": np.array([0, np.nan, 0]), "covariance": np.eye(3), "centroids": np.eye(3)},
    ],
)
def test_another_form_is_damaged(arrays):
    with pytest.raises(Damaged, match=r"store/reference.*expected"):
        load(save(arrays), "store/reference")


@pytest.mark.parametrize("cut", [0, 5, 100, -1])
def test_a_truncated_one_is_damaged(reference, cut):
    with pytest.raises(Damaged, match="found no reference in store/reference"):
        load(dump(reference)[:cut], "store/reference")


def test_a_dtype_that_numpy_does_not_have_is_damaged():
    from safetensors.torch import save as save_tensors

    zeros = torch.zeros(3, 3, dtype=torch.float8_e4m3fn)
    tensors = {name: zeros.clone() for name in ("mean", "covariance", "centroids")}
    with pytest.raises(Damaged, match="store/reference"):
        load(save_tensors(tensors), "store/reference")


def test_too_few_images_are_refused(network, training):
    with pytest.raises(PropertyError, match="found 1 images"):
        build_reference(network, training[:1], None)
    with pytest.raises(PropertyError, match="found 16 distinct images of the base model for 20 clusters"):
        build_reference(network, training, training[:16])
    with pytest.raises(PropertyError, match="found 1 distinct images"):
        build_reference(network, training, torch.full_like(training, 255))


def test_a_reference_is_frozen():
    with pytest.raises(AttributeError):
        Reference(np.zeros(1), np.zeros((1, 1)), np.zeros((0, 1))).mean = np.ones(1)
