"""The precision that models of a round are computed in. The answer is part of the game: values of two
precisions never mix."""

import sys
from pathlib import Path
from typing import Literal

from apportion.config.compute import ComputeOptions

ACCELERATORS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Device files of which Linux has at least one where there is an accelerator that torch.cuda could find."""


def resolve(options: ComputeOptions) -> Literal["fp32", "bf16"]:
    """`auto` is bf16 where the requested device multiplies bf16 fast. For `cuda` it is always bf16, because
    workers may have a CUDA device where this machine has none; for `cpu` and `auto` it depends on this
    machine."""
    if options.precision != "auto":
        return options.precision
    fast = options.device == "cuda" or (options.device == "auto" and _cuda()) or _processor()
    return "bf16" if fast else "fp32"


def _cuda() -> bool:
    """Whether torch finds CUDA here. On Linux without an accelerator torch is not imported."""
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
