"""register, submit and schedule with servers that fail, with servers that are not KFP, and through
proxies."""

# ruff: noqa: F811 (fixtures are imported, and are parameters of the tests that need them)

import json
import time

import pytest
from commands import SECRET, kfp_api, quick, run  # noqa: F401
from kfp_api import KfpApi, serve
from servers import certified, free_port

from pipelines import client, registration

# A server that fails


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "healthz", 503),
        ("GET", "pipelines$", 500),
        ("POST", "pipelines$", 502),
        ("POST", "upload_version", 503),
        ("POST", "experiments", 500),
        ("POST", "runs$", 504),
        ("GET", "runs$", 429),
    ],
)
def test_a_server_that_fails_for_a_moment(kfp_api, run, method, path, status):
    kfp_api.fail(method, path, status, times=2)
    result = run("submit")
    assert result.code == 0, result.err
    assert f"answers HTTP {status}" in result.err
    created = (kfp_api.pipelines, kfp_api.versions, kfp_api.experiments, kfp_api.runs)
    assert [len(things) for things in created] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("command", "path"),
    [
        ("submit", "pipelines$"),
        ("submit", "upload_version"),
        ("submit", "experiments"),
        ("submit", "runs$"),
        ("schedule", "recurringruns$"),
    ],
)
def test_a_lost_answer_creates_nothing_twice(kfp_api, run, path, command):
    kfp_api.fail("POST", path, 504, lost=True)
    assert run(command).code == 0
    assert len(kfp_api.sent("POST", path)) == 1  # the retry finds what the first attempt has created
    runs = kfp_api.runs if command == "submit" else kfp_api.recurring
    created = (kfp_api.pipelines, kfp_api.versions, kfp_api.experiments, runs)
    assert [len(things) for things in created] == [1, 1, 1, 1]
    assert kfp_api.most_enabled <= 1


def test_a_server_that_always_fails(kfp_api, run):
    kfp_api.fail("POST", "runs$", 503, times=99)
    words = ("cannot start a run", "HTTP 503: injected", "log of its API server", "again")
    run("submit").refused(kfp_api.url, *words)
    assert len(kfp_api.sent("POST", "/runs$")) == 4


def test_another_process_registers_at_the_same_moment(kfp_api, run):
    kfp_api.fail("POST", "pipelines$", 409, lost=True)
    kfp_api.fail("POST", "upload_version", 409, lost=True)
    assert run("register").code == 0
    assert (len(kfp_api.pipelines), len(kfp_api.versions)) == (1, 1)


def test_a_version_that_exists_but_is_not_listed(kfp_api, run):
    kfp_api.fail("POST", "upload_version", 409, times=99)
    words = ("HTTP 409", "it exists already: another process created it")
    run("register").refused("cannot upload version apportion-attribution-", *words)


@pytest.mark.parametrize("in_file", [False, True])
def test_a_server_that_repeats_the_token(kfp_api, run, monkeypatch, tmp_path, in_file):
    (path := tmp_path / "token").write_text("t0ken-of-jane\n")
    if in_file:
        monkeypatch.setenv("KFP_TOKEN_FILE", str(path))
    else:
        monkeypatch.setenv("KFP_TOKEN", "t0ken-of-jane")
    kfp_api.tokens = {"t0ken-of-jane"}
    kfp_api.fail("POST", "runs$", 403, json.dumps({"message": "token t0ken-of-jane is unknown"}))
    result = run("submit")
    result.refused("token *** is unknown")
    assert "t0ken" not in result.err + result.out


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, ["HTTP 400: no such option"]),
        (403, ["HTTP 403: no such option", "lacks a permission"]),
        (404, ["HTTP 404", "cluster.kfp.host"]),
    ],
)
def test_a_refused_request_is_not_retried(kfp_api, run, status, words):
    refusal = {"error_message": "no such\n option", "error_details": "a stack"}
    kfp_api.fail("POST", "runs$", status, json.dumps(refusal))
    run("submit").refused("cannot start a run", *words)
    assert len(kfp_api.sent("POST", "/runs$")) == 1


@pytest.mark.parametrize("status", [200, 404, 503])
def test_a_web_page(kfp_api, run, status):
    head = "<!DOCTYPE html><html><head><style>a{}</style></head>"
    page = f"{head}<body>Please <b>log&nbsp;in</b></body></html>"
    kfp_api.fail("GET", ".*", status, page, times=99)
    line = run("register").refused("cluster.kfp.host" if status < 500 else "log of its API server")
    assert "a web page" in line if status == 200 else "Please log in" in line
    assert "<" not in line


@pytest.mark.parametrize("status", [200, 401, 503])
def test_an_answer_that_is_not_text(kfp_api, run, status):
    kfp_api.fail("GET", ".*", status, b"<\xff\xfe\x00", times=99)
    run("register").refused("cluster.kfp.host")


@pytest.mark.parametrize(
    "rest", ["", f"?state={SECRET}&token=abc", f"#access_token={SECRET}", f";jsessionid={SECRET}"]
)
@pytest.mark.parametrize("user", ["", f"me:{SECRET}@"])
def test_a_redirection_to_log_in(kfp_api, run, monkeypatch, rest, user):
    monkeypatch.setenv("KFP_TOKEN", SECRET)
    kfp_api.fail("GET", "healthz", 302, f"https://{user}login.example.com/auth{rest}")
    place = f"https://{'***@' if user else ''}login.example.com/auth"
    words = (f"a redirection to {place}, expected KFP's API", "cluster.kfp.host", "KFP_TOKEN")
    run("register").refused(*words)


def test_a_server_that_does_not_answer(kfp_api, run, monkeypatch):
    monkeypatch.setattr(client, "TIMEOUT", 0.2)
    kfp_api.fail("GET", "pipelines$", 0, seconds=0.6, times=1)
    assert run("register").code == 0
    kfp_api.fail("GET", "pipelines$", 0, seconds=0.6, times=99)
    run("register").refused("no answer within 0.2 s")


@pytest.mark.parametrize("times", [1, 99])
def test_a_server_that_sends_single_bytes_slowly(kfp_api, run, monkeypatch, times):
    """Each byte is in time, also those of the head of the answer, so that urllib3 alone would wait."""
    monkeypatch.setattr(client, "TIMEOUT", 0.3)
    answer = kfp_api.answer

    def answer_slowly(request, headers, body):
        data = answer(request, headers, body)
        kfp_api.drip = 0.05 if len(kfp_api.sent("GET", "pipelines$")) in range(1, times + 1) else 0.0
        return data

    monkeypatch.setattr(kfp_api, "answer", answer_slowly)
    start = time.monotonic()
    result = run("register")
    assert time.monotonic() - start < 5
    if times == 1:
        assert result.code == 0, result.err
        assert "does not answer): next attempt" in result.err
    else:
        result.refused("no answer within 0.3 s")


def test_no_server(run):
    host = f"http://127.0.0.1:{free_port()}"
    run("register", to=host).refused(host, "refused", "cluster.kfp.host")
    run("register", to="http://kfp.invalid").refused("http://kfp.invalid", "cluster.kfp.host")


def test_https_to_a_server_of_http(kfp_api, run):
    result = run("register", to=kfp_api.url.replace("http:", "https:"))
    result.refused("SSL", "https is right", "SSL_CERT_FILE")


def test_a_certificate_of_a_private_authority(run, kfp_api, monkeypatch, tmp_path):
    authority, tls = certified(tmp_path)
    with serve(KfpApi(), tls) as secure:
        run("register", to=secure.url).refused("certificate", "SSL_CERT_FILE")
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        assert run("register", to=secure.url).code == 0
        assert len(secure.versions) == 1


def test_a_path_before_the_api(kfp_api, run):
    """As `https://host/pipeline` in Kubeflow; this server has nothing at that path."""
    run("register", to=f"{kfp_api.url}/wrong/").refused("HTTP 404", "cluster.kfp.host")


def test_a_missing_address(kfp_api, run, monkeypatch):
    run("register", "cluster.kfp.host=null").refused("cluster.kfp.host", "expected one")
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", kfp_api.url)
    assert run("register", "cluster.kfp.host=null").code == 0


# Servers that answer and are not KFP


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{}",
        "[]",
        "null",
        "5",
        '"x"',
        '{"status": "ok"}',
        '{"multi_user": "maybe"}',
        '{"multi_user": null}',
    ],
)
@pytest.mark.parametrize(
    "command", [["register"], ["submit"], ["schedule"], ["schedule", "--off"]], ids=" ".join
)
def test_a_server_with_the_same_answer_to_every_request(kfp_api, run, command, body):
    kfp_api.fail("GET", ".*", 200, body, times=99)
    run(*command).refused("cannot connect", "expected KFP's API", "cluster.kfp.host")


def test_json_of_any_depth(kfp_api, run):
    for status in (200, 403):
        kfp_api.fail("GET", "healthz", status, "[" * 100_000)
        run("register").refused("cluster.kfp.")


LISTS = {
    "pipelines": "pipelines$",
    "pipeline_versions": "versions$",
    "experiments": "experiments",
    "runs": "runs$",
    "recurringRuns": "recurringruns",
}
WRONG = ["5", '""', '"x"', "{}", "false", "[5]", "[null]", "[[]]", "[{}]"]


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize("field", LISTS)
def test_a_listing_of_something_else(kfp_api, run, field, value):
    kfp_api.fail("GET", LISTS[field], 200, f'{{"{field}": {value}}}', times=99)
    some = {"runs": [["submit"]], "recurringRuns": [["schedule"], ["schedule", "--off"]]}
    for command in some.get(field, [["submit"], ["schedule"]]):
        result = run(*command)
        problem = "without " if value == "[{}]" else field
        result.refused("found an answer", problem, "expected KFP's API", "cluster.kfp.host")
        assert "there was none" not in result.err


@pytest.mark.parametrize("body", ["", "[]", "null", "5", '"x"'])
@pytest.mark.parametrize("path", LISTS.values(), ids=LISTS)
def test_an_answer_that_is_not_a_listing(kfp_api, run, path, body):
    kfp_api.fail("GET", path, 200, body, times=99)
    run("submit" if path != "recurringruns" else "schedule").refused("cannot ", "expected KFP's API")


NEEDED = ["multi_user", "pipeline_id", "pipeline_version_id", "experiment_id", "run_id", "recurring_run_id"]


@pytest.mark.parametrize("how", ["left_out", "nulls"])
@pytest.mark.parametrize("field", NEEDED)
def test_an_answer_without_an_identifier(kfp_api, run, field, how):
    getattr(kfp_api, how).add(field)
    result = run("schedule" if field == "recurring_run_id" else "submit")
    result.refused(f"found an answer without {field}", "expected KFP's API")


def test_an_old_schedule_without_an_identifier(kfp_api, run):
    run("schedule")
    kfp_api.left_out = {"recurring_run_id"}
    run("schedule", "--off").refused("found an answer without recurring_run_id")
    assert len(kfp_api.recurring) == 1


@pytest.mark.parametrize("date", ['"yesterday"', '"99999999999999999999"', "5", "{}", "[]"])
def test_a_malformed_date(kfp_api, run, date):
    pipeline = f'{{"pipeline_id": "1", "created_at": {date}}}'
    kfp_api.fail("GET", "pipelines$", 200, f'{{"pipelines": [{pipeline}]}}')
    run("register").refused("cannot find or create pipeline", "found an answer", "expected KFP's API")


def test_an_unknown_character_set(kfp_api, run):
    kfp_api.charset = "; charset=klingon"
    assert run("register").code == 0


def test_a_state_that_is_not_text(kfp_api, run):
    kfp_api.fail("GET", "runs/run", 200, '{"run_id": "1", "state": {}}')
    run("submit", "--wait").refused("whose state is not of type", "which continues")


def test_an_error_in_our_code_is_not_reported_as_the_servers(kfp_api, run, monkeypatch):
    monkeypatch.setattr(registration, "_by_name", lambda name: name.nothing)
    with pytest.raises(AttributeError, match="nothing"):
        run("register")


# Addresses in the environment, and proxies


@pytest.mark.parametrize("variable", ["KF_PIPELINES_ENDPOINT", "KF_PIPELINES_UI_ENDPOINT"])
@pytest.mark.parametrize(
    "address",
    [
        f"http://me:{SECRET}@kfp.example.com",
        "ftp://kfp.example.com",
        f"https://h/?token={SECRET}",
        "kfp.example.com",
        "http://[",
    ],
)
def test_a_malformed_address_in_the_environment(kfp_api, run, monkeypatch, variable, address):
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", kfp_api.url)
    monkeypatch.setenv(variable, address)
    result = run("submit", "cluster.kfp.host=null")
    result.refused(variable, "expected http://… or https://… alone", "KFP_TOKEN")
    assert kfp_api.runs == []


def test_the_address_of_the_web_pages(kfp_api, run, monkeypatch):
    monkeypatch.setenv("KF_PIPELINES_UI_ENDPOINT", "https://kubeflow.example.com/pipeline/")
    result = run("submit")
    run_page = f"https://kubeflow.example.com/pipeline/#/runs/details/{kfp_api.runs[0].run_id}"
    assert f": {run_page}\n" in result.err


@pytest.mark.parametrize("end", ["", "/"])
@pytest.mark.parametrize("scheme", ["http://", ""])
@pytest.mark.parametrize("user", ["", "me:p%40ss@"])
def test_a_proxy(kfp_api, run, monkeypatch, scheme, user, end):
    """Requests to a proxy of HTTP contain the whole address, so our server can play the proxy."""
    monkeypatch.setenv("http_proxy", f"{scheme}{user}{kfp_api.url.removeprefix('http://')}{end}")
    received, answer = [], kfp_api.answer

    def answer_and_note(request, headers, body):
        received.append((headers["Host"], headers.get("Proxy-Authorization")))
        return answer(request, headers, body)

    monkeypatch.setattr(kfp_api, "answer", answer_and_note)
    result = run("submit", to="http://kfp.invalid:8888")
    assert result.code == 0, result.err
    assert set(received) == {("kfp.invalid:8888", "Basic bWU6cEBzcw==" if user else None)}
    kfp_api.fail("GET", "healthz", 403)
    result = run("submit", to="http://kfp.invalid:8888")
    result.refused("403", f"KFP at http://kfp.invalid:8888 through the proxy {kfp_api.url})")


@pytest.mark.parametrize("exception", ["127.0.0.1", "*", ".0.0.1"])
def test_hosts_that_need_no_proxy(kfp_api, run, monkeypatch, exception):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("NO_PROXY", "")
    run("register").refused("no connection through the proxy", "HTTP_PROXY", "NO_PROXY")
    monkeypatch.setenv("NO_PROXY", exception)
    assert run("register").code == 0


def test_a_proxy_that_refuses_every_connection(kfp_api, run, monkeypatch):
    monkeypatch.setenv("https_proxy", f"http://me:{SECRET}@{kfp_api.url.removeprefix('http://')}")
    result = run("register", to="https://kfp.invalid")
    result.refused("through the proxy http", "no connection through the proxy", "HTTPS_PROXY", "NO_PROXY")


@pytest.mark.parametrize(
    "address",
    [f"socks5://me:{SECRET}@h:1", "http://", f"http://me:{SECRET}@", f"http://h:p/{SECRET}", "http://[x]:1"],
)
def test_a_malformed_address_of_a_proxy(kfp_api, run, monkeypatch, address):
    monkeypatch.setenv("http_proxy", address)
    monkeypatch.setenv("NO_PROXY", "")
    run("register").refused("found no address in HTTP_PROXY", "expected http://host:port")
    assert kfp_api.requests == []
