"""Linear recurrent units: layer, cell and functions."""

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
from .qrnn import no_options

if TYPE_CHECKING:
    from ..reference.cells import Cell


def lru_options(owner: str, hidden_size: object, r_min: object, r_max: object, max_phase: object) -> dict[str, Any]:
    """Arguments of LRU by name, checked."""
    if _validate.size(owner, "hidden_size", hidden_size) % 2:
        raise ValueError(
            f"{owner}: hidden_size is {hidden_size}; expected an even number, a real and an imaginary part for each "
            "complex unit"
        )
    low = between(owner, "r_min", r_min, 0.0, 1.0)
    high = between(owner, "r_max", r_max, 0.0, 1.0)
    if low >= high:
        raise ValueError(f"{owner}: r_min is {low} and r_max is {high}; expected r_min < r_max")
    return {"r_min": low, "r_max": high, "max_phase": between(owner, "max_phase", max_phase, 0.0, 1e3)}


def lru_kind(wide: bool = False, bias: Bias = True) -> CellKind:
    """A linear recurrent unit; all arguments have been checked."""
    return elementwise_kind("lru", bias)


class LRU(ElementwiseLayer):
    """Linear recurrent unit: h' = lambda * h + gamma * (B x + b), complex and diagonal; y is h, as pairs of numbers.

    lambda = exp(-exp(nu) + i exp(theta)) and gamma = exp(g). The complex unit k is the units 2k and 2k + 1, its real
    and its imaginary part, of h, of y and of the rows of ``weight_ih``.

    Parameters
    ----------
    input_size : int
        I, at least 1.
    hidden_size : int
        H, even: real numbers of h. There are H / 2 complex units.
    num_layers : int
    bias, batch_first : bool
    dropout : float
    bidirectional : bool
    merge : "concat", "sum", "mean", "mul" or None
        All as for `MinGRU`.
    r_min, r_max : float
        The initial |lambda| lies between them, uniformly over the area of the ring; 0 <= r_min < r_max <= 1.
    max_phase : float
        The initial angle of lambda lies between 0 and max_phase.
    backwards, learned_state : bool
    dtype : float32 or float64
        As for `MinGRU`.
    rng : int, numpy.random.Generator or None
        Draws the initial parameters as in the paper: lambda from the ring, ``weight_ih`` from N(0, 1/(2*inputs)), and
        exp(g) = sqrt(1 - |lambda|^2); and dropout masks.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As for `MinGRU`; ValueError also if hidden_size is odd.

    Notes
    -----
    Orvieto et al., Resurrecting recurrent neural networks for long sequences, ICML 2023, arXiv:2303.06349. Parameters:
    ``weight_ih_l0`` (H, I), ``bias_ih_l0`` (H,), which the paper does not have (``bias=False``), and
    ``weight_unit_l0`` (3, H/2), rows nu, theta, g. The paper's output Re(C h) + D x is a linear layer over y and x,
    whose weights are Re(C) and -Im(C) in turn.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> layer = fusedrnn.LRU(3, 8, r_min=0.9, r_max=0.99)
    >>> y, h = layer(np.zeros((7, 2, 3), np.float32))
    >>> y.shape, h.view(np.complex64).shape, layer.weight_unit_l0.shape
    ((7, 2, 8), (1, 2, 4), (3, 4))
    """

    _cell = "lru"
    r_min: float
    r_max: float
    max_phase: float

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
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 2 * math.pi,
        backwards: bool = False,
        learned_state: bool = False,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        given, owner = locals(), type(self).__name__
        self._construct_elementwise(given, lambda _: lru_options(owner, hidden_size, r_min, r_max, max_phase))

    _arguments = arguments_of(__init__)

    def _choose_kind(self) -> CellKind:
        return lru_kind(bias=self.bias)

    def _draw_own(self) -> None:
        draw_linear(self)
        rng = self.rng
        for spec in self._specs:
            if spec.role == "W_ih":
                self.params[spec.name][:] = rng.standard_normal(spec.shape) / math.sqrt(2 * spec.shape[1])
            elif spec.role == "b_ih":
                self.params[spec.name][:] = 0
            elif spec.role == "units":
                n = spec.shape[1]
                squares = rng.uniform(self.r_min**2, self.r_max**2, n).clip(1e-12, 1 - 1e-7)
                angle = (1 - rng.uniform(0, 1, n)) * self.max_phase
                self.params[spec.name][0] = np.log(-0.5 * np.log(squares))
                self.params[spec.name][1] = np.log(angle.clip(1e-12))
                self.params[spec.name][2] = 0.5 * np.log1p(-squares)

    def _reference_cell(self) -> Cell:
        from ..reference.cells import lru

        return lru.LRU()


class LRUCell(ElementwiseCell):
    """One step of a linear recurrent unit; see `LRU`.

    Parameters
    ----------
    input_size, hidden_size : int
    bias : bool
    r_min, r_max, max_phase : float
    dtype : float32 or float64
    rng : int, numpy.random.Generator or None
        All as for `LRU`.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As for `LRU`.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> fusedrnn.LRUCell(3, 8)(np.ones((2, 3), np.float32)).shape
    (2, 8)
    """

    r_min: float
    r_max: float
    max_phase: float
    _cell = "lru"
    _layer = LRU

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: Bias = True,
        *,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 2 * math.pi,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        options = lru_options(type(self).__name__, hidden_size, r_min, r_max, max_phase)
        self._construct(input_size, hidden_size, bias, dtype, rng, **options)

    _arguments = arguments_of(__init__)

    def _choose_kind(self) -> CellKind:
        return lru_kind(bias=self.bias)


lru_forward, lru_backward = functions_of(
    Family("lru", {}, no_options, lru_kind),
    "LRU: h_t = lambda * h_{t-1} + gamma * (W_ih x_t + b_ih), complex numbers as pairs of units.",
    "Real and imaginary parts in turn. The rows of W_unit are nu, theta, g; see `LRU`.",
    __name__,
)
