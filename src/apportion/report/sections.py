"""What a page says of one round, in words and tables, from its records: no markup here but the chart's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import pstdev
from typing import Literal, Protocol

from markupsafe import Markup

from apportion.errors import ValuationError
from apportion.evaluation.lds import spearman
from apportion.records import Counterfactual, Credit, Credits, Endpoint, Faith, Judgement, Manifest
from apportion.report.charts import Dot, dots, runs_out
from apportion.report.numbers import ABSENT, duration, interval, number, percent, portion, precision, signed

METHODS = {"leverage": "Shapley (leverage)", "kernelshap": "Shapley (KernelSHAP)", "banzhaf": "Banzhaf"}
NOTES = {"banzhaf": "Banzhaf values weigh coalitions of middling size and do not add up to the whole."}
LOPSIDED = 2.0  # an equal share this many times the spread of the credits says that v0 lies off the scale
ORDER = ("not faithful", "not established", "faithful")  # the verdict of a property is the worst of the sizes measured

Kind = Literal["name", "thumbs", "number", "text", "names", "verdict"]


class Meaning(Protocol):
    """What readers are told of a property; `apportion.properties.Property` is one."""

    @property
    def meaning(self) -> str: ...
    @property
    def higher_is_better(self) -> bool | None: ...


@dataclass(frozen=True)
class Spent:
    """What one stage took: `count` things made in `seconds`."""

    stage: str
    count: int
    seconds: float
    device: str


@dataclass(frozen=True)
class Cell:
    """`sort` is what the column is sorted by: a number, else a text; None comes last either way."""

    text: str
    kind: Kind = "text"
    sort: float | str | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """`order` marks the column by which the rows come sorted."""

    title: str
    kind: Kind = "number"
    note: str = ""
    order: Literal["ascending", "descending"] | None = None


@dataclass(frozen=True)
class Table:
    """Rows of cells below columns; `total` is a last row that stays last."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    total: tuple[Cell, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """Whether a property's credits can be believed, and why."""

    status: str
    why: str
    table: Table | None
    rho: float | None


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
    change: str
    judgement: Judgement | None


def title(name: str) -> str:
    """A property's name as a heading: fid → FID, cluster_entropy → Cluster entropy."""
    return name.upper() if len(name) <= 3 else name[:1].upper() + name[1:].replace("_", " ")


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
        remarks=tuple(_remarks(v0, v1, equal, [c.phi for c in main], better)),
        chart=_chart(name, drawn, better, equal, credits.level),
        note=_chart_note(drawn, equal, credits.level),
        table=credit_table(main, by_method, manifest, before, credits.level, better),
        change=_change(main, before, previous),
        judgement=judgement,
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
            None,
        )
    worst = min(judgement.faithfulness, key=lambda faith: (ORDER.index(faith.status), 2.0 if faith.rho is None else faith.rho))
    return Verdict(worst.status, _why(worst, threshold), _faith_table(judgement.faithfulness), worst.rho)


def _why(faith: Faith, threshold: float) -> str:
    where = f"over {faith.pairs} coalitions that keep {portion(faith.alpha)} of the contributors"
    if faith.rho is None:
        return f"There were too few coalitions, or values all alike, to compare with retraining ({where})."
    found = f"ρ = {number(faith.rho, '.2f')} ({interval(faith.low, faith.high, '.2f')}) {where}"
    if faith.status == "faithful":
        return f"The removal method orders coalitions as retraining from scratch does: {found}, at least the {number(threshold, '.2f')} asked for."
    if faith.status == "not faithful":
        return (
            f"The removal method does not order coalitions as retraining from scratch does: {found}, below the "
            f"{number(threshold, '.2f')} asked for. These credits describe the models of the removal method only: do not pay by them."
        )
    if faith.rho >= threshold and faith.low is not None and faith.low <= 0:
        return f"The agreement with retraining may be chance: {found}, and the interval holds 0. Compare more coalitions before paying by these credits."
    return f"Too few coalitions were compared with retraining to tell: {found}."


def _faith_table(faiths: Sequence[Faith]) -> Table:
    columns = (
        Column("Contributors kept", order="ascending"),
        Column("ρ with retraining"),
        Column("Interval"),
        Column("Coalitions"),
        Column("Verdict", "verdict"),
    )
    return Table("Agreement with retraining, by size of coalition", columns, tuple(
        (
            Cell(portion(f.alpha), "number", f.alpha),
            Cell(number(f.rho, ".2f"), "number", f.rho),
            Cell(interval(f.low, f.high, ".2f"), "number", f.low),
            Cell(str(f.pairs), "number", f.pairs),
            Cell(f.status, "verdict", f.status),
        )
        for f in sorted(faiths, key=lambda f: f.alpha)
    ))  # fmt: skip


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
            f"v0 lies off the scale of real models: most of each credit is the same equal share, {signed(equal, precision([equal]))}, of the way from an "
            f"untrained model; the credits differ by only {number(spread, precision([spread]))} (standard deviation). "
            "Read differences between contributors, or state a reference value (valuation.stated_v0)."
        )
    return remarks


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


def credit_table(
    main: Sequence[Credit],
    by_method: Mapping[str, Sequence[Credit]],
    manifest: Manifest,
    before: Mapping[str, float] | None,
    level: float,
    better: bool | None,
) -> Table:
    """One row per contributor: the published method first, other methods beside it, and the change since the previous round."""
    samples = {c.name: c.samples for c in manifest.contributors}
    spec = precision([c.phi for c in main])
    others = {method: {c.contributor: c for c in found} for method, found in list(by_method.items())[1:]}
    order: Literal["ascending", "descending"] = "ascending" if better is False else "descending"
    columns = [Column("Contributor", "name"), Column("Images", "thumbs"), Column("Given"), Column("Credit", order=order)]
    columns += [Column(f"{portion(level)} interval"), Column("Share", note="credit ÷ (v1 − v0)")]
    columns += [Column(METHODS.get(method, method), note=NOTES.get(method, "")) for method in others]
    columns += [Column("Change", note="since the previous round")] if before is not None else []
    rows = []
    for c in main:
        row = [
            Cell(c.contributor, "name", c.contributor),
            Cell(c.contributor, "thumbs"),
            _count(samples[c.contributor]),
            _signed(c.phi, spec),
        ]
        row += [Cell(interval(c.low, c.high, spec), "number", c.low), Cell(percent(c.share), "number", c.share)]
        row += [_beside(found.get(c.contributor), spec) for found in others.values()]
        row += [_since(c, before, spec)] if before is not None else []
        rows.append(tuple(row))
    total = [
        Cell("Sum", "name"),
        Cell("", "text"),
        _count(sum(samples[c.contributor] for c in main)),
        _signed(sum(c.phi for c in main), spec),
    ]
    total += [Cell("", "number"), Cell(percent(_sum([c.share for c in main])), "number")] + [Cell("", "number")] * (len(columns) - 6)
    return Table(f"Credits by {METHODS.get(main[0].method, main[0].method)}", tuple(columns), tuple(rows), tuple(total))


def _beside(credit: Credit | None, spec: str) -> Cell:
    if credit is None:
        return Cell(ABSENT, "number")
    cell = _signed(credit.phi, spec)
    if credit.low is None and credit.high is None:
        return cell
    return replace(cell, text=f"{cell.text} ({interval(credit.low, credit.high, spec)})")


def _since(credit: Credit, before: Mapping[str, float], spec: str) -> Cell:
    old = before.get(credit.contributor)
    return Cell("new", "number") if old is None else _signed(credit.phi - old, spec)


def _signed(value: float, spec: str) -> Cell:
    return Cell(signed(value, spec), "number", value)


def _count(value: int) -> Cell:
    return Cell(number(value, ",.0f"), "number", value)


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


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


def score_table(sections: Sequence[Section]) -> Table | None:
    """Linear datamodelling scores of every property, size and method."""
    columns = (
        Column("Property", "text"), Column("Method", "text"), Column("Contributors kept"), Column("LDS"), Column("Interval"), Column("Coalitions"),
    )  # fmt: skip
    rows = tuple(
        (
            Cell(s.title, "text", s.title),
            Cell(METHODS.get(score.method, score.method), "text", score.method),
            Cell(portion(score.alpha), "number", score.alpha),
            Cell(number(score.lds, ".2f"), "number", score.lds),
            Cell(interval(score.low, score.high, ".2f"), "number", score.low),
            Cell(str(score.held_out), "number", score.held_out),
        )
        for s in sections
        for score in (s.judgement.scores if s.judgement else ())
    )
    return Table("Rank correlation of summed credits with retrained models, −1 to 1", columns, rows) if rows else None


def counterfactual_table(sections: Sequence[Section], better: Mapping[str, bool | None], games: Mapping[str, str]) -> Table | None:
    """What each property became without some contributors."""
    columns = (
        Column("Property", "text"), Column("Model", "text"), Column("Value"), Column("Change"), Column("Standard error"),
        Column("", "text"), Column("Removed", "names"), Column("Obtained by", "text"),
    )  # fmt: skip
    rows = []
    for s in sections:
        found = s.judgement.counterfactuals if s.judgement else ()
        spec = precision([c.value for c in found])
        rows += [
            (
                Cell(s.title, "text", s.title),
                Cell(c.label, "text", c.label),
                Cell(number(c.value, spec), "number", c.value),
                Cell(("+" if c.change > 0 else "") + percent(c.change), "number", c.change),
                Cell(percent(c.se) if c.se is not None else "1 seed", "number", c.se),
                Cell(_turn(c, better[s.name]), "text", _turn(c, better[s.name])),
                Cell(str(len(c.removed)), "names", len(c.removed), c.removed),
                Cell(games.get(c.game, c.game[:12]), "text", c.game),
            )
            for c in found
        ]
    return Table("Against the model of everybody, same seeds", columns, tuple(rows)) if rows else None


def _turn(c: Counterfactual, better: bool | None) -> str:
    if c.change == 0 or better is None:
        return ""
    return "better" if (c.change > 0) is better else "worse"


def cost_table(costs: Sequence[Spent]) -> Table | None:
    """What each stage took, and the sum."""
    columns = (Column("Stage", "text"), Column("Made"), Column("Time"), Column("Each"), Column("Part"), Column("Device", "text"))
    whole = sum(cost.seconds for cost in costs)
    rows = tuple(
        (
            Cell(cost.stage, "text", cost.stage),
            _count(cost.count),
            Cell(duration(cost.seconds), "number", cost.seconds),
            Cell(
                duration(cost.seconds / cost.count) if cost.count else ABSENT, "number", cost.seconds / cost.count if cost.count else None
            ),
            Cell(percent(cost.seconds / whole if whole else None), "number", cost.seconds),
            Cell(cost.device, "text", cost.device),
        )
        for cost in costs
    )
    devices = sorted({cost.device for cost in costs})
    total = (
        Cell("Sum"),
        Cell("", "number"),
        Cell(duration(whole), "number"),
        Cell("", "number"),
        Cell("100 %" if whole else ABSENT, "number"),
        Cell(", ".join(devices)),
    )
    return Table("Time on the device, by stage", columns, rows, total) if costs else None
