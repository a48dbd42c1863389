"""Shared by the weight bridges: blocks of gates, weights of a direction in fusedrnn's convention, layers from them.

A bridge cuts another framework's arrays into `Direction`s, in the order of `GATES`, and names the options that differ
from their defaults; `build` makes the layer. The names and the maths of the options are those of `fusedrnn.families`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .._validate import as_array
from ..bidirectional import Bidirectional
from ..parameters import CLASSES
from ..stack import Stack
from . import _messages
from .stored import Stored

Array = NDArray[Any]

#: fusedrnn's gate order, which is torch's, with one letter for each block of rows.
GATES = {"RNN": "h", "GRU": "rzn", "LSTM": "ifgo"}


#: The layer number in a parameter's name.
LAYER = re.compile(r"_l([0-9]{1,9})(?:_reverse)?$")


class Direction(NamedTuple):
    """Weights of one layer in one direction, in fusedrnn's convention; None for weights that the layer lacks."""

    W_ih: Array  # (G*H, I)
    W_hh: Array  # (G*H, H), with a projection (G*H, P)
    b_ih: Array | None = None  # (G*H,)
    b_hh: Array | None = None  # (G*H,); None beside a b_ih: a single bias
    peephole: Array | None = None  # (3, H), rows i f o
    W_hr: Array | None = None  # (P, H)
    h_0: Array | None = None  # (H,), a learned initial state
    c_0: Array | None = None  # (H,)

    @property
    def hidden_size(self) -> int:
        return int((self.W_hh if self.W_hr is None else self.W_hr).shape[1])


#: Field of `Direction` -> the parameter's name, without its suffix.
PARAMETERS = {
    "W_ih": "weight_ih",
    "W_hh": "weight_hh",
    "b_ih": "bias_ih",
    "b_hh": "bias_hh",
    "peephole": "weight_peephole",
    "W_hr": "weight_hr",
    "h_0": "h_0",
    "c_0": "c_0",
}


def reorder(rows: Array, theirs: str, ours: str) -> Array:
    """A copy of `rows` whose blocks, named by `theirs`, come in the order of `ours`; what `ours` lacks is left out."""
    blocks = dict(zip(theirs, np.split(np.asarray(rows), len(theirs)), strict=True))
    return np.concatenate([blocks[gate] for gate in ours])


def negate(rows: Array, gate: str, order: str) -> Array:
    """A copy with one gate's block negated: sigmoid(-a) = 1 - sigmoid(a) inverts this gate."""
    rows = rows.copy()
    H = len(rows) // len(order)
    rows[order.index(gate) * H :][:H] *= -1
    return rows


def float_dtype(array: Array | Stored) -> np.dtype[Any]:
    """The layer's dtype for an array of weights: float64 stays float64, everything else becomes float32."""
    return np.dtype(np.float64 if array.dtype == np.float64 else np.float32)


def as_weights(owner: str, name: str, value: Any) -> Array:
    """Arrays, tensors and nested lists as a real array; bfloat16 and float8, which NumPy lacks, become float32."""
    if isinstance(value, Stored):
        value = value.read()
    elif hasattr(value, "detach"):
        value = plain(owner, name, value)
    array = as_array(owner, name, value)
    if array.dtype.kind not in "fiu" and not array.dtype.name.startswith(("bfloat16", "float8")):
        raise TypeError(_messages.not_real(owner, name, array.dtype))
    return array.astype(float_dtype(array)) if array.dtype.kind != "f" or array.dtype.itemsize < 4 else array


def plain(owner: str, name: str, tensor: Any) -> Any:
    """A tensor that NumPy can read."""
    try:
        tensor = tensor.detach().cpu()
        if str(tensor.dtype).startswith(("torch.bfloat16", "torch.float8")):
            tensor = tensor.float()
    except MemoryError:
        raise
    except Exception as error:  # such as a tensor that has no data
        raise TypeError(_messages.unreadable(owner, name, error)) from error
    return tensor


def shaped(owner: str, name: str, array: Array | Stored, *shape: int | str) -> None:
    """Refuse an array of another shape; a string stands for any length, and says what it is of."""
    got = array.shape
    if len(got) != len(shape) or any(n != m for n, m in zip(got, shape, strict=True) if isinstance(m, int)):
        expected = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
        raise ValueError(_messages.shape(owner, name, tuple(got), f"({expected})"))


def check_kind(owner: str, kind: object) -> None:
    """The argument `kind` of a bridge."""
    if kind is not None and not (isinstance(kind, str) and kind in GATES):
        raise ValueError(_messages.unknown_kind(owner, kind, list(GATES)))


def gates_of(owner: str, rows: int, hidden_size: int) -> str:
    """The kind of layer with this many rows of weights."""
    for kind, order in GATES.items():
        if rows == len(order) * hidden_size:
            return kind
    raise ValueError(_messages.no_such_cell(owner, rows, hidden_size))


def build(owner: str, kind: str, stack: Sequence[Sequence[Direction]], **options: Any) -> Any:
    """A layer with these weights: `stack` holds its layers, each one or two `Direction`s.

    `options` are keyword arguments of the layer; what it does not know is refused by name.
    """
    cls = CLASSES[kind]
    for layer in stack:
        for direction in layer:
            for field, array in zip(PARAMETERS, direction, strict=True):
                axes = 2 if field.startswith(("W_", "peephole")) else 1
                if array is not None and array.ndim != axes:
                    raise ValueError(_messages.shape(owner, PARAMETERS[field], array.shape, f"{axes} axes"))
    first = stack[0][0]
    options = dict(options)
    options.setdefault("dtype", float_dtype(first.W_ih))
    biases = {(d.b_ih is not None, d.b_hh is not None) for directions in stack for d in directions}
    if len(biases) > 1 or (False, True) in biases:
        raise ValueError(_messages.uneven_biases(owner))
    if biases == {(False, False)}:
        options["bias"] = False
    elif biases == {(True, False)}:
        options["bias"] = "single"
    if first.W_hr is not None:
        options["proj_size"] = int(first.W_hr.shape[0])
    if first.h_0 is not None:
        options["learned_state"] = True
    if len(stack[0]) == 2:
        options["bidirectional"] = True
    options["num_layers"] = len(stack)
    return construct(owner, cls, named(stack), int(first.W_ih.shape[1]), first.hidden_size, options)


class Part(NamedTuple):
    """One layer of another framework: its kind, one or two directions, and the options of both."""

    kind: str
    directions: list[Direction]
    options: dict[str, Any]

    @property
    def form(self) -> tuple[Any, ...]:
        """What is the same of all layers of one layer object, but for options and inputs."""
        first = self.directions[0]
        there = tuple(None if array is None else array.shape[:1] for array in first[1:])
        return self.kind, len(self.directions), first.W_hh.shape, there

    def made(self, owner: str, dtype: DTypeLike, **options: Any) -> Any:
        """The layer."""
        return build(owner, self.kind, [self.directions], dtype=dtype, **self.options, **options)


class Pair(NamedTuple):
    """Two directions, of one layer each, that may differ."""

    forward: Part
    backward: Part
    merge: str | None

    def as_one(self) -> Part | Pair:
        """One layer of two directions, if they do not differ."""
        forward, backward = self.forward, self.backward
        if forward.form != backward.form or forward.options != backward.options:
            return self
        directions = [forward.directions[0], backward.directions[0]]
        return Part(forward.kind, directions, forward.options | {"merge": self.merge})

    def made(self, owner: str, dtype: DTypeLike, **options: Any) -> Any:
        """Both."""
        layers = [part.made(owner, dtype, **options) for part in (self.forward, self.backward)]
        return fitting(owner, Bidirectional, *layers, self.merge)


def assemble(owner: str, parts: Sequence[Part | Pair], dtype: DTypeLike | None, **options: Any) -> Any:
    """Stacked layers: one layer object if they are alike, otherwise a `Stack`."""
    first, last = parts[0], parts[-1]
    if dtype is None:
        dtype = float_dtype((first if isinstance(first, Part) else first.forward).directions[0].W_ih)
    if isinstance(last, Part):
        # Only the last layer can return an unmerged pair; below it, outputs are concatenated.
        below = last.options | ({"merge": last.options["merge"] or "concat"} if "merge" in last.options else {})
        own = [part for part in parts if isinstance(part, Part) and part.form == last.form]
        if len(own) == len(parts) and all(part.options == below for part in own[:-1]):
            stack = [part.directions for part in own]
            return build(owner, last.kind, stack, dtype=dtype, **last.options, **options)
    return stack_of(owner, [part.made(owner, dtype, **options) for part in parts])


def stack_of(owner: str, layers: Sequence[Any]) -> Any:
    """A `Stack`, or its only layer."""
    return layers[0] if len(layers) == 1 else fitting(owner, Stack, layers)


def fitting(owner: str, cls: type[Any], *arguments: Any) -> Any:
    """A group, whose complaints are the bridge's."""
    try:
        return cls(*arguments)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{owner}: {error}") from None


def construct(
    owner: str,
    cls: Any,
    params: Mapping[str, Any],
    input_size: Any,
    hidden_size: Any,
    options: Mapping[str, Any],
) -> Any:
    """A layer or a cell with these parameters, which are compared with what the arguments say before any is read.

    An option that the class does not have is a ValueError with its name.
    """
    known = {name for name, _ in cls._arguments}
    for name, value in options.items():
        if name not in known:
            raise ValueError(_messages.no_such_option(owner, cls.__name__, name, value))
    layer = cls.__new__(cls)
    layer._restore({}, input_size, hidden_size, options, rng=0)
    shapes = {spec.name: spec.shape for spec in layer._specs}
    layer.load_state_dict(
        {
            name: as_weights(owner, name, array)
            if isinstance(array, Stored) and name in shapes and array.shape == shapes[name]
            else array
            for name, array in params.items()
        }
    )
    return layer


class Sizes(NamedTuple):
    """What arrays under torch's names say of a layer or a cell, each with the array that says it."""

    input_size: int
    hidden_size: int
    proj_size: int
    num_layers: int
    said_by: dict[str, str]  # but for num_layers


def sizes_of(
    owner: str,
    arrays: Mapping[str, Any],
    is_cell: bool,
    hidden_size_in: Callable[[Mapping[str, Any], str], tuple[int, str]] | None = None,
) -> Sizes:
    """Looks at names and shapes only, and at no more layers than there are names.

    Without a recurrent matrix, `hidden_size_in` finds the hidden size, and the array that says it.
    """
    suffix = "" if is_cell else "_l0"
    if hidden_size_in is not None:
        name = f"weight_ih{suffix}"
        for needed in [name, *(n for n in arrays if n == f"weight_unit{suffix}")]:
            if needed not in arrays or len(arrays[needed].shape) != 2:
                raise ValueError(_messages.none_found(owner, f"{needed} of two axes", ", ".join(sorted(arrays))))
        hidden, said = hidden_size_in(arrays, suffix)
        layers = {int(found[1]) for found in map(LAYER.search, arrays) if found}
        count = 1 if is_cell else min(1 + max(layers, default=0), len(arrays))
        return Sizes(int(arrays[name].shape[1]), hidden, 0, count, {"input_size": name, "hidden_size": said})
    names = {argument: f"weight_{what}{suffix}" for argument, what in (("ih", "ih"), ("hh", "hh"), ("hr", "hr"))}
    projected = names["hr"] in arrays
    for name in (names["ih"], names["hh"], *([names["hr"]] if projected else [])):
        if name not in arrays or len(arrays[name].shape) != 2:
            raise ValueError(_messages.none_found(owner, f"{name} of two axes", ", ".join(sorted(arrays))))
    layers = {int(found[1]) for found in map(LAYER.search, arrays) if found}
    state = names["hr" if projected else "hh"]
    return Sizes(
        int(arrays[names["ih"]].shape[1]),
        int(arrays[state].shape[1]),
        int(arrays[state].shape[0]) if projected else 0,
        1 if is_cell else min(1 + max(layers, default=0), len(arrays)),
        {"input_size": names["ih"], "hidden_size": state, "proj_size": state},
    )


def named(stack: Sequence[Sequence[Direction]]) -> dict[str, Array]:
    """Parameters under our names."""
    params = {}
    for layer, directions in enumerate(stack):
        for direction, suffix in zip(directions, ("", "_reverse"), strict=False):
            for field, name in PARAMETERS.items():
                array = getattr(direction, field)
                if array is not None:
                    params[f"{name}_l{layer}{suffix}"] = array
    return params


def directions_of(params: Mapping[str, Array], num_layers: int, bidirectional: bool) -> list[list[Direction]]:
    """The inverse: a layer's parameters as one list of `Direction`s for each layer."""
    return [
        [
            Direction(**{field: params.get(f"{name}_l{layer}{suffix}") for field, name in PARAMETERS.items()})  # type: ignore[arg-type]
            for suffix in ("", "_reverse")[: 1 + bidirectional]
        ]
        for layer in range(num_layers)
    ]


def refuse_others(owner: str, layer: Any, known: Sequence[str], hint: str = "") -> None:
    """Refuse options away from their defaults that the other framework does not have."""
    for name, default in layer._arguments:
        value = getattr(layer, name)
        if name not in known and value != default:
            raise ValueError(_messages.not_theirs(owner, repr(layer), name, value, default, hint))
