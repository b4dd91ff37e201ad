"""evaluate: are the credits true? Reads the ledger only; every retrained model it needs was asked for by `plan` or `attribute`."""

import math

import numpy as np

from apportion.errors import ValuationError
from apportion.evaluation.counterfactual import relative_change
from apportion.evaluation.faithfulness import faithfulness
from apportion.evaluation.lds import lds, lds_interval
from apportion.evaluation.verdict import verdict
from apportion.records import Counterfactual, Evaluation, Evidence, Faith, Judgement, Score, Wanted
from apportion.stages.attribute import SAMPLED
from apportion.stages.round import Round
from apportion.valuation.coalitions import among

Pairs = list[tuple[Wanted, Evaluation]]


def run(round_uri: str) -> int:
    """Commits the evidence of a round; returns the number of properties whose credits hold at every size measured."""
    round = Round.open(round_uri)
    round.write("evidence.json", lambda: judge(round).dump())
    return sum(verdict(judgement) == "faithful" for judgement in round.evidence.judgements)


def judge(round: Round) -> Evidence:
    truth, cheap, after = round.evaluations("held_out"), round.evaluations("paired"), round.evaluations("counterfactual")
    judgements = [
        Judgement(
            property=name,
            faithfulness=tuple(_faith(round, name, alpha, *held) for alpha, held in _by_alpha(round, truth, cheap).items()),
            scores=tuple(score for alpha, held in _by_alpha(round, truth, cheap).items() for score in _scores(round, name, alpha, held[0])),
            counterfactuals=tuple(_counterfactuals(round, name, after)),
        )
        for name in sorted(round.config.properties)
    ]
    return Evidence(round=round.id, judgements=tuple(judgements))


def _by_alpha(round: Round, truth: Pairs, cheap: Pairs) -> dict[float, tuple[Pairs, Pairs]]:
    """Held-out coalitions of each size share, in the order of the plan."""
    each = round.config.evaluation.held_out
    if each == 0:
        return {}
    starts = {alpha: i * each for i, alpha in enumerate(round.config.evaluation.alphas)}
    return {alpha: (truth[start : start + each], cheap[start : start + each]) for alpha, start in starts.items()}


def _values(pairs: Pairs, name: str) -> list[float]:
    return [evaluation.values[name] for _, evaluation in pairs]


def _faith(round: Round, name: str, alpha: float, truth: Pairs, cheap: Pairs) -> Faith:
    asked = round.config.evaluation
    found = faithfulness(_values(cheap, name), _values(truth, name), threshold=asked.threshold, level=round.config.valuation.level)
    rho, low, high = (None if math.isnan(value) else value for value in (found.rho, found.low, found.high))
    return Faith(alpha=alpha, rho=rho, low=low, high=high, pairs=found.pairs, status=found.status)


def _scores(round: Round, name: str, alpha: float, truth: Pairs) -> list[Score]:
    """LDS of every method's credits. None where too few coalitions or equal values leave no order to compare."""
    Z, y = round.masks([wanted for wanted, _ in truth]), _values(truth, name)
    by_method: dict[str, list[float]] = {}
    for credit in round.credits.credits:
        if credit.property == name:
            by_method.setdefault(credit.method, []).append(credit.phi)
    sampled = round.masks([item for item in round.plan.wanted if item.purpose in SAMPLED])
    seen, level = int(among(Z, sampled).sum()), round.config.valuation.level
    return [_score(method, alpha, Z, y, np.array(phi), level, seen) for method, phi in by_method.items()]


def _score(method: str, alpha: float, Z: np.ndarray, y: list[float], phi: np.ndarray, level: float, seen: int) -> Score:
    try:
        value, (low, high) = lds(Z, y, phi), lds_interval(Z, y, phi, level)
    except ValuationError:
        return Score(method=method, alpha=alpha, lds=None, low=None, high=None, held_out=len(y), in_design=seen)
    return Score(method=method, alpha=alpha, lds=value, low=low, high=high, held_out=len(y), in_design=seen)


def _counterfactuals(round: Round, name: str, after: Pairs) -> list[Counterfactual]:
    """The change of a property without the top contributors, and without random ones, each over the same seeds."""
    asked = round.config.evaluation.counterfactual
    if asked is None:
        return []
    groups = [after[start : start + asked.seeds] for start in range(0, len(after), asked.seeds)]
    before = _values(groups[0], name)
    labels = [f"without the top {_removed(round, groups[1])} for {asked.property}"]
    labels += [f"without {_removed(round, group)} at random ({i + 1})" for i, group in enumerate(groups[2:])]
    return [_change(round, label, name, before, group) for label, group in zip(labels, groups[1:], strict=True)]


def _removed(round: Round, group: Pairs) -> int:
    return int((~group[0][0].mask(round.manifest.n)).sum())


def _change(round: Round, label: str, name: str, before: list[float], group: Pairs) -> Counterfactual:
    wanted = group[0][0]
    values = _values(group, name)
    try:
        change, error = relative_change(before, values)
    except ValuationError:  # no change is relative to zero
        change, error = math.nan, math.nan
    gone = tuple(who for who, kept in zip(round.manifest.names, wanted.mask(round.manifest.n), strict=True) if not kept)
    return Counterfactual(
        label=label, game=wanted.game, removed=gone, key=wanted.key,
        change=None if math.isnan(change) else change, se=None if math.isnan(error) else error, value=float(np.mean(values)),
    )  # fmt: skip
