"""Long short-term memory. The twin of `csrc/cells/lstm.h`; gates in torch's order i, f, g, o.

    i = sigmoid(a_i)   f = sigmoid(a_f)   g = tanh(a_g)   o = sigmoid(a_o)
    c' = f * c + i * g
    h' = o * tanh(c')                      a = W_ih x + b_ih + W_hh h + b_hh

S. Hochreiter, J. Schmidhuber, Long short-term memory, Neural Computation 9 (1997); the forget gate f is from
F. A. Gers, J. Schmidhuber, F. Cummins, Learning to forget, Neural Computation 12 (2000).
"""

import numpy as np

from fusedrnn.reference.activations import sigmoid
from fusedrnn.reference.cells.cell import Arrays, OnePhaseCell

__all__ = ["LSTM"]


class LSTM(OnePhaseCell):
    """LSTM with a forget gate, without peepholes and projection."""

    gates, states, saved = 4, 2, 4

    def forward(self, a: Arrays, s: Arrays) -> tuple[Arrays, Arrays]:
        """s is (h, c)."""
        i, f, g, o = sigmoid(a[0]), sigmoid(a[1]), np.tanh(a[2]), sigmoid(a[3])
        c = f * s[1] + i * g
        return (o * np.tanh(c), c), (i, f, g, o)

    def backward(self, save: Arrays, s: Arrays, s_new: Arrays, ds_new: Arrays) -> tuple[Arrays, Arrays]:
        """The gradient of c' has two sources: the step after, and h' through tanh(c')."""
        i, f, g, o = save
        tanh_c = np.tanh(s_new[1])
        dh = ds_new[0]
        dc = ds_new[1] + dh * o * (1 - tanh_c * tanh_c)
        da_i = dc * g * i * (1 - i)
        da_f = dc * s[1] * f * (1 - f)
        da_g = dc * i * (1 - g * g)
        da_o = dh * tanh_c * o * (1 - o)
        return (da_i, da_f, da_g, da_o), (np.zeros_like(dh), dc * f)
