"""What credits cost when a contributor joins: valuation/joins.py against a fresh design.

    .venv/bin/python benchmarks/joins.py         # one newcomer at n = 20, about three minutes on one core
    .venv/bin/python benchmarks/joins.py others  # several newcomers, a second join, a join after a leave

Random games (tests/valuation/random_games.py) with noise of a share of their SD. Fresh: `leverage` and `hc3` from m evaluations of all
players. Joined: m old evaluations, paid for before, and `share` m new ones.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apportion.valuation.coalitions import draw
from apportion.valuation.intervals import hc3
from apportion.valuation.joins import EVALUATE, Round, credits, drop, extend, filled, first

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "valuation"))
from random_games import game  # type: ignore[import-not-found]

Array = NDArray[np.float64]
SHARES = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)


class World:
    """A game of n players of unit SD over a design, of which at first only some are there."""

    def __init__(self, n: int, noise: float, rng: np.random.Generator) -> None:
        self.n, self.noise, self.rng, self.game = n, noise, rng, game(n, rng)
        self.scale = self.game.value(draw("leverage", n, 600, 0)).std()

    def value(self, Z: NDArray[np.bool_]) -> Array:
        """Of coalitions of the first players, without noise."""
        return np.asarray(self.game.value(np.pad(Z, ((0, 0), (0, self.n - Z.shape[1])))) / self.scale)

    def measured(self, Z: NDArray[np.bool_]) -> Array:
        return np.asarray(self.value(Z) + self.noise * self.rng.normal(size=len(Z)))

    def everybody(self, n: int) -> float:
        return float(self.value(np.ones((1, n), dtype=bool))[0])

    def truth(self) -> Array:
        return np.asarray(self.game.shapley() / self.scale)

    def joined(self, before: Round, players: int, seed: int, rows: int) -> tuple[Round, int]:
        """The round of so many more players on the first rows of the one before, and what it cost."""
        design = extend(before.design, players, seed)
        keep = 2 * (2**players - 1) + rows
        design = extend(first(before.design.Z[:rows]), players, seed) if keep < len(design.Z) else design
        new = design.Z[design.source == EVALUATE]
        y = filled(design, before.y, before.v1, self.measured(new))
        return Round(design, y, self.everybody(design.Z.shape[1])), len(new)


def judged(low: Array, high: Array, truth: Array) -> tuple[float, float, float]:
    return float(np.mean((low <= truth) & (truth <= high))), float(np.mean(high - low)), float(np.mean(((low + high) / 2 - truth) ** 2))


def one_newcomer(n: int, m: int, noise: float, reps: int) -> None:
    rng = np.random.default_rng(0)
    found: dict[float, list[tuple[float, float, float]]] = {share: [] for share in (1.0, *SHARES)}
    for seed in range(reps):
        world = World(n + 1, noise, rng)
        Z, v1 = draw("leverage", n + 1, m, seed + 10**6), world.everybody(n + 1)
        found[1.0].append(judged(*hc3(Z, world.measured(Z), 0.0, v1), world.truth()))
        old = first(draw("leverage", n, m, seed))
        before = Round(old, world.measured(old.Z), world.everybody(n))
        for share in SHARES:
            now, cost = world.joined(before, 1, seed, 2 * (round(share * m) - 1))
            assert cost <= share * m
            c = credits([before, now], 0.0)
            found[share].append(judged(c.low, c.high, world.truth()))
    fresh = np.array(found[1.0])
    for share, values in found.items():
        cover, width, error = np.mean(values, axis=0)[0], np.median(values, axis=0)[1], np.mean(values, axis=0)[2]
        ratio, closer = width / np.median(fresh[:, 1]), np.sqrt(error / fresh[:, 2].mean())
        print(
            f"{m:4} {noise:5} {'fresh' if share == 1 else f'{share:.2f}':>6} {cover:7.3f} {width:7.3f} {ratio:7.3f} {closer:7.3f}",
            flush=True,
        )


def others(reps: int = 200) -> None:
    print("n = 12 at first, m = 200, noise .3; mean coverage, median width, evaluations")
    for name in ("two at once", "one, then one", "leave, then join", "leave alone"):
        rng, values, costs = np.random.default_rng(1), [], []
        for seed in range(reps):
            low, high, truth, cost = scenario(name, seed, rng)
            values.append(judged(low, high, truth))
            costs.append(cost)
        cover, wide, _ = np.mean(values, axis=0)
        print(f"{name:18} cover {cover:.3f} width {wide:.3f} evaluations {np.mean(costs):.0f}")


def scenario(name: str, seed: int, rng: np.random.Generator) -> tuple[Array, Array, Array, int]:
    """One repetition of a case of `others`. The leaver is the last player of a game of its own, so the rest keep their numbers."""
    n, m, cost = 12, 200, 0
    world = World(n + (2 if name in ("two at once", "one, then one") else 1 if "leave, then" in name else 0), 0.3, rng)
    if "leave" in name:
        wider = draw("leverage", n + 1, m, seed)
        old = drop(first(wider), [n])
        missing = old.Z[old.source == EVALUATE]
        y = filled(old, world.measured(wider[:, :n]), 0.0, world.measured(missing))
        cost += len(missing)
    else:
        old = first(draw("leverage", n, m, seed))
        y = world.measured(old.Z)
    rounds = [Round(old, y, world.everybody(n))]
    for players in {"two at once": [2], "one, then one": [1, 1], "leave, then join": [1], "leave alone": []}[name]:
        now, more = world.joined(rounds[-1], players, seed, 10**9)
        rounds.append(now)
        cost += more
    c = credits(rounds, 0.0)
    return c.low, c.high, world.truth(), cost


def main() -> None:
    print("   m noise  share   cover   width   ratio  error ratio   (ratios: to fresh, of median widths and of root mean squared errors)")
    for m in (200, 500):
        for noise in (0.1, 0.5):
            one_newcomer(20, m, noise, 200)


if __name__ == "__main__":
    others() if sys.argv[1:] == ["others"] else main()
