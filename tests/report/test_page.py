"""The page says what the records say, nothing that is not in them, and loads nothing from elsewhere."""

import base64
import hashlib
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations

import numpy as np
import pages
import pytest

from apportion.config.hashing import digest
from apportion.errors import DataError
from apportion.evaluation.verdict import verdict
from apportion.records import Credits, Evidence, Interaction, NetworkDescription, PilotResult, StoppingStatus
from apportion.report.numbers import interval, percent, portion, precision, signed
from apportion.report.page import Grid, figures, render

VOID = {"meta", "link", "img", "br", "input", "hr"}
DRAWN = {"line", "circle", "rect", "path", "use", "image"}
LOADING = {
    "src",
    "href",
    "srcset",
    "poster",
    "data",
    "action",
    "formaction",
    "background",
    "xlink:href",
    "ping",
}
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "</style><style>*{}",
    "</svg>{{ 7*7 }}",
    "' onclick='x",
    "Ann\u202eeve",
    "نادية",
    "A" * 300,
]


class Reading(HTMLParser):
    """Elements, table cells and text of a page. Asserts that tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.cells: list[list[str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in DRAWN
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data
            if {"td", "th"} & set(self.open):
                self.cells[-1][-1] += data

    @property
    def rows(self) -> list[list[str]]:
        """The cells of all tables, without blanks around their texts."""
        return [[cell.strip() for cell in row] for row in self.cells]

    @property
    def words(self) -> str:
        """The text with single blanks."""
        return " ".join(self.text.split())


@pytest.fixture(scope="module")
def page():
    return pages.page()


@pytest.fixture(scope="module")
def html(page):
    return render(page)


@pytest.fixture(scope="module")
def reading(html):
    return Reading(html)


def of_fid(**changes):
    """A page of FID alone, without images."""
    return pages.page(properties=("fid",), **{"thumbnails": {}, "grids": (), **changes})


def test_figures_are_files_that_need_nothing_else():
    """A viewer of artifacts shows each figure as an image of its own: it must be XML and have its own
    colours."""
    names = [*HOSTILE, "bell\a \x0b \ufffe"]
    files = figures(pages.page(names, thumbnails={}, grids=()))
    assert set(files) == set(pages.MEANINGS)
    statuses = {judgement.property: verdict(judgement) for judgement in pages.evidence(names).judgements}
    for name, text in files.items():
        tree = ET.fromstring(text.encode())
        assert tree.tag == "{http://www.w3.org/2000/svg}svg"
        assert tree.get("width").isdigit()
        assert len([e for e in tree.iter() if e.get("class") == "dot"]) == len(names)
        assert not {attribute for e in tree.iter() for attribute in e.attrib} & LOADING
        assert "url(" not in text
        (style,) = (e.text for e in tree.iter() if e.tag.endswith("style"))
        assert set(re.findall(r"var\((--\w+)\)", style)) <= set(re.findall(r"(--\w+):", style))
        assert f"verdict: {statuses[name]}." in "".join(tree.itertext())


def test_the_same_round_is_the_same_page(html):
    assert render(pages.page()) == html


def test_nothing_is_loaded_from_elsewhere(reading, html):
    for tag, attributes in reading.elements:
        for name in LOADING & set(attributes):
            value = attributes[name] or ""
            is_licence = tag == "a" and value.startswith("https://creativecommons.org/")
            assert value.startswith(("data:", "#")) or is_licence, (tag, value)
        assert "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"url\(|@import", html)


def test_the_policy_allows_only_the_pages_own_style_and_script(reading, html):
    metas = [attributes for _, attributes in reading.elements if "http-equiv" in attributes]
    (policy,) = (a["content"] for a in metas if a["http-equiv"] == "Content-Security-Policy")
    for tag in ("style", "script"):
        (inline,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        expected = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"'sha256-{expected}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


@pytest.mark.parametrize("name", list(pages.MEANINGS))
def test_the_tables_have_the_numbers_of_the_records(page, reading, name):
    samples = {c.name: c.samples for c in page.manifest.contributors}
    main = page.credits.of(name)
    others = [
        {c.contributor: c.phi for c in page.credits.of(name, method)} for method in ("leverage", "banzhaf")
    ]
    spec = precision([c.phi for c in main])
    for c in main:
        numbers = [
            str(samples[c.contributor]),
            signed(c.phi, spec),
            interval(c.low, c.high, spec),
            str(c.best) if c.best == c.worst else f"{c.best} to {c.worst}",
            percent(c.share),
        ]
        assert sum(row[0] == c.contributor and row[2:7] == numbers for row in reading.rows) == 1
        # Without intervals: those of `leverage` are in the first table.
        by_others = [c.contributor, *(signed(other[c.contributor], spec) for other in others)]
        assert reading.rows.count(by_others) == 1


def with_retraining(name):
    """A page of one property with credits of retraining, a pilot that allowed them, interactions, and
    looks."""
    whole = pages.page(pages.NAMES, (name,), thumbnails={}, grids=())
    first = whole.credits.credits[0]
    endpoint = {name: whole.credits.v0[name]}
    of_retraining = [
        first.model_copy(
            update={
                "method": "multifidelity",
                "game": "retrain",
                "interval": "multifidelity",
                "contributor": contributor,
                "phi": -1.0 - i,
                "low": -2.0 - i,
            }
        )
        for i, contributor in enumerate(pages.NAMES)
    ]
    pilot = PilotResult(
        property=name, rho=0.9, low=0.8, high=0.95, use=True, reason="the cheap game is of use: rho = 0.90"
    )
    interactions = [
        Interaction(
            property=name,
            one=pages.NAMES[0],
            other=other,
            value=0.5 * i - 1.1,
            low=0.5 * i - 1.15,
            high=0.5 * i - 1.05,
            established=True,
        )
        for i, other in enumerate(pages.NAMES[1:5])
    ]
    covers = {"multifidelity": "a player's Shapley value in the game of retraining"}
    more = {
        "credits": (*whole.credits.credits, *of_retraining),
        "pilots": (pilot,),
        "retrained_v0": endpoint,
        "retrained_v1": endpoint,
        "interactions": tuple(interactions),
        "covers": {**whole.credits.covers, **covers},
        "stopping": StoppingStatus(look=2, looks=(24, 48, 96), stop=True, reason="the widest interval is 3"),
    }
    return replace(whole, credits=whole.credits.model_copy(update=more))


def test_credits_of_retraining_have_an_interval_of_their_own_beside_the_published_ones():
    page = with_retraining("fid")
    reading = Reading(render(page))
    spec = precision([c.phi for c in page.credits.of("fid")])
    titles = ["Contributor", "Shapley (leverage)", "Banzhaf", "Shapley, retraining"]
    assert reading.rows.count(titles) == 1
    for c in page.credits.of("fid", "multifidelity"):
        (row,) = (
            row for row in reading.rows if len(row) == 4 and row[0] == c.contributor and row[3][0] == "−"
        )
        assert row[3] == f"{signed(c.phi, spec)} ({interval(c.low, c.high, spec)})"
    for part in (
        "Retrained coalitions beside the removal method, the cheap game is of use: rho = 0.90. Retraining "
        "itself goes from 55.30 (empty coalition) to 55.30 (grand coalition).",
        "intervals by Shapley, retraining cover: a player's Shapley value in the game of retraining.",
        "This is look 2 of 3, which are at 24, 48, 96 coalitions. The intervals by Shapley (leverage) and "
        "the ranks are valid for all looks together. Enough: the widest interval is 3.",
    ):
        assert part in reading.words
    assert "So there are no credits of retraining" not in reading.words


def test_a_property_without_credits_of_retraining_has_whole_tables():
    """A pilot may allow them for one property and not for another."""
    fid = with_retraining("fid").credits
    both = ("fid", "inception_score")
    whole = pages.credits(pages.NAMES, both)
    more = {"credits": (*whole.credits, *fid.of("fid", "multifidelity")), "covers": fid.covers}
    page = pages.page(properties=both, credits=whole.model_copy(update=more))
    widths = [len(row) for row in Reading(render(page)).rows if row[0] == pages.NAMES[1]]
    assert widths == [8, 4, 8, 3]  # of each property: the published credits, then those of other methods


INTERACTIONS = "Contributors that replace or complement each other: Shapley interactions"


def interaction_rows(page):
    """The caption and the rows of the table of interactions of a page of one property."""
    reading = Reading(render(page))
    start = next(i for i, row in enumerate(reading.rows) if row[:2] == ["Contributor", "With"])
    found = [row for row in reading.rows[start:] if len(row) == len(reading.rows[start])]
    return reading.words, found


def with_interactions(page, interactions, **more):
    changed = {"interactions": tuple(interactions), **more}
    return replace(page, credits=page.credits.model_copy(update=changed))


@pytest.mark.parametrize(
    ("name", "first", "words"),
    [
        ("inception_score", -1.1, ["can replace each other"] * 3 + ["complement each other"]),
        ("fid", 0.4, ["can replace each other"] + ["complement each other"] * 3),
        ("colourfulness_p90", -1.1, ["less together than apart"] * 3 + ["more together than apart"]),
    ],
)
def test_interactions_are_read_by_the_direction_of_the_property(name, first, words):
    """Less FID is better: two contributors who lower it less together than apart can replace each other."""
    rows = interaction_rows(with_retraining(name))[1]
    assert rows[0] == ["Contributor", "With", "Interaction", f"{portion(0.95)} interval", ""]
    assert [row[4] for row in rows[1:5]] == words
    spec = precision([-1.1, -0.6, -0.1, 0.4])
    assert rows[1][2:4] == [signed(first, spec), interval(first - 0.05, first + 0.05, spec)]


def test_signs_are_named_where_they_are_established_for_all_pairs():
    page = with_retraining("inception_score")
    pairs = list(page.credits.interactions)
    pairs[1] = pairs[1].model_copy(update={"established": False})
    pairs[3] = pairs[3].model_copy(update={"established": False, "low": None, "high": None, "unknown": "why"})
    words, rows = interaction_rows(with_interactions(page, pairs))
    assert [row[4] for row in rows[1:5]] == [
        "can replace each other",
        "not established",
        "can replace each other",
        "not established",
    ]
    assert rows[4][3] == "none"
    looks = "; this and the intervals are for this look alone, not for all looks together"
    assert f"{INTERACTIONS}. 2 of 4 signs are established at 95 %, for all pairs together{looks}" in words
    assert "read the differences" not in words
    assert looks not in interaction_rows(with_interactions(page, pairs, stopping=None))[0]


@pytest.mark.parametrize(("unknown", "said"), [("found 7 pairs", " (found 7 pairs)"), ("", "")])
def test_interactions_without_intervals_say_why(unknown, said):
    """Rounds of earlier code do not say why."""
    page = with_retraining("inception_score")
    none = {"low": None, "high": None, "se": None, "established": False, "unknown": unknown}
    pairs = [pair.model_copy(update=none) for pair in page.credits.interactions]
    words, rows = interaction_rows(with_interactions(page, pairs))
    assert f"{INTERACTIONS}, without intervals{said} Contributor" in words
    assert rows[0] == ["Contributor", "With", "Interaction", ""]
    assert {row[3] for row in rows[1:5]} == {"not established"}


def test_the_table_of_interactions_has_the_ends_and_established_signs_first():
    page = with_retraining("inception_score")
    first = page.credits.interactions[0]
    couples = list(combinations(pages.NAMES, 2))[:30]
    values = [k - 14.5 for k in range(30)]
    pairs = [
        first.model_copy(
            update={"one": one, "other": other, "value": value, "established": value in (-0.5, 2.5)}
        )
        for (one, other), value in zip(couples, values, strict=True)
    ]
    rows = interaction_rows(with_interactions(page, pairs))[1]
    expected = [-14.5, -13.5, -12.5, -11.5, -10.5, -0.5, 2.5, 10.5, 11.5, 12.5, 13.5, 14.5]
    spec = precision(values)
    assert [row[2] for row in rows[1:13]] == [signed(value, spec) for value in expected]
    assert [row[4] for row in rows[1:13]].count("not established") == 10


def test_a_part_that_all_interactions_have_is_pointed_out():
    page = with_retraining("inception_score")
    pairs = [pair.model_copy(update={"value": pair.value - 20.15}) for pair in page.credits.interactions]
    words = interaction_rows(with_interactions(page, pairs))[0]
    assert "Most of each interaction is the same, −20.5, which comes from the empty and the grand" in words


def test_columns_are_sorted_by_exact_values(page, html):
    for c in page.credits.credits:
        assert f'data-sort="{c.phi!r}"' in html


def test_the_contributor_with_the_best_credit_is_first(page, reading):
    fid = {c.contributor: c.phi for c in page.credits.of("fid")}
    heads = [i for i, row in enumerate(reading.rows) if row[0] == "Contributor" and len(row) == 8]
    start = heads[list(pages.MEANINGS).index("fid")]
    shown = [row[0] for row in reading.rows[start + 1 : start + 13]]
    assert shown == sorted(fid, key=fid.__getitem__)


def test_verdicts_have_their_reasons(reading):
    for part in (
        "does not order coalitions as retraining from scratch does: ρ = 0.31 (−0.14 to 0.66) over 24 "
        "coalitions that keep 50 %",
        "ρ = 0.69 (0.35 to 0.87) over 24 coalitions that keep 75 %",  # the worse of two sizes
        "may be chance: ρ = 0.58",
        "2 of 4",
    ):
        assert part in reading.words


def with_scores(page, **changes):
    """The page with other scores of a property whose game is faithful."""
    judgements = list(page.evidence.judgements)
    scores = tuple(score.model_copy(update=changes) for score in judgements[2].scores)
    judgements[2] = judgements[2].model_copy(update={"scores": scores})
    return replace(page, evidence=page.evidence.model_copy(update={"judgements": tuple(judgements)}))


def test_credits_that_do_not_predict_must_not_be_paid_by(page):
    html = render(with_scores(page, lds=-0.2, low=-0.6, high=0.21))
    assert html.count(">not predictive<") == 2  # at the link to the section and below its heading
    words = Reading(html).words
    assert (
        "do not predict what retraining on it gives: LDS = −0.20 (−0.60 to 0.21) over 24 retrained coalitions"
        in words
    )
    assert "do not pay by them yet" in words


def test_credits_that_predict_the_opposite_are_not_called_chance(page):
    html = render(with_scores(page, lds=-0.7, low=-0.9, high=-0.3))
    part = "predict the opposite of what retraining on it gives: LDS = −0.70 (−0.90 to −0.30)"
    assert part in html
    assert html.count(">not predictive<") == 2


def test_the_meaning_of_a_credits_sign_is_in_words(reading):
    for part in (
        "A negative credit: this contributor’s images lower FID, which improves it.",
        "A positive credit: this contributor’s images raise Inception score, which improves it.",
        "Neither more nor less is better.",
    ):
        assert part in reading.words


def test_the_ends_are_the_empty_and_the_grand_coalition(reading):
    assert reading.words.count("v0, empty coalition") == reading.words.count("v1, grand coalition") == 4
    for part in ("nobody", "everybody", "whom"):
        assert part not in reading.words.lower()


def test_endpoints_evidence_costs_and_facts_are_shown(reading):
    for part in (
        "55.30",
        "± 0.66 standard error, 3 seeds",
        "1 joined, 0 left",
        "without the top 5 for fid",
        "retraining from scratch",
        "The grand coalition by the removal method.",
        "1 h 22 min",
        "NVIDIA H200",
        pages.TRUTH,
        "source: openmoji",
        "toy model",
        "CC BY-SA 4.0",
    ):
        assert part in reading.text


def test_hostile_text_stays_text():
    page = pages.page(
        HOSTILE,
        ("fid",),
        project="<b>p</b>",
        warnings=HOSTILE,
        facts=[(name, name) for name in HOSTILE],
        config={name: name for name in HOSTILE},
        games={pages.TRUTH: HOSTILE[0]},
    )
    page = replace(page, grids=[Grid(name, name, page.grids[0].images) for name in HOSTILE])
    html = render(page)
    reading = Reading(html)
    assert html.count("<script") == html.count("<style") == 1
    for tag, attributes in reading.elements:
        assert tag != "b"
        assert not any(name.startswith("on") for name in attributes)
        assert tag != "img" or (attributes["src"] or "").startswith("data:image/png")
    for name in HOSTILE:
        # Once with the published credits, once with those of other methods.
        assert sum(row[0] == name for row in reading.rows) == 2
    assert "49" not in [row[0] for row in reading.rows]


def test_a_round_without_evidence_establishes_nothing():
    nothing = {"grids": (), "costs": (), "thumbnails": {}, "config": {}, "facts": ()}
    text = Reading(render(pages.page(evidence=None, previous=None, **nothing))).text
    assert text.count("No coalition was retrained for comparison") == 4
    assert "0 of 4" in text
    for absent in ("LDS", "same noise", "What it cost", "Against round", "Configuration"):
        assert absent not in text


def test_absent_intervals_and_huge_numbers_are_shown():
    whole = pages.credits(pages.NAMES, ("fid",))
    changes = ({"phi": 1e300, "low": None, "share": None}, {"low": None, "high": None})
    changed = [c.model_copy(update=changes[i % 2]) for i, c in enumerate(whole.credits)]
    text = Reading(render(of_fid(credits=whole.model_copy(update={"credits": tuple(changed)})))).text
    assert text.count("no interval") >= 6
    assert "+1.00 × 10³⁰⁰" in text
    assert "−∞ to" in text
    assert not re.search(r"\b(nan|inf|None)\b", text)


def test_few_coalitions_are_for_ranking_only(html):
    assert "Ranking only." not in html
    names = [f"artist {i:03}" for i in range(20)]
    assert "Ranking only." in render(pages.page(names, ("fid",)))


def test_many_contributors_are_all_shown_and_the_page_stays_small():
    names = [f"artist {i:03}" for i in range(258)]
    thumbnails = {name: np.full((8, 16, 16, 3), i % 256, np.uint8) for i, name in enumerate(names)}
    html = render(pages.page(names, ("fid", "cluster_entropy"), thumbnails=thumbnails))
    reading = Reading(html)
    shown = [row[0] for row in reading.rows]
    for name in names:
        # For each property once with the published credits, once with those of other methods.
        assert shown.count(name) == 2 * 2
    assert "Table of all 258 contributors" in reading.text
    assert len(html.encode()) < 1_500_000


def test_a_v0_that_hides_differences_of_contributors_is_pointed_out():
    whole = pages.credits(pages.NAMES, ("colourfulness_p90",))
    alike = [
        c.model_copy(update={"phi": -6.0 - 0.01 * i, "low": -7.0, "high": -5.0})
        for i, c in enumerate(whole.credits)
    ]
    credits = whole.model_copy(update={"credits": tuple(alike)})
    page = pages.page(properties=("colourfulness_p90",), credits=credits)
    assert "Most of each credit is the same equal share" in render(page)
    endpoint = whole.v0["colourfulness_p90"].model_copy(update={"stated": True})
    stated = credits.model_copy(update={"v0": {"colourfulness_p90": endpoint}})
    html = render(replace(page, credits=stated))
    assert "Most of each credit" not in html
    assert "stated in the configuration" in html


def test_an_untrained_model_that_is_better_is_pointed_out():
    whole = pages.credits(pages.NAMES, ("fid",))
    swapped = whole.model_copy(update={"v0": whole.v1, "v1": whole.v0})
    words = "the empty coalition is no worse than the grand coalition, so there is no improvement to share"
    assert words in render(of_fid(credits=swapped))
    assert words not in render(of_fid())


def test_the_network_is_named_beside_the_properties_that_it_measures():
    network = NetworkDescription(network=digest("n"), name="small", trained_on="<b>digits</b>", classes=10)
    page = render(pages.page(networks=(network,)))
    said = "Measured with the feature network: small, trained on &lt;b&gt;digits&lt;/b&gt;."
    assert page.count(said) == 3  # not beside colourfulness
    assert "Measured with" not in render(pages.page())


def test_parts_of_different_rounds_are_refused():
    with pytest.raises(DataError, match="expected one round"):
        render(of_fid(evidence=Evidence(round=digest("other"), judgements=())))
    with pytest.raises(DataError, match="expected contributors of manifest"):
        render(of_fid(manifest=pages.manifest(pages.NAMES[1:])))
    with pytest.raises(DataError, match="without a meaning"):
        render(of_fid(meanings={}))


def test_properties_of_the_package_are_meanings():
    properties = pytest.importorskip("apportion.properties").PROPERTIES
    words = Reading(render(pages.page(meanings=properties, thumbnails={}, grids=()))).words.lower()
    for entry in properties.values():
        assert f"{entry.meaning.lower()}." in words


def test_no_credits_is_still_a_page():
    nothing = Credits(
        round=digest("round"),
        credits=(),
        published={},
        v0={},
        v1={},
        coalitions=0,
        level=0.95,
        covers={},
    )
    Reading(render(pages.page(credits=nothing, evidence=None, previous=None)))


def test_a_grid_with_other_noise_is_marked(page, html):
    other = replace(page.grids[0], same_noise=False)
    with_other = render(replace(page, grids=[*page.grids, other]))
    assert with_other.count('class="grid shared"') == len(page.grids)
    assert "(other noise)" in with_other
    assert "except in grids with other noise" in with_other
    assert "other noise" not in html


@pytest.mark.parametrize(
    ("k", "columns"), [(1, 1), (2, 2), (7, 3), (12, 4), (16, 4), (32, 8), (64, 8), (17, 5)]
)
def test_grids_are_nearly_square_and_full(k, columns):
    grid = Grid("All contributors", "", np.zeros((k, 4, 4, 3), np.uint8))
    reading = Reading(render(of_fid(grids=[grid])))
    (shown,) = (a["data-columns"] for _, a in reading.elements if "data-columns" in a)
    assert shown == str(columns)


def test_a_change_from_zero_is_absent():
    evidence = pages.evidence(pages.NAMES, ("fid",))
    (judgement,) = evidence.judgements
    undefined = judgement.counterfactuals[0].model_copy(update={"change": None, "se": None})
    judged = judgement.model_copy(update={"counterfactuals": (undefined,)})
    reading = Reading(render(of_fid(evidence=evidence.model_copy(update={"judgements": (judged,)}))))
    (row,) = (row for row in reading.rows if len(row) == 8 and row[1] == undefined.label)
    assert row[3:6] == ["–", "–", ""]
