"""Stopping when the credits are known well enough, without paying for the looks: spending the chance of an error over time.

Lan & DeMets, Discrete sequential boundaries for clinical trials, Biometrika 1983; the boundaries by the recursive integration of
Armitage, McPherson & Rowe, Repeated significance tests on accumulating data, JRSS A 1969, as in Jennison & Turnbull, Group sequential
methods, 2000, chapters 7 and 19."""

from collections.abc import Callable, Sequence
from numbers import Real
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.stats import norm

from apportion.errors import ValuationError
from apportion.valuation.coalitions import Vector
from apportion.valuation.inputs import ends, finite, share
from apportion.valuation.intervals import hc3
from apportion.valuation.ranks import Order, order

FARTHEST = 8.0  # standard errors: beyond them lies a chance of 1e-15, less than rounding leaves
CERTAIN = 1 - 1e-12  # the highest level anything is claimed at
NODES = 10  # of the integration, for every two standard deviations of a step
CLOSEST = 1e-3  # two looks, in shares of the coalitions so far: closer ones would take the integration very many nodes


def _obrien_fleming(t: Vector, alpha: float) -> Vector:
    """Next to nothing early: the last look is nearly as good as the only one (each side as in Lan & DeMets 1983, alpha_1)."""
    return np.asarray(4 * norm.sf(norm.isf(alpha / 4) / np.sqrt(t)), dtype=np.float64)


def _pocock(t: Vector, alpha: float) -> Vector:
    """Much early, for those who hope to stop soon (Lan & DeMets 1983, alpha_2)."""
    return np.asarray(alpha * np.log1p((np.e - 1) * t), dtype=np.float64)


SPENDING: dict[str, Callable[[Vector, float], Vector]] = {"obrien_fleming": _obrien_fleming, "pocock": _pocock}
"""The chance of an error spent up to the share t (k,) of all information, out of alpha."""


def spent(looks: Sequence[int], level: float = 0.95, spending: str = "obrien_fleming", *, most: int | None = None) -> Vector:
    """The chance of an error (k,) that each look may add; they sum to 1 - level where the last look is the `most` there may be.

    `looks` are the numbers of coalitions evaluated at each look, increasing, `most` the number there may be at all (the last look,
    if not given). What is claimed at level 1 - spent of its look holds at all looks together whatever joins them: meant for
    `ranks.order`. Later looks change nothing about earlier ones, so they may be chosen as one goes, but not by what was seen.
    Raises ValuationError for an unknown spending function, a level outside 0..1 and looks that do not increase up to `most`."""
    if not isinstance(spending, str) or spending not in SPENDING:
        raise ValuationError(f"found spending = {spending!r}, expected one of {', '.join(SPENDING)}")
    return np.diff(SPENDING[spending](_shares(looks, most), 1 - share("level", level)), prepend=0.0)


def levels(looks: Sequence[int], level: float = 0.95, spending: str = "obrien_fleming", *, most: int | None = None) -> Vector:
    """The nominal level (k,) for the intervals of each look, so that one player's intervals at all looks together keep `level`.

    As for a Brownian motion seen at the share of information of each look. Arguments and errors as in `spent`."""
    chances = spent(looks, level, spending, most=most)
    return np.asarray(1 - 2 * norm.sf(_bounds(_shares(looks, most), chances)), dtype=np.float64)


class Look(NamedTuple):
    """What one look at the coalitions so far shows."""

    low: Vector  # (n,) each player's interval, at the look's level of `levels`
    high: Vector  # (n,)
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
) -> Look:
    """Intervals and order from the coalitions so far, at what the last of `looks`, which is this one, may spend.

    Arguments and errors as in `intervals.hc3` and `spent`."""
    nominal, chance = levels(looks, level, spending, most=most)[-1], spent(looks, level, spending, most=most)[-1]
    low, high = hc3(Z, y, v0, v1, float(nominal))
    return Look(low, high, order(Z, y, v0, v1, float(min(1 - chance, CERTAIN))), ends(v0, v1).gain)


def decide(look: Look, rule: str, target: float) -> Decision:
    """Whether what was asked for is reached: `rule` is a name in RULES, `target` its number.

    Raises ValuationError for an unknown rule and for a target that it cannot have."""
    check(rule, target, len(look.low))
    return RULES[rule](look, target)


def check(rule: str, target: float, n: int) -> None:
    """Raises ValuationError for an unknown rule and for a target that it cannot have among n players."""
    if not isinstance(rule, str) or rule not in RULES:
        raise ValuationError(f"found rule = {rule!r}, expected one of {', '.join(RULES)}")
    if not isinstance(target, Real):
        raise ValuationError(f"found target = {target!r}, expected a number")
    if rule.startswith("top") and not (1 <= target < n and target == int(target)):
        raise ValuationError(f"found target = {target}, expected a whole number from 1 to {n - 1} for n = {n} players")
    if not target > 0:
        raise ValuationError(f"found target = {target}, expected a width above 0")


def _width(look: Look, target: float) -> Decision:
    """No interval is wider than `target`, in units of the property."""
    widest = float(np.max(look.high - look.low))
    return Decision(widest <= target, f"the widest interval is {widest:.4g}, asked for at most {target:.4g}")


def _share(look: Look, target: float) -> Decision:
    """No interval is wider than the share `target` of |v1 - v0|."""
    stop, reason = _width(look, target * abs(look.gain)) if look.gain else Decision(False, "v1 - v0 is 0, of which there is no share")
    return Decision(stop, f"{reason}: {target:.4g} of |v1 - v0|")


def _top_set(look: Look, target: float) -> Decision:
    """Which `target` players have the largest credits is established, though not their order."""
    known = int(np.sum(look.order.highest <= target))
    return Decision(known == target, f"{known} of the first {target:.0f} are established, in whatever order")


def _top_order(look: Look, target: float) -> Decision:
    """The first `target` places are established, each by itself."""
    settled = look.order.lowest == look.order.highest
    known = int(np.sum(settled & (look.order.highest <= target)))
    return Decision(known == target, f"{known} of the first {target:.0f} places are established")


RULES: dict[str, Callable[[Look, float], Decision]] = {"width": _width, "share": _share, "top_set": _top_set, "top_order": _top_order}
"""When to stop. None of them asks whether an interval leaves out 0 or who comes first: looks are paid for whatever is asked of them."""


def _shares(looks: Sequence[int], most: int | None) -> Vector:
    """The share of information at each look, (k,), or a ValuationError."""
    try:
        at = np.asarray(looks, dtype=np.float64)
    except (TypeError, ValueError):
        at = np.empty(0)
    if at.ndim != 1 or at.size == 0 or not np.isfinite(at).all():
        raise ValuationError(f"found looks = {looks!r}, expected numbers of coalitions")
    end = float(at[-1] if most is None else finite("most", most))
    if not (at[0] > 0 and np.all(np.diff(at) >= CLOSEST * at[1:]) and at[-1] <= end < np.inf):
        raise ValuationError(
            f"found looks = {looks!r} of at most {end:.0f} coalitions, expected them to increase from above 0 to that, "
            f"each by {CLOSEST:.1%} or more"
        )
    return at / end


def _bounds(t: Vector, chances: Vector) -> Vector:
    """Bounds (k,) on |z| that a Brownian motion, seen at the times t, first passes at each look with these chances."""
    bounds, steps = np.empty(len(t)), np.sqrt(np.diff(t, prepend=0.0))
    nodes, density = np.zeros(1), np.ones(1)  # where it stands if it has passed no bound yet, and how probably
    for k, (step, chance) in enumerate(zip(steps, chances, strict=True)):
        bounds[k] = _bound(nodes, density, step, np.sqrt(t[k]), chance)
        if k + 1 < len(t):
            nodes, density = _onward(nodes, density, step, bounds[k] * np.sqrt(t[k]), steps[k + 1])
    return bounds


def _bound(nodes: Vector, density: Vector, step: float, scale: float, chance: float) -> float:
    def excess(bound: float) -> float:
        beyond = norm.sf((bound * scale - nodes) / step) + norm.sf((bound * scale + nodes) / step)
        return float(density @ beyond - chance)

    return FARTHEST if excess(FARTHEST) >= 0 else float(brentq(excess, 0.0, FARTHEST, xtol=1e-12))


def _onward(nodes: Vector, density: Vector, step: float, edge: float, next_step: float) -> tuple[Vector, Vector]:
    """Nodes between the bounds, close enough for this step and the next, and the mass at each: Gauss-Legendre on panels."""
    panels = 1 + int(edge / min(step, next_step))
    x, weight = np.polynomial.legendre.leggauss(NODES)
    to = np.ravel((2 * np.arange(panels)[:, None] + 1 + x) / panels - 1) * edge
    return to, np.tile(weight, panels) * (edge / panels / step) * (norm.pdf((to[:, None] - nodes) / step) @ density)
