"""How well do credits from fewer coalitions predict retraining? The linear datamodelling score by number of coalitions, for one round.

    .venv/bin/python benchmarks/lds.py ROUND_URI --coalitions 40 48 96

Credits are from the first coalitions of the round's own design, the score is against its held-out retrained models. The last two lines say
what there is to predict: how well an additive fit on the other retrained values, and the number of images that a coalition keeps, predict
each retrained value.
"""

import argparse

import numpy as np
from games import left_out
from numpy.typing import NDArray

from apportion.evaluation.lds import lds, spearman
from apportion.stages.attribute import METHODS, Sample
from apportion.stages.round import Round


def main() -> None:
    told = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    told.add_argument("round_uri")
    told.add_argument("--coalitions", type=int, nargs="+", required=True)
    asked = told.parse_args()
    round = Round.open(asked.round_uri)
    print(f"{'coalitions':<36}" + "".join(f"{m:>7}" for m in asked.coalitions))
    for name in sorted(round.config.properties):
        show(round, name, asked.coalitions)


def show(round: Round, name: str, coalitions: list[int]) -> None:
    (held, truth), (Z, y), ends = values(round, "held_out", name), values(round, "design", name), round.credits
    for method, found in METHODS[round.config.valuation.design].items():
        estimates = [found(Sample(Z[:m], y[:m], ends.v0[name], ends.v1[name], round.config.valuation.level)) for m in coalitions]
        scores = [lds(held, truth, estimate.phi) for estimate in estimates]
        print(f"{name + ', ' + method:<36}" + "".join(f"{score:7.2f}" for score in scores))
    images = held @ np.array([row.samples for row in round.manifest.contributors])
    print(f"{name + ', additive fit on retrained values':<50}{spearman(left_out(held, truth), truth):7.2f}")
    print(f"{name + ', number of images':<50}{spearman(images, truth):7.2f}", flush=True)


def values(round: Round, purpose: str, name: str) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Coalitions (k, n) and their values (k,)."""
    pairs = round.evaluations(purpose)
    return round.masks([wanted for wanted, _ in pairs]), np.array([evaluation.values[name] for _, evaluation in pairs])


if __name__ == "__main__":
    main()
