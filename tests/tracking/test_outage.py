"""MLflow goes away while a round is computed or published: there is one error, and nothing is lost."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from served import SMALL, check_against_ledger, files, logged, unpublished, value
from servers import Answer, free_port, proxy
from tiny import fill, planned

from apportion.errors import TrackingError
from apportion.rounds.heads import head
from apportion.rounds.round import Round
from apportion.stages import attribute, evaluate, publish

pytestmark = pytest.mark.usefixtures("no_retries")


class Failing:
    """A proxy's `respond` that refuses every request after a number of requests that write.

    While `left` is None it refuses none.
    """

    def __init__(self, refuse: Callable[[], Answer]) -> None:
        self.left: int | None = None
        self.written = 0
        self._refuse = refuse

    def __call__(self, method: str, headers: dict[str, str], forward: Callable[[], Answer]) -> Answer:
        if method == "GET":
            return forward() if self.left is None or self.left > 0 else self._refuse()
        self.written += 1
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                return self._refuse()
        return forward()


def no_answer() -> Answer:
    raise ConnectionError("the connection ends without an answer")


def denied() -> Answer:
    body = b'{"error_code": "PERMISSION_DENIED", "message": "may not"}'
    return Answer(403, {"Content-Type": "application/json"}, body)


@pytest.mark.parametrize("refuse", [no_answer, denied])
def test_mlflow_goes_away_at_any_point_of_a_publication(
    mlflow_server: str,
    s3_bucket: str,
    tmp_path: Path,
    refuse: Any,
) -> None:
    """Each time there is one clear error, and no head has moved. In the end MLflow has one run of the round,
    and the credits are those of a round without interruptions."""
    client, experiment, failing = MlflowClient(mlflow_server), f"failing {refuse.__name__}", Failing(refuse)
    with proxy(mlflow_server, failing) as url:
        interrupted = unpublished(tmp_path / "work", f"s3://{s3_bucket}", url, experiment)
        ledger = list(interrupted.store.list("games/"))
        for writes in (0, 1, 3, 8, 15, 22) if refuse is no_answer else (0, 8):
            failing.left = writes
            with pytest.raises(TrackingError) as caught:
                publish.run(interrupted.uri)
            message = str(caught.value)
            assert f"MLflow at {url} cannot" in message
            assert "tracking.uri" in message
            assert "nothing is lost: run the same command again after that" in message
            assert refuse is no_answer or "may not" in message or "403" in message
            assert head(interrupted.store, "tiny") is None
            assert not interrupted.has("round.json")
        failing.left, failing.written = None, 0
        publish.run(interrupted.uri)
        assert failing.written > 22  # so all interruptions above were within the publication
    assert list(interrupted.store.list("games/")) == ledger
    check_against_ledger(client, logged(client, experiment, interrupted), interrupted, tmp_path)
    if refuse is denied:
        return
    other = unpublished(tmp_path / "other", (tmp_path / "store").as_uri(), mlflow_server, "undisturbed")
    publish.run(other.uri)
    assert other.id == interrupted.id
    for name in ("credits.csv", "statement.csv", "evidence.json"):
        assert files(other)[name] == files(interrupted)[name]


def test_mlflow_is_down_after_three_evaluations(
    mlflow_server: str,
    s3_bucket: str,
    tmp_path: Path,
) -> None:
    """Evaluations do not need it. The publication fails until it is back, and is then the same as any other.

    Clients reach the server through a proxy that ends, and starts again at the same port.
    """
    evaluations = 0

    def with_outage(members: Any, name: str, seed: int) -> float:
        nonlocal evaluations
        evaluations += name == "fid"
        if evaluations == 4:
            running.close()
        return value(members, name, seed)

    port = free_port()
    url = f"http://127.0.0.1:{port}"
    where = f"tracking={{uri: '{url}', artifacts: null, experiment: down}}"
    with ExitStack() as running:
        running.enter_context(proxy(mlflow_server, pass_on, port=port))
        this_round = planned(tmp_path / "work", *SMALL, f"store=s3://{s3_bucket}", where)
        fill(this_round, with_outage)
        assert evaluations > 4
        attribute.run(this_round.uri)
        fill(this_round, value)
        evaluate.run(this_round.uri)
        words = r"cannot start the run of round .*Connection refused.*nothing is lost"
        with pytest.raises(TrackingError, match=words):
            publish.run(this_round.uri)
        assert head(this_round.store, "tiny") is None
        running.enter_context(proxy(mlflow_server, pass_on, port=port))
        publish.run(this_round.uri)
    client = MlflowClient(mlflow_server)
    check_against_ledger(client, logged(client, "down", this_round), Round.open(this_round.uri), tmp_path)
    assert head(this_round.store, "tiny") == this_round.id


def pass_on(_: str, __: dict[str, str], forward: Callable[[], Answer]) -> Answer:
    return forward()
