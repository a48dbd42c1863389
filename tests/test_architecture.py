"""Which file of python/fusedrnn imports which: no cycles, self-contained folders, and what works without a build.

The imports are read from the sources, so imports inside functions and for type checkers count, too.
"""

import ast
import graphlib
import re
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import numpy
import pytest

import fusedrnn
from fusedrnn import _core, reference
from fusedrnn.specs import ACTIVATIONS

ROOT = Path(__file__).parents[1] / "python" / "fusedrnn"
CSRC = ROOT.parents[1] / "csrc"


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_of(path): path for path in sorted(ROOT.rglob("*.py"))}
COMPILED = {module_of(path) for path in ROOT.rglob("*.pyi")}


def absolute(module: str, node: ast.ImportFrom) -> str:
    """The module that ``from ... import`` names."""
    if not node.level:
        return node.module or ""
    package = module.split(".") if SOURCES[module].name == "__init__.py" else module.split(".")[:-1]
    return ".".join([*package[: len(package) - node.level + 1], *(node.module or "").split(".")]).rstrip(".")


def imports_of(module: str) -> set[str]:
    """Our modules that a module imports; Python itself imports the packages that contain them."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(SOURCES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = absolute(module, node)
            # `from . import a` means module a if there is one, else a name within the package
            names |= {f"{source}.{a.name}" if known(f"{source}.{a.name}") else source for a in node.names}
    return {name for name in names if known(name)}


def known(name: str) -> bool:
    return name in SOURCES or name in COMPILED


GRAPH = {module: imports_of(module) for module in SOURCES}


def test_the_graph_is_read():
    assert "fusedrnn._core" in COMPILED
    assert GRAPH["fusedrnn.form"] >= {"fusedrnn._core", "fusedrnn._validate", "fusedrnn.kinds"}
    assert "fusedrnn.inspection" in GRAPH["fusedrnn.recurrent"], "imported within a function"
    assert "fusedrnn.reference.grads" not in GRAPH["fusedrnn.reference"]
    assert "fusedrnn.reference.cells.cell" in GRAPH["fusedrnn.reference.cells.lstm"]
    assert "fusedrnn.interop.conventions" in GRAPH["fusedrnn.interop.weights_dynet"]


def test_no_circle_of_imports():
    try:
        graphlib.TopologicalSorter(GRAPH).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


@pytest.mark.parametrize("folder", ["fusedrnn.interop", "fusedrnn.bench"])
def test_nothing_else_imports_from(folder):
    """Exceptions: the package itself, which exposes `interop`, and the command line, which calls `bench`."""
    users = {name for name, imports in GRAPH.items() if any(f"{i}.".startswith(f"{folder}.") for i in imports)}
    assert {name for name in users if not f"{name}.".startswith(f"{folder}.")} <= {"fusedrnn", "fusedrnn.__main__"}


@pytest.mark.parametrize("module", ["fusedrnn.specs", "fusedrnn.grads"])
def test_plain_data_imports_nothing_of_ours(module):
    assert GRAPH[module] == set()


# ---- without the compiled module -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unbuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout's Python files before anything is compiled."""
    folder = tmp_path_factory.mktemp("unbuilt")
    shutil.copytree(ROOT, folder / "fusedrnn", ignore=shutil.ignore_patterns("_core.*[!i]", "__pycache__"))
    assert [path.name for path in (folder / "fusedrnn").glob("_core*")] == ["_core.pyi"]
    return folder


def run(folder: Path, source: str) -> str:
    """The output of a program in a fresh interpreter that finds fusedrnn only in `folder`."""
    # -S: an editable installation has its own finder, which would find the compiled module. NumPy is found as usual.
    program = f"import sys; sys.path[:0] = {[str(folder), str(Path(numpy.__file__).parents[1])]!r}\n" + source
    done = subprocess.run(
        [sys.executable, "-S", "-W", "error", "-c", program], capture_output=True, text=True, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_reference_needs_no_build(unbuilt):
    printed = run(
        unbuilt,
        """
import numpy as np
import fusedrnn.reference as reference
x, W_ih, W_hh = np.ones((4, 2, 3)), np.full((20, 3), 0.1), np.full((20, 5), 0.1)
y, h_n, c_n, tape = reference.lstm_forward(x, None, None, W_ih, W_hh)
grads = reference.lstm_backward(tape, np.ones_like(y))
print(y.shape, grads.dx.shape, grads.dW_hh.shape, bool(np.isfinite(grads.dx).all()))
import fusedrnn
print(fusedrnn.__version__, fusedrnn.Grads.__name__, fusedrnn.reference is reference, "LSTM" in dir(fusedrnn))
""",
    )
    assert printed.splitlines() == [
        "(4, 2, 5) (4, 2, 3) (20, 5) True",
        f"{fusedrnn.__version__} Grads True True",
    ]


USES = {
    "an attribute": ("import fusedrnn; fusedrnn.LSTM", "LSTM"),
    "a name": ("from fusedrnn import GRU", "GRU"),
    "a module": ("import fusedrnn.functional", "_core"),
    "a bridge": ("import fusedrnn; fusedrnn.interop.from_torch", "_core"),
}


@pytest.mark.parametrize("use", USES)
def test_what_needs_the_compiled_module_says_so(unbuilt, use):
    source, name = USES[use]
    assert run(unbuilt, f"try:\n    {source}\nexcept ImportError as error:\n    print(error)\n") == (
        f"fusedrnn.{name}: there is no compiled module fusedrnn._core; expected one that is built for this Python "
        "(pip install fusedrnn, or pip install . in a checkout; fusedrnn.reference does without)\n"
    )


def test_a_broken_compiled_module_is_an_error_at_once(unbuilt, tmp_path):
    shutil.copytree(unbuilt / "fusedrnn", tmp_path / "fusedrnn")
    (tmp_path / "fusedrnn" / f"_core{EXTENSION_SUFFIXES[0]}").write_bytes(b"built for another machine")
    printed = run(tmp_path, "try:\n    import fusedrnn\nexcept ImportError as error:\n    print(error)\n")
    assert "_core" in printed


def test_other_names_are_no_attributes(unbuilt):
    source = "import fusedrnn\ntry:\n    fusedrnn.LSTMM\nexcept AttributeError as error:\n    print(error)\n"
    assert run(unbuilt, source) == "module 'fusedrnn' has no attribute 'LSTMM'; did you mean 'LSTM'?\n"


# ---- csrc

FOLDERS = {
    "math": 0,
    "cells": 1,
    "kernels": 2,
    "core": 3,
    "bindings": 4,
}  # each may include files of the folders below it


def test_folders_of_csrc_include_in_one_direction():
    wrong = []
    for path in sorted(CSRC.rglob("*.*")):
        place = path.relative_to(CSRC).parts
        for include in re.findall(r'^#include "([^"]+)"', path.read_text(), re.MULTILINE):
            target = (path.parent / include).resolve()
            if not target.is_file() or CSRC not in target.parents:
                continue  # made by the build, or installed
            other = target.relative_to(CSRC).parts
            floor = FOLDERS[place[0]] if len(place) > 1 else len(FOLDERS)
            if (FOLDERS[other[0]] if len(other) > 1 else len(FOLDERS)) > floor:
                wrong.append(f"{'/'.join(place)} includes {'/'.join(other)}")
    assert not wrong


def test_the_lists_of_cells_and_functions_have_python_s_names():
    assert set(_core.activations()) == set(ACTIVATIONS)
    usual = {name for name, cell in _core.cells().items() if "plain" in cell["forms"]}  # the rest takes options
    assert set(reference.cells.CELLS) == usual


def test_two_files_have_conditionals_for_instruction_sets():
    for path in [*(CSRC / "kernels").iterdir(), *(CSRC / "cells").iterdir(), *(CSRC / "math").iterdir()]:
        if path.name not in ("simd.h", "powers.h"):
            assert not re.search(
                r"^#if.*(__x86_64__|__AVX|__aarch64__|FUSEDRNN_X86)", path.read_text(), re.MULTILINE
            ), path


def test_no_file_has_several_trades():
    """`_validate.py` is one list of checks."""
    files = [*CSRC.rglob("*.h"), *CSRC.rglob("*.cpp"), *ROOT.rglob("*.py")]
    long = {path.name for path in files if len(path.read_text().splitlines()) > 500}
    assert long <= {"_validate.py"}
