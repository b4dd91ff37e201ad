"""What making a stored object cost, kept in the object's own header."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from apportion.errors import Damaged
from apportion.safetensors import header


@dataclass
class Clock:
    """Seconds a block took; zero until it ends."""

    seconds: float = 0.0


@contextmanager
def timed() -> Iterator[Clock]:
    clock, start = Clock(), time.perf_counter()
    yield clock
    clock.seconds = time.perf_counter() - start


@dataclass(frozen=True)
class Spent:
    """What making an object cost: seconds of fine-tuning, seconds of sampling, and the device."""

    finetune: float
    sample: float
    device: str

    def header(self) -> dict[str, str]:
        return {"finetune_seconds": f"{self.finetune:.3f}", "sample_seconds": f"{self.sample:.3f}", "device": self.device}

    @classmethod
    def read(cls, data: bytes, origin: str) -> "Spent":
        """Raises Damaged, naming `origin`, where the header does not say."""
        try:
            about = header(data)
            return cls(float(about["finetune_seconds"]), float(about["sample_seconds"]), about["device"])
        except (KeyError, ValueError) as error:
            raise Damaged(f"found no cost in the header of {origin}: {error}; it is left as it is") from error
