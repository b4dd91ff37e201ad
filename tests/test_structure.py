"""What holds for the sources as a whole."""

import ast
import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "apportion").rglob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "helm" / "apportion" / "README.md"]


def test_a_class_name_has_one_meaning():
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES]
    classes = Counter(node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef))
    assert [name for name, count in classes.items() if count > 1] == []


SHARED_NAMES = {
    *("main", "run", "run_text", "make", "load", "dump", "read", "check", "checked", "covers", "log"),
}
"""Functions that several modules have, each for its own kind of thing: they are called as `module.name`."""
PRIVATE_TO_MODULES = {"draw", "first", "fit", "follow", "pilot", "prepare", "render", "table", "parser"}
"""Names of functions whose modules have nothing to do with each other."""


def test_a_name_has_one_meaning():
    """Functions and constants too, in the package."""
    names = Counter(
        name
        for path in SOURCES
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        for name in defined(node)
        if not name.startswith("_") and len(name) > 1
    )
    several = {name for name, count in names.items() if count > 1}
    assert several - SHARED_NAMES - PRIVATE_TO_MODULES - {"Array", "HERE"} == set()


def defined(node: ast.stmt) -> list[str]:
    """The names that a statement of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else []
    targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
    return [target.id for target in targets if isinstance(target, ast.Name)]


def test_what_only_the_family_ddpm_knows():
    """Training, removal, stages and records are written for any family."""
    own = re.compile(r"UNet2DModel|DDIM|timesteps.*1000|\"RGB\"|in_channels")
    others = [
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if own.search(path.read_text(encoding="utf-8"))
        and not path.is_relative_to(ROOT / "src" / "apportion" / "diffusion" / "ddpm")
    ]
    # The options of the family, and what reads or draws images and has nothing to do with models.
    assert others == [
        "src/apportion/config/family.py",
        "src/apportion/datasets/folder.py",
        "src/apportion/datasets/openmoji/build.py",
    ]


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)\s]*)?\)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_pages_that_the_sources_cite_exist():
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        for page in re.findall(r"docs/[a-z-]+\.(?:md|svg)", text):
            assert (ROOT / page).exists(), f"{path.name}: {page}"
        for section in re.findall(r'docs/methods\.md,\s+"([^"]+)"', text):
            title = " ".join(section.split())
            assert f"\n## {title}\n" in (ROOT / "docs" / "methods.md").read_text(encoding="utf-8"), (
                f"{path.name}: {title}"
            )
