"""Files of any kind that this package reads, by content and name: for the commands ``inspect`` and ``convert``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..pipeline import Pipeline
from . import _messages
from .descriptions import KEY
from .object_files import load, save
from .safetensors_files import tensors_of
from .stored import faults_of
from .weight_files import load_npz, save_npz
from .weights_keras import from_keras
from .weights_onnx import from_onnx
from .weights_onnx_export import to_onnx
from .weights_rtneural import load_rtneural
from .weights_torch import from_torch
from .written_files import replacing


def read_any(owner: str, path: str) -> tuple[str, Any]:
    """What kind of file this is, and the layers in it.

    To `inspect`, ONNX nodes that are no chain are a dict of layers; nothing says how they are connected.
    """
    name = os.path.basename(path).lower()
    with open(path, "rb") as file:
        start = file.read(8)
    if name.endswith((".keras", ".h5", ".hdf5")) or start == b"\x89HDF\r\n\x1a\n":
        return "Keras", from_keras(path)
    if name.endswith(".onnx"):
        if owner == "convert":
            return "ONNX", from_onnx(path, chain=True)
        return "ONNX", {node: found.layer for node, found in from_onnx(path).items()}
    if name.endswith(".npz"):
        return "npz", load_npz(path)
    if name.endswith(".json"):
        return "RTNeural", load_rtneural(path).to_pipeline()
    if start[:2] == b"PK" or start[:1] == b"\x80" or name.endswith((".pt", ".pth")):
        return "torch", from_torch(path)
    with open(path, "rb") as file, faults_of(owner, path):
        metadata = tensors_of(owner, file)[1]
    return ("fusedrnn", load(path)) if KEY in metadata else ("safetensors", from_torch(path))


def write_any(owner: str, path: str, value: Any) -> str:
    """Write a file whose name says of which kind it is; returns the kind."""
    ending = os.path.splitext(path)[1].lower()
    if ending == ".npz":
        save_npz(value, path)
        return "npz"
    if ending == ".onnx":
        model = to_onnx(value)
        with replacing(owner, path) as file:
            file.write(model.SerializeToString())
        return "ONNX"
    if ending in (".keras", ".h5", ".pt", ".pth", ".json"):
        expected = "a name that ends with .safetensors, .npz or .onnx"
        raise ValueError(_messages.attribute(owner, "the name of the new file", path, expected))
    save(path, value)
    return "fusedrnn"


def outline(value: Any) -> list[str]:
    """Lines that show what is in a value: objects with their parameters, and other things."""
    lines: list[str] = []
    total = add_lines(lines, value, "", 0)
    if total:
        lines.append(f"{total:,} parameters")
    return lines


def add_lines(lines: list[str], value: Any, name: str, level: int) -> int:
    """Add the lines of a value; returns how many parameters its objects have."""
    start = "  " * level + (f"{name}: " if name else "")
    if isinstance(value, (Mapping, list, tuple)):
        entries = list(value.items()) if isinstance(value, Mapping) else list(enumerate(value))
        lines.append(f"{start}{type(value).__name__} of {len(entries)}")
        return sum(add_lines(lines, item, str(key), level + 1) for key, item in entries)
    if isinstance(value, np.ndarray):
        lines.append(f"{start}array {value.dtype} {value.shape}")
        return 0
    lines.append(start + repr(value))
    if isinstance(value, Pipeline):
        return sum(add_lines(lines, part, str(k), level + 1) for k, part in enumerate(value.parts))
    params = getattr(value, "params", None)
    if params is None:
        return 0
    for own, array in params.items():
        lines.append("  " * (level + 1) + f"{own} {array.dtype} {array.shape}")
    return sum(int(array.size) for array in params.values())
