"""Rendering the chart with the real helm: what it makes of values, and what it says where it refuses them."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from tools import helm

from apportion.config import _Loader

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "apportion"
CI = {path.name.removesuffix("-values.yaml"): path for path in sorted((CHART / "ci").glob("*-values.yaml"))}

PIPELINES = "pipelines.kubeflow.org/v2beta1"
EXTERNAL = "external-secrets.io/v1"
MONITORING = "monitoring.coreos.com/v1"
EVERY_API = (PIPELINES, EXTERNAL, MONITORING)

Object = dict[str, Any]


class Refused(Exception):
    """What helm said."""


def render(
    values: Mapping[str, Any] | None = None, *files: Path, release: str = "apportion", apis: Sequence[str] = (), **told: Any
) -> list[Object]:
    """The objects of a release in namespace `ml`; `told`: chart (another folder), namespace, kube (version), sets (as --set has them)."""
    text = _render(json.dumps(values or {}, sort_keys=True), files, release, tuple(apis), json.dumps(told, default=str, sort_keys=True))
    return [document for document in yaml.load_all(text, _Fast) if document]


@cache
def _render(values: str, files: tuple[Path, ...], release: str, apis: tuple[str, ...], told: str) -> str:
    options = {"chart": str(CHART), "namespace": "ml", "kube": "1.34.0", "sets": []} | json.loads(told)
    arguments = ["template", release, options["chart"], "--namespace", options["namespace"], "--kube-version", options["kube"]]
    for api in apis:
        arguments += ["--api-versions", api]
    for path in files:
        arguments += ["--values", str(path)]
    for setting in options["sets"]:
        arguments += ["--set", setting]
    return run(*arguments, "--values", "-", given=values)


def run(*arguments: str, given: str = "") -> str:
    """What helm prints. Raises Refused with what it says where it fails."""
    with tempfile.TemporaryDirectory() as home:
        places = {f"HELM_{name}_HOME": home for name in ("CACHE", "CONFIG", "DATA")} | {"HOME": home, "KUBECONFIG": "/dev/null"}
        done = subprocess.run([helm(), *arguments], input=given, capture_output=True, text=True, env=os.environ | places)
    if done.returncode:
        raise Refused(done.stderr + done.stdout)
    return done.stdout


class _Fast(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """libyaml, where it is there: a compiled pipeline is long."""


def only(objects: Sequence[Object], kind: str, name: str | None = None) -> Object:
    """The one object of that kind and, where it is told, name."""
    (found,) = (o for o in objects if o["kind"] == kind and name in (None, o["metadata"]["name"]))
    return found


def names(objects: Sequence[Object], *kinds: str) -> set[str]:
    return {o["metadata"]["name"] for o in objects if not kinds or o["kind"] in kinds}


def ids(objects: Sequence[Object]) -> set[tuple[str, str]]:
    return {(o["kind"], o["metadata"]["name"]) for o in objects}


def pods(objects: Sequence[Object]) -> Iterator[tuple[str, Object]]:
    """Name of the owner and pod template, of every object that makes pods."""
    for o in objects:
        if o["kind"] == "Job":
            yield o["metadata"]["name"], o["spec"]["template"]
        elif o["kind"] == "CronJob":
            yield o["metadata"]["name"], o["spec"]["jobTemplate"]["spec"]["template"]
        else:
            assert o["kind"] not in ("Deployment", "StatefulSet", "DaemonSet", "Pod", "ReplicaSet"), "a kind that `pods` does not know"


def variables(pod: Object) -> dict[str, Any]:
    """What the container is given: a text, or where it is from."""
    (container,) = pod["spec"]["containers"]
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def configuration(objects: Sequence[Object], name: str = "apportion") -> dict[str, Any]:
    """The ConfigMap's configuration, read as apportion reads it."""
    read = yaml.load(only(objects, "ConfigMap", name)["data"]["config.yaml"], _Loader)
    assert isinstance(read, dict)
    return read


def notes(values: Mapping[str, Any], apis: Sequence[str] = (), *files: Path, **told: Any) -> str:
    """What NOTES.txt says. `helm template` leaves it out, and only that takes APIs: so it is made one more template."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = shutil.copytree(CHART, Path(scratch) / "apportion")
        text = (copy / "templates" / "NOTES.txt").read_text(encoding="utf-8")
        head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: notes}\ndata:\n"
        body = '{{ dict "notes" (include "said" .) | toYaml | indent 2 }}\n'
        (copy / "templates" / "said.yaml").write_text(f'{head}{body}{{{{- define "said" }}}}{text}{{{{- end }}}}\n', encoding="utf-8")
        said: str = only(render(values, *files, apis=apis, chart=copy, **told), "ConfigMap", "notes")["data"]["notes"]
        return said


EVERYTHING = Path(__file__).parent / "everything.yaml"
NOTHING = {
    "serviceAccount": {"create": False},
    "jobs": {"serviceAccount": {"create": False}},
    "rbac": {"create": False},
    "mlflow": {"enabled": False},
    "kfp": {"host": ""},
    "pipeline": {"mode": "none"},
    "submit": {"enabled": False},
    "doctor": {"enabled": False},
    "networkPolicy": {"enabled": False},
}


def situation(name: str) -> list[Object]:
    """What the chart renders with an example's values, everything on, everything off, Secrets by name, or nothing said."""
    if name in CI:
        return render(None, CI[name], apis=(EXTERNAL, MONITORING))
    return {
        "defaults": lambda: render(),
        "everything": lambda: render(None, EVERYTHING, apis=EVERY_API),
        "nothing": lambda: render(NOTHING),
        "secrets": lambda: render({name: {"existingSecret": f"my-{name}"} for name in ("s3", "mlflow", "kfp")}),
    }[name]()


SITUATIONS = [*CI, "defaults", "everything", "nothing", "secrets"]
