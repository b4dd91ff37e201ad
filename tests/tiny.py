"""Tiny rounds for tests: configs/tiny.yaml in a folder, its stages as calls or as processes, and ledgers that
are filled from a known game."""

import csv
import fcntl
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from apportion import stages
from apportion.config.loading import load
from apportion.config.round import Config
from apportion.config.stages import of_phase
from apportion.records import Commit, Cost, Evaluation
from apportion.rounds.round import Round
from apportion.stages import plan

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "tiny.yaml"
ALONE = "compute.base_threads=1"
"""With more threads than cores, as with several test workers, threads would wait for each other."""
REMOVALS = "evaluation.counterfactual={property: fid, game: credit, share: 0.25, seeds: 1, random: 1}"
"""What tiny.yaml leaves out."""
SMALLER = (
    *("data.contributors=[Emily Jäger, Lisa Thiel, Sofie Ascherl]", "valuation.coalitions=6"),
    *("properties=[fid, colourfulness_p90]", "evaluation.held_out=1", "valuation.methods=[leverage]"),
    *("sampling.images=32", "sampling.steps=1", "train.steps=4", "train.batch=8"),
    *("removal.fitting.steps=2", "removal.fitting.batch=8", "removal.pruning.retune.steps=2"),
    "model={channels: [8, 8], attention: [false, false], norm_groups: 4}",
)
"""Overrides for a round with all coalitions of three contributors, where as little as possible is computed:
12 evaluations, and 2 that its credits call for."""
COMPUTED = ("checkpoints", "samples", "references", "games")
"""Folders of a store with the results of compute."""
ODD = [
    *(
        "=SUM(A1)",
        "+1",
        "-x",
        "@home",
        'Smith, "Jo"',
        "名前 Ünï",
        "'quoted",
        "[bold]",
        ":heart:",
        "two; semi",
    ),
]
"""Names that a spreadsheet, a terminal or a table could misread."""
SHARDED = of_phase("weights", "coalitions")


def configured(workdir: Path, *overrides: str) -> Config:
    """The tiny configuration with a counterfactual, untracked."""
    return load(CONFIG, [ALONE, REMOVALS, "tracking.uri=null", *overrides], workdir)


def planned(workdir: Path, *overrides: str) -> Round:
    return Round.open(plan.run(configured(workdir, *overrides)).round_uri)


def root(uri: str) -> Path:
    """The folder of the file:// store of a round."""
    return Path(unquote(uri.removeprefix("file://"))).parents[1]


def round_folder(this_round: Round) -> Path:
    """The folder of a round's own files in a file:// store."""
    return root(this_round.uri) / "rounds" / this_round.id


def record_path(this_round: Round, position: int) -> Path:
    """The file of the ledger record of one planned evaluation in a file:// store."""
    wanted = this_round.plan.wanted[position]
    return root(this_round.uri) / "games" / wanted.game / "ledger" / f"{wanted.key}.json"


def csv_rows(this_round: Round, name: str) -> list[dict[str, str]]:
    """The rows of a table among the files of a round."""
    return list(csv.DictReader(io.StringIO(this_round.read(name).decode())))


def commit(this_round: Round) -> Commit:
    """The commit record of a published round."""
    return Commit.parse(this_round.read("round.json"), "round.json")


def evaluated(uri: str, names: Sequence[str] = SHARDED) -> dict[str, int]:
    """Runs these stages on every shard, here; returns how many outputs each made."""
    shards = range(Round.open(uri).config.compute.shards)
    return {name: sum(int(stages.run(name, uri, shard)) for shard in shards) for name in names}


def prepared(uri: str) -> None:
    """Makes the models that fits start from."""
    stages.run("train", uri)
    stages.run("prune", uri)


def concluded(uri: str) -> None:
    """Everything after the coalitions that were planned, here, as the pipeline does it."""
    if stages.run("attribute", uri):
        evaluated(uri)
    stages.run("evaluate", uri)
    stages.run("publish", uri)


def ran(*arguments: object) -> tuple[int, str, str]:
    """Exit code and output of `python …` in the repository."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


def pipeline(workdir: Path, *overrides: str) -> list[object]:
    """The arguments of a run of the tiny pipeline."""
    options = [part for override in (ALONE, *overrides) for part in ("--set", override)]
    return ["-m", "pipelines", "run", CONFIG, "--workdir", workdir, *options]


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """The temporary folder that all workers of pytest-xdist share."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that `make` fills, once for all workers of pytest-xdist."""
    base = shared_folder(factory)
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
    """Inode, time of writing and bytes of every object below a folder; a store's own hidden files are left
    out."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
        for path in files
    }


def nothing_computed(workdir: Path) -> bool:
    """Whether no compute was spent below a work folder."""
    paths = [path for name in COMPUTED for path in workdir.rglob(f"{name}/**/*")]
    return not [path for path in paths if path.is_file() and path.name != "game.json"]


Value = Callable[[np.ndarray, str, int], float]
"""v(members, property, seed)."""


def fill(
    this_round: Round,
    credit: Value,
    truth: Value | None = None,
    device: str = "cpu (1 threads), fp32",
    retraining: float = 2.0,
) -> None:
    """Writes every evaluation that a round lacks. Values are those of `credit`, or of `truth` in the game of
    retraining, where making a model costs `retraining` seconds."""
    for wanted in this_round.ledger.pending(this_round.wanted):
        retrained = this_round.is_retrained(wanted)
        value = truth if truth and retrained else credit
        mask = wanted.mask(this_round.manifest.n)
        record = Evaluation(
            key=wanted.key,
            game=wanted.game,
            seed=wanted.seed,
            members=this_round.data(wanted),
            values={name: value(mask, name, wanted.seed) for name in this_round.config.properties},
            cost=Cost(finetune=retraining if retrained else 2.0, sample=1.0, score=0.5, device=device),
            code="test",
        )
        this_round.ledger.commit(record)


def filled_to_the_end(this_round: Round, credit: Value, truth: Value | None = None, **costs: float) -> Round:
    """Fills the ledger of a round, and makes credits, evidence and publication from it."""
    fill(this_round, credit, truth, **costs)
    stages.run("attribute", this_round.uri)
    fill(this_round, credit, truth, **costs)
    stages.run("evaluate", this_round.uri)
    stages.run("publish", this_round.uri)
    return Round.open(this_round.uri)


def image_folder(folder: Path, names: list[str], images: int = 2, side: int = 16) -> Path:
    """A folder of noise images, no two alike, from contributors of these names."""
    rng = np.random.default_rng(0)
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(images):
            pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def from_folder(path: Path, *more: str) -> list[str]:
    """Overrides that take the images of a folder, measured with the embedded network."""
    data = f"data={{source: folder, path: {str(path)!r}, resolution: 16, min_images: 2}}"
    return [data, "network=openmoji", *more]


@contextmanager
def unmodified(path: Path) -> Iterator[None]:
    """Asserts that a file is left as it is."""
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    yield
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
