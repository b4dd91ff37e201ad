"""The Dockerfiles and the list of packages that they install, as text: no engine is needed."""

import difflib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "images"
TEXTS = {kind: (IMAGES / f"{kind}.Dockerfile").read_text(encoding="utf-8") for kind in ("cpu", "gpu")}
LINES = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
LOCK = dict(line.split("==") for line in LINES if "==" in line)


def listed(build: str) -> list[str]:
    command = [sys.executable, IMAGES / "requirements.py", "list", *([build] if build else [])]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def test_they_differ_only_in_what_their_heads_list() -> None:
    lines = difflib.ndiff(TEXTS["cpu"].splitlines(), TEXTS["gpu"].splitlines())
    changed = [line for line in lines if line[0] in "+-"]
    code = [line[2:].strip() for line in changed if not line[2:].startswith("#")]
    allowed = (
        r"ARG TORCH_BUILD=(cpu)?|GIT_PYTHON_REFRESH=quiet.*|NVIDIA_.*"
        r"|(LABEL )?org\.opencontainers\.image\.(title|description|licenses)=.*"
    )
    assert [line for line in code if not re.fullmatch(allowed, line)] == []


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_the_builder_chooses_the_base_and_nothing_is_downloaded_directly(text: str) -> None:
    base = "docker.io/library/python:3.11-slim-bookworm"
    assert re.findall(r"^ARG BASE_IMAGE=(.*)$", text, re.MULTILINE) == [base]
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"scratch", "${BASE_IMAGE}", "dependencies"}
    assert not re.search(r"apt|apk|dnf|curl|wget|ADD ", text)
    assert set(re.findall(r"https?://[^\s\"]+", text)) == {"https://github.com/apportion/apportion"}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_code_comes_after_dependencies(text: str) -> None:
    stages = text.split("\nFROM ")
    (dependencies,) = (stage for stage in stages if stage.startswith("${BASE_IMAGE} AS dependencies"))
    assert re.findall(r"^COPY (.*)$", dependencies, re.MULTILINE) == [
        "constraints.txt images/requirements.py ./",
        "--from=wanted /wanted/requirements.txt ./",  # the only part of pyproject.toml that they depend on
    ]
    last = re.findall(r"^(?:COPY|RUN) .*$", stages[-1], re.MULTILINE)
    assert last == ["COPY --from=code /code /opt/apportion"]


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_they_run_as_a_user_without_privileges(text: str) -> None:
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["10001:10001"]
    assert re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE) == ["[]"]


def test_the_build_context_contains_everything_that_is_copied() -> None:
    sources = [re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE) for text in TEXTS.values()]
    copied = {name for lines in sources for line in lines for name in line.split()}
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied


@pytest.mark.parametrize("build", ["cpu", "cu130", ""])
def test_requirements_are_those_of_stages_and_pipeline(build: str) -> None:
    requirements = {re.match(r"[\w-]+", line)[0]: line for line in listed(build)}
    needed = {"torch", "diffusers", "boto3", "mlflow-skinny", "kfp", "kfp-kubernetes", "kubernetes"}
    assert needed <= requirements.keys() <= LOCK.keys()
    assert not {"mlflow", "pytest", "moto", "resvg-py"} & requirements.keys()
    torch = LOCK["torch"]
    assert requirements["torch"] == (f"torch=={torch}+{build}" if build else f"torch==={torch}")


def test_the_lock_has_the_packages_of_a_cuda_build() -> None:
    """torch itself pins most of these packages, but not all."""
    packages = {"triton", "cuda-bindings", "cuda-toolkit", "nvidia-cublas", "nvidia-cudnn-cu13"}
    assert packages | {"nvidia-nvjitlink"} <= LOCK.keys()


def test_the_packages_that_describe_images_are_pinned() -> None:
    lines = (IMAGES / "sbom.txt").read_text(encoding="utf-8").splitlines()
    packages = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in packages)
