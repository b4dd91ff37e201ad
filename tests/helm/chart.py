"""Rendering the chart with the real helm: the objects that it makes of values, or its message where it
refuses them.

Each render is done once per test session. Its result is kept in memory, and in a folder that the workers of
pytest-xdist share, under a hash of all that determines it: the chart, the values and helm's arguments.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from tools import helm

from apportion.config.loading import FLOAT

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "apportion"
EVERYTHING = Path(__file__).parent / "everything.yaml"
CI = {path.name.removesuffix("-values.yaml"): path for path in sorted((CHART / "ci").glob("*-values.yaml"))}

PIPELINES = "pipelines.kubeflow.org/v2beta1"
EXTERNAL = "external-secrets.io/v1"
MONITORING = "monitoring.coreos.com/v1"
EVERY_API = (PIPELINES, EXTERNAL, MONITORING)
CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding", "PriorityClass"}

Object = dict[str, Any]


class Refused(Exception):
    """Helm's message."""


class FastLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """apportion's loader on libyaml, if PyYAML has it: 1e3 is a number, and no key may be given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        if len(mapping) != len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key is given twice", node.start_mark)
        return mapping


FastLoader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789"))


def documents(text: str) -> list[Object]:
    """The documents of a YAML text, without empty ones."""
    parts = [_document(part) for part in re.split(r"(?m)^---$", text)]
    return [json.loads(part) for part in parts if part != "null"]


@cache
def _document(text: str) -> str:
    """One document as JSON. Most renders have many documents in common."""
    return json.dumps(yaml.load(text, FastLoader))


# Renders


def render(
    values: Mapping[str, Any] | None = None,
    *files: Path,
    release: str = "apportion",
    namespace: str = "ml",
    apis: Sequence[str] = (),
    kube: str = "1.34.0",
    sets: Sequence[str] = (),
    chart: Path = CHART,
) -> list[Object]:
    """The objects of a release. `files` come before `values`; `sets` are settings as --set has them, after
    both; `kube` is the version of Kubernetes, `apis` what the cluster has beside Kubernetes' own. Raises
    Refused with helm's message."""
    arguments = ["template", release, "--namespace", namespace, "--kube-version", kube]
    for api in apis:
        arguments += ["--api-versions", api]
    for path in files:
        arguments += ["--values", str(path)]
    for setting in sets:
        arguments += ["--set", setting]
    arguments += ["--values", "-"]
    text = json.dumps(values or {}, sort_keys=True)
    contents = [content(path) for path in files]
    key = _hash([content(chart), text, *contents, *arguments])
    if key not in _results:
        _results[key] = _stored(key) or _store(key, _render(arguments, chart, text))
    result = json.loads(_results[key])
    if "refused" in result:
        raise Refused(result["refused"])
    objects: list[Object] = result["objects"]
    return objects


def _render(arguments: list[str], chart: Path, values: str) -> str:
    try:
        text = run(*arguments, str(chart), given=values)
    except Refused as refused:
        return json.dumps({"refused": str(refused)})
    return json.dumps({"objects": documents(text)})


_results: dict[str, str] = {}
_folder: list[Path] = []


def keep_results_in(folder: Path) -> None:
    """From now on, results are shared with other processes through this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _folder[:] = [folder]


def _stored(key: str) -> str | None:
    path = _folder[0] / f"{key}.json" if _folder else None
    return path.read_text(encoding="utf-8") if path and path.exists() else None


def _store(key: str, result: str) -> str:
    if _folder:
        with tempfile.NamedTemporaryFile("w", dir=_folder[0], delete=False, encoding="utf-8") as part:
            part.write(result)
        Path(part.name).rename(_folder[0] / f"{key}.json")
    return result


@cache
def content(path: Path) -> str:
    """A hash of a file, or of all files in a folder. Nothing changes them in a session."""
    if path.is_file():
        return _hash([path.read_text(encoding="utf-8")])
    files = sorted(inner for inner in path.rglob("*") if inner.is_file())
    return _hash([part for file in files for part in (str(file.relative_to(path)), content(file))])


def _hash(parts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def run(*arguments: str, given: str = "") -> str:
    """What helm prints; `given` is its standard input. Raises Refused with its message if it fails."""
    with tempfile.TemporaryDirectory() as home:
        folders = {f"HELM_{name}_HOME": home for name in ("CACHE", "CONFIG", "DATA")}
        # A short process needs no garbage collection.
        environment = os.environ | folders | {"HOME": home, "KUBECONFIG": "/dev/null", "GOGC": "off"}
        command = [str(helm()), *arguments]
        done = subprocess.run(command, input=given, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise Refused(done.stderr + done.stdout)
    return done.stdout


# Objects


def only(objects: Sequence[Object], kind: str, name: str | None = None) -> Object:
    """The one object of that kind and, if given, name."""
    (match,) = (o for o in objects if o["kind"] == kind and name in (None, o["metadata"]["name"]))
    return match


def names(objects: Sequence[Object], *kinds: str) -> set[str]:
    return {o["metadata"]["name"] for o in objects if not kinds or o["kind"] in kinds}


def ids(objects: Sequence[Object]) -> set[tuple[str, str]]:
    return {(o["kind"], o["metadata"]["name"]) for o in objects}


def pods(objects: Sequence[Object]) -> Iterator[tuple[str, Object]]:
    """Name of the owner and pod template, of every object that makes pods."""
    others = ("Deployment", "StatefulSet", "DaemonSet", "Pod", "ReplicaSet")
    for o in objects:
        assert o["kind"] not in others, "a kind that `pods` does not know"
        if o["kind"] == "Job":
            yield o["metadata"]["name"], o["spec"]["template"]
        elif o["kind"] == "CronJob":
            yield o["metadata"]["name"], o["spec"]["jobTemplate"]["spec"]["template"]


def variables(pod: Object) -> dict[str, Any]:
    """The environment variables of the container: a text, or where the value is from."""
    (container,) = pod["spec"]["containers"]
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def configuration(objects: Sequence[Object], name: str = "apportion") -> dict[str, Any]:
    """The configuration in the ConfigMap."""
    (config,) = documents(only(objects, "ConfigMap", name)["data"]["config.yaml"])
    return config


def notes(values: Mapping[str, Any], **options: Any) -> str:
    """The text of NOTES.txt. `helm template` leaves it out and `helm install` takes no --api-versions, so it
    becomes one more template in a copy of the chart."""
    objects = render(values, chart=_with_notes(), **options)
    text: str = only(objects, "ConfigMap", "notes")["data"]["notes"]
    return text


@cache
def _with_notes() -> Path:
    copy = shutil.copytree(CHART, Path(tempfile.mkdtemp(dir=_folder[0])) / "apportion")
    text = (copy / "templates" / "NOTES.txt").read_text(encoding="utf-8")
    head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: notes}\ndata:\n"
    body = '{{ dict "notes" (include "notes" .) | toYaml | indent 2 }}\n'
    template = f'{head}{body}{{{{- define "notes" }}}}{text}{{{{- end }}}}\n'
    (copy / "templates" / "shown.yaml").write_text(template, encoding="utf-8")
    return copy


# Situations

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
SECRETS = {name: {"existingSecret": f"my-{name}"} for name in ("s3", "mlflow", "kfp")}
SITUATIONS = [*CI, "defaults", "everything", "nothing", "secrets"]


def situation(name: str) -> list[Object]:
    """The objects with the values of an example, the defaults, everything on, everything off, or Secrets that
    exist."""
    if name in CI:
        return render(None, CI[name], apis=(EXTERNAL, MONITORING))
    if name == "everything":
        return render(None, EVERYTHING, apis=EVERY_API)
    values: dict[str, Object] = {"defaults": {}, "nothing": NOTHING, "secrets": SECRETS}
    return render(values[name])
