"""RNN, GRU and LSTM: torch's layers on NumPy arrays, with explicit tapes instead of autograd."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import DTypeLike

from . import _validate
from .kinds import CellKind, gru_kind, gru_options, lstm_kind, lstm_options, rnn_kind, rnn_options
from .parameters import arguments_of
from .recurrent import RecurrentLayer
from .specs import ActivationLike, Bias

if TYPE_CHECKING:
    from .reference.cells import Cell


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
        Whether the initial state is a parameter, ``h_0_l0`` (H,), which is used for all rows if no state is given; it
        starts at zero.
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
        values = self._common(
            *(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, merge, dtype, rng),
            *(zoneout, recurrent_dropout, weight_dropout),
        )
        values |= self._in_time(backwards, learned_state, values["bidirectional"])
        values |= rnn_options(type(self).__name__, nonlinearity, activation, clip)
        self._configure(values)
        self._initialise()

    _arguments = arguments_of(__init__)

    def _choose_kind(self) -> CellKind:
        return rnn_kind(self.nonlinearity, self.activation, self.clip, self.bias)

    def _reference_cell(self) -> Cell:
        from .reference.cells import rnn_cell

        return rnn_cell(self.nonlinearity, self.activation, self.clip)


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
        Whether the initial state is a parameter, ``h_0_l0`` (H,), which is used for all rows if no state is given; it
        starts at zero.
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
        values = self._common(
            *(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, merge, dtype, rng),
            *(zoneout, recurrent_dropout, weight_dropout),
        )
        values |= self._in_time(backwards, learned_state, values["bidirectional"])
        values |= gru_options(type(self).__name__, reset_after, reset_gate, activation, recurrent_activation, clip)
        values["layer_norm"] = _validate.flag(type(self).__name__, "layer_norm", layer_norm)
        values["layer_norm_eps"] = _validate.layer_norm_eps(type(self).__name__, layer_norm_eps)
        self._configure(values)
        self._initialise()

    _arguments = arguments_of(__init__)

    def _choose_kind(self) -> CellKind:
        options = (self.reset_after, self.reset_gate, self.activation, self.recurrent_activation, self.clip)
        return self._normed(gru_kind(*options, self.bias))

    def _reference_cell(self) -> Cell:
        from .reference.cells import gru_cell

        return gru_cell(self.reset_after, self.reset_gate, self.activation, self.recurrent_activation, self.clip)


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
        Whether the initial state is a parameter, ``h_0_l0`` and ``c_0_l0`` (H,), which are used for all rows if no
        state is given; they start at zero. With a projection ``h_0_l0`` is (proj_size,).
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
        values = self._common(
            *(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, merge, dtype, rng),
            *(zoneout, recurrent_dropout, weight_dropout, ("h", "c")),
        )
        values |= self._in_time(backwards, learned_state, values["bidirectional"])
        values["proj_size"] = _validate.proj_size(owner, proj_size, values["hidden_size"])
        functions = (activation, recurrent_activation, output_activation)
        values |= lstm_options(owner, peephole, coupled, *functions, clip, cell_clip)
        values["layer_norm"] = _validate.flag(owner, "layer_norm", layer_norm)
        values["layer_norm_eps"] = _validate.layer_norm_eps(owner, layer_norm_eps)
        self._configure(values)
        self._initialise()

    _arguments = arguments_of(__init__)

    def _choose_kind(self) -> CellKind:
        functions = (self.activation, self.recurrent_activation, self.output_activation)
        kind = lstm_kind(self.peephole, self.coupled, *functions, self.clip, self.cell_clip, self.bias)
        return self._normed(kind._replace(proj_size=self.proj_size))

    def _reference_cell(self) -> Cell:
        from .reference.cells import lstm_cell

        functions = (self.activation, self.recurrent_activation, self.output_activation)
        return lstm_cell(self.peephole, self.coupled, *functions, self.clip, self.cell_clip)
