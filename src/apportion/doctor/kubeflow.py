"""Checks of Kubeflow Pipelines (KFP): that it can be reached, its version, and that it accepts our token."""

import json
import re
from base64 import urlsafe_b64decode
from collections.abc import Generator
from typing import Any, NamedTuple
from urllib.parse import urlencode

from apportion import kubeflow
from apportion.config.cluster import Kfp
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
from apportion.doctor.web import Reply, send
from apportion.kubeflow import Token

SUPPORTED = (2, 17)
"""The oldest version of KFP that Apportion is tested with."""
SECURE = (2, 16)
"""The oldest version of KFP whose own containers satisfy Pod Security `restricted`."""

ACCOUNT = re.compile(r"system:serviceaccount:[a-z0-9-]+:[a-z0-9.-]+")
"""The name of a service account."""


class Kubeflow(NamedTuple):
    """What KFP says about itself; None where it is not known. multi_user: it is for several users."""

    multi_user: bool | None = None
    version: tuple[int, ...] | None = None


def check_kubeflow(options: Kfp) -> Generator[Finding, None, Kubeflow]:
    """Yields the findings and returns what is known of KFP."""
    results: list[Kubeflow] = []
    yield run_check("kfp", lambda: _reachable(options, results))
    if not results:
        yield from skip_all(["kfp: account"], "KFP cannot be reached")
        return Kubeflow()
    yield run_check("kfp: account", lambda: _account(options, bool(results[0].multi_user)))
    return results[0]


def subject(token: str | None) -> str | None:
    """The service account that a token belongs to; None for a token of another kind.

    The signature of the token is not verified.
    """
    parts = (token or "").split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(urlsafe_b64decode(parts[1] + "=="))  # Python ignores superfluous padding
    except ValueError:
        return None
    name = str(claims.get("sub")) if isinstance(claims, dict) else ""
    return name if ACCOUNT.fullmatch(name) else None


def _reachable(options: Kfp, results: list[Kubeflow]) -> Answer:
    """Appends what is known of KFP to `results` where its answer is that of KFP."""
    host = kubeflow.address(options)
    if host is None:
        return skipped("no address is known (cluster.kfp.host)")
    health = _json(_get(host, "/apis/v2beta1/healthz", kubeflow.token()), host)
    multi_user = health.get("multi_user")
    if not isinstance(multi_user, bool):  # every version of KFP has this field
        raise EarlyAnswer(_not_kfp(host))
    tag = str(health.get("tag_name") or "unknown")
    numbers = re.match(r"v?(\d+)\.(\d+)", tag)
    version = (int(numbers[1]), int(numbers[2])) if numbers else None
    results.append(Kubeflow(multi_user, version))
    message = f"KFP {tag} at {host}, for {'several users' if multi_user else 'one user'}"
    if version is None:
        return warning(
            f"{message}: its version is not known", f"check that it is {_dotted(SUPPORTED)} or newer"
        )
    if version < SECURE:
        return warning(
            f"{message}: before {_dotted(SECURE)} its own containers do not satisfy Pod Security "
            "`restricted`",
            f"upgrade KFP to {_dotted(SUPPORTED)}, or give the namespace of runs the level `baseline`",
        )
    if version < SUPPORTED:
        return warning(
            f"{message}: Apportion is not tested with versions before {_dotted(SUPPORTED)}",
            f"upgrade KFP to {_dotted(SUPPORTED)}",
        )
    return ok(message)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _account(options: Kfp, multi_user: bool) -> Answer:
    """Whether KFP accepts our token. Its `healthz` answers without one, so experiments are listed here."""
    host, token = str(kubeflow.address(options)), kubeflow.token()
    if multi_user and options.namespace is None:
        return skipped(
            "KFP has several users, and no namespace is known", "name yours in cluster.kfp.namespace"
        )
    query: dict[str, Any] = {"page_size": 1}
    if multi_user:
        query["namespace"] = options.namespace
    _json(_get(host, f"/apis/v2beta1/experiments?{urlencode(query)}", token), host)
    place = f" in namespace {options.namespace}" if multi_user else ""
    return ok(f"may list experiments{place}, {'by its token' if token.text else 'without a token'}")


def _get(host: str, path: str, token: Token) -> Reply:
    """A reply of status 200. Raises EarlyAnswer for any other."""
    headers = {"Authorization": f"Bearer {token.text}"} if token.text else {}
    reply = send(host + path, headers, "cluster.kfp.host")
    if reply.status == 200:
        return reply
    if reply.status == 401:
        answer = failed(f"KFP at {host} answers 401: the token is missing, wrong or expired", token.fix)
    elif reply.status == 403:
        answer = failed(
            f"KFP at {host} answers 403: the account of the token has no permission",
            f"{token.fix}, or give it the role (cluster.kfp.namespace)",
        )
    elif 300 <= reply.status < 400:
        # The query of the address, which may be a secret, is left out.
        target = re.split("[?#;]", reply.headers.get("Location", "nowhere"))[0]
        answer = failed(
            f"KFP at {host} redirects to {target}, probably a login page",
            f"{token.fix}; check cluster.kfp.host",
        )
    else:
        fix = "check cluster.kfp.host" if reply.status < 500 else "see the log of its API server"
        answer = failed(f"KFP at {host} answers HTTP {reply.status}", fix)
    raise EarlyAnswer(answer)


def _json(reply: Reply, host: str) -> dict[str, Any]:
    try:
        value = json.loads(reply.body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise EarlyAnswer(_not_kfp(host))
    return value


def _not_kfp(host: str) -> Answer:
    return failed(
        f"found no KFP at {host}: the answer is not one of KFP",
        "check cluster.kfp.host, and whether it requires a login",
    )
