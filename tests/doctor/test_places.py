"""The doctor's checks of stores: a real S3 server, behind proxies that change its answers."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from findings import CONFIG, check_finding
from servers import Answer, free_port, proxy

from apportion import doctor
from apportion.config.loading import load
from apportion.doctor import Finding, checking
from apportion.doctor.places import check_store
from apportion.store import S3Store, open_store
from apportion.store.lifecycle import expire

Forward = Callable[[], Answer]


def findings_of(workdir: Path, *overrides: str) -> dict[str, Finding]:
    """The findings of the store's checks, by check."""
    return {finding.check: finding for finding in check_store(load(CONFIG, overrides, workdir))}


@pytest.fixture
def behind_proxy(
    s3_bucket: str, s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Finding]]:
    """The findings of a store in an empty bucket, behind a proxy."""

    def check(
        respond: Callable[..., Answer] = lambda method, headers, forward: forward(),
    ) -> dict[str, Finding]:
        with proxy(s3_endpoint, respond) as url:
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
            return findings_of(tmp_path, f"store=s3://{s3_bucket}/credits")

    return check


def dated(**ago: float) -> Callable[..., Answer]:
    """A proxy's `respond` that changes the date of answers."""

    def change_date(_: str, __: dict[str, str], forward: Forward) -> Answer:
        answer = forward()
        date = format_datetime(datetime.now(UTC) - timedelta(**ago))
        return answer._replace(headers=answer.headers | {"Date": date})

    return change_date


# The store


def test_what_the_server_does_differently(behind_proxy: Any) -> None:
    """As Ceph 16, which wants the tag of If-Match without quotes."""

    def without_quotes(_: str, headers: dict[str, str], forward: Forward) -> Answer:
        if tag := headers.get("if-match"):
            if '"' in tag:
                return Answer(412, {}, b"<Error><Code>PreconditionFailed</Code></Error>")
            headers["if-match"] = f'"{tag}"'
        return forward()

    finding = behind_proxy(without_quotes)["store"]
    check_finding(
        finding, "ok", "unlike AWS it takes If-Match without quotes, as Ceph 16, which is respected"
    )
    assert "unlike AWS" not in behind_proxy()["store"].message


def test_a_server_that_drops_metadata(behind_proxy: Any) -> None:
    def drop(_: str, __: dict[str, str], forward: Forward) -> Answer:
        answer = forward()
        kept = {name: value for name, value in answer.headers.items() if not name.startswith("x-amz-meta-")}
        return answer._replace(headers=kept)

    check_finding(behind_proxy(drop)["store"], "failed", "drops the metadata of objects", "or choose another")


def test_everything_is_right(behind_proxy: Any, s3_bucket: str, s3_endpoint: str) -> None:
    findings = behind_proxy()
    assert [finding.result for finding in findings.values()] == ["ok", "ok", "ok"]
    message = "can be read and written, and supports conditional writes, with the credentials of this process"
    assert findings["store"].message == f"s3://{s3_bucket}/credits {message}"
    words = "weights and samples never expire; `apportion lifecycle CONFIG --days N` lets them expire"
    check_finding(findings["store: lifecycle"], "ok", words)
    assert list(open_store(f"s3://{s3_bucket}", endpoint_url=s3_endpoint).list()) == []


@pytest.mark.parametrize("ignored", ["if-none-match", "if-match"])
def test_a_store_without_conditional_writes(behind_proxy: Any, ignored: str) -> None:
    def strip(_: str, headers: dict[str, str], forward: Forward) -> Answer:
        headers.pop(ignored, None)
        return forward()

    findings = behind_proxy(strip)
    assert findings["store"].result == "failed"
    assert f"ignores {ignored}" in findings["store"].message.lower()
    assert findings["store: clock"].result == "ok"


def test_clocks_that_differ(behind_proxy: Any) -> None:
    check_finding(behind_proxy(dated(seconds=30))["store: clock"], "ok", "differ by 3")
    fix = "set the clock (NTP)"
    check_finding(behind_proxy(dated(minutes=5))["store: clock"], "warning", "differ by 5 min", fix)
    words = "differ by 20 min; S3 refuses requests from a difference of 15 min on"
    check_finding(behind_proxy(dated(minutes=-20.2))["store: clock"], "failed", words, fix)


def test_a_server_that_refuses_because_of_its_clock(behind_proxy: Any) -> None:
    """RequestTimeTooSkewed: the store cannot be used, and the findings say how much the clocks differ."""
    body = b"<Error><Code>RequestTimeTooSkewed</Code></Error>"

    def respond(*_: Any) -> Answer:
        return Answer(403, {"Date": format_datetime(datetime.now(UTC) - timedelta(hours=3))}, body)

    findings = behind_proxy(respond)
    words = "the clocks of this machine and of the server differ by 3 h: set the clock (NTP); nothing is lost"
    check_finding(findings["store"], "failed", words)
    check_finding(findings["store: clock"], "failed", "differ by 3 h")
    assert findings["store: lifecycle"] == Finding("store: lifecycle", "skipped", "the store cannot be used")


def test_a_server_that_is_not_there(s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free_port()}")
    findings = findings_of(tmp_path, f"store=s3://{s3_bucket}")
    check_finding(findings["store"], "failed", "no answer from the endpoint: check AWS_ENDPOINT_URL_S3")
    check_finding(findings["store: clock"], "skipped", "no answer from the endpoint")


def test_lifecycle_rules(behind_proxy: Any, s3_bucket: str) -> None:
    store = open_store(f"s3://{s3_bucket}/credits")
    assert isinstance(store, S3Store)
    expire(store, 30)
    words = "the first weights or samples expire after 30 days; ledger and rounds never expire"
    check_finding(behind_proxy()["store: lifecycle"], "ok", words)
    rule = {"ID": "tidy up", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 90}}
    store.set_lifecycle({"Rules": [*store.lifecycle()["Rules"], rule]})
    words = "rules of the bucket delete or archive what a store must keep: tidy up"
    check_finding(behind_proxy()["store: lifecycle"], "failed", words, "limit them")


def test_lifecycle_rules_without_the_permission_to_read_them(behind_proxy: Any) -> None:
    def deny(method: str, headers: dict[str, str], forward: Forward) -> Answer:
        answer = forward()
        is_lifecycle = b"NoSuchLifecycleConfiguration" in answer.body
        return Answer(403, {}, b"<Error><Code>AccessDenied</Code></Error>") if is_lifecycle else answer

    finding = behind_proxy(deny)["store: lifecycle"]
    check_finding(finding, "skipped", "s3:GetLifecycleConfiguration", "a round does not need it")


def test_wrong_options(s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPORTION_S3_SSE", "yes")
    findings = findings_of(tmp_path, f"store=s3://{s3_bucket}")
    check_finding(findings["store"], "failed", "APPORTION_S3_SSE=yes")
    assert findings["store: clock"].result == findings["store: lifecycle"].result == "skipped"


def test_a_folder(tmp_path: Path) -> None:
    check_finding(findings_of(tmp_path)["store"], "ok", "store can be read and written")
    finding = findings_of(tmp_path, "cluster={labels: {a: b}}")["store"]
    check_finding(finding, "warning", "pods of a cluster do not share a folder", "s3://bucket/prefix")
    check_finding(findings_of(tmp_path, "store=file:///proc/nowhere")["store"], "failed", "option `store`")


def test_a_server_that_never_answers(behind_proxy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check ends at its time limit, and those after it have time limits of their own."""
    monkeypatch.setattr(checking, "CHECK_SECONDS", 0.3)
    findings = behind_proxy(lambda *_: time.sleep(2) or Answer(503, {}, b""))
    check_finding(findings["store"], "failed", "no answer within 0.3 s")
    check_finding(findings["store: clock"], "failed", "no answer within 0.3 s")


# All checks


def test_a_configuration_for_one_machine_needs_no_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever kubeconfig the machine has: it would be for something else."""
    for function in ("connect", "check_pull"):
        monkeypatch.setattr(f"apportion.doctor.cluster.{function}", lambda *_: pytest.fail("called"))
    findings = list(doctor.examine(load(CONFIG, ["tracking.uri=null"], tmp_path), images=True))
    assert [(finding.check, finding.result) for finding in findings] == [
        ("configuration", "ok"),
        ("store", "ok"),
        ("store: clock", "skipped"),
        ("store: lifecycle", "skipped"),
        ("tracking", "skipped"),
        ("kfp", "skipped"),
        ("cluster", "skipped"),
    ]


def test_options_that_do_not_fit_each_other_fail(tmp_path: Path) -> None:
    config = load(CONFIG, ["tracking.uri=null", "valuation.methods=[loo, nonsense]"], tmp_path)
    finding = next(iter(doctor.examine(config)))
    assert (finding.check, finding.result) == ("configuration", "failed")
    assert "found method 'nonsense', expected some of tree_residual" in finding.message


def test_no_user_and_no_password_of_an_address_is_shown(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "not-to-be-shown-0123"

    def fail() -> checking.Answer:
        return checking.failed(f"http://jane:{secret}@a", f"https://b?password={secret}")

    finding = checking.run_check("x", fail)
    assert (finding.message, finding.fix) == ("http://***@a", "https://b?password=***")
    for address in (f"http://jane:{secret}@127.0.0.1:{free_port()}", f"http://jane:{secret}@127.0.0.1:port"):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        findings = findings_of(tmp_path, f"store=s3://{s3_bucket}")
        assert findings["store"].result == "failed"
        assert secret not in repr(findings)
