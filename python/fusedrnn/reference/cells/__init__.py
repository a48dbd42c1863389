"""The gate maths of every cell, one small file each (its twin is in `csrc/cells/`)."""

from fusedrnn.reference.cells.cell import CELLS, Cell, OnePhaseCell, TwoPhaseCell
from fusedrnn.reference.cells.gru import GRUAfter, GRUBefore, GRUSimple, gru_cell
from fusedrnn.reference.cells.lstm import LSTM, lstm_cell
from fusedrnn.reference.cells.rnn import RNN, rnn_cell

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
