"""Cluster entropy compared with Ward's method by brute force, with scikit-learn and with entropies by
hand."""

import math
from itertools import combinations

import numpy as np
import pytest

from apportion.errors import PropertyError
from apportion.properties.cluster_entropy import CLUSTERS, cluster_entropy, ward_centroids
from apportion.properties.network import embed


def rows(centroids):
    return np.array(sorted(map(tuple, centroids)))


def ward_by_brute_force(x, clusters):
    """Merges, until so many groups are left, the two groups that add the least squared distance from the
    mean."""

    def spread(group):
        return ((x[group] - x[group].mean(axis=0)) ** 2).sum()

    def added(pair):
        return spread(pair[0] + pair[1]) - spread(pair[0]) - spread(pair[1])

    groups = [[i] for i in range(len(x))]
    while len(groups) > clusters:
        a, b = min(combinations(groups, 2), key=added)
        groups = [group for group in groups if group not in (a, b)] + [a + b]
    return np.stack([x[group].mean(axis=0) for group in groups])


@pytest.mark.parametrize("clusters", [2, 5, 11])
def test_clusters_are_wards(clusters):
    x = np.random.default_rng(clusters).normal(size=(12, 3))
    assert rows(ward_centroids(x, clusters)) == pytest.approx(
        rows(ward_by_brute_force(x, clusters)), abs=1e-12
    )


def test_clusters_are_those_of_scikit_learn(network, training):
    cluster = pytest.importorskip("sklearn.cluster")
    x = embed(network, training)[0]
    labels = cluster.AgglomerativeClustering(CLUSTERS, linkage="ward").fit_predict(x)
    expected = np.stack([x[labels == label].mean(axis=0) for label in range(CLUSTERS)])
    assert rows(ward_centroids(x)) == pytest.approx(rows(expected), abs=1e-9)


def test_the_number_of_clusters_is_exact_where_heights_are_equal():
    x = np.array([[i, 0.0] for i in range(16)])
    assert ward_centroids(x, 5).shape == (5, 2)
    assert len(np.unique(ward_centroids(x, 5), axis=0)) == 5


def test_entropy_by_hand():
    centroids = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    x = np.array([[1, 1], [9, 2], [8, -3], [-4, 1], [0, 1], [1, 0], [9, 9.5], [20, 0]], dtype=np.float64)
    # The nearest centroids are 0, 1, 1, 0, 0, 0, 2, 1.
    expected = -sum(p * math.log(p) for p in (4 / 8, 3 / 8, 1 / 8))
    assert cluster_entropy(x, centroids) == pytest.approx(expected)


def test_bounds():
    centroids = 100 * np.eye(7)
    assert cluster_entropy(np.repeat(centroids, 3, axis=0) + 1, centroids) == pytest.approx(math.log(7))
    assert cluster_entropy(np.ones((9, 7)), centroids) == 0


@pytest.mark.parametrize(
    ("x", "clusters", "message"),
    [
        (
            np.random.default_rng(0).normal(size=(19, 3)),
            20,
            "found 19 distinct images of the base model for 20 clusters",
        ),
        (np.ones((50, 3)), 20, "found 1 distinct images"),
        (np.repeat(np.arange(10.0)[:, None], 5, axis=0), 20, "found 10 distinct images"),
        (np.random.default_rng(0).normal(size=(19, 3)), 1, "for 1 clusters"),
    ],
)
def test_fewer_distinct_images_than_clusters_are_refused(x, clusters, message):
    with pytest.raises(PropertyError, match=message + r".*sampling\.images"):
        ward_centroids(x, clusters)


def test_a_reference_without_centroids_is_refused():
    with pytest.raises(
        PropertyError, match=r"found cluster centroids of shape \(0, 3\).*expected \(clusters, 3\)"
    ):
        cluster_entropy(np.ones((4, 3)), np.empty((0, 3)))
