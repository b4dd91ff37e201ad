"""How often do intervals cover Shapley values where coalitions share sets of weights
(valuation/set_noise.py)?

    .venv/bin/python benchmarks/set_noise.py [games]  # 200 games by default; three minutes on one core

Random games (tests/valuation/random_games.py) with interactions of pairs and triples, noise of evaluation of
.3 SD(v), and noise of sets of 0 to 2 SD(v). Kinds of set noise: `additive`, independent for each player;
`interactions`, with effects of pairs and triples; `uneven`, a quarter of players with three times the noise;
`one direction`, which moves all players together; `average`, the mean over the members of a coalition, as
where their experts are averaged. Printed are the mean coverage over players, the lowest of a player, and the
median width over SD(v); without set noise also for intervals that are not told of the sets.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "valuation"))
from test_set_noise import DESIGNS, coverage  # type: ignore[import-not-found]

KINDS = ("additive", "interactions", "uneven", "one direction", "average")


def main(games: int) -> None:
    print(f"{games} games a cell")
    for n, m, sets in DESIGNS:
        print(f"{n} players, {m} coalitions, {sets} sets")
        for told in (False, True):
            print(f"  no set noise, {'told' if told else 'not told'} of the sets: ", end="")
            print(cell(*coverage(n, m, sets, "additive", 0.0, games, told)))
        for kind in KINDS:
            cells = [f"{sd:g}: {cell(*coverage(n, m, sets, kind, sd, games))}" for sd in (0.5, 1.0, 2.0)]
            print(f"  {kind:<14} " + "   ".join(cells), flush=True)


def cell(covered, width) -> str:  # type: ignore[no-untyped-def]
    return f"{covered.mean():.3f} ({covered.min():.2f}) width {width:.2f}"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
