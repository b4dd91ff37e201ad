"""How well do credits from fewer coalitions predict retraining? For one round, the linear datamodelling score
(LDS) by number of coalitions.

    .venv/bin/python benchmarks/lds.py ROUND_URI --coalitions 40 48 96

The credits are computed from the first coalitions of the round's own design. The score compares them with the
round's held-out retrained models. Two lines of each property say how far the retrained values can be
predicted without these credits: the Spearman correlation of each retrained value with the prediction of an
additive fit to the other retrained values, and with the number of images that the coalition keeps.

Also printed are the median widths of the intervals of Shapley and of Banzhaf values. Where coalitions share
sets of weights, each is followed by the width of intervals that leave out the noise of sets, and the last
line of a property has the SD of a coalition's value between sets and the SD over coalitions, both of the
held-out coalitions in the game of the credits.
"""

import argparse
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from apportion.evaluation.lds import lds, spearman
from apportion.rounds.round import Round
from apportion.rounds.values import method_input
from apportion.valuation.methods import METHODS, MethodInput

RIDGE = 1.0
"""Penalty on the squared slopes of the additive fit, for members coded as ½ and others as −½."""

SCORED = ("tree_residual", "leverage", "banzhaf", "beta_shapley")

WITH_WIDTHS = ("leverage", "banzhaf")
"""The intervals of `tree_residual` are those of `leverage`."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("round_uri", help="the round's address, as plan prints it")
    parser.add_argument(
        "--coalitions", type=int, nargs="+", required=True, help="numbers of coalitions of the design"
    )
    arguments = parser.parse_args()
    this_round = Round.open(arguments.round_uri)
    print(f"{'coalitions':<36}" + "".join(f"{m:>7}" for m in arguments.coalitions))
    for name in sorted(this_round.config.properties):
        show(this_round, name, arguments.coalitions)


def show(this_round: Round, name: str, coalitions: list[int]) -> None:
    whole = method_input(this_round, name)
    evaluations = this_round.evaluations("held_out")
    Z = this_round.masks([wanted for wanted, _ in evaluations])
    truth = np.array([evaluation.values[name] for _, evaluation in evaluations])
    for method in SCORED:
        estimates = [METHODS[method].estimate(first(whole, m)) for m in coalitions]
        scores = [lds(Z, truth, estimate.phi) for estimate in estimates]
        print(f"{name + ', ' + method:<36}" + "".join(f"{score:7.2f}" for score in scores))
    for method in WITH_WIDTHS:
        show_widths(f"{name}, {method}, width", whole, method, coalitions)
        if whole.sets is not None:
            show_widths("  without the noise of sets", replace(whole, sets=None), method, coalitions)
    images = Z @ np.array([contributor.samples for contributor in this_round.manifest.contributors])
    print(f"{name + ', additive fit to retrained values':<50}{spearman(left_out(Z, truth), truth):7.2f}")
    print(f"{name + ', number of images':<50}{spearman(images, truth):7.2f}", flush=True)
    if whole.sets is not None:
        paired = [evaluation.values[name] for _, evaluation in this_round.evaluations("paired")]
        between, over = deviations(np.reshape(paired, (len(truth), -1)))
        print(f"{name + ', SD between sets / over coalitions':<50}{between:7.3f} / {over:.3f}", flush=True)


def show_widths(label: str, whole: MethodInput, method: str, coalitions: list[int]) -> None:
    """The median over contributors of the width of a method's intervals, by number of coalitions."""
    widths = []
    for m in coalitions:
        estimate = METHODS[method].estimate(first(whole, m))
        assert estimate.low is not None  # only two contributors have no intervals
        assert estimate.high is not None
        widths.append(float(np.median(estimate.high - estimate.low)))
    print(f"{label:<36}" + "".join(f"{width:7.3f}" for width in widths))


def deviations(values: NDArray[np.float64]) -> tuple[float, float]:
    """Of values (coalitions, sets): the SD between sets, which is the root of the mean variance of a
    coalition, and the SD over coalitions of their mean over sets. NaN between fewer than two sets."""
    between = np.sqrt(values.var(axis=1, ddof=1).mean()) if values.shape[1] > 1 else np.nan
    return float(between), float(values.mean(axis=1).std(ddof=1))


def first(whole: MethodInput, m: int) -> MethodInput:
    """The first m coalitions."""
    sets = None if whole.sets is None else whole.sets[:m]
    return replace(whole, Z=whole.Z[:m], y=whole.y[:m], sets=sets)


def left_out(Z: NDArray[np.bool_], y: NDArray[np.float64]) -> NDArray[np.float64]:
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
