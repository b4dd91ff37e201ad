"""What a task of a pipeline gets from the `cluster` section of the configuration. This is the one place that says so."""

from kfp import kubernetes
from kfp.dsl.pipeline_task import PipelineTask

from apportion.config import Cluster, Pool, Stage

USER = 10001
"""Of the images: user and group are numbers, so that Kubernetes can see that neither is root."""

WRITABLE = {"work": "/work", "tmp": "/tmp"}  # noqa: S108 (the pod's own)
"""Volumes of their own for what processes write: everything else may be read-only."""

AUTHORITY = "/etc/apportion/ca"
TRUSTING = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
"""Variables that boto3, MLflow's requests and the ssl module take certificate authorities from."""

BACKOFF = 60
"""Seconds before a task is tried again; twice as long each time after."""


def equip(task: PipelineTask, stage: Stage, cluster: Cluster) -> PipelineTask:
    """The same task with image, resources, node, environment, volumes, identity, patience and labels for one stage."""
    pool = cluster.pool(stage)
    task.set_container_image(cluster.images.gpu if pool.accelerators else cluster.images.cpu)
    kubernetes.set_image_pull_policy(task, cluster.pull_policy)
    if cluster.pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(cluster.pull_secrets))
    _resources(task, pool)
    _place(task, pool)
    _environment(task, cluster)
    _volumes(task, cluster, pool)
    if stage == "plan":  # which takes what it reads into the store, from where the other stages have it
        for volume in cluster.volumes:
            kubernetes.mount_pvc(task, volume.claim, volume.path)
    _patience(task, cluster.attempts(stage), round(cluster.hours(stage) * 3600))
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


def _place(task: PipelineTask, pool: Pool) -> None:
    for key, value in pool.node_selector.items():
        kubernetes.add_node_selector(task, key, value)
    for toleration in pool.tolerations:
        kubernetes.add_toleration(task, toleration.key, toleration.operator, toleration.value, toleration.effect)


def _environment(task: PipelineTask, cluster: Cluster) -> None:
    """Plain variables as they are, those of Secrets by reference: no secret is part of a pipeline."""
    plain = {"HOME": WRITABLE["work"], "TMPDIR": WRITABLE["tmp"]}
    if cluster.ca:
        plain |= dict.fromkeys(TRUSTING, f"{AUTHORITY}/{cluster.ca.key}")
    for name, value in (plain | cluster.env).items():
        task.set_env_variable(name, value)
    for secret in cluster.secrets:
        for name, key in secret.env.items():  # one by one: KFP maps keys to variables, and two variables may be from one key
            kubernetes.use_secret_as_env(task, secret.name, {key: name}, optional=secret.optional)


def _volumes(task: PipelineTask, cluster: Cluster, pool: Pool) -> None:
    for name, path in WRITABLE.items():
        kubernetes.empty_dir_mount(task, volume_name=name, mount_path=path)
    if pool.shm is not None:
        kubernetes.empty_dir_mount(task, volume_name="shm", mount_path="/dev/shm", medium="Memory", size_limit=pool.shm)  # noqa: S108
    if cluster.ca:
        kubernetes.use_config_map_as_volume(task, cluster.ca.config_map, AUTHORITY)


def _patience(task: PipelineTask, attempts: int, seconds: int) -> None:
    """`seconds` for each attempt. Argo takes the longest backoff for the end of all attempts, from the start of the first; KFP's own
    hour would leave a task that was lost in its second hour untried."""
    kubernetes.set_timeout(task, seconds)
    if attempts:
        waits = BACKOFF * (2**attempts - 1)
        task.set_retry(attempts, f"{BACKOFF}s", 2.0, f"{(attempts + 1) * seconds + waits}s")
