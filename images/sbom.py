"""A bill of materials (CycloneDX JSON) of the Python packages in an image: `sbom.py ENGINE IMAGE FILE`, in the environment of sbom.txt.

The image need not have, and gets, no tool for it: what its packages say of themselves is copied out, and described here.
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

SAY = """
import pathlib, sys, sysconfig, tarfile
with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as out:
    for found in sorted(pathlib.Path(sysconfig.get_path("purelib")).glob("*.dist-info")):
        out.add(found, found.name)
"""
SPEC = "1.6"


def main(engine: str, image: str, target: Path) -> None:
    command = [engine, "run", "--rm", "--network", "none", image, "python", "-c", SAY]
    metadata = subprocess.run(command, check=True, stdout=subprocess.PIPE)  # noqa: S603 (whoever calls this chose the engine)
    with tempfile.TemporaryDirectory() as scratch:
        bom = describe(metadata.stdout, Path(scratch) / "environment")
    name, _, version = image.rpartition(":")
    bom["metadata"]["component"] = {"type": "container", "bom-ref": "image", "name": name, "version": version}
    validate(text := json.dumps(bom, indent=2, ensure_ascii=False) + "\n")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    sys.stdout.write(f"wrote {target}: {len(bom['components'])} packages of {image}\n")


def describe(archive: bytes, folder: Path) -> dict[str, Any]:
    """What cyclonedx-py makes of an environment that has nothing but the packages' own descriptions."""
    venv.create(folder)
    (site,) = folder.glob("lib/python*/site-packages")
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        packed.extractall(site, filter="data")
    command = [sys.executable, "-m", "cyclonedx_py", "environment", str(folder), "--output-reproducible", "--spec-version", SPEC]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)  # noqa: S603 (constants and a folder of our own)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def validate(text: str) -> None:
    """Raises ValueError where the text does not follow CycloneDX's schema."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    problem = JsonStrictValidator(SchemaVersion.from_version(SPEC)).validate_str(text)
    if problem is not None:
        raise ValueError(f"not valid CycloneDX {SPEC}: {problem}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
