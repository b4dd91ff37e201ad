"""The Kubernetes API through its own client, where there is one: what we may not see there is skipped, and has not failed."""

import json
import logging
import os
import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yaml import YAMLError

from apportion.doctor.checking import Answer, Known, failed, skipped

LIMITS = {"_request_timeout": (3, 8)}
OWN = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True)
class Opened:
    """A Secret. Its values are in nothing that is shown, this object's own text included."""

    kind: str
    data: Mapping[str, str] = field(repr=False)

    def padded(self, key: str) -> bool:
        value = b64decode(self.data[key])
        return value != value.strip()


class Kubernetes:
    """A cluster, and the namespace where runs are. `chosen` says why that one."""

    def __init__(self, client: Any, namespace: str, chosen: str) -> None:
        from kubernetes.client import AuthenticationV1Api, AuthorizationV1Api, CoreV1Api, VersionApi

        self.host, self.namespace, self.chosen = client.configuration.host, namespace, chosen
        self.core, self.version = CoreV1Api(client), VersionApi(client)
        self._authentication, self._authorization = AuthenticationV1Api(client), AuthorizationV1Api(client)

    def look(self, doing: str, grant: str, call: Callable[..., Any]) -> Any:
        """What is there, None where nothing is. Where we may not look, or nobody answers, that ends the check."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return call(**LIMITS)
        except ApiException as error:
            if error.status == 404:
                return None
            if not error.status:  # the client's own way to tell of TLS
                raise Known(self._silent(str(error.reason))) from error
            if error.status == 403:
                raise Known(skipped(f"we may not {doing}", f"grant {grant}")) from error
            if error.status == 401:
                mend = "renew them: log in again (kubectl get namespaces asks for the same)"
                raise Known(failed(f"{self.host} does not know who we are (401): the credentials are past their time", mend)) from error
            raise Known(failed(f"{self.host} answers HTTP {error.status}, asked to {doing}: {_message(error.body)}")) from error
        except HTTPError as error:
            raise Known(self._silent(str(error) or type(error).__name__)) from error
        except (ValueError, TypeError, AttributeError) as error:  # the client's own, of what does not fit its models
            found = f"{self.host} answers what no Kubernetes API does, asked to {doing}"
            raise Known(failed(found, "see the kubeconfig (KUBECONFIG)")) from error

    def _silent(self, why: str) -> Answer:
        why = re.sub(r"^.*?(?=(?:\[Errno|\[SSL|Failed to|.*timed out))", "", why, flags=re.DOTALL).strip(" )'\"")
        mend = "see the kubeconfig (KUBECONFIG), its authority, and the network; where the API server is private, run this inside"
        return failed(f"{self.host} does not answer: {why[:200]}", mend)

    def secret(self, name: str) -> Opened | None:
        grant = f"get on secret {name} in {self.namespace}"
        found = self.look("see it", grant, lambda **limits: self.core.read_namespaced_secret(name, self.namespace, **limits))
        return None if found is None else Opened(found.type or "Opaque", found.data or {})

    def who(self) -> str:
        """Our name there; clusters before 1.28 do not tell it."""
        from kubernetes.client import V1SelfSubjectReview

        try:
            review = self.look(
                "ask who we are", "", lambda **limits: self._authentication.create_self_subject_review(V1SelfSubjectReview(), **limits)
            )
        except Known:
            return "somebody"
        return str(review.status.user_info.username) if review else "somebody"

    def may(self, right: Any, who: str | None = None) -> bool:
        """Whether we, or somebody else, have a right in the namespace."""
        from kubernetes import client

        attributes = client.V1ResourceAttributes(namespace=self.namespace, **right._asdict())
        if who is None:
            mine = client.V1SelfSubjectAccessReview(spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes))
            ask = self._authorization.create_self_subject_access_review
            review = self.look("ask for our permissions", "create on selfsubjectaccessreviews", lambda **limits: ask(mine, **limits))
        else:
            spec = client.V1SubjectAccessReviewSpec(user=who, resource_attributes=attributes, groups=_groups(who))
            theirs = client.V1LocalSubjectAccessReview(metadata={"namespace": self.namespace}, spec=spec)
            grant = f"create on localsubjectaccessreviews.authorization.k8s.io in {self.namespace}"
            ask = self._authorization.create_namespaced_local_subject_access_review
            review = self.look(f"ask for the permissions of {who}", grant, lambda **limits: ask(self.namespace, theirs, **limits))
        return bool(review and review.status.allowed)


def _groups(account: str) -> list[str]:
    """Those that a service account is in."""
    return ["system:serviceaccounts", f"system:serviceaccounts:{account.split(':')[2]}", "system:authenticated"]


def connect(namespace: str | None, of_kfp: str | None = None) -> Kubernetes:
    """By the pod's service account, else by the kubeconfig. Where there is neither, that ends the check: it is skipped.

    Runs are in `namespace`; where that is None, in the pod's own or `of_kfp`, which KFP for one user has them in.
    """
    try:
        from kubernetes import client
    except ImportError as error:
        raise Known(skipped("the kubernetes client is not installed", "pip install 'apportion[pipeline]'")) from error
    logging.getLogger("kubernetes").setLevel(logging.CRITICAL)
    told = client.Configuration()
    told.retries = False
    inside = "KUBERNETES_SERVICE_HOST" in os.environ and OWN.exists()
    own = _pods_own(told) if inside else _of_context(told)
    choices = [
        (inside and own, "the pod's own"),
        (of_kfp, "KFP's, which has the runs of its one user beside itself"),
        (own, "that of the kubeconfig's context"),
        ("kubeflow", "KFP's usual one"),
    ]
    found, by = next((str(name), by) for name, by in choices if name)
    return Kubernetes(client.ApiClient(told), namespace or found, f"cluster.kfp.namespace{'' if namespace else f' (null: {by})'}")


def _pods_own(told: Any) -> str:
    from kubernetes import config

    try:
        config.load_incluster_config(client_configuration=told)
    except config.ConfigException as error:
        raise Known(failed(f"the pod's service account cannot be used: {error}", "see automountServiceAccountToken of the pod")) from error
    return OWN.read_text().strip()


def _of_context(told: Any) -> str:
    """The namespace of the kubeconfig's context; empty where it names none."""
    from kubernetes import config

    paths = os.environ.get("KUBECONFIG") or "~/.kube/config"
    there = [path for path in paths.split(os.pathsep) if path and Path(path).expanduser().exists()]
    if not there:
        mend = "set KUBECONFIG, or run this in the cluster"
        raise Known(skipped(f"neither in a cluster nor with a kubeconfig (there is no {paths})", mend))
    try:
        config.load_kube_config(paths, client_configuration=told, persist_config=False)
        return str(config.list_kube_config_contexts(paths)[1].get("context", {}).get("namespace") or "")
    except (config.ConfigException, YAMLError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        said = str(error) if isinstance(error, config.ConfigException | OSError) else type(error).__name__
        why = said.partition("\n")[0].partition("{")[0].strip()  # what is quoted of the file may be a token
        mend = "correct it (kubectl config view reads it too), or name another in KUBECONFIG"
        raise Known(failed(f"the kubeconfig {', '.join(there)} cannot be used: {why}", mend)) from error


def _message(body: Any) -> str:
    try:
        return str(json.loads(body or "{}").get("message", ""))[:300]
    except (ValueError, AttributeError):
        return "no answer of the Kubernetes API"
