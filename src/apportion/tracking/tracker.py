"""What the stages log of a round, independent of where it is kept."""

from collections.abc import Mapping, Sequence
from typing import Any

LARGEST = 4 * 2**20
"""Bytes of an artifact that every server should accept: the report of 300 contributors has 2.6 MB."""


def expected_size(contributors: int, evaluations: int) -> int:
    """How large the artifacts of a round may be, in bytes: its report, its plan, its table of evaluations."""
    return max(LARGEST, 12_000 * contributors, 400 * evaluations)


class Tracker:
    """What the stages log of a round. This class keeps nothing.

    Every method raises TrackingError where a server refuses.
    """

    def check(self, size: int = LARGEST) -> None:
        """Raises TrackingError, within about a minute, where the server or file cannot be reached or written,
        or where the server does not accept an artifact of `size` bytes.

        It creates the experiment where there is none.
        """

    def check_size(self, size: int) -> None:
        """Raises TrackingError, within about a minute, where the server does not accept an artifact of so
        many bytes. What was written for it is overwritten by a short text."""

    def check_names(self, contributors: Sequence[str]) -> None:
        """Says which contributors have other metric keys than their names, because a database could take
        these names for one."""

    def start(self, round_id: str, job: str | None, tags: Mapping[str, str]) -> str | None:
        """The id of the round's run, which is RUNNING from now on.

        It is the run of the pipeline (MLFLOW_RUN_ID), else the run that the round has already, else a new
        one: a single one for all processes that start it at the same time, if the tracker knows the round's
        store. Where `job` is None, the run keeps the job that it has.
        """

    def params(self, run: str | None, values: Mapping[str, Any]) -> None:
        """Logs parameters. Logging the same values again is allowed; a changed value is refused."""

    def metrics(self, run: str | None, values: Mapping[str, float], step: int = 0) -> None:
        """Logs metrics under `key(name)`.

        Values that are not finite are left out, and their names are in the tag `apportion.not_finite`.
        """

    def stepped(self, run: str | None, name: str, values: Sequence[float]) -> None:
        """Logs values that never change, such as those of a ledger, as one metric with steps 0, 1, …"""

    def table(self, run: str | None, artifact_path: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Stores columns of equal length as a JSON artifact that MLflow shows as a table.

        Numbers that are not finite become null.
        """

    def artifact(self, run: str | None, artifact_path: str, data: bytes) -> None:
        """Stores `data` under a path inside the run's artifacts, and replaces what was there."""

    def child(
        self,
        run: str | None,
        name: str,
        tags: Mapping[str, str],
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
    ) -> str | None:
        """The id of a finished run nested in `run`; there is one for each name."""

    def finish(self, run: str | None, status: str = "FINISHED") -> None:
        """Ends a run as FINISHED, FAILED or KILLED."""

    def finish_round(self, round_id: str) -> list[str]:  # noqa: ARG002
        """Ends, as FINISHED, the runs of a published round that are not finished; returns their ids.

        There are such runs where a process was killed just after the publication.
        """
        return []

    def close_job(self, job: str, status: str) -> list[str]:  # noqa: ARG002
        """Ends the runs that a pipeline job left RUNNING, and no others; returns their ids.

        Raises TrackingError within about a minute where that fails.
        """
        return []


class NullTracker(Tracker):
    """The tracker where tracking is switched off."""
