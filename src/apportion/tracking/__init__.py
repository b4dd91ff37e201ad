"""Rounds in MLflow, through `MlflowClient` alone so that mlflow-skinny is enough; or a tracker that keeps nothing.

One run per round, found again by its tag `apportion.round`; one nested run per attribution method; coalition values as stepped metrics.
Everything may be logged again, after a crash or when a round becomes the head again: what is there is neither doubled nor refused.
"""

from apportion.config import Tracking
from apportion.tracking.server import MlflowTracker, key
from apportion.tracking.tracker import NullTracker, Tracker

__all__ = ["MlflowTracker", "NullTracker", "Tracker", "key", "open_tracker"]


def open_tracker(tracking: Tracking) -> Tracker:
    """Connects to nothing yet: `check` does, or the first call."""
    return NullTracker() if tracking.uri is None else MlflowTracker(tracking.uri, tracking.artifacts, tracking.experiment)
