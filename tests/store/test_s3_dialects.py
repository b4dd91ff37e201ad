"""Servers that take other requests than AWS, or keep less: each is a proxy before a real S3 server."""

import hashlib
import logging
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from requests.utils import should_bypass_proxies
from servers import Answer, proxy

from apportion.errors import Conflict, Damaged, StoreError
from apportion.store import S3Store, open_store
from apportion.store.environment import bypasses_proxy

Forward = Callable[[], Answer]
Respond = Callable[[str, dict[str, str], Forward], Answer]


def refusal(status: int, code: str, message: str = "no") -> Answer:
    xml = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Answer(status, {"Content-Type": "application/xml"}, xml.encode())


def without_quotes(_: str, headers: dict[str, str], forward: Forward) -> Answer:
    """As Ceph 16: compares the text of If-Match with the tag itself, which has no quotes."""
    if tag := headers.get("if-match"):
        if '"' in tag:
            return refusal(412, "PreconditionFailed")
        headers["if-match"] = f'"{tag}"'
    return forward()


def with_capitals(_: str, __: dict[str, str], forward: Forward) -> Answer:
    """As servers and proxies written in Go."""
    answer = forward()
    return answer._replace(headers={name.title(): value for name, value in answer.headers.items()})


def knows_no(prefix: str, answer: Answer) -> Respond:
    """Refuses requests with a header that begins so."""

    def respond(method: str, headers: dict[str, str], forward: Forward) -> Answer:
        if any(name.startswith(prefix) for name in headers):
            return answer._replace(body=b"") if method == "HEAD" else answer
        return forward()

    return respond


NO_CHECKSUMS = [
    refusal(501, "NotImplemented", "A header you provided implies functionality that is not implemented"),
    refusal(400, "InvalidArgument", "Unsupported header 'x-amz-sdk-checksum-algorithm' received"),
    refusal(400, "InvalidRequest", "Unsupported header 'x-amz-checksum-sha256'"),
    refusal(400, "Unheard Of", "Unsupported header 'x-amz-checksum-sha256'"),
    Answer(400, {}, b""),
]

SERVERS: dict[str, Respond] = {
    "If-Match without quotes": without_quotes,
    "metadata in capitals": with_capitals,
    "no checksums": knows_no("x-amz-checksum", NO_CHECKSUMS[2]),
}


class Recorder:
    """A server that records the headers of the requests it gets."""

    def __init__(self, server: Respond = lambda _, __, forward: forward()) -> None:
        self.server = server
        self.requests: list[tuple[str, dict[str, str]]] = []

    def __call__(self, method: str, headers: dict[str, str], forward: Forward) -> Answer:
        self.requests.append((method, dict(headers)))
        return self.server(method, headers, forward)

    def values(self, header: str, method: str = "PUT") -> list[str | None]:
        """The header of each request, None where it has none, and forgets the requests."""
        found = [headers.get(header) for name, headers in self.requests if name == method]
        self.requests.clear()
        return found


@pytest.fixture
def behind(s3_endpoint: str, s3_bucket: str) -> Iterator[Callable[[Respond], S3Store]]:
    """Makes a store at a server that answers so."""
    with ExitStack() as proxies:

        def make(respond: Respond) -> S3Store:
            url = proxies.enter_context(proxy(s3_endpoint, respond))
            store = open_store(f"s3://{s3_bucket}/some/prefix", endpoint_url=url)
            assert isinstance(store, S3Store)
            return store

        yield make


Behind = Callable[[Respond], S3Store]


@pytest.mark.parametrize(
    ("server", "probed"), [*((server, True) for server in SERVERS), ("If-Match without quotes", False)]
)
def test_the_whole_contract(
    behind: Behind, monkeypatch: pytest.MonkeyPatch, server: str, probed: bool
) -> None:
    """Also in a process that does not probe the server first, and with the setting that some servers' pages
    advise."""
    if probed:
        monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    store = behind(SERVERS[server])
    if probed:
        store.probe()
        assert list(store.list()) == []
    one = store.swap("heads/p", None, b"one")
    assert store.read_pointer("heads/p") == (b"one", one)
    two = store.swap("heads/p", one, b"two")
    three = store.swap("heads/p", two, b"three")
    for outdated in (None, one, two):
        with pytest.raises(Conflict, match="heads/p was moved"):
            store.swap("heads/p", outdated, b"four")
    with pytest.raises(Conflict):
        store.swap("heads/other", three, b"there is nothing to match")
    assert store.read_pointer("heads/p") == (b"three", three)
    for data in (b"", b"\0\xff\r\n" * 1000):
        assert store.put_if_absent(f"k/{len(data)}", data)
        assert not store.put_if_absent(f"k/{len(data)}", b"another")
        assert store.get(f"k/{len(data)}") == data
    assert list(store.list()) == ["heads/p", "k/0", "k/4000"]


# If-Match


def test_the_form_is_found_once_and_then_used(behind: Behind, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    recorder = Recorder(without_quotes)
    store = behind(recorder)
    tags = [store.swap("heads/p", None, b"0")]
    assert tags[0].startswith('"')
    recorder.values("if-match")
    tags.append(store.swap("heads/p", tags[0], b"1"))
    first = recorder.values("if-match")
    assert (first[0], first[-1]) == (tags[0], tags[0].strip('"'))
    assert caplog.text.count("takes If-Match only without quotes") == 1
    for number in (2, 3):
        tags.append(store.swap("heads/p", tags[-1], str(number).encode()))
        assert recorder.values("if-match") == [tags[-2].strip('"')]
    same = open_store(store.uri, endpoint_url=store._endpoint)
    same.swap("heads/p", tags[-1], b"4")
    assert recorder.values("if-match") == [tags[-1].strip('"')]
    assert list(store.list()) == ["heads/p"]


def test_an_ordinary_server_gets_no_other_request(behind: Behind) -> None:
    """Neither for a success nor for a conflict."""
    recorder = Recorder()
    store = behind(recorder)
    one = store.swap("heads/p", None, b"1")
    store.swap("heads/p", one, b"2")
    with pytest.raises(Conflict):
        store.swap("heads/p", one, b"3")
    assert recorder.values("if-match") == [None, one, one]


def test_concurrent_swaps_lose_no_update(behind: Behind) -> None:
    """While the form is not known yet, too."""
    store = behind(without_quotes)

    def work(_: int) -> None:
        for _ in range(4):
            while True:
                before = store.read_pointer("heads/count")
                count = int(before.data) + 1 if before else 1
                try:
                    store.swap("heads/count", before and before.tag, str(count).encode())
                    break
                except Conflict:
                    pass

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(3)))
    assert store.get("heads/count") == b"12"


def test_a_form_that_the_server_ignores_is_not_used(behind: Behind) -> None:
    """It would accept every tag without quotes: a pointer would move although another had moved it."""

    def respond(_: str, headers: dict[str, str], forward: Forward) -> Answer:
        if tag := headers.get("if-match", ""):
            if tag.startswith('"'):
                return refusal(412, "PreconditionFailed")
            del headers["if-match"]
        return forward()

    store = behind(respond)
    tag = store.swap("heads/p", None, b"one")
    words = "refuses If-Match with the tag that it gave the object itself, with quotes and without"
    for act in (lambda: store.swap("heads/p", tag, b"two"), store.probe):
        with pytest.raises(StoreError, match=words) as caught:
            act()
        assert not isinstance(caught.value, Conflict)
    assert store.read_pointer("heads/p") == (b"one", tag)
    assert list(store.list()) == ["heads/p"]


def test_a_pointer_that_moves_away_and_back_while_it_is_swapped(behind: Behind) -> None:
    """The server refuses, and then shows the expected version: its form is the usual one nevertheless."""
    puts: list[str] = []

    def respond(method: str, headers: dict[str, str], forward: Forward) -> Answer:
        if "if-match" in headers:
            puts.append(headers["if-match"])
            if len(puts) == 1:
                return refusal(412, "PreconditionFailed")
        return forward()

    store = behind(respond)
    one = store.swap("heads/p", None, b"one")
    two = store.swap("heads/p", one, b"two")
    assert store.read_pointer("heads/p") == (b"two", two)
    assert store.peculiarities() == ()
    assert all(tag.startswith('"') for tag in puts)


@pytest.mark.parametrize("lost", range(1, 5))
def test_lost_answers_while_the_form_is_found(behind: Behind, lost: int) -> None:
    """A write that succeeded counts as one, whichever answer is lost."""
    accepted = []

    def respond(method: str, headers: dict[str, str], forward: Forward) -> Answer:
        answer = without_quotes(method, headers, forward)
        if method == "PUT" and answer.status == 200 and (accepted.append(1) or len(accepted) == lost):
            return refusal(503, "ServiceUnavailable")
        return answer

    store = behind(respond)
    tag = store.swap("heads/p", None, b"one")
    assert store.swap("heads/p", tag, b"two") == store.read_pointer("heads/p").tag
    assert store.get("heads/p") == b"two"
    assert store.peculiarities() == ("If-Match without quotes, as Ceph 16",)


# Metadata


@pytest.mark.parametrize(
    ("methods", "lost"), [(("HEAD", "GET"), ""), (("HEAD",), "writer"), (("GET",), "sha256")]
)
def test_a_server_that_drops_metadata_is_refused_by_name(
    behind: Behind, methods: tuple[str, ...], lost: str
) -> None:
    def respond(method: str, _: dict[str, str], forward: Forward) -> Answer:
        answer = forward()
        dropped = f"x-amz-meta-{lost}" if method in methods else "none"
        kept = {name: value for name, value in answer.headers.items() if not name.startswith(dropped)}
        return answer._replace(headers=kept)

    store = behind(respond)
    words = (
        rf"drops the metadata of objects \(x-amz-meta-{lost or 'sha256, x-amz-meta-writer'} of a PUT is "
        rf"missing in the answer to {methods[0]}\).*keep the headers x-amz-meta-\*.*option `store`"
    )
    with pytest.raises(StoreError, match=words) as caught:
        store.probe()
    assert not isinstance(caught.value, Damaged)
    assert list(store.list()) == []
    store.put_if_absent("k", b"data")
    if lost != "writer" and "GET" in methods:
        words = f"{hashlib.sha256(b'data').hexdigest()}, expected that of its metadata .* drops metadata"
        with pytest.raises(Damaged, match=words):
            store.get("k")
    else:
        assert store.get("k") == b"data"


# Checksums


def test_a_server_with_checksums_gets_them_and_verifies_them(behind: Behind) -> None:
    recorder = Recorder()
    behind(recorder).put_if_absent("k", b"data")
    assert recorder.values("x-amz-checksum-sha256") == [b64encode(hashlib.sha256(b"data").digest()).decode()]


@pytest.mark.parametrize("answer", NO_CHECKSUMS, ids=lambda answer: f"{answer.status} {answer.body[12:40]!r}")
def test_refusals_of_checksums(behind: Behind, answer: Answer) -> None:
    """In the words of several servers and gateways."""
    store = behind(knows_no("x-amz-checksum-", answer))
    assert store.put_if_absent("k", b"data")
    assert not store.put_if_absent("k", b"other")
    assert store.get("k") == b"data"


@pytest.mark.parametrize("advised", [True, False])
def test_a_server_without_checksums_verifies_an_md5(
    behind: Behind, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, advised: bool
) -> None:
    """It is found once, or not at all where the environment says so; objects can be read as others."""
    caplog.set_level(logging.INFO)
    if advised:
        monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "WHEN_REQUIRED")
    recorder = Recorder(knows_no("x-amz-checksum-", NO_CHECKSUMS[2]))
    store = behind(recorder)
    for key in ("a", "b"):
        store.put_if_absent(key, key.encode())
    md5 = [b64encode(hashlib.md5(key, usedforsecurity=False).digest()).decode() for key in (b"a", b"b")]
    assert recorder.values("content-md5") == ([] if advised else [None]) + md5
    assert caplog.text.count("refuses x-amz-checksum-sha256") == (not advised)
    assert store.peculiarities() == (() if advised else ("no headers x-amz-checksum-…",))
    assert open_store(store.uri).get("a") == b"a"


@pytest.mark.parametrize("code", ["BadDigest", "XAmzContentSHA256Mismatch", "ExpiredToken"])
def test_another_refusal_changes_nothing(behind: Behind, code: str) -> None:
    """Data that is altered on the way must not be sent again without its checksum."""
    recorder = Recorder(lambda *_: refusal(400, code, "The SHA256 you specified did not match"))
    store = behind(recorder)
    with pytest.raises(StoreError):
        store.put_if_absent("k", b"data")
    assert None not in recorder.values("x-amz-checksum-sha256")
    assert store.peculiarities() == ()


def test_a_server_without_conditional_writes_is_not_one_without_checksums(behind: Behind) -> None:
    store = behind(knows_no("if-none-match", refusal(501, "NotImplemented")))
    with pytest.raises(StoreError, match="the server lacks conditional writes"):
        store.probe()
    assert store.peculiarities() == ()


def test_lifecycle_rules_need_checksums(behind: Behind) -> None:
    """boto3 always sends one with them."""
    store = behind(knows_no("x-amz-checksum-", NO_CHECKSUMS[2]))
    with pytest.raises(StoreError, match="the server refuses the headers x-amz-checksum-…"):
        store.set_lifecycle({"Rules": []})


# NO_PROXY

ENTRIES = ["127.0.0.0/8", "10.0.0.0/8", "127.0.0.1/32", "10.0.0.0/8, 127.0.0.0/16", "localhost,/8,a/b", ""]
URLS = ["http://127.0.0.1:9000", "https://10.1.2.3", "http://localhost:9000", "https://s3.example.com"]


@pytest.mark.parametrize("entries", ENTRIES)
@pytest.mark.parametrize("url", URLS)
def test_networks_without_a_proxy_are_those_of_requests(
    monkeypatch: pytest.MonkeyPatch, entries: str, url: str
) -> None:
    """The library of MLflow's client, which also matches names, as boto3 does itself."""
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", entries)
    by_name = "localhost" in entries and "localhost" in url
    assert bypasses_proxy(url) == (should_bypass_proxies(url, no_proxy=entries) and not by_name)


def test_networks_of_version_6(monkeypatch: pytest.MonkeyPatch) -> None:
    """requests knows none."""
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8,fd00::/8")
    assert bypasses_proxy("http://[fd00::1]:9000")
    assert not bypasses_proxy("http://[fe80::1]:9000")


def test_a_network_of_no_proxy_is_respected(
    s3_endpoint: str, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    requests: list[str] = []

    def respond(method: str, *_: Any) -> Answer:
        requests.append(method)
        return refusal(403, "AccessDenied")

    with proxy(s3_endpoint, respond) as of_company:
        monkeypatch.setenv("HTTP_PROXY", of_company)
        monkeypatch.setenv("NO_PROXY", "10.0.0.0/8")
        with pytest.raises(StoreError):
            open_store(f"s3://{s3_bucket}").probe()
        assert requests
        requests.clear()
        monkeypatch.setenv("NO_PROXY", "10.0.0.0/8,127.0.0.0/8")
        open_store(f"s3://{s3_bucket}").probe()
    assert not requests
