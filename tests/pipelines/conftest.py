"""One uninterrupted run of the tiny pipeline, a second run of the same, and the store that a resumed run
starts from: each is made once for all workers."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from kfp_stack import cheap_call_stack  # noqa: F401
from preloaded import Forks, server
from tiny import (
    REMOVALS,
    ROOT,
    SMALLER,
    configured,
    once,
    pipeline,
    planned,
    prepared,
    ran,
    root,
    shared_folder,
    snapshot,
)

from apportion.config.round import Config
from apportion.rounds.round import Round


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Starts processes that need no time for imports."""
    with server(shared_folder(tmp_path_factory), ROOT) as forks:
        yield forks


class Run(NamedTuple):
    """A run of the pipeline: what it printed, and the objects in the store before and after it, as `snapshot`
    and JSON give them."""

    workdir: Path
    code: int
    out: str
    err: str
    before: dict[str, Any]
    after: dict[str, Any]

    @property
    def round(self) -> Round:
        store = self.workdir / "store"
        return Round.open(f"{store.as_uri()}/rounds/{(store / 'heads' / 'tiny').read_text().strip()}")

    @property
    def credits(self) -> bytes:
        return self.round.store.get(f"rounds/{self.round.id}/credits.csv")


def _run(workdir: Path, note: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    before = _hashed(workdir / "store")
    code, out, err = run(*pipeline(workdir, REMOVALS))
    note.write_text(json.dumps([code, out, err, before, _hashed(workdir / "store")]))


def _hashed(store: Path) -> dict[str, Any]:
    objects = snapshot(store).items()
    return {
        name: [inode, written, hashlib.sha256(data).hexdigest()] for name, (inode, written, data) in objects
    }


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Run:
    """An uninterrupted run from an empty store to a published round. Its processes are forks."""

    def make(folder: Path) -> None:
        _run(folder / "a work folder", folder / "result.json", forks.run)

    folder = once(tmp_path_factory, "whole", make)
    return Run(folder / "a work folder", *json.loads((folder / "result.json").read_text()))


@pytest.fixture(scope="session")
def again(whole: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same command in the same work folder, once more. Its processes are those of a user: each imports
    what it needs itself."""
    folder = once(tmp_path_factory, "again", lambda folder: _run(whole.workdir, folder / "result.json", ran))
    return Run(whole.workdir, *json.loads((folder / "result.json").read_text()))


@pytest.fixture(scope="session")
def _prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a planned round, its base model and its pruned model, and nothing of any coalition."""

    def make(folder: Path) -> None:
        uri = planned(folder, *SMALLER).uri
        prepared(uri)
        assert root(uri) == folder / "store"

    return once(tmp_path_factory, "prefix", make) / "store"


@pytest.fixture(scope="session")
def copied_store(_prefix: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Round]:
    """Makes a round whose coalitions are to be evaluated, in a copy of the store: a store may be moved, as
    its objects do not contain its address."""

    def copy(name: str) -> Round:
        store = shutil.copytree(_prefix, tmp_path_factory.mktemp(name) / "store")
        (round_id,) = (path.name for path in (store / "rounds").iterdir())
        return Round.open(f"{store.as_uri()}/rounds/{round_id}")

    return copy


@pytest.fixture
def ready(copied_store: Callable[[str], Round]) -> Round:
    """A round whose coalitions are to be evaluated, in a store of its own."""
    return copied_store("ready")


@pytest.fixture
def ready_config(ready: Round) -> Config:
    """The configuration that `ready` is planned with."""
    return configured(root(ready.uri).parent, *SMALLER)
