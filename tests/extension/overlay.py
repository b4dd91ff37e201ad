"""A copy of the sources with a toy extension: what an outsider would change to add one, and nothing else."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Overlay:
    """The sources in a folder of their own; `changed` are the files that the extension adds or edits."""

    def __init__(self, folder: Path, *parts: str) -> None:
        self.folder, self.changed = folder, list[str]()
        for part in ("src", *parts):
            source, target = ROOT / part, folder / part
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            else:
                shutil.copy(source, target)

    def add(self, name: str, text: str) -> None:
        """A new file."""
        path = self.folder / name
        assert not path.exists()
        path.write_text(text, encoding="utf-8")
        self.changed.append(name)

    def edit(self, name: str, *edits: tuple[str, str]) -> None:
        """An existing file: each text that occurs once in it becomes another."""
        path = self.folder / name
        text = path.read_text(encoding="utf-8")
        for before, after in edits:
            assert text.count(before) == 1, (
                f"found {before!r} {text.count(before)} times in {name}, expected once"
            )
            text = text.replace(before, after)
        path.write_text(text, encoding="utf-8")
        self.changed.append(name)

    def run(self, *arguments: str) -> str:
        """What `python …` prints, with these sources. Fails the test where it fails."""
        path = os.pathsep.join([str(self.folder / "src"), str(self.folder), str(ROOT / "tests")])
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


ROUND = """
import sys
from pathlib import Path
from apportion.rounds.round import Round
from tiny import concluded, evaluated, planned, prepared

uri = planned(Path(sys.argv[1]), *sys.argv[2:]).uri
prepared(uri)
made = evaluated(uri)
concluded(uri)
this_round = Round.open(uri)
"""
"""The start of a script that carries a tiny round through all stages; its arguments are a folder and
overrides."""

SMALLEST = (
    "data={source: openmoji, contributors: [Emily Jäger, Lisa Thiel, Fanny Jung], resolution: 16}",
    "train.steps=2",
    "sampling={images: 32, steps: 1, batch: 32}",
    "valuation={coalitions: 6, endpoint_seeds: 2}",
    "evaluation={}",
    "compute.base_threads=1",
    "properties=[colourfulness_p90]",
)
"""Overrides that make the tiny round smaller still: all coalitions of three contributors."""
