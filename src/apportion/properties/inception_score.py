"""Inception score: confident and varied class predictions (Salimans et al. 2016, arXiv 1606.03498)."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr

Array = NDArray[np.float64]


def inception_score(probabilities: Array) -> float:
    """exp(E_x KL(p(y|x) ‖ p(y))) of class probabilities (k, classes), all images in one split: from 1 to the
    number of classes."""
    marginal = probabilities.mean(axis=0)
    return float(np.exp(rel_entr(probabilities, marginal).sum(axis=1).mean()))
