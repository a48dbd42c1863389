"""Simple recurrent unit. The twin of `csrc/cells/sru.h`; gates x~, f, r and, unless x itself is on the highway, w.

    f = sigmoid(a_f + v_f * c)   r = sigmoid(a_r + v_r * c)
    c' = f * c + (1 - f) * a_x
    h' = r * c' + (1 - r) * highway * x                           a = W_ih x + b_ih

with a_w in place of highway * x where the widths of input and output differ. `highway` is sqrt(1 + 2 exp(b)), b the
highway bias: with this factor h' has about the variance of x at the start of training.

T. Lei, Y. Zhang, S. I. Wang, H. Dai, Y. Artzi, Simple recurrent units for highly parallelizable recurrence, EMNLP 2018,
arXiv:1709.02755, eq. 1-4 and section 3.2.
"""

import numpy as np

from fusedrnn.reference.activations import sigmoid
from fusedrnn.reference.cells.cell import CELLS, Array, Arrays, OnePhaseCell

__all__ = ["SRU"]


class SRU(OnePhaseCell):
    """s is (h, c); h is an output only: the next step does not read it. Unit parameters v_f, v_r."""

    states, saved, unit_parameters = 2, 4, 2
    recurrent = False

    def __init__(self, wide: bool = False, highway: float = 3**0.5) -> None:
        self.name = "sru_wide" if wide else "sru"
        self.gates, self.skip = (4, 0) if wide else (3, 1)
        self.highway = 1.0 if wide else highway

    def forward(self, a: Arrays, s: Arrays, p: Arrays) -> tuple[Arrays, Arrays]:
        """Save the arguments of the sigmoids."""
        a_f, a_r = a[1] + p[0] * s[1], a[2] + p[1] * s[1]
        f, r = sigmoid(a_f), sigmoid(a_r)
        c = f * s[1] + (1 - f) * a[0]
        return (r * c + (1 - r) * (self._factor(a) * a[3]), c), (a[0], a_f, a_r, a[3])

    def backward(self, save: Arrays, s: Arrays, s_new: Arrays, p: Arrays, ds_new: Arrays) -> tuple[Arrays, Arrays]:
        """The gradient of c has three sources: c', f and r."""
        x, f, r, dh, factor = save[0], sigmoid(save[1]), sigmoid(save[2]), ds_new[0], self._factor(save)
        dc = ds_new[1] + dh * r
        da_f = dc * (s[1] - x) * f * (1 - f)
        da_r = dh * (s_new[1] - factor * save[3]) * r * (1 - r)
        ds = (np.zeros_like(dh), dc * f + da_f * p[0] + da_r * p[1])
        return (dc * (1 - f), da_f, da_r, dh * (1 - r) * factor), ds

    def unit_gradients(self, save: Arrays, s: Arrays, s_new: Arrays, p: Arrays, ds_new: Arrays, da: Arrays) -> Arrays:
        """The gradients of v_f and v_r."""
        return da[1] * s[1], da[2] * s[1]

    def gate_values(self, save: Arrays) -> dict[str, Array]:
        """f and r, and the candidate x."""
        return {"x": save[0], "f": sigmoid(save[1]), "r": sigmoid(save[2])}

    def _factor(self, like: Arrays) -> Array:
        """The factor of x, in the type of the arrays."""
        return np.asarray(self.highway, like[0].dtype)


CELLS["sru"], CELLS["sru_wide"] = SRU(), SRU(wide=True)
