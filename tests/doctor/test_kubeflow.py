"""What the doctor finds of Kubeflow Pipelines: its API as tests/kfp_api.py has it, over HTTP and TLS."""

import json
from pathlib import Path

import pytest
from kfp_api import KfpApi, serve
from servers import Answer, certified, free_port, proxy

from apportion.config import Kfp
from apportion.doctor import Finding
from apportion.doctor.kubeflow import Kubeflow, check_kubeflow

SECRET = "not-to-be-told-0123"


def found(host: str | None, namespace: str | None = None) -> tuple[dict[str, Finding], Kubeflow]:
    findings = []

    def collect() -> object:
        return (yield from check_kubeflow(Kfp(host=host, namespace=namespace)))

    steps = collect()
    while True:
        try:
            findings.append(next(steps))  # type: ignore[call-overload]
        except StopIteration as end:
            assert SECRET not in repr(findings)
            return {finding.check: finding for finding in findings}, end.value


def says(finding: Finding, result: str, *words: str) -> None:
    text = f"{finding.found} → {finding.mend}"
    assert finding.result == result, text
    assert not [word for word in words if word not in text], text


def versioned(kfp_api: KfpApi, tag: str) -> KfpApi:
    """Healthz as the API server says it: not all of it is in the client's models."""
    health = {"commit_sha": "c", "tag_name": tag, "multi_user": kfp_api.multi_user, "pipeline_store": "database"}
    kfp_api.fail("GET", "/apis/v2beta1/healthz", 200, json.dumps(health), times=99)
    return kfp_api


def test_for_one_user(kfp_api: KfpApi) -> None:
    findings, known = found(versioned(kfp_api, "2.17.0").url)
    says(findings["kfp"], "ok", f"KFP 2.17.0 at {kfp_api.url}, for one user")
    says(findings["kfp: account"], "ok", "may see experiments, without a token")
    assert found(kfp_api.url, "ml")[0]["kfp: account"].result == "ok"
    assert {request.query.get("namespace") for request in kfp_api.sent("GET", "experiments")} == {None}  # which it would refuse
    assert known == Kubeflow(False, (2, 17))


def test_for_several_users(kfp_api: KfpApi, monkeypatch: pytest.MonkeyPatch) -> None:
    kfp_api.multi_user, kfp_api.tokens = True, {SECRET}
    monkeypatch.setenv("KFP_TOKEN", SECRET)
    findings, known = found(versioned(kfp_api, "2.18.1").url + "/", "ml")
    says(findings["kfp"], "ok", f"KFP 2.18.1 at {kfp_api.url}, for several users")
    says(findings["kfp: account"], "ok", "may see experiments in namespace ml, by its token")
    assert known == Kubeflow(True, (2, 18))
    assert [request.query.get("namespace") for request in kfp_api.sent("GET", "experiments")] == ["ml"]
    says(found(kfp_api.url)[0]["kfp: account"], "skipped", "no namespace is known", "cluster.kfp.namespace")


@pytest.mark.parametrize(
    ("tag", "result", "words", "version"),
    [
        ("2.15.1", "warning", "before 2.16 its own containers do not satisfy Pod Security `restricted` → upgrade KFP to 2.17", (2, 15)),
        ("v2.9.0", "warning", "before 2.16", (2, 9)),
        ("2.16.0-rc.1", "warning", "was not tested with versions before 2.17 → upgrade KFP to 2.17", (2, 16)),
        ("2.17.0-rc.1", "ok", "", (2, 17)),
        ("2.17.0", "ok", "", (2, 17)),
        ("3.0.0", "ok", "", (3, 0)),
        ("unknown", "warning", "its version is not known → see that it is 2.17 or newer", None),
        ("", "warning", "its version is not known", None),
    ],
)
def test_versions(kfp_api: KfpApi, tag: str, result: str, words: str, version: tuple[int, int] | None) -> None:
    findings, known = found(versioned(kfp_api, tag).url)
    says(findings["kfp"], result, f"KFP {tag or 'unknown'} at {kfp_api.url}", words)
    assert known.version == version
    assert findings["kfp: account"].result == "ok"


def test_a_token_past_its_time(kfp_api: KfpApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each source of a token is named with how to renew it."""
    kfp_api.tokens = {"good"}
    says(found(kfp_api.url)[0]["kfp"], "failed", "401", "set KFP_TOKEN or KFP_TOKEN_FILE: none is set")
    (path := tmp_path / "token").write_text(SECRET)
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(path))
    says(
        found(kfp_api.url)[0]["kfp"],
        "failed",
        "401",
        f"see that {path} is a token of this pod's service account for the audience pipelines.kubeflow.org",
    )
    monkeypatch.setenv("KFP_TOKEN_FILE", str(path))
    says(found(kfp_api.url)[0]["kfp"], "failed", f"renew {path} (KFP_TOKEN_FILE)")
    monkeypatch.setenv("KFP_TOKEN", SECRET)
    findings, known = found(kfp_api.url)
    says(findings["kfp"], "failed", "answers 401: the token is missing, wrong or past its time", "renew KFP_TOKEN")
    assert findings["kfp: account"] == Finding("kfp: account", "skipped", "there is no KFP to ask")
    assert known == Kubeflow()


def test_a_token_that_only_healthz_does_not_ask_for(kfp_api: KfpApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """As KFP's API server does where nothing stands before it."""
    monkeypatch.setenv("KFP_TOKEN", SECRET)
    kfp_api.multi_user = True
    kfp_api.fail("GET", "experiments", 401, times=99)
    findings, _ = found(versioned(kfp_api, "2.17.0").url, "ml")
    assert findings["kfp"].result == "ok"
    says(findings["kfp: account"], "failed", "401", "renew KFP_TOKEN")


def test_an_account_without_the_role(kfp_api: KfpApi, monkeypatch: pytest.MonkeyPatch) -> None:
    kfp_api.multi_user, kfp_api.forbidden = True, {"ml"}
    monkeypatch.setenv("KFP_TOKEN", SECRET)
    says(found(kfp_api.url, "ml")[0]["kfp: account"], "failed", "403", "renew KFP_TOKEN, or give it the role (cluster.kfp.namespace)")


@pytest.mark.parametrize("token", [f"{SECRET} {SECRET}", f"{SECRET}\nX: y", f"{SECRET}é"])
def test_what_is_no_token(kfp_api: KfpApi, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("KFP_TOKEN", token)
    says(found(kfp_api.url)[0]["kfp"], "failed", "found no token, or blanks inside it, in KFP_TOKEN")
    assert kfp_api.requests == []


def test_a_token_file_that_is_not_there(kfp_api: KfpApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_TOKEN_FILE", "/nowhere/token")
    says(found(kfp_api.url)[0]["kfp"], "failed", "cannot read /nowhere/token", "KFP_TOKEN_FILE")


def test_a_page_to_log_in_at(kfp_api: KfpApi) -> None:
    kfp_api.fail("GET", "healthz", 302, "https://login.example.com/auth?state=long", times=9)
    said = found(kfp_api.url)[0]["kfp"]
    says(said, "failed", "sends us to https://login.example.com/auth, where one logs in", "set KFP_TOKEN", "cluster.kfp.host")
    assert "state" not in said.found


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
def test_what_is_not_kfp(kfp_api: KfpApi, status: int, body: str, words: str) -> None:
    kfp_api.fail("GET", "healthz", status, body, times=9)
    findings, known = found(kfp_api.url)
    says(findings["kfp"], "failed", words, kfp_api.url)
    assert findings["kfp: account"].result == "skipped"
    assert known == Kubeflow()


def test_an_empty_answer() -> None:
    """The fake has a body in every answer."""
    with proxy("http://127.0.0.1", lambda *_: Answer(200, {}, b"")) as url:
        says(found(url)[0]["kfp"], "failed", f"found no KFP at {url}")


def test_no_user_and_no_password_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", f"http://jane:{SECRET}@127.0.0.1:{free_port()}")
    assert found(None)[0]["kfp"].result == "failed"  # found() looks for the secret


def test_no_answer_and_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    says(found(url)[0]["kfp"], "failed", f"no answer from {url}", "Connection refused", "see cluster.kfp.host")
    says(found("http://no-such-host.invalid")[0]["kfp"], "failed", "no answer from http://no-such-host.invalid")
    findings, known = found(None)
    says(findings["kfp"], "skipped", "no address is known (cluster.kfp.host)")
    assert known == Kubeflow()


def test_addresses_from_the_environment(kfp_api: KfpApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", versioned(kfp_api, "2.17.0").url)
    assert found(None)[0]["kfp"].result == "ok"
    monkeypatch.delenv("KF_PIPELINES_ENDPOINT")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setattr("apportion.kubeflow.IN_CLUSTER", kfp_api.url)
    assert found(None)[0]["kfp"].result == "ok"


def test_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, tls = certified(tmp_path)
    with serve(KfpApi(), tls) as server:
        says(
            found(server.url)[0]["kfp"],
            "failed",
            "CERTIFICATE_VERIFY_FAILED",
            "name the file of the certificate authority in SSL_CERT_FILE",
        )
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        assert found(versioned(server, "2.17.0").url)[0]["kfp"].result == "ok"
        monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
        says(found(server.url)[0]["kfp"], "failed", "SSL_CERT_FILE")
