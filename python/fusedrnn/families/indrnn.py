"""Independently recurrent networks: layer, cell and functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from .. import _validate
from ..elementwise import ElementwiseCell, ElementwiseLayer, Family, draw_linear, functions_of
from ..kinds import CellKind, elementwise_kind
from ..parameters import arguments_of
from ..specs import Bias

if TYPE_CHECKING:
    from ..reference.cells import Cell


def indrnn_options(owner: str, nonlinearity: object) -> dict[str, Any]:
    """The argument of IndRNN by name, checked."""
    return {"nonlinearity": _validate.choice(owner, "nonlinearity", nonlinearity, ("relu", "tanh"))}


def indrnn_kind(wide: bool = False, nonlinearity: str = "relu", bias: Bias = True) -> CellKind:
    """An independently recurrent network; all arguments have been checked."""
    return elementwise_kind("indrnn", bias, candidate=None if nonlinearity == "relu" else nonlinearity)


class IndRNN(ElementwiseLayer):
    """Independently recurrent network: h' = relu(W_ih x + b_ih + u * h), with one recurrent weight u for each unit.

    Parameters
    ----------
    input_size, hidden_size, num_layers : int
    bias, batch_first : bool
    dropout : float
    bidirectional : bool
    merge : "concat", "sum", "mean", "mul" or None
        All as for `MinGRU`.
    nonlinearity : "relu" or "tanh"
    backwards, learned_state : bool
    dtype : float32 or float64
        As for `MinGRU`.
    rng : int, numpy.random.Generator or None
        Draws ``weight_ih`` and ``bias_ih`` from U(-1/sqrt(inputs), 1/sqrt(inputs)), u from U(0, 1), and dropout masks.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As for `MinGRU`.

    Notes
    -----
    Li et al., Independently recurrent neural network (IndRNN), CVPR 2018, arXiv:1803.04831. Parameters:
    ``weight_ih_l0`` (H, I), ``bias_ih_l0`` (H,) and ``weight_unit_l0`` (1, H), the weights u. With relu, |u| above one
    makes h grow over time; the paper keeps it below 2^(1/T), T the number of steps (its section 3.2).

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> layer = fusedrnn.IndRNN(3, 5, num_layers=6, nonlinearity="relu")
    >>> y, h = layer(np.zeros((7, 2, 3), np.float32))
    >>> y.shape, h.shape, layer.weight_unit_l0.shape
    ((7, 2, 5), (6, 2, 5), (1, 5))
    """

    _cell = "indrnn"
    nonlinearity: str

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: Bias = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        merge: str | None = "concat",
        nonlinearity: str = "relu",
        backwards: bool = False,
        learned_state: bool = False,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        given = locals()
        self._construct_elementwise(given, lambda _: indrnn_options(type(self).__name__, nonlinearity))

    _arguments = arguments_of(__init__)

    def _choose_kind(self) -> CellKind:
        return indrnn_kind(nonlinearity=self.nonlinearity, bias=self.bias)

    def _draw_own(self) -> None:
        draw_linear(self)
        for spec in self._specs:
            if spec.role == "units":
                self.params[spec.name][:] = self.rng.uniform(0, 1, spec.shape)

    def _reference_cell(self) -> Cell:
        from ..reference.cells import indrnn

        return indrnn.IndRNN(self.nonlinearity)


class IndRNNCell(ElementwiseCell):
    """One step of an independently recurrent network; see `IndRNN`.

    Parameters
    ----------
    input_size, hidden_size : int
    bias : bool
    nonlinearity : "relu" or "tanh"
    dtype : float32 or float64
    rng : int, numpy.random.Generator or None
        All as for `IndRNN`.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As for `MinGRU`.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> fusedrnn.IndRNNCell(3, 5, nonlinearity="tanh")(np.ones((2, 3), np.float32)).shape
    (2, 5)
    """

    nonlinearity: str
    _cell = "indrnn"
    _layer = IndRNN

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: Bias = True,
        *,
        nonlinearity: str = "relu",
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        options = indrnn_options(type(self).__name__, nonlinearity)
        self._construct(input_size, hidden_size, bias, dtype, rng, **options)

    _arguments = arguments_of(__init__)

    def _choose_kind(self) -> CellKind:
        return indrnn_kind(nonlinearity=self.nonlinearity, bias=self.bias)


indrnn_forward, indrnn_backward = functions_of(
    Family("indrnn", {"nonlinearity": "relu"}, indrnn_options, indrnn_kind),
    "IndRNN: h_t = relu(W_ih x_t + b_ih + u * h_{t-1}), u = W_unit[0].",
    "One row for each unit.",
    __name__,
)
