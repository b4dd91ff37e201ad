"""evaluate: do the credits agree with retraining? It reads credits and ledger only; every evaluation that it
needs was requested by `plan` or `attribute`."""

import math
from collections.abc import Iterator

import numpy as np

from apportion.errors import ValuationError
from apportion.evaluation.counterfactual import relative_change
from apportion.evaluation.faithfulness import faithfulness
from apportion.evaluation.lds import lds, lds_interval
from apportion.evaluation.verdict import verdict
from apportion.records import Counterfactual, Evaluation, Evidence, Faith, Judgement, LdsScore, Wanted
from apportion.rounds.round import Round
from apportion.rounds.values import sampled_purposes
from apportion.store import layout
from apportion.valuation.coalitions import among

Evaluations = list[tuple[Wanted, Evaluation]]


def run(round_uri: str) -> int:
    """Commits the evidence of a round; returns the number of properties with the verdict "faithful"."""
    this_round = Round.open(round_uri)
    this_round.write(layout.EVIDENCE_FILE, lambda: evidence_of(this_round).dump())
    return sum(verdict(judgement) == "faithful" for judgement in this_round.evidence.judgements)


def evidence_of(this_round: Round) -> Evidence:
    """The judgement of every property, from the credits and the ledger."""
    by_alpha = dict(_by_alpha(this_round))
    judgements = [
        Judgement(
            property=name,
            published=this_round.credits.published[name],
            faithfulness=tuple(
                _faith(this_round, name, alpha, truth, cheap) for alpha, (truth, cheap) in by_alpha.items()
            ),
            scores=tuple(
                score
                for alpha, (truth, _) in by_alpha.items()
                for score in _scores(this_round, name, alpha, truth)
            ),
            counterfactuals=tuple(_counterfactuals(this_round, name)),
        )
        for name in sorted(this_round.config.properties)
    ]
    return Evidence(round=this_round.id, judgements=tuple(judgements))


def _by_alpha(this_round: Round) -> Iterator[tuple[float, tuple[Evaluations, Evaluations]]]:
    """Held-out coalitions of each size share, by retraining and in the game of the credits, in the order of
    the plan."""
    options = this_round.config.evaluation
    if options.held_out == 0:
        return
    truth, cheap = this_round.evaluations("held_out"), this_round.evaluations("paired")
    for i, alpha in enumerate(options.alphas):
        part = slice(i * options.held_out, (i + 1) * options.held_out)
        yield alpha, (truth[part], cheap[part])


def _values(evaluations: Evaluations, name: str) -> list[float]:
    return [evaluation.values[name] for _, evaluation in evaluations]


def _faith(this_round: Round, name: str, alpha: float, truth: Evaluations, cheap: Evaluations) -> Faith:
    result = faithfulness(
        _values(cheap, name),
        _values(truth, name),
        threshold=this_round.config.evaluation.threshold,
        level=this_round.config.valuation.level,
    )
    rho, low, high = (None if math.isnan(value) else value for value in (result.rho, result.low, result.high))
    return Faith(alpha=alpha, rho=rho, low=low, high=high, pairs=result.pairs, status=result.status)


def _scores(this_round: Round, name: str, alpha: float, truth: Evaluations) -> Iterator[LdsScore]:
    """LDS of every method's credits. None where too few coalitions or equal values leave no order to
    compare."""
    Z, y = this_round.masks([wanted for wanted, _ in truth]), _values(truth, name)
    purposes = sampled_purposes(this_round)
    sampled = this_round.masks([item for item in this_round.plan.wanted if item.purpose in purposes])
    in_design = int(among(Z, sampled).sum())
    level = this_round.config.valuation.level
    for method in this_round.credits.methods(name):
        phi = np.array([credit.phi for credit in this_round.credits.of(name, method)])
        value, low, high = None, None, None
        try:
            value, (low, high) = lds(Z, y, phi), lds_interval(Z, y, phi, level)
        except ValuationError:
            value = None  # there is no order to compare, so the score has no value
        yield LdsScore(
            method=method, alpha=alpha, lds=value, low=low, high=high, held_out=len(y), in_design=in_design
        )


def _counterfactuals(this_round: Round, name: str) -> list[Counterfactual]:
    """The change of a property without the top contributors, and without random ones, each over the same
    seeds."""
    options, n = this_round.config.evaluation.counterfactual, this_round.manifest.n
    if options is None:
        return []
    after = this_round.evaluations("counterfactual")
    groups = [after[start : start + options.seeds] for start in range(0, len(after), options.seeds)]
    before = _values(groups[0], name)
    removed = [int((~group[0][0].mask(n)).sum()) for group in groups]
    labels = [f"without the top {removed[1]} for {options.property}"]
    labels += [f"without {count} at random ({i})" for i, count in enumerate(removed[2:], 1)]
    pairs = zip(labels, groups[1:], strict=True)
    return [_change(this_round, label, name, before, group) for label, group in pairs]


def _change(
    this_round: Round, label: str, name: str, before: list[float], group: Evaluations
) -> Counterfactual:
    wanted = group[0][0]
    values = _values(group, name)
    try:
        change, error = relative_change(before, values)
    except ValuationError:  # no change is relative to zero
        change, error = math.nan, math.nan
    kept = wanted.mask(this_round.manifest.n)
    return Counterfactual(
        label=label,
        game=wanted.game,
        removed=tuple(who for who, keep in zip(this_round.manifest.names, kept, strict=True) if not keep),
        key=wanted.key,
        change=None if math.isnan(change) else change,
        se=None if math.isnan(error) else error,
        value=float(np.mean(values)),
    )
