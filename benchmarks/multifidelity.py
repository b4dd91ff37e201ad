"""How much narrower cheap games make the intervals of a retrained game.

    .venv/bin/python benchmarks/multifidelity.py           # equal cost, about three minutes on one core
    .venv/bin/python benchmarks/multifidelity.py regimes   # coverage in difficult cases
    .venv/bin/python benchmarks/multifidelity.py outliers  # coverage where a player stands out
    .venv/bin/python benchmarks/multifidelity.py several   # own images and experts beside retraining

Random games (tests/valuation/random_games.py): the retrained one is the first of two, and the cheap one
correlates with it at rho over the design and costs a twentieth. Both have noise of a share of their SD.
`alone` is the same estimator without a cheap game, which shows what part of the gain is not due to the cheap
game. `bound` is the asymptotic width of `split`, at the correlation of the noisy odd parts that `pilot` would
measure.
"""

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apportion.errors import ValuationError
from apportion.valuation.coalitions import draw
from apportion.valuation.inputs import checked_endpoints
from apportion.valuation.intervals import hc3
from apportion.valuation.multifidelity import (
    CheapGame,
    Combined,
    assisted,
    combine,
    even_floor,
    leverage_pairs,
    relative_width,
    with_intervals,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "valuation"))
from random_games import game  # type: ignore[import-not-found]

Array = NDArray[np.float64]
RATIO = 20
BUDGETS = [(20, 48), (20, 60), (20, 80), (20, 120), (20, 200), (12, 36), (12, 48), (12, 64), (12, 96)]
RHO = {"alike": 0.9, "unrelated": 0.0, "opposite": -0.9}
# Contributions that are added in the retrained game, in SD, and the share of them that the cheap game shows.
OUTLIERS = {
    "none": ((), 0.0),
    "not visible, .6": ((0.6,), 0.0),
    "not visible, 3": ((3.0,), 0.0),
    "not visible, 10": ((10.0,), 0.0),
    "not visible, 30": ((30.0,), 0.0),
    "two, 10 and -7": ((10.0, -7.0), 0.0),
    "opposite, 10": ((10.0,), -1.0),
}


class TwoGames:
    """A retrained and a cheap game of unit SD over a design, their noise, and the exact Shapley values.

    v0 lies `off` SD below the scale of the other values. In the retrained game the first players contribute
    `added` SD more, of which the cheap game shows the share `visible`.
    """

    def __init__(
        self,
        n: int,
        rho: float,
        noise: float,
        off: float,
        rng: np.random.Generator,
        added: tuple[float, ...] = (),
        visible: float = 0.0,
    ) -> None:
        self.games = (game(n, rng), game(n, rng))
        self.rho, self.noise, self.rng, self.visible = rho, noise, rng, visible
        Z = draw("leverage", n, min(600, 2**n - 2), 0)
        self.scale = [g.value(Z).std() for g in self.games]
        self.more = np.pad(np.array(added, dtype=float), (0, n - len(added)))
        endpoints = self.games[0].value(np.array([[0] * n, [1] * n])) / self.scale[0]
        self.v0, self.v1 = endpoints + np.array([-off, self.more.sum()])
        phi = self.games[0].shapley() / self.scale[0] + self.more
        self.truth = phi + (self.v1 - self.v0 - phi.sum()) / n

    def retrained(self, Z: NDArray[np.bool_]) -> Array:
        value = self.games[0].value(Z) / self.scale[0] + Z @ self.more
        return np.asarray(value + self.noise * self.rng.normal(size=len(Z)))

    def cheap(self, Z: NDArray[np.bool_]) -> Array:
        first, second = (g.value(Z) / s for g, s in zip(self.games, self.scale, strict=True))
        value = self.rho * first + np.sqrt(1 - self.rho**2) * second + self.visible * (Z @ self.more)
        return np.asarray(value + self.noise * self.rng.normal(size=len(Z)))


def scored(low: Array, high: Array, truth: Array) -> tuple[float, float, float]:
    """Coverage, mean width, and mean squared error of the middle."""
    covered = (low <= truth) & (truth <= high)
    return (
        float(np.mean(covered)),
        float(np.mean(high - low)),
        float(np.mean(((low + high) / 2 - truth) ** 2)),
    )


def combined(games: TwoGames, n: int, high: int, low: int, seed: int, apart: bool = False) -> Combined:
    """Credits from `high` retrained and `low` cheap coalitions.

    The retrained ones are `apart` or among the cheap ones.
    """
    Z_low = draw("leverage", n, low, seed)
    Z = draw("leverage", n, high, seed + 10**6) if apart else Z_low[:high]
    y_low = games.cheap(Z_low)
    y = games.retrained(Z)
    y_paired = games.cheap(Z) if apart else y_low[:high]
    return combine([CheapGame(Z_low, y_low, Z, y_paired)], Z, y, games.v0, games.v1)


def at_equal_cost(n: int, budget: int, noise: float, rho: float, reps: int) -> dict[str, Array]:
    """Coverage, width and squared error of each repetition; the budget is in retrained coalitions."""
    rng = np.random.default_rng(0)
    scores: dict[str, list[Any]] = {"hc3": [], "alone": [], "both": []}
    noisy_rho = rho / (1 + noise**2)
    # As `split` does, but also where `split` would not use the cheap game.
    times = noisy_rho / np.sqrt(1 - noisy_rho**2) * np.sqrt(RATIO)
    high = even_floor(budget / (1 + times / RATIO))
    low = even_floor((budget - high) * RATIO)
    for seed in range(reps):
        games, Z = TwoGames(n, rho, noise, 0.0, rng), draw("leverage", n, budget, seed + 2 * 10**6)
        y, pairs = games.retrained(Z), leverage_pairs(Z)
        try:
            scores["hc3"].append(scored(*hc3(Z, y, games.v0, games.v1), games.truth))
        except ValuationError:
            scores["hc3"].append((np.nan,) * 3)
        endpoints = checked_endpoints(games.v0, games.v1)
        alone = with_intervals(assisted(pairs, pairs.odd(y)), endpoints, 0.95)
        both = combined(games, n, high, low, seed)
        scores["alone"].append(scored(alone.low, alone.high, games.truth))
        scores["both"].append(scored(both.low, both.high, games.truth))
    print(f"{n:3} {budget:4} {noise:5} {rho:5} {high:9} {low:5}", end="")
    return {name: np.array(values) for name, values in scores.items()}


def equal_cost() -> None:
    print(
        "  n cost noise   rho retrained cheap  hc3: cover width  alone: cover width  both: cover width",
        end="",
    )
    print(" | width/hc3 width/alone bound")
    for rho in (0.9, 0.97):
        for noise in (0.1, 0.5):
            for n, budget in BUDGETS:
                scores = at_equal_cost(n, budget, noise, rho, 200)
                covered = {name: np.nanmean(values[:, 0]) for name, values in scores.items()}
                width = {name: np.nanmedian(values[:, 1]) for name, values in scores.items()}
                for name in scores:
                    print(f"  {covered[name]:10.3f} {width[name]:6.3f}", end="")
                bound = relative_width(rho / (1 + noise**2), 1 / RATIO)
                to_hc3, to_alone = width["both"] / width["hc3"], width["both"] / width["alone"]
                print(f"   | {to_hc3:9.2f} {to_alone:11.2f} {bound:5.2f}", flush=True)


def regimes() -> None:
    print("  n pairs noise      cheap v0 off apart  cover width  error/se")
    cases = [("alike", 0, 0), ("unrelated", 0, 0), ("opposite", 0, 0), ("alike", 20, 0), ("alike", 0, 1)]
    for n in (20, 12):
        for J in (8, 12, 20, 30, 50, 100):
            for noise in (0.1, 0.5):
                for name, off, apart in cases:
                    rng, scores = np.random.default_rng(J), []
                    for seed in range(100):
                        games = TwoGames(n, RHO[name], noise, off, rng)
                        c = combined(games, n, 2 * J, 800, seed, bool(apart))
                        scores.append((*scored(c.low, c.high, games.truth), np.mean(c.se**2)))
                    covered, width, error, variance = np.mean(scores, axis=0)
                    print(
                        f"{n:3} {J:5} {noise:5} {name:>10} {off:6} {apart:5} {covered:6.3f} {width:5.2f} "
                        f"{np.sqrt(error / variance):9.2f}",
                        flush=True,
                    )


def outliers(reps: int = 200) -> None:
    """Coverage and median width of the player who stands out, and of all other players together.

    Where two stand out, it is the smaller coverage and the larger width.
    """
    print("  n pairs noise           outlier  its cover  width  others: cover  width")
    for n in (20, 10, 8):
        for J in (8, 12, 20, 30, 50):
            for noise in (0.1, 0.5):
                for name, (added, visible) in OUTLIERS.items():
                    rng, covered, widths = np.random.default_rng([n, J]), [], []
                    for seed in range(reps):
                        games = TwoGames(n, 0.9, noise, 0.0, rng, added, visible)
                        c = combined(games, n, 2 * J, min(400, 2**n - 2), seed)
                        covered.append((c.low <= games.truth) & (games.truth <= c.high))
                        widths.append(c.high - c.low)
                    k = max(1, len(added))
                    cover, width = np.mean(covered, axis=0), np.median(widths, axis=0)
                    print(
                        f"{n:3} {J:5} {noise:5} {name:>17} {cover[:k].min():10.3f} {width[:k].max():6.2f} "
                        f"{cover[k:].mean():14.3f} {np.median(width[k:]):6.2f}",
                        flush=True,
                    )


def several(reps: int = 100) -> None:
    """Retrained coalitions of 12 players, with the help of own images (512 coalitions without noise), of
    experts (96 coalitions in three sets, whose noise is half an SD of v), and of both. Games correlate with
    retraining at `own` and `experts`, noise apart; the noise of an evaluation by a model is .3 SD."""
    n, noise, set_noise = 12, 0.3, 0.5
    print("   own experts retrained  method   cover  width  to alone  to hc3")
    for own, experts in ((0.95, 0.93), (0.7, 0.9)):
        for high in (24, 32, 48, 64):
            rng, scores = np.random.default_rng(high), []
            for seed in range(reps):
                scores.append(_help(n, own, experts, noise, set_noise, high, seed, rng))
            covered = {name: np.nanmean([score[name][0] for score in scores]) for name in scores[0]}
            width = {name: float(np.nanmedian([score[name][1] for score in scores])) for name in scores[0]}
            for name in scores[0]:
                to_alone, to_hc3 = width[name] / width["alone"], width[name] / width["hc3"]
                print(
                    f"{own:6} {experts:7} {high:9}  {name:7} {covered[name]:6.3f} {width[name]:6.3f}"
                    f" {to_alone:9.2f} {to_hc3:7.2f}",
                    flush=True,
                )


def _help(
    n: int,
    own: float,
    experts: float,
    noise: float,
    set_noise: float,
    high: int,
    seed: int,
    rng: np.random.Generator,
) -> dict[str, tuple[float, float]]:
    """Coverage and median width of one data set, by the games that help."""
    games = [game(n, rng) for _ in range(3)]
    Z = draw("leverage", n, 600, 0)
    scale = [g.value(Z).std() for g in games]

    def value(i: int, Z: NDArray[np.bool_]) -> Array:
        return np.asarray(games[i].value(Z) / scale[i])

    design, own_design = draw("leverage", n, 96, seed), draw("leverage", n, 512, seed + 10**6)
    shift = rng.normal(size=(3, n)) * 2 * set_noise / np.sqrt(n)
    dealt = np.repeat(rng.permutation(np.arange(48) % 3), 2)
    by_experts = experts * value(0, design) + np.sqrt(1 - experts**2) * value(2, design)
    by_experts += np.einsum("ij,ij->i", design - 0.5, shift[dealt]) + noise * rng.normal(size=96)
    by_own = [own * value(0, Z) + np.sqrt(1 - own**2) * value(1, Z) for Z in (own_design, design)]
    Z = design[:high]
    y = value(0, Z) + noise * rng.normal(size=high)
    v0, v1 = value(0, np.array([[0] * n, [1] * n]))
    phi = games[0].shapley() / scale[0]
    truth = phi + (v1 - v0 - phi.sum()) / n
    cheap = {
        "own": CheapGame(own_design, by_own[0], design, by_own[1], noise_free=True),
        "experts": CheapGame(design, by_experts),
    }
    pairs = leverage_pairs(Z)
    alone = with_intervals(assisted(pairs, pairs.odd(y)), checked_endpoints(v0, v1), 0.95)
    bounds = {"hc3": (np.full(n, -np.inf), np.full(n, np.inf)), "alone": (alone.low, alone.high)}
    with suppress(ValuationError):  # too few coalitions to distinguish all players
        bounds["hc3"] = hc3(Z, y, v0, v1)
    for name, helpers in {"own": ["own"], "experts": ["experts"], "both": ["own", "experts"]}.items():
        result = combine([cheap[helper] for helper in helpers], Z, y, v0, v1)
        bounds[name] = result.low, result.high
    return {
        name: (float(np.mean((low <= truth) & (truth <= high))), float(np.median(high - low)))
        for name, (low, high) in bounds.items()
    }


if __name__ == "__main__":
    {"regimes": regimes, "outliers": outliers, "several": several}.get(" ".join(sys.argv[1:]), equal_cost)()
