"""Tokens of a large vocabulary: a call packs the columns of weight_ih of the tokens that occur, and no others.

To the kernels, a call whose tokens are n distinct ones is a call with n inputs: `Seen` numbers the tokens, and
`Seen.columns` takes their columns. The gradient of weight_ih then has n columns, too, and is stored as `SparseGrad`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _core
from .grads import SparseGrad
from .kinds import CellKind

Array = NDArray[Any]


class Seen(NamedTuple):
    """The tokens that occur in a call.

    Attributes
    ----------
    ids : ndarray of int64, shape (n,)
        The columns of the distinct tokens of the steps that run, in ascending order: the tokens themselves; with a
        window those of each of its steps.
    numbers : ndarray of int64, shape (T, B)
        The number of the token of each step among the distinct tokens: the input of the kernels, or of `_core.widen`.
    window : int
        That of the cell.
    """

    ids: NDArray[np.int64]
    numbers: NDArray[np.int64]
    window: int = 1

    @property
    def width(self) -> int:
        """The number of columns that are packed: the kernels need one for each step of the window."""
        return max(self.window, len(self.ids))

    def columns(self, W_ih: Array) -> Array:
        """The columns of these tokens, (G*H, width); `W_ih` may have any strides."""
        return _core.take_columns(W_ih, self.ids if len(self.ids) else np.zeros(self.window, np.int64))

    def gradient(self, dcolumns: Array, vocabulary: int) -> SparseGrad:
        """The gradient of W_ih from that of `columns`."""
        n = len(self.ids)
        return SparseGrad(self.ids, dcolumns if dcolumns.shape[1] == n else dcolumns[:, :n], vocabulary)


def see(x: Array, schedule: _core.Schedule, input_size: int, save: bool, kind: CellKind) -> Seen | None:
    """The tokens of x, (T, B), or None if the call had better pack all columns.

    A call without backward (`save`) that has as many steps as the vocabulary has tokens cannot save much.
    If the cell also takes x itself, a one-hot row for each token, all tokens keep their numbers. With a window the
    kernels get one-hot rows, which have to be as short as possible.
    """
    if x.ndim == 2 and kind.takes_x:
        return Seen(np.arange(input_size), np.ascontiguousarray(x, np.int64)) if save else None
    if x.ndim != 2 or (not save and schedule.rows >= input_size and kind.window == 1):
        return None
    ids, numbers = _core.number_tokens(x, schedule, input_size)
    if kind.window > 1:
        ids = np.add.outer(np.arange(kind.window) * input_size, ids).ravel()
    return Seen(ids, numbers, kind.window)


def pack_columns(seen: Seen | None, arrays: list[Array], which: Sequence[int]) -> None:
    """Replace each weight_ih that reads the tokens, at the places `which`, by the columns that are to be packed."""
    for i in which:
        arrays[i] = np.require(arrays[i], None, ["C", "A"]) if seen is None else seen.columns(arrays[i])


def all_dense(gradients: Mapping[str, Any]) -> dict[str, Array]:
    """The gradients, sparse ones as dense arrays."""
    return {name: dense(gradient) for name, gradient in gradients.items()}


def dense(gradient: Any) -> Any:
    """A `SparseGrad` as a dense array, which shares its memory if there is a value for every token."""
    if not isinstance(gradient, SparseGrad):
        return gradient
    return gradient.values if gradient.values.shape == gradient.shape else gradient.to_dense()
