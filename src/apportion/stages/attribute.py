"""attribute: the ledger's values to credits, by every method, and the coalitions that those credits call for."""

import csv
import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apportion.evaluation.counterfactual import without_random, without_top
from apportion.properties import PROPERTIES
from apportion.records import Credit, Credits, Endpoint, Evaluation, Followup, Wanted
from apportion.stages.round import ENDPOINT_SEEDS, Round
from apportion.valuation import intervals, shapley

Array = NDArray[np.float64]

SURE = 2.0
"""Standard errors that v1 - v0 is off 0 by before it is divided into shares."""


@dataclass(frozen=True)
class Sample:
    """What the estimators see of one property: coalitions Z (m, n), their values y (m,), and the endpoints."""

    Z: NDArray[np.bool_]
    y: Array
    v0: Endpoint
    v1: Endpoint
    level: float


@dataclass(frozen=True)
class Estimate:
    """Credits (n,) with standard errors and an interval where there are honest ones; `shared` where they add up to v1 - v0."""

    phi: Array
    se: Array | None = None
    low: Array | None = None
    high: Array | None = None
    shared: bool = True


def leverage(s: Sample) -> Estimate:
    if s.Z.shape[1] < intervals.FEWEST:
        return Estimate(shapley.leverage(s.Z, s.y, s.v0.mean, s.v1.mean))
    data, errors = (s.Z, s.y, s.v0.mean, s.v1.mean), {"v0_se": s.v0.se, "v1_se": s.v1.se}
    phi, se, _ = intervals.standard_errors(*data, **errors)
    return Estimate(phi, se, *intervals.hc3(*data, s.level, **errors))


def kernelshap(s: Sample) -> Estimate:
    return Estimate(shapley.kernelshap(s.Z, s.y, s.v0.mean, s.v1.mean))


def banzhaf(s: Sample) -> Estimate:
    return Estimate(shapley.banzhaf(s.Z, s.y, "leverage", v0=s.v0.mean, v1=s.v1.mean), shared=False)


METHODS: dict[str, dict[str, Callable[[Sample], Estimate]]] = {
    "leverage": {"leverage": leverage, "banzhaf": banzhaf},
    "shapley_kernel": {"kernelshap": kernelshap},
}
"""By design: an estimator is only right for the design whose probabilities it knows. The first is the one that is published."""


def run(round_uri: str) -> int:
    """Commits the credits of a round; returns how many further evaluations they call for."""
    round = Round.open(round_uri)
    round.write("credits.json", lambda: credit(round).dump())
    round.write("credits.csv", lambda: table(round.credits).encode())
    round.write("followup.json", lambda: follow(round).dump())
    return len(round.ledger.pending(round.followup.wanted))


def credit(round: Round) -> Credits:
    design = round.evaluations("design")
    Z = round.masks([wanted for wanted, _ in design])
    method = round.config.removal.method
    names = sorted(round.config.properties)
    v0 = {name: _stated(round, name) or endpoint(round.evaluations("v0"), name) for name in names}
    v1 = {name: endpoint(round.evaluations("v1"), name) for name in names}
    credits = []
    for name in names:
        y = np.array([evaluation.values[name] for _, evaluation in design])
        credits += list(_credits(round, name, Sample(Z, y, v0[name], v1[name], round.config.valuation.level)))
    n = round.manifest.n
    covers = intervals.covers(len(Z), n, method, every=round.config.valuation.design == "leverage" and len(Z) == 2**n - 2)
    return Credits(
        round=round.id, credits=tuple(credits), v0=v0, v1=v1, coalitions=len(Z), level=round.config.valuation.level, covers=covers
    )


def _credits(round: Round, name: str, sample: Sample) -> Iterator[Credit]:
    gain = sample.v1.mean - sample.v0.mean
    noise = math.hypot(sample.v0.se, sample.v1.se)
    for method, estimate in METHODS[round.config.valuation.design].items():
        found = estimate(sample)
        for i, contributor in enumerate(round.manifest.names):
            phi = float(found.phi[i])
            yield Credit(
                property=name,
                method=method,
                contributor=contributor,
                phi=phi,
                se=_finite(found.se, i),
                low=_finite(found.low, i),
                high=_finite(found.high, i),
                share=phi / gain if found.shared and abs(gain) > SURE * noise else None,
            )


def _finite(bound: Array | None, i: int) -> float | None:
    return None if bound is None or not np.isfinite(bound[i]) else float(bound[i])


def endpoint(evaluations: list[tuple[Wanted, Evaluation]], name: str) -> Endpoint:
    """Mean and standard error over seeds."""
    values = np.array([evaluation.values[name] for _, evaluation in evaluations])
    return Endpoint(mean=float(values.mean()), se=float(values.std(ddof=1) / np.sqrt(len(values))), seeds=len(values))


def _stated(round: Round, name: str) -> Endpoint | None:
    stated = round.config.valuation.stated_v0.get(name)
    return None if stated is None else Endpoint(mean=stated, se=0.0, seeds=0, stated=True)


def goodness(name: str, phi: Array) -> Array:
    """Credits turned so that more is better, whatever the property's direction."""
    return -phi if PROPERTIES[name].higher_is_better is False else phi


def published(credits: Credits, name: str) -> list[Credit]:
    """The credits of one property by the first method, in the order of contributors."""
    first = next(c.method for c in credits.credits if c.property == name)
    return [c for c in credits.credits if c.property == name and c.method == first]


def follow(round: Round) -> Followup:
    """Everybody, everybody but the top, and everybody but as many random ones: each with the same seeds."""
    asked = round.config.evaluation.counterfactual
    if asked is None:
        return Followup(round=round.id, wanted=())
    phi = np.array([c.phi for c in published(round.credits, asked.property)])
    top = without_top(goodness(asked.property, phi), asked.share)
    others = without_random(round.manifest.n, asked.share, asked.random, round.config.evaluation.seed, other_than=top)
    masks = [np.ones(round.manifest.n, bool), top, *others]
    game, first = (round.truth_game, round.config.seed) if asked.game == "truth" else (round.credit_game, ENDPOINT_SEEDS)
    seeds = range(first, first + asked.seeds)
    wanted = [Wanted.of(game, round.manifest, seed, mask, "counterfactual") for mask in masks for seed in seeds]
    return Followup(round=round.id, wanted=tuple(wanted))


def table(credits: Credits) -> str:
    """credits.csv: numbers as the shortest text that reads back to the same ones, so equal credits are equal bytes."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["property", "method", "contributor", "phi", "se", "low", "high", "share"])
    for c in credits.credits:
        rows.writerow([c.property, c.method, cell(c.contributor), *numbers(c)])
    return out.getvalue()


def numbers(c: Credit) -> list[str]:
    """Credit, standard error, bounds and share as cells; empty where there is none."""
    return ["" if value is None else repr(value) for value in (c.phi, c.se, c.low, c.high, c.share)]


def cell(name: str) -> str:
    """A leading sign that a spreadsheet would take for a formula is kept off by a quote mark.

    So is a leading quote mark, so that no two names have the same cell: without one quote mark in front it is the name again.
    """
    return "'" + name if name.startswith(("=", "+", "-", "@", "\t", "\r", "'")) else name
