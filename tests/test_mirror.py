"""Things that exist twice agree: the stub and the compiled module, the reference's cells and the kernels'."""

import ast
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

from fusedrnn import _core, functional, reference

STUB = ast.parse((Path(__file__).parents[1] / "python/fusedrnn/_core.pyi").read_text(encoding="utf-8"))
FUNCTIONS = {node.name: node for node in STUB.body if isinstance(node, ast.FunctionDef)}
CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}
METHODS = {
    (name, member.name): member
    for name, node in CLASSES.items()
    for member in node.body
    if isinstance(member, ast.FunctionDef)
}


def names_of(function: ast.FunctionDef) -> list[str]:
    return [a.arg for a in (*function.args.posonlyargs, *function.args.args) if a.arg != "self"]


def names_at_run_time(thing: object) -> list[str]:
    """pybind11 writes the signature into the docstring's first line; functions like `step` have a text signature."""
    if getattr(thing, "__text_signature__", None):
        return [name for name in inspect.signature(thing).parameters if name != "self"]  # type: ignore[arg-type]
    first_line = (thing.__doc__ or "").splitlines()[0]
    return [name for name in re.findall(r"[(,] ?(\w+): ", first_line) if name not in ("self", "arg0")]


def test_the_stub_lists_what_there_is():
    public = {name for name in vars(_core) if not name.startswith("_")}
    assert public == set(FUNCTIONS) | set(CLASSES)
    for name, node in CLASSES.items():
        listed = {member.name for member in node.body if isinstance(member, ast.FunctionDef)} - {"__init__"}
        members = {member for member in vars(getattr(_core, name)) if not member.startswith("_")}
        assert members == listed, name


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_have_the_stubs_arguments(name):
    assert names_at_run_time(getattr(_core, name)) == names_of(FUNCTIONS[name])


@pytest.mark.parametrize(("owner", "name"), METHODS)
def test_methods_have_the_stubs_arguments(owner, name):
    thing = vars(getattr(_core, owner))[name]
    thing = thing.__func__ if isinstance(thing, staticmethod) else thing
    if isinstance(thing, property):
        assert names_of(METHODS[owner, name]) == []
    elif (owner, name) != ("Stream", "__init__"):  # C slots have no signature
        assert names_at_run_time(thing) == names_of(METHODS[owner, name])


@pytest.mark.parametrize("name", reference.CELLS)
def test_every_reference_cell_has_kernels(name):
    cell = reference.CELLS[name]
    inputs = 2 if cell.skip else 3
    parameters = {"W_ih": np.zeros((cell.gates * 2, inputs))}
    if cell.recurrent:
        parameters["W_hh"] = np.zeros((cell.gates * 2, 2))
    weights = _core.Weights(name, parameters, False)
    assert (weights.cell, weights.input_size, weights.hidden_size) == (name, inputs, 2)


def test_there_are_no_other_kernels():
    for name in ("", "lstm2", "gru"):
        with pytest.raises(ValueError, match="unknown cell"):
            _core.usual_weights(name, np.zeros((4, 3)), np.zeros((4, 1)), None, None, False)


#: The reference of discretization has no gradients: those of `functional` are finite differences of its own results.
MIRRORED = [
    name
    for name in functional.__all__
    if name.endswith(("_forward", "_backward")) and not name.startswith("discretize_")
]


@pytest.mark.parametrize("name", [*MIRRORED, "discretize"])
def test_functional_and_reference_take_the_same_arguments(name):
    ours = list(inspect.signature(getattr(functional, name)).parameters)
    reference_only = {"dtype"}
    theirs = [p for p in inspect.signature(getattr(reference, name)).parameters if p not in reference_only]
    assert ours == theirs
