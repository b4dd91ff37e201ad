"""Tiny rounds for tests: configs/tiny.yaml in a folder, its stages as calls or as processes, and ledgers filled from a game one knows."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from apportion.config import Config, load
from apportion.records import Cost, Evaluation
from apportion.stages import SHARDED, attribute, evaluate, finetune, plan, prune, publish, sample, score, train
from apportion.stages.round import Round

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "tiny.yaml"
ALONE = "compute.base_threads=1"  # more threads than cores, as with several workers, would wait for each other
REMOVALS = "evaluation.counterfactual={property: fid, game: credit, share: 0.25, seeds: 1, random: 1}"  # what tiny.yaml leaves out
MADE = ("checkpoints", "samples", "references", "games")  # what compute leaves in a store
ODD = ["=SUM(A1)", "+1", "-x", "@home", 'Smith, "Jo"', "名前 Ünï", "'quoted", "[bold]", ":heart:", "two; semi"]  # names
MODULES = {"finetune": finetune, "sample": sample, "score": score}


def told(workdir: Path, *overrides: str) -> Config:
    """The tiny configuration with a counterfactual, untracked."""
    return load(CONFIG, [ALONE, REMOVALS, "tracking.uri=null", *overrides], workdir)


def planned(workdir: Path, *overrides: str) -> Round:
    return Round.open(plan.run(told(workdir, *overrides)).round_uri)


def root(uri: str) -> Path:
    """The folder of the file:// store of a round."""
    return Path(unquote(uri.removeprefix("file://"))).parents[1]


def evaluated(uri: str, stages: tuple[str, ...] = SHARDED) -> dict[str, int]:
    """Runs these stages on every shard, here; returns how many outputs each made."""
    shards = range(Round.open(uri).config.compute.shards)
    return {name: sum(MODULES[name].run(uri, shard) for shard in shards) for name in stages}


def prepared(uri: str) -> None:
    train.run(uri)
    prune.run(uri)


def concluded(uri: str) -> None:
    """Everything after the coalitions that were planned, here, as the pipeline does it."""
    if attribute.run(uri):
        evaluated(uri)
    evaluate.run(uri)
    publish.run(uri)


def started(*arguments: object) -> "subprocess.Popen[str]":
    """`python …` in the repository, in a process group of its own."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def said(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Waits for a process; its exit code and what it wrote on either stream."""
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def ran(*arguments: object) -> tuple[int, str, str]:
    return said(started(*arguments))


def pipeline(workdir: Path, *overrides: str) -> list[object]:
    """The arguments of a run of the tiny pipeline."""
    told = [part for override in (ALONE, *overrides) for part in ("--set", override)]
    return ["-m", "pipelines", "run", CONFIG, "--workdir", workdir, *told]


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that `make` fills, once for all workers of pytest-xdist."""
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, done = base / name, base / f"{name}.done"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Inode, time of writing and bytes of every object below a folder; a store's own hidden files are left out."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def nothing_made(workdir: Path) -> bool:
    """Whether no compute was spent below a work folder."""
    return not [path for name in MADE for path in workdir.rglob(f"{name}/**/*") if path.is_file() and path.name != "game.json"]


Value = Callable[[np.ndarray, str, int], float]
"""v(members, property, seed)."""


def fill(round: Round, credit: Value, truth: Value | None = None, device: str = "cpu (1 threads), fp32", retraining: float = 2.0) -> None:
    """Writes every evaluation that a round lacks, valued by `credit`, or by `truth` in the game of retraining, which takes so long."""
    for wanted in round.ledger.pending(round.wanted):
        retrained = wanted.game == round.plan.truth_game
        of = truth if truth and retrained else credit
        mask = wanted.mask(round.manifest.n)
        values = {name: of(mask, name, wanted.seed) for name in round.config.properties}
        cost = Cost(finetune=retraining if retrained else 2.0, sample=1.0, score=0.5, device=device)
        members = round.data(wanted)
        round.ledger.commit(
            Evaluation(key=wanted.key, game=wanted.game, seed=wanted.seed, members=members, values=values, cost=cost, code="test")
        )


def give(folder: Path, names: list[str], images: int = 2, side: int = 16) -> Path:
    """A folder of noise images, no two alike, from contributors of these names."""
    rng = np.random.default_rng(0)
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(images):
            Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(folder / name / f"{i}.png")
    return folder


def from_folder(path: Path, *more: str) -> list[str]:
    """Overrides that take the images of a folder."""
    return [f"data={{source: folder, path: {str(path)!r}, resolution: 16, min_images: 2}}", *more]


@contextmanager
def kept(path: Path) -> Iterator[None]:
    """Asserts that a file is left as it is."""
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    yield
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
