"""Linear datamodelling score: how well credits predict the order of held-out coalitions (docs/methods.md,
"Evaluation")."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from apportion.errors import ValuationError
from apportion.valuation.inputs import checked

Array = NDArray[np.float64]


def lds(Z: ArrayLike, y: ArrayLike, phi: ArrayLike) -> float:
    """Spearman correlation, in [-1, 1], of the values of held-out coalitions and the sums of their members'
    credits.

    Z (k, n): coalitions of one size (design `datamodel`). y (k,) or (k, seeds): their values by retraining.
    phi (n,): credits. With several seeds, the mean of the scores of single seeds, as Lu et al. 2025 report
    it. Raises ValuationError for arrays of other shapes, fewer than 3 coalitions, or values or
    sums that are all equal, which have no order to compare.
    """
    values, predicted = _sums(Z, y, phi)
    return float(np.mean([spearman(column, predicted) for column in values.T]))


def lds_interval(
    Z: ArrayLike, y: ArrayLike, phi: ArrayLike, level: float = 0.95, seed: int = 0, resamples: int = 2000
) -> tuple[float, float]:
    """(low, high) of `lds` by percentile bootstrap over the held-out coalitions and, for y (k, seeds), over
    the seeds too.

    It does not cover the noise of phi. A resample whose values or sums are all equal counts as 0. Raises as
    `lds` does.
    """
    values, predicted = _sums(Z, y, phi)
    for column in values.T:
        spearman(column, predicted)
    return bootstrap(values, predicted, level, seed, resamples)


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman correlation of two vectors (k,), k >= 3. Raises ValuationError for fewer, or where either is
    constant."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.size < 3:
        raise ValuationError(f"found {a.size} coalitions to rank, expected at least 3")
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        raise ValuationError(
            f"found all {a.size} numbers of one side equal, expected values that differ: equal ones have no "
            "order"
        )
    return float(rank_correlations(a[None], b[None])[0])


def bootstrap(
    values: Array, predicted: Array, level: float, seed: int, resamples: int
) -> tuple[float, float]:
    """Percentile interval of the mean over seeds of the Spearman correlation of values (k, seeds) with
    predicted (k,); coalitions and seeds are resampled. Raises ValuationError unless 0 < level < 1 and
    resamples >= 1."""
    if not 0 < level < 1 or resamples < 1:
        raise ValuationError(
            f"found level = {level} and resamples = {resamples}, expected 0 < level < 1 and at least one "
            "resample"
        )
    rng = np.random.default_rng(seed)
    k, seeds = values.shape
    picked, columns = rng.integers(k, size=(resamples, k)), rng.integers(seeds, size=(resamples, seeds))
    score = np.zeros(resamples)
    for c in columns.T:
        score += rank_correlations(values[picked, c[:, None]], predicted[picked]) / seeds
    low, high = np.quantile(score, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def rank_correlations(a: Array, b: Array) -> Array:
    """Spearman correlation of each row of a (r, k) with the same row of b (r, k), (r,); 0 where one is
    constant."""
    ra, rb = rankdata(a, axis=1), rankdata(b, axis=1)
    ra, rb = ra - ra.mean(axis=1, keepdims=True), rb - rb.mean(axis=1, keepdims=True)
    norm = np.sqrt(np.sum(ra**2, axis=1) * np.sum(rb**2, axis=1))
    return np.asarray(np.sum(ra * rb, axis=1) / np.where(norm == 0, 1.0, norm), dtype=np.float64)


def _sums(Z: ArrayLike, y: ArrayLike, phi: ArrayLike) -> tuple[Array, Array]:
    """y as (k, seeds), and the sum of the credits of each coalition (k,), rounded so that sums that differ
    only in their last bits are equal."""
    columns = np.asarray(y, dtype=np.float64)
    columns = columns[:, None] if columns.ndim == 1 else columns
    if columns.ndim != 2 or columns.shape[1] < 1:
        raise ValuationError(f"found y of shape {columns.shape}, expected (k,) or (k, seeds)")
    rows = checked(Z, columns[:, 0])[0]
    credit = np.asarray(phi, dtype=np.float64)
    if credit.shape != rows.shape[1:]:
        raise ValuationError(
            f"found phi of shape {credit.shape}, expected ({rows.shape[1]},): one credit for each column of Z"
        )
    if not (np.isfinite(credit).all() and np.isfinite(columns).all()):
        raise ValuationError("found numbers in y or phi not finite, expected all finite")
    tick = np.abs(credit).sum() * 1e-12 or 1.0
    return columns, np.round(rows @ credit / tick) * tick
