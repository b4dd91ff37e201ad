"""Sampling designs: which coalitions are evaluated, and how likely each design makes a coalition.

Every design treats all coalitions of one size alike, so the expected share of rows at each size describes it
fully. See docs/methods.md, section "Designs".
"""

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
MAX_ENUMERATED = 4096  # a size with at most so many coalitions is listed and shuffled; others are drawn


def draw(design: str, n: int, m: int, seed: int, **options: Any) -> Coalitions:
    """`m` coalitions of `n` players, bool (m, n): entry (j, i) says whether coalition j holds player i.

    The result depends on the arguments alone. In every design but `loo` and `aoi`, a smaller m with the same
    seed gives the first rows of a larger m, so a larger budget reuses what a smaller one has evaluated. The
    design `datamodel` takes the option `alpha`, the share of players that are kept.
    Raises ValuationError for an unknown design or option, n outside 2..65536, a negative seed, or an m that
    the design cannot give.
    """
    rows = _checked_design(design, options).rows
    n = _checked_players(n)
    m = _checked_rows(n, m)
    seed = whole_number("seed", seed)
    if seed < 0:
        raise ValuationError(f"found seed = {seed}, expected 0 or more")
    return rows(n, m, seed, **options)


def among(Z: ArrayLike, others: ArrayLike) -> Coalitions:
    """Which rows of Z (m, n) are also rows of `others` (k, n), bool (m,).

    Raises ValuationError unless both are coalitions of the same number of players.
    """
    rows = checked_coalitions(Z)
    known = checked_coalitions(others)
    if rows.shape[1] != known.shape[1]:
        raise ValuationError(
            f"found coalitions of {rows.shape[1]} and of {known.shape[1]} players, expected the same players"
        )
    seen = {row.tobytes() for row in known}
    return np.array([row.tobytes() in seen for row in rows], dtype=bool)


def complementary_pairs(Z: ArrayLike) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Groups the rows of Z (m, n) into pairs of a coalition and its complement.

    Returns the index of the first row of each pair (p,) and the pair that each row belongs to (m,). A row
    whose complement is missing is a pair by itself. Raises ValuationError unless Z holds coalitions.
    """
    rows = checked_coalitions(Z)
    _, first, pair = np.unique(rows ^ ~rows[:, :1], axis=0, return_index=True, return_inverse=True)
    return first, pair.reshape(-1)


def distinct(Z: ArrayLike) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The distinct coalitions among the rows of Z (m, n).

    Returns the index of the first row of each coalition (k,), in the order of the rows, and the coalition
    that each row is (m,). Raises ValuationError unless Z holds coalitions.
    """
    packed = np.packbits(checked_coalitions(Z), axis=1)
    _, first, coalition = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    by_row = np.argsort(first)
    return first[by_row], np.argsort(by_row)[coalition.reshape(-1)]


def checked_coalitions(Z: ArrayLike) -> Coalitions:
    """Z as bool (m, n), m >= 0 coalitions of n >= 1 players. Raises ValuationError for anything else."""
    try:
        raw = np.asanyarray(Z)
    except ValueError:
        raise ValuationError(
            "found Z with rows of different lengths, expected coalitions (m, n) of n players"
        ) from None
    if raw.ndim != 2 or not raw.shape[1]:
        raise ValuationError(f"found Z of shape {raw.shape}, expected coalitions (m, n) of n players")
    if np.ma.is_masked(raw):
        raise ValuationError("found Z with masked entries, expected booleans without a mask")
    if raw.dtype.kind not in "biuf" or (raw.dtype.kind != "b" and not np.all((raw == 0) | (raw == 1))):
        raise ValuationError(
            f"found Z of type {raw.dtype} with entries other than 0 and 1, expected booleans"
        )
    return np.asarray(raw).astype(bool, copy=False)


def log_probability(design: str, Z: ArrayLike, **options: Any) -> Vector:
    """Natural logarithm (m,) of the probability that a random row of the design is that row of Z.

    For designs without replacement it is log(inclusion probability / m), as accurate as `size_shares`.
    Logarithms are used because at n = 258 the probabilities are near 1e-77. A coalition that is never drawn
    has -inf.
    Raises ValuationError as `size_shares` does, and unless Z holds coalitions.
    """
    rows = checked_coalitions(Z)
    m, n = rows.shape
    with np.errstate(divide="ignore"):
        per_size = np.log(size_shares(design, n, m, **options)) - log_coalition_counts(n)
    return np.asarray(per_size[rows.sum(axis=1)], dtype=np.float64)


def size_shares(design: str, n: int, m: int, **options: Any) -> Vector:
    """Expected share of the design's m rows at each size, (n + 1,), for sizes 0..n; the shares sum to one.

    For `leverage` and an odd n it is exact. For an even n it is off by at most a tenth of a pair of rows.
    Where pairs are few, the middle size is drawn less often by up to a quarter (n = 4, m = 2) or more often
    by up to an eighth.
    Raises ValuationError for an unknown design or option, n outside 2..65536 and m < 1.
    """
    shares = _checked_design(design, options).shares
    n = _checked_players(n)
    return shares(n, _checked_rows(n, m), **options)


def whole_number(name: str, value: Any) -> int:
    """The value as an int. Raises ValuationError, with the name, unless it is a whole number."""
    try:
        return index(value)
    except TypeError:
        raise ValuationError(f"found {name} = {value!r}, expected a whole number") from None


def _checked_design(design: str, options: dict[str, Any]) -> "Design":
    if not isinstance(design, str) or design not in DESIGNS:
        raise ValuationError(f"found design {design!r}, expected one of {', '.join(DESIGNS)}")
    known = DESIGNS[design].options
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValuationError(
            f"found option {', '.join(unknown)} of {design!r}, expected {', '.join(known) or 'none'}"
        )
    return DESIGNS[design]


def _checked_players(n: int) -> int:
    if not 2 <= whole_number("n", n) <= MAX_PLAYERS:
        raise ValuationError(f"found n = {n} players, expected 2 to {MAX_PLAYERS}")
    return whole_number("n", n)


def _checked_rows(n: int, m: int) -> int:
    if whole_number("m", m) < 1 or n * m > MAX_CELLS:
        raise ValuationError(f"found m = {m} coalitions of n = {n} players, expected 1 to {MAX_CELLS // n}")
    return whole_number("m", m)


def coalition_counts(n: int) -> Vector:
    """Number of coalitions of each size 0..n, (n + 1,), at most 2**53: no design evaluates so many."""
    return np.asarray(np.minimum(np.rint(comb(n, np.arange(n + 1))), 2.0**53), dtype=np.float64)


def log_coalition_counts(n: int) -> Vector:
    """Natural logarithm of the number of coalitions of each size 0..n, (n + 1,)."""
    s = np.arange(n + 1)
    return np.asarray(gammaln(n + 1) - gammaln(s + 1) - gammaln(n - s + 1), dtype=np.float64)


# --- shapley_kernel: sizes by the Shapley kernel, independent rows (Lundberg & Lee 2017, KernelSHAP)


def _kernel_rows(n: int, m: int, seed: int) -> Coalitions:
    sizes = np.random.default_rng([seed, 0]).choice(n + 1, size=m, p=_kernel_shares(n, m))
    return np.random.default_rng([seed, 1]).permuted(np.arange(n) < sizes[:, None], axis=1)


def _kernel_shares(n: int, _m: int) -> Vector:
    s = np.arange(1, n)
    inner = 1.0 / (s * (n - s))
    return np.concatenate([[0.0], inner / inner.sum(), [0.0]])


# --- leverage: uniform sizes, complementary pairs, no replacement, a fixed number of rows
# --- (Musco & Witter 2025, Leverage SHAP, which draws a random number of rows)


def _leverage_rows(n: int, m: int, seed: int) -> Coalitions:
    if m < 2 or m % 2:
        raise ValuationError(
            f"found m = {m}, expected an even number of at least 2: 'leverage' draws coalitions with their "
            "complements"
        )
    if n < 64 and m > 2**n - 2:
        raise ValuationError(
            f"found m = {m}, expected at most {2**n - 2}: n = {n} players have no more proper coalitions"
        )
    sizes = _pair_sizes(n, m // 2, seed)
    first = np.empty((m // 2, n), dtype=bool)
    for k in np.unique(sizes):
        at = np.flatnonzero(sizes == k)
        if 2 * k == n:
            first[at] = _middle_size(n, at.size, seed)
        else:
            first[at] = random_subsets(n, int(k), at.size, [seed, int(k)])
    # Which of the two coalitions comes first is random.
    swapped = np.random.default_rng([seed, n]).random(m // 2)[:, None] < 0.5
    first ^= swapped
    return np.stack([first, ~first], axis=1).reshape(m, n)


def _leverage_shares(n: int, m: int) -> Vector:
    available = coalition_counts(n)[1:-1]
    inner = np.minimum(available, rows_per_size(available, m))
    return np.concatenate([[0.0], inner / inner.sum(), [0.0]])


def _pair_sizes(n: int, pairs: int, seed: int) -> NDArray[np.int64]:
    """The smaller size of each pair, in order, (pairs,).

    Each size takes turns at a constant rate from a random start until its pairs are used up (systematic
    sampling), so no size is more than about one pair away from its expectation. The middle size is its own
    complement and has half the rate.
    """
    k = np.arange(1, n // 2 + 1)
    rate = np.where(2 * k == n, 0.5, 1.0)
    available = coalition_counts(n)[1:-1]
    enough = np.ceil((rows_per_size(available, 2 * pairs) + 2) * rate) + 1
    count = np.minimum(available[: k.size] * rate, enough).astype(np.int64)
    start = np.random.default_rng([seed, 0]).random(k.size)
    return k[systematic_turns(count, rate, start, pairs)]


def systematic_turns(count: NDArray[np.int64], rate: Vector, start: Vector, turns: int) -> NDArray[np.int64]:
    """The owner of each turn, (turns,), in order of time.

    Owner i takes up to count[i] turns at the times (start[i], start[i] + 1, ...) / rate[i].
    """
    owner = np.repeat(np.arange(count.size), count)
    turn = np.arange(owner.size) - np.repeat(np.cumsum(count) - count, count)
    return owner[np.argsort((turn + start[owner]) / rate[owner], kind="stable")[:turns]]


def rows_per_size(available: Vector, m: int) -> float:
    """Expected rows of each size that is not used up, when m rows are spread evenly over sizes.

    No size takes more rows than it has coalitions, available (sizes,).
    """
    available = np.sort(available)
    even = (m - np.cumsum(available) + available) / np.arange(available.size, 0, -1)
    fits = np.flatnonzero(even <= available)
    return float(even[fits[0]] if fits.size else available[-1])


def _middle_size(n: int, count: int, seed: int) -> Coalitions:
    """Distinct coalitions of size n/2 that hold player 0, so that none is the complement of another."""
    if n == 2:
        return np.array([[True, False]])
    others = random_subsets(n - 1, n // 2 - 1, count, [seed, n // 2])
    return np.concatenate([np.ones((count, 1), dtype=bool), others], axis=1)


def random_subsets(n: int, k: int, count: int, seed: list[int]) -> Coalitions:
    """The first `count` of a random sequence of distinct coalitions of size k, bool (count, n)."""
    rng = np.random.default_rng(seed)
    if comb(n, k) <= MAX_ENUMERATED:
        players = np.array(list(combinations(range(n), k)), dtype=np.intp)
        Z = np.zeros((len(players), n), dtype=bool)
        np.put_along_axis(Z, players, True, axis=1)
        return Z[rng.permutation(len(Z))[:count]]
    ordered = np.arange(n) < k
    seen = dict[bytes, None]()
    while len(seen) < count:
        fresh = rng.permuted(np.tile(ordered, (count - len(seen), 1)), axis=1)
        seen |= dict.fromkeys(row.tobytes() for row in np.packbits(fresh, axis=1))
    packed = np.frombuffer(b"".join(islice(seen, count)), dtype=np.uint8).reshape(count, -1)
    return np.unpackbits(packed, axis=1, count=n).astype(bool)


# --- the designs of baselines and of evaluation


def _datamodel_rows(n: int, m: int, seed: int, alpha: float = 0.5) -> Coalitions:
    k = _datamodel_size(n, alpha)
    if m > comb(n, k):
        raise ValuationError(
            f"found m = {m}, expected at most {comb(n, k):.0f}: n = {n} players have no more coalitions of "
            f"size {k}"
        )
    return random_subsets(n, k, m, [seed, k])


def _datamodel_shares(n: int, _m: int, alpha: float = 0.5) -> Vector:
    return np.asarray(np.arange(n + 1) == _datamodel_size(n, alpha), dtype=np.float64)


def _datamodel_size(n: int, alpha: float) -> int:
    is_number = isinstance(alpha, Real) and np.isfinite(float(alpha))
    k = int(np.floor(alpha * n + 1e-9)) if is_number else 0  # in floats 0.29 * 100 is slightly below 29
    if not 1 <= k < n:
        raise ValuationError(
            f"found alpha = {alpha!r}, expected a share that keeps 1 to {n - 1} of n = {n} players (alpha)"
        )
    return k


def _uniform_rows(n: int, m: int, seed: int) -> Coalitions:
    return np.random.default_rng(seed).random((m, n)) < 0.5


def _uniform_shares(n: int, _m: int) -> Vector:
    return np.asarray(np.exp(log_coalition_counts(n) - n * np.log(2.0)), dtype=np.float64)


def _loo_rows(n: int, m: int, _seed: int) -> Coalitions:
    return ~_aoi_rows(n, m, _seed)


def _loo_shares(n: int, m: int) -> Vector:
    return _aoi_shares(n, m)[::-1].copy()


def _aoi_rows(n: int, m: int, _seed: int) -> Coalitions:
    if m != n + 1:
        raise ValuationError(
            f"found m = {m}, expected n + 1 = {n + 1}: 'loo' and 'aoi' have one row per player and one "
            "for the grand or the empty coalition"
        )
    return np.eye(n + 1, n, k=-1, dtype=bool)


def _aoi_shares(n: int, _m: int) -> Vector:
    return np.concatenate([[1.0, n], np.zeros(n - 1)]) / (n + 1)


class Design(NamedTuple):
    """How to draw the rows of a design, their expected share at each size, and the options of both."""

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
