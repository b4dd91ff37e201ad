"""Does the cheap game order coalitions as retraining does? Measured per property before its credits are believed (METHODS.md §10)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from apportion.errors import ValuationError
from apportion.evaluation.lds import bootstrap, spearman

Status = Literal["faithful", "not faithful", "not established"]


@dataclass(frozen=True)
class Faithfulness:
    """Spearman correlation of the two games over `pairs` coalitions, its interval, and the verdict; nan where undefined."""

    rho: float
    low: float
    high: float
    pairs: int
    status: Status


def faithfulness(
    cheap: ArrayLike,
    exact: ArrayLike,
    *,
    threshold: float = 0.5,
    minimum: int = 8,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = 2000,
) -> Faithfulness:
    """Compare cheap (k,), the values of the removal method, with exact (k,) or (k, seeds), retraining on the same coalitions.

    "not established" below `minimum` pairs, where a game is constant, or where rho reaches the threshold but its bootstrap
    interval still holds 0; "not faithful" below the threshold; else "faithful". Retraining seeds are averaged first: the
    question is about the game, not about one seed. Raises ValuationError for shapes that differ or numbers not finite."""
    a, b = _paired(cheap, exact)
    if a.size < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return Faithfulness(np.nan, np.nan, np.nan, a.size, "not established")
    rho = spearman(a, b)
    low, high = bootstrap(b[:, None], a, level, seed, resamples)
    status: Status = "faithful" if rho >= threshold else "not faithful"
    if a.size < minimum or (rho >= threshold and low <= 0):
        status = "not established"
    return Faithfulness(rho, low, high, a.size, status)


def _paired(cheap: ArrayLike, exact: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(cheap, dtype=np.float64), np.asarray(exact, dtype=np.float64)
    if a.ndim != 1 or b.shape[:1] != a.shape or b.ndim > 2:
        raise ValuationError(f"found cheap values of shape {a.shape} and exact ones of {b.shape}, expected (k,) and (k,) or (k, seeds)")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValuationError("found values not finite, expected all finite")
    return a, b.mean(axis=1) if b.ndim == 2 else b
