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

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from .._validate import full_activation, size
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
    refuse_others,
    reorder,
)
from .keras_arrays import KERAS_GATES, of_list
from .keras_files import of_file
from .keras_layers import ACTIVATIONS, MERGES, merge_of, of_layers, state_activation
from .packages import needs

if TYPE_CHECKING:
    import keras

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
    bidirectional: bool | None = None,
    num_layers: int | None = None,
    batch_first: bool = True,
    dtype: DTypeLike | None = None,
    force: bool = False,
) -> Any:
    """Convert a Keras layer to an equivalent layer of fusedrnn.

    Parameters
    ----------
    source : keras layer, list of arrays, or path
        ``SimpleRNN``, ``GRU``, ``LSTM``, ``Bidirectional`` of one of these, ``RNN`` over one or several of their cells
        (of Keras 3 or 2), a ``Sequential`` or a list of such layers, which are stacked; or the result of
        ``get_weights()`` of a layer or of such a model: kernel, recurrent kernel and bias, for two directions forward,
        then backward. The code of layers and cells has to be Keras' own: subclasses with methods of their own are
        refused.

        A path is that of a ``Sequential``: a ``.keras`` file of Keras 3, or a ``.h5`` file of a whole model of Keras 2
        or 3. The package h5py is needed, Keras is not.
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
    bidirectional : bool or None
        For a list of arrays: whether the layers have two directions. None means as the shapes say; a list that could
        also be something else is refused.
    num_layers : int or None
        For a list of arrays: the number of layers, where the shapes do not say.
    batch_first : bool
        Keras' axes are (B, T, I).
    dtype : float32, float64 or None
        None means that of the weights. A layer that computes in half precision needs one.
    force : bool
        Whether to read weights and options alone, whatever methods a subclass has.

    Returns
    -------
    RNN, GRU, LSTM, Stack, Bidirectional, or Pipeline
        A `Stack` if layers differ, a `Bidirectional` if directions differ. It returns all outputs, aligned with the
        input, and the final state, whatever ``return_sequences`` and ``return_state`` are. Dropout rates, which act in
        training only, are not converted. Of a file whose model has an ``Embedding`` or ``Dense`` layers: a `Pipeline`
        of all of them, which returns the last output alone if the model does, and zeros at masked steps.

    Raises
    ------
    TypeError
        `source` is neither.
    ValueError
        Shapes do not fit together, can be read in several ways, or contradict an argument; the layer has code of its
        own, or uses a feature that fusedrnn lacks, such as an activation that is a function; it has no weights yet; a
        file is damaged, holds weights alone, or is of no Sequential.
    OSError
        There is no such file, or it cannot be read.
    ModuleNotFoundError
        h5py is not installed, and `source` is a path.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> kernel, recurrent, bias = np.zeros((3, 15)), np.zeros((5, 15)), np.zeros((2, 15))
    >>> fusedrnn.interop.from_keras([kernel, recurrent, bias])
    GRU(3, 5, batch_first=True, dtype='float64')
    """
    owner = "from_keras"
    if isinstance(source, (str, os.PathLike)):
        given = {"activation": activation, "recurrent_activation": recurrent_activation, "reset_after": reset_after}
        given |= {"go_backwards": go_backwards or None, "bidirectional": bidirectional, "num_layers": num_layers}
        for name, value in given.items():
            if value is not None:
                raise ValueError(_messages.contradiction(owner, name, value, "a file has its own"))
        parts, made = of_file(owner, source, dtype, batch_first)
        check_kinds(owner, kind, parts)
        return made
    listed = isinstance(source, (list, tuple)) and bool(source)
    if hasattr(source, "get_config") or (listed and all(hasattr(item, "get_config") for item in source)):
        for name, value in (("bidirectional", bidirectional), ("num_layers", num_layers)):
            if value is not None:
                raise ValueError(_messages.contradiction(owner, name, value, "layers have their own"))
        parts = of_layers(owner, source if listed else [source], dtype is not None, force)
    elif listed:
        arrays = [as_weights(owner, f"array {k}", array) for k, array in enumerate(source)]
        if num_layers is not None:
            num_layers = size(owner, "num_layers", num_layers)
        if bidirectional not in (None, True, False):
            raise TypeError(_messages.attribute(owner, "bidirectional", bidirectional, "True, False or None"))
        merge = merge_of(owner, merge_mode)
        found = of_list(owner, arrays, reset_after, bidirectional, num_layers, merge in ("concat", None))
        if go_backwards and len(found) > 1:
            raise ValueError(_messages.contradiction(owner, "go_backwards", True, f"there are {len(found)} layers"))
        parts = []
        for read in found:
            options: dict[str, Any] = {}
            if activation is not None and activation != "tanh":
                options |= state_activation(read.kind, activation)
            if recurrent_activation is not None:
                options["recurrent_activation"] = recurrent_activation
            if read.reset_after is False:
                options["reset_after"] = False
            if len(read.directions) == 2:
                options["merge"] = merge
            if go_backwards:
                options["backwards"] = True
            parts.append(Part(read.kind, read.directions, options))
    else:
        raise TypeError(_messages.wrong_source(owner, source, "a Keras layer, a path, a list of layers or of weights"))
    check_kinds(owner, kind, parts)
    return assemble(owner, parts, dtype, batch_first=batch_first)


def check_kinds(owner: str, kind: str | None, parts: Sequence[Part | Pair]) -> None:
    """Refuse layers that are not of the expected kind."""
    check_kind(owner, kind)
    for part in parts:
        for own in [part] if isinstance(part, Part) else part[:2]:
            if kind not in (None, own.kind):
                shape = own.directions[0].W_hh.shape[::-1]
                why = f"the recurrent kernel has shape {shape}"
                raise ValueError(_messages.kinds_differ(owner, str(kind), own.kind, why))


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
    owner = "to_keras"
    keras = needs(owner, "keras")
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
