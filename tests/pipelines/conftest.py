"""One uninterrupted run of the tiny pipeline, one more of the same, and what a resumed run starts from: made once for all workers."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tiny import REMOVALS, once, pipeline, planned, prepared, ran, root, snapshot

from apportion.stages.round import Round


class Run(NamedTuple):
    """What a run of the pipeline said, and what it left."""

    workdir: Path
    code: int
    out: str
    err: str
    before: dict[str, Any]  # objects in the store, as `snapshot` and JSON give them
    after: dict[str, Any]

    @property
    def round(self) -> Round:
        store = self.workdir / "store"
        return Round.open(f"{store.as_uri()}/rounds/{(store / 'heads' / 'tiny').read_text().strip()}")

    @property
    def credits(self) -> bytes:
        return self.round.store.get(f"rounds/{self.round.id}/credits.csv")


def _run(workdir: Path, note: Path) -> None:
    before = _hashed(workdir / "store")
    code, out, err = ran(*pipeline(workdir, REMOVALS))
    note.write_text(json.dumps([code, out, err, before, _hashed(workdir / "store")]))


def _hashed(store: Path) -> dict[str, Any]:
    return {name: [inode, written, hashlib.sha256(data).hexdigest()] for name, (inode, written, data) in snapshot(store).items()}


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """From nothing to published, without interruption."""
    folder = once(tmp_path_factory, "whole", lambda folder: _run(folder / "a work folder", folder / "said.json"))
    return Run(folder / "a work folder", *json.loads((folder / "said.json").read_text()))


@pytest.fixture(scope="session")
def again(whole: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same command in the same work folder, once more."""
    folder = once(tmp_path_factory, "again", lambda folder: _run(whole.workdir, folder / "said.json"))
    return Run(whole.workdir, *json.loads((folder / "said.json").read_text()))


@pytest.fixture(scope="session")
def _prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a planned round, its base model and its pruned one, and nothing of any coalition."""

    def make(folder: Path) -> None:
        uri = planned(folder).uri
        prepared(uri)
        assert root(uri) == folder / "store"

    return once(tmp_path_factory, "prefix", make) / "store"


@pytest.fixture
def ready(_prefix: Path, tmp_path: Path) -> Round:
    """A round whose coalitions are to be evaluated, in a store of its own: a store may be moved, for only addresses name it."""
    store = shutil.copytree(_prefix, tmp_path / "moved" / "store")
    (found,) = (path.name for path in (store / "rounds").iterdir())
    return Round.open(f"{store.as_uri()}/rounds/{found}")
