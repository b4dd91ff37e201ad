"""Checks whether everything that a configuration names exists and can be used, from where this runs.

Each check gives one finding, with a way to fix what is wrong. No check stops another: each has a time limit,
and a check without the permissions that it needs is skipped, which is not a failure.
"""

from collections.abc import Iterator
from urllib.parse import urlsplit

from apportion.config.round import Config
from apportion.doctor.checking import Finding, skip_all
from apportion.doctor.cluster import check_cluster, check_images
from apportion.doctor.kubeflow import check_kubeflow
from apportion.doctor.places import check_store, check_tracking
from apportion.doctor.pods import check_alone, check_pods, is_for_cluster
from apportion.doctor.table import table, to_json

__all__ = ["Finding", "examine", "table", "to_json"]

ONE_MACHINE = "the configuration is for one machine: `store` is a folder, and there is no section `cluster`"


def examine(config: Config, images: bool = False) -> Iterator[Finding]:
    """The findings, each as soon as its check ends. images: whether to check the registry, too."""
    yield from check_pods(config) if is_for_cluster(config) else check_alone(config)
    yield from check_store(config)
    yield from check_tracking(config)
    if urlsplit(config.store).scheme == "file" and not config.cluster.model_fields_set:
        yield from skip_all(["kfp", "cluster"], ONE_MACHINE)
        return
    kubeflow = yield from check_kubeflow(config.cluster.kfp)
    api = yield from check_cluster(config.cluster, kubeflow)
    if images:
        yield from check_images(config.cluster, api)
