"""The doctor's check of tracking servers: a real MLflow, behind proxies that refuse some requests."""

from collections.abc import Callable
from pathlib import Path

import pytest
from findings import CONFIG, check_finding
from servers import Answer, free_port, proxy

from apportion.config.loading import load
from apportion.doctor import Finding
from apportion.doctor.places import check_tracking

Forward = Callable[[], Answer]


def finding_of(workdir: Path, *overrides: str) -> Finding:
    (finding,) = check_tracking(load(CONFIG, overrides, workdir))
    return finding


def test_a_server_that_can_be_written(mlflow_server: str, tmp_path: Path) -> None:
    finding = finding_of(tmp_path, f"tracking.uri={mlflow_server}")
    check_finding(finding, "ok", mlflow_server, "and so can its artifacts")


@pytest.mark.usefixtures("no_migrations")
def test_a_local_database(tmp_path: Path) -> None:
    assert finding_of(tmp_path).result == "ok"
    assert finding_of(tmp_path, "tracking.uri=null").result == "skipped"


def test_a_server_that_is_down(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    check_finding(
        finding_of(tmp_path, f"tracking.uri={url}"), "failed", url, "refused", "change tracking.uri"
    )


def test_a_server_that_can_only_be_read(mlflow_server: str, tmp_path: Path) -> None:
    def deny(method: str, _: dict[str, str], forward: Forward) -> Answer:
        denied = Answer(403, {}, b'{"error_code": "PERMISSION_DENIED", "message": "no"}')
        return denied if method == "POST" else forward()

    with proxy(mlflow_server, deny) as url:
        finding = finding_of(tmp_path, f"tracking.uri={url}")
    check_finding(finding, "failed", "PERMISSION_DENIED", "credentials (MLFLOW_TRACKING_…)")


def test_a_server_that_refuses_artifacts(mlflow_server: str, tmp_path: Path) -> None:
    def deny(method: str, _: dict[str, str], forward: Forward) -> Answer:
        return Answer(403, {}, b"no") if method == "PUT" else forward()

    with proxy(mlflow_server, deny) as url:
        finding = finding_of(tmp_path, f"tracking.uri={url}")
    check_finding(finding, "failed", "cannot write artifacts", "403", "tracking.artifacts")
