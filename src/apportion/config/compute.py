"""Section `compute`: where the arithmetic runs."""

from typing import Annotated, Literal

from pydantic import Field

from apportion.config.strict import Count, Strict


class ComputeOptions(Strict):
    """The precision is resolved when a round is planned and is part of its game; each process looks for the
    device."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    shards: Annotated[int, Field(ge=1, le=64)] = 2
    threads: Count = 1
    base_threads: Count = 2
