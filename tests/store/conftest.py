"""The servers, and an empty store on each backend."""

from pathlib import Path

import pytest
from servers import s3_bucket, s3_endpoint  # noqa: F401

from apportion.store import Store, open_store


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store; a test with it runs once for each backend."""
    if request.param == "file":
        return open_store((tmp_path / "a store").as_uri())
    return open_store(f"s3://{request.getfixturevalue('s3_bucket')}/some/prefix")
