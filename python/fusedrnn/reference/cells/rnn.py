"""The simple recurrent network. The twin of `csrc/cells/rnn.h`.

    h' = tanh(a),   a = W_ih x + b_ih + W_hh h + b_hh,   or another function in place of tanh

J. L. Elman, Finding structure in time, Cognitive Science 14 (1990); there with the logistic function for tanh.
The rectified form: Q. V. Le, N. Jaitly, G. E. Hinton, arXiv:1504.00941 (2015).
"""

from typing import Any

import numpy as np

from fusedrnn.reference.activations import Activation, activation_of
from fusedrnn.reference.cells.cell import CELLS, Array, Arrays, Cell, OnePhaseCell

__all__ = ["RNN", "rnn_cell"]


class RNN(OnePhaseCell):
    """h' = activation(a)."""

    gates, states, saved = 1, 1, 1

    def __init__(self, activation: Activation) -> None:
        self.activation = activation
        self.name = f"rnn_{activation.name}"

    def forward(self, a: Arrays, s: Arrays, p: Arrays) -> tuple[Arrays, Arrays]:
        """The slope follows from a."""
        return (self.activation(a[0]),), (a[0],)

    def backward(self, save: Arrays, s: Arrays, s_new: Arrays, p: Arrays, ds_new: Arrays) -> tuple[Arrays, Arrays]:
        """All of h goes through a, so ds is zero."""
        da = ds_new[0] * self.activation.slope(save[0])
        return (da,), (np.zeros_like(da),)

    def gate_values(self, save: Arrays) -> dict[str, Array]:
        """No gates."""
        return {}


def rnn_cell(nonlinearity: str = "tanh", activation: Any = None, clip: float | None = None) -> Cell:
    """An RNN; arguments are those of `rnn_forward`."""
    return RNN(activation_of(nonlinearity if activation is None else activation, clip))


CELLS["rnn_tanh"], CELLS["rnn_relu"] = rnn_cell(), rnn_cell("relu")
