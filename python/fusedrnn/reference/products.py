"""The matrix products of one step of `sequence.py`.

Weights are (G, H, K), rows of the batch v (B, K), pre-activations a (G, B, H).
"""

import numpy as np

from fusedrnn.reference.cells.cell import Array, Cell

__all__ = ["add_input_outer", "as_numbers", "input_product", "outer", "product", "product_back", "recurrent_slots"]


def product(v: Array, W: Array) -> Array:
    """One (B, H) block for each gate: a[g] = v W[g]^T."""
    a: Array = v @ W.swapaxes(1, 2)
    return a


def product_back(da: Array, W: Array) -> Array:
    """dv = sum over g of da[g] W[g]."""
    dv: Array = (da @ W).sum(axis=0)
    return dv


def outer(da: Array, v: Array) -> Array:
    """dW[g] = da[g]^T v, summed over the batch."""
    dW: Array = da.swapaxes(1, 2) @ v
    return dW


def input_product(x: Array, W: Array) -> Array:
    """`product`; a token picks a column."""
    return W.swapaxes(1, 2)[:, x] if x.ndim == 1 else product(x, W)


def as_numbers(x: Array, I: int) -> Array:
    """Rows of x; a token is a row of the identity matrix."""
    return np.eye(I)[x] if x.ndim == 1 else x


def add_input_outer(dW: Array, da: Array, x: Array) -> None:
    """dW += `outer`; a token adds to its column, and may occur more than once."""
    if x.ndim == 1:
        np.add.at(dW.transpose(2, 0, 1), x, da.swapaxes(0, 1))
    else:
        dW += outer(da, x)


def recurrent_slots(cell: Cell) -> Array:
    """The row of `a` for each gate's recurrent part: that of its input part, or (last `split` gates) after them."""
    slot = np.arange(cell.gates)
    slot[cell.gates - cell.split :] += cell.split
    return slot
