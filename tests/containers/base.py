"""What the container tests build with: an engine, a base image made of Debian's packages, and this machine's
settings for pip.

`python tests/containers/base.py` prepares engine and base and prints their names. Variables of `make images`
in the environment have precedence over what this file chooses.
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
"""Settings of pip that are also valid inside a build."""


@cache
def engine() -> str:
    """podman or docker, whichever is installed; else podman, which is installed from Debian's packages.
    Raises RuntimeError where that is not possible."""
    if requested := os.environ.get("ENGINE"):
        return requested
    if not shutil.which("podman") and not _docker_answers():
        _install("podman", "runc", "netavark")
    chosen = "podman" if shutil.which("podman") else "docker"
    if chosen == "podman" and os.geteuid() == 0 and shutil.which("runc"):
        os.environ.setdefault("CONTAINERS_CONF", str(HERE / "containers.conf"))
    return chosen


def _docker_answers() -> bool:
    if not shutil.which("docker"):
        return False
    return subprocess.run(["docker", "version"], capture_output=True).returncode == 0


def _install(*packages: str) -> None:
    if os.geteuid() or not shutil.which("apt-get"):
        raise RuntimeError(
            f"found no {packages[0]}, and packages are only installed as root on Debian: install podman or "
            "docker"
        )
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    update = ["apt-get", "update", "-qq"]
    install = ["apt-get", "install", "-qq", "--yes", "--no-install-recommends", *packages]
    for command in (update, install):
        subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL)


@cache
def base() -> str:
    """The base that BASE_IMAGE_CPU names, else a minimal Debian with its own Python, which is made once.
    Empty, for the Dockerfile's own base, where none can be made."""
    if requested := os.environ.get("BASE_IMAGE_CPU"):
        return requested
    if os.geteuid() or not shutil.which("apt-get"):
        return ""
    if subprocess.run([engine(), "image", "inspect", BASE], capture_output=True).returncode == 0:
        return BASE
    if not shutil.which("debootstrap"):
        _install("debootstrap")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "root"
        command = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, root]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if result.returncode:
            raise RuntimeError(
                "debootstrap failed (set BASE_IMAGE_CPU to a base that can be pulled): "
                f"{result.stdout[-2000:]}"
            )
        for part in ("var/cache/apt", "var/lib/apt/lists"):
            shutil.rmtree(root / part)
        archive = ["tar", "--create", "--directory", root, "."]
        load = [engine(), "import", "-", BASE]
        with subprocess.Popen(archive, stdout=subprocess.PIPE) as packed:
            subprocess.run(load, stdin=packed.stdout, check=True, stdout=subprocess.DEVNULL)
    return BASE


def settings() -> dict[str, str]:
    """This machine's settings for pip, from files and from the environment, which has precedence."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    result: dict[str, str] = {}
    for line in lines:  # those of the environment come first
        name, _, value = line.partition("=")
        if name.startswith((":env:.", "global.", "install.")):
            result.setdefault(name.rpartition(".")[2], ast.literal_eval(value))
    return result


def build_variables(scratch: Path) -> dict[str, str]:
    """Variables of `make images` with which a build reaches the same package index as this machine; those of
    the environment have precedence. No part of them stays in the image."""
    pip = settings()
    remote = {name: _remote(pip[name]) for name in REMOTE if name in pip}
    conf = scratch / "pip.conf"
    lines = [f"{name} = {value}" for name, value in remote.items() if value]
    conf.write_text("\n".join(["[global]", *lines, ""]), encoding="utf-8")
    folders = [path for path in pip.get("find-links", "").split() if Path(path).is_dir()]
    authority = pip.get("cert") or os.environ.get("SSL_CERT_FILE", "")
    variables = {
        "PIP_CONF": str(conf),
        "CA_BUNDLE": authority if Path(authority).is_file() else "",
        "WHEELS": folders[0] if folders else "",
        "BUILD_OPTIONS": "--network host",
    }
    return {"ENGINE": engine()} | {name: os.environ.get(name, value) for name, value in variables.items()}


def _remote(value: str) -> str:
    """The setting without addresses of files on this machine."""
    return " ".join(part for part in value.split() if urlsplit(part).scheme != "file")


def make_images(variables: dict[str, str], folder: Path = HERE.parents[1]) -> float:
    """Runs `make images` in a folder; returns the seconds that it took."""
    start = time.perf_counter()
    command = ["make", "images", *(f"{name}={value}" for name, value in variables.items())]
    result = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode:
        raise RuntimeError(f"make images failed:\n{result.stdout[-8000:]}")
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.stdout.write(f"{engine()} {base()}\n")
