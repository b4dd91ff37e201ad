"""An S3 server, and one thread for torch."""

import pytest
import torch
from servers import s3_bucket, s3_endpoint  # noqa: F401


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
