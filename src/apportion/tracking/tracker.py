"""What the stages tell of a round, whoever listens."""

from collections.abc import Mapping, Sequence
from typing import Any


class Tracker:
    """What the stages tell of a round. This class keeps nothing; every method raises TrackingError where a server refuses."""

    def check(self) -> None:
        """Refuses, within seconds, a place that cannot be reached or written; makes the experiment where it is absent."""

    def start(self, round_id: str, job: str | None, tags: Mapping[str, str]) -> str | None:
        """The id of the round's run, now RUNNING: the pipeline's (MLFLOW_RUN_ID), else the one it has, else a new one.

        Without a job the run keeps the one it has.
        """

    def params(self, run: str | None, values: Mapping[str, Any]) -> None:
        """Logs parameters; again with the same values is fine, a changed value is refused."""

    def metrics(self, run: str | None, values: Mapping[str, float], step: int = 0) -> None:
        """Logs metrics under `key(name)`. Those that are not finite are left out and named in the tag `apportion.not_finite`."""

    def stepped(self, run: str | None, name: str, values: Sequence[float]) -> None:
        """Logs a series as one metric, steps 0, 1, …; only for values that never change, as those of a ledger."""

    def table(self, run: str | None, artifact_path: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Stores columns of equal length as a JSON artifact that MLflow shows as a table; not finite numbers become null."""

    def artifact(self, run: str | None, artifact_path: str, data: bytes) -> None:
        """Stores `data` under a path inside the run's artifacts, replacing what was there."""

    def child(
        self, run: str | None, name: str, tags: Mapping[str, str], params: Mapping[str, Any], metrics: Mapping[str, float]
    ) -> str | None:
        """The id of a finished run nested in `run`, one for each name."""

    def finish(self, run: str | None, status: str = "FINISHED") -> None:
        """Ends a run as FINISHED, FAILED or KILLED."""

    def finish_round(self, round_id: str) -> list[str]:  # noqa: ARG002
        """Ends as FINISHED what a published round left unfinished, as a kill just after publication does; the ids of those runs."""
        return []

    def close_job(self, job: str, status: str) -> list[str]:  # noqa: ARG002
        """Ends, or fails to within seconds, what a pipeline job left RUNNING, and nothing else; the ids of those runs."""
        return []


class NullTracker(Tracker):
    """Tracking is switched off."""
