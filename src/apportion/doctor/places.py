"""Checks of the store and the tracking server: that they can be reached and written, and what else a round
needs.

They use the credentials and settings of this process.
"""

from collections.abc import Iterator
from datetime import timedelta
from functools import partial

from apportion.config.round import Config
from apportion.doctor.checking import Answer, Finding, failed, ok, run_check, skip_all, skipped, warning
from apportion.doctor.pods import is_for_cluster
from apportion.errors import StoreError
from apportion.store import S3Store, Store, open_store
from apportion.store.lifecycle import expires_after, threats
from apportion.store.refusals import MAX_CLOCK_DIFFERENCE, duration_text
from apportion.submission import check_tracking_address
from apportion.tracking import open_tracker

NOTABLE = timedelta(seconds=60)
"""The difference between clocks from which a warning is given."""


def check_store(config: Config) -> Iterator[Finding]:
    try:
        store = open_store(config.store)
    except StoreError as error:
        yield run_check("store", partial(failed, str(error)))
        yield from skip_all(["store: clock", "store: lifecycle"], "the store cannot be opened")
        return
    finding = run_check("store", partial(_usable, store, bool(config.cluster.model_fields_set)))
    yield finding
    if not isinstance(store, S3Store):
        yield from skip_all(
            ["store: clock", "store: lifecycle"], "a folder has no clock and no lifecycle rules"
        )
        return
    store = store.with_short_timeouts()
    yield run_check("store: clock", partial(_clock, store))
    if finding.result == "failed":
        yield from skip_all(["store: lifecycle"], "the store cannot be used")
        return
    yield run_check("store: lifecycle", partial(_lifecycle, store))


def _usable(store: Store, with_cluster: bool) -> Answer:
    store.probe()
    if with_cluster and not isinstance(store, S3Store):
        return warning(
            f"{store.uri} can be written, but pods of a cluster do not share a folder",
            "store: s3://bucket/prefix",
        )
    message = f"{store.uri} can be read and written, and supports conditional writes"
    if isinstance(store, S3Store):
        message += ", with the credentials of this process"
        if found := store.peculiarities():
            message += f"; unlike AWS it takes {', '.join(found)}, which is respected"
    return ok(message)


def _clock(store: S3Store) -> Answer:
    try:
        difference = store.clock()
    except StoreError as error:
        return skipped(str(error))
    if difference is None:
        return skipped("the answer of the server has no time")
    message = f"the clocks of the server and of this machine differ by {duration_text(difference)}"
    limit = duration_text(MAX_CLOCK_DIFFERENCE)
    fix = "set the clock (NTP)"
    if abs(difference) >= MAX_CLOCK_DIFFERENCE:
        return failed(f"{message}; S3 refuses requests from a difference of {limit} on", fix)
    if abs(difference) >= NOTABLE:
        return warning(f"{message}; S3 would refuse requests from a difference of {limit} on", fix)
    return ok(message)


def _lifecycle(store: S3Store) -> Answer:
    try:
        rules = store.lifecycle()["Rules"]
    except StoreError as error:
        return skipped(
            str(error), "grant s3:GetLifecycleConfiguration for this check; a round does not need it"
        )
    if names := threats(store, rules):
        return failed(
            f"rules of the bucket delete or archive what a store must keep: {', '.join(names)}",
            "limit them to other prefixes: credits would have to be computed, and paid for, again",
        )
    days = expires_after(store, rules)
    if days is None:
        return ok(
            "weights and samples never expire; `apportion lifecycle CONFIG --days N` lets them expire, but "
            "never evaluations"
        )
    return ok(f"the first weights or samples expire after {days} days; ledger and rounds never expire")


def check_tracking(config: Config) -> Iterator[Finding]:
    uri = config.tracking.uri
    if uri is None:
        yield from skip_all(["tracking"], "tracking is switched off: tracking.uri is null")
        return

    def writable() -> Answer:
        if is_for_cluster(config):
            check_tracking_address(config.tracking)
        open_tracker(config.tracking).check()
        experiment = config.tracking.experiment
        return ok(f"MLflow at {uri} can be written, and so can its artifacts (experiment {experiment})")

    yield run_check("tracking", writable)
