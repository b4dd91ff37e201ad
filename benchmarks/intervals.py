"""How often intervals hold what they say, how often statements about order are false, and what looking again and again does to both.

    .venv/bin/python benchmarks/intervals.py

Random games with pairs and triples (tests/valuation/random_games.py), whose Shapley values are known. About three minutes on one core.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from apportion.valuation.intervals import ALONE, jackknife
from apportion.valuation.shapley import constrained

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "valuation"))
from random_games import alike, coverage, game, majorities, peeked, stated  # type: ignore[import-not-found]

Array = NDArray[np.float64]
GAMES = 400
Case = tuple[int, int, float, dict[str, Any]]
USUAL: list[Case] = [(20, m, 0.5, {"end_seeds": ends}) for m in (100, 200, 500) for ends in (0, 3)] + [
    (12, 48, 0.5, {"end_seeds": k}) for k in (0, 3)
]
ENDS: list[Case] = [(20, m, 0.5, {"end_seeds": k, "end_noise": noise}) for m in (100, 500) for k in (2, 3, 5) for noise in (2.0, 5.0, 20.0)]
HARDER: list[Case] = [
    (12, 48, 0.1, {}),
    (12, 48, 1.0, {"where": "ends"}),
    (12, 48, 1.0, {"where": "middle"}),
    (12, 100, 0.5, {}),
    (20, 80, 0.5, {}),
    (20, 100, 1.0, {"interactions": 0.0}),
    (20, 100, 0.1, {"interactions": 3.0}),
    (20, 100, 0.5, {"off": 20.0}),
    (20, 100, 1.0, {"where": "small"}),
    (20, 100, 1.0, {"where": "middle"}),
    (20, 500, 1.0, {"interactions": 0.0}),
    (20, 500, 1.0, {"where": "ends"}),
    (20, 500, 1.0, {"where": "middle"}),
    (50, 200, 0.5, {}),
    (50, 400, 1.0, {"where": "small"}),
]


def plain_hc3(Z: NDArray[np.bool_], y: Array, v0: ArrayLike, v1: ArrayLike, level: float) -> tuple[Array, Array]:
    """What `intervals.hc3` was made of before: HC3 with the degrees of freedom of the whole fit, of coalitions in pairs."""
    found, fit = jackknife(Z, y, v0, v1), constrained(Z, y, v0, v1)
    kept = np.ones(found.shift.shape[1])
    kept[found.pair] = np.maximum(1 - 2 * fit.leverage, ALONE)
    errors = np.column_stack([found.shift / np.sqrt(kept), found.slopes * np.sqrt(found.ends.variance)])
    half = student.ppf(0.5 + level / 2, len(kept) - Z.shape[1] + 1 - fit.nuisance) * np.sqrt(np.sum(errors**2, axis=1))
    return found.phi - half, found.phi + half


def intervals() -> None:
    print("intervals at 95 %: share that hold the exact value, and mean width over SD(v); beside plain HC3\n")
    print("  n    m  noise  coverage  width   plain HC3  width")
    for n, m, noise, more in USUAL + ENDS + HARDER:
        (held, width, _), (before, wider, _) = (coverage(n, m, GAMES, 1, noise, **more, **how) for how in ({}, {"intervals": plain_hc3}))
        what = ", ".join(f"{name} {value}" for name, value in more.items() if value)
        print(f"{n:3} {m:4} {noise:6} {held:9.3f} {width:6.2f} {before:11.3f} {wider:6.2f}   {what}", flush=True)


def steps() -> None:
    print("\ngames with a step and no noise (weighted majority): where the fit misses nothing of any value, nothing is known\n")
    print("  n    m  coverage   games without an interval")
    for n, m in [(8, 32), (12, 48), (12, 96)]:
        held, unknown = majorities(n, m, GAMES // 2)
        print(f"{n:3} {m:4} {held:9.3f} {unknown:10.2f}", flush=True)


def orders() -> None:
    print("\nstatements about order at 95 %, all together: share of games with any that is false; a rank or a credit outside its bounds\n")
    print("  n    m  players   false  rank  credit   true orders stated")
    for n, m in [(20, 100), (20, 200), (20, 500), (12, 48)]:
        for kind in (game, alike):
            false, rank, credit, power = stated(n, m, GAMES, 1, kind=kind)
            print(
                f"{n:3} {m:4}  {'random' if kind is game else 'alike ':7} {false:7.3f} {rank:5.3f} {credit:7.3f} {power:12.3f}", flush=True
            )


def looks() -> None:
    print("\nlooks after every 50 coalitions from 100 to 500 of 20 players, stopping as soon as there is something to claim\n")
    print("each look at      intervals hold   no false order")
    for spending in (None, "obrien_fleming", "pocock"):
        held, silent = peeked(20, list(range(100, 501, 50)), 200, spending)
        print(f"{spending or '95 %':16} {held:12.3f} {silent:16.3f}", flush=True)


if __name__ == "__main__":
    intervals()
    steps()
    orders()
    looks()
