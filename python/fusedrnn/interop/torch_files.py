"""State dicts in files of torch and in safetensors files, by name; nothing in a file is run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from . import _messages
from .packages import needs
from .safetensors_files import tensors_of
from .stored import faults_of

Path = str | os.PathLike[str]

#: Most levels of dicts and lists within each other.
MOST_LEVELS = 32


@contextlib.contextmanager
def state_dict_of(owner: str, path: Path) -> Iterator[dict[str, Any]]:
    """The tensors of a file, under their names; those of dicts within dicts have the names of both before theirs.

    The tensors of a safetensors file can be read within the block.
    """
    name = os.fspath(path)
    with open(name, "rb") as file, faults_of(owner, os.fsdecode(name)):
        start = file.read(2)
        if start == b"PK" or start[:1] == b"\x80":  # a zip archive, or the pickle of earlier torch
            torch = needs(owner, "torch", f"{os.path.basename(os.fsdecode(name))!r}, a file of torch.save,")
            file.seek(0)
            try:
                loaded = torch.load(file, map_location="cpu", weights_only=True)
            except MemoryError:
                raise
            except Exception as error:
                raise ValueError(_messages.no_plain_weights(owner, error)) from None
            yield dict(tensors_in(loaded, "", 0))
        else:
            yield dict(tensors_of(owner, file)[0])


def tensors_in(value: Any, place: str, level: int) -> Iterator[tuple[str, Any]]:
    """All tensors within dicts and lists; other things, such as numbers, are left out."""
    if level > MOST_LEVELS:
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from tensors_in(item, f"{place}.{key}" if place else str(key), level + 1)
    elif isinstance(value, (list, tuple)):
        for k, item in enumerate(value):
            yield from tensors_in(item, f"{place}.{k}" if place else str(k), level + 1)
    elif hasattr(value, "detach"):
        yield place, value
