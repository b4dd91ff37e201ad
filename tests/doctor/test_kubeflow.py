"""The doctor's checks of Kubeflow Pipelines: against the API of tests/kfp_api.py, over HTTP and TLS."""

import json
from pathlib import Path

import pytest
from findings import check_finding
from kfp_api import KfpApi, serve
from servers import Answer, certified, free_port, proxy

from apportion.config.cluster import Kfp
from apportion.doctor import Finding
from apportion.doctor.kubeflow import Kubeflow, check_kubeflow

SECRET = "not-to-be-shown-0123"


def check(host: str | None, namespace: str | None = None) -> tuple[dict[str, Finding], Kubeflow]:
    """The findings by check, and what is known of KFP."""
    findings = []
    steps = check_kubeflow(Kfp(host=host, namespace=namespace))
    while True:
        try:
            findings.append(next(steps))
        except StopIteration as end:
            assert SECRET not in repr(findings)
            return {finding.check: finding for finding in findings}, end.value


def check_kfp(host: str | None, result: str, *words: str) -> None:
    """The finding `kfp` has this result and these words."""
    check_finding(check(host)[0]["kfp"], result, *words)


def with_version(kfp_api: KfpApi, tag: str) -> KfpApi:
    """Its healthz answers as the API server does, with fields that are not in the client's models."""
    health = {
        "commit_sha": "c",
        "tag_name": tag,
        "multi_user": kfp_api.multi_user,
        "pipeline_store": "database",
    }
    kfp_api.fail("GET", "/apis/v2beta1/healthz", 200, json.dumps(health), times=99)
    return kfp_api


def test_for_one_user(kfp_api: KfpApi) -> None:
    findings, kubeflow = check(with_version(kfp_api, "2.17.0").url)
    check_finding(findings["kfp"], "ok", f"KFP 2.17.0 at {kfp_api.url}, for one user")
    check_finding(findings["kfp: account"], "ok", "may list experiments, without a token")
    assert check(kfp_api.url, "ml")[0]["kfp: account"].result == "ok"
    # KFP for one user refuses a request with a namespace.
    namespaces = {request.query.get("namespace") for request in kfp_api.sent("GET", "experiments")}
    assert namespaces == {None}
    assert kubeflow == Kubeflow(False, (2, 17))


def test_for_several_users(kfp_api: KfpApi, monkeypatch: pytest.MonkeyPatch) -> None:
    kfp_api.multi_user, kfp_api.tokens = True, {SECRET}
    monkeypatch.setenv("KFP_TOKEN", SECRET)
    findings, kubeflow = check(with_version(kfp_api, "2.18.1").url + "/", "ml")
    check_finding(findings["kfp"], "ok", f"KFP 2.18.1 at {kfp_api.url}, for several users")
    check_finding(findings["kfp: account"], "ok", "may list experiments in namespace ml, by its token")
    assert kubeflow == Kubeflow(True, (2, 18))
    assert [request.query.get("namespace") for request in kfp_api.sent("GET", "experiments")] == ["ml"]
    finding = check(kfp_api.url)[0]["kfp: account"]
    check_finding(finding, "skipped", "no namespace is known", "cluster.kfp.namespace")


@pytest.mark.parametrize(
    ("tag", "result", "words", "version"),
    [
        (
            "2.15.1",
            "warning",
            "before 2.16 its own containers do not satisfy Pod Security `restricted` → upgrade KFP to 2.17",
            (2, 15),
        ),
        ("v2.9.0", "warning", "before 2.16", (2, 9)),
        (
            "2.16.0-rc.1",
            "warning",
            "is not tested with versions before 2.17 → upgrade KFP to 2.17",
            (2, 16),
        ),
        ("2.17.0-rc.1", "ok", "", (2, 17)),
        ("2.17.0", "ok", "", (2, 17)),
        ("3.0.0", "ok", "", (3, 0)),
        ("unknown", "warning", "its version is not known → check that it is 2.17 or newer", None),
        ("", "warning", "its version is not known", None),
    ],
)
def test_versions(
    kfp_api: KfpApi, tag: str, result: str, words: str, version: tuple[int, int] | None
) -> None:
    findings, kubeflow = check(with_version(kfp_api, tag).url)
    check_finding(findings["kfp"], result, f"KFP {tag or 'unknown'} at {kfp_api.url}", words)
    assert kubeflow.version == version
    assert findings["kfp: account"].result == "ok"


def test_an_expired_token(kfp_api: KfpApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The finding says how to renew a token of each source."""
    kfp_api.tokens = {"good"}
    check_kfp(kfp_api.url, "failed", "401", "set KFP_TOKEN or KFP_TOKEN_FILE: none is set")
    (path := tmp_path / "token").write_text(SECRET)
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(path))
    audience = "a token of this pod's service account for the audience pipelines.kubeflow.org"
    check_kfp(kfp_api.url, "failed", "401", f"check that {path} is {audience}")
    monkeypatch.setenv("KFP_TOKEN_FILE", str(path))
    check_kfp(kfp_api.url, "failed", f"renew {path} (KFP_TOKEN_FILE)")
    monkeypatch.setenv("KFP_TOKEN", SECRET)
    findings, kubeflow = check(kfp_api.url)
    words = "answers 401: the token is missing, wrong or expired"
    check_finding(findings["kfp"], "failed", words, "renew KFP_TOKEN")
    assert findings["kfp: account"] == Finding("kfp: account", "skipped", "KFP cannot be reached")
    assert kubeflow == Kubeflow()


def test_a_token_that_healthz_does_not_require(kfp_api: KfpApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """KFP's API server answers healthz without a token where no gateway is in front of it."""
    monkeypatch.setenv("KFP_TOKEN", SECRET)
    kfp_api.multi_user = True
    kfp_api.fail("GET", "experiments", 401, times=99)
    findings, _ = check(with_version(kfp_api, "2.17.0").url, "ml")
    assert findings["kfp"].result == "ok"
    check_finding(findings["kfp: account"], "failed", "401", "renew KFP_TOKEN")


def test_an_account_without_the_role(kfp_api: KfpApi, monkeypatch: pytest.MonkeyPatch) -> None:
    kfp_api.multi_user, kfp_api.forbidden = True, {"ml"}
    monkeypatch.setenv("KFP_TOKEN", SECRET)
    finding = check(kfp_api.url, "ml")[0]["kfp: account"]
    check_finding(finding, "failed", "403", "renew KFP_TOKEN, or give it the role (cluster.kfp.namespace)")


@pytest.mark.parametrize("token", [f"{SECRET} {SECRET}", f"{SECRET}\nX: y", f"{SECRET}é"])
def test_values_that_are_not_tokens(kfp_api: KfpApi, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("KFP_TOKEN", token)
    check_kfp(kfp_api.url, "failed", "found no token, or blanks inside it, in KFP_TOKEN")
    assert kfp_api.requests == []


def test_a_token_file_that_is_missing(kfp_api: KfpApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_TOKEN_FILE", "/nowhere/token")
    check_kfp(kfp_api.url, "failed", "cannot read /nowhere/token", "KFP_TOKEN_FILE")


def test_a_login_page(kfp_api: KfpApi) -> None:
    kfp_api.fail("GET", "healthz", 302, "https://login.example.com/auth?state=long", times=9)
    finding = check(kfp_api.url)[0]["kfp"]
    words = "redirects to https://login.example.com/auth, probably a login page"
    check_finding(finding, "failed", words, "set KFP_TOKEN", "cluster.kfp.host")
    assert "state" not in finding.message


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, "<html>", "found no KFP"),
        (200, "[]", "found no KFP"),
        (200, "null", "found no KFP"),
        (200, " ", "found no KFP"),
        (200, "{}", "found no KFP"),
        (200, '{"status": "ok"}', "found no KFP"),
        (200, '{"multi_user": "no", "tag_name": "2.17.0"}', "found no KFP"),
        (404, "", "HTTP 404"),
        (503, "", "see the log of its API server"),
    ],
)
def test_answers_that_are_not_of_kfp(kfp_api: KfpApi, status: int, body: str, words: str) -> None:
    kfp_api.fail("GET", "healthz", status, body, times=9)
    findings, kubeflow = check(kfp_api.url)
    check_finding(findings["kfp"], "failed", words, kfp_api.url)
    assert findings["kfp: account"].result == "skipped"
    assert kubeflow == Kubeflow()


def test_an_empty_answer() -> None:
    """From a proxy, as kfp_api has a body in every answer."""
    with proxy("http://127.0.0.1", lambda *_: Answer(200, {}, b"")) as url:
        check_kfp(url, "failed", f"found no KFP at {url}")


def test_no_user_and_no_password_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"http://jane:{SECRET}@127.0.0.1:{free_port()}"
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", address)
    check_kfp(None, "failed")  # `check` asserts that no finding contains the secret


def test_no_answer_and_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    check_kfp(url, "failed", f"no answer from {url}", "Connection refused", "check cluster.kfp.host")
    check_kfp("http://no-such-host.invalid", "failed", "no answer from http://no-such-host.invalid")
    findings, kubeflow = check(None)
    check_finding(findings["kfp"], "skipped", "no address is known (cluster.kfp.host)")
    assert kubeflow == Kubeflow()


def test_addresses_from_the_environment(kfp_api: KfpApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", with_version(kfp_api, "2.17.0").url)
    check_kfp(None, "ok")
    monkeypatch.delenv("KF_PIPELINES_ENDPOINT")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setattr("apportion.kubeflow.IN_CLUSTER", kfp_api.url)
    check_kfp(None, "ok")


def test_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, tls = certified(tmp_path)
    with serve(KfpApi(), tls) as server:
        fix = "name the file of the certificate authority in SSL_CERT_FILE"
        check_kfp(server.url, "failed", "CERTIFICATE_VERIFY_FAILED", fix)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        check_kfp(with_version(server, "2.17.0").url, "ok")
        monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
        check_kfp(server.url, "failed", "SSL_CERT_FILE")
