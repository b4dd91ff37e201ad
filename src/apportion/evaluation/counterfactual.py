"""Counterfactual removal: the coalition without the contributors with the largest credits, random coalitions
of the same size to compare with, and the change of a property (docs/methods.md, "Evaluation")."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from apportion.errors import ValuationError
from apportion.valuation.coalitions import among, draw


def without_top(phi: ArrayLike, share: float) -> NDArray[np.bool_]:
    """The coalition (n,) that remains when the `share` of players with the largest credits is removed. Of
    players with equal credits the first ones are removed.

    Raises ValuationError unless phi is (n,), n >= 2, finite, and 0 < share < 1.
    """
    credit = np.asarray(phi, dtype=np.float64)
    if credit.ndim != 1 or credit.size < 2 or not np.isfinite(credit).all():
        raise ValuationError(
            f"found phi of shape {credit.shape}, expected (n,) finite credits of n >= 2 players"
        )
    kept = np.ones(credit.size, dtype=bool)
    kept[np.argsort(-credit, kind="stable")[: removed(credit.size, share)]] = False
    return kept


def without_random(
    n: int, share: float, count: int, seed: int, *, other_than: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """`count` distinct random coalitions (count, n) without as many players as `without_top` removes, to
    compare with.

    `other_than` (n,) is a coalition that must not be among them. Raises ValuationError where there are fewer.
    """
    alpha = (n - removed(n, share)) / n
    if other_than is None:
        return draw("datamodel", n, count, seed, alpha=alpha)
    drawn = draw("datamodel", n, count + 1, seed, alpha=alpha)
    return drawn[~among(drawn, other_than[None])][:count]


def removed(n: int, share: float) -> int:
    """How many of n players a share is: the nearest whole number, at least 1 and at most n - 1. Raises
    ValuationError unless 0 < share < 1."""
    if not 0 < share < 1:
        raise ValuationError(f"found share = {share}, expected a number between 0 and 1")
    return min(max(1, int(np.floor(share * n + 0.5))), n - 1)


def relative_change(before: ArrayLike, after: ArrayLike) -> tuple[float, float]:
    """Mean and standard error over seeds of ΔF = (after - before) / |before|, paired by seed
    (docs/methods.md, "Evaluation").

    before, after (seeds,): the property of the grand coalition and of the coalition. The error is nan with
    one seed. Raises ValuationError for shapes that differ, numbers that are not finite, or a `before` of
    zero.
    """
    a, b = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or not a.size:
        raise ValuationError(
            f"found values of shapes {a.shape} and {b.shape}, expected one before and one after the removal "
            "for each seed"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()) or np.any(a == 0):
        raise ValuationError(
            "found values that are zero before the removal or not finite, expected finite values: the change "
            "is relative to the value before"
        )
    change = (b - a) / np.abs(a)
    error = change.std(ddof=1) / np.sqrt(a.size) if a.size > 1 else np.nan
    return float(change.mean()), float(error)
