"""The head of a project: the pointer to its last committed round, which the next round is compared with."""

import re

from apportion.errors import Conflict, Damaged, NotFound
from apportion.records import Credits
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
    """The credits of the round that the head pointed to, as read, before this one: all that a new round needs of it.

    Raises Damaged, saying what to do, where they cannot be read.
    """
    if last is None or named(last) == round_id:
        return None
    key = round_key(named(last), "credits.json")
    try:
        found = Credits.parse(store.get(key), store.where(key))
        if found.round != named(last):
            raise Damaged(f"found the credits of round {found.round} in {store.where(key)}; they are left as they are")
    except (Damaged, NotFound) as error:
        raise Damaged(
            f"{error}. The next round of project {project!r} is compared with that one: put its credits back, "
            f"or move {store.where(head_key(project))} away to publish without a previous round"
        ) from error
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
