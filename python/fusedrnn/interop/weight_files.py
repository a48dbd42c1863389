"""Layers in safetensors and npz files: the parameters under their names, and what the constructor needs as JSON.

Files that others wrote, a state dict without that JSON, are read as `from_torch` reads one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import cells, layers
from . import _messages
from .conventions import Array, construct
from .weights_torch import from_torch

#: Where the JSON is: an entry of the safetensors header, an array of one string in an npz file.
KEY = "fusedrnn"

#: Version of the JSON; raised when old files would need translating.
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
        `layer` is no layer.

    Notes
    -----
    Needs the package safetensors. torch reads the file as a state dict: the names are its own.

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
        What `save_safetensors` wrote, or a state dict that torch or others wrote.
    prefix : str or None
        Of a state dict: which recurrent module, as `from_torch` has it.

    Returns
    -------
    RNN, GRU, LSTM, or a cell

    Raises
    ------
    ValueError
        The file holds no such layer, or was written by a later version.
    """
    from safetensors import safe_open
    from safetensors.numpy import load_file

    with safe_open(os.fspath(path), "np") as file:
        description = (file.metadata() or {}).get(KEY)
    return restore("load_safetensors", description, load_file(os.fspath(path)), prefix)


def save_npz(layer: Any, path: Path) -> None:
    """Write a layer or a cell into an npz file.

    Parameters
    ----------
    layer : RNN, GRU, LSTM, or a cell
    path : path
        Replaced if it exists; written as it is, without adding ``.npz``.

    Raises
    ------
    TypeError
        `layer` is no layer.

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
        What `save_npz` wrote, or arrays under torch's names.
    prefix : str or None
        Of a state dict: which recurrent module, as `from_torch` has it.

    Returns
    -------
    RNN, GRU, LSTM, or a cell

    Raises
    ------
    ValueError
        The file holds no such layer, holds pickled objects, or was written by a later version.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    description = arrays.pop(KEY, None)
    return restore("load_npz", None if description is None else str(description), arrays, prefix)


def describe(owner: str, layer: Any) -> str:
    """The constructor's arguments as JSON."""
    if not hasattr(layer, "_config") or not hasattr(layer, "state_dict"):
        raise TypeError(_messages.wrong_source(owner, layer, "a layer or a cell"))
    config = layer._config()
    config["dtype"] = config["dtype"].name
    return json.dumps({"version": VERSION, "class": type(layer).__name__, "arguments": config})


def restore(owner: str, description: str | None, arrays: Mapping[str, Array], prefix: str | None) -> Any:
    """A layer from its arguments and its parameters."""
    if description is None or prefix:
        return from_torch(arrays, prefix)
    try:
        record = json.loads(description)
        version, name, arguments = record["version"], record["class"], record["arguments"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(_messages.no_description(owner, KEY, error)) from None
    if version != VERSION:
        raise ValueError(_messages.attribute(owner, "the file's version", version, str(VERSION)))
    cls = getattr(cells, name, None) if name.endswith("Cell") else getattr(layers, name, None)
    if cls is None or name not in ("RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell"):
        raise ValueError(_messages.attribute(owner, "the file's class", name, "a layer or a cell"))
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    sizes = (arguments.pop("input_size"), arguments.pop("hidden_size"))
    layer = construct(owner, cls, *sizes, **arguments)
    layer.load_state_dict(arrays)
    return layer
