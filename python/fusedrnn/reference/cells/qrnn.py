"""QRNN with fo-pooling. The twin of `csrc/cells/qrnn.h`; gates z, f, o.

    z = tanh(a_z)   f = sigmoid(a_f)   o = sigmoid(a_o)
    c' = f * c + (1 - f) * z
    h' = o * c'                                                   a = W_ih x + b_ih

    zoneout: share + (1 - share) * f in place of f, where share is that of c which a unit keeps, usually 0 or 1

J. Bradbury, S. Merity, C. Xiong, R. Socher, Quasi-recurrent neural networks, ICLR 2017, arXiv:1611.01576, section 2.
"""

import numpy as np

from fusedrnn.reference.activations import sigmoid
from fusedrnn.reference.cells.cell import CELLS, Array, Arrays, OnePhaseCell

__all__ = ["QRNN"]


class QRNN(OnePhaseCell):
    """s is (h, c); h is an output only: the next step does not read it."""

    name = "qrnn"
    gates, states, saved = 3, 2, 3
    recurrent = False
    zones_gate = True

    def forward(self, a: Arrays, s: Arrays, p: Arrays, share: Array | float = 0.0) -> tuple[Arrays, Arrays]:
        """a: z, f, o."""
        z, f, o = np.tanh(a[0]), sigmoid(a[1]), sigmoid(a[2])
        f = share + (1 - share) * f
        c = f * s[1] + (1 - f) * z
        return (o * c, c), (a[0], a[1], a[2])

    def backward(
        self, save: Arrays, s: Arrays, s_new: Arrays, p: Arrays, ds_new: Arrays, share: Array | float = 0.0
    ) -> tuple[Arrays, Arrays]:
        """The gradient of c' has two sources: the step after, and h' = o * c'."""
        z, f, o, dh = np.tanh(save[0]), sigmoid(save[1]), sigmoid(save[2]), ds_new[0]
        kept = share + (1 - share) * f
        dc = ds_new[1] + dh * o
        da_z = dc * (1 - kept) * (1 - z * z)
        da_f = dc * (s[1] - z) * (1 - share) * f * (1 - f)
        return (da_z, da_f, dh * s_new[1] * o * (1 - o)), (np.zeros_like(dh), dc * kept)

    def gate_values(self, save: Arrays) -> dict[str, Array]:
        """z, f, o."""
        return {"z": np.tanh(save[0]), "f": sigmoid(save[1]), "o": sigmoid(save[2])}


CELLS["qrnn"] = QRNN()
