"""Which coalitions to evaluate: the sampling designs of METHODS.md §2 and how likely each makes a coalition.

Every design treats all coalitions of one size alike, so a design is known by the share of its rows at each size."""

from collections.abc import Callable
from itertools import combinations, islice
from numbers import Real
from operator import index
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import comb, gammaln

from apportion.errors import ValuationError

Coalitions = NDArray[np.bool_]
Vector = NDArray[np.float64]

MAX_PLAYERS = 2**16
MAX_CELLS = 2**32  # four gigabytes of booleans
ENUMERABLE = 4096  # a size with at most this many coalitions is listed and shuffled; a larger one is drawn without repeats


def draw(design: str, n: int, m: int, seed: int, **options: Any) -> Coalitions:
    """`m` coalitions of `n` players, bool (m, n): row j, column i says whether player i is kept in coalition j.

    A pure function of its arguments (METHODS.md §2). In every design but `loo` and `aoi`, fewer rows from the same seed
    are the first rows of more, so a larger budget re-uses what a smaller one has paid for. `datamodel` takes `alpha`.
    Raises ValuationError for an unknown design or option, n outside 2..65536, a negative seed or an m the design cannot give."""
    rows = _known(design, options).rows
    n, m, seed = _players(n), _number(n, m), whole("seed", seed)
    if seed < 0:
        raise ValuationError(f"found seed = {seed}, expected 0 or more")
    return rows(n, m, seed, **options)


def among(Z: ArrayLike, others: ArrayLike) -> Coalitions:
    """Which rows of Z (m, n) are rows of `others` (k, n), bool (m,).

    Raises ValuationError for what are no coalitions of the same players."""
    rows, known = members(Z), members(others)
    if rows.shape[1] != known.shape[1]:
        raise ValuationError(f"found coalitions of {rows.shape[1]} and of {known.shape[1]} players, expected the same players")
    seen = {row.tobytes() for row in known}
    return np.array([row.tobytes() in seen for row in rows], dtype=bool)


def pairs(Z: ArrayLike) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The complementary pairs that rows of Z (m, n) are of: the first row of each (p,), and the pair of each row (m,).

    Raises ValuationError for what are no coalitions."""
    rows = members(Z)
    _, first, of = np.unique(rows ^ ~rows[:, :1], axis=0, return_index=True, return_inverse=True)
    return first, of.reshape(-1)


def distinct(Z: ArrayLike) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The coalitions that rows of Z (m, n) are: the first row of each (k,), in their order, and the coalition of each row (m,).

    Raises ValuationError for what are no coalitions."""
    _, first, of = np.unique(np.packbits(members(Z), axis=1), axis=0, return_index=True, return_inverse=True)
    place = np.argsort(first)
    return first[place], np.argsort(place)[of.reshape(-1)]


def members(Z: ArrayLike) -> Coalitions:
    """Z as bool (m, n), m >= 0 coalitions of n >= 1 players, or a ValuationError that says what is wrong."""
    try:
        raw = np.asanyarray(Z)
    except ValueError:
        raise ValuationError("found Z with rows of several lengths, expected coalitions (m, n) of n players") from None
    if raw.ndim != 2 or not raw.shape[1]:
        raise ValuationError(f"found Z of shape {raw.shape}, expected coalitions (m, n) of n players")
    if np.ma.is_masked(raw):
        raise ValuationError("found Z with masked entries, expected booleans, none of them masked")
    if raw.dtype.kind not in "biuf" or (raw.dtype.kind != "b" and not np.all((raw == 0) | (raw == 1))):
        raise ValuationError(f"found Z of {raw.dtype}, with other entries than 0 and 1 or none that are numbers, expected booleans")
    return np.asarray(raw).astype(bool, copy=False)


def log_probability(design: str, Z: ArrayLike, **options: Any) -> Vector:
    """Natural logarithm (m,) of the chance that one row of the design, picked at random, is the coalition in that row of Z.

    For designs without replacement it is log(inclusion probability / m), as exact as `size_shares`. Logarithms, because at n = 258
    the chances themselves are near 1e-77. -inf: never drawn. Raises ValuationError as `size_shares`, and for what are no coalitions."""
    rows = members(Z)
    m, n = rows.shape
    with np.errstate(divide="ignore"):
        per_size = np.log(size_shares(design, n, m, **options)) - log_choose(n)
    return np.asarray(per_size[rows.sum(axis=1)], dtype=np.float64)


def size_shares(design: str, n: int, m: int, **options: Any) -> Vector:
    """Expected share of the design's m rows at each size, (n + 1,), sizes 0..n; sums to one.

    For `leverage` it is right to a tenth of a pair of rows: where pairs are few, the middle size of an even n, whose turns come at half
    the rate, comes less often by up to a quarter (n = 4, m = 2) or more often by up to an eighth; for an odd n it is exact.
    Raises ValuationError for an unknown design or option, n outside 2..65536 and m < 1."""
    shares = _known(design, options).shares
    return shares(_players(n), _number(n, m), **options)


def _known(design: str, options: dict[str, Any]) -> "Design":
    if not isinstance(design, str) or design not in DESIGNS:
        raise ValuationError(f"found design {design!r}, expected one of {', '.join(DESIGNS)}")
    if unknown := [name for name in options if name not in DESIGNS[design].options]:
        raise ValuationError(f"found option {', '.join(unknown)} of {design!r}, expected {', '.join(DESIGNS[design].options) or 'none'}")
    return DESIGNS[design]


def _players(n: int) -> int:
    if not 2 <= whole("n", n) <= MAX_PLAYERS:
        raise ValuationError(f"found n = {n} players, expected 2 to {MAX_PLAYERS}")
    return whole("n", n)


def _number(n: int, m: int) -> int:
    """Of coalitions, m."""
    if whole("m", m) < 1 or n * m > MAX_CELLS:
        raise ValuationError(f"found m = {m} coalitions of n = {n} players, expected 1 to {MAX_CELLS // n}")
    return whole("m", m)


def whole(name: str, value: Any) -> int:
    """The value as an int, or a ValuationError that names it."""
    try:
        return index(value)
    except TypeError:
        raise ValuationError(f"found {name} = {value!r}, expected a whole number") from None


def log_choose(n: int) -> Vector:
    """Logarithm of the number of coalitions of each size 0..n, (n + 1,)."""
    s = np.arange(n + 1)
    return np.asarray(gammaln(n + 1) - gammaln(s + 1) - gammaln(n - s + 1), dtype=np.float64)


# --- shapley_kernel: sizes by the Shapley kernel, independent rows (paper: [A], appendix on KernelSHAP sampling)


def _kernel_rows(n: int, m: int, seed: int) -> Coalitions:
    sizes = np.random.default_rng([seed, 0]).choice(n + 1, size=m, p=_kernel_shares(n, m))
    return np.random.default_rng([seed, 1]).permuted(np.arange(n) < sizes[:, None], axis=1)


def _kernel_shares(n: int, _m: int) -> Vector:
    s = np.arange(1, n)
    inner = 1.0 / (s * (n - s))
    return np.concatenate([[0.0], inner / inner.sum(), [0.0]])


# --- leverage: sizes uniform, complements in pairs, without replacement (Musco & Witter's Leverage SHAP, made of fixed size)


def _leverage_rows(n: int, m: int, seed: int) -> Coalitions:
    if m < 2 or m % 2:
        raise ValuationError(f"found m = {m}, expected an even number of at least 2: 'leverage' draws coalitions with their complements")
    if n < 64 and m > 2**n - 2:
        raise ValuationError(f"found m = {m}, expected at most {2**n - 2}: n = {n} players have no more proper coalitions")
    turns = _turns(n, m // 2, seed)
    first = np.empty((m // 2, n), dtype=bool)
    for k in np.unique(turns):
        at = np.flatnonzero(turns == k)
        first[at] = _half(n, at.size, seed) if 2 * k == n else subsets(n, int(k), at.size, [seed, int(k)])
    first ^= np.random.default_rng([seed, n]).random(m // 2)[:, None] < 0.5  # which of the two comes first is a coin flip
    return np.stack([first, ~first], axis=1).reshape(m, n)


def _leverage_shares(n: int, m: int) -> Vector:
    number = choose(n)[1:-1]
    inner = np.minimum(number, level(number, m))
    return np.concatenate([[0.0], inner / inner.sum(), [0.0]])


def _turns(n: int, pairs: int, seed: int) -> NDArray[np.int64]:
    """The smaller size of each pair, in order, (pairs,).

    Each size takes turns at a constant rate from a random start until its pairs are used up (systematic sampling), so
    no size is more than about one pair away from its expectation. The middle size is its own complement: half the rate."""
    k = np.arange(1, n // 2 + 1)
    rate = np.where(2 * k == n, 0.5, 1.0)
    number = choose(n)[1:-1]
    count = np.minimum(number[: k.size] * rate, np.ceil((level(number, 2 * pairs) + 2) * rate) + 1).astype(np.int64)
    return k[in_turn(count, rate, np.random.default_rng([seed, 0]).random(k.size), pairs)]


def in_turn(count: NDArray[np.int64], rate: Vector, start: Vector, turns: int) -> NDArray[np.int64]:
    """Whose turn it is, (turns,), when each of several takes up to `count` turns at times (start, start + 1, ...) / rate."""
    owner = np.repeat(np.arange(count.size), count)
    turn = np.arange(owner.size) - np.repeat(np.cumsum(count) - count, count)
    return owner[np.argsort((turn + start[owner]) / rate[owner], kind="stable")[:turns]]


def level(number: Vector, m: int) -> float:
    """Rows each size expects when m rows are spread evenly over sizes and none exceeds its number of coalitions, number (sizes,)."""
    number = np.sort(number)
    even = (m - np.cumsum(number) + number) / np.arange(number.size, 0, -1)
    fits = np.flatnonzero(even <= number)
    return float(even[fits[0]] if fits.size else number[-1])


def choose(n: int) -> Vector:
    """Coalitions of each size 0..n, (n + 1,), capped where only "very many" matters."""
    return np.asarray(np.minimum(np.rint(comb(n, np.arange(n + 1))), 2.0**53), dtype=np.float64)


def _half(n: int, count: int, seed: int) -> Coalitions:
    """Distinct coalitions of size n/2 that hold player 0, so that none is the complement of another."""
    if n == 2:
        return np.array([[True, False]])
    others = subsets(n - 1, n // 2 - 1, count, [seed, n // 2])
    return np.concatenate([np.ones((count, 1), dtype=bool), others], axis=1)


def subsets(n: int, k: int, count: int, seed: list[int]) -> Coalitions:
    """The first `count` of a random sequence of distinct coalitions of size k, bool (count, n)."""
    rng = np.random.default_rng(seed)
    if comb(n, k) <= ENUMERABLE:
        members = np.array(list(combinations(range(n), k)), dtype=np.intp)
        Z = np.zeros((len(members), n), dtype=bool)
        np.put_along_axis(Z, members, True, axis=1)
        return Z[rng.permutation(len(Z))[:count]]
    ordered, seen = np.arange(n) < k, dict[bytes, None]()
    while len(seen) < count:
        fresh = rng.permuted(np.tile(ordered, (count - len(seen), 1)), axis=1)
        seen |= dict.fromkeys(row.tobytes() for row in np.packbits(fresh, axis=1))
    packed = np.frombuffer(b"".join(islice(seen, count)), dtype=np.uint8).reshape(count, -1)
    return np.unpackbits(packed, axis=1, count=n).astype(bool)


# --- the designs of baselines and of evaluation


def _datamodel_rows(n: int, m: int, seed: int, alpha: float = 0.5) -> Coalitions:
    k = _datamodel_size(n, alpha)
    if m > comb(n, k):
        raise ValuationError(f"found m = {m}, expected at most {comb(n, k):.0f}: n = {n} players have no more coalitions of size {k}")
    return subsets(n, k, m, [seed, k])


def _datamodel_shares(n: int, _m: int, alpha: float = 0.5) -> Vector:
    return np.asarray(np.arange(n + 1) == _datamodel_size(n, alpha), dtype=np.float64)


def _datamodel_size(n: int, alpha: float) -> int:
    number = isinstance(alpha, Real) and np.isfinite(float(alpha))
    k = int(np.floor(alpha * n + 1e-9)) if number else 0  # 0.29 * 100 is a hair below 29
    if not 1 <= k < n:
        raise ValuationError(f"found alpha = {alpha!r}, expected a share that keeps 1 to {n - 1} of n = {n} players (alpha)")
    return k


def _uniform_rows(n: int, m: int, seed: int) -> Coalitions:
    return np.random.default_rng(seed).random((m, n)) < 0.5


def _uniform_shares(n: int, _m: int) -> Vector:
    return np.asarray(np.exp(log_choose(n) - n * np.log(2.0)), dtype=np.float64)


def _loo_rows(n: int, m: int, _seed: int) -> Coalitions:
    return ~_aoi_rows(n, m, _seed)


def _loo_shares(n: int, m: int) -> Vector:
    return _aoi_shares(n, m)[::-1].copy()


def _aoi_rows(n: int, m: int, _seed: int) -> Coalitions:
    if m != n + 1:
        raise ValuationError(f"found m = {m}, expected n + 1 = {n + 1}: 'loo' and 'aoi' have one row per player and one for none or all")
    return np.eye(n + 1, n, k=-1, dtype=bool)


def _aoi_shares(n: int, _m: int) -> Vector:
    return np.concatenate([[1.0, n], np.zeros(n - 1)]) / (n + 1)


class Design(NamedTuple):
    """How to draw a design's rows, the share of them expected at each size, and which options both take."""

    rows: Callable[..., Coalitions]
    shares: Callable[..., Vector]
    options: tuple[str, ...] = ()


DESIGNS = {
    "shapley_kernel": Design(_kernel_rows, _kernel_shares),
    "leverage": Design(_leverage_rows, _leverage_shares),
    "datamodel": Design(_datamodel_rows, _datamodel_shares, ("alpha",)),
    "uniform": Design(_uniform_rows, _uniform_shares),
    "loo": Design(_loo_rows, _loo_shares),
    "aoi": Design(_aoi_rows, _aoi_shares),
}
