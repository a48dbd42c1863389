"""The simple recurrent network. The twin of `csrc/cells/rnn.h`.

    h' = tanh(a)   or   h' = max(a, 0),   a = W_ih x + b_ih + W_hh h + b_hh

J. L. Elman, Finding structure in time, Cognitive Science 14 (1990); there with the logistic function for tanh.
The rectified form: Q. V. Le, N. Jaitly, G. E. Hinton, arXiv:1504.00941 (2015).
"""

import numpy as np

from fusedrnn.reference.cells.cell import Arrays, OnePhaseCell

__all__ = ["RNNRelu", "RNNTanh"]


class RNNTanh(OnePhaseCell):
    """h' = tanh(a)."""

    gates, states, saved = 1, 1, 0

    def forward(self, a: Arrays, s: Arrays) -> tuple[Arrays, Arrays]:
        """Nothing needs to be saved: the slope follows from h'."""
        return (np.tanh(a[0]),), ()

    def backward(self, save: Arrays, s: Arrays, s_new: Arrays, ds_new: Arrays) -> tuple[Arrays, Arrays]:
        """tanh' = 1 - tanh^2; all of h goes through a, so ds is zero."""
        da = ds_new[0] * (1 - s_new[0] * s_new[0])
        return (da,), (np.zeros_like(da),)


class RNNRelu(OnePhaseCell):
    """h' = max(a, 0)."""

    gates, states, saved = 1, 1, 0

    def forward(self, a: Arrays, s: Arrays) -> tuple[Arrays, Arrays]:
        """A NaN stays one."""
        return (np.maximum(a[0], 0),), ()

    def backward(self, save: Arrays, s: Arrays, s_new: Arrays, ds_new: Arrays) -> tuple[Arrays, Arrays]:
        """The slope is 1 where h' > 0, else 0, at a = 0 too (torch's choice); a NaN state lets its gradient pass."""
        da = np.where(s_new[0] <= 0, np.zeros_like(ds_new[0]), ds_new[0])
        return (da,), (np.zeros_like(da),)
