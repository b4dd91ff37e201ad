"""Keys of metrics for names of contributors that a database could take for one."""

import itertools
import sqlite3
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from sqlalchemy import event
from sqlalchemy.engine import Engine

from apportion.config.tracking import TrackingOptions
from apportion.errors import TrackingError
from apportion.tracking import MlflowTracker, NullTracker, contributor_keys, key
from apportion.tracking.names import collated

ROUND = "0123456789abcdef0123456789abcdef"
ALIKE = [
    *(("Ana", "ana", "ANA"), ("Müller", "Muller", "MÜLLER"), ("Straße", "Strasse", "STRASSE")),
    *(("Noël ", "Noël", "noel"), ("Ａｋｉ", "Aki"), ("ｱｷ", "アキ", "あき"), ("Søren", "Soren")),
    *(("İlker", "Ilker", "ılker"), ("Ælf", "Aelf"), ("Łukasz", "Lukasz"), ("e\u0301va", "éva")),
    *(("Σίσυφος", "ΣΊΣΥΦΟΣ"), ("Þór", "Thor"), ("𠮷田", "𠮸田")),
]
"""Names that collations of MySQL or SQL Server take for one."""
APART = [
    "Emily Jäger",
    "Lisa Thiel",
    "名前",
    "名字",
    "Ada",
    "Анна",
    "Иван",
    "a b",
    "ab",
    "ada.1",
    "ada-1",
    "50%",
    "(a)",
]
"""Names that no other one of all these is alike."""
NAMES = [*itertools.chain(*ALIKE), *APART]


def folded(text: str) -> str:
    """As a collation sees it that ignores case, accents, width and blanks at the end (an oracle)."""
    letters = unicodedata.normalize("NFKD", text).casefold()
    return "".join(c for c in letters if not unicodedata.combining(c)).rstrip()


def test_names_that_are_alike_have_keys_that_differ_for_a_database() -> None:
    for group in ALIKE:
        assert len({collated(name) for name in group}) == 1, group
    keys = {name: key(f"phi/fid/{part}") for name, part in contributor_keys(NAMES).items()}
    assert list(keys) == NAMES
    assert len({collated(each) for each in keys.values()}) == len(NAMES)
    assert len({folded(each) for each in keys.values()}) == len(NAMES)


def test_the_keys_of_other_names_are_the_names() -> None:
    keys = contributor_keys(NAMES)
    assert {name: keys[name] for name in APART} == {name: name for name in APART}
    assert keys["Ana"].startswith("Ana-")
    assert contributor_keys([]) == {}


def test_a_name_has_the_same_key_whoever_it_is_alike_to() -> None:
    """In every round, and in any order."""
    keys = contributor_keys(NAMES)
    for group in ALIKE:
        for pair in itertools.permutations(group, 2):
            assert contributor_keys([*APART, *pair]).items() <= keys.items()


def test_a_name_that_is_the_key_of_another_contributor() -> None:
    first = contributor_keys(["Ana", "ana"])["Ana"]
    second = contributor_keys(["Ana", "ana", first])[first]
    names = ["Ana", "ana", first.upper(), second]
    assert len({folded(part) for part in contributor_keys(names).values()}) == len(names)


@given(st.lists(st.text(max_size=12), unique=True, max_size=12))
def test_any_names_have_keys_that_differ(names: list[str]) -> None:
    keys = [key(f"phi/fid/{part}") for part in contributor_keys(names).values()]
    assert len(set(map(folded, keys))) == len(names)


@pytest.fixture
def colliding(tracking: TrackingOptions, tmp_path: Path) -> TrackingOptions:
    """A real MLflow database whose keys have a collation like that of MySQL (utf8mb4_0900_ai_ci)."""
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("PRAGMA writable_schema = ON")
        for table in ("metrics", "latest_metrics"):
            database.execute(
                "UPDATE sqlite_master SET sql = replace(sql, '\"key\" VARCHAR(250)', "
                f"'\"key\" VARCHAR(250) COLLATE alike') WHERE name = '{table}'"
            )
    return tracking


def test_names_that_are_alike_can_be_logged_to_a_database_that_takes_them_for_one(
    colliding: TrackingOptions, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By their names they could not."""

    def connect(connection: sqlite3.Connection, _: object) -> None:
        connection.create_collation("alike", lambda a, b: (folded(a) > folded(b)) - (folded(a) < folded(b)))

    names = ["Ana", "ana", "Müller", "Muller", "Ada"]
    tracker = MlflowTracker(str(colliding.uri), str(tmp_path / "artifacts"), "alike")
    caplog.set_level("INFO")
    event.listen(Engine, "connect", connect)
    try:
        run = tracker.start(ROUND, None, {})
        with pytest.raises(TrackingError, match="UNIQUE"):
            tracker.metrics(run, {f"phi/{name}": float(i) for i, name in enumerate(names)})
        keys = contributor_keys(names)
        for _ in range(2):
            tracker.metrics(run, {f"phi/{keys[name]}": float(i) for i, name in enumerate(names)})
        logged = MlflowClient(str(colliding.uri)).get_run(run).data.metrics
    finally:
        event.remove(Engine, "connect", connect)
    assert logged == {f"phi/{keys[name]}": float(i) for i, name in enumerate(names)}
    tracker.check_names(names)
    start = "a database of MLflow could take these names for one (MySQL, SQL Server): 'Ana' and 'ana', "
    assert caplog.messages[-1].startswith(f"{start}'Muller' and 'Müller'; ")


def test_the_message_is_short_and_only_where_it_is_needed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    tracker = MlflowTracker("http://127.0.0.1:1", None, "unused")
    NullTracker().check_names(["Ana", "ana"])
    tracker.check_names(APART)
    assert caplog.messages == []
    tracker.check_names([name for i in range(400) for name in (f"Ana {i}", f"ana {i}")])
    (message,) = caplog.messages
    assert "and 395 other groups" in message
    assert len(message) < 400
