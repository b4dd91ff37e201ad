"""Where Kubeflow Pipelines (KFP) is, and who we are to it: the rules of whoever speaks to it from here, in a cluster or outside."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from apportion.config import Kfp
from apportion.errors import ClusterError

IN_CLUSTER = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
"""The API server of the usual installation."""

TOKEN = "/var/run/secrets/kubeflow/pipelines/token"  # noqa: S105 (where a pod's is, to KFP's own client too)


class Token(NamedTuple):
    """A token: as text, or in a file that is read anew for each request, as the kubelet writes it anew; or neither. `mend` says how to
    have a better one, and shows nothing of it."""

    mend: str
    text: str | None = None
    path: str | None = None


def address(told: Kfp) -> str | None:
    """From the configuration, the environment, or the usual one in a cluster; None where none is known."""
    host = told.host or os.environ.get("KF_PIPELINES_ENDPOINT") or (IN_CLUSTER if "KUBERNETES_SERVICE_HOST" in os.environ else None)
    return host.rstrip("/") if host else None


def token() -> Token:
    """From KFP_TOKEN, the file that KFP_TOKEN_FILE names, or the pod's service account; else none.

    Raises ClusterError where there is none in the place that is named.
    """
    if text := os.environ.get("KFP_TOKEN", "").strip():
        return Token("renew KFP_TOKEN", text=_one_word(text, "KFP_TOKEN"))
    if path := os.environ.get("KFP_TOKEN_FILE"):
        return _of(path, f"renew {path} (KFP_TOKEN_FILE)", "KFP_TOKEN_FILE")
    path = os.environ.get("KF_PIPELINES_SA_TOKEN_PATH", TOKEN)
    if Path(path).exists():
        mend = f"see that {path} is a token of this pod's service account for the audience pipelines.kubeflow.org, and not past its time"
        return _of(path, mend, "KF_PIPELINES_SA_TOKEN_PATH")
    return Token("set KFP_TOKEN or KFP_TOKEN_FILE: none is set, so no token was sent")


def read(path: str, variable: str) -> str:
    """The text of a file that an environment variable names. Raises ClusterError."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ClusterError(f"cannot read {path}, which {variable} names: {error.strerror}") from error


def _of(path: str, mend: str, variable: str) -> Token:
    return Token(mend, text=_one_word(read(path, variable).strip(), path), path=path)


def _one_word(token: str, where: str) -> str:
    """Anything else is no header of HTTP, and the error that says so would show it."""
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise ClusterError(f"found no token, or blanks inside it, in {where}, expected one word")
    return token
