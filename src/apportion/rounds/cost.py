"""What making a stored object cost, kept in the object's own header."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pydantic import ValidationError

from apportion.errors import Damaged
from apportion.records import Cost
from apportion.safetensors import header


@dataclass
class Clock:
    """Seconds that a block took; zero until it ends."""

    seconds: float = 0.0


@contextmanager
def timed() -> Iterator[Clock]:
    """Measures the time of a block."""
    clock, start = Clock(), time.perf_counter()
    yield clock
    clock.seconds = time.perf_counter() - start


def cost_header(cost: Cost) -> dict[str, str]:
    """The cost as metadata of a safetensors file, in seconds to the millisecond."""
    return {
        "finetune_seconds": f"{cost.finetune:.3f}",
        "sample_seconds": f"{cost.sample:.3f}",
        "device": cost.device,
    }


def read_cost(data: bytes, origin: str) -> Cost:
    """The cost in the header of a stored object. Raises Damaged, naming `origin`, where there is none."""
    try:
        fields = header(data)
        return Cost(
            finetune=float(fields["finetune_seconds"]),
            sample=float(fields["sample_seconds"]),
            device=fields["device"],
        )
    except (KeyError, ValueError, ValidationError) as error:
        raise Damaged(f"found no cost in the header of {origin}: {error}; it is left as it is") from error
