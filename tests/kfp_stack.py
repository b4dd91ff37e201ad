"""A fixture for tests that build pipelines in their own process: KFP's inspection of the call stack costs
seconds for each pipeline below pytest. Import it in the conftest.py or the file of the tests."""

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from kfp.dsl import pipeline_task


def _stack() -> list[Any]:
    """As much of `inspect.stack()` as KFP uses: the name of the function that called the caller."""
    caller = sys._getframe(2)
    return [None, (caller, caller.f_code.co_filename, caller.f_lineno, caller.f_code.co_name)]


@pytest.fixture(scope="session", autouse=True)
def cheap_call_stack() -> Iterator[None]:
    """KFP calls `inspect.stack()` for most options of a task, only to name the option in an error message.
    That searches every imported module for each function of the stack, which is slow below pytest and with
    torch imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline_task, "inspect", SimpleNamespace(stack=_stack))
        yield
