"""docs/add-a-cell.md can be followed: its blocks fit the files as they are, and a new family is small.

`.ci/add-a-cell --test`, which CI runs, also builds the result.
"""

import importlib.machinery
import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs/add-a-cell.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tutorial() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("add_a_cell", str(ROOT / ".ci/add-a-cell"))
    spec = importlib.util.spec_from_loader("add_a_cell", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_a_family_is_at_most_eight_files_and_180_lines(tutorial):
    blocks = tutorial.blocks(DOCUMENT)
    names = [name for name, _ in blocks]
    assert len(set(names)) == len(names) <= 8
    changes = [text for name, text in blocks if (ROOT / name).exists()]
    new = [text for name, text in blocks if not (ROOT / name).exists()]
    added = sum(line.startswith("+") for text in changes for line in text.splitlines())
    assert added + sum(len(text.splitlines()) for text in new) <= 180


def test_the_blocks_fit_the_files(tutorial, tmp_path):
    for folder in ("csrc", "docs", "python"):
        ignored = shutil.ignore_patterns("__pycache__", "*.so", "benchmarks")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    for name in tutorial.apply(DOCUMENT, tmp_path):
        assert (tmp_path / name).read_text() != ((ROOT / name).read_text() if (ROOT / name).exists() else "")


def test_a_block_that_does_not_fit_is_named(tutorial):
    with pytest.raises(SystemExit, match=r"a\.py: found 0 times"):
        tutorial.changed("one\ntwo\n", " three\n+four\n", "a.py")
    assert tutorial.changed("one\ntwo\n", " one\n+between\n@@\n-two\n+three\n", "a.py") == "one\nbetween\nthree\n"
