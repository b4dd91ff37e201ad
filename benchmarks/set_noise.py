"""How often do intervals cover Shapley values where coalitions share sets of weights
(valuation/set_noise.py)?

.venv/bin/python benchmarks/set_noise.py # about ten minutes on one core

Random games (tests/valuation/random_games.py) with interactions of pairs and triples, noise of evaluation of
.3 SD(v), and noise of sets of 0 to 2 SD(v). Kinds of set noise: `additive`, independent for each player;
`interactions`, with effects of pairs and triples; `uneven`, a quarter of players with three times the noise;
`one direction`, which moves all players together. Printed are the mean coverage over players, the lowest of a
player, and the median width over SD(v).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "valuation"))
from test_set_noise import KINDS, coverage  # type: ignore[import-not-found]

CASES = ((8, 64, 4), (12, 48, 3), (12, 96, 3), (12, 96, 4), (12, 96, 6), (20, 160, 3), (20, 160, 6))
"""Players, coalitions and sets."""
GAMES = 200


def main() -> None:
    for n, m, sets in CASES:
        print(f"{n} players, {m} coalitions, {sets} sets")
        for kind in (*KINDS, "one direction"):
            cells = []
            for noise in (0.0, 0.5, 1.0, 2.0):
                if noise == 0.0 and kind != "additive":
                    continue
                covered, width = coverage(n, m, sets, kind, noise, GAMES)
                cells.append(f"{noise:g}: {covered.mean():.3f} ({covered.min():.2f}) width {width:.2f}")
            print(f"  {kind:<14} " + "   ".join(cells), flush=True)


if __name__ == "__main__":
    main()
