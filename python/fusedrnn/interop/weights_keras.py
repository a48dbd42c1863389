"""Keras <-> fusedrnn.

====================  =========================================================================================
Keras                 fusedrnn
====================  =========================================================================================
gates                 columns of (I, G*H): LSTM i f c o, GRU z r h; ours are rows, i f g o and r z n
``kernel``            ``weight_ih``, transposed; ``recurrent_kernel`` is ``weight_hh``, transposed
``bias``              LSTM and SimpleRNN (G*H,): a single bias. GRU ``reset_after=True`` (2, 3*H): input, recurrent;
                      ``reset_after=False`` (3*H,): single
update gate           the same: h' = z * h + (1 - z) * hh
axes                  (B, T, I): ``batch_first=True``
``go_backwards``      ``backwards=True``; Keras leaves its outputs in the order of computation, y[:, ::-1], and the
                      next layer reads them so
``Bidirectional``     weights of the forward, then of the backward layer; ``merge_mode`` "ave" is "mean"
CuDNN layers          saved by Keras 2: each gate's block is stored as (H, I), its recurrent block transposed; two
                      biases, one after the other, which is how they are recognised
====================  =========================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from .._validate import full_activation
from ..bidirectional import Bidirectional
from ..stack import Stack
from . import _messages
from .conventions import (
    GATES,
    Array,
    Direction,
    Pair,
    Part,
    as_weights,
    assemble,
    check_kind,
    directions_of,
    gates_of,
    refuse_others,
    reorder,
    shaped,
)

if TYPE_CHECKING:
    import keras

#: Keras' gate orders in our letters (its c and h are g and n).
KERAS_GATES = {"RNN": "h", "GRU": "zrn", "LSTM": "ifgo"}

#: Keras' class -> ours.
KINDS = {"SimpleRNN": "RNN", "GRU": "GRU", "LSTM": "LSTM", "SimpleRNNCell": "RNN", "GRUCell": "GRU", "LSTMCell": "LSTM"}

#: Keras' merge_mode -> our merge.
MERGES = {"concat": "concat", "sum": "sum", "ave": "mean", "mul": "mul", None: None}

#: Keras' activations by name -> ours. Defaults of Keras 3; hard_sigmoid was 0.2 x + 0.5 before.
ACTIVATIONS: dict[str, Any] = {
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "relu": "relu",
    "linear": "linear",
    "hard_sigmoid": "hard_sigmoid",
    "hard_tanh": "hard_tanh",
    "softsign": "softsign",
    "softplus": "softplus",
    "elu": ("elu", 1.0),
    "leaky_relu": ("leaky_relu", 0.2),
}
HARD_SIGMOID_OF_KERAS_2 = ("hard_sigmoid", 0.2, 0.5)

#: What a layer of ours may have and Keras has, too.
KNOWN = ("num_layers", "nonlinearity", "bias", "batch_first", "bidirectional", "merge", "dtype", "reset_after")
KNOWN_LATER = ("activation", "recurrent_activation", "backwards", "dropout")


def from_keras(
    source: Any,
    *,
    kind: str | None = None,
    activation: Any = None,
    recurrent_activation: Any = None,
    reset_after: bool | None = None,
    go_backwards: bool = False,
    merge_mode: str | None = "concat",
    batch_first: bool = True,
    dtype: DTypeLike | None = None,
) -> Any:
    """Convert a Keras layer to an equivalent layer of fusedrnn.

    Parameters
    ----------
    source : keras layer, or list of arrays
        ``SimpleRNN``, ``GRU``, ``LSTM``, ``Bidirectional`` of one of these, ``RNN`` over one of their cells (of Keras 3
        or 2), a ``Sequential`` or a list of such layers, which are stacked; or the result of ``layer.get_weights()``:
        kernel, recurrent kernel and bias, for two directions forward, then backward.
    kind : "RNN", "GRU", "LSTM" or None
        The expected kind; only a check, because the shapes determine the kind.
    activation, recurrent_activation
        For a list of arrays, as in `fusedrnn.LSTM`; a layer has its own.
    reset_after : bool or None
        For a list of arrays of a GRU: the shape of the bias determines it; without biases None means True, Keras'
        default.
    go_backwards : bool
        For a list of arrays.
    merge_mode : "concat", "sum", "ave", "mul" or None
        For a list of arrays of two directions.
    batch_first : bool
        Keras' axes are (B, T, I).
    dtype : float32, float64 or None
        None means that of the weights.

    Returns
    -------
    RNN, GRU, LSTM, Stack or Bidirectional
        A `Stack` if layers differ, a `Bidirectional` if directions differ. It returns all outputs, aligned with the
        input, and the final state, whatever ``return_sequences`` and ``return_state`` are. Dropout rates, which act in
        training only, are not converted.

    Raises
    ------
    TypeError
        `source` is neither.
    ValueError
        Shapes do not fit together or contradict an argument; the layer uses a feature that fusedrnn lacks, such as
        an activation that is a function; it has no weights yet.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> kernel, recurrent, bias = np.zeros((3, 15)), np.zeros((5, 15)), np.zeros((2, 15))
    >>> fusedrnn.interop.from_keras([kernel, recurrent, bias])
    GRU(3, 5, batch_first=True, dtype='float64')
    """
    owner = "from_keras"
    if hasattr(source, "get_config"):
        parts = of_layers(owner, [source])
    elif isinstance(source, (list, tuple)) and source and all(hasattr(item, "get_config") for item in source):
        parts = of_layers(owner, source)
    elif isinstance(source, (list, tuple)) and source:
        arrays = [as_weights(owner, f"array {k}", array) for k, array in enumerate(source)]
        found, directions, after = of_arrays(owner, arrays, reset_after)
        options: dict[str, Any] = {}
        if activation is not None and activation != "tanh":
            options |= state_activation(found, activation)
        if recurrent_activation is not None:
            options["recurrent_activation"] = recurrent_activation
        if after is False:
            options["reset_after"] = False
        if len(directions) == 2:
            options["merge"] = merge_of(owner, merge_mode)
        if go_backwards:
            options["backwards"] = True
        parts = [Part(found, directions, options)]
    else:
        raise TypeError(_messages.wrong_source(owner, source, "a Keras layer, or a list of layers or of weights"))
    check_kind(owner, kind)
    for part in parts:
        for own in [part] if isinstance(part, Part) else part[:2]:
            if kind not in (None, own.kind):
                shape = own.directions[0].W_hh.shape[::-1]
                why = f"the recurrent kernel has shape {shape}"
                raise ValueError(_messages.kinds_differ(owner, str(kind), own.kind, why))
    return assemble(owner, parts, dtype, batch_first=batch_first)


def merge_of(owner: str, merge_mode: object) -> str | None:
    """Our name of a merge_mode."""
    if not (merge_mode is None or isinstance(merge_mode, str)) or merge_mode not in MERGES:
        raise ValueError(_messages.attribute(owner, "merge_mode", merge_mode, f"one of {_messages.listed(MERGES)}"))
    return MERGES[merge_mode]


def state_activation(kind: str, name: Any) -> dict[str, Any]:
    """The option that stands for Keras' ``activation``."""
    if kind == "RNN" and name in ("tanh", "relu"):
        return {"nonlinearity": name}
    return {} if name == "tanh" else {"activation": name}


def of_layers(owner: str, sources: Sequence[Any]) -> list[Part | Pair]:
    """Stacked layers."""
    parts: list[Part | Pair] = []
    flipped = False  # whether Keras has the steps in reversed order here
    for layer in flat(sources):
        part = of_layer(owner, layer)
        if isinstance(part, Pair) or len(part.directions) == 2:
            if flipped:
                raise ValueError(_messages.above_backwards(owner, type(layer).__name__))
        else:
            flipped ^= part.options.pop("backwards", False)
            if flipped:
                part.options["backwards"] = True
        parts.append(part)
    if not parts:
        raise ValueError(_messages.none_found(owner, "recurrent layer", "an empty model"))
    return parts


def flat(sources: Sequence[Any]) -> Iterator[Any]:
    """All layers of models within models but for those that do nothing outside of training."""
    for source in sources:
        names = [cls.__name__ for cls in type(source).__mro__]
        if "Sequential" in names:
            yield from flat(source.layers)
        elif not {"InputLayer", "Dropout", "SpatialDropout1D"} & set(names):
            yield source


def of_layer(owner: str, layer: Any) -> Part | Pair:
    """Weights and options of a layer object; its class is known by name, as Keras need not be imported."""
    if "Bidirectional" in [cls.__name__ for cls in type(layer).__mro__]:
        forward, backward = of_layer(owner, layer.forward_layer), of_layer(owner, layer.backward_layer)
        assert isinstance(forward, Part)  # Keras refuses two directions within two
        assert isinstance(backward, Part)
        if forward.options.pop("backwards", False) or not backward.options.pop("backwards", False):
            raise ValueError(_messages.attribute(owner, "forward_layer.go_backwards", True, "False"))
        return Pair(forward, backward, merge_of(owner, layer.merge_mode)).as_one()
    cell = getattr(layer, "cell", layer)
    kind = next((KINDS[cls.__name__] for cls in type(cell).__mro__ if cls.__name__ in KINDS), None)
    if kind is None:
        expected = f"one of {', '.join(KINDS)}, Bidirectional or Sequential"
        raise TypeError(_messages.wrong_source(owner, layer, expected))
    config = cell.get_config()
    weights = [as_weights(owner, f"array {k}", array) for k, array in enumerate(layer.get_weights())]
    if len(weights) < 2:
        raise ValueError(_messages.none_found(owner, "weights", f"{type(layer).__name__}, which is not built yet"))
    old = not type(cell).__module__.startswith("keras.src.layers")
    options = state_activation(kind, activation_of(owner, "activation", config.get("activation", "tanh"), old))
    if kind != "RNN":
        gates = activation_of(owner, "recurrent_activation", config.get("recurrent_activation", "sigmoid"), old)
        if gates != "sigmoid":
            options["recurrent_activation"] = gates
    reset_after = config.get("reset_after") if kind == "GRU" else None
    found, directions, after = of_arrays(owner, weights, reset_after)
    if found != kind:
        shape = directions[0].W_hh.shape[::-1]
        raise ValueError(_messages.kinds_differ(owner, kind, found, f"the recurrent kernel has shape {shape}"))
    if after is False:
        options["reset_after"] = False
    if getattr(layer, "go_backwards", False):
        options["backwards"] = True
    return Part(kind, directions, options)


def activation_of(owner: str, name: str, value: Any, old: bool) -> Any:
    """Our activation for what a config says."""
    if value == "hard_sigmoid" and old:
        return HARD_SIGMOID_OF_KERAS_2
    if not isinstance(value, str) or value not in ACTIVATIONS:
        raise ValueError(_messages.attribute(owner, name, value, f"one of {_messages.listed(ACTIVATIONS)}"))
    return ACTIVATIONS[value]


def of_arrays(
    owner: str, arrays: Sequence[Array], reset_after: bool | None
) -> tuple[str, list[Direction], bool | None]:
    """Kind, one or two directions, and for a GRU whether the reset gate comes after the product."""
    each = 3 if len(arrays) % 3 == 0 else 2
    if len(arrays) not in (2, 3, 4, 6):
        expected = "2 or 3 of one direction, or 4 or 6 of two"
        raise ValueError(_messages.attribute(owner, "the number of arrays", len(arrays), expected))
    for k in range(0, len(arrays), each):
        for name, array in zip(("kernel", "recurrent kernel"), arrays[k : k + 2], strict=True):
            shaped(
                owner, f"the {name}", array, "input_size" if name == "kernel" else "hidden_size", "columns of all gates"
            )
    recurrent = arrays[1]
    kind = gates_of(owner, recurrent.shape[1], recurrent.shape[0])
    parts = [of_direction(owner, kind, arrays[k : k + each], reset_after) for k in range(0, len(arrays), each)]
    return kind, [part[0] for part in parts], parts[0][1]


def of_direction(
    owner: str, kind: str, arrays: Sequence[Array], reset_after: bool | None
) -> tuple[Direction, bool | None]:
    """Kernel (I, G*H), recurrent kernel (H, G*H) and bias, of Keras or of CuDNN as Keras 2 saved it."""
    kernel, recurrent = arrays[:2]
    H, theirs, ours = recurrent.shape[0], KERAS_GATES[kind], GATES[kind]
    columns = len(theirs) * H
    shaped(owner, "the kernel", kernel, "input_size", columns)
    shaped(owner, "the recurrent kernel", recurrent, H, columns)
    if len(arrays) == 2:
        return Direction(reorder(kernel.T, theirs, ours), reorder(recurrent.T, theirs, ours)), reset_after
    bias = arrays[2]
    shapes: dict[tuple[int, ...], bool | None] = {(columns,): False if kind == "GRU" else None}
    if kind == "GRU":
        shapes[2, columns] = True
    if kind != "RNN":
        shapes[2 * columns,] = True if kind == "GRU" else None
    if bias.shape not in shapes:
        raise ValueError(_messages.shape(owner, "the bias", bias.shape, " or ".join(map(str, shapes))))
    after = shapes[bias.shape]
    if kind == "GRU" and reset_after is not None and reset_after != after:
        raise ValueError(_messages.contradiction(owner, "reset_after", reset_after, f"the bias has shape {bias.shape}"))
    if bias.shape == (2 * columns,):
        # CuDNN's buffers: each gate's input block is a C-ordered (H, I), whatever shape Keras gave it, and each gate's
        # recurrent block is transposed.
        blocks = np.split(kernel, len(theirs), axis=1)
        kernel = np.concatenate([np.ascontiguousarray(block).reshape(H, -1).T for block in blocks], axis=1)
        recurrent = np.concatenate([block.T for block in np.split(recurrent, len(theirs), axis=1)], axis=1)
    biases = [reorder(b, theirs, ours) for b in (bias.reshape(-1, columns))]
    return Direction(reorder(kernel.T, theirs, ours), reorder(recurrent.T, theirs, ours), *biases), after


def to_keras(layer: Any, *, return_state: bool = False) -> keras.layers.Layer:
    """Convert a layer to an equivalent Keras layer.

    Parameters
    ----------
    layer : RNN, GRU, LSTM, Bidirectional of two of these with one layer each, or Stack
        With options that Keras has.
    return_state : bool
        Keras' argument; ``return_sequences`` is True.

    Returns
    -------
    keras.layers.Layer
        ``SimpleRNN``, ``GRU``, ``LSTM``, ``Bidirectional`` of one or two; with several layers a ``keras.Sequential`` of
        them. Built, with copies of the parameters. Its axes are (B, T, I), whatever ``batch_first`` is. The outputs of
        a layer with ``backwards=True`` come in the order of computation.

    Raises
    ------
    TypeError
        `layer` is no such layer.
    ValueError
        The layer has an option that Keras does not have.

    Notes
    -----
    Keras' LSTM, SimpleRNN and ``reset_after=False`` GRU have one bias: the sum of both. A layer that has one already
    (``bias="single"``, as ``from_keras`` makes it) goes there and back bit for bit.
    """
    import keras

    owner = "to_keras"
    parts: list[Any] = []
    flipped = False
    for member in flat_layers(layer):
        if isinstance(member, Bidirectional):
            if flipped:
                raise ValueError(_messages.above_backwards(owner, repr(member)))
            if any(type(way).__name__ not in GATES or way.num_layers > 1 for way in member.layers):
                expected = "directions of one layer each, as Keras has nothing else"
                raise ValueError(_messages.attribute(owner, "layer", member, expected))
            (forward,), (backward,) = (to_parts(owner, way, return_state) for way in member._directed().values())
            parts.append(keras_pair(forward, backward, member.merge))
            continue
        if type(member).__name__ not in GATES:
            raise TypeError(_messages.wrong_source(owner, member, "RNN, GRU, LSTM, Bidirectional or Stack"))
        if flipped and member.bidirectional:
            raise ValueError(_messages.above_backwards(owner, repr(member)))
        parts += to_parts(owner, member, return_state, flipped)
        flipped = member.backwards
    if len(parts) == 1:
        return parts[0]
    if return_state:
        raise ValueError(_messages.contradiction(owner, "return_state", True, f"there are {len(parts)} layers"))
    return keras.Sequential([keras.Input((None, layer.input_size), dtype=layer.dtype.name), *parts])


def flat_layers(layer: Any) -> Iterator[Any]:
    """The layers of stacks within stacks, from bottom to top."""
    if isinstance(layer, Stack):
        for member in layer.layers:
            yield from flat_layers(member)
    else:
        yield layer


def keras_pair(forward: Any, backward: Any, merge: str | None) -> Any:
    """Keras' wrapper of two directions."""
    import keras

    mode = next(theirs for theirs, ours in MERGES.items() if ours == merge)
    # The wrapper makes copies of both; weights are those of what it was given.
    weights = [*forward.get_weights(), *backward.get_weights()]
    pair = keras.layers.Bidirectional(forward, backward_layer=backward, merge_mode=mode)
    pair.build((None, None, weights[0].shape[0]))
    pair.set_weights(weights)
    return pair


def to_parts(owner: str, layer: Any, return_state: bool, flipped: bool = False) -> list[Any]:
    """A layer as one of Keras' for each of its layers; `flipped`: they find the steps in reversed order."""
    import keras

    kind = type(layer).__name__
    refuse_others(owner, layer, KNOWN + KNOWN_LATER, ", as Keras has nothing else")
    options: dict[str, Any] = {"use_bias": bool(layer.bias), "dtype": layer.dtype.name, "return_sequences": True}
    options["return_state"] = return_state
    activation = getattr(layer, "activation", None) or getattr(layer, "nonlinearity", "tanh")
    options["activation"] = activation_to(owner, "activation", activation)
    if kind != "RNN":
        gates = getattr(layer, "recurrent_activation", "sigmoid")
        options["recurrent_activation"] = activation_to(owner, "recurrent_activation", gates)
    after = getattr(layer, "reset_after", None)
    if kind == "GRU":
        options["reset_after"] = after
    cls = getattr(keras.layers, "SimpleRNN" if kind == "RNN" else kind)
    stack = directions_of(layer.state_dict(), layer.num_layers, layer.bidirectional)
    parts = []
    for k, directions in enumerate(stack):
        ways = []
        for d, direction in enumerate(directions):
            backwards = layer._plan.ways[d]
            way = cls(layer.hidden_size, go_backwards=backwards != flipped, **options)
            way.build((None, None, direction.W_ih.shape[1]))
            way.set_weights(to_arrays(kind, direction, after))
            ways.append(way)
        if layer.bidirectional:
            merge = layer.merge if k + 1 == len(stack) else layer.merge or "concat"
            parts.append(keras_pair(ways[0], ways[1], merge))
        else:
            parts += ways
            flipped = backwards
    return parts


def activation_to(owner: str, name: str, value: Any) -> str:
    """Keras' name of an activation."""
    for theirs, ours in ACTIVATIONS.items():
        if full_activation(value) == full_activation(ours):
            return theirs
    raise ValueError(_messages.attribute(owner, name, value, f"one of {_messages.listed(ACTIVATIONS.values())}"))


def to_arrays(kind: str, direction: Direction, reset_after: bool | None) -> list[Array]:
    """Kernel, recurrent kernel and bias."""
    theirs, ours = KERAS_GATES[kind], GATES[kind]
    arrays = [reorder(direction.W_ih, ours, theirs).T, reorder(direction.W_hh, ours, theirs).T]
    if direction.b_ih is not None:
        b_ih = reorder(direction.b_ih, ours, theirs)
        b_hh = np.zeros_like(b_ih) if direction.b_hh is None else reorder(direction.b_hh, ours, theirs)
        arrays.append(np.stack([b_ih, b_hh]) if reset_after else b_ih if direction.b_hh is None else b_ih + b_hh)
    return arrays
