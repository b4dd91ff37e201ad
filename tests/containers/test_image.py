"""The content of the image, what a container may do, what the image is made of, and how long a rebuild takes
after a change of code."""

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
"""The most that a build may take after a change of code."""


def installed(image: Engine) -> dict[str, str]:
    versions: dict[str, str] = json.loads(image.inside("python", "-c", INSTALLED))
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in versions.items()}


def test_it_is_configured_for_a_pod(image: Engine) -> None:
    config = image.inspect(image.image)["Config"]
    assert config["User"] == USER
    assert config["WorkingDir"] == "/work"
    assert not config.get("Entrypoint")
    assert config["Cmd"] == ["apportion", "--help"]
    assert set(config["Volumes"]) == {"/work", "/tmp"}
    env = dict(variable.split("=", 1) for variable in config["Env"])
    assert env["PATH"].split(":")[0] == "/opt/apportion/bin"
    expected = {"HOME": "/work", "TMPDIR": "/tmp", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    assert expected.items() <= env.items()


def test_its_labels(image: Engine) -> None:
    labels = image.inspect(image.image)["Config"]["Labels"].items()
    values = {name.removeprefix("org.opencontainers.image."): value for name, value in labels}
    names = {"title", "description", "version", "revision", "source", "licenses", "created"}
    assert names <= values.keys()
    assert values["title"] == "apportion/cpu"
    assert values["version"] == image.inside("apportion", "--version").strip()
    assert "unknown" not in (values["revision"], values["created"])


def test_settings_of_the_build_are_not_in_the_image(image: Engine, build: dict[str, str]) -> None:
    """Neither the addresses of its packages nor the certificate authorities of its builder."""
    history = image.ask("history", "--no-trunc", "--format", "{{.CreatedBy}}", image.image)
    lines = Path(build["PIP_CONF"]).read_text(encoding="utf-8").splitlines()
    settings = [line.partition("=")[2].strip() for line in lines if "=" in line]
    settings += [build["CA_BUNDLE"], build["WHEELS"]]
    assert not [value for value in settings if len(value) > 3 and value in history]
    secrets = "find /run/secrets /run/wheels -type f 2>/dev/null || true"
    assert image.inside("sh", "-c", secrets).split() == []


def test_only_two_folders_are_writable(image: Engine) -> None:
    folders = "/ /opt/apportion /etc /run /var/tmp /usr/bin"
    attempts = f"for folder in {folders}; do ! touch $folder/stray 2>/dev/null || echo $folder; done"
    assert image.inside("sh", "-c", f"{attempts}; touch /work/fine /tmp/fine").split() == []
    # Also where the root is not read-only.
    find = ["find", "/opt", "/usr", "/etc", "-writable", "!", "-type", "l"]
    command = [image.name, "run", "--rm", "--network", "none", image.image, *find]
    assert subprocess.run(command, capture_output=True, text=True).stdout.split() == []


def test_its_bytecode_is_compiled(image: Engine) -> None:
    missing = image.inside("python", "-c", UNCOMPILED).split()
    assert [path for path in missing if "/torch/testing/" not in path] == []


def test_it_has_packages_of_the_lock_and_no_others(image: Engine) -> None:
    versions = installed(image)
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    lock = dict(line.split("==") for line in lines if "==" in line)
    public = {name: version.partition("+")[0] for name, version in versions.items() if name != "apportion"}
    assert public.items() <= lock.items()
    needed = {"torch", "diffusers", "boto3", "kfp", "kfp-kubernetes", "kubernetes", "mlflow-skinny"}
    assert needed | {"xgboost-cpu"} <= versions.keys()
    assert versions["torch"].endswith("+cpu")
    development = {"pip", "mlflow", "moto", "pytest", "mypy", "ruff", "flask", "scikit-learn"}
    assert not development & versions.keys()


@pytest.mark.parametrize(
    "command",
    ["apportion --help", "python -m apportion --help", "python3 -m pipelines --help", "kfp --help"],
)
def test_its_commands_work(image: Engine, command: str) -> None:
    assert "usage: " in image.inside(*command.split()).lower()


def test_the_round_that_the_documentation_shows(image: Engine) -> None:
    text = (ROOT / "docs" / "containers.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^ {4}apportion/cpu:\S+ (python -m pipelines run .*)$", text, re.MULTILINE)
    assert "rounds/" in image.inside(*command.split())


def test_it_contains_data_pipelines_and_configurations(image: Engine) -> None:
    plan = "plan /opt/apportion/configs/tiny.yaml --workdir /work/round --set tracking.uri=null"
    assert image.inside("apportion", *plan.split()).startswith("file:///work/round/store/rounds/")
    compile_and_show = "python -m pipelines compile --out /work/out && cat /work/out/attribution.yaml"
    assert "apportion-attribution" in image.inside("sh", "-c", compile_and_show)


def test_the_bill_of_materials_lists_what_is_installed(image: Engine, tmp_path: Path) -> None:
    variables = [f"ENGINE={image.name}", f"IMAGE_CPU={image.image}", "IMAGES=cpu", f"SBOM={tmp_path}"]
    subprocess.run(["make", "sbom", *variables], cwd=ROOT, check=True, stdout=subprocess.PIPE)
    bom = json.loads((tmp_path / "cpu.cdx.json").read_text(encoding="utf-8"))
    name, _, version = image.image.rpartition(":")
    digest = image.inspect(image.image)["Id"].removeprefix("sha256:")
    assert bom["bomFormat"] == "CycloneDX"
    assert bom["metadata"]["component"] == {
        "type": "container",
        "bom-ref": "image",
        "name": name,
        "version": version,
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }
    (contained,) = (entry["dependsOn"] for entry in bom["dependencies"] if entry["ref"] == "image")
    assert len(contained) == len(bom["components"])
    components = {re.sub(r"[-_.]+", "-", c["name"]).lower(): c["version"] for c in bom["components"]}
    assert components == installed(image)
    assert {entry["ref"] for entry in bom["dependencies"]} >= {"apportion==0.1.0", "kfp==2.17.0"}


def test_no_bill_of_materials_for_an_image_that_was_not_built(image: Engine, tmp_path: Path) -> None:
    tag = "localhost/apportion-test/cpu:never"
    variables = [f"ENGINE={image.name}", f"IMAGE_CPU={tag}", "IMAGES=cpu", f"SBOM={tmp_path}"]
    result = subprocess.run(["make", "sbom", *variables], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode
    assert f"cannot read {tag}" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_context_contains_only_what_is_needed(context: Path) -> None:
    files = {path.relative_to(context).as_posix() for path in context.rglob("*") if path.is_file()}
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = [name for name in listing.split("\0") if (ROOT / name).exists()]
    folders = ("src/", "components/", "pipelines/", "configs/")
    single = ("LICENSE", "NOTICE", "README.md", "constraints.txt", "pyproject.toml", "images/requirements.py")
    assert files == {name for name in names if name.startswith((*folders, *single))}


def test_a_change_of_code_is_in_an_image_within_seconds(
    image: Engine, build: dict[str, str], context: Path, times: dict[str, float]
) -> None:
    """In a layer of its own: the images share all layers below it."""
    for name in ("Makefile", ".dockerignore", "images"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, context / name, dirs_exist_ok=True)
        else:
            shutil.copy(ROOT / name, context / name)
    changed = context / "src" / "apportion" / "__init__.py"
    text = changed.read_text(encoding="utf-8").replace('"0.1.0"', '"0.1.0.post1"')
    changed.write_text(text, encoding="utf-8")
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
    folder = tmp_path / "context"
    output = f"type=local,dest={folder}"
    image.ask("build", "--file", tmp_path / "Dockerfile", "--output", output, ROOT)
    return folder
