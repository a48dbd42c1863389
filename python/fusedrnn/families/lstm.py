"""Long short-term memory with all of its options: layer, cell and functions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from .. import _validate
from ..grads import LSTMGrads
from ..kinds import CELLS, SIGMOID, TANH, CellKind, Options, kind_of, or_infinite
from ..one_direction import Array, FunctionalTape, run_backward, run_forward
from ..parameters import arguments_of
from ..recurrent import RecurrentLayer, layer_norm_options
from ..recurrent_cell import RecurrentCell
from ..specs import ActivationLike, Bias

if TYPE_CHECKING:
    from ..reference.cells import Cell


def lstm_options(
    owner: str,
    peephole: object,
    coupled: object,
    activation: object,
    recurrent_activation: object,
    output_activation: object,
    clip: object,
    cell_clip: object,
) -> dict[str, Any]:
    """Arguments of `lstm_kind` and of LSTM, by name."""
    return {
        "peephole": _validate.choice(owner, "peephole", peephole, (None, "ifo", "o_prev")),
        "coupled": _validate.flag(owner, "coupled", coupled),
        "activation": _validate.activation(owner, "activation", activation, optional=True),
        "recurrent_activation": _validate.activation(owner, "recurrent_activation", recurrent_activation),
        "output_activation": _validate.activation(owner, "output_activation", output_activation, optional=True),
        "clip": _validate.limit(owner, "clip", clip),
        "cell_clip": _validate.limit(owner, "cell_clip", cell_clip),
    }


def lstm_kind(
    peephole: str | None = None,
    coupled: bool = False,
    activation: ActivationLike | None = None,
    recurrent_activation: ActivationLike = "sigmoid",
    output_activation: ActivationLike | None = None,
    clip: float | None = None,
    cell_clip: float | None = None,
    bias: Bias = True,
) -> CellKind:
    """A long short-term memory; all arguments have been checked."""
    gate, state = _validate.full_activation(recurrent_activation), _validate.full_activation(activation or "tanh")
    output = state if output_activation is None else _validate.full_activation(output_activation)
    options = Options(gate, state, output, or_infinite(clip), or_infinite(cell_clip), peephole)
    if not coupled and options == Options(SIGMOID, TANH, TANH, math.inf, math.inf, None):
        return kind_of("lstm", bias)
    name = "lstm_coupled" if coupled else "lstm_options"
    peepholes = {None: 0, "o_prev": 1, "ifo": CELLS[name]["units"]}[peephole]
    return kind_of(name, bias, options, peepholes)


class LSTM(RecurrentLayer):
    """Long short-term memory with forget gates; gates i, f, g, o.

    i = sigmoid(W_ii x + b_ii + W_hi h + b_hi), f and o likewise, g with tanh;
    c' = f * c + i * g and h' = o * tanh(c'). The state is the pair (h, c).

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
    proj_size : int
        If not 0, h' = W_hr (o * tanh(c')) has this many units, fewer than c; so do the outputs and the input of
        W_hh. Parameter ``weight_hr_l0`` (proj_size, hidden_size).
    peephole : "ifo", "o_prev" or None
        "ifo": p * c is added to i and f before their activation, and p * c' to o; parameter ``weight_peephole_l0``
        (3, H), rows i f o (not ONNX's order i o f). "o_prev": p * c is added to o alone; (1, H).
    coupled : bool
        f = 1 - i. There is no gate f: weights have 3*H rows i g o, and peepholes are (2, H), rows i o.
    merge : "concat", "sum", "mean", "mul" or None
        How the outputs of the two directions are merged; None returns those of the last layer as a pair (and
        concatenates in the layers below it).
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
    backwards : bool
        Whether a one-directional layer runs from the last step to the first; its outputs are aligned with its inputs.
    learned_state : bool
        Whether the initial state is a parameter, ``h_0_l0`` and ``c_0_l0`` (H,), where rows start if no state is
        given, and after a reset; they start at zero. With a projection ``h_0_l0`` is (proj_size,).
    zoneout : float, or pair of these
        Probability that a unit keeps its old h and c at a step of ``forward``. In inference each new h and c contains
        this share of the old one. One number applies to both; a pair is (rate of h, rate of c).
    recurrent_dropout : float
        Probability that ``forward`` drops a unit of h from the recurrent product: one mask for each row, layer
        and direction, the same at all steps.
    weight_dropout : float
        Probability that ``forward`` drops an element of W_hh.
    layer_norm : bool
        Whether W_ih x and W_hh h are normalised, each over all gates, before the biases are added, and c' before it
        enters h'; parameters ``weight_ln_ih_l0`` and ``weight_ln_hh_l0`` (4*H,), ``weight_ln_c_l0`` and
        ``bias_ln_c_l0`` (H,).
        Cannot be combined with other options of the cell.
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
        An argument is out of range, or options cannot be combined.
    MemoryError
        The parameters do not fit into memory.

    Notes
    -----
    Hochreiter and Schmidhuber, Long short-term memory, 1997; forget gates: Gers, Schmidhuber and Cummins, 2000;
    peepholes: Gers, Schraudolph and Schmidhuber, 2002; projection: Sak, Senior and Beaufays, 2014; layer normalisation:
    Ba, Kiros and Hinton, Layer normalization, 2016, supplementary material. All options with
    their sources: docs/cells.md. Arguments, parameter names, shapes and gate order are those of ``torch.nn.LSTM``;
    arguments that torch does not have are keyword-only.

    Examples
    --------
    >>> import fusedrnn, numpy as np
    >>> layer = fusedrnn.LSTM(80, 256, num_layers=2, bidirectional=True)
    >>> layer
    LSTM(80, 256, num_layers=2, bidirectional=True)
    >>> y, (h, c) = layer(np.zeros((7, 2, 80), np.float32))
    >>> y.shape, h.shape, c.shape
    ((7, 2, 512), (4, 2, 256), (4, 2, 256))
    >>> fusedrnn.LSTM(3, 5, peephole="ifo", cell_clip=50.0).weight_peephole_l0.shape
    (3, 5)
    """

    proj_size: int
    peephole: str | None
    coupled: bool
    activation: ActivationLike | None
    recurrent_activation: ActivationLike
    output_activation: ActivationLike | None
    clip: float | None
    cell_clip: float | None

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
        proj_size: int = 0,
        *,
        peephole: str | None = None,
        coupled: bool = False,
        merge: str | None = "concat",
        activation: ActivationLike | None = None,
        recurrent_activation: ActivationLike = "sigmoid",
        output_activation: ActivationLike | None = None,
        clip: float | None = None,
        cell_clip: float | None = None,
        backwards: bool = False,
        learned_state: bool = False,
        zoneout: float | tuple[float, float] = 0.0,
        recurrent_dropout: float = 0.0,
        weight_dropout: float = 0.0,
        layer_norm: bool = False,
        layer_norm_eps: float = 1e-5,
        dtype: DTypeLike = np.float32,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        owner = type(self).__name__

        def options(shared: dict[str, Any]) -> dict[str, Any]:
            units = {"proj_size": _validate.proj_size(owner, proj_size, shared["hidden_size"])}
            functions = (activation, recurrent_activation, output_activation)
            own = units | lstm_options(owner, peephole, coupled, *functions, clip, cell_clip)
            return own | layer_norm_options(owner, layer_norm, layer_norm_eps)

        self._construct(
            *(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, merge),
            *(backwards, learned_state, zoneout, recurrent_dropout, weight_dropout, dtype, rng),
            options,
        )

    _arguments = arguments_of(__init__)

    def _choose_kind(self) -> CellKind:
        functions = (self.activation, self.recurrent_activation, self.output_activation)
        kind = lstm_kind(self.peephole, self.coupled, *functions, self.clip, self.cell_clip, self.bias)
        return self._normed(kind._replace(proj_size=self.proj_size))

    def _reference_cell(self) -> Cell:
        from ..reference.cells import lstm_cell

        functions = (self.activation, self.recurrent_activation, self.output_activation)
        return lstm_cell(self.peephole, self.coupled, *functions, self.clip, self.cell_clip)


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
        functions = (activation, recurrent_activation, output_activation)
        options = lstm_options(type(self).__name__, peephole, coupled, *functions, clip, cell_clip)
        self._construct(input_size, hidden_size, bias, dtype, rng, **options)

    _arguments = arguments_of(__init__)

    def _choose_kind(self) -> CellKind:
        functions = (self.activation, self.recurrent_activation, self.output_activation)
        return lstm_kind(self.peephole, self.coupled, *functions, self.clip, self.cell_clip, self.bias)


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
    h_initial: ArrayLike | None = None,
    c_initial: ArrayLike | None = None,
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
    h_0, c_0 : array-like (B, H), or None for `h_initial`, `c_initial`
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
        h_t = W_hr (o * tanh(c_t)). Then h_0, h_initial, y, h_n, recurrent_mask and zoneout_h have P units, and W_hh is
        (4*H, P).
    h_initial, c_initial : array-like (H,), or None for zeros
        The layer's own initial state, to which a reset returns.
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
    states = {"h_0": h_0, "c_0": c_0}, {"h_initial": h_initial, "c_initial": c_initial}
    y, (h_n, c_n), tape = run_forward(owner, kind, x, *states, weights, masks, steps, reverse)
    return y, h_n, c_n, tape


def lstm_backward(
    tape: FunctionalTape,
    dy: ArrayLike | None = None,
    dh_n: ArrayLike | None = None,
    dc_n: ArrayLike | None = None,
    *,
    need_dx: bool = True,
    sparse: bool = False,
) -> LSTMGrads:
    """Gradients of a scalar with respect to everything that went into `lstm_forward`.

    Parameters
    ----------
    tape : FunctionalTape
        From `lstm_forward`; may be used again.
    dy, need_dx, sparse
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
    dx, dstate, dparams, own = run_backward(
        "lstm_backward", "lstm_forward", tape, dy, {"dh_n": dh_n, "dc_n": dc_n}, need_dx, sparse
    )
    return LSTMGrads(dx, *dstate, *dparams, *own)
