"""What an image installs, out of pyproject.toml and constraints.txt: runs inside the build, with the standard library alone.

`requirements.py list [BUILD]` prints requirements, `requirements.py check [BUILD]` compares what its Python has installed with the lock.
BUILD is the local version of the build of torch: cpu; that of the CUDA the lock is for, as cu130; or nothing, where the index has but one.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

EXTRA = "pipeline"


def name(requirement: str) -> str:
    """The normal form of the name that a requirement starts with."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()  # type: ignore[index]


def lock() -> dict[str, str]:
    lines = Path("constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def requirements(build: str) -> Iterator[str]:
    """The runtime's and the pipeline's requirements; versions are those of the lock, which pip is given too."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    for requirement in [*project["dependencies"], *project["optional-dependencies"][EXTRA]]:
        if name(requirement) == "torch":  # three signs: without a build none may be named, where an index has PyPI's and others
            requirement = f"torch=={lock()['torch']}+{build}" if build else f"torch==={lock()['torch']}"
        yield requirement


def problems(build: str) -> Iterator[str]:
    """Every installed distribution that is not what the lock says, and a build of torch for other machines."""
    locked = lock()
    for found in distributions():
        version, known = found.version.partition("+")[0], locked.get(name(found.name))
        if version != known:
            yield f"found {found.name} {found.version} installed, expected {known or 'nothing'} (constraints.txt)"
    from torch.version import __version__, cuda

    if (cuda is None) != (build == "cpu"):
        mend = "name the build (TORCH_BUILD) or choose an index that has it"
        yield f"found torch {__version__}, expected a build {'without' if build == 'cpu' else 'with'} CUDA: {mend}"


def main(act: str, build: str = "") -> int:
    lines = list({"list": requirements, "check": problems}[act](build))
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return int(act == "check" and bool(lines))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
