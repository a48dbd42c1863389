"""Sequences of different lengths as ``(values, lengths)``: padded for the equations, packed again for the caller.

The reference pads, because padded arrays are simple to read about; `csrc/core/schedule.h` is where the compiled kernels
find the steps of a packed array without padding.
"""

from typing import Any, NamedTuple, Self

import numpy as np

from fusedrnn.reference.cells.cell import Array

__all__ = ["Packing"]


class Packing(NamedTuple):
    """Where the entries of a packed array (N, ...) are in a padded array (T, B, ...)."""

    lengths: Array  # (B,)
    time: Array  # (N,): entry k is step time[k] of row row[k]
    row: Array

    @classmethod
    def of(cls, layer: str, x: Any, lengths: Any, mask: Any) -> Self | None:
        """The packing of x, if x is ``(values, lengths)``; else None."""
        if not (isinstance(x, tuple) and len(x) == 2 and hasattr(x[0], "__array__")):
            return None
        own = np.array(x[1])
        if own.ndim != 1 or (own.size and own.dtype.kind not in "iu"):
            raise TypeError(
                f"{layer}: x[1] is of {own.dtype} and shape {own.shape}; expected integers (B,), the lengths"
            )
        if lengths is not None or mask is not None:
            raise ValueError(f"{layer}: lengths or mask given with (values, lengths); expected None")
        own = own.astype(np.int64)
        if (own < 0).any() or own.sum() != len(x[0]):
            raise ValueError(
                f"{layer}: x[1], the lengths, is {own.tolist()}; expected numbers >= 0 that sum to {len(x[0])}"
            )
        time = np.concatenate([np.arange(0), *map(np.arange, own)])
        return cls(own, time, np.repeat(np.arange(len(own)), own))

    def pad(self, packed: Any) -> Array:
        """(N, ...) -> (T, B, ...), zeros past the end of each row."""
        packed = np.asarray(packed)
        if len(packed) != len(self.time):
            raise ValueError(f"an array over all steps has {len(packed)} entries; expected {len(self.time)}")
        T = int(self.lengths.max()) if len(self.lengths) else 0
        padded = np.zeros((T, len(self.lengths), *packed.shape[1:]), packed.dtype)
        padded[self.time, self.row] = packed
        return padded

    def pack(self, padded: Array) -> Array:
        """(T, B, ...) -> (N, ...)."""
        return padded[self.time, self.row]
