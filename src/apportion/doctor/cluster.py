"""What runs find in their namespace: Secrets, certificates, accounts and what these may do, nodes, and images."""

from base64 import b64decode
from collections.abc import Generator, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, get_args
from urllib.parse import urlsplit

from apportion import kubeflow as kfp
from apportion.config import WORKERS, Authority, Cluster, Kfp, Pool, Secret, Stage, Volume
from apportion.doctor import nodes
from apportion.doctor.checking import Answer, Finding, Known, attempt, failed, ok, passed_over, skipped, warning
from apportion.doctor.kubeflow import SECURE, Kubeflow, subject
from apportion.doctor.kubernetes import Kubernetes, connect
from apportion.doctor.registry import Login, logins, pullable

LEVEL = "pod-security.kubernetes.io/enforce"
PULL = "kubernetes.io/dockerconfigjson"


class Right(NamedTuple):
    """A verb on a resource, as the Kubernetes API asks for permissions."""

    verb: str
    group: str
    resource: str
    subresource: str | None = None
    name: str | None = None

    def __str__(self) -> str:
        of = f"/{self.subresource}" if self.subresource else f" {self.name}" if self.name else ""
        return f"{self.verb} {self.resource}{of}{'.' if self.group else ''}{self.group}"


def _rights(verbs: str, group: str, resource: str, subresource: str | None = None) -> list[Right]:
    return [Right(verb, group, resource, subresource) for verb in verbs.split()]


KFP = "pipelines.kubeflow.org"
REGISTRATION = [
    *_rights("get list create", KFP, "pipelines"),
    *_rights("get list create", KFP, "pipelines", "versions"),
    *_rights("get list create", KFP, "experiments"),
    *_rights("get list create", KFP, "runs"),
    *_rights("get list create delete enable", KFP, "jobs"),
]
"""What KFP with several users asks the Kubernetes API for before it registers a pipeline, runs or schedules it."""

RUNNING = [
    *_rights("create patch", "argoproj.io", "workflowtaskresults"),
    *_rights("get", "", "pods"),
    Right("get", "", "configmaps", None, "kfp-launcher"),
]
"""What the pods of a run do with their service account."""


def check_cluster(told: Cluster, kubeflow: Kubeflow) -> Generator[Finding, None, Kubernetes | None]:
    checks = _checks(told, kubeflow)
    connected: list[Kubernetes] = []
    yield attempt("cluster", lambda: _reached(told, kubeflow, connected))
    if not connected:
        yield from passed_over(checks, "there is no cluster to ask")
        return None
    api = connected[0]
    for check, act in checks.items():
        finding = attempt(check, partial(act, api))
        where = f"; namespace {api.namespace} is from {api.chosen}" if finding.mend and not check.startswith("nodes") else ""
        yield replace(finding, mend=finding.mend + where)
    return api


def _checks(told: Cluster, kubeflow: Kubeflow) -> dict[str, Any]:
    """The checks that need the Kubernetes API, by name."""
    account = told.kfp.service_account or ("default-editor" if kubeflow.many_users else "pipeline-runner")
    found: dict[str, Any] = {"namespace": partial(_namespace, kubeflow=kubeflow)}
    for secret in told.secrets:
        found[f"secret {secret.name}"] = partial(_secret, told=secret)
    if told.ca:
        found[f"config map {told.ca.config_map}"] = partial(_authority, told=told.ca)
    for volume in told.volumes:
        found[f"volume {volume.claim}"] = partial(_volume, told=volume)
    for name in told.pull_secrets:
        found[f"pull secret {name}"] = partial(_pull_secret, name=name)
    found["service account"] = partial(_account, name=account)
    found["permissions: runs"] = partial(_may_run, account=account)
    found["permissions: ours"] = partial(_may_register, kubeflow=kubeflow)
    for name, pool in _pools(told).items():
        found[f"nodes: {name}"] = partial(_fit, name=name.partition(" ")[0], pool=pool)
    return found


def _reached(told: Cluster, kubeflow: Kubeflow, connected: list[Kubernetes]) -> Answer:
    api = connect(told.kfp.namespace, _of_kfp(told.kfp) if kubeflow.many_users is False else None)
    version = api.look("ask for the version", "", lambda **limits: api.version.get_code(**limits))
    if version is None:
        return failed(f"{api.host} is no Kubernetes API", "see the kubeconfig (KUBECONFIG)")
    connected.append(api)
    return ok(f"Kubernetes {version.git_version} at {api.host}, as {api.who()}")


def _of_kfp(told: Kfp) -> str:
    """The namespace that KFP itself is in, by its address where that is a service's."""
    parts = (urlsplit(kfp.address(told) or "").hostname or "").split(".")
    return parts[1] if parts[2:3] == ["svc"] else "kubeflow"


def _namespace(api: Kubernetes, kubeflow: Kubeflow) -> Answer:
    grant = f"get on namespace {api.namespace}"
    found = api.look("see the namespace", grant, lambda **limits: api.core.read_namespace(api.namespace, **limits))
    if found is None:
        return failed(f"there is no namespace {api.namespace}", f"kubectl create namespace {api.namespace}, or name another")
    level = (found.metadata.labels or {}).get(LEVEL)
    said = f"{api.namespace}; Pod Security enforces {level or 'nothing'}"
    if level == "restricted" and kubeflow.version is not None and kubeflow.version < SECURE:
        return warning(
            f"{said}, which KFP's own containers satisfy from {'.'.join(map(str, SECURE))} on", f"upgrade KFP, or set {LEVEL}=baseline"
        )
    return ok(said)


def _secret(api: Kubernetes, told: Secret) -> Answer:
    """Names of keys only: of a value it is looked at whether there is one, and whether white space surrounds it."""
    data = api.secret(told.name)
    literals = " ".join(f"--from-literal={key}=…" for key in sorted(set(told.env.values())))
    create = f"kubectl -n {api.namespace} create secret generic {told.name} {literals}"
    if data is None:
        return _absent(f"it is not in namespace {api.namespace}", told, create)
    keys = sorted(set(told.env.values()))
    if missing := [key for key in keys if not data.data.get(key)]:
        return _absent(
            f"without {', '.join(missing)}; it has {', '.join(sorted(data.data)) or 'nothing'}",
            told,
            f"{create}, or correct cluster.secrets",
        )
    if odd := [key for key in keys if data.padded(key)]:
        return warning(f"white space surrounds {', '.join(odd)}, as `echo` without -n leaves it", create)
    return ok(f"has {', '.join(keys)}")


def _absent(found: str, told: Secret, create: str) -> Answer:
    if told.optional:
        variables = ", ".join(told.env)
        return warning(
            f"{found}; optional, so pods start without {variables}", f"nothing, where pods have an identity of their own; else {create}"
        )
    return failed(f"{found}; no pod starts without", create)


def _authority(api: Kubernetes, told: Authority) -> Answer:
    create = f"kubectl -n {api.namespace} create configmap {told.config_map} --from-file={told.key}=FILE"
    grant = f"get on config map {told.config_map} in {api.namespace}"
    found = api.look("see it", grant, lambda **limits: api.core.read_namespaced_config_map(told.config_map, api.namespace, **limits))
    if found is None:
        return failed(f"it is not in namespace {api.namespace}; no pod starts without", create)
    text = (found.data or {}).get(told.key)
    if text is None:
        return failed(
            f"without {told.key}; it has {', '.join(sorted(found.data or {})) or 'nothing'}", f"{create}, or correct cluster.ca.key"
        )
    if "-----BEGIN CERTIFICATE-----" not in text:
        return failed(f"{told.key} holds no certificate (PEM)", create)
    return ok(f"has {told.key}, {text.count('-----BEGIN CERTIFICATE-----')} certificates")


def _volume(api: Kubernetes, told: Volume) -> Answer:
    grant = f"get on persistent volume claim {told.claim} in {api.namespace}"
    found = api.look(
        "see it", grant, lambda **limits: api.core.read_namespaced_persistent_volume_claim(told.claim, api.namespace, **limits)
    )
    if found is None:
        mend = "make it and fill it with the images, or correct cluster.volumes"
        return failed(f"there is no claim {told.claim} in namespace {api.namespace}; no pod of `plan` starts without", mend)
    phase = found.status.phase if found.status else None
    if phase == "Bound":
        return ok(f"bound, {', '.join(found.spec.access_modes or [])}; `plan` has it at {told.path}")
    if phase == "Lost":
        return failed(f"claim {told.claim} has lost its volume", "restore the volume, or name another claim in cluster.volumes")
    return warning(f"claim {told.claim} is not bound yet: nothing can be in it", "fill it with the images: the pod that does binds it")


def _pull_secret(api: Kubernetes, name: str) -> Answer:
    create = f"kubectl -n {api.namespace} create secret docker-registry {name} --docker-server=… --docker-username=… --docker-password=…"
    found = api.secret(name)
    if found is None:
        return failed(f"it is not in namespace {api.namespace}", create)
    if found.kind != PULL:
        return failed(f"its type is {found.kind}, expected {PULL}", create)
    hosts = sorted(logins(b64decode(found.data.get(".dockerconfigjson", ""))))
    return ok(f"for {', '.join(hosts)}") if hosts else failed("it names no registry", create)


def _account(api: Kubernetes, name: str) -> Answer:
    grant = f"get on service account {name} in {api.namespace}"
    found = api.look("see it", grant, lambda **limits: api.core.read_namespaced_service_account(name, api.namespace, **limits))
    if found is None:
        return failed(
            f"there is no service account {name} in namespace {api.namespace}",
            "install the chart with serviceAccount.create=true, or name another in cluster.kfp.service_account",
        )
    return ok(f"{name} in namespace {api.namespace}")


def _there(api: Kubernetes, account: str) -> bool:
    """False only where we may see that it is not."""
    try:
        return _account(api, account).result == "ok"
    except Known:
        return True


def _may_run(api: Kubernetes, account: str) -> Answer:
    who = f"system:serviceaccount:{api.namespace}:{account}"
    if not _there(api, account):
        return skipped(f"there is no service account {account}")
    lacking = [right for right in RUNNING if not api.may(right, who)]
    if lacking:
        return failed(
            f"{account} may not {', '.join(map(str, lacking))} in {api.namespace}",
            "install the chart with rbac.create=true, or bind a role with these to it",
        )
    return ok(f"{account} may do what a run's pods do")


def _may_register(api: Kubernetes, kubeflow: Kubeflow) -> Answer:
    """KFP asks for the rights of whom its token is of, who need not be whom the Kubernetes API knows us as."""
    if not kubeflow.many_users:
        return skipped("KFP for one user asks for none" if kubeflow.many_users is False else "nothing is known of KFP")
    token = kfp.token().text
    who = subject(token)
    if who is None:
        why = "the token for KFP is not of a service account" if token else "KFP is sent no token"
        return skipped(f"{why}: whose rights it asks for is not known here")
    asked = None if who == api.who() else who
    lacking = [right for right in REGISTRATION if not api.may(right, asked)]
    if lacking:
        return failed(
            f"{who} may not {', '.join(map(str, lacking))} in {api.namespace}: KFP refuses then to register, run or schedule",
            "bind a role with these to it (the chart: rbac.create=true), or use the token of another account",
        )
    return ok(f"{who} may register, run and schedule in {api.namespace}")


def _pools(told: Cluster) -> dict[str, Pool]:
    """What stages ask of nodes, each once, by the name of their pool, and of the stages where these ask for different amounts."""
    asking: dict[str, dict[Stage, Pool]] = {}
    for stage in get_args(Stage):
        own = told.stages[stage].pool if stage in told.stages else None
        asking.setdefault(own or ("gpu" if stage in WORKERS else "cpu"), {})[stage] = told.pool(stage)
    found = {}
    for name, stages in asking.items():
        different = list({repr(pool): pool for pool in stages.values()}.values())
        for pool in different:
            of = "" if len(different) == 1 else f" ({', '.join(stage for stage, asked in stages.items() if asked == pool)})"
            found[name + of] = pool
    return found


def _fit(api: Kubernetes, name: str, pool: Pool) -> Answer:
    grant = "list on nodes, which is of the whole cluster (the chart: doctor.clusterRead=true)"
    found = api.look("list nodes", grant, lambda **limits: api.core.list_node(resource_version="0", **limits))
    return nodes.fit(name, pool, [nodes.read(node) for node in found.items])


def check_images(told: Cluster, api: Kubernetes | None) -> Iterator[Finding]:
    """Whether the registry has the images and gives them to who asks as a node would: it is asked from here."""
    for image in sorted({told.image(stage) for stage in get_args(Stage)}):
        if told.pull_policy == "Never":
            yield from passed_over([f"image {image}"], "cluster.pull_policy is Never: it must be on the nodes")
        else:
            yield attempt(f"image {image}", lambda image=image: pullable(image, _logins(told, api)))  # type: ignore[misc]


def _logins(told: Cluster, api: Kubernetes | None) -> dict[str, Login]:
    found: dict[str, Login] = {}
    for name in told.pull_secrets if api else []:
        assert api is not None
        secret = api.secret(name)
        found |= logins(b64decode(secret.data.get(".dockerconfigjson", ""))) if secret else {}
    return found
