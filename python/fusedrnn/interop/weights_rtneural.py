"""JSON of RTNeural and of GuitarML (Proteus, NeuralPi) -> fusedrnn: a recurrent layer and the dense layers around it.

====================  =========================================================================================
JSON                  fusedrnn
====================  =========================================================================================
``layers``            RTNeural's: Keras' arrays, LSTM i f c o, GRU z r h with the reset gate after the product and a
                      bias (2, 3*H); dense kernels (in, out). Always tanh and sigmoid: RTNeural has nothing else
``in_skip``           of AIDA-X: the first inputs are added to the outputs
``model_data`` and    GuitarML's, of Automated-GuitarAmpModelling: torch's state dict of ``rec`` and ``lin``; the first
``state_dict``        ``skip`` inputs are added to the outputs
a state dict alone    RTNeural's for torch: torch's names, one recurrent layer and at most one linear layer
====================  =========================================================================================

Source: model_loader.h and torch_helpers.h of RTNeural, its exporter, RTNeuralLSTM.cpp of Proteus.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from ..linear import Linear
from ..pipeline import Pipeline
from . import _messages
from .conventions import Array, Part, as_weights, assemble, float_dtype, shaped
from .keras_arrays import of_direction
from .stored import faults_of
from .weights_torch import KEY, from_state_dict

Path = str | os.PathLike[str]

#: Largest file that is read: models of this format are played live, and have a few thousand weights.
LARGEST_FILE = 2**28

#: Activations of dense layers, on the last axis.
ACTIVATIONS: dict[str, Any] = {
    "": lambda a: a,
    "tanh": np.tanh,
    "relu": lambda a: np.maximum(a, 0),
    "sigmoid": lambda a: 0.5 * (1 + np.tanh(0.5 * a)),
    "softmax": lambda a: (
        np.exp(a - a.max(-1, keepdims=True)) / np.exp(a - a.max(-1, keepdims=True)).sum(-1, keepdims=True)
    ),
    "elu": lambda a: np.where(a > 0, a, np.expm1(np.minimum(a, 0))),
}

#: RTNeural's recurrent layers -> our kinds.
KINDS = {"lstm": "LSTM", "gru": "GRU"}


class Dense(NamedTuple):
    """A dense layer: ``activation(x @ weight.T + bias)``.

    Attributes
    ----------
    weight : ndarray or None
        (outputs, inputs); None for an activation alone.
    bias : ndarray or None
        (outputs,)
    activation : str
        "", "tanh", "relu", "sigmoid", "softmax" (over the last axis) or "elu".
    """

    weight: Array | None
    bias: Array | None
    activation: str = ""

    def __call__(self, x: Array) -> Array:
        """The layer's outputs for inputs whose last axis is `inputs`."""
        if self.weight is not None:
            x = x @ self.weight.T
        if self.bias is not None:
            x = x + self.bias
        result: Array = ACTIVATIONS[self.activation](x)
        return result


class Network(NamedTuple):
    """What a file of RTNeural or GuitarML holds.

    Attributes
    ----------
    layer : RNN, GRU, LSTM or Stack
        The recurrent layer or layers.
    before, after : tuple of Dense
        Dense layers below and above; `after` ends with the head.
    skip : int
        How many of the network's first inputs are added to its outputs.
    """

    layer: Any
    before: tuple[Dense, ...] = ()
    after: tuple[Dense, ...] = ()
    skip: int = 0

    def __call__(self, x: Array, state: Any = None) -> tuple[Array, Any]:
        """Outputs of the whole network, and the recurrent layer's final state, which the next block starts from.

        Parameters
        ----------
        x : ndarray, (T, B, I) or (T, I)
        state : as of the layer, or None

        Returns
        -------
        y : ndarray, (T, B, outputs) or (T, outputs)
        state : as of the layer
        """
        y = x
        for dense in self.before:
            y = dense(y)
        y, state = self.layer(y, state)
        for dense in self.after:
            y = dense(y)
        return (y + x[..., : self.skip] if self.skip else y), state

    def to_pipeline(self) -> Pipeline:
        """The network as one frozen object that can be streamed and saved.

        Returns
        -------
        fusedrnn.Pipeline
        """
        parts: list[Any] = []
        for part in (*self.before, self.layer, *self.after):
            if not isinstance(part, Dense):
                parts.append(part)
                continue
            if part.weight is not None:
                outputs, inputs = part.weight.shape
                linear = Linear(inputs, outputs, part.bias is not None, dtype=part.weight.dtype, rng=0)
                linear.load_state_dict({"weight": part.weight} | ({} if part.bias is None else {"bias": part.bias}))
                parts.append(linear)
            if part.activation:
                parts.append(part.activation)
        return Pipeline(parts, skip=self.skip)


def load_rtneural(source: Path | Mapping[str, Any], *, dtype: DTypeLike | None = np.float32) -> Network:
    """Read a model of RTNeural, AIDA-X or GuitarML from JSON.

    Parameters
    ----------
    source : path, or mapping
        A file, or its content as `json.load` returns it.
    dtype : float32, float64 or None
        Of the layer and the arrays; None means float64, as numbers of JSON are.

    Returns
    -------
    Network
        The recurrent layer, the dense layers around it, and the number of inputs that are added to the outputs. The
        network can be called.

    Raises
    ------
    ValueError
        The file is damaged, holds layers of other kinds (convolutions), or says something that its arrays contradict.
    TypeError
        `source` is neither.
    OSError
        There is no such file, or it cannot be read.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> state = {f"rec.{name}": w.tolist() for name, w in fusedrnn.LSTM(1, 8, rng=0).state_dict().items()}
    >>> state |= {"lin.weight": [[0.5] * 8], "lin.bias": [0.0]}
    >>> data = {"model": "SimpleRNN", "unit_type": "LSTM", "input_size": 1, "hidden_size": 8, "skip": 1}
    >>> network = fusedrnn.interop.load_rtneural({"model_data": data, "state_dict": state})
    >>> network.layer, network.skip
    (LSTM(1, 8), 1)
    >>> y, state = network(np.zeros((64, 1), np.float32))
    >>> y.shape
    (64, 1)
    """
    owner = "load_rtneural"
    if isinstance(source, Mapping):
        return of_json(owner, source, dtype)
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(_messages.wrong_source(owner, source, "a path, or a mapping"))
    path = os.fspath(source)
    with open(path, "rb") as file, faults_of(owner, path):
        content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise ValueError(_messages.too_large(owner, "the file", "more bytes", f"{LARGEST_FILE} bytes"))
        try:
            tree = json.loads(content, object_pairs_hook=pairs_once, parse_constant=no_constant)
        except (ValueError, RecursionError) as error:
            raise ValueError(_messages.unreadable(owner, "the JSON", error)) from error
        return of_json(owner, tree, dtype)


def pairs_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON whose names occur once."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(_messages.twice({name for name in names if names.count(name) > 1}))
    return found


def no_constant(name: str) -> float:
    """NaN and Infinity, which JSON does not have."""
    raise ValueError(_messages.attribute("load_rtneural", "a number", name, "a finite one"))


def of_json(owner: str, tree: Any, dtype: DTypeLike | None) -> Network:
    """The network of a file's content."""
    if not isinstance(tree, Mapping):
        raise ValueError(_messages.attribute(owner, "the JSON's top", type(tree).__name__, "an object"))
    if "layers" in tree:
        network = of_layers(owner, tree, dtype)
    elif "state_dict" in tree:
        network = of_guitarml(owner, tree, dtype)
    else:
        network = of_state_dict(owner, tree, 0, None, dtype)
    outputs = next((d.weight.shape[0] for d in reversed(network.after) if d.weight is not None), None)
    inputs = network.before[0].weight if network.before else None
    width = network.layer.input_size if inputs is None else inputs.shape[1]
    above = width_of(network.layer) if outputs is None else outputs
    if network.skip > width or network.skip not in (0, 1, above):
        expected = f"0, 1 or {above}, and at most the {width} inputs"
        raise ValueError(_messages.attribute(owner, "skip", network.skip, expected))
    return network


def width_of(layer: Any) -> int:
    """How many features a layer's outputs have."""
    top = layer.layers[-1] if hasattr(layer, "layers") else layer
    return int((getattr(top, "proj_size", 0) or top.hidden_size) * (1 + top.bidirectional))


def number(owner: str, tree: Mapping[str, Any], name: str, default: int) -> int:
    """An integer of a JSON object."""
    value = tree.get(name, default)
    if isinstance(value, bool):
        value = int(value)
    if not isinstance(value, int) or value < 0:
        raise ValueError(_messages.attribute(owner, name, value, "an integer >= 0"))
    return value


def array_of(owner: str, name: str, value: Any, dtype: DTypeLike | None) -> Array:
    """A nested list as an array of finite numbers."""
    if not isinstance(value, (list, tuple, np.ndarray)):
        raise ValueError(_messages.attribute(owner, name, type(value).__name__, "a list of numbers"))
    array = as_weights(owner, name, np.asarray(value) if len(value) else np.zeros(0))
    with np.errstate(over="ignore"):
        array = array.astype(np.float64 if dtype is None else dtype)
    if not np.isfinite(array).all():
        raise ValueError(_messages.attribute(owner, name, "not finite", "finite numbers"))
    return array


def of_layers(owner: str, tree: Mapping[str, Any], dtype: DTypeLike | None) -> Network:
    """RTNeural's list of layers."""
    layers, shape = tree["layers"], tree.get("in_shape")
    if not isinstance(layers, (list, tuple)) or not layers:
        raise ValueError(_messages.attribute(owner, "layers", layers, "a list of layers"))
    for name in ("in_gain", "out_gain"):
        if tree.get(name, 0) != 0:
            raise ValueError(_messages.attribute(owner, name, tree[name], "0 (scale inputs and outputs yourself)"))
    width = last_of(owner, "in_shape", shape)
    before: list[Dense] = []
    after: list[Dense] = []
    parts: list[Part] = []
    for k, layer in enumerate(layers):
        if not isinstance(layer, Mapping):
            raise ValueError(_messages.attribute(owner, f"layer {k}", type(layer).__name__, "an object"))
        kind, activation = layer.get("type"), layer.get("activation") or ""
        what = f"layer {k} ({kind!r})"
        size = last_of(owner, f"the shape of {what}", layer.get("shape"))
        weights = layer.get("weights", [])
        if not isinstance(weights, (list, tuple)) or not isinstance(activation, str):
            raise ValueError(_messages.attribute(owner, f"the weights of {what}", weights, "a list"))
        arrays = [array_of(owner, f"array {j} of {what}", a, dtype) for j, a in enumerate(weights)]
        if kind in KINDS:
            if after:
                expected = "recurrent layers right upon each other"
                raise ValueError(_messages.attribute(owner, what, "a recurrent layer above dense ones", expected))
            if activation not in ("", "tanh"):
                raise ValueError(_messages.attribute(owner, f"the activation of {what}", activation, "'tanh'"))
            parts.append(of_recurrent(owner, what, KINDS[kind], arrays, width, size))
        elif kind in ("dense", "time-distributed-dense", "activation"):
            dense = of_dense(owner, what, "" if kind == "activation" else "dense", arrays, width, size, activation)
            (after if parts else before).append(dense)
        else:
            raise ValueError(_messages.no_counterpart(owner, what))
        width = size
    if not parts:
        raise ValueError(_messages.none_found(owner, "lstm or gru", f"{len(layers)} layers"))
    made = assemble(owner, parts, float_dtype(parts[0].directions[0].W_ih))
    return Network(made, tuple(before), tuple(after), number(owner, tree, "in_skip", 0))


def last_of(owner: str, name: str, shape: Any) -> int:
    """The last number of a shape: how many features there are."""
    if not isinstance(shape, (list, tuple)) or not shape or type(shape[-1]) is not int or shape[-1] < 1:
        raise ValueError(_messages.attribute(owner, name, shape, "a list that ends with the number of features"))
    return int(shape[-1])


def of_recurrent(owner: str, what: str, kind: str, arrays: list[Array], inputs: int, units: int) -> Part:
    """A layer's weights, in Keras' convention."""
    if len(arrays) != 3:
        raise ValueError(_messages.attribute(owner, f"the number of arrays of {what}", len(arrays), "3"))
    columns = units * (3 if kind == "GRU" else 4)
    shaped(owner, f"the kernel of {what}", arrays[0], inputs, columns)
    shaped(owner, f"the recurrent kernel of {what}", arrays[1], units, columns)
    shaped(owner, f"the bias of {what}", arrays[2], *((2, columns) if kind == "GRU" else (columns,)))
    return Part(kind, of_direction(owner, arrays, None).directions, {})


def of_dense(owner: str, what: str, kind: str, arrays: list[Array], inputs: int, units: int, activation: str) -> Dense:
    """A dense layer, whose kernel is (inputs, outputs), or an activation alone."""
    if activation not in ACTIVATIONS:
        expected = f"one of {_messages.listed(ACTIVATIONS)}"
        raise ValueError(_messages.attribute(owner, f"the activation of {what}", activation, expected))
    if not kind:
        if arrays or units != inputs:
            raise ValueError(_messages.attribute(owner, what, f"{len(arrays)} arrays, {units} units", f"0, {inputs}"))
        return Dense(None, None, activation)
    if len(arrays) not in (1, 2):
        raise ValueError(_messages.attribute(owner, f"the number of arrays of {what}", len(arrays), "1 or 2"))
    shaped(owner, f"the kernel of {what}", arrays[0], inputs, units)
    if len(arrays) == 2:
        shaped(owner, f"the bias of {what}", arrays[1], units)
    return Dense(np.ascontiguousarray(arrays[0].T), arrays[1] if len(arrays) == 2 else None, activation)


def of_guitarml(owner: str, tree: Mapping[str, Any], dtype: DTypeLike | None) -> Network:
    """GuitarML's model, whose description has to agree with its arrays."""
    data, held = tree.get("model_data", {}), tree["state_dict"]
    for name, value in (("model_data", data), ("state_dict", held)):
        if not isinstance(value, Mapping):
            raise ValueError(_messages.attribute(owner, name, type(value).__name__, "an object"))
    if data.get("model", "SimpleRNN") != "SimpleRNN":
        raise ValueError(_messages.attribute(owner, "model_data.model", data["model"], "'SimpleRNN'"))
    kind = data.get("unit_type")
    if kind is not None and kind not in ("RNN", "GRU", "LSTM"):
        raise ValueError(_messages.attribute(owner, "model_data.unit_type", kind, "'RNN', 'GRU' or 'LSTM'"))
    network = of_state_dict(owner, held, number(owner, data, "skip", 0), kind, dtype)
    layer, head = network.layer, network.after
    said = {"input_size": layer.input_size, "hidden_size": layer.hidden_size, "num_layers": layer.num_layers}
    if head and head[-1].weight is not None:
        said["output_size"] = head[-1].weight.shape[0]
    for name, there in said.items():
        value = number(owner, data, name, there)
        if value != there:
            raise ValueError(_messages.contradiction(owner, f"model_data.{name}", value, f"the arrays are of {there}"))
    return network


def of_state_dict(owner: str, held: Mapping[str, Any], skip: int, kind: Any, dtype: DTypeLike | None) -> Network:
    """torch's state dict of a recurrent layer and a linear one."""
    rec: dict[str, Array] = {}
    lin: dict[str, Array] = {}
    for name, value in held.items():
        if not isinstance(name, str):
            raise TypeError(_messages.no_name(owner, name))
        (rec if KEY.match(name) else lin)[name] = array_of(owner, name, value, dtype)
    layer = from_state_dict(owner, rec, None, kind, None, None, 0.0, dtype)
    if not lin:
        return Network(layer, skip=skip)
    prefixes = sorted({name.rpartition(".")[0] for name in lin})
    prefix = ("lin" if "lin" in prefixes else prefixes[0]) + "."
    weight, bias = lin.pop(f"{prefix}weight", None), lin.pop(f"{prefix}bias", None)
    if weight is None or lin:
        raise ValueError(_messages.beside(owner, sorted(lin)))
    shaped(owner, f"{prefix}weight", weight, "outputs", width_of(layer))
    if bias is not None:
        shaped(owner, f"{prefix}bias", bias, weight.shape[0])
    return Network(layer, after=(Dense(weight, bias),), skip=skip)
