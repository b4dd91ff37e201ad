"""The guarantees of a store, tested on file:// and on a real S3 server."""

import hashlib
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import PAGE, Answer, free_port, proxy

from apportion.errors import Conflict, Damaged, NotFound, StoreError
from apportion.store import FileStore, Store, open_store
from apportion.store.leftovers import remove_leftovers

fork = multiprocessing.get_context("fork")


def test_round_trip(store: Store) -> None:
    for data in (b"", b"\0\xff\r\n" * 1000):
        assert store.put_if_absent(f"games/0/{len(data)}.json", data)
        assert store.get(f"games/0/{len(data)}.json") == data
    again = open_store(store.uri)
    assert again.uri == store.uri
    assert again.get("games/0/0.json") == b""


def test_absent_and_present(store: Store) -> None:
    assert not store.exists("a/b")
    assert store.read_pointer("a/b") is None
    with pytest.raises(NotFound, match=re.escape(store.where("a/b"))):
        store.get("a/b")
    assert store.put_if_absent("a/b", b"1")
    assert store.exists("a/b")
    assert not store.exists("a")
    assert not store.put_if_absent("a/b", b"2")
    assert store.get("a/b") == b"1"


def test_ensure_makes_only_what_is_missing(store: Store) -> None:
    assert store.ensure("k", lambda: b"made")
    assert not store.ensure("k", lambda: pytest.fail("made twice"))
    assert not store.ensure("raced", lambda: b"ours" if store.put_if_absent("raced", b"theirs") else b"")
    assert (store.get("k"), store.get("raced")) == (b"made", b"theirs")


def test_list(store: Store) -> None:
    keys = ["a-b", "a", "games/1/x.json", "games/10/y.json", "games/1/ledger/z", "rounds/1"]
    assert list(store.list()) == []
    for key in keys:
        store.put_if_absent(key, key.encode())
    assert list(store.list()) == sorted(keys)
    for prefix in ("a", "games/1", "games/1/", "games/", "games/1/l", "nowhere/", "a-b", "a-b/c"):
        assert list(store.list(prefix)) == sorted(key for key in keys if key.startswith(prefix))
    with pytest.raises(StoreError, match="found key"):
        store.list("../")


def test_pointers(store: Store) -> None:
    one = store.swap("heads/p", None, b"one")
    assert store.read_pointer("heads/p") == (b"one", one)
    two = store.swap("heads/p", one, b"two")
    assert (two != one, store.get("heads/p")) == (True, b"two")
    for outdated in (one, None):
        with pytest.raises(Conflict, match="heads/p was moved"):
            store.swap("heads/p", outdated, b"three")
    with pytest.raises(Conflict):
        store.swap("heads/other", two, b"there is nothing to match")
    assert store.read_pointer("heads/p") == (b"two", two)
    assert not store.exists("heads/other")


def test_probe_leaves_nothing_behind(store: Store) -> None:
    store.probe()
    assert list(store.list()) == []
    store.put_if_absent("a", b"1")
    store.probe()
    assert list(store.list()) == ["a"]


# Races.


def _in_processes(number: int, work: Callable[[int], list[Any]]) -> list[Any]:
    """What `work(0)` to `work(number - 1)` return, each in a forked process of its own."""
    queue = fork.SimpleQueue()
    workers = [fork.Process(target=lambda i=i: queue.put(work(i))) for i in range(number)]
    for worker in workers:
        worker.start()
    results = [queue.get() for _ in workers]
    for worker in workers:
        worker.join()
    return results


def test_of_several_processes_one_writes_an_object(store: Store) -> None:
    keys = [f"k/{i}" for i in range(12)]

    def work(number: int) -> list[tuple[str, bytes]]:
        own_store, data = open_store(store.uri), bytes([number]) * 9000
        return [(key, data) for key in keys if own_store.put_if_absent(key, data)]

    written = [entry for entries in _in_processes(3, work) for entry in entries]
    assert sorted(key for key, _ in written) == sorted(keys)
    assert all(store.get(key) == data for key, data in written)


def test_of_several_threads_one_writes_an_object(store: Store) -> None:
    start = threading.Barrier(6)

    def work(number: int) -> bool:
        start.wait()
        return store.put_if_absent("k", bytes([number]))

    with ThreadPoolExecutor(6) as pool:
        written = list(pool.map(work, range(6)))
    assert sum(written) == 1
    assert store.get("k") == bytes([written.index(True)])


def test_concurrent_swaps_lose_no_update(store: Store) -> None:
    def work(_: int) -> list[int]:
        own_store, conflicts = open_store(store.uri), 0
        for _ in range(8):
            while True:
                try:
                    before = own_store.read_pointer("heads/count")
                    count = int(before.data) + 1 if before else 1
                    own_store.swap("heads/count", before and before.tag, str(count).encode())
                    break
                except Conflict:
                    conflicts += 1
        return [conflicts]

    _in_processes(3, work)
    assert store.get("heads/count") == b"24"


# Damage: an object is altered by something else than the store.


def _overwrite(
    store: Store, key: str, change: Callable[[bytes], bytes], forget_checksum: bool = False
) -> None:
    if isinstance(store, FileStore):
        path = store._root / key
        path.write_bytes(change(path.read_bytes()))
        if forget_checksum:
            path.with_name(f".{path.name}.sha256").unlink()
        return
    client, name = store._client, {"Bucket": store._bucket, "Key": store.prefix + key}
    answer = client.get_object(**name)
    metadata = {} if forget_checksum else answer["Metadata"]
    client.put_object(**name, Body=change(answer["Body"].read()), Metadata=metadata)


@pytest.mark.parametrize(
    ("change", "forget"),
    [
        (lambda data: data[:-1], False),
        (lambda data: b"", False),
        (lambda data: data[:3] + b"?" + data[4:], False),
        (lambda data: data + b"\n", False),
        (lambda data: data, True),
    ],
    ids=["truncated", "emptied", "altered", "longer", "without checksum"],
)
def test_damage_is_reported_and_kept(store: Store, change: Callable[[bytes], bytes], forget: bool) -> None:
    store.put_if_absent("k", b"precious")
    tag = store.read_pointer("k").tag
    _overwrite(store, "k", change, forget)
    for read in (store.get, store.read_pointer):
        with pytest.raises(Damaged, match=r"sha256 .* expected .* not overwritten; move it away yourself"):
            read("k")
    assert store.exists("k")
    assert not store.put_if_absent("k", b"new")
    assert not store.ensure("k", lambda: b"new")
    if isinstance(store, FileStore):  # on S3, the tag of the altered object is another
        with pytest.raises(Damaged):
            store.swap("k", tag, b"new")
        assert (store._root / "k").read_bytes() == change(b"precious")


def test_checksums_are_those_of_sha256sum(tmp_path: Path) -> None:
    open_store(tmp_path.as_uri()).put_if_absent("a/k", b"data")
    assert (tmp_path / "a/.k.sha256").read_text() == f"{hashlib.sha256(b'data').hexdigest()}  k\n"


# Names.

SEGMENT = st.text("abcXYZ019._-", min_size=1, max_size=12).filter(lambda name: not name.startswith("."))


@settings(deadline=None, max_examples=25)
@given(st.lists(SEGMENT, min_size=1, max_size=4).map("/".join), st.binary(max_size=50))
def test_good_keys(key: str, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(Path(folder, "store").as_uri())
        assert store.put_if_absent(key, data)
        assert store.get(key) == data
        assert list(store.list()) == [key]


def _good(key: str) -> bool:
    allowed = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
    return all(name and set(name) <= allowed and name[0] != "." for name in key.split("/"))


@settings(deadline=None, max_examples=80)
@given(
    st.one_of(st.text(max_size=20), st.text("a./\\\n\0~ é", max_size=8)).filter(lambda key: not _good(key))
)
def test_bad_keys(key: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _assert_refused(open_store(Path(folder, "store").as_uri()), key)
        assert os.listdir(folder) == []  # noqa: PTH208


def test_bad_keys_everywhere(store: Store) -> None:
    for key in (
        "",
        ".",
        "..",
        "/etc/passwd",
        "a/../b",
        "a//b",
        "a/",
        "a\n",
        "a b",
        ".lock",
        "a/.k.sha256",
        "x" * 201,
        "x/" * 400 + "x",
    ):
        _assert_refused(store, key)


def _assert_refused(store: Store, key: str) -> None:
    make = pytest.fail
    for call in (
        store.get,
        store.exists,
        store.read_pointer,
        lambda k: store.put_if_absent(k, b""),
        lambda k: store.ensure(k, make),
    ):
        with pytest.raises(StoreError, match=r"found key .*, expected names"):
            call(key)
    with pytest.raises(StoreError, match="found key"):
        store.swap(key, None, b"")


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "store",
        "/store",
        "http://x/y",
        "file://relative/x",
        "file:/x",
        "file:///a%00b",
        "s3://",
        "s3:///x",
        "s3://b/../c",
        "s3://b/a?x=1",
    ],
)
def test_bad_uris(uri: str) -> None:
    with pytest.raises(
        StoreError, match=r"expected file:///absolute/folder or s3://bucket/prefix \(option `store`\)"
    ):
        open_store(uri)


def test_a_folder_has_no_endpoint(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="endpoint"):
        open_store(tmp_path.as_uri(), endpoint_url="http://127.0.0.1")


# Folders.


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file, not a folder")
    for root in (tmp_path / "file", tmp_path / "file/store", Path("/proc/apportion")):
        with pytest.raises(StoreError, match=rf"{root} cannot be used .*option `store`"):
            open_store(root.as_uri()).probe()


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write to every folder")
def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="option `store`"):
        open_store(tmp_path.as_uri()).probe()


def test_a_key_cannot_be_a_folder_of_another(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    store.put_if_absent("a/b", b"1")
    store.put_if_absent("c", b"1")
    for key in ("a", "c/d"):
        with pytest.raises(StoreError, match="cannot be used"):
            store.ensure(key, lambda: b"2")


CHECKSUM = f"{hashlib.sha256(b'data').hexdigest()}  %s\n"
LEFT_OVER = {
    "a/.k.0123456789abcdef.tmp": "half",
    ".k.0.tmp": "",
    "games/1/ledger/.k.json.sha256": CHECKSUM % "k.json",
    "heads/.p.sha256": CHECKSUM % "p" * 2,  # killed while a pointer moved
    "probes/0123456789abcdef": "first",
    "leases/checkpoints-1.safetensors": "{}",
}
"""What processes leave that are killed in the middle of a write, by name."""
OTHERS = {
    "a/k.json": "data",
    "a/.k.json.sha256": CHECKSUM % "k.json",
    "a/k.json.bad": "a record that somebody has moved away",
    ".notes.tmp": "",
    "a/x.tmp": "",
    "a/.k.zz.tmp": "",
    "a/.other.sha256": CHECKSUM % "another name",
    "a/.text.sha256": "text",
    "a/probes/1": "",
    "probes/.hidden": "",
    ".lock": "",
}
"""What is nobody's, or not left over."""


def test_probe_removes_what_killed_processes_left_a_day_ago_and_nothing_else(tmp_path: Path) -> None:
    now = time.time()
    ages = {"old": now - 25 * 3600, "new": now - 23 * 3600}
    for age, written in ages.items():
        for name, text in (LEFT_OVER | OTHERS).items():
            path = tmp_path / age / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            os.utime(path, (written, written))
        open_store((tmp_path / age).as_uri()).probe()
    found = {
        age: {
            path.relative_to(tmp_path / age).as_posix()
            for path in (tmp_path / age).rglob("*")
            if path.is_file()
        }
        for age in ages
    }
    assert found == {"old": set(OTHERS), "new": set(LEFT_OVER | OTHERS)}
    assert open_store((tmp_path / "old").as_uri()).get("a/k.json") == b"data"


def test_what_a_killed_writer_left_is_removed_later(tmp_path: Path, no_fsync: None) -> None:
    """Wherever it was killed. What a resumed writer has stored since is whole, old as its leftovers are."""
    for store in _kill_points(tmp_path, lambda store: store.put_if_absent("a/k", b"1")):
        again = store.put_if_absent("a/k", b"2")
        for path in store._root.rglob("*"):
            os.utime(path, (0, 0))
        store.probe()
        assert store.get("a/k") == (b"2" if again else b"1")
        assert store.get("heads/p") == b"old"
        files = {path for path in store._root.rglob("*") if path.is_file()}
        names = {".lock", "heads/p", "heads/.p.sha256", "a/k", "a/.k.sha256"}
        assert files == {store._root / name for name in names}


def test_a_leftover_that_cannot_be_removed_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a/.k.0.tmp"
    path.parent.mkdir()
    path.touch()
    os.utime(path, (0, 0))
    store, unlink = open_store(tmp_path.as_uri()), Path.unlink

    def refuse(self: Path, missing_ok: bool = False) -> None:
        if self == path:
            raise PermissionError(13, "Permission denied")
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    store.probe()
    assert path.exists()


@pytest.mark.parametrize(("age", "left"), [(25, ["a"]), (23, ["a", "leases/x", "probes/1"])])
def test_leftovers_of_a_bucket_are_removed_by_the_clock_of_its_server(
    s3_endpoint: str, s3_bucket: str, age: int, left: list[str]
) -> None:
    """A server whose clock runs ahead by hours."""

    def ahead(method: str, headers: dict[str, str], forward: Callable[[], Answer]) -> Answer:
        answer = forward()
        date = formatdate(time.time() + age * 3600, usegmt=True)
        return answer._replace(headers={**answer.headers, "Date": date})

    store = open_store(f"s3://{s3_bucket}/some/prefix")
    for key in ("a", "leases/x", "probes/1"):
        store.put_if_absent(key, b"1")
    with proxy(s3_endpoint, ahead) as url:
        remove_leftovers(open_store(store.uri, endpoint_url=url))
    assert list(store.list()) == left


def test_leftovers_of_a_bucket_that_cannot_be_listed_stop_nothing(s3_bucket: str) -> None:
    remove_leftovers(open_store("s3://no-such-bucket"))


def _at_lines(lines: range, act: Callable[[], object], work: Callable[[], object]) -> bool:
    """Runs `work`, and `act` just before each of these of its lines in apportion.store, counted as executed;
    False where `work` ended before the first of them."""
    count = -1

    def trace(frame: Any, event: str, arg: object) -> Any:
        nonlocal count
        if "/apportion/store/" not in frame.f_code.co_filename:
            return None
        if event == "line":
            count += 1
            if count in lines:
                act()  # this call is not traced
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count >= lines.start


def _killed_at_line(line: int, work: Callable[[], object]) -> bool:
    child = os.fork()
    if child == 0:
        _at_lines(range(line, line + 1), lambda: os.kill(os.getpid(), signal.SIGKILL), work)
        os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


@pytest.fixture
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """fsync is for power failures, and takes time; what a killed process has written is not lost."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def _kill_points(root: Path, work: Callable[[Store], object]) -> Iterator[Store]:
    """A new store after `work` was killed at its first line, then one after it was killed at its second line,
    and so on; the last is one after it was not killed."""
    for line in range(1000):
        store = open_store((root / str(line)).as_uri())
        store.swap("heads/p", None, b"old")
        killed = _killed_at_line(line, lambda store=store: work(store))
        yield store
        if not killed:
            assert line > 20
            return


@pytest.mark.usefixtures("no_fsync")
def test_put_killed_at_every_line(tmp_path: Path) -> None:
    seen = set()
    for store in _kill_points(tmp_path, lambda store: store.put_if_absent("k", b"whole")):
        whole = store.exists("k")
        seen.add(whole)
        assert ("k" in store.list()) == whole
        assert store.put_if_absent("k", b"other") != whole
        assert store.get("k") == (b"whole" if whole else b"other")
    assert seen == {True, False}


@pytest.mark.usefixtures("no_fsync")
def test_swap_killed_at_every_line(tmp_path: Path) -> None:
    tag, seen = hashlib.sha256(b"old").hexdigest(), set()
    for store in _kill_points(tmp_path, lambda store: store.swap("heads/p", tag, b"new")):
        pointer = store.read_pointer("heads/p")
        seen.add(pointer.data)
        store.swap("heads/p", pointer.tag, b"after")
        assert store.get("heads/p") == b"after"
    assert seen == {b"old", b"new"}


def test_writers_killed_at_any_time(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())

    def content(i: int) -> bytes:
        return hashlib.sha256(bytes([i])).digest() * 20_000

    def write() -> None:
        for i in range(256):
            store.ensure(f"k/{i}", lambda i=i: content(i))

    for delay in range(12):
        writers = [fork.Process(target=write) for _ in range(2)]
        for writer in writers:
            writer.start()
        time.sleep(0.01 + delay / 300)
        for writer in writers:
            writer.kill()
            writer.join()
        for key in store.list():
            assert store.get(key) == content(int(key.removeprefix("k/")))
    assert len(list(store.list())) > 10


@pytest.mark.usefixtures("no_fsync")
@pytest.mark.parametrize("moves", [1, 8])
def test_readers_see_no_damage_while_a_pointer_moves(tmp_path: Path, moves: int) -> None:
    store = open_store(tmp_path.as_uri())
    tags, read = [store.swap("heads/p", None, b"0")], []

    def move() -> None:
        tags.append(store.swap("heads/p", tags[-1], str(len(tags)).encode()))

    for first in range(1000):
        if not _at_lines(
            range(first, first + moves), move, lambda: read.append(store.read_pointer("heads/p"))
        ):
            break
    assert len(read) > 20
    assert all(tags[int(data)] == tag for data, tag in read)


# S3, and servers with faults.


def test_list_goes_beyond_one_page(s3_bucket: str) -> None:
    store, keys = open_store(f"s3://{s3_bucket}"), 2 * PAGE + 3
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda i: store.put_if_absent(f"many/{i:04}", b""), range(keys)))
    store._client.put_object(Bucket=s3_bucket, Key="many/not a key", Body=b"")
    assert list(store.list("many/")) == [f"many/{i:04}" for i in range(keys)]


@pytest.mark.parametrize("ignored", ["if-none-match", "if-match"])
def test_server_without_conditional_writes_is_refused(s3_endpoint: str, s3_bucket: str, ignored: str) -> None:
    def strip(method: str, headers: dict[str, str], forward: Callable[[], Answer]) -> Answer:
        headers.pop(ignored, None)
        return forward()

    with (
        proxy(s3_endpoint, strip) as url,
        pytest.raises(StoreError, match=rf"(?i)ignores {ignored};.*option `store`"),
    ):
        open_store(f"s3://{s3_bucket}", endpoint_url=url).probe()
    assert list(open_store(f"s3://{s3_bucket}").list()) == []


def test_server_that_denies_deletion_passes(s3_endpoint: str, s3_bucket: str) -> None:
    def deny(method: str, headers: dict[str, str], forward: Callable[[], Answer]) -> Answer:
        denied = Answer(403, {}, b"<Error><Code>AccessDenied</Code></Error>")
        return denied if method == "DELETE" else forward()

    with proxy(s3_endpoint, deny) as url:
        open_store(f"s3://{s3_bucket}", endpoint_url=url).probe()
    assert len(list(open_store(f"s3://{s3_bucket}").list("probes/"))) == 1


def test_lost_answers_and_conflicts_are_retried(s3_endpoint: str, s3_bucket: str) -> None:
    puts = []

    def lose(method: str, headers: dict[str, str], forward: Callable[[], Answer]) -> Answer:
        if method != "PUT":
            return forward()
        puts.append(method)
        if len(puts) % 3 == 1:
            return Answer(409, {}, b"<Error><Code>ConditionalRequestConflict</Code></Error>")
        answer = forward()
        unavailable = Answer(503, {}, b"<Error><Code>ServiceUnavailable</Code></Error>")
        return unavailable if len(puts) % 3 == 2 else answer

    with proxy(s3_endpoint, lose) as url:
        store = open_store(f"s3://{s3_bucket}", endpoint_url=url)
        assert store.put_if_absent("k", b"ours")  # answers: 409; 503 although it was stored; 412
        tag = store.swap("heads/p", None, b"1")
        assert store.read_pointer("heads/p") == (b"1", tag)
    assert len(puts) == 6


def test_bodies_that_break_off_are_read_again(s3_endpoint: str, s3_bucket: str) -> None:
    gets = []

    def truncate(method: str, headers: dict[str, str], forward: Callable[[], Answer]) -> Answer:
        answer = forward()
        if method != "GET" or gets.append(method) or len(gets) > 1:
            return answer
        return Answer(answer.status, answer.headers | {"Connection": "close"}, answer.body[:-2])

    with proxy(s3_endpoint, truncate) as url:
        store = open_store(f"s3://{s3_bucket}", endpoint_url=url)
        store.put_if_absent("k", b"whole")
        assert store.get("k") == b"whole"
    assert len(gets) == 2


def test_missing_bucket(s3_bucket: str) -> None:
    store = open_store(f"s3://{s3_bucket}-gone")
    for call in (
        store.probe,
        lambda: store.put_if_absent("k", b""),
        lambda: list(store.list()),
        lambda: store.swap("k", "tag", b""),
    ):
        with pytest.raises(StoreError, match=r"the bucket does not exist.*option `store`"):
            call()


def test_no_credentials(s3_bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(StoreError, match="no usable credentials: set AWS_ACCESS_KEY_ID"):
        open_store(f"s3://{s3_bucket}").probe()


def test_unreachable_endpoint(s3_bucket: str) -> None:
    began = time.monotonic()
    with pytest.raises(StoreError, match="no answer from the endpoint: check AWS_ENDPOINT_URL_S3"):
        open_store(f"s3://{s3_bucket}", endpoint_url=f"http://127.0.0.1:{free_port()}").probe()
    assert time.monotonic() - began < 10
    with pytest.raises(StoreError, match="not a url"):
        open_store(f"s3://{s3_bucket}", endpoint_url="not a url")


def test_too_big_for_one_object(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apportion.store.s3._PUT_LIMIT", 10)
    with pytest.raises(StoreError, match="found 11 bytes, expected at most 10 in one object"):
        open_store(f"s3://{s3_bucket}").put_if_absent("k", b"x" * 11)


def test_a_folder_does_not_import_boto3(tmp_path: Path) -> None:
    code = f"""
import sys
from apportion.store import open_store
open_store({tmp_path.as_uri()!r}).probe()
sys.exit("boto3" in sys.modules)
"""
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0
