"""Elman networks: layer, cell and functions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from .. import _validate
from ..grads import RNNGrads
from ..kinds import SIGMOID, TANH, CellKind, Options, kind_of, or_infinite
from ..one_direction import Array, FunctionalTape, run_backward, run_forward
from ..parameters import arguments_of
from ..recurrent import RecurrentLayer
from ..recurrent_cell import RecurrentCell
from ..specs import ActivationLike, Bias

if TYPE_CHECKING:
    from ..reference.cells import Cell


def rnn_options(owner: str, nonlinearity: object, activation: object, clip: object) -> dict[str, Any]:
    """Arguments of `rnn_kind` and of RNN, by name."""
    return {
        "nonlinearity": _validate.choice(owner, "nonlinearity", nonlinearity, ("tanh", "relu")),
        "activation": _validate.activation(owner, "activation", activation, optional=True),
        "clip": _validate.limit(owner, "clip", clip),
    }


def rnn_kind(
    nonlinearity: str, activation: ActivationLike | None = None, clip: float | None = None, bias: Bias = True
) -> CellKind:
    """An Elman network; all arguments have been checked."""
    state = _validate.full_activation(nonlinearity if activation is None else activation)
    if clip is None and state[0] in ("tanh", "relu"):
        return kind_of(f"rnn_{state[0]}", bias)
    return kind_of("rnn_options", bias, Options(SIGMOID, state, TANH, or_infinite(clip), math.inf, None))


class RNN(RecurrentLayer):
    """Elman network: h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu in place of tanh.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H, at least 1.
    num_layers : int
        L; the input of each layer is the output of the layer below.
    nonlinearity : "tanh" or "relu"
    bias : True, False or "single"
        True: b_ih and b_hh. False: no biases. "single": b_ih alone.
    batch_first : bool
        Whether x and y are (B, T, ...) instead of (T, B, ...).
    dropout : float
        0 <= dropout < 1; acts in ``forward``, on the outputs of all layers but the last.
    bidirectional : bool
        Whether each layer runs in both directions of time.
    merge : "concat", "sum", "mean", "mul" or None
        How the outputs of the two directions are merged; None returns those of the last layer as a pair (and
        concatenates in the layers below it).
    activation : str, (str, float), (str, float, float) or None
        A function that replaces `nonlinearity`: a name, (name, alpha) or (name, alpha, beta).
        The names: "tanh", "sigmoid", "relu", "hard_sigmoid" (alpha x + beta within [0, 1]; 1/6 and 1/2), "hard_tanh",
        "softsign", "softplus", "leaky_relu" (alpha 0.01), "elu" (alpha 1), "affine" (alpha x + beta), "scaled_tanh"
        (alpha tanh(beta x)), "thresholded_relu" (x above alpha, 1), "linear".
    clip : float or None
        Pre-activations are limited to [-clip, clip]; the gradient is zero outside (ONNX).
    backwards : bool
        Whether a one-directional layer runs from the last step to the first; its outputs are aligned with its inputs.
    learned_state : bool
        Whether the initial state is a parameter, ``h_0_l0`` (H,), where rows start if no state is given, and
        after a reset; it starts at zero.
    zoneout : float
        Probability that a unit keeps its old h at a step of ``forward``. In inference each new h contains this share
        of the old h.
    recurrent_dropout : float
        Probability that ``forward`` drops a unit of h from the recurrent product: one mask for each row, layer
        and direction, the same at all steps.
    weight_dropout : float
        Probability that ``forward`` drops an element of W_hh.
    dtype : float32 or float64
    rng : int, numpy.random.Generator or None
        Draws the initial parameters from U(-1/sqrt(H), 1/sqrt(H)), in torch's order, and dropout masks.

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
    Elman, Finding structure in time, 1990. Zoneout: Krueger et al., Zoneout, 2016. Recurrent dropout: Gal and
    Ghahramani, A theoretically grounded application of dropout in recurrent neural networks, 2016. Weight dropout: Wan
    et al., Regularization of neural networks using DropConnect, 2013; Merity et al., Regularizing and optimizing LSTM
    language models, 2017. Arguments, parameter names and shapes are those of ``torch.nn.RNN``;
    arguments that torch does not have are keyword-only. See `Parameterized` for ``params``, comparison and copying.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> layer = fusedrnn.RNN(3, 5, nonlinearity="relu")
    >>> layer
    RNN(3, 5, nonlinearity='relu')
    >>> y, h = layer(np.zeros((7, 2, 3), np.float32))
    >>> y.shape, h.shape
    ((7, 2, 5), (1, 2, 5))
    """

    nonlinearity: str
    activation: ActivationLike | None
    clip: float | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: Bias = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        merge: str | None = "concat",
        activation: ActivationLike | None = None,
        clip: float | None = None,
        backwards: bool = False,
        learned_state: bool = False,
        zoneout: float = 0.0,
        recurrent_dropout: float = 0.0,
        weight_dropout: float = 0.0,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        self._construct(
            *(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, merge),
            *(backwards, learned_state, zoneout, recurrent_dropout, weight_dropout, dtype, rng),
            lambda _: rnn_options(type(self).__name__, nonlinearity, activation, clip),
        )

    _arguments = arguments_of(__init__)

    def _choose_kind(self) -> CellKind:
        return rnn_kind(self.nonlinearity, self.activation, self.clip, self.bias)

    def _reference_cell(self) -> Cell:
        from ..reference.cells import rnn_cell

        return rnn_cell(self.nonlinearity, self.activation, self.clip)


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
        options = rnn_options(type(self).__name__, nonlinearity, activation, clip)
        self._construct(input_size, hidden_size, bias, dtype, rng, **options)

    _arguments = arguments_of(__init__)

    def _choose_kind(self) -> CellKind:
        return rnn_kind(self.nonlinearity, self.activation, self.clip, self.bias)


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
    h_initial: ArrayLike | None = None,
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
    h_0 : array-like (B, H), or None for `h_initial`
        The state before the first step.
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
    h_initial : array-like (H,), or None for zeros
        The layer's own initial state, to which a reset returns.
    lengths : integers (B,), or None for T
        Number of valid steps of each row. Later steps are not read, and the state passes through.
    mask : bool (T, B), or None
        False skips a step, in addition to those past the row's length: nothing is read, and the state passes through.
    reset : bool (T, B), or None
        True cuts the row before this step: the steps after the cut (in reverse: before it) start from `h_initial`,
        whatever `h_0` is, even if this step itself is skipped. In reverse reset[0] has no effect.
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
    states = {"h_0": h_0}, {"h_initial": h_initial}
    y, (h_n,), tape = run_forward(owner, kind, x, *states, (W_ih, W_hh, b_ih, b_hh), masks, steps, reverse)
    return y, h_n, tape


def rnn_backward(
    tape: FunctionalTape,
    dy: ArrayLike | None = None,
    dh_n: ArrayLike | None = None,
    *,
    need_dx: bool = True,
    sparse: bool = False,
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
    sparse : bool
        True returns dW_ih of tokens as a `SparseGrad`, whose size does not grow with the vocabulary.

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
    dx, dstate, dparams, own = run_backward("rnn_backward", "rnn_forward", tape, dy, {"dh_n": dh_n}, need_dx, sparse)
    return RNNGrads(dx, *dstate, *dparams[:4], *own)
