"""Leases divide work among processes, and never stop it."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from apportion import progress
from apportion.errors import Conflict, StoreError
from apportion.store import FileStore, leases, open_store
from apportion.store.leases import ensure, in_turn, lease_key

KEYS = [f"checkpoints/{i}" for i in range(6)]
fork = multiprocessing.get_context("fork")


@pytest.fixture
def folder(tmp_path):
    return open_store(tmp_path.as_uri())


@pytest.fixture
def short(monkeypatch):
    """Leases expire after 0.3 s."""
    monkeypatch.setattr(leases, "EXPIRY", 0.3)
    monkeypatch.setattr(leases, "RENEWAL", 0.05)


def held(store):
    return list(store.list("leases/"))


def seconds_of(turns):
    """How long the next turn takes to come."""
    start = time.monotonic()
    next(turns)
    return time.monotonic() - start


def test_one_process_has_its_turns_in_order(store):
    seen = []
    for key in in_turn(store, KEYS):
        assert held(store) == [lease_key(key)]
        seen.append(key)
    assert seen == KEYS
    assert held(store) == []


def test_what_another_is_making_comes_last(store):
    first, second = in_turn(store, KEYS[:3]), in_turn(store, KEYS[:3])
    assert next(first) == KEYS[0]
    assert next(second) == KEYS[1]
    assert next(first) == KEYS[2]
    assert next(second) == KEYS[0]  # the first has had its turn, and stored nothing
    store.put_if_absent(KEYS[1], b"made")
    assert next(first) == KEYS[1]  # it is there, so no lease is needed
    assert held(store) == [lease_key(KEYS[0])]
    assert list(second) == [KEYS[2]]
    assert list(first) == held(store) == []


def test_an_object_that_is_there_waits_for_no_lease(folder):
    """A process that may not delete leaves its leases."""
    leave_lease(folder, KEYS[0], machine="another")
    folder.put_if_absent(KEYS[0], b"made")
    assert seconds_of(in_turn(folder, KEYS[:1])) < 1


def test_each_object_is_made_once_by_several_threads_and_processes(store):
    def work(number):
        own, made = open_store(store.uri), []

        def make(key):
            time.sleep(0.005)
            made.append(key)
            return key.encode()

        for key in in_turn(own, KEYS):
            own.ensure(key, lambda key=key: make(key))
        return made

    def in_a_process(number):
        queue = fork.SimpleQueue()
        process = fork.Process(target=lambda: queue.put(work(number)))
        process.start()
        made = queue.get()
        process.join()
        return made

    with ThreadPoolExecutor(4) as threads:
        tasks = [threads.submit(run, i) for i, run in enumerate([work, work, in_a_process, in_a_process])]
        made = [key for task in tasks for key in task.result()]
    assert sorted(made) == KEYS
    assert [store.get(key) for key in KEYS] == [key.encode() for key in KEYS]
    assert held(store) == []


def test_ensure_makes_an_object_once(store):
    assert ensure(store, "a/b", lambda: b"made")
    assert not ensure(store, "a/b", lambda: pytest.fail("made twice"))
    assert (store.get("a/b"), held(store)) == (b"made", [])


def test_an_error_ends_the_lease(store):
    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ensure(store, "a/b", fail)
    assert seconds_of(in_turn(store, ["a/b"])) < 1


def test_it_ends_early_also_while_it_waits(folder):
    leave_lease(folder, KEYS[0], machine="another")
    stop = threading.Event()
    turns = in_turn(folder, KEYS[:2], stop.is_set)
    assert next(turns) == KEYS[1]
    stop.set()
    assert list(turns) == []
    assert held(folder) == [lease_key(KEYS[0])]


# A process that has died


HOLDER = """
import sys, time
from apportion.store import open_store
from apportion.store.leases import in_turn
for key in in_turn(open_store(sys.argv[1]), sys.argv[2:]):
    print(key, flush=True)
    time.sleep(1000)
"""


def test_what_a_killed_process_was_making_is_made_at_once(folder):
    arguments = [sys.executable, "-c", HOLDER, folder.uri, KEYS[0]]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().strip() == KEYS[0]
        turns = in_turn(folder, KEYS[:2])
        assert next(turns) == KEYS[1]  # it lives
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert seconds_of(turns) < 1
        assert list(turns) == held(folder) == []


def leave_lease(store, key, **changed):
    """The lease that a process leaves which is killed in the middle."""
    lease = leases._Lease(store, lease_key(key), None)
    content = lease._content().decode()
    for name, value in changed.items():
        before = {"machine": f'"{leases._machine()}"', "pid": str(os.getpid())}[name]
        content = content.replace(before, f'"{value}"' if isinstance(value, str) else str(value))
    store.swap(lease_key(key), lease._tag, content.encode())


def test_an_earlier_process_with_the_same_number_is_known_to_be_dead(store):
    """As in a container that was restarted."""
    leave_lease(store, KEYS[0])
    assert seconds_of(in_turn(store, KEYS[:1])) < 1


def test_a_lease_of_another_machine_is_taken_over_when_it_expires(store, short):
    leave_lease(store, KEYS[0], machine="another")
    assert 0.3 < seconds_of(turns := in_turn(store, KEYS[:1])) < 10
    assert held(store) == [lease_key(KEYS[0])]
    assert list(turns) == held(store) == []


@pytest.mark.parametrize("content", [b"", b"no lease", b"[1]", b'{"machine": 1}', b'{"pid": "x"}'])
def test_what_is_no_lease_expires_too(content, folder, short):
    folder.put_if_absent(lease_key(KEYS[0]), content)
    assert 0.3 < seconds_of(in_turn(folder, KEYS[:1])) < 10


def test_a_lease_that_is_renewed_does_not_expire(store, short):
    first, second = in_turn(store, KEYS[:1]), in_turn(store, KEYS[:1])
    next(first)
    taken = threading.Event()
    waiting = threading.Thread(target=lambda: (next(second), taken.set()))
    waiting.start()
    assert not taken.wait(1.0)
    assert list(first) == []
    assert taken.wait(10)
    waiting.join()


def test_a_process_that_hangs_does_not_renew_its_lease(folder, short, monkeypatch):
    monkeypatch.setattr(leases, "STALLED", 0.2)
    first, second = in_turn(folder, KEYS[:1]), in_turn(folder, KEYS[:1])
    next(first)
    assert 0.3 < seconds_of(second) < 10
    # What another has taken over is not removed.
    assert list(first) == []
    assert held(folder) == [lease_key(KEYS[0])]
    assert list(second) == held(folder) == []


def test_a_process_that_advances_keeps_its_lease(folder, short, monkeypatch):
    monkeypatch.setattr(leases, "STALLED", 0.2)
    first, second = in_turn(folder, KEYS[:1]), in_turn(folder, KEYS[:1])
    next(first)
    taken = threading.Event()
    waiting = threading.Thread(target=lambda: (next(second), taken.set()))
    waiting.start()
    with progress.Progress(100, "training", "step") as steps:
        for _ in range(20):
            steps.update()
            assert not taken.wait(0.05)
    assert list(first) == []
    waiting.join()


# Stores where leases do not work


def test_where_no_lease_can_be_written_all_is_made_all_the_same(folder):
    (folder._root / "leases").write_text("a file, not a folder")
    assert list(in_turn(folder, KEYS)) == KEYS


def test_a_damaged_lease_stops_nothing(folder):
    leave_lease(folder, KEYS[0], machine="another")
    (folder._root / lease_key(KEYS[0])).write_bytes(b"?")
    assert seconds_of(in_turn(folder, KEYS[:1])) < 1


@pytest.mark.parametrize("error", [Conflict, StoreError])
@pytest.mark.parametrize("shown", [True, False])
def test_a_store_that_refuses_every_lease_delays_by_little(error, shown, folder, short):
    class Odd(FileStore):
        def swap(self, key, expected, data):
            raise error("odd")

        def read_pointer(self, key):
            return super().read_pointer(key) if shown else None

    leave_lease(folder, KEYS[0], machine="another")
    assert seconds_of(in_turn(Odd(folder._root), KEYS[:1])) < 10


def test_a_lease_that_cannot_be_removed_stops_nothing(folder, monkeypatch):
    def refuse(store, key):
        raise StoreError("no permission to delete")

    monkeypatch.setattr(FileStore, "_remove", refuse)
    assert [folder.ensure(key, lambda: b"made") for key in in_turn(folder, KEYS)] == [True] * len(KEYS)
    assert len(held(folder)) == len(KEYS)
    assert list(in_turn(folder, KEYS)) == KEYS
