"""Flax -> fusedrnn: recurrent layers of ``flax.linen`` and ``flax.nnx``.

=====================  =========================================================================================
Flax                   fusedrnn
=====================  =========================================================================================
``LSTMCell``           kernels (I, H) ``ii if ig io`` and (H, H) ``hi hf hg ho``, biases beside the latter: a single
                       bias; ``OptimizedLSTMCell`` of linen has the same, that of nnx one ``dense_i`` (I, 4*H) and
                       one ``dense_h``, columns i f g o
``GRUCell``            linen: ``ir iz in`` with biases, ``hr hz hn``, and a bias of ``hn``: reset after the product,
                       two biases, the second zero but for n. nnx: ``dense_i`` with the only bias and ``dense_h``,
                       columns r z n: a single bias
``SimpleCell``         ``i`` with the bias, and ``h``; of nnx ``dense_i`` and ``dense_h``
update gate            the same: h' = (1 - z) * n + z * h
``RNN``                axes (B, T, I) unless ``time_major``; ``reverse=True`` is ``backwards=True``, where Flax leaves
                       the outputs in the order of computation unless ``keep_order=True``
``Bidirectional``      both directions, concatenated
=====================  =========================================================================================

``MGUCell`` (one gate for both of a GRU's), ``ConvLSTMCell`` and ``residual=True`` have no counterpart here. Source:
the classes' docstrings in Flax 0.12.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from . import _messages
from .conventions import GATES, Array, Direction, Pair, Part, as_weights, assemble, shaped
from .own_code import replaced

#: Names of the input's and the state's parts -> kind. Of nnx, ``if_`` is called ``if`` here.
CELLS: dict[frozenset[str], str] = {
    frozenset({"ii", "if", "ig", "io", "hi", "hf", "hg", "ho"}): "LSTM",
    frozenset({"ir", "iz", "in", "hr", "hz", "hn"}): "GRU",
    frozenset({"i", "h"}): "RNN",
}
JOINED = frozenset({"dense_i", "dense_h"})
#: Cells that have no counterpart, by the names of their parts.
OTHERS = {frozenset({"if", "in", "hf", "hn"}): "MGUCell", frozenset({"ih", "hh"}): "ConvLSTMCell"}

KINDS = {"LSTMCell": "LSTM", "OptimizedLSTMCell": "LSTM", "GRUCell": "GRU", "SimpleCell": "RNN"}

#: Where Flax' own recurrent classes are.
HOMES = ("flax.linen.recurrent", "flax.nnx.nn.recurrent")

#: What Flax itself puts into every class and object, and what is looked at by itself.
MADE = ("merge_fn", "parent", "name", "scope", "_state", "_parent_ref", "_compact_name_scope_methods", "__match_args__")

#: Activations of ours by their names in JAX, of the modules that define them.
ACTIVATIONS: dict[str, Any] = {
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "relu": "relu",
    "hard_sigmoid": "hard_sigmoid",
    "hard_tanh": "hard_tanh",
    "soft_sign": "softsign",
    "softplus": "softplus",
    "elu": ("elu", 1.0),
    "leaky_relu": ("leaky_relu", 0.01),
    "identity": "linear",
}

#: Deepest nesting of a tree of parameters.
DEEPEST = 64


def from_flax(
    source: Any,
    params: Mapping[str, Any] | None = None,
    *,
    prefix: str | None = None,
    time_major: bool = False,
    reverse: bool = False,
    dtype: DTypeLike | None = None,
    force: bool = False,
) -> Any:
    """Convert a recurrent layer of Flax to an equivalent layer of fusedrnn.

    Parameters
    ----------
    source : flax.linen module, flax.nnx module, or mapping
        ``RNN``, ``Bidirectional``, a ``Sequential`` of these in linen, or a cell (``LSTMCell``, ``OptimizedLSTMCell``,
        ``GRUCell``, ``SimpleCell``); or the parameters of one of linen's, such as ``variables["params"]``.
    params : mapping or None
        For a linen module that is not bound: the result of its ``init``, with or without ``"params"``.
    prefix : str or None
        For a mapping with several recurrent layers: which one, such as ``"encoder/cell"``.
    time_major, reverse : bool
        For a mapping, which does not contain them. A module has its own.
    dtype : float32, float64 or None
        None means that of the weights. A module that computes in half precision needs one.
    force : bool
        Whether to read the weights alone, whatever methods a subclass has.

    Returns
    -------
    RNN, GRU, LSTM, Stack or Bidirectional
        It returns all outputs, aligned with the input; Flax leaves those of ``reverse=True`` in the order of
        computation. A mapping does not say which activations and whether ``residual`` the layer has: these are taken
        to be Flax' defaults.

    Raises
    ------
    TypeError
        `source` is none of these.
    ValueError
        The parameters are not those of such a layer; the module has code, activations, or an initial state of its own,
        or another feature that fusedrnn lacks.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> cell = {"i": {"kernel": np.zeros((3, 5)), "bias": np.zeros(5)}, "h": {"kernel": np.zeros((5, 5))}}
    >>> fusedrnn.interop.from_flax({"params": {"cell": cell}})
    RNN(3, 5, bias='single', batch_first=True, dtype='float64')
    """
    owner = "from_flax"
    if isinstance(source, Mapping):
        tree = chosen(owner, source, prefix)
        if isinstance(tree, tuple):
            parts = [Pair(of_tree(owner, tree[0]), of_tree(owner, tree[1]), "concat").as_one()]
        else:
            parts = [of_tree(owner, tree)]
            if reverse:
                parts[0].options["backwards"] = True  # type: ignore[union-attr]
        return assemble(owner, parts, dtype, batch_first=not time_major)
    home = [cls.__module__ for cls in type(source).__mro__ if cls.__module__.startswith("flax.")]
    if not home:
        raise TypeError(_messages.wrong_source(owner, source, "a module of flax.linen or flax.nnx, or its parameters"))
    if home[0].startswith("flax.linen") or any(name.startswith("flax.linen") for name in home):
        if params is None:
            if getattr(source, "scope", None) is None:
                raise ValueError(_messages.missing(owner, "params"))
            params = source.variables
        params = unboxed(params)
    reader = Reader(owner, dtype is not None, force)
    found = reader.of_module(source, params)
    if prefix is not None:
        raise ValueError(_messages.contradiction(owner, "prefix", prefix, "a module tells itself"))
    parts, flipped = [], False
    for part, turned in found:
        if isinstance(part, Pair) or len(part.directions) == 2:
            if flipped:
                raise ValueError(_messages.above_backwards(owner, type(source).__name__))
        elif flipped != bool(turned):
            part.options["backwards"] = True
        flipped ^= turned == "flipped"
        parts.append(part)
    major = reader.time_major
    if len(major) > 1:
        raise ValueError(_messages.attribute(owner, "time_major", sorted(major), "the same of all layers"))
    return assemble(owner, parts, dtype, batch_first=not major.pop())


def unboxed(params: Any) -> Any:
    """The tree without the level ``params``."""
    if isinstance(params, Mapping) and "params" in params and isinstance(params["params"], Mapping):
        return params["params"]
    return params


def cells_in(owner: str, tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Subtrees that hold the parts of a cell, with their paths."""
    if len(path) > DEEPEST:
        raise ValueError(_messages.attribute(owner, "the nesting of the parameters", len(path), f"at most {DEEPEST}"))
    if not isinstance(tree, Mapping):
        return
    for name in tree:
        if not isinstance(name, str):
            raise TypeError(_messages.no_name(owner, name))
    names = frozenset(name.rstrip("_") for name in tree)
    if any(cell <= names for cell in (*CELLS, *OTHERS, JOINED)) and all(isinstance(v, Mapping) for v in tree.values()):
        yield path, tree
        return
    for name, below in tree.items():
        yield from cells_in(owner, below, (*path, name))


def chosen(owner: str, source: Mapping[str, Any], prefix: str | None) -> Any:
    """The only cell's parts in a tree, those called `prefix`, or those of both directions."""
    found = dict(cells_in(owner, unboxed(source)))
    if prefix is not None:
        if not isinstance(prefix, str):
            raise TypeError(_messages.attribute(owner, "prefix", prefix, "a string"))
        path = tuple(part for part in prefix.replace(".", "/").split("/") if part)
        found = {names: tree for names, tree in found.items() if names[: len(path)] == path}
    if not found:
        raise ValueError(_messages.none_found(owner, "recurrent cell", f"parameters called {_messages.listed(source)}"))
    if len(found) == 2:
        ways = {names[-2]: tree for names, tree in found.items() if len(names) > 1}
        if set(ways) == {"forward_rnn", "backward_rnn"} and len({names[:-2] for names in found}) == 1:
            return ways["forward_rnn"], ways["backward_rnn"]
    if len(found) > 1:
        names = ["/".join(names) for names in sorted(found)]
        raise ValueError(_messages.several(owner, "recurrent cells", names, "prefix="))
    return next(iter(found.values()))


def of_tree(owner: str, tree: Mapping[str, Any]) -> Part:
    """One cell's parts as weights."""
    parts = {name.rstrip("_"): dict(part) for name, part in tree.items()}
    names = frozenset(parts)
    other = OTHERS.get(names)
    if other is not None:
        raise ValueError(_messages.no_counterpart(owner, other))
    if names != JOINED and names not in CELLS:
        known = max((cell for cell in (*CELLS, JOINED) if cell <= names), key=len, default=JOINED)
        raise ValueError(_messages.beside(owner, sorted(names - known)))
    arrays = {
        (name, what): as_weights(owner, f"{name}/{what}", array)
        for name, part in parts.items()
        for what, array in part.items()
        if array is not None
    }
    unknown = [f"{name}/{what}" for name, what in arrays if what not in ("kernel", "bias")]
    if unknown:
        raise ValueError(_messages.beside(owner, unknown))
    return joined(owner, arrays) if names == JOINED else apart(owner, CELLS[names], arrays)


def kernel_of(owner: str, arrays: Mapping[tuple[str, str], Array], name: str) -> Array:
    """A kernel, which has to be there."""
    if (name, "kernel") not in arrays:
        raise ValueError(_messages.missing(owner, f"{name}/kernel"))
    return arrays[name, "kernel"]


def joined(owner: str, arrays: Mapping[tuple[str, str], Array]) -> Part:
    """nnx: all gates in one kernel."""
    kernels = [kernel_of(owner, arrays, name) for name in ("dense_i", "dense_h")]
    for name, kernel in zip(("dense_i/kernel", "dense_h/kernel"), kernels, strict=True):
        shaped(owner, name, kernel, "features", "columns of all gates")
    W_i, W_h = kernels
    H, columns = W_h.shape
    kind = next((kind for kind, order in GATES.items() if H and columns == len(order) * H), None)
    if kind is None:
        raise ValueError(_messages.no_such_cell(owner, columns, H))
    shaped(owner, "dense_i/kernel", W_i, "features", columns)
    found = [arrays[name, "bias"] for name in ("dense_i", "dense_h") if (name, "bias") in arrays]
    if len(found) > 1:
        raise ValueError(_messages.beside(owner, ["a second bias"]))
    for bias in found:
        shaped(owner, "the bias", bias, columns)
    return Part(kind, [Direction(W_i.T, W_h.T, *found)], {})


def apart(owner: str, kind: str, arrays: Mapping[tuple[str, str], Array]) -> Part:
    """Each gate's parts by themselves."""
    gates = {"RNN": [""], "GRU": list("rzn"), "LSTM": list("ifgo")}[kind]
    kernels = {way: [kernel_of(owner, arrays, way + gate) for gate in gates] for way in "ih"}
    first = kernels["i"][0]
    shaped(owner, f"i{gates[0]}/kernel", first, "features", "hidden features")
    I, H = first.shape
    for way, rows in (("i", I), ("h", H)):
        for gate, kernel in zip(gates, kernels[way], strict=True):
            shaped(owner, f"{way}{gate}/kernel", kernel, rows, H)
    W_ih, W_hh = (np.concatenate([kernel.T for kernel in kernels[way]]) for way in "ih")
    biases: dict[str, list[Array | None]] = {way: [arrays.get((way + gate, "bias")) for gate in gates] for way in "ih"}
    for way, found in biases.items():
        for gate, bias in zip(gates, found, strict=True):
            if bias is not None:
                shaped(owner, f"{way}{gate}/bias", bias, H)
    zero = np.zeros(H, W_ih.dtype)
    b_i, b_h = (
        None if all(b is None for b in found) else np.concatenate([zero if b is None else b for b in found])
        for found in biases.values()
    )
    if kind != "GRU" or b_h is None:  # one bias, wherever it is
        single = b_h if b_i is None else b_i if b_h is None else b_i + b_h
        return Part(kind, [Direction(W_ih, W_hh, single)], {})
    return Part(kind, [Direction(W_ih, W_hh, np.zeros(3 * H, W_ih.dtype) if b_i is None else b_i, b_h)], {})


class Reader:
    """Reads modules, whose code has to be Flax' own."""

    def __init__(self, owner: str, rounded: bool, force: bool) -> None:
        self.owner, self.rounded, self.force = owner, rounded, force
        self.time_major: set[bool] = set()

    def own(self, module: Any, names: Any, homes: tuple[str, ...] = HOMES) -> str | None:
        """The name of Flax' class whose code the module runs."""
        classes = [cls for cls in type(module).__mro__ if cls.__name__ in names and cls.__module__ in homes]
        if not classes:
            return None
        base = classes[0]
        if not self.force:
            fields = getattr(base, "__dataclass_fields__", {})
            changed = [name for name in replaced(module, base, (*MADE, *fields)) if not ignorable(name)]
            if changed:
                found = type(module).__qualname__
                raise ValueError(_messages.replaced_code(self.owner, found, base.__name__, changed))
        return base.__name__

    def of_module(self, module: Any, params: Any) -> list[tuple[Any, str]]:
        """Parts from bottom to top, each with "" or, for steps from the last to the first, how outputs come out."""
        if self.own(module, ["Sequential"], ("flax.linen.combinators",)):
            found = []
            for k, layer in enumerate(module.layers):
                found += self.of_module(layer, self.below(params, f"layers_{k}"))
            if not found:
                raise ValueError(_messages.none_found(self.owner, "recurrent layer", "an empty Sequential"))
            return found
        if self.own(module, ["Bidirectional"]):
            if getattr(module.merge_fn, "__module__", "") not in HOMES and not self.force:
                raise ValueError(_messages.attribute(self.owner, "merge_fn", module.merge_fn, "Flax' own"))
            ways = []
            for name in ("forward_rnn", "backward_rnn"):
                way = getattr(module, name)
                if not self.own(way, ["RNN"]):
                    raise TypeError(_messages.wrong_source(self.owner, way, "RNN in both directions"))
                ways.append(self.of_cell(way.cell, self.below(self.below(params, name), "cell")))
            self.time_major.add(bool(module.time_major))
            return [(Pair(ways[0], ways[1], "concat").as_one(), "")]
        if self.own(module, ["RNN"]):
            self.time_major.add(bool(module.time_major))
            turned = "" if not module.reverse else "aligned" if module.keep_order else "flipped"
            return [(self.of_cell(module.cell, self.below(params, "cell")), turned)]
        part = self.of_cell(module, params)
        self.time_major.add(False)
        return [(part, "")]

    def below(self, params: Any, name: str) -> Any:
        """A subtree of linen's parameters; nnx' modules hold theirs."""
        if params is None:
            return None
        if not isinstance(params, Mapping) or name not in params:
            raise ValueError(_messages.missing(self.owner, f"params[{name!r}]"))
        return params[name]

    def of_cell(self, cell: Any, params: Any) -> Part:
        """A cell's weights and options."""
        owner = self.owner
        name = self.own(cell, [*KINDS, *OTHERS.values()])
        if name in OTHERS.values():
            raise ValueError(_messages.no_counterpart(owner, str(name)))
        if name is None:
            expected = f"RNN, Bidirectional, Sequential (linen) or one of {', '.join(KINDS)}"
            raise TypeError(_messages.wrong_source(owner, cell, expected))
        kind = KINDS[name]
        if getattr(cell, "residual", False):
            raise ValueError(_messages.attribute(owner, "residual", True, "False"))
        start = getattr(cell, "carry_init", None)
        if start is not None and getattr(start, "__name__", "") != "zeros" and not self.force:
            raise ValueError(
                _messages.attribute(owner, "carry_init", start, "zeros (fusedrnn takes states as arguments)")
            )
        compute = getattr(cell, "dtype", None)
        if compute is not None and np.dtype(compute).name not in ("float32", "float64") and not self.rounded:
            raise ValueError(_messages.computes_in(owner, name, np.dtype(compute).name))
        if params is None:
            params = self.linears(cell)
        part = of_tree(owner, {} if not isinstance(params, Mapping) else params)
        if part.kind != kind:
            raise ValueError(_messages.kinds_differ(owner, kind, part.kind, f"the module is a {name}"))
        state = activation_of(owner, "activation_fn", cell.activation_fn, self.force)
        if kind == "RNN" and state in ("tanh", "relu"):
            part.options["nonlinearity"] = state
        elif state != "tanh":
            part.options["activation"] = state
        if kind != "RNN":
            gates = activation_of(owner, "gate_fn", cell.gate_fn, self.force)
            if gates != "sigmoid":
                part.options["recurrent_activation"] = gates
        return part

    def linears(self, cell: Any) -> dict[str, Any]:
        """The parts of an nnx cell, whose linear layers have to be Flax' own."""
        parts: dict[str, Any] = {}
        for name in ("dense_i", "dense_h", *{part for names in CELLS for part in names}, "if_"):
            linear = getattr(cell, name, None)
            if linear is None:
                continue
            if not self.own(linear, ["Linear"], ("flax.nnx.nn.linear",)):
                raise ValueError(_messages.foreign_code(self.owner, f"{name} ({type(linear).__qualname__})"))
            product = getattr(linear, "dot_general", None)
            if not str(getattr(product, "__module__", "jax")).startswith("jax") and not self.force:
                raise ValueError(_messages.attribute(self.owner, f"{name}.dot_general", product, "JAX' own"))
            parts[name] = {what: read(getattr(linear, what, None)) for what in ("kernel", "bias")}
        return parts


def read(variable: Any) -> Any:
    """An nnx variable's array."""
    return None if variable is None or getattr(variable, "value", variable) is None else np.asarray(variable[...])


def ignorable(name: str) -> bool:
    """What the metaclasses of Flax and of dataclasses put into a class."""
    return name.startswith(("__dataclass_", "_pytree__", "_abc_", "__abstractmethods__"))


def activation_of(owner: str, name: str, function: Any, force: bool) -> Any:
    """Our activation for a function of JAX; a function of somebody else may have any name."""
    called = str(getattr(function, "__name__", repr(function)))
    ours = ACTIVATIONS.get(called)
    places = [sys.modules.get(module) for module in ("jax.nn", "jax.numpy", "jax.lax")]
    theirs = any(getattr(place, called, None) is function for place in places)
    if ours is None or not (theirs or force):
        raise ValueError(
            _messages.attribute(owner, name, function, f"one of JAX' own: {_messages.listed(ACTIVATIONS)}")
        )
    return ours
