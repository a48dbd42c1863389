"""minGRU and minLSTM, whose gates and candidate depend on x alone. The twin of `csrc/cells/mingru.h`.

    minGRU   z = sigmoid(a_z)                       h' = (1 - z) * h + z * g(a_h)                 gates z, h
    minLSTM  f = sigmoid(a_f)   i = sigmoid(a_i)    h' = f / (f + i) * h + i / (f + i) * g(a_h)   gates f, i, h

    g(a) = a + 1/2 where a >= 0, else sigmoid(a)                          a = W_ih x + b_ih

L. Feng et al., Were RNNs all we needed?, arXiv:2410.01201 (2024), section
3 and, for g, appendix B. Options: the identity, as in section 3, or tanh in place of g.
"""

from collections.abc import Callable

import numpy as np

from fusedrnn.reference.activations import sigmoid
from fusedrnn.reference.cells.cell import CELLS, Array, Arrays, OnePhaseCell

__all__ = ["CANDIDATES", "MinGRU", "MinLSTM"]

#: Name of a candidate's function -> the function and its derivative.
CANDIDATES: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "g": (
        lambda a: np.where(a < 0, sigmoid(a), a + a.dtype.type(0.5)),
        lambda a: np.where(a < 0, sigmoid(a) * (1 - sigmoid(a)), np.ones_like(a)),
    ),
    "identity": (lambda a: a, np.ones_like),
    "tanh": (np.tanh, lambda a: 1 - np.tanh(a) ** 2),
}


class MinGRU(OnePhaseCell):
    """One gate z."""

    name = "mingru"
    gates, states, saved = 2, 1, 2
    recurrent = False

    def __init__(self, activation: str = "g") -> None:
        self.candidate, self.slope = CANDIDATES[activation]

    def forward(self, a: Arrays, s: Arrays, p: Arrays) -> tuple[Arrays, Arrays]:
        """a: z, h."""
        z, g = sigmoid(a[0]), self.candidate(a[1])
        return ((1 - z) * s[0] + z * g,), (a[0], a[1])

    def backward(self, save: Arrays, s: Arrays, s_new: Arrays, p: Arrays, ds_new: Arrays) -> tuple[Arrays, Arrays]:
        """h reaches h' with the factor 1 - z."""
        z, g, dh = sigmoid(save[0]), self.candidate(save[1]), ds_new[0]
        return (dh * (g - s[0]) * z * (1 - z), dh * z * self.slope(save[1])), (dh * (1 - z),)

    def gate_values(self, save: Arrays) -> dict[str, Array]:
        """z, and the candidate g(a_h)."""
        return {"z": sigmoid(save[0]), "g": self.candidate(save[1])}


def _share(a_f: Array, a_i: Array) -> Array:
    """i / (f + i), also where both gates underflow: the sigmoid of log(i / f)."""
    zero = a_f.dtype.type(0)
    share: Array = sigmoid(np.logaddexp(zero, -a_f) - np.logaddexp(zero, -a_i))
    return share


class MinLSTM(OnePhaseCell):
    """Two gates f and i, normalised to the sum one."""

    name = "minlstm"
    gates, states, saved = 3, 1, 3
    recurrent = False

    def __init__(self, activation: str = "g") -> None:
        self.candidate, self.slope = CANDIDATES[activation]

    def forward(self, a: Arrays, s: Arrays, p: Arrays) -> tuple[Arrays, Arrays]:
        """a: f, i, h."""
        write = _share(a[0], a[1])
        return ((1 - write) * s[0] + write * self.candidate(a[2]),), (a[0], a[1], a[2])

    def backward(self, save: Arrays, s: Arrays, s_new: Arrays, p: Arrays, ds_new: Arrays) -> tuple[Arrays, Arrays]:
        """The gradient of the quotients has the factor f i / (f + i)^2."""
        f, i, g, dh = sigmoid(save[0]), sigmoid(save[1]), self.candidate(save[2]), ds_new[0]
        write = _share(save[0], save[1])
        forget = 1 - write
        d = dh * (s[0] - g) * forget * write
        return (d * (1 - f), -d * (1 - i), dh * write * self.slope(save[2])), (dh * forget,)

    def gate_values(self, save: Arrays) -> dict[str, Array]:
        """f and i before they are normalised, and the candidate g(a_h)."""
        return {"f": sigmoid(save[0]), "i": sigmoid(save[1]), "g": self.candidate(save[2])}


CELLS["mingru"], CELLS["minlstm"] = MinGRU(), MinLSTM()
