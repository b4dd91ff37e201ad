"""Checks of a configuration before it is submitted to a cluster, and remarks on it for the user.

The pods of a cluster do not share a disk with the machine that submits, so they cannot read its files and
databases.
"""

import json
import logging
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from apportion.config.data import Folder
from apportion.config.network import EMBEDDED, OWN, Architecture
from apportion.config.round import Config
from apportion.config.stages import STAGES
from apportion.config.tracking import TrackingOptions
from apportion.errors import ConfigError

MAX_BYTES = 256 * 1024
"""Bytes of a run's parameters that a cluster can carry at most."""
USUAL = 10_000
"""Bytes of a run's parameters that KFP's API server accepts, unless its MAX_PARAMETER_BYTES differs."""


def run_parameters(config: Config) -> dict[str, Any]:
    """The parameters of a run. Raises ConfigError where pods cannot use them or they are too long."""
    check_shared(config)
    values = {"config": config.model_dump_json(), "shards": list(range(config.compute.shards))}
    if (size := _size(values)) > MAX_BYTES:
        raise ConfigError(
            f"found a configuration of {size:,} bytes, expected at most {MAX_BYTES:,}; shorten its longest "
            "lists"
        )
    return values


def remarks(config: Config, values: dict[str, Any]) -> list[tuple[int, str]]:
    """What the user should check, each as a level of logging and a text. values: from `run_parameters`."""
    result = []
    for option, path in _paths_in_pods(config).items():
        volumes = [
            volume for volume in config.cluster.volumes if PurePosixPath(path).is_relative_to(volume.path)
        ]
        image = config.cluster.image("plan")
        place = f"on the claim {volumes[0].claim}" if volumes else f"in the image {image}"
        result.append((logging.INFO, f"{option}: `plan` reads {path} in its pod, so it must be {place}"))
    accelerated = [stage for stage, row in STAGES.items() if row.accelerated]
    if config.compute.device == "auto" and any(
        config.cluster.pool(stage).accelerators for stage in accelerated
    ):
        text = (
            "compute.device is auto: `plan` chooses the precision on its own node, which has no "
            "accelerator; set compute.device: cuda"
        )
        result.append((logging.WARNING, text))
    if (size := _size(values)) > USUAL:
        text = (
            f"the configuration has {size} bytes: KFP accepts {USUAL}, unless MAX_PARAMETER_BYTES of its API "
            "server has another value"
        )
        result.append((logging.WARNING, text))
    return result


def check_shared(config: Config) -> None:
    """Raises ConfigError where the configuration names a place that only this machine has.

    On a cluster, every stage runs in a separate pod.
    """
    if urlsplit(config.store).scheme != "s3":
        raise _not_shared("store", config.store, "s3://bucket/prefix, which all pods reach")
    check_tracking_address(config.tracking)
    for option, path in _paths_in_pods(config).items():
        if not path.startswith("/") or "{workdir}" in path:
            expected = (
                "an absolute path: `plan` reads it in its pod, from a claim (cluster.volumes) or from the "
                "image"
            )
            raise _not_shared(option, path, expected)


def check_tracking_address(tracking: TrackingOptions) -> None:
    """As `check_shared`, for the section `tracking` alone."""
    if tracking.uri is None:
        return
    if urlsplit(tracking.uri).scheme.partition("+")[0] in ("", "file", "sqlite"):
        raise _not_shared("tracking.uri", tracking.uri, "the https://… of an MLflow server, or null")
    if tracking.artifacts is not None and not _artifacts_reachable(tracking.uri, tracking.artifacts):
        expected = "s3://bucket/prefix, or null for the place that the server chooses"
        raise _not_shared("tracking.artifacts", tracking.artifacts, expected)


def _size(values: dict[str, Any]) -> int:
    return len(json.dumps(values).encode())


def _paths_in_pods(config: Config) -> dict[str, str]:
    """The paths that `plan` reads in its pod, by option."""
    places = {}
    if isinstance(config.network, Architecture):
        places["network.weights"] = config.network.weights
    elif config.network not in (None, EMBEDDED, OWN):
        places["network"] = config.network
    if config.evaluation.evidence is not None:
        places["evaluation.evidence"] = config.evaluation.evidence
    if isinstance(config.data, Folder):
        places["data.path"] = config.data.path
    files = {
        name: place for name, place in places.items() if urlsplit(place).scheme != "s3" and place != EMBEDDED
    }
    return {name: place.removeprefix("file://") for name, place in files.items()}


def _artifacts_reachable(uri: str, artifacts: str) -> bool:
    """Whether pods can write artifacts there. A path is ignored where there is a server, which chooses."""
    scheme = urlsplit(artifacts).scheme
    return scheme != "file" and (scheme != "" or uri.startswith("http"))


def _not_shared(option: str, value: str, expected: str) -> ConfigError:
    return ConfigError(
        f"found {value!r}, which pods of a cluster do not share, expected {expected} (option {option})"
    )
