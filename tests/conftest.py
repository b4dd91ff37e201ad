"""The same examples in every run, one thread for each library (tests share two cores with the servers they
start), and the order of the files."""

import os

import pytest
from hypothesis import settings

# These are read when numpy and torch are imported, here or in a child process.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

# fsync is for power failures, and takes time. What a killed process has written is not lost without it.
os.fsync = lambda fd: None

SLOW = ("test_resume.py", "test_outage.py", "test_run.py", "test_bad_input.py", "test_s3.py")
"""Files that take longest, the longest first: a worker that begins one last works alone at the end (`make
test`)."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: SLOW.index(item.path.name) if item.path.name in SLOW else len(SLOW))


settings.register_profile("apportion", derandomize=True, deadline=None)
settings.load_profile("apportion")
