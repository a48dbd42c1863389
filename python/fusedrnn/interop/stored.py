"""Arrays in files: shapes and dtypes are known before an array is read, and arrays are read when they are needed.

This prevents a small file from causing large work: a bridge compares shapes first, and reads only arrays that fit.
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

#: Most axes of an array: NumPy's own limit.
MOST_AXES = 64


class Stored(ABC):
    """One array of a file."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]: ...

    @property
    @abstractmethod
    def dtype(self) -> np.dtype[Any]:
        """The array that `read` returns."""

    @abstractmethod
    def read(self) -> Array: ...


@contextmanager
def reading(owner: str, what: str) -> Iterator[None]:
    """Around reading by another library: whatever it raises means that the file is faulty."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(_messages.unreadable(owner, what, error)) from error


@contextmanager
def faults_of(owner: str, path: str | None) -> Iterator[None]:
    """Around all processing of a file or its content: every fault becomes a ValueError that names the file."""
    try:
        yield
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(_messages.in_file(owner, error, path)) from error
