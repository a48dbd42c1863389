"""minGRU and minLSTM: layers, cells and functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from .. import _validate
from ..elementwise import ElementwiseCell, ElementwiseLayer, Family, functions_of
from ..kinds import CellKind, elementwise_kind
from ..parameters import arguments_of
from ..specs import Bias

if TYPE_CHECKING:
    from ..reference.cells import Cell

#: Names of the functions of a candidate, the usual one first.
ACTIVATIONS = ("g", "identity", "tanh")


def candidate_options(owner: str, activation: object) -> dict[str, Any]:
    """The argument of MinGRU and MinLSTM by name, checked."""
    return {"activation": _validate.choice(owner, "activation", activation, ACTIVATIONS)}


def mingru_kind(wide: bool = False, activation: str = "g", bias: Bias = True) -> CellKind:
    """A minGRU; all arguments have been checked."""
    return elementwise_kind("mingru", bias, candidate=None if activation == "g" else activation)


def minlstm_kind(wide: bool = False, activation: str = "g", bias: Bias = True) -> CellKind:
    """A minLSTM; all arguments have been checked."""
    return elementwise_kind("minlstm", bias, candidate=None if activation == "g" else activation)


class MinGRU(ElementwiseLayer):
    """minGRU: gate z and candidate h of x alone, h' = (1 - z) * h + z * g(W_h x + b_h), z = sigmoid(W_z x + b_z).

    Parameters
    ----------
    input_size, hidden_size : int
        I and H, at least 1.
    num_layers : int
        L; the input of each layer is the output of the layer below.
    bias : bool
        Whether there is ``bias_ih``. "single" means True.
    batch_first : bool
        Whether x and y are (B, T, ...) instead of (T, B, ...).
    dropout : float
        0 <= dropout < 1; acts in ``forward``, on the outputs of all layers but the last.
    bidirectional : bool
        Whether each layer runs in both directions of time.
    merge : "concat", "sum", "mean", "mul" or None
        How the outputs of the two directions are merged, as for `GRU`.
    activation : "g", "identity" or "tanh"
        The function of the candidate: g(a) = a + 1/2 for a >= 0, else sigmoid(a), which keeps h positive (the paper's
        appendix B); the identity (section 3.1); or tanh.
    backwards : bool
        Whether a one-directional layer runs from the last step to the first; its outputs are aligned with its inputs.
    learned_state : bool
        Whether the initial state is a parameter, ``h_0_l0`` (H,), as for `GRU`.
    dtype : float32 or float64
    rng : int, numpy.random.Generator or None
        Draws the initial parameters from U(-1/sqrt(inputs), 1/sqrt(inputs)), and dropout masks.

    Raises
    ------
    TypeError
        An argument is of the wrong type.
    ValueError
        An argument is out of range.
    MemoryError
        The parameters do not fit into memory.

    Notes
    -----
    Feng et al., Were RNNs all we needed?, 2024, arXiv:2410.01201. Parameters: ``weight_ih_l0`` (2*H, I) and
    ``bias_ih_l0`` (2*H,), rows z, h. There is no recurrent matrix, so threads never wait for each other.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> layer = fusedrnn.MinGRU(3, 5, num_layers=2)
    >>> y, h = layer(np.zeros((7, 2, 3), np.float32))
    >>> y.shape, h.shape, layer.weight_ih_l1.shape
    ((7, 2, 5), (2, 2, 5), (10, 5))
    """

    _cell = "mingru"
    activation: str

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
        activation: str = "g",
        backwards: bool = False,
        learned_state: bool = False,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        given = locals()
        self._construct_elementwise(given, lambda _: candidate_options(type(self).__name__, activation))

    _arguments = arguments_of(__init__)

    def _choose_kind(self) -> CellKind:
        return mingru_kind(activation=self.activation, bias=self.bias)

    def _reference_cell(self) -> Cell:
        from ..reference.cells import mingru

        return mingru.MinGRU(self.activation)


class MinLSTM(ElementwiseLayer):
    """minLSTM: gates f, i and candidate h of x alone, h' = (f * h + i * g(W_h x + b_h)) / (f + i).

    f = sigmoid(W_f x + b_f) and i = sigmoid(W_i x + b_i); divided by their sum, the gates add up to one.

    Parameters
    ----------
    input_size, hidden_size, num_layers : int
    bias, batch_first : bool
    dropout : float
    bidirectional : bool
    merge : "concat", "sum", "mean", "mul" or None
        All as for `MinGRU`.
    activation : "g", "identity" or "tanh"
        The function of the candidate, as for `MinGRU`.
    backwards, learned_state : bool
    dtype : float32 or float64
    rng : int, numpy.random.Generator or None
        All as for `MinGRU`.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As for `MinGRU`.

    Notes
    -----
    Feng et al., Were RNNs all we needed?, 2024, arXiv:2410.01201, section 3.2. Parameters: ``weight_ih_l0`` (3*H, I)
    and ``bias_ih_l0`` (3*H,), rows f, i, h. The state is h alone.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> layer = fusedrnn.MinLSTM(3, 5, activation="identity")
    >>> y, h = layer(np.zeros((7, 2, 3), np.float32))
    >>> y.shape, h.shape
    ((7, 2, 5), (1, 2, 5))
    """

    _cell = "minlstm"
    activation: str

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
        activation: str = "g",
        backwards: bool = False,
        learned_state: bool = False,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        given = locals()
        self._construct_elementwise(given, lambda _: candidate_options(type(self).__name__, activation))

    _arguments = arguments_of(__init__)

    def _choose_kind(self) -> CellKind:
        return minlstm_kind(activation=self.activation, bias=self.bias)

    def _reference_cell(self) -> Cell:
        from ..reference.cells import mingru

        return mingru.MinLSTM(self.activation)


class MinGRUCell(ElementwiseCell):
    """One step of a minGRU; see `MinGRU`.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H, at least 1.
    bias : bool
        Whether there is ``bias_ih``. "single" means True.
    activation : "g", "identity" or "tanh"
        As for `MinGRU`.
    dtype : float32 or float64
    rng : int, numpy.random.Generator or None
        Draws the initial parameters as for `MinGRU`.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As for `MinGRU`.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> fusedrnn.MinGRUCell(3, 5)(np.ones((2, 3), np.float32)).shape
    (2, 5)
    """

    activation: str
    _cell = "mingru"
    _layer = MinGRU

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: Bias = True,
        *,
        activation: str = "g",
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        options = candidate_options(type(self).__name__, activation)
        self._construct(input_size, hidden_size, bias, dtype, rng, **options)

    _arguments = arguments_of(__init__)

    def _choose_kind(self) -> CellKind:
        return mingru_kind(activation=self.activation, bias=self.bias)


class MinLSTMCell(ElementwiseCell):
    """One step of a minLSTM; see `MinLSTM`.

    Parameters
    ----------
    input_size, hidden_size : int
    bias : bool
    activation : "g", "identity" or "tanh"
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
    >>> fusedrnn.MinLSTMCell(3, 5)(np.ones((2, 3), np.float32)).shape
    (2, 5)
    """

    activation: str
    _cell = "minlstm"
    _layer = MinLSTM

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: Bias = True,
        *,
        activation: str = "g",
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        options = candidate_options(type(self).__name__, activation)
        self._construct(input_size, hidden_size, bias, dtype, rng, **options)

    _arguments = arguments_of(__init__)

    def _choose_kind(self) -> CellKind:
        return minlstm_kind(activation=self.activation, bias=self.bias)


mingru_forward, mingru_backward = functions_of(
    Family("mingru", {"activation": "g"}, candidate_options, mingru_kind),
    "minGRU: h_t = (1 - z) * h_{t-1} + z * g(a_h), z = sigmoid(a_z), a = W_ih x_t + b_ih.",
    "Rows z, h.",
    __name__,
)
minlstm_forward, minlstm_backward = functions_of(
    Family("minlstm", {"activation": "g"}, candidate_options, minlstm_kind),
    "minLSTM: h_t = (f * h_{t-1} + i * g(a_h)) / (f + i), f and i = sigmoid(a), a = W_ih x_t + b_ih.",
    "Rows f, i, h.",
    __name__,
)
