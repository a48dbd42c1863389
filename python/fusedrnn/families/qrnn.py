"""Quasi-recurrent networks with fo-pooling: layer, cell and functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from .. import _validate
from ..elementwise import ElementwiseCell, ElementwiseLayer, Family, functions_of
from ..kinds import CellKind, elementwise_kind
from ..masks import Rates
from ..parameters import arguments_of
from ..specs import Bias

if TYPE_CHECKING:
    from ..reference.cells import Cell


def no_options(owner: str) -> dict[str, Any]:
    """The functions and the cell have no options."""
    return {}


def qrnn_options(owner: str, window: object) -> dict[str, Any]:
    """Arguments of the functions by name, checked."""
    return {"window": _validate.size(owner, "window", window)}


def qrnn_kind(wide: bool = False, window: int = 1, bias: Bias = True) -> CellKind:
    """A quasi-recurrent network; all arguments have been checked."""
    return elementwise_kind("qrnn", bias, window=window)


class QRNN(ElementwiseLayer):
    """Quasi-recurrent network with fo-pooling: c' = f * c + (1 - f) * z and h' = o * c'; gates z, f, o of x alone.

    z = tanh(W_z x + b_z), f = sigmoid(W_f x + b_f), o likewise. The state is the pair (h, c); no step reads the old h.
    With a `window` x stands for the inputs of the last steps, side by side: the products are a causal convolution.

    Parameters
    ----------
    input_size, hidden_size, num_layers : int
    bias, batch_first : bool
    dropout : float
    bidirectional : bool
    merge : "concat", "sum", "mean", "mul" or None
        All as for `MinGRU`.
    backwards, learned_state : bool
        As for `MinGRU`.
    zoneout : float
        Probability that a unit keeps its c at a step of ``forward``: its f becomes one, and h' = o * c. In inference f
        becomes zoneout + (1 - zoneout) * f.
    window : int
        Steps whose inputs a gate sees, at least 1: x_{t-window+1} to x_t, in the second direction x_{t+window-1} to
        x_t. Zeros stand for the inputs before a sequence begins; skipped steps are left out, and a reset begins anew.
    dtype : float32 or float64
    rng : int, numpy.random.Generator or None
        All as for `MinGRU`.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As for `MinGRU`.

    Notes
    -----
    Bradbury et al., Quasi-recurrent neural networks, ICLR 2017, arXiv:1611.01576. Parameters: ``weight_ih_l0``
    (3*H, window*I) and ``bias_ih_l0`` (3*H,), rows z, f, o. The columns of the oldest input come first: from the weight
    of a torch Conv1d, (3*H, I, window), ``weight.transpose(0, 2, 1).reshape(3*H, -1)``.

    A state has no inputs, so a call that continues from a state begins with an empty window, as in the authors' code. A
    stream keeps its last inputs, and its steps give the bits of one call over the whole sequence.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> layer = fusedrnn.QRNN(3, 5, zoneout=0.1)
    >>> y, (h, c) = layer(np.zeros((7, 2, 3), np.float32))
    >>> y.shape, c.shape
    ((7, 2, 5), (1, 2, 5))
    """

    _cell = "qrnn"
    zoneout: float
    window: int
    _states = ("h", "c")

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
        backwards: bool = False,
        learned_state: bool = False,
        zoneout: float = 0.0,
        window: int = 1,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        given = locals()
        owner = type(self).__name__
        own = {"zoneout": _validate.probability(owner, "zoneout", zoneout)} | qrnn_options(owner, window)
        self._construct_elementwise(given, lambda _: own)

    _arguments = arguments_of(__init__)

    def _choose_kind(self) -> CellKind:
        return qrnn_kind(bias=self.bias, window=self.window)

    @property
    def _rates(self) -> Rates:
        return Rates(0.0, 0.0, (0.0, self.zoneout), self.dropout if self.num_layers > 1 else 0.0)

    def _reference_cell(self) -> Cell:
        from ..reference.cells import qrnn

        return qrnn.QRNN()


class QRNNCell(ElementwiseCell):
    """One step of a quasi-recurrent network; see `QRNN`. The state is the pair (h, c).

    A step has one input, so a cell has no ``window``; the stream of a layer has.

    Parameters
    ----------
    input_size, hidden_size : int
    bias : bool
    dtype : float32 or float64
    rng : int, numpy.random.Generator or None
        All as for `MinGRUCell`.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As for `MinGRU`.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> h, c = fusedrnn.QRNNCell(3, 5)(np.ones((2, 3), np.float32))
    >>> h.shape, c.shape
    ((2, 5), (2, 5))
    """

    _cell = "qrnn"
    _layer = QRNN

    def _choose_kind(self) -> CellKind:
        return qrnn_kind(bias=self.bias)


qrnn_forward, qrnn_backward = functions_of(
    Family("qrnn", {"window": 1}, qrnn_options, qrnn_kind, zoneout=True),
    "QRNN with fo-pooling: c_t = f * c_{t-1} + (1 - f) * z, h_t = o * c_t; z = tanh(a_z), f and o = sigmoid(a).",
    "Rows z, f, o.",
    __name__,
)
