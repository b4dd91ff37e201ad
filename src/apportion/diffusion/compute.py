"""Device, precision and threads of the computation; and random number generators that depend on their key
alone."""

import contextlib
import hashlib
import os
from dataclasses import dataclass

import torch

from apportion.errors import ConfigError


@dataclass(frozen=True)
class Compute:
    """A device and the precision of its matrix products ("fp32" or "bf16")."""

    device: torch.device
    precision: str

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """A context in which matrix products have this precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    @property
    def name(self) -> str:
        """As recorded beside every cost, such as "cpu (2 threads), fp32"."""
        if self.device.type == "cuda":
            return f"{torch.cuda.get_device_name(self.device)}, {self.precision}"
        return f"cpu ({torch.get_num_threads()} threads), {self.precision}"


def prepare(device: str, precision: str, threads: int) -> Compute:
    """The device and precision of this process. Also sets the number of CPU threads, because the order of a
    parallel sum decides the last bits of a result. Raises ConfigError where CUDA is requested and absent."""
    chosen = pick(device)
    if chosen.type == "cpu":
        torch.set_num_threads(threads)
    else:
        # Without this, cuBLAS may sum in another order each time.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        # By default, cuDNN rounds fp32 to a mantissa of 10 bits.
        torch.backends.cudnn.allow_tf32 = precision != "fp32"
    return Compute(chosen, precision)


def pick(device: str) -> torch.device:
    """The device for `auto` (CUDA where there is a CUDA device), `cpu` or `cuda`. Raises ConfigError where
    CUDA is requested and absent."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "found no CUDA device on this machine, expected one for compute.device: cuda; choose auto or cpu"
        )
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def generator(*key: object) -> torch.Generator:
    """A CPU generator seeded by the hash of its key, so that streams for different purposes never overlap."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
