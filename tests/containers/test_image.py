"""What the image holds and allows, what it is made of, and how soon a change of code is in it."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from base import make_images
from tasks import ROOT, USER, Engine

pytestmark = pytest.mark.timeout(1800)  # the first test waits for the image

INSTALLED = """
import importlib.metadata, json
print(json.dumps({d.name: d.version for d in importlib.metadata.distributions()}))
"""
UNCOMPILED = """
import importlib.util, pathlib, sysconfig
for path in sorted(pathlib.Path(sysconfig.get_path("purelib")).rglob("*.py")):
    if not pathlib.Path(importlib.util.cache_from_source(path)).exists():
        print(path)
"""
SECONDS = 30
"""A change of code is to be in an image by then."""


def installed(image: Engine) -> dict[str, str]:
    found: dict[str, str] = json.loads(image.inside("python", "-c", INSTALLED))
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found.items()}


def test_it_is_set_up_for_a_pod(image: Engine) -> None:
    told = image.inspect(image.image)["Config"]
    assert told["User"] == USER
    assert told["WorkingDir"] == "/work"
    assert not told.get("Entrypoint")
    assert told["Cmd"] == ["apportion", "--help"]
    assert set(told["Volumes"]) == {"/work", "/tmp"}
    env = dict(variable.split("=", 1) for variable in told["Env"])
    assert env["PATH"].split(":")[0] == "/opt/apportion/bin"
    assert {name: env[name] for name in ("HOME", "TMPDIR", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")} == {
        "HOME": "/work", "TMPDIR": "/tmp", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1",
    }  # fmt: skip


def test_it_says_what_it_is(image: Engine) -> None:
    told = {name.removeprefix("org.opencontainers.image."): value for name, value in image.inspect(image.image)["Config"]["Labels"].items()}
    assert {"title", "description", "version", "revision", "source", "licenses", "created"} <= told.keys()
    assert told["title"] == "apportion/cpu"
    assert told["version"] == image.inside("apportion", "--version").strip()
    assert "unknown" not in (told["revision"], told["created"])


def test_how_it_was_built_is_not_told(image: Engine, build: dict[str, str]) -> None:
    """Neither where its packages came from nor whom its builder trusts."""
    history = image.ask("history", "--no-trunc", "--format", "{{.CreatedBy}}", image.image)
    told = [line.partition("=")[2].strip() for line in Path(build["PIP_CONF"]).read_text(encoding="utf-8").splitlines() if "=" in line]
    assert not [value for value in (*told, build["CA_BUNDLE"], build["WHEELS"]) if len(value) > 3 and value in history]
    assert image.inside("sh", "-c", "find /run/secrets /run/wheels -type f 2>/dev/null || true").split() == []


def test_it_lets_nothing_be_written_elsewhere(image: Engine) -> None:
    places = "for place in / /opt/apportion /etc /run /var/tmp /usr/bin; do ! touch $place/stray 2>/dev/null || echo $place; done"
    assert image.inside("sh", "-c", f"{places}; touch /work/fine /tmp/fine").split() == []
    owned = [image.name, "run", "--rm", "--network", "none", image.image, "find", "/opt", "/usr", "/etc", "-writable", "!", "-type", "l"]
    assert subprocess.run(owned, capture_output=True, text=True).stdout.split() == []  # and not only where the root is read-only


def test_its_bytecode_is_compiled(image: Engine) -> None:
    missing = image.inside("python", "-c", UNCOMPILED).split()
    assert [path for path in missing if "/torch/testing/" not in path] == []


def test_it_has_what_the_lock_says_and_no_more(image: Engine) -> None:
    found = installed(image)
    lock = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert {name: version.partition("+")[0] for name, version in found.items() if name != "apportion"}.items() <= lock.items()
    assert {"torch", "diffusers", "boto3", "kfp", "kfp-kubernetes", "kubernetes", "mlflow-skinny", "xgboost-cpu"} <= found.keys()
    assert found["torch"].endswith("+cpu")
    assert not {"pip", "mlflow", "moto", "pytest", "mypy", "ruff", "flask", "scikit-learn"} & found.keys()


@pytest.mark.parametrize("command", ["apportion --help", "python -m apportion --help", "python3 -m pipelines --help", "kfp --help"])
def test_its_commands_work(image: Engine, command: str) -> None:
    assert "usage: " in image.inside(*command.split()).lower()


def test_the_round_that_the_documentation_shows(image: Engine) -> None:
    said = (ROOT / "docs" / "containers.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^ {4}apportion/cpu:\S+ (python -m pipelines run .*)$", said, re.MULTILINE)
    assert "rounds/" in image.inside(*command.split())


def test_it_holds_data_pipelines_and_configurations(image: Engine) -> None:
    plan = "plan /opt/apportion/configs/tiny.yaml --workdir /work/round --set tracking.uri=null"
    assert image.inside("apportion", *plan.split()).startswith("file:///work/round/store/rounds/")
    assert "apportion-attribution" in image.inside(
        "sh", "-c", "python -m pipelines compile --out /work/out && cat /work/out/attribution.yaml"
    )


def test_the_bill_of_materials_is_what_is_installed(image: Engine, tmp_path: Path) -> None:
    told = [f"ENGINE={image.name}", f"IMAGE_CPU={image.image}", "IMAGES=cpu", f"SBOM={tmp_path}"]
    subprocess.run(["make", "sbom", *told], cwd=ROOT, check=True, stdout=subprocess.PIPE)
    bom = json.loads((tmp_path / "cpu.cdx.json").read_text(encoding="utf-8"))
    name, _, version = image.image.rpartition(":")
    digest = image.inspect(image.image)["Id"].removeprefix("sha256:")
    assert bom["bomFormat"] == "CycloneDX"
    assert bom["metadata"]["component"] == {
        "type": "container", "bom-ref": "image", "name": name, "version": version, "hashes": [{"alg": "SHA-256", "content": digest}],
    }  # fmt: skip
    (contained,) = (entry["dependsOn"] for entry in bom["dependencies"] if entry["ref"] == "image")
    assert len(contained) == len(bom["components"])
    assert {re.sub(r"[-_.]+", "-", c["name"]).lower(): c["version"] for c in bom["components"]} == installed(image)
    assert {entry["ref"] for entry in bom["dependencies"]} >= {"apportion==0.1.0", "kfp==2.17.0"}


def test_there_is_no_bill_of_what_was_not_built(image: Engine, tmp_path: Path) -> None:
    told = [f"ENGINE={image.name}", "IMAGE_CPU=localhost/apportion-test/cpu:never", "IMAGES=cpu", f"SBOM={tmp_path}"]
    done = subprocess.run(["make", "sbom", *told], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode
    assert "cannot read localhost/apportion-test/cpu:never" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_context_holds_what_is_needed_and_no_more(context: Path) -> None:
    files = {path.relative_to(context).as_posix() for path in context.rglob("*") if path.is_file()}
    said = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )  # fmt: skip
    wanted = ("src/", "components/", "pipelines/", "configs/", "LICENSE", "NOTICE", "README.md", "constraints.txt", "pyproject.toml")
    known = {name for name in said.stdout.split("\0") if name.startswith((*wanted, "images/requirements.py")) and (ROOT / name).exists()}
    assert files == known


def test_a_change_of_code_is_in_an_image_within_seconds(
    image: Engine, build: dict[str, str], context: Path, times: dict[str, float]
) -> None:
    """By a layer of its own: all below are shared."""
    for name in ("Makefile", ".dockerignore", "images"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, context / name, **({"dirs_exist_ok": True} if (ROOT / name).is_dir() else {}))
    changed = context / "src" / "apportion" / "__init__.py"
    changed.write_text(changed.read_text(encoding="utf-8").replace('"0.1.0"', '"0.1.0.post1"'), encoding="utf-8")
    tag = "localhost/apportion-test/cpu:changed"
    times["image after a change of code"] = make_images(build | {"IMAGE_CPU": tag}, context)
    new = Engine(image.name, tag)
    assert new.inside("apportion", "--version").strip() == "0.1.0.post1"
    layers = {engine.image: engine.inspect(engine.image)["RootFS"]["Layers"] for engine in (image, new)}
    assert [a == b for a, b in zip(layers[image.image], layers[tag], strict=True)].count(False) == 1
    image.ask("rmi", tag)
    assert times["image after a change of code"] < SECONDS


@pytest.fixture
def context(image: Engine, tmp_path: Path) -> Path:
    """What the engine sends to a build, as a folder."""
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY . /\n", encoding="utf-8")
    image.ask("build", "--file", tmp_path / "Dockerfile", "--output", f"type=local,dest={tmp_path / 'context'}", ROOT)
    return tmp_path / "context"
