"""Every kind of input of kinds.py is accepted, warned of or refused as docs/images.md says."""

import logging
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from kinds import BEGIN, KINDS, PAGE, READ, REFUSED, encoded, noise, put, rows

from apportion.config.data import Folder
from apportion.datasets import load
from apportion.errors import DataError

NOBODY = 65534


@contextmanager
def unprivileged():
    """Without the rights of root, whom no permission stops."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def fill(root):
    for name, seeds in (("ada", range(3)), ("bob", range(10, 12))):
        for seed in seeds:
            put(root, f"{name}/{seed}.png", encoded(noise(seed)))
    return root


def becomes(kind, path, caplog):
    """Reads what was made, and compares what becomes of it with what the kind says."""
    data = Folder(source="folder", path=str(path), resolution=8, resize="crop", min_images=1)
    with caplog.at_level(logging.INFO):
        if kind.becomes == REFUSED:
            with pytest.raises(DataError) as error:
                load(data)
            said = str(error.value)
        else:
            assert len(load(data)) >= 2
            said = caplog.text
    said.encode()  # titles with undecodable bytes would raise here
    assert not [words for words in kind.says if words not in said], said
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert bool(warnings) == (kind.becomes not in (READ, REFUSED)) or kind.becomes == REFUSED, caplog.text


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.closed], ids=lambda kind: kind.what[:40])
def test_kinds(kind, tmp_path, caplog):
    root = fill(tmp_path / "data")
    becomes(kind, kind.make(root) or root, caplog)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.closed], ids=lambda kind: kind.what[:40])
def test_kinds_that_permissions_make(kind, caplog):
    """In a folder that anybody may enter, which pytest's own are not."""
    above = Path(tempfile.mkdtemp())
    above.chmod(0o755)
    try:
        root = fill(above / "data")
        kind.make(root)
        with unprivileged():
            becomes(kind, root, caplog)
    finally:
        shutil.rmtree(above)


def test_the_page_lists_the_kinds():
    """`.venv/bin/python tests/datasets/kinds.py` writes its table."""
    assert BEGIN + rows() in PAGE.read_text(encoding="utf-8")
    assert len({kind.what for kind in KINDS}) == len(KINDS)
