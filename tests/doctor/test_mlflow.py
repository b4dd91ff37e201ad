"""What the doctor finds of tracking servers: a real MLflow, behind proxies that misbehave."""

from collections.abc import Callable
from pathlib import Path

from servers import Answer, free_port, proxy
from tiny import CONFIG

from apportion.config import load
from apportion.doctor import Finding
from apportion.doctor.places import check_tracking

Forward = Callable[[], Answer]


def found(workdir: Path, *overrides: str) -> Finding:
    (finding,) = check_tracking(load(CONFIG, overrides, workdir))
    return finding


def says(finding: Finding, result: str, *words: str) -> None:
    text = f"{finding.found} → {finding.mend}"
    assert finding.result == result, text
    assert not [word for word in words if word not in text], text


def test_a_server_that_can_be_written(mlflow_server: str, tmp_path: Path) -> None:
    says(found(tmp_path, f"tracking.uri={mlflow_server}"), "ok", mlflow_server, "artifacts too")


def test_a_database_of_ones_own(tmp_path: Path) -> None:
    assert found(tmp_path).result == "ok"
    assert found(tmp_path, "tracking.uri=null").result == "skipped"


def test_mlflow_is_down(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    says(found(tmp_path, f"tracking.uri={url}"), "failed", url, "refused", "change tracking.uri")


def test_mlflow_denies(mlflow_server: str, tmp_path: Path) -> None:
    """To write, though it may be read."""

    def deny(method: str, _: dict[str, str], forward: Forward) -> Answer:
        return Answer(403, {}, b'{"error_code": "PERMISSION_DENIED", "message": "no"}') if method == "POST" else forward()

    with proxy(mlflow_server, deny) as url:
        said = found(tmp_path, f"tracking.uri={url}")
    says(said, "failed", "PERMISSION_DENIED", "credentials (MLFLOW_TRACKING_…)")


def test_mlflow_denies_artifacts(mlflow_server: str, tmp_path: Path) -> None:
    def deny(method: str, _: dict[str, str], forward: Forward) -> Answer:
        return Answer(403, {}, b"no") if method == "PUT" else forward()

    with proxy(mlflow_server, deny) as url:
        said = found(tmp_path, f"tracking.uri={url}")
    says(said, "failed", "cannot write artifacts", "403", "tracking.artifacts")
