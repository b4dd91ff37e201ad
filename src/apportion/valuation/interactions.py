"""Shapley interactions of all pairs of players, with intervals and signs that hold for all pairs together.

An interaction depends on the even part of a game, (v(S) + v(N∖S)) / 2, as a credit depends on the odd part:
what differs between a coalition and its complement cancels. With x = 1 for a member and -1 for another
player, the even parts are modelled as

e = functions of size + the sum of beta_ij x_i x_j over all pairs of players + noise,

with random effects beta of one variance, a share of which the effects of one player have in common. The
values of coalitions that were not evaluated are predicted from those that were (best linear unbiased
prediction: Goldberger 1962), and interactions follow by their definition from measured and predicted values.

There are often more pairs of players than pairs of coalitions, so this estimate is shrunk. The interval is
about another one, in which the effect of the pair itself is free and only the effects of all other pairs are
random: it is not shrunk. See docs/methods.md, section "Interactions".
"""

from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaln

from apportion.errors import ValuationError
from apportion.valuation.coalitions import (
    Vector,
    complementary_pairs,
    distinct,
    log_coalition_counts,
)
from apportion.valuation.inputs import (
    Endpoints,
    checked,
    checked_endpoints,
    finite_array,
    fraction,
    half_width,
    proper_sizes,
    rounding_error,
)
from apportion.valuation.set_noise import FEWEST_SETS, checked_sets
from apportion.valuation.shapley import average_repeats

FEWEST_FREE = 8
"""Pairs of coalitions beside the functions of size that an interval needs, at least."""

# The result is averaged over models by restricted likelihood. Each combination of these is as probable as any
# other before the values are seen.
OF_PLAYERS = (0.0, 0.3, 0.6)  # share of the variance of an effect that the effects of one player share
OF_SETS = (0.0, 0.1, 0.3, 0.6)  # share of the variance of an effect that differs between sets of weights
NOISE_SHARES = (np.arange(32) + 0.5) / 32  # standard deviation of noise over that of even parts
LEAST_LIKELY = 1e-3  # of the most probable; models with less are left out

UNDETERMINED = 1e-8
"""A pair of players of whose products so little varies, beside functions of size, has no interval."""
NOT_DISTINGUISHED = "the coalitions do not tell the effect of this pair from those of sizes of coalitions"
FLAT = "coalitions of one size have the same value up to rounding, which says nothing about the error"

PAIRS_AT_ONCE = 1024  # pairs of players in memory at once


class Interactions(NamedTuple):
    """Shapley interactions, (pairs,) each, in the order of `itertools.combinations(range(n), 2)`.

    `low` and `high` contain `value` and hold for each pair separately. `established`: the sign of `value` is
    right; these statements hold for all pairs together at the level. A pair without an interval has an
    infinite `se` and infinite bounds. `unknown` says why no pair has an interval; empty where some have.
    """

    value: Vector
    se: Vector
    low: Vector
    high: Vector
    established: NDArray[np.bool_]
    unknown: str


def estimate(
    Z: ArrayLike,
    y: ArrayLike,
    v0: ArrayLike,
    v1: ArrayLike,
    level: float = 0.95,
    sets: ArrayLike | None = None,
) -> Interactions:
    """Shapley interaction indices of all pairs: below 0 two players can replace each other, above 0 they need
    each other.

    Z (m, n) from the `leverage` design, y (m,), v0, v1 and sets (m,) as in `intervals.hc3`. v0 and v1 are in
    all interactions as the same amount, (v0 + v1) / (n - 1). A coalition without its complement is not used;
    one in several rows counts once, with the mean of their values. All coalitions give exact interactions,
    unless they share sets.

    With three sets of weights or more, each may have a level and effects of its own, and the intervals hold
    over the noise of sets; with fewer they leave it out. v1 may then have a value of each set, in the order
    of their names. There are no intervals from fewer than eight pairs
    of coalitions more than functions of size and sets, and where even parts are functions of size up to
    rounding, unless all proper coalitions were evaluated.
    Source of the index: Grabisch & Roubens 1999.
    Raises ValuationError for bad input, for the empty or grand coalition among the rows, and for fewer pairs
    of coalitions than functions of size and sets.
    """
    even = _even_parts(Z, y, v0, v1, sets)
    level, ends, n = fraction("level", level), even.endpoints, even.sign.shape[1]
    unknown = too_few(len(even.e), n, even.sets) or (FLAT if even.flat else "")
    models = [] if even.flat or not even.free else _models(even)
    noise = _noise_by_size(even, models)
    blocks = [_predicted(even, models, noise, *pairs) for pairs in _blocks(n)]
    value, centre, error = (np.concatenate(column) for column in zip(*blocks, strict=True))
    value, centre = (part + (ends.v0 + ends.v1) / (n - 1) for part in (value, centre))
    variance = np.full(len(value), np.inf) if unknown else error + even.rounding**2
    common, dof_common = _common_error(even, finite_array("v1", v1))
    of_all, dof = np.tile(common, (len(value), 1)), np.full(len(value), max(even.free, 1))

    def half(level: float) -> Vector:
        return half_width(level, variance, dof, of_all, dof_common)

    return Interactions(
        value=value,
        se=np.sqrt(variance + common.sum()),
        low=np.minimum(centre - half(level), value),
        high=np.maximum(centre + half(level), value),
        established=_established(centre, half, level) & (np.sign(centre) == np.sign(value)),
        unknown=unknown,
    )


class _Even(NamedTuple):
    """Pairs of a coalition and its complement, with their even parts, which the model is fitted to."""

    sign: Vector  # (pairs, n) 1 where a player is in one coalition of the pair, else -1
    e: Vector  # (pairs,) even parts
    size: NDArray[np.intp]  # (pairs,) of the smaller coalition of the pair
    of_set: NDArray[np.intp] | None  # (pairs,) the set of weights, 0..R-1
    functions: Vector  # (pairs, k) of size and of sets
    of_functions: Vector  # (k,) interactions of the functions, where v0 and v1 are 0
    endpoints: Endpoints
    rounding: float  # the largest error of a value by rounding
    flat: bool  # whether the even parts are such functions up to rounding, and some coalitions are missing

    @property
    def free(self) -> int:
        """Pairs of coalitions more than functions."""
        return len(self.e) - len(self.of_functions)

    @property
    def sets(self) -> int:
        """Sets of weights that the model tells apart; 0 where there are too few."""
        return 0 if self.of_set is None else int(self.of_set.max()) + 1


def _even_parts(Z: ArrayLike, y: ArrayLike, v0: ArrayLike, v1: ArrayLike, sets: ArrayLike | None) -> _Even:
    rows, values = checked(Z, y)
    endpoints, n = checked_endpoints(v0, v1), rows.shape[1]
    names = None if sets is None else checked_sets(sets, rows)[distinct(rows)[0]]
    rows, values = average_repeats(rows, values)
    sizes = proper_sizes(rows)
    first, pair = complementary_pairs(rows)
    whole = np.bincount(pair) == 2
    first, e = first[whole], np.bincount(pair, weights=values)[whole] / 2
    of_set = None
    if names is not None and len(np.unique(names[first])) >= FEWEST_SETS:
        of_set = np.unique(names[first], return_inverse=True)[1].reshape(-1)
    functions, of_functions = _functions(sizes[first], n, of_set)
    if len(e) < len(of_functions):
        raise ValuationError(
            f"found {len(e)} pairs of a coalition and its complement, expected at least {len(of_functions)}: "
            "draw more coalitions (m)"
        )
    rounding = rounding_error(values, endpoints)
    residual = e - functions @ np.linalg.lstsq(functions, e, rcond=None)[0]
    return _Even(
        sign=np.where(rows[first], 1.0, -1.0),
        e=e,
        size=np.minimum(sizes, n - sizes)[first],
        of_set=of_set,
        functions=functions,
        of_functions=of_functions,
        endpoints=endpoints,
        rounding=rounding,
        flat=len(rows) < 2**n - 2 and bool(np.abs(residual).max() <= rounding),
    )


def _functions(size: NDArray[np.intp], n: int, of_set: NDArray[np.intp] | None) -> tuple[Vector, Vector]:
    """Even functions of size, as many as there can be of 1, o^2 and o^4 with o = 2 size / n - 1, and how far
    each set but the last lies off the mean of all sets, (pairs, k); and their interactions (k,).

    A function of size has the same interaction for all pairs of players, the mean of its second differences.
    """
    powers = 2 * np.arange(_count(n, 0))
    every = (2 * np.arange(n + 1) / n - 1)[:, None] ** powers
    of_functions = np.diff(every, 2, axis=0).mean(axis=0) - 2 / (n - 1) * every[0]
    if of_set is None:
        return every[size], of_functions
    apart = np.eye(int(of_set.max()) + 1)[of_set]
    apart = apart[:, :-1] - apart[:, -1:]
    return np.hstack([every[size], apart]), np.append(of_functions, np.zeros(apart.shape[1]))


def too_few(pairs: int, n: int, sets: int = 0) -> str:
    """Why so many pairs of a coalition and its complement, of n players and in so many sets of weights, give
    no intervals, in words; empty where they may."""
    needed = _count(n, sets) + FEWEST_FREE
    if pairs >= needed:
        return ""
    return (
        f"found {pairs} pairs of a coalition and its complement, expected at least {needed} to tell "
        "interactions from noise"
    )


def _count(n: int, sets: int) -> int:
    """How many functions of size and of sets are fitted."""
    return min(3, n // 2) + (sets - 1 if sets >= FEWEST_SETS else 0)


class _EvenModel(NamedTuple):
    """The covariance of even parts for one choice of shares, in units of their mean variance without noise
    beside the functions."""

    of_players: float
    of_sets: float
    unit: float  # variance of an effect
    kernel: Vector  # (pairs, pairs) covariance without noise
    axes: Vector  # (pairs, free) principal axes beside the functions
    spread: Vector  # (free,) variances along them
    along: Vector  # (free,) the even parts along them
    probability: Vector  # (noises,) of all models together they sum to one

    def noises(self) -> Iterator[tuple[float, float, float]]:
        """The variance of each noise that is probable, the unit of all variances, and its probability."""
        for share, probability in zip(NOISE_SHARES**2, self.probability, strict=True):
            if probability > 0:
                noise = share / (1 - share)
                yield noise, float(np.mean(self.along**2 / (self.spread + noise))), float(probability)


def _models(even: _Even) -> list[_EvenModel]:
    """The models that are probable."""
    n, rest = even.sign.shape[1], np.linalg.qr(even.functions, mode="complete")[0]
    rest = rest[:, even.functions.shape[1] :]
    of_pairs = ((even.sign @ even.sign.T) ** 2 - n) / 2
    sums = _sums_over_others(even.sign)
    same = 1.0 if even.of_set is None else even.of_set[:, None] == even.of_set
    noise = NOISE_SHARES**2 / (1 - NOISE_SHARES**2)
    models, deviances = [], []
    for of_players, of_sets in product(OF_PLAYERS, OF_SETS if even.of_set is not None else (0.0,)):
        kernel = (1 - of_players) * of_pairs + of_players / 2 * (sums @ sums.T)
        kernel = kernel * (1 - of_sets + of_sets * same)
        beside = rest.T @ kernel @ rest
        unit = even.free / float(np.trace(beside))
        spread, axes = np.linalg.eigh(unit * beside)
        spread, axes = np.maximum(spread, 0.0), rest @ axes
        along = axes.T @ even.e
        variance = spread[:, None] + noise
        power = np.maximum(np.sum(along[:, None] ** 2 / variance, axis=0), np.finfo(float).tiny)
        deviances.append(np.log(variance).sum(axis=0) + even.free * np.log(power))
        models.append(_EvenModel(of_players, of_sets, unit, unit * kernel, axes, spread, along, noise))
    deviance = np.array(deviances)
    probability = np.exp((deviance.min() - deviance) / 2)
    probability[probability < LEAST_LIKELY] = 0.0
    probability /= probability.sum()
    return [
        model._replace(probability=own) for model, own in zip(models, probability, strict=True) if own.any()
    ]


def _sums_over_others(sign: Vector) -> Vector:
    """The sum of x_i x_j over all other players j, for each player i, (pairs, n)."""
    return np.asarray(sign * (sign.sum(axis=1, keepdims=True) - sign), dtype=np.float64)


def _noise_by_size(even: _Even, models: list[_EvenModel]) -> Vector:
    """Variance of the noise of even parts, by size of the smaller coalition 0..n//2, (sizes,).

    Squared residuals over what the fit leaves of them (HC2), averaged over the pairs of a size and over
    models. A size without pairs has the mean of all.
    """
    squares = np.zeros(len(even.e))
    for model in models:
        for noise, _, probability in model.noises():
            inverse = 1 / (model.spread + noise)
            left = model.axes**2 @ inverse
            residual = model.axes @ (inverse * model.along)
            squares += probability * noise * residual**2 / np.maximum(left, np.finfo(float).tiny)
    sizes = even.sign.shape[1] // 2 + 1
    count = np.bincount(even.size, minlength=sizes)
    total = np.bincount(even.size, weights=squares, minlength=sizes)
    return np.where(count > 0, total / np.maximum(count, 1), squares.mean())


def _blocks(n: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """The two players of every pair, a block of pairs at a time."""
    one, other = np.triu_indices(n, 1)
    for at in range(0, len(one), PAIRS_AT_ONCE):
        yield one[at : at + PAIRS_AT_ONCE], other[at : at + PAIRS_AT_ONCE]


def _coefficients(n: int) -> Vector:
    """The coefficient of an even part in an interaction, for a coalition of each size 0..n that holds 0, 1 or
    2 players of the pair, (n + 1, 3); 0 for the empty and the grand coalition."""
    s = np.arange(1.0, n)[:, None]
    held = np.arange(3)
    a, b = s + 1 - held, n - s - 1 + held  # (s - held)! (n - s - 2 + held)! / (n - 1)!
    size = np.where((a > 0) & (b > 0), np.exp(betaln(np.maximum(a, 1), np.maximum(b, 1))), 0.0)
    return np.vstack([np.zeros(3), 2 * np.array([1, -1, 1]) * size, np.zeros(3)])


def _all_squares(n: int) -> Vector:
    """Sums of squared coefficients of one interaction over all pairs of coalitions, by size of the smaller
    coalition 0..n//2, (sizes,)."""
    coefficients, counts = _coefficients(n), np.exp(log_coalition_counts(n - 2))
    by_size = np.zeros(n + 1)
    for held, ways in enumerate((1, 2, 1)):
        by_size[held : held + n - 1] += ways * counts * coefficients[held : held + n - 1, held] ** 2
    smaller = np.minimum(np.arange(n + 1), np.arange(n + 1)[::-1])
    return np.bincount(smaller, weights=by_size) / 2


class _Block(NamedTuple):
    """Some pairs of players, (coalition pairs, k) each."""

    x: Vector  # products x_i x_j
    sums: Vector  # of the products of either player with all others
    seen: Vector  # coefficients of the even parts in the interactions


def _predicted(
    even: _Even,
    models: list[_EvenModel],
    noise_by_size: Vector,
    one: NDArray[np.intp],
    other: NDArray[np.intp],
) -> tuple[Vector, Vector, Vector]:
    """The estimate, the one that is not shrunk, and the variance of its error, (k,) each, for k pairs of
    players, in a game with v0 = v1 = 0.

    The variance is that of the effects of other pairs and of noise, averaged over models, and that between
    models. Where the noise depends on size so that it is larger than with the same noise for all sizes, it is
    by size. Noise may also be a part of the game that the model lacks, effects of four players and more; the
    coefficients of coalitions that were not evaluated then have it too.
    """
    n = even.sign.shape[1]
    members = (even.sign > 0).astype(np.intp)
    sums = _sums_over_others(even.sign)
    block = _Block(
        x=even.sign[:, one] * even.sign[:, other],
        sums=sums[:, one] + sums[:, other],
        seen=_coefficients(n)[members.sum(axis=1)[:, None], members[:, one] + members[:, other]],
    )
    a = np.linalg.pinv(even.functions).T @ even.of_functions
    if not models:
        value = np.full(len(one), a @ even.e)
        return value, value, np.full(len(one), np.inf)
    every = _all_squares(n)
    results = [_by_model(model, even, a, block, every.sum()) for model in models]
    probability = np.concatenate([result.probability for result in results])
    value, centre, of_effects, of_noise = (
        probability @ np.concatenate([result[at] for result in results]) for at in range(1, 5)
    )
    centres = np.concatenate([result.centre for result in results])
    between = probability @ (centres - centre) ** 2
    influence = np.sum([result.influence for result in results], axis=0)
    by_size = noise_by_size[even.size] @ (influence**2 - block.seen**2) + noise_by_size @ every
    error = of_effects + between + np.maximum(of_noise, by_size)
    undetermined = np.max([result.undetermined for result in results], axis=0)
    return value, centre, np.where(undetermined, np.inf, error)


class _ByModel(NamedTuple):
    """What one model says of k pairs of players, with each of its probable noises."""

    probability: Vector  # (noises,)
    value: Vector  # (noises, k)
    centre: Vector  # (noises, k) not shrunk
    of_effects: Vector  # (noises, k) variance of the centre by the effects of other pairs
    of_noise: Vector  # (noises, k) and by noise
    influence: Vector  # (coalition pairs, k) derivatives of the centre, times the probability of the model
    undetermined: NDArray[np.bool_]  # (k,)


def _by_model(model: _EvenModel, even: _Even, a: Vector, block: _Block, every: float) -> _ByModel:
    """An estimate is L' e with L = a + P M, in which a (coalition pairs,) reproduces functions of size, and P
    is the inverse covariance beside those. M follows from what is predicted; a multiple of the products x is
    added to it so that an effect of the pair itself is reproduced too."""
    n = even.sign.shape[1]
    end = 2 / (n - 1)  # coefficient of the even part of the empty and the grand coalition
    shared = model.unit * (1 - model.of_sets)
    of_sum = shared * (1 - model.of_players + model.of_players * (n - 1))  # of an effect with the sum of all
    # Covariances, of even parts with the interactions and with the even part of the endpoints.
    with_pair = 4 * shared * ((1 - model.of_players) * block.x + model.of_players / 2 * block.sums)
    with_end = of_sum * (even.sign.sum(axis=1) ** 2 - n) / 2
    before = 16 * shared - 8 * end * of_sum + end**2 * of_sum * n * (n - 1) / 2
    with_target = with_pair - end * with_end[:, None]
    from_a = model.kernel @ a
    x, seen = model.axes.T @ block.x, model.axes.T @ block.seen
    target, own = model.axes.T @ with_target, model.axes.T @ from_a
    missing = 4 - end - a @ block.x
    undetermined = np.sum(x**2, axis=0) <= UNDETERMINED * len(block.x)
    nodes, weighted = [], np.zeros_like(x)
    for noise, scale, probability in model.noises():
        variance = (model.spread + noise)[:, None]
        M = target + noise * seen - own[:, None]
        shrunk = M / variance
        power = np.where(undetermined, 1.0, np.sum(x**2 / variance, axis=0))
        step = np.where(undetermined, 0.0, (missing - np.sum(x * shrunk, axis=0)) / power)
        free = shrunk + step * x / variance
        of_effects = a @ from_a + 2 * own @ free + model.spread @ free**2
        of_effects += before - 2 * (a @ with_target + np.sum(target * free, axis=0))
        squares = a @ a + np.sum(free**2, axis=0) + every - np.sum(block.seen**2, axis=0)
        values = [a @ even.e + model.along @ part for part in (shrunk, free)]
        nodes.append([*values, scale * np.maximum(of_effects, 0.0), scale * noise * squares])
        weighted += probability * free
    value, centre, of_effects, of_noise = np.swapaxes(np.array(nodes), 0, 1)
    influence = model.probability.sum() * a[:, None] + model.axes @ weighted
    likely = model.probability[model.probability > 0]
    return _ByModel(likely, value, centre, of_effects, of_noise, influence, undetermined)


def _common_error(even: _Even, v1: Vector) -> tuple[Vector, Vector]:
    """Variances that all interactions have alike, from v0 and from v1, (2,), and their degrees of freedom.

    Even parts have the levels of their sets, on average those of all sets. Where v1 has a value for each set,
    in the order of the sets' names, it has the noise of the same sets, most of which cancels. For values that
    are unrelated to the sets the variance of the difference is right too.
    """
    n, sets, ends = even.sign.shape[1], even.sets, even.endpoints
    variance, dof = ends.variance / (n - 1) ** 2, ends.dof.copy()
    if sets:
        apart = np.linalg.lstsq(even.functions, even.e, rcond=None)[0][-(sets - 1) :]
        level = 2 * np.append(apart, -apart.sum())
        paired = v1.shape == (sets,)
        of_sets = float(np.var(v1 - level if paired else level, ddof=1)) / sets / (n - 1) ** 2
        variance[1] = of_sets if paired else variance[1] + of_sets
        dof[1] = min(dof[1], sets - 1.0)
    return variance, dof


def _established(centre: Vector, half: Callable[[float], Vector], level: float) -> NDArray[np.bool_]:
    """Whose signs hold, all together at the level: Holm 1979. half: half-widths of intervals at a level."""
    signs = np.zeros(len(centre), dtype=np.bool_)
    while not signs.all():
        more = ~signs & (np.abs(centre) > half(1 - (1 - level) / np.count_nonzero(~signs)))
        if not more.any():
            break
        signs |= more
    return signs
