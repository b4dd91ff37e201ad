"""Where and how exactly the arithmetic runs: device, precision, threads, and generators that depend on nothing but their key."""

import contextlib
import hashlib
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Compute:
    """A device and the precision of its matrix products ("fp32" or "bf16")."""

    device: torch.device
    precision: str

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    @property
    def name(self) -> str:
        """As recorded beside every cost, such as "cpu (1 thread), fp32"."""
        if self.device.type == "cuda":
            return f"{torch.cuda.get_device_name(self.device)}, {self.precision}"
        return f"cpu ({torch.get_num_threads()} threads), {self.precision}"


def prepare(device: str, precision: str, threads: int) -> Compute:
    """The compute of this process. Sets the number of threads: the order of a parallel sum is part of a bit-identical result."""
    chosen = torch.device("cuda" if device == "auto" and torch.cuda.is_available() else "cpu" if device == "auto" else device)
    if chosen.type == "cpu":
        torch.set_num_threads(threads)
    else:
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
    return Compute(chosen, precision)


def generator(*key: object) -> torch.Generator:
    """A CPU generator seeded by the hash of its key, so that streams for different purposes never overlap."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
