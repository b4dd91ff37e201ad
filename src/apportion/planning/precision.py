"""The precision that models of a round are computed in. The answer is part of the game: values of two
precisions never mix."""

import sys
from pathlib import Path
from typing import Literal

from apportion.config.compute import ComputeOptions

ACCELERATORS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Device files of which Linux has at least one where there is an accelerator that torch.cuda could find."""


def resolve(options: ComputeOptions) -> Literal["fp32", "bf16"]:
    """`auto` is bf16 where the requested device multiplies it fast. Workers that have that device need not be
    where this runs, so for `cuda` it is known without one; for `cpu` and `auto` it depends on what is found
    here."""
    if options.precision != "auto":
        return options.precision
    fast = options.device == "cuda" or (options.device == "auto" and _cuda()) or _processor()
    return "bf16" if fast else "fp32"


def _cuda() -> bool:
    """Whether torch finds CUDA here. Where Linux has no accelerator the answer takes no import of torch."""
    if sys.platform == "linux" and not any(Path(path).exists() for path in ACCELERATORS):
        return False
    import torch

    return torch.cuda.is_available()


def _processor() -> bool:
    """Whether the processor multiplies bf16 itself (AMX or AVX512-BF16)."""
    if sys.platform == "linux":
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
        return bool(flags & {"amx_tile", "avx512_bf16"})
    import torch

    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
