"""The embedded drawings compared with their attribution and with what is known of OpenMoji 17."""

import re
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from apportion.config.data import OpenMoji
from apportion.datasets import duplicates, load
from apportion.datasets.openmoji import DRAWINGS
from apportion.errors import ConfigError, DataError

TOP = {
    "Ferdinand Sorg": 204,
    "Liz Bravo": 116,
    "Alexander Müller": 95,
    "Guemil Project": 72,
    "Daniel Utz": 68,
    "Johanna Wellnitz": 60,
    "Crystal Moon": 53,
    "Emily Jäger": 53,
    "Laura Humpfer": 53,
    "Fanny Jung": 52,
    "Sina Schulz": 52,
    "Jonas Roßner": 49,
}
SKIN_TONES = {f"1F3F{digit}" for digit in "BCDEF"}


def openmoji(**options):
    return load(OpenMoji(source="openmoji", **options))


@pytest.fixture(scope="module")
def top():
    return openmoji()


@pytest.fixture(scope="module")
def everyone():
    """All 121 designers."""
    return openmoji(contributors=121, min_images=1)


@pytest.fixture(scope="module")
def table():
    return pq.read_table(DRAWINGS)


def test_the_default_is_the_twelve_designers_with_most_drawings(top):
    assert {c.name: len(c) for c in top} == TOP
    assert [c.name for c in top] == sorted(TOP)
    assert sum(map(len, top)) == 927


def test_of_designers_with_as_many_drawings_the_first_names_are_chosen():
    """Lisa Thiel and Jonas Roßner drew 49 each; Emily Jäger drew as many as Crystal Moon."""
    assert {c.name for c in openmoji(contributors=13)} == {*TOP, "Lisa Thiel"}
    assert {c.name for c in openmoji(contributors=7)} == {*list(TOP)[:6], "Crystal Moon"}


def test_every_drawing_and_author_is_embedded(table, everyone):
    assert table.num_rows == 2456
    assert len(set(table["author"].to_pylist())) == 121
    assert sum(map(len, everyone)) == 2456
    assert all(c.name == c.name.strip() for c in everyone)


def test_only_base_drawings_are_embedded(table):
    codes = table["hexcode"].to_pylist()
    assert len(set(codes)) == len(codes)
    assert not [code for code in codes if SKIN_TONES & set(code.split("-"))]
    assert "component" not in table["group"].to_pylist()


def test_licence_and_authors_travel_with_the_drawings(table):
    licence = DRAWINGS.with_name("LICENSE.txt").read_text(encoding="utf-8")
    assert "Attribution-ShareAlike 4.0 International" in licence
    authors = DRAWINGS.with_name("AUTHORS.txt").read_text(encoding="utf-8")
    stated = {name: int(count) for count, name in re.findall(r"^ *(\d+)  (.+)$", authors, re.MULTILINE)}
    assert stated == Counter(table["author"].to_pylist())
    assert "CC BY-SA 4.0" in authors
    assert "Changes:" in authors


def test_the_file_is_small():
    assert DRAWINGS.stat().st_size <= 4e6


@pytest.mark.parametrize("side", [16, 32])
def test_drawings_are_coloured_on_white(side):
    names = ["Liz Bravo", "Fanny Jung"]
    for contribution in openmoji(contributors=names, resolution=side):
        assert contribution.pixels.shape == (len(contribution), side, side, 3)
        assert np.median(contribution.pixels[:, 0, 0]) == 255
        assert len(np.unique(contribution.pixels)) > 100


def test_parts_of_a_drawing_stay_together(top, table):
    """Sorting by hash must move pixels, titles, flips and groups together."""
    known = {(d["author"], d["name"], d["rgb16"]): d for d in table.to_pylist()}
    for c in top:
        for pixels, flip, title, label in zip(c.pixels, c.flip, c.titles, c.label, strict=True):
            drawing = known[c.name, title, pixels.tobytes()]
            assert (drawing["flip"], drawing["group"]) == (flip, label)


def test_flags_and_symbols_are_not_mirrored(top):
    flips = {(label, bool(flip)) for c in top for label, flip in zip(c.label, c.flip, strict=True)}
    assert ("flags", True) not in flips
    assert ("symbols", True) not in flips
    assert ("food-drink", True) in flips


def test_joined_is_the_day_of_the_first_drawing(top, table):
    dates = table.select(["author", "date"]).to_pylist()
    for c in top:
        assert c.joined == min(d["date"] for d in dates if d["author"] == c.name)


def test_the_two_resolutions_are_different_data(top):
    large = {c.name: c.data_hash for c in openmoji(resolution=32)}
    assert not {c.data_hash for c in top} & set(large.values())
    assert len(set(large.values())) == 12


def test_a_contribution_does_not_depend_on_the_others(top):
    known = {c.name: c.data_hash for c in top}
    two = openmoji(contributors=["Liz Bravo", "Fanny Jung"])
    assert {c.name: c.data_hash for c in two}.items() <= known.items()


def test_names_may_be_written_with_combining_accents():
    two = openmoji(contributors=["Alexander Mu\u0308ller", "Fanny Jung"])
    assert [c.name for c in two] == ["Alexander Müller", "Fanny Jung"]


def test_the_drawing_that_two_of_the_twelve_gave_is_named(top):
    (warning,) = duplicates(top)
    for part in ("'Daniel Utz' (flag: Spain)", "'Ferdinand Sorg' (flag: Ceuta & Melilla)"):
        assert part in warning


@pytest.mark.parametrize(
    ("contributors", "message"),
    [
        (["Liz Brawo", "Fanny Jung"], r"'Liz Brawo' \(did you mean 'Liz Bravo'\?\).*data\.contributors"),
        (["qqqq", "xxxx"], r"'qqqq', 'xxxx'.*data\.contributors"),
        (["Fanny Jung"], r"at least two different names \(data\.contributors\)"),
        ([], r"at least two different names"),
        (["Fanny Jung", "Fanny Jung"], r"at least two different names"),
        (122, r"found 122 requested contributors, expected at most 121 \(data\.contributors\)"),
    ],
)
def test_designers_that_do_not_exist_are_refused(contributors, message):
    with pytest.raises(ConfigError, match=message):
        openmoji(contributors=contributors)


def test_designers_with_too_few_drawings_are_refused():
    message = r"found 49 images for contributor 'Jonas Roßner', need at least 50 \(data\.min_images\)$"
    with pytest.raises(DataError, match=message):
        openmoji(min_images=50)
    with pytest.raises(DataError, match=r"… and 47 more$"):  # 64 of the 121 drew at least 8
        openmoji(contributors=121)


def test_channels_and_rows_of_a_known_drawing_are_in_order(everyone):
    """The flag of Ukraine is blue above yellow."""
    title = "flag: Ukraine"
    (flag,) = [c.pixels[c.titles.index(title)] for c in everyone if title in c.titles]
    image = Image.fromarray(flag)
    blue, yellow = image.getpixel((8, 6)), image.getpixel((8, 9))
    assert blue[2] > blue[0] + 50
    assert min(yellow[:2]) > yellow[2] + 50
