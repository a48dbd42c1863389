"""Real-gated linear recurrent unit. The twin of `csrc/cells/rglru.h`; gates r, i and, unless x itself is the input, x~.

    r = sigmoid(a_r)   i = sigmoid(a_i)   decay = exp(-8 softplus(Lambda) r)
    h' = decay * h + sqrt(1 - decay^2) * i * x                    a = W_ih x + b_ih

with a_x in place of x where the widths of input and output differ. As in the authors' code, the slope of the square
root is limited to 1000, so that a gradient stays finite where the decay is one.

S. De et al., Griffin: mixing gated linear recurrences with local attention for efficient language models,
arXiv:2402.19427 (2024), eq. 1-4; decay = sigmoid(Lambda)^(8 r) there, with the sign of Lambda turned.
"""

import numpy as np

from fusedrnn.reference.activations import sigmoid
from fusedrnn.reference.cells.cell import CELLS, Array, Arrays, OnePhaseCell

__all__ = ["RGLRU"]


class RGLRU(OnePhaseCell):
    """The real-gated linear recurrent unit of Griffin and RecurrentGemma. Unit parameter Lambda."""

    states, saved, unit_parameters = 1, 3, 1
    recurrent = False

    def __init__(self, wide: bool = False) -> None:
        self.name = "rglru_wide" if wide else "rglru"
        self.gates, self.skip = (3, 0) if wide else (2, 1)

    def forward(self, a: Arrays, s: Arrays, p: Arrays) -> tuple[Arrays, Arrays]:
        """a: r, i, x."""
        decay, write = self._factors(sigmoid(a[0]), p)
        return (decay * s[0] + write * (sigmoid(a[1]) * a[2]),), (a[0], a[1], a[2])

    def backward(self, save: Arrays, s: Arrays, s_new: Arrays, p: Arrays, ds_new: Arrays) -> tuple[Arrays, Arrays]:
        """h reaches h' with the factor decay."""
        r, i, x, dh = sigmoid(save[0]), sigmoid(save[1]), save[2], ds_new[0]
        decay, write = self._factors(r, p)
        du = self._exponent_gradient(save, s, p, dh)
        da_r = du * 8 * np.logaddexp(0, p[0]) * r * (1 - r)
        return (da_r, dh * write * x * i * (1 - i), dh * write * i), (dh * decay,)

    def unit_gradients(self, save: Arrays, s: Arrays, s_new: Arrays, p: Arrays, ds_new: Arrays, da: Arrays) -> Arrays:
        """The gradient of Lambda."""
        return (self._exponent_gradient(save, s, p, ds_new[0]) * sigmoid(save[0]) * 8 * sigmoid(p[0]),)

    def gate_values(self, save: Arrays) -> dict[str, Array]:
        """r, i."""
        return {"r": sigmoid(save[0]), "i": sigmoid(save[1])}

    def _factors(self, r: Array, p: Arrays) -> tuple[Array, Array]:
        """decay, and sqrt(1 - decay^2)."""
        u = 8 * np.logaddexp(0, p[0]) * r
        return np.exp(-u), np.sqrt(-np.expm1(-2 * u))

    def _exponent_gradient(self, save: Arrays, s: Arrays, p: Arrays, dh: Array) -> Array:
        """The gradient of u in decay = exp(-u)."""
        decay, write = self._factors(sigmoid(save[0]), p)
        slope = decay**2 / np.maximum(write, write.dtype.type(0.0005))
        gradient: Array = dh * (slope * sigmoid(save[1]) * save[2] - decay * s[0])
        return gradient


CELLS["rglru"], CELLS["rglru_wide"] = RGLRU(), RGLRU(wide=True)
