"""Checks of the arguments of `sequence.py`, and their messages."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fusedrnn.reference.cells import CELLS
from fusedrnn.reference.cells.cell import Array, Cell

__all__ = ["cell_of", "check_tokens", "checked", "copy_of", "valid_and_cut"]


def cell_of(name: str) -> Cell:
    """The cell with this name."""
    if name not in CELLS:
        raise ValueError(f"cell is {name!r}; expected one of {', '.join(CELLS)}")
    return CELLS[name]


def copy_of(
    layer: str, name: str, value: ArrayLike | None, letters: str, shape: tuple[int, ...], dtype: DTypeLike
) -> Array:
    """A copy of `value` in `dtype`, or zeros for None."""
    if value is None:
        return np.zeros(shape, dtype)
    array = np.array(value, dtype)
    if array.shape != shape:
        raise ValueError(f"{layer}: {name} has shape {array.shape}; expected {letters} = {shape}")
    return array


def checked(
    cell: Cell,
    x: ArrayLike,
    W_ih: ArrayLike,
    W_hh: ArrayLike | None,
    b_ih: ArrayLike | None,
    b_hh: ArrayLike | None,
    lengths: ArrayLike | None,
    dtype: np.dtype[Any],
    W_hr: Array | None,
) -> tuple[Array, Array, Array, Array, Array, Array]:
    """The arguments as arrays: x unchanged, weights (G, H, I) and (G, H, R), biases (G, 1, H), lengths (B,).

    The W_hh of a cell without a recurrent matrix is zero.
    """
    layer, G = cell.name, cell.gates
    if dtype.kind != "f":
        raise TypeError(f"{layer}: dtype is {dtype}; expected a floating type")
    x, W_ih = np.asarray(x), np.array(W_ih, dtype)
    if not cell.recurrent:
        if W_hh is not None or b_hh is not None or W_hr is not None:
            raise ValueError(f"{layer}: W_hh, b_hh or W_hr is given; expected None, this cell has no recurrent matrix")
        if W_ih.ndim != 2 or W_ih.shape[0] % G:
            raise ValueError(f"{layer}: W_ih has shape {W_ih.shape}; expected ({G}*H, I)")
        W_hh = np.zeros((W_ih.shape[0], W_ih.shape[0] // G), dtype)
    W_hh = np.array(W_hh, dtype)
    if W_hr is None and (W_hh.ndim != 2 or W_hh.shape[0] != G * W_hh.shape[1] or W_hh.size == 0):
        raise ValueError(f"{layer}: W_hh has shape {W_hh.shape}; expected ({G}*H, H) with H >= 1")
    if W_hr is not None:
        if cell.states != 2 or W_hr.ndim != 2 or not 1 <= W_hr.shape[0] <= W_hr.shape[1]:
            raise ValueError(f"{layer}: W_hr has shape {W_hr.shape}; expected (R, H) with R <= H, and an LSTM")
        if W_hh.shape != (G * W_hr.shape[1], W_hr.shape[0]):
            raise ValueError(
                f"{layer}: W_hh has shape {W_hh.shape}; expected ({G}*H, R) = {(G * W_hr.shape[1], W_hr.shape[0])}"
            )
    H = W_hh.shape[0] // G
    if W_ih.ndim != 2 or W_ih.shape[0] != G * H or W_ih.size == 0:
        raise ValueError(f"{layer}: W_ih has shape {W_ih.shape}; expected ({G}*H, I) = ({G * H}, I) with I >= 1")
    I = W_ih.shape[1]
    if x.dtype.kind not in "fiu":
        raise TypeError(f"{layer}: x is of {x.dtype}; expected floats (T, B, I) or integer tokens (T, B)")
    if x.dtype.kind == "f" and (x.ndim != 3 or x.shape[2] != I):
        raise ValueError(f"{layer}: x has shape {x.shape}; expected (T, B, I) with I = {I}")
    if x.dtype.kind in "iu" and x.ndim == 3:
        raise TypeError(f"{layer}: x is of {x.dtype}, hence tokens (T, B), but has 3 axes; cast it to a float type")
    if x.dtype.kind in "iu" and x.ndim != 2:
        raise ValueError(f"{layer}: x has shape {x.shape}; expected (T, B), since integers are tokens")
    T, B = x.shape[:2]
    b_ih = copy_of(layer, "b_ih", b_ih, f"({G}*H,)", (G * H,), dtype).reshape(G, 1, H)
    b_hh = copy_of(layer, "b_hh", b_hh, f"({G}*H,)", (G * H,), dtype).reshape(G, 1, H)
    lengths = np.full(B, T) if lengths is None else np.array(lengths)
    if lengths.shape != (B,):
        raise ValueError(f"{layer}: lengths has shape {lengths.shape}; expected (B,) = {(B,)}")
    if lengths.dtype.kind not in "iu" and B > 0:
        raise TypeError(f"{layer}: lengths is of {lengths.dtype}; expected integers")
    if ((lengths < 0) | (lengths > T)).any():
        raise ValueError(f"{layer}: lengths is {lengths.tolist()}; expected values from 0 to T = {T}")
    return x, W_ih.reshape(G, H, I), W_hh.reshape(G, H, -1), b_ih, b_hh, lengths


def valid_and_cut(
    layer: str, T: int, lengths: Array, mask: ArrayLike | None, reset: ArrayLike | None, reverse: bool
) -> tuple[Array, Array]:
    """Which steps run, and before which (in running order) the own initial state is restored; both (T, B)."""
    B = len(lengths)
    inside = np.arange(T)[:, None] < lengths
    runs = np.ones((T, B), bool) if mask is None else np.asarray(mask)
    begins = np.zeros((T, B), bool) if reset is None else np.asarray(reset)
    for name, array in (("mask", runs), ("reset", begins)):
        if array.dtype != np.bool_:
            raise TypeError(f"{layer}: {name} is of {array.dtype}; expected bool")
        if array.shape != (T, B):
            raise ValueError(f"{layer}: {name} has shape {array.shape}; expected (T, B) = {(T, B)}")
    cut = begins & inside
    if reverse:  # the step before a boundary, in time, follows it
        cut = np.concatenate([cut[1:], np.zeros((min(T, 1), B), bool)])
    return inside & runs, cut


def check_tokens(layer: str, x: Array, I: int, t: int) -> None:
    """The input of one step; tokens select columns of W_ih."""
    if x.ndim == 1 and x.size and not 0 <= x.min() <= x.max() < I:
        raise IndexError(f"{layer}: tokens at step {t} are from {x.min()} to {x.max()}; expected 0 to I-1 = {I - 1}")
