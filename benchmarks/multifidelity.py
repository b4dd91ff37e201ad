"""How much narrower intervals of an exact game get by a cheap one at equal cost: valuation/multifidelity.py.

    .venv/bin/python benchmarks/multifidelity.py          # equal cost, about three minutes on one core
    .venv/bin/python benchmarks/multifidelity.py regimes  # coverage where it is hard
    .venv/bin/python benchmarks/multifidelity.py stars    # coverage of the one whose worth shows in the exact game alone

Random games (tests/valuation/random_games.py): the exact one is g1, the cheap one correlates with it at rho over the design and costs a
twentieth. Both come with noise of a share of their SD. `alone` is the same estimator without a cheap game: what of the gain is not the
cheap game's. `bound` is the asymptotic one of `split`, at the correlation of the noisy odd parts that `pilot` would see.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apportion.errors import ValuationError
from apportion.valuation.coalitions import draw
from apportion.valuation.inputs import ends
from apportion.valuation.intervals import hc3
from apportion.valuation.multifidelity import assisted, combine, even, interval, leverage_pairs, relative_width

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "valuation"))
from random_games import game  # type: ignore[import-not-found]

Array = NDArray[np.float64]
RATIO = 20
BUDGETS = [(20, 48), (20, 60), (20, 80), (20, 120), (20, 200), (12, 36), (12, 48), (12, 64), (12, 96)]
FAMILY = {"alike": 0.9, "unrelated": 0.0, "opposite": -0.9}
STARS = {  # by how many SD players are worth more in the exact game, and what share of that the cheap one sees
    "none": ((), 0.0),
    "blind, .6": ((0.6,), 0.0),
    "blind, 3": ((3.0,), 0.0),
    "blind, 10": ((10.0,), 0.0),
    "blind, 30": ((30.0,), 0.0),
    "two, 10 and -7": ((10.0, -7.0), 0.0),
    "opposite, 10": ((10.0,), -1.0),
}


class Round:
    """An exact and a cheap game of unit SD over a design, their noise, and the exact Shapley values, of the first players with `stars`."""

    def __init__(
        self, n: int, rho: float, noise: float, off: float, rng: np.random.Generator, stars: tuple[float, ...] = (), seen: float = 0.0
    ) -> None:
        self.games, self.rho, self.noise, self.rng = (game(n, rng), game(n, rng)), rho, noise, rng
        Z = draw("leverage", n, min(600, 2**n - 2), 0)
        self.scale = [g.value(Z).std() for g in self.games]
        edges = np.array([[0] * n, [1] * n])
        self.more, self.seen = np.pad(np.array(stars, dtype=float), (0, n - len(stars))), seen
        self.v0, self.v1 = self.games[0].value(edges) / self.scale[0] + [-off, self.more.sum()]
        phi = self.games[0].shapley() / self.scale[0] + self.more
        self.truth = phi + (self.v1 - self.v0 - phi.sum()) / n

    def exact(self, Z: NDArray[np.bool_]) -> Array:
        return np.asarray(self.games[0].value(Z) / self.scale[0] + Z @ self.more + self.noise * self.rng.normal(size=len(Z)))

    def cheap(self, Z: NDArray[np.bool_]) -> Array:
        first, second = (g.value(Z) / s for g, s in zip(self.games, self.scale, strict=True))
        value = self.rho * first + np.sqrt(1 - self.rho**2) * second + self.seen * (Z @ self.more)
        return np.asarray(value + self.noise * self.rng.normal(size=len(Z)))


def judged(low: Array, high: Array, truth: Array) -> tuple[float, float, float]:
    return float(np.mean((low <= truth) & (truth <= high))), float(np.mean(high - low)), float(np.mean(((low + high) / 2 - truth) ** 2))


def both(r: Round, n: int, high: int, low: int, seed: int, apart: bool = False) -> Any:
    Z_low = draw("leverage", n, low, seed)
    Z = draw("leverage", n, high, seed + 10**6) if apart else Z_low[:high]
    y_low = r.cheap(Z_low)
    return combine(Z_low, y_low, Z, r.exact(Z), r.cheap(Z) if apart else y_low[:high], r.v0, r.v1)


def at_equal_cost(n: int, budget: int, noise: float, rho: float, reps: int) -> dict[str, Array]:
    """Coverage, width, squared error of each repetition; the budget is in exact coalitions."""
    rng, found = np.random.default_rng(0), {"hc3": [], "alone": [], "both": []}  # type: dict[str, list[Any]]
    seen = rho / (1 + noise**2)
    times = seen / np.sqrt(1 - seen**2) * np.sqrt(RATIO)  # as `split` does, also where it would rather leave the cheap game alone
    high = even(budget / (1 + times / RATIO))
    low = even((budget - high) * RATIO)
    for seed in range(reps):
        r, Z = Round(n, rho, noise, 0.0, rng), draw("leverage", n, budget, seed + 2 * 10**6)
        y, pairs = r.exact(Z), leverage_pairs(Z)
        try:
            found["hc3"].append(judged(*hc3(Z, y, r.v0, r.v1), r.truth))
        except ValuationError:
            found["hc3"].append((np.nan,) * 3)
        a, b = interval(assisted(pairs, pairs.odd(y)), ends(r.v0, r.v1), 0.95), both(r, n, high, low, seed)
        found["alone"].append(judged(a.low, a.high, r.truth))
        found["both"].append(judged(b.low, b.high, r.truth))
    print(f"{n:3} {budget:4} {noise:5} {rho:5} {high:5} {low:5}", end="")
    return {k: np.array(v) for k, v in found.items()}


def equal_cost() -> None:
    print("  n cost noise   rho exact cheap  hc3: cover width  alone: cover width  both: cover width | width/hc3 width/alone bound")
    for rho in (0.9, 0.97):
        for noise in (0.1, 0.5):
            for n, budget in BUDGETS:
                found = at_equal_cost(n, budget, noise, rho, 200)
                cover = {k: np.nanmean(v[:, 0]) for k, v in found.items()}
                width = {k: np.nanmedian(v[:, 1]) for k, v in found.items()}
                for k in found:
                    print(f"  {cover[k]:10.3f} {width[k]:6.3f}", end="")
                bound = relative_width(rho / (1 + noise**2), 1 / RATIO)
                print(f"   | {width['both'] / width['hc3']:9.2f} {width['both'] / width['alone']:11.2f} {bound:5.2f}", flush=True)


def regimes() -> None:
    print("  n pairs noise      cheap v0 off apart  cover width  error/se")
    for n in (20, 12):
        for J in (8, 12, 20, 30, 50, 100):
            for noise in (0.1, 0.5):
                for name, off, apart in [("alike", 0, 0), ("unrelated", 0, 0), ("opposite", 0, 0), ("alike", 20, 0), ("alike", 0, 1)]:
                    rng, out = np.random.default_rng(J), []
                    for seed in range(100):
                        r = Round(n, FAMILY[name], noise, off, rng)
                        found = both(r, n, 2 * J, 800, seed, bool(apart))
                        out.append((*judged(found.low, found.high, r.truth), np.mean(found.se**2)))
                    cover, width, error, variance = np.mean(out, axis=0)
                    print(
                        f"{n:3} {J:5} {noise:5} {name:>10} {off:6} {apart:5} {cover:6.3f} {width:5.2f} {np.sqrt(error / variance):9.2f}",
                        flush=True,
                    )


def stars(reps: int = 200) -> None:
    """Coverage and median width of the player who stands out (of two, the one covered less often), and of the others together."""
    print("  n pairs noise             star  star: cover  width  others: cover  width")
    for n in (20, 10, 8):
        for J in (8, 12, 20, 30, 50):
            for noise in (0.1, 0.5):
                for name, (worth, seen) in STARS.items():
                    rng, held, width = np.random.default_rng([n, J]), [], []
                    for seed in range(reps):
                        r = Round(n, 0.9, noise, 0.0, rng, worth, seen)
                        c = both(r, n, 2 * J, min(400, 2**n - 2), seed)
                        held.append((c.low <= r.truth) & (r.truth <= c.high))
                        width.append(c.high - c.low)
                    k = max(1, len(worth))
                    cover, wide = np.mean(held, axis=0), np.median(width, axis=0)
                    one, rest = (cover[:k].min(), wide[:k].max()), (cover[k:].mean(), np.median(wide[k:]))
                    print(f"{n:3} {J:5} {noise:5} {name:>16} {one[0]:12.3f} {one[1]:6.2f} {rest[0]:14.3f} {rest[1]:6.2f}", flush=True)


if __name__ == "__main__":
    {"regimes": regimes, "stars": stars}.get(" ".join(sys.argv[1:]), equal_cost)()
