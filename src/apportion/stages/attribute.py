"""attribute: computes credits from the values in the ledger, by every method, and chooses the further
coalitions that these credits require."""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

import numpy as np

from apportion.errors import ApportionError, ValuationError
from apportion.planning.coalitions import removals
from apportion.properties import PROPERTIES
from apportion.records import (
    CREDITS,
    Credit,
    Credits,
    Endpoint,
    Followup,
    Interaction,
    PilotResult,
    Purpose,
    StoppingStatus,
)
from apportion.report.spreadsheets import credits_csv
from apportion.rounds.round import Round
from apportion.rounds.values import Array, goodness, method_input
from apportion.rounds.weights import cost_per_coalition
from apportion.store import layout
from apportion.valuation import interactions, multifidelity, sequential
from apportion.valuation.inputs import checked_endpoints
from apportion.valuation.methods import METHODS, Estimate, MethodInput

STANDARD_ERRORS = 2.0
"""v1 - v0 must differ from 0 by this many standard errors before it is divided into shares."""


def run(round_uri: str) -> int:
    """Commits the credits of a round; returns how many further evaluations they require."""
    this_round = Round.open(round_uri)
    this_round.write(layout.CREDITS_FILE, lambda: credits_of(this_round).dump())
    this_round.write(layout.CREDITS_CSV, lambda: credits_csv(this_round.credits).encode())
    this_round.write(layout.FOLLOWUP_FILE, lambda: follow(this_round).dump())
    return len(this_round.ledger.pending(this_round.followup.wanted))


def credits_of(this_round: Round) -> Credits:
    """The credits of a round by all its methods, from the ledger.

    Raises ApportionError for a round that was planned when credits came from values in another way.
    """
    if this_round.plan.credits != CREDITS:
        raise ApportionError(
            f"found round {this_round.id} of Apportion {this_round.plan.code}, which made credits in "
            f"another way (records.CREDITS {this_round.plan.credits}, expected {CREDITS}): that version "
            "makes and verifies them; `plan` here makes a round of its evaluations"
        )
    options = this_round.config.valuation
    inputs = {name: method_input(this_round, name) for name in sorted(this_round.config.properties)}
    pilots = {name: tuple(pilots_of(this_round, name, values)) for name, values in inputs.items()}
    credits: list[Credit] = []
    published: dict[str, str] = {}
    for name, values in inputs.items():
        supported = {result.game for result in pilots[name] if result.use}
        methods = [method for method in this_round.plan.methods if METHODS[method].always or supported]
        published[name] = methods[0]
        if values.retrained:
            values = replace(values, retrained=values.retrained.only(supported))
        for method in methods:
            credits += _credits(this_round, name, method, values, METHODS[method].estimate(values))
    retrained = {name: values.retrained for name, values in inputs.items() if values.retrained}
    first = next(iter(inputs.values()))
    return Credits(
        round=this_round.id,
        credits=tuple(credits),
        published=published,
        v0={name: endpoint(values.v0) for name, values in inputs.items()},
        v1={name: endpoint(values.v1) for name, values in inputs.items()},
        retrained_v0={name: endpoint(rows.v0) for name, rows in retrained.items()},
        retrained_v1={name: endpoint(rows.v1) for name, rows in retrained.items()},
        coalitions=len(first.Z),
        level=options.level,
        covers=_covers(this_round, first),
        controls={name: values.coefficient_of_control for name, values in inputs.items() if values.control},
        pilots=tuple(result for results in pilots.values() for result in results),
        interactions=tuple(
            pair for name, values in inputs.items() for pair in _interactions(this_round, name, values)
        ),
        stopping=_stopping(this_round, inputs),
    )


def _credits(
    this_round: Round, name: str, method: str, inputs: MethodInput, estimate: Estimate
) -> Iterator[Credit]:
    v0, v1 = inputs.v0, inputs.v1
    if estimate.of_retraining and inputs.retrained:
        v0, v1 = inputs.retrained.v0, inputs.retrained.v1
    endpoints = checked_endpoints(v0, v1)
    # Where the grand coalition is worse than the empty one, the largest share would be that of the
    # contributor who did most harm.
    worse = PROPERTIES[name].higher_is_better is not None and inputs.sign * endpoints.gain <= 0
    shareable = not worse and abs(endpoints.gain) > STANDARD_ERRORS * math.sqrt(endpoints.variance.sum())
    order = estimate.order
    for i, contributor in enumerate(this_round.manifest.names):
        phi = float(estimate.phi[i])
        yield Credit(
            property=name,
            method=method,
            game="retrain" if estimate.of_retraining else this_round.config.removal.method,
            contributor=contributor,
            phi=phi,
            se=_finite(estimate.se, i),
            low=_finite(estimate.low, i),
            high=_finite(estimate.high, i),
            interval=estimate.interval,
            best=int(order.lowest[i]) if order else None,
            worst=int(order.highest[i]) if order else None,
            share=phi / endpoints.gain if estimate.efficient and shareable else None,
        )


def pilots_of(this_round: Round, name: str, inputs: MethodInput) -> Iterator[PilotResult]:
    """Whether each cheap game agrees enough with retraining to be used for credits of retraining, by the
    coalitions that were evaluated in both; nothing where none were."""
    rows = inputs.retrained
    if rows is None:
        return
    retrained_cost = _mean_cost(this_round, "retrained")
    for game, y in rows.y_cheap.items():
        cost = _mean_cost(this_round, "control" if game == "own_images" else "design")
        try:
            result = multifidelity.pilot(rows.Z, y, rows.y, cost, retrained_cost, inputs.level)
        except ValuationError as error:
            yield PilotResult(
                property=name, game=game, rho=None, low=None, high=None, use=False, reason=str(error)
            )
            continue
        yield PilotResult(
            property=name,
            game=game,
            rho=result.rho,
            low=result.low,
            high=result.high,
            use=result.use,
            reason=result.reason,
        )


def _mean_cost(this_round: Round, purpose: Purpose) -> float:
    """Seconds of one coalition, with its part of weights that coalitions share unless their cost is not known
    any more."""
    seconds = cost_per_coalition(this_round, purpose)
    if math.isnan(seconds):
        return float(np.mean([evaluation.cost.total for _, evaluation in this_round.evaluations(purpose)]))
    return seconds


def _covers(this_round: Round, inputs: MethodInput) -> dict[str, str]:
    """In words, what the intervals of each method that has intervals cover."""
    removal = this_round.config.removal.method
    sources = dict.fromkeys(METHODS[method].interval for method in this_round.plan.methods)
    rows = ((name, METHODS[name].covers) for name in sources if name is not None)
    return {name: covers(inputs, removal) for name, covers in rows if covers is not None}


def _interactions(this_round: Round, name: str, inputs: MethodInput) -> Iterator[Interaction]:
    if not inputs.options.interactions:
        return
    result = interactions.estimate(inputs.Z, inputs.y, inputs.v0, inputs.v1, inputs.level, inputs.sets)
    for k, (one, other) in enumerate(combinations(this_round.manifest.names, 2)):
        known = np.isfinite(result.se[k])
        yield Interaction(
            property=name,
            one=one,
            other=other,
            value=float(result.value[k]),
            se=_finite(result.se, k),
            low=_finite(result.low, k),
            high=_finite(result.high, k),
            established=bool(result.established[k]),
            unknown="" if known else result.unknown or interactions.NOT_DISTINGUISHED,
        )


def _stopping(this_round: Round, inputs: dict[str, MethodInput]) -> StoppingStatus | None:
    """Whether a round that is topped up has enough coalitions for all properties that its rule is for."""
    stop = this_round.config.valuation.stop
    if stop is None:
        return None
    decisions = {
        name: sequential.decide(values.leverage_fit.look, stop.rule, stop.target)
        for name, values in inputs.items()
        if values.leverage_fit and name in (stop.properties or inputs)
    }
    reason = "; ".join(f"{name}: {decision.reason}" for name, decision in decisions.items())
    done = bool(decisions) and all(decision.stop for decision in decisions.values())
    return StoppingStatus(look=this_round.plan.look + 1, looks=tuple(stop.looks), stop=done, reason=reason)


def _finite(bound: Array | None, i: int) -> float | None:
    return None if bound is None or not np.isfinite(bound[i]) else float(bound[i])


def endpoint(values: Array) -> Endpoint:
    """Mean and standard error of values over seeds; a stated value, (), has neither seeds nor an error."""
    if values.ndim == 0:
        return Endpoint(mean=float(values), se=0.0, seeds=0, stated=True)
    se = float(values.std(ddof=1) / np.sqrt(len(values)))
    return Endpoint(mean=float(values.mean()), se=se, seeds=len(values))


def follow(this_round: Round) -> Followup:
    """The evaluations that the counterfactual removal of a round needs; none where it has none."""
    options = this_round.config.evaluation.counterfactual
    if options is None:
        return Followup(round=this_round.id, wanted=())
    phi = np.array([credit.phi for credit in this_round.credits.of(options.property)])
    games = {role: this_round.game(role) for role in this_round.plan.games}
    wanted = removals(this_round.config, this_round.manifest, games, goodness(options.property, phi))
    return Followup(round=this_round.id, wanted=tuple(wanted))
