"""Rounds in MLflow, through `MlflowClient` alone so that mlflow-skinny is enough; or a tracker that keeps
nothing.

Each round has one run, identified by its tag `apportion.round`, with one nested run per attribution method
and the values of coalitions as stepped metrics. Everything may be logged again, after a crash, when a round
becomes the head again, or by several processes at once: entries that exist are neither duplicated nor
refused.
"""

from apportion.config.tracking import TrackingOptions
from apportion.store import Store
from apportion.tracking.names import contributor_keys, key
from apportion.tracking.server import MlflowTracker
from apportion.tracking.tracker import NullTracker, Tracker, expected_size

__all__ = [
    "MlflowTracker",
    "NullTracker",
    "Tracker",
    "contributor_keys",
    "expected_size",
    "key",
    "open_tracker",
]


def open_tracker(tracking: TrackingOptions, store: Store | None = None, *, brief: bool = False) -> Tracker:
    """The tracker of a configuration. It connects when one of its methods is first called, and not here.

    store: where the rounds are that are started; it decides which process's run is a round's, if several
    start one at once. brief: whether each call gives up after about a minute, as before compute, rather than
    after ten.
    """
    if tracking.uri is None:
        return NullTracker()
    return MlflowTracker(tracking.uri, tracking.artifacts, tracking.experiment, store, brief=brief)
