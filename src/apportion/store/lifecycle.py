"""Lifecycle rules of a bucket: weights and samples may expire, because they are made again where they are
needed.

Nothing else expires by the rules that are set here.
"""

import hashlib
import logging
from datetime import UTC, datetime
from typing import Any

from apportion.errors import StoreError
from apportion.store.contract import Store
from apportion.store.layout import EXPIRING, KEPT
from apportion.store.s3 import S3Store

log = logging.getLogger(__name__)

Rule = dict[str, Any]
"""A lifecycle rule as boto3 gives and takes it."""

ARCHIVES = ("GLACIER", "DEEP_ARCHIVE")
"""Storage classes whose objects cannot be read before they are restored: they exist, but no store can use
them."""


def expire(store: Store, days: int) -> bool:
    """Lets weights and samples expire after `days` days, and incomplete uploads after one; True where the
    bucket's rules were changed.

    Other rules of the bucket stay as they are; those that `threats` names are logged as a warning. Raises
    StoreError for a folder, which has no rules, for less than a day, and where the server refuses the rules
    or does not show them after it accepted them.
    """
    if not isinstance(store, S3Store):
        raise StoreError(
            f"found {store.uri}, expected s3://bucket/prefix: a folder has no lifecycle rules (option "
            f"`store`); while no round is running, {' and '.join(f'{name}/' for name in EXPIRING)} in it may "
            "be deleted by hand"
        )
    if days < 1:
        raise StoreError(f"found {days} days, expected at least 1 (--days)")
    own_rules = _own_rules(store, days)
    lifecycle = store.lifecycle()
    if harmful := threats(store, lifecycle["Rules"]):
        log.warning(
            "%s: rules of the bucket delete or archive what must stay: %s; limit them to other prefixes",
            store.uri,
            ", ".join(harmful),
        )
    if all(any(_includes(rule, own) for rule in lifecycle["Rules"]) for own in own_rules):
        return False
    own_ids = {rule["ID"] for rule in own_rules}
    others = [rule for rule in lifecycle["Rules"] if rule.get("ID") not in own_ids]
    store.set_lifecycle({**lifecycle, "Rules": [*map(_with_filter, others), *own_rules]})
    shown = {rule.get("ID") for rule in store.lifecycle()["Rules"]}
    if missing := [rule["ID"] for rule in [*own_rules, *others] if rule.get("ID") not in shown]:
        raise StoreError(
            f"{store.uri}: the server accepted the lifecycle rules but does not show {missing}; set them "
            "with the server's own tools"
        )
    return True


def expires_after(store: S3Store, rules: list[Rule]) -> int | None:
    """Days until the first weights or samples expire by any of the rules; None where they never expire."""
    days = [_days(rule) for rule in rules if _applies_to(rule, store, EXPIRING)]
    return min((day for day in days if day is not None), default=None)


def threats(store: S3Store, rules: list[Rule]) -> list[str]:
    """Names of rules that delete what a store must keep, or that archive any of its objects: the credits
    would have to be computed, and paid for, again.

    Rules for noncurrent versions of objects are no threat, as no store reads those.
    """
    names = []
    for rule in rules:
        name = str(rule.get("ID", "without a name"))
        if _days(rule) is not None and _applies_to(rule, store, KEPT):
            names.append(name)
        classes = {move.get("StorageClass") for move in rule.get("Transitions", [])}.intersection(ARCHIVES)
        if classes and _applies_to(rule, store, (*KEPT, *EXPIRING)):
            names.append(f"{name} (to {', '.join(sorted(classes))}, where no store can read)")
    return names


def _days(rule: Rule) -> int | None:
    """Days until the objects of a rule expire; None where it deletes none, as a rule for delete markers."""
    expiration = rule.get("Expiration", {})
    days: int | None = expiration.get("Days")
    if date := expiration.get("Date"):
        days = max(0, (date.replace(tzinfo=UTC) - datetime.now(UTC)).days)
    return days


def _applies_to(rule: Rule, store: S3Store, folders: tuple[str, ...]) -> bool:
    """Whether a rule is enabled and applies to any object in these folders of the store."""
    keys = [f"{store.prefix}{folder}/" for folder in folders]
    prefix = _prefix(rule)
    overlaps = any(key.startswith(prefix) or prefix.startswith(key) for key in keys)
    return rule.get("Status") == "Enabled" and overlaps


def _rule_id(store: S3Store, folder: str) -> str:
    """The name of the rule for a folder of this store; stores in the same bucket have rules of different
    names."""
    suffix = f"-{hashlib.sha256(store.prefix.encode()).hexdigest()[:8]}" if store.prefix else ""
    return f"apportion-{folder}{suffix}"


def _own_rules(store: S3Store, days: int) -> list[Rule]:
    return [
        {
            "ID": _rule_id(store, folder),
            "Status": "Enabled",
            "Filter": {"Prefix": f"{store.prefix}{folder}/"},
            "Expiration": {"Days": days},
            # Without this, a bucket with versioning would keep every expired object as a noncurrent version.
            "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
        }
        for folder in EXPIRING
    ]


def _includes(rule: Rule, expected: Rule) -> bool:
    """Whether a rule has all expected fields; a server may add others."""
    return all(rule.get(name) == value for name, value in expected.items())


def _prefix(rule: Rule) -> str:
    """The prefix of the keys that a rule applies to.

    A rule that requires tags applies to no object of a store, as these have no tags: its prefix is one that
    no key has.
    """
    conditions = rule.get("Filter", {})
    both = conditions.get("And", {})
    if conditions.get("Tag") or both.get("Tags"):
        return "\0"
    return str(rule.get("Prefix") or conditions.get("Prefix") or both.get("Prefix") or "")


def _with_filter(rule: Rule) -> Rule:
    """The same rule with its prefix in a filter. S3 refuses a mixture of rules of the older form, which have
    a prefix instead of a filter, and rules with a filter."""
    if "Prefix" not in rule:
        return rule
    others = {name: value for name, value in rule.items() if name != "Prefix"}
    return others | {"Filter": {"Prefix": rule["Prefix"]}}
