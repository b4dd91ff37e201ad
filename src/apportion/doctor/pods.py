"""What pods are told, looked at from here: a configuration that they can use, and settings beside those that our checks were made with."""

import logging
import os
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from apportion import shared
from apportion.config import Cluster, Config
from apportion.doctor.checking import Answer, Finding, attempt, ok, warning

READ = re.compile(r"AWS_|APPORTION_S3_|MLFLOW_")
"""How variables begin that store and tracking take their settings from."""

DECISIVE = (
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "APPORTION_S3_ADDRESSING", "APPORTION_S3_SSE", "APPORTION_S3_KMS_KEY"),
    "MLFLOW_S3_ENDPOINT_URL",
)
"""Those that nothing but `cluster` gives to a pod: set here alone, pods ask another server, or in another way."""


def for_cluster(config: Config) -> bool:
    """Two of three: a store that pods share, a word about the cluster, and that we are in one."""
    return (urlsplit(config.store).scheme == "s3") + bool(config.cluster.model_fields_set) + ("KUBERNETES_SERVICE_HOST" in os.environ) > 1


def check_pods(config: Config) -> Iterator[Finding]:
    yield attempt("configuration", lambda: _usable(config))
    yield attempt("environment", lambda: _same(config.cluster))


def _usable(config: Config) -> Answer:
    """As submitting refuses it."""
    found = shared.remarks(config, shared.parameters(config))
    if doubts := [remark for level, remark in found if level > logging.INFO]:
        return warning("pods can use it", "; ".join(doubts))
    return ok("; ".join(["pods can use it", *(remark for _, remark in found)]))


def _same(told: Cluster) -> Answer:
    given = {name: value for name, value in told.env.items() if READ.match(name)}
    secret = {name for secret in told.secrets for name in secret.env}
    names = sorted({*given, *(name for name in DECISIVE if os.environ.get(name) and name not in secret)})
    if other := [name for name in names if given.get(name, "") != os.environ.get(name, "")]:
        said = (f"{name} is {_shown(os.environ.get(name))} here, {_shown(given.get(name))} there" for name in other)
        mend = "set the same in cluster.env and here, or run this in the cluster (helm test)"
        return warning(f"store and tracking are asked with our settings, and pods have others: {'; '.join(said)}", mend)
    return ok("store and tracking are asked with what pods are set, but for Secrets, identities and the network")


def _shown(value: str | None) -> str:
    return repr(value) if value else "unset"
