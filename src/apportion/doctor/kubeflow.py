"""Kubeflow Pipelines (KFP): reachable, of which version, and whether our token is good for anything there."""

import json
import re
from base64 import urlsafe_b64decode
from collections.abc import Generator
from typing import Any, NamedTuple
from urllib.parse import urlencode

from apportion import kubeflow
from apportion.config import Kfp
from apportion.doctor.checking import Answer, Finding, Known, attempt, failed, ok, passed_over, skipped, warning
from apportion.doctor.web import Reply, ask
from apportion.kubeflow import Token

SUPPORTED, SECURE = (2, 17), (2, 16)
"""The version that all of this is made for and tested with, and from which on KFP's own containers satisfy Pod Security `restricted`."""

ACCOUNT = re.compile(r"system:serviceaccount:[a-z0-9-]+:[a-z0-9.-]+")
"""The name of a service account."""


class Kubeflow(NamedTuple):
    """What KFP tells of itself; None where it does not."""

    many_users: bool | None = None
    version: tuple[int, ...] | None = None


def check_kubeflow(told: Kfp) -> Generator[Finding, None, Kubeflow]:
    known: list[Kubeflow] = []
    yield attempt("kfp", lambda: _reachable(told, known))
    if not known:
        yield from passed_over(["kfp: account"], "there is no KFP to ask")
        return Kubeflow()
    yield attempt("kfp: account", lambda: _account(told, bool(known[0].many_users)))
    return known[0]


def subject(token: str | None) -> str | None:
    """The service account of a token, as which KFP knows who sends it; None where it is of another kind. Nothing of it is verified."""
    parts = (token or "").split(".")
    try:
        claims = json.loads(urlsafe_b64decode(parts[1] + "==")) if len(parts) == 3 else None  # more padding than there must be is no fault
    except ValueError:
        return None
    name = str(claims.get("sub")) if isinstance(claims, dict) else ""
    return name if ACCOUNT.fullmatch(name) else None


def _reachable(told: Kfp, known: list[Kubeflow]) -> Answer:
    host = kubeflow.address(told)
    if host is None:
        return skipped("no address is known (cluster.kfp.host)")
    health = _json(_get(host, "/apis/v2beta1/healthz", kubeflow.token()), host)
    many_users = health.get("multi_user")
    if not isinstance(many_users, bool):  # which KFP has always told
        raise Known(_no_kfp(host))
    tag = str(health.get("tag_name") or "unknown")
    numbers = re.match(r"v?(\d+)\.(\d+)", tag)
    version = (int(numbers[1]), int(numbers[2])) if numbers else None
    known.append(Kubeflow(many_users, version))
    found = f"KFP {tag} at {host}, for {'several users' if many_users else 'one user'}"
    if version is None:
        return warning(f"{found}: its version is not known", f"see that it is {_dotted(SUPPORTED)} or newer")
    if version < SECURE:
        return warning(
            f"{found}: before {_dotted(SECURE)} its own containers do not satisfy Pod Security `restricted`",
            f"upgrade KFP to {_dotted(SUPPORTED)}, or give the namespace of runs the level `baseline`",
        )
    if version < SUPPORTED:
        return warning(f"{found}: it was not tested with versions before {_dotted(SUPPORTED)}", f"upgrade KFP to {_dotted(SUPPORTED)}")
    return ok(found)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _account(told: Kfp, many_users: bool) -> Answer:
    """`healthz` asks nobody who they are: this does."""
    host, token = str(kubeflow.address(told)), kubeflow.token()
    if many_users and told.namespace is None:
        return skipped("KFP has several users, and no namespace is known", "name yours in cluster.kfp.namespace")
    query = urlencode({"page_size": 1, **({"namespace": told.namespace} if many_users and told.namespace else {})})
    _json(_get(host, f"/apis/v2beta1/experiments?{query}", token), host)
    where = f" in namespace {told.namespace}" if many_users else ""
    return ok(f"may see experiments{where}, {'by its token' if token.text else 'without a token'}")


def _get(host: str, path: str, token: Token) -> Reply:
    """A good reply, or the end of the check."""
    reply = _send(host, path, token)
    if reply.status == 401:
        raise Known(failed(f"KFP at {host} answers 401: the token is missing, wrong or past its time", token.mend))
    if reply.status == 403:
        raise Known(
            failed(
                f"KFP at {host} answers 403: the account of the token may not", f"{token.mend}, or give it the role (cluster.kfp.namespace)"
            )
        )
    if 300 <= reply.status < 400:
        where = re.split("[?#;]", reply.headers.get("Location", "nowhere"))[0]  # what follows may open something
        raise Known(failed(f"KFP at {host} sends us to {where}, where one logs in", f"{token.mend}; see cluster.kfp.host"))
    if reply.status != 200:
        see = "see cluster.kfp.host" if reply.status < 500 else "see the log of its API server"
        raise Known(failed(f"KFP at {host} answers HTTP {reply.status}", see))
    return reply


def _send(host: str, path: str, token: Token) -> Reply:
    return ask(host + path, {"Authorization": f"Bearer {token.text}"} if token.text else {}, "cluster.kfp.host")


def _json(reply: Reply, host: str) -> dict[str, Any]:
    try:
        told = json.loads(reply.body)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise Known(_no_kfp(host))
    return told


def _no_kfp(host: str) -> Answer:
    return failed(f"found no KFP at {host}, but what answers otherwise", "see cluster.kfp.host, and whether one must log in there")
