"""The head of a project: how it is read and moved, and the round that a new one is compared with."""

import pytest

from apportion.config.hashing import digest
from apportion.errors import Conflict, Damaged
from apportion.records import Commit, Credits
from apportion.rounds import heads
from apportion.store import Pointer, Store, open_store

ONE, TWO, THREE = (digest(number) for number in range(3))


@pytest.fixture
def store(tmp_path) -> Store:
    return open_store((tmp_path / "store").as_uri())


def put_credits(store: Store, round_id: str, under: str | None = None) -> Credits:
    credits = Credits(
        round=round_id, credits=(), published={}, v0={}, v1={}, coalitions=2, level=0.95, covers={}
    )
    store.put_if_absent(f"rounds/{under or round_id}/credits.json", credits.dump())
    return credits


def put_commit(store: Store, round_id: str, previous: str | None) -> None:
    commit = Commit(
        round=round_id, previous=previous, project="p", tracking_run=None, seconds={}, code="test"
    )
    store.put_if_absent(f"rounds/{round_id}/round.json", commit.dump())


def moved(store: Store, round_id: str) -> Pointer:
    """Moves the head to a round, as its publication does; returns it."""
    heads.move(store, "p", heads.read(store, "p"), round_id)
    pointer = heads.read(store, "p")
    assert pointer is not None
    return pointer


def test_a_project_without_rounds_has_no_head(store):
    assert heads.read(store, "p") is None
    assert heads.head(store, "p") is None
    assert heads.previous(store, "p", None, ONE) is None


def test_the_head_is_the_round_that_it_was_moved_to_last(store):
    for round_id in (ONE, TWO):
        assert heads.round_of(moved(store, round_id)) == heads.head(store, "p") == round_id
    assert heads.head(store, "another") is None


@pytest.mark.parametrize("text", [b"", b"nonsense", ONE.encode() * 2, b"../" + ONE.encode()[3:], b"\xff"])
def test_a_head_that_names_no_round_is_damaged(store, text):
    store.swap("heads/p", None, text)
    for read in (heads.read, heads.head):
        with pytest.raises(Damaged, match="expected the id of a round; move it away to publish without a"):
            read(store, "p")


def test_the_head_is_not_moved_where_another_round_was_published_meanwhile(store):
    last = moved(store, ONE)
    moved(store, TWO)
    with pytest.raises(Conflict, match="heads/p was moved by another process"):
        heads.move(store, "p", last, THREE)
    assert heads.head(store, "p") == TWO


def test_two_processes_may_publish_the_same_round(store):
    last = moved(store, ONE)
    moved(store, TWO)
    heads.move(store, "p", last, TWO)
    assert heads.head(store, "p") == TWO


def test_a_round_that_is_the_head_already_stays_the_head(store):
    last = moved(store, ONE)
    moved(store, TWO)
    heads.move(store, "p", last, ONE)  # it was the head when its publication began
    assert heads.head(store, "p") == TWO


def test_a_round_is_compared_with_the_head_before_it(store):
    expected, last = put_credits(store, ONE), moved(store, ONE)
    assert heads.previous(store, "p", last, TWO) == expected
    assert heads.previous(store, "p", last, ONE) is None


def test_a_published_round_is_compared_with_the_same_round_as_before(store):
    """Also when it becomes the head again after a third one."""
    expected = put_credits(store, ONE)
    put_credits(store, THREE)
    put_commit(store, ONE, None)
    put_commit(store, TWO, ONE)
    last = moved(store, THREE)
    assert heads.previous(store, "p", last, TWO) == expected
    assert heads.previous(store, "p", last, ONE) is None


def test_a_previous_round_without_readable_credits_is_damage(store):
    """The message says what to do."""
    last = moved(store, ONE)
    fix = r"put its credits back, or move .*heads/p away to publish without a previous round"
    with pytest.raises(Damaged, match=rf"nothing is stored there.* is compared with that one: {fix}"):
        heads.previous(store, "p", last, TWO)
    put_credits(store, THREE, under=ONE)
    with pytest.raises(Damaged, match=rf"found the credits of round {THREE} in .*{fix}"):
        heads.previous(store, "p", last, TWO)
    put_commit(store, TWO, ONE)
    with pytest.raises(Damaged, match=f"round {TWO} was compared with that one: put its credits back"):
        heads.previous(store, "p", last, TWO)
