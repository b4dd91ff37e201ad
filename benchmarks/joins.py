"""The cost of credits when a contributor joins: valuation/joins.py compared with a fresh design.

    .venv/bin/python benchmarks/joins.py         # one newcomer at n = 20, about three minutes on one core
    .venv/bin/python benchmarks/joins.py others  # several newcomers, a second join, a join after a leave

Random games (tests/valuation/random_games.py) with noise of a share of their SD. Fresh: `leverage` and `hc3`
from m evaluations of all players. Joined: m old evaluations, which exist already, and `share` m new ones.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apportion.valuation.coalitions import draw
from apportion.valuation.intervals import hc3
from apportion.valuation.joins import EVALUATE, ValuedDesign, credits, drop, extend, filled, first

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "valuation"))
from random_games import game  # type: ignore[import-not-found]

Array = NDArray[np.float64]
SHARES = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)
NEWCOMERS = {"two newcomers": [2], "one, then one": [1, 1], "leave, then join": [1], "leave": []}
"""The numbers of newcomers of successive joins, by scenario."""


class World:
    """A game of n players whose values have SD 1 over a design. At first only some players are present."""

    def __init__(self, n: int, noise: float, rng: np.random.Generator) -> None:
        self.n, self.noise, self.rng, self.game = n, noise, rng, game(n, rng)
        self.scale = self.game.value(draw("leverage", n, 600, 0)).std()

    def value(self, Z: NDArray[np.bool_]) -> Array:
        """Values of coalitions of the first players, without noise."""
        padded = np.pad(Z, ((0, 0), (0, self.n - Z.shape[1])))
        return np.asarray(self.game.value(padded) / self.scale)

    def measured(self, Z: NDArray[np.bool_]) -> Array:
        return np.asarray(self.value(Z) + self.noise * self.rng.normal(size=len(Z)))

    def grand(self, n: int) -> float:
        """The value of the coalition of the first n players."""
        return float(self.value(np.ones((1, n), dtype=bool))[0])

    def truth(self) -> Array:
        return np.asarray(self.game.shapley() / self.scale)

    def joined(self, before: ValuedDesign, players: int, seed: int, rows: int) -> tuple[ValuedDesign, int]:
        """The round after `players` have joined the first `rows` of the round before, and the number of new
        evaluations."""
        design = extend(before.design, players, seed)
        if 2 * (2**players - 1) + rows < len(design.Z):
            design = extend(first(before.design.Z[:rows]), players, seed)
        new = design.Z[design.source == EVALUATE]
        y = filled(design, before.y, before.v1, self.measured(new))
        return ValuedDesign(design, y, self.grand(design.Z.shape[1])), len(new)


def scored(low: Array, high: Array, truth: Array) -> tuple[float, float, float]:
    """Coverage, mean width, and mean squared error of the middle."""
    covered = (low <= truth) & (truth <= high)
    return (
        float(np.mean(covered)),
        float(np.mean(high - low)),
        float(np.mean(((low + high) / 2 - truth) ** 2)),
    )


def one_newcomer(n: int, m: int, noise: float, reps: int) -> None:
    rng = np.random.default_rng(0)
    scores: dict[float, list[tuple[float, float, float]]] = {share: [] for share in (1.0, *SHARES)}
    for seed in range(reps):
        world = World(n + 1, noise, rng)
        Z, v1 = draw("leverage", n + 1, m, seed + 10**6), world.grand(n + 1)
        scores[1.0].append(scored(*hc3(Z, world.measured(Z), 0.0, v1), world.truth()))
        old = first(draw("leverage", n, m, seed))
        before = ValuedDesign(old, world.measured(old.Z), world.grand(n))
        for share in SHARES:
            now, cost = world.joined(before, 1, seed, 2 * (round(share * m) - 1))
            assert cost <= share * m
            c = credits([before, now], 0.0)
            scores[share].append(scored(c.low, c.high, world.truth()))
    fresh = np.array(scores[1.0])
    for share, values in scores.items():
        covered, _, error = np.mean(values, axis=0)
        width = np.median(values, axis=0)[1]
        width_ratio, error_ratio = width / np.median(fresh[:, 1]), np.sqrt(error / fresh[:, 2].mean())
        name = "fresh" if share == 1 else f"{share:.2f}"
        print(
            f"{m:4} {noise:5} {name:>6} {covered:7.3f} {width:7.3f} {width_ratio:7.3f} {error_ratio:7.3f}",
            flush=True,
        )


def others(reps: int = 200) -> None:
    print("n = 12 at first, m = 200, noise .3; mean coverage, mean width, evaluations")
    for name in NEWCOMERS:
        rng, scores, costs = np.random.default_rng(1), [], []
        for seed in range(reps):
            low, high, truth, cost = scenario(name, seed, rng)
            scores.append(scored(low, high, truth))
            costs.append(cost)
        covered, width, _ = np.mean(scores, axis=0)
        print(f"{name:18} coverage {covered:.3f} width {width:.3f} evaluations {np.mean(costs):.0f}")


def scenario(name: str, seed: int, rng: np.random.Generator) -> tuple[Array, Array, Array, int]:
    """One repetition of a case of `others`: interval bounds, truth and number of evaluations.

    The leaver is an extra last player, so the other players keep their numbers.
    """
    n, m, cost = 12, 200, 0
    world = World(n + sum(NEWCOMERS[name]), 0.3, rng)
    if name.startswith("leave"):
        wider = draw("leverage", n + 1, m, seed)
        old = drop(first(wider), [n])
        missing = old.Z[old.source == EVALUATE]
        y = filled(old, world.measured(wider[:, :n]), 0.0, world.measured(missing))
        cost += len(missing)
    else:
        old = first(draw("leverage", n, m, seed))
        y = world.measured(old.Z)
    rounds = [ValuedDesign(old, y, world.grand(n))]
    for players in NEWCOMERS[name]:
        now, new = world.joined(rounds[-1], players, seed, 10**9)
        rounds.append(now)
        cost += new
    c = credits(rounds, 0.0)
    return c.low, c.high, world.truth(), cost


def main() -> None:
    print("   m noise  share   cover   width   ratio  error ratio")
    print("ratios are to fresh, of median widths and of root mean squared errors")
    for m in (200, 500):
        for noise in (0.1, 0.5):
            one_newcomer(20, m, noise, 200)


if __name__ == "__main__":
    others() if sys.argv[1:] == ["others"] else main()
