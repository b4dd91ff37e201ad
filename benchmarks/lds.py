"""How well do credits from fewer coalitions predict retraining? The linear datamodelling score by number of coalitions, for one round.

    .venv/bin/python benchmarks/lds.py ROUND_URI --coalitions 40 48 96

Credits are from the first coalitions of the round's own design, the score is against its held-out retrained models. The last two lines say
what there is to predict: how well an additive fit on the other retrained values, and the number of images that a coalition keeps, predict
each retrained value.
"""

import argparse
from dataclasses import replace

import numpy as np
from games import left_out

from apportion.config import Method
from apportion.evaluation.lds import lds, spearman
from apportion.stages.attribute import sample
from apportion.stages.estimates import METHODS
from apportion.stages.round import Round

SCORED: tuple[Method, ...] = ("tree_residual", "leverage", "banzhaf", "beta_shapley")


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
    whole = sample(round, name)
    pairs = round.evaluations("held_out")
    held, truth = round.masks([wanted for wanted, _ in pairs]), np.array([evaluation.values[name] for _, evaluation in pairs])
    for method in SCORED:
        estimates = [METHODS[method](replace(whole, Z=whole.Z[:m], y=whole.y[:m])) for m in coalitions]
        scores = [lds(held, truth, estimate.phi) for estimate in estimates]
        print(f"{name + ', ' + method:<36}" + "".join(f"{score:7.2f}" for score in scores))
    images = held @ np.array([row.samples for row in round.manifest.contributors])
    print(f"{name + ', additive fit on retrained values':<50}{spearman(left_out(held, truth), truth):7.2f}")
    print(f"{name + ', number of images':<50}{spearman(images, truth):7.2f}", flush=True)


if __name__ == "__main__":
    main()
