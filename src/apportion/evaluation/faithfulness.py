"""Whether the game of the credits orders coalitions as retraining does, for each property (docs/methods.md,
"Faithfulness")."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from apportion.errors import ValuationError
from apportion.evaluation.lds import bootstrap, spearman

Agreement = Literal["faithful", "not faithful", "not established"]


@dataclass(frozen=True)
class Faithfulness:
    """Spearman correlation of the two games over `pairs` coalitions and its interval, nan where undefined;
    and the status."""

    rho: float
    low: float
    high: float
    pairs: int
    status: Agreement


def faithfulness(
    cheap: ArrayLike,
    retrained: ArrayLike,
    *,
    threshold: float = 0.5,
    minimum: int = 8,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = 2000,
) -> Faithfulness:
    """Compares `cheap` (k,), values of coalitions by the removal method, with `retrained` (k,) or (k, seeds),
    values of the same coalitions by retraining.

    The status is "not established" below `minimum` pairs, where a game is constant, or where rho reaches the
    threshold but its bootstrap interval contains 0; "not faithful" below the threshold; else "faithful".
    Values by retraining are averaged over seeds first, because the question is about the game and not about
    one seed. Raises ValuationError for shapes that differ and for numbers that are not finite.
    """
    a, b = _paired(cheap, retrained)
    if a.size < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return Faithfulness(np.nan, np.nan, np.nan, a.size, "not established")
    rho = spearman(a, b)
    low, high = bootstrap(b[:, None], a, level, seed, resamples)
    status: Agreement = "faithful" if rho >= threshold else "not faithful"
    if a.size < minimum or (rho >= threshold and low <= 0):
        status = "not established"
    return Faithfulness(rho, low, high, a.size, status)


def _paired(cheap: ArrayLike, retrained: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(cheap, dtype=np.float64), np.asarray(retrained, dtype=np.float64)
    if a.ndim != 1 or b.shape[:1] != a.shape or b.ndim > 2:
        raise ValuationError(
            f"found cheap values of shape {a.shape} and retrained ones of shape {b.shape}, expected (k,) and "
            "(k,) or (k, seeds)"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValuationError("found values not finite, expected all finite")
    return a, b.mean(axis=1) if b.ndim == 2 else b
