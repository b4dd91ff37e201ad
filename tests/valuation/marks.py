"""Marks of test cases."""

import pytest


def slow(*values):
    """A case of a parametrised test that the default run leaves out; `make test-slow` runs it."""
    return pytest.param(*values, marks=pytest.mark.slow)
