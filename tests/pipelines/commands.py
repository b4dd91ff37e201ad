"""The commands that use KFP, as a user runs them, against a small KFP server; and pipelines, each compiled
once. These are fixtures and functions for the tests beside this file."""

import dataclasses
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from kfp.dsl.graph_component import GraphComponent
from kfp_api import KfpApi, kfp_api  # noqa: F401
from tiny import CONFIG

from apportion.config.cluster import Cluster
from pipelines import attribution, client, package, registration
from pipelines.__main__ import main

SHARED = ["store=s3://bucket/rounds", "tracking.uri=https://mlflow.example.com", "compute.device=cuda"]
SECRET = "s3cret-t0ken"


class Compiled(NamedTuple):
    pipeline: GraphComponent
    package: package.Package
    data: bytes  # of the package's file


@cache
def _compile(cluster: str, build=attribution.attribution, pack=package.pack) -> Compiled:
    pipeline = build(Cluster.model_validate_json(cluster))
    with tempfile.TemporaryDirectory() as folder:
        packed = pack(pipeline, Path(folder))
        return Compiled(pipeline, packed, packed.path.read_bytes())


def compiled(cluster: Cluster) -> Compiled:
    """The pipeline for a cluster, compiled once for all tests."""
    return _compile(cluster.model_dump_json())


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Short waits, and no pipeline is compiled twice. `cluster.kfp` is no part of a pipeline, and differs
    between tests."""
    monkeypatch.setattr(client, "PAUSES", (0.001, 0.001, 0.001))
    monkeypatch.setattr(registration, "POLL", 0.001)
    known: dict[int, Compiled] = {}

    def build(cluster: Cluster) -> GraphComponent:
        ready = compiled(cluster.model_copy(update={"kfp": Cluster().kfp}))
        known[id(ready.pipeline)] = ready
        return ready.pipeline

    def pack(pipeline: GraphComponent, folder: Path) -> package.Package:
        ready = known[id(pipeline)]
        path = folder / ready.package.path.name
        path.write_bytes(ready.data)
        return dataclasses.replace(ready.package, path=path)

    monkeypatch.setattr(attribution, "attribution", build)
    monkeypatch.setattr(package, "pack", pack)


class Result:
    """How a command ended: its exit status, and what it printed on either stream."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def refused(self, *words: str) -> str:
        """The message of a failure. Asserts that it is one line, contains these words, and shows neither
        token nor traceback."""
        assert self.code == 1, self.err
        assert "Traceback" not in self.err
        lines = [line for line in self.err.splitlines() if line.startswith("apportion: ")]
        assert len(lines) == 1, self.err
        assert not [word for word in words if word not in lines[0]], lines[0]
        assert SECRET not in self.out + self.err
        return lines[0]


@pytest.fixture
def run(kfp_api: KfpApi, capsys):  # noqa: F811
    """Runs a command with the tiny configuration at the server."""

    def run_command(
        command: str, *arguments: str, to: str | None = None, shared: list[str] = SHARED
    ) -> Result:
        flags = [text for text in arguments if text.startswith("--")]
        overrides = [text for text in arguments if not text.startswith("--")]
        options = [*shared, f"cluster.kfp.host={to or kfp_api.url}", *overrides]
        capsys.readouterr()
        code = main(
            [command, str(CONFIG), *flags, *(part for option in options for part in ("--set", option))]
        )
        return Result(code, *capsys.readouterr())

    return run_command
