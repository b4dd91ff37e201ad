"""Cluster entropy: over how many kinds of image a model spreads what it generates (METHODS.md §4, paper [A], CelebA-HQ)."""

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import cut_tree, linkage
from scipy.spatial.distance import cdist
from scipy.special import entr

from apportion.errors import PropertyError

Array = NDArray[np.float64]

CLUSTERS = 20


def cluster_entropy(features: Array, centroids: Array) -> float:
    """H = −Σ p ln p over the nearest centroids (clusters, d) of features (k, d): from 0 to ln(clusters).

    Raises PropertyError where the reference holds no centroids of d features."""
    if not len(centroids) or centroids.shape[1:] != features.shape[1:]:
        raise PropertyError(
            f"found cluster centroids of shape {centroids.shape} for cluster_entropy, expected (clusters, {features.shape[1]}): "
            "build the reference anew with images of the full model"
        )
    nearest = cdist(features, centroids, "sqeuclidean").argmin(axis=1)
    return float(entr(np.bincount(nearest) / len(features)).sum())


def ward_centroids(features: Array, clusters: int = CLUSTERS) -> Array:
    """Means (clusters, d) of the Ward clusters of features (k, d).

    Raises PropertyError for fewer distinct features than clusters: some centroids would then be the same."""
    distinct = len(np.unique(features, axis=0))
    if not 2 <= clusters <= distinct:
        raise PropertyError(
            f"found {distinct} distinct images of the full model for {clusters} clusters, expected one for each or more, "
            "and 2 clusters or more (sampling.images; or the model makes one image again and again: train.steps, train.lr)"
        )
    labels = cut_tree(linkage(features, method="ward"), n_clusters=clusters).ravel()
    return np.stack([features[labels == label].mean(axis=0) for label in range(clusters)])
