"""Which cheap game agrees with retraining, and how noisy is it? Each candidate changes some options of a
configuration, and is measured on the round's held-out coalitions.

    .venv/bin/python benchmarks/games.py configs/openmoji-check.yaml --workdir check --coalitions 10 \\
        --seeds 3 "" "removal.fitting.schedule=constant" "removal.fitting.steps=40 sampling.images=256"

For each candidate the mean seconds of training and of sampling a coalition, and for each property:

  rho       Spearman correlation of the values of one seed with the retrained values, over coalitions; the
            mean over seeds
  mean      the same correlation for the mean of the values over seeds, which has less of the noise of the
            cheap game
  S/N       signal over noise: the standard deviation between coalitions over that between seeds. What a seed
            adds to all coalitions alike is left out of the noise, because it cancels in a pair of coalitions
  additive  Spearman correlation of the retrained values with predictions from the cheap game. A coalition is
            predicted by an additive fit to the cheap values of the other coalitions. Credits of this game can
            reach about this linear datamodelling score at this size

Results are kept in the store of the work folder: each coalition is retrained once for all candidates, and
what was measured before is not measured again.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apportion.config.loading import load
from apportion.evaluation.lds import spearman
from apportion.records import Wanted
from apportion.rounds.round import Round
from apportion.stages import finetune, plan, prune, sample, score, train

Array = NDArray[np.float64]
RIDGE = 1.0
"""Penalty on the squared slopes of the additive fit, for members coded as ½ and others as −½."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument(
        "candidates",
        nargs="*",
        default=[""],
        metavar="'key=value …'",
        help="options that a candidate changes; an empty text changes none",
    )
    parser.add_argument("--workdir", type=Path, required=True, help="folder for everything that is made")
    parser.add_argument(
        "--coalitions", type=int, default=24, help="how many of the held-out coalitions (default: 24)"
    )
    parser.add_argument("--seeds", type=int, default=1, help="seeds of the cheap game (default: 1)")
    arguments = parser.parse_intermixed_args()
    coalitions, seeds = arguments.coalitions, arguments.seeds
    for candidate in arguments.candidates:
        config = load(arguments.config, [*candidate.split(), "tracking.uri=null"], arguments.workdir)
        uri = plan.run(config).round_uri
        train.run(uri)
        prune.run(uri)
        shards = config.compute.shards
        with ProcessPoolExecutor(shards, get_context("spawn")) as pool:
            list(pool.map(evaluate, [uri] * shards, range(shards), [coalitions] * shards, [seeds] * shards))
        show(candidate or "as configured", Round.open(uri), coalitions, seeds)


def evaluate(uri: str, shard: int, coalitions: int, seeds: int) -> None:
    """Evaluates one shard's part of the held-out coalitions, by retraining and, with each seed, in the cheap
    game. The coalitions of the round's design are not evaluated."""
    this_round = Round.open(uri)
    wanted = [*held_out(this_round, coalitions), *cheap(this_round, coalitions, seeds)]
    pending = this_round.ledger.pending(wanted[shard :: this_round.config.compute.shards])
    for stage in (finetune, sample, score):
        stage.make(this_round, pending, shard)


def held_out(this_round: Round, coalitions: int) -> list[Wanted]:
    """The first held-out coalitions of a round, by retraining."""
    return [item for item in this_round.plan.wanted if item.purpose == "held_out"][:coalitions]


def cheap(this_round: Round, coalitions: int, seeds: int) -> list[Wanted]:
    """The same coalitions in the cheap game, each with all seeds. Retraining has another seed, so the two
    games share only the coalition."""
    game, manifest = this_round.game("credit"), this_round.manifest
    return [
        Wanted.of(game, manifest, seed, item.mask(manifest.n), "paired")
        for item in held_out(this_round, coalitions)
        for seed in range(1, seeds + 1)
    ]


def show(candidate: str, this_round: Round, coalitions: int, seeds: int) -> None:
    retrained = held_out(this_round, coalitions)
    truth = list(this_round.ledger.read_all(retrained))
    evaluations = list(this_round.ledger.read_all(cheap(this_round, coalitions, seeds)))
    Z = this_round.masks(retrained)
    training, sampling = np.mean([(e.cost.finetune, e.cost.sample) for e in evaluations], axis=0)
    print(f"{candidate}: {training:.1f} + {sampling:.1f} s a coalition")
    for name in this_round.config.properties:
        y = np.array([e.values[name] for e in truth])
        v = np.array([e.values[name] for e in evaluations]).reshape(len(retrained), seeds)
        mean = v.mean(axis=1)
        rho = np.mean([spearman(of_seed, y) for of_seed in v.T])
        ratio = f"{signal_to_noise(v):5.2f}" if seeds > 1 else "    –"
        print(
            f"  {name:<18} rho {rho:5.2f}  mean {spearman(mean, y):5.2f}  S/N {ratio}"
            f"  additive {spearman(left_out(Z, mean), y):5.2f}",
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
    """For each coalition of Z (k, n), its value as an additive ridge fit to the values y (k,) of all other
    coalitions predicts it, (k,)."""
    predictions = []
    for i in range(len(y)):
        others = np.arange(len(y)) != i
        X, mean = Z[others] - 0.5, y[others].mean()
        weights = np.linalg.solve(X.T @ X + RIDGE * np.eye(X.shape[1]), X.T @ (y[others] - mean))
        predictions.append(float((Z[i] - 0.5) @ weights))
    return np.array(predictions)


if __name__ == "__main__":
    main()
