"""What the loops of all cells share: projection, masks, weight gradients."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Loop(NamedTuple):
    """What backward needs of a forward pass."""

    x: Array  # (T, B, I)
    W_ih: Array
    W_hh: Array
    steps: list[int]  # time indices in the order they were run
    mask: Array | None  # (T, B, 1), True where a row is running
    saved: list[tuple[Array, ...]]  # per step, in that order
    options: dict[str, Any]


def sigmoid(a: Array) -> Array:
    """1 / (1 + exp(-a))."""
    return np.asarray(1 / (1 + np.exp(-a)))


def begin(
    x: Array, W_ih: Array, bias: Array | None, lengths: Array | None, reverse: bool
) -> tuple[Array, list[int], Array | None]:
    """Input projection (T, B, G*H), order of the steps, mask."""
    T, B, I = x.shape
    xp = (x.reshape(T * B, I) @ W_ih.T).reshape(T, B, -1)
    if bias is not None:
        xp += bias
    mask = None if lengths is None else (np.arange(T)[:, None] < lengths)[:, :, None]
    return xp, list(range(T))[:: -1 if reverse else 1], mask


def add_biases(b_ih: Array | None, b_hh: Array | None) -> Array | None:
    return b_ih if b_hh is None else b_hh if b_ih is None else b_ih + b_hh


def hold(mask: Array | None, t: int, new: Array, old: Array) -> Array:
    """The state of rows that have ended stays what it was."""
    return new if mask is None else np.where(mask[t], new, old)


def put(y: Array, mask: Array | None, t: int, h: Array) -> None:
    y[t] = h if mask is None else np.where(mask[t], h, 0)


def weight_gradient(da: Array, x: Array) -> Array:
    """Sum over steps and rows of the outer products: a weight gradient as one matrix product."""
    return np.asarray(da.reshape(-1, da.shape[-1]).T @ x.reshape(-1, x.shape[-1]))


def by_time(tape: Loop, arrays: Iterable[Array]) -> Array:
    """Per-step arrays, in the order the steps were run, as one array along time."""
    stacked = np.stack(list(arrays))
    return stacked[::-1] if tape.steps[0] > tape.steps[-1] else stacked


def input_gradient(tape: Loop, da: Array) -> Array:
    """Gradient of x, (T, B, I), for all steps at once."""
    return np.asarray(da.reshape(-1, da.shape[-1]) @ tape.W_ih).reshape(tape.x.shape)
