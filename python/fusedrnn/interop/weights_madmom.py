"""madmom -> fusedrnn: the layers of ``madmom.ml.nn.layers``.

====================  ========================================================================================
madmom                fusedrnn
====================  ========================================================================================
gates                 apart: each has ``weights`` (I, H), ``recurrent_weights`` (H, H), ``bias`` and
                      ``peephole_weights`` (H,); ours are rows, transposed
LSTMLayer             ``input_gate``, ``forget_gate``, ``cell``, ``output_gate``; peepholes as ``peephole="ifo"``: i and
                      f see the old c, o sees the new one
GRULayer              reset gate after the product, without a recurrent bias: ``bias="single"``; the update gate stands
                      the other way round, h' = u * n + (1 - u) * h: weights and bias of u are negated
BidirectionalLayer    ``bidirectional=True``
``init, cell_init``   ``learned_state=True``, unless all zeros
axes                  one sequence (T, I), as any layer here takes it
====================  ========================================================================================
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from . import _messages
from .conventions import GATES, Array, Direction, as_weights, build, negate, shaped
from .own_code import refuse_replaced

#: madmom's activation functions by name -> ours.
ACTIVATIONS = {"tanh": "tanh", "sigmoid": "sigmoid", "_sigmoid": "sigmoid", "relu": "relu", "linear": "linear"}

#: Attributes that hold the gates, in our order.
GATE_ATTRIBUTES = {
    "LSTM": ("input_gate", "forget_gate", "cell", "output_gate"),
    "GRU": ("reset_gate", "update_gate", "cell"),
}


def from_madmom(source: Any, *, dtype: DTypeLike | None = None) -> Any:
    """Convert a layer of madmom to an equivalent layer of fusedrnn.

    Parameters
    ----------
    source : RecurrentLayer, LSTMLayer, GRULayer, or BidirectionalLayer of two of a kind; or a list of these
        A list is one above the other; all have to be of a kind and a size.
    dtype : float32, float64 or None
        None is that of the weights.

    Returns
    -------
    RNN, GRU or LSTM

    Raises
    ------
    TypeError
        `source` is none of these.
    ValueError
        Layers of a list or of two directions are not alike; an activation is none of ours.

    Notes
    -----
    The update gate turns round exactly: sigmoid(-a) = 1 - sigmoid(a). Call ``layer(data)[0]`` for ``activate(data)``.
    """
    owner = "from_madmom"
    if isinstance(source, (list, tuple)) and not source:
        raise ValueError(_messages.none_found(owner, "layer", "an empty list"))
    parts = [of_layer(owner, part) for part in (source if isinstance(source, (list, tuple)) else [source])]
    for k, (kind, directions, options) in enumerate(parts):
        if (kind, len(directions), options) != (parts[0][0], len(parts[0][1]), parts[0][2]):
            first = f"a {parts[0][0]} with {parts[0][2]}, as layer 0 is"
            raise ValueError(_messages.attribute(owner, f"layer {k}", f"{kind} with {options}", first))
    kind, _, options = parts[0]
    if dtype is not None:
        options = options | {"dtype": dtype}
    return build(owner, kind, [directions for _, directions, _ in parts], **options)


def of_layer(owner: str, layer: Any) -> tuple[str, list[Direction], dict[str, Any]]:
    """Kind, one or two directions, options."""
    refuse_replaced(owner, layer, ("madmom",))
    if hasattr(layer, "fwd_layer"):
        ways = [of_layer(owner, attribute_of(owner, layer, name)) for name in ("fwd_layer", "bwd_layer")]
        forward, backward = ways
        if any(len(directions) > 1 for _, directions, _ in ways):
            raise ValueError(_messages.attribute(owner, "fwd_layer or bwd_layer", "of two directions", "one way each"))
        if (forward[0], forward[2]) != (backward[0], backward[2]):
            expected = f"a {forward[0]} with {forward[2]}, as fwd_layer is"
            raise ValueError(_messages.attribute(owner, "bwd_layer", f"{backward[0]} with {backward[2]}", expected))
        return forward[0], forward[1] + backward[1], forward[2]
    if hasattr(layer, "forget_gate"):
        return of_gates(owner, "LSTM", layer)
    if hasattr(layer, "update_gate"):
        return of_gates(owner, "GRU", layer)
    if getattr(layer, "recurrent_weights", None) is None:
        expected = "a RecurrentLayer, LSTMLayer, GRULayer or BidirectionalLayer"
        raise TypeError(_messages.wrong_source(owner, layer, expected))
    W_ih, W_hh, b = part_of(owner, "layer", layer)
    name = activation_of(owner, "activation_fn", attribute_of(owner, layer, "activation_fn"))
    options = {} if name == "tanh" else {"nonlinearity": "relu"} if name == "relu" else {"activation": name}
    return "RNN", [Direction(W_ih, W_hh, b, h_0=initial(owner, layer, "init"))], options


def of_gates(owner: str, kind: str, layer: Any) -> tuple[str, list[Direction], dict[str, Any]]:
    """A layer whose gates are objects of their own."""
    gates = [attribute_of(owner, layer, name) for name in GATE_ATTRIBUTES[kind]]
    parts = [part_of(owner, name, gate) for name, gate in zip(GATE_ATTRIBUTES[kind], gates, strict=True)]
    for name, (W_x, W_h, _) in zip(GATE_ATTRIBUTES[kind], parts, strict=True):
        shaped(owner, f"{name}.weights", W_x.T, *parts[0][0].shape[::-1])
        shaped(owner, f"{name}.recurrent_weights", W_h.T, *parts[0][1].shape)
    W_ih, W_hh, b = (np.concatenate(rows) for rows in zip(*parts, strict=True))
    options: dict[str, Any] = {}
    peephole = h_0 = c_0 = None
    others = [gate for gate, name in zip(gates, GATE_ATTRIBUTES[kind], strict=True) if name != "cell"]
    names = {
        activation_of(owner, "activation_fn of the gates", attribute_of(owner, gate, "activation_fn"))
        for gate in others
    }
    if len(names) > 1:
        raise ValueError(_messages.attribute(owner, "activation_fn of the gates", sorted(names), "one for all of them"))
    if names != {"sigmoid"}:
        options["recurrent_activation"] = names.pop()
    state = activation_of(owner, "activation_fn of the cell", attribute_of(owner, layer.cell, "activation_fn"))
    if state != "tanh":
        options["activation"] = state
    h_0 = initial(owner, layer, "init")
    if kind == "GRU":
        W_ih, W_hh, b = (negate(rows, "z", GATES[kind]) for rows in (W_ih, W_hh, b))
    else:
        output = activation_of(owner, "activation_fn of the layer", attribute_of(owner, layer, "activation_fn"))
        if output != state:
            options["output_activation"] = output
        found = [getattr(gate, "peephole_weights", None) for gate in others]
        if any(weights is not None for weights in found):
            H = W_hh.shape[1]
            rows = [np.zeros(H, W_hh.dtype) if w is None else as_weights(owner, "peephole_weights", w) for w in found]
            peephole = np.stack([spread(owner, "peephole_weights", row, H) for row in rows])
            options["peephole"] = "ifo"
        c_0 = initial(owner, layer, "cell_init")
        if (h_0 is None) != (c_0 is None):
            zeros = np.zeros(W_hh.shape[1], W_hh.dtype)
            h_0, c_0 = (zeros if h_0 is None else h_0), (zeros if c_0 is None else c_0)
    return kind, [Direction(W_ih, W_hh, b, peephole=peephole, h_0=h_0, c_0=c_0)], options


def part_of(owner: str, name: str, gate: Any) -> tuple[Array, Array, Array]:
    """Weights and bias of one gate, as rows; a scalar bias is spread out."""
    found = {part: attribute_of(owner, gate, part) for part in ("weights", "recurrent_weights", "bias")}
    weights, recurrent, bias = (as_weights(owner, f"{name}.{part}", value) for part, value in found.items())
    if weights.ndim != 2 or recurrent.shape != (weights.shape[1], weights.shape[1]):
        expected = "(H, H), where weights are (I, H)"
        raise ValueError(_messages.shape(owner, f"{name}.recurrent_weights", recurrent.shape, expected))
    bias = spread(owner, f"{name}.bias", bias.astype(weights.dtype), weights.shape[1])
    return weights.T, recurrent.T, bias


def attribute_of(owner: str, thing: Any, name: str) -> Any:
    """What every layer or gate of this kind has."""
    if not hasattr(thing, name):
        raise TypeError(_messages.wrong_source(owner, thing, f"a layer or gate of madmom, which has {name}"))
    return getattr(thing, name)


def spread(owner: str, name: str, array: Array, H: int) -> Array:
    """One number for each unit, or one for all."""
    if array.size not in (1, H):
        raise ValueError(_messages.shape(owner, name, array.shape, f"({H},)"))
    return np.broadcast_to(array.reshape(-1), H)


def activation_of(owner: str, name: str, function: Any) -> str:
    """Our name of an activation function."""
    called = getattr(function, "__name__", repr(function))
    called = {"expit": "sigmoid"}.get(called, called)
    if called not in ACTIVATIONS:
        raise ValueError(_messages.attribute(owner, name, called, f"one of {_messages.listed(ACTIVATIONS)}"))
    return ACTIVATIONS[called]


def initial(owner: str, layer: Any, name: str) -> Array | None:
    """An initial state, which old pickles call hid_init; None if it is zeros."""
    value = getattr(layer, name, getattr(layer, f"hid_{name}", None))
    if value is None:
        return None
    array = as_weights(owner, name, value)
    return array if array.any() else None
