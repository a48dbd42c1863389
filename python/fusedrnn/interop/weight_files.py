"""Layers in safetensors and npz files: the parameters under their names, and what the constructor needs as JSON.

Files of other programs, which hold a state dict without this JSON, are read as by `from_torch`.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from . import _messages, object_files
from .descriptions import KEY, describe, is_layer, restore
from .npz_files import Npz
from .object_files import read_description
from .safetensors_files import CHECKSUM, check_sum, tensors_of, write_tensors
from .stored import faults_of
from .written_files import Path, replacing


def save_safetensors(layer: Any, path: Path) -> None:
    """Write a layer, a cell, a group or a frozen one into a safetensors file.

    Parameters
    ----------
    layer : layer, cell, Stack, Bidirectional, Ensemble, or a frozen one
    path : path
        Replaced if it exists, at once.

    Raises
    ------
    TypeError
        `layer` is none of these.
    ValueError
        `path` is a folder or a device.
    OSError
        The file cannot be written.

    See Also
    --------
    fusedrnn.save : Also writes dicts and lists of layers, and keeps their generators.

    Notes
    -----
    Written with NumPy alone. torch can read the file as a state dict, because the names are torch's. Layers and cells
    are written as by earlier versions, which can read the file.

    Examples
    --------
    >>> import fusedrnn, os, tempfile
    >>> layer = fusedrnn.GRU(3, 5, num_layers=2, rng=0)
    >>> path = os.path.join(tempfile.mkdtemp(), "gru.safetensors")
    >>> fusedrnn.interop.save_safetensors(layer, path)
    >>> fusedrnn.interop.load_safetensors(path) == layer
    True
    """
    owner = "save_safetensors"
    if not is_layer(layer):
        if not hasattr(layer, "params"):
            expected = "a layer or a cell, a group or a frozen one (fusedrnn.save writes dicts and lists of these)"
            raise TypeError(_messages.wrong_source(owner, layer, expected))
        object_files.save(path, layer)
        return
    description, params = describe(owner, layer), layer.state_dict()
    with replacing(owner, path) as file:
        write_tensors(file, params, {KEY: description})


def load_safetensors(path: Path, prefix: str | None = None) -> Any:
    """Read a layer from a safetensors file.

    Parameters
    ----------
    path : path
        A file of `save_safetensors` or of `fusedrnn.save`, or a state dict written by torch or another program.
    prefix : str or None
        The recurrent module of a state dict, as in `from_torch`.

    Returns
    -------
    layer, cell, or what was saved

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
        if CHECKSUM in metadata:
            check_sum(owner, file)
        if description is None or prefix:
            return restore(owner, None, arrays, prefix)
        return read_description(owner, description, arrays, CHECKSUM in metadata)


def save_npz(layer: Any, path: Path) -> None:
    """Write a layer or a cell into an npz file.

    Parameters
    ----------
    layer : RNN, GRU, LSTM, or a cell
    path : path
        Replaced if it exists, at once; used unchanged, without adding ``.npz``.

    Raises
    ------
    TypeError
        `layer` is not a layer or a cell: `fusedrnn.save` writes groups and frozen ones.
    ValueError
        `path` is a folder or a device.
    OSError
        The file cannot be written.

    Examples
    --------
    >>> import fusedrnn, os, tempfile
    >>> layer = fusedrnn.LSTM(3, 5, rng=0)
    >>> path = os.path.join(tempfile.mkdtemp(), "lstm.npz")
    >>> fusedrnn.interop.save_npz(layer, path)
    >>> fusedrnn.interop.load_npz(path) == layer
    True
    """
    owner = "save_npz"
    description = describe(owner, layer)
    arrays: dict[str, Any] = {**layer.state_dict(), KEY: np.array(description)}
    with replacing(owner, path) as file:
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
