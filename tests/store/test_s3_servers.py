"""S3 servers: settings that some need, as addressing and encryption, and explanations of their errors."""

import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from servers import Answer, certified, proxy

from apportion import cli
from apportion.errors import StoreError
from apportion.store import S3Store, open_store
from apportion.store.s3 import _SHORT_TIMEOUTS

CONFIG = Path(__file__).parents[2] / "configs" / "tiny.yaml"
NOWHERE = "http://127.0.0.1:1"
Forward = Callable[[], Answer]


def ago(**duration: float) -> datetime:
    return datetime.now(UTC) - timedelta(**duration)


class Recorder:
    """A proxy's `respond` that records the requests and forwards them."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []

    def __call__(self, method: str, headers: dict[str, str], forward: Forward) -> Answer:
        self.requests.append((method, headers))
        return forward()

    def headers_of(self, method: str) -> list[dict[str, str]]:
        return [headers for name, headers in self.requests if name == method]


def refusing(
    status: int, code: str, more: str = "", headers: dict[str, str] | None = None
) -> Callable[..., Answer]:
    """A proxy's `respond` that refuses every request; as with S3, the answer to a HEAD has no body."""

    def refuse(method: str, _: dict[str, str], __: Forward) -> Answer:
        xml = f"<Error><Code>{code}</Code><Message>no</Message>{more}</Error>"
        body = b"" if method == "HEAD" else xml.encode()
        return Answer(status, {"Content-Type": "application/xml"} | (headers or {}), body)

    return refuse


def error_of(bucket: str, respond: Callable[..., Answer], act: Callable[[S3Store], Any]) -> str:
    """The message of the StoreError of `act`, on a store behind a proxy that never forwards."""
    with proxy(NOWHERE, respond) as url:
        store = S3Store(bucket, "", url, _SHORT_TIMEOUTS)
        with pytest.raises(StoreError) as caught:
            act(store)
    assert "option `store`" in str(caught.value)
    return str(caught.value)


# Options


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        (
            {"APPORTION_S3_ADDRESSING": "subdomain"},
            "APPORTION_S3_ADDRESSING=subdomain, expected one of auto, path, virtual",
        ),
        ({"APPORTION_S3_SSE": "aes256"}, "APPORTION_S3_SSE=aes256, expected one of AES256, aws:kms"),
        (
            {"APPORTION_S3_KMS_KEY": "k"},
            "APPORTION_S3_KMS_KEY with APPORTION_S3_SSE=, expected APPORTION_S3_SSE=aws:kms",
        ),
        (
            {"APPORTION_S3_KMS_KEY": "k", "APPORTION_S3_SSE": "AES256"},
            "with APPORTION_S3_SSE=AES256, expected APPORTION_S3_SSE=aws:kms",
        ),
        (
            {"AWS_ENDPOINT_URL_S3": "http://user:hidden@127.0.0.1"},
            "found a user or a password in AWS_ENDPOINT_URL_S3, expected none",
        ),
        (
            {"AWS_ENDPOINT_URL": "user:hidden@127.0.0.1"},
            "found a user or a password in AWS_ENDPOINT_URL, expected none",
        ),
        (
            {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1?token=hidden"},
            "use AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY",
        ),
        (
            {"AWS_ACCESS_KEY_ID": "hidden\n"},
            "a Secret made from `echo` ends in a line break; make it again with `echo -n`",
        ),
        (
            {"AWS_SECRET_ACCESS_KEY": " hidden"},
            "a blank or another character that HTTP cannot send in AWS_SECRET_ACCESS_KEY",
        ),
        ({"AWS_SESSION_TOKEN": "hidden\r\nX: y"}, "HTTP cannot send in AWS_SESSION_TOKEN"),
        ({"AWS_CA_BUNDLE": "/nowhere/ca.pem"}, "found no file /nowhere/ca.pem, which AWS_CA_BUNDLE names"),
    ],
)
def test_wrong_options_are_refused_before_any_request(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], words: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreError) as caught:
        open_store(f"s3://{s3_bucket}")
    assert words in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_an_empty_option_is_the_same_as_none(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts and shells may set empty variables."""
    for name in ("APPORTION_S3_ADDRESSING", "APPORTION_S3_SSE", "APPORTION_S3_KMS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "")
    open_store(f"s3://{s3_bucket}").probe()


KMS_KEY = "arn:aws:kms:eu-west-1:1:key/2"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, {}),
        ({"APPORTION_S3_SSE": "AES256"}, {"x-amz-server-side-encryption": "AES256"}),
        ({"APPORTION_S3_SSE": "aws:kms"}, {"x-amz-server-side-encryption": "aws:kms"}),
        (
            {"APPORTION_S3_SSE": "aws:kms", "APPORTION_S3_KMS_KEY": KMS_KEY},
            {
                "x-amz-server-side-encryption": "aws:kms",
                "x-amz-server-side-encryption-aws-kms-key-id": KMS_KEY,
            },
        ),
    ],
)
def test_every_put_and_no_other_request_is_for_encryption(
    s3_endpoint: str,
    s3_bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    expected: dict[str, str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    recorder = Recorder()
    with proxy(s3_endpoint, recorder) as url:
        store = open_store(f"s3://{s3_bucket}/a", endpoint_url=url)
        store.probe()
        assert store.put_if_absent("k", b"data")
        assert store.get("k") == b"data"
        tag = store.swap("heads/p", None, b"1")
        assert store.swap("heads/p", tag, b"2") == store.read_pointer("heads/p").tag

    def of_encryption(headers: dict[str, str]) -> dict[str, str]:
        return {name: value for name, value in headers.items() if name.startswith("x-amz-server-side")}

    assert len(recorder.headers_of("PUT")) >= 6
    assert all(of_encryption(headers) == expected for headers in recorder.headers_of("PUT"))
    for method in ("GET", "HEAD", "DELETE"):
        assert not any(of_encryption(headers) for headers in recorder.headers_of(method))


@pytest.mark.parametrize(
    ("addressing", "host"), [("path", "{url}"), ("virtual", "{bucket}.{url}"), ("auto", "{url}")]
)
def test_addressing(s3_bucket: str, monkeypatch: pytest.MonkeyPatch, addressing: str, host: str) -> None:
    """The bucket is part of the path, or of the host name; the latter must then resolve."""
    monkeypatch.setenv("APPORTION_S3_ADDRESSING", addressing)
    resolve, recorder = socket.getaddrinfo, Recorder()

    def to_loopback(name: Any, *arguments: Any, **more: Any) -> Any:
        return resolve("127.0.0.1" if str(name).endswith("s3.example.com") else name, *arguments, **more)

    def respond(method: str, headers: dict[str, str], _: Forward) -> Answer:
        return recorder(method, headers, lambda: Answer(200, {"ETag": '"1"'}, b""))

    monkeypatch.setattr(socket, "getaddrinfo", to_loopback)
    monkeypatch.setenv("NO_PROXY", "*")
    with proxy(NOWHERE, respond) as url:
        netloc = url.removeprefix("http://").replace("127.0.0.1", "s3.example.com")
        assert open_store(f"s3://{s3_bucket}", endpoint_url=f"http://{netloc}").put_if_absent("k", b"1")
    hosts = {headers["host"] for headers in recorder.headers_of("PUT")}
    assert hosts == {host.format(url=netloc, bucket=s3_bucket)}


@pytest.mark.parametrize(
    ("variables", "region"),
    [
        ({"AWS_REGION": "eu-central-1"}, "eu-central-1"),
        ({"AWS_REGION": "eu-central-1", "AWS_DEFAULT_REGION": "us-west-2"}, "eu-central-1"),
        ({"AWS_DEFAULT_REGION": "us-west-2"}, "us-west-2"),
    ],
)
def test_region(
    s3_endpoint: str,
    s3_bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    region: str,
) -> None:
    """AWS_REGION counts as well, which boto3 does not read by itself."""
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    recorder = Recorder()
    with proxy(s3_endpoint, recorder) as url:
        open_store(f"s3://{s3_bucket}", endpoint_url=url).put_if_absent("k", b"1")
    assert f"/{region}/s3/aws4_request" in recorder.headers_of("PUT")[0]["authorization"]


# TLS


def test_tls_with_a_private_authority(
    s3_endpoint: str, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, context = certified(tmp_path)
    words = "no trusted connection: name the file of the certificate authority in AWS_CA_BUNDLE"
    with proxy(s3_endpoint, lambda _, __, forward: forward(), context) as url:
        assert url.startswith("https:")
        with pytest.raises(StoreError, match=words):
            open_store(f"s3://{s3_bucket}", endpoint_url=url).probe()
        monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
        store = open_store(f"s3://{s3_bucket}", endpoint_url=url)
        store.probe()
        assert store.put_if_absent("k", b"over TLS")
    assert open_store(f"s3://{s3_bucket}").get("k") == b"over TLS"


def test_tls_to_a_server_without_it(s3_endpoint: str, s3_bucket: str) -> None:
    with pytest.raises(StoreError, match="check http or https and the name in AWS_ENDPOINT_URL_S3"):
        open_store(f"s3://{s3_bucket}", endpoint_url=s3_endpoint.replace("http:", "https:")).probe()


def test_a_file_that_is_not_an_authority(
    s3_endpoint: str, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    with pytest.raises(StoreError, match="AWS_CA_BUNDLE"):
        open_store(f"s3://{s3_bucket}", endpoint_url=s3_endpoint.replace("http:", "https:")).probe()


# Errors of the server


@pytest.mark.parametrize("place", ["in the error", "in the header"])
def test_clocks_that_differ(s3_bucket: str, place: str) -> None:
    server = ago(minutes=20)
    more, headers = "", {"Date": format_datetime(server)}
    if place == "in the error":
        more = f"<RequestTime>now</RequestTime><ServerTime>{server:%Y-%m-%dT%H:%M:%SZ}</ServerTime>"
        headers = {}
    respond = refusing(403, "RequestTimeTooSkewed", more, headers)
    message = error_of(s3_bucket, respond, lambda store: store.put_if_absent("k", b"1"))
    words = (
        "the clocks of this machine and of the server differ by 20 min: set the clock (NTP); nothing is lost"
    )
    assert words in message


def test_clocks_that_differ_where_the_error_has_no_body(s3_bucket: str) -> None:
    """The answer to a HEAD is only 403, and its date gives the reason."""
    with_date = refusing(403, "", "", {"Date": format_datetime(ago(hours=-3))})
    assert "differ by 3 h: set the clock" in error_of(s3_bucket, with_date, lambda store: store.exists("k"))
    assert "access denied" in error_of(s3_bucket, refusing(403, ""), lambda store: store.exists("k"))


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (301, "PermanentRedirect", "the endpoint redirects to another address"),
        (307, "TemporaryRedirect", "the endpoint redirects to another address"),
        (400, "AuthorizationHeaderMalformed", "AWS_REGION"),
        (403, "QuotaExceeded", "the bucket or its server is full: raise the quota"),
        (400, "XMinioAdminBucketQuotaExceeded", "apportion lifecycle CONFIG --days N"),
        (507, "XMinioStorageFull", "is full"),
        (507, "Unheard Of", "is full"),
        (503, "SlowDown", "run fewer shards (compute.shards)"),
        (400, "ExpiredToken", "have expired: renew them (AWS_SESSION_TOKEN"),
        (403, "AccessDenied", "the credentials need s3:GetObject"),
        (403, "InvalidObjectState", "a lifecycle rule moved the object to an archive"),
        (501, "NotImplemented", "the server lacks conditional writes"),
        (400, "KMS.NotFoundException", "APPORTION_S3_KMS_KEY"),
        (400, "Unheard Of", "check the server"),
    ],
)
def test_errors_of_a_put(s3_bucket: str, status: int, code: str, words: str) -> None:
    message = error_of(s3_bucket, refusing(status, code), lambda store: store.put_if_absent("k", b"1"))
    assert words in message
    if status in (503, 507) or "full" in words or "expired" in words:
        assert "nothing is lost: run the same command again after that" in message


def test_an_error_shows_no_credential(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "hidden/session+token=")
    text = "no such token: hidden/session+token=, sorry"
    body = f"<Error><Code>InvalidToken</Code><Message>{text}</Message></Error>".encode()
    message = error_of(
        s3_bucket, lambda *_: Answer(400, {}, body), lambda store: store.put_if_absent("k", b"1")
    )
    assert "no such token: ***, sorry" in message


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


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("content_type", PAGES)
def test_a_login_page_is_not_an_answer_of_s3(s3_bucket: str, content_type: str, call: str) -> None:
    def respond(method: str, *_: Any) -> Answer:
        return Answer(200, {"Content-Type": content_type}, b"" if method == "HEAD" else PAGES[content_type])

    message = error_of(s3_bucket, respond, CALLS[call])
    assert "the answer is not from an S3 server: check AWS_ENDPOINT_URL_S3" in message


# The identity of a pod

ROLE = "arn:aws:iam::1:role/credits"
OUTDATED = b"""<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>
<AccessKeyId>id</AccessKeyId><SecretAccessKey>hidden</SecretAccessKey><SessionToken>hidden</SessionToken>
<Expiration>2020-01-01T00:00:00Z</Expiration></Credentials>
</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"""
DENIED = b"<ErrorResponse><Error><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>"


@pytest.fixture
def pod(s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The address of a store, for a process that has the identity of a pod and no credentials of its own."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / "token").write_text("hidden")

    def with_role(token: str = "token", **variables: str) -> str:
        role = {"AWS_ROLE_ARN": ROLE, "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / token)}
        common = {"AWS_MAX_ATTEMPTS": "1", "HOME": str(tmp_path)}
        for name, value in (role | common | variables).items():
            monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
        return f"s3://{s3_bucket}"

    return with_role


def check_no_credentials(uri: str, *words: str) -> None:
    """Writing fails because of the identity, with these words and without a credential in the message."""
    with pytest.raises(StoreError) as caught:
        open_store(uri).put_if_absent("k", b"1")
    expected = (*words, "gives no credentials", "option `store`")
    assert not [word for word in expected if word not in str(caught.value)], str(caught.value)
    assert "hidden" not in str(caught.value)


OF_ROLE = (
    f"the trust policy of the role {ROLE}",
    "annotation eks.amazonaws.com/role-arn of the service account",
    "that STS can be reached",
)


def test_a_token_file_that_is_missing(pod: Callable[..., str], tmp_path: Path) -> None:
    """Also in the output of a command: the logs of boto3 would show a traceback."""
    uri = pod("no token")
    check_no_credentials(uri, f"(AWS_WEB_IDENTITY_TOKEN_FILE {tmp_path}/no token)", *OF_ROLE)
    options = ["--workdir", str(tmp_path), "--set", f"store={uri}", "--days", "3"]
    command = [sys.executable, "-m", "apportion", "lifecycle", str(CONFIG), *options]
    process = subprocess.run(command, capture_output=True, text=True)
    output = " ".join((process.stdout + process.stderr).split())
    assert process.returncode == 1
    assert "eks.amazonaws.com/role-arn" in output
    assert "Traceback" not in output


def test_the_doctor_explains_a_token_file_that_is_missing(
    pod: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("apportion.logs.to_terminal", lambda: None)
    options = ["--workdir", str(tmp_path), "--set", f"store={pod('no token')}", "--set", "tracking.uri=null"]
    assert cli.main(["doctor", str(CONFIG), *options]) == 1
    output = " ".join(capsys.readouterr().out.split())
    assert "eks.amazonaws.com/role-arn" in output
    assert "report it" not in output  # what the doctor says of unexpected errors


STS_ANSWERS = {
    "denies": (Answer(403, {"Date": format_datetime(ago(minutes=5))}, DENIED), "AccessDenied"),
    "is a page": (Answer(200, {"Content-Type": "text/html"}, b"<br>log in"), "invalid XML"),
    "breaks off": (Answer(200, {}, OUTDATED[:-9]), "invalid XML"),
    "gives expired credentials": (Answer(200, {}, OUTDATED), "still expired"),
    "is not there": (None, "Could not connect"),
}


@pytest.mark.parametrize("sts", STS_ANSWERS)
def test_a_server_of_identities_that_gives_none(pod: Callable[..., str], sts: str) -> None:
    answer, words = STS_ANSWERS[sts]
    with proxy(NOWHERE, lambda *_: answer or Answer(500, {}, b"")) as url:
        uri = pod(AWS_ENDPOINT_URL_STS=url if answer else NOWHERE)
        check_no_credentials(uri, words, *OF_ROLE)
        store = open_store(uri)
        assert isinstance(store, S3Store)
        with pytest.raises(StoreError, match="gives no credentials"):  # its date is not that of the store
            store.clock()


def test_a_role_without_a_name(pod: Callable[..., str]) -> None:
    check_no_credentials(pod(AWS_ROLE_ARN=""), "the role that AWS_ROLE_ARN names")


def test_an_endpoint_that_is_no_url_is_not_an_error_of_the_identity(pod: Callable[..., str]) -> None:
    for endpoint in ("localhost:9000", "http://[::1"):
        with pytest.raises(StoreError, match="check the AWS_… settings and the server"):
            open_store(pod(AWS_ENDPOINT_URL_S3=endpoint))


def test_an_agent_of_the_node_that_fails(pod: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 asks it three times, with pauses."""
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0.01)
    variable = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
    no_role = {"AWS_ROLE_ARN": "", "AWS_WEB_IDENTITY_TOKEN_FILE": ""}
    with proxy(NOWHERE, lambda *_: Answer(500, {}, b"no association")) as url:
        words = "the pod identity association of the service account"
        check_no_credentials(pod(**no_role | {variable: url}), f"({variable})", words)
    with proxy(NOWHERE, lambda *_: Answer(200, {}, b"{}")) as url:
        for uri in (url, "http://10.0.0.1/elsewhere"):
            check_no_credentials(pod(**no_role | {variable: uri}), f"({variable})")


def test_errors_where_encryption_was_requested(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def put(store: S3Store) -> bool:
        return store.put_if_absent("k", b"1")

    monkeypatch.setenv("APPORTION_S3_SSE", "aws:kms")
    assert "APPORTION_S3_SSE" in error_of(s3_bucket, refusing(501, "NotImplemented"), put)
    assert "kms:GenerateDataKey" in error_of(s3_bucket, refusing(403, "AccessDenied"), put)


def test_a_full_bucket_loses_nothing_and_the_same_call_succeeds_later(
    s3_endpoint: str, s3_bucket: str
) -> None:
    full = False

    def quota(method: str, headers: dict[str, str], forward: Forward) -> Answer:
        if full and method == "PUT":
            return refusing(507, "XMinioStorageFull")(method, headers, forward)
        return forward()

    with proxy(s3_endpoint, quota) as url:
        store = S3Store(s3_bucket, "", url, _SHORT_TIMEOUTS)
        store.ensure("ledger/a", lambda: b"a")
        full = True
        with pytest.raises(StoreError, match="full"):
            store.ensure("ledger/b", lambda: b"b")
        assert (store.get("ledger/a"), list(store.list("ledger/"))) == (b"a", ["ledger/a"])
        full = False
        assert store.ensure("ledger/b", lambda: b"b")


# The clock


def test_the_clock_of_the_server(s3_endpoint: str, s3_bucket: str) -> None:
    store = open_store(f"s3://{s3_bucket}")
    assert isinstance(store, S3Store)
    assert abs(store.clock()) < timedelta(seconds=3)
    for status in (200, 403):
        answer = Answer(status, {"Date": format_datetime(ago(minutes=5))}, b"")
        with proxy(s3_endpoint, lambda *_, answer=answer: answer) as url:
            difference = open_store(f"s3://{s3_bucket}", endpoint_url=url).clock()
        assert timedelta(minutes=-5, seconds=-3) < difference < timedelta(minutes=-5, seconds=3)
