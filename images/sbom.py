"""A bill of materials (CycloneDX JSON) of the Python packages in an image: `sbom.py ENGINE IMAGE FILE`, in
the environment of sbom.txt.

The image needs no tool for this: the metadata of its packages is copied out of it and described here.
"""

import io
import json
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path
from typing import Any

COPY_METADATA = """
import pathlib, sys, sysconfig, tarfile
with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as out:
    for path in sorted(pathlib.Path(sysconfig.get_path("purelib")).glob("*.dist-info")):
        out.add(path, path.name)
"""
SPEC = "1.6"


def main(engine: str, image: str, target: Path) -> None:
    try:
        (inspected,) = json.loads(_output(engine, "inspect", "--type", "image", image))
        metadata = _output(engine, "run", "--rm", "--network", "none", image, "python", "-c", COPY_METADATA)
    except subprocess.CalledProcessError as error:
        why = error.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise SystemExit(
            f"cannot read {image}: {why}; build it first, with the same names (IMAGE_CPU, IMAGE_GPU, ENGINE)"
        ) from error
    with tempfile.TemporaryDirectory() as scratch:
        bom = describe(metadata, Path(scratch) / "environment")
    own = container(image, inspected["Id"].removeprefix("sha256:"))
    bom["metadata"]["component"] = own
    contained = {"ref": own["bom-ref"], "dependsOn": sorted(part["bom-ref"] for part in bom["components"])}
    bom["dependencies"] = [contained, *bom["dependencies"]]
    text = json.dumps(bom, indent=2, ensure_ascii=False) + "\n"
    validate(text)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    sys.stdout.write(f"wrote {target}: {len(bom['components'])} packages of {image}\n")


def _output(*command: str) -> bytes:
    return subprocess.run(command, check=True, capture_output=True).stdout  # noqa: S603 (the engine)


def container(image: str, digest: str) -> dict[str, Any]:
    """The image as a component: its name, its version, and the digest of its configuration, which covers its
    layers."""
    name, _, version = image.partition("@")
    if not version and ":" in name.rpartition("/")[2]:  # a colon before the last slash belongs to a port
        name, _, version = name.rpartition(":")
    return {
        "type": "container",
        "bom-ref": "image",
        "name": name,
        "version": version or "latest",
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }


def describe(archive: bytes, folder: Path) -> dict[str, Any]:
    """What cyclonedx-py says of an environment that has only the metadata of the packages."""
    venv.create(folder)
    (site,) = folder.glob("lib/python*/site-packages")
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        for member in packed:  # Debian's Python has no filter for extractall
            if member.isfile() and ".." not in Path(member.name).parts:
                target = site / member.name.lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(packed.extractfile(member).read())  # type: ignore[union-attr]
    options = ["--output-reproducible", "--spec-version", SPEC]
    command = [sys.executable, "-m", "cyclonedx_py", "environment", str(folder), *options]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout  # noqa: S603
    bom: dict[str, Any] = json.loads(output)
    return bom


def validate(text: str) -> None:
    """Raises ValueError where the text does not conform to CycloneDX's schema."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    problem = JsonStrictValidator(SchemaVersion.from_version(SPEC)).validate_str(text)
    if problem is not None:
        raise ValueError(f"not valid CycloneDX {SPEC}: {problem}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
