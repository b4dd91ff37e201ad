"""Reading a configuration: YAML, overrides from the command line, and the work folder in place of
`{workdir}`."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from apportion.config.credentials import masked
from apportion.config.round import Config
from apportion.errors import ConfigError

UNIONS = {"data": "source", "model": "family", "removal": "method"}
"""Sections that are one of several classes of options, and the option that says which."""

RENAMED = {"valuation.exact": "valuation.retrained"}
"""Options of earlier versions that have another name now."""


class Loader(yaml.SafeLoader):
    """Safe YAML that reads 1e-3 as a number, as YAML 1.2 does, and refuses a key given twice."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        keys = [key.value for key, _ in node.value]
        repeated = [key for key in keys if keys.count(key) > 1]
        if repeated:
            raise yaml.MarkedYAMLError(
                problem=f"found {repeated[0]!r} more than once, expected each option once",
                problem_mark=node.start_mark,
            )
        return node


FLOAT = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
Loader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789"))


def load(path: Path, overrides: Sequence[str] = (), workdir: Path | None = None) -> Config:
    """Reads a YAML configuration, applies `key.sub=value` overrides and replaces `{workdir}`.

    Raises ConfigError, naming each wrong key with what was found, where the text or an override is not valid.
    """
    try:
        raw = _yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"found {type(raw).__name__} in {path}, expected a mapping of options")
    for override in overrides:
        raw = _override(raw, override)
    config = parse(raw, str(path))
    if workdir is None:
        return config
    filled = _fill(
        config.model_dump(mode="json"), str(workdir.resolve())
    )  # a default may name the work folder too
    return parse({**filled, "cluster": raw.get("cluster", {})}, str(path))


def parse(raw: Mapping[str, Any], origin: str) -> Config:
    """Validates a mapping as a Config. Raises ConfigError, which names `origin`."""
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        problems = [f"  {_problem(details)}" for details in error.errors()]
        raise ConfigError(f"{origin} is not a valid configuration:\n" + "\n".join(problems)) from error


def _problem(details: ErrorDetails) -> str:
    """One problem in words: the option, what is wrong, and what was found."""
    option, message, value = _option(details["loc"]), details["msg"], details["input"]
    if details["type"] in ("union_tag_invalid", "union_tag_not_found"):
        name = UNIONS[str(details["loc"][0])]
        option, value = f"{option}.{name}", value.get(name) if isinstance(value, dict) else value
        expected = details.get("ctx", {}).get("expected_tags")
        message = f"Input should be one of {expected}" if expected else "Field required"
    if not option:  # of several sections together: the message names the options and their values
        return message.removeprefix("Value error, ")
    hint = f"; this option is now {RENAMED[option]}" if option in RENAMED else ""
    return f"{option}: {message}{hint} (found {masked(repr(value)):.80})"


def _yaml(text: str) -> Any:
    """The value of a YAML text. Raises ConfigError where it is not YAML, or has a tag that safe YAML does not
    know."""
    try:
        return yaml.load(text, Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # PyYAML raises ValueError for 2026-01-45
        raise ConfigError(str(error)) from error


def _option(loc: tuple[int | str, ...]) -> str:
    """The option as the user writes it, without what pydantic adds: which member of a union was tried."""
    parts = loc[:1] + loc[2:] if loc[0:1] and loc[0] in (*UNIONS, "network") else loc
    return ".".join(str(part) for part in parts if part not in ("constrained-int", "list[str]"))


def _override(raw: dict[str, Any], override: str) -> dict[str, Any]:
    """A copy with one option changed. A section that YAML shares through an anchor changes only where it is
    named."""
    key, equals, value = override.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*", key):
        raise ConfigError(f"found --set {override!r}, expected key.sub=value")
    *parents, last = key.split(".")
    section = whole = dict(raw)
    for parent in parents:
        inner = section.get(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"found --set {override!r}, but {parent!r} is not a section")
        section[parent] = dict(inner)
        section = section[parent]
    try:
        section[last] = _yaml(value)
    except ConfigError as error:
        raise ConfigError(f"found --set {override!r}, expected a YAML value: {error}") from error
    return whole


_RESERVED = str.maketrans(
    {mark: f"%{ord(mark):02X}" for mark in "%?#"}
)  # these end or change the path of a URI


def _fill(value: Any, workdir: str) -> Any:
    if isinstance(value, dict):
        return {key: _fill(item, workdir) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, workdir) for item in value]
    if not isinstance(value, str):
        return value
    is_uri = value.startswith(("file:", "sqlite:"))
    return value.replace("{workdir}", workdir.translate(_RESERVED) if is_uri else workdir)
