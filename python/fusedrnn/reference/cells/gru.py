"""The gated recurrent unit in its three forms. The twin of `csrc/cells/gru.h`; gates in torch's order r, z, n.

    r = sigmoid(a_r)   z = sigmoid(a_z)   h' = (1 - z) * n + z * h         a = W_ih x + b_ih + W_hh h + b_hh

    reset after the product:   n = tanh(W_in x + b_in + r * u),   u = W_hn h + b_hn
    reset before the product:  n = tanh(W_in x + b_in + W_hn (r * h) + b_hn)
    simple, without r:         n = tanh(W_in x + b_in + W_hn h + b_hn), gates in the order z, n

Before: K. Cho et al., Learning phrase representations using RNN encoder-decoder, EMNLP 2014, arXiv:1406.1078, eq. 5-8.
After: the form of cuDNN and torch.nn.GRU, where one product per step is enough and b_hn is not the same as b_in.
Simple: the form in which textbooks introduce the unit, before they add the reset (or relevance) gate.
Other functions can replace sigmoid (`gate`) and tanh (`state`).
"""

from typing import Any

from fusedrnn.reference.activations import Activation, activation_of
from fusedrnn.reference.cells.cell import CELLS, Array, Arrays, Cell, OnePhaseCell, TwoPhaseCell

__all__ = ["GRUAfter", "GRUBefore", "GRUSimple", "gru_cell"]


class GRUAfter(OnePhaseCell):
    """The reset gate acts on the recurrent product."""

    name = "gru_after"
    gates, states, saved, split = 3, 1, 4, 1
    norm_groups = ((0, 1), (2,))

    def __init__(self, gate: Activation, state: Activation) -> None:
        self.gate, self.state = gate, state

    def forward(self, a: Arrays, s: Arrays, p: Arrays) -> tuple[Arrays, Arrays]:
        """a: r, z, n's input part, n's recurrent part u."""
        r, z, u = self.gate(a[0]), self.gate(a[1]), a[3]
        a_n = a[2] + r * u
        n = self.state(a_n)
        return ((1 - z) * n + z * s[0],), (a[0], a[1], a_n, u)

    def backward(self, save: Arrays, s: Arrays, s_new: Arrays, p: Arrays, ds_new: Arrays) -> tuple[Arrays, Arrays]:
        """The gradient for W_hn and b_hn is du = r * da_n, that for W_in and b_in is da_n."""
        a_r, a_z, a_n, u = save
        r, z, n, dh = self.gate(a_r), self.gate(a_z), self.state(a_n), ds_new[0]
        da_n = dh * (1 - z) * self.state.slope(a_n)
        da_r = da_n * u * self.gate.slope(a_r)
        da_z = dh * (s[0] - n) * self.gate.slope(a_z)
        return (da_r, da_z, da_n, da_n * r), (dh * z,)

    def gate_values(self, save: Arrays) -> dict[str, Array]:
        """r, z, n."""
        return {"r": self.gate(save[0]), "z": self.gate(save[1]), "n": self.state(save[2])}


class GRUBefore(TwoPhaseCell):
    """The reset gate acts on the state: two products per step, one after the other."""

    name = "gru_before"
    gates, states, saved = 3, 1, 3

    def __init__(self, gate: Activation, state: Activation) -> None:
        self.gate_function, self.state = gate, state

    def gate(self, a: Arrays, s: Arrays) -> tuple[Array, Arrays]:
        """a: r, z; the operand is r * h."""
        return self.gate_function(a[0]) * s[0], (a[0], a[1])

    def forward(self, a: Arrays, s: Arrays, save: Arrays) -> tuple[Arrays, Arrays]:
        """a: n."""
        z, n = self.gate_function(save[1]), self.state(a[0])
        return ((1 - z) * n + z * s[0],), (a[0],)

    def backward(self, save: Arrays, s: Arrays, ds_new: Arrays) -> tuple[Arrays, Arrays]:
        """da_n comes first: the gradient of r needs its product with W_hn."""
        _, a_z, a_n = save
        z, dh = self.gate_function(a_z), ds_new[0]
        return (dh * (1 - z) * self.state.slope(a_n),), (dh * z,)

    def backward_gate(
        self, save: Arrays, s: Arrays, ds_new: Arrays, doperand: Array, ds: Arrays
    ) -> tuple[Arrays, Arrays]:
        """The operand is r * h, so its gradient goes to r and to h."""
        a_r, a_z, a_n = save
        r, n, dh = self.gate_function(a_r), self.state(a_n), ds_new[0]
        da_r = doperand * s[0] * self.gate_function.slope(a_r)
        da_z = dh * (s[0] - n) * self.gate_function.slope(a_z)
        return (da_r, da_z), (doperand * r + ds[0],)

    def gate_values(self, save: Arrays) -> dict[str, Array]:
        """r, z, n."""
        return {"r": self.gate_function(save[0]), "z": self.gate_function(save[1]), "n": self.state(save[2])}


class GRUSimple(OnePhaseCell):
    """No reset gate."""

    name = "gru_simple"
    gates, states, saved = 2, 1, 2

    def __init__(self, gate: Activation, state: Activation) -> None:
        self.gate, self.state = gate, state

    def forward(self, a: Arrays, s: Arrays, p: Arrays) -> tuple[Arrays, Arrays]:
        """a: z, n."""
        z, n = self.gate(a[0]), self.state(a[1])
        return ((1 - z) * n + z * s[0],), (a[0], a[1])

    def backward(self, save: Arrays, s: Arrays, s_new: Arrays, p: Arrays, ds_new: Arrays) -> tuple[Arrays, Arrays]:
        """h reaches h' past n with the factor z."""
        a_z, a_n = save
        z, n, dh = self.gate(a_z), self.state(a_n), ds_new[0]
        return (dh * (s[0] - n) * self.gate.slope(a_z), dh * (1 - z) * self.state.slope(a_n)), (dh * z,)

    def gate_values(self, save: Arrays) -> dict[str, Array]:
        """z, n."""
        return {"z": self.gate(save[0]), "n": self.state(save[1])}


def gru_cell(
    reset_after: bool = True,
    reset_gate: bool = True,
    activation: Any = None,
    recurrent_activation: Any = "sigmoid",
    clip: float | None = None,
) -> Cell:
    """A GRU of one of the three forms; arguments are those of `gru_forward`."""
    form = GRUSimple if not reset_gate else GRUAfter if reset_after else GRUBefore
    return form(activation_of(recurrent_activation, clip), activation_of(activation or "tanh", clip))


CELLS["gru_after"] = gru_cell()
CELLS["gru_before"] = gru_cell(reset_after=False)
CELLS["gru_simple"] = gru_cell(reset_gate=False)
