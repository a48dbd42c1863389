"""The documents show what really happens: README's code, and every docstring's example."""

import contextlib
import doctest
import importlib
import inspect
import io
import pkgutil
import re
from pathlib import Path

import pytest

import fusedrnn

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = (
    *("README.md", "docs/cells.md", "docs/files.md", "docs/ragged.md", "docs/resets.md", "docs/scans.md"),
    "docs/training.md",
)
DOCUMENTS = [p.relative_to(ROOT) for p in (*[ROOT / page for page in PAGES], *sorted(ROOT.glob("*/README.md")))]
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(fusedrnn.__path__, "fusedrnn.")
    if not module.name.endswith("__main__")
)


def blocks() -> list[tuple[str, str]]:
    """(name, source) of each Python block."""
    found = []
    for document in DOCUMENTS:
        for k, source in enumerate(BLOCK.findall((ROOT / document).read_text(encoding="utf-8"))):
            found.append((f"{document.as_posix()}-{k}", source))
    return found


def test_readme_has_the_three_ways_of_use():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for use in ("**Inference.**", "**Training.**", "**Streaming.**"):
        assert use in text


@pytest.mark.parametrize(("name", "source"), blocks(), ids=[name for name, _ in blocks()])
def test_blocks_run_and_print_what_they_say(name, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some write files
    shown = [line[2:] for line in source.splitlines() if line.startswith("# ")]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, name, "exec"), {})
    assert printed.getvalue().splitlines() == shown


@pytest.mark.parametrize("name", ["fusedrnn", *MODULES])
def test_docstring_examples(name):
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:  # gradient bridges need the library they bridge to
        if not name.startswith("fusedrnn.interop."):
            raise
        pytest.skip(f"{error.name} is not installed")
    results = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert results.failed == 0


@pytest.mark.parametrize("name", [name for name in fusedrnn.__all__ if name[0] != "_"])
def test_public_things_have_a_docstring_and_classes_an_example(name):
    thing = getattr(fusedrnn, name)
    assert thing.__doc__, name
    if isinstance(thing, type):
        assert ">>>" in thing.__doc__, f"{name} has no example"


@pytest.mark.parametrize("name", [name for name in fusedrnn.__all__ if isinstance(getattr(fusedrnn, name), type)])
def test_classes_explain_all_of_their_own_arguments(name):
    """Every class explains all of its own arguments, except for classes that only calls create."""
    thing = getattr(fusedrnn, name)
    if name in (
        "Explanation",
        "FrozenGroup",
        "FrozenLayer",
        "FrozenMixer",
        "Grads",
        "MixerStream",
        "StackStream",
        "Stream",
        "Tape",
    ):
        return
    section = thing.__doc__.partition("    Parameters\n")[2].partition("    Raises\n")[0]
    heads = re.findall(r"^    (\w[\w, ]*) : ", section, re.MULTILINE)
    explained = [argument for head in heads for argument in head.split(", ")]
    assert explained == list(inspect.signature(thing).parameters)


@pytest.mark.parametrize("method", ["Tape.backward", "FrozenLayer.stream", "FrozenGroup.stream"])
def test_methods_have_an_example(method):
    owner, name = method.split(".")
    assert ">>>" in getattr(getattr(fusedrnn, owner), name).__doc__
