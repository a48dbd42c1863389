"""ONNX -> fusedrnn: the operators RNN, GRU and LSTM.

=======================  ======================================================================================
ONNX                     fusedrnn
=======================  ======================================================================================
gates                    LSTM i o f c, GRU z r h; ours are i f g o and r z n
``W``, ``R``             (D, G*H, I), (D, G*H, H): ``weight_ih``, ``weight_hh``, one after the other for each direction
``B``                    (D, 2*G*H): ``bias_ih``, then ``bias_hh``
``P``                    (D, 3*H), order i o f: ``weight_peephole`` (3, H), order i f o
update gate              the same: h' = (1 - z) * n + z * h
``linear_before_reset``  ``reset_after``; 0 is the default
``input_forget``         ``coupled``: f = 1 - i; the blocks for f are in W, R and B, but have no effect
``activations``          f, g (and h) for each direction: ``recurrent_activation``, ``activation``,
                         ``output_activation``; alphas and betas go in this order to those that take one; directions
                         with different ones are a `Bidirectional`
``clip``                 the same: of what goes into the activations
``direction``            "reverse" is ``backwards=True``; outputs are aligned with the input in both
axes                     X (T, B, I), Y (T, D, B, H), states (D, B, H); with ``layout=1`` B is the first axis of each
``sequence_lens``        ``lengths``; outputs past the end are zero in both
=======================  ======================================================================================

Source: the operators' page of the ONNX standard, https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bidirectional import Bidirectional
from . import _messages
from .conventions import GATES, Array, Direction, Pair, Part, as_weights, assemble, reorder

if TYPE_CHECKING:
    import onnx

#: ONNX's gate orders in our letters (its c and h are g and n), and that of its peepholes.
ONNX_GATES = {"RNN": "h", "GRU": "zrn", "LSTM": "iofg"}
ONNX_PEEPHOLES = "iof"

#: Inputs by place.
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")

#: What the letters f, g, h of ``activations`` are called here, and their defaults.
ACTIVATION_OPTIONS = {
    "RNN": (("activation", "tanh"),),
    "GRU": (("recurrent_activation", "sigmoid"), ("activation", "tanh")),
    "LSTM": (("recurrent_activation", "sigmoid"), ("activation", "tanh"), ("output_activation", "tanh")),
}

#: ONNX's activation in lower case -> ours and the defaults of alpha and beta (None: has no default).
ACTIVATIONS: dict[str, tuple[str, tuple[float | None, ...]]] = {
    "relu": ("relu", ()),
    "tanh": ("tanh", ()),
    "sigmoid": ("sigmoid", ()),
    "softsign": ("softsign", ()),
    "softplus": ("softplus", ()),
    "affine": ("affine", (None, None)),
    "leakyrelu": ("leaky_relu", (0.01,)),
    "thresholdedrelu": ("thresholded_relu", (1.0,)),
    "scaledtanh": ("scaled_tanh", (None, None)),
    "hardsigmoid": ("hard_sigmoid", (0.2, 0.5)),
    "elu": ("elu", (1.0,)),
}


class OnnxNode:
    """One RNN, GRU or LSTM node: a layer, and what else the model says about how to call it.

    Calling it is running the operator: same arguments, axes and results.

    Attributes
    ----------
    name : str
        Of the node; of its first output, if it has none.
    layer : RNN, GRU or LSTM, or Bidirectional of two, where the activations of the directions differ
        ``batch_first`` with ``layout=1``.
    lengths : ndarray or None
        ``sequence_lens``, if the model has them as constants.
    state : ndarray, pair of ndarray, or None
        The initial state for `layer`, (D, B, H), if the model has it as constants.
    layout : int
    inputs : dict of str to str
        Which of the model's tensors feed X and what is no constant of ``sequence_lens``, ``initial_h``, ``initial_c``.
    outputs : tuple of str
        The model's names of Y, Y_h and Y_c; empty where it does not use them.

    Examples
    --------
    >>> from fusedrnn.interop import OnnxNode
    >>> OnnxNode.__call__.__doc__.splitlines()[0]
    'Run the operator.'
    """

    def __init__(
        self,
        name: str,
        layer: Any,
        lengths: Array | None,
        state: Any,
        layout: int,
        inputs: dict[str, str],
        outputs: tuple[str, ...],
        part: Part | Pair,
    ) -> None:
        self.name = name
        self._part = part
        self.layer = layer
        self.lengths = lengths
        self.state = state
        self.layout = layout
        self.inputs = inputs
        self.outputs = outputs

    def __repr__(self) -> str:
        return f"OnnxNode({self.name!r}, {self.layer!r})"

    def __call__(
        self, X: Any, sequence_lens: Any = None, initial_h: Any = None, initial_c: Any = None
    ) -> tuple[Array, ...]:
        """Run the operator.

        Parameters
        ----------
        X : (T, B, I), with ``layout=1`` (B, T, I)
        sequence_lens : (B,) or None
        initial_h, initial_c : (D, B, H), with ``layout=1`` (B, D, H), or None
            None is the model's constant, and zeros if there is none.

        Returns
        -------
        Y : (T, D, B, H), with ``layout=1`` (B, T, D, H)
        Y_h, and of an LSTM Y_c : (D, B, H), with ``layout=1`` (B, D, H)

        Raises
        ------
        ValueError
            A shape is wrong; or the model computes one of the last three and it was not given.
        """
        given = {"sequence_lens": sequence_lens, "initial_h": initial_h, "initial_c": initial_c}
        for argument, value in given.items():
            if value is None and argument in self.inputs:
                tensor = self.inputs[argument]
                raise ValueError(_messages.computed(argument, tensor))
        layer, axes = self.layer, (1, 0, 2)
        parts = [initial_h, initial_c][: 1 + isinstance(self._state(X), tuple)]
        state = self.state
        if any(part is not None for part in parts):
            old = self._state(X) if state is None else state
            old = old if isinstance(old, tuple) else (old,)
            turned = [p if p is None or not self.layout else np.asarray(p).transpose(axes) for p in parts]
            both = tuple(o if p is None else p for p, o in zip(turned, old, strict=True))
            state = both if len(both) == 2 else both[0]
        D = len(layer._plan.ways)
        two = isinstance(layer, Bidirectional)
        if two and state is not None:
            state = split_state(state)
        y, state_n = layer(X, state, lengths=self.lengths if sequence_lens is None else sequence_lens)
        if two:
            state_n = join_states(*state_n)
        states = state_n if isinstance(state_n, tuple) else (state_n,)
        y = y.reshape(*y.shape[:2], D, -1)
        if self.layout:
            return (y, *(np.ascontiguousarray(part.transpose(axes)) for part in states))
        return (np.ascontiguousarray(y.transpose(0, 2, 1, 3)), *states)

    def _state(self, X: Any) -> Any:
        """Zeros, as an initial state of the node."""
        layer = self.layer
        first = layer.layers[0] if isinstance(layer, Bidirectional) else layer
        B = np.shape(X)[0 if self.layout else 1]
        zeros = np.zeros((len(layer._plan.ways), B, first.hidden_size), layer.dtype)
        return (zeros, zeros) if type(first).__name__ == "LSTM" else zeros


def split_state(state: Any) -> tuple[Any, Any]:
    """A node's state, (2, B, H) for each part, as that of a `Bidirectional`."""
    if isinstance(state, tuple):
        return tuple([part[:1] for part in state]), tuple([part[1:] for part in state])
    return state[:1], state[1:]


def join_states(first: Any, second: Any) -> Any:
    """The way back."""
    if isinstance(first, tuple):
        return tuple([np.concatenate(parts) for parts in zip(first, second, strict=True)])
    return np.concatenate((first, second))


def from_onnx(
    source: onnx.ModelProto | onnx.NodeProto | str | os.PathLike[str] | bytes,
    tensors: Mapping[str, Any] | None = None,
    *,
    dtype: Any = None,
    chain: bool = False,
) -> Any:
    """The layers of all RNN, GRU and LSTM nodes of an ONNX model, or of one node.

    Parameters
    ----------
    source : onnx.ModelProto, path, bytes of a model, or onnx.NodeProto
        Needs the package onnx, for reading. Weights may be initializers, constants, or computed from these (sliced,
        concatenated, dequantized). Nodes are found in the branches of If and the bodies of Loop, too.
    tensors : mapping of str to arrays, or None
        Weights that the model takes as inputs; for a node all of them, under the node's names.
    dtype : float32, float64 or None
        None is that of the weights; float16 and bfloat16 become float32.
    chain : bool
        Whether the model's nodes stand upon each other and are wanted as one: a layer, or a `Stack` where they differ.
        Two nodes over the same input, one for each direction, are a `Bidirectional`. ``batch_first`` is the nodes'
        ``layout``.

    Returns
    -------
    dict of str to OnnxNode, or OnnxNode
        By name, in the model's order; of a NodeProto the node alone. With ``chain=True`` an RNN, GRU, LSTM, Stack or
        Bidirectional.

    Raises
    ------
    TypeError
        `source` is none of these.
    ValueError
        There is no such node; an attribute or a shape is not as the standard has it; weights are not constant and
        not among `tensors`; with ``chain=True``, a node reads something else than what the one below puts out, or has
        lengths or an initial state of its own.
    """
    import onnx

    owner = "from_onnx"
    if isinstance(source, onnx.NodeProto):
        given = {name: as_weights(owner, name, value) for name, value in (tensors or {}).items()}
        if source.op_type not in GATES:
            raise ValueError(_messages.attribute(owner, "op_type", source.op_type, f"one of {_messages.listed(GATES)}"))
        return read_node(owner, source, lambda name: given.get(name), dtype)
    if isinstance(source, (str, os.PathLike)):
        source = onnx.load(os.fspath(source))
    elif isinstance(source, bytes):
        source = onnx.load_model_from_string(source)
    if not isinstance(source, onnx.ModelProto):
        raise TypeError(_messages.wrong_source(owner, source, "an onnx.ModelProto, its path or bytes, or a NodeProto"))
    found: dict[str, OnnxNode] = {}
    given = {name: np.asarray(value) for name, value in (tensors or {}).items()}
    for node, constants in recurrent_nodes(source, given):
        read = read_node(owner, node, constants, dtype)
        name, k = read.name, 2
        while read.name in found:
            read.name, k = f"{name}_{k}", k + 1
        found[read.name] = read
    if not found:
        raise ValueError(_messages.none_found(owner, "RNN, GRU or LSTM node", f"graph {source.graph.name!r}"))
    if chain:
        from .weights_onnx_chain import read_chain

        return read_chain(owner, source, list(found.values()), Constants(source, source.graph, None, given), dtype)
    return found


class Constants:
    """Tensors of a graph and of those around it that do not depend on what the model is fed."""

    def __init__(
        self, model: onnx.ModelProto, graph: onnx.GraphProto, outer: Constants | None, given: Mapping[str, Array]
    ):
        import onnx

        self.model = model
        self.outer = outer
        self.known: dict[str, Array | None] = dict.fromkeys((i.name for i in graph.input), None)
        self.known |= {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
        self.known |= given
        self.producers = {name: node for node in graph.node for name in node.output if name}

    def __call__(self, name: str) -> Array | None:
        """The value, or None if it is not constant."""
        if name in self.known:
            return self.known[name]
        if name not in self.producers:
            return self.outer(name) if self.outer else None
        node = self.producers[name]
        for output in node.output:
            self.known[output] = None  # so that a cycle, which no valid graph has, ends
        inputs = {i: self(i) for i in node.input if i}
        subgraphs = any(a.HasField("g") or len(a.graphs) for a in node.attribute)
        if not subgraphs and all(value is not None for value in inputs.values()):
            self.known |= dict(zip(node.output, self.evaluate(node, inputs), strict=False))
        return self.known[name]

    def evaluate(self, node: onnx.NodeProto, inputs: Mapping[str, Any]) -> list[Any]:
        """One node on constants, by ONNX's own reference."""
        import onnx
        from onnx.reference import ReferenceEvaluator

        def infos(names: Any) -> list[onnx.ValueInfoProto]:
            return [onnx.helper.make_value_info(n, onnx.TypeProto()) for n in names if n]

        graph = onnx.helper.make_graph([node], "constant", infos(dict.fromkeys(node.input)), infos(node.output))
        model = onnx.helper.make_model(graph, opset_imports=self.model.opset_import, functions=self.model.functions)
        return list(ReferenceEvaluator(model).run(None, dict(inputs)))


def recurrent_nodes(model: onnx.ModelProto, given: Mapping[str, Array]) -> Iterator[tuple[onnx.NodeProto, Constants]]:
    """Every recurrent node of the standard's own domain, and the constants it can see."""

    def walk(graph: onnx.GraphProto, outer: Constants | None) -> Iterator[tuple[onnx.NodeProto, Constants]]:
        constants = Constants(model, graph, outer, given)
        for node in graph.node:
            if node.op_type in GATES and node.domain in ("", "ai.onnx"):
                yield node, constants
            for attribute in node.attribute:
                for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                    yield from walk(inner, constants)

    yield from walk(model.graph, None)


def read_node(owner: str, node: onnx.NodeProto, constants: Any, dtype: Any) -> OnnxNode:
    """One node as a layer with its constant lengths and initial state."""
    import onnx

    kind = node.op_type
    name = node.name or next(filter(None, node.output), kind)
    owner = f"{owner}: {kind} node {name!r}"
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    names = dict(zip(INPUTS, node.input, strict=False))
    names = {argument: tensor for argument, tensor in names.items() if tensor}
    values: dict[str, Array] = {}
    inputs = {"X": names.get("X", "")}
    for argument, tensor in names.items():
        if argument == "X":
            continue
        value = constants(tensor)
        if value is not None:
            values[argument] = value
        elif argument in ("sequence_lens", "initial_h", "initial_c"):
            inputs[argument] = tensor
        else:
            raise ValueError(_messages.no_constant(owner, argument, tensor))
    for argument in ("W", "R"):
        if argument not in values:
            raise ValueError(_messages.missing(owner, argument))
    stack, options = weights_of(owner, kind, attributes, values)
    layout = int(attributes.pop("layout", 0))
    if layout not in (0, 1):
        raise ValueError(_messages.attribute(owner, "layout", layout, "0 or 1"))
    common, sides = options_of(owner, kind, attributes, len(stack))
    part: Part | Pair
    if sides[0] == sides[-1]:
        part = Part(kind, stack, options | common | sides[0])
    else:
        first, second = (Part(kind, [d], options | common | own) for d, own in zip(stack, sides, strict=True))
        part = Pair(first, second, "concat")
    layer = assemble(owner, [part], dtype, batch_first=bool(layout))
    states = [values[part] for part in ("initial_h", "initial_c") if part in values]
    state: Any = None
    if states:
        states = [part.transpose(1, 0, 2) if layout else part for part in states]
        if kind == "LSTM" and len(states) == 1:
            zeros = np.zeros_like(states[0])
            states = [states[0], zeros] if "initial_h" in values else [zeros, states[0]]
        state = tuple(states) if kind == "LSTM" else states[0]
    lengths = values.get("sequence_lens")
    return OnnxNode(name, layer, lengths, state, layout, inputs, tuple(node.output), part)


def weights_of(
    owner: str, kind: str, attributes: dict[str, Any], values: Mapping[str, Array]
) -> tuple[list[Direction], dict[str, Any]]:
    """W, R, B and P as one or two directions."""
    theirs, ours = ONNX_GATES[kind], GATES[kind]
    options: dict[str, Any] = {}
    if attributes.pop("input_forget", 0):
        options["coupled"] = True
        ours = ours.replace("f", "")
    direction = attributes.get("direction", b"forward").decode()
    D = 2 if direction == "bidirectional" else 1
    W, R = (as_weights(owner, name, values[name]) for name in ("W", "R"))
    if R.ndim != 3 or R.shape[0] != D or R.shape[1] != len(theirs) * R.shape[2]:
        expected = f"(D, {len(theirs)}*H, H) with D = {D}, as direction is {direction!r}"
        raise ValueError(_messages.shape(owner, "R", R.shape, expected))
    H = R.shape[2]
    if attributes.pop("hidden_size", H) != H:
        raise ValueError(_messages.shape(owner, "R", R.shape, "hidden_size columns, which the attribute says"))
    if W.ndim != 3 or W.shape[:2] != R.shape[:2]:
        raise ValueError(_messages.shape(owner, "W", W.shape, f"({D}, {R.shape[1]}, input_size)"))
    B = P = None
    if "B" in values:
        B = as_weights(owner, "B", values["B"])
        if B.shape != (D, 2 * R.shape[1]):
            raise ValueError(_messages.shape(owner, "B", B.shape, str((D, 2 * R.shape[1]))))
    if "P" in values:
        P = as_weights(owner, "P", values["P"])
        if P.shape != (D, 3 * H):
            raise ValueError(_messages.shape(owner, "P", P.shape, str((D, 3 * H))))
        options["peephole"] = "ifo"
    stack = []
    for d in range(D):
        biases = [] if B is None else [reorder(part, theirs, ours) for part in np.split(B[d], 2)]
        seen = "io" if "coupled" in options else "ifo"  # coupled, f = 1 - i has no peephole
        peephole = None if P is None else reorder(P[d].reshape(3, H), ONNX_PEEPHOLES, seen)
        b_ih, b_hh = biases or (None, None)
        stack.append(Direction(reorder(W[d], theirs, ours), reorder(R[d], theirs, ours), b_ih, b_hh, peephole))
    return stack, options


def options_of(
    owner: str, kind: str, attributes: dict[str, Any], D: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Keyword arguments that say what the attributes say, of all directions and of each.

    Attributes that are not the operator's are refused.
    """
    options: dict[str, Any] = {}
    direction = attributes.pop("direction", b"forward").decode()
    if direction == "reverse":
        options["backwards"] = True
    elif direction not in ("forward", "bidirectional"):
        expected = "'forward', 'reverse' or 'bidirectional'"
        raise ValueError(_messages.attribute(owner, "direction", direction, expected))
    clip = attributes.pop("clip", None)
    if clip:
        options["clip"] = float(clip)
    if kind == "GRU":
        options["reset_after"] = bool(attributes.pop("linear_before_reset", 0))
    sides = activations_of(owner, kind, attributes, D)
    attributes.pop("output_sequence", None)  # of operators before version 7
    if attributes:
        raise ValueError(_messages.unknown_attributes(owner, attributes))
    return options, sides


def activations_of(owner: str, kind: str, attributes: dict[str, Any], D: int) -> list[dict[str, Any]]:
    """Each direction's activations; alphas and betas are handed out in order to those that take them."""
    places = ACTIVATION_OPTIONS[kind]
    given = [name.decode() for name in attributes.pop("activations", [])] or [p[1] for p in places] * D
    alphas = list(attributes.pop("activation_alpha", []))
    betas = list(attributes.pop("activation_beta", []))
    if len(given) != len(places) * D:
        raise ValueError(_messages.attribute(owner, "activations", given, f"{len(places) * D} of them"))
    chosen: list[Any] = []
    for name in given:
        if name.lower() not in ACTIVATIONS:
            raise ValueError(_messages.attribute(owner, "activations", name, f"one of {_messages.listed(ACTIVATIONS)}"))
        ours, defaults = ACTIVATIONS[name.lower()]
        numbers: list[float] = []
        for numbered, left, default in zip(("alpha", "beta"), (alphas, betas), defaults, strict=False):
            value = left.pop(0) if left else default
            if value is None:
                raise ValueError(_messages.no_number(owner, name, numbered))
            numbers.append(float(value))
        chosen.append((ours, *numbers) if numbers else ours)
    if alphas or betas:
        raise ValueError(_messages.numbers_left(owner, len(alphas) + len(betas)))
    sides = []
    for d in range(D):
        pairs = zip(places, chosen[d * len(places) :][: len(places)], strict=True)
        options = {option: value for (option, default), value in pairs if value != default}
        if kind == "LSTM" and "activation" in options:
            options.setdefault("output_activation", "tanh")  # ours, unless given, is the state's
        if kind == "RNN" and options.get("activation") == "relu":
            options = {"nonlinearity": "relu"}
        sides.append(options)
    return sides
