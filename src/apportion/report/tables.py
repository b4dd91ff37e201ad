"""The tables of a report, from its records: text for readers, and beside it the value to sort by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from apportion.records import Counterfactual, Credit, Faith, Interaction, Judgement, Manifest
from apportion.report.numbers import ABSENT, duration, interval, number, percent, portion, precision, signed

METHODS = {
    "tree_residual": "Shapley (trees and ridge)",
    "leverage": "Shapley (leverage)",
    "multifidelity": "Shapley, retraining",
    "kernelshap": "Shapley (KernelSHAP)",
    "banzhaf": "Banzhaf",
    "beta_shapley": "Beta Shapley",
    "loo": "Leave one out",
    "aoi": "Add one in",
    "datamodel": "Datamodel",
}
_APART = "They do not add up to the whole."
NOTES = {
    "tree_residual": "The closest estimate from few coalitions; its interval is that of the leverage fit, which need not be centred on it.",
    "leverage": "The unregularised fit that the intervals are centred on.",
    "multifidelity": "Of the game of retraining itself, from a few retrained coalitions and the many of the removal method.",
    "banzhaf": f"Banzhaf values weigh coalitions of middling size. {_APART}",
    "beta_shapley": f"Semivalues whose weights lie between those of Shapley and of Banzhaf values. {_APART}",
    "loo": f"What goes when one contributor goes. {_APART}",
    "aoi": f"What one contributor gives alone. {_APART}",
    "datamodel": f"Slopes of a ridge regression on coalitions of one size. {_APART}",
}

SHOWN_PAIRS = 6  # of either sign
Kind = Literal["name", "thumbs", "number", "text", "names", "status"]


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


Row = tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """Rows of cells below columns; `total` is a last row that stays last."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    total: Row = ()


def title(name: str) -> str:
    """A property's name as a heading: fid → FID, cluster_entropy → Cluster entropy."""
    return name.upper() if len(name) <= 3 else name[:1].upper() + name[1:].replace("_", " ")


def credit_table(
    main: Sequence[Credit], manifest: Manifest, before: Mapping[str, float] | None, level: float, better: bool | None
) -> Table:
    """One row per contributor: the published method's credits, and their change since the previous round."""
    samples = {c.name: c.samples for c in manifest.contributors}
    columns = _credit_columns(main[0], before is not None, level, better)
    spec = precision([c.phi for c in main])
    rows = tuple(_credited(c, samples[c.contributor], before, spec) for c in main)
    given, shares = sum(samples[c.contributor] for c in main), [c.share for c in main if c.share is not None]
    total = [Cell("Sum", "name"), Cell(""), _count(given), _signed(sum(c.phi for c in main), spec), Cell("", "number")]
    total += [Cell("", "number"), Cell(percent(sum(shares) if len(shares) == len(main) else None), "number")]
    total += [Cell("", "number")] * (len(columns) - len(total))
    return Table(f"Credits by {METHODS.get(main[0].method, main[0].method)}", columns, rows, tuple(total))


def _credit_columns(main: Credit, change: bool, level: float, better: bool | None) -> tuple[Column, ...]:
    columns = [
        Column("Contributor", "name"),
        Column("Images", "thumbs"),
        Column("Given"),
        Column("Credit", note=NOTES.get(main.method, ""), order="ascending" if better is False else "descending"),
        Column(f"{portion(level)} interval", note="" if main.interval is None else f"by {METHODS[main.interval]}"),
        Column("Rank", note=f"what the order of all allows at {portion(level)}, all ranks together"),
        Column("Share", note="credit ÷ (v1 − v0)"),
    ]
    return (*columns, Column("Change", note="since the previous round")) if change else tuple(columns)


def _credited(c: Credit, given: int, before: Mapping[str, float] | None, spec: str) -> Row:
    row: Row = (Cell(c.contributor, "name", c.contributor), Cell(c.contributor, "thumbs"), _count(given), _signed(c.phi, spec))
    row += (Cell(interval(c.low, c.high, spec), "number", c.low), _rank(c), Cell(percent(c.share), "number", c.share))
    return row if before is None else (*row, _since(c, before, spec))


def other_table(main: Sequence[Credit], by_method: Mapping[str, Sequence[Credit]]) -> Table | None:
    """The credits of the same contributors by the other methods, with intervals that are not the published ones."""
    others = {method: {c.contributor: c for c in found} for method, found in by_method.items() if method != main[0].method}
    columns = tuple(Column(METHODS.get(method, method), note=NOTES.get(method, "")) for method in others)
    spec = precision([c.phi for c in main])
    rows = tuple(
        (Cell(c.contributor, "name", c.contributor), *(_beside(found.get(c.contributor), c.interval, spec) for found in others.values()))
        for c in main
    )
    return Table("The same contributors by other methods", (Column("Contributor", "name"), *columns), rows) if others else None


def _rank(c: Credit) -> Cell:
    if c.best is None:
        return Cell(ABSENT, "number")
    return Cell(str(c.best) if c.best == c.worst else f"{c.best} to {c.worst}", "number", c.best)


def interaction_table(interactions: Sequence[Interaction], better: bool | None) -> Table | None:
    """The pairs of contributors that stand in for each other most, and those that help each other most, of one property: where less of it
    is better, an interaction above 0 is of two that improve it less together."""
    sign = -1 if better is False else 1
    words = ("less together than apart", "more together than apart") if better is None else ("stand in for each other", "help each other")
    columns = (
        Column("Contributor", "name"), Column("With", "name"),
        Column("Interaction", order="ascending" if sign > 0 else "descending"), Column("", "text"),
    )  # fmt: skip
    ordered = sorted(interactions, key=lambda i: sign * i.value)
    shown = ordered if len(ordered) <= 2 * SHOWN_PAIRS else ordered[:SHOWN_PAIRS] + ordered[-SHOWN_PAIRS:]
    spec = precision([i.value for i in shown])
    rows = tuple(
        (Cell(i.one, "name", i.one), Cell(i.other, "name", i.other), _signed(i.value, spec), Cell(words[sign * i.value > 0])) for i in shown
    )
    return Table("Who stands in for whom: Shapley interactions of a tree surrogate, without intervals", columns, rows) if rows else None


def _beside(credit: Credit | None, shown: str | None, spec: str) -> Cell:
    """Another method's credit, with its interval where that is not the one that is `shown` already."""
    if credit is None:
        return Cell(ABSENT, "number")
    cell = _signed(credit.phi, spec)
    if credit.interval in (None, shown):
        return cell
    return replace(cell, text=f"{cell.text} ({interval(credit.low, credit.high, spec)})")


def _since(credit: Credit, before: Mapping[str, float], spec: str) -> Cell:
    old = before.get(credit.contributor)
    return Cell("new", "number") if old is None else _signed(credit.phi - old, spec)


def _signed(value: float, spec: str) -> Cell:
    return Cell(signed(value, spec), "number", value)


def _count(value: int) -> Cell:
    return Cell(number(value, ",.0f"), "number", value)


def faith_table(faiths: Sequence[Faith]) -> Table:
    columns = (
        Column("Contributors kept", order="ascending"),
        Column("ρ with retraining"),
        Column("Interval"),
        Column("Coalitions"),
        Column("Verdict", "status"),
    )
    return Table("Agreement with retraining, by size of coalition", columns, tuple(
        (
            Cell(portion(f.alpha), "number", f.alpha),
            Cell(number(f.rho, ".2f"), "number", f.rho),
            Cell(interval(f.low, f.high, ".2f"), "number", f.low),
            Cell(str(f.pairs), "number", f.pairs),
            Cell(f.status, "status", f.status),
        )
        for f in sorted(faiths, key=lambda f: f.alpha)
    ))  # fmt: skip


def score_table(judgements: Sequence[Judgement]) -> Table | None:
    """Linear datamodelling scores of every property, size and method."""
    columns = (
        Column("Property", "text"), Column("Method", "text"), Column("Contributors kept"),
        Column("LDS"), Column("Interval"), Column("Coalitions"),
    )  # fmt: skip
    rows = tuple(
        (
            Cell(title(judgement.property), "text", title(judgement.property)),
            Cell(METHODS.get(score.method, score.method), "text", score.method),
            Cell(portion(score.alpha), "number", score.alpha),
            Cell(number(score.lds, ".2f"), "number", score.lds),
            Cell(interval(score.low, score.high, ".2f"), "number", score.low),
            Cell(str(score.held_out), "number", score.held_out),
        )
        for judgement in judgements
        for score in judgement.scores
    )
    return Table("Rank correlation of summed credits with retrained models, −1 to 1", columns, rows) if rows else None


def counterfactual_table(judgements: Sequence[Judgement], better: Mapping[str, bool | None], games: Mapping[str, str]) -> Table | None:
    """What each property became without some contributors. better: by property; games: what a game's id means."""
    columns = (
        Column("Property", "text"), Column("Model", "text"), Column("Value"), Column("Change"), Column("Standard error"),
        Column("", "text"), Column("Removed", "names"), Column("Obtained by", "text"),
    )  # fmt: skip
    rows: list[Row] = []
    for judgement in judgements:
        spec = precision([c.value for c in judgement.counterfactuals])
        rows += [_without(judgement.property, c, spec, better.get(judgement.property), games) for c in judgement.counterfactuals]
    return Table("Against the model of everybody, same seeds", columns, tuple(rows)) if rows else None


def _without(name: str, c: Counterfactual, spec: str, better: bool | None, games: Mapping[str, str]) -> Row:
    plus = "+" if c.change is not None and c.change > 0 else ""
    turn = "" if not c.change or better is None else "better" if (c.change > 0) is better else "worse"
    return (
        Cell(title(name), "text", title(name)),
        Cell(c.label, "text", c.label),
        Cell(number(c.value, spec), "number", c.value),
        Cell(plus + percent(c.change), "number", c.change),
        Cell(percent(c.se), "number", c.se),
        Cell(turn),
        Cell(number(len(c.removed), ",.0f"), "names", len(c.removed), c.removed),
        Cell(games.get(c.game, c.game[:12]), "text", c.game),
    )


def cost_table(costs: Sequence[Spent]) -> Table | None:
    """What each stage took, and the sum."""
    columns = (Column("Stage", "text"), Column("Made"), Column("Time"), Column("Each"), Column("Part"), Column("Device", "text"))
    whole = sum(cost.seconds for cost in costs)
    devices = ", ".join(sorted({cost.device for cost in costs}))
    empty = Cell("", "number")
    total = (Cell("Sum"), empty, Cell(duration(whole), "number"), empty, empty, Cell(devices))
    return Table("Time on the device, by stage", columns, tuple(_spent(cost, whole) for cost in costs), total) if costs else None


def _spent(cost: Spent, whole: float) -> Row:
    each = cost.seconds / cost.count if cost.count else None
    return (
        Cell(cost.stage, "text", cost.stage),
        _count(cost.count),
        Cell(duration(cost.seconds), "number", cost.seconds),
        Cell(ABSENT if each is None else duration(each), "number", each),
        Cell(percent(cost.seconds / whole if whole else None), "number", cost.seconds),
        Cell(cost.device, "text", cost.device),
    )
