"""The kind of cell of a layer: its checked options, and the parameters and kernels that follow from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from . import _core, _validate
from .specs import ActivationLike, Bias

#: name, alpha, beta, as the compiled module takes them; a missing parameter is 0.
Activation: TypeAlias = tuple[str, float, float]


#: The cells of the compiled module: gates, states, parameters per unit and forms of each.
CELLS = _core.cells()


class Options(NamedTuple):
    """The options of a cell that has any, in the form that the compiled module takes."""

    gate: Activation
    state: Activation
    output: Activation
    clip: float
    cell_clip: float
    peephole: str | None


class CellKind(NamedTuple):
    """A cell with its options.

    Attributes
    ----------
    name : str
        Name of the cell in the kernels.
    states : tuple of str
        ("h",) or ("h", "c").
    gates : int
        G: blocks of H rows in the weights.
    bias : True, False or "single"
        Two biases, none, or ``bias_ih`` alone.
    peepholes : int
        Rows of ``weight_peephole``.
    options : Options or None
        None for the usual cell, whose kernels have their functions compiled in.
    proj_size : int
        Units of a projected h; 0 without a projection.
    norm_eps : float or None
        The eps of layer normalisation; None without layer normalisation.
    """

    name: str
    states: tuple[str, ...]
    gates: int
    bias: Bias = True
    peepholes: int = 0
    options: Options | None = None
    proj_size: int = 0
    norm_eps: float | None = None

    @property
    def can_be_normed(self) -> bool:
        """Whether there are kernels with layer normalisation."""
        return "normed" in CELLS[self.name]["forms"] and not self.proj_size

    @property
    def roles(self) -> tuple[str, ...]:
        """The kernels' names of the parameters of one layer in one direction, in the order of `direction_specs`."""
        roles = ["W_ih", "W_hh"]
        roles += ["b_ih", "b_hh"] if self.bias is True else ["b_ih"] if self.bias else []
        roles += ["W_hr"] if self.proj_size else []
        roles += ["units"] if self.peepholes else []
        if self.norm_eps is not None:
            roles += ["gain_ih", "gain_hh", *(["gain_c", "bias_c"] if "c" in self.states else [])]
        return tuple(roles)

    @property
    def is_usual(self) -> bool:
        """Whether the parameters are W_ih, W_hh, b_ih and b_hh, and there are no options."""
        plain = self.bias is True and self.options is None and self.norm_eps is None
        return plain and not (self.proj_size or self.peepholes)

    @property
    def each(self) -> int:
        """Number of parameters of one layer in one direction."""
        return len(self.roles)

    def named(self, arrays: Sequence[Any], which: int = 0) -> dict[str, Any]:
        """By role: the parameters (or gradients) of one direction, taken from those of all directions."""
        roles = self.roles
        start = which * len(roles)
        return dict(zip(roles, arrays[start : start + len(roles)], strict=True))

    def every(self, role: str) -> slice:
        """The slice of the parameters of one role among those of all directions."""
        return slice(self.roles.index(role), None, self.each)


# ---- arguments, checked ---------------------------------------------------------------------------------------------


def rnn_options(owner: str, nonlinearity: object, activation: object, clip: object) -> dict[str, Any]:
    """Arguments of `rnn_kind` and of RNN, by name."""
    return {
        "nonlinearity": _validate.choice(owner, "nonlinearity", nonlinearity, ("tanh", "relu")),
        "activation": _validate.activation(owner, "activation", activation, optional=True),
        "clip": _validate.limit(owner, "clip", clip),
    }


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


# ---- kinds ----------------------------------------------------------------------------------------------------------

TANH: Activation = ("tanh", 0.0, 0.0)
SIGMOID: Activation = ("sigmoid", 0.0, 0.0)


def rnn_kind(
    nonlinearity: str, activation: ActivationLike | None = None, clip: float | None = None, bias: Bias = True
) -> CellKind:
    """An Elman network; all arguments have been checked."""
    state = _validate.full_activation(nonlinearity if activation is None else activation)
    if clip is None and state[0] in ("tanh", "relu"):
        return _kind(f"rnn_{state[0]}", bias)
    return _kind("rnn_options", bias, Options(SIGMOID, state, TANH, _or_infinite(clip), math.inf, None))


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
        return _kind(name, bias)
    return _kind(f"{name}_options", bias, Options(gate, state, TANH, _or_infinite(clip), math.inf, None))


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
    options = Options(gate, state, output, _or_infinite(clip), _or_infinite(cell_clip), peephole)
    if not coupled and options == Options(SIGMOID, TANH, TANH, math.inf, math.inf, None):
        return _kind("lstm", bias)
    name = "lstm_coupled" if coupled else "lstm_options"
    peepholes = {None: 0, "o_prev": 1, "ifo": CELLS[name]["units"]}[peephole]
    return _kind(name, bias, options, peepholes)


def _kind(name: str, bias: Bias, options: Options | None = None, peepholes: int = 0) -> CellKind:
    """A kind, completed by what the compiled module says about its cell."""
    cell = CELLS[name]
    return CellKind(name, ("h", "c")[: cell["states"]], cell["gates"], bias, peepholes, options)


def _or_infinite(limit: float | None) -> float:
    """Convert None, which means no limit, to infinity."""
    return math.inf if limit is None else limit
