"""What one coalition costs by the round's removal method against retraining: training and sampling, from the ledger's own records.

.venv/bin/python benchmarks/ratio.py ROUND_URI
"""

import sys

import numpy as np

from apportion.stages.round import Round


def main() -> None:
    round = Round.open(sys.argv[1])
    costs = {
        name: np.array([(e.cost.finetune, e.cost.sample) for _, e in round.evaluations(purpose)])
        for name, purpose in (("retrain", "held_out"), (round.config.removal.method, "paired"))
    }
    for name, seconds in costs.items():
        train, sample = seconds.mean(axis=0)
        print(f"{name:<20} {train:6.1f} s train + {sample:5.1f} s sample = {train + sample:6.1f} s   ({len(seconds)} coalitions)")
    truth, cheap = (seconds.sum(axis=1).mean() for seconds in costs.values())
    print(f"{'ratio':<20} {truth / cheap:6.1f}")


if __name__ == "__main__":
    main()
