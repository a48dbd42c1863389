"""The kind of cell of a layer: its checked options, and the parameters and kernels that follow from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from . import _core
from .specs import Bias

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
    candidate: str | None = None
    highway_bias: float = 0.0


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
        Two biases, none, or ``bias_ih`` alone. Without a recurrent matrix there is ``bias_ih`` or none.
    peepholes : int
        Rows of ``weight_peephole``, or of ``weight_unit``.
    options : Options or None
        None for the usual cell, whose kernels have their functions compiled in.
    proj_size : int
        Units of a projected h; 0 without a projection.
    norm_eps : float or None
        The eps of layer normalisation; None without layer normalisation.
    window : int
        Steps whose inputs ``weight_ih`` multiplies, the oldest first.
    """

    name: str
    states: tuple[str, ...]
    gates: int
    bias: Bias = True
    peepholes: int = 0
    options: Options | None = None
    proj_size: int = 0
    norm_eps: float | None = None
    window: int = 1

    @property
    def can_be_normed(self) -> bool:
        """Whether there are kernels with layer normalisation."""
        return "normed" in CELLS[self.name]["forms"] and not self.proj_size

    @property
    def recurrent(self) -> bool:
        """Whether there is a matrix W_hh."""
        return bool(CELLS[self.name]["recurrent"])

    @property
    def takes_x(self) -> bool:
        """Whether the cell takes x itself besides products of x."""
        return bool(CELLS[self.name]["skip"])

    @property
    def roles(self) -> tuple[str, ...]:
        """The kernels' names of the parameters of one layer in one direction, in the order of `direction_specs`."""
        roles = ["W_ih", "W_hh"] if self.recurrent else ["W_ih"]
        roles += ["b_ih", "b_hh"] if self.bias is True and self.recurrent else ["b_ih"] if self.bias else []
        roles += ["W_hr"] if self.proj_size else []
        roles += ["units"] if self.peepholes else []
        if self.norm_eps is not None:
            roles += ["gain_ih", "gain_hh", *(["gain_c", "bias_c"] if "c" in self.states else [])]
        return tuple(roles)

    @property
    def is_usual(self) -> bool:
        """Whether the parameters are W_ih, W_hh, b_ih and b_hh, and there are no options."""
        plain = self.bias is True and self.options is None and self.norm_eps is None and self.recurrent
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


TANH: Activation = ("tanh", 0.0, 0.0)
SIGMOID: Activation = ("sigmoid", 0.0, 0.0)


def kind_of(name: str, bias: Bias, options: Options | None = None, peepholes: int = 0) -> CellKind:
    """A kind, completed by what the compiled module says about its cell."""
    cell = CELLS[name]
    return CellKind(name, ("h", "c")[: cell["states"]], cell["gates"], bias, peepholes, options)


def elementwise_kind(
    name: str, bias: Bias, candidate: str | None = None, highway_bias: float = 0.0, window: int = 1
) -> CellKind:
    """A cell without a recurrent matrix: see `kind_of`."""
    options = Options(SIGMOID, TANH, TANH, math.inf, math.inf, None, candidate, highway_bias)
    return kind_of(name, bias, options, CELLS[name]["units"])._replace(window=window)


def or_infinite(limit: float | None) -> float:
    """Convert None, which means no limit, to infinity."""
    return math.inf if limit is None else limit
