"""MLflow goes away while a round is computed or published: each time one clear error, and nothing is lost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from served import SMALL, Server, at_once, check_against_ledger, logged, made, server, told, value  # noqa: F401
from servers import Answer, proxy, s3_bucket, s3_endpoint  # noqa: F401
from tiny import fill, planned

from apportion.errors import TrackingError
from apportion.stages import attribute, evaluate, publish
from apportion.stages.heads import head
from apportion.stages.round import Round

pytestmark = pytest.mark.usefixtures("at_once")


class Failing:
    """Lets so many requests pass that write something, and then none, until it is mended."""

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


def gone() -> Answer:
    raise ConnectionError("nobody answers")  # the connection ends without an answer


def denied() -> Answer:
    return Answer(403, {"Content-Type": "application/json"}, b'{"error_code": "PERMISSION_DENIED", "message": "may not"}')


@pytest.mark.parametrize("refuse", [gone, denied])
def test_mlflow_goes_away_at_any_point_of_a_publication(server: Server, s3_bucket: str, tmp_path: Path, refuse: Any) -> None:  # noqa: F811
    """Each time one clear error, no head moved, nothing lost; at last the same run of MLflow, and the credits of a round that went well."""
    client, experiment, failing = MlflowClient(server.url), f"failing {refuse.__name__}", Failing(refuse)
    with proxy(server.url, failing) as url:
        round = made(tmp_path / "work", f"s3://{s3_bucket}", url, experiment)
        ledger = list(round.store.list("games/"))
        for passing in (0, 1, 3, 8, 15, 22) if refuse is gone else (0, 8):
            failing.left = passing
            with pytest.raises(TrackingError) as caught:
                publish.run(round.uri)
            words = [f"MLflow at {url} cannot", "nothing is lost: then run the same command again", "tracking.uri"]
            assert not [word for word in words if word not in str(caught.value)], str(caught.value)
            assert refuse is gone or "may not" in str(caught.value) or "403" in str(caught.value)
            assert head(round.store, "tiny") is None
            assert not round.has("round.json")
        failing.left, failing.written = None, 0
        publish.run(round.uri)
        assert failing.written > 22  # so the interruptions above were inside
    assert list(round.store.list("games/")) == ledger
    check_against_ledger(client, logged(client, experiment, round), round, tmp_path)
    if refuse is denied:
        return
    undisturbed = made(tmp_path / "other", (tmp_path / "store").as_uri(), server.url, "undisturbed")
    publish.run(undisturbed.uri)
    assert undisturbed.id == round.id
    for name in ("credits.csv", "statement.csv", "evidence.json"):
        assert told(undisturbed)[name] == told(round)[name]


def test_mlflow_is_killed_after_three_evaluations(server: Server, s3_bucket: str, tmp_path: Path) -> None:  # noqa: F811
    """Evaluations go on without it; the publication waits for it to come back, and then is as any other."""
    where = (f"store=s3://{s3_bucket}", f"tracking={{uri: '{server.url}', artifacts: null, experiment: killed}}")
    round = planned(tmp_path / "work", *SMALL, *where)
    committed = 0

    def until_killed(mask: Any, name: str, seed: int) -> float:
        nonlocal committed
        committed += name == "fid"
        if committed == 4:
            server.kill()
        return value(mask, name, seed)

    fill(round, until_killed)
    assert committed > 4
    attribute.run(round.uri)
    fill(round, value)
    evaluate.run(round.uri)
    with pytest.raises(TrackingError, match=r"cannot start the run of round .*nothing is lost"):
        publish.run(round.uri)
    assert head(round.store, "tiny") is None
    server.start()
    publish.run(round.uri)
    client = MlflowClient(server.url)
    check_against_ledger(client, logged(client, "killed", round), Round.open(round.uri), tmp_path)
    assert head(round.store, "tiny") == round.id
