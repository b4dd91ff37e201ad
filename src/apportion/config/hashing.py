"""Hashes of values, which addresses in the store are made of."""

import hashlib
import json
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel


def digest(value: Any) -> str:
    """32 hexadecimal digits of SHA-256 over the canonical JSON text of a value (sorted keys, no blanks).

    Raises ValueError for a number that is not finite.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def identity(value: Any) -> Any:
    """The JSON value that an id is the digest of: of a model, the fields that differ from their defaults.

    So an option that is added later changes no id if its default keeps the earlier behaviour. A default must
    never change (tests/test_defaults.py), because one id would then stand for two different things. A field
    that allows only one value, such as the name of a family, is always part of an id.
    """
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return {
            name: identity(getattr(value, name))
            for name, field in fields.items()
            if not field.exclude and (_fixed(field.annotation) or getattr(value, name) != field.get_default())
        }
    if isinstance(value, dict):
        return {key: identity(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [identity(item) for item in value]
    return value


def _fixed(annotation: Any) -> bool:
    """Whether a type has a single value."""
    return get_origin(annotation) is Literal and len(get_args(annotation)) == 1
