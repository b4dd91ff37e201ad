"""The page says what the records say, says nothing that it does not know, and asks for nothing from anywhere."""

import base64
import hashlib
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pages
import pytest

from apportion.config import digest
from apportion.errors import DataError
from apportion.evaluation.verdict import verdict
from apportion.records import Credits, Evidence, Interaction, Looked, Pilot
from apportion.report.numbers import interval, percent, precision, signed
from apportion.report.page import Grid, figures, render

VOID = {"meta", "link", "img", "br", "input", "hr"}
DRAWN = {"line", "circle", "rect", "path", "use", "image"}
LOADING = {"src", "href", "srcset", "poster", "data", "action", "formaction", "background", "xlink:href", "ping"}
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
    """Elements and text of a page; that tags are closed in order."""

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


@pytest.fixture(scope="module")
def html():
    return render(pages.page())


@pytest.fixture(scope="module")
def reading(html):
    return Reading(html)


def test_figures_are_files_that_need_nothing_else():
    """As a viewer of artifacts shows them: an image on its own, which must be XML and bring its colours."""
    names = [*HOSTILE, "bell\a \x0b \ufffe"]
    found = figures(pages.page(names, thumbnails={}))
    assert set(found) == set(pages.MEANINGS)
    for name, text in found.items():
        tree = ET.fromstring(text.encode())
        assert tree.tag == "{http://www.w3.org/2000/svg}svg"
        assert tree.get("width").isdigit()
        assert len([e for e in tree.iter() if e.get("class") == "dot"]) == len(names)
        assert not {attribute for e in tree.iter() for attribute in e.attrib} & LOADING
        assert "url(" not in text
        (style,) = (e.text for e in tree.iter() if e.tag.endswith("style"))
        assert set(re.findall(r"var\((--\w+)\)", style)) <= set(re.findall(r"(--\w+):", style))
        (status,) = (verdict(judgement) for judgement in pages.evidence(names).judgements if judgement.property == name)
        assert f"verdict: {status}." in "".join(tree.itertext())


def test_the_same_round_is_the_same_page(html):
    assert render(pages.page()) == html


def test_nothing_is_asked_for_from_elsewhere(reading, html):
    for tag, attributes in reading.elements:
        for name in LOADING & set(attributes):
            value = attributes[name] or ""
            assert value.startswith(("data:", "#")) or (tag == "a" and value.startswith("https://creativecommons.org/")), (tag, value)
        assert "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"url\(|@import", html)


def test_the_policy_allows_only_the_pages_own_style_and_script(reading, html):
    policy = next(a["content"] for _, a in reading.elements if a.get("http-equiv") == "Content-Security-Policy")
    for tag in ("style", "script"):
        (inline,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        assert f"'sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


@pytest.mark.parametrize("name", list(pages.MEANINGS))
def test_the_table_has_the_numbers_of_the_records(reading, name):
    credits = pages.page().credits
    given = {c.name: c.samples for c in pages.page().manifest.contributors}
    main = [c for c in credits.credits if c.property == name and c.method == "tree_residual"]
    beside = [
        {c.contributor: c.phi for c in credits.credits if c.property == name and c.method == method} for method in ("leverage", "banzhaf")
    ]
    spec = precision([c.phi for c in main])
    rows = [tuple(cell.strip() for cell in row) for row in reading.cells]
    for c in main:
        numbers = (
            str(given[c.contributor]),
            signed(c.phi, spec),
            interval(c.low, c.high, spec),
            str(c.best) if c.best == c.worst else f"{c.best} to {c.worst}",
            percent(c.share),
        )
        assert sum(row[0] == c.contributor and row[2:7] == numbers for row in rows) == 1
        others = (
            c.contributor,
            *(signed(other[c.contributor], spec) for other in beside),
        )  # whose interval is the one that is shown already
        assert rows.count(others) == 1


def retrained(name):
    """A page of one property with credits of retraining, a pilot that allowed them, and looks."""
    page = pages.page(pages.NAMES, (name,))
    (c, *_), endpoint = page.credits.credits, {name: page.credits.v0[name]}
    exact = [
        c.model_copy(
            update={
                "method": "multifidelity",
                "game": "retrain",
                "interval": "multifidelity",
                "contributor": who,
                "phi": -1.0 - i,
                "low": -2.0 - i,
            }
        )
        for i, who in enumerate(pages.NAMES)
    ]
    pilot = Pilot(property=name, rho=0.9, low=0.8, high=0.95, use=True, reason="the cheap game is of use: rho = 0.90")
    pairs = tuple(Interaction(property=name, one=pages.NAMES[0], other=who, value=0.5 * i - 1.1) for i, who in enumerate(pages.NAMES[1:5]))
    more = {
        "credits": (*page.credits.credits, *exact), "pilots": (pilot,), "exact_v0": endpoint, "exact_v1": endpoint, "interactions": pairs,
        "covers": {**page.credits.covers, "multifidelity": "a player's Shapley value in the game of retraining"},
        "looked": Looked(look=2, looks=(24, 48, 96), stop=True, reason="the widest interval is 3"),
    }  # fmt: skip
    return replace(page, credits=page.credits.model_copy(update=more))


def test_credits_of_retraining_have_an_interval_of_their_own_beside_the_published_ones():
    page = retrained("fid")
    shown = Reading(render(page))
    spec = precision([c.phi for c in page.credits.credits if c.method == "tree_residual"])
    head = next(row for row in shown.cells if len(row) == 4 and "Banzhaf" in row[2])
    assert [cell.strip() for cell in head] == ["Contributor", "Shapley (leverage)", "Banzhaf", "Shapley, retraining"]
    for c in page.credits.credits[-len(pages.NAMES) :]:
        row = next(row for row in shown.cells if len(row) == 4 and row[0].strip() == c.contributor and row[1:] != head[1:])
        assert row[3].strip() == f"{signed(c.phi, spec)} ({interval(c.low, c.high, spec)})"
    text = " ".join(shown.text.split())
    assert "Retrained coalitions beside the removal method: the cheap game is of use: rho = 0.90; retraining itself goes from 55.30" in text
    assert "So there are no credits of retraining" not in text
    assert "intervals by Shapley, retraining cover: a player's Shapley value in the game of retraining." in text
    assert "Look 2 of 3 at 24, 48, 96 coalitions; the intervals by Shapley (leverage) and the ranks of all looks hold together." in text
    assert "Enough: the widest interval is 3." in text


def test_credits_of_retraining_that_one_property_has_not_leave_its_tables_whole():
    """A pilot may say yes for one property and no for another."""
    fid, whole = retrained("fid").credits, pages.page(properties=("fid", "inception_score")).credits
    both = whole.model_copy(update={"credits": (*whole.credits, *(c for c in fid.credits if c.method == "multifidelity"))})
    page = pages.page(properties=("fid", "inception_score"), credits=both.model_copy(update={"covers": fid.covers}))
    widths = [len(row) for row in Reading(render(page)).cells if row[0].strip() == pages.NAMES[1]]
    assert widths == [8, 4, 8, 3]  # the published table, then that of other methods, of each property


@pytest.mark.parametrize(
    ("name", "first", "words"),
    [
        ("inception_score", -1.1, ["stand in for each other"] * 3 + ["help each other"]),
        ("fid", 0.4, ["stand in for each other"] + ["help each other"] * 3),
        ("colourfulness_p90", -1.1, ["less together than apart"] * 3 + ["more together than apart"]),
    ],
)
def test_interactions_are_read_by_the_propertys_direction(name, first, words):
    """Two who lower FID less together than each alone stand in for each other: less is better there."""
    shown = [[cell.strip() for cell in row] for row in Reading(render(retrained(name))).cells]
    start = next(i for i, row in enumerate(shown) if row[:2] == ["Contributor", "With"])
    rows = shown[start + 1 : start + 5]
    assert [row[3] for row in rows] == words
    assert rows[0][2] == signed(first, precision([-1.1, -0.6, -0.1, 0.4]))


def test_what_is_sorted_by_is_exact(html):
    for c in pages.page().credits.credits:
        assert f'data-sort="{c.phi!r}"' in html


def test_contributors_come_best_first(reading):
    fid = {c.contributor: c.phi for c in pages.page().credits.credits if c.property == "fid" and c.method == "tree_residual"}
    start = [i for i, row in enumerate(reading.cells) if row[0].strip().startswith("Contributor") and len(row) == 8][2]
    shown = [row[0].strip() for row in reading.cells[start + 1 : start + 13]]
    assert shown == sorted(fid, key=fid.__getitem__)


def test_verdicts_say_why(reading):
    text = " ".join(reading.text.split())
    assert "does not order coalitions as retraining from scratch does: ρ = 0.31 (−0.14 to 0.66) over 24 coalitions that keep 50 %" in text
    assert "ρ = 0.69 (0.35 to 0.87) over 24 coalitions that keep 75 %" in text  # the worse of two sizes
    assert "may be chance: ρ = 0.58" in text
    assert "2 of 4" in text


def test_credits_that_do_not_predict_are_not_to_be_paid_by():
    page = pages.page()
    faithful = page.evidence.judgements[2]
    weak = tuple(score.model_copy(update={"lds": -0.2, "low": -0.6, "high": 0.21}) for score in faithful.scores)
    judgements = (*page.evidence.judgements[:2], faithful.model_copy(update={"scores": weak}), *page.evidence.judgements[3:])
    html = render(replace(page, evidence=page.evidence.model_copy(update={"judgements": judgements})))
    assert html.count(">not predictive<") == 2  # on the way there and beside the heading
    assert "do not predict what retraining on it gives: LDS = −0.20 (−0.60 to 0.21) over 24 retrained coalitions" in html


def test_credits_that_predict_the_opposite_are_not_said_to_be_chance():
    page = pages.page()
    faithful = page.evidence.judgements[2]
    wrong = tuple(score.model_copy(update={"lds": -0.7, "low": -0.9, "high": -0.3}) for score in faithful.scores)
    judgements = (*page.evidence.judgements[:2], faithful.model_copy(update={"scores": wrong}), *page.evidence.judgements[3:])
    html = render(replace(page, evidence=page.evidence.model_copy(update={"judgements": judgements})))
    assert "predict the opposite of what retraining on it gives: LDS = −0.70 (−0.90 to −0.30)" in html
    assert html.count(">not predictive<") == 2


def test_directions_are_said_in_words(reading):
    assert "A negative credit: this contributor’s images lower FID, which improves it." in reading.text
    assert "A positive credit: this contributor’s images raise Inception score, which improves it." in reading.text
    assert "Neither more nor less is better." in reading.text


def test_endpoints_evidence_costs_and_facts_are_shown(reading):
    parts = ["55.30", "± 0.66 standard error, 3 seeds", "1 joined, 0 left", "without the top 5 for fid", "retraining from scratch"]
    parts += ["Everybody, by the removal method", "1 h 22 min", "NVIDIA H200", pages.TRUTH, "source: openmoji", "toy model", "CC BY-SA 4.0"]
    for part in parts:
        assert part in reading.text


def test_hostile_text_stays_text():
    page = pages.page(HOSTILE, ("fid",))
    page = replace(
        page, project="<b>p</b>", warnings=HOSTILE, facts=[(name, name) for name in HOSTILE], config={name: name for name in HOSTILE}
    )
    page = replace(page, grids=[Grid(name, name, page.grids[0].images) for name in HOSTILE], games={pages.TRUTH: HOSTILE[0]})
    html = render(page)
    reading = Reading(html)
    assert html.count("<script") == html.count("<style") == 1
    assert not [a for tag, a in reading.elements if tag == "b" or any(name.startswith("on") for name in a)]
    assert all((a["src"] or "").startswith("data:image/png") for tag, a in reading.elements if tag == "img")
    for name in HOSTILE:
        assert sum(row[0].strip() == name for row in reading.cells) == 2  # by the published method, and by the others
    assert "49" not in [row[0] for row in reading.cells]


def test_a_round_without_evidence_establishes_nothing():
    text = Reading(render(pages.page(evidence=None, previous=None, grids=(), costs=(), thumbnails={}, config={}, facts=()))).text
    assert text.count("No coalition was retrained for comparison") == 4
    assert "0 of 4" in text
    for absent in ("LDS", "same noise", "What it cost", "Against round", "Configuration"):
        assert absent not in text


def test_absent_intervals_and_huge_numbers_are_told():
    whole = pages.credits(pages.NAMES, ("fid",))
    changed = [
        c.model_copy(update={"low": None, "high": None} if i % 2 else {"phi": 1e300, "low": None, "share": None})
        for i, c in enumerate(whole.credits)
    ]
    html = render(pages.page(pages.NAMES, ("fid",), credits=whole.model_copy(update={"credits": tuple(changed)})))
    text = Reading(html).text
    assert text.count("no interval") >= 6
    assert "+1.00 × 10³⁰⁰" in text
    assert "−∞ to" in text
    assert not re.search(r"\b(nan|inf|None)\b", text)


def test_few_coalitions_are_for_ranking_only():
    assert "Ranking only." not in render(pages.page())
    names = [f"artist {i:03}" for i in range(20)]
    assert "Ranking only." in render(pages.page(names, ("fid",)))


def test_many_contributors_are_all_there_and_the_page_stays_small():
    names = [f"artist {i:03}" for i in range(258)]
    blank = {name: np.full((8, 16, 16, 3), i % 256, np.uint8) for i, name in enumerate(names)}
    html = render(pages.page(names, ("fid", "cluster_entropy"), thumbnails=blank))
    reading = Reading(html)
    for name in names:
        assert sum(row[0].strip() == name for row in reading.cells) == 2 * 2  # by the published method, and by the others
    assert "Table of all 258 contributors" in reading.text
    assert len(html.encode()) < 1_500_000


def test_v0_off_the_scale_is_pointed_out():
    whole = pages.credits(pages.NAMES, ("colourfulness_p90",))
    alike = [c.model_copy(update={"phi": -6.0 - 0.01 * i, "low": -7.0, "high": -5.0}) for i, c in enumerate(whole.credits)]
    page = pages.page(pages.NAMES, ("colourfulness_p90",), credits=whole.model_copy(update={"credits": tuple(alike)}))
    assert "Most of each credit is the same equal share" in render(page)
    stated = {"colourfulness_p90": whole.v0["colourfulness_p90"].model_copy(update={"stated": True})}
    told = render(replace(page, credits=page.credits.model_copy(update={"v0": stated})))
    assert "Most of each credit" not in told
    assert "stated in the configuration" in told


def test_an_untrained_model_that_is_better_is_pointed_out():
    whole = pages.credits(pages.NAMES, ("fid",))
    page = pages.page(pages.NAMES, ("fid",), credits=whole.model_copy(update={"v0": whole.v1, "v1": whole.v0}))
    assert "an untrained model is better than the trained one" in render(page)


def test_parts_of_different_rounds_are_refused():
    with pytest.raises(DataError, match="expected one round"):
        render(pages.page(evidence=Evidence(round=digest("other"), judgements=())))
    with pytest.raises(DataError, match="expected contributors of manifest"):
        render(pages.page(manifest=pages.manifest(pages.NAMES[1:])))
    with pytest.raises(DataError, match="without a meaning"):
        render(pages.page(meanings={}))


def test_properties_of_the_package_are_meanings():
    properties = pytest.importorskip("apportion.properties").PROPERTIES
    assert "how colourful" in render(pages.page(meanings=properties)).lower()


def test_no_credits_is_still_a_page():
    nothing = Credits(round=digest("round"), credits=(), v0={}, v1={}, coalitions=0, level=0.95, covers={})
    Reading(render(pages.page(credits=nothing, evidence=None, previous=None)))


def test_a_grid_from_other_noise_stands_apart():
    page = pages.page()
    other = replace(page.grids[0], same_noise=False)
    html = render(replace(page, grids=[*page.grids, other]))
    assert html.count('class="grid shared"') == len(page.grids)
    assert "(other noise)" in html
    assert "but for the grids that say otherwise" in html
    assert "say otherwise" not in render(page)


@pytest.mark.parametrize(("k", "columns"), [(1, 1), (2, 2), (7, 3), (12, 4), (16, 4), (32, 8), (64, 8), (17, 5)])
def test_grids_are_nearly_square_and_full(k, columns):
    grid = Grid("Everybody", "", np.zeros((k, 4, 4, 3), np.uint8))
    shown = Reading(render(pages.page(grids=[grid])))
    assert next(a["data-columns"] for _, a in shown.elements if "data-columns" in a) == str(columns)


def test_a_change_from_zero_is_absent():
    evidence = pages.evidence(pages.NAMES, ("fid",))
    (judgement,) = evidence.judgements
    gone = judgement.counterfactuals[0].model_copy(update={"change": None, "se": None})
    judged = judgement.model_copy(update={"counterfactuals": (gone,)})
    shown = Reading(render(pages.page(pages.NAMES, ("fid",), evidence=evidence.model_copy(update={"judgements": (judged,)}))))
    row = next(row for row in shown.cells if len(row) == 8 and row[1] == gone.label)
    assert row[3:6] == ["–", "–", ""]
