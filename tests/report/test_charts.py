"""Dots and intervals are where their numbers say, and absent or cut-off intervals are marked."""

import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from apportion.report.charts import LEFT, NAME_WIDTH, RIGHT, Dot, axis, dot_chart, has_cut_off, shorten


def drawn(rows, **options):
    return ET.fromstring(str(dot_chart(rows, label="credits", less="less", more="more", **options)))


def classes(tree, name):
    return [e for e in tree.iter() if e.get("class") == name]


def test_positions_are_linear_in_the_values():
    rng = np.random.default_rng(0)
    rows = [Dot(f"c{i}", v, v - 1, v + 1) for i, v in enumerate(rng.normal(size=12).tolist())]
    values = [row.value for row in rows]
    positions = [float(e.get("cx").rstrip("%")) for e in classes(drawn(rows), "dot")]
    slope, offset = np.polyfit(values, positions, 1)
    assert slope > 0
    np.testing.assert_allclose(np.polyval([slope, offset], values), positions, atol=0.01)
    zero = classes(drawn(rows), "zero")[0]
    assert float(zero.get("x1").rstrip("%")) == pytest.approx(offset, abs=0.01)


def test_height_grows_with_rows_and_every_row_is_named():
    rows = [Dot(f"artist {i}", i / 258, None, None) for i in range(258)]
    tree = drawn(rows)
    assert int(tree.get("height")) > 258 * 16
    assert [e.text for e in classes(tree, "name")] == [row.name for row in rows]
    assert tree.get("role") == "img"
    assert tree.get("aria-label") == "credits"


def test_an_absent_interval_is_written_and_not_drawn():
    tree = drawn([Dot("a", 1.0, None, None), Dot("b", -1.0, -2.0, -0.5)])
    bare = classes(tree, "bare")
    assert len(bare) == 1
    assert "no interval" in "".join(bare[0].itertext())
    assert not [e for e in bare[0].iter() if e.get("class") == "whisker"]
    assert len(classes(tree, "clear")) == 1


@pytest.mark.parametrize(
    ("low", "high", "arrows"),
    [
        (None, 2.0, 1),
        (0.5, None, 1),
        (-math.inf, 2.0, 1),
        (0.5, math.inf, 1),
        (-1e9, 1e9, 2),
        (0.5, 2.0, 0),
    ],
)
def test_an_interval_that_is_cut_off_ends_in_an_arrow(low, high, arrows):
    rows = [Dot("a", 1.0, low, high), *(Dot(f"{i}", 1.0, 0.0, 2.0) for i in range(5))]
    tree = drawn(rows)
    assert sum(e.tag.endswith("path") for e in tree.iter()) == arrows
    assert has_cut_off(rows) == (arrows > 0)


def test_intervals_that_are_all_wide_are_all_drawn():
    assert not has_cut_off([Dot(f"{i}", 0.01, -50.0, 50.0) for i in range(12)])


@pytest.mark.parametrize(
    "values", [[0.0], [0.0, 0.0], [1e308, -1e308], [5e-324], [1e300, 1.0], [-3.0, -2.0], [1e-9, 2e-9]]
)
def test_any_finite_numbers_have_a_chart(values):
    rows = [Dot("a", v, v, v) for v in values]
    tree = drawn(rows, equal=values[0])
    positions = [float(e.get("cx").rstrip("%")) for e in classes(tree, "dot")]
    assert all(LEFT <= position <= RIGHT for position in positions)
    assert len(axis(rows).ticks) <= 9
    assert "nan" not in "".join(tree.itertext())


def test_ticks_are_round_and_inside():
    scale = axis([Dot("a", -3.7, -5, 1), Dot("b", 7.2, 5, 9)])
    assert scale.ticks == [-5.0, 0.0, 5.0]
    assert all(map(scale.contains, scale.ticks))


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", '"><img src=x>', "a & b", "</svg>"])
def test_names_stay_text(name):
    rows = [Dot(name, 1.0, 0.0, 2.0)]
    tree = drawn(rows)
    assert not re.search(r"<(script|img)", str(dot_chart(rows, label=name, less="", more="")))
    assert next(e.text for e in tree.iter() if e.tag.endswith("title")).startswith(name)


def test_long_names_are_cut_and_wide_characters_count_twice():
    assert shorten("Ada") == "Ada"
    assert len(shorten("A" * 90)) <= NAME_WIDTH
    assert shorten("A" * NAME_WIDTH) == "A" * NAME_WIDTH
    assert len(shorten("山" * 40)) <= NAME_WIDTH / 2 + 1
    assert shorten("a\x00b") == "a�b"
