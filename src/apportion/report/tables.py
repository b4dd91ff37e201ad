"""The tables of a report, from its records: text for readers, and beside it the value that a column is sorted
by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, pstdev
from typing import Literal

from apportion.records import Counterfactual, Credit, Faith, Interaction, Judgement, Manifest
from apportion.report.numbers import ABSENT, duration, interval, number, percent, portion, precision, signed
from apportion.valuation.methods import METHODS

SHOWN_PAIRS = 6
"""Pairs of contributors with the lowest interactions that a table shows, and as many with the highest."""
COMMON = 2.0
"""A mean interaction this many times the standard deviation of interactions hides how pairs differ."""

Kind = Literal["name", "thumbs", "number", "text", "names", "status"]


@dataclass(frozen=True)
class CostLine:
    """The cost of one kind of work: `count` objects were made in `seconds`."""

    stage: str
    count: int
    seconds: float
    device: str


@dataclass(frozen=True)
class Cell:
    """A cell of a table. sort: what its column is sorted by, a number or a text; cells with None come last.
    names: a list of names that readers can unfold."""

    text: str
    kind: Kind = "text"
    sort: float | str | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """A column of a table. note: shown at the title. order: set for the column that the rows are sorted
    by."""

    title: str
    kind: Kind = "number"
    note: str = ""
    order: Literal["ascending", "descending"] | None = None


Row = tuple[Cell, ...]
EMPTY = Cell("", "number")


@dataclass(frozen=True)
class Table:
    """Rows of cells below columns. total: a last row that stays last, whatever the order of the others."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    total: Row = ()


def method_title(method: str) -> str:
    """A method's name for readers. A round that other code made may name a method that this code does not
    have."""
    return METHODS[method].title if method in METHODS else method


def method_note(method: str) -> str:
    """What readers should know of a method."""
    return METHODS[method].note if method in METHODS else ""


def title(name: str) -> str:
    """A property's name as a heading: fid → FID, cluster_entropy → Cluster entropy."""
    return name.upper() if len(name) <= 3 else name[:1].upper() + name[1:].replace("_", " ")


def credit_table(
    main: Sequence[Credit],
    manifest: Manifest,
    before: Mapping[str, float] | None,
    level: float,
    better: bool | None,
) -> Table:
    """The published credits of a property, one row per contributor, and their change since the previous
    round.

    main: the credits, in the order of the rows. before: the credits of the previous round by contributor,
    None where there are none. better: whether more of the property is better.
    """
    samples = {contributor.name: contributor.samples for contributor in manifest.contributors}
    columns = _credit_columns(main[0], before is not None, level, better)
    spec = precision([credit.phi for credit in main])
    rows = tuple(_credit_row(credit, samples[credit.contributor], before, spec) for credit in main)
    shares = [credit.share for credit in main if credit.share is not None]
    total = [
        Cell("Sum", "name"),
        Cell(""),
        _count(sum(samples[credit.contributor] for credit in main)),
        _signed(sum(credit.phi for credit in main), spec),
        EMPTY,
        EMPTY,
        Cell(percent(sum(shares) if len(shares) == len(main) else None), "number"),
    ]
    total += [EMPTY] * (len(columns) - len(total))
    return Table(f"Credits by {method_title(main[0].method)}", columns, rows, tuple(total))


def _credit_columns(main: Credit, change: bool, level: float, better: bool | None) -> tuple[Column, ...]:
    columns = [
        Column("Contributor", "name"),
        Column("Examples", "thumbs"),
        Column("Images"),
        Column(
            "Credit", note=method_note(main.method), order="ascending" if better is False else "descending"
        ),
        Column(
            f"{portion(level)} interval",
            note="" if main.interval is None else f"by {method_title(main.interval)}",
        ),
        Column(
            "Rank", note=f"the ranks that are possible at {portion(level)}, for all contributors together"
        ),
        Column("Share", note="credit ÷ (v1 − v0); none where v1 is no better than v0"),
    ]
    if change:
        columns.append(Column("Change", note="since the previous round"))
    return tuple(columns)


def _credit_row(credit: Credit, samples: int, before: Mapping[str, float] | None, spec: str) -> Row:
    row: Row = (
        Cell(credit.contributor, "name", credit.contributor),
        Cell(credit.contributor, "thumbs"),
        _count(samples),
        _signed(credit.phi, spec),
        Cell(interval(credit.low, credit.high, spec), "number", credit.low),
        _rank(credit),
        Cell(percent(credit.share), "number", credit.share),
    )
    return row if before is None else (*row, _change(credit, before, spec))


def _rank(credit: Credit) -> Cell:
    if credit.best is None:
        return Cell(ABSENT, "number")
    text = str(credit.best) if credit.best == credit.worst else f"{credit.best} to {credit.worst}"
    return Cell(text, "number", credit.best)


def _change(credit: Credit, before: Mapping[str, float], spec: str) -> Cell:
    """The change of a credit since the previous round."""
    old = before.get(credit.contributor)
    return Cell("new", "number") if old is None else _signed(credit.phi - old, spec)


def other_table(main: Sequence[Credit], by_method: Mapping[str, Sequence[Credit]]) -> Table | None:
    """The credits of the same contributors by the other methods, with those intervals that are not in the
    table of the published credits. None where there are no other methods."""
    others = {
        method: {credit.contributor: credit for credit in credits}
        for method, credits in by_method.items()
        if method != main[0].method
    }
    if not others:
        return None
    columns = [Column("Contributor", "name")]
    columns += [Column(method_title(method), note=method_note(method)) for method in others]
    spec = precision([credit.phi for credit in main])
    rows: list[Row] = []
    for credit in main:
        name = credit.contributor
        cells = [_other_credit(own.get(name), credit.interval, spec) for own in others.values()]
        rows.append((Cell(name, "name", name), *cells))
    return Table("The same contributors by other methods", tuple(columns), tuple(rows))


def _other_credit(credit: Credit | None, shown: str | None, spec: str) -> Cell:
    """The credit by another method, with its interval unless that is by the method `shown`, whose interval
    the table of the published credits has."""
    if credit is None:
        return Cell(ABSENT, "number")
    cell = _signed(credit.phi, spec)
    if credit.interval in (None, shown):
        return cell
    return replace(cell, text=f"{cell.text} ({interval(credit.low, credit.high, spec)})")


def interaction_table(
    interactions: Sequence[Interaction], better: bool | None, level: float, *, one_look: bool
) -> Table | None:
    """The pairs of contributors with the lowest and with the highest interactions of one property, those with
    an established sign first. None where there are no interactions.

    An interaction below 0 means that two contributors raise the property less together than the sum of what
    each does alone. Where less of the property is better, an interaction above 0 means that they improve it
    less together. one_look: whether the round is topped up, and was therefore looked at before.
    """
    if not interactions:
        return None
    sign = -1 if better is False else 1
    shown = _most_extreme(interactions, sign)
    with_intervals = any(interaction.low is not None for interaction in interactions)
    columns = [
        Column("Contributor", "name"),
        Column("With", "name"),
        Column("Interaction", order="ascending" if sign > 0 else "descending"),
    ]
    if with_intervals:
        columns.append(Column(f"{portion(level)} interval", note="for each pair separately"))
    columns.append(Column("", "text"))
    spec = precision([interaction.value for interaction in shown])
    rows = []
    for interaction in shown:
        cells = [
            Cell(interaction.one, "name", interaction.one),
            Cell(interaction.other, "name", interaction.other),
            _signed(interaction.value, spec),
        ]
        if with_intervals:
            cells.append(Cell(interval(interaction.low, interaction.high, spec), "number", interaction.low))
        rows.append((*cells, Cell(_effect(interaction, sign, better))))
    return Table(_of_interactions(interactions, level, one_look), tuple(columns), tuple(rows))


def _most_extreme(interactions: Sequence[Interaction], sign: int) -> list[Interaction]:
    """Some pairs of each end, those with an established sign first, in the order of interactions."""

    def order(interaction: Interaction) -> float:
        return sign * interaction.value

    ordered = sorted(interactions, key=order)
    if len(ordered) <= 2 * SHOWN_PAIRS:
        return ordered
    lowest = sorted(ordered, key=lambda i: (not (i.established and order(i) < 0), order(i)))[:SHOWN_PAIRS]
    rest = [interaction for interaction in ordered if interaction not in lowest]
    highest = sorted(rest, key=lambda i: (not (i.established and order(i) > 0), -order(i)))[:SHOWN_PAIRS]
    return sorted(lowest + highest, key=order)


def _effect(interaction: Interaction, sign: int, better: bool | None) -> str:
    """What an interaction with an established sign means, in words."""
    if not interaction.established:
        return "not established"
    redundant, complementary = (
        ("less together than apart", "more together than apart")
        if better is None
        else ("can replace each other", "complement each other")
    )
    return complementary if sign * interaction.value > 0 else redundant


def _of_interactions(interactions: Sequence[Interaction], level: float, one_look: bool) -> str:
    """What the interactions of all pairs are, and for how many their sign is established, in words."""
    title = "Contributors that replace or complement each other: Shapley interactions"
    if all(interaction.low is None for interaction in interactions):
        why = interactions[0].unknown
        return f"{title}, without intervals" + (f" ({why})" if why else "")
    signs = sum(interaction.established for interaction in interactions)
    text = (
        f"{title}. {signs} of {len(interactions)} signs are established at {portion(level)}, for all pairs "
        "together"
    )
    if one_look:
        text += "; this and the intervals are for this look alone, not for all looks together"
    values = [interaction.value for interaction in interactions]
    common = fmean(values)
    if len(values) > 1 and abs(common) > COMMON * pstdev(values):
        text += (
            f". Most of each interaction is the same, {signed(common, precision(values))}, which comes from "
            "the empty and the grand coalition: read the differences"
        )
    return text


def _signed(value: float, spec: str) -> Cell:
    return Cell(signed(value, spec), "number", value)


def _count(value: int) -> Cell:
    return Cell(number(value, ",.0f"), "number", value)


def faith_table(judgement: Judgement) -> Table:
    """The agreement with retraining of the removal method and, where it was measured, of the coalitions' own
    images, one row per size of coalition. Sizes without a verdict were measured for information only."""
    judged = [(faith, faith.status) for faith in judgement.faithfulness]
    measured = [(faith, "") for faith in judgement.by_size]
    baseline = _paired_by_size(judgement.faithfulness, judgement.baseline)
    baseline |= _paired_by_size(judgement.by_size, judgement.by_size_baseline)
    columns = (
        Column("Contributors kept", order="ascending"),
        Column("ρ with retraining"),
        Column("Interval"),
        *((Column("ρ of own images"), Column("Interval")) if baseline else ()),
        Column("Coalitions"),
        Column("Verdict", "status"),
    )
    rows = tuple(
        (
            Cell(portion(faith.alpha), "number", faith.alpha),
            *_correlation_cells(faith),
            *(_correlation_cells(baseline.get(id(faith))) if baseline else ()),
            Cell(str(faith.pairs), "number", faith.pairs),
            Cell(status, "status" if status else "text", status),
        )
        for faith, status in sorted(judged + measured, key=lambda row: row[0].alpha)
    )
    return Table("Agreement with retraining, by size of coalition", columns, rows)


def _paired_by_size(faiths: Sequence[Faith], baseline: Sequence[Faith]) -> dict[int, Faith]:
    """What was measured of the own images of the same coalitions, by the identity of the record."""
    by_alpha = {faith.alpha: faith for faith in baseline}
    return {id(faith): by_alpha[faith.alpha] for faith in faiths if faith.alpha in by_alpha}


def _correlation_cells(faith: Faith | None) -> tuple[Cell, Cell]:
    if faith is None:
        return Cell("", "number", None), Cell("", "number", None)
    return (
        Cell(number(faith.rho, ".2f"), "number", faith.rho),
        Cell(interval(faith.low, faith.high, ".2f"), "number", faith.low),
    )


def score_table(judgements: Sequence[Judgement]) -> Table | None:
    """Linear datamodelling scores of every property, size and method; None where there are none."""
    columns = (
        Column("Property", "text"),
        Column("Method", "text"),
        Column("Contributors kept"),
        Column("LDS"),
        Column("Interval"),
        Column("Coalitions"),
    )
    rows = tuple(
        (
            Cell(title(judgement.property), "text", title(judgement.property)),
            Cell(method_title(score.method), "text", score.method),
            Cell(portion(score.alpha), "number", score.alpha),
            Cell(number(score.lds, ".2f"), "number", score.lds),
            Cell(interval(score.low, score.high, ".2f"), "number", score.low),
            Cell(str(score.held_out), "number", score.held_out),
        )
        for judgement in judgements
        for score in judgement.scores
    )
    if not rows:
        return None
    return Table("Rank correlation of summed credits with retrained models, −1 to 1", columns, rows)


def counterfactual_table(
    judgements: Sequence[Judgement], better: Mapping[str, bool | None], games: Mapping[str, str]
) -> Table | None:
    """The value of each property without some contributors; None where none were removed.

    better: by property, whether more of it is better. games: how models are made in the game of each id.
    """
    columns = (
        Column("Property", "text"),
        Column("Model", "text"),
        Column("Value"),
        Column("Change"),
        Column("Standard error"),
        Column("", "text"),
        Column("Removed", "names"),
        Column("Obtained by", "text"),
    )
    rows: list[Row] = []
    for judgement in judgements:
        spec = precision([item.value for item in judgement.counterfactuals])
        rows += [
            _counterfactual_row(judgement.property, item, spec, better.get(judgement.property), games)
            for item in judgement.counterfactuals
        ]
    if not rows:
        return None
    return Table("Compared with the model of all contributors, with the same seeds", columns, tuple(rows))


def _counterfactual_row(
    name: str, item: Counterfactual, spec: str, better: bool | None, games: Mapping[str, str]
) -> Row:
    plus = "+" if item.change is not None and item.change > 0 else ""
    effect = ""
    if item.change and better is not None:
        effect = "better" if (item.change > 0) is better else "worse"
    return (
        Cell(title(name), "text", title(name)),
        Cell(item.label, "text", item.label),
        Cell(number(item.value, spec), "number", item.value),
        Cell(plus + percent(item.change), "number", item.change),
        Cell(percent(item.se), "number", item.se),
        Cell(effect),
        Cell(number(len(item.removed), ",.0f"), "names", len(item.removed), item.removed),
        Cell(games.get(item.game, item.game[:12]), "text", item.game),
    )


def cost_table(costs: Sequence[CostLine]) -> Table | None:
    """The time of each stage, and their sum; None without costs."""
    if not costs:
        return None
    columns = (
        Column("Stage", "text"),
        Column("Made"),
        Column("Time"),
        Column("Each"),
        Column("Share"),
        Column("Device", "text"),
    )
    seconds = sum(cost.seconds for cost in costs)
    devices = ", ".join(sorted({cost.device for cost in costs}))
    total = (Cell("Sum"), EMPTY, Cell(duration(seconds), "number"), EMPTY, EMPTY, Cell(devices))
    rows = tuple(_cost_row(cost, seconds) for cost in costs)
    return Table("Time on the device, by stage", columns, rows, total)


def _cost_row(cost: CostLine, all_seconds: float) -> Row:
    each = cost.seconds / cost.count if cost.count else None
    return (
        Cell(cost.stage, "text", cost.stage),
        _count(cost.count),
        Cell(duration(cost.seconds), "number", cost.seconds),
        Cell(ABSENT if each is None else duration(each), "number", each),
        Cell(percent(cost.seconds / all_seconds if all_seconds else None), "number", cost.seconds),
        Cell(cost.device, "text", cost.device),
    )
