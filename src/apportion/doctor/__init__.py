"""Whether everything that a configuration names is there and usable, from where this runs: one finding for each check, with the mend.

No check stops another. Each has its seconds, and one that may not look says so and is skipped: it has not failed.
"""

from collections.abc import Iterator
from urllib.parse import urlsplit

from apportion.config import Config
from apportion.doctor.checking import Finding, passed_over
from apportion.doctor.cluster import check_cluster, check_images
from apportion.doctor.kubeflow import check_kubeflow
from apportion.doctor.places import check_store, check_tracking
from apportion.doctor.pods import check_pods, for_cluster
from apportion.doctor.table import table, to_json

__all__ = ["Finding", "examine", "table", "to_json"]

ALONE = "the configuration is for one machine: `store` is a folder, and nothing is said of a cluster"


def examine(config: Config, images: bool = False) -> Iterator[Finding]:
    """What is found, as it is found; with `images` also whether the registry has them."""
    if for_cluster(config):
        yield from check_pods(config)
    yield from check_store(config)
    yield from check_tracking(config)
    if urlsplit(config.store).scheme == "file" and not config.cluster.model_fields_set:
        yield from passed_over(["kfp", "cluster"], ALONE)
        return
    kubeflow = yield from check_kubeflow(config.cluster.kfp)
    cluster = yield from check_cluster(config.cluster, kubeflow)
    if images:
        yield from check_images(config.cluster, cluster)
