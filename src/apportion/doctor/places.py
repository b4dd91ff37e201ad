"""The store and the tracking server: reachable, writable, and what else a round needs of them. They are asked with what is set here."""

from collections.abc import Iterator
from datetime import timedelta
from functools import partial

from apportion.config import Config
from apportion.doctor.checking import Answer, Finding, attempt, failed, ok, passed_over, skipped, warning
from apportion.doctor.pods import for_cluster
from apportion.errors import StoreError
from apportion.shared import check_tracking as check_shared
from apportion.store import S3Store, Store, open_store
from apportion.store.lifecycle import expires_after, threats
from apportion.store.refusals import SKEW, spoken
from apportion.tracking import open_tracker

NOTABLE = timedelta(seconds=60)
"""A difference of clocks that something is wrong with."""


def check_store(config: Config) -> Iterator[Finding]:
    try:
        store = open_store(config.store)
    except StoreError as error:
        yield attempt("store", partial(failed, str(error)))
        yield from passed_over(["store: clock", "store: lifecycle"], "the store cannot be opened")
        return
    finding = attempt("store", lambda: _usable(store, bool(config.cluster.model_fields_set)))
    yield finding
    if not isinstance(store, S3Store):
        yield from passed_over(["store: clock", "store: lifecycle"], "a folder has neither a clock nor rules of its own")
        return
    hasty = store.impatient()
    yield attempt("store: clock", lambda: _clock(hasty))
    if finding.result == "failed":
        yield from passed_over(["store: lifecycle"], "the store cannot be used")
        return
    yield attempt("store: lifecycle", lambda: _lifecycle(hasty))


def _usable(store: Store, clustered: bool) -> Answer:
    store.probe()
    if clustered and not isinstance(store, S3Store):
        return warning(f"{store.uri} can be written; pods of a cluster do not share a folder", "store: s3://bucket/prefix")
    with_ours = ", asked with the credentials found here" if isinstance(store, S3Store) else ""
    return ok(f"{store.uri} can be read and written, and honours conditional writes{with_ours}")


def _clock(store: S3Store) -> Answer:
    try:
        differs = store.clock()
    except StoreError as error:
        return skipped(str(error))
    if differs is None:
        return skipped("the server tells no time")
    found = f"the server's clock and ours differ by {spoken(differs)}"
    if abs(differs) >= SKEW:
        return failed(f"{found}: S3 takes no signature from {spoken(SKEW)} on", "set the clock (NTP)")
    if abs(differs) >= NOTABLE:
        return warning(f"{found}: from {spoken(SKEW)} on S3 takes no signature", "set the clock (NTP)")
    return ok(found)


def _lifecycle(store: S3Store) -> Answer:
    try:
        rules = store.lifecycle()["Rules"]
    except StoreError as error:
        return skipped(str(error), "grant s3:GetLifecycleConfiguration to see it; a round needs none")
    if found := threats(store, rules):
        return failed(
            f"rules of the bucket delete or archive what a store must keep: {', '.join(found)}",
            "limit them to other prefixes: credits would have to be computed, and paid for, again",
        )
    days = expires_after(store, rules)
    if days is None:
        return ok("weights and samples never expire; `apportion lifecycle CONFIG --days N` lets them, scores stay")
    return ok(f"the first weights or samples expire after {days} days; scores, ledger and rounds never")


def check_tracking(config: Config) -> Iterator[Finding]:
    uri = config.tracking.uri
    if uri is None:
        yield from passed_over(["tracking"], "nothing is tracked: tracking.uri is null")
        return

    def writable() -> Answer:
        if for_cluster(config):
            check_shared(config.tracking)
        open_tracker(config.tracking).check()
        return ok(f"MLflow at {uri} can be written, artifacts too (experiment {config.tracking.experiment})")

    yield attempt("tracking", writable)
