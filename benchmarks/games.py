"""Which cheap game is like retraining? Candidates, each by the options it changes, on the held-out coalitions of a configuration.

    .venv/bin/python benchmarks/games.py configs/openmoji-check.yaml --workdir check \\
        "removal.fitting.steps=20" "removal.fitting.steps=60 sampling.images=256"

Per property: rho, the rank correlation over the held-out coalitions of the cheap game's values with the retrained ones; and, in
brackets, of what an additive fit on the other coalitions' cheap values predicts: the linear datamodelling score that such a game can give
at this size. Everything goes through the store, so retrained models are made once, and what was measured before costs nothing.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apportion.config import load
from apportion.evaluation.lds import spearman
from apportion.stages import finetune, plan, prune, sample, score, train
from apportion.stages.round import Round

RIDGE = 1.0  # of the additive fit, in values of one coalition


def main() -> None:
    told = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    told.add_argument("config", type=Path)
    told.add_argument("candidates", nargs="*", default=[""], metavar="'key=value …'")
    told.add_argument("--workdir", type=Path, required=True)
    asked = told.parse_args()
    for candidate in asked.candidates:
        config = load(asked.config, [*candidate.split(), "tracking.uri=null"], asked.workdir)
        uri = plan.run(config).round_uri
        train.run(uri)
        prune.run(uri)
        with ProcessPoolExecutor(config.compute.shards, get_context("spawn")) as pool:
            list(pool.map(evaluate, [uri] * config.compute.shards, range(config.compute.shards)))
        print(f"{candidate or 'as configured':<60} {row(Round.open(uri))}", flush=True)


def evaluate(uri: str, shard: int) -> None:
    """The held-out coalitions of a shard, by both games; not the design's."""
    round = Round.open(uri)
    wanted = [item for item in round.plan.wanted if item.purpose in ("held_out", "paired")]
    mine = round.ledger.pending(wanted[shard :: round.config.compute.shards])
    for stage in (finetune, sample, score):
        stage.make(round, mine, shard)


def row(round: Round) -> str:
    truth, cheap = round.evaluations("held_out"), round.evaluations("paired")
    Z = round.masks([wanted for wanted, _ in truth])
    cells = []
    for name in round.config.properties:
        y, v = (np.array([evaluation.values[name] for _, evaluation in pairs]) for pairs in (truth, cheap))
        cells.append(f"{name} {spearman(v, y):.2f} [{spearman(left_out(Z, v), y):.2f}]")
    seconds = np.mean([(e.cost.finetune, e.cost.sample) for _, e in cheap], axis=0)
    return f"{'  '.join(cells)}  {seconds[0]:.1f} + {seconds[1]:.1f} s"


def left_out(Z: NDArray[np.bool_], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """What an additive ridge fit on all other coalitions predicts for each, (k,)."""
    found = []
    for i in range(len(y)):
        others = np.arange(len(y)) != i
        X, mean = Z[others] - 0.5, y[others].mean()
        weights = np.linalg.solve(X.T @ X + RIDGE * np.eye(X.shape[1]), X.T @ (y[others] - mean))
        found.append(float((Z[i] - 0.5) @ weights))
    return np.array(found)


if __name__ == "__main__":
    main()
