"""Fréchet distance compared with the matrix square root of scipy, closed forms and torchmetrics."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from apportion.errors import PropertyError
from apportion.properties.fid import fid, frechet, moments
from apportion.properties.network import FEATURES, embed


def by_matrix_root(a, b):
    """The formula as it was published."""
    (m1, s1), (m2, s2) = a, b
    return float(((m1 - m2) ** 2).sum() + np.trace(s1 + s2 - 2 * sqrtm(s1 @ s2).real))


def features(k, d, seed, scale=1.0, shift=0.0):
    rng = np.random.default_rng(seed)
    return shift + scale * rng.normal(size=(k, d)) @ rng.normal(size=(d, d))


@pytest.mark.parametrize("d", [2, 16, 128])
def test_is_the_formula_with_a_matrix_root(d):
    a, b = moments(features(4 * d, d, 0)), moments(features(4 * d, d, 1, scale=0.5, shift=0.3))
    assert frechet(*a, *b) == pytest.approx(by_matrix_root(a, b), rel=1e-9)


def test_of_diagonal_covariances_is_the_distance_of_deviations():
    rng = np.random.default_rng(0)
    (m1, m2), (d1, d2) = rng.normal(size=(2, 9)), rng.uniform(0, 3, size=(2, 9))
    d1[:4] = d2[2:6] = 0
    expected = ((m1 - m2) ** 2).sum() + ((d1 - d2) ** 2).sum()
    assert frechet(m1, np.diag(d1**2), m2, np.diag(d2**2)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("k", [2, 20, 256])
def test_fewer_images_than_features(k):
    """The trace of the root is also the sum of the singular values of the product of the centred features."""
    x, y = features(k, 128, 0), features(300, 128, 1)
    xc = (x - x.mean(0)) / np.sqrt(k - 1)
    yc = (y - y.mean(0)) / np.sqrt(299)
    trace = np.linalg.norm(xc @ yc.T, "nuc")
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + (xc**2).sum() + (yc**2).sum() - 2 * trace
    assert fid(x, *moments(y)) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("k", [2, 20, 400])
def test_zero_for_equal_moments_and_symmetric(k):
    a, b = moments(features(k, 128, 0)), moments(features(300, 128, 1))
    size = np.trace(a[1]) + np.trace(b[1])
    assert 0 <= frechet(*a, *a) <= 1e-13 * size
    assert frechet(*a, *b) == pytest.approx(frechet(*b, *a), abs=1e-13 * size)
    assert frechet(*a, *b) > 1


def test_agrees_with_torchmetrics_on_our_network(network, generated, training):
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Features(torch.nn.Module):
        num_features = FEATURES

        def forward(self, pixels):
            return network(pixels)[0].double()

    theirs = FrechetInceptionDistance(feature=Features())
    with torch.inference_mode():
        theirs.update(training, real=True)
        theirs.update(generated, real=False)
    ours = fid(embed(network, generated)[0], *moments(embed(network, training)[0]))
    assert ours == pytest.approx(theirs.compute().item(), rel=1e-6)


def test_grows_with_noise(network, training, generated):
    reference = moments(embed(network, training)[0])
    white = torch.full_like(generated, 255)
    clean, noisy, constant = (
        fid(embed(network, x)[0], *reference) for x in (training[::2], generated, white)
    )
    assert clean < noisy
    assert clean < constant


def test_identical_images_have_a_finite_distance():
    reference = moments(features(300, 128, 1))
    x = np.repeat(features(1, 128, 0), 50, axis=0)
    expected = ((x[0] - reference[0]) ** 2).sum() + np.trace(reference[1])
    assert fid(x, *reference) == pytest.approx(expected, rel=1e-12)


def test_one_image_is_refused():
    with pytest.raises(PropertyError, match="found 1 images, expected at least 2"):
        moments(np.zeros((1, 4)))


def test_a_reference_of_another_network_is_refused():
    with pytest.raises(PropertyError, match="found a reference of 4 features for fid, expected 3"):
        fid(np.zeros((5, 3)), *moments(np.ones((5, 4))))
