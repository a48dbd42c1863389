"""The gated recurrent unit, in both of its forms. The twin of `csrc/cells/gru.h`; gates in torch's order r, z, n.

    r = sigmoid(a_r)   z = sigmoid(a_z)   h' = (1 - z) * n + z * h         a = W_ih x + b_ih + W_hh h + b_hh

    reset after the product:   n = tanh(W_in x + b_in + r * u),   u = W_hn h + b_hn
    reset before the product:  n = tanh(W_in x + b_in + W_hn (r * h) + b_hn)

Before: K. Cho et al., Learning phrase representations using RNN encoder-decoder, EMNLP 2014, arXiv:1406.1078, eq. 5-8.
After: the form of cuDNN and torch.nn.GRU, where one product per step is enough and b_hn is not the same as b_in.
"""

import numpy as np

from fusedrnn.reference.activations import sigmoid
from fusedrnn.reference.cells.cell import Array, Arrays, OnePhaseCell, TwoPhaseCell

__all__ = ["GRUAfter", "GRUBefore"]


class GRUAfter(OnePhaseCell):
    """The reset gate acts on the recurrent product."""

    gates, states, saved, split = 3, 1, 4, 1

    def forward(self, a: Arrays, s: Arrays) -> tuple[Arrays, Arrays]:
        """a: r, z, n's input part, n's recurrent part u."""
        r, z, u = sigmoid(a[0]), sigmoid(a[1]), a[3]
        n = np.tanh(a[2] + r * u)
        return ((1 - z) * n + z * s[0],), (r, z, n, u)

    def backward(self, save: Arrays, s: Arrays, s_new: Arrays, ds_new: Arrays) -> tuple[Arrays, Arrays]:
        """W_hn and b_hn see du = r * da_n where W_in and b_in see da_n."""
        r, z, n, u = save
        dh = ds_new[0]
        da_n = dh * (1 - z) * (1 - n * n)
        da_r = da_n * u * r * (1 - r)
        da_z = dh * (s[0] - n) * z * (1 - z)
        return (da_r, da_z, da_n, da_n * r), (dh * z,)


class GRUBefore(TwoPhaseCell):
    """The reset gate acts on the state: two products per step, one after the other."""

    gates, states, saved = 3, 1, 3

    def gate(self, a: Arrays, s: Arrays) -> tuple[Array, Arrays]:
        """a: r, z; the operand is r * h."""
        r, z = sigmoid(a[0]), sigmoid(a[1])
        return r * s[0], (r, z)

    def forward(self, a: Arrays, s: Arrays, save: Arrays) -> tuple[Arrays, Arrays]:
        """a: n."""
        z, n = save[1], np.tanh(a[0])
        return ((1 - z) * n + z * s[0],), (n,)

    def backward(self, save: Arrays, s: Arrays, ds_new: Arrays) -> tuple[Arrays, Arrays]:
        """da_n comes first: the gradient of r needs its product with W_hn."""
        _, z, n = save
        dh = ds_new[0]
        return (dh * (1 - z) * (1 - n * n),), (dh * z,)

    def backward_gate(
        self, save: Arrays, s: Arrays, ds_new: Arrays, doperand: Array, ds: Arrays
    ) -> tuple[Arrays, Arrays]:
        """The operand is r * h, so its gradient goes to r and to h."""
        r, z, n = save
        dh = ds_new[0]
        da_r = doperand * s[0] * r * (1 - r)
        da_z = dh * (s[0] - n) * z * (1 - z)
        return (da_r, da_z), (doperand * r + ds[0],)
