"""The commands that speak to KFP, as a user runs them, against a small KFP server: fixtures of the tests beside this."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from kfp_api import KfpApi, kfp_api  # noqa: F401
from tiny import CONFIG

from pipelines import attribution, client, package, registration
from pipelines.__main__ import main

SHARED = ["store=s3://bucket/rounds", "tracking.uri=https://mlflow.example.com", "compute.device=cuda"]
SECRET = "s3cret-t0ken"
BUILT: dict[str, Any] = {}
PACKED: dict[int, tuple[package.Package, bytes]] = {}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Short waits, and every pipeline is compiled once for all tests."""
    monkeypatch.setattr(client, "PAUSES", (0.001, 0.001, 0.001))
    monkeypatch.setattr(registration, "POLL", 0.001)
    build, pack = attribution.attribution, package.pack

    def built(cluster):
        key = cluster.model_dump_json(exclude={"kfp"})
        BUILT[key] = BUILT.get(key) or build(cluster)
        return BUILT[key]

    def packed(pipeline, folder: Path) -> package.Package:
        if id(pipeline) not in PACKED:
            made = pack(pipeline, folder)
            PACKED[id(pipeline)] = made, made.path.read_bytes()
        made, data = PACKED[id(pipeline)]
        (folder / made.path.name).write_bytes(data)
        return dataclasses.replace(made, path=folder / made.path.name)

    monkeypatch.setattr(attribution, "attribution", built)
    monkeypatch.setattr(package, "pack", packed)


class Said:
    """How a command ended, and what it said on either stream."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def refused(self, *words: str) -> str:
        """The one line of a failure; asserts that it is one, says these words, and shows neither token nor traceback."""
        assert self.code == 1, self.err
        assert "Traceback" not in self.err
        lines = [line for line in self.err.splitlines() if line.startswith("apportion: ")]
        assert len(lines) == 1, self.err
        assert not [word for word in words if word not in lines[0]], lines[0]
        assert SECRET not in self.out + self.err
        return lines[0]


@pytest.fixture
def run(kfp_api: KfpApi, capsys, request):  # noqa: F811
    """Runs a command with the tiny configuration at the server."""

    def of(command: str, *arguments: str, to: str | None = None, shared: list[str] = SHARED) -> Said:
        options = [*shared, f"cluster.kfp.host={to or kfp_api.url}", *(text for text in arguments if not text.startswith("--"))]
        flags = [text for text in arguments if text.startswith("--")]
        capsys.readouterr()
        code = main([command, str(CONFIG), *flags, *(part for option in options for part in ("--set", option))])
        return Said(code, *capsys.readouterr())

    return of
