"""The feature network of a configuration: `plan` reads it, or trains it on the images of the round."""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from apportion.config.hashing import digest
from apportion.config.network import EMBEDDED, OWN, Architecture
from apportion.config.round import Config
from apportion.datasets.contribution import Contribution
from apportion.errors import ConfigError, Damaged, PropertyError, StoreError
from apportion.progress import bar
from apportion.properties import PROPERTIES
from apportion.records import NetworkDescription
from apportion.rounds.networks import keep_network, network_hash, stored_network
from apportion.rounds.places import read_place
from apportion.safetensors import header, shape
from apportion.store import Store
from apportion.store.layout import network_key, trained_network_key

log = logging.getLogger(__name__)

EMBEDDED_HASH = "5e1bd87dbf7673b9111458f177e4965d"
"""The hash of the embedded network, as it was released."""
CHOICES = (
    "`network: train`, which trains one on your images, or a file or an architecture of your own "
    '(docs/images.md, "Feature networks")'
)


def _name_of(about: Mapping[str, Any], origin: str) -> str:
    """What kind of network it is and, for a library's, which model and where its weights are from."""
    if "architecture" not in about:
        return "Apportion's small network"
    kind = about.get("config", {}).get("model_type")
    return f"{origin} ({kind})" if kind else origin


def choice_of(config: Config) -> str | Architecture:
    """The option `network`. Where it is left out: the embedded network for the embedded drawings, and for a
    user's own images one that is trained on them, with a warning: it decides what properties mean."""
    if config.network is not None:
        return config.network
    if config.data.source == "openmoji":
        return EMBEDDED
    log.warning(
        "no feature network is named (option network), so one is trained on these images, as with `network: "
        'train`: it decides what %s mean; docs/images.md, "Feature networks", lists others',
        ", ".join(name for name in config.properties if PROPERTIES[name].needs_network),
    )
    return OWN


def network_of(choice: str | Architecture, store: Store, contributions: Sequence[Contribution]) -> bytes:
    """The feature network of an option `network`, as it is now. Raises PropertyError where it cannot be
    read."""
    if choice == OWN:
        return trained_network(store, contributions)
    if isinstance(choice, Architecture):
        return read_architecture(choice)
    data = read_network(choice)
    if choice == EMBEDDED:
        check_embedded(data)
    return data


def trained_network(store: Store, contributions: Sequence[Contribution]) -> bytes:
    """The network that is trained on these images: once for the same images and labels, whoever gave them,
    because a second training might give another on another machine. By labels where every image has one."""
    from apportion.properties.network import dump
    from apportion.properties.own_network import STEPS, VERSION, train_network  # imports torch

    labels = _labels(contributions)
    hashes = [sample for c in contributions for sample in c.sample_hashes]
    samples = list(zip(hashes, labels or [""] * len(hashes), strict=True))
    order = sorted(range(len(samples)), key=samples.__getitem__)
    address = digest({"version": VERSION, "samples": [samples[i] for i in order]})
    key = trained_network_key(address)
    if not store.exists(key):
        with bar(STEPS, "network", "step") as progress:
            network, about = train_network(
                np.concatenate([c.pixels for c in contributions])[order].transpose(0, 3, 1, 2),
                np.concatenate([c.flip for c in contributions])[order],
                labels and [labels[i] for i in order],
                tick=progress.update,
            )
        data = dump(network, about)
        keep_network(store, data)
        store.put_if_absent(key, json.dumps({"network": network_hash(data)}).encode())
    where = store.where(key)
    try:
        trained = str(json.loads(store.get(key))["network"])
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(
            f"found no hash of a network in {where}, expected one; it is left as it is: move it away to have "
            "the network trained again"
        ) from error
    log.info(
        "network: train: %s; name this file to measure with the same network when images change (option "
        "network)",
        store.where(network_key(trained)),
    )
    return stored_network(store, trained)


def _labels(contributions: Sequence[Contribution]) -> list[str] | None:
    """The label of every image; None where not every image has one, or they are too few or too many to learn
    from."""
    labels = [label for c in contributions for label in c.label or [None] * len(c)]
    given = [label for label in labels if label]
    if not given:
        return None
    reason = ""
    if len(given) < len(labels):
        reason = f"{len(labels) - len(given)} of {len(labels)} images have none"
    elif len(set(given)) < 2:
        reason = f"all images have the label {given[0]!r}"
    elif 2 * len(set(given)) > len(given):
        reason = f"there are {len(set(given))} labels for {len(given)} images"
    if reason:
        log.warning("network: train does not use the labels, because %s", reason)
        return None
    return given


def read_architecture(choice: Architecture) -> bytes:
    """A known architecture with the weights at its address, as one file. Raises PropertyError where they
    cannot be read or do not fit."""
    from apportion.properties.architectures import FOLDER_FILES, packed  # imports torch

    if choice.architecture == "transformers":
        weights = {
            name: _read(f"{choice.weights.rstrip('/')}/{name}", "network.weights") for name in FOLDER_FILES
        }
    else:
        weights = {"weights": _read(choice.weights, "network.weights")}
    return packed(choice.architecture, weights, choice.weights)


def read_network(uri: str) -> bytes:
    """The file at a URI: "openmoji" (embedded), a local path, file:///… or s3://bucket/key.

    On S3 the object must carry its sha256 as metadata, as `Store` writes it. Raises PropertyError where it
    cannot be read.
    """
    return _read(uri, "option network")


def _read(uri: str, option: str) -> bytes:
    try:
        return read_place(uri, "classifier.safetensors", option)
    except ConfigError as error:
        raise PropertyError(str(error)) from error
    # ValueError: a null byte in the path; RuntimeError: ~ of an unknown user
    except (OSError, StoreError, ValueError, RuntimeError) as error:
        raise PropertyError(
            f"cannot read the feature network {uri!r} ({option}): {error}; expected {CHOICES}"
        ) from error


def network_description(data: bytes, origin: str) -> NetworkDescription:
    """What a network says of itself. Raises PropertyError, naming `origin`, where it is not one."""
    try:
        about = json.loads(header(data).get("about", "{}"))
        (classes,) = (about["classes"],) if "architecture" in about else shape(data, "head.bias") or (0,)
    except (ValueError, KeyError, TypeError) as error:
        raise PropertyError(
            f"found no feature network in {origin} (option network), expected {CHOICES}: "
            f"{type(error).__name__}: {error}"
        ) from error
    trained_on = about.get("trained_on", "data that its file does not name")
    if network_hash(data) == EMBEDDED_HASH:
        trained_on = "the drawings of OpenMoji, by group of emoji"
    return NetworkDescription(
        network=network_hash(data),
        name=_name_of(about, origin),
        trained_on=str(trained_on),
        classes=classes,
    )


def check_embedded(data: bytes) -> None:
    """Raises PropertyError where the embedded network is not the released one: the installation is
    damaged."""
    if network_hash(data) != EMBEDDED_HASH:
        raise PropertyError(
            f"found an embedded feature network of hash {network_hash(data)}, expected {EMBEDDED_HASH}: "
            "install Apportion again, or name another network (option network)"
        )
