"""The Dockerfiles and the list of what they install, as text: no engine is needed."""

import difflib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "images"
TEXTS = {kind: (IMAGES / f"{kind}.Dockerfile").read_text(encoding="utf-8") for kind in ("cpu", "gpu")}
LOCK = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if "==" in line)


def listed(build: str) -> list[str]:
    command = [sys.executable, IMAGES / "requirements.py", "list", *([build] if build else [])]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def test_they_differ_where_they_say() -> None:
    changed = [line for line in difflib.ndiff(TEXTS["cpu"].splitlines(), TEXTS["gpu"].splitlines()) if line[0] in "+-"]
    code = [line[2:].strip() for line in changed if not line[2:].startswith("#")]
    allowed = (
        r"ARG TORCH_BUILD=(cpu)?|(LABEL )?org\.opencontainers\.image\.(title|description|licenses)=.*|GIT_PYTHON_REFRESH=quiet.*|NVIDIA_.*"
    )
    assert [line for line in code if not re.fullmatch(allowed, line)] == []


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_they_ask_little_of_their_base_and_leave_it_to_the_builder(text: str) -> None:
    assert re.findall(r"^ARG BASE_IMAGE=(.*)$", text, re.MULTILINE) == ["docker.io/library/python:3.11-slim-bookworm"]
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"scratch", "${BASE_IMAGE}", "dependencies"}
    assert not re.search(r"apt|apk|dnf|curl|wget|ADD ", text)
    assert set(re.findall(r"https?://[^\s\"]+", text)) == {"https://github.com/apportion/apportion"}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_code_comes_after_dependencies(text: str) -> None:
    stages = text.split("\nFROM ")
    (dependencies,) = (stage for stage in stages if stage.startswith("${BASE_IMAGE} AS dependencies"))
    assert re.findall(r"^COPY (.*)$", dependencies, re.MULTILINE) == [
        "constraints.txt images/requirements.py ./",
        "--from=wanted /wanted/requirements.txt ./",  # all that pyproject.toml can change of them
    ]
    assert re.findall(r"^(?:COPY|RUN) .*$", stages[-1], re.MULTILINE) == ["COPY --from=code /code /opt/apportion"]


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_they_run_as_nobody_in_particular(text: str) -> None:
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["10001:10001"]
    assert re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE) == ["[]"]


def test_everything_that_is_copied_is_let_through() -> None:
    copied = {
        name for text in TEXTS.values() for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE) for name in line.split()
    }
    rules = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied


@pytest.mark.parametrize("build", ["cpu", "cu130", ""])
def test_requirements_are_those_of_stages_and_pipeline(build: str) -> None:
    found = {re.match(r"[\w-]+", line)[0]: line for line in listed(build)}
    assert {"torch", "diffusers", "boto3", "mlflow-skinny", "kfp", "kfp-kubernetes", "kubernetes"} <= found.keys() <= LOCK.keys()
    assert not {"mlflow", "pytest", "moto", "resvg-py"} & found.keys()
    assert found["torch"] == (f"torch=={LOCK['torch']}+{build}" if build else f"torch==={LOCK['torch']}")


def test_the_lock_has_what_a_cuda_build_brings() -> None:
    """torch pins most of it itself, and leaves some of it open."""
    assert {"triton", "cuda-bindings", "cuda-toolkit", "nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-nvjitlink"} <= LOCK.keys()


def test_what_describes_images_is_pinned() -> None:
    lines = (IMAGES / "sbom.txt").read_text(encoding="utf-8").splitlines()
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines[1:])
