"""What a run on a cluster is told. Whatever its pods could not reach is refused here, before anything is sent."""

import json
import logging
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from apportion.config import WORKERS, Config, Folder
from apportion.errors import ConfigError

log = logging.getLogger(__name__)

LARGEST, USUAL = 256 * 1024, 10_000
"""Bytes of a run's parameters: what a cluster can carry, and what KFP's API server takes unless MAX_PARAMETER_BYTES tells it otherwise."""


def parameters(config: Config) -> dict[str, Any]:
    """Of a run. Raises ConfigError where pods could not use them, or KFP would not take them."""
    check_shared(config)
    told = {"config": config.model_dump_json(), "shards": list(range(config.compute.shards))}
    size = len(json.dumps(told).encode())
    if size > LARGEST:
        raise ConfigError(f"found a configuration of {size:,} bytes, expected at most {LARGEST:,}; shorten its longest lists")
    if size > USUAL:
        log.warning("the configuration has %s bytes: KFP takes %s, or as many as its API server's MAX_PARAMETER_BYTES says", size, USUAL)
    return told


def check_shared(config: Config) -> None:
    """Raises ConfigError where the configuration names what is on this machine only: every stage runs in a pod of its own."""
    tracking = config.tracking
    if urlsplit(config.store).scheme != "s3":
        raise _unshared("store", config.store, "s3://bucket/prefix, which all pods reach")
    if tracking.uri is not None and urlsplit(tracking.uri).scheme.partition("+")[0] in ("", "file", "sqlite"):
        raise _unshared("tracking.uri", tracking.uri, "the https://… of an MLflow server, or null")
    if tracking.uri is not None and tracking.artifacts is not None and not _artifacts_reachable(tracking.uri, tracking.artifacts):
        raise _unshared("tracking.artifacts", tracking.artifacts, "s3://bucket/prefix, or null for what the server has")
    places = {"network": config.network} | ({"data.path": config.data.path} if isinstance(config.data, Folder) else {})
    for option, place in places.items():
        path = place.removeprefix("file://")
        if urlsplit(place).scheme == "s3" or place == "openmoji":
            continue
        if not path.startswith("/") or "{workdir}" in path:
            raise _unshared(option, place, "an absolute path: `plan` reads it in its pod, from a claim (cluster.volumes) or the image")
        claims = [f"on the claim {volume.claim}" for volume in config.cluster.volumes if PurePosixPath(path).is_relative_to(volume.path)]
        where = claims[0] if claims else f"in the image {config.cluster.image('plan')}"
        log.info("%s: `plan` reads %s in its pod, so it must be %s", option, path, where)
    if config.compute.device == "auto" and any(config.cluster.pool(stage).accelerators for stage in WORKERS):
        log.warning("compute.device is auto: `plan` settles the precision where it runs, without an accelerator; say compute.device: cuda")


def _artifacts_reachable(uri: str, artifacts: str) -> bool:
    """A path without a scheme is left to the server where there is one."""
    scheme = urlsplit(artifacts).scheme
    return scheme != "file" and (scheme != "" or uri.startswith("http"))


def _unshared(option: str, found: str, expected: str) -> ConfigError:
    return ConfigError(f"found {found!r}, which pods of a cluster do not share, expected {expected} (option {option})")
