"""What one coalition costs by a round's removal method, and what it costs by retraining: seconds of training
and of sampling, as the ledger records them.

    .venv/bin/python benchmarks/ratio.py ROUND_URI

The round needs held-out coalitions (evaluation.held_out), which are evaluated by both methods.
"""

import argparse

import numpy as np

from apportion.rounds.round import Round


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("round_uri", help="the round's address, as plan prints it")
    this_round = Round.open(parser.parse_args().round_uri)
    methods = {"held_out": "retrain", "paired": this_round.config.removal.method}
    totals = []
    for purpose, method in methods.items():
        costs = [evaluation.cost for _, evaluation in this_round.evaluations(purpose)]
        if not costs:
            parser.error(
                f"found no held-out coalitions in {this_round.uri}, expected some (evaluation.held_out)"
            )
        training = float(np.mean([cost.finetune for cost in costs]))
        sampling = float(np.mean([cost.sample for cost in costs]))
        total = training + sampling
        totals.append(total)
        print(
            f"{method:<20} {training:6.1f} s train + {sampling:5.1f} s sample = {total:6.1f} s"
            f"   ({len(costs)} coalitions)"
        )
    retrained, cheap = totals
    print(f"{'ratio':<20} {retrained / cheap:6.1f}")


if __name__ == "__main__":
    main()
