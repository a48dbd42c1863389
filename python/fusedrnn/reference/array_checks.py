"""Which steps run, for the functions on plain arrays; shared by `scan.py` and `state_space.py`."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]


def runs_and_cuts(
    owner: str,
    T: int,
    B: int,
    lengths: ArrayLike | None,
    mask: ArrayLike | None,
    reset: ArrayLike | None,
    reverse: bool,
) -> tuple[Array, Array]:
    """Which steps run, and before which, in running order, the state becomes zero; both (T, B)."""
    ends = np.full(B, T) if lengths is None else np.array(lengths)
    if ends.shape != (B,):
        raise ValueError(f"{owner}: lengths has shape {ends.shape}; expected (B,) = {(B,)}")
    if ends.dtype.kind not in "iu" and B > 0:
        raise TypeError(f"{owner}: lengths is of {ends.dtype}; expected integers")
    if ((ends < 0) | (ends > T)).any():
        raise ValueError(f"{owner}: lengths is {ends.tolist()}; expected values from 0 to T = {T}")
    inside = np.arange(T)[:, None] < ends
    runs = np.ones((T, B), bool) if mask is None else np.asarray(mask)
    cuts = np.zeros((T, B), bool) if reset is None else np.asarray(reset)
    for name, array in (("mask", runs), ("reset", cuts)):
        if array.dtype != np.bool_:
            raise TypeError(f"{owner}: {name} is of {array.dtype}; expected bool")
        if array.shape != (T, B):
            raise ValueError(f"{owner}: {name} has shape {array.shape}; expected (T, B) = {(T, B)}")
    cuts = cuts & inside
    if reverse:  # of the steps on both sides of a boundary, the earlier one in time comes after the boundary
        cuts = np.concatenate([cuts[1:], np.zeros((min(T, 1), B), bool)])
    return inside & runs, cuts


def in_order(T: int, reverse: bool) -> list[int]:
    """The steps in running order."""
    return list(range(T - 1, -1, -1)) if reverse else list(range(T))


def sum_to_shape(array: Array, shape: tuple[int, ...]) -> Array:
    """The gradient of an array that was broadcast: the sum over the axes along which it was repeated."""
    own = (1,) * (array.ndim - len(shape)) + shape
    axes = tuple(k for k, n in enumerate(own) if n == 1 and array.shape[k] != 1)
    total: Array = array.sum(axes, keepdims=True).reshape(shape)
    return total
