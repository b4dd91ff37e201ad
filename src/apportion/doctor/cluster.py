"""Checks of what runs need in their namespace: Secrets, certificates, volumes, service accounts and their
permissions, nodes, and images."""

from base64 import b64decode
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple
from urllib.parse import urlsplit

from apportion import kubeflow as kfp
from apportion.config.cluster import Authority, Cluster, Kfp, Pool, Secret, Volume
from apportion.config.stages import STAGES
from apportion.doctor import nodes
from apportion.doctor.checking import (
    Answer,
    EarlyAnswer,
    Finding,
    failed,
    ok,
    run_check,
    skip_all,
    skipped,
    warning,
)
from apportion.doctor.kubeflow import SECURE, Kubeflow, subject
from apportion.doctor.kubernetes import Kubernetes, connect
from apportion.doctor.registry import Login, check_pull, logins

POD_SECURITY = "pod-security.kubernetes.io/enforce"
"""The label of a namespace with its level of Pod Security."""
PULL_SECRET = "kubernetes.io/dockerconfigjson"  # noqa: S105 (a type)
"""The type of a pull secret."""
CERTIFICATE = "-----BEGIN CERTIFICATE-----"

Check = Callable[[Kubernetes], Answer]


class Permission(NamedTuple):
    """A verb on a resource, as the Kubernetes API reviews permissions."""

    verb: str
    group: str
    resource: str
    subresource: str | None = None
    name: str | None = None

    def __str__(self) -> str:
        resource = self.resource
        if self.subresource:
            resource += f"/{self.subresource}"
        elif self.name:
            resource += f" {self.name}"
        return f"{self.verb} {resource}{'.' if self.group else ''}{self.group}"


def _permissions(verbs: str, group: str, resource: str, subresource: str | None = None) -> list[Permission]:
    return [Permission(verb, group, resource, subresource) for verb in verbs.split()]


KFP = "pipelines.kubeflow.org"
REGISTRATION = [
    *_permissions("get list create", KFP, "pipelines"),
    *_permissions("get list create", KFP, "pipelines", "versions"),
    *_permissions("get list create", KFP, "experiments"),
    *_permissions("get list create", KFP, "runs"),
    *_permissions("get list create delete enable", KFP, "jobs"),
]
"""What KFP for several users requires of the sender to register, run or schedule a pipeline."""

RUNNING = [
    *_permissions("create patch", "argoproj.io", "workflowtaskresults"),
    *_permissions("get", "", "pods"),
    Permission("get", "", "configmaps", None, "kfp-launcher"),
]
"""What the pods of a run do with their service account."""


def check_cluster(cluster: Cluster, kubeflow: Kubeflow) -> Generator[Finding, None, Kubernetes | None]:
    """Yields the findings and returns the connection to the cluster; None where it cannot be reached."""
    checks = _checks(cluster, kubeflow)
    connections: list[Kubernetes] = []
    yield run_check("cluster", lambda: _reachable(cluster, kubeflow, connections))
    if not connections:
        yield from skip_all(checks, "the cluster cannot be reached")
        return None
    api = connections[0]
    for name, check in checks.items():
        finding = run_check(name, partial(check, api))
        if finding.fix and not name.startswith("nodes"):
            origin = f"namespace {api.namespace} is from {api.chosen}"
            finding = replace(finding, fix=f"{finding.fix}; {origin}")
        yield finding
    return api


def _checks(cluster: Cluster, kubeflow: Kubeflow) -> dict[str, Check]:
    """The checks that need the Kubernetes API, by name."""
    account = cluster.kfp.service_account or ("default-editor" if kubeflow.multi_user else "pipeline-runner")
    checks: dict[str, Check] = {"namespace": partial(_namespace, kubeflow=kubeflow)}
    for secret in cluster.secrets:
        checks[f"secret {secret.name}"] = partial(_secret, secret=secret)
    if cluster.ca:
        checks[f"config map {cluster.ca.config_map}"] = partial(_authority, authority=cluster.ca)
    for volume in cluster.volumes:
        checks[f"volume {volume.claim}"] = partial(_volume, volume=volume)
    for name in cluster.pull_secrets:
        checks[f"pull secret {name}"] = partial(_pull_secret, name=name)
    checks["service account"] = partial(_account, name=account)
    checks["permissions: runs"] = partial(_may_run, account=account)
    checks["permissions: registration"] = partial(_may_register, kubeflow=kubeflow)
    for name, (pool_name, pool) in _pools(cluster).items():
        checks[f"nodes: {name}"] = partial(_nodes, name=pool_name, pool=pool)
    return checks


def _reachable(cluster: Cluster, kubeflow: Kubeflow, connections: list[Kubernetes]) -> Answer:
    """Appends the connection to `connections` where the Kubernetes API answers."""
    of_kfp = _namespace_of_kfp(cluster.kfp) if kubeflow.multi_user is False else None
    api = connect(cluster.kfp.namespace, of_kfp)
    version = api.request("get the version", "", lambda **limits: api.version.get_code(**limits))
    if version is None:
        return failed(f"{api.host} is no Kubernetes API", "check the kubeconfig (KUBECONFIG)")
    connections.append(api)
    username = api.username() or "a user whose name is not known"
    return ok(f"Kubernetes {version.git_version} at {api.host}, as {username}")


def _namespace_of_kfp(options: Kfp) -> str:
    """The namespace of KFP itself: from its address inside the cluster, else the usual one."""
    parts = (urlsplit(kfp.address(options) or "").hostname or "").split(".")
    return parts[1] if parts[2:3] == ["svc"] else "kubeflow"


def _namespace(api: Kubernetes, kubeflow: Kubeflow) -> Answer:
    read = api.core.read_namespace
    permission = f"get on namespace {api.namespace}"
    namespace = api.request("read the namespace", permission, lambda **limits: read(api.namespace, **limits))
    if namespace is None:
        return failed(
            f"there is no namespace {api.namespace}",
            f"kubectl create namespace {api.namespace}, or name another",
        )
    level = (namespace.metadata.labels or {}).get(POD_SECURITY)
    message = f"{api.namespace}; Pod Security enforces {level or 'nothing'}"
    if level == "restricted" and kubeflow.version is not None and kubeflow.version < SECURE:
        return warning(
            f"{message}, which KFP's own containers satisfy from {'.'.join(map(str, SECURE))} on",
            f"upgrade KFP, or set {POD_SECURITY}=baseline",
        )
    return ok(message)


def _secret(api: Kubernetes, secret: Secret) -> Answer:
    """Names of keys only; of a value, whether it is empty, and whether blanks surround it."""
    keys = sorted(set(secret.env.values()))
    literals = " ".join(f"--from-literal={key}=…" for key in keys)
    create = f"kubectl -n {api.namespace} create secret generic {secret.name} {literals}"
    existing = api.secret(secret.name)
    if existing is None:
        return _missing(f"it is not in namespace {api.namespace}", secret, create)
    if missing := [key for key in keys if not existing.data.get(key)]:
        present = ", ".join(sorted(existing.data)) or "no keys"
        message = f"it lacks {', '.join(missing)}; it has {present}"
        return _missing(message, secret, f"{create}, or correct cluster.secrets")
    if padded := [key for key in keys if existing.has_surrounding_blanks(key)]:
        return warning(f"white space surrounds {', '.join(padded)}, as `echo` without -n leaves it", create)
    return ok(f"has {', '.join(keys)}")


def _missing(message: str, secret: Secret, create: str) -> Answer:
    """A Secret that pods need, or one without which they start with fewer variables."""
    if secret.optional:
        return warning(
            f"{message}; it is optional, so pods start without {', '.join(secret.env)}",
            f"nothing, where pods have an identity of their own; else {create}",
        )
    return failed(f"{message}; no pod starts without it", create)


def _authority(api: Kubernetes, authority: Authority) -> Answer:
    name, key = authority.config_map, authority.key
    create = f"kubectl -n {api.namespace} create configmap {name} --from-file={key}=FILE"
    read = api.core.read_namespaced_config_map
    permission = f"get on config map {name} in {api.namespace}"
    config_map = api.request("read it", permission, lambda **limits: read(name, api.namespace, **limits))
    if config_map is None:
        return failed(f"it is not in namespace {api.namespace}; no pod starts without it", create)
    data = config_map.data or {}
    if key not in data:
        present = ", ".join(sorted(data)) or "no keys"
        return failed(f"it lacks {key}; it has {present}", f"{create}, or correct cluster.ca.key")
    number = data[key].count(CERTIFICATE)
    if not number:
        return failed(f"{key} holds no certificate (PEM)", create)
    return ok(f"has {key}, {number} certificates")


def _volume(api: Kubernetes, volume: Volume) -> Answer:
    claim_name = volume.claim
    read = api.core.read_namespaced_persistent_volume_claim
    permission = f"get on persistent volume claim {claim_name} in {api.namespace}"
    claim = api.request("read it", permission, lambda **limits: read(claim_name, api.namespace, **limits))
    if claim is None:
        return failed(
            f"there is no claim {claim_name} in namespace {api.namespace}; no pod of `plan` starts without "
            "it",
            "make it and fill it with the images, or correct cluster.volumes",
        )
    phase = claim.status.phase if claim.status else None
    if phase == "Bound":
        modes = ", ".join(claim.spec.access_modes or [])
        return ok(f"bound, {modes}; `plan` has it at {volume.path}")
    if phase == "Lost":
        return failed(
            f"claim {claim_name} has lost its volume",
            "restore the volume, or name another claim in cluster.volumes",
        )
    return warning(
        f"claim {claim_name} is not bound yet, so it is empty",
        "fill it with the images: the first pod that mounts it binds it",
    )


def _pull_secret(api: Kubernetes, name: str) -> Answer:
    create = (
        f"kubectl -n {api.namespace} create secret docker-registry {name} --docker-server=… "
        "--docker-username=… --docker-password=…"
    )
    secret = api.secret(name)
    if secret is None:
        return failed(f"it is not in namespace {api.namespace}", create)
    if secret.kind != PULL_SECRET:
        return failed(f"found type {secret.kind}, expected {PULL_SECRET}", create)
    hosts = sorted(logins(b64decode(secret.data.get(".dockerconfigjson", ""))))
    return ok(f"for {', '.join(hosts)}") if hosts else failed("it names no registry", create)


def _account(api: Kubernetes, name: str) -> Answer:
    read = api.core.read_namespaced_service_account
    permission = f"get on service account {name} in {api.namespace}"
    account = api.request("read it", permission, lambda **limits: read(name, api.namespace, **limits))
    if account is None:
        return failed(
            f"there is no service account {name} in namespace {api.namespace}",
            "install the chart with serviceAccount.create=true, or name another in "
            "cluster.kfp.service_account",
        )
    return ok(f"{name} in namespace {api.namespace}")


def _may_exist(api: Kubernetes, account: str) -> bool:
    """False only where we have the permission to see that there is no such account."""
    try:
        return _account(api, account).result == "ok"
    except EarlyAnswer:
        return True


def _may_run(api: Kubernetes, account: str) -> Answer:
    if not _may_exist(api, account):
        return skipped(f"there is no service account {account}")
    full_name = f"system:serviceaccount:{api.namespace}:{account}"
    missing = [permission for permission in RUNNING if not api.has_permission(permission, full_name)]
    if missing:
        return failed(
            f"{account} lacks permissions in {api.namespace}: {', '.join(map(str, missing))}",
            "install the chart with rbac.create=true, or bind a role with these to the account",
        )
    return ok(f"{account} has the permissions that the pods of a run need")


def _may_register(api: Kubernetes, kubeflow: Kubeflow) -> Answer:
    """KFP requires the permissions of the account that its token belongs to. That may be another account than
    the one with which we use the Kubernetes API."""
    if not kubeflow.multi_user:
        reason = "KFP for one user requires none" if kubeflow.multi_user is False else "KFP cannot be reached"
        return skipped(reason)
    token = kfp.token().text
    account = subject(token)
    if account is None:
        reason = "the token for KFP is not of a service account" if token else "no token is sent to KFP"
        return skipped(f"{reason}, so it is not known here whose permissions KFP requires")
    other = None if account == api.username() else account
    missing = [permission for permission in REGISTRATION if not api.has_permission(permission, other)]
    if missing:
        return failed(
            f"{account} lacks permissions in {api.namespace}: {', '.join(map(str, missing))}; without them "
            "KFP does not register, run or schedule a pipeline",
            "bind a role with these to it (the chart: rbac.create=true), or use the token of another account",
        )
    return ok(f"{account} may register, run and schedule in {api.namespace}")


def _pools(cluster: Cluster) -> dict[str, tuple[str, Pool]]:
    """What stages request of nodes, without repetition, with the name of their pool.

    The key is that name; where the stages of a pool request different amounts, it also lists the stages.
    """
    by_pool: dict[str, dict[str, Pool]] = {}
    for stage in STAGES:
        by_pool.setdefault(cluster.pool_name(stage), {})[stage] = cluster.pool(stage)
    result = {}
    for pool_name, by_stage in by_pool.items():
        different = list({repr(pool): pool for pool in by_stage.values()}.values())
        for pool in different:
            stages = [stage for stage, requested in by_stage.items() if requested == pool]
            suffix = "" if len(different) == 1 else f" ({', '.join(stages)})"
            result[pool_name + suffix] = (pool_name, pool)
    return result


def _nodes(api: Kubernetes, name: str, pool: Pool) -> Answer:
    permission = "list on nodes, a permission of the whole cluster (the chart: doctor.clusterRead=true)"
    # resource_version 0: from the cache of the API server, which is cheaper for it.
    list_nodes = partial(api.core.list_node, resource_version="0")
    listed = api.request("list nodes", permission, lambda **limits: list_nodes(**limits))
    return nodes.fit(name, pool, [nodes.read(node) for node in listed.items])


def check_images(cluster: Cluster, api: Kubernetes | None) -> Iterator[Finding]:
    """Whether the registry has the images, and lets us pull them with the pull secrets of runs."""
    for image in sorted({cluster.image(stage) for stage in STAGES}):
        if cluster.pull_policy == "Never":
            yield from skip_all([f"image {image}"], "cluster.pull_policy is Never: it must be on the nodes")
        else:
            yield run_check(f"image {image}", partial(_image, image, cluster, api))


def _image(image: str, cluster: Cluster, api: Kubernetes | None) -> Answer:
    by_registry: dict[str, Login] = {}
    if api is not None:
        for name in cluster.pull_secrets:
            if secret := api.secret(name):
                by_registry |= logins(b64decode(secret.data.get(".dockerconfigjson", "")))
    return check_pull(image, by_registry)
