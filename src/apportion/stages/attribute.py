"""attribute: the ledger's values to credits, by every method, and the coalitions that those credits call for."""

import csv
import io
import math
from collections.abc import Iterator
from itertools import combinations

import numpy as np

from apportion.config import Method
from apportion.errors import ApportionError, ValuationError
from apportion.evaluation.counterfactual import without_random, without_top
from apportion.properties import PROPERTIES
from apportion.records import CREDITS, Credit, Credits, Endpoint, Followup, Interaction, Looked, Pilot, Purpose, Wanted
from apportion.stages.estimates import METHODS, Array, Estimate, Paired, Rows, Sample
from apportion.stages.round import ENDPOINT_SEEDS, Round
from apportion.valuation import intervals, multifidelity, sequential, shapley
from apportion.valuation.inputs import ends

SURE = 2.0
"""Standard errors that v1 - v0 is off 0 by before it is divided into shares."""

SAMPLED: tuple[Purpose, ...] = ("design", "v0", "v1", "loo", "aoi", "datamodel", "exact")
"""What the methods read of a round."""


def run(round_uri: str) -> int:
    """Commits the credits of a round; returns how many further evaluations they call for."""
    round = Round.open(round_uri)
    round.write("credits.json", lambda: credit(round).dump())
    round.write("credits.csv", lambda: table(round.credits).encode())
    round.write("followup.json", lambda: follow(round).dump())
    return len(round.ledger.pending(round.followup.wanted))


def credit(round: Round) -> Credits:
    """Raises ApportionError for a round that was planned when credits came from values in another way: that names another round."""
    if round.plan.credits != CREDITS:
        raise ApportionError(
            f"found round {round.id} of Apportion {round.plan.code}, which made credits in another way (records.CREDITS "
            f"{round.plan.credits}, expected {CREDITS}): that version makes and verifies them; `plan` here makes a round of its evaluations"
        )
    names = sorted(round.config.properties)
    samples, pilots = {name: sample(round, name) for name in names}, []
    credits: list[Credit] = []
    for name, s in samples.items():
        held = pilot(round, name, s)
        pilots += [held] if held else []
        used = [method for method in s.valuation.chosen if method != "multifidelity" or (held and held.use)]
        for method in used:
            credits += _credits(round, name, method, s, METHODS[method](s))
    paired = {name: s.paired for name, s in samples.items() if s.paired}
    return Credits(
        round=round.id,
        credits=tuple(credits),
        v0={name: endpoint(s.v0) for name, s in samples.items()},
        v1={name: endpoint(s.v1) for name, s in samples.items()},
        exact_v0={name: endpoint(p.v0) for name, p in paired.items()},
        exact_v1={name: endpoint(p.v1) for name, p in paired.items()},
        coalitions=len(samples[names[0]].Z),
        level=round.config.valuation.level,
        covers=_covers(round, samples[names[0]]),
        pilots=tuple(pilots),
        interactions=tuple(found for name, s in samples.items() for found in _interactions(round, name, s)),
        looked=_looked(round, samples),
    )


def sample(round: Round, name: str) -> Sample:
    """What the methods see of one property."""
    valuation = round.config.valuation
    rows = {purpose: _rows(round, name, purpose) for purpose in SAMPLED}
    (Z, y), exact = rows["design"], rows["exact"]
    stated = valuation.stated_v0.get(name)
    v0 = rows["v0"][1] if stated is None else np.array(stated)
    paired = None
    if valuation.exact:
        exact_v0 = _rows(round, name, "exact_v0")[1] if stated is None else v0
        paired = Paired(*exact, y[: len(exact[1])], exact_v0, _rows(round, name, "exact_v1")[1])
    looks = tuple(valuation.stop.looks[: round.plan.look + 1]) if valuation.stop else ()
    sign = -1 if PROPERTIES[name].higher_is_better is False else 1
    return Sample(Z, y, v0, rows["v1"][1], valuation.level, sign, valuation, rows, paired, looks)


def _rows(round: Round, name: str, purpose: Purpose) -> Rows:
    """The coalitions that were evaluated for a purpose, in the order of the plan, and their values of one property."""
    found = round.evaluations(purpose)
    return round.masks([wanted for wanted, _ in found]), np.array([evaluation.values[name] for _, evaluation in found])


def _credits(round: Round, name: str, method: Method, s: Sample, found: Estimate) -> Iterator[Credit]:
    v0, v1 = (s.paired.v0, s.paired.v1) if found.exact and s.paired else (s.v0, s.v1)
    shared = ends(v0, v1)
    order = s.measured.look.order if found.interval == "leverage" and s.measured else None
    for i, contributor in enumerate(round.manifest.names):
        phi = float(found.phi[i])
        yield Credit(
            property=name,
            method=method,
            game="retrain" if found.exact else round.config.removal.method,
            contributor=contributor,
            phi=phi,
            se=_finite(found.se, i),
            low=_finite(found.low, i),
            high=_finite(found.high, i),
            interval=found.interval,
            best=int(order.lowest[i]) if order else None,
            worst=int(order.highest[i]) if order else None,
            share=phi / shared.gain if found.shared and abs(shared.gain) > SURE * math.sqrt(shared.variance.sum()) else None,
        )


def pilot(round: Round, name: str, s: Sample) -> Pilot | None:
    """Whether the cheap game is used for credits of retraining, by the coalitions that were valued in both; None where none were."""
    if s.paired is None:
        return None
    cheap, exact = (
        float(np.mean([evaluation.cost.total for _, evaluation in round.evaluations(purpose)])) for purpose in ("design", "exact")
    )
    try:
        found = multifidelity.pilot(s.paired.Z, s.paired.y_cheap, s.paired.y, cheap, exact, s.level)
    except ValuationError as error:
        return Pilot(property=name, rho=None, low=None, high=None, use=False, reason=str(error))
    return Pilot(property=name, rho=found.rho, low=found.low, high=found.high, use=found.use, reason=found.reason)


def _covers(round: Round, s: Sample) -> dict[str, str]:
    """In words, what the intervals of each method that has honest ones cover."""
    m, n = s.Z.shape
    found, method = {}, round.config.removal.method
    if round.config.valuation.design == "leverage":
        found["leverage"] = intervals.covers(m, n, method, every=m == 2**n - 2)
    if s.paired:
        once = "; at this look alone, whatever the others showed" if round.config.valuation.stop else ""
        found["multifidelity"] = multifidelity.covers(len(s.paired.Z), m, n, method) + once
    return found


def _interactions(round: Round, name: str, s: Sample) -> Iterator[Interaction]:
    if not s.valuation.interactions:
        return
    found = shapley.interactions(s.Z, s.y, s.v0, s.v1)
    who = round.manifest.names
    for i, j in combinations(range(len(who)), 2):
        yield Interaction(property=name, one=who[i], other=who[j], value=float(found[i, j]))


def _looked(round: Round, samples: dict[str, Sample]) -> Looked | None:
    """Whether a round that is topped up has come far enough for all properties that its rule is for."""
    stop = round.config.valuation.stop
    if stop is None:
        return None
    decided = {
        name: sequential.decide(s.measured.look, stop.rule, stop.target)
        for name, s in samples.items()
        if s.measured and name in (stop.properties or samples)
    }
    reason = "; ".join(f"{name}: {decision.reason}" for name, decision in decided.items())
    done = bool(decided) and all(decision.stop for decision in decided.values())
    return Looked(look=round.plan.look + 1, looks=tuple(stop.looks), stop=done, reason=reason)


def _finite(bound: Array | None, i: int) -> float | None:
    return None if bound is None or not np.isfinite(bound[i]) else float(bound[i])


def endpoint(values: Array) -> Endpoint:
    """Mean and standard error of values over seeds; a stated one, (), has neither seeds nor an error."""
    if values.ndim == 0:
        return Endpoint(mean=float(values), se=0.0, seeds=0, stated=True)
    return Endpoint(mean=float(values.mean()), se=float(values.std(ddof=1) / np.sqrt(len(values))), seeds=len(values))


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
    rows.writerow(["property", "method", "game", "contributor", "phi", "se", "low", "high", "share", "interval", "best", "worst"])
    for c in credits.credits:
        rows.writerow([c.property, c.method, c.game, cell(c.contributor), *numbers(c), *standing(c)])
    return out.getvalue()


def numbers(c: Credit) -> list[str]:
    """Credit, standard error, bounds and share as cells; empty where there is none."""
    return ["" if value is None else repr(value) for value in (c.phi, c.se, c.low, c.high, c.share)]


def standing(c: Credit) -> list[str]:
    """Whose interval it is, and the best and the worst rank, as cells; empty where there are none."""
    return ["" if value is None else str(value) for value in (c.interval, c.best, c.worst)]


def cell(name: str) -> str:
    """A leading sign that a spreadsheet would take for a formula is kept off by a quote mark.

    So is a leading quote mark, so that no two names have the same cell: without one quote mark in front it is the name again.
    """
    return "'" + name if name.startswith(("=", "+", "-", "@", "\t", "\r", "'")) else name
