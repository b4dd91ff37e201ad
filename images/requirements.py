"""The packages that an image installs, from pyproject.toml and constraints.txt. Runs inside the build and
needs only the standard library.

`requirements.py list [BUILD]` prints the requirements. `requirements.py check [BUILD]` compares the installed
packages with the lock. BUILD is the local version of the build of torch: cpu; the CUDA version that the lock
is for, as cu130; or nothing, where the index has a single build.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

EXTRA = "pipeline"


def name(requirement: str) -> str:
    """The normalized name of the package that a requirement names."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()  # type: ignore[index]


def lock() -> dict[str, str]:
    lines = Path("constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def requirements(build: str) -> Iterator[str]:
    """The requirements of the package and of its extra `pipeline`. Their versions are in the lock, which pip
    gets as constraints."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    for requirement in [*project["dependencies"], *project["optional-dependencies"][EXTRA]]:
        if name(requirement) == "torch":
            # Without a build, === excludes versions with a local part: an index may offer other builds too.
            version = lock()["torch"]
            requirement = f"torch=={version}+{build}" if build else f"torch==={version}"
        yield requirement


def problems(build: str) -> Iterator[str]:
    """A message for every installed package with another version than the lock's, and for the wrong build of
    torch."""
    locked = lock()
    for package in distributions():
        expected = locked.get(name(package.name))
        if package.version.partition("+")[0] != expected:
            installed = f"{package.name} {package.version}"
            yield f"found {installed} installed, expected {expected or 'nothing'} (constraints.txt)"
    from torch.version import __version__, cuda

    if (cuda is None) != (build == "cpu"):
        expected = f"a build {'without' if build == 'cpu' else 'with'} CUDA"
        fix = "name the build (TORCH_BUILD) or choose an index that has it"
        yield f"found torch {__version__}, expected {expected}: {fix}"


def main(act: str, build: str = "") -> int:
    lines = list({"list": requirements, "check": problems}[act](build))
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return int(act == "check" and bool(lines))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
