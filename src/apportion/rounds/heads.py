"""The head of a project: the pointer to its last committed round, which the next round is compared with."""

import re

from apportion.errors import Conflict, Damaged, NotFound
from apportion.records import Commit, Credits
from apportion.store import Pointer, Store
from apportion.store.layout import COMMIT_FILE, CREDITS_FILE, head_key, round_key


def read(store: Store, project: str) -> Pointer | None:
    """The head, None before a first round. Raises Damaged where it does not name a round."""
    pointer = store.read_pointer(head_key(project))
    if pointer is None:
        return None
    text = pointer.data.decode(errors="replace")
    if not re.fullmatch(r"[0-9a-f]{32}\n?", text):
        raise Damaged(
            f"found {text!r:.80} in {store.where(head_key(project))}, expected the id of a round; move it "
            "away to publish without a previous round"
        )
    return pointer


def round_of(pointer: Pointer) -> str:
    """The id of the round that a head points to."""
    return pointer.data.decode().strip()


def head(store: Store, project: str) -> str | None:
    """The id of the last committed round of a project."""
    pointer = read(store, project)
    return None if pointer is None else round_of(pointer)


def previous(store: Store, project: str, last: Pointer | None, round_id: str) -> Credits | None:
    """The credits of the round that this one is compared with, which is all that a new round needs of it.

    It is the round that the head (`last`, as read) pointed to before this one. For a round that was published
    before, it is the one from then, so that a round that becomes the head again stays as it is. Raises
    Damaged, saying what to do, where the credits cannot be read.
    """
    key = round_key(round_id, COMMIT_FILE)
    if store.exists(key):
        before = Commit.parse(store.get(key), store.where(key)).previous
        if before is None:
            return None
        return _credits(store, before, f"round {round_id} was compared with that one: put its credits back")
    if last is None or round_of(last) == round_id:
        return None
    pointer = store.where(head_key(project))
    fix = f"put its credits back, or move {pointer} away to publish without a previous round"
    return _credits(
        store, round_of(last), f"the next round of project {project!r} is compared with that one: {fix}"
    )


def _credits(store: Store, round_id: str, fix: str) -> Credits:
    key = round_key(round_id, CREDITS_FILE)
    try:
        credits = Credits.parse(store.get(key), store.where(key))
        if credits.round != round_id:
            raise Damaged(
                f"found the credits of round {credits.round} in {store.where(key)}; they are left as they are"
            )
    except (Damaged, NotFound) as error:
        raise Damaged(f"{error}; {fix}") from error
    return credits


def move(store: Store, project: str, last: Pointer | None, round_id: str) -> None:
    """Moves the head by compare-and-swap with the head as read before publishing (`last`).

    Raises Conflict where another round has been published since. This round then stays committed but is not
    the head, and was not compared with that other round: publish it again to make it the head.
    """
    if last is not None and round_of(last) == round_id:
        return
    try:
        store.swap(head_key(project), None if last is None else last.tag, f"{round_id}\n".encode())
    except Conflict:
        if head(store, project) != round_id:  # otherwise another process published the same round
            raise
