"""The same examples in every run, and one thread for each library: tests share two cores with the servers they start."""

import os

import pytest
from hypothesis import settings

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # read when numpy and torch are imported, here or in a child
    os.environ[name] = "1"

SLOW = ("test_resume.py", "test_outage.py", "test_run.py", "test_bad_input.py", "test_s3.py")
"""Files that take longest, the longest first: a worker that begins one last works alone at the end (`make test`)."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: SLOW.index(item.path.name) if item.path.name in SLOW else len(SLOW))


settings.register_profile("apportion", derandomize=True, deadline=None)
settings.load_profile("apportion")
