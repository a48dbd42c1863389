"""Gradients by name, as layers, functions and the reference return them. Plain data, without computation."""

from __future__ import annotations

from typing import Any, NamedTuple

from numpy.typing import NDArray

Array = NDArray[Any]


class Grads:
    """Gradients of the input, the initial state and all parameters.

    Attributes
    ----------
    x : ndarray, list of ndarray, or None
        Of the shape of the input; None for tokens and with ``need_dx=False``.
    state : ndarray, or tuple of two
        h, or (h, c), of the shape of the initial state, also if the initial state was None.
    params : dict of str to ndarray
        Names, shapes and order are those of ``layer.params``.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> layer = fusedrnn.GRU(3, 5, rng=0)
    >>> y, state, tape = layer.forward(np.ones((7, 2, 3), np.float32))
    >>> tape.backward(np.ones_like(y))
    Grads(x=(7, 2, 3), state=(1, 2, 5), params={'weight_ih_l0': (15, 3), 'weight_hh_l0': (15, 5), \
'bias_ih_l0': (15,), 'bias_hh_l0': (15,)}, dtype=float32)
    """

    __slots__ = ("params", "state", "x")

    def __init__(self, x: Any, state: Any, params: dict[str, Array]) -> None:
        self.x = x
        self.state = state
        self.params = params

    def __repr__(self) -> str:
        own = {name: array.shape for name, array in self.params.items()}
        dtype = next(iter(self.params.values())).dtype if self.params else None
        return f"Grads(x={shapes(self.x)}, state={shapes(self.state)}, params={own}, dtype={dtype})"


def shapes(value: Any) -> Any:
    """Shapes of an array, or of a list or tuple of arrays (a long list is cut)."""
    if isinstance(value, tuple):
        return tuple(shapes(item) for item in value)
    if isinstance(value, list):
        shown = ", ".join(str(item.shape) for item in value[:3])
        return f"[{shown}{f', ... {len(value)} in all' if len(value) > 3 else ''}]"
    return None if value is None else value.shape


class RNNGrads(NamedTuple):
    """Gradients of `rnn_forward`, each of the shape of its argument; None for arguments that were not given.

    dx is also None for tokens, and if it was not requested.
    """

    dx: Array | None
    dh_0: Array
    dW_ih: Array
    dW_hh: Array
    db_ih: Array | None
    db_hh: Array | None


class GRUGrads(NamedTuple):
    """Gradients of `gru_forward`, as in `RNNGrads`."""

    dx: Array | None
    dh_0: Array
    dW_ih: Array
    dW_hh: Array
    db_ih: Array | None
    db_hh: Array | None


class CellGrads(NamedTuple):
    """Gradients of the function of a cell with one state and no options, as in `RNNGrads`."""

    dx: Array | None
    dh_0: Array
    dW_ih: Array
    dW_hh: Array
    db_ih: Array | None
    db_hh: Array | None


class ElementwiseGrads(NamedTuple):
    """Gradients of the functions of cells without a recurrent matrix whose state is h, such as `mingru_forward`.

    Each is of the shape of its argument, as in `RNNGrads`; dW_unit is None for cells without W_unit.
    """

    dx: Array | None
    dh_0: Array
    dW_ih: Array
    db_ih: Array | None
    dW_unit: Array | None = None


class ElementwisePairGrads(NamedTuple):
    """Gradients of the functions of cells without a recurrent matrix whose state is (h, c), as `ElementwiseGrads`."""

    dx: Array | None
    dh_0: Array
    dc_0: Array
    dW_ih: Array
    db_ih: Array | None
    dW_unit: Array | None = None


class LSTMGrads(NamedTuple):
    """Gradients of `lstm_forward`, as in `RNNGrads`; dW_peephole and dW_hr are None without these weights."""

    dx: Array | None
    dh_0: Array
    dc_0: Array
    dW_ih: Array
    dW_hh: Array
    db_ih: Array | None
    db_hh: Array | None
    dW_peephole: Array | None = None
    dW_hr: Array | None = None
