"""Kubeflow Pipelines (KFP): reachable, of which version, and whether our token is good for anything there."""

import json
import re
from collections.abc import Generator
from typing import Any, NamedTuple
from urllib.parse import urlencode

from apportion import kubeflow
from apportion.config import Kfp
from apportion.doctor.checking import Answer, Finding, Known, attempt, failed, ok, passed_over, skipped, warning
from apportion.doctor.web import Reply, ask
from apportion.kubeflow import Token

SECURE = (2, 16)
"""From this version on KFP's own containers satisfy Pod Security `restricted`."""


class Kubeflow(NamedTuple):
    """What KFP tells of itself; None where it does not."""

    many_users: bool | None = None
    version: tuple[int, ...] | None = None


def check_kubeflow(told: Kfp) -> Generator[Finding, None, Kubeflow]:
    host = kubeflow.address(told)
    if host is None:
        yield from passed_over(["kfp", "kfp: account"], "no address is known (cluster.kfp.host)")
        return Kubeflow()
    known: list[Kubeflow] = []
    finding = attempt("kfp", lambda: _reachable(host, known))
    yield finding
    if not known:
        yield from passed_over(["kfp: account"], "KFP cannot be reached")
        return Kubeflow()
    yield attempt("kfp: account", lambda: _account(host, told, bool(known[0].many_users)))
    return known[0]


def _reachable(host: str, known: list[Kubeflow]) -> Answer:
    token = kubeflow.token()
    told = _json(_get(host, "/apis/v2beta1/healthz", token), host)
    tag = told.get("tag_name") or _tag(host, token)
    numbers = re.match(r"v?(\d+)\.(\d+)", tag)
    version = (int(numbers[1]), int(numbers[2])) if numbers else None
    known.append(Kubeflow(bool(told.get("multi_user")), version))
    users = "several users" if told.get("multi_user") else "one user"
    found = f"KFP {tag or 'of unknown version'} at {host}, for {users}"
    if version is not None and version < SECURE:
        return warning(
            f"{found}: before {'.'.join(map(str, SECURE))} its own containers do not satisfy Pod Security `restricted`",
            "upgrade KFP, or give the namespace of runs the level `baseline`",
        )
    return ok(found)


def _tag(host: str, token: Token) -> str:
    """The version, which the older API tells; empty where it is no longer there."""
    reply = _send(host, "/apis/v1beta1/healthz", token)
    return str(_json(reply, host).get("tag_name") or "") if reply.status == 200 else ""


def _account(host: str, told: Kfp, many_users: bool) -> Answer:
    """`healthz` asks nobody who they are: this does."""
    token = kubeflow.token()
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
        where = reply.headers.get("Location", "nowhere").partition("?")[0]
        raise Known(failed(f"KFP at {host} sends us to {where}, where one logs in", f"{token.mend}; see cluster.kfp.host"))
    if reply.status != 200:
        see = "see cluster.kfp.host" if reply.status < 500 else "see the log of its API server"
        raise Known(failed(f"KFP at {host} answers HTTP {reply.status}", see))
    return reply


def _send(host: str, path: str, token: Token) -> Reply:
    return ask(host + path, {"Authorization": f"Bearer {token.text}"} if token.text else {}, "cluster.kfp.host")


def _json(reply: Reply, host: str) -> dict[str, Any]:
    try:
        told = json.loads(reply.body or b"{}")
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise Known(
            failed(f"found no KFP at {host}, but what answers otherwise", "see cluster.kfp.host, and whether one must log in there")
        )
    return told
