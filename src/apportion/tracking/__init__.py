"""Rounds in MLflow, through `MlflowClient` alone so that mlflow-skinny is enough; or a tracker that keeps
nothing.

Each round has one run, identified by its tag `apportion.round`, with one nested run per attribution method
and the values of coalitions as stepped metrics. Everything may be logged again, after a crash or when a round
becomes the head again: entries that exist are neither duplicated nor refused.
"""

from apportion.config.tracking import TrackingOptions
from apportion.tracking.server import MlflowTracker, key
from apportion.tracking.tracker import NullTracker, Tracker

__all__ = ["MlflowTracker", "NullTracker", "Tracker", "key", "open_tracker"]


def open_tracker(tracking: TrackingOptions) -> Tracker:
    """The tracker of a configuration. It connects when one of its methods is first called, and not here."""
    if tracking.uri is None:
        return NullTracker()
    return MlflowTracker(tracking.uri, tracking.artifacts, tracking.experiment)
