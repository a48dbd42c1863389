"""Simple recurrent units: layer, cell and functions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from .. import _validate
from ..elementwise import ElementwiseCell, ElementwiseLayer, Family, between, draw_linear, functions_of
from ..kinds import CellKind, elementwise_kind
from ..parameters import arguments_of
from ..specs import Bias

if TYPE_CHECKING:
    from ..reference.cells import Cell


def sru_options(owner: str, highway_bias: object, rescale: object) -> dict[str, Any]:
    """Arguments of SRU by name, checked."""
    return {
        "highway_bias": between(owner, "highway_bias", highway_bias, -100.0, 100.0),
        "rescale": _validate.flag(owner, "rescale", rescale),
    }


def highway_factor(highway_bias: float, rescale: bool) -> float:
    """The factor of x on the highway."""
    return math.sqrt(1 + 2 * math.exp(highway_bias)) if rescale else 1.0


def sru_kind(wide: bool, highway_bias: float = 0.0, rescale: bool = True, bias: Bias = True) -> CellKind:
    """A simple recurrent unit; all arguments have been checked."""
    return elementwise_kind("sru_wide" if wide else "sru", bias, highway_bias=highway_bias if rescale else -math.inf)


class SRU(ElementwiseLayer):
    """Simple recurrent unit: c' = f * c + (1 - f) * (W x), h' = r * c' + (1 - r) * s * x, a highway around c'.

    f = sigmoid(W_f x + b_f + v_f * c), r = sigmoid(W_r x + b_r + v_r * c). s is sqrt(1 + 2 exp(highway_bias)), or 1
    without `rescale`. The state is the pair (h, c); no step reads the old h.

    Parameters
    ----------
    input_size, hidden_size, num_layers : int
    bias, batch_first : bool
    dropout : float
    bidirectional : bool
    merge : "concat", "sum", "mean", "mul" or None
        All as for `MinGRU`.
    highway_bias : float
        Initial value of b_r, -100 to 100; negative values let x pass at the start of training.
    rescale : bool
        Whether x on the highway is multiplied by s, so that h' has about the variance of x at the start of training.
    backwards, learned_state : bool
    dtype : float32 or float64
        As for `MinGRU`.
    rng : int, numpy.random.Generator or None
        Draws the initial parameters as the authors' code: ``weight_ih`` from U(-sqrt(3/inputs), sqrt(3/inputs)), rows
        of f and r times sqrt(1/2), rows of w times s, v from U(-sqrt(3/2), sqrt(3/2)); and dropout masks. The other
        biases start at zero.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As for `MinGRU`.

    Notes
    -----
    Lei et al., Simple recurrent units for highly parallelizable recurrence, EMNLP 2018, arXiv:1709.02755. Parameters:
    ``weight_ih_l0`` (3*H, I) and ``bias_ih_l0`` (3*H,), rows of the candidate, f, r; ``weight_unit_l0`` (2, H), rows
    v_f, v_r. If some layer has more or fewer than H inputs, as the layers above the first have with ``bidirectional``
    and ``merge="concat"``, a product W_w x stands for s * x, and ``weight_ih`` has a fourth block of rows.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> fusedrnn.SRU(5, 5).weight_ih_l0.shape, fusedrnn.SRU(3, 5).weight_ih_l0.shape
    ((15, 5), (20, 3))
    >>> y, (h, c) = fusedrnn.SRU(5, 5, num_layers=2)(np.zeros((7, 2, 5), np.float32))
    >>> y.shape, c.shape
    ((7, 2, 5), (2, 2, 5))
    """

    _cell = "sru"
    highway_bias: float
    rescale: bool
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
        highway_bias: float = 0.0,
        rescale: bool = True,
        backwards: bool = False,
        learned_state: bool = False,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        given = locals()
        self._construct_elementwise(given, lambda _: sru_options(type(self).__name__, highway_bias, rescale))

    _arguments = arguments_of(__init__)

    def _choose_kind(self) -> CellKind:
        return sru_kind(self._is_wide, self.highway_bias, self.rescale, self.bias)

    def _draw_own(self) -> None:
        draw_linear(self, gain=math.sqrt(3))
        H = self.hidden_size
        for spec in self._specs:
            array = self.params[spec.name]
            if spec.role == "W_ih":
                array[H : 3 * H] *= math.sqrt(0.5)
                array[3 * H :] *= highway_factor(self.highway_bias, self.rescale)
            elif spec.role == "b_ih":
                array[:] = 0
                array[2 * H : 3 * H] = self.highway_bias
            elif spec.role == "units":
                array[:] = self.rng.uniform(-math.sqrt(1.5), math.sqrt(1.5), spec.shape)

    def _reference_cell(self) -> Cell:
        from ..reference.cells import sru

        return sru.SRU(self._is_wide, highway_factor(self.highway_bias, self.rescale))


class SRUCell(ElementwiseCell):
    """One step of a simple recurrent unit; see `SRU`. The state is the pair (h, c).

    Parameters
    ----------
    input_size, hidden_size : int
    bias : bool
    highway_bias : float
    rescale : bool
    dtype : float32 or float64
    rng : int, numpy.random.Generator or None
        All as for `SRU`.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As for `MinGRU`.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> h, c = fusedrnn.SRUCell(5, 5)(np.ones((2, 5), np.float32))
    >>> h.shape, c.shape
    ((2, 5), (2, 5))
    """

    highway_bias: float
    rescale: bool
    _cell = "sru"
    _layer = SRU

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: Bias = True,
        *,
        highway_bias: float = 0.0,
        rescale: bool = True,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        options = sru_options(type(self).__name__, highway_bias, rescale)
        self._construct(input_size, hidden_size, bias, dtype, rng, **options)

    _arguments = arguments_of(__init__)

    def _choose_kind(self) -> CellKind:
        return sru_kind(self._is_wide, self.highway_bias, self.rescale, self.bias)


sru_forward, sru_backward = functions_of(
    Family("sru", {"highway_bias": 0.0, "rescale": True}, sru_options, sru_kind, "sru_wide"),
    "SRU: c_t = f * c_{t-1} + (1 - f) * a_x, h_t = r * c_t + (1 - r) * s * x_t; f, r = sigmoid(a + v * c_{t-1}).",
    "Rows x, f, r; or x, f, r, w, where W_w x_t stands for s * x_t. v_f, v_r are the rows of W_unit.",
    __name__,
)
