"""RNNCell, GRUCell and LSTMCell: one step at a time, called as in torch, with an explicit tape."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from . import _core, _validate
from .form import dense_schedule
from .kinds import CellKind, gru_kind, gru_options, lstm_kind, lstm_options, rnn_kind, rnn_options
from .parameters import Parameterized, arguments_of, count_elements, direction_specs, pack
from .specs import ActivationLike, Bias, ParameterSpec
from .tape import CellTape
from .tokens import pack_columns, see


class RecurrentCell(Parameterized):
    """Base of `RNNCell`, `GRUCell` and `LSTMCell`: a step is a sequence of length one."""

    def _specify(self) -> tuple[ParameterSpec, ...]:
        specs = direction_specs(self._kind, self.hidden_size, self.input_size, "input_size", "")
        _validate.room(type(self).__name__, "the parameters", count_elements(specs), self.dtype)
        return specs

    def __call__(self, x: Any, state: Any = None) -> Any:
        """One step.

        Parameters
        ----------
        x : array-like
            Floats (B, I) or unbatched (I,); or integer tokens (B,) or (), each a one-hot vector.
        state : array-like, pair of these, or None
            h, for LSTMCell (h, c), each (B, H) or unbatched (H,). None is all zeros.

        Returns
        -------
        ndarray, or pair of ndarray
            The new h, or (h, c), of the same shape as the old one.

        Raises
        ------
        TypeError
            An argument has the wrong type or dtype.
        ValueError
            A shape is wrong, or a parameter was replaced by an array that does not fit.
        IndexError
            A token is outside [0, input_size).

        Notes
        -----
        Each call packs the parameters, with tokens only the columns of weight_ih of those that occur. For many steps,
        ``layer.freeze().stream()`` is much faster.
        """
        return self._step(x, state, False)[0]

    def forward(self, x: Any, state: Any = None) -> tuple[Any, CellTape]:
        """One step that saves the data for the backward pass.

        Parameters
        ----------
        x, state
            As for calling the cell.

        Returns
        -------
        state : ndarray, or pair of ndarray
            The new h, or (h, c).
        tape : CellTape
            ``tape.backward(dstate)`` gives the gradients.

        Raises
        ------
        TypeError, ValueError, IndexError
            As for calling the cell.

        Examples
        --------
        >>> import fusedrnn, numpy as np
        >>> cell = fusedrnn.GRUCell(3, 5)
        >>> h, tape = cell.forward(np.ones((2, 3), np.float32))
        >>> grads = tape.backward(np.ones_like(h))
        >>> grads.x.shape, grads.state.shape
        ((2, 3), (2, 5))
        """
        state_n, tape = self._step(x, state, True)
        assert tape is not None
        return state_n, tape

    def _step(self, x: Any, state: Any, training: bool) -> tuple[Any, CellTape | None]:
        owner, H, dtype = type(self).__name__, self.hidden_size, self.dtype
        x, tokens, unbatched = _validate.cell_input(owner, x, dtype, self.input_size)
        kind = self._kind
        names = kind.states
        B = 1 if unbatched else x.shape[0]
        if tokens:
            x = np.array(x, np.int64).reshape(1, B)
        else:
            x = x[None, None] if unbatched else x[None]
        if state is None:
            parts: Any = (np.zeros((B, H), dtype),) * len(names)
        else:
            shape, formula = ((H,), "(hidden_size,)") if unbatched else ((B, H), "(B, hidden_size)")
            parts = _validate.state(owner, "state", state, names, shape, formula, dtype)
            if unbatched:
                parts = tuple([part[None] for part in parts])
        schedule = dense_schedule(1, B)
        lowest = (0,) if tokens else ()
        arrays = self._arrays(lowest)
        seen = see(x, schedule, self.input_size, training)
        pack_columns(seen, arrays, lowest)
        if seen is not None:
            x = seen.numbers
        weights = pack(kind, arrays, training)[0]
        y = _core.empty((1, B, H), dtype)
        state_n = tuple([_core.empty((B, H), dtype) for _ in names])
        saved = _core.forward(weights, x, parts, y, state_n, schedule, False, training)
        tape = None
        if saved is not None:
            specs = self._specs
            tape = CellTape(owner, saved, specs, dtype, kind, B, self.input_size, seen, unbatched)
        if unbatched:
            state_n = tuple([part[0] for part in state_n])
        return (state_n if len(state_n) == 2 else state_n[0]), tape


class RNNCell(RecurrentCell):
    """One step of an Elman network: h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu in place of tanh.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H, at least 1.
    bias : True, False or "single"
        True: b_ih and b_hh. False: no biases. "single": b_ih alone.
    nonlinearity : "tanh" or "relu"
    activation : str, (str, float), (str, float, float) or None
        A function that replaces `nonlinearity`: a name, (name, alpha) or (name, alpha, beta).
        The names: "tanh", "sigmoid", "relu", "hard_sigmoid" (alpha x + beta within [0, 1]; 1/6 and 1/2), "hard_tanh",
        "softsign", "softplus", "leaky_relu" (alpha 0.01), "elu" (alpha 1), "affine" (alpha x + beta), "scaled_tanh"
        (alpha tanh(beta x)), "thresholded_relu" (x above alpha, 1), "linear".
    clip : float or None
        Pre-activations are limited to [-clip, clip]; the gradient is zero outside (ONNX).
    dtype : float32 or float64
    rng : int, numpy.random.Generator or None
        Draws the initial parameters from U(-1/sqrt(H), 1/sqrt(H)), in torch's order.

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
    Arguments and parameter names are those of ``torch.nn.RNNCell``. Equations: see `RNN`.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> cell = fusedrnn.RNNCell(3, 5)
    >>> h = cell(np.ones((2, 3), np.float32))
    >>> cell(np.ones((2, 3), np.float32), h).shape
    (2, 5)
    """

    nonlinearity: str
    activation: ActivationLike | None
    clip: float | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: Bias = True,
        nonlinearity: str = "tanh",
        *,
        activation: ActivationLike | None = None,
        clip: float | None = None,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        values = self._sizes(input_size, hidden_size, bias, dtype, rng)
        values |= rnn_options(type(self).__name__, nonlinearity, activation, clip)
        self._configure(values)
        self._initialise()

    _arguments = arguments_of(__init__)

    def _choose_kind(self) -> CellKind:
        return rnn_kind(self.nonlinearity, self.activation, self.clip, self.bias)


class GRUCell(RecurrentCell):
    """One step of a gated recurrent unit; gates r, z, n.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H, at least 1.
    bias : True, False or "single"
        True: b_ih and b_hh. False: no biases. "single": b_ih alone.
    reset_after : bool
        Whether the reset gate acts after the product with W_hn, or before.
    reset_gate : bool
        Whether there is a gate r.
    activation, recurrent_activation : str, (str, float), (str, float, float); None is "tanh"
        Functions that replace the tanh of n and the sigmoid of the gates: a name, (name, alpha) or
        (name, alpha, beta).
        The names: "tanh", "sigmoid", "relu", "hard_sigmoid" (alpha x + beta within [0, 1]; 1/6 and 1/2), "hard_tanh",
        "softsign", "softplus", "leaky_relu" (alpha 0.01), "elu" (alpha 1), "affine" (alpha x + beta), "scaled_tanh"
        (alpha tanh(beta x)), "thresholded_relu" (x above alpha, 1), "linear".
    clip : float or None
        Pre-activations are limited to [-clip, clip]; the gradient is zero outside (ONNX).
    dtype : float32 or float64
    rng : int, numpy.random.Generator or None
        Draws the initial parameters from U(-1/sqrt(H), 1/sqrt(H)), in torch's order.

    Raises
    ------
    TypeError
        An argument is of the wrong type.
    ValueError
        An argument is out of range, or ``reset_after=False`` is given without a reset gate.
    MemoryError
        The parameters do not fit into memory.

    Notes
    -----
    Arguments and parameter names are those of ``torch.nn.GRUCell``. Equations: see `GRU`.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> cell = fusedrnn.GRUCell(3, 5, reset_after=False)
    >>> cell(np.ones(3, np.float32)).shape
    (5,)
    """

    reset_after: bool
    reset_gate: bool
    activation: ActivationLike | None
    recurrent_activation: ActivationLike
    clip: float | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: Bias = True,
        *,
        reset_after: bool = True,
        reset_gate: bool = True,
        activation: ActivationLike | None = None,
        recurrent_activation: ActivationLike = "sigmoid",
        clip: float | None = None,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        values = self._sizes(input_size, hidden_size, bias, dtype, rng)
        values |= gru_options(type(self).__name__, reset_after, reset_gate, activation, recurrent_activation, clip)
        self._configure(values)
        self._initialise()

    _arguments = arguments_of(__init__)

    def _choose_kind(self) -> CellKind:
        options = (self.reset_after, self.reset_gate, self.activation, self.recurrent_activation, self.clip)
        return gru_kind(*options, self.bias)


class LSTMCell(RecurrentCell):
    """One step of a long short-term memory; gates i, f, g, o; the state is the pair (h, c).

    Parameters
    ----------
    input_size, hidden_size : int
        I and H, at least 1.
    bias : True, False or "single"
        True: b_ih and b_hh. False: no biases. "single": b_ih alone.
    peephole : "ifo", "o_prev" or None
        "ifo": p * c is added to i and f before their activation, and p * c' to o; parameter ``weight_peephole``
        (3, H), rows i f o (not ONNX's order i o f). "o_prev": p * c is added to o alone; (1, H).
    coupled : bool
        f = 1 - i. There is no gate f: weights have 3*H rows i g o, and peepholes are (2, H), rows i o.
    activation, recurrent_activation, output_activation : str, (str, float), (str, float, float) or None
        Functions that replace the tanh of g, the sigmoid of the gates, and the tanh of c' (default: `activation`): a
        name, (name, alpha) or (name, alpha, beta).
        The names: "tanh", "sigmoid", "relu", "hard_sigmoid" (alpha x + beta within [0, 1]; 1/6 and 1/2), "hard_tanh",
        "softsign", "softplus", "leaky_relu" (alpha 0.01), "elu" (alpha 1), "affine" (alpha x + beta), "scaled_tanh"
        (alpha tanh(beta x)), "thresholded_relu" (x above alpha, 1), "linear".
    clip : float or None
        Pre-activations are limited to [-clip, clip]; the gradient is zero outside (ONNX).
    cell_clip : float or None
        c' is limited to [-cell_clip, cell_clip] before it is used; the gradient is zero outside.
    dtype : float32 or float64
    rng : int, numpy.random.Generator or None
        Draws the initial parameters from U(-1/sqrt(H), 1/sqrt(H)), in torch's order.

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
    Arguments and parameter names are those of ``torch.nn.LSTMCell``. Equations: see `LSTM`.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> cell = fusedrnn.LSTMCell(3, 5)
    >>> h, c = cell(np.ones((2, 3), np.float32))
    >>> h, c = cell(np.ones((2, 3), np.float32), (h, c))
    >>> h.shape
    (2, 5)
    """

    peephole: str | None
    coupled: bool
    activation: ActivationLike | None
    recurrent_activation: ActivationLike
    output_activation: ActivationLike | None
    clip: float | None
    cell_clip: float | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: Bias = True,
        *,
        peephole: str | None = None,
        coupled: bool = False,
        activation: ActivationLike | None = None,
        recurrent_activation: ActivationLike = "sigmoid",
        output_activation: ActivationLike | None = None,
        clip: float | None = None,
        cell_clip: float | None = None,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        values = self._sizes(input_size, hidden_size, bias, dtype, rng)
        functions = (activation, recurrent_activation, output_activation)
        values |= lstm_options(type(self).__name__, peephole, coupled, *functions, clip, cell_clip)
        self._configure(values)
        self._initialise()

    _arguments = arguments_of(__init__)

    def _choose_kind(self) -> CellKind:
        functions = (self.activation, self.recurrent_activation, self.output_activation)
        return lstm_kind(self.peephole, self.coupled, *functions, self.clip, self.cell_clip, self.bias)
