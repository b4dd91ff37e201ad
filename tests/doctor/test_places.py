"""What the doctor finds of stores: a real S3 server, behind proxies that misbehave."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from servers import Answer, free_port, proxy
from tiny import CONFIG

from apportion import doctor
from apportion.config import load
from apportion.doctor import Finding, checking
from apportion.doctor.places import check_store
from apportion.store import S3Store, open_store
from apportion.store.lifecycle import expire

Forward = Callable[[], Answer]


def found(check: Any, workdir: Path, *overrides: str) -> dict[str, Finding]:
    return {finding.check: finding for finding in check(load(CONFIG, overrides, workdir))}


def says(finding: Finding, result: str, *words: str) -> None:
    text = f"{finding.found} → {finding.mend}"
    assert finding.result == result, text
    assert not [word for word in words if word not in text], text


@pytest.fixture
def stored(s3_bucket: str, s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Finding]]:
    """Findings of the store in a fresh bucket, behind a proxy."""

    def through(meddle: Callable[..., Answer] = lambda method, headers, forward: forward()) -> dict[str, Finding]:
        with proxy(s3_endpoint, meddle) as url:
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
            return found(check_store, tmp_path, f"store=s3://{s3_bucket}/credits")

    return through


def dated(**ago: float) -> Callable[..., Answer]:
    """Answers that tell another time."""

    def date(_: str, __: dict[str, str], forward: Forward) -> Answer:
        answer = forward()
        return answer._replace(headers=answer.headers | {"Date": format_datetime(datetime.now(UTC) - timedelta(**ago))})

    return date


# The store


def test_all_is_well(stored: Any, s3_bucket: str, s3_endpoint: str) -> None:
    findings = stored()
    assert [finding.result for finding in findings.values()] == ["ok", "ok", "ok"]
    said = "can be read and written, and honours conditional writes, asked with the credentials found here"
    assert findings["store"].found == f"s3://{s3_bucket}/credits {said}"
    says(findings["store: lifecycle"], "ok", "weights and samples never expire; `apportion lifecycle CONFIG --days N` lets them")
    assert list(open_store(f"s3://{s3_bucket}", endpoint_url=s3_endpoint).list()) == []


@pytest.mark.parametrize("ignored", ["if-none-match", "if-match"])
def test_a_store_without_conditional_writes(stored: Any, ignored: str) -> None:
    def strip(_: str, headers: dict[str, str], forward: Forward) -> Answer:
        headers.pop(ignored, None)
        return forward()

    findings = stored(strip)
    assert findings["store"].result == "failed"
    assert f"ignores {ignored}" in findings["store"].found.lower()
    assert findings["store: clock"].result == "ok"


def test_clocks_that_differ(stored: Any) -> None:
    says(stored(dated(seconds=30))["store: clock"], "ok", "differ by 3")
    says(stored(dated(minutes=5))["store: clock"], "warning", "differ by 5 min", "set the clock (NTP)")
    says(
        stored(dated(minutes=-20.2))["store: clock"],
        "failed",
        "differ by 20 min: S3 takes no signature from 15 min on",
        "set the clock (NTP)",
    )


def test_a_server_that_refuses_for_its_clock(stored: Any) -> None:
    """RequestTimeTooSkewed: both what cannot be written, and by how much the clocks differ."""
    body = b"<Error><Code>RequestTimeTooSkewed</Code></Error>"
    findings = stored(lambda method, *_: Answer(403, {"Date": format_datetime(datetime.now(UTC) - timedelta(hours=3))}, body))
    says(findings["store"], "failed", "the clocks of this machine and of the server differ by 3 h: set the clock (NTP); nothing is lost")
    says(findings["store: clock"], "failed", "differ by 3 h")
    assert findings["store: lifecycle"] == Finding("store: lifecycle", "skipped", "the store cannot be used")


def test_a_server_that_is_not_there(s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free_port()}")
    findings = found(check_store, tmp_path, f"store=s3://{s3_bucket}")
    says(findings["store"], "failed", "no answer from the endpoint: check AWS_ENDPOINT_URL_S3")
    says(findings["store: clock"], "skipped", "no answer from the endpoint")


def test_lifecycle_rules(stored: Any, s3_bucket: str) -> None:
    store = open_store(f"s3://{s3_bucket}/credits")
    assert isinstance(store, S3Store)
    expire(store, 30)
    says(stored()["store: lifecycle"], "ok", "the first weights or samples expire after 30 days; scores, ledger and rounds never")
    rule = {"ID": "tidy up", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 90}}
    store.set_lifecycle({"Rules": [*store.lifecycle()["Rules"], rule]})
    says(stored()["store: lifecycle"], "failed", "rules of the bucket delete or archive what a store must keep: tidy up", "limit them")


def test_lifecycle_rules_that_we_may_not_see(stored: Any) -> None:
    def deny(method: str, headers: dict[str, str], forward: Forward) -> Answer:
        answer = forward()
        return Answer(403, {}, b"<Error><Code>AccessDenied</Code></Error>") if b"NoSuchLifecycleConfiguration" in answer.body else answer

    says(stored(deny)["store: lifecycle"], "skipped", "s3:GetLifecycleConfiguration", "a round needs none")


def test_wrong_options(s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPORTION_S3_SSE", "yes")
    findings = found(check_store, tmp_path, f"store=s3://{s3_bucket}")
    says(findings["store"], "failed", "APPORTION_S3_SSE=yes")
    assert findings["store: clock"].result == findings["store: lifecycle"].result == "skipped"


def test_a_folder(tmp_path: Path) -> None:
    says(found(check_store, tmp_path)["store"], "ok", "store can be read and written")
    clustered = "cluster={labels: {a: b}}"
    says(found(check_store, tmp_path, clustered)["store"], "warning", "pods of a cluster do not share a folder", "s3://bucket/prefix")
    says(found(check_store, tmp_path, "store=file:///proc/nowhere")["store"], "failed", "option `store`")


def test_a_server_that_never_answers(stored: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check has its seconds, and those after it theirs."""
    import time

    monkeypatch.setattr(checking, "SECONDS", 0.5)
    findings = stored(lambda *_: time.sleep(3) or Answer(503, {}, b""))
    says(findings["store"], "failed", "no answer within 0.5 s")
    says(findings["store: clock"], "failed", "no answer within 0.5 s")


# Together


def test_a_configuration_for_one_machine_asks_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever kubeconfig the machine has: it would be another's."""
    monkeypatch.setattr("apportion.doctor.cluster.connect", lambda *_: pytest.fail("asked"))
    monkeypatch.setattr("apportion.doctor.cluster.pullable", lambda *_: pytest.fail("asked"))
    findings = list(doctor.examine(load(CONFIG, ["tracking.uri=null"], tmp_path), images=True))
    checks = ["store", "store: clock", "store: lifecycle", "tracking", "kfp", "cluster"]
    assert [(finding.check, finding.result) for finding in findings] == list(zip(checks, ["ok"] + ["skipped"] * 5, strict=True))


def test_no_user_and_no_password_is_shown(s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of no address, whoever names it."""
    secret = "not-to-be-told-0123"
    said = checking.attempt("x", lambda: checking.failed(f"http://jane:{secret}@a", f"https://b?password={secret}"))
    assert (said.found, said.mend) == ("http://***@a", "https://b?password=***")
    for address in (f"http://jane:{secret}@127.0.0.1:{free_port()}", f"http://jane:{secret}@127.0.0.1:port"):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        findings = found(check_store, tmp_path, f"store=s3://{s3_bucket}")
        assert findings["store"].result == "failed"
        assert secret not in repr(findings)
