"""Layers in safetensors and npz files: the parameters under their names, and what the constructor needs as JSON.

Files of other programs, which hold a state dict without this JSON, are read as by `from_torch`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..parameters import CLASSES
from ..recurrent_cell import RecurrentCell
from . import _messages
from .conventions import construct, sizes_of, stack_of
from .npz_files import Npz
from .safetensors_files import tensors_of
from .stored import Stored, faults_of
from .weights_torch import from_state_dict, several_prefixes

#: Place of the JSON: an entry of the safetensors header, an array of one string in an npz file.
KEY = "fusedrnn"

#: Version of the JSON; increased when old files would have to be converted.
VERSION = 1

Path = str | os.PathLike[str]


def save_safetensors(layer: Any, path: Path) -> None:
    """Write a layer or a cell into a safetensors file.

    Parameters
    ----------
    layer : RNN, GRU, LSTM, or a cell
    path : path
        Replaced if it exists.

    Raises
    ------
    TypeError
        `layer` is not a layer.

    Notes
    -----
    Needs the package safetensors. torch can read the file as a state dict, because the names are torch's.

    Examples
    --------
    >>> import fusedrnn, os, tempfile
    >>> layer = fusedrnn.GRU(3, 5, num_layers=2, rng=0)
    >>> path = os.path.join(tempfile.mkdtemp(), "gru.safetensors")
    >>> fusedrnn.interop.save_safetensors(layer, path)
    >>> fusedrnn.interop.load_safetensors(path) == layer
    True
    """
    from safetensors.numpy import save_file

    description = describe("save_safetensors", layer)
    save_file(layer.state_dict(), os.fspath(path), metadata={KEY: description})


def load_safetensors(path: Path, prefix: str | None = None) -> Any:
    """Read a layer from a safetensors file.

    Parameters
    ----------
    path : path
        A file of `save_safetensors`, or a state dict written by torch or another program.
    prefix : str or None
        The recurrent module of a state dict, as in `from_torch`.

    Returns
    -------
    RNN, GRU, LSTM, or a cell

    Raises
    ------
    ValueError
        The file is damaged, holds no such layer, or was written by a later version.
    OSError
        There is no such file, or it cannot be read.

    Notes
    -----
    Read with NumPy alone. float16, bfloat16 and float8 (E4M3, E5M2) become float32, exactly. Sizes are compared with
    the arrays before any array is read; other tensors are not read.
    """
    owner = "load_safetensors"
    with open(os.fspath(path), "rb") as file, faults_of(owner, os.fspath(path)):
        arrays, metadata = tensors_of(owner, file)
        description = metadata.get(KEY)
        if description is not None and not isinstance(description, str):
            raise ValueError(_messages.attribute(owner, KEY, description, "a string of JSON"))
        return restore(owner, description, arrays, prefix)


def save_npz(layer: Any, path: Path) -> None:
    """Write a layer or a cell into an npz file.

    Parameters
    ----------
    layer : RNN, GRU, LSTM, or a cell
    path : path
        Replaced if it exists; used unchanged, without adding ``.npz``.

    Raises
    ------
    TypeError
        `layer` is not a layer.

    Examples
    --------
    >>> import fusedrnn, os, tempfile
    >>> layer = fusedrnn.LSTM(3, 5, rng=0)
    >>> path = os.path.join(tempfile.mkdtemp(), "lstm.npz")
    >>> fusedrnn.interop.save_npz(layer, path)
    >>> fusedrnn.interop.load_npz(path) == layer
    True
    """
    description = describe("save_npz", layer)
    with open(path, "wb") as file:
        arrays: dict[str, Any] = {**layer.state_dict(), KEY: np.array(description)}
        np.savez(file, **arrays)


def load_npz(path: Path, prefix: str | None = None) -> Any:
    """Read a layer from an npz file.

    Parameters
    ----------
    path : path
        A file of `save_npz`, or arrays under torch's names.
    prefix : str or None
        The recurrent module of a state dict, as in `from_torch`.

    Returns
    -------
    RNN, GRU, LSTM, or a cell

    Raises
    ------
    ValueError
        The file is damaged, holds no such layer, holds pickled objects, or was written by a later version; or the
        arrays would unpack to much more than the size of the file.
    OSError
        There is no such file, or it may not be read.

    Notes
    -----
    Sizes are compared with the arrays before any array is unpacked; other arrays are not unpacked.
    """
    owner = "load_npz"
    with open(os.fspath(path), "rb") as file, faults_of(owner, os.fspath(path)):
        arrays = Npz(owner, file).members
        description = arrays.pop(KEY).text() if KEY in arrays else None
        return restore(owner, description, arrays, prefix)


def describe(owner: str, layer: Any) -> str:
    """The constructor's arguments as JSON."""
    if not hasattr(layer, "_config") or not hasattr(layer, "state_dict"):
        raise TypeError(_messages.wrong_source(owner, layer, "a layer or a cell"))
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
    sizes = sizes_of(owner, arrays, issubclass(cls, RecurrentCell), getattr(cls, "_hidden_size_in", None))
    for argument, name in sizes.said_by.items():
        value, said = arguments.get(argument, 0), getattr(sizes, argument)
        if value != said:
            raise ValueError(_messages.not_in_arrays(owner, argument, value, name, arrays[name].shape, said))
    value = arguments.get("num_layers", 1)
    if value != sizes.num_layers:
        raise ValueError(_messages.contradiction(owner, "num_layers", value, f"there are arrays of {sizes.num_layers}"))
    input_size, hidden_size = arguments.pop("input_size"), arguments.pop("hidden_size")
    return construct(owner, cls, arrays, input_size, hidden_size, arguments)


def parse(owner: str, description: str) -> tuple[type[Any], dict[str, Any]]:
    """The class and the constructor's arguments, whose names and sizes have not been checked yet."""
    try:
        record = json.loads(description)
        version, name, arguments = record["version"], record["class"], record["arguments"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(_messages.no_description(owner, KEY, error)) from None
    if type(version) is not int or version != VERSION:
        raise ValueError(_messages.attribute(owner, "the file's version", version, str(VERSION)))
    if not isinstance(name, str) or name not in CLASSES:
        raise ValueError(_messages.attribute(owner, "the file's class", name, "a layer or a cell"))
    if not isinstance(arguments, dict):
        raise ValueError(_messages.attribute(owner, "the file's arguments", arguments, "an object"))
    for needed in ("input_size", "hidden_size"):
        if needed not in arguments:
            raise ValueError(_messages.attribute(owner, "the file's arguments", arguments, f"{needed} among them"))
    if arguments.get("dtype", "float32") not in ("float32", "float64"):
        raise ValueError(_messages.attribute(owner, "dtype", arguments["dtype"], "'float32' or 'float64'"))
    return CLASSES[name], {key: tuple(v) if isinstance(v, list) else v for key, v in arguments.items()}
