"""The functions of `sequence.py` for each family, with the names and arguments of `fusedrnn.functional`."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fusedrnn.grads import CellGrads, GRUGrads, LSTMGrads, RNNGrads
from fusedrnn.reference.cells import CELLS, gru_cell, lstm_cell, rnn_cell
from fusedrnn.reference.cells.cell import Array
from fusedrnn.reference.sequence import SequenceGrads, Tape, backward, forward

__all__ = [
    "gru_backward",
    "gru_forward",
    "lstm_backward",
    "lstm_forward",
    "rnn_backward",
    "rnn_forward",
]


def rnn_forward(
    x: ArrayLike,
    h_0: ArrayLike | None,
    W_ih: ArrayLike,
    W_hh: ArrayLike,
    b_ih: ArrayLike | None = None,
    b_hh: ArrayLike | None = None,
    *,
    nonlinearity: str = "tanh",
    activation: Any = None,
    clip: float | None = None,
    recurrent_mask: ArrayLike | None = None,
    zoneout_h: ArrayLike | None = None,
    h_initial: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    past_end: str = "zero",
    reverse: bool = False,
    dtype: DTypeLike = np.float64,
) -> tuple[Array, Array, Tape]:
    """Run a simple recurrent layer (Elman 1990) over whole sequences: h' = tanh(W_ih x + b_ih + W_hh h + b_hh).

    Parameters
    ----------
    x, W_ih, W_hh, b_ih, b_hh, recurrent_mask, lengths, mask, reset, past_end, reverse, dtype
        See `forward`; G = 1.
    h_0 : array_like, shape (B, H), or None
        The state before the first step; None is the own initial state.
    nonlinearity : str
        "tanh" or "relu".
    activation : str or tuple, optional
        A function that replaces `nonlinearity`: a name of `ACTIVATIONS`, (name, alpha) or (name, alpha, beta).
    clip : float, optional
        Pre-activations are limited to [-clip, clip].
    zoneout_h : array_like, shape (T, B, H), optional
        The share of the old value that each unit of h keeps, usually 0 or 1.
    h_initial : array_like, shape (H,), optional
        The own initial state of the layer, to which resets return; None is zeros.

    Returns
    -------
    y : ndarray, shape (T, B, H)
    h_n : ndarray, shape (B, H)
    tape : Tape
        For `rnn_backward`.

    Raises
    ------
    ValueError, TypeError, IndexError
        See `forward`.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn import reference
    >>> y, h_n, tape = reference.rnn_forward(np.ones((3, 2, 4)), None, np.zeros((5, 4)), np.zeros((5, 5)))
    >>> y.shape, h_n.shape
    ((3, 2, 5), (2, 5))
    """
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"rnn: nonlinearity is {nonlinearity!r}; expected 'tanh' or 'relu'")
    steps: dict[str, Any] = {"lengths": lengths, "mask": mask, "reset": reset, "past_end": past_end, "reverse": reverse}
    steps |= {"recurrent_mask": recurrent_mask, "zoneout": _shares(zoneout_h), "initial": (h_initial,)}
    cell = rnn_cell(nonlinearity, activation, clip)
    y, (h_n,), tape = forward(cell, x, (h_0,), W_ih, W_hh, b_ih, b_hh, dtype=dtype, **steps)
    return y, h_n, tape


def rnn_backward(
    tape: Tape,
    dy: ArrayLike | None = None,
    dh_n: ArrayLike | None = None,
    *,
    need_dx: bool = True,
    sparse: bool = False,
) -> RNNGrads:
    """Gradients of `rnn_forward`.

    Parameters
    ----------
    tape, dy, need_dx, sparse
        See `backward`.
    dh_n : array_like, shape (B, H), or None
        Gradient of h_n; None is zeros.

    Returns
    -------
    RNNGrads
        dx (T, B, I) or None, dh_0 (B, H), dW_ih (H, I), dW_hh (H, H), db_ih and db_hh (H,) or None, dh_initial (H,).

    Raises
    ------
    ValueError
        The tape is from another cell, a shape is wrong, or dy and dh_n are both None.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn import reference
    >>> y, h_n, tape = reference.rnn_forward(np.ones((3, 2, 4)), None, np.ones((5, 4)), np.ones((5, 5)))
    >>> reference.rnn_backward(tape, dh_n=np.ones((2, 5))).dW_ih.shape
    (5, 4)
    """
    _check_tape(tape, "rnn")
    grads = backward(tape, dy, (dh_n,), need_dx=need_dx, sparse=sparse)
    weights = (grads.dW_ih, grads.dW_hh, grads.db_ih, grads.db_hh)
    return RNNGrads(grads.dx, grads.dstate[0], *weights, _initial(tape, grads, 0))


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
    activation: Any = None,
    recurrent_activation: Any = "sigmoid",
    clip: float | None = None,
    recurrent_mask: ArrayLike | None = None,
    zoneout_h: ArrayLike | None = None,
    h_initial: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    past_end: str = "zero",
    reverse: bool = False,
    dtype: DTypeLike = np.float64,
) -> tuple[Array, Array, Tape]:
    """Run a GRU layer over whole sequences; equations and sources are in `cells/gru.py`.

    Parameters
    ----------
    x, W_ih, W_hh, b_ih, b_hh, recurrent_mask, lengths, mask, reset, past_end, reverse, dtype
        See `forward`; G = 3, gates in the order r, z, n, or without the reset gate G = 2, z, n.
    h_0 : array_like, shape (B, H), or None
        The state before the first step; None is the own initial state.
    reset_after : bool
        True: the reset gate acts on the recurrent product (cuDNN, torch). False: on the old state (Cho 2014).
    reset_gate : bool
        False: there is no reset gate; n = tanh(W_in x + b_in + W_hn h + b_hn).
    activation, recurrent_activation : str or tuple, optional
        Functions that replace tanh and sigmoid; as for `rnn_forward`.
    clip, zoneout_h, h_initial : optional
        As for `rnn_forward`.

    Returns
    -------
    y : ndarray, shape (T, B, H)
    h_n : ndarray, shape (B, H)
    tape : Tape
        For `gru_backward`.

    Raises
    ------
    ValueError, TypeError, IndexError
        See `forward`.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn import reference
    >>> y, h_n, tape = reference.gru_forward(np.ones((3, 2, 4)), None, np.zeros((15, 4)), np.zeros((15, 5)))
    >>> y.shape, h_n.shape
    ((3, 2, 5), (2, 5))
    """
    steps: dict[str, Any] = {"lengths": lengths, "mask": mask, "reset": reset, "past_end": past_end, "reverse": reverse}
    steps |= {"recurrent_mask": recurrent_mask, "zoneout": _shares(zoneout_h), "initial": (h_initial,)}
    cell = gru_cell(reset_after, reset_gate, activation, recurrent_activation, clip)
    y, (h_n,), tape = forward(cell, x, (h_0,), W_ih, W_hh, b_ih, b_hh, dtype=dtype, **steps)
    return y, h_n, tape


def gru_backward(
    tape: Tape,
    dy: ArrayLike | None = None,
    dh_n: ArrayLike | None = None,
    *,
    need_dx: bool = True,
    sparse: bool = False,
) -> GRUGrads:
    """Gradients of `gru_forward`.

    Parameters
    ----------
    tape, dy, need_dx, sparse
        See `backward`.
    dh_n : array_like, shape (B, H), or None
        Gradient of h_n; None is zeros.

    Returns
    -------
    GRUGrads
        dx (T, B, I) or None, dh_0 (B, H), dW_ih (3*H, I), dW_hh (3*H, H), db_ih and db_hh (3*H,) or None. With
        `reset_after` the n part of db_hh differs from that of db_ih: it is the sum of r * da_n. dh_initial (H,).

    Raises
    ------
    ValueError
        The tape is from another cell, a shape is wrong, or dy and dh_n are both None.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn import reference
    >>> y, h_n, tape = reference.gru_forward(np.ones((3, 2, 4)), None, np.ones((15, 4)), np.ones((15, 5)))
    >>> reference.gru_backward(tape, dh_n=np.ones((2, 5))).dW_ih.shape
    (15, 4)
    """
    _check_tape(tape, "gru")
    grads = backward(tape, dy, (dh_n,), need_dx=need_dx, sparse=sparse)
    weights = (grads.dW_ih, grads.dW_hh, grads.db_ih, grads.db_hh)
    return GRUGrads(grads.dx, grads.dstate[0], *weights, _initial(tape, grads, 0))


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
    activation: Any = None,
    recurrent_activation: Any = "sigmoid",
    output_activation: Any = None,
    clip: float | None = None,
    cell_clip: float | None = None,
    W_hr: ArrayLike | None = None,
    recurrent_mask: ArrayLike | None = None,
    zoneout_h: ArrayLike | None = None,
    zoneout_c: ArrayLike | None = None,
    h_initial: ArrayLike | None = None,
    c_initial: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    past_end: str = "zero",
    reverse: bool = False,
    dtype: DTypeLike = np.float64,
) -> tuple[Array, Array, Array, Tape]:
    """Run an LSTM layer over whole sequences; equations and sources are in `cells/lstm.py`.

    Parameters
    ----------
    x, W_ih, W_hh, b_ih, b_hh, recurrent_mask, lengths, mask, reset, past_end, reverse, dtype
        See `forward`; G = 4, gates in the order i, f, g, o; when coupled G = 3, i, g, o.
    h_0, c_0 : array_like, shape (B, H), or None
        The state before the first step; None is the own initial state.
    W_peephole : array_like, shape (3, H), (2, H) or (1, H), or None
        For peephole="ifo" rows i, f, o, when coupled i, o; for "o_prev" the row o.
    peephole : "ifo", "o_prev" or None
    coupled : bool
        f = 1 - i.
    activation, recurrent_activation, output_activation : str or tuple, optional
        Functions that replace the tanh of g, sigmoid, and the tanh of c' (default: `activation`); as for
        `rnn_forward`.
    clip, zoneout_h, h_initial : optional
        As for `rnn_forward`.
    cell_clip : float, optional
        c' is limited to [-cell_clip, cell_clip].
    W_hr : array_like, shape (R, H), optional
        See `forward`.
    zoneout_c : array_like, shape (T, B, H), optional
        The same as zoneout_h for c.
    c_initial : array_like, shape (H,), optional
        The same as h_initial for c.

    Returns
    -------
    y : ndarray, shape (T, B, H)
    h_n, c_n : ndarray, shape (B, H)
    tape : Tape
        For `lstm_backward`.

    Raises
    ------
    ValueError, TypeError, IndexError
        See `forward`.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn import reference
    >>> y, h_n, c_n, tape = reference.lstm_forward(np.ones((3, 2, 4)), None, None, np.zeros((20, 4)), np.zeros((20, 5)))
    >>> y.shape, c_n.shape
    ((3, 2, 5), (2, 5))
    """
    steps: dict[str, Any] = {"lengths": lengths, "mask": mask, "reset": reset, "past_end": past_end, "reverse": reverse}
    cell = lstm_cell(peephole, coupled, activation, recurrent_activation, output_activation, clip, cell_clip)
    steps |= {"recurrent_mask": recurrent_mask, "zoneout": _shares(zoneout_h, zoneout_c)}
    steps |= {"W_peephole": W_peephole, "W_hr": W_hr, "initial": (h_initial, c_initial)}
    y, (h_n, c_n), tape = forward(cell, x, (h_0, c_0), W_ih, W_hh, b_ih, b_hh, dtype=dtype, **steps)
    return y, h_n, c_n, tape


def lstm_backward(
    tape: Tape,
    dy: ArrayLike | None = None,
    dh_n: ArrayLike | None = None,
    dc_n: ArrayLike | None = None,
    *,
    need_dx: bool = True,
    sparse: bool = False,
) -> LSTMGrads:
    """Gradients of `lstm_forward`.

    Parameters
    ----------
    tape, dy, need_dx, sparse
        See `backward`.
    dh_n, dc_n : array_like, shape (B, H), or None
        Gradients of h_n and c_n; None is zeros.

    Returns
    -------
    LSTMGrads
        dx (T, B, I) or None, dh_0 and dc_0 (B, H), dW_ih (4*H, I), dW_hh (4*H, H), db_ih and db_hh (4*H,) or None,
        dW_peephole and dW_hr like W_peephole and W_hr or None; 3 for 4 when coupled. dh_initial, dc_initial (H,).

    Raises
    ------
    ValueError
        The tape is from another cell, a shape is wrong, or dy, dh_n and dc_n are all None.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedrnn import reference
    >>> y, h_n, c_n, tape = reference.lstm_forward(np.ones((3, 2, 4)), None, None, np.ones((20, 4)), np.ones((20, 5)))
    >>> reference.lstm_backward(tape, dc_n=np.ones((2, 5))).dW_ih.shape
    (20, 4)
    """
    _check_tape(tape, "lstm")
    grads = backward(tape, dy, (dh_n, dc_n), need_dx=need_dx, sparse=sparse)
    weights = (grads.dW_ih, grads.dW_hh, grads.db_ih, grads.db_hh, grads.dW_peephole, grads.dW_hr)
    dh_0, dc_0 = grads.dstate
    return LSTMGrads(grads.dx, dh_0, dc_0, *weights, _initial(tape, grads, 0), _initial(tape, grads, 1))


def _initial(tape: Tape, grads: SequenceGrads, part: int) -> Array | None:
    """The gradient of a part of the own initial state, None if it was not given."""
    return grads.dinitial[part] if tape.has_initial[part] else None


def functions_of(name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The pair of functions of a cell with one state and without options, a key of `CELLS`."""

    def forward_function(
        x: ArrayLike,
        h_0: ArrayLike | None,
        W_ih: ArrayLike,
        W_hh: ArrayLike,
        b_ih: ArrayLike | None = None,
        b_hh: ArrayLike | None = None,
        *,
        recurrent_mask: ArrayLike | None = None,
        zoneout_h: ArrayLike | None = None,
        h_initial: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        past_end: str = "zero",
        reverse: bool = False,
        dtype: DTypeLike = np.float64,
    ) -> tuple[Array, Array, Tape]:
        steps: dict[str, Any] = {"lengths": lengths, "mask": mask, "reset": reset, "past_end": past_end}
        steps |= {"reverse": reverse, "recurrent_mask": recurrent_mask, "zoneout": _shares(zoneout_h)}
        steps |= {"initial": (h_initial,)}
        y, (h_n,), tape = forward(CELLS[name], x, (h_0,), W_ih, W_hh, b_ih, b_hh, dtype=dtype, **steps)
        return y, h_n, tape

    def backward_function(
        tape: Tape,
        dy: ArrayLike | None = None,
        dh_n: ArrayLike | None = None,
        *,
        need_dx: bool = True,
        sparse: bool = False,
    ) -> CellGrads:
        _check_tape(tape, name)
        grads = backward(tape, dy, (dh_n,), need_dx=need_dx, sparse=sparse)
        weights = (grads.dW_ih, grads.dW_hh, grads.db_ih, grads.db_hh)
        return CellGrads(grads.dx, grads.dstate[0], *weights, _initial(tape, grads, 0))

    for function, way in ((forward_function, "forward"), (backward_function, "backward")):
        function.__name__ = function.__qualname__ = f"{name}_{way}"
        function.__doc__ = f"`fusedrnn.functional.{name}_{way}` in NumPy; the equations are in `cells/{name}.py`."
    return forward_function, backward_function


def _shares(*zoneout: ArrayLike | None) -> tuple[ArrayLike, ...] | None:
    """What `forward` takes as zoneout; None stands for no zoneout at all."""
    return None if all(share is None for share in zoneout) else tuple(0 if z is None else z for z in zoneout)


def _check_tape(tape: Tape, layer: str) -> None:
    if tape.cell.name.split("_")[0] != layer:
        raise ValueError(f"{layer}_backward: the tape is of {tape.cell.name}; expected one of {layer}_forward")
