"""Lifecycle rules on a real S3 server, beside the rules of others."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from servers import Answer, proxy

from apportion import cli
from apportion.errors import StoreError
from apportion.store import S3Store, open_store
from apportion.store.lifecycle import EXPIRING, KEPT, expire, expires_after, threats

THEIRS = {"ID": "logs of somebody", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 3}}


def of(bucket: str, prefix: str = "") -> S3Store:
    store = open_store(f"s3://{bucket}/{prefix}")
    assert isinstance(store, S3Store)
    return store


def rules(store: S3Store) -> dict[str, dict[str, Any]]:
    return {rule["ID"]: rule for rule in store.lifecycle()["Rules"]}


def test_weights_and_samples_expire_and_nothing_else(s3_bucket: str) -> None:
    store = of(s3_bucket, "some/prefix")
    assert expires_after(store, []) is None
    assert expire(store, 30)
    found = rules(store)
    assert {rule["Filter"]["Prefix"] for rule in found.values()} == {f"some/prefix/{folder}/" for folder in EXPIRING}
    assert {(rule["Status"], rule["Expiration"]["Days"]) for rule in found.values()} == {("Enabled", 30)}
    assert all(rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1} for rule in found.values())
    assert all(rule["NoncurrentVersionExpiration"] == {"NoncurrentDays": 1} for rule in found.values())
    assert (expires_after(store, list(found.values())), threats(store, list(found.values()))) == (30, [])


def test_again_is_as_it_was_and_other_days_replace_ours(s3_bucket: str) -> None:
    store = of(s3_bucket)
    assert [expire(store, 30), expire(store, 30), expire(store, 7), expire(store, 7)] == [True, False, True, False]
    assert len(rules(store)) == len(EXPIRING)
    assert expires_after(store, store.lifecycle()["Rules"]) == 7


def test_rules_of_others_stay(s3_bucket: str) -> None:
    one, other = of(s3_bucket, "one"), of(s3_bucket, "other")
    one.set_lifecycle({"Rules": [THEIRS]})
    assert expire(one, 30)
    assert expire(other, 5)
    assert expire(one, 60)
    assert rules(one)["logs of somebody"] == THEIRS
    assert [expires_after(store, store.lifecycle()["Rules"]) for store in (one, other)] == [60, 5]
    assert len(rules(one)) == 1 + 2 * len(EXPIRING)


def test_rules_of_the_older_form_are_told_in_the_newer(s3_bucket: str) -> None:
    """S3 mixes the two forms in no bucket."""
    store = of(s3_bucket)
    store.set_lifecycle({"Rules": [{"ID": "old", "Status": "Enabled", "Prefix": "logs/", "Expiration": {"Days": 3}}]})
    expire(store, 30)
    assert "Prefix" not in rules(store)["old"]
    assert rules(store)["old"]["Filter"]["Prefix"] == "logs/"


ARCHIVED = {"Transitions": [{"Days": 1, "StorageClass": "STANDARD_IA"}, {"Days": 90, "StorageClass": "GLACIER"}], "Expiration": {}}
TO_GLACIER = "theirs (to GLACIER, where no store can read)"


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"Filter": {"Prefix": ""}}, ["theirs"]),
        ({"Prefix": ""}, ["theirs"]),
        ({"Filter": {"Prefix": "a/"}}, ["theirs"]),
        ({"Filter": {"Prefix": "a/games/"}}, ["theirs"]),
        ({"Filter": {"Prefix": "a/games/1/ledger"}}, ["theirs"]),
        ({"Filter": {"Prefix": "a/heads"}, "Expiration": {"Date": datetime(2020, 1, 1, tzinfo=UTC)}}, ["theirs"]),
        ({"Filter": {"And": {"Prefix": "a/", "ObjectSizeGreaterThan": 9}}}, ["theirs"]),
        ({"Filter": {"Prefix": "a/checkpoints/"}}, []),
        ({"Filter": {"Prefix": "b/"}}, []),
        ({"Filter": {"Tag": {"Key": "k", "Value": "v"}}}, []),
        ({"Filter": {"And": {"Prefix": "a/", "Tags": [{"Key": "k", "Value": "v"}]}}}, []),
        ({"Filter": {"Prefix": ""}, "Status": "Disabled"}, []),
        ({"Filter": {"Prefix": ""}, "Expiration": {"ExpiredObjectDeleteMarker": True}}, []),
        ({"Filter": {"Prefix": ""}, "Expiration": {}, "NoncurrentVersionExpiration": {"NoncurrentDays": 9}}, []),
        ({"Filter": {"Prefix": ""}} | ARCHIVED, [TO_GLACIER]),
        ({"Filter": {"Prefix": "a/rounds/"}} | ARCHIVED, [TO_GLACIER]),
        (
            {"Filter": {"Prefix": "a/rounds/"}, "Transitions": [{"Days": 90, "StorageClass": "DEEP_ARCHIVE"}], "Expiration": {}},
            [TO_GLACIER.replace("GLACIER", "DEEP_ARCHIVE")],
        ),
        ({"Filter": {"Prefix": "a/samples/"}} | ARCHIVED, [TO_GLACIER]),  # there, so not made again, and not to be read
        ({"Filter": {"Prefix": "b/"}} | ARCHIVED, []),
        ({"Filter": {"Prefix": ""}} | ARCHIVED | {"Expiration": {"Days": 999}}, ["theirs", TO_GLACIER]),
        ({"Filter": {"Prefix": ""}, "Transitions": [{"Days": 1, "StorageClass": "GLACIER_IR"}], "Expiration": {}}, []),
    ],
)
def test_rules_that_would_delete_or_archive_what_must_stay(s3_bucket: str, rule: dict[str, Any], told: list[str]) -> None:
    assert threats(of(s3_bucket, "a"), [{"ID": "theirs", "Status": "Enabled", "Expiration": {"Days": 3}} | rule]) == told


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
def test_rules_of_others_let_weights_and_samples_expire_too(s3_bucket: str, rule: dict[str, Any], days: int) -> None:
    store = of(s3_bucket, "a")
    expire(store, 30)
    told = {"ID": "theirs", "Status": "Enabled", "Expiration": {"Days": 3}} | rule
    assert expires_after(store, [*store.lifecycle()["Rules"], told]) == days
    assert expires_after(store, [told]) == (None if days == 30 else days)


def test_threats_are_told_where_rules_are_set(s3_bucket: str, caplog: pytest.LogCaptureFixture) -> None:
    store = of(s3_bucket)
    expire(store, 30)
    assert caplog.text == ""
    store.set_lifecycle({"Rules": [{"ID": "tidy up", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 9}}]})
    expire(store, 30)
    assert "rules of the bucket delete or archive what must stay: tidy up; limit them to other prefixes" in caplog.text


def test_what_is_kept_and_what_expires_is_all_there_is() -> None:
    """A new folder of the store must be one or the other."""
    from apportion.stages import round as rounds
    from apportion.stages.collection import images_key, manifest_key
    from apportion.stages.heads import head_key
    from apportion.stages.networks import network_key

    keys = [rounds.weights_key("1"), rounds.samples_key("1"), rounds.reference_key("1"), rounds.round_key("1", "x"), "games/1/game.json"]
    keys += [images_key("1"), manifest_key("1"), head_key("1"), network_key("1")]
    assert {key.partition("/")[0] for key in keys} == {*KEPT, *EXPIRING}


def test_a_folder_has_no_rules(tmp_path: Any) -> None:
    with pytest.raises(StoreError, match=r"found file:///.*, expected s3://bucket/prefix: a folder has no lifecycle rules"):
        expire(open_store(tmp_path.as_uri()), 30)


def test_less_than_a_day(s3_bucket: str) -> None:
    with pytest.raises(StoreError, match=r"found 0 days, expected at least 1 \(--days\)"):
        expire(of(s3_bucket), 0)


@pytest.mark.parametrize("code", ["AccessDenied", "NotImplemented"])
def test_a_server_that_refuses(s3_endpoint: str, s3_bucket: str, code: str) -> None:
    refusal = Answer(403 if code == "AccessDenied" else 501, {}, f"<Error><Code>{code}</Code></Error>".encode())
    words = {"AccessDenied": "s3:PutLifecycleConfiguration", "NotImplemented": "knows no lifecycle rules: delete old weights yourself"}
    with proxy(s3_endpoint, lambda method, _, forward: refusal if method == "PUT" else forward()) as url:
        store = open_store(f"s3://{s3_bucket}", endpoint_url=url)
        with pytest.raises(StoreError, match=words[code]):
            expire(store, 30)


def test_a_server_that_only_pretends(s3_endpoint: str, s3_bucket: str) -> None:
    with proxy(s3_endpoint, lambda method, _, forward: Answer(200, {}, b"") if method == "PUT" else forward()) as url:
        store = open_store(f"s3://{s3_bucket}", endpoint_url=url)
        with pytest.raises(StoreError, match="took the lifecycle rules and does not show"):
            expire(store, 30)


def test_the_command(s3_bucket: str, tmp_path: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from tiny import CONFIG

    monkeypatch.setattr("apportion.logs.to_terminal", lambda: None)
    told = ["lifecycle", str(CONFIG), "--workdir", str(tmp_path), "--set", f"store=s3://{s3_bucket}/p", "--days"]
    assert [cli.main([*told, "30"]), cli.main([*told, "30"])] == [0, 0]
    assert expires_after(of(s3_bucket, "p"), of(s3_bucket, "p").lifecycle()["Rules"]) == 30
    said = capsys.readouterr().out.splitlines()
    assert said == [
        f"s3://{s3_bucket}/p: weights and samples expire after 30 days, and nothing else by these rules",
        f"s3://{s3_bucket}/p: as it was: weights and samples expire after 30 days, and nothing else by these rules",
    ]
    assert cli.main([*told, "0"]) == 1
    assert cli.main(["lifecycle", str(CONFIG), "--workdir", str(tmp_path), "--days", "30"]) == 1
