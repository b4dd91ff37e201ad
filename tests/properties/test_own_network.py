"""Feature networks that are trained on a user's own images."""

import numpy as np
import pytest
import torch

from apportion.properties import own_network
from apportion.properties.network import dump, embed, load
from apportion.properties.own_network import train_network

KINDS = ("stripes", "columns", "blobs")


@pytest.fixture(scope="module", autouse=True)
def few_steps():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own_network, "STEPS", 60)
        patch.setattr(own_network, "BATCH", 48)
        yield


def drawings(k, seed):
    """k images of each of three kinds, dark and light in random colours, with noise."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(16), np.arange(16))
    images = []
    for kind in KINDS:
        for _ in range(k):
            phase, width = rng.integers(6), rng.integers(2, 4)
            shape = {
                "stripes": ((y + phase) // width) % 2,
                "columns": ((x + phase) // width) % 2,
                "blobs": ((x - rng.integers(5, 11)) ** 2 + (y - rng.integers(5, 11)) ** 2 < 16) * 1,
            }[kind]
            colours = rng.integers([[0], [170]], [[80], [256]], size=(2, 3))[:, :, None, None]
            images.append(np.where(shape[None] == 1, colours[0], colours[1]) + rng.normal(0, 4, (3, 16, 16)))
    return np.clip(images, 0, 255).astype(np.uint8), np.repeat(KINDS, k).tolist()


@pytest.fixture(scope="module")
def by_labels():
    pixels, labels = drawings(30, 0)
    return train_network(pixels, np.zeros(len(pixels), bool), labels)


@pytest.fixture(scope="module")
def without_labels():
    pixels, _ = drawings(30, 0)
    return train_network(pixels, np.zeros(len(pixels), bool), None)


def test_labels_become_classes(by_labels):
    pixels, labels = drawings(20, 1)
    network, about = by_labels
    assert about["classes"] == sorted(KINDS)
    found = embed(network, torch.from_numpy(pixels))[1].argmax(1)
    assert np.mean(np.array(about["classes"])[found] == labels) > 0.8
    assert about["held_out_accuracy"] > 0.7
    assert about["trained_on"] == "90 images of this round, by 3 labels"


def test_without_labels_images_of_one_kind_are_near_each_other(without_labels):
    """Nearest neighbours among images that were not trained on are of the same kind far more often than by
    chance (1 in 3)."""
    pixels, labels = drawings(20, 1)
    network, about = without_labels
    features = embed(network, torch.from_numpy(pixels))[0]
    distance = np.linalg.norm(features[:, None] - features[None], axis=2) + 1e9 * np.eye(len(features))
    agree = np.mean(np.array(labels)[distance.argmin(1)] == labels)
    assert agree > 0.6
    assert "without labels" in about["trained_on"]
    assert about["held_out_recognised"] > 0.2  # of 18 images


def test_without_labels_clusters_become_classes(without_labels):
    network, about = without_labels
    probabilities = embed(network, torch.from_numpy(drawings(20, 1)[0]))[1]
    assert probabilities.shape[1] == len(about["classes"]) == 10
    assert len(np.unique(probabilities.argmax(1))) >= 4


def test_noise_is_one_kind_of_image(without_labels):
    """A contributor of noise must not seem diverse."""
    pixels, _ = drawings(30, 0)
    noise = np.random.default_rng(2).integers(256, size=(30, 3, 16, 16), dtype=np.uint8)
    network, _ = train_network(np.concatenate([pixels, noise]), np.zeros(120, bool), None)
    classes = embed(network, torch.from_numpy(noise))[1].argmax(1)
    assert np.bincount(classes).max() >= 27


def test_the_same_images_give_the_same_network_whatever_the_random_state(by_labels):
    pixels, labels = drawings(30, 0)
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    network, about = train_network(pixels, np.zeros(len(pixels), bool), labels)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert dump(network, about) == dump(*by_labels)


@pytest.mark.parametrize("fixture", ["by_labels", "without_labels"])
def test_a_stored_network_is_the_same_and_reduces_larger_images(fixture, request):
    network, about = request.getfixturevalue(fixture)
    stored = load(dump(network, about), "stored")
    larger = torch.from_numpy(drawings(2, 3)[0]).repeat_interleave(4, 2).repeat_interleave(4, 3)
    for ours, theirs in zip(embed(network, larger), embed(stored, larger), strict=True):
        assert np.array_equal(ours, theirs)
    halved = torch.from_numpy(drawings(2, 3)[0]).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert np.allclose(embed(stored, larger)[0], embed(stored, halved)[0])


def test_an_image_that_must_not_be_mirrored_never_is():
    """Left and right arrows: views of an image without permission to mirror keep the bright half."""
    image = torch.zeros(64, 3, 16, 16)
    image[..., 8:] = 200
    torch.manual_seed(0)
    for allowed in (False, True):
        views = own_network._view(image, torch.full((64,), allowed))
        right = views[..., 8:].mean((1, 2, 3)) > views[..., :8].mean((1, 2, 3))
        assert right.all() == (not allowed)


def test_the_contrast_is_that_of_simclr():
    """Against the definition, image by image."""
    torch.manual_seed(0)
    projected = torch.nn.functional.normalize(torch.randn(10, 4))
    losses = []
    for i in range(10):
        similarity = projected @ projected[i] / own_network.TEMPERATURE
        others = torch.arange(10) != i
        losses.append(-(similarity[(i + 5) % 10] - torch.logsumexp(similarity[others], 0)))
    assert own_network._contrast(projected) == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_few_images_give_a_network(k):
    pixels, _ = drawings(1, 0)
    pixels = np.concatenate([pixels, drawings(1, 5)[0]])[:k]
    network, about = train_network(pixels, np.ones(k, bool), None)
    features, probabilities = embed(network, torch.from_numpy(pixels))
    assert np.isfinite(features).all()
    assert probabilities.shape[1] == len(about["classes"])
