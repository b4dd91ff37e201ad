"""How often do intervals cover Banzhaf and Beta Shapley values (valuation/semivalues.py)?

    .venv/bin/python benchmarks/semivalues.py [games]  # 150 games by default; two minutes on one core

Random games with interactions of pairs and triples (tests/valuation/random_games.py), whose semivalues are
known. First without shared sets of weights, with noise of evaluation of .3 and 1 SD(v). Then with sets, noise
of evaluation of .3 SD(v) and noise of sets of 0, .5 and 2 SD(v), of kinds of benchmarks/set_noise.py. Printed
are the mean coverage over players at .95, the lowest of a player, and the median width over SD(v).
"""

import sys
from pathlib import Path

import numpy as np

from apportion.valuation.semivalues import banzhaf_weights, beta_weights, semivalue_fit

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "valuation"))
from random_games import game, sampled  # type: ignore[import-not-found]
from test_semivalues import in_closed_form  # type: ignore[import-not-found]
from test_set_noise import sampled_with_sets  # type: ignore[import-not-found]

WEIGHTS = {
    "Banzhaf": banzhaf_weights,
    "Beta(4, 4)": lambda n: beta_weights(n, 4, 4),
    "Beta(16, 1)": lambda n: beta_weights(n, 16, 1),
}
CASES = ((6, 30), (8, 48), (8, 100), (12, 96), (20, 160))
"""Players and coalitions."""
CASES_OF_SETS = ((8, 64, 4), (12, 96, 4), (20, 160, 3))
"""Players, coalitions and sets."""
KINDS = ("additive", "uneven", "one direction", "average")


def coverage(name: str, n: int, m: int, games: int, noise: float, sets: int = 0, kind: str = "") -> str:
    """`noise` is that of sets where there are any, else that of evaluation."""
    weights, rng = WEIGHTS[name](n), np.random.default_rng(0)
    covered, width = np.empty((games, n), dtype=bool), np.empty(games)
    for j in range(games):
        g, of_set = game(n, rng), None
        if sets:
            Z, y, ends, scale, of_set = sampled_with_sets(g, n, m, sets, kind, noise, rng, j)
        else:
            Z, y, ends, scale = sampled(g, n, m, rng, j, noise)
        low, high = semivalue_fit(Z, y, *ends, weights, of_set).interval(0.95)
        truth = in_closed_form(g, weights)
        covered[j] = (low <= truth) & (truth <= high)
        width[j] = np.mean(high - low) / scale
    each = covered.mean(axis=0)
    return f"{each.mean():.2f} ({each.min():.2f}) width {np.median(width):.2f}"


def main(games: int) -> None:
    print(f"{games} games a cell")
    for n, m in CASES:
        print(f"{n} players, {m} coalitions; noise of evaluation .3 / 1")
        for name in WEIGHTS:
            cells = [coverage(name, n, m, games, noise) for noise in (0.3, 1.0)]
            print(f"  {name:<12} " + "   ".join(cells), flush=True)
    for n, m, sets in CASES_OF_SETS:
        for kind in KINDS:
            print(f"{n} players, {m} coalitions, {sets} sets; noise of sets ({kind}) 0 / .5 / 2")
            for name in WEIGHTS:
                cells = [coverage(name, n, m, games, noise, sets, kind) for noise in (0.0, 0.5, 2.0)]
                print(f"  {name:<12} " + "   ".join(cells), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 150)
