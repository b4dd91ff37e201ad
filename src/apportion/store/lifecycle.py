"""What a bucket forgets by itself: weights and samples, made again where they are needed. Scores, ledger and rounds never expire."""

import hashlib
import logging
from datetime import UTC, datetime
from typing import Any

from apportion.errors import StoreError
from apportion.store.contract import Store
from apportion.store.s3 import S3Store

log = logging.getLogger(__name__)

Rule = dict[str, Any]

EXPIRING = ("checkpoints", "samples")
KEPT = ("games", "rounds", "heads", "manifests", "images", "references", "networks")
"""Folders of a store that no rule may expire: what they hold is made only once, or from these."""
ARCHIVES = ("GLACIER", "DEEP_ARCHIVE")
"""Classes of storage that hold what nobody can read before it is restored: there, and of no use."""


def expire(store: Store, days: int) -> bool:
    """Lets weights and samples expire after so many days, and uploads that broke off; True where the bucket's rules were changed.

    Rules of others stay as they are, and those that are threats are told. Raises StoreError for a folder, which has no rules, for less
    than a day, and where the server refuses, or takes a rule and does not show it.
    """
    if not isinstance(store, S3Store):
        raise StoreError(
            f"found {store.uri}, expected s3://bucket/prefix: a folder has no lifecycle rules (option `store`); where no round is under "
            f"way, {' and '.join(f'{name}/' for name in EXPIRING)} in it may be deleted by hand"
        )
    if days < 1:
        raise StoreError(f"found {days} days, expected at least 1 (--days)")
    wanted, known = _wanted(store, days), store.lifecycle()
    if found := threats(store, known["Rules"]):
        log.warning(
            "%s: rules of the bucket delete or archive what must stay: %s; limit them to other prefixes", store.uri, ", ".join(found)
        )
    if all(any(_says(found, rule) for found in known["Rules"]) for rule in wanted):
        return False
    others = [rule for rule in known["Rules"] if rule.get("ID") not in {rule["ID"] for rule in wanted}]
    store.set_lifecycle({**known, "Rules": [*map(_with_filter, others), *wanted]})
    shown = {rule.get("ID") for rule in store.lifecycle()["Rules"]}
    if missing := [rule["ID"] for rule in [*wanted, *others] if rule.get("ID") not in shown]:
        raise StoreError(f"{store.uri}: the server took the lifecycle rules and does not show {missing}; set them with its own tools")
    return True


def expires_after(store: S3Store, rules: list[Rule]) -> int | None:
    """Days until the first of weights and samples expire, by whosever rules; None where none do."""
    days = [_days(rule) for rule in rules if _touches(rule, store, EXPIRING)]
    return min((day for day in days if day is not None), default=None)


def threats(store: S3Store, rules: list[Rule]) -> list[str]:
    """Names of rules that delete, after a time, what a store must keep, or archive anything of it: credits would have to be paid for
    twice. What a rule says of older versions is none: no store reads them."""
    found = []
    for rule in rules:
        name = str(rule.get("ID", "without a name"))
        if _days(rule) is not None and _touches(rule, store, KEPT):
            found.append(name)
        classes = {move.get("StorageClass") for move in rule.get("Transitions", [])}.intersection(ARCHIVES)
        if classes and _touches(rule, store, (*KEPT, *EXPIRING)):
            found.append(f"{name} (to {', '.join(sorted(classes))}, where no store can read)")
    return found


def _days(rule: Rule) -> int | None:
    """Until what a rule is for expires; None where it does not, as by a rule for the marks of what was deleted."""
    told = rule.get("Expiration", {})
    days: int | None = told.get("Days")
    if date := told.get("Date"):
        days = max(0, (date.replace(tzinfo=UTC) - datetime.now(UTC)).days)
    return days


def _touches(rule: Rule, store: S3Store, folders: tuple[str, ...]) -> bool:
    """Whether a rule is for anything in these folders."""
    keys, prefix = [f"{store.prefix}{folder}/" for folder in folders], _prefix(rule)
    return rule.get("Status") == "Enabled" and any(key.startswith(prefix) or prefix.startswith(key) for key in keys)


def _id(store: S3Store, folder: str) -> str:
    """The name of our rule for a folder of this store: stores that share a bucket have rules of their own."""
    return f"apportion-{folder}" + (f"-{hashlib.sha256(store.prefix.encode()).hexdigest()[:8]}" if store.prefix else "")


def _wanted(store: S3Store, days: int) -> list[Rule]:
    return [
        {
            "ID": _id(store, folder),
            "Status": "Enabled",
            "Filter": {"Prefix": f"{store.prefix}{folder}/"},
            "Expiration": {"Days": days},
            "NoncurrentVersionExpiration": {"NoncurrentDays": 1},  # or a bucket with versions keeps all that has expired
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
        }
        for folder in EXPIRING
    ]


def _says(found: Rule, wanted: Rule) -> bool:
    """Whether a rule is as wanted; a server may tell more of it."""
    return all(found.get(name) == told for name, told in wanted.items())


def _prefix(rule: Rule) -> str:
    """The keys that a rule is for. One that asks for tags as well is for none of ours: objects of a store have no tags."""
    told = rule.get("Filter", {})
    if told.keys() & {"Tag", "And"} and (told.get("Tag") or told.get("And", {}).get("Tags")):
        return "\0"
    return str(rule.get("Prefix") or told.get("Prefix") or told.get("And", {}).get("Prefix") or "")


def _with_filter(rule: Rule) -> Rule:
    """The same rule in the form that S3 takes beside ours: it mixes no rules of its older form with those that have a filter."""
    if "Prefix" not in rule:
        return rule
    return {name: told for name, told in rule.items() if name != "Prefix"} | {"Filter": {"Prefix": rule["Prefix"]}}
