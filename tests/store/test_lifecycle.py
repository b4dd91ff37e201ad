"""Lifecycle rules on a real S3 server, next to rules that were there before."""

from datetime import UTC, datetime, timedelta
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from servers import Answer, proxy

from apportion import cli
from apportion.errors import StoreError
from apportion.store import S3Store, layout, open_store
from apportion.store.lifecycle import expire, expires_after, threats

CONFIG = Path(__file__).parents[2] / "configs" / "tiny.yaml"
OTHER_RULE = {
    "ID": "another program's logs",
    "Status": "Enabled",
    "Filter": {"Prefix": "logs/"},
    "Expiration": {"Days": 3},
}


def open_s3(bucket: str, prefix: str = "") -> S3Store:
    store = open_store(f"s3://{bucket}/{prefix}")
    assert isinstance(store, S3Store)
    return store


def rules_of(store: S3Store) -> dict[str, dict[str, Any]]:
    """The rules of the store's bucket, by name."""
    return {rule["ID"]: rule for rule in store.lifecycle()["Rules"]}


def test_weights_and_samples_expire_and_nothing_else(s3_bucket: str) -> None:
    store = open_s3(s3_bucket, "some/prefix")
    assert expires_after(store, []) is None
    assert expire(store, 30)
    rules = list(rules_of(store).values())
    assert {rule["Filter"]["Prefix"] for rule in rules} == {
        "some/prefix/checkpoints/",
        "some/prefix/samples/",
    }
    assert {(rule["Status"], rule["Expiration"]["Days"]) for rule in rules} == {("Enabled", 30)}
    assert all(rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1} for rule in rules)
    assert all(rule["NoncurrentVersionExpiration"] == {"NoncurrentDays": 1} for rule in rules)
    assert expires_after(store, rules) == 30
    assert threats(store, rules) == []


def test_the_same_days_change_nothing_and_other_days_replace_the_rules(s3_bucket: str) -> None:
    store = open_s3(s3_bucket)
    changed = [expire(store, 30), expire(store, 30), expire(store, 7), expire(store, 7)]
    assert changed == [True, False, True, False]
    assert len(rules_of(store)) == 2
    assert expires_after(store, store.lifecycle()["Rules"]) == 7


def test_other_rules_stay(s3_bucket: str) -> None:
    one, other = open_s3(s3_bucket, "one"), open_s3(s3_bucket, "other")
    one.set_lifecycle({"Rules": [OTHER_RULE]})
    assert expire(one, 30)
    assert expire(other, 5)
    assert expire(one, 60)
    assert rules_of(one)[OTHER_RULE["ID"]] == OTHER_RULE
    assert [expires_after(store, store.lifecycle()["Rules"]) for store in (one, other)] == [60, 5]
    assert len(rules_of(one)) == 1 + 2 * 2


def test_rules_of_the_older_form_get_the_newer_form(s3_bucket: str) -> None:
    """S3 refuses both forms in one bucket."""
    store = open_s3(s3_bucket)
    older = {"ID": "old", "Status": "Enabled", "Prefix": "logs/", "Expiration": {"Days": 3}}
    store.set_lifecycle({"Rules": [older]})
    expire(store, 30)
    assert "Prefix" not in rules_of(store)["old"]
    assert rules_of(store)["old"]["Filter"]["Prefix"] == "logs/"


TO_ARCHIVE = {
    "Transitions": [{"Days": 1, "StorageClass": "STANDARD_IA"}, {"Days": 90, "StorageClass": "GLACIER"}],
    "Expiration": {},
}
TO_GLACIER = "theirs (to GLACIER, where no store can read)"


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"Filter": {"Prefix": ""}}, ["theirs"]),
        ({"Prefix": ""}, ["theirs"]),
        ({"Filter": {"Prefix": "a/"}}, ["theirs"]),
        ({"Filter": {"Prefix": "a/games/"}}, ["theirs"]),
        ({"Filter": {"Prefix": "a/games/1/ledger"}}, ["theirs"]),
        (
            {"Filter": {"Prefix": "a/heads"}, "Expiration": {"Date": datetime(2020, 1, 1, tzinfo=UTC)}},
            ["theirs"],
        ),
        ({"Filter": {"And": {"Prefix": "a/", "ObjectSizeGreaterThan": 9}}}, ["theirs"]),
        ({"Filter": {"Prefix": "a/checkpoints/"}}, []),
        ({"Filter": {"Prefix": "b/"}}, []),
        ({"Filter": {"Tag": {"Key": "k", "Value": "v"}}}, []),
        ({"Filter": {"And": {"Prefix": "a/", "Tags": [{"Key": "k", "Value": "v"}]}}}, []),
        ({"Filter": {"Prefix": ""}, "Status": "Disabled"}, []),
        ({"Filter": {"Prefix": ""}, "Expiration": {"ExpiredObjectDeleteMarker": True}}, []),
        (
            {
                "Filter": {"Prefix": ""},
                "Expiration": {},
                "NoncurrentVersionExpiration": {"NoncurrentDays": 9},
            },
            [],
        ),
        ({"Filter": {"Prefix": ""}} | TO_ARCHIVE, [TO_GLACIER]),
        ({"Filter": {"Prefix": "a/rounds/"}} | TO_ARCHIVE, [TO_GLACIER]),
        (
            {
                "Filter": {"Prefix": "a/rounds/"},
                "Transitions": [{"Days": 90, "StorageClass": "DEEP_ARCHIVE"}],
                "Expiration": {},
            },
            [TO_GLACIER.replace("GLACIER", "DEEP_ARCHIVE")],
        ),
        # Archived samples exist, so they are not made again; but they cannot be read either.
        ({"Filter": {"Prefix": "a/samples/"}} | TO_ARCHIVE, [TO_GLACIER]),
        ({"Filter": {"Prefix": "b/"}} | TO_ARCHIVE, []),
        ({"Filter": {"Prefix": ""}} | TO_ARCHIVE | {"Expiration": {"Days": 999}}, ["theirs", TO_GLACIER]),
        (
            {
                "Filter": {"Prefix": ""},
                "Transitions": [{"Days": 1, "StorageClass": "GLACIER_IR"}],
                "Expiration": {},
            },
            [],
        ),
    ],
)
def test_rules_that_would_delete_or_archive_what_must_stay(
    s3_bucket: str, rule: dict[str, Any], expected: list[str]
) -> None:
    theirs = {"ID": "theirs", "Status": "Enabled", "Expiration": {"Days": 3}} | rule
    assert threats(open_s3(s3_bucket, "a"), [theirs]) == expected


@pytest.mark.parametrize(
    ("rule", "days"),
    [
        ({"Filter": {"Prefix": "a/checkpoints/"}}, 3),
        ({"Filter": {"Prefix": "a/samples"}}, 3),
        ({"Prefix": ""}, 3),
        ({"Filter": {"Prefix": "a/"}, "Expiration": {"Date": datetime.now(UTC) + timedelta(days=9.5)}}, 9),
        ({"Filter": {"Prefix": "a/"}, "Expiration": {"Date": datetime(2020, 1, 1, tzinfo=UTC)}}, 0),
        ({"Filter": {"Prefix": "a/games/"}}, 30),
        ({"Filter": {"Prefix": "b/samples/"}}, 30),
        ({"Filter": {"Prefix": ""}, "Status": "Disabled"}, 30),
    ],
)
def test_other_rules_may_let_weights_and_samples_expire_earlier(
    s3_bucket: str, rule: dict[str, Any], days: int
) -> None:
    store = open_s3(s3_bucket, "a")
    expire(store, 30)
    theirs = {"ID": "theirs", "Status": "Enabled", "Expiration": {"Days": 3}} | rule
    assert expires_after(store, [*store.lifecycle()["Rules"], theirs]) == days
    assert expires_after(store, [theirs]) == (None if days == 30 else days)


def test_threats_are_logged_when_rules_are_set(s3_bucket: str, caplog: pytest.LogCaptureFixture) -> None:
    store = open_s3(s3_bucket)
    expire(store, 30)
    assert caplog.text == ""
    threat = {"ID": "tidy up", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 9}}
    store.set_lifecycle({"Rules": [threat]})
    expire(store, 30)
    words = "rules of the bucket delete or archive what must stay: tidy up; limit them to other prefixes"
    assert words in caplog.text


def test_each_folder_of_a_store_is_kept_or_expires() -> None:
    """A new folder must be listed in one of the two."""
    functions = [function for name, function in vars(layout).items() if name.endswith("_key")]
    keys = [function(*["1"] * len(signature(function).parameters)) for function in functions]
    assert {key.partition("/")[0] for key in keys} == {*layout.KEPT, *layout.EXPIRING}
    assert not set(layout.KEPT) & set(layout.EXPIRING)


def test_a_folder_has_no_rules(tmp_path: Path) -> None:
    words = r"found file:///.*, expected s3://bucket/prefix: a folder has no lifecycle rules"
    with pytest.raises(StoreError, match=words):
        expire(open_store(tmp_path.as_uri()), 30)


def test_less_than_a_day(s3_bucket: str) -> None:
    with pytest.raises(StoreError, match=r"found 0 days, expected at least 1 \(--days\)"):
        expire(open_s3(s3_bucket), 0)


@pytest.mark.parametrize("code", ["AccessDenied", "NotImplemented"])
def test_a_server_that_refuses(s3_endpoint: str, s3_bucket: str, code: str) -> None:
    status = 403 if code == "AccessDenied" else 501
    refusal = Answer(status, {}, f"<Error><Code>{code}</Code></Error>".encode())
    words = {
        "AccessDenied": "s3:PutLifecycleConfiguration",
        "NotImplemented": "has no lifecycle rules: delete old weights yourself",
    }
    with proxy(s3_endpoint, lambda method, _, forward: refusal if method == "PUT" else forward()) as url:
        store = open_store(f"s3://{s3_bucket}", endpoint_url=url)
        with pytest.raises(StoreError, match=words[code]):
            expire(store, 30)


def test_a_server_that_accepts_rules_and_ignores_them(s3_endpoint: str, s3_bucket: str) -> None:
    accepted = Answer(200, {}, b"")
    with proxy(s3_endpoint, lambda method, _, forward: accepted if method == "PUT" else forward()) as url:
        store = open_store(f"s3://{s3_bucket}", endpoint_url=url)
        with pytest.raises(StoreError, match="accepted the lifecycle rules but does not show"):
            expire(store, 30)


def test_the_command(
    s3_bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apportion.logs.to_terminal", lambda: None)
    folder = ["lifecycle", str(CONFIG), "--workdir", str(tmp_path)]
    bucket = [*folder, "--set", f"store=s3://{s3_bucket}/p"]
    assert [cli.main([*bucket, "--days", "30"]), cli.main([*bucket, "--days", "30"])] == [0, 0]
    store = open_s3(s3_bucket, "p")
    assert expires_after(store, store.lifecycle()["Rules"]) == 30
    rules = "weights and samples expire after 30 days, and these rules expire nothing else"
    assert capsys.readouterr().out.splitlines() == [
        f"s3://{s3_bucket}/p: {rules}",
        f"s3://{s3_bucket}/p: unchanged: {rules}",
    ]
    assert cli.main([*bucket, "--days", "0"]) == 1
    assert cli.main([*folder, "--days", "30"]) == 1
