"""Where and how exactly the arithmetic runs: device, precision, threads, and generators that depend on nothing but their key."""

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
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    @property
    def name(self) -> str:
        """As recorded beside every cost, such as "cpu (2 threads), fp32"."""
        if self.device.type == "cuda":
            return f"{torch.cuda.get_device_name(self.device)}, {self.precision}"
        return f"cpu ({torch.get_num_threads()} threads), {self.precision}"


def prepare(device: str, precision: str, threads: int) -> Compute:
    """The compute of this process. Sets the number of threads: the order of a parallel sum is part of a bit-identical result."""
    chosen = pick(device)
    if chosen.type == "cpu":
        torch.set_num_threads(threads)
    else:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may sum in another order each time
        torch.use_deterministic_algorithms(True, warn_only=True)
    return Compute(chosen, precision)


def fast_bf16(device: str) -> bool:
    """Whether training is faster in bf16 than in fp32: on a GPU, and on a processor that multiplies it itself (AMX or AVX512-BF16).

    For `cuda` that is known without one: a round may be planned where there is no GPU. `cpu` and `auto` are what is found here.
    """
    if device == "cuda" or pick(device).type == "cuda":
        return True
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def pick(device: str) -> torch.device:
    """`auto` is CUDA where there is one. Raises ConfigError where CUDA is asked for and absent."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("found no CUDA device on this machine, expected one for compute.device: cuda; choose auto or cpu")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def generator(*key: object) -> torch.Generator:
    """A CPU generator seeded by the hash of its key, so that streams for different purposes never overlap."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
