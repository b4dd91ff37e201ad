"""Requests to the Kubernetes API through its own client, where that is installed.

A request without the permission that it needs ends the check as skipped, which is not a failure.
"""

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

from apportion.doctor.checking import Answer, EarlyAnswer, failed, skipped

TIMEOUTS = {"_request_timeout": (3, 8)}
"""Seconds for connecting and for reading, as an argument of the client's methods."""

OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""The file with the namespace of the pod that this runs in."""

KUBECONFIG = "check the kubeconfig (KUBECONFIG)"


@dataclass(frozen=True)
class SecretData:
    """The type of a Secret, and its values in base64. The values are never shown, not even by `repr`."""

    kind: str
    data: Mapping[str, str] = field(repr=False)

    def has_surrounding_blanks(self, key: str) -> bool:
        value = b64decode(self.data[key])
        return value != value.strip()


class Kubernetes:
    """A cluster, and the namespace of its runs; `chosen` says where that namespace comes from."""

    def __init__(self, client: Any, namespace: str, chosen: str) -> None:
        from kubernetes.client import AuthenticationV1Api, AuthorizationV1Api, CoreV1Api, VersionApi

        self.host = client.configuration.host
        self.namespace = namespace
        self.chosen = chosen
        self.core = CoreV1Api(client)
        self.version = VersionApi(client)
        self._authentication = AuthenticationV1Api(client)
        self._authorization = AuthorizationV1Api(client)

    def request(self, action: str, permission: str, call: Callable[..., Any]) -> Any:
        """What `call` returns; None where there is no such object.

        Raises EarlyAnswer where the permission is missing, and for every other error. `action` and
        `permission` are for its message.
        """
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return call(**TIMEOUTS)
        except ApiException as error:
            if error.status == 404:
                return None
            raise EarlyAnswer(self._refusal(error, action, permission)) from error
        except HTTPError as error:
            raise EarlyAnswer(self._no_answer(str(error) or type(error).__name__)) from error
        except (ValueError, TypeError, AttributeError) as error:  # for an answer that fits no model
            message = f"the answer of {self.host} to the request to {action} is not one of the Kubernetes API"
            raise EarlyAnswer(failed(message, KUBECONFIG)) from error

    def _refusal(self, error: Any, action: str, permission: str) -> Answer:
        if not error.status:  # how the client reports problems with TLS
            return self._no_answer(str(error.reason))
        if error.status == 403:
            return skipped(f"no permission to {action}", f"grant {permission}")
        if error.status == 401:
            return failed(
                f"{self.host} does not accept the credentials (401): they have probably expired",
                "renew them: log in again (kubectl get namespaces needs the same credentials)",
            )
        return failed(
            f"{self.host} answers HTTP {error.status} to the request to {action}: {_message(error.body)}"
        )

    def _no_answer(self, reason: str) -> Answer:
        pattern = r"^.*?(?=(?:\[Errno|\[SSL|Failed to|.*timed out))"
        reason = re.sub(pattern, "", reason, flags=re.DOTALL).strip(" )'\"")
        fix = (
            f"{KUBECONFIG}, its certificate authority, and the network; where the API server is private, run "
            "this in the cluster"
        )
        return failed(f"{self.host} does not answer: {reason[:200]}", fix)

    def secret(self, name: str) -> SecretData | None:
        """A Secret of the namespace; None where there is none."""
        permission = f"get on secret {name} in {self.namespace}"
        read = self.core.read_namespaced_secret
        secret = self.request("read it", permission, lambda **limits: read(name, self.namespace, **limits))
        return None if secret is None else SecretData(secret.type or "Opaque", secret.data or {})

    def username(self) -> str | None:
        """The name of our user in the cluster; None where it cannot be had, as in clusters before 1.28."""
        from kubernetes.client import V1SelfSubjectReview

        create = self._authentication.create_self_subject_review
        try:
            review = self.request(
                "get our username", "", lambda **limits: create(V1SelfSubjectReview(), **limits)
            )
        except EarlyAnswer:
            return None
        return str(review.status.user_info.username) if review else None

    def has_permission(self, permission: Any, account: str | None = None) -> bool:
        """Whether we have a permission in the namespace, or whether a service account has it."""
        from kubernetes import client

        attributes = client.V1ResourceAttributes(namespace=self.namespace, **permission._asdict())
        if account is None:
            spec = client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes)
            ours = client.V1SelfSubjectAccessReview(spec=spec)
            create = self._authorization.create_self_subject_access_review
            needed = "create on selfsubjectaccessreviews"
            review = self.request("get our permissions", needed, lambda **limits: create(ours, **limits))
        else:
            spec = client.V1SubjectAccessReviewSpec(
                user=account, resource_attributes=attributes, groups=_groups(account)
            )
            theirs = client.V1LocalSubjectAccessReview(metadata={"namespace": self.namespace}, spec=spec)
            create = self._authorization.create_namespaced_local_subject_access_review
            needed = f"create on localsubjectaccessreviews.authorization.k8s.io in {self.namespace}"
            review = self.request(
                f"get the permissions of {account}",
                needed,
                lambda **limits: create(self.namespace, theirs, **limits),
            )
        return bool(review and review.status.allowed)


def _groups(account: str) -> list[str]:
    """The groups that a service account belongs to."""
    namespace = account.split(":")[2]
    return ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]


def connect(namespace: str | None, of_kfp: str | None = None) -> Kubernetes:
    """Connects by the pod's service account, else by the kubeconfig.

    Runs are in `namespace`. Where that is None, they are in the pod's own namespace; outside a cluster in
    `of_kfp`, where KFP for one user has them, then in the namespace of the kubeconfig's context. Raises
    EarlyAnswer where there is neither an account nor a kubeconfig (skipped), and where they cannot be used
    (failed).
    """
    try:
        from kubernetes import client
    except ImportError as error:
        raise EarlyAnswer(
            skipped("the kubernetes client is not installed", "pip install 'apportion[pipeline]'")
        ) from error
    logging.getLogger("kubernetes").setLevel(logging.CRITICAL)
    configuration = client.Configuration()
    configuration.retries = False
    in_cluster = "KUBERNETES_SERVICE_HOST" in os.environ and OWN_NAMESPACE.exists()
    own = _load_service_account(configuration) if in_cluster else _load_kubeconfig(configuration)
    choices = [
        (namespace, ""),
        (in_cluster and own, " (null: the pod's own)"),
        (of_kfp, " (null: KFP's own, where KFP for one user has its runs)"),
        (own, " (null: that of the kubeconfig's context)"),
        ("kubeflow", " (null: the usual one of KFP)"),
    ]
    chosen, origin = next((str(choice), origin) for choice, origin in choices if choice)
    return Kubernetes(client.ApiClient(configuration), chosen, f"cluster.kfp.namespace{origin}")


def _load_service_account(configuration: Any) -> str:
    """Fills the client's configuration; returns the namespace of the pod."""
    from kubernetes import config

    try:
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException as error:
        message = f"the pod's service account cannot be used: {error}"
        raise EarlyAnswer(failed(message, "check automountServiceAccountToken of the pod")) from error
    return OWN_NAMESPACE.read_text().strip()


def _load_kubeconfig(configuration: Any) -> str:
    """Fills the client's configuration; returns the namespace of the context, empty where it has none."""
    from kubernetes import config

    paths = os.environ.get("KUBECONFIG") or "~/.kube/config"
    existing = [path for path in paths.split(os.pathsep) if path and Path(path).expanduser().exists()]
    if not existing:
        raise EarlyAnswer(
            skipped(
                f"neither in a cluster nor with a kubeconfig (there is no {paths})",
                "set KUBECONFIG, or run this in the cluster",
            )
        )
    # Beside its own exception, the client raises these for a file that it did not expect.
    errors = (config.ConfigException, YAMLError, OSError, ValueError, TypeError, KeyError, AttributeError)
    try:
        config.load_kube_config(paths, client_configuration=configuration, persist_config=False)
        context = config.list_kube_config_contexts(paths)[1].get("context", {})
        return str(context.get("namespace") or "")
    except errors as error:
        known = isinstance(error, config.ConfigException | OSError)
        text = str(error) if known else type(error).__name__
        # What follows quotes the file, and may be a token.
        reason = text.partition("\n")[0].partition("{")[0].strip()
        raise EarlyAnswer(
            failed(
                f"the kubeconfig {', '.join(existing)} cannot be used: {reason}",
                "correct it (kubectl config view also reads it), or name another in KUBECONFIG",
            )
        ) from error


def _message(body: Any) -> str:
    """The message of an error of the Kubernetes API."""
    try:
        return str(json.loads(body or "{}").get("message", ""))[:300]
    except (ValueError, AttributeError):
        return "the answer is not one of the Kubernetes API"
