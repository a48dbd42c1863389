"""The cells by name. A new cell is one small file and a line here (and its twin in `csrc/cells/`)."""

from typing import Any

from fusedrnn.reference.activations import activation_of
from fusedrnn.reference.cells.cell import Cell, OnePhaseCell, TwoPhaseCell
from fusedrnn.reference.cells.gru import GRUAfter, GRUBefore, GRUSimple
from fusedrnn.reference.cells.lstm import LSTM
from fusedrnn.reference.cells.rnn import RNN

__all__ = [
    "CELLS",
    "LSTM",
    "RNN",
    "Cell",
    "GRUAfter",
    "GRUBefore",
    "GRUSimple",
    "OnePhaseCell",
    "TwoPhaseCell",
    "gru_cell",
    "lstm_cell",
    "rnn_cell",
]


def rnn_cell(nonlinearity: str = "tanh", activation: Any = None, clip: float | None = None) -> Cell:
    """An RNN; arguments are those of `rnn_forward`."""
    return RNN(activation_of(nonlinearity if activation is None else activation, clip))


def gru_cell(
    reset_after: bool = True,
    reset_gate: bool = True,
    activation: Any = None,
    recurrent_activation: Any = "sigmoid",
    clip: float | None = None,
) -> Cell:
    """A GRU of one of the three forms; arguments are those of `gru_forward`."""
    form = GRUSimple if not reset_gate else GRUAfter if reset_after else GRUBefore
    return form(activation_of(recurrent_activation, clip), activation_of(activation or "tanh", clip))


def lstm_cell(
    peephole: str | None = None,
    coupled: bool = False,
    activation: Any = None,
    recurrent_activation: Any = "sigmoid",
    output_activation: Any = None,
    clip: float | None = None,
    cell_clip: float | None = None,
) -> Cell:
    """An LSTM; arguments are those of `lstm_forward`."""
    gate, state = activation_of(recurrent_activation, clip), activation_of(activation or "tanh", clip)
    output = activation_of(output_activation or activation or "tanh")
    return LSTM(gate, state, output, peephole, coupled, cell_clip)


CELLS: dict[str, Cell] = {
    "rnn_tanh": rnn_cell(),
    "rnn_relu": rnn_cell("relu"),
    "gru_after": gru_cell(),
    "gru_before": gru_cell(reset_after=False),
    "gru_simple": gru_cell(reset_gate=False),
    "lstm": lstm_cell(),
}
