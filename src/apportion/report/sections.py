"""What a page says of one round, in words and tables, from its records: no markup here but the chart's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import pstdev
from typing import Protocol

from markupsafe import Markup

from apportion.errors import ValuationError
from apportion.evaluation.lds import spearman
from apportion.evaluation.verdict import prediction, weakest_faith, weakest_score
from apportion.evaluation.verdict import verdict as decided
from apportion.records import Credit, Credits, Endpoint, Faith, Judgement, Manifest, Score
from apportion.report.charts import Dot, dots, runs_out
from apportion.report.numbers import interval, number, portion, precision, signed
from apportion.report.tables import Table, credit_table, faith_table, interaction_table, other_table, title

LOPSIDED = 2.0  # an equal share this many times the spread of the credits hides how contributors differ


class Meaning(Protocol):
    """What readers are told of a property; `apportion.properties.Property` is one."""

    @property
    def meaning(self) -> str: ...
    @property
    def higher_is_better(self) -> bool | None: ...


@dataclass(frozen=True)
class Verdict:
    """Whether a property's credits can be believed, and why."""

    status: str
    why: str
    table: Table | None


@dataclass(frozen=True)
class Section:
    """Everything the page says of one property."""

    name: str
    title: str
    meaning: str
    direction: str
    verdict: Verdict
    ends: tuple[tuple[str, str, str], ...]
    remarks: tuple[str, ...]
    chart: Markup
    note: str
    table: Table
    others: Table | None
    interactions: Table | None
    change: str


def methods(credits: Credits, name: str) -> dict[str, list[Credit]]:
    """Credits of one property by method; the first is the one that is published."""
    found: dict[str, list[Credit]] = {}
    for credit in credits.credits:
        if credit.property == name:
            found.setdefault(credit.method, []).append(credit)
    return found


def section(
    name: str,
    meaning: Meaning,
    manifest: Manifest,
    credits: Credits,
    judgement: Judgement | None,
    previous: Credits | None,
    threshold: float,
) -> Section:
    """The section of one property, contributors in order of what they did for it, best first."""
    better, v0, v1 = meaning.higher_is_better, credits.v0[name], credits.v1[name]
    by_method = methods(credits, name)
    main = sorted(next(iter(by_method.values())), key=lambda c: (c.phi if better is False else -c.phi, c.contributor))
    before = _before(previous, name, main[0].method)
    equal = (v1.mean - v0.mean) / len(main)
    drawn = [Dot(c.contributor, c.phi, c.low, c.high) for c in main]
    return Section(
        name=name,
        title=title(name),
        meaning=meaning.meaning,
        direction=direction(name, better),
        verdict=verdict(judgement, threshold),
        ends=_ends(v0, v1, equal),
        remarks=(*_remarks(v0, v1, equal, [c.phi for c in main], better), *_exact(credits, name)),
        chart=_chart(name, drawn, better, equal, credits.level),
        note=_chart_note(drawn, equal, credits.level),
        table=credit_table(main, manifest, before, credits.level, better),
        others=other_table(main, by_method),
        interactions=interaction_table([i for i in credits.interactions if i.property == name], better),
        change=_change(main, before, previous),
    )


def direction(name: str, better: bool | None) -> str:
    """In words, what a positive and a negative credit mean."""
    what = title(name)
    if better is None:
        return f"Neither more nor less is better. A positive credit: this contributor’s images raise {what}. A negative one: they lower it."
    good, bad, up, down = ("positive", "negative", "raise", "lower") if better else ("negative", "positive", "lower", "raise")
    return (
        f"{'Higher' if better else 'Lower'} is better. A {good} credit: this contributor’s images {up} {what}, which improves it. "
        f"A {bad} one: they {down} it, which makes it worse."
    )


def verdict(judgement: Judgement | None, threshold: float) -> Verdict:
    """The worst of the sizes measured, and what it rests on."""
    if judgement is None or not judgement.faithfulness:
        return Verdict(
            "not established",
            "No coalition was retrained for comparison in this round, so nothing tells how true these credits are.",
            None,
        )
    why, score = _why(weakest_faith(judgement.faithfulness), threshold), weakest_score(judgement.scores)
    said = why if score is None else f"{why} {_predicts(score)}"
    return Verdict(decided(judgement), said, faith_table(judgement.faithfulness))


def _why(faith: Faith, threshold: float) -> str:
    where = f"over {faith.pairs} coalitions that keep {portion(faith.alpha)} of the contributors"
    if faith.rho is None:
        return f"There were too few coalitions, or values all alike, to compare with retraining ({where})."
    found = f"ρ = {number(faith.rho, '.2f')} ({interval(faith.low, faith.high, '.2f')}) {where}"
    asked = f"{number(threshold, '.2f')} asked for"
    if faith.status == "faithful":
        return f"The removal method orders coalitions as retraining from scratch does: {found}, at least the {asked}."
    if faith.status == "not faithful":
        return (
            f"The removal method does not order coalitions as retraining from scratch does: {found}, below the {asked}. "
            "These credits describe the models of the removal method only: do not pay by them."
        )
    if faith.rho >= threshold and faith.low is not None and faith.low <= 0:
        return f"The agreement with retraining may be chance: {found}, and the interval holds 0. Do not pay by these credits yet."
    return f"Too few coalitions were compared with retraining to tell: {found}."


def _predicts(score: Score) -> str:
    """What the credits themselves are worth for telling coalitions apart."""
    where = f"over {score.held_out} retrained coalitions"
    if score.lds is None:
        return f"Whether these credits predict retrained models cannot be said: equal values have no order ({where})."
    found = f"LDS = {number(score.lds, '.2f')} ({interval(score.low, score.high, '.2f')}) {where}"
    if prediction(score) == "faithful":
        return f"Summed over a coalition, these credits predict what retraining on it gives: {found}."
    if score.high is not None and score.high < 0:
        return f"Summed over a coalition, these credits predict the opposite of what retraining on it gives: {found}. Do not pay by them."
    return (
        f"Summed over a coalition, these credits do not predict what retraining on it gives: {found}, and the interval holds 0. "
        "They are too imprecise, or coalitions of other sizes say other things: do not pay by them yet. "
        "More coalitions may help (valuation.coalitions)."
    )


def _ends(v0: Endpoint, v1: Endpoint, equal: float) -> tuple[tuple[str, str, str], ...]:
    spec = _finer(precision([v0.mean, v1.mean]))
    gain = v1.mean - v0.mean
    return (
        ("v0, nobody’s data", number(v0.mean, spec), _error(v0, spec)),
        ("v1, everybody’s data", number(v1.mean, spec), _error(v1, spec)),
        ("v1 − v0, to be shared", signed(gain, spec), "what the credits add up to"),
        ("An equal share of it", signed(equal, precision([equal])), "dashed in the chart"),
    )


def _error(end: Endpoint, spec: str) -> str:
    if end.stated:
        return "stated in the configuration"
    return "1 seed, error unknown" if end.seeds == 1 else f"± {number(end.se, spec)} standard error, {end.seeds} seeds"


def _finer(spec: str) -> str:
    """One decimal more, for numbers whose difference matters."""
    return f",.{int(spec[2:-1]) + 1}f" if spec.startswith(",.") else spec


def _remarks(v0: Endpoint, v1: Endpoint, equal: float, phi: Sequence[float], better: bool | None) -> list[str]:
    remarks = []
    if better is not None and not v0.stated and (v1.mean > v0.mean) is not better:
        remarks.append("By this property an untrained model is better than the trained one, so v0 is no lower end of a scale.")
    scale = max(map(abs, phi))
    spread = pstdev([value / scale for value in phi]) * scale if scale else 0.0
    if not v0.stated and abs(equal) > LOPSIDED * spread:
        remarks.append(
            f"Most of each credit is the same equal share, {signed(equal, precision([equal]))}, of the way from an untrained model; "
            f"contributors differ by only {number(spread, precision([spread]))} (standard deviation). Read the differences. "
            "Where v0 lies off the scale of real models, a reference value can be stated instead (valuation.stated_v0)."
        )
    return remarks


def _exact(credits: Credits, name: str) -> list[str]:
    """What a few retrained coalitions say of the cheap game, and between which ends their credits lie."""
    found = [pilot for pilot in credits.pilots if pilot.property == name]
    if not found:
        return []
    v0, v1 = credits.exact_v0[name], credits.exact_v1[name]
    spec = _finer(precision([v0.mean, v1.mean]))
    ends = f"retraining itself goes from {number(v0.mean, spec)} (nobody) to {number(v1.mean, spec)} (everybody)"
    so = "" if found[0].use else " So there are no credits of retraining for this property."
    return [f"Retrained coalitions beside the removal method: {found[0].reason}; {ends}.{so}"]


def _chart(name: str, drawn: Sequence[Dot], better: bool | None, equal: float, level: float) -> Markup:
    less, more = {True: ("← worse", "better →"), False: ("← better", "worse →"), None: ("← less", "more →")}[better]
    label = f"Credit for {title(name)} of {len(drawn)} contributors with {portion(level)} intervals, in the order of the table below"
    return dots(drawn, label=label, less=less, more=more, equal=equal)


def _chart_note(drawn: Sequence[Dot], equal: float, level: float) -> str:
    """What the marks of the chart mean, as far as they occur."""
    bounded = [dot for dot in drawn if dot.bounded]
    if not bounded:
        return "No interval is drawn: this method has no honest one."
    clear = sum(dot.clear for dot in bounded)
    notes = [f"Filled dots: the {portion(level)} interval leaves 0 out ({clear} of {len(drawn)}). Hollow dots: it holds 0."]
    if runs_out(drawn, equal):
        notes.append("Arrow: the interval goes on.")
    if len(bounded) < len(drawn):
        notes.append("Dotted ring: there is no interval.")
    return " ".join(notes)


def _before(previous: Credits | None, name: str, method: str) -> dict[str, float] | None:
    """The previous round's credits by the same method, or None where it has none."""
    found = [] if previous is None else [c for c in previous.credits if c.property == name and c.method == method]
    return {c.contributor: c.phi for c in found} or None


def _change(main: Sequence[Credit], before: Mapping[str, float] | None, previous: Credits | None) -> str:
    if previous is None:
        return ""
    if before is None:
        return f"Round {previous.round[:12]} before this one has no credits for this property by this method."
    now = {c.contributor: c.phi for c in main}
    both = [who for who in now if who in before]
    try:
        rho = f"rank correlation {number(spearman([now[who] for who in both], [before[who] for who in both]), '.2f')}"
    except ValuationError:
        rho = "too few or equal credits to correlate"
    joined, left = len(now) - len(both), len(before) - len(both)
    return f"Against round {previous.round[:12]}: {rho} over {len(both)} contributors in both; {joined} joined, {left} left."
