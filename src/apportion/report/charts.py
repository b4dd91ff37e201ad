"""Credits as dots with their intervals: pure functions from numbers to SVG.

Horizontal places are per cent of the width, so the drawing follows the page from a wide screen to a phone while its text keeps its size.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from unicodedata import category, east_asian_width

from markupsafe import Markup

from apportion.report.numbers import interval, number, precision

LEFT, RIGHT = 34.0, 98.0  # per cent of the width between which values lie; names are to the left
NAME_WIDTH = 18  # characters of a name that fit beside the plot on a phone
TOP, BOTTOM = 40, 26  # room for the axes above and below the rows
MANY = 40  # from here on rows are closer
WIDE, MARGIN, LINE = 760, 16, 18  # of a chart that is a file of its own
FONT = 'ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif'
REACH = 4  # an interval that reaches out this many times as far as is usual runs out of the picture with an arrow


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
        """Whether the interval leaves zero out."""
        low, high = self.bounds
        return low > 0 or high < 0


@dataclass(frozen=True)
class Axis:
    """Values in units of `unit`, a power of ten, so that no difference of two of them overflows."""

    low: float
    high: float
    unit: float

    def place(self, value: float) -> float:
        """Per cent of the width; a value that lies outside is at the edge."""
        part = (value / self.unit - self.low) / (self.high - self.low)
        return LEFT + (RIGHT - LEFT) * min(max(part, 0.0), 1.0)

    def inside(self, value: float) -> bool:
        return self.low <= value / self.unit <= self.high

    @property
    def ticks(self) -> list[float]:
        """Three to seven round values."""
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = power * next(nice for nice in (1, 2, 5, 10) if nice * power >= rough)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [i * step * self.unit for i in range(first, last + 1)]


def axis(dots: Sequence[Dot], *marks: float) -> Axis:
    """Holds zero, every value, every mark, and all intervals but the few that are far longer than the others."""
    values = [0.0, *marks, *(dot.value for dot in dots)]
    bounds = [[bound for bound in dot.bounds if math.isfinite(bound)] for dot in dots if dot.bounded]
    limit = max(map(abs, values))
    if bounds:
        limit = max(limit, REACH * median(max(map(abs, pair)) for pair in bounds))
    values += [min(max(bound, -limit), limit) for pair in bounds for bound in pair]
    largest = max(map(abs, values))
    unit = 10.0 ** math.floor(math.log10(max(largest, 1e-300))) if largest else 1.0
    low, high = min(values) / unit, max(values) / unit
    margin = (high - low) * 0.04 or 1.0
    return Axis(low - margin, high + margin, unit)


def runs_out(rows: Sequence[Dot], *marks: float) -> bool:
    """Whether some interval is longer than the picture."""
    scale = axis(rows, *marks)
    return any(row.bounded and not all(map(scale.inside, row.bounds)) for row in rows)


def dots(rows: Sequence[Dot], *, label: str, less: str, more: str, equal: float | None = None) -> Markup:
    """The chart, one line per row in the order given.

    label: what it shows, for those who cannot see it; less, more: what lies left and right of zero; equal: marked by a dashed line."""
    scale = axis(rows, *([] if equal is None else [equal]))
    pitch, height = _pitch(len(rows)), tall(len(rows))
    spec = precision([row.value for row in rows])
    parts = [*_frame(scale, height, less, more, equal)]
    for i, row in enumerate(rows):
        parts.append(_row(row, scale, TOP + pitch * i, pitch, spec))
    return Markup('<svg class="dots" role="img" aria-label="{}" width="100%" height="{}">{}</svg>').format(
        label, height, Markup("").join(parts)
    )


def tall(rows: int) -> int:
    """The height of a chart."""
    return TOP + _pitch(rows) * rows + BOTTOM


def _pitch(rows: int) -> int:
    return 18 if rows > MANY else 24


def alone(chart: Markup, rows: int, heading: str, above: str, below: Sequence[str], style: str) -> str:
    """A chart of so many rows as an SVG file, with a line above it and some below, that needs no page around it."""
    top = MARGIN + 2 * LINE + MARGIN
    end = top + tall(rows) + MARGIN
    height = end + LINE * len(below)
    lines = [(MARGIN + LINE, "heading", heading), (MARGIN + 2 * LINE, "note", above)]
    lines += [(end + LINE * i + 4, "note", text) for i, text in enumerate(below)]
    texts = Markup("").join(
        Markup('<text class="{}" x="{}" y="{}">{}</text>').format(kind, MARGIN, y, clean(text)) for y, kind, text in lines
    )
    own = (
        f"text {{ font: 12px {FONT}; fill: var(--ink); }} .heading {{ font-size: 16px; font-weight: 600; }} "
        ".note { fill: var(--soft); } .ground { fill: var(--paper); }"
    )
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{1}" viewBox="0 0 {0} {1}"><title>{2}</title><style>{3}</style>'
        '<rect class="ground" width="100%" height="100%"/>{4}<svg x="{5}" y="{6}" width="{7}" height="{8}">{9}</svg></svg>\n'
    ).format(WIDE, height, clean(heading), Markup(own + "\n" + style), texts, MARGIN, top, WIDE - 2 * MARGIN, tall(rows), chart)  # noqa: S704  our own


def _frame(scale: Axis, height: int, less: str, more: str, equal: float | None) -> Iterator[Markup]:
    top, bottom = TOP - 6, height - BOTTOM + 2
    ticks = scale.ticks
    spec = precision(ticks) if max(map(abs, ticks), default=0) >= 1e6 else _tick_format(ticks)
    for tick in ticks:
        at = f"{scale.place(tick):.2f}%"
        yield Markup('<line class="tick" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(at, top, bottom)
        for y in (top - 6, bottom + 16):
            yield Markup('<text class="axis" x="{}" y="{}" text-anchor="middle">{}</text>').format(at, y, number(tick, spec))
    if equal is not None:
        yield Markup('<line class="equal" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(f"{scale.place(equal):.2f}%", top, bottom)
    yield Markup('<line class="zero" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(f"{scale.place(0):.2f}%", top, bottom)
    for words, edge, anchor in ((less, LEFT, "start"), (more, RIGHT, "end")):
        yield Markup('<text class="side" x="{}%" y="11" text-anchor="{}">{}</text>').format(edge, anchor, words)


def _tick_format(ticks: Sequence[float]) -> str:
    """Just enough decimals to tell neighbouring ticks apart."""
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    decimals = max(0, -math.floor(math.log10(max(step, 1e-300)) + 1e-9))
    return f",.{decimals}f" if decimals <= 6 else ".1e"


def _row(row: Dot, scale: Axis, top: int, pitch: int, spec: str) -> Markup:
    y = top + pitch / 2
    low, high = row.bounds
    said = f"{clean(row.name)}: {number(row.value, spec)}, {_said(row, spec)}"
    parts = [
        Markup('<rect class="band" x="0" y="{}" width="100%" height="{}"/>').format(top, pitch),
        Markup('<line class="guide" x1="{}%" x2="{}%" y1="{:.1f}" y2="{:.1f}"/>').format(LEFT, RIGHT, y, y),
        # an inner svg cuts off what is still too long, whatever the font
        Markup('<svg x="0" y="{}" width="{}%" height="{}"><text class="name" x="0" y="{:.1f}">{}</text></svg>').format(
            top, LEFT - 1, pitch, pitch / 2 + 4, shorten(row.name)
        ),
        *(_whisker(scale, low, high, y) if row.bounded else [_absent(scale, row.value, y)]),
        Markup('<circle class="dot" cx="{:.2f}%" cy="{:.1f}" r="4"/>').format(scale.place(row.value), y),
    ]
    kind = "clear" if row.clear else "open" if row.bounded else "bare"
    return Markup('<g class="{}"><title>{}</title>{}</g>').format(kind, said, Markup("").join(parts))


def _said(row: Dot, spec: str) -> str:
    if not row.bounded:
        return "no interval"
    low, high = (bound if math.isfinite(bound) else None for bound in row.bounds)
    return f"interval {interval(low, high, spec)}"


def _whisker(scale: Axis, low: float, high: float, y: float) -> Iterator[Markup]:
    ends = scale.place(low), scale.place(high)
    yield Markup('<line class="whisker" x1="{:.2f}%" x2="{:.2f}%" y1="{:.1f}" y2="{:.1f}"/>').format(*ends, y, y)
    for end, bound, way in ((ends[0], low, -1), (ends[1], high, 1)):
        if scale.inside(bound):
            yield Markup('<line class="whisker" x1="{0:.2f}%" x2="{0:.2f}%" y1="{1:.1f}" y2="{2:.1f}"/>').format(end, y - 3, y + 3)
        else:  # it goes on beyond the picture
            yield Markup('<svg class="arrow" x="{:.2f}%" y="{:.1f}"><path d="M0 -4L{} 0L0 4"/></svg>').format(end, y, 6 * way)


def _absent(scale: Axis, value: float, y: float) -> Markup:
    """Written on that side of the dot where there is room for it."""
    at = scale.place(value)
    anchor, shift = ("start", 8) if at < (LEFT + RIGHT) / 2 else ("end", -8)
    return Markup(
        '<svg class="arrow" x="{:.2f}%" y="{:.1f}"><text class="none" x="{}" y="4" text-anchor="{}">no interval</text></svg>'
    ).format(at, y, shift, anchor)


def shorten(name: str, width: int = NAME_WIDTH) -> str:
    """A clean name, cut where it would leave its column; wide characters count twice."""
    whole, used = clean(name), 0
    for i, mark in enumerate(whole):
        used += 2 if east_asian_width(mark) in "WF" else 1
        if used > width:
            return whole[: i - 1].rstrip() + "…"
    return whole


def clean(text: str) -> str:
    """Without control characters and the like, of which some may not stand in XML."""
    return "".join("�" if category(mark) in ("Cc", "Cs") or mark in "\ufffe\uffff" else mark for mark in text)
