"""Arrays of other libraries in and out, by DLPack and the array API standard; no library is imported here.

Every layer accepts any CPU array with ``__dlpack__`` or ``__array__``, without a copy if the dtype is the layer's, and
returns NumPy arrays. `as_kind_of` converts these to the type of the input.

Examples
--------
>>> import numpy as np
>>> import fusedrnn
>>> from fusedrnn.interop.arrays import as_kind_of
>>> def run(layer, x, state=None):
...     return as_kind_of(x, layer(x, state))
>>> y, h = run(fusedrnn.GRU(3, 5), np.ones((7, 2, 3), np.float32))
>>> type(y).__name__, h.shape
('ndarray', (1, 2, 5))
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from .. import _validate

__all__ = ["as_kind_of"]


def as_kind_of(like: Any, value: Any) -> Any:
    """Convert NumPy arrays to arrays of the library of `like`, sharing memory if the library can.

    Parameters
    ----------
    like : array
        An array of a library that follows the array API standard, or whose top module has ``from_dlpack``, as torch's
        does. NumPy arrays, numbers and nested lists of these mean NumPy.
    value : ndarray, None, or a nested tuple or list of these
        The result of a layer or a tape.

    Returns
    -------
    array, None, or the same nested tuple or list

    Raises
    ------
    TypeError
        The library of `like` cannot be determined, or does not support DLPack.
    """
    return _convert(_from_dlpack(like), value)


def _from_dlpack(like: Any) -> Any:
    """The function of the library that adopts an array; None for NumPy."""
    if isinstance(like, (np.ndarray, np.generic, list, tuple, int, float)):
        return None
    if hasattr(like, "__array_namespace__"):
        library: Any = like.__array_namespace__()
    else:
        library = sys.modules.get(type(like).__module__.partition(".")[0])
    found = getattr(library, "from_dlpack", None)
    if found is None:
        raise _validate.no_dlpack("as_kind_of", like)
    return found


def _convert(from_dlpack: Any, value: Any) -> Any:
    if value is None or from_dlpack is None:
        return value
    if isinstance(value, (tuple, list)):
        return type(value)(_convert(from_dlpack, item) for item in value)
    return from_dlpack(value)
