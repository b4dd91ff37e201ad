"""The header of a safetensors file, which the safetensors library reads only from files."""

import json
from typing import Any


def header(data: bytes) -> dict[str, str]:
    """The metadata written beside the tensors; empty where none were written.

    Raises ValueError where `data` is not a safetensors file.
    """
    metadata = _whole(data).get("__metadata__", {})
    if not isinstance(metadata, dict):
        raise ValueError(f"found metadata {type(metadata).__name__}, expected a mapping")
    return metadata


def shape(data: bytes, name: str) -> tuple[int, ...] | None:
    """The shape of a tensor, None where there is none of this name. Raises ValueError where `data` is not a
    safetensors file."""
    tensor = _whole(data).get(name)
    try:
        return None if tensor is None else tuple(tensor["shape"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"found no shape of the tensor {name!r}") from error


def _whole(data: bytes) -> dict[str, Any]:
    try:
        length = int.from_bytes(data[:8], "little")
        whole = json.loads(data[8 : 8 + length])
    except (TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"found no safetensors header in {len(data)} bytes") from error
    if not isinstance(whole, dict):
        raise ValueError(f"found no safetensors header in {len(data)} bytes")
    return whole
