"""The head of a project: the pointer to its last committed round, which the next round is compared with."""

import re

from apportion.errors import Conflict, Damaged, NotFound
from apportion.records import Commit, Credits
from apportion.stages.round import round_key
from apportion.store import Pointer, Store


def head_key(project: str) -> str:
    return f"heads/{project}"


def read(store: Store, project: str) -> Pointer | None:
    """The head, None before a first round. Raises Damaged where it names no round."""
    pointer = store.read_pointer(head_key(project))
    if pointer is not None and not re.fullmatch(r"[0-9a-f]{32}\n?", text := pointer.data.decode(errors="replace")):
        where = store.where(head_key(project))
        raise Damaged(f"found {text!r:.80} in {where}, expected the id of a round; move it away to publish without a previous round")
    return pointer


def named(pointer: Pointer) -> str:
    """The round that a head points to."""
    return pointer.data.decode().strip()


def head(store: Store, project: str) -> str | None:
    """The last committed round of a project."""
    pointer = read(store, project)
    return None if pointer is None else named(pointer)


def previous(store: Store, project: str, last: Pointer | None, round_id: str) -> Credits | None:
    """The credits of the round that this one is compared with: all that a new round needs of it.

    It is the one that the head pointed to, as read, before this round; of a round that was published before, the one from then, so that
    a round that becomes the head again stays as it is. Raises Damaged, saying what to do, where they cannot be read.
    """
    key = round_key(round_id, "round.json")
    if store.exists(key):
        before = Commit.parse(store.get(key), store.where(key)).previous
        return None if before is None else _credits(store, before, f"round {round_id} was compared with that one: put its credits back")
    if last is None or named(last) == round_id:
        return None
    mend = f"put its credits back, or move {store.where(head_key(project))} away to publish without a previous round"
    return _credits(store, named(last), f"the next round of project {project!r} is compared with that one: {mend}")


def _credits(store: Store, round_id: str, mend: str) -> Credits:
    key = round_key(round_id, "credits.json")
    try:
        found = Credits.parse(store.get(key), store.where(key))
        if found.round != round_id:
            raise Damaged(f"found the credits of round {found.round} in {store.where(key)}; they are left as they are")
    except (Damaged, NotFound) as error:
        raise Damaged(f"{error}; {mend}") from error
    return found


def move(store: Store, project: str, last: Pointer | None, round_id: str) -> None:
    """Compare-and-swap with the head as read before publishing: raises Conflict where somebody has published another round since.

    The round then stays committed but is not the head, whose report it was not compared with: run again to publish it all the same.
    """
    if last is not None and named(last) == round_id:
        return
    try:
        store.swap(head_key(project), None if last is None else last.tag, f"{round_id}\n".encode())
    except Conflict:
        if head(store, project) != round_id:  # else a second process published this very round
            raise
