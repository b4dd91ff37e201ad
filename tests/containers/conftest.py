"""The image under test, the servers that its containers use, and one whole round in containers."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from base import base, build_variables, engine, make_images
from rounds import BUCKET, PREFIX, Done, run_round
from servers import CREDENTIALS, make_bucket, mlflow_server, s3_endpoint  # noqa: F401
from tasks import ROOT, Cluster, Engine
from tiny import CONFIG, REMOVALS

from apportion.config.loading import load
from apportion.config.round import Config

TIMES = pytest.StashKey[dict[str, float]]()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Tests that need an engine are collected only where this folder is an argument, as in `make
    test-containers`."""
    requested = any("tests/containers" in Path(argument).as_posix() for argument in config.args)
    return None if requested or collection_path.name in ("containers", "test_dockerfiles.py") else True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for what, seconds in config.stash.get(TIMES, {}).items():
        terminalreporter.write_line(f"{what}: {seconds:.1f} s")


@pytest.fixture(scope="session")
def times(pytestconfig: pytest.Config) -> dict[str, float]:
    """Seconds of the steps that must not become slow; they are printed at the end."""
    return pytestconfig.stash.setdefault(TIMES, {})


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory, times: dict[str, float]) -> dict[str, str]:
    """Variables of `make images` for this machine."""
    start = time.perf_counter()
    folder = tmp_path_factory.mktemp("build")
    variables = build_variables(folder) | {"BASE_IMAGE_CPU": base(), "IMAGES": "cpu"}
    times["engine and base"] = time.perf_counter() - start
    return variables


@pytest.fixture(scope="session")
def image(build: dict[str, str], times: dict[str, float]) -> Iterator[Engine]:
    tag = os.environ.get("IMAGE_CPU", "localhost/apportion-test/cpu:current")
    times["image"] = make_images(build | {"IMAGE_CPU": tag})
    built = Engine(engine(), tag)
    yield built
    built.clear()


@pytest.fixture(scope="session")
def cluster(image: Engine, s3_endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Cluster:  # noqa: F811
    make_bucket(s3_endpoint, BUCKET)
    # Options of OpenBLAS for this processor: results differ in their last bits between its kernels.
    kernels = {
        name: os.environ[name] for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE") if name in os.environ
    }
    env = CREDENTIALS | kernels | {"AWS_ENDPOINT_URL_S3": s3_endpoint}
    return Cluster(image, tmp_path_factory.mktemp("pods"), env)


@pytest.fixture(scope="session")
def config(cluster: Cluster, mlflow_server: str) -> Config:  # noqa: F811
    """The tiny configuration with a counterfactual, whose two removals are evaluated after the credits."""
    return load(CONFIG, [REMOVALS, f"store=s3://{BUCKET}/{PREFIX}", f"tracking.uri={mlflow_server}"])


@pytest.fixture(scope="session")
def done(cluster: Cluster, config: Config, times: dict[str, float]) -> Done:
    return run_round(cluster, config, times)


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory, config: Config, times: dict[str, float]) -> Path:
    """The folder of the same round, run without containers by `python -m pipelines run` in a work folder."""
    workdir = tmp_path_factory.mktemp("local")
    start = time.perf_counter()
    command = [sys.executable, "-m", "pipelines", "run", CONFIG, "--workdir", workdir, "--set", REMOVALS]
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert result.returncode == 0, result.stdout
    times["round without containers"] = time.perf_counter() - start
    (folder,) = (workdir / "store" / "rounds").iterdir()
    return folder
