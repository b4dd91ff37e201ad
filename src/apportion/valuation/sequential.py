"""Stopping when credits are known well enough, with the chance of an error spent over several looks.

Sources: Lan & DeMets 1983, Discrete sequential boundaries for clinical trials; the boundaries by the
recursive integration of Armitage, McPherson & Rowe 1969, Repeated significance tests on accumulating data, as
in Jennison & Turnbull 2000, Group sequential methods, chapters 7 and 19. See docs/methods.md, section
"Intervals and ranks".
"""

from collections.abc import Callable, Sequence
from numbers import Real
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.stats import norm

from apportion.errors import ValuationError
from apportion.valuation.coalitions import Vector
from apportion.valuation.inputs import checked_endpoints, finite_array, fraction
from apportion.valuation.intervals import hc3
from apportion.valuation.ranks import Order, order

MAX_BOUND = 8.0  # standard errors: beyond them lies a chance of 1e-15, which is less than rounding error
MAX_LEVEL = 1 - 1e-12  # the highest level at which anything is claimed
NODES = 10  # of the integration, for every two standard deviations of a step
# Smallest distance of two looks, as a share of the coalitions so far: closer looks would need very many
# nodes.
MIN_SPACING = 1e-3


def _obrien_fleming(t: Vector, alpha: float) -> Vector:
    """Early looks spend hardly any chance of an error, so the last has nearly the full level (Lan & DeMets
    1983, alpha_1, per side)."""
    return np.asarray(4 * norm.sf(norm.isf(alpha / 4) / np.sqrt(t)), dtype=np.float64)


def _pocock(t: Vector, alpha: float) -> Vector:
    """Early looks spend much of the chance of an error, which helps where an early stop is likely (Lan &
    DeMets 1983, alpha_2)."""
    return np.asarray(alpha * np.log1p((np.e - 1) * t), dtype=np.float64)


SPENDING: dict[str, Callable[[Vector, float], Vector]] = {
    "obrien_fleming": _obrien_fleming,
    "pocock": _pocock,
}
"""The chance of an error spent up to the share t (k,) of all information, out of alpha."""


def spent(
    looks: Sequence[int], level: float = 0.95, spending: str = "obrien_fleming", *, most: int | None = None
) -> Vector:
    """The chance of an error (k,) that each look may add.

    They sum to 1 - level where the last look is at `most`. `looks` are the numbers of coalitions evaluated at
    each look, increasing. `most` is the largest possible number of coalitions (the last look, if not given).
    If each look makes its claims at level 1 - spent, the claims of all looks hold together at `level`,
    however they depend on each other; this is meant for `ranks.order`. Later looks do not change earlier
    ones, so they may be chosen as the evaluation proceeds, but not by what earlier looks showed.
    Raises ValuationError for an unknown spending function, a level outside 0..1 and looks that do not
    increase up to `most`.
    """
    if not isinstance(spending, str) or spending not in SPENDING:
        raise ValuationError(f"found spending = {spending!r}, expected one of {', '.join(SPENDING)}")
    cumulative = SPENDING[spending](_information_shares(looks, most), 1 - fraction("level", level))
    return np.diff(cumulative, prepend=0.0)


def levels(
    looks: Sequence[int], level: float = 0.95, spending: str = "obrien_fleming", *, most: int | None = None
) -> Vector:
    """The nominal level (k,) for the intervals of each look.

    With these, one player's intervals at all looks hold together at `level`. They are those of a Brownian
    motion seen at the share of information of each look. Arguments and errors as in `spent`.
    """
    chances = spent(looks, level, spending, most=most)
    return np.asarray(1 - 2 * norm.sf(_bounds(_information_shares(looks, most), chances)), dtype=np.float64)


class Look(NamedTuple):
    """What one look at the coalitions evaluated so far shows."""

    low: Vector  # (n,) lower bound of each player's interval, at the look's level of `levels`
    high: Vector  # (n,) upper bound
    order: Order  # at the look's level of 1 - `spent`
    gain: float  # v1 - v0, in units of the property


class Decision(NamedTuple):
    """Whether to stop evaluating coalitions, and why."""

    stop: bool
    reason: str


def look(
    Z: ArrayLike,
    y: ArrayLike,
    v0: ArrayLike,
    v1: ArrayLike,
    looks: Sequence[int],
    level: float = 0.95,
    spending: str = "obrien_fleming",
    *,
    most: int,
    sets: ArrayLike | None = None,
    errors: Vector | None = None,
) -> Look:
    """Intervals and order from the coalitions so far.

    This look is the last of `looks` and spends what that one may. Arguments and errors as in `intervals.hc3`
    and `spent`.
    """
    nominal = levels(looks, level, spending, most=most)[-1]
    chance = spent(looks, level, spending, most=most)[-1]
    low, high = hc3(Z, y, v0, v1, float(nominal), sets, errors)
    established = order(Z, y, v0, v1, float(min(1 - chance, MAX_LEVEL)), sets=sets, errors=errors)
    return Look(low, high, established, checked_endpoints(v0, v1).gain)


def decide(look: Look, rule: str, target: float) -> Decision:
    """Whether the look fulfils the stopping rule. `rule` is a name in RULES, `target` its number.

    Raises ValuationError for an unknown rule and for a target that the rule cannot have.
    """
    check(rule, target, len(look.low))
    return RULES[rule](look, target)


def check(rule: str, target: float, n: int) -> None:
    """Raises ValuationError for an unknown rule and for a target that it cannot have among n players."""
    if not isinstance(rule, str) or rule not in RULES:
        raise ValuationError(f"found rule = {rule!r}, expected one of {', '.join(RULES)}")
    if not isinstance(target, Real):
        raise ValuationError(f"found target = {target!r}, expected a number")
    if rule.startswith("top") and not (1 <= target < n and target == int(target)):
        raise ValuationError(
            f"found target = {target}, expected a whole number from 1 to {n - 1} for n = {n} players"
        )
    if not target > 0:
        raise ValuationError(f"found target = {target}, expected a width above 0")


def _width(look: Look, target: float) -> Decision:
    """No interval is wider than `target`, in units of the property."""
    widest = float(np.max(look.high - look.low))
    return Decision(widest <= target, f"the widest interval is {widest:.4g}, expected at most {target:.4g}")


def _share(look: Look, target: float) -> Decision:
    """No interval is wider than the share `target` of |v1 - v0|."""
    if look.gain:
        stop, reason = _width(look, target * abs(look.gain))
    else:
        stop, reason = False, "v1 - v0 is 0, so a share of it is not defined"
    return Decision(stop, f"{reason}: {target:.4g} of |v1 - v0|")


def _top_set(look: Look, target: float) -> Decision:
    """It is established which `target` players have the largest credits, though not their order."""
    known = int(np.sum(look.order.highest <= target))
    return Decision(known == target, f"{known} of the first {target:.0f} are established, in any order")


def _top_order(look: Look, target: float) -> Decision:
    """It is established which player has each of the first `target` places."""
    settled = look.order.lowest == look.order.highest
    known = int(np.sum(settled & (look.order.highest <= target)))
    return Decision(known == target, f"{known} of the first {target:.0f} places are established")


RULES: dict[str, Callable[[Look, float], Decision]] = {
    "width": _width,
    "share": _share,
    "top_set": _top_set,
    "top_order": _top_order,
}
"""When to stop. No rule depends on whether an interval contains 0 or on which player is first."""


def _information_shares(looks: Sequence[int], most: int | None) -> Vector:
    """The share of information at each look, (k,).

    Raises ValuationError for looks that are not as in `spent`.
    """
    try:
        at = np.asarray(looks, dtype=np.float64)
    except (TypeError, ValueError):
        at = np.empty(0)
    if at.ndim != 1 or at.size == 0 or not np.isfinite(at).all():
        raise ValuationError(f"found looks = {looks!r}, expected numbers of coalitions")
    end = float(at[-1] if most is None else finite_array("most", most))
    if not (at[0] > 0 and np.all(np.diff(at) >= MIN_SPACING * at[1:]) and at[-1] <= end < np.inf):
        raise ValuationError(
            f"found looks = {looks!r} of at most {end:.0f} coalitions, expected them to increase from above "
            f"0 to that, each by {MIN_SPACING:.1%} or more"
        )
    return at / end


def _bounds(t: Vector, chances: Vector) -> Vector:
    """Bounds (k,) on |z| of a Brownian motion seen at the times t.

    The motion first passes the bounds at a look with the chance of that look.
    """
    bounds = np.empty(len(t))
    steps = np.sqrt(np.diff(t, prepend=0.0))
    # The density of the position of the motion, if it has passed no bound yet.
    nodes, density = np.zeros(1), np.ones(1)
    for k, (step, chance) in enumerate(zip(steps, chances, strict=True)):
        bounds[k] = _bound(nodes, density, step, np.sqrt(t[k]), chance)
        if k + 1 < len(t):
            nodes, density = _propagated(nodes, density, step, bounds[k] * np.sqrt(t[k]), steps[k + 1])
    return bounds


def _bound(nodes: Vector, density: Vector, step: float, scale: float, chance: float) -> float:
    def excess(bound: float) -> float:
        beyond = norm.sf((bound * scale - nodes) / step) + norm.sf((bound * scale + nodes) / step)
        return float(density @ beyond - chance)

    return MAX_BOUND if excess(MAX_BOUND) >= 0 else float(brentq(excess, 0.0, MAX_BOUND, xtol=1e-12))


def _propagated(
    nodes: Vector, density: Vector, step: float, edge: float, next_step: float
) -> tuple[Vector, Vector]:
    """Nodes between the bounds and the mass at each, by Gauss-Legendre integration on panels.

    The nodes are close enough for this step and the next.
    """
    panels = 1 + int(edge / min(step, next_step))
    x, weight = np.polynomial.legendre.leggauss(NODES)
    to = np.ravel((2 * np.arange(panels)[:, None] + 1 + x) / panels - 1) * edge
    mass = (
        np.tile(weight, panels) * (edge / panels / step) * (norm.pdf((to[:, None] - nodes) / step) @ density)
    )
    return to, mass
