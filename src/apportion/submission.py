"""What pods of a cluster do not share: whatever of a configuration only this machine has is refused before anything is sent."""

import json
import logging
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from apportion.config import WORKERS, Config, Folder, Tracking
from apportion.errors import ConfigError

LARGEST, USUAL = 256 * 1024, 10_000
"""Bytes of a run's parameters: what a cluster can carry, and what KFP's API server takes unless MAX_PARAMETER_BYTES tells it otherwise."""


def parameters(config: Config) -> dict[str, Any]:
    """Of a run. Raises ConfigError where pods could not use them, or no cluster could carry them."""
    check_shared(config)
    told = {"config": config.model_dump_json(), "shards": list(range(config.compute.shards))}
    if (size := _size(told)) > LARGEST:
        raise ConfigError(f"found a configuration of {size:,} bytes, expected at most {LARGEST:,}; shorten its longest lists")
    return told


def remarks(config: Config, told: dict[str, Any]) -> list[tuple[int, str]]:
    """What is to be seen to beside, each with its level of logging."""
    found = []
    for option, path in _in_pod(config).items():
        claims = [f"on the claim {volume.claim}" for volume in config.cluster.volumes if PurePosixPath(path).is_relative_to(volume.path)]
        where = claims[0] if claims else f"in the image {config.cluster.image('plan')}"
        found.append((logging.INFO, f"{option}: `plan` reads {path} in its pod, so it must be {where}"))
    if config.compute.device == "auto" and any(config.cluster.pool(stage).accelerators for stage in WORKERS):
        auto = "compute.device is auto: `plan` settles the precision where it runs, without an accelerator; say compute.device: cuda"
        found.append((logging.WARNING, auto))
    if (size := _size(told)) > USUAL:
        large = f"the configuration has {size} bytes: KFP takes {USUAL}, or as many as its API server's MAX_PARAMETER_BYTES says"
        found.append((logging.WARNING, large))
    return found


def check_shared(config: Config) -> None:
    """Raises ConfigError where the configuration names what is on this machine only: every stage runs in a pod of its own."""
    if urlsplit(config.store).scheme != "s3":
        raise _unshared("store", config.store, "s3://bucket/prefix, which all pods reach")
    check_tracking(config.tracking)
    for option, path in _in_pod(config).items():
        if not path.startswith("/") or "{workdir}" in path:
            raise _unshared(option, path, "an absolute path: `plan` reads it in its pod, from a claim (cluster.volumes) or the image")


def check_tracking(tracking: Tracking) -> None:
    """The same, of tracking alone."""
    if tracking.uri is None:
        return
    if urlsplit(tracking.uri).scheme.partition("+")[0] in ("", "file", "sqlite"):
        raise _unshared("tracking.uri", tracking.uri, "the https://… of an MLflow server, or null")
    if tracking.artifacts is not None and not _artifacts_reachable(tracking.uri, tracking.artifacts):
        raise _unshared("tracking.artifacts", tracking.artifacts, "s3://bucket/prefix, or null for what the server has")


def _size(told: dict[str, Any]) -> int:
    return len(json.dumps(told).encode())


def _in_pod(config: Config) -> dict[str, str]:
    """By option, the paths that `plan` reads."""
    places = {"network": config.network} | ({"data.path": config.data.path} if isinstance(config.data, Folder) else {})
    named = {option: place for option, place in places.items() if urlsplit(place).scheme != "s3" and place != "openmoji"}
    return {option: place.removeprefix("file://") for option, place in named.items()}


def _artifacts_reachable(uri: str, artifacts: str) -> bool:
    """A path without a scheme is left to the server where there is one."""
    scheme = urlsplit(artifacts).scheme
    return scheme != "file" and (scheme != "" or uri.startswith("http"))


def _unshared(option: str, found: str, expected: str) -> ConfigError:
    return ConfigError(f"found {found!r}, which pods of a cluster do not share, expected {expected} (option {option})")
