"""The sections of a page, one per property: its words, numbers and tables, from the records of a round. The
only markup is that of the chart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import pstdev
from typing import Protocol

from markupsafe import Markup

from apportion.errors import ValuationError
from apportion.evaluation.lds import spearman
from apportion.evaluation.verdict import prediction, weakest_faith, weakest_score
from apportion.evaluation.verdict import verdict as status_of
from apportion.records import (
    Credit,
    Credits,
    Endpoint,
    Faith,
    Judgement,
    LdsScore,
    Manifest,
    NetworkDescription,
    PilotResult,
)
from apportion.report.charts import Dot, dot_chart, has_cut_off
from apportion.report.numbers import interval, number, portion, precision, signed
from apportion.report.tables import Table, credit_table, faith_table, interaction_table, other_table, title

LOPSIDED = 2.0
"""An equal share this many times the standard deviation of the credits hides how contributors differ."""


NO_IMPROVEMENT = (
    "By this property the empty coalition is no worse than the grand coalition, so there is no improvement "
    "to share, and nobody has a share"
)


class Meaning(Protocol):
    """What readers learn of a property; `apportion.properties.Property` has these attributes."""

    @property
    def meaning(self) -> str: ...
    @property
    def higher_is_better(self) -> bool | None: ...
    @property
    def needs_network(self) -> bool: ...


@dataclass(frozen=True)
class Verdict:
    """Whether the credits of a property agree with retraining, and why. elsewhere: whether that was measured
    in another round."""

    status: str
    why: str
    table: Table | None
    elsewhere: bool = False


@dataclass(frozen=True)
class Section:
    """Everything the page says of one property."""

    name: str
    title: str
    meaning: str
    network: str
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


def section(
    name: str,
    meaning: Meaning,
    manifest: Manifest,
    credits: Credits,
    judgement: Judgement | None,
    previous: Credits | None,
    threshold: float,
    networks: Sequence[NetworkDescription] = (),
) -> Section:
    """The section of one property, with contributors in the order of how much they improved it, or raised it
    where more is neither better nor worse. networks: the feature networks of the round."""
    better = meaning.higher_is_better
    v0, v1 = credits.v0[name], credits.v1[name]
    by_method = {method: credits.of(name, method) for method in credits.methods(name)}
    main = sorted(credits.of(name), key=lambda c: (c.phi if better is False else -c.phi, c.contributor))
    before = _before(previous, name, main[0].method)
    equal = (v1.mean - v0.mean) / len(main)
    rows = [Dot(c.contributor, c.phi, c.low, c.high) for c in main]
    remarks = [*_remarks(v0, v1, equal, [c.phi for c in main], better), *_control_remark(credits, name)]
    remarks += _retraining_remark(credits, name)
    return Section(
        name=name,
        title=title(name),
        meaning=meaning.meaning,
        network=network_text(networks) if meaning.needs_network else "",
        direction=direction(name, better),
        verdict=reasoned_verdict(judgement, threshold),
        ends=_ends(v0, v1, equal),
        remarks=tuple(remarks),
        chart=_chart(name, rows, better, equal, credits.level),
        note=_chart_note(rows, equal, credits.level),
        table=credit_table(main, manifest, before, credits.level, better),
        others=other_table(main, by_method),
        interactions=interaction_table(
            [i for i in credits.interactions if i.property == name],
            better,
            credits.level,
            one_look=credits.stopping is not None,
        ),
        change=_change(main, before, previous),
    )


def network_text(networks: Sequence[NetworkDescription]) -> str:
    """Which feature networks measure and what they were trained on, in words; empty where that was not
    recorded."""
    parts = [f"{network.name}, trained on {network.trained_on}" for network in networks]
    return "; ".join(parts)


def no_improvement(better: bool | None, v0: Endpoint, v1: Endpoint) -> bool:
    """Whether the grand coalition is worse than the empty one, or equal to it. better: whether higher values
    are better; None where neither is."""
    return better is not None and (v1.mean > v0.mean if better else v1.mean < v0.mean) is False


def direction(name: str, better: bool | None) -> str:
    """In words, what a positive and a negative credit mean."""
    what = title(name)
    if better is None:
        return (
            "Neither more nor less is better. A positive credit: this contributor’s images raise "
            f"{what}. A negative credit: they lower it."
        )
    if better:
        return (
            f"Higher is better. A positive credit: this contributor’s images raise {what}, which improves "
            "it. A negative credit: they lower it, which makes it worse."
        )
    return (
        f"Lower is better. A negative credit: this contributor’s images lower {what}, which improves it. A "
        "positive credit: they raise it, which makes it worse."
    )


def reasoned_verdict(judgement: Judgement | None, threshold: float) -> Verdict:
    """The worst status over the sizes of coalitions that were measured, and what it is based on."""
    if judgement is None or not judgement.faithfulness:
        return Verdict(
            "not established",
            "No coalition was retrained for comparison in this round, so it is not known whether these "
            "credits agree with retraining.",
            None,
        )
    why = _why(weakest_faith(judgement.faithfulness), threshold)
    score = weakest_score(judgement)
    if score is not None:
        why = f"{why} {_predicts(score)}"
    why = f"{_cited(judgement)}{why} {_compared_with_baseline(judgement)}".strip()
    return Verdict(status_of(judgement), why, faith_table(judgement), judgement.cited is not None)


def _why(faith: Faith, threshold: float) -> str:
    """Whether the removal method agrees with retraining, in words."""
    where = f"over {faith.pairs} coalitions that keep {portion(faith.alpha)} of the contributors"
    if faith.rho is None:
        return (
            "The removal method could not be compared with retraining, because there were too few coalitions "
            f"or all values were equal ({where})."
        )
    correlation = f"ρ = {number(faith.rho, '.2f')} ({interval(faith.low, faith.high, '.2f')}) {where}"
    required = f"{number(threshold, '.2f')} that is required"
    if faith.status == "faithful":
        return (
            "The removal method orders coalitions as retraining from scratch does: "
            f"{correlation}, at least the {required}."
        )
    if faith.status == "not faithful":
        return (
            f"The removal method does not order coalitions as retraining from scratch does: {correlation}, "
            f"below the {required}. These credits describe models made by the removal method only: do not "
            "pay by them."
        )
    if faith.rho >= threshold and faith.low is not None and faith.low <= 0:
        return (
            f"The agreement with retraining may be chance: {correlation}, and the interval contains 0. Do "
            "not pay by these credits yet."
        )
    return f"Too few coalitions were compared with retraining to know whether it agrees: {correlation}."


def _cited(judgement: Judgement) -> str:
    """Where the agreement with retraining was measured, if not in this round, in words."""
    if judgement.cited is None:
        return ""
    where = judgement.cited
    return (
        f"Measured in another round, of the same game and the same contributors: round {where.round[:12]} of "
        f"project {where.project}, {where.date}, possibly on another machine. "
    )


def _compared_with_baseline(judgement: Judgement) -> str:
    """Whether the models of the game say more of retraining than the coalitions' own images do, in words;
    empty where that was not measured."""
    faith = weakest_faith(judgement.faithfulness)
    own = next((item for item in judgement.baseline if item.alpha == faith.alpha), None)
    if own is None or own.rho is None or faith.rho is None:
        return ""
    measured = f"ρ = {number(own.rho, '.2f')} ({interval(own.low, own.high, '.2f')})"
    if own.rho > faith.rho:
        return (
            "The same property of the coalitions’ own training images, measured without any model, agrees "
            f"at least as well with retraining: {measured}. For this property the models are not shown to "
            "add anything to what the images show by themselves."
        )
    return (
        "The same property of the coalitions’ own training images, measured without any model, agrees less: "
        f"{measured}."
    )


def _predicts(score: LdsScore) -> str:
    """Whether the credits predict retrained models, in words."""
    where = f"over {score.held_out} retrained coalitions"
    if score.lds is None:
        return (
            "It is not known whether these credits predict retrained models: all values are equal, so they "
            f"have no order ({where})."
        )
    correlation = f"LDS = {number(score.lds, '.2f')} ({interval(score.low, score.high, '.2f')}) {where}"
    if prediction(score) == "faithful":
        return f"Summed over a coalition, these credits predict what retraining on it gives: {correlation}."
    if score.high is not None and score.high < 0:
        return (
            "Summed over a coalition, these credits predict the opposite of what retraining on it gives: "
            f"{correlation}. Do not pay by them."
        )
    return (
        f"Summed over a coalition, these credits do not predict what retraining on it gives: {correlation}, "
        "and the interval contains 0. Either they are too imprecise, or contributors matter differently in "
        "coalitions of other sizes: do not pay by them yet. More coalitions may help (valuation.coalitions)."
    )


def _ends(v0: Endpoint, v1: Endpoint, equal: float) -> tuple[tuple[str, str, str], ...]:
    """Label, value and note of the values of the empty and the grand coalition, their difference and an equal
    share."""
    spec = _finer(precision([v0.mean, v1.mean]))
    return (
        ("v0, empty coalition", number(v0.mean, spec), _error(v0, spec)),
        ("v1, grand coalition", number(v1.mean, spec), _error(v1, spec)),
        ("v1 − v0", signed(v1.mean - v0.mean, spec), "what the credits add up to"),
        ("An equal share of it", signed(equal, precision([equal])), "dashed line in the chart"),
    )


def _error(endpoint: Endpoint, spec: str) -> str:
    if endpoint.stated:
        return "stated in the configuration"
    if endpoint.seeds == 1:
        return "1 seed, standard error unknown"
    return f"± {number(endpoint.se, spec)} standard error, {endpoint.seeds} seeds"


def _finer(spec: str) -> str:
    """The format with one more decimal, for numbers whose difference matters."""
    return f",.{int(spec[2:-1]) + 1}f" if spec.startswith(",.") else spec


def _remarks(
    v0: Endpoint, v1: Endpoint, equal: float, phi: Sequence[float], better: bool | None
) -> list[str]:
    """Warnings about a v0 that makes credits hard to read."""
    remarks = []
    if no_improvement(better, v0, v1):
        remarks.append(f"{NO_IMPROVEMENT}.")
    scale = max(map(abs, phi))
    spread = pstdev([value / scale for value in phi]) * scale if scale else 0.0
    if not v0.stated and abs(equal) > LOPSIDED * spread:
        remarks.append(
            f"Most of each credit is the same equal share, {signed(equal, precision([equal]))}, of the "
            "difference from an untrained model; contributors differ by only "
            f"{number(spread, precision([spread]))} (standard deviation). Read the differences. Where v0 is "
            "far outside the values of trained models, another reference value can be stated instead "
            "(valuation.stated_v0)."
        )
    return remarks


def _control_remark(credits: Credits, name: str) -> list[str]:
    """Whether own images made the credits more precise; empty where they were not evaluated for that."""
    if name not in credits.controls:
        return []
    rho = credits.controls[name]
    if rho is None:
        return ["The coalitions’ own images do not make these credits more precise, so they are not used."]
    return [
        "The coalitions’ own images make these credits more precise: the part of interactions between "
        f"contributors that they show is subtracted, {number(rho, '.2f')} times."
    ]


def _retraining_remark(credits: Credits, name: str) -> list[str]:
    """What a few retrained coalitions say of each cheap game, and the values that credits of retraining add
    up between; empty where no coalitions of the design were retrained."""
    pilots = [pilot for pilot in credits.pilots if pilot.property == name]
    if not pilots:
        return []
    v0, v1 = credits.retrained_v0[name], credits.retrained_v1[name]
    spec = _finer(precision([v0.mean, v1.mean]))
    games = "; ".join(f"beside {_game(pilot)}, {pilot.reason}" for pilot in pilots)
    remark = (
        f"Retrained coalitions {games}. Retraining itself goes from {number(v0.mean, spec)} (empty "
        f"coalition) to {number(v1.mean, spec)} (grand coalition)."
    )
    if not any(pilot.use for pilot in pilots):
        remark += " So there are no credits of retraining for this property."
    return [remark]


def _game(pilot: PilotResult) -> str:
    """The cheap game of a pilot; records from before there could be several do not name it."""
    return pilot.game.replace("_", " ") or "the removal method"


def _chart(name: str, rows: Sequence[Dot], better: bool | None, equal: float, level: float) -> Markup:
    sides = {True: ("← worse", "better →"), False: ("← better", "worse →"), None: ("← less", "more →")}
    less, more = sides[better]
    label = (
        f"Credit for {title(name)} of {len(rows)} contributors with {portion(level)} intervals, in the order "
        "of the table below"
    )
    return dot_chart(rows, label=label, less=less, more=more, equal=equal)


def _chart_note(rows: Sequence[Dot], equal: float, level: float) -> str:
    """What the marks of the chart mean, for those that occur in it."""
    bounded = [row for row in rows if row.bounded]
    if not bounded:
        return "No interval is drawn: these credits have none."
    clear = sum(row.clear for row in bounded)
    notes = [
        f"Filled dots: the {portion(level)} interval excludes 0 ({clear} of {len(rows)}). Hollow dots: it "
        "contains 0."
    ]
    if has_cut_off(rows, equal):
        notes.append("Arrow: the interval is longer than shown.")
    if len(bounded) < len(rows):
        notes.append("Dotted ring: there is no interval.")
    return " ".join(notes)


def _before(previous: Credits | None, name: str, method: str) -> dict[str, float] | None:
    """The previous round's credits by the same method, by contributor; None where it has none."""
    if previous is None:
        return None
    own = [c for c in previous.credits if c.property == name and c.method == method]
    return {c.contributor: c.phi for c in own} or None


def _change(main: Sequence[Credit], before: Mapping[str, float] | None, previous: Credits | None) -> str:
    """How the credits compare with those of the previous round, in words."""
    if previous is None:
        return ""
    if before is None:
        return f"Round {previous.round[:12]} before this one has no credits for this property by this method."
    now = {c.contributor: c.phi for c in main}
    both = [name for name in now if name in before]
    try:
        rho = spearman([now[name] for name in both], [before[name] for name in both])
        agreement = f"rank correlation {number(rho, '.2f')}"
    except ValuationError:
        agreement = "too few or equal credits to correlate"
    joined, left = len(now) - len(both), len(before) - len(both)
    return (
        f"Against round {previous.round[:12]}: {agreement} over {len(both)} contributors in both; {joined} "
        f"joined, {left} left."
    )
