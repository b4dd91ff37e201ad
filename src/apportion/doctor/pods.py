"""Checks of what pods get from the configuration: that they can use it, and that their settings are those
with which the other checks here connect to the servers."""

import logging
import os
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from apportion import submission
from apportion.config.cluster import Cluster
from apportion.config.round import Config
from apportion.doctor.checking import Answer, Finding, ok, run_check, warning
from apportion.planning.checks import check_options

SETTINGS = re.compile(r"AWS_|APPORTION_S3_|MLFLOW_")
"""The beginnings of the names of variables that configure store and tracking."""

FROM_CLUSTER_ONLY = (
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"),
    *("APPORTION_S3_ADDRESSING", "APPORTION_S3_SSE", "APPORTION_S3_KMS_KEY"),
    "MLFLOW_S3_ENDPOINT_URL",
)
"""Variables that a pod gets from the section `cluster` only. Where one is set here alone, pods connect to
another server, or in another way."""


def is_for_cluster(config: Config) -> bool:
    """Whether a configuration is for a cluster.

    It is where two of three hold: the store is one that pods share, there is a section `cluster`, and this
    runs in a cluster.
    """
    signs = (
        urlsplit(config.store).scheme == "s3",
        bool(config.cluster.model_fields_set),
        "KUBERNETES_SERVICE_HOST" in os.environ,
    )
    return sum(signs) >= 2


def check_alone(config: Config) -> Iterator[Finding]:
    """The check of a configuration for one machine."""
    yield run_check("configuration", lambda: _consistent(config))


def _consistent(config: Config) -> Answer:
    check_options(config)
    return ok("the names of properties and methods are known, and the options fit each other")


def check_pods(config: Config) -> Iterator[Finding]:
    yield run_check("configuration", lambda: _configuration(config))
    yield run_check("environment", lambda: _environment(config.cluster))


def _configuration(config: Config) -> Answer:
    """Refuses what submitting refuses, for the same reason."""
    remarks = submission.remarks(config, submission.run_parameters(config))
    if warnings := [remark for level, remark in remarks if level > logging.INFO]:
        return warning("pods can use it", "; ".join(warnings))
    return ok("; ".join(["pods can use it", *(remark for _, remark in remarks)]))


def _environment(cluster: Cluster) -> Answer:
    """Compares the settings of pods with those of this process."""
    of_pods = {name: value for name, value in cluster.env.items() if SETTINGS.match(name)}
    from_secrets = {name for secret in cluster.secrets for name in secret.env}
    only_here = {name for name in FROM_CLUSTER_ONLY if os.environ.get(name) and name not in from_secrets}
    differences = []
    for name in sorted(of_pods.keys() | only_here):
        here, there = os.environ.get(name, ""), of_pods.get(name, "")
        if here != there:
            differences.append(f"{name} is {_quoted(here)} here, {_quoted(there)} there")
    if differences:
        return warning(
            "these checks connect to store and tracking with the settings of this process, and pods have "
            f"others: {'; '.join(differences)}",
            "set the same in cluster.env and here, or run this in the cluster (helm test)",
        )
    return ok(
        "these checks connect to store and tracking with the settings of pods, except Secrets, identities "
        "and the network"
    )


def _quoted(value: str) -> str:
    return repr(value) if value else "unset"
