"""How often do intervals cover interactions of pairs of players (valuation/interactions.py)?

    .venv/bin/python benchmarks/interactions.py [games]  # 100 games by default; eight minutes on one core

Random games whose interactions are known, from all their values (tests/valuation/test_interactions.py), with
noise of evaluation in standard deviations of v. Each cell has, at a level of .95, the share of interactions
that are covered, in brackets the same for the tenth of the pairs with the largest interactions, the median
half-width over the standard deviation of interactions, the share of signs that are established, and the share
of games in which any of these is false.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "valuation"))
from test_interactions import KINDS, coverage  # type: ignore[import-not-found]

DESIGNS = [(6, 48), (8, 48), (8, 96), (8, 200), (12, 48), (12, 96), (12, 200)]
"""Players and coalitions."""
SETS = [("additive", 0.0), ("additive", 0.5), ("additive", 1.0), ("interactions", 0.5), ("interactions", 1.0)]
SOME = [(6, 48), (8, 96), (12, 96)]


def main(games: int) -> None:
    print(f"{games} games a cell")
    print("\ngames of pairs and triples, noise of .3 and 1")
    for n, m in DESIGNS:
        show(f"{n}, {m}", *(cell(n, m, games, noise) for noise in (0.3, 1.0)))
    print("\n3 sets, noise of .3; noise of sets:", *(f"{kind} {sd:g}" for kind, sd in SETS), sep="   ")
    for n, m in DESIGNS:
        cells = (cell(n, m, games, 0.3, sets=3, set_kind=kind, set_sd=sd) for kind, sd in SETS)
        show(f"{n}, {m}", *cells)
    print("\nother games, noise of .3 and 1")
    for kind in list(KINDS)[1:]:
        for n, m in SOME:
            show(f"{kind}, {n}, {m}", *(cell(n, m, games, noise, kind) for noise in (0.3, 1.0)))
    print("\ngames of pairs and triples, noise of .5 that is larger for some sizes")
    for where in ("small", "extremes", "middle"):
        show(where, *(cell(n, m, games, 0.5, where=where) for n, m in SOME))


def show(row: str, *cells: str) -> None:
    print(f"{row:<26}" + "   ".join(cells), flush=True)


def cell(n: int, m: int, games: int, noise: float, kind: str = "pairs and triples", **options: Any) -> str:
    covered, largest, width, established, false = coverage(n, m, games, noise, kind, **options)
    return f"{covered:.3f} ({largest:.2f}) {width:5.2f} {established:4.0%} {false:.2f}"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
