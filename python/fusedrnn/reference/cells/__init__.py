"""The gate maths of every cell, one small file each (its twin is in `csrc/cells/`)."""

from fusedrnn.reference.cells.cell import CELLS, Cell, OnePhaseCell, TwoPhaseCell
from fusedrnn.reference.cells.gru import GRUAfter, GRUBefore, GRUSimple, gru_cell
from fusedrnn.reference.cells.indrnn import IndRNN
from fusedrnn.reference.cells.lru import LRU
from fusedrnn.reference.cells.lstm import LSTM, lstm_cell
from fusedrnn.reference.cells.mingru import MinGRU, MinLSTM
from fusedrnn.reference.cells.qrnn import QRNN
from fusedrnn.reference.cells.rglru import RGLRU
from fusedrnn.reference.cells.rnn import RNN, rnn_cell
from fusedrnn.reference.cells.sru import SRU

__all__ = [
    "CELLS",
    "LRU",
    "LSTM",
    "QRNN",
    "RGLRU",
    "RNN",
    "SRU",
    "Cell",
    "GRUAfter",
    "GRUBefore",
    "GRUSimple",
    "IndRNN",
    "MinGRU",
    "MinLSTM",
    "OnePhaseCell",
    "TwoPhaseCell",
    "gru_cell",
    "lstm_cell",
    "rnn_cell",
]
