"""Layer normalisation of the two products of a step, and of the c of an LSTM. The twin of `csrc/kernels/normed.h`.

    LN(v; gain, bias) = gain * (v - mean(v)) / sqrt(var(v) + eps) + bias        over all units of a row

    LSTM   a = LN(W_ih x; gain_ih, b_ih) + LN(W_hh h; gain_hh, b_hh)            all four gates together
           c' = f * c + i * g
           h' = o * tanh(LN(c'; gain_c, bias_c))
    GRU    the same for r and z together, and for n apart, where
           n = tanh(LN(W_in x; gain_in, b_in) + r * LN(W_hn h; gain_hn, b_hn))

J. L. Ba, J. R. Kiros, G. E. Hinton, Layer normalization, arXiv:1607.06450 (2016), supplementary material.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fusedrnn.reference.cells.cell import Array

__all__ = ["LayerNorm", "normalise", "normalise_back"]

Groups = tuple[tuple[int, ...], ...]


class LayerNorm(NamedTuple):
    """Parameters of a normalised layer, or their gradients; the biases of both products are b_ih and b_hh.

    Attributes
    ----------
    gain_ih, gain_hh : array_like, shape (G*H,)
        Gains of the input product and of the recurrent product.
    gain_c, bias_c : array_like, shape (H,), or None
        Gain and bias of the c of an LSTM.
    eps : float
        Added to the variance.
    """

    gain_ih: ArrayLike
    gain_hh: ArrayLike
    gain_c: ArrayLike | None = None
    bias_c: ArrayLike | None = None
    eps: float = 1e-5


def normalise(v: Array, groups: Groups, eps: float) -> tuple[Array, Array]:
    """Rows of mean 0 and variance 1.

    Parameters
    ----------
    v : ndarray, shape (G, B, H)
    groups : tuple of tuple of int
        Groups of the G gates that share mean and variance.
    eps : float
        Added to the variance.

    Returns
    -------
    normed, rate : ndarray, shape (G, B, H)
        The values, and the factors by which their distances from the mean were multiplied.
    """
    normed, rate = np.zeros_like(v), np.zeros_like(v)
    for group in map(list, groups):
        centred = v[group] - v[group].mean(axis=(0, 2), keepdims=True)
        rate[group] = 1 / np.sqrt((centred * centred).mean(axis=(0, 2), keepdims=True) + eps)
        normed[group] = centred * rate[group]
    return normed, rate


def normalise_back(dnormed: Array, normed: Array, rate: Array, groups: Groups) -> Array:
    """The gradient of v from that of `normed`: the components that would change mean or variance are removed."""
    dv = np.zeros_like(dnormed)
    for group in map(list, groups):
        d, n = dnormed[group], normed[group]
        mean, along = d.mean(axis=(0, 2), keepdims=True), (d * n).mean(axis=(0, 2), keepdims=True)
        dv[group] = rate[group] * (d - mean - n * along)
    return dv
