"""One layer in one direction on plain arrays, and linear recurrences, for authors of their own layers.

`fusedrnn.reference` has the same functions in plain NumPy, to be read beside the textbook. Letters: T steps, B rows, I
inputs, H hidden units, G gates (RNN 1, GRU 3, LSTM 4). Weights are W_ih (G*H, I) and W_hh (G*H, H), biases (G*H,),
gates in torch's order (GRU r z n, LSTM i f g o; an option that removes a gate removes its rows). x is (T, B, I),
or integer tokens (T, B), each a one-hot vector.

The dtype of W_ih, float32 or float64, is that of the computation: all weights must have it, other arrays are cast to
it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core, _validate
from .discretization import DiscretizeGrads, discretize, discretize_backward, discretize_forward
from .form import read_steps
from .grads import GRUGrads, LSTMGrads, RNNGrads
from .kinds import CellKind, gru_kind, gru_options, lstm_kind, lstm_options, rnn_kind, rnn_options
from .plain_arrays import ArrayTape
from .scans import ScanGrads, scan_backward, scan_forward
from .specs import ActivationLike
from .state_spaces import StateSpaceGrads, state_space_backward, state_space_forward
from .tape import TapeBase
from .unroll import Record

__all__ = [
    "ArrayTape", "DiscretizeGrads", "FunctionalTape", "GRUGrads", "LSTMGrads", "RNNGrads", "ScanGrads",
    "StateSpaceGrads", "discretize", "discretize_backward", "discretize_forward", "gru_backward", "gru_forward",
    "lstm_backward", "lstm_forward", "rnn_backward", "rnn_forward", "scan_backward", "scan_forward",
    "state_space_backward", "state_space_forward",
]  # fmt: skip

Array = NDArray[Any]


class FunctionalTape(TapeBase):
    """The data that a forward function saves for its backward function; has ``nbytes`` and ``release()``, as `Tape`."""

    __slots__ = ("_dtype", "_hold", "_made_by", "_shapes", "_sizes", "_tokens")

    def __init__(
        self,
        made_by: str,
        tape: _core.Tape,
        sizes: tuple[int, int, int, tuple[int, ...]],
        shapes: dict[str, tuple[int, ...]],
        dtype: np.dtype[Any],
        tokens: bool,
        hold: tuple[_core.Schedule, bool] | None,
    ) -> None:
        super().__init__(made_by, Record((tape,)))
        self._made_by = made_by
        self._sizes = sizes  # T, B, I, and the units of each state
        self._shapes = shapes  # of the parameters, by role
        self._dtype = dtype
        self._tokens = tokens
        self._hold = hold  # with past_end="hold": the schedule, which knows where outputs are held, and the direction


def rnn_forward(
    x: ArrayLike,
    h_0: ArrayLike | None,
    W_ih: ArrayLike,
    W_hh: ArrayLike,
    b_ih: ArrayLike | None = None,
    b_hh: ArrayLike | None = None,
    *,
    nonlinearity: str = "tanh",
    activation: ActivationLike | None = None,
    clip: float | None = None,
    recurrent_mask: ArrayLike | None = None,
    zoneout_h: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    past_end: str = "zero",
    reverse: bool = False,
) -> tuple[Array, Array, FunctionalTape]:
    """Elman network: h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), or relu in place of tanh.

    Parameters
    ----------
    x : array-like, (T, B, I) floats or (T, B) integer tokens
    h_0 : array-like (B, H), or None for zeros
    W_ih, W_hh : array-like, (H, I) and (H, H)
    b_ih, b_hh : array-like (H,), or None for none
    nonlinearity : "tanh" or "relu"
    activation : str, (str, float) or (str, float, float), or None
        A function that replaces `nonlinearity`; see `RNN`.
    clip : float or None
        Pre-activations are limited to [-clip, clip]; the gradient is zero outside.
    recurrent_mask : array-like (B, H), or None for ones
        Factors of h in the recurrent product, the same at all steps: 0 or 1 / (1 - p) for variational dropout. To drop
        weights, multiply W_hh (and its gradient) by such factors.
    zoneout_h : bool (T, B, H), or None
        True where a unit of h keeps its old value at a step.
    lengths : integers (B,), or None for T
        Number of valid steps of each row. Later steps are not read, and the state passes through.
    mask : bool (B, T), or None
        False skips a step, in addition to those past the row's length: nothing is read, and the state passes through.
    reset : bool (T, B), or None
        True cuts the row before this step: the steps after the cut (in reverse: before it) start from the initial state
        again, even if this step itself is skipped. reset[0] has no effect.
    past_end : "zero" or "hold"
        y at skipped steps: zero, or the previous output in running order (zero before the first).
    reverse : bool
        Run each row from its last valid step to its first. y stays aligned with x, h_n is the state after time 0.

    Returns
    -------
    y : ndarray (T, B, H)
    h_n : ndarray (B, H)
    tape : FunctionalTape
        For `rnn_backward`.

    Raises
    ------
    TypeError, ValueError, IndexError
        An argument has the wrong type or dtype; the wrong shape or value; a token is out of range.

    Notes
    -----
    Elman, Finding structure in time, 1990.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.functional import rnn_forward
    >>> y, h_n, tape = rnn_forward(np.ones((7, 2, 3)), None, np.ones((5, 3)), np.zeros((5, 5)))
    >>> y.shape, h_n.shape, bool((y == np.tanh(3.0)).all())
    ((7, 2, 5), (2, 5), True)
    """
    owner = "rnn_forward"
    kind = rnn_kind(**rnn_options(owner, nonlinearity, activation, clip))
    steps, masks = (lengths, mask, reset, past_end), (recurrent_mask, zoneout_h)
    y, (h_n,), tape = _forward(owner, kind, x, {"h_0": h_0}, (W_ih, W_hh, b_ih, b_hh), masks, steps, reverse)
    return y, h_n, tape


def gru_forward(
    x: ArrayLike,
    h_0: ArrayLike | None,
    W_ih: ArrayLike,
    W_hh: ArrayLike,
    b_ih: ArrayLike | None = None,
    b_hh: ArrayLike | None = None,
    *,
    reset_after: bool = True,
    reset_gate: bool = True,
    activation: ActivationLike | None = None,
    recurrent_activation: ActivationLike = "sigmoid",
    clip: float | None = None,
    recurrent_mask: ArrayLike | None = None,
    zoneout_h: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    past_end: str = "zero",
    reverse: bool = False,
) -> tuple[Array, Array, FunctionalTape]:
    """Gated recurrent unit: h_t = (1 - z) * n + z * h_{t-1}, gates in the order r, z, n.

    Parameters
    ----------
    x, h_0, clip, recurrent_mask, zoneout_h, lengths, mask, reset, past_end, reverse
        As for `rnn_forward`. With ``reset_after=False`` the recurrent product of n is that of r * recurrent_mask * h.
    W_ih, W_hh : array-like, (3*H, I) and (3*H, H)
    b_ih, b_hh : array-like (3*H,), or None for none
    reset_after : bool
        True: n = tanh(W_in x + b_in + r * (W_hn h + b_hn)). False: n = tanh(W_in x + b_in + W_hn (r * h) + b_hn).
    reset_gate : bool
        False: there is no gate r; n = tanh(W_in x + b_in + W_hn h + b_hn), and weights have 2*H rows, z n.
    activation, recurrent_activation : str, (str, float) or (str, float, float); None is "tanh"
        Functions that replace the tanh of n, and sigmoid; see `RNN`.

    Returns
    -------
    y : ndarray (T, B, H)
    h_n : ndarray (B, H)
    tape : FunctionalTape
        For `gru_backward`.

    Raises
    ------
    TypeError, ValueError, IndexError
        As for `rnn_forward`.

    Notes
    -----
    Cho et al., Learning phrase representations using RNN encoder-decoder, 2014 (reset before).

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.functional import gru_forward
    >>> y, h_n, tape = gru_forward(np.ones((7, 2, 3)), None, np.zeros((15, 3)), np.zeros((15, 5)))
    >>> y.shape, h_n.shape
    ((7, 2, 5), (2, 5))
    """
    owner = "gru_forward"
    kind = gru_kind(**gru_options(owner, reset_after, reset_gate, activation, recurrent_activation, clip))
    steps, masks = (lengths, mask, reset, past_end), (recurrent_mask, zoneout_h)
    y, (h_n,), tape = _forward(owner, kind, x, {"h_0": h_0}, (W_ih, W_hh, b_ih, b_hh), masks, steps, reverse)
    return y, h_n, tape


def lstm_forward(
    x: ArrayLike,
    h_0: ArrayLike | None,
    c_0: ArrayLike | None,
    W_ih: ArrayLike,
    W_hh: ArrayLike,
    b_ih: ArrayLike | None = None,
    b_hh: ArrayLike | None = None,
    *,
    W_peephole: ArrayLike | None = None,
    peephole: str | None = None,
    coupled: bool = False,
    activation: ActivationLike | None = None,
    recurrent_activation: ActivationLike = "sigmoid",
    output_activation: ActivationLike | None = None,
    clip: float | None = None,
    cell_clip: float | None = None,
    W_hr: ArrayLike | None = None,
    recurrent_mask: ArrayLike | None = None,
    zoneout_h: ArrayLike | None = None,
    zoneout_c: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    past_end: str = "zero",
    reverse: bool = False,
) -> tuple[Array, Array, Array, FunctionalTape]:
    """Long short-term memory: c_t = f * c_{t-1} + i * g, h_t = o * tanh(c_t), gates in the order i, f, g, o.

    Parameters
    ----------
    x, clip, recurrent_mask, zoneout_h, lengths, mask, reset, past_end, reverse
        As for `rnn_forward`.
    h_0, c_0 : array-like (B, H), or None for zeros
    W_ih, W_hh : array-like, (4*H, I) and (4*H, H)
    b_ih, b_hh : array-like (4*H,), or None for none
    W_peephole : array-like, or None without peepholes
        For "ifo" (3, H), rows i f o, when coupled (2, H), rows i o; for "o_prev" (1, H).
    peephole : "ifo", "o_prev" or None
        "ifo": W_peephole * c_{t-1} is added to i and f, W_peephole * c_t to o; "o_prev": W_peephole * c_{t-1} to o.
    coupled : bool
        f = 1 - i; weights then have 3*H rows, i g o.
    activation, recurrent_activation, output_activation : str, (str, float) or (str, float, float), or None
        Functions that replace the tanh of g, sigmoid, and the tanh of c_t (default: `activation`); see `RNN`.
    cell_clip : float or None
        c_t is limited to [-cell_clip, cell_clip].
    W_hr : array-like (P, H) with P < H, or None
        h_t = W_hr (o * tanh(c_t)). Then h_0, y, h_n, recurrent_mask and zoneout_h have P units, and W_hh is (4*H, P).
    zoneout_c : bool (T, B, H), or None
        True where a unit of c keeps its old value at a step; h_t is computed from the new value in any case.

    Returns
    -------
    y : ndarray (T, B, H)
    h_n, c_n : ndarray (B, H)
    tape : FunctionalTape
        For `lstm_backward`.

    Raises
    ------
    TypeError, ValueError, IndexError
        As for `rnn_forward`.

    Notes
    -----
    Hochreiter and Schmidhuber, Long short-term memory, 1997; Gers, Schmidhuber and Cummins, 2000.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn.functional import lstm_backward, lstm_forward
    >>> y, h_n, c_n, tape = lstm_forward(np.ones((7, 2, 3)), None, None, np.ones((20, 3)), np.ones((20, 5)))
    >>> grads = lstm_backward(tape, dy=np.ones_like(y))
    >>> grads.dx.shape, grads.dW_ih.shape, grads.db_ih
    ((7, 2, 3), (20, 3), None)
    """
    owner = "lstm_forward"
    functions = (activation, recurrent_activation, output_activation)
    kind = lstm_kind(**lstm_options(owner, peephole, coupled, *functions, clip, cell_clip))
    weights = (W_ih, W_hh, b_ih, b_hh, W_peephole, W_hr)
    steps, masks = (lengths, mask, reset, past_end), (recurrent_mask, zoneout_h, zoneout_c)
    y, (h_n, c_n), tape = _forward(owner, kind, x, {"h_0": h_0, "c_0": c_0}, weights, masks, steps, reverse)
    return y, h_n, c_n, tape


def rnn_backward(
    tape: FunctionalTape, dy: ArrayLike | None = None, dh_n: ArrayLike | None = None, *, need_dx: bool = True
) -> RNNGrads:
    """Gradients of a scalar with respect to everything that went into `rnn_forward`.

    Parameters
    ----------
    tape : FunctionalTape
        From `rnn_forward`; may be used again.
    dy : array-like (T, B, H), or None for zeros
        Gradient with respect to y; at skipped steps it is only read if outputs were held there.
    dh_n : array-like (B, H), or None for zeros
        Gradient with respect to h_n.
    need_dx : bool
        False skips dx.

    Returns
    -------
    RNNGrads

    Raises
    ------
    TypeError
        The tape is from another function, or a gradient is not an array of real numbers.
    ValueError
        The tape was released, a shape is wrong, or there is no gradient at all.
    """
    dx, (dh_0,), dparams = _backward("rnn_backward", "rnn_forward", tape, dy, {"dh_n": dh_n}, need_dx)
    return RNNGrads(dx, dh_0, *dparams[:4])


def gru_backward(
    tape: FunctionalTape, dy: ArrayLike | None = None, dh_n: ArrayLike | None = None, *, need_dx: bool = True
) -> GRUGrads:
    """Gradients of a scalar with respect to everything that went into `gru_forward`.

    Parameters
    ----------
    tape : FunctionalTape
        From `gru_forward`; may be used again.
    dy, dh_n, need_dx
        As for `rnn_backward`.

    Returns
    -------
    GRUGrads

    Raises
    ------
    TypeError, ValueError
        As for `rnn_backward`.
    """
    dx, (dh_0,), dparams = _backward("gru_backward", "gru_forward", tape, dy, {"dh_n": dh_n}, need_dx)
    return GRUGrads(dx, dh_0, *dparams[:4])


def lstm_backward(
    tape: FunctionalTape,
    dy: ArrayLike | None = None,
    dh_n: ArrayLike | None = None,
    dc_n: ArrayLike | None = None,
    *,
    need_dx: bool = True,
) -> LSTMGrads:
    """Gradients of a scalar with respect to everything that went into `lstm_forward`.

    Parameters
    ----------
    tape : FunctionalTape
        From `lstm_forward`; may be used again.
    dy, need_dx
        As for `rnn_backward`.
    dh_n, dc_n : array-like (B, H), or None for zeros
        Gradients with respect to h_n and c_n.

    Returns
    -------
    LSTMGrads

    Raises
    ------
    TypeError, ValueError
        As for `rnn_backward`.
    """
    dx, (dh_0, dc_0), dparams = _backward(
        "lstm_backward", "lstm_forward", tape, dy, {"dh_n": dh_n, "dc_n": dc_n}, need_dx
    )
    return LSTMGrads(dx, dh_0, dc_0, *dparams)


#: Parameters of a function in the order of its arguments, under the kernels' names.
ROLES = ("W_ih", "W_hh", "b_ih", "b_hh", "units", "W_hr")


def _forward(
    owner: str,
    kind: CellKind,
    x: Any,
    state_0: dict[str, Any],
    weights: tuple[Any, ...],
    masks: tuple[Any, ...],
    steps: tuple[Any, Any, Any, Any],
    reverse: Any,
) -> tuple[Array, tuple[Array, ...], FunctionalTape]:
    W_ih, W_hh, *others, dtype = _validate.functional_weights(owner, kind.gates, kind.peepholes, *weights)
    I, H = W_ih.shape[1], W_ih.shape[0] // kind.gates
    units = (W_hh.shape[1], H)[: len(state_0)]
    x, tokens = _validate.functional_sequence(owner, x, dtype, I)
    T, B = x.shape[:2]
    lengths, mask, reset, past_end = steps
    lengths, mask, schedule = read_steps(owner, T, B, lengths, mask, reset, "batch", False)
    hold = _validate.past_end(owner, past_end)
    if tokens:
        x = _validate.tokens(owner, x, I, lengths, "batch", mask)
    state = tuple(
        np.zeros((B, n), dtype) if value is None else _rows(owner, name, value, B, n, H, dtype)
        for (name, value), n in zip(state_0.items(), units, strict=True)
    )
    used = _masks(owner, masks, T, B, units, H, dtype)
    reverse = _validate.flag(owner, "reverse", reverse)
    y = _core.empty((T, B, units[0]), dtype)
    state_n = tuple(_core.empty((B, n), dtype) for n in units)
    given = dict(zip(ROLES, (W_ih, W_hh, *others), strict=True))
    packed = _core.Weights(kind.name, {role: w for role, w in given.items() if w is not None}, True, kind.options)
    tape = _core.forward(packed, x, state, y, state_n, schedule, reverse, True, used)
    assert tape is not None
    if hold:
        schedule.hold(y, reverse)
    shapes = {role: w.shape for role, w in given.items() if w is not None}
    return (
        y,
        state_n,
        FunctionalTape(owner, tape, (T, B, I, units), shapes, dtype, tokens, (schedule, reverse) if hold else None),
    )


def _masks(
    owner: str, masks: tuple[Any, ...], T: int, B: int, units: tuple[int, ...], H: int, dtype: np.dtype[Any]
) -> tuple[Array | None, Array | None, Array | None] | None:
    """Factors of h in the recurrent product, and where h and c keep their old values, in the kernels' form."""
    if all(mask is None for mask in masks):
        return None
    recurrent, *zoneouts = masks
    stays: list[Array | None] = [None, None]
    for k, (name, value) in enumerate(zip(("zoneout_h", "zoneout_c"), zoneouts, strict=False)):
        if value is not None:
            formula = f"(T, B, {_unit_name(units[k], H)})"
            stays[k] = _validate.given_mask(owner, name, value, (T, B, units[k]), formula)
    factors = None if recurrent is None else _rows(owner, "recurrent_mask", recurrent, B, units[0], H, dtype)
    return factors, stays[0], stays[1]


def _backward(
    owner: str, made_by: str, tape: FunctionalTape, dy: Any, dstate_n: dict[str, Any], need_dx: Any
) -> tuple[Array | None, tuple[Array, ...], tuple[Any, ...]]:
    _validate.functional_tape(owner, tape, made_by)
    (saved,) = tape._unreleased().tapes
    T, B, I, units = tape._sizes
    H = units[-1]
    dtype = tape._dtype
    need_dx = _validate.flag(owner, "need_dx", need_dx)
    if dy is not None:
        dy = _validate.floats(owner, "dy", dy, dtype, rows=True)
        _validate.exact_shape(owner, "dy", dy, (T, B, units[0]), f"(T, B, {_unit_name(units[0], H)})")
        if tape._hold is not None:
            schedule, reverse = tape._hold
            dy = schedule.sum_held(dy, reverse)
    parts = tuple(
        None if value is None else _rows(owner, name, value, B, n, H, dtype)
        for (name, value), n in zip(dstate_n.items(), units, strict=True)
    )
    if dy is None and all(part is None for part in parts):
        raise _validate.nothing_to_do_functional(owner, list(dstate_n))
    dx = _core.empty((T, B, I), dtype) if need_dx and not tape._tokens else None
    dstate_0 = tuple(_core.empty((B, n), dtype) for n in units)
    dparams = {role: _core.empty(shape, dtype) for role, shape in tape._shapes.items()}
    _core.backward(saved, dy, parts, dx, False, dstate_0, dparams)
    return dx, dstate_0, tuple([dparams.get(role) for role in ROLES])


def _rows(owner: str, name: str, value: Any, B: int, units: int, H: int, dtype: np.dtype[Any]) -> Array:
    """A state, its gradient or a mask, (B, units)."""
    array = _validate.floats(owner, name, value, dtype, rows=True)
    _validate.exact_shape(owner, name, array, (B, units), f"(B, {_unit_name(units, H)})")
    return array


def _unit_name(units: int, H: int) -> str:
    return "hidden_size" if units == H else "proj_size"
