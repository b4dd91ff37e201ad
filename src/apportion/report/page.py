"""The report of a round: everything it shows, as plain data, and the one HTML file made of it, which loads
nothing else."""

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
from apportion.records import Credits, Evidence, Judgement, Manifest, NetworkDescription
from apportion.report.attribution import Attribution
from apportion.report.charts import standalone
from apportion.report.images import ImageArray, Sprite, grid, sprite
from apportion.report.numbers import duration, number, portion
from apportion.report.sections import Meaning, Section, section
from apportion.report.tables import CostLine, cost_table, counterfactual_table, method_title, score_table

HERE = Path(__file__).parent
THUMBNAILS = 8
"""Training images of each contributor that the page shows."""
THUMBNAIL, GENERATED = 32, 64
"""Largest sides of training and of generated images in the page, in pixels."""


@dataclass(frozen=True, eq=False)  # eq would compare arrays
class Grid:
    """Generated images uint8 (k, side, side, 3) of one model. same_noise: whether image i starts from the
    same noise as image i of the other grids."""

    title: str
    caption: str
    images: ImageArray
    same_noise: bool = True


@dataclass(frozen=True, eq=False)
class Page:
    """What the report of a round shows. Nothing in it depends on when it is made: the same round gives the
    same page.

    meanings: the properties of the round as PROPERTIES describes them. previous: the credits of the round
    before. threshold: the correlation with retraining from which a property is faithful. networks: the
    feature networks of the round. thumbnails: training images uint8 (k, side, side, 3) by contributor, of
    which the first THUMBNAILS are shown. games: how models are made in the game of each id, for readers.
    facts: what was run, as labels and values. config: the resolved configuration as plain data.
    """

    project: str
    manifest: Manifest
    credits: Credits
    meanings: Mapping[str, Meaning]
    attribution: Attribution
    evidence: Evidence | None = None
    previous: Credits | None = None
    threshold: float = 0.5
    networks: Sequence[NetworkDescription] = ()
    thumbnails: Mapping[str, ImageArray] = field(default_factory=dict)
    grids: Sequence[Grid] = ()
    costs: Sequence[CostLine] = ()
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
    in_design, held_out = _held_out(judgements)
    style, script = _asset("colours.css", "chart.css", "page.css"), _asset("page.js")
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
        covers=[(method_title(method), text) for method, text in page.credits.covers.items()],
        by_leverage=method_title("leverage"),
        in_design=in_design,
        held_out=held_out,
        ranking_only=any(text.startswith("ranking only") for text in page.credits.covers.values()),
        config=yaml.safe_dump(dict(page.config), sort_keys=False, allow_unicode=True, width=100),
        style=style,
        script=script,
        policy=_policy(style, script),
    )
    return html


def figures(page: Page) -> dict[str, str]:
    """The chart of every property as an SVG file of its own, by property. Raises DataError as `render`
    does."""
    _check(page)
    style = _asset("colours.css", "chart.css")
    level = portion(page.credits.level)
    return {
        s.name: standalone(
            s.chart,
            len(s.table.rows),
            f"{s.title}, credits of {len(s.table.rows)} contributors",
            f"{level} intervals; verdict: {s.verdict.status}. Round {page.credits.round[:12]} of "
            f"{page.project}",
            (s.note, "Dashed line: an equal share."),
            style,
        )
        for s in _sections(page)
    }


def _asset(*names: str) -> Markup:
    return Markup("".join((HERE / name).read_text(encoding="utf-8") for name in names))  # noqa: S704  our own files


@cache
def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")


def _policy(style: str, script: str) -> str:
    """The content security policy of the page: its own style and script, by their hashes, embedded images,
    and nothing else."""
    style_hash, script_hash = (
        b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)
    )
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style_hash}'; "
        f"script-src 'sha256-{script_hash}'; base-uri 'none'; form-action 'none'"
    )


def _check(page: Page) -> None:
    if page.evidence is not None and page.evidence.round != page.credits.round:
        raise DataError(
            f"found evidence of round {page.evidence.round} beside credits of round {page.credits.round}, "
            "expected one round"
        )
    unknown = sorted({credit.contributor for credit in page.credits.credits} - set(page.manifest.names))
    if unknown:
        raise DataError(
            f"found credits for {unknown[:5]}, expected contributors of manifest {page.manifest.id}"
        )
    names = {credit.property for credit in page.credits.credits}
    for what, present in (("meaning", page.meanings), ("v0", page.credits.v0), ("v1", page.credits.v1)):
        missing = sorted(names - set(present))
        if missing:
            raise DataError(f"found credits for {missing} without a {what}, expected one for every property")


def _sections(page: Page) -> list[Section]:
    """One section per property, in the order in which the credits name the properties."""
    evidence = page.evidence
    judgements = {} if evidence is None else {item.property: item for item in evidence.judgements}
    names = dict.fromkeys(credit.property for credit in page.credits.credits)
    return [
        section(
            name,
            page.meanings[name],
            page.manifest,
            page.credits,
            judgements.get(name),
            page.previous,
            page.threshold,
            page.networks,
        )
        for name in names
    ]


def _held_out(judgements: Sequence[Judgement]) -> tuple[int, int]:
    """How many held-out coalitions the credits were computed from too, and how many there are. Both are the
    same for every property and method."""
    scores = [score for judgement in judgements[:1] for score in judgement.scores]
    of_one_method = [score for score in scores if score.method == scores[0].method]
    in_design = sum(score.in_design for score in of_one_method)
    return in_design, sum(score.held_out for score in of_one_method)


def _strip(page: Page, sections: Sequence[Section]) -> list[tuple[str, str]]:
    """The numbers at the top of the page, as labels and values."""
    faithful = sum(s.verdict.status == "faithful" for s in sections)
    elsewhere = " (measured in another round)" if any(s.verdict.elsewhere for s in sections) else ""
    strip = [
        ("Contributors", number(page.manifest.n, ",.0f")),
        ("Training images", number(sum(c.samples for c in page.manifest.contributors), ",.0f")),
        ("Coalitions", number(page.credits.coalitions, ",.0f")),
        (f"Faithful properties{elsewhere}", f"{faithful} of {len(sections)}"),
    ]
    if page.costs:
        strip.append(("Time on the device", duration(sum(cost.seconds for cost in page.costs))))
    return strip


def _thumbnails(page: Page) -> tuple[Sprite | None, dict[str, tuple[int, int]]]:
    """One sprite with a row of training images for each contributor who has some; and the row and the number
    of images of each."""
    rows: dict[str, ImageArray] = {}
    for name in page.manifest.names:
        images = page.thumbnails.get(name)
        if images is not None and len(images):
            rows[name] = images[:THUMBNAILS]
    if not rows:
        return None, {}
    sheet = sprite(list(rows.values()), THUMBNAIL)
    return sheet, {name: (row, len(images)) for row, (name, images) in enumerate(rows.items())}


def _pictures(grids: Sequence[Grid]) -> list[Picture]:
    """All grids have the same number of columns, so that images from the same noise are at the same place."""
    columns = _columns(max((len(g.images) for g in grids), default=1))
    return [Picture(g.title, g.caption, g.same_noise, grid(g.images, columns, GENERATED)) for g in grids]


def _columns(k: int) -> int:
    """The number of columns for k images: as close to a square as possible with a full last row, where there
    is such a number that is not far from a square."""
    square = max(1, math.isqrt(k - 1) + 1)
    return next((c for c in range(square, 2 * square) if k % c == 0), square)
