"""Which file of python/fusedrnn imports which: no circles, and folders that stand for themselves.

Read from the sources, so that imports within functions and those for type checkers count, too.
"""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "python" / "fusedrnn"
#: Folders whose files may still import each other in circles.
CIRCULAR = ("fusedrnn.interop.",)


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
    """Modules of ours that a module imports; the packages that they lie in are imported by Python itself."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(SOURCES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = absolute(module, node)
            # `from . import a` is module a if there is one, else something within the package
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
    graph = {name: imports for name, imports in GRAPH.items() if not name.startswith(CIRCULAR)}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


@pytest.mark.parametrize("folder", ["fusedrnn.interop", "fusedrnn.bench"])
def test_nothing_else_imports_from(folder):
    """But the package itself, which shows `interop`, and the command line, which is how `bench` is called."""
    users = {name for name, imports in GRAPH.items() if any(f"{i}.".startswith(f"{folder}.") for i in imports)}
    assert {name for name in users if not f"{name}.".startswith(f"{folder}.")} <= {"fusedrnn", "fusedrnn.__main__"}


@pytest.mark.parametrize("module", ["fusedrnn.specs", "fusedrnn.grads"])
def test_plain_data_imports_nothing_of_ours(module):
    assert GRAPH[module] == set()
