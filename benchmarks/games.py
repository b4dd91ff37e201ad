"""Which cheap game is like retraining, and how loud is it? Candidates, each by the options it changes, on held-out coalitions.

    .venv/bin/python benchmarks/games.py configs/openmoji-check.yaml --workdir check --coalitions 10 --seeds 3 \\
        "" "removal.fitting.schedule=constant" "removal.fitting.steps=40 sampling.images=256"

Per property:
  rho     rank correlation with the retrained values over the coalitions, for one seed (mean over the seeds)
  mean    the same for the means over the seeds: what is left when the cheap game's own noise is averaged away
  S/N     standard deviation between coalitions over that between seeds, the seeds' common part taken out (it cancels in a pair)
  additive  rank correlation of the retrained values with what an additive fit on the other coalitions' cheap values predicts: about the
            linear datamodelling score that such a game can give at this size
Everything goes through the store: retrained models are made once, and what was measured before costs nothing.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apportion.config import load
from apportion.evaluation.lds import spearman
from apportion.records import Wanted
from apportion.stages import finetune, plan, prune, sample, score, train
from apportion.stages.round import Round

Array = NDArray[np.float64]
RIDGE = 1.0  # of the additive fit, in coalitions


def main() -> None:
    told = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    told.add_argument("config", type=Path)
    told.add_argument("candidates", nargs="*", default=[""], metavar="'key=value …'")
    told.add_argument("--workdir", type=Path, required=True)
    told.add_argument("--coalitions", type=int, default=24)
    told.add_argument("--seeds", type=int, default=1)
    asked = told.parse_intermixed_args()
    for candidate in asked.candidates:
        config = load(asked.config, [*candidate.split(), "tracking.uri=null"], asked.workdir)
        uri = plan.run(config).round_uri
        train.run(uri)
        prune.run(uri)
        shards = config.compute.shards
        with ProcessPoolExecutor(shards, get_context("spawn")) as pool:
            list(pool.map(evaluate, [uri] * shards, range(shards), [asked.coalitions] * shards, [asked.seeds] * shards))
        show(candidate or "as configured", Round.open(uri), asked.coalitions, asked.seeds)


def evaluate(uri: str, shard: int, coalitions: int, seeds: int) -> None:
    """A shard's part of the held-out coalitions by retraining and, with each seed, by the cheap game; none of the design's."""
    round = Round.open(uri)
    wanted = [*held_out(round, coalitions), *cheap(round, coalitions, seeds)]
    mine = round.ledger.pending(wanted[shard :: round.config.compute.shards])
    for stage in (finetune, sample, score):
        stage.make(round, mine, shard)


def held_out(round: Round, coalitions: int) -> list[Wanted]:
    return [item for item in round.plan.wanted if item.purpose == "held_out"][:coalitions]


def cheap(round: Round, coalitions: int, seeds: int) -> list[Wanted]:
    """Coalition by coalition, with each seed: other ones than retraining has, so that nothing but the coalition is in common."""
    return [
        Wanted.of(round.credit_game, round.manifest, seed, item.mask(round.manifest.n), "paired")
        for item in held_out(round, coalitions)
        for seed in range(1, seeds + 1)
    ]


def show(candidate: str, round: Round, coalitions: int, seeds: int) -> None:
    asked = held_out(round, coalitions)
    truth, found = (list(round.ledger.read_all(wanted)) for wanted in (asked, cheap(round, coalitions, seeds)))
    Z, seconds = round.masks(asked), np.mean([(e.cost.finetune, e.cost.sample) for e in found], axis=0)
    print(f"{candidate}: {seconds[0]:.1f} + {seconds[1]:.1f} s a coalition")
    for name in round.config.properties:
        y = np.array([e.values[name] for e in truth])
        v = np.array([e.values[name] for e in found]).reshape(len(asked), seeds)
        single, mean = np.mean([spearman(column, y) for column in v.T]), v.mean(axis=1)
        loud = f"{signal_to_noise(v):5.2f}" if seeds > 1 else "    –"
        print(
            f"  {name:<18} rho {single:5.2f}  mean {spearman(mean, y):5.2f}  S/N {loud}  additive {spearman(left_out(Z, mean), y):5.2f}",
            flush=True,
        )


def signal_to_noise(v: Array) -> float:
    """Of values (coalitions, seeds), by two-way analysis of variance without replication."""
    k, seeds = v.shape
    residual = v - v.mean(axis=1, keepdims=True) - v.mean(axis=0) + v.mean()
    noise = float(np.sum(residual**2)) / ((k - 1) * (seeds - 1))
    signal = max(0.0, float(v.mean(axis=1).var(ddof=1)) - noise / seeds)
    return float(np.sqrt(signal / noise))


def left_out(Z: NDArray[np.bool_], y: Array) -> Array:
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
