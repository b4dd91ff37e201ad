"""What each task of a pipeline gets from the section `cluster` of the configuration. No other module sets
options of tasks."""

from kfp import kubernetes
from kfp.dsl.pipeline_task import PipelineTask

from apportion.config.cluster import Cluster, Pool
from apportion.config.stages import STAGES, Stage

USER = 10001
"""User and group of the images, as numbers: from a name Kubernetes cannot know whether the user is root."""

WRITABLE = {"work": "/work", "tmp": "/tmp"}  # noqa: S108 (the pod's own)
"""The volumes that processes write to. The rest of the file system may be read-only."""

CA_FOLDER = "/etc/apportion/ca"
CA_VARIABLES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
"""Variables in which boto3, requests (for MLflow) and the ssl module look for certificate authorities."""

BACKOFF = 60
"""Seconds before the first retry of a task. Each further retry waits twice as long as the one before."""


def equip(task: PipelineTask, stage: Stage, cluster: Cluster) -> PipelineTask:
    """The same task with image, resources, nodes, environment, volumes, time limit, retries, user and labels
    of a stage."""
    pool = cluster.pool(stage)
    task.set_container_image(cluster.image(stage))
    kubernetes.set_image_pull_policy(task, cluster.pull_policy)
    if cluster.pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(cluster.pull_secrets))
    _resources(task, pool)
    _nodes(task, pool)
    _environment(task, cluster)
    _volumes(task, cluster, pool)
    if STAGES[stage].phase == "plan":  # `plan` copies its input into the store, where other stages read it
        for volume in cluster.volumes:
            kubernetes.mount_pvc(task, volume.claim, volume.path)
    _limits(task, cluster.retries_of(stage), round(cluster.hours(stage) * 3600))
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    for key, value in cluster.labels.items():
        kubernetes.add_pod_label(task, key, value)
    return task


def _resources(task: PipelineTask, pool: Pool) -> None:
    task.set_cpu_request(pool.cpu).set_memory_request(pool.memory).set_memory_limit(pool.memory)
    if pool.cpu_limit is not None:
        task.set_cpu_limit(pool.cpu_limit)
    if pool.accelerator is not None:
        task.set_accelerator_type(pool.accelerator).set_accelerator_limit(pool.accelerators)


def _nodes(task: PipelineTask, pool: Pool) -> None:
    for key, value in pool.node_selector.items():
        kubernetes.add_node_selector(task, key, value)
    for toleration in pool.tolerations:
        kubernetes.add_toleration(
            task, toleration.key, toleration.operator, toleration.value, toleration.effect
        )


def _environment(task: PipelineTask, cluster: Cluster) -> None:
    """Plain variables by value, variables of Secrets by reference: no secret is part of a pipeline."""
    variables = {"HOME": WRITABLE["work"], "TMPDIR": WRITABLE["tmp"]}
    if cluster.ca:
        variables |= dict.fromkeys(CA_VARIABLES, f"{CA_FOLDER}/{cluster.ca.key}")
    for name, value in (variables | cluster.env).items():
        task.set_env_variable(name, value)
    for secret in cluster.secrets:
        # One call for each variable: KFP maps keys to variables, and two variables may come from the same
        # key.
        for name, key in secret.env.items():
            kubernetes.use_secret_as_env(task, secret.name, {key: name}, optional=secret.optional)


def _volumes(task: PipelineTask, cluster: Cluster, pool: Pool) -> None:
    for name, path in WRITABLE.items():
        kubernetes.empty_dir_mount(task, volume_name=name, mount_path=path)
    if pool.shm is not None:
        shm = "/dev/shm"  # noqa: S108 (the pod's own)
        kubernetes.empty_dir_mount(task, "shm", shm, medium="Memory", size_limit=pool.shm)
    if cluster.ca:
        kubernetes.use_config_map_as_volume(task, cluster.ca.config_map, CA_FOLDER)


def _limits(task: PipelineTask, retries: int, seconds: int) -> None:
    """A time limit of `seconds` for each attempt, and so many retries.

    Argo takes the longest backoff as a limit for all attempts together, from the start of the first. With
    KFP's default, an hour, a task that fails in its second hour would not be retried, so the limit is set to
    the time that all attempts and waits may take.
    """
    kubernetes.set_timeout(task, seconds)
    if retries:
        waits = BACKOFF * (2**retries - 1)
        longest = (retries + 1) * seconds + waits
        task.set_retry(retries, f"{BACKOFF}s", backoff_factor=2.0, backoff_max_duration=f"{longest}s")
