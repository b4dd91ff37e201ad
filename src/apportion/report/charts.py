"""Charts of credits, as dots with their intervals: pure functions from numbers to SVG.

Horizontal positions are in per cent of the width, so that a drawing scales with the page, from a wide screen
to a phone, while its text keeps its size.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from unicodedata import category, east_asian_width

from markupsafe import Markup

from apportion.report.numbers import interval, number, precision

LEFT, RIGHT = 34.0, 98.0
"""Values lie between these per cent of the width; names are to the left."""
NAME_WIDTH = 18
"""Characters of a name that fit beside the plot on a phone."""
TOP, BOTTOM = 40, 26
"""Pixels above and below the rows, for the axes."""
MANY = 40
"""From this number of rows on they are closer together."""
WIDTH, MARGIN, LINE = 760, 16, 18
"""Pixels of a chart that is a file of its own: its width, its margin and the height of a line of text."""
FONT = 'ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif'
LONGEST = 4
"""Intervals are drawn up to this multiple of the median distance of bounds from zero; longer ones are cut
off, with an arrow."""


@dataclass(frozen=True)
class Dot:
    """One row: a value and its interval; an absent or infinite bound is open."""

    name: str
    value: float
    low: float | None
    high: float | None

    @property
    def bounds(self) -> tuple[float, float]:
        return -math.inf if self.low is None else self.low, math.inf if self.high is None else self.high

    @property
    def bounded(self) -> bool:
        """Whether it has an interval at all."""
        return any(map(math.isfinite, self.bounds))

    @property
    def clear(self) -> bool:
        """Whether the interval excludes zero."""
        low, high = self.bounds
        return low > 0 or high < 0


@dataclass(frozen=True)
class Axis:
    """From `low` to `high` in units of `unit`, a power of ten, so that no difference of two values
    overflows."""

    low: float
    high: float
    unit: float

    def position(self, value: float) -> float:
        """Per cent of the width; a value outside the axis is at its end."""
        part = (value / self.unit - self.low) / (self.high - self.low)
        return LEFT + (RIGHT - LEFT) * min(max(part, 0.0), 1.0)

    def contains(self, value: float) -> bool:
        return self.low <= value / self.unit <= self.high

    @property
    def ticks(self) -> list[float]:
        """Three to seven round values."""
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = power * next(nice for nice in (1, 2, 5, 10) if nice * power >= rough)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [i * step * self.unit for i in range(first, last + 1)]


def axis(rows: Sequence[Dot], *marks: float) -> Axis:
    """An axis that holds zero, all values, all marks, and all intervals but those that are far longer than
    most."""
    values = [0.0, *marks, *(row.value for row in rows)]
    bounds = [[bound for bound in row.bounds if math.isfinite(bound)] for row in rows if row.bounded]
    limit = max(map(abs, values))
    if bounds:
        limit = max(limit, LONGEST * median(max(map(abs, pair)) for pair in bounds))
    values += [min(max(bound, -limit), limit) for pair in bounds for bound in pair]
    largest = max(map(abs, values))
    unit = 10.0 ** math.floor(math.log10(max(largest, 1e-300))) if largest else 1.0
    low, high = min(values) / unit, max(values) / unit
    margin = (high - low) * 0.04 or 1.0
    return Axis(low - margin, high + margin, unit)


def has_cut_off(rows: Sequence[Dot], *marks: float) -> bool:
    """Whether some interval is longer than the axis and is cut off."""
    scale = axis(rows, *marks)
    return any(row.bounded and not all(map(scale.contains, row.bounds)) for row in rows)


def dot_chart(rows: Sequence[Dot], *, label: str, less: str, more: str, equal: float | None = None) -> Markup:
    """The chart, one line per row in the order given.

    label: what the chart shows, for readers who cannot see it. less, more: what left and right of zero mean.
    equal: a value that a dashed line marks.
    """
    scale = axis(rows, *([] if equal is None else [equal]))
    pitch = _pitch(len(rows))
    height = chart_height(len(rows))
    spec = precision([row.value for row in rows])
    parts = [*_frame(scale, height, less, more, equal)]
    for i, row in enumerate(rows):
        parts.append(_row(row, scale, TOP + pitch * i, pitch, spec))
    return Markup('<svg class="dots" role="img" aria-label="{}" width="100%" height="{}">{}</svg>').format(
        label, height, Markup("").join(parts)
    )


def chart_height(rows: int) -> int:
    """The height of a chart of so many rows, in pixels."""
    return TOP + _pitch(rows) * rows + BOTTOM


def _pitch(rows: int) -> int:
    return 18 if rows > MANY else 24


def standalone(chart: Markup, rows: int, heading: str, above: str, below: Sequence[str], style: str) -> str:
    """A chart of so many rows as an SVG file that needs no page around it, with a heading, a line of text
    above the chart and some below."""
    top = MARGIN + 2 * LINE + MARGIN
    end = top + chart_height(rows) + MARGIN
    height = end + LINE * len(below)
    lines = [(MARGIN + LINE, "heading", heading), (MARGIN + 2 * LINE, "note", above)]
    lines += [(end + LINE * i + 4, "note", text) for i, text in enumerate(below)]
    texts = Markup("").join(
        Markup('<text class="{}" x="{}" y="{}">{}</text>').format(kind, MARGIN, y, clean(text))
        for y, kind, text in lines
    )
    own_style = (
        f"text {{ font: 12px {FONT}; fill: var(--ink); }} .heading {{ font-size: 16px; font-weight: 600; }} "
        ".note { fill: var(--soft); } .ground { fill: var(--paper); }"
    )
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'viewBox="0 0 {width} {height}"><title>{title}</title><style>{style}</style>'
        '<rect class="ground" width="100%" height="100%"/>{texts}'
        '<svg x="{left}" y="{top}" width="{inner_width}" height="{inner_height}">{chart}</svg></svg>\n'
    ).format(
        width=WIDTH,
        height=height,
        title=clean(heading),
        style=Markup(own_style + "\n" + style),  # noqa: S704 (our own text)
        texts=texts,
        left=MARGIN,
        top=top,
        inner_width=WIDTH - 2 * MARGIN,
        inner_height=chart_height(rows),
        chart=chart,
    )


def _frame(scale: Axis, height: int, less: str, more: str, equal: float | None) -> Iterator[Markup]:
    """Ticks and their numbers, the lines of `equal` and of zero, and the words on either side."""
    top, bottom = TOP - 6, height - BOTTOM + 2
    ticks = scale.ticks
    spec = precision(ticks) if max(map(abs, ticks), default=0) >= 1e6 else _tick_format(ticks)
    for tick in ticks:
        x = f"{scale.position(tick):.2f}%"
        yield Markup('<line class="tick" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(x, top, bottom)
        for y in (top - 6, bottom + 16):
            yield Markup('<text class="axis" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                x, y, number(tick, spec)
            )
    if equal is not None:
        x = f"{scale.position(equal):.2f}%"
        yield Markup('<line class="equal" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(x, top, bottom)
    x = f"{scale.position(0):.2f}%"
    yield Markup('<line class="zero" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(x, top, bottom)
    for words, edge, anchor in ((less, LEFT, "start"), (more, RIGHT, "end")):
        yield Markup('<text class="side" x="{}%" y="11" text-anchor="{}">{}</text>').format(
            edge, anchor, words
        )


def _tick_format(ticks: Sequence[float]) -> str:
    """A format with just enough decimals to tell neighbouring ticks apart."""
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    decimals = max(0, -math.floor(math.log10(max(step, 1e-300)) + 1e-9))
    return f",.{decimals}f" if decimals <= 6 else ".1e"


def _row(row: Dot, scale: Axis, top: int, pitch: int, spec: str) -> Markup:
    y = top + pitch / 2
    low, high = row.bounds
    tooltip = f"{clean(row.name)}: {number(row.value, spec)}, {_interval_text(row, spec)}"
    parts = [
        Markup('<rect class="band" x="0" y="{}" width="100%" height="{}"/>').format(top, pitch),
        Markup('<line class="guide" x1="{}%" x2="{}%" y1="{:.1f}" y2="{:.1f}"/>').format(LEFT, RIGHT, y, y),
        # The inner svg cuts off a name that is still too long, whatever the font.
        Markup(
            '<svg x="0" y="{}" width="{}%" height="{}"><text class="name" x="0" y="{:.1f}">{}</text></svg>'
        ).format(top, LEFT - 1, pitch, pitch / 2 + 4, shorten(row.name)),
        *(_whisker(scale, low, high, y) if row.bounded else [_no_interval(scale, row.value, y)]),
        Markup('<circle class="dot" cx="{:.2f}%" cy="{:.1f}" r="4"/>').format(scale.position(row.value), y),
    ]
    kind = "clear" if row.clear else "open" if row.bounded else "bare"
    return Markup('<g class="{}"><title>{}</title>{}</g>').format(kind, tooltip, Markup("").join(parts))


def _interval_text(row: Dot, spec: str) -> str:
    if not row.bounded:
        return "no interval"
    low, high = (bound if math.isfinite(bound) else None for bound in row.bounds)
    return f"interval {interval(low, high, spec)}"


def _whisker(scale: Axis, low: float, high: float, y: float) -> Iterator[Markup]:
    """The line of an interval, with a short bar at each bound, or an arrow where the interval is cut off."""
    left, right = scale.position(low), scale.position(high)
    yield Markup('<line class="whisker" x1="{:.2f}%" x2="{:.2f}%" y1="{:.1f}" y2="{:.1f}"/>').format(
        left, right, y, y
    )
    for x, bound, direction in ((left, low, -1), (right, high, 1)):
        if scale.contains(bound):
            yield Markup(
                '<line class="whisker" x1="{0:.2f}%" x2="{0:.2f}%" y1="{1:.1f}" y2="{2:.1f}"/>'
            ).format(x, y - 3, y + 3)
        else:
            yield Markup('<svg class="arrow" x="{:.2f}%" y="{:.1f}"><path d="M0 -4L{} 0L0 4"/></svg>').format(
                x, y, 6 * direction
            )


def _no_interval(scale: Axis, value: float, y: float) -> Markup:
    """The words "no interval", on the side of the dot where there is room for them."""
    x = scale.position(value)
    anchor, shift = ("start", 8) if x < (LEFT + RIGHT) / 2 else ("end", -8)
    return Markup(
        '<svg class="arrow" x="{:.2f}%" y="{:.1f}">'
        '<text class="none" x="{}" y="4" text-anchor="{}">no interval</text></svg>'
    ).format(x, y, shift, anchor)


def shorten(name: str, width: int = NAME_WIDTH) -> str:
    """A clean name, cut where it would leave its column; wide characters count twice."""
    whole = clean(name)
    used = 0
    for i, character in enumerate(whole):
        used += 2 if east_asian_width(character) in "WF" else 1
        if used > width:
            return whole[: i - 1].rstrip() + "…"
    return whole


def clean(text: str) -> str:
    """The text with a replacement character for control characters and others that XML does not allow."""
    return "".join(
        "�" if category(character) in ("Cc", "Cs") or character in "\ufffe\uffff" else character
        for character in text
    )
