"""Inception score compared with its definition, an identity of entropies and torchmetrics."""

import math

import numpy as np
import pytest
import torch

from apportion.properties.inception_score import inception_score
from apportion.properties.network import embed


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(scale=2, size=(60, 7))


def test_is_the_definition_term_by_term(logits):
    p = softmax(logits)
    k, classes = p.shape
    marginal = [sum(p[x, y] for x in range(k)) / k for y in range(classes)]
    kl = [sum(p[x, y] * math.log(p[x, y] / marginal[y]) for y in range(classes)) for x in range(k)]
    assert inception_score(p) == pytest.approx(math.exp(sum(kl) / k), rel=1e-12)


def test_is_the_mutual_information_of_image_and_class(logits):
    p = softmax(logits)

    def entropy(q):
        return -(q * np.log(q)).sum(axis=-1)

    expected = entropy(p.mean(axis=0)) - entropy(p).mean()
    assert math.log(inception_score(p)) == pytest.approx(expected, abs=1e-12)


# torchmetrics also gives a deviation over splits, of which there is one here.
@pytest.mark.filterwarnings("ignore:Metric `InceptionScore`", "ignore:std\\(\\)")
def test_agrees_with_torchmetrics_on_our_network(network, generated):
    from torchmetrics.image.inception import InceptionScore

    class Logits(torch.nn.Module):
        def forward(self, pixels):
            return network(pixels)[1].double()

    theirs = InceptionScore(feature=Logits(), splits=1)
    with torch.inference_mode():
        theirs.update(generated)
    expected = float(theirs.compute()[0])
    assert inception_score(embed(network, generated)[1]) == pytest.approx(expected, rel=1e-6)


def test_bounds():
    assert inception_score(np.full((5, 4), 0.25)) == 1
    assert inception_score(np.repeat([[0.1, 0.2, 0.7]], 9, axis=0)) == pytest.approx(1, abs=1e-14)
    assert inception_score(np.repeat(np.eye(6), 3, axis=0)) == pytest.approx(6, rel=1e-14)
    assert inception_score(np.eye(6)[:1]) == 1
