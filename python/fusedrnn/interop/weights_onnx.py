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
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .._validate import as_array, layer_dtype
from . import _messages
from .conventions import GATES, Array, Direction, Pair, Part, as_weights, assemble, reorder, shaped
from .onnx_constants import Constants, Evaluator
from .onnx_functions import plain_domain
from .onnx_nodes import OnnxNode
from .onnx_operators import OPERATORS, OnnxOperator, is_operator, read_operator
from .onnx_trace import are_all_steps, are_zeros, is_recurrent, label, steps_and_rows, trace
from .onnx_values import Size
from .packages import needs
from .stored import faults_of, reading
from .weights_onnx_chain import read_chain

if TYPE_CHECKING:
    import onnx

#: ONNX's gate orders in our letters (its c and h are g and n), and that of its peepholes.
ONNX_GATES = {"RNN": "h", "GRU": "zrn", "LSTM": "iofg"}
ONNX_PEEPHOLES = "iof"

#: Inputs by place.
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")

#: Attributes and their types.
ATTRIBUTES = {
    "activation_alpha": "FLOATS",
    "activation_beta": "FLOATS",
    "activations": "STRINGS",
    "clip": "FLOAT",
    "direction": "STRING",
    "hidden_size": "INT",
    "input_forget": "INT",
    "layout": "INT",
    "linear_before_reset": "INT",
    "output_sequence": "INT",
}

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


def from_onnx(
    source: onnx.ModelProto | onnx.NodeProto | str | os.PathLike[str] | bytes,
    tensors: Mapping[str, Any] | None = None,
    *,
    dtype: Any = None,
    chain: bool = False,
) -> Any:
    """The layers of all RNN, GRU and LSTM nodes of an ONNX model, or of one node; and its LinearAttention and
    CausalConvWithState nodes, also those of com.microsoft.

    Parameters
    ----------
    source : onnx.ModelProto, path, bytes of a model, or onnx.NodeProto
        Reading needs the package onnx. Weights may be initializers, also sparse ones, constants, or computed from these
        (sliced, concatenated, dequantized): by operators of the standard, not by loops, and at most 10,000 of them.
        Nodes are also found in the branches of If, the bodies of Loop, and the model's own functions.
    tensors : mapping of str to arrays, or None
        Weights that are inputs of the model; for a node all weights, under the node's names.
    dtype : float32, float64 or None
        None means that of the weights; float16 and bfloat16 become float32.
    chain : bool
        Whether to convert the model's stacked nodes to one object: a layer, or a `Stack` if they differ. Two nodes over
        the same input, one for each direction, become a `Bidirectional`. Accepted is only what is proved to be the same
        function for all sizes that the model takes: between two nodes, axes are moved (Transpose, Reshape, Squeeze,
        Concat and others) and directions merged, nothing else; all nodes start from zeros, or from rows of the model's
        inputs in a layer's order; lengths are one input for all nodes. What the model does before the first node and
        after the last is not part of the layer, but for a transpose of x: then ``batch_first`` is the order of the
        model's input, otherwise the nodes' ``layout``.

    Returns
    -------
    dict of str to OnnxNode or OnnxOperator, or one of these
        By name, in the model's order; for a NodeProto the node alone. LinearAttention and CausalConvWithState are an
        `OnnxOperator`. With ``chain=True`` an RNN, GRU, LSTM, Stack or Bidirectional.

    Raises
    ------
    TypeError
        `source` is none of these, or a tensor is not an array.
    OSError
        There is no such file, or it cannot be read.
    ValueError
        The model is damaged, or computes far more than it holds; there is no such node; an attribute or a shape
        violates the standard, or is one that onnxruntime refuses; a node is recurrent, but not of the standard, such as
        DynamicQuantizeLSTM; weights are not constant and not among `tensors`; with ``chain=True``, it is not proved
        that a node reads the outputs of the node below, it has its own lengths or initial state, or it is in a branch
        or a loop, or an output of the model follows from a lower node.
    """
    owner = "from_onnx"
    onnx = needs(owner, "onnx")
    if dtype is not None:
        dtype = layer_dtype(owner, dtype)
    if tensors is not None and not isinstance(tensors, Mapping):
        raise TypeError(_messages.no_mapping(owner, "tensors", tensors))
    given = {name: as_array(owner, f"tensors[{name!r}]", value) for name, value in (tensors or {}).items()}
    if isinstance(source, onnx.NodeProto):
        if is_operator(source):
            return read_operator(owner, source, given.get)
        if source.op_type not in GATES:
            kinds = _messages.listed([*GATES, *OPERATORS])
            raise ValueError(_messages.attribute(owner, "op_type", source.op_type, f"one of {kinds}"))
        return read_node(owner, source, given.get, dtype)
    path = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
    if path is not None:
        open(path, "rb").close()  # whether there is such a file; onnx takes its format from its name
    elif not isinstance(source, (bytes, onnx.ModelProto)):
        raise TypeError(_messages.wrong_source(owner, source, "an onnx.ModelProto, its path or bytes, or a NodeProto"))
    with faults_of(owner, path):
        if not isinstance(source, onnx.ModelProto):
            with reading(owner, "the model"):
                load = onnx.load_model_from_string if path is None else onnx.load
                source = load(source, **({} if path is None else {"load_external_data": False}))
        return read_model(owner, source, given, os.path.dirname(path or ""), dtype, chain)


def read_model(
    owner: str, model: onnx.ModelProto, given: Mapping[str, Array], folder: str, dtype: Any, chain: bool
) -> Any:
    """All recurrent nodes of a model."""
    evaluator = Evaluator(owner, model)
    for array in given.values():
        evaluator.earn(array)
    found: list[tuple[Any, Constants]] = []
    names: set[str] = set()
    again: Counter[str] = Counter()
    graph = Constants(evaluator, model.graph, None, given, folder)
    for node, constants in recurrent_nodes(graph, given):
        if is_operator(node) and chain:
            continue
        if is_operator(node):
            read: OnnxNode | OnnxOperator = read_operator(owner, node, constants.used)
        elif not is_recurrent(node):
            raise ValueError(_messages.other_recurrent(owner, label(node), node.domain))
        else:
            read = read_node(owner, node, constants.used, dtype, constants)
        name = read.name
        while read.name in names:
            again[name] += 1
            read.name = f"{name}_{again[name] + 1}"
        names.add(read.name)
        found.append((read, constants))
    if not found:
        message = _messages.none_found(owner, "RNN, GRU or LSTM node", f"graph {model.graph.name!r}")
        raise ValueError(_messages.steps_of_torch(message) if model.producer_name == "pytorch" else message)
    if chain:
        return read_chain(owner, found, graph, dtype)
    return {read.name: read for read, _ in found}


def recurrent_nodes(graph: Constants, given: Mapping[str, Array]) -> Iterator[tuple[Any, Constants]]:
    """Every recurrent node, also those that the standard does not have, and the constants it can see."""
    rest = [(iter(graph.nodes), graph)]
    while rest:
        nodes, constants = rest[-1]
        node = next(nodes, None)
        if node is None:
            rest.pop()
            continue
        if (
            is_recurrent(node)
            or is_operator(node)
            or (plain_domain(node.domain) and any(kind in node.op_type for kind in GATES))
        ):
            yield node, constants
        inner = [g for a in node.attribute for g in (*([a.g] if a.HasField("g") else []), *a.graphs)]
        scopes = [Constants(graph.evaluator, g, constants, given, graph.folder) for g in reversed(inner)]
        rest += [(iter(scope.nodes), scope) for scope in scopes]


def read_node(
    owner: str, node: Any, constants: Callable[[str], Array | None], dtype: Any, scope: Constants | None = None
) -> OnnxNode:
    """One node as a layer with its constant lengths and initial state; the scope is that of a model's node."""
    kind = node.op_type
    name = node.name or next(filter(None, node.output), kind)
    owner = f"{owner}: {kind} node {name!r}"
    attributes = attributes_of(owner, node)
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
    layout = attributes.pop("layout", 0)
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
    D, H = len(stack), stack[0].W_hh.shape[1]
    rows: int | str = "batch size"
    if scope is not None and (len(inputs) > 1 or values.keys() & {"sequence_lens", "initial_h", "initial_c"}):
        T, B = steps_and_rows(trace(scope, inputs["X"]) if inputs["X"] else None, node, layout)
        rows = rows if B.known is None else B.known
        expected = (B, Size(D), Size(H)) if layout else (Size(D), B, Size(H))
        for argument in [name for name in inputs if name != "X"]:
            computed = trace(scope, inputs[argument])
            if argument == "sequence_lens":
                as_without = are_all_steps(computed, T)
            else:
                as_without = are_zeros(owner, argument, computed, expected)
            if as_without:
                del inputs[argument]
    states = []
    for initial in ("initial_h", "initial_c"):
        if initial in values:
            states.append(as_weights(owner, initial, values[initial]))
            shaped(owner, initial, states[-1], *((rows, D) if layout else (D, rows)), H)
    state: Any = None
    if states:
        states = [part.transpose(1, 0, 2) if layout else part for part in states]
        if kind == "LSTM" and len(states) == 1:
            zeros = np.zeros_like(states[0])
            states = [states[0], zeros] if "initial_h" in values else [zeros, states[0]]
        state = tuple(states) if kind == "LSTM" else states[0]
    lengths = values.get("sequence_lens")
    if lengths is not None:
        shaped(owner, "sequence_lens", lengths, rows)
    return OnnxNode(name, layer, lengths, state, layout, inputs, tuple(node.output) or ("",), part)


def attributes_of(owner: str, node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes that the operators have, each of its type; strings as such."""
    import onnx

    found: dict[str, Any] = {}
    for attribute in node.attribute:
        name, expected = attribute.name, ATTRIBUTES.get(attribute.name)
        kind = onnx.AttributeProto.AttributeType.Name(attribute.type)
        if expected is None:
            raise ValueError(_messages.unknown_attributes(owner, [name]))
        if kind != expected or name in found or attribute.ref_attr_name:
            raise ValueError(_messages.attribute(owner, name, kind, f"one {expected}"))
        value = onnx.helper.get_attribute_value(attribute)
        if kind == "STRING":
            value = value.decode(errors="replace")
        found[name] = [v.decode(errors="replace") for v in value] if kind == "STRINGS" else value
    return found


def weights_of(
    owner: str, kind: str, attributes: dict[str, Any], values: Mapping[str, Array]
) -> tuple[list[Direction], dict[str, Any]]:
    """W, R, B and P as one or two directions."""
    theirs, ours = ONNX_GATES[kind], GATES[kind]
    options: dict[str, Any] = {}
    if attributes.pop("input_forget", 0):
        options["coupled"] = True
        ours = ours.replace("f", "")
    direction = attributes.get("direction", "forward")
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
    direction = attributes.pop("direction", "forward")
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
    given = attributes.pop("activations", []) or [p[1] for p in places] * D
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
