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

Array = NDArray[Any]

#: The column that a call without any token packs: the kernels need one.
ANY_COLUMN = np.zeros(1, np.int64)


class Seen(NamedTuple):
    """The tokens that occur in a call.

    Attributes
    ----------
    ids : ndarray of int64, shape (n,)
        The distinct tokens of the steps that run, in ascending order.
    numbers : ndarray of int64, shape (T, B)
        The place in `ids` of the token of each step: the input of the kernels.
    """

    ids: NDArray[np.int64]
    numbers: NDArray[np.int64]

    def columns(self, W_ih: Array) -> Array:
        """The columns of these tokens, (G*H, n), at least one; `W_ih` may have any strides."""
        return _core.take_columns(W_ih, self.ids if len(self.ids) else ANY_COLUMN)

    def gradient(self, dcolumns: Array, vocabulary: int) -> SparseGrad:
        """The gradient of W_ih from that of `columns`."""
        n = len(self.ids)
        return SparseGrad(self.ids, dcolumns if dcolumns.shape[1] == n else dcolumns[:, :n], vocabulary)


def see(x: Array, schedule: _core.Schedule, input_size: int, save: bool, takes_x: bool = False) -> Seen | None:
    """The tokens of x, (T, B), or None if the call had better pack all columns.

    A call without backward (`save`) that has as many steps as the vocabulary has tokens cannot save much.
    `takes_x`: the cell also takes x itself, a one-hot row for each token, so all tokens keep their numbers.
    """
    if x.ndim == 2 and takes_x:
        return Seen(np.arange(input_size), np.ascontiguousarray(x, np.int64)) if save else None
    if x.ndim != 2 or (not save and schedule.rows >= input_size):
        return None
    return Seen(*_core.number_tokens(x, schedule, input_size))


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
