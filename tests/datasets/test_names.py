"""Names of contributors, and names of files in tables, whatever they are."""

import contextlib
import csv
import os
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import encoded, noise, put

from apportion.config.data import Folder
from apportion.datasets import found, load
from apportion.datasets.contribution import Contribution
from apportion.datasets.litter import is_litter
from apportion.datasets.names import alike, looks
from apportion.errors import DataError

TEXTS = st.text(max_size=12) | st.sampled_from(
    ["nan", "", " ", ".", "..", "a/b", "ada/0.png", "ADA\\0.png", " ada/0.png ", "Ada", "1.0", "=1", "\u200d"]
)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ada Lovelace", "ada_lovelace"),
        ("ada-lovelace", "A.D.A. Lovelace"),
        ("Ada", "\uff21\uff24\uff21"),
        ("Ева", "ева"),
        ("МАМА", "мама"),
        ("Петр Н", "пeтp н"),
        ("\u0410\u0414\u0410", "\u0430д\u0430"),
        ("İpek", "ipek"),
        ("Işık", "ışık"),
        ("Straße", "STRASSE"),
        ("نام\u200cها", "نامها"),
        ("\u039d\u03af\u03ba\u03bf\u03c2", "\u039dί\u03ba\u03bf\u03c3"),
    ],
)
def test_names_that_look_alike(one, other):
    (warning,) = alike([one, other, "somebody else"])
    assert "2 contributors whose names differ only in" in warning
    assert "somebody else" not in warning


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Müller", "Muller"),
        ("1-11", "11-1"),
        ("C", "C++"),
        ("🐱", "🐶"),
        ("-", "--"),
        ("żaba", "zaba"),
        ("王", "玉"),
    ],
)
def test_names_that_do_not_look_alike(one, other):
    assert alike([one, other]) == []


@given(st.text(max_size=20))
def test_what_a_name_looks_like_does_not_depend_on_case_or_form(name):
    seen = looks(name)
    assert looks(unicodedata.normalize("NFC", name)) == looks(unicodedata.normalize("NFD", name))
    assert looks(f" {name}_") == seen or seen == name
    assert alike([name]) == []


def test_many_groups_are_counted():
    warnings = alike([f"{form}{c}" for c in "abcdefghijkl" for form in ("x", "X")])
    assert len(warnings) == 11
    assert warnings[-1].startswith("12 groups of names look alike in all")


def test_whom_plan_found():
    def gave(name, images):
        pixels = np.zeros((images, 4, 4, 3), np.uint8)
        return Contribution(name, pixels, np.zeros(images, bool), tuple(map(str, range(images))))

    assert found([gave("ada", 2), gave("bob", 2)]) == (
        "found 2 contributors with 4 images, 2 each: 'ada' 2, 'bob' 2"
    )
    assert found([gave("ada", 3), gave("bob", 1), gave("cy", 3)]) == (
        "found 3 contributors with 7 images, from 1 ('bob') to 3 ('ada'): 'ada' 3, 'bob' 1, 'cy' 3"
    )
    many = [gave(f"c{i:02d}", i) for i in range(1, 15)]
    assert found(many) == "found 14 contributors with 105 images, from 1 ('c01') to 14 ('c14')"


@pytest.mark.parametrize(
    "name", ["@eadir", "@EADIR", "Found.012", ".trash-1001", "._x", "x.jpg@SynoEAStream"]
)
def test_litter_in_any_case(name):
    assert is_litter(name)


@pytest.mark.parametrize(
    "name", ["@ada", "#1", "eaDir", "found", "recycle", "lost and found", "tmp", "x.jpg"]
)
def test_names_that_are_not_litter(name):
    assert not is_litter(name)


# Whatever people write: contributions, or one clear error


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("names")
    for name, seeds in (("ada", range(3)), ("bob", range(10, 12))):
        for seed in seeds:
            put(root, f"{name}/{seed}.png", encoded(noise(seed)))
    return root


def contributions_or_a_clear_error(path):
    try:
        contributions = load(Folder(source="folder", path=str(path), resolution=8, min_images=1))
    except DataError as error:
        str(error).encode()  # it can be printed
        return
    for contribution in contributions:
        assert contribution.name == unicodedata.normalize("NFC", contribution.name).strip()
        assert not {"/", "\\", "\n", "\x1b"} & set(contribution.name)


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=6), st.booleans())
@settings(max_examples=60)
def test_tables_of_any_texts(root, rows, whole):
    lines = [
        ("path", "contributor"),
        *((("ada/0.png", "Ada"), ("bob/10.png", "Bob")) if whole else ()),
        *rows,
    ]
    with (root / "t.csv").open("w", newline="", encoding="utf-8", errors="surrogatepass") as text:
        csv.writer(text, escapechar="\\").writerows(lines)
    contributions_or_a_clear_error(root / "t.csv")


@given(st.binary(max_size=120), st.booleans())
@settings(max_examples=60)
def test_tables_of_any_bytes(root, data, headed):
    (root / "t.csv").write_bytes((b"path,contributor\n" if headed else b"") + data)
    contributions_or_a_clear_error(root / "t.csv")


CELLS = [
    st.none() | st.sampled_from(["ada/0.png", "ada/1.png", "bob/10.png", "Ada", "Bob"]),
    st.none() | TEXTS.filter(lambda text: text.isprintable()),
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.floats(),
    st.none() | st.booleans(),
    st.none() | st.binary(max_size=5),
    st.none() | st.dates(),
    st.none() | st.lists(st.integers(0, 3), max_size=2),
    st.none() | st.fixed_dictionaries({"a": st.integers(0, 3)}),
    st.none(),
]
COLUMNS = st.integers(0, 4).flatmap(
    lambda n: st.lists(
        st.tuples(
            st.sampled_from(["path", "contributor", "label", "joined", "other"]),
            st.sampled_from(CELLS).flatmap(lambda cells: st.lists(cells, min_size=n, max_size=n)),
        ),
        max_size=4,
        unique_by=lambda column: column[0],
    )
)


@given(COLUMNS, st.booleans())
@settings(max_examples=60)
def test_parquet_tables_of_any_types(root, columns, valid):
    cells = dict(columns)
    if valid:
        n = len(next(iter(cells.values()), []))
        cells |= {"path": [f"ada/{i % 3}.png" for i in range(n)]}
    pq.write_table(pa.table(cells), root / "t.parquet")
    contributions_or_a_clear_error(root / "t.parquet")


@given(st.floats(0, 1, exclude_max=True))
@settings(max_examples=30)
def test_parquet_tables_that_were_cut(root, part):
    whole = pa.table({"path": ["ada/0.png", "bob/10.png"], "contributor": ["Ada", "Bob"]})
    pq.write_table(whole, root / "t.parquet")
    data = (root / "t.parquet").read_bytes()
    (root / "t.parquet").write_bytes(data[: int(part * len(data))])
    contributions_or_a_clear_error(root / "t.parquet")


FILE_NAMES = st.binary(min_size=1, max_size=20).filter(lambda name: b"/" not in name and name not in b"..")


@given(st.lists(FILE_NAMES, min_size=2, max_size=4, unique=True))
@settings(max_examples=60)
def test_folders_of_any_names(tmp_path_factory, names):
    """Bytes, as file systems have them: not all are text."""
    root = tmp_path_factory.mktemp("any")
    for i, name in enumerate(names):
        with contextlib.suppress(OSError, ValueError):
            put(root, f"{os.fsdecode(name)}/x", encoded(noise(i)))
    contributions_or_a_clear_error(root)
