"""Cluster entropy: how evenly generated images spread over the kinds of image that the base model makes
(docs/methods.md, "Properties")."""

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import cut_tree, linkage
from scipy.spatial.distance import cdist
from scipy.special import entr

from apportion.errors import PropertyError

Array = NDArray[np.float64]

CLUSTERS = 20
"""Kinds of image: Ward clusters of images of the base model."""


def cluster_entropy(features: Array, centroids: Array) -> float:
    """H = −Σ p ln p, where p is the share of features (k, d) nearest to each of the centroids (clusters, d):
    from 0 to ln(clusters).

    Raises PropertyError where the centroids are not of d features.
    """
    if not len(centroids) or centroids.shape[1:] != features.shape[1:]:
        raise PropertyError(
            f"found cluster centroids of shape {centroids.shape} for cluster_entropy, expected (clusters, "
            f"{features.shape[1]}): build the reference again, with images of the base model"
        )
    nearest = cdist(features, centroids, "sqeuclidean").argmin(axis=1)
    return float(entr(np.bincount(nearest) / len(features)).sum())


def ward_centroids(features: Array, clusters: int = CLUSTERS) -> Array:
    """Means (clusters, d) of the Ward clusters of features (k, d).

    Raises PropertyError for fewer distinct features than clusters: some centroids would then be the same.
    """
    distinct = len(np.unique(features, axis=0))
    if not 2 <= clusters <= distinct:
        raise PropertyError(
            f"found {distinct} distinct images of the base model for {clusters} clusters, expected at least "
            "as many images as clusters, and at least 2 clusters (sampling.images; or train.steps, "
            "train.lr where the base model makes the same image again and again)"
        )
    labels = cut_tree(linkage(features, method="ward"), n_clusters=clusters).ravel()
    return np.stack([features[labels == label].mean(axis=0) for label in range(clusters)])
