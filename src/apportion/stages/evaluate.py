"""evaluate: do the credits agree with retraining? It reads credits and ledger only; every evaluation that it
needs was requested by `plan` or `attribute`."""

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from apportion.errors import ValuationError
from apportion.evaluation.counterfactual import relative_change
from apportion.evaluation.faithfulness import faithfulness
from apportion.evaluation.lds import lds, lds_interval
from apportion.evaluation.verdict import verdict
from apportion.records import (
    ComparedEvaluations,
    Counterfactual,
    Evaluation,
    Evidence,
    Faith,
    Judgement,
    LdsScore,
    Wanted,
)
from apportion.rounds.citing import by_size_of, cited, held_out_of
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
    """The judgement of every property, from the credits and the ledger, or from the evaluations that the
    round cites from another round of the same game and contributors."""
    source = cited(this_round)
    if source is None:
        held_out, sizes = held_out_of(this_round), by_size_of(this_round)
        alphas = this_round.config.evaluation.alphas
    else:
        held_out, sizes, alphas = source.held_out, source.by_size, []
    by_alpha, by_size = _compared(this_round, held_out, alphas), _compared(this_round, sizes, [])

    def judgement(name: str) -> Judgement:
        return Judgement(
            property=name,
            published=this_round.credits.published[name],
            faithfulness=tuple(_faith(this_round, name, part, part.cheap) for part in by_alpha),
            baseline=tuple(_faith(this_round, name, part, part.baseline) for part in by_alpha),
            by_size=tuple(_faith(this_round, name, part, part.cheap) for part in by_size),
            by_size_baseline=tuple(_faith(this_round, name, part, part.baseline) for part in by_size),
            cited=None if source is None else source.citation,
            scores=tuple(
                score for part in by_alpha for score in _scores(this_round, name, part.alpha, part.truth)
            ),
            counterfactuals=tuple(_counterfactuals(this_round, name)),
        )

    judgements = [judgement(name) for name in sorted(this_round.config.properties)]
    return Evidence(round=this_round.id, judgements=tuple(judgements))


class Compared(NamedTuple):
    """Coalitions of one size, as a share `alpha` of the contributors: k by retraining, equally many for each
    of them in the game of the credits, and k by their own images."""

    alpha: float
    truth: Sequence[Evaluation]
    cheap: Sequence[Evaluation]
    baseline: Sequence[Evaluation]


def _compared(this_round: Round, records: ComparedEvaluations, alphas: Sequence[float]) -> list[Compared]:
    """The coalitions of each size, in their order. alphas: the configured shares, in that order; where there
    are none, the share of a size."""
    parts, start, n = [], 0, this_round.manifest.n
    times = len(records.paired) // max(len(records.retrained), 1)
    sizes = [len(record.members) for record in records.retrained]
    for k, (size, group) in enumerate(groupby(sizes)):
        stop = start + len(list(group))
        parts.append(
            Compared(
                alphas[k] if k < len(alphas) else size / n,
                records.retrained[start:stop],
                records.paired[start * times : stop * times],
                records.own_images[start:stop],
            )
        )
        start = stop
    return parts


def _values(evaluations: Sequence[Evaluation], name: str) -> list[float]:
    return [evaluation.values[name] for evaluation in evaluations]


def _faith(this_round: Round, name: str, part: Compared, cheap: Sequence[Evaluation]) -> Faith:
    """How well a game agrees with retraining. Evaluations of one coalition in it, which follow each other,
    are averaged."""
    values = np.reshape(_values(cheap, name), (len(part.truth), -1))
    result = faithfulness(
        values.mean(axis=1),
        _values(part.truth, name),
        threshold=this_round.config.evaluation.threshold,
        level=this_round.config.valuation.level,
    )
    rho, low, high = (None if math.isnan(value) else value for value in (result.rho, result.low, result.high))
    return Faith(alpha=part.alpha, rho=rho, low=low, high=high, pairs=result.pairs, status=result.status)


def _scores(
    this_round: Round, name: str, alpha: float, retrained: Sequence[Evaluation]
) -> Iterator[LdsScore]:
    """LDS of every method's credits. None where too few coalitions or equal values leave no order to
    compare."""
    data = [contributor.data for contributor in this_round.manifest.contributors]
    Z = np.array([[item in set(record.members) for item in data] for record in retrained])
    y = [record.values[name] for record in retrained]
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
            method=method,
            alpha=alpha,
            lds=value,
            low=low,
            high=high,
            held_out=len(y),
            in_design=in_design,
        )


def _counterfactuals(this_round: Round, name: str) -> list[Counterfactual]:
    """The change of a property without the top contributors, and without random ones, each over the same
    seeds."""
    options, n = this_round.config.evaluation.counterfactual, this_round.manifest.n
    if options is None:
        return []
    after = this_round.evaluations("counterfactual")
    groups = [after[start : start + options.seeds] for start in range(0, len(after), options.seeds)]
    before = _values([record for _, record in groups[0]], name)
    removed = [int((~group[0][0].mask(n)).sum()) for group in groups]
    labels = [f"without the top {removed[1]} for {options.property}"]
    labels += [f"without {count} at random ({i})" for i, count in enumerate(removed[2:], 1)]
    pairs = zip(labels, groups[1:], strict=True)
    return [_change(this_round, label, name, before, group) for label, group in pairs]


def _change(
    this_round: Round, label: str, name: str, before: list[float], group: Evaluations
) -> Counterfactual:
    wanted = group[0][0]
    values = _values([record for _, record in group], name)
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
