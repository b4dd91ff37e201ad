"""The defaults of options that ids are made of. An id leaves out what has its default
(`config.hashing.identity`), so a default must not change: instead bump `records.SCHEMA`, or give the option
another name."""

import json
from pathlib import Path

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from apportion.config.round import Config
from apportion.records import Game

PINNED = Path(__file__).with_name("defaults.json")
"""By class and field. New options are added here; nothing here may change."""


def models(kind, seen=None):
    """A model and the models of its fields, all the way down."""
    seen = {} if seen is None else seen
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        if kind.__name__ not in seen:
            seen[kind.__name__] = kind
            for field in kind.model_fields.values():
                models(field.annotation, seen)
    else:
        for part in getattr(kind, "__args__", ()):
            models(part, seen)
    return seen


def defaults():
    found = {}
    for name, kind in sorted({**models(Config), **models(Game)}.items()):
        for field, about in kind.model_fields.items():
            value = about.get_default(call_default_factory=True, validated_data={})
            if value is not PydanticUndefined and not about.exclude:
                plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
                found[f"{name}.{field}"] = json.loads(
                    json.dumps(plain, default=lambda v: v.model_dump(mode="json"))
                )
    return found


def test_defaults_do_not_change():
    cluster = (
        "Cluster.",
        "ContainerImages.",
        "Pool.",
        "Kfp.",
        "Secret.",
        "Toleration.",
        "StageOptions.",
        "Authority.",
    )
    now = {name: value for name, value in defaults().items() if not name.startswith(cluster)}
    assert now == json.loads(PINNED.read_text(encoding="utf-8"))
