"""What the container tests build with: an engine, a base image made of Debian's packages, and this machine's own way to Python packages.

`python tests/containers/base.py` makes engine and base and prints their names. Variables of `make images` win over what is found here.
"""

import ast
import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

HERE = Path(__file__).parent
SUITE = "bookworm"
PACKAGES = ("python3", "python3-venv", "ca-certificates")
BASE = f"localhost/apportion-test-base:{'.'.join((SUITE, *PACKAGES))}"
REMOTE = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "default-timeout", "no-index")
"""Settings of pip that mean inside a build what they mean here."""


@cache
def engine() -> str:
    """podman or docker, whichever is here; else podman, of Debian's packages. Raises RuntimeError where there is none and none can be."""
    if asked := os.environ.get("ENGINE"):
        return asked
    if not shutil.which("podman") and not _docker_answers():
        _install("podman", "runc", "netavark")
    chosen = "podman" if shutil.which("podman") else "docker"
    if chosen == "podman" and os.geteuid() == 0 and shutil.which("runc"):
        os.environ.setdefault("CONTAINERS_CONF", str(HERE / "containers.conf"))
    return chosen


def _docker_answers() -> bool:
    return bool(shutil.which("docker")) and subprocess.run(["docker", "version"], capture_output=True).returncode == 0


def _install(*packages: str) -> None:
    if os.geteuid() or not shutil.which("apt-get"):
        raise RuntimeError(f"found no {packages[0]}, and packages are only installed as root on Debian: install podman or docker")
    quiet, env = {"stdout": subprocess.DEVNULL}, os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=True, env=env, **quiet)
    subprocess.run(["apt-get", "install", "-qq", "--yes", "--no-install-recommends", *packages], check=True, env=env, **quiet)


@cache
def base() -> str:
    """The base that BASE_IMAGE_CPU names, else a Debian with its own Python and nothing more, which is made once; empty, for the
    Dockerfile's own, where none can be made."""
    if asked := os.environ.get("BASE_IMAGE_CPU"):
        return asked
    if os.geteuid() or not shutil.which("apt-get"):
        return ""
    if subprocess.run([engine(), "image", "inspect", BASE], capture_output=True).returncode == 0:
        return BASE
    if not shutil.which("debootstrap"):
        _install("debootstrap")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "root"
        command = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, root]
        made = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if made.returncode:
            raise RuntimeError(f"debootstrap made no base (set BASE_IMAGE_CPU to one that can be pulled): {made.stdout[-2000:]}")
        for part in ("var/cache/apt", "var/lib/apt/lists"):
            shutil.rmtree(root / part)
        with subprocess.Popen(["tar", "--create", "--directory", root, "."], stdout=subprocess.PIPE) as packed:
            subprocess.run([engine(), "import", "-", BASE], stdin=packed.stdout, check=True, stdout=subprocess.DEVNULL)
    return BASE


def settings() -> dict[str, str]:
    """What pip is told here, by files and by its environment, which wins."""
    said = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True).stdout
    found: dict[str, str] = {}
    for line in said.splitlines():  # the environment's come first
        name, _, value = line.partition("=")
        if name.startswith((":env:.", "global.", "install.")):
            found.setdefault(name.rpartition(".")[2], ast.literal_eval(value))
    return found


def build_variables(scratch: Path) -> dict[str, str]:
    """Variables of `make images` that let a build reach what this machine reaches, or those told. Nothing of them stays in the image."""
    told = settings()
    remote = {name: _remote(told[name]) for name in REMOTE if name in told}
    conf = scratch / "pip.conf"
    conf.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in remote.items() if value), encoding="utf-8")
    folders = [path for path in told.get("find-links", "").split() if Path(path).is_dir()]
    authority = told.get("cert") or os.environ.get("SSL_CERT_FILE", "")
    found = {
        "PIP_CONF": str(conf),
        "CA_BUNDLE": authority if Path(authority).is_file() else "",
        "WHEELS": folders[0] if folders else "",
        "BUILD_OPTIONS": "--network host",
    }
    return {"ENGINE": engine()} | {name: os.environ.get(name, value) for name, value in found.items()}


def _remote(value: str) -> str:
    """Without what lies on this machine's disk."""
    return " ".join(part for part in value.split() if urlsplit(part).scheme != "file")


def make_images(variables: dict[str, str], folder: Path = HERE.parents[1]) -> float:
    """Runs `make images` in a folder; returns the seconds that it took."""
    told, begun = [f"{name}={value}" for name, value in variables.items()], time.perf_counter()
    done = subprocess.run(["make", "images", *told], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"make images failed:\n{done.stdout[-8000:]}")
    return time.perf_counter() - begun


if __name__ == "__main__":
    sys.stdout.write(f"{engine()} {base()}\n")
