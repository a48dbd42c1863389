"""Which layers of Keras `from_keras` reads: those that run Keras' own code, with weights and options that are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from . import _messages
from .conventions import Pair, Part, as_weights
from .keras_arrays import of_direction
from .own_code import replaced

#: Keras' class -> ours.
KINDS = {"SimpleRNN": "RNN", "GRU": "GRU", "LSTM": "LSTM", "SimpleRNNCell": "RNN", "GRUCell": "GRU", "LSTMCell": "LSTM"}
CUDNN = {"CuDNNGRU": "GRU", "CuDNNLSTM": "LSTM"}

#: Layers over cells.
AROUND = ("SimpleRNN", "GRU", "LSTM", "RNN", *CUDNN)

#: Layers that do nothing outside of training.
NOTHING = ("InputLayer", "Dropout", "SpatialDropout1D")

#: Where Keras' own classes and functions are: Keras 3, Keras 2, and the one within TensorFlow.
HOMES = ("keras", "tf_keras", "tensorflow")

#: Keras itself assigns these: to each layer, and with the backend of TensorFlow a loss to each model.
ASSIGNED = ("build", "quantize", "loss")

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


def own_class(thing: Any, names: Sequence[str]) -> type | None:
    """The first class with one of these names that is Keras' own."""
    classes = type(thing).__mro__
    return next((cls for cls in classes if cls.__name__ in names and cls.__module__.split(".")[0] in HOMES), None)


def own(owner: str, thing: Any, names: Sequence[str], force: bool) -> type | None:
    """Keras' own class, whose code the object runs; None if it is none of these."""
    base = own_class(thing, names)
    if base is not None and not force:
        changed = [name for name in replaced(thing, base) if name not in ASSIGNED or name in overridden(thing, base)]
        if changed:
            found = f"{getattr(thing, 'name', '')!r} ({type(thing).__qualname__})"
            raise ValueError(_messages.replaced_code(owner, found, base.__name__, changed))
    return base


def overridden(thing: Any, base: type) -> set[str]:
    """Attributes that classes below `base` define."""
    classes = type(thing).__mro__
    return {name for cls in classes[: classes.index(base)] for name in vars(cls)}


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


def of_layers(owner: str, sources: Sequence[Any], rounded: bool, force: bool) -> list[Part | Pair]:
    """Stacked layers; `rounded`: layers that compute in half precision are welcome."""
    parts: list[Part | Pair] = []
    flipped = False  # whether Keras has the steps in reversed order here
    for layer in flat(owner, sources, force):
        found = of_layer(owner, layer, rounded, force)
        if isinstance(found[0], Pair) or len(found[0].directions) == 2:
            if flipped:
                raise ValueError(_messages.above_backwards(owner, type(layer).__name__))
        else:
            flipped ^= bool(getattr(layer, "go_backwards", False))
            for part in found:
                part.options.pop("backwards", None)
                if flipped:
                    part.options["backwards"] = True
        parts += found
    if not parts:
        raise ValueError(_messages.none_found(owner, "recurrent layer", "an empty model"))
    return parts


def flat(owner: str, sources: Sequence[Any], force: bool) -> Iterator[Any]:
    """All layers of models within models but for those that do nothing outside of training."""
    for source in sources:
        if own(owner, source, ["Sequential"], force):
            yield from flat(owner, source.layers, force)
        elif not own(owner, source, NOTHING, force):
            yield source


def of_layer(owner: str, layer: Any, rounded: bool, force: bool) -> list[Any]:
    """Weights and options of a layer object; its class is known by name, as Keras need not be imported."""
    if own(owner, layer, ["Bidirectional"], force):
        ways = [of_layer(owner, way, rounded, force) for way in (layer.forward_layer, layer.backward_layer)]
        if any(len(parts) > 1 for parts in ways):
            raise ValueError(_messages.two_ways_of_cells(owner, type(layer).__name__))
        (forward,), (backward,) = ways
        if forward.options.pop("backwards", False) or not backward.options.pop("backwards", False):
            raise ValueError(_messages.attribute(owner, "forward_layer.go_backwards", True, "False"))
        return [Pair(forward, backward, merge_of(owner, layer.merge_mode)).as_one()]
    around = own(owner, layer, AROUND, force)
    if around is not None and around.__name__ in CUDNN:
        return [of_cell(owner, layer, layer, CUDNN[around.__name__], around, rounded)]
    cell = layer if around is None else layer.cell
    cells = list(cell.cells) if own(owner, cell, ["StackedRNNCells"], force) else [cell]
    parts = []
    for one in cells:
        base = own(owner, one, list(KINDS), force)
        if base is None:
            expected = f"one of {', '.join(KINDS)}, Bidirectional or Sequential"
            raise TypeError(_messages.wrong_source(owner, one if len(cells) > 1 else layer, expected))
        if around is not None and KINDS.get(around.__name__, KINDS[base.__name__]) != KINDS[base.__name__]:
            raise ValueError(_messages.attribute(owner, f"{around.__name__}.cell", one, f"{around.__name__}Cell"))
        parts.append(of_cell(owner, layer, one, KINDS[base.__name__], base, rounded, force))
    return parts


def of_cell(owner: str, layer: Any, cell: Any, kind: str, base: type, rounded: bool, force: bool = False) -> Part:
    """One cell of a layer."""
    found = type(layer).__name__
    config = base.get_config(cell)  # type: ignore[attr-defined]  # a subclass's may say something else
    refuse_rounding(owner, found, cell, rounded)
    if getattr(layer, "time_major", False):
        raise ValueError(_messages.attribute(owner, "time_major", True, "False (its axes are (T, B, I) then)"))
    weights = [as_weights(owner, f"array {k}", array) for k, array in enumerate(cell.get_weights())]
    if len(weights) < 2:
        raise ValueError(_messages.none_found(owner, "weights", f"{found}, which is not built yet"))
    if len(weights) > 3 and not force:
        raise ValueError(_messages.attribute(owner, f"the number of weights of {found}", len(weights), "2 or 3"))
    names = ("kernel", "recurrent_kernel", "bias")[: len(weights)]
    for name, array in zip(names, weights, strict=False):
        used = getattr(cell, name, None)
        if not force and base.__name__ not in CUDNN and not is_same(used, array):
            raise ValueError(_messages.assigned(owner, f"{found}.{name}"))
    old = not base.__module__.startswith("keras.src.layers")
    options = state_activation(kind, activation_of(owner, "activation", cell, config, "tanh", old, force))
    if kind != "RNN":
        gates = activation_of(owner, "recurrent_activation", cell, config, "sigmoid", old, force)
        if gates != "sigmoid":
            options["recurrent_activation"] = gates
    reset_after = config.get("reset_after") if kind == "GRU" else None
    read = of_direction(owner, weights[:3], reset_after)
    if read.kind != kind:
        shape = read.directions[0].W_hh.shape[::-1]
        raise ValueError(_messages.kinds_differ(owner, kind, read.kind, f"the recurrent kernel has shape {shape}"))
    if read.reset_after is False:
        options["reset_after"] = False
    if getattr(layer, "go_backwards", False):
        options["backwards"] = True
    return Part(kind, read.directions, options)


def is_same(used: Any, array: Any) -> bool:
    """Whether the attribute with which a cell computes is the weight in its list of weights."""
    if used is None:
        return False
    values = used.numpy() if hasattr(used, "numpy") else used
    return np.array_equal(np.asarray(values), array, equal_nan=True)


def refuse_rounding(owner: str, found: str, cell: Any, rounded: bool) -> None:
    """Refuse layers that round weights and inputs at each call, unless the caller said a dtype."""
    policy = getattr(cell, "dtype_policy", None)
    if policy is not None and getattr(policy, "quantization_mode", None):
        raise ValueError(_messages.quantised(owner, f"{found} (dtype policy {policy.name!r})"))
    dtype = str(getattr(cell, "compute_dtype", None) or "float32")
    if dtype not in ("float32", "float64") and not rounded:
        raise ValueError(_messages.computes_in(owner, found, dtype))


def activation_of(
    owner: str, name: str, cell: Any, config: dict[str, Any], default: str, old: bool, force: bool
) -> Any:
    """Our activation for the function of a cell, which has to be Keras' own."""
    value = config.get(name, default)
    function = getattr(cell, name, None)
    home = str(getattr(function, "__module__", None) or "").split(".")[0]
    if function is not None and home not in HOMES and not force:
        expected = f"one of Keras' own: {_messages.listed(ACTIVATIONS)}"
        raise ValueError(_messages.attribute(owner, name, function, expected))
    if value == "hard_sigmoid" and old:
        return HARD_SIGMOID_OF_KERAS_2
    if not isinstance(value, str) or value not in ACTIVATIONS:
        raise ValueError(_messages.attribute(owner, name, value, f"one of {_messages.listed(ACTIVATIONS)}"))
    return ACTIVATIONS[value]
