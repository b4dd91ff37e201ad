"""What the estimators are given, checked: coalitions, their values, and the values of nobody and of everybody."""

from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from apportion.errors import ValuationError
from apportion.valuation.coalitions import Coalitions, Vector, members

ROUNDED = 1e-6  # of the spread of values: single precision leaves 6e-8 of values themselves
SMALLEST, LARGEST = 1e-100, 1e100  # squares and their quotients stay far from what a float cannot hold


class Ends(NamedTuple):
    """The values of nobody and of everybody with their errors: what credits share out between them.

    Where a number was given it is taken as known: no variance, and endless degrees of freedom."""

    v0: float
    v1: float
    variance: Vector  # (2,) of v0 and v1, squared standard errors of their means
    spare: Vector  # (2,) degrees of freedom of those

    @property
    def gain(self) -> float:
        return self.v1 - self.v0


def ends(v0: ArrayLike, v1: ArrayLike) -> Ends:
    """From numbers, taken as known, or from the values of two seeds or more each, (seeds,), of which the mean counts.

    Raises ValuationError for anything else."""
    (m0, s0, d0), (m1, s1, d1) = _mean("v0", v0), _mean("v1", v1)
    return Ends(m0, m1, np.array([s0, s1]), np.array([d0, d1]))


def _mean(name: str, value: ArrayLike) -> tuple[float, float, float]:
    """Mean, its variance and the degrees of freedom of that."""
    seeds = finite(name, value)
    if seeds.ndim == 0:
        return float(seeds), 0.0, np.inf
    if seeds.ndim > 1 or seeds.size < 2:
        raise ValuationError(f"found {name} of shape {seeds.shape}, expected a number, taken as known, or the values of 2 or more seeds")
    return float(seeds.mean()), float(seeds.var(ddof=1) / seeds.size), seeds.size - 1.0


def reach(level: float, variance: Vector, spare: Vector, of_ends: Vector, ends_spare: Vector) -> Vector:
    """Half-widths (...,) of intervals about sums of independent errors: of coalitions, with variance (...,) estimated with `spare` (...,)
    degrees of freedom, and of v0 and v1, of_ends (..., 2) with ends_spare (2,).

    Each of the two parts by its own quantile of Student's t, squares added: never short where each has them right, and exact where one
    is all there is (Banerjee 1960). The ends among themselves have Welch's degrees of freedom (Welch 1947). All three together had
    better not: where an end with two of them happens to look quiet they cover .91 at a level of .95, and so they cover .94 to .98."""
    ends = of_ends.sum(axis=-1)
    share = np.divide(of_ends, ends[..., None], out=np.zeros_like(of_ends), where=ends[..., None] > 0)
    with np.errstate(divide="ignore"):  # of ends that are known
        welch = 1.0 / np.sum(share**2 / ends_spare, axis=-1)
    upper = min(0.5 + level / 2, 1 - 2.0**-53)  # the next number is 1, whose quantile is endless
    parts = student.ppf(upper, spare) ** 2 * variance + student.ppf(upper, welch) ** 2 * ends
    return np.asarray(np.sqrt(parts), dtype=np.float64)


def checked(Z: ArrayLike, y: ArrayLike) -> tuple[Coalitions, Vector]:
    """Z as bool (m, n) and y as finite floats (m,), or a ValuationError that says what is wrong."""
    rows, values = members(Z), finite("y", y)
    if rows.shape[0] < 1 or rows.shape[1] < 2:
        raise ValuationError(f"found Z of shape {rows.shape}, expected (m, n): m >= 1 coalitions of n >= 2 players")
    if values.shape != rows.shape[:1]:
        raise ValuationError(f"found y of shape {values.shape}, expected ({rows.shape[0]},): one value for each row of Z")
    if 0 < (largest := float(np.abs(values).max())) < SMALLEST:
        raise ValuationError(f"found y of at most {largest:.3g}, expected {SMALLEST:g} or more: change its unit")
    return rows, values


def nothing(values: Vector, shared: Ends) -> float:
    """The largest residual that is none: values have been rounded, in single precision perhaps, and a game without noise has none.

    What a fit does not miss is then no noise to judge it by, for a coalition that was not drawn may be worth anything."""
    every = np.array([*values, shared.v0, shared.v1])
    return float(ROUNDED * np.ptp(every) + 1e-10 * np.abs(every).max())


def proper_sizes(rows: Coalitions) -> NDArray[np.intp]:
    """Players in each row (m,), or a ValuationError where that is nobody or everybody."""
    n, size = rows.shape[1], rows.sum(axis=1)
    if np.any((size == 0) | (size == n)):
        raise ValuationError(f"found a coalition of nobody or of all {n} players among the rows; those two values are v0 and v1")
    return np.asarray(size, dtype=np.intp)


def finite(name: str, values: Any) -> Vector:
    """The values as an array of finite floats, or a ValuationError that names them."""
    try:
        raw = np.asanyarray(values)
        if raw.dtype.kind not in "biuf" or np.ma.is_masked(raw):
            raise TypeError
        array = np.asarray(raw, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValuationError(f"found {name} that is no array of numbers, expected finite real numbers, none of them masked") from None
    bad = np.count_nonzero(~np.isfinite(array))
    if bad:
        raise ValuationError(f"found {bad} of {array.size} numbers in {name} not finite, expected all finite")
    if (largest := float(np.abs(array).max(initial=0.0))) > LARGEST:
        raise ValuationError(f"found {name} of up to {largest:.3g}, expected up to {LARGEST:g}: change its unit")
    return array


def share(name: str, value: Any) -> float:
    """A number between 0 and 1, neither of them, or a ValuationError that names it."""
    number = float(value) if isinstance(value, Real) else np.nan
    if not 0 < number < 1:
        raise ValuationError(f"found {name} = {value!r}, expected a number between 0 and 1")
    return number
