"""What a file says of a layer beside its arrays: its class and the arguments of its constructor, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..embedding import Embedding
from ..linear import Linear
from ..mamba import Mamba
from ..parameters import CLASSES
from ..recurrent_cell import RecurrentCell
from . import _messages
from .conventions import construct, sizes_of, stack_of
from .stored import Stored
from .weights_torch import from_state_dict, several_prefixes

#: Place of the JSON: an entry of the safetensors header, an array of one string in an npz file.
KEY = "fusedrnn"

#: Layers that treat each position by itself, by name.
POSITION_WISE: dict[str, type[Any]] = {"Embedding": Embedding, "Linear": Linear}

#: Layers that mix steps through a scan of states, by name.
MIXERS: dict[str, type[Any]] = {"Mamba": Mamba}

#: Version of the JSON of a single layer; `object_files` has the later one.
VERSION = 1


def is_layer(thing: Any) -> bool:
    """Whether this is a layer or a cell of the package's own classes, not of a user's subclass."""
    return CLASSES.get(type(thing).__name__) is type(thing)


def is_mixer(thing: Any) -> bool:
    """Whether this is a `Mamba`, not a subclass."""
    return MIXERS.get(type(thing).__name__) is type(thing)


def is_position_wise(thing: Any) -> bool:
    """Whether this is an `Embedding` or a `Linear`, not a subclass."""
    return POSITION_WISE.get(type(thing).__name__) is type(thing)


def describe(owner: str, layer: Any) -> str:
    """The constructor's arguments as JSON."""
    if not is_layer(layer):
        expected = "a layer or a cell (fusedrnn.save writes groups, frozen layers and dicts of these)"
        raise TypeError(_messages.wrong_source(owner, layer, expected))
    config = layer._config()
    config["dtype"] = config["dtype"].name
    return json.dumps({"version": VERSION, "class": type(layer).__name__, "arguments": config})


def restore(owner: str, description: str | None, arrays: Mapping[str, Stored], prefix: Any) -> Any:
    """A layer from its arguments and its parameters."""
    if description is None or prefix:
        if prefix is None or isinstance(prefix, str):
            return from_state_dict(owner, arrays, prefix, None, None, None, 0.0, None)
        return stack_of(owner, [restore(owner, None, arrays, one) for one in several_prefixes(owner, prefix)])
    cls, arguments = parse(owner, description)
    return fitting_layer(owner, cls, arguments, arrays)


def fitting_layer(owner: str, cls: type[Any], arguments: dict[str, Any], arrays: Mapping[str, Stored]) -> Any:
    """A layer, after a comparison of its sizes with the arrays, of which none has been read yet."""
    if cls.__name__ in POSITION_WISE:
        first, second = sizes = tuple(arguments[name] for name in cls._sizes_of)
        shape = sizes if cls is Embedding else sizes[::-1]
        if "weight" not in arrays or arrays["weight"].shape != shape:
            found = [(name, array.shape) for name, array in arrays.items()]
            raise ValueError(_messages.attribute(owner, f"the arrays of {cls.__name__}", found, f"weight {shape}"))
        options = {name: value for name, value in arguments.items() if name not in cls._sizes_of}
        return construct(owner, cls, arrays, first, second, options)
    sizes = sizes_of(owner, arrays, issubclass(cls, RecurrentCell), getattr(cls, "_hidden_size_in", None))
    for argument, name in sizes.said_by.items():
        value, said = arguments.get(argument, 0), getattr(sizes, argument)
        if value != said:
            raise ValueError(_messages.not_in_arrays(owner, argument, value, name, arrays[name].shape, said))
    value = arguments.get("num_layers", 1)
    if value != sizes.num_layers:
        raise ValueError(_messages.contradiction(owner, "num_layers", value, f"there are arrays of {sizes.num_layers}"))
    options = {name: value for name, value in arguments.items() if name not in ("input_size", "hidden_size")}
    return construct(owner, cls, arrays, arguments["input_size"], arguments["hidden_size"], options)


def parse(owner: str, description: str) -> tuple[type[Any], dict[str, Any]]:
    """The class and the constructor's arguments, whose names and sizes have not been checked yet."""
    try:
        record = json.loads(description)
        version, name, arguments = record["version"], record["class"], record["arguments"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(_messages.no_description(owner, KEY, error)) from None
    if type(version) is not int or version != VERSION:
        raise ValueError(_messages.attribute(owner, "the file's version", version, str(VERSION)))
    return checked_arguments(owner, name, arguments)


def checked_arguments(
    owner: str, name: Any, arguments: Any, classes: Mapping[str, type[Any]] = CLASSES
) -> tuple[type[Any], dict[str, Any]]:
    """The class of this name, and the arguments; lists among them become tuples."""
    if not isinstance(name, str) or name not in classes:
        raise ValueError(_messages.attribute(owner, "the file's class", name, "a layer or a cell"))
    if not isinstance(arguments, dict):
        raise ValueError(_messages.attribute(owner, "the file's arguments", arguments, "an object"))
    for needed in classes[name]._sizes_of:
        if needed not in arguments:
            raise ValueError(_messages.attribute(owner, "the file's arguments", arguments, f"{needed} among them"))
    if arguments.get("dtype", "float32") not in ("float32", "float64"):
        raise ValueError(_messages.attribute(owner, "dtype", arguments["dtype"], "'float32' or 'float64'"))
    return classes[name], {key: tuple(v) if isinstance(v, list) else v for key, v in arguments.items()}


def mixer_of(owner: str, name: str, arguments: dict[str, Any], arrays: Mapping[str, Stored]) -> Any:
    """A `Mamba`, after a comparison of its sizes with the arrays, of which none has been read yet."""
    cls: Any = MIXERS[name]
    said = {"d_model": ("in_proj.weight", 1), "d_state": ("A_log", 1), "d_conv": ("conv1d.weight", 2)}
    if arguments.get("dt_rank") != "auto":
        said["dt_rank"] = ("dt_proj.weight", 1)
    for argument, (tensor, axis) in said.items():
        shape = arrays[tensor].shape if tensor in arrays else ()
        if len(shape) <= axis or arguments.get(argument) != shape[axis]:
            there = shape[axis] if len(shape) > axis else 0
            raise ValueError(_messages.not_in_arrays(owner, argument, arguments.get(argument), tensor, shape, there))
    inner, rows = arguments.get("expand", 0) * arguments["d_model"], arrays["A_log"].shape[0]
    if inner != rows:
        raise ValueError(
            _messages.not_in_arrays(owner, "expand * d_model", inner, "A_log", arrays["A_log"].shape, rows)
        )
    layer = cls.__new__(cls)
    layer.__dict__["params"] = {}
    cls.__init__(layer, **arguments, rng=0)
    shapes = {spec.name: spec.shape for spec in layer._specs}
    layer.load_state_dict(
        {own: array.read() if shapes.get(own) == array.shape else array for own, array in arrays.items()}
    )
    return layer
