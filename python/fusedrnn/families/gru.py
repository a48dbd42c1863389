"""Gated recurrent units in three forms: layer, cell and functions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from .. import _validate
from ..grads import GRUGrads
from ..kinds import SIGMOID, TANH, CellKind, Options, kind_of, or_infinite
from ..one_direction import Array, FunctionalTape, run_backward, run_forward
from ..parameters import arguments_of
from ..recurrent import RecurrentLayer, layer_norm_options
from ..recurrent_cell import RecurrentCell
from ..specs import ActivationLike, Bias

if TYPE_CHECKING:
    from ..reference.cells import Cell


def gru_options(
    owner: str, reset_after: object, reset_gate: object, activation: object, recurrent_activation: object, clip: object
) -> dict[str, Any]:
    """Arguments of `gru_kind` and of GRU, by name."""
    values = {
        "reset_after": _validate.flag(owner, "reset_after", reset_after),
        "reset_gate": _validate.flag(owner, "reset_gate", reset_gate),
        "activation": _validate.activation(owner, "activation", activation, optional=True),
        "recurrent_activation": _validate.activation(owner, "recurrent_activation", recurrent_activation),
        "clip": _validate.limit(owner, "clip", clip),
    }
    if not values["reset_gate"] and not values["reset_after"]:
        raise _validate.meaningless(owner, "reset_after", False, "reset_gate=False; there is no reset gate to act")
    return values


def gru_kind(
    reset_after: bool,
    reset_gate: bool = True,
    activation: ActivationLike | None = None,
    recurrent_activation: ActivationLike = "sigmoid",
    clip: float | None = None,
    bias: Bias = True,
) -> CellKind:
    """A gated recurrent unit; all arguments have been checked."""
    name = "gru_simple" if not reset_gate else "gru_after" if reset_after else "gru_before"
    gate, state = _validate.full_activation(recurrent_activation), _validate.full_activation(activation or "tanh")
    if (gate, state, clip) == (SIGMOID, TANH, None):
        return kind_of(name, bias)
    return kind_of(f"{name}_options", bias, Options(gate, state, TANH, or_infinite(clip), math.inf, None))


class GRU(RecurrentLayer):
    """Gated recurrent unit; gates r, z, n.

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr), z likewise, and h' = (1 - z) * n + z * h with

    - ``reset_after=True`` (torch, cuDNN, Keras): n = tanh(W_in x + b_in + r * (W_hn h + b_hn))
    - ``reset_after=False`` (Cho et al.): n = tanh(W_in x + b_in + W_hn (r * h) + b_hn)
    - ``reset_gate=False`` (textbooks' simplified GRU, gates z, n): n = tanh(W_in x + b_in + W_hn h + b_hn)

    Parameters
    ----------
    input_size, hidden_size : int
        I and H, at least 1.
    num_layers : int
        L; the input of each layer is the output of the layer below.
    bias : True, False or "single"
        True: b_ih and b_hh. False: no biases. "single": b_ih alone.
    batch_first : bool
        Whether x and y are (B, T, ...) instead of (T, B, ...).
    dropout : float
        0 <= dropout < 1; acts in ``forward``, on the outputs of all layers but the last.
    bidirectional : bool
        Whether each layer runs in both directions of time.
    reset_after : bool
        Whether the reset gate acts after the product with W_hn, or before.
    reset_gate : bool
        Whether there is a gate r.
    merge : "concat", "sum", "mean", "mul" or None
        How the outputs of the two directions are merged; None returns those of the last layer as a pair (and
        concatenates in the layers below it).
    activation, recurrent_activation : str, (str, float), (str, float, float); None is "tanh"
        Functions that replace the tanh of n and the sigmoid of the gates: a name, (name, alpha) or
        (name, alpha, beta).
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
    layer_norm : bool
        Whether W_ih x and W_hh h are normalised over r and z together, and over n apart, before the biases are added;
        parameters ``weight_ln_ih_l0`` and ``weight_ln_hh_l0`` (3*H,), the gains. Cannot be combined with other options
        of the cell.
    layer_norm_eps : float
        Added to the variances.
    dtype : float32 or float64
    rng : int, numpy.random.Generator or None
        Draws the initial parameters from U(-1/sqrt(H), 1/sqrt(H)), in torch's order, and dropout masks.

    Raises
    ------
    TypeError
        An argument is of the wrong type.
    ValueError
        An argument is out of range, options do not go together, or ``reset_after=False`` comes without a reset gate.
    MemoryError
        The parameters do not fit into memory.

    Notes
    -----
    Cho et al., Learning phrase representations using RNN encoder-decoder, 2014 (reset before). Layer normalisation: Ba,
    Kiros and Hinton, Layer normalization, 2016, supplementary material. Arguments, parameter
    names, shapes and gate order are those of ``torch.nn.GRU``; what torch does not have is keyword-only.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> layer = fusedrnn.GRU(3, 5, bidirectional=True, merge="sum")
    >>> y, h = layer(np.zeros((7, 2, 3), np.float32))
    >>> y.shape, h.shape
    ((7, 2, 5), (2, 2, 5))
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
        num_layers: int = 1,
        bias: Bias = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        reset_after: bool = True,
        reset_gate: bool = True,
        merge: str | None = "concat",
        activation: ActivationLike | None = None,
        recurrent_activation: ActivationLike = "sigmoid",
        clip: float | None = None,
        backwards: bool = False,
        learned_state: bool = False,
        zoneout: float = 0.0,
        recurrent_dropout: float = 0.0,
        weight_dropout: float = 0.0,
        layer_norm: bool = False,
        layer_norm_eps: float = 1e-5,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        owner = type(self).__name__

        def options(_: dict[str, Any]) -> dict[str, Any]:
            own = gru_options(owner, reset_after, reset_gate, activation, recurrent_activation, clip)
            return own | layer_norm_options(owner, layer_norm, layer_norm_eps)

        self._construct(
            *(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, merge),
            *(backwards, learned_state, zoneout, recurrent_dropout, weight_dropout, dtype, rng),
            options,
        )

    _arguments = arguments_of(__init__)

    def _choose_kind(self) -> CellKind:
        options = (self.reset_after, self.reset_gate, self.activation, self.recurrent_activation, self.clip)
        return self._normed(gru_kind(*options, self.bias))

    def _reference_cell(self) -> Cell:
        from ..reference.cells import gru_cell

        return gru_cell(self.reset_after, self.reset_gate, self.activation, self.recurrent_activation, self.clip)


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
        options = gru_options(type(self).__name__, reset_after, reset_gate, activation, recurrent_activation, clip)
        self._construct(input_size, hidden_size, bias, dtype, rng, **options)

    _arguments = arguments_of(__init__)

    def _choose_kind(self) -> CellKind:
        options = (self.reset_after, self.reset_gate, self.activation, self.recurrent_activation, self.clip)
        return gru_kind(*options, self.bias)


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
    h_initial: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    past_end: str = "zero",
    reverse: bool = False,
) -> tuple[Array, Array, FunctionalTape]:
    """Gated recurrent unit: h_t = (1 - z) * n + z * h_{t-1}, gates in the order r, z, n.

    Parameters
    ----------
    x, h_0, clip, recurrent_mask, zoneout_h, h_initial, lengths, mask, reset, past_end, reverse
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
    states = {"h_0": h_0}, {"h_initial": h_initial}
    y, (h_n,), tape = run_forward(owner, kind, x, *states, (W_ih, W_hh, b_ih, b_hh), masks, steps, reverse)
    return y, h_n, tape


def gru_backward(
    tape: FunctionalTape,
    dy: ArrayLike | None = None,
    dh_n: ArrayLike | None = None,
    *,
    need_dx: bool = True,
    sparse: bool = False,
) -> GRUGrads:
    """Gradients of a scalar with respect to everything that went into `gru_forward`.

    Parameters
    ----------
    tape : FunctionalTape
        From `gru_forward`; may be used again.
    dy, dh_n, need_dx, sparse
        As for `rnn_backward`.

    Returns
    -------
    GRUGrads

    Raises
    ------
    TypeError, ValueError
        As for `rnn_backward`.
    """
    dx, dstate, dparams, own = run_backward("gru_backward", "gru_forward", tape, dy, {"dh_n": dh_n}, need_dx, sparse)
    return GRUGrads(dx, *dstate, *dparams[:4], *own)
