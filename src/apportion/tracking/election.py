"""The MLflow side of `claims`: candidates are created, found, marked and removed with MLflow's client."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from apportion.store import Store
from apportion.tracking.claims import Claim, folder, has_lost
from apportion.tracking.library import errors

CANDIDATE = "apportion.candidate"
"""The tag of a run that is not a round's run yet, and may never be."""


class Election:
    """Which run of an experiment is the one for something of a round, whichever process asks.

    round_id: the round. of: what the run is for, beside the round. experiment: MLflow's entity.
    """

    def __init__(
        self, client: Any, store: Store, round_id: str, experiment: Any, of: tuple[str, ...]
    ) -> None:
        # A server may have several addresses; the id and the age of an experiment are the same at all.
        identity = f"{experiment.experiment_id} {experiment.creation_time}"
        self._client = client
        self._experiment = experiment.experiment_id
        self._claim = Claim(store, round_id, (identity, *of))
        self._marked = set[str]()

    def winner(self, find: Callable[[], str | None], create: Callable[[Mapping[str, str]], str]) -> str:
        """The run, which may still have the mark of a candidate (`unmark`).

        find: a run that is known otherwise. create: makes a run with these tags.
        """

        def adopt(mark: str) -> str | None:
            left = search(self._client, self._experiment, f"tags.`{CANDIDATE}` = '{mark}'")
            return find() or next(map(self._noted, left), None)

        def create_marked(mark: str) -> str:
            candidate = create({CANDIDATE: mark})
            self._marked.add(candidate)
            return candidate

        return self._claim.settle(self._is_active, adopt, create_marked, self._drop)

    def unmark(self, run: str) -> None:
        """Makes a run one that is no candidate any more."""
        if run in self._marked:
            # Another process may have done it just now: MLflow refuses it then, or SQLAlchemy warns.
            with suppress(*errors()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._client.delete_tag(run, CANDIDATE)

    def _is_active(self, run_id: str) -> bool:
        """False for a run that was deleted, or is not in this database."""
        from mlflow.exceptions import MlflowException

        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        if CANDIDATE in run.data.tags:
            self._noted(run)
        return bool(run.info.lifecycle_stage == "active")

    def _noted(self, run: Any) -> str:
        self._marked.add(str(run.info.run_id))
        return str(run.info.run_id)

    def _drop(self, candidate: str) -> None:
        drop_candidate(self._client, candidate)


def sweep(client: Any, store: Store, experiment: str, round_id: str) -> None:
    """Deletes candidates that lost, and whose creators were killed before they deleted them."""
    for run in list(search(client, experiment, f"tags.`{CANDIDATE}` LIKE '{folder(round_id)}%'")):
        if has_lost(store, run.data.tags[CANDIDATE], run.info.run_id):
            drop_candidate(client, run.info.run_id)


def drop_candidate(client: Any, candidate: str) -> None:
    """Deletes a run that nothing was logged to. Without the permission to delete, it is ended."""
    for act in (client.delete_run, lambda run: client.set_terminated(run, "KILLED")):
        with suppress(*errors()):
            act(candidate)
            return


def search(client: Any, experiment: str, condition: str) -> Iterator[Any]:
    """The runs of an experiment that meet a condition, newest first."""
    order = ["attributes.start_time DESC"]
    token = None
    while True:
        page = client.search_runs([experiment], condition, order_by=order, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
