"""RNN, GRU and LSTM: torch's layers on NumPy arrays, with explicit tapes instead of autograd."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _core, _validate, masks, unroll
from .calling import Mode, SequenceLayer
from .form import Extent, Outputs, Plan
from .frozen import FrozenLayer
from .kinds import CellKind, gru_kind, gru_options, lstm_kind, lstm_options, rnn_kind, rnn_options
from .masks import Masks, Rates
from .parameters import Parameterized, layer_specs, learned_specs, pack
from .specs import ActivationLike, Bias, ParameterSpec
from .unroll import Record, Run

Array = NDArray[Any]

#: What layer normalisation has no kernels for.
NOT_NORMED = (
    *("reset_after", "reset_gate", "proj_size", "peephole", "coupled", "clip", "cell_clip"),
    *("activation", "recurrent_activation", "output_activation"),
)


class KeptLayer:
    """What a layer's run keeps for the backward pass."""

    __slots__ = ("extent", "factors", "from_initial", "masks", "plan", "records", "specs")

    def __init__(
        self,
        plan: Plan,
        specs: tuple[ParameterSpec, ...],
        extent: Extent,
        records: list[Record],
        from_initial: bool,
        masks: Masks,
        factors: Array | None,
    ) -> None:
        self.plan = plan
        self.specs = specs
        self.extent = extent
        self.records = records
        self.from_initial = from_initial  # no state was given
        self.masks = masks
        self.factors = factors  # of each weight_hh

    @property
    def nbytes(self) -> int:
        return sum(record.nbytes for record in self.records)

    def backward(
        self, dys: tuple[Array | None, ...], dstate_n: Any, dx: Array | None
    ) -> Run[tuple[tuple[Array, ...], dict[str, Array]]]:
        """See `Kept`."""
        plan = self.plan
        rows = plan.num_layers * plan.directions
        shapes = [spec.shape for spec in self.specs[: rows * plan.kind.each]]  # learned initial states follow
        dstate_0, dparams = yield from unroll.backward(plan, self.extent, self.records, dys, dstate_n, dx, shapes)
        if self.factors is not None:
            for dW_hh, factors in zip(dparams[1 :: plan.kind.each], self.factors, strict=True):
                dW_hh *= factors
        if plan.learned_state:
            share = 1 if self.from_initial else 0
            dparams += [part[i].sum(axis=0) * part.dtype.type(share) for i in range(rows) for part in dstate_0]
        return dstate_0, {spec.name: array for spec, array in zip(self.specs, dparams, strict=True)}


class RecurrentLayer(SequenceLayer, Parameterized):
    """Base of `RNN`, `GRU` and `LSTM`: what is done with a sequence is the same for all of them."""

    _assignable: ClassVar[frozenset[str]] = frozenset({"rng", "dropout", "recurrent_dropout", "weight_dropout"})

    num_layers: int
    batch_first: bool
    dropout: float
    bidirectional: bool
    merge: str | None
    backwards: bool
    learned_state: bool
    zoneout: float | tuple[float, float]
    recurrent_dropout: float
    weight_dropout: float
    layer_norm: bool = False
    layer_norm_eps: float = 1e-5
    _plan: Plan

    def _common(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: Bias,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        merge: str | None,
        dtype: DTypeLike,
        rng: np.random.Generator | int | None,
        zoneout: float | tuple[float, float],
        recurrent_dropout: float,
        weight_dropout: float,
        parts: tuple[str, ...] = ("h",),
    ) -> dict[str, Any]:
        """Check the arguments that all layers share, in the order of the signature."""
        owner = type(self).__name__
        values = self._sizes(input_size, hidden_size, bias, dtype, rng)
        values["num_layers"] = _validate.size(owner, "num_layers", num_layers, _validate.MOST_LAYERS)
        values["batch_first"] = _validate.flag(owner, "batch_first", batch_first)
        values["dropout"] = _validate.probability(owner, "dropout", dropout)
        values["bidirectional"] = _validate.flag(owner, "bidirectional", bidirectional)
        values["merge"] = _validate.merge(owner, merge, values["bidirectional"])
        if values["dropout"] and values["num_layers"] == 1:
            _validate.warn_idle_dropout(owner, values["dropout"], stacklevel=3)
        rates = _validate.zoneout(owner, zoneout, parts)
        values["zoneout"] = rates if len(parts) == 2 and rates[0] != rates[1] else rates[0]
        values["recurrent_dropout"] = _validate.probability(owner, "recurrent_dropout", recurrent_dropout)
        values["weight_dropout"] = _validate.probability(owner, "weight_dropout", weight_dropout)
        return values

    def _specify(self) -> tuple[ParameterSpec, ...]:
        plan = Plan(
            type(self).__name__,
            self.__dict__["_kind"],
            self.dtype,
            self.input_size,
            self.hidden_size,
            self.num_layers,
            self.bidirectional,
            self.batch_first,
            self.merge,
            self.backwards,
            self.learned_state,
            self._rates.zoneout,
        )
        self.__dict__["_plan"] = plan
        return layer_specs(plan) + learned_specs(plan)

    def _normed(self, kind: CellKind) -> CellKind:
        """The kind with layer normalisation, if it is wanted and there is such a form."""
        if not self.layer_norm:
            return kind
        if kind.name not in ("gru_after", "lstm") or kind.proj_size:
            for name, default in self._arguments:
                value = getattr(self, name)
                if name in NOT_NORMED and value != default:
                    raise _validate.no_layer_norm(type(self).__name__, name, value, default)
        return kind._replace(norm_eps=self.layer_norm_eps)

    def _in_time(self, backwards: object, learned_state: object, bidirectional: bool) -> dict[str, Any]:
        """Check where a layer starts, and from what."""
        owner = type(self).__name__
        return {
            "backwards": _validate.backwards(owner, backwards, bidirectional),
            "learned_state": _validate.flag(owner, "learned_state", learned_state),
        }

    def _draw(self) -> None:
        super()._draw()
        for spec in learned_specs(self._plan):
            self.params[spec.name][:] = 0

    def _turned(self) -> Self:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, _plan=self._plan.turned())
        return other

    @property
    def _rates(self) -> Rates:
        h, c = self.zoneout if isinstance(self.zoneout, tuple) else (self.zoneout, self.zoneout)
        c = c if "c" in self.__dict__["_kind"].states else 0.0
        between = self.dropout if self.num_layers > 1 else 0.0
        return Rates(self.recurrent_dropout, self.weight_dropout, (h, c), between)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("dropout", "recurrent_dropout", "weight_dropout"):
            value = _validate.probability(type(self).__name__, name, value)
        super().__setattr__(name, value)

    def _quick(self, x: Any, state: Any) -> tuple[Any, Any] | None:
        plan = self._plan
        if not plan.takes_quickly(x):
            return None
        if state is not None:  # before anything is packed
            given = (state,) if len(plan.parts) == 1 else state
            if not plan.is_plain_state(given, x.shape[0 if plan.batch_first else 1]):
                return None
        return _core.infer(pack(plan.kind, self._arrays(), False, plan.zoneout), x, plan.batch_first, state)

    def _given_masks(self, masks: Any) -> Mapping[str, Any]:
        return {} if masks is None else _validate.mask_names(self._plan.owner, masks, self._rates.by_name())

    def _run(
        self, x: Array, state: Any, extent: Extent, outputs: Outputs, mode: Mode
    ) -> Run[tuple[tuple[Array, ...], KeptLayer | None]]:
        plan = self._plan
        arrays, learned = plan.split_learned(self._arrays())
        rows, rates = plan.num_layers * plan.directions, self._rates
        used: Masks = {}
        if mode.drop and rates.any:
            between = plan.num_layers - 1, plan.inner_width
            shapes = masks.shapes(rows, extent.T, extent.B, plan.units, arrays[1].shape, between)
            used = masks.settle(plan.owner, rates, mode.masks, shapes, self.rng)
        factors = masks.weight_factors(used, rates, plan.dtype)
        if factors is not None:
            each = plan.kind.each
            arrays[1::each] = [W_hh * factor for W_hh, factor in zip(arrays[1::each], factors, strict=True)]
        weights = pack(plan.kind, arrays, mode.keep, (0.0, 0.0) if mode.drop else plan.zoneout)
        step_masks = masks.for_kernels(used, rates, rows, plan.dtype)
        state_0 = plan.initial_state(extent, state, learned)
        state_n, records = yield from unroll.forward(
            plan, weights, x, state_0, extent, outputs, mode.keep, used.get("dropout"), rates.dropout, step_masks
        )
        if not mode.keep:
            return state_n, None
        return state_n, KeptLayer(plan, self.__dict__["_specs"], extent, records, state is None, used, factors)

    def freeze(self, precision: str | None = None) -> FrozenLayer:
        """Pack the parameters once, for inference and streaming; later changes of the layer do not show.

        Parameters
        ----------
        precision : "float32", "float64" or None
            The layer's own dtype, which None stands for; others are not available yet.

        Returns
        -------
        FrozenLayer

        Raises
        ------
        ValueError
            The precision is not available.
        """
        owner = type(self).__name__
        chosen = _validate.precision(owner, precision, self.dtype)
        arrays = self._arrays()
        params = {spec.name: array.copy() for spec, array in zip(self.__dict__["_specs"], arrays, strict=True)}
        return FrozenLayer(self._plan, repr(self), params, chosen)


class RNN(RecurrentLayer):
    """Elman network: h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu in place of tanh.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H, at least 1.
    num_layers : int
        L; each layer's input is the output of the one below.
    nonlinearity : "tanh" or "relu"
    bias : True, False or "single"
        Whether there are b_ih and b_hh, or neither, or b_ih alone.
    batch_first : bool
        Whether x and y are (B, T, ...) instead of (T, B, ...).
    dropout : float
        0 <= dropout < 1; acts in ``forward``, on the outputs of all layers but the last.
    bidirectional : bool
        Whether each layer runs over time both ways.
    merge : "concat", "sum", "mean", "mul" or None
        How the outputs of two directions join; None gives those of the last layer as a pair (and concatenates below
        it).
    backwards : bool
        Whether a one-way layer runs from the last step to the first; its outputs are aligned with its inputs.
    learned_state : bool
        Whether the initial state is a parameter, ``h_0_l0`` (and ``c_0_l0``) of shape (H,), used for every row where no
        state is given; zero at first.
    zoneout : float, or for LSTM a pair of these
        Probability with which a unit keeps its old h (and c) at a step of ``forward``; otherwise each keeps this share
        of it.
    recurrent_dropout : float
        Probability with which ``forward`` drops a unit of h from the recurrent product: one mask for each row, layer
        and direction, the same at all steps.
    weight_dropout : float
        Probability with which ``forward`` drops an element of W_hh.
    dtype : float32 or float64
    activation : str, (str, float), (str, float, float) or None
        Any function instead of `nonlinearity`: a name, or with its parameters (name, alpha) or (name, alpha, beta).
        "tanh", "sigmoid", "relu", "hard_sigmoid" (alpha x + beta within [0, 1]; 1/6 and 1/2), "hard_tanh", "softsign",
        "softplus", "leaky_relu" (alpha 0.01), "elu" (alpha 1), "affine" (alpha x + beta), "scaled_tanh"
        (alpha tanh(beta x)), "thresholded_relu" (x above alpha, 1) or "linear".
    clip : float or None
        Pre-activations are limited to [-clip, clip], and have no gradient outside (ONNX).
    rng : int, numpy.random.Generator or None
        Draws the initial parameters from U(-1/sqrt(H), 1/sqrt(H)), in torch's order, and dropout masks.

    Raises
    ------
    TypeError
        An argument is of the wrong type.
    ValueError
        An argument is out of range.
    MemoryError
        The parameters would not fit into this machine.

    Notes
    -----
    Elman, Finding structure in time, 1990. Zoneout: Krueger et al., Zoneout, 2016. Recurrent dropout: Gal and
    Ghahramani, A theoretically grounded application of dropout in recurrent neural networks, 2016. Weight dropout: Wan
    et al., Regularization of neural networks using DropConnect, 2013; Merity et al., Regularizing and optimizing LSTM
    language models, 2017. Arguments, parameter names and shapes are those of ``torch.nn.RNN``; what
    torch does not have is keyword-only. See `Parameterized` for ``params``, comparison and copying.

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

    _arguments = (
        ("num_layers", 1),
        ("nonlinearity", "tanh"),
        ("bias", True),
        ("batch_first", False),
        ("dropout", 0.0),
        ("bidirectional", False),
        ("merge", "concat"),
        ("activation", None),
        ("clip", None),
        ("backwards", False),
        ("learned_state", False),
        ("zoneout", 0.0),
        ("recurrent_dropout", 0.0),
        ("weight_dropout", 0.0),
        ("dtype", np.dtype(np.float32)),
    )

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

    def _choose_kind(self) -> CellKind:
        return rnn_kind(self.nonlinearity, self.activation, self.clip, self.bias)


class GRU(RecurrentLayer):
    """Gated recurrent unit; gates r, z, n.

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr), z likewise, and h' = (1 - z) * n + z * h with

    - ``reset_after=True`` (torch, cuDNN, Keras): n = tanh(W_in x + b_in + r * (W_hn h + b_hn))
    - ``reset_after=False`` (Cho et al.): n = tanh(W_in x + b_in + W_hn (r * h) + b_hn)
    - ``reset_gate=False`` (textbooks' simplified GRU, gates z, n): n = tanh(W_in x + b_in + W_hn h + b_hn)

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, merge, clip, backwards,
    learned_state, dtype, rng
        As for `RNN`; so are zoneout, recurrent_dropout, weight_dropout.
    reset_after : bool
        Whether the reset gate acts after the product with W_hn, or before.
    reset_gate : bool
        Whether there is a gate r at all.
    activation, recurrent_activation : str, (str, float), (str, float, float); None is "tanh"
        In place of the tanh of n, and of the sigmoid of the gates; see `RNN`.
    layer_norm : bool
        Whether W_ih x and W_hh h are normalised over r and z together, and over n apart, before the biases are added;
        parameters ``weight_ln_ih_l0`` and ``weight_ln_hh_l0`` (3*H,), the gains.
    layer_norm_eps : float
        Added to the variances.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As for `RNN`; ValueError also for ``reset_after=False`` without a reset gate.

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

    _arguments = (
        ("num_layers", 1),
        ("bias", True),
        ("batch_first", False),
        ("dropout", 0.0),
        ("bidirectional", False),
        ("reset_after", True),
        ("reset_gate", True),
        ("merge", "concat"),
        ("activation", None),
        ("recurrent_activation", "sigmoid"),
        ("clip", None),
        ("backwards", False),
        ("learned_state", False),
        ("zoneout", 0.0),
        ("recurrent_dropout", 0.0),
        ("weight_dropout", 0.0),
        ("layer_norm", False),
        ("layer_norm_eps", 1e-5),
        ("dtype", np.dtype(np.float32)),
    )

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

    def _choose_kind(self) -> CellKind:
        options = (self.reset_after, self.reset_gate, self.activation, self.recurrent_activation, self.clip)
        return self._normed(gru_kind(*options, self.bias))


class LSTM(RecurrentLayer):
    """Long short-term memory with forget gates; gates i, f, g, o.

    i = sigmoid(W_ii x + b_ii + W_hi h + b_hi), f and o likewise, g with tanh;
    c' = f * c + i * g and h' = o * tanh(c'). The state is the pair (h, c).

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, merge, clip, backwards,
    learned_state, dtype, rng
        As for `RNN`; so are zoneout, recurrent_dropout, weight_dropout.
    proj_size : int
        If not 0, h' = W_hr (o * tanh(c')) has that many units, fewer than c; so have the outputs and the input of
        W_hh. Parameter ``weight_hr_l0`` (proj_size, hidden_size).
    peephole : "ifo", "o_prev" or None
        "ifo": the gates also see the cell, i and f get + p * c, o gets + p * c'; parameter ``weight_peephole_l0``
        (3, H), rows i f o, which is not ONNX's order i o f. "o_prev": o alone, and gets + p * c; (1, H).
    coupled : bool
        f = 1 - i. There is no gate f then: 3*H rows i g o, and peepholes (2, H), i o.
    activation, recurrent_activation, output_activation : str, (str, float), (str, float, float) or None
        In place of the tanh of g, of the sigmoid of the gates, and of the tanh of c', which is `activation` unless
        given; see `RNN`.
    cell_clip : float or None
        c' is limited to [-cell_clip, cell_clip] before anything sees it, and has no gradient outside.
    layer_norm : bool
        Whether W_ih x and W_hh h are normalised, each over all gates, before the biases are added, and c' on its way to
        h'; parameters ``weight_ln_ih_l0`` and ``weight_ln_hh_l0`` (4*H,), ``weight_ln_c_l0`` and ``bias_ln_c_l0`` (H,).
    layer_norm_eps : float
        Added to the variances.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As for `RNN`.

    Notes
    -----
    Hochreiter and Schmidhuber, Long short-term memory, 1997; forget gates: Gers, Schmidhuber and Cummins, 2000;
    peepholes: Gers, Schraudolph and Schmidhuber, 2002; projection: Sak, Senior and Beaufays, 2014; layer normalisation:
    Ba, Kiros and Hinton, Layer normalization, 2016, supplementary material. All options with
    their sources: docs/cells.md. Arguments, parameter names, shapes and gate order are those of ``torch.nn.LSTM``; what
    torch does not have is keyword-only.

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

    _arguments = (
        ("num_layers", 1),
        ("bias", True),
        ("batch_first", False),
        ("dropout", 0.0),
        ("bidirectional", False),
        ("proj_size", 0),
        ("peephole", None),
        ("coupled", False),
        ("merge", "concat"),
        ("activation", None),
        ("recurrent_activation", "sigmoid"),
        ("output_activation", None),
        ("clip", None),
        ("cell_clip", None),
        ("backwards", False),
        ("learned_state", False),
        ("zoneout", 0.0),
        ("recurrent_dropout", 0.0),
        ("weight_dropout", 0.0),
        ("layer_norm", False),
        ("layer_norm_eps", 1e-5),
        ("dtype", np.dtype(np.float32)),
    )

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

    def _choose_kind(self) -> CellKind:
        functions = (self.activation, self.recurrent_activation, self.output_activation)
        kind = lstm_kind(self.peephole, self.coupled, *functions, self.clip, self.cell_clip, self.bias)
        return self._normed(kind._replace(proj_size=self.proj_size))
