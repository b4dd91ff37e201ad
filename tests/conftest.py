"""The same examples in every run, and one thread for each library: tests share two cores with the servers they start."""

import os

from hypothesis import settings

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # read when numpy and torch are imported, here or in a child
    os.environ[name] = "1"

settings.register_profile("apportion", derandomize=True, deadline=None)
settings.load_profile("apportion")
