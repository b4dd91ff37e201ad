"""The folder of results that workers share, and the situations that many tests look at."""

import os

import pytest
from chart import SITUATIONS, Object, keep_results_in, situation


@pytest.fixture(scope="session", autouse=True)
def results(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One folder of helm's results for the whole session."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    keep_results_in(shared / "helm")


@pytest.fixture(params=SITUATIONS)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    """What the chart renders in each situation."""
    return situation(request.param)
