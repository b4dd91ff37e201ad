"""Checks of the estimators' input: coalitions, their values, and the values of the empty and the grand
coalition."""

from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from apportion.errors import ValuationError
from apportion.valuation.coalitions import Coalitions, Vector, checked_coalitions

ROUNDING = 1e-6  # of the range of values; single precision leaves 6e-8 of the values themselves
# Beyond these, squares and their quotients leave the range of a float.
MIN_MAGNITUDE = 1e-100
MAX_MAGNITUDE = 1e100


class Endpoints(NamedTuple):
    """The values of the empty and the grand coalition with their errors. Credits sum to their difference.

    A value that was given as a number is taken as known: no variance, and infinite degrees of freedom.
    """

    v0: float
    v1: float
    variance: Vector  # (2,) of v0 and of v1: squared standard errors of their means
    dof: Vector  # (2,) degrees of freedom of those

    @property
    def gain(self) -> float:
        return self.v1 - self.v0


def checked_endpoints(v0: ArrayLike, v1: ArrayLike) -> Endpoints:
    """v0 and v1, each a number (taken as known) or the values of two or more seeds (averaged).

    Raises ValuationError for anything else.
    """
    mean0, variance0, dof0 = _mean_over_seeds("v0", v0)
    mean1, variance1, dof1 = _mean_over_seeds("v1", v1)
    return Endpoints(mean0, mean1, np.array([variance0, variance1]), np.array([dof0, dof1]))


def _mean_over_seeds(name: str, value: ArrayLike) -> tuple[float, float, float]:
    """The mean, its variance, and the degrees of freedom of that variance."""
    seeds = finite_array(name, value)
    if seeds.ndim == 0:
        return float(seeds), 0.0, np.inf
    if seeds.ndim > 1 or seeds.size < 2:
        raise ValuationError(
            f"found {name} of shape {seeds.shape}, expected a number, taken as known, or the values of 2 or "
            "more seeds"
        )
    return float(seeds.mean()), float(seeds.var(ddof=1) / seeds.size), seeds.size - 1.0


def half_width(
    level: float, variance: Vector, dof: Vector, endpoint_variance: Vector, endpoint_dof: Vector
) -> Vector:
    """Half-widths (...,) of intervals about sums of independent errors.

    The errors of coalitions have `variance` (...,), estimated with `dof` (...,) degrees of freedom. The
    errors of v0 and v1 have `endpoint_variance` (..., 2), estimated with `endpoint_dof` (2,).

    Each part has its own quantile of Student's t and the squares are added (Banerjee 1960). The coverage is
    then at least the level wherever each part is estimated well, and exact where only one part is present. v0
    and v1 together have Welch's degrees of freedom (Welch 1947). Welch's rule for all three parts covers only
    .91 at a level of .95 when an endpoint with two degrees of freedom happens to show little spread; this
    rule covers .94 to .98.
    """
    total = endpoint_variance.sum(axis=-1)
    present = total[..., None] > 0
    share = np.divide(
        endpoint_variance, total[..., None], out=np.zeros_like(endpoint_variance), where=present
    )
    with np.errstate(divide="ignore"):  # where both endpoints are known
        welch = 1.0 / np.sum(share**2 / endpoint_dof, axis=-1)
    upper = min(0.5 + level / 2, 1 - 2.0**-53)  # the next float is 1, whose quantile is infinite
    squared = student.ppf(upper, dof) ** 2 * variance + student.ppf(upper, welch) ** 2 * total
    return np.asarray(np.sqrt(squared), dtype=np.float64)


def checked(Z: ArrayLike, y: ArrayLike) -> tuple[Coalitions, Vector]:
    """Z as bool (m, n) and y as finite floats (m,). Raises ValuationError for anything else."""
    rows = checked_coalitions(Z)
    values = finite_array("y", y)
    if rows.shape[0] < 1 or rows.shape[1] < 2:
        raise ValuationError(
            f"found Z of shape {rows.shape}, expected (m, n): m >= 1 coalitions of n >= 2 players"
        )
    if values.shape != rows.shape[:1]:
        raise ValuationError(
            f"found y of shape {values.shape}, expected ({rows.shape[0]},): one value for each row of Z"
        )
    largest = float(np.abs(values).max())
    if 0 < largest < MIN_MAGNITUDE:
        raise ValuationError(
            f"found y of at most {largest:.3g}, expected {MIN_MAGNITUDE:g} or more: change its unit"
        )
    return rows, values


def rounding_error(values: Vector, endpoints: Endpoints) -> float:
    """The largest residual that may come from rounding alone.

    The values may have been rounded to single precision. Where no residual is larger, the game has no visible
    noise. That does not show that the error is small: a coalition that was not drawn may have any value.
    """
    every = np.array([*values, endpoints.v0, endpoints.v1])
    return float(ROUNDING * np.ptp(every) + 1e-10 * np.abs(every).max())


def proper_sizes(rows: Coalitions) -> NDArray[np.intp]:
    """Players in each row (m,). Raises ValuationError where a row is the empty or the grand coalition."""
    n, size = rows.shape[1], rows.sum(axis=1)
    if np.any((size == 0) | (size == n)):
        raise ValuationError(
            f"found the empty coalition or all {n} players among the rows of Z, expected neither: "
            "their values are v0 and v1"
        )
    return np.asarray(size, dtype=np.intp)


def finite_array(name: str, values: Any) -> Vector:
    """The values as an array of finite floats. Raises ValuationError, with the name, for anything else."""
    try:
        raw = np.asanyarray(values)
        if raw.dtype.kind not in "biuf" or np.ma.is_masked(raw):
            raise TypeError
        array = np.asarray(raw, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValuationError(
            f"found {name} that is not an array of numbers, expected finite real numbers without a mask"
        ) from None
    not_finite = np.count_nonzero(~np.isfinite(array))
    if not_finite:
        raise ValuationError(
            f"found {not_finite} of {array.size} numbers in {name} not finite, expected all finite"
        )
    largest = float(np.abs(array).max(initial=0.0))
    if largest > MAX_MAGNITUDE:
        raise ValuationError(
            f"found {name} of up to {largest:.3g}, expected up to {MAX_MAGNITUDE:g}: change its unit"
        )
    return array


def finite_number(name: str, value: Any) -> float:
    """A single finite number. Raises ValuationError, with the name, for anything else."""
    array = finite_array(name, value)
    if array.ndim:
        raise ValuationError(f"found {name} of shape {array.shape}, expected a number")
    return float(array)


def fraction(name: str, value: Any) -> float:
    """A number above 0 and below 1. Raises ValuationError, with the name, for anything else."""
    number = float(value) if isinstance(value, Real) else np.nan
    if not 0 < number < 1:
        raise ValuationError(f"found {name} = {value!r}, expected a number between 0 and 1")
    return number
