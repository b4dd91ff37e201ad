"""Kubeflow Pipelines (KFP): reachable, of which version, and whether our token is good for anything there."""

import json
import os
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from apportion.config import Kfp
from apportion.doctor.checking import Answer, Finding, Known, attempt, failed, ok, passed_over, skipped, warning
from apportion.doctor.web import Reply, ask

IN_CLUSTER = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
"""The API server of the usual installation."""

TOKEN = "/var/run/secrets/kubeflow/pipelines/token"  # noqa: S105 (where a pod's is)

SECURE = (2, 16)
"""From this version on KFP's own containers satisfy Pod Security `restricted`."""


class Kubeflow(NamedTuple):
    """What KFP tells of itself; None where it does not."""

    many_users: bool | None = None
    version: tuple[int, ...] | None = None


def check_kubeflow(told: Kfp) -> Generator[Finding, None, Kubeflow]:
    host = told.host or os.environ.get("KF_PIPELINES_ENDPOINT") or (IN_CLUSTER if "KUBERNETES_SERVICE_HOST" in os.environ else None)
    if host is None:
        yield from passed_over(["kfp", "kfp: account"], "no address is known (cluster.kfp.host)")
        return Kubeflow()
    known: list[Kubeflow] = []
    finding = attempt("kfp", lambda: _reachable(host.rstrip("/"), known))
    yield finding
    if not known:
        yield from passed_over(["kfp: account"], "KFP cannot be reached")
        return Kubeflow()
    yield attempt("kfp: account", lambda: _account(host.rstrip("/"), told, bool(known[0].many_users)))
    return known[0]


def _reachable(host: str, known: list[Kubeflow]) -> Answer:
    token, mend = _token()
    told = _json(_get(host, "/apis/v2beta1/healthz", token, mend), host)
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


def _tag(host: str, token: str | None) -> str:
    """The version, which the older API tells; empty where it is no longer there."""
    reply = _send(host, "/apis/v1beta1/healthz", token)
    return str(_json(reply, host).get("tag_name") or "") if reply.status == 200 else ""


def _account(host: str, told: Kfp, many_users: bool) -> Answer:
    """`healthz` asks nobody who they are: this does."""
    token, mend = _token()
    if many_users and told.namespace is None:
        return skipped("KFP has several users, and no namespace is known", "name yours in cluster.kfp.namespace")
    query = urlencode({"page_size": 1, **({"namespace": told.namespace} if many_users and told.namespace else {})})
    _json(_get(host, f"/apis/v2beta1/experiments?{query}", token, mend), host)
    where = f" in namespace {told.namespace}" if many_users else ""
    return ok(f"may see experiments{where}, {'by its token' if token else 'without a token'}")


def _get(host: str, path: str, token: str | None, mend: str) -> Reply:
    """A good reply, or the end of the check."""
    reply = _send(host, path, token)
    if reply.status == 401:
        raise Known(failed(f"KFP at {host} answers 401: the token is missing, wrong or past its time", mend))
    if reply.status == 403:
        raise Known(
            failed(f"KFP at {host} answers 403: the account of the token may not", f"{mend}, or give it the role (cluster.kfp.namespace)")
        )
    if 300 <= reply.status < 400:
        where = reply.headers.get("Location", "nowhere").partition("?")[0]
        raise Known(failed(f"KFP at {host} sends us to {where}, where one logs in", f"{mend}; see cluster.kfp.host"))
    if reply.status != 200:
        see = "see cluster.kfp.host" if reply.status < 500 else "see the log of its API server"
        raise Known(failed(f"KFP at {host} answers HTTP {reply.status}", see))
    return reply


def _send(host: str, path: str, token: str | None) -> Reply:
    return ask(host + path, {"Authorization": f"Bearer {token}"} if token else {}, "cluster.kfp.host")


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


def _token() -> tuple[str | None, str]:
    """Who we are to KFP, and how to renew that; as where runs are submitted."""
    if told := os.environ.get("KFP_TOKEN", "").strip():
        return _one_word(told, "KFP_TOKEN"), "renew KFP_TOKEN"
    if path := os.environ.get("KFP_TOKEN_FILE"):
        return _one_word(_read(path), path), f"renew {path} (KFP_TOKEN_FILE)"
    path = os.environ.get("KF_PIPELINES_SA_TOKEN_PATH", TOKEN)
    if Path(path).exists():
        return _one_word(_read(path), path), f"see that {path} is a token for the audience pipelines.kubeflow.org, and not past its time"
    return None, "set KFP_TOKEN or KFP_TOKEN_FILE: none is set, so no token was sent"


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError as error:
        raise Known(failed(f"cannot read {path}: {error.strerror}", "name another file in KFP_TOKEN_FILE")) from error


def _one_word(token: str, where: str) -> str:
    """Anything else is no header of HTTP, and the error that says so would show it."""
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise Known(failed(f"found no token, or blanks inside it, in {where}", "put one word there"))
    return token
