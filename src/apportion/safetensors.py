"""The header of a safetensors file, which the safetensors library reads only from files."""

import json


def header(data: bytes) -> dict[str, str]:
    """The metadata written beside the tensors; empty where none were written.

    Raises ValueError where `data` is not a safetensors file.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    except (AttributeError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"found no safetensors header in {len(data)} bytes") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"found metadata {type(metadata).__name__}, expected a mapping")
    return metadata
