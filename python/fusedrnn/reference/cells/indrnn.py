"""IndRNN: one recurrent weight u for each unit. The twin of `csrc/cells/indrnn.h`.

    h' = relu(a + u * h)                                          a = W_ih x + b_ih

S. Li, W. Li, C. Cook, C. Zhu, Y. Gao, Independently recurrent neural network (IndRNN), CVPR 2018, arXiv:1803.04831,
eq. 4. tanh can replace relu.
"""

from fusedrnn.reference.activations import activation_of
from fusedrnn.reference.cells.cell import CELLS, Array, Arrays, OnePhaseCell

__all__ = ["IndRNN"]


class IndRNN(OnePhaseCell):
    """Its unit parameter is u."""

    name = "indrnn"
    gates, states, saved, unit_parameters = 1, 1, 1, 1
    recurrent = False

    def __init__(self, nonlinearity: str = "relu") -> None:
        self.function = activation_of(nonlinearity)

    def forward(self, a: Arrays, s: Arrays, p: Arrays) -> tuple[Arrays, Arrays]:
        """Save the argument of the function."""
        total = a[0] + p[0] * s[0]
        return (self.function(total),), (total,)

    def backward(self, save: Arrays, s: Arrays, s_new: Arrays, p: Arrays, ds_new: Arrays) -> tuple[Arrays, Arrays]:
        """h reaches h' with the factor u."""
        da = ds_new[0] * self.function.slope(save[0])
        return (da,), (da * p[0],)

    def unit_gradients(self, save: Arrays, s: Arrays, s_new: Arrays, p: Arrays, ds_new: Arrays, da: Arrays) -> Arrays:
        """The gradient of u."""
        return (da[0] * s[0],)

    def gate_values(self, save: Arrays) -> dict[str, Array]:
        """No gates."""
        return {}


CELLS["indrnn"] = IndRNN()
