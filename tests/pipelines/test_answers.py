"""What register, submit and schedule make of servers that fail, of what is no KFP, and of what stands in between."""

# ruff: noqa: F811 (fixtures are imported, and named by the tests that need them)

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
    said = run("submit")
    assert said.code == 0, said.err
    assert f"answers HTTP {status}" in said.err
    assert len(kfp_api.pipelines) == len(kfp_api.versions) == len(kfp_api.experiments) == len(kfp_api.runs) == 1


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
def test_an_answer_that_is_lost_makes_nothing_twice(kfp_api, run, path, command):
    kfp_api.fail("POST", path, 504, lost=True)
    assert run(command).code == 0
    assert len(kfp_api.sent("POST", path)) == 1  # the second time it was found
    made = [kfp_api.pipelines, kfp_api.versions, kfp_api.experiments, kfp_api.runs if command == "submit" else kfp_api.recurring]
    assert [len(things) for things in made] == [1, 1, 1, 1]
    assert kfp_api.most_enabled <= 1


def test_a_server_that_fails_for_good(kfp_api, run):
    kfp_api.fail("POST", "runs$", 503, times=99)
    run("submit").refused(kfp_api.url, "cannot start a run", "HTTP 503: injected", "log of its API server", "again")
    assert len(kfp_api.sent("POST", "/runs$")) == 4


def test_somebody_else_registers_at_the_same_moment(kfp_api, run):
    kfp_api.fail("POST", "pipelines$", 409, lost=True)
    kfp_api.fail("POST", "upload_version", 409, lost=True)
    assert run("register").code == 0
    assert (len(kfp_api.pipelines), len(kfp_api.versions)) == (1, 1)


def test_what_exists_but_cannot_be_found(kfp_api, run):
    kfp_api.fail("POST", "upload_version", 409, times=99)
    run("register").refused("cannot upload version apportion-attribution-", "HTTP 409", "exists already", "somebody else")


@pytest.mark.parametrize("of_file", [False, True])
def test_a_server_that_tells_the_token(kfp_api, run, monkeypatch, tmp_path, of_file):
    (path := tmp_path / "token").write_text("t0ken-of-jane\n")
    monkeypatch.setenv(*(("KFP_TOKEN_FILE", str(path)) if of_file else ("KFP_TOKEN", "t0ken-of-jane")))
    kfp_api.tokens = {"t0ken-of-jane"}
    kfp_api.fail("POST", "runs$", 403, json.dumps({"message": "token t0ken-of-jane is of nobody"}))
    said = run("submit")
    said.refused("token *** is of nobody")
    assert "t0ken" not in said.err + said.out


@pytest.mark.parametrize(
    ("status", "words"),
    [(400, ["HTTP 400: no such option"]), (403, ["HTTP 403: no such option", "may not"]), (404, ["HTTP 404", "cluster.kfp.host"])],
)
def test_what_is_refused_is_not_tried_again(kfp_api, run, status, words):
    kfp_api.fail("POST", "runs$", status, json.dumps({"error_message": "no such\n option", "error_details": "a stack"}))
    run("submit").refused("cannot start a run", *words)
    assert len(kfp_api.sent("POST", "/runs$")) == 1


@pytest.mark.parametrize("status", [200, 404, 503])
def test_a_web_page_is_no_api(kfp_api, run, status):
    page = "<!DOCTYPE html><html><head><style>a{}</style></head><body>Please <b>log&nbsp;in</b></body></html>"
    kfp_api.fail("GET", ".*", status, page, times=99)
    line = run("register").refused("cluster.kfp.host" if status < 500 else "log of its API server")
    assert "a web page" in line if status == 200 else "Please log in" in line
    assert "<" not in line


@pytest.mark.parametrize("status", [200, 401, 503])
def test_what_is_no_text_is_no_api(kfp_api, run, status):
    kfp_api.fail("GET", ".*", status, b"<\xff\xfe\x00", times=99)
    run("register").refused("cluster.kfp.host")


@pytest.mark.parametrize("rest", ["", f"?state={SECRET}&token=abc", f"#access_token={SECRET}", f";jsessionid={SECRET}"])
@pytest.mark.parametrize("user", ["", f"me:{SECRET}@"])
def test_a_redirection_to_log_in(kfp_api, run, monkeypatch, rest, user):
    monkeypatch.setenv("KFP_TOKEN", SECRET)
    kfp_api.fail("GET", "healthz", 302, f"https://{user}login.example.com/auth{rest}")
    place = f"https://{'***@' if user else ''}login.example.com/auth"
    run("register").refused(f"a redirection to {place}, expected KFP's API", "cluster.kfp.host", "KFP_TOKEN")


def test_a_server_that_does_not_answer(kfp_api, run, monkeypatch):
    monkeypatch.setattr(client, "TIMEOUT", 0.2)
    kfp_api.fail("GET", "pipelines$", 0, seconds=0.6, times=1)
    assert run("register").code == 0
    kfp_api.fail("GET", "pipelines$", 0, seconds=0.6, times=99)
    run("register").refused("no answer within 0.2 s")


@pytest.mark.parametrize("times", [1, 99])
def test_a_server_that_sends_byte_after_byte(kfp_api, run, monkeypatch, times):
    """Each in time, and the head of the answer too: urllib3 alone would wait."""
    monkeypatch.setattr(client, "TIMEOUT", 0.3)
    answer = kfp_api.answer

    def slowly(request, headers, body):
        told = answer(request, headers, body)
        kfp_api.drip = 0.05 if len(kfp_api.sent("GET", "pipelines$")) in range(1, times + 1) else 0.0
        return told

    monkeypatch.setattr(kfp_api, "answer", slowly)
    start, said = time.monotonic(), run("register")
    assert time.monotonic() - start < 5
    if times == 1:
        assert said.code == 0, said.err
        assert "does not answer): again" in said.err
    else:
        said.refused("no answer within 0.3 s")


def test_a_server_that_is_not_there(run):
    port = free_port()
    run("register", to=f"http://127.0.0.1:{port}").refused(f"http://127.0.0.1:{port}", "refused", "cluster.kfp.host")
    run("register", to="http://kfp.invalid").refused("http://kfp.invalid", "cluster.kfp.host")


def test_https_where_there_is_none(kfp_api, run):
    run("register", to=kfp_api.url.replace("http:", "https:")).refused("SSL", "https is right", "SSL_CERT_FILE")


def test_a_certificate_of_an_authority_of_ones_own(run, kfp_api, monkeypatch, tmp_path):
    authority, tls = certified(tmp_path)
    with serve(KfpApi(), tls) as secure:
        run("register", to=secure.url).refused("certificate", "SSL_CERT_FILE")
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        assert run("register", to=secure.url).code == 0
        assert len(secure.versions) == 1


def test_a_path_before_the_api(kfp_api, run):
    """As `https://host/pipeline` in Kubeflow; here nothing is there."""
    run("register", to=f"{kfp_api.url}/wrong/").refused("HTTP 404", "cluster.kfp.host")


def test_no_address_at_all(kfp_api, run, monkeypatch):
    run("register", "cluster.kfp.host=null").refused("cluster.kfp.host", "expected one")
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", kfp_api.url)
    assert run("register", "cluster.kfp.host=null").code == 0


# What is no KFP, though it answers


@pytest.mark.parametrize(
    "body", ["", "{}", "[]", "null", "5", '"x"', '{"status": "ok"}', '{"multi_user": "maybe"}', '{"multi_user": null}']
)
@pytest.mark.parametrize("command", [["register"], ["submit"], ["schedule"], ["schedule", "--off"]], ids=" ".join)
def test_what_answers_everything_alike_is_no_kfp(kfp_api, run, command, body):
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
    commands = {"runs": [["submit"]], "recurringRuns": [["schedule"], ["schedule", "--off"]]}.get(field, [["submit"], ["schedule"]])
    for command in commands:
        said = run(*command)
        said.refused("found an answer", "without " if value == "[{}]" else field, "expected KFP's API", "cluster.kfp.host")
        assert "there was none" not in said.err


@pytest.mark.parametrize("body", ["", "[]", "null", "5", '"x"'])
@pytest.mark.parametrize("path", LISTS.values(), ids=LISTS)
def test_no_listing_at_all(kfp_api, run, path, body):
    kfp_api.fail("GET", path, 200, body, times=99)
    run("submit" if path != "recurringruns" else "schedule").refused("cannot ", "expected KFP's API")


NEEDED = ["multi_user", "pipeline_id", "pipeline_version_id", "experiment_id", "run_id", "recurring_run_id"]


@pytest.mark.parametrize("how", ["left_out", "nulls"])
@pytest.mark.parametrize("field", NEEDED)
def test_an_answer_without_what_names_it(kfp_api, run, field, how):
    getattr(kfp_api, how).add(field)
    run("schedule" if field == "recurring_run_id" else "submit").refused(f"found an answer without {field}", "expected KFP's API")


def test_an_old_schedule_without_what_names_it(kfp_api, run):
    run("schedule")
    kfp_api.left_out = {"recurring_run_id"}
    run("schedule", "--off").refused("found an answer without recurring_run_id")
    assert len(kfp_api.recurring) == 1


@pytest.mark.parametrize("date", ['"yesterday"', '"99999999999999999999"', "5", "{}", "[]"])
def test_what_is_no_date(kfp_api, run, date):
    kfp_api.fail("GET", "pipelines$", 200, f'{{"pipelines": [{{"pipeline_id": "1", "created_at": {date}}}]}}')
    run("register").refused("cannot find or make pipeline", "found an answer", "expected KFP's API")


def test_an_alphabet_that_nobody_knows(kfp_api, run):
    kfp_api.charset = "; charset=klingon"
    assert run("register").code == 0


def test_a_state_that_is_no_word(kfp_api, run):
    kfp_api.fail("GET", "runs/run", 200, '{"run_id": "1", "state": {}}')
    run("submit", "--wait").refused("whose state is no", "which goes on")


def test_our_own_faults_are_not_told_as_the_servers(kfp_api, run, monkeypatch):
    monkeypatch.setattr(registration, "_named", lambda key, name: name.nothing)
    with pytest.raises(AttributeError, match="nothing"):
        run("register")


# Addresses in the environment, and what stands in between


@pytest.mark.parametrize("variable", ["KF_PIPELINES_ENDPOINT", "KF_PIPELINES_UI_ENDPOINT"])
@pytest.mark.parametrize(
    "address", [f"http://me:{SECRET}@kfp.example.com", "ftp://kfp.example.com", f"https://h/?token={SECRET}", "kfp.example.com", "http://["]
)
def test_an_address_of_the_environment_that_is_none(kfp_api, run, monkeypatch, variable, address):
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", kfp_api.url)
    monkeypatch.setenv(variable, address)
    run("submit", "cluster.kfp.host=null").refused(variable, "expected http://… or https://… alone", "KFP_TOKEN")
    assert kfp_api.runs == []


def test_the_pages_are_elsewhere(kfp_api, run, monkeypatch):
    monkeypatch.setenv("KF_PIPELINES_UI_ENDPOINT", "https://kubeflow.example.com/pipeline/")
    assert f": https://kubeflow.example.com/pipeline/#/runs/details/{kfp_api.runs[0].run_id if kfp_api.runs else ''}" in run("submit").err


@pytest.mark.parametrize("end", ["", "/"])
@pytest.mark.parametrize("scheme", ["http://", ""])
@pytest.mark.parametrize("user", ["", "me:p%40ss@"])
def test_a_proxy(kfp_api, run, monkeypatch, scheme, user, end):
    """A proxy of HTTP is asked for whole addresses, so that our server is a good one."""
    monkeypatch.setenv("http_proxy", f"{scheme}{user}{kfp_api.url.removeprefix('http://')}{end}")
    asked, answer = [], kfp_api.answer

    def listening(request, headers, body):
        asked.append((headers["Host"], headers.get("Proxy-Authorization")))
        return answer(request, headers, body)

    monkeypatch.setattr(kfp_api, "answer", listening)
    said = run("submit", to="http://kfp.invalid:8888")
    assert said.code == 0, said.err
    assert set(asked) == {("kfp.invalid:8888", "Basic bWU6cEBzcw==" if user else None)}
    kfp_api.fail("GET", "healthz", 403)
    assert f"KFP at http://kfp.invalid:8888 through the proxy {kfp_api.url})" in run("submit", to="http://kfp.invalid:8888").refused("403")


@pytest.mark.parametrize("exception", ["127.0.0.1", "*", ".0.0.1"])
def test_what_needs_no_proxy(kfp_api, run, monkeypatch, exception):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("NO_PROXY", "")
    run("register").refused("the proxy leads nowhere", "HTTP_PROXY", "NO_PROXY")
    monkeypatch.setenv("NO_PROXY", exception)
    assert run("register").code == 0


def test_a_proxy_that_lets_nobody_through(kfp_api, run, monkeypatch):
    monkeypatch.setenv("https_proxy", f"http://me:{SECRET}@{kfp_api.url.removeprefix('http://')}")
    run("register", to="https://kfp.invalid").refused("through the proxy", "the proxy leads nowhere", "HTTPS_PROXY", "NO_PROXY")


@pytest.mark.parametrize(
    "address", [f"socks5://me:{SECRET}@h:1", "http://", f"http://me:{SECRET}@", f"http://h:p/{SECRET}", "http://[x]:1"]
)
def test_a_proxy_that_is_none(kfp_api, run, monkeypatch, address):
    monkeypatch.setenv("http_proxy", address)
    monkeypatch.setenv("NO_PROXY", "")
    run("register").refused("found no address in HTTP_PROXY", "expected http://host:port")
    assert kfp_api.requests == []
