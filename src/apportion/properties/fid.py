"""Fréchet distance between Gaussians fitted to the features of generated and of training images (Heusel et
al. 2017, arXiv 1706.08500).

It is not taken from torchmetrics, which uses the eigenvalues of the asymmetric product of the covariances:
with fewer images than features its error is 1e-6, its value for equal moments is below zero, and it changes
when the two sides are swapped. The tests compare with torchmetrics where it is accurate.
"""

import numpy as np
from numpy.typing import NDArray

from apportion.errors import PropertyError

Array = NDArray[np.float64]


def fid(features: Array, mean: Array, covariance: Array) -> float:
    """Distance of the features (k, d) of generated images to the training images' mean (d,) and covariance
    (d, d).

    Raises PropertyError for fewer than 2 images, or where the moments are not of d features.
    """
    if mean.shape != features.shape[1:]:
        raise PropertyError(
            f"found a reference of {mean.size} features for fid, expected {features.shape[1]}: build the "
            "reference again"
        )
    return frechet(*moments(features), mean, covariance)


def moments(features: Array) -> tuple[Array, Array]:
    """Mean (d,) and unbiased covariance (d, d) of features (k, d). Raises PropertyError where k < 2."""
    if len(features) < 2:
        raise PropertyError(
            f"found {len(features)} images, expected at least 2 for the covariance of fid (sampling.images, "
            "data)"
        )
    return features.mean(axis=0), np.cov(features, rowvar=False)


def frechet(mean1: Array, covariance1: Array, mean2: Array, covariance2: Array) -> float:
    """|μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁Σ₂)^½; up to rounding, the same in either order and 0 for equal
    moments.

    With Σ = AAᵀ the last trace is the sum of the singular values of A₁ᵀA₂, so no root is taken of a number
    that rounding made negative.
    """
    overlap = np.linalg.svd(_root(covariance1).T @ _root(covariance2), compute_uv=False).sum()
    distance = np.sum((mean1 - mean2) ** 2) + np.trace(covariance1) + np.trace(covariance2) - 2 * overlap
    return max(float(distance), 0.0)


def _root(covariance: Array) -> Array:
    """A (d, d) with AAᵀ = Σ. Eigenvalues as small as rounding errors become zero, because their roots are not
    small."""
    eigenvalues, vectors = np.linalg.eigh(covariance)
    noise = max(eigenvalues[-1], 0.0) * len(eigenvalues) * np.finfo(np.float64).eps
    return np.asarray(vectors * np.sqrt(np.where(eigenvalues > noise, eigenvalues, 0.0)), dtype=np.float64)
