"""Real-gated linear recurrent units: layer, cell and functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..elementwise import ElementwiseCell, ElementwiseLayer, Family, draw_linear, functions_of
from ..kinds import CellKind, elementwise_kind
from ..specs import Bias
from .qrnn import no_options

if TYPE_CHECKING:
    from ..reference.cells import Cell


def rglru_kind(wide: bool, bias: Bias = True) -> CellKind:
    """A real-gated linear recurrent unit; all arguments have been checked."""
    return elementwise_kind("rglru_wide" if wide else "rglru", bias)


class RGLRU(ElementwiseLayer):
    """Real-gated linear recurrent unit: h' = a * h + sqrt(1 - a^2) * i * x, a = exp(-8 softplus(Lambda) * r).

    r = sigmoid(W_r x + b_r), i = sigmoid(W_i x + b_i).

    Parameters
    ----------
    input_size, hidden_size, num_layers : int
    bias, batch_first : bool
    dropout : float
    bidirectional : bool
    merge : "concat", "sum", "mean", "mul" or None
        All as for `MinGRU`.
    backwards, learned_state : bool
    dtype : float32 or float64
        As for `MinGRU`.
    rng : int, numpy.random.Generator or None
        Draws ``weight_ih`` and ``bias_ih`` from U(-1/sqrt(inputs), 1/sqrt(inputs)), Lambda so that a is between 0.9 and
        0.999 for r = 1, uniformly, and dropout masks.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As for `MinGRU`.

    Notes
    -----
    De et al., Griffin, 2024, arXiv:2402.19427, section 2.4; RecurrentGemma. Parameters: ``weight_ih_l0`` (2*H, I) and
    ``bias_ih_l0`` (2*H,), rows r, i; ``weight_unit_l0`` (1, H), Lambda. If some layer has more or fewer than H inputs,
    as the layers above the first have with ``bidirectional`` and ``merge="concat"``, a product W_x x stands for x, and
    ``weight_ih`` has a third block of rows. In gradients, the slope of the square root is at most 1000, as in the
    authors' code.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> layer = fusedrnn.RGLRU(5, 5)
    >>> y, h = layer(np.zeros((7, 2, 5), np.float32))
    >>> y.shape, layer.weight_ih_l0.shape, layer.weight_unit_l0.shape
    ((7, 2, 5), (10, 5), (1, 5))
    """

    _cell = "rglru"

    def _choose_kind(self) -> CellKind:
        return rglru_kind(self._is_wide, self.bias)

    def _draw_own(self) -> None:
        draw_linear(self)
        for spec in self._specs:
            if spec.role == "units":
                decay = self.rng.uniform(0.9, 0.999, spec.shape)
                self.params[spec.name][:] = np.log(np.expm1(-np.log(decay) / 8))

    def _reference_cell(self) -> Cell:
        from ..reference.cells import rglru

        return rglru.RGLRU(self._is_wide)


class RGLRUCell(ElementwiseCell):
    """One step of a real-gated linear recurrent unit; see `RGLRU`.

    Parameters
    ----------
    input_size, hidden_size : int
    bias : bool
    dtype : float32 or float64
    rng : int, numpy.random.Generator or None
        All as for `RGLRU`.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As for `MinGRU`.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> fusedrnn.RGLRUCell(5, 5)(np.ones((2, 5), np.float32)).shape
    (2, 5)
    """

    _cell = "rglru"
    _layer = RGLRU

    def _choose_kind(self) -> CellKind:
        return rglru_kind(self._is_wide, self.bias)


rglru_forward, rglru_backward = functions_of(
    Family("rglru", {}, no_options, rglru_kind, "rglru_wide"),
    "RG-LRU: h_t = a * h_{t-1} + sqrt(1 - a^2) * i * x_t, a = exp(-8 softplus(Lambda) * r), Lambda = W_unit[0].",
    "Rows r, i; or r, i, x, where W_x x_t stands for x_t.",
    __name__,
)
