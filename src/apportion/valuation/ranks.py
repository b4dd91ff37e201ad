"""Which contributor is surely ahead of which: statements about order that hold all together, and the ranks they leave open.

Simultaneous by the largest of all studentised differences, simulated from the estimated covariance of the credits, and stepwise:
Mogstad, Romano, Shaikh & Wilhelm, Inference for ranks with applications to mobility across neighbourhoods and academic achievement
across countries, 2024, section 3; Romano & Wolf, Exact and approximate stepdown methods for multiple hypothesis testing, 2005."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from apportion.errors import ValuationError
from apportion.valuation.coalitions import Vector, whole
from apportion.valuation.inputs import reach, share
from apportion.valuation.intervals import jackknife

DRAWS = 2000
BEYOND = 20  # of the draws, at least, must lie beyond the level for it to be read off them
MOST_SIMULATED = 600  # players: more have so many differences that simulation takes long and Bonferroni's bound costs little
TIE = 1e-9  # of the largest value: a smaller difference between credits is rounding
NOTHING = 1e-200  # can be divided by
CANCELLED = 1e-14  # of the variances of two credits, what rounding leaves of the variance of their difference


class Order(NamedTuple):
    """Credits with what is established of their order; `ahead` holds as a whole at the level, and so do all of low..high.

    "Ahead" means a larger credit: of a property that is better when low, hand in its negative or read `ahead` transposed."""

    phi: Vector  # (n,) credits
    low: Vector  # (n,) of a band that holds every credit at once; -inf where nothing is known of its error
    high: Vector  # (n,)
    ahead: NDArray[np.bool_]  # (n, n) [i, j]: player i's credit is surely larger than player j's
    lowest: NDArray[np.intp]  # (n,) the best rank that is possible, from 1
    highest: NDArray[np.intp]  # (n,) and the worst, to n
    level: float


def order(
    Z: ArrayLike,
    y: ArrayLike,
    v0: ArrayLike,
    v1: ArrayLike,
    level: float = 0.95,
    *,
    seed: int = 0,
) -> Order:
    """What `leverage` coalitions establish about the order of the credits. Arguments, units and errors as in `intervals.hc3`.

    The chance that any statement in `ahead` is false is at most 1 - level, and so is the chance that any rank lies outside
    lowest..highest; the band is another statement, of the same level. `seed` is of the simulation alone, which more than 600
    players and levels above 0.99 do without: they have Bonferroni's bound, which claims less."""
    if (seed := whole("seed", seed)) < 0:
        raise ValuationError(f"found seed = {seed}, expected 0 or more")
    found = jackknife(Z, y, v0, v1)
    tie = TIE * float(np.abs([*np.asarray(y, dtype=np.float64), *found.ends[:2]]).max())
    common = Common(found.slopes * np.sqrt(found.ends.variance), found.ends.spare)
    return of_errors(found.phi, found.shift, found.spare, level, common=common, tie=tie, seed=seed)


class Common(NamedTuple):
    """Errors of v0 and v1, which all credits have in common but for what unpaired coalitions make of them.

    Their share of the band is added in squares, as in `inputs.reach`: of six players it holds .943 at worst at a level of .95."""

    errors: Vector  # (n, 2)
    spare: Vector  # (2,) their degrees of freedom

    def of(self, players: NDArray[np.bool_]) -> "Common":
        return self._replace(errors=self.errors[players])


def of_errors(
    phi: Vector, errors: Vector, spare: Vector, level: float = 0.95, *, common: Common | None = None, tie: float = 0.0, seed: int = 0
) -> Order:
    """The order of credits (n,) whose covariance is errors @ errors.T, errors (n, sources), with `spare` (n,) degrees of freedom.

    `common` adds the errors of v0 and v1. Differences up to `tie` are none. A player with an infinite error takes part in no statement.
    Raises ValuationError for other shapes, for what is not a number and for a level outside 0..1."""
    level = share("level", level)
    if phi.ndim != 1 or errors.ndim != 2 or not phi.shape == spare.shape == errors.shape[:1]:
        shapes = f"{phi.shape}, {errors.shape} and {spare.shape}"
        raise ValuationError(f"found credits, errors and degrees of freedom of shapes {shapes}, expected (n,), (n, sources) and (n,)")
    if not np.isfinite(phi).all() or np.isnan(errors).any() or not (spare > 0).all():
        raise ValuationError("found credits, errors or degrees of freedom that are no numbers, expected finite, any and above 0")
    n, known = len(phi), np.asarray(np.isfinite(errors).all(axis=1))
    ahead, half = np.zeros((n, n), dtype=bool), np.full(n, np.inf)
    if known.any():
        pairs, ends = errors[known], (common or Common(np.zeros((n, 2)), np.full(2, np.inf))).of(known)
        draws = _draws(pairs, spare[known], seed) if n <= MOST_SIMULATED and (1 - level) * DRAWS >= BEYOND else None
        half[known] = np.hypot(
            _band(pairs, spare[known], draws, level), reach(level, np.zeros(len(pairs)), spare[known], ends.errors**2, ends.spare)
        )
        surely = _ahead(phi[known], pairs, spare[known], ends, draws, level, max(tie, NOTHING))
        ahead[np.ix_(known, known)] = _with_what_follows(surely)
    return Order(phi, phi - half, phi + half, ahead, 1 + ahead.sum(axis=0), n - ahead.sum(axis=1), level)


def rank_statement(found: Order, i: int, j: int, names: Sequence[str]) -> str:
    """In words, for reports: what is established about players i and j, by their names (n,)."""
    n = len(found.phi)
    if not (0 <= whole("i", i) < n and 0 <= whole("j", j) < n and len(names) == n):
        raise ValuationError(f"found players {i} and {j} and {len(names)} names, expected two from 0 to {n - 1} and {n} names")
    if found.ahead[j, i]:
        i, j = j, i
    if found.ahead[i, j]:
        return f"{names[i]} before {names[j]} holds at {100 * found.level:.4g} %, together with all other such statements"
    return f"the order of {names[i]} and {names[j]} is not established at {100 * found.level:.4g} %"


class Draws(NamedTuple):
    """Errors of the credits as chance might have made them: multivariate t, so that one poor estimate of scale shifts them all."""

    x: Vector  # (n, DRAWS)
    spare: float  # their degrees of freedom, harmonic mean of the credits': tails are heavier by about one over them


def _draws(errors: Vector, spare: Vector, seed: int) -> Draws:
    rng = np.random.default_rng(seed)
    common = float(1.0 / np.mean(1.0 / spare))
    scale = np.sqrt(rng.chisquare(common, size=DRAWS) / common)
    return Draws(errors @ (rng.standard_normal((errors.shape[1], DRAWS)) / scale), common)


def _band(errors: Vector, spare: Vector, draws: Draws | None, level: float) -> Vector:
    """Half-widths (n,) that hold for all credits at once."""
    se = np.sqrt(np.sum(errors**2, axis=1))
    if draws is None:
        return np.asarray(student.isf((1 - level) / (2 * len(se)), spare) * se, dtype=np.float64)
    studentised = np.divide(np.abs(draws.x), se[:, None], out=np.zeros_like(draws.x), where=se[:, None] > 0)
    return np.asarray(student.isf(_tail(studentised.max(axis=0), draws.spare, level), spare) * se, dtype=np.float64)


def _tail(largest: Vector, spare: float, level: float) -> float:
    """The one-sided chance which, allowed to every single statement, keeps the level for all of them."""
    return float(student.sf(np.quantile(largest, level, method="higher"), spare))


def _ahead(phi: Vector, errors: Vector, spare: Vector, ends: Common, draws: Draws | None, level: float, tie: float) -> NDArray[np.bool_]:
    """Which one-sided hypotheses phi_i <= phi_j are rejected, (n, n) bool.

    Every difference has the chance that is allowed turned into a bound by its own degrees of freedom, the fewer of the two: with
    one bound for all, the statements of few degrees of freedom would be those that fail. What is rejected need not be guarded
    against any longer, so the bound is lowered until nothing more falls (Romano & Wolf, algorithm 3.1)."""
    n, variance, fewer = len(phi), _of_differences(errors), np.minimum(spare[:, None], spare)
    of_ends = (ends.errors[:, None] - ends.errors) ** 2
    se, lead, hypotheses = np.maximum(np.sqrt(variance), tie), phi[:, None] - phi, ~np.eye(n, dtype=bool)

    def rejected(chance: float) -> NDArray[np.bool_]:
        # Of differences without error the least is significant, so what is rounding is set apart by itself.
        return np.asarray(lead > np.maximum(reach(1 - 2 * chance, variance, fewer, of_ends, ends.spare), tie))

    if draws is None:
        return hypotheses & rejected((1 - level) / max(1, n * (n - 1)))
    standing = hypotheses
    while standing.any():
        falls = standing & rejected(_tail(_largest(draws.x, se, standing), draws.spare, level))
        if not falls.any():
            break
        standing = standing & ~falls
    return np.asarray(hypotheses & ~standing)


def _with_what_follows(ahead: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """With a before b and b before c, also a before c: it is true whenever they are."""
    steps = ahead.astype(np.float32)
    further = ahead | (steps @ steps > 0)
    return ahead if np.array_equal(further, ahead) else _with_what_follows(further)


def _of_differences(errors: Vector) -> Vector:
    """Variances of all differences, (n, n)."""
    product = errors @ errors.T
    both = np.add.outer(np.diag(product), np.diag(product))
    return np.asarray(np.maximum(both - 2 * product, 0.0) + CANCELLED * both, dtype=np.float64)


def _largest(x: Vector, se: Vector, standing: NDArray[np.bool_]) -> Vector:
    """Of each draw the largest studentised difference among the hypotheses still standing, (DRAWS,); a row at a time, for memory."""
    largest = np.full(x.shape[1], -np.inf)
    for i in np.flatnonzero(standing.any(axis=1)):
        np.maximum(largest, np.max((x[i] - x[standing[i]]) / se[i, standing[i], None], axis=0), out=largest)
    return largest
