"""What one coalition costs in a round's game, and what it costs by retraining: seconds of training and of
sampling, as the store records them.

    .venv/bin/python benchmarks/ratio.py ROUND_URI

The round needs held-out coalitions (evaluation.held_out), which are evaluated by both methods. Training of
weights that coalitions share, such as experts, is divided by the coalitions of the round's design. Sampling
includes loading the model, or loading and averaging the models that it is a mixture of.
"""

import argparse
import math
from statistics import fmean

from apportion.rounds.round import Round
from apportion.rounds.weights import shared_cost_per_coalition


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("round_uri", help="the round's address, as plan prints it")
    this_round = Round.open(parser.parse_args().round_uri)
    if not this_round.evaluations("held_out"):
        parser.error(f"found no held-out coalitions in {this_round.uri}, expected some (evaluation.held_out)")
    shared = shared_cost_per_coalition(this_round, this_round.plan.games["credit"])
    if math.isnan(shared):
        parser.error(
            f"found no record of what the weights cost that coalitions of {this_round.uri} share, expected "
            "one: the weights have expired"
        )
    retrained = show(this_round, "held_out", "retrain", 0.0)
    cheap = show(this_round, "paired", this_round.config.removal.method, shared)
    print(f"{'ratio':<20} {retrained / cheap:6.1f}")


def show(this_round: Round, purpose: str, method: str, shared: float) -> float:
    """Prints the mean cost of the evaluations of a purpose, in seconds, and returns it. shared: their part of
    training the weights that coalitions share."""
    costs = [evaluation.cost for _, evaluation in this_round.evaluations(purpose)]
    training, sampling = fmean(cost.finetune for cost in costs) + shared, fmean(cost.sample for cost in costs)
    print(
        f"{method:<20} {training:6.1f} s train + {sampling:5.1f} s sample = {training + sampling:6.1f} s"
        f"   ({len(costs)} evaluations{f', {shared:.1f} s of training are shared' if shared else ''})"
    )
    return training + sampling


if __name__ == "__main__":
    main()
