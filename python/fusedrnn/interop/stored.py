"""Arrays in files: their shapes and dtypes are known before they are read, and they are read when they are needed.

So that a small file cannot ask for large work: a bridge compares shapes first, and reads what a layer has room for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _messages

Array = NDArray[Any]

#: Of an array: NumPy's own limit.
MOST_AXES = 64


class Stored(ABC):
    """One array of a file."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]: ...

    @property
    @abstractmethod
    def dtype(self) -> np.dtype[Any]:
        """What `read` gives."""

    @abstractmethod
    def read(self) -> Array: ...


@contextmanager
def reading(owner: str, what: str) -> Iterator[None]:
    """Around what another library reads: whatever it raises says that the file is not as it should be."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(_messages.unreadable(owner, what, error)) from error


@contextmanager
def faults_of(owner: str, path: str | None) -> Iterator[None]:
    """Around all that is made of a file, or of its content: what is wrong with it is a ValueError that names it."""
    try:
        yield
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(_messages.in_file(owner, error, path)) from error
