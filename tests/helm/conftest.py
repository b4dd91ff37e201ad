"""The situations that many tests look at."""

import pytest
from chart import SITUATIONS, Object, situation


@pytest.fixture(params=SITUATIONS)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    """What the chart renders in each situation."""
    return situation(request.param)
