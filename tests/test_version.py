"""What a record says of the code that made it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import apportion
from apportion.version import code


def test_the_version_and_a_hash_of_the_sources():
    assert re.fullmatch(rf"{re.escape(apportion.__version__)}\+[0-9a-f]{{8}}", code())


def test_it_depends_on_sources_alone(tmp_path):
    """It is the same for a copy elsewhere, and changes with a line or a module that is added or renamed."""
    copy = tmp_path / "apportion"
    copy.mkdir()
    for name in ("__init__.py", "version.py", "errors.py"):
        shutil.copy(Path(apportion.__file__).parent / name, copy)
    codes = [code_in(tmp_path)]
    (copy / "__pycache__").mkdir(exist_ok=True)
    (copy / "__pycache__" / "errors.pyc").write_bytes(b"whatever")
    (copy / "notes.txt").write_text("no source")
    assert code_in(tmp_path) == codes[0]
    with (copy / "errors.py").open("a") as errors:
        errors.write("\n")
    codes.append(code_in(tmp_path))
    (copy / "more.py").write_text("")
    codes.append(code_in(tmp_path))
    (copy / "more.py").rename(copy / "less.py")
    codes.append(code_in(tmp_path))
    assert len(set(codes)) == 4


def code_in(folder: Path) -> str:
    script = "from apportion.version import code; print(code())"
    return subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True
    ).stdout
