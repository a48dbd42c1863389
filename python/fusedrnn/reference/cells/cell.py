"""The interface of a cell: the gate maths of one timestep, and a few numbers that the time loop needs.

The twin of `csrc/cells/cell.h`. Shapes: B the rows of the batch that are active at a step, H hidden units. Every array
of a cell is (B, H). `a` (pre-activations: input part + recurrent part + biases), `s` (states before the step, s[0] is
h), `s_new` (after it) and `save` are a few of these: a tuple, or the first axis of an array. Gradients are `d` + name.

    cell         gates  states  split  phases  note
    RNN            1      1       0      1
    GRUAfter       3      1       1      1     gate n needs its recurrent part apart: tanh(a_n + r * u)
    GRUBefore      3      1       0      2     gate n's recurrent product is of r * h, not of h
    GRUSimple      2      1       0      1     no gate r
    LSTM           4      2       0      1     3 gates when coupled; unit parameters are its peepholes

Cells without a recurrent matrix: `a` has an input part only, and if `skip` is 1 it has x itself as an extra row at the
end, which needs I = H.

    MinGRU         2      1
    MinLSTM        3      1
    IndRNN         1      1                    unit parameter u
    QRNN           3      2                    its zoneout acts on the gate f
    SRU          3 or 4   2                    with 3 gates the highway takes x itself; unit parameters v_f, v_r
    LRU            1      1                    unit parameters nu, theta, gamma of pairs of units
    RGLRU        2 or 3   1                    with 2 gates the input is x itself; unit parameter Lambda

A cell is an object that holds its functions and options. All cells save pre-activations, from which values and slopes
follow for any activation; the kernels save values instead if these suffice.

The reference always has the gates in torch's order; the kernels may use another order (`order` in cell.h).
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, Self, TypeAlias

from numpy.typing import NDArray

__all__ = ["CELLS", "Array", "Arrays", "Cell", "OnePhaseCell", "TwoPhaseCell"]

Array: TypeAlias = NDArray[Any]
Arrays: TypeAlias = Sequence[Array] | Array


class _Traits(ABC):
    """The interface between the time loop and every cell.

    Attributes
    ----------
    name : str
        For messages; "rnn", "gru" or "lstm" comes first.
    gates : int
        Blocks of H rows in `W_ih` and `W_hh`.
    states : int
        1 (h) or 2 (h, c).
    saved : int
        Arrays that forward saves for backward, besides the states.
    split : int
        1 if the last gate needs its recurrent part apart from its input part: `a` then has an extra row at the end.
    unit_parameters : int
        Parameters p of one element per hidden unit (peepholes).
    recurrent : bool
        Whether there is a matrix W_hh.
    sharing : int
        Neighbouring units that share the unit parameters: 1, or 2 for the two parts of a complex number.
    skip : int
        1 if x itself is the last row of `a`.
    zones_gate : bool
        Whether the cell applies the zoneout of c itself: `forward` and `backward` then take the share of c that each
        unit keeps as a last argument.
    phases : int
        2 if the operand of the last gate's recurrent product is not h but computed from the other gates, else 1.
    norm_groups : tuple of tuple of int
        Gates that share mean and variance in layer normalisation (`layer_norm.py`); empty if the cell has no such form.
    norm_eps : float or None
        The eps of layer normalisation, if the cell is in this form; see `normed`.
    """

    name: str
    gates: int
    states: int
    saved: int
    split: int = 0
    unit_parameters: int = 0
    recurrent: bool = True
    sharing: int = 1
    skip: int = 0
    zones_gate: bool = False
    norm_groups: tuple[tuple[int, ...], ...] = ()
    norm_eps: float | None = None

    def normed(self, eps: float) -> Self:
        """Return the same cell in its form with layer normalisation."""
        other = copy.copy(self)
        other.norm_eps = eps
        return other

    @property
    @abstractmethod
    def first(self) -> int:
        """Gates of the first phase."""

    @abstractmethod
    def gate_values(self, save: Arrays) -> dict[str, Array]:
        """Return the gates by name, after their activations, from the data that forward saved (both phases)."""


class OnePhaseCell(_Traits):
    """A cell whose recurrent products all have the operand h."""

    phases: Literal[1] = 1

    @property
    def first(self) -> int:
        """All gates."""
        return self.gates

    @abstractmethod
    def forward(self, a: Arrays, s: Arrays, p: Arrays) -> tuple[Arrays, Arrays]:
        """Return s_new and save."""

    @abstractmethod
    def backward(self, save: Arrays, s: Arrays, s_new: Arrays, p: Arrays, ds_new: Arrays) -> tuple[Arrays, Arrays]:
        """Return da (gates + split) and ds, the part of the old states' gradient that needs no matrix product."""

    def unit_gradients(self, save: Arrays, s: Arrays, s_new: Arrays, p: Arrays, ds_new: Arrays, da: Arrays) -> Arrays:
        """Return the gradient of p, row by row; da is what `backward` returned."""
        return ()


class TwoPhaseCell(_Traits):
    """A cell whose last gate multiplies its rows of `W_hh` by an operand computed from the other gates."""

    phases: Literal[2] = 2

    @property
    def first(self) -> int:
        """All gates but the last."""
        return self.gates - 1

    @abstractmethod
    def gate(self, a: Arrays, s: Arrays) -> tuple[Array, Arrays]:
        """First phase: return the operand of the second product and the first gates."""

    @abstractmethod
    def forward(self, a: Arrays, s: Arrays, save: Arrays) -> tuple[Arrays, Arrays]:
        """Second phase, with `a` of the last gate and `save` of the first: return s_new and further data to save."""

    @abstractmethod
    def backward(self, save: Arrays, s: Arrays, ds_new: Arrays) -> tuple[Arrays, Arrays]:
        """Return da of the last gate and a part of ds."""

    @abstractmethod
    def backward_gate(
        self, save: Arrays, s: Arrays, ds_new: Arrays, doperand: Array, ds: Arrays
    ) -> tuple[Arrays, Arrays]:
        """Return da of the first gates and the whole of ds that needs no matrix product."""


Cell: TypeAlias = OnePhaseCell | TwoPhaseCell

#: The cells without options by name; the file of each cell adds its own, in the order of `csrc/cells/cells.h`.
CELLS: dict[str, Cell] = {}
