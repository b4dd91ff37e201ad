"""How often intervals cover the truth and statements about order are false, also over repeated looks.

    .venv/bin/python benchmarks/intervals.py

Random games with pairs and triples (tests/valuation/random_games.py), whose Shapley values are known. It
takes about three minutes on one core.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from apportion.valuation.intervals import FULL_LEVERAGE, jackknife
from apportion.valuation.shapley import constrained

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "valuation"))
from random_games import (  # type: ignore[import-not-found]
    coverage,
    equal_game,
    game,
    majorities,
    order_errors,
    repeated_looks,
)

Array = NDArray[np.float64]
Case = tuple[int, int, float, dict[str, Any]]
GAMES = 400
USUAL: list[Case] = [
    (20, 100, 0.5, {"endpoint_seeds": 0}),
    (20, 100, 0.5, {"endpoint_seeds": 3}),
    (20, 200, 0.5, {"endpoint_seeds": 0}),
    (20, 200, 0.5, {"endpoint_seeds": 3}),
    (20, 500, 0.5, {"endpoint_seeds": 0}),
    (20, 500, 0.5, {"endpoint_seeds": 3}),
    (12, 48, 0.5, {"endpoint_seeds": 0}),
    (12, 48, 0.5, {"endpoint_seeds": 3}),
]
NOISY_ENDPOINTS: list[Case] = [
    (20, m, 0.5, {"endpoint_seeds": seeds, "endpoint_noise": noise})
    for m in (100, 500)
    for seeds in (2, 3, 5)
    for noise in (2.0, 5.0, 20.0)
]
HARDER: list[Case] = [
    (12, 48, 0.1, {}),
    (12, 48, 1.0, {"where": "extremes"}),
    (12, 48, 1.0, {"where": "middle"}),
    (12, 100, 0.5, {}),
    (20, 80, 0.5, {}),
    (20, 100, 1.0, {"interactions": 0.0}),
    (20, 100, 0.1, {"interactions": 3.0}),
    (20, 100, 0.5, {"off": 20.0}),
    (20, 100, 1.0, {"where": "small"}),
    (20, 100, 1.0, {"where": "middle"}),
    (20, 500, 1.0, {"interactions": 0.0}),
    (20, 500, 1.0, {"where": "extremes"}),
    (20, 500, 1.0, {"where": "middle"}),
    (50, 200, 0.5, {}),
    (50, 400, 1.0, {"where": "small"}),
]


def plain_hc3(
    Z: NDArray[np.bool_], y: Array, v0: ArrayLike, v1: ArrayLike, level: float
) -> tuple[Array, Array]:
    """HC3 of paired coalitions with the degrees of freedom of the whole fit, for comparison."""
    result, fit = jackknife(Z, y, v0, v1), constrained(Z, y, v0, v1)
    pairs = result.shift.shape[1]
    remaining = np.ones(pairs)
    remaining[result.pair] = np.maximum(1 - 2 * fit.leverage, FULL_LEVERAGE)
    of_endpoints = result.slopes * np.sqrt(result.endpoints.variance)
    errors = np.column_stack([result.shift / np.sqrt(remaining), of_endpoints])
    dof = pairs - Z.shape[1] + 1 - fit.nuisance
    half = student.ppf(0.5 + level / 2, dof) * np.sqrt(np.sum(errors**2, axis=1))
    return result.phi - half, result.phi + half


def intervals() -> None:
    print("intervals at 95 %: share that contain the exact value, median width over SD(v); and plain HC3\n")
    print("  n    m  noise  coverage  width   plain HC3  width")
    for n, m, noise, options in USUAL + NOISY_ENDPOINTS + HARDER:
        covered, width, _ = coverage(n, m, GAMES, 1, noise, **options)
        plain_covered, plain_width, _ = coverage(n, m, GAMES, 1, noise, **options, intervals=plain_hc3)
        case = ", ".join(f"{name} {value}" for name, value in options.items() if value)
        print(
            f"{n:3} {m:4} {noise:6} {covered:9.3f} {width:6.2f} {plain_covered:11.3f} {plain_width:6.2f}   "
            f"{case}",
            flush=True,
        )


def steps() -> None:
    print("\nweighted majorities without noise: where no residual is left, errors are unknown\n")
    print("  n    m  coverage   games with infinite intervals")
    for n, m in [(8, 32), (12, 48), (12, 96)]:
        covered, unknown = majorities(n, m, GAMES // 2)
        print(f"{n:3} {m:4} {covered:9.3f} {unknown:10.2f}", flush=True)


def orders() -> None:
    print("\nstatements about order at 95 %, all together: share of games with any false one,")
    print("and with a rank or a credit outside its bounds\n")
    print("  n    m  players   false  rank  credit   true orders stated")
    for n, m in [(20, 100), (20, 200), (20, 500), (12, 48)]:
        for name, kind in [("random", game), ("equal", equal_game)]:
            false, rank, credit, power = order_errors(n, m, GAMES, 1, kind=kind)
            print(f"{n:3} {m:4}  {name:7} {false:7.3f} {rank:5.3f} {credit:7.3f} {power:12.3f}", flush=True)


def looks() -> None:
    print("\nlooks after every 50 coalitions from 100 to 500 of 20 players, stopping at the first claim\n")
    print("level or spending   all intervals cover   no false order")
    for spending in (None, "obrien_fleming", "pocock"):
        covered, silent = repeated_looks(20, list(range(100, 501, 50)), 200, spending)
        print(f"{spending or '95 % at each look':17} {covered:21.3f} {silent:16.3f}", flush=True)


if __name__ == "__main__":
    intervals()
    steps()
    orders()
    looks()
