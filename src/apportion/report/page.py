"""The report of a round: everything it shows as plain data, and its one HTML file, which asks for nothing from anywhere."""

import hashlib
import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from apportion.errors import DataError
from apportion.records import Credits, Evidence, Judgement, Manifest
from apportion.report.attribution import Attribution
from apportion.report.charts import alone
from apportion.report.images import Images, Sprite, grid, sprite
from apportion.report.numbers import duration, number, portion
from apportion.report.sections import Meaning, Section, section
from apportion.report.tables import METHODS, Spent, cost_table, counterfactual_table, score_table

HERE = Path(__file__).parent
SHOWN = 8  # drawings of each contributor
THUMBNAIL, GENERATED = 32, 64  # largest sides, in pixels, that images keep in the page


@dataclass(frozen=True, eq=False)  # eq would compare arrays
class Grid:
    """Generated images uint8 (k, side, side, 3) of one model. Image i starts from the same noise as that of every other grid, or the
    grid says that it does not, and stands apart."""

    title: str
    caption: str
    images: Images
    same_noise: bool = True


@dataclass(frozen=True, eq=False)
class Page:
    """What the report of a round shows. Nothing in it depends on when it is made: the same round is the same page.

    meanings: PROPERTIES, or what it says of this round's properties. threshold: the ρ that makes a property faithful.
    thumbnails: images uint8 (k, side, side, 3) by contributor, the first ones are shown. games: what a game's id means, for readers.
    facts: what was run, as label and value. config: as resolved, plain data.
    """

    project: str
    manifest: Manifest
    credits: Credits
    meanings: Mapping[str, Meaning]
    attribution: Attribution
    evidence: Evidence | None = None
    previous: Credits | None = None
    threshold: float = 0.5
    thumbnails: Mapping[str, Images] = field(default_factory=dict)
    grids: Sequence[Grid] = ()
    costs: Sequence[Spent] = ()
    games: Mapping[str, str] = field(default_factory=dict)
    facts: Sequence[tuple[str, str]] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Picture:
    """A grid as the template shows it."""

    title: str
    caption: str
    same_noise: bool
    sprite: Sprite


def render(page: Page) -> str:
    """One HTML file. Raises DataError where the parts of the page do not belong together."""
    _check(page)
    sections = _sections(page)
    better = {name: meaning.higher_is_better for name, meaning in page.meanings.items()}
    judgements = () if page.evidence is None else page.evidence.judgements
    sheet, places = _thumbnails(page)
    seen, judged = _judged(judgements)
    style, script = _own("colours.css", "chart.css", "page.css"), _own("page.js")
    html: str = _template().render(
        page=page,
        sections=sections,
        scores=score_table(judgements),
        counterfactuals=counterfactual_table(judgements, better, page.games),
        costs=cost_table(page.costs),
        strip=_strip(page, sections),
        pictures=_pictures(page.grids),
        sheet=sheet,
        places=places,
        level=portion(page.credits.level),
        covers=[(METHODS[method], text) for method, text in page.credits.covers.items()],
        by_leverage=METHODS["leverage"],
        seen=seen,
        judged=judged,
        ranking_only=any(text.startswith("ranking only") for text in page.credits.covers.values()),
        config=yaml.safe_dump(dict(page.config), sort_keys=False, allow_unicode=True, width=100),
        style=style,
        script=script,
        policy=_policy(style, script),
    )
    return html


def figures(page: Page) -> dict[str, str]:
    """The chart of every property as an SVG file of its own, by property."""
    _check(page)
    style, level = _own("colours.css", "chart.css"), portion(page.credits.level)
    return {
        s.name: alone(
            s.chart,
            len(s.table.rows),
            f"{s.title}, credits of {len(s.table.rows)} contributors",
            f"{level} intervals; verdict: {s.verdict.status}. Round {page.credits.round[:12]} of {page.project}",
            (s.note, "Dashed line: an equal share."),
            style,
        )
        for s in _sections(page)
    }


def _own(*names: str) -> Markup:
    return Markup("".join((HERE / name).read_text(encoding="utf-8") for name in names))  # noqa: S704  our own files


@cache
def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html")


def _policy(style: str, script: str) -> str:
    """The page may run its own style and script, by their hashes, show images within it, and nothing else."""
    hashes = (b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script))
    return "default-src 'none'; img-src data:; style-src 'sha256-{}'; script-src 'sha256-{}'; base-uri 'none'; form-action 'none'".format(
        *hashes
    )


def _check(page: Page) -> None:
    if page.evidence is not None and page.evidence.round != page.credits.round:
        raise DataError(f"found evidence of round {page.evidence.round} beside credits of round {page.credits.round}, expected one round")
    strangers = sorted({credit.contributor for credit in page.credits.credits} - set(page.manifest.names))
    if strangers:
        raise DataError(f"found credits for {strangers[:5]}, expected contributors of manifest {page.manifest.id}")
    names = {credit.property for credit in page.credits.credits}
    for what, having in (("meaning", page.meanings), ("v0", page.credits.v0), ("v1", page.credits.v1)):
        if lacking := sorted(names - set(having)):
            raise DataError(f"found credits for {lacking} without a {what}, expected one for every property")


def _sections(page: Page) -> list[Section]:
    """In the order in which the credits name the properties."""
    judged = {} if page.evidence is None else {j.property: j for j in page.evidence.judgements}
    names = dict.fromkeys(credit.property for credit in page.credits.credits)
    return [
        section(name, page.meanings[name], page.manifest, page.credits, judged.get(name), page.previous, page.threshold) for name in names
    ]


def _judged(judgements: Sequence[Judgement]) -> tuple[int, int]:
    """How many held-out coalitions the credits were computed from too, and how many there are: alike for every property and method."""
    scores = [score for judgement in judgements[:1] for score in judgement.scores]
    first = [score for score in scores if score.method == scores[0].method]
    return sum(score.in_design for score in first), sum(score.held_out for score in first)


def _strip(page: Page, sections: Sequence[Section]) -> list[tuple[str, str]]:
    """The few numbers that a reader wants first."""
    faithful = sum(s.verdict.status == "faithful" for s in sections)
    strip = [
        ("Contributors", number(page.manifest.n, ",.0f")),
        ("Training images", number(sum(c.samples for c in page.manifest.contributors), ",.0f")),
        ("Coalitions", number(page.credits.coalitions, ",.0f")),
        ("Faithful properties", f"{faithful} of {len(sections)}"),
    ]
    if page.costs:
        strip.append(("Time on the device", duration(sum(cost.seconds for cost in page.costs))))
    return strip


def _thumbnails(page: Page) -> tuple[Sprite | None, dict[str, tuple[int, int]]]:
    """One sprite with a row of drawings for each contributor, and which row and how many are whose."""
    found = [(name, page.thumbnails[name][:SHOWN]) for name in page.manifest.names if len(page.thumbnails.get(name, ()))]
    if not found:
        return None, {}
    sheet = sprite([images for _, images in found], THUMBNAIL)
    return sheet, {name: (row, len(images)) for row, (name, images) in enumerate(found)}


def _pictures(grids: Sequence[Grid]) -> list[Picture]:
    """All with as many columns, so that images from the same noise are at the same place."""
    columns = _columns(max((len(g.images) for g in grids), default=1))
    return [Picture(g.title, g.caption, g.same_noise, grid(g.images, columns, GENERATED)) for g in grids]


def _columns(k: int) -> int:
    """As near to a square as can be without a gap at the end, where it can be without one."""
    square = max(1, math.isqrt(k - 1) + 1)
    return next((c for c in range(square, 2 * square) if k % c == 0), square)
