"""The header of a safetensors file, which its own library reads from files only."""

import json


def header(data: bytes) -> dict[str, str]:
    """The metadata written beside the tensors. Raises ValueError where `data` is no safetensors file with metadata."""
    try:
        length = int.from_bytes(data[:8], "little")
        about = json.loads(data[8 : 8 + length])["__metadata__"]
    except (KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"found no safetensors header with metadata in {len(data)} bytes") from error
    if not isinstance(about, dict):
        raise ValueError(f"found metadata {type(about).__name__}, expected a mapping")
    return about
