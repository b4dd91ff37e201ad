"""What S3-compatible servers want otherwise than AWS, and what they refuse: addressing, encryption, region, TLS, clocks, quotas."""

import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from servers import Answer, certified, proxy
from tiny import CONFIG, ran

from apportion.errors import StoreError
from apportion.store import S3Store, open_store

Forward = Callable[[], Answer]


def ago(**told: float) -> datetime:
    return datetime.now(UTC) - timedelta(**told)


class Heard:
    """What went through a proxy."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []

    def __call__(self, method: str, headers: dict[str, str], forward: Forward) -> Answer:
        self.requests.append((method, headers))
        return forward()

    def of(self, method: str) -> list[dict[str, str]]:
        return [headers for name, headers in self.requests if name == method]


def refusing(status: int, code: str, more: str = "", headers: dict[str, str] | None = None) -> Callable[..., Answer]:
    """Answers every request so; a HEAD without a body, as S3 does."""

    def refuse(method: str, _: dict[str, str], __: Forward) -> Answer:
        body = b"" if method == "HEAD" else f"<Error><Code>{code}</Code><Message>no</Message>{more}</Error>".encode()
        return Answer(status, {"Content-Type": "application/xml"} | (headers or {}), body)

    return refuse


def refused(bucket: str, meddle: Callable[..., Answer], act: Callable[[S3Store], Any]) -> str:
    with proxy("http://127.0.0.1:1", meddle) as url:
        store = open_store(f"s3://{bucket}", endpoint_url=url)
        assert isinstance(store, S3Store)
        with pytest.raises(StoreError) as caught:
            act(store.impatient())
    assert "option `store`" in str(caught.value)
    return str(caught.value)


# Options


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"APPORTION_S3_ADDRESSING": "subdomain"}, "APPORTION_S3_ADDRESSING=subdomain, expected one of auto, path, virtual"),
        ({"APPORTION_S3_SSE": "aes256"}, "APPORTION_S3_SSE=aes256, expected one of AES256, aws:kms"),
        ({"APPORTION_S3_KMS_KEY": "k"}, "APPORTION_S3_KMS_KEY beside APPORTION_S3_SSE=, expected APPORTION_S3_SSE=aws:kms"),
        ({"APPORTION_S3_KMS_KEY": "k", "APPORTION_S3_SSE": "AES256"}, "beside APPORTION_S3_SSE=AES256, expected APPORTION_S3_SSE=aws:kms"),
        ({"AWS_ENDPOINT_URL_S3": "http://user:hidden@127.0.0.1"}, "found a user or a password in AWS_ENDPOINT_URL_S3, expected none"),
        ({"AWS_ENDPOINT_URL": "user:hidden@127.0.0.1"}, "found a user or a password in AWS_ENDPOINT_URL, expected none"),
        ({"AWS_ENDPOINT_URL_S3": "http://127.0.0.1?token=hidden"}, "use AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ACCESS_KEY_ID": "hidden\n"}, "a Secret made from `echo` ends in a line break; make it again with `echo -n`"),
        (
            {"AWS_SECRET_ACCESS_KEY": " hidden"},
            "found a line break, a blank or another sign that HTTP cannot send in AWS_SECRET_ACCESS_KEY",
        ),
        ({"AWS_SESSION_TOKEN": "hidden\r\nX: y"}, "HTTP cannot send in AWS_SESSION_TOKEN"),
        ({"AWS_CA_BUNDLE": "/nowhere/ca.pem"}, "found no file /nowhere/ca.pem, which AWS_CA_BUNDLE names"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_sent(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch, told: dict[str, str], words: str
) -> None:
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreError) as caught:
        open_store(f"s3://{s3_bucket}")
    assert words in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_empty_options_are_none(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a chart or a shell may set them."""
    for name in ("APPORTION_S3_ADDRESSING", "APPORTION_S3_SSE", "APPORTION_S3_KMS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "")
    open_store(f"s3://{s3_bucket}").probe()


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, {}),
        ({"APPORTION_S3_SSE": "AES256"}, {"x-amz-server-side-encryption": "AES256"}),
        ({"APPORTION_S3_SSE": "aws:kms"}, {"x-amz-server-side-encryption": "aws:kms"}),
        (
            {"APPORTION_S3_SSE": "aws:kms", "APPORTION_S3_KMS_KEY": "arn:aws:kms:eu-west-1:1:key/2"},
            {"x-amz-server-side-encryption": "aws:kms", "x-amz-server-side-encryption-aws-kms-key-id": "arn:aws:kms:eu-west-1:1:key/2"},
        ),
    ],
)
def test_every_put_is_encrypted_and_nothing_else_says_so(
    s3_endpoint: str, s3_bucket: str, monkeypatch: pytest.MonkeyPatch, told: dict[str, str], expected: dict[str, str]
) -> None:
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    heard = Heard()
    with proxy(s3_endpoint, heard) as url:
        store = open_store(f"s3://{s3_bucket}/a", endpoint_url=url)
        store.probe()
        assert store.put_if_absent("k", b"data")
        assert store.get("k") == b"data"
        tag = store.swap("heads/p", None, b"1")
        assert store.swap("heads/p", tag, b"2") == store.read_pointer("heads/p").tag

    def encrypting(headers: dict[str, str]) -> dict[str, str]:
        return {name: value for name, value in headers.items() if name.startswith("x-amz-server-side")}

    assert len(heard.of("PUT")) >= 6
    assert all(encrypting(headers) == expected for headers in heard.of("PUT"))
    assert not any(encrypting(headers) for method in ("GET", "HEAD", "DELETE") for headers in heard.of(method))


@pytest.mark.parametrize(("told", "host"), [("path", "{url}"), ("virtual", "{bucket}.{url}"), ("auto", "{url}")])
def test_addressing(s3_bucket: str, monkeypatch: pytest.MonkeyPatch, told: str, host: str) -> None:
    """The bucket is part of the path, or of the name of the host, which must resolve then."""
    monkeypatch.setenv("APPORTION_S3_ADDRESSING", told)
    resolve, heard = socket.getaddrinfo, Heard()

    def here(name: Any, *arguments: Any, **more: Any) -> Any:
        return resolve("127.0.0.1" if str(name).endswith("s3.example.com") else name, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", here)
    monkeypatch.setenv("NO_PROXY", "*")
    with proxy("http://127.0.0.1:1", lambda *asked: heard(*asked[:2], lambda: Answer(200, {"ETag": '"1"'}, b""))) as url:
        netloc = url.removeprefix("http://").replace("127.0.0.1", "s3.example.com")
        assert open_store(f"s3://{s3_bucket}", endpoint_url=f"http://{netloc}").put_if_absent("k", b"1")
    assert {headers["host"] for headers in heard.of("PUT")} == {host.format(url=netloc, bucket=s3_bucket)}


@pytest.mark.parametrize(
    ("told", "region"),
    [
        ({"AWS_REGION": "eu-central-1"}, "eu-central-1"),
        ({"AWS_REGION": "eu-central-1", "AWS_DEFAULT_REGION": "us-west-2"}, "eu-central-1"),
        ({"AWS_DEFAULT_REGION": "us-west-2"}, "us-west-2"),
    ],
)
def test_region(s3_endpoint: str, s3_bucket: str, monkeypatch: pytest.MonkeyPatch, told: dict[str, str], region: str) -> None:
    """AWS_REGION too, which boto3 alone would not read."""
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    heard = Heard()
    with proxy(s3_endpoint, heard) as url:
        open_store(f"s3://{s3_bucket}", endpoint_url=url).put_if_absent("k", b"1")
    assert f"/{region}/s3/aws4_request" in heard.of("PUT")[0]["authorization"]


# TLS


def test_tls_with_an_authority_of_ones_own(s3_endpoint: str, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, context = certified(tmp_path)
    with proxy(s3_endpoint, lambda _, __, forward: forward(), context) as url:
        assert url.startswith("https:")
        with pytest.raises(StoreError, match="no trusted connection: name the file of the certificate authority in AWS_CA_BUNDLE"):
            open_store(f"s3://{s3_bucket}", endpoint_url=url).probe()
        monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
        store = open_store(f"s3://{s3_bucket}", endpoint_url=url)
        store.probe()
        assert store.put_if_absent("k", b"over TLS")
    assert open_store(f"s3://{s3_bucket}").get("k") == b"over TLS"


def test_tls_where_there_is_none(s3_endpoint: str, s3_bucket: str) -> None:
    with pytest.raises(StoreError, match=r"see that http or https .* right in AWS_ENDPOINT_URL_S3"):
        open_store(f"s3://{s3_bucket}", endpoint_url=s3_endpoint.replace("http:", "https:")).probe()


def test_an_authority_that_is_none(s3_endpoint: str, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    with pytest.raises(StoreError, match="AWS_CA_BUNDLE"):
        open_store(f"s3://{s3_bucket}", endpoint_url=s3_endpoint.replace("http:", "https:")).probe()


# Refusals


@pytest.mark.parametrize("told", ["in the error", "in the header"])
def test_clocks_that_differ(s3_bucket: str, told: str) -> None:
    server = ago(minutes=20)
    more = f"<RequestTime>now</RequestTime><ServerTime>{server:%Y-%m-%dT%H:%M:%SZ}</ServerTime>" if told == "in the error" else ""
    said = refused(
        s3_bucket,
        refusing(403, "RequestTimeTooSkewed", more, {} if more else {"Date": format_datetime(server)}),
        lambda store: store.put_if_absent("k", b"1"),
    )
    assert "the clocks of this machine and of the server differ by 20 min: set the clock (NTP); nothing is lost" in said


def test_clocks_that_differ_where_the_refusal_has_no_body(s3_bucket: str) -> None:
    """A HEAD says only 403, and its date says why."""
    headers = {"Date": format_datetime(ago(hours=-3))}
    assert "differ by 3 h: set the clock" in refused(s3_bucket, refusing(403, "", "", headers), lambda store: store.exists("k"))
    assert "access denied" in refused(s3_bucket, refusing(403, ""), lambda store: store.exists("k"))


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (301, "PermanentRedirect", "the endpoint sends us elsewhere"),
        (307, "TemporaryRedirect", "the endpoint sends us elsewhere"),
        (400, "AuthorizationHeaderMalformed", "AWS_REGION"),
        (403, "QuotaExceeded", "the bucket or its server is full: raise the quota"),
        (400, "XMinioAdminBucketQuotaExceeded", "apportion lifecycle CONFIG --days N"),
        (507, "XMinioStorageFull", "is full"),
        (507, "Unheard Of", "is full"),
        (503, "SlowDown", "run fewer shards (compute.shards)"),
        (400, "ExpiredToken", "past their time: renew them (AWS_SESSION_TOKEN"),
        (403, "AccessDenied", "the credentials need s3:GetObject"),
        (403, "InvalidObjectState", "a lifecycle rule moved the object to an archive"),
        (501, "NotImplemented", "the server lacks conditional writes"),
        (400, "KMS.NotFoundException", "APPORTION_S3_KMS_KEY"),
        (400, "Unheard Of", "check the server"),
    ],
)
def test_refusals_of_a_put(s3_bucket: str, status: int, code: str, words: str) -> None:
    said = refused(s3_bucket, refusing(status, code), lambda store: store.put_if_absent("k", b"1"))
    assert words in said
    if status in (503, 507) or "full" in words or "time" in words:
        assert "nothing is lost: then run the same command again" in said


def test_a_refusal_shows_no_credential(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "hidden/session+token=")
    body = b"<Error><Code>InvalidToken</Code><Message>no such token: hidden/session+token=, alas</Message></Error>"
    said = refused(s3_bucket, lambda *_: Answer(400, {}, body), lambda store: store.put_if_absent("k", b"1"))
    assert "no such token: ***, alas" in said


PAGES = {
    "text/html": b"<!DOCTYPE html><html>log in</html>",
    "text/html; charset=utf-8": b"<br>log in",
    "application/json": b'{"status": "ok"}',
}
CALLS: dict[str, Callable[[S3Store], Any]] = {
    "put": lambda store: store.put_if_absent("k", b"1"),
    "get": lambda store: store.get("k"),
    "exists": lambda store: store.exists("k"),
    "list": lambda store: list(store.list()),
    "lifecycle": lambda store: store.lifecycle(),
    "probe": lambda store: store.probe(),
}


@pytest.mark.parametrize("kind", PAGES)
@pytest.mark.parametrize("call", CALLS)
def test_a_page_is_no_answer_of_s3(s3_bucket: str, kind: str, call: str) -> None:
    """As a portal gives it that wants a log-in."""
    answer = lambda method, *_: Answer(200, {"Content-Type": kind}, b"" if method == "HEAD" else PAGES[kind])  # noqa: E731
    assert "what answers is no S3 server: check AWS_ENDPOINT_URL_S3" in refused(s3_bucket, answer, CALLS[call])


# The identity of a pod

ROLE = "arn:aws:iam::1:role/credits"
OUTDATED = b"""<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>id</AccessKeyId>
<SecretAccessKey>hidden</SecretAccessKey><SessionToken>hidden</SessionToken><Expiration>2020-01-01T00:00:00Z</Expiration></Credentials>
</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"""
DENIED = b"<ErrorResponse><Error><Code>AccessDenied</Code><Message>Not authorized</Message></Error></ErrorResponse>"


@pytest.fixture
def pod(s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The address of a store, whose process is told of its identity what a pod is."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / "token").write_text("hidden")

    def with_role(token: str = "token", **told: str) -> str:
        role = {"AWS_ROLE_ARN": ROLE, "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / token)}
        for name, value in (role | {"AWS_MAX_ATTEMPTS": "1", "HOME": str(tmp_path)} | told).items():
            monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
        return f"s3://{s3_bucket}"

    return with_role


def without_credentials(uri: str, *words: str) -> None:
    with pytest.raises(StoreError) as caught:
        open_store(uri).put_if_absent("k", b"1")
    assert not [word for word in (*words, "gives no credentials", "option `store`") if word not in str(caught.value)], str(caught.value)
    assert "hidden" not in str(caught.value)


OF_ROLE = (
    f"the trust policy of the role {ROLE}",
    "annotation eks.amazonaws.com/role-arn of the service account",
    "that STS can be reached",
)


@pytest.mark.parametrize("call", ["lifecycle", "doctor"])
def test_a_token_file_that_is_missing(pod: Callable[..., str], tmp_path: Path, call: str) -> None:
    uri = pod("no token")
    without_credentials(uri, f"(AWS_WEB_IDENTITY_TOKEN_FILE {tmp_path}/no token)", *OF_ROLE)
    days = ["--days", "3"] if call == "lifecycle" else []
    code, out, err = ran(
        "-m", "apportion", call, CONFIG, "--workdir", tmp_path, "--set", f"store={uri}", "--set", "tracking.uri=null", *days
    )
    told = " ".join((out + err).split())
    assert (code, "Traceback" in told, "not foreseen" in told) == (1, False, False), told
    assert "eks.amazonaws.com/role-arn" in told


OF_STS = {
    "denies": (Answer(403, {"Date": format_datetime(ago(minutes=5))}, DENIED), "AccessDenied"),
    "is a page": (Answer(200, {"Content-Type": "text/html"}, b"<br>log in"), "invalid XML"),
    "breaks off": (Answer(200, {}, OUTDATED[:-9]), "invalid XML"),
    "gives what is past its time": (Answer(200, {}, OUTDATED), "still expired"),
    "is not there": (None, "Could not connect"),
}


@pytest.mark.parametrize("sts", OF_STS)
def test_a_server_of_identities_that_gives_none(pod: Callable[..., str], sts: str) -> None:
    answer, words = OF_STS[sts]
    with proxy("http://127.0.0.1:1", lambda *_: answer or Answer(500, {}, b"")) as url:
        uri = pod(AWS_ENDPOINT_URL_STS=url if answer else "http://127.0.0.1:1")
        without_credentials(uri, words, *OF_ROLE)
        store = open_store(uri)
        assert isinstance(store, S3Store)
        with pytest.raises(StoreError, match="gives no credentials"):  # and its clock is not S3's
            store.clock()


def test_a_role_without_a_name(pod: Callable[..., str]) -> None:
    without_credentials(pod(AWS_ROLE_ARN=""), "the role that AWS_ROLE_ARN names")


def test_an_identity_is_not_to_blame_for_an_endpoint_that_is_no_url(pod: Callable[..., str]) -> None:
    for endpoint in ("localhost:9000", "http://[::1"):
        with pytest.raises(StoreError, match="check the AWS_… settings and the server"):
            open_store(pod(AWS_ENDPOINT_URL_S3=endpoint))


def test_an_agent_of_the_node_that_fails(pod: Callable[..., str]) -> None:
    with proxy("http://127.0.0.1:1", lambda *_: Answer(500, {}, b"no association")) as url:
        told = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": url, "AWS_ROLE_ARN": "", "AWS_WEB_IDENTITY_TOKEN_FILE": ""}
        without_credentials(pod(**told), "(AWS_CONTAINER_CREDENTIALS_FULL_URI)", "the pod identity association of the service account")
    with proxy("http://127.0.0.1:1", lambda *_: Answer(200, {}, b"{}")) as url:
        for uri in (url, "http://10.0.0.1/elsewhere"):
            without_credentials(pod(**told | {"AWS_CONTAINER_CREDENTIALS_FULL_URI": uri}), "(AWS_CONTAINER_CREDENTIALS_FULL_URI)")


def test_refusals_where_encryption_was_asked_for(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPORTION_S3_SSE", "aws:kms")
    put = lambda store: store.put_if_absent("k", b"1")  # noqa: E731
    assert "APPORTION_S3_SSE" in refused(s3_bucket, refusing(501, "NotImplemented"), put)
    assert "kms:GenerateDataKey" in refused(s3_bucket, refusing(403, "AccessDenied"), put)


def test_a_full_bucket_loses_nothing_and_the_same_call_goes_on(s3_endpoint: str, s3_bucket: str) -> None:
    full = [False]

    def quota(method: str, headers: dict[str, str], forward: Forward) -> Answer:
        return refusing(507, "XMinioStorageFull")(method, headers, forward) if full[0] and method == "PUT" else forward()

    with proxy(s3_endpoint, quota) as url:
        store = open_store(f"s3://{s3_bucket}", endpoint_url=url)
        store.ensure("ledger/a", lambda: b"a")
        full[0] = True
        with pytest.raises(StoreError, match="full"):
            store.ensure("ledger/b", lambda: b"b")
        assert (store.get("ledger/a"), list(store.list("ledger/"))) == (b"a", ["ledger/a"])
        full[0] = False
        assert store.ensure("ledger/b", lambda: b"b")
    assert os.environ["AWS_SECRET_ACCESS_KEY"]


# The clock


def test_the_clock_of_the_server(s3_endpoint: str, s3_bucket: str) -> None:
    store = open_store(f"s3://{s3_bucket}")
    assert isinstance(store, S3Store)
    assert abs(store.clock()) < timedelta(seconds=3)
    for status in (200, 403):
        with proxy(s3_endpoint, lambda *_, status=status: Answer(status, {"Date": format_datetime(ago(minutes=5))}, b"")) as url:
            behind = open_store(f"s3://{s3_bucket}", endpoint_url=url).clock()
        assert timedelta(minutes=-5, seconds=-3) < behind < timedelta(minutes=-5, seconds=3)
